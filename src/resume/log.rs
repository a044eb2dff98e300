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
            kept: Kept {
                events: VecDeque::new(),
                bytes: 0,
                bounds,
                max_age,
                from: 1,
            },
        }
    }

    /// Whether there is something that a store that works would take.
    pub(super) fn is_behind(&self) -> bool {
        let complete = self.opened && self.pending.is_empty();
        !(complete || self.hub.is_down())
    }

    /// Adds the event to what the store is to get.
    pub(super) fn push(&mut self, event: StoredEvent) {
        self.kept.push(event.number, event.bytes.len());
        self.pending_bytes += event.bytes.len();
        self.pending.push_back(event);
    }

    /// Brings the store up to date. It has all events when this returns; but when it is down, the
    /// stream goes on without it.
    pub(super) async fn store(&mut self) {
        if self.hub.is_down() {
            return self.forget_over(TAIL);
        }
        match self.try_store().await {
            Ok(()) => {}
            Err(StoreError::Failed(_)) => self.forget_over(TAIL),
            // It does not want the stream: what was just opened is gone again.
            Err(StoreError::Unknown) => self.forget_over(Bounds {
                pieces: 0,
                bytes: 0,
            }),
        }
    }

    /// Says how the stream ended. False if the store is down.
    pub(super) async fn close(&mut self, last: u64, end: StreamEnd) -> bool {
        if self.hub.is_down() || self.try_store().await.is_err() {
            return false;
        }
        let store = &self.hub.store;
        let closed = self.hub.ask(store.close(self.stream, last, end)).await;
        closed.is_ok()
    }

    async fn try_store(&mut self) -> Result<(), StoreError> {
        if !self.opened {
            self.open().await?;
        }
        match self.append().await {
            // It has lost the stream, or all of them, and begins anew.
            Err(StoreError::Unknown) => {
                self.open().await?;
                self.append().await
            }
            answer => answer,
        }
    }

    async fn open(&mut self) -> Result<(), StoreError> {
        let store = &self.hub.store;
        let answer = self.hub.ask(store.open(self.stream, self.about.encode()));
        answer.await?;
        self.opened = true;
        Ok(())
    }

    async fn append(&mut self) -> Result<(), StoreError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let events = self.pending.make_contiguous();
        let store = &self.hub.store;
        let answer = self
            .hub
            .ask(store.append(self.stream, events, self.kept.from));
        answer.await?;
        self.pending.clear();
        self.pending_bytes = 0;
        Ok(())
    }

    /// A store that was down for a moment gets what it missed; one that was down for long does not.
    fn forget_over(&mut self, bounds: Bounds) {
        while (self.pending_bytes > bounds.bytes || self.pending.len() as u64 > bounds.pieces)
            && let Some(event) = self.pending.pop_front()
        {
            self.pending_bytes -= event.bytes.len();
            self.hub.counters.add(Count::Unstored);
        }
    }
}

impl Kept {
    fn push(&mut self, number: u64, bytes: usize) {
        let at = Instant::now();
        self.bytes += bytes;
        self.events.push_back(Event { number, bytes, at });
        while let Some(oldest) = self.events.front()
            && (self.events.len() as u64 > self.bounds.pieces
                || self.bytes > self.bounds.bytes
                || at - oldest.at > self.max_age)
        {
            self.bytes -= oldest.bytes;
            self.from = oldest.number + 1;
            self.events.pop_front();
        }
    }
}
