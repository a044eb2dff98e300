use std::mem;

use bytes::Bytes;

use super::parts::Parts;
use crate::{
    departure::Ending,
    outbox::Outbox,
    wire::{BlockEnd, LineEnd, Mark, Position, Scanner},
};

/// A frame while its lines are read: what is before `handed` is in the outbox or dropped.
pub(super) struct Lines<'a> {
    parts: &'a mut Parts,
    outbox: &'a mut Outbox,
    frame: &'a Bytes,
    handed: usize,
    /// The events that end behind `handed`.
    events: u64,
    dropped: bool,
    ending: Option<Ending>,
}

/// What is left of a frame whose lines were read.
pub(super) struct Rest {
    /// What is behind this goes down, unless the stream ends.
    pub(super) from: usize,
    pub(super) events: u64,
    /// A blank line was dropped whose LF may still come.
    pub(super) dropped: bool,
    pub(super) ending: Option<Ending>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(frame: &'a Bytes, parts: &'a mut Parts, outbox: &'a mut Outbox) -> Self {
        Self {
            parts,
            outbox,
            frame,
            handed: 0,
            events: 0,
            dropped: false,
            ending: None,
        }
    }

    /// Where the frames before left the stream. A line that they cut between CR and LF is whole
    /// here, with its LF or without; `dropped` says that it was a blank line that goes.
    pub(super) fn on_start(&mut self, scanner: &Scanner, dropped: bool) {
        let cut = scanner.position() == Position::AfterCr;
        let line_feed = usize::from(cut && self.frame.first() == Some(&b'\n'));
        if dropped {
            self.handed = line_feed;
        }
        if scanner.is_between_events() {
            self.on_boundary(line_feed);
        }
    }

    pub(super) fn on_mark(&mut self, mark: &Mark<'_>) {
        if self.ending.is_some() {
            return;
        }
        match mark {
            Mark::Field(field) => self.parts.on_field(field),
            Mark::BlockEnd(block) => self.on_block_end(block),
            // Seen to by `on_start`.
            Mark::LineFeed => {}
        }
    }

    fn on_block_end(&mut self, block: &BlockEnd) {
        let drops = self.parts.drops_blank_line(block);
        if drops {
            self.hand_over(block.blank.start);
            self.handed = block.blank.end;
        } else {
            let id = self.parts.on_event_end(block);
            self.insert(id, block);
            let retry = block.data.then(|| self.parts.retry_line(block.line_end));
            self.insert(retry.flatten(), block);
        }
        self.events += u64::from(block.data);
        let cut = &self.frame[block.blank.start..] == b"\r";
        self.dropped = drops && cut;
        // Where an LF may still come, the stream ends behind it.
        if !cut || block.line_end == LineEnd::Cr {
            self.on_boundary(block.blank.end);
        }
    }

    /// As the last line of the block.
    fn insert(&mut self, line: Option<Bytes>, block: &BlockEnd) {
        if let Some(line) = line {
            self.hand_over(block.blank.start);
            self.outbox.push(line);
        }
    }

    fn on_boundary(&mut self, at: usize) {
        self.ending = self.parts.on_boundary();
        if self.ending.is_some() {
            self.hand_over(at);
        }
    }

    /// Everything up to `to` goes down.
    fn hand_over(&mut self, to: usize) {
        if to > self.handed {
            let piece = self.frame.slice(self.handed..to);
            self.outbox.push_events(piece, mem::take(&mut self.events));
            self.handed = to;
        }
    }

    pub(super) fn finish(self) -> Rest {
        Rest {
            from: self.handed,
            events: self.events,
            dropped: self.dropped,
            ending: self.ending,
        }
    }
}
