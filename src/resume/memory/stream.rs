use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use super::order::Rank;
use crate::resume::{Page, StoreError, StoredEvent, StreamEnd, StreamId, Then};

/// A stream that the store knows, or knew.
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) about: Bytes,
    log: Mutex<Log>,
    /// It got an event or an end, or is gone.
    pub(super) changed: Notify,
}

/// What changes in a stream.
pub(super) struct Log {
    pub(super) events: VecDeque<StoredEvent>,
    /// The highest number that ever was there.
    newest: u64,
    pub(super) end: Option<(u64, StreamEnd)>,
    /// The producer's last sign of life.
    pub(super) renewed: Instant,
    /// When somebody last said that it is read.
    read: Option<Instant>,
    /// Among those that expire.
    pub(super) place: (Instant, u64),
    /// Among those that have something to give up.
    pub(super) rank: Option<Rank>,
    /// The store has forgotten it, while someone still had it in hand.
    pub(super) gone: bool,
}

/// Room for so many events is not worth giving back.
const FEW: usize = 32;

impl Stream {
    pub(super) fn new(id: StreamId, about: Bytes) -> Self {
        let now = Instant::now();
        let log = Log {
            events: VecDeque::new(),
            newest: 0,
            end: None,
            renewed: now,
            read: None,
            place: (now, 0),
            rank: None,
            gone: false,
        };
        Self {
            id,
            about,
            log: Mutex::new(log),
            changed: Notify::new(),
        }
    }

    /// Its log, if the stream is still there and has been heard of within `keep`.
    pub(super) fn log(
        &self,
        keep: Duration,
        now: Instant,
    ) -> Result<MutexGuard<'_, Log>, StoreError> {
        let log = self.lock();
        let there = !log.gone && log.silence(now) < keep;
        there.then_some(log).ok_or(StoreError::Unknown)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first event if its number is under `keep_from`.
    pub(super) fn pop_before(&self, keep_from: u64) -> Option<StoredEvent> {
        let mut log = self.lock();
        let old = log.events.front()?.number < keep_from;
        old.then(|| log.pop()).flatten()
    }
}

impl Log {
    /// Adds those of the events that were never there, and returns how many of the first were.
    pub(super) fn append(&mut self, events: &[StoredEvent], now: Instant) -> usize {
        let known = events.partition_point(|event| event.number <= self.newest);
        let new = events.get(known..).unwrap_or_default();
        self.events.extend(new.iter().cloned());
        self.newest = new.last().map_or(self.newest, |event| event.number);
        self.renewed = now;
        known
    }

    pub(super) fn attend(&mut self, now: Instant) {
        self.read = Some(now);
    }

    pub(super) fn is_read(&self, lease: Duration, now: Instant) -> bool {
        self.read
            .is_some_and(|read| now.saturating_duration_since(read) < lease)
    }

    pub(super) fn end(&mut self, last: u64, end: StreamEnd, now: Instant) {
        self.end = Some((last, end));
        self.renewed = now;
    }

    pub(super) fn page(&self, after: u64, limit: usize, lease: Duration, now: Instant) -> Page {
        let from = self.events.partition_point(|event| event.number <= after);
        let events: Vec<_> = self.events.range(from..).take(limit).cloned().collect();
        let more = from + events.len() < self.events.len();
        let then = match self.end {
            _ if more => Then::More,
            Some((last, end)) => Then::Ended { last, end },
            None if self.silence(now) < lease => Then::Running,
            None => Then::Lost,
        };
        Page { events, then }
    }

    pub(super) fn pop(&mut self) -> Option<StoredEvent> {
        let event = self.events.pop_front();
        let (len, room) = (self.events.len(), self.events.capacity());
        if room > FEW && len < room / 4 {
            self.events.shrink_to(room / 2);
        }
        event
    }

    /// Marks the stream as forgotten, and returns what it held; nothing if it was forgotten already.
    pub(super) fn forget(&mut self) -> Option<VecDeque<StoredEvent>> {
        let first = !std::mem::replace(&mut self.gone, true);
        first.then(|| std::mem::take(&mut self.events))
    }

    /// Nothing if it was heard of since, by a call that overtook this one.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.renewed)
    }
}
