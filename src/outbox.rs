use std::{collections::VecDeque, mem};

use bytes::Bytes;

/// Bytes on their way down, joined to few frames.
///
/// hyper writes at most 16 buffers per system call, and a burst of small events in a frame each
/// costs several times the work of the same bytes in one. Nothing waits here for more to come: what
/// is ready at once is joined, a lone piece goes on as it is, and a large one is never copied.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// To which nothing is added any more.
    frames: VecDeque<Output>,
    /// The frame that small pieces still go to, and the events in it.
    last: Last,
    last_events: u64,
}

/// A frame that is handed on.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) bytes: Bytes,
    /// How many events end in it, where they are counted.
    pub(crate) events: u64,
}

#[derive(Debug)]
enum Last {
    /// One piece, which is not copied unless another follows; empty if there is none.
    Lone(Bytes),
    Joined(Vec<u8>),
}

/// A frame is not joined beyond this.
const FULL: usize = 16 * 1024;

/// Where two pieces are joined there is room for some more of their size, and for as much as this:
/// what grows is copied again.
const ROOM: usize = 2 * 1024;

/// From here on a copy costs more than a buffer of its own.
const LARGE: usize = 4 * 1024;

impl Outbox {
    /// Bytes in which no event ends.
    #[inline]
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.push_events(piece, 0);
    }

    /// Bytes in which so many events end. They count when their frame is taken: a client that is gone
    /// has not had what still lies here.
    ///
    /// Joined here and not when it is taken: many small pieces would otherwise weigh far more than
    /// their bytes.
    #[inline]
    pub(crate) fn push_events(&mut self, piece: Bytes, events: u64) {
        match &mut self.last {
            // The way of nearly all of a burst.
            Last::Joined(frame) if joins(frame.len(), piece.len()) => {
                frame.extend_from_slice(&piece);
                self.last_events += events;
            }
            _ => self.push_slowly(piece, events),
        }
    }

    fn push_slowly(&mut self, piece: Bytes, events: u64) {
        if piece.is_empty() {
            return;
        }
        if !self.last.takes(piece.len()) {
            self.close_last();
        }
        self.last.join(piece);
        self.last_events += events;
    }

    /// The next frame, never empty.
    pub(crate) fn take(&mut self) -> Option<Output> {
        self.frames.pop_front().or_else(|| self.take_last())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.last.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        !self.frames.is_empty() || self.last.len() >= FULL
    }

    fn close_last(&mut self) {
        let last = self.take_last();
        self.frames.extend(last);
    }

    fn take_last(&mut self) -> Option<Output> {
        let bytes = match mem::take(&mut self.last) {
            Last::Lone(piece) if piece.is_empty() => return None,
            Last::Lone(piece) => piece,
            Last::Joined(frame) => frame.into(),
        };
        let events = mem::take(&mut self.last_events);
        Some(Output { bytes, events })
    }
}

impl Last {
    fn len(&self) -> usize {
        match self {
            Self::Lone(piece) => piece.len(),
            Self::Joined(frame) => frame.len(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether so many bytes may be added.
    fn takes(&self, len: usize) -> bool {
        match self {
            Self::Lone(first) if first.is_empty() => true,
            Self::Lone(first) => first.len() < LARGE && joins(first.len(), len),
            Self::Joined(frame) => joins(frame.len(), len),
        }
    }

    fn join(&mut self, piece: Bytes) {
        match self {
            Self::Joined(frame) => frame.extend_from_slice(&piece),
            Self::Lone(first) if first.is_empty() => *first = piece,
            Self::Lone(first) => {
                let room = 8 * (first.len() + piece.len());
                let mut frame = Vec::with_capacity(room.clamp(ROOM, FULL));
                frame.extend_from_slice(first);
                frame.extend_from_slice(&piece);
                *self = Self::Joined(frame);
            }
        }
    }
}

impl Default for Last {
    fn default() -> Self {
        Self::Lone(Bytes::new())
    }
}

/// Whether so many bytes are worth a copy to a frame that has `joined` already.
fn joins(joined: usize, len: usize) -> bool {
    len < LARGE && joined + len <= FULL
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(pieces: &[usize]) -> Vec<usize> {
        let mut outbox = Outbox::default();
        for len in pieces {
            outbox.push(vec![b'x'; *len].into());
        }
        let frames: Vec<_> = std::iter::from_fn(|| outbox.take())
            .map(|frame| frame.bytes.len())
            .collect();
        assert!(outbox.is_empty());
        frames
    }

    #[test]
    fn small_pieces_are_joined_and_large_ones_go_alone() {
        let none: [usize; 0] = [];
        assert_eq!(frames(&[]), none);
        assert_eq!(frames(&[0, 0]), none);
        assert_eq!(frames(&[10, 20, 30]), [60]);
        assert_eq!(frames(&[10, LARGE, 20, 30]), [10, LARGE, 50]);
        assert_eq!(frames(&[4000; 5]), [16_000, 4000]);
        assert_eq!(frames(&[100_000]), [100_000]);
    }

    #[test]
    fn a_lone_piece_is_not_copied() {
        let piece = Bytes::from(vec![b'x'; 10]);
        let mut outbox = Outbox::default();
        outbox.push(piece.clone());
        assert_eq!(outbox.take().unwrap().bytes.as_ptr(), piece.as_ptr());
    }

    #[test]
    fn events_go_with_the_frame_that_they_end_in() {
        let mut outbox = Outbox::default();
        for (len, events) in [(10, 1), (10, 2), (0, 0), (LARGE, 3), (LARGE, 0), (10, 4)] {
            outbox.push_events(vec![b'x'; len].into(), events);
        }
        let taken = std::iter::from_fn(|| outbox.take());
        let taken: Vec<_> = taken
            .map(|frame| (frame.bytes.len(), frame.events))
            .collect();
        assert_eq!(taken, [(20, 3), (LARGE, 3), (LARGE, 0), (10, 4)]);
    }
}
