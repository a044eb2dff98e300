mod bounds;
mod end;
mod seat;

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use tokio::time::Instant;

pub(super) use self::{
    bounds::{Bounds, TAIL},
    end::LiveEnd,
    seat::{Reading, Seat, Spot, Standing},
};
use super::{
    IdLines, StreamEnd,
    piece::{Piece, Place},
};

/// A stream that is being produced, here or on another machine: its newest pieces, and those who
/// read them.
///
/// The fastest reader sets the pace: what it has not taken stays here, and while too much of that
/// is here, upstream waits. A slower one that falls off reads on from the store.
pub(in crate::resume) struct Live {
    /// The producer is in this process.
    produced: bool,
    state: Mutex<State>,
}

struct State {
    pieces: VecDeque<Piece>,
    /// The place of the first piece among all that there were.
    first: u64,
    /// The bytes in `pieces`.
    held: usize,
    /// The number of the last event that has ended.
    newest: u64,
    end: Option<LiveEnd>,
    readers: Vec<Option<Slot>>,
    /// The places in `readers` that are empty: with thousands of them nobody looks for one.
    free: Vec<usize>,
    /// Bytes, and pieces, that no reader has taken.
    unread: Unread,
    /// Since when there is no reader here.
    left: Option<Instant>,
    /// Until when somebody reads it on another machine, for all that is known.
    attended: Option<Instant>,
    stop: Option<StreamEnd>,
    producer: Option<Waker>,
    /// The first event that the store has still to get.
    pending: Option<u64>,
    /// The producer waits for readers.
    starved: bool,
    /// Kept for its allocation.
    woken: Vec<Waker>,
}

/// How far the fastest reader is behind.
#[derive(Clone, Copy, Debug, Default)]
struct Unread {
    /// The place of the first piece that nobody has taken.
    from: u64,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Slot {
    waker: Option<Waker>,
}

impl Live {
    /// A stream that begins here.
    pub(in crate::resume) fn produced() -> Arc<Self> {
        Self::new(true, 0)
    }

    /// One that begins elsewhere, behind event `newest`.
    pub(in crate::resume) fn followed(newest: u64) -> Arc<Self> {
        Self::new(false, newest)
    }

    fn new(produced: bool, newest: u64) -> Arc<Self> {
        Arc::new(Self {
            produced,
            state: Mutex::new(State {
                pieces: VecDeque::new(),
                first: 0,
                held: 0,
                newest,
                end: None,
                readers: Vec::new(),
                free: Vec::new(),
                unread: Unread::default(),
                left: Some(Instant::now()),
                attended: None,
                stop: None,
                producer: None,
                pending: None,
                starved: false,
                woken: Vec::new(),
            }),
        })
    }

    pub(in crate::resume) fn is_produced(&self) -> bool {
        self.produced
    }

    pub(in crate::resume) fn readers(&self) -> usize {
        let state = self.state();
        state.readers.len() - state.free.len()
    }

    /// A reader elsewhere would matter: nobody reads here, or who does has stalled.
    pub(in crate::resume) fn wants_readers(&self) -> bool {
        let state = self.state();
        state.left.is_some() || state.starved || state.is_attended()
    }

    pub(in crate::resume) fn newest(&self) -> u64 {
        self.state().newest
    }

    // === The producer ===

    /// Shows pieces; `pending` is the first event that the store has still to get. What is left in
    /// `pieces` is what makes room for them: it is dropped where no lock is held.
    pub(in crate::resume) fn publish(&self, pieces: &mut Vec<Piece>, pending: Option<u64>) {
        let mut state = self.state();
        state.pending = pending;
        for piece in pieces.drain(..) {
            state.push(piece);
        }
        state.shorten(pieces);
        self.wake(state);
    }

    pub(in crate::resume) fn finish(&self, end: LiveEnd) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        self.wake(state);
    }

    /// Ready when the producer is to stop.
    pub(in crate::resume) fn poll_stop(&self, cx: &Context<'_>) -> Poll<StreamEnd> {
        let state = self.state();
        match state.stop {
            Some(end) => Poll::Ready(end),
            None => have_producer_wait(state, cx),
        }
    }

    /// How much more may come; asked after [`poll_stop`](Self::poll_stop), which has the waker.
    ///
    /// While nobody reads, what nobody has read may be half of what the log holds: the other half
    /// is what was on its way to who has left.
    pub(in crate::resume) fn room(&self, log: Bounds) -> Bounds {
        let mut state = self.state();
        let most = match state.left {
            // Those who read elsewhere set a pace of half a log per word of theirs.
            None if !state.is_attended() => TAIL,
            _ => log.half(),
        };
        let room = Bounds {
            count: most.count.saturating_sub(state.unread_pieces()),
            bytes: most.bytes.saturating_sub(state.unread.bytes),
        };
        state.starved = room.is_over();
        room
    }

    /// Ready when nobody reads.
    pub(in crate::resume) fn poll_unread(&self, cx: &Context<'_>) -> Poll<()> {
        let state = self.state();
        match state.left {
            Some(_) => Poll::Ready(()),
            None => have_producer_wait(state, cx),
        }
    }

    /// Since when nobody reads, here or elsewhere; later than now while somebody elsewhere does.
    pub(in crate::resume) fn left(&self) -> Option<Instant> {
        let state = self.state();
        let left = state.left?;
        Some(state.attended.map_or(left, |attended| attended.max(left)))
    }

    /// Somebody reads it on another machine, at least until then.
    pub(in crate::resume) fn attend(&self, until: Instant) {
        let mut state = self.state();
        state.attended = Some(until);
        let end = state.end();
        let producer = state.set_pace(end);
        drop(state);
        wake(producer);
    }

    // === Whoever wants it to end ===

    /// False if it has ended.
    pub(in crate::resume) fn stop(&self, end: StreamEnd) -> bool {
        let mut state = self.state();
        let runs = state.end.is_none();
        if runs {
            state.stop.get_or_insert(end);
        }
        drop(state);
        self.wake_producer();
        runs
    }

    pub(in crate::resume) fn wake_producer(&self) {
        let producer = self.state().producer.take();
        wake(producer);
    }

    // === The readers ===

    pub(in crate::resume) fn join(self: &Arc<Self>) -> Seat {
        let mut state = self.state();
        state.left = None;
        let index = state.free.pop().unwrap_or_else(|| {
            state.readers.push(None);
            state.readers.len() - 1
        });
        state.readers[index] = Some(Slot::default());
        Seat {
            live: self.clone(),
            index,
        }
    }

    fn leave(&self, index: usize) {
        let mut state = self.state();
        let slot = state.readers.get_mut(index).and_then(Option::take);
        state.free.push(index);
        if state.free.len() == state.readers.len() {
            state.left = Some(Instant::now());
        }
        let producer = state.producer.take();
        drop(state);
        drop(slot);
        wake(producer);
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let mut woken = mem::take(&mut state.woken);
        let slots = state.readers.iter_mut().flatten();
        woken.extend(slots.filter_map(|slot| slot.waker.take()));
        drop(state);
        // No lock is held where others are woken: all of them want it at once.
        for waker in woken.drain(..) {
            waker.wake();
        }
        self.state().woken = woken;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, piece: Piece) {
        if piece.place == Place::End {
            self.newest = piece.number;
        }
        self.held += piece.bytes.len();
        self.unread.bytes += piece.bytes.len();
        self.pieces.push_back(piece);
    }

    fn end(&self) -> u64 {
        self.first + self.pieces.len() as u64
    }

    fn unread_pieces(&self) -> usize {
        (self.end() - self.unread.from) as usize
    }

    fn is_attended(&self) -> bool {
        self.attended.is_some_and(|until| Instant::now() < until)
    }

    /// Takes off what is over the bounds and has been read, or has nobody to read it.
    fn shorten(&mut self, dropped: &mut Vec<Piece>) {
        while self.held > TAIL.bytes || self.pieces.len() > TAIL.count {
            if self.left.is_none() && self.first >= self.unread.from {
                break;
            }
            let Some(piece) = self.pieces.pop_front() else {
                break;
            };
            self.first += 1;
            self.held -= piece.bytes.len();
            dropped.push(piece);
        }
    }

    /// Where somebody who has all events up to `number` begins: `Err` if that is not here any more,
    /// `None` if it is yet to come.
    fn place_after(&self, number: u64) -> Result<Option<u64>, ()> {
        let later = self.pieces.partition_point(|piece| piece.number <= number);
        match self.pieces.get(later) {
            Some(piece) if piece.number == number + 1 && !piece.continues => {
                Ok(Some(self.first + later as u64))
            }
            Some(_) => Err(()),
            None if self.newest == number => Ok(Some(self.end())),
            None if self.newest > number => Err(()),
            None => Ok(None),
        }
    }

    /// The same for where a reader is.
    fn place_of(&self, spot: &Spot) -> Result<Option<u64>, ()> {
        match spot.next {
            Some(next) if next < self.first => Err(()),
            Some(next) => Ok(Some(next)),
            None => self.place_after(spot.number),
        }
    }

    /// Hands out pieces, about `limit` bytes of them. None where an event is missing between.
    fn take(
        &mut self,
        spot: &mut Spot,
        next: u64,
        limit: usize,
        ids: &mut Option<IdLines>,
        taken: &mut Vec<Bytes>,
    ) {
        spot.next = Some(next);
        let mut bytes = 0;
        for piece in self.pieces.range_mut((next - self.first) as usize..) {
            if bytes >= limit || piece.number != spot.number + 1 {
                return;
            }
            bytes += piece.bytes.len();
            spot.pass(piece);
            taken.push(piece.told(ids));
        }
    }

    /// A reader is at `next`, maybe ahead of all others. Returns who waited for that.
    fn set_pace(&mut self, next: u64) -> Option<Waker> {
        if next <= self.unread.from {
            return None;
        }
        // What was dropped unread, since nobody was there, is in the count too.
        if self.unread.from < self.first {
            self.unread = Unread {
                from: self.first,
                bytes: self.held,
            };
        }
        let taken = (self.unread.from - self.first) as usize..(next - self.first) as usize;
        let taken = self.pieces.range(taken).map(|piece| piece.bytes.len());
        self.unread.bytes -= taken.sum::<usize>();
        self.unread.from = next;
        mem::take(&mut self.starved)
            .then(|| self.producer.take())
            .flatten()
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Live")
            .field("newest", &state.newest)
            .field("end", &state.end)
            .finish_non_exhaustive()
    }
}

fn have_producer_wait<T>(mut state: MutexGuard<'_, State>, cx: &Context<'_>) -> Poll<T> {
    let old = register(&mut state.producer, cx);
    drop(state);
    drop(old);
    Poll::Pending
}

/// Returns the waker that it replaces: it is dropped where no lock is held.
fn register(slot: &mut Option<Waker>, cx: &Context<'_>) -> Option<Waker> {
    let same = |waker: &Waker| waker.will_wake(cx.waker());
    if slot.as_ref().is_some_and(same) {
        return None;
    }
    slot.replace(cx.waker().clone())
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
