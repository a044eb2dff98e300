use std::{
    sync::{Arc, MutexGuard},
    task::{Context, Poll},
};

use bytes::Bytes;

use super::{Live, LiveEnd, State, register, wake};
use crate::resume::{
    IdLines,
    piece::{Piece, Place},
};

/// One reader of a [`Live`]; dropped, it has left.
pub(in crate::resume) struct Seat {
    pub(super) live: Arc<Live>,
    pub(super) index: usize,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug)]
pub(in crate::resume) struct Spot {
    /// The last event of which it has all.
    pub(in crate::resume) number: u64,
    /// The place of the piece that comes next, once it has found its way in.
    pub(super) next: Option<u64>,
    /// It has a part of the event after that one.
    torn: bool,
}

/// What there is for a reader.
#[derive(Debug)]
pub(in crate::resume) enum Reading {
    /// Some pieces.
    Pieces,
    /// What it wants is not here, or not any more.
    Behind,
    /// Nothing any more.
    Ended(LiveEnd),
}

/// How somebody who comes back stands to what is here.
#[derive(Debug)]
pub(in crate::resume) enum Standing {
    /// What is next for him is here, or is yet to come.
    Here,
    /// He has to begin in the store.
    Behind,
    /// He has more than there is.
    Ahead,
    /// He has all that there ever will be.
    Ended(LiveEnd),
}

impl Seat {
    pub(in crate::resume) fn standing(&self, number: u64) -> Standing {
        let state = self.live.state();
        match (state.place_after(number), &state.end) {
            // What stands behind the last event is none.
            (_, Some(end)) if number >= state.newest => Standing::Ended(end.clone()),
            (Ok(None), _) if self.live.produced => Standing::Ahead,
            (Ok(_), _) => Standing::Here,
            (Err(()), _) => Standing::Behind,
        }
    }

    /// Takes up to `limit` bytes of pieces, with ids or without.
    pub(in crate::resume) fn poll_read(
        &self,
        spot: &mut Spot,
        limit: usize,
        ids: &mut Option<IdLines>,
        taken: &mut Vec<Bytes>,
        cx: &Context<'_>,
    ) -> Poll<Reading> {
        let mut state = self.live.state();
        let next = match state.place_of(spot) {
            Ok(Some(next)) => next,
            Ok(None) => {
                let end = state.end();
                return self.wait(state, end, cx);
            }
            Err(()) => return Poll::Ready(Reading::Behind),
        };
        state.take(spot, next, limit, ids, taken);
        if !taken.is_empty() {
            let producer = spot.next.and_then(|next| state.set_pace(next));
            drop(state);
            wake(producer);
            return Poll::Ready(Reading::Pieces);
        }
        if next < state.end() {
            // With a gap, the event that is missing may still be in the store.
            return Poll::Ready(Reading::Behind);
        }
        self.wait(state, next, cx)
    }

    /// Nobody is ahead of who waits: what it has from the store is not unread here.
    fn wait(&self, mut state: MutexGuard<'_, State>, at: u64, cx: &Context<'_>) -> Poll<Reading> {
        if let Some(end) = &state.end {
            return Poll::Ready(Reading::Ended(end.clone()));
        }
        let producer = state.set_pace(at);
        let slot = state.readers.get_mut(self.index).and_then(Option::as_mut);
        let old = slot.and_then(|slot| register(&mut slot.waker, cx));
        drop(state);
        drop(old);
        wake(producer);
        Poll::Pending
    }

    /// What `find` makes of the newest piece for which it makes anything.
    pub(in crate::resume) fn search<T>(&self, find: impl Fn(&Piece) -> Option<T>) -> Option<T> {
        let state = self.live.state();
        let pieces: Vec<_> = state.pieces.iter().rev().cloned().collect();
        drop(state);
        pieces.iter().find_map(find)
    }

    /// Whether the event may yet come into the store: from elsewhere always, from here if it is late.
    pub(in crate::resume) fn is_to_come(&self, number: u64) -> bool {
        let pending = self.live.state().pending;
        !self.live.produced || pending.is_some_and(|pending| pending <= number)
    }

    pub(in crate::resume) fn is_produced(&self) -> bool {
        self.live.is_produced()
    }
}

impl Spot {
    pub(in crate::resume) fn after(number: u64) -> Self {
        Self {
            number,
            next: None,
            torn: false,
        }
    }

    /// Whether what it has ends in the middle of an event.
    pub(in crate::resume) fn is_torn(&self) -> bool {
        self.torn
    }

    pub(super) fn pass(&mut self, piece: &Piece) {
        self.next = self.next.map(|next| next + 1);
        self.torn = piece.place == Place::Part;
        if piece.place == Place::End {
            self.number = piece.number;
        }
    }

    /// It has had this event from the store.
    pub(in crate::resume) fn turn_to(&mut self, number: u64) {
        *self = Self::after(number);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.live.leave(self.index);
    }
}
