use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    StoreError, StoredEvent, StreamEnd, StreamId,
    about::About,
    hub::Hub,
    live::{Bounds, TAIL},
    stats::Count,
};

/// The producer's side of a stream's log: what the store has, and what it still has to get.
#[derive(Debug)]
pub(super) struct Log {
    hub: Arc<Hub>,
    stream: StreamId,
    about: Arc<About>,
    opened: bool,
    /// What the store has not acknowledged, as far as it is worth holding.
    pending: VecDeque<StoredEvent>,
    pending_bytes: usize,
    /// After a fault, until when the store is left alone, and for how long that was.
    rest: Option<(Instant, Duration)>,
    kept: Kept,
}

/// The events that the store is to keep.
#[derive(Debug)]
struct Kept {
    events: VecDeque<Event>,
    bytes: usize,
    bounds: Bounds,
    max_age: Duration,
    /// The number of the first of them.
    from: u64,
}

#[derive(Debug)]
struct Event {
    number: u64,
    bytes: usize,
    at: Instant,
}

/// How long a store is left alone that works, but not for this stream.
const RESTS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(20));

const NOTHING: Bounds = Bounds { count: 0, bytes: 0 };

impl Log {
    pub(super) fn new(
        hub: Arc<Hub>,
        stream: StreamId,
        about: Arc<About>,
        bounds: Bounds,
        max_age: Duration,
    ) -> Self {
        Self {
            hub,
            stream,
            about,
            opened: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
            rest: None,
            kept: Kept {
                events: VecDeque::new(),
                bytes: 0,
                bounds,
                max_age,
                from: 1,
            },
        }
    }

    /// Whether there is something to be stored, and the store would take it now, for all we know.
    pub(super) fn is_behind(&self) -> bool {
        if self.opened && self.pending.is_empty() {
            return false;
        }
        let rests = self.rests();
        if rests {
            self.hub.fall_behind();
        }
        !rests
    }

    /// The first event that the store has still to get.
    pub(super) fn pending(&self) -> Option<u64> {
        Some(self.pending.front()?.number)
    }

    /// Adds the event to what the store is to get.
    pub(super) fn push(&mut self, event: StoredEvent, now: Instant) {
        self.kept.push(event.number, event.bytes.len(), now);
        self.pending_bytes += event.bytes.len();
        self.pending.push_back(event);
    }

    /// Brings the store up to date. It has all events when this returns; but when it is down, the
    /// stream goes on without it.
    pub(super) async fn store(&mut self, now: Instant) {
        if self.rests() || self.try_store(now).await.is_err() {
            self.forget_over(TAIL);
        }
    }

    /// Says how the stream ended. False if that is to be said again.
    pub(super) async fn close(&mut self, last: u64, end: StreamEnd) -> bool {
        if self.rests() || self.try_store(Instant::now()).await.is_err() {
            return false;
        }
        let store = &self.hub.store;
        let closed = store.close(self.stream, last, end);
        // A store that has lost the stream has nothing left whose end could be told.
        !matches!(
            self.hub.ask_to_write(closed).await,
            Err(StoreError::Failed(_))
        )
    }

    /// The store is left alone: for all streams while it is down, and for this one while it fails for
    /// this one.
    fn rests(&self) -> bool {
        let rests = |(until, _)| Instant::now() < until;
        self.hub.is_down() || self.rest.is_some_and(rests)
    }

    async fn try_store(&mut self, start: Instant) -> Result<(), StoreError> {
        let outcome = match self.open_and_append().await {
            // It has lost the stream, or all of them, and begins anew.
            Err(StoreError::Unknown) => {
                self.opened = false;
                self.open_and_append().await
            }
            outcome => outcome,
        };
        match &outcome {
            Ok(()) => self.rest = None,
            Err(StoreError::Failed(_)) => self.begin_rest(start.elapsed()),
            // To ask again would be to hear the same again.
            Err(StoreError::Refused(_) | StoreError::Unknown) => {
                self.forget_over(NOTHING);
                if !self.opened {
                    self.begin_rest(start.elapsed());
                }
            }
        }
        outcome
    }

    /// The second fault in a row came although the store works for others: if it is one that takes
    /// long, a time-out, it must not come often, since the stream waits for it.
    fn begin_rest(&mut self, took: Duration) {
        let again = |(_, time): (_, Duration)| (2 * time).max(20 * took).min(RESTS.1);
        let time = self.rest.map_or(RESTS.0, again);
        self.rest = Some((Instant::now() + time, time));
        self.hub.fall_behind();
    }

    async fn open_and_append(&mut self) -> Result<(), StoreError> {
        if !self.opened {
            self.open().await?;
        }
        while !self.pending.is_empty() {
            self.append().await?;
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<(), StoreError> {
        let opened = self.hub.store.open(self.stream, self.about.encode());
        self.hub.ask_to_write(opened).await?;
        self.opened = true;
        Ok(())
    }

    /// The first events, as far as their numbers follow each other.
    async fn append(&mut self) -> Result<(), StoreError> {
        let events = self.pending.make_contiguous();
        let run = events.chunk_by(|a, b| a.number + 1 == b.number).next();
        let run = run.unwrap_or_default();
        let store = &self.hub.store;
        let appended = store.append(self.stream, run, self.kept.from);
        self.hub.ask_to_write(appended).await?;
        let count = run.len();
        for event in self.pending.drain(..count) {
            self.pending_bytes -= event.bytes.len();
        }
        Ok(())
    }

    /// A store that was down for a moment gets what it missed; one that was down for long does not.
    fn forget_over(&mut self, bounds: Bounds) {
        while (self.pending_bytes > bounds.bytes || self.pending.len() > bounds.count)
            && let Some(event) = self.pending.pop_front()
        {
            self.pending_bytes -= event.bytes.len();
            self.hub.counters.add(Count::Unstored);
        }
    }
}

impl Kept {
    fn push(&mut self, number: u64, bytes: usize, at: Instant) {
        self.bytes += bytes;
        self.events.push_back(Event { number, bytes, at });
        while let Some(oldest) = self.events.front()
            && (self.events.len() > self.bounds.count
                || self.bytes > self.bounds.bytes
                || at - oldest.at > self.max_age)
        {
            self.bytes -= oldest.bytes;
            self.from = oldest.number + 1;
            self.events.pop_front();
        }
    }
}
