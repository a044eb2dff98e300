use bytes::Bytes;

use super::{IdLines, StoredEvent};
use crate::{
    outbox::Outbox,
    wire::{BlockEnd, Field, LineEnd, Mark, Scanner},
};

/// A piece of a stream on its way to the readers; all pieces together are the upstream's bytes.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// The event that it belongs to, or stands before.
    pub(super) number: u64,
    pub(super) place: Place,
    /// The piece before is a [`Place::Part`] of the same event: nobody can begin here.
    pub(super) continues: bool,
    pub(super) contents: Contents,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before the event: comments and the like, shown while upstream is silent.
    Between,
    /// In the event, which is too large to be held.
    Part,
    /// Up to the end of the event.
    End,
}

/// What a piece has that matters where ids are added.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contents {
    /// An id of the upstream.
    pub(super) id: bool,
    /// A block that is only a comment, or the end of one.
    pub(super) comment_block: bool,
    /// It begins behind comments of such a block.
    pub(super) in_comments: bool,
}

impl Piece {
    /// A stored event, as a piece.
    pub(super) fn of(event: StoredEvent) -> Self {
        let mut contents = Contents::default();
        scanner_of(event.number).scan(&event.bytes, |mark| contents.on_mark(&mark));
        Self {
            bytes: event.bytes,
            number: event.number,
            place: Place::End,
            continues: false,
            contents,
        }
    }

    /// The piece for a client that gets ids: with the id in the block that it names, and with
    /// comments that are lines, since several libraries make an event of their blank line.
    pub(super) fn write_with_id(&self, ids: &IdLines, outbox: &mut Outbox) {
        if self.place != Place::End {
            return self.write_comments(&self.bytes, outbox);
        }
        let blank = blank_line(&self.bytes);
        let lines = self.bytes.slice(..blank);
        let line_end = last_line_end(&lines);
        self.write_comments(&lines, outbox);
        outbox.push(ids.line(self.number, line_end));
        outbox.push(self.bytes.slice(blank..));
    }

    fn write_comments(&self, bytes: &Bytes, outbox: &mut Outbox) {
        let mut from = 0;
        if self.contents.comment_block && !self.continues {
            let mut scanner = scanner_of(self.number);
            if self.contents.in_comments {
                scanner.scan(b":\n", |_| ());
            }
            scanner.scan(bytes, |mark| {
                if let Mark::BlockEnd(block) = mark
                    && is_comment(&block)
                {
                    outbox.push(bytes.slice(from..block.blank.start));
                    from = block.blank.end;
                }
            });
        }
        outbox.push(bytes.slice(from..));
    }
}

impl Contents {
    pub(super) fn on_mark(&mut self, mark: &Mark<'_>) {
        match mark {
            // An id with a NUL is ignored by clients, as if it were not there.
            Mark::Field(Field { name, value, .. }) => {
                self.id |= *name == b"id" && memchr::memchr(0, value).is_none();
            }
            Mark::BlockEnd(block) => self.comment_block |= is_comment(block),
            Mark::LineFeed => {}
        }
    }
}

/// For the bytes of an event: only at the start of the stream is a byte order mark none of them.
pub(super) fn scanner_of(number: u64) -> Scanner {
    let mut scanner = Scanner::new();
    if number > 1 {
        scanner.skip_start();
    }
    scanner
}

fn is_comment(block: &BlockEnd) -> bool {
    block.comments && !block.fields
}

/// Where the blank line stands with which the event ends: a CR before an LF is one line end with it.
fn blank_line(event: &[u8]) -> usize {
    let len = if event.ends_with(b"\r\n") { 2 } else { 1 };
    event.len().saturating_sub(len)
}

fn last_line_end(lines: &[u8]) -> LineEnd {
    match lines {
        [.., b'\r', b'\n'] => LineEnd::CrLf,
        [.., b'\r'] => LineEnd::Cr,
        _ => LineEnd::Lf,
    }
}
