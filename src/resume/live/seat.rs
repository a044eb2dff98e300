use std::{
    sync::{Arc, MutexGuard},
    task::{Context, Poll},
};

use super::{Live, LiveEnd, State, wake};
use crate::resume::piece::{Piece, Place};

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
    next: Option<u64>,
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
    /// He has all that there ever will be.
    Ended(LiveEnd),
}

impl Seat {
    pub(in crate::resume) fn standing(&self, number: u64) -> Standing {
        let state = self.live.state();
        match (state.place_after(number), &state.end) {
            (Err(()), _) => Standing::Behind,
            (Ok(next), Some(end)) if next.is_none_or(|next| next == state.end()) => {
                Standing::Ended(end.clone())
            }
            (Ok(_), _) => Standing::Here,
        }
    }

    /// Takes up to `limit` bytes of pieces.
    pub(in crate::resume) fn poll_read(
        &self,
        spot: &mut Spot,
        limit: usize,
        pieces: &mut Vec<Piece>,
        cx: &Context<'_>,
    ) -> Poll<Reading> {
        let mut state = self.live.state();
        let next = match spot.next {
            Some(next) if next < state.first => return Poll::Ready(Reading::Behind),
            Some(next) => next,
            None => match state.place_after(spot.number) {
                Ok(Some(next)) => next,
                Ok(None) => {
                    let end = state.end();
                    let producer = state.set_pace(end);
                    return self.wait(state, producer, cx);
                }
                Err(()) => return Poll::Ready(Reading::Behind),
            },
        };
        spot.next = Some(next);
        let mut bytes = 0;
        for piece in state.pieces.range((next - state.first) as usize..) {
            if bytes >= limit || piece.number != spot.number + 1 {
                break;
            }
            bytes += piece.bytes.len();
            spot.pass(piece);
            pieces.push(piece.clone());
        }
        let Some(next) = spot.next.filter(|at| *at > next) else {
            // With a gap, the event that is missing may still be in the store.
            if next < state.end() {
                return Poll::Ready(Reading::Behind);
            }
            let producer = state.set_pace(next);
            return self.wait(state, producer, cx);
        };
        let producer = state.set_pace(next);
        drop(state);
        wake(producer);
        Poll::Ready(Reading::Pieces)
    }

    fn wait(
        &self,
        mut state: MutexGuard<'_, State>,
        producer: Option<std::task::Waker>,
        cx: &Context<'_>,
    ) -> Poll<Reading> {
        if let Some(end) = &state.end {
            return Poll::Ready(Reading::Ended(end.clone()));
        }
        let slot = state.readers.get_mut(self.index).and_then(Option::as_mut);
        let old = slot.and_then(|slot| slot.waker.replace(cx.waker().clone()));
        drop(state);
        drop(old);
        wake(producer);
        Poll::Pending
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

    fn pass(&mut self, piece: &Piece) {
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
