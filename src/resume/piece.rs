use bytes::{Bytes, BytesMut};

use super::{IdLines, StoredEvent};
use crate::wire::{BlockEnd, Field, LineEnd, Mark, Scanner};

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
    /// Its bytes with the id, once a reader wanted them: the next ones get the same.
    pub(super) with_id: Option<Bytes>,
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
    pub(super) fn new(bytes: Bytes, number: u64, place: Place, contents: Contents) -> Self {
        Self {
            bytes,
            number,
            place,
            continues: false,
            contents,
            with_id: None,
        }
    }

    /// A stored event, as a piece.
    pub(super) fn of(event: StoredEvent) -> Self {
        let mut contents = Contents::default();
        scanner_of(event.number).scan(&event.bytes, |mark| contents.on_mark(&mark));
        Self::new(event.bytes, event.number, Place::End, contents)
    }

    /// What a reader gets, with ids or without. Where the service has ids of its own, none are added
    /// from there on.
    pub(super) fn told(&mut self, ids: &mut Option<IdLines>) -> Bytes {
        if self.contents.id {
            *ids = None;
        }
        let Some(ids) = ids else {
            return self.bytes.clone();
        };
        if let Some(with_id) = &self.with_id {
            return with_id.clone();
        }
        let with_id = self.write_with_id(ids);
        self.with_id.insert(with_id).clone()
    }

    /// The piece for a client that gets ids: with the id in the block that it names, and with
    /// comments that are lines, since several libraries make an event of their blank line.
    fn write_with_id(&self, ids: &IdLines) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.bytes.len() + IdLines::MAX_LEN);
        if self.place == Place::End {
            let (lines, blank) = self.bytes.split_at(blank_line(&self.bytes));
            self.write_comments(lines, &mut bytes);
            ids.write(self.number, last_line_end(lines), &mut bytes);
            bytes.extend_from_slice(blank);
        } else {
            self.write_comments(&self.bytes, &mut bytes);
        }
        bytes.freeze()
    }

    fn write_comments(&self, lines: &[u8], to: &mut BytesMut) {
        let mut from = 0;
        if self.contents.comment_block && !self.continues {
            let mut scanner = scanner_of(self.number);
            if self.contents.in_comments {
                scanner.scan(b":\n", |_| ());
            }
            scanner.scan(lines, |mark| {
                if let Mark::BlockEnd(block) = mark
                    && is_comment(&block)
                {
                    to.extend_from_slice(&lines[from..block.blank.start]);
                    from = block.blank.end;
                }
            });
        }
        to.extend_from_slice(&lines[from..]);
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
