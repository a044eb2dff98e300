use std::{collections::VecDeque, mem};

use bytes::{Bytes, BytesMut};

/// Bytes on their way down, joined to few frames.
///
/// hyper writes at most 16 buffers per system call, and a burst of small events in a frame each
/// costs several times the work of the same bytes in one. Nothing waits here for more to come: what
/// is ready at once is joined, a lone piece goes on as it is, and a large one is never copied.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frames: VecDeque<Output>,
    /// The frame that small pieces still go to, and the events in it.
    last: Last,
    last_events: u64,
    len: usize,
}

/// A frame that is handed on.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) bytes: Bytes,
    /// How many events end in it, where they are counted.
    pub(crate) events: u64,
}

#[derive(Debug, Default)]
enum Last {
    #[default]
    Empty,
    /// One piece, which is not copied unless another follows.
    Lone(Bytes),
    Joined(BytesMut),
}

/// A frame is not joined beyond this, and no more is taken from upstream before it is gone.
const FULL: usize = 16 * 1024;

/// From here on a copy costs more than a buffer of its own.
const LARGE: usize = 4 * 1024;

impl Outbox {
    /// Bytes in which no event ends.
    pub(crate) fn push(&mut self, piece: Bytes) {
        self.push_events(piece, 0);
    }

    /// Bytes in which so many events end. They count when their frame is taken: a client that is gone
    /// has not had what still lies here.
    ///
    /// Joined here and not when it is taken: many small pieces would otherwise weigh far more than
    /// their bytes.
    pub(crate) fn push_events(&mut self, piece: Bytes, events: u64) {
        if piece.is_empty() {
            return;
        }
        self.len += piece.len();
        if piece.len() >= LARGE || self.last.len() + piece.len() > FULL {
            self.close_last();
        }
        if piece.len() >= LARGE {
            let bytes = piece;
            self.frames.push_back(Output { bytes, events });
        } else {
            self.last.join(piece);
            self.last_events += events;
        }
    }

    /// The next frame, never empty.
    pub(crate) fn take(&mut self) -> Option<Output> {
        if self.frames.is_empty() {
            self.close_last();
        }
        let frame = self.frames.pop_front()?;
        self.len -= frame.bytes.len();
        Some(frame)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len >= FULL
    }

    fn close_last(&mut self) {
        let bytes = match mem::take(&mut self.last) {
            Last::Empty => return,
            Last::Lone(piece) => piece,
            Last::Joined(frame) => frame.freeze(),
        };
        let events = mem::take(&mut self.last_events);
        self.frames.push_back(Output { bytes, events });
    }
}

impl Last {
    fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Lone(piece) => piece.len(),
            Self::Joined(frame) => frame.len(),
        }
    }

    fn join(&mut self, piece: Bytes) {
        *self = match mem::take(self) {
            Self::Empty => Self::Lone(piece),
            Self::Lone(first) => {
                let mut frame = BytesMut::with_capacity(2 * (first.len() + piece.len()));
                frame.extend_from_slice(&first);
                frame.extend_from_slice(&piece);
                Self::Joined(frame)
            }
            Self::Joined(mut frame) => {
                frame.extend_from_slice(&piece);
                Self::Joined(frame)
            }
        };
    }
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
        assert!(outbox.is_empty() && outbox.len == 0);
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
