use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Bytes on their way down, joined to few frames.
///
/// hyper writes at most 16 buffers per system call, and a burst of small events in a frame each
/// costs several times the work of the same bytes in one. Nothing waits here for more to come: what
/// is ready at once is joined, a lone piece goes on as it is, and a large one is never copied.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pieces: VecDeque<Bytes>,
    len: usize,
}

/// A frame is not joined beyond this, and no more is taken from upstream before it is gone.
const FULL: usize = 16 * 1024;

/// From here on a copy costs more than a buffer of its own.
const LARGE: usize = 4 * 1024;

impl Outbox {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    /// The next frame, never empty.
    pub(crate) fn take(&mut self) -> Option<Bytes> {
        let first = self.pieces.pop_front()?;
        self.len -= first.len();
        if first.len() >= LARGE || self.next_small().is_none() {
            return Some(first);
        }
        let mut frame = BytesMut::with_capacity(FULL.min(first.len() + self.len));
        frame.extend_from_slice(&first);
        while self
            .next_small()
            .is_some_and(|next| frame.len() + next <= FULL)
        {
            let next = self.pieces.pop_front()?;
            self.len -= next.len();
            frame.extend_from_slice(&next);
        }
        Some(frame.freeze())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len >= FULL
    }

    fn next_small(&self) -> Option<usize> {
        self.pieces
            .front()
            .map(Bytes::len)
            .filter(|len| *len < LARGE)
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
            .map(|frame| frame.len())
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
        assert_eq!(outbox.take().unwrap().as_ptr(), piece.as_ptr());
    }
}
