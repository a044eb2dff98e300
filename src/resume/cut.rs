use bytes::{Bytes, BytesMut};

use super::{
    StoredEvent,
    piece::{Contents, Piece, Place},
};
use crate::wire::{Mark, Position, Scanner};

/// A piece, and the event that it ends as it is to be stored.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) piece: Piece,
    pub(super) event: Option<StoredEvent>,
}

/// Cuts frames into events, and copies them together: a frame is a slice of a far larger buffer
/// that a few small events would keep alive.
#[derive(Debug)]
pub(super) struct Cutter {
    scanner: Scanner,
    open: Open,
}

/// What has come since the end of the last event.
#[derive(Debug)]
struct Open {
    bytes: BytesMut,
    /// How much of it the readers have.
    shown: usize,
    /// The number that it will have.
    number: u64,
    /// What is in it since the last piece.
    contents: Contents,
    /// A [`Place::Part`] of it has gone ahead, so it cannot be stored.
    torn: bool,
    limit: usize,
}

/// Events are copied into blocks of this size: few allocations, and little that a single old event
/// keeps alive.
const BLOCK: usize = 2048;

/// How much of comments and the like is kept to be stored with the event behind them.
const PREFACE: usize = 4096;

impl Cutter {
    /// Events larger than `limit` are passed on in parts, and not stored.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            scanner: Scanner::new(),
            open: Open {
                bytes: BytesMut::new(),
                shown: 0,
                number: 1,
                contents: Contents::default(),
                torn: false,
                limit,
            },
        }
    }

    /// The number of the last event that has ended.
    pub(super) fn last(&self) -> u64 {
        self.open.number - 1
    }

    pub(super) fn push(&mut self, frame: &[u8], cuts: &mut Vec<Cut>) {
        let open = &mut self.open;
        let mut from = 0;
        self.scanner.scan(frame, |mark| {
            open.contents.on_mark(&mark);
            if let Mark::BlockEnd(block) = mark
                && block.data
            {
                open.extend(&frame[from..block.blank.end]);
                from = block.blank.end;
                cuts.push(open.end());
            }
        });
        open.extend(&frame[from..]);
        if open.bytes.len() > open.limit {
            cuts.extend(open.spill(self.scanner.is_between_events()));
        }
    }

    /// Upstream is silent: what stands between two events need not wait for the next one.
    pub(super) fn show(&mut self) -> Option<Cut> {
        if self.scanner.position() != Position::Boundary {
            return None;
        }
        let cut = if self.open.bytes.len() == self.open.shown {
            None
        } else if self.open.bytes.len() > PREFACE {
            self.open.spill(true)
        } else {
            self.open.show()
        };
        self.open.shown = self.open.bytes.len();
        self.open.contents.in_comments = self.scanner.is_in_comments();
        cut
    }

    /// Upstream has ended: what is left of an event that never will be whole.
    pub(super) fn finish(&mut self) -> Option<Cut> {
        self.open.spill(self.scanner.is_between_events())
    }
}

impl Open {
    fn extend(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() - self.bytes.len() < bytes.len() {
            self.bytes.reserve(bytes.len().max(BLOCK));
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn end(&mut self) -> Cut {
        let bytes = self.bytes.split().freeze();
        let number = self.number;
        let continues = std::mem::take(&mut self.torn);
        let shown = bytes.slice(std::mem::take(&mut self.shown)..);
        let contents = std::mem::take(&mut self.contents);
        let piece = Piece {
            continues,
            ..Piece::new(shown, number, Place::End, contents)
        };
        self.number += 1;
        let whole = !continues && bytes.len() <= self.limit;
        let event = whole.then_some(StoredEvent { number, bytes });
        Cut { piece, event }
    }

    /// What the readers do not have yet, without forgetting it.
    fn show(&mut self) -> Option<Cut> {
        let bytes = Bytes::copy_from_slice(&self.bytes[self.shown..]);
        self.piece(bytes, Place::Between)
    }

    /// The same, and forgets it.
    fn spill(&mut self, between: bool) -> Option<Cut> {
        let bytes = self.bytes.split().freeze();
        let bytes = bytes.slice(std::mem::take(&mut self.shown)..);
        let place = if between { Place::Between } else { Place::Part };
        self.piece(bytes, place)
    }

    fn piece(&mut self, bytes: Bytes, place: Place) -> Option<Cut> {
        if bytes.is_empty() {
            return None;
        }
        let contents = std::mem::take(&mut self.contents);
        let piece = Piece {
            continues: self.torn,
            ..Piece::new(bytes, self.number, place, contents)
        };
        self.torn |= place == Place::Part;
        Some(Cut { piece, event: None })
    }
}
