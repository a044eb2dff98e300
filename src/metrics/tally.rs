use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Arrival, Observer, StreamHead, StreamTotals};
use crate::{end::EndReason, shape::HeartbeatShape, wire::BlockEnd};

/// What is counted of one stream. Shared with who may end it from outside.
pub(crate) struct Tally {
    observers: Arc<[Arc<dyn Observer>]>,
    head: StreamHead,
    arrived: Instant,
    opened: Instant,
    first_event: OnceLock<Duration>,
    /// Events that were read and are still to be handed on.
    read: AtomicU64,
    events: AtomicU64,
    bytes: AtomicU64,
    heartbeats: AtomicU64,
    ended: AtomicBool,
}

impl Tally {
    pub(super) fn open(observers: Arc<[Arc<dyn Observer>]>, arrival: Arrival) -> Self {
        let Arrival { at, method, uri } = arrival;
        let opened = Instant::now();
        let head = StreamHead {
            method,
            uri,
            time_to_head: opened - at,
        };
        for observer in observers.iter() {
            observer.opened(&head);
        }
        Self {
            observers,
            head,
            arrived: at,
            opened,
            first_event: OnceLock::new(),
            read: AtomicU64::new(0),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        }
    }

    pub(crate) fn on_event_end(&self, block: &BlockEnd) {
        if block.data {
            add(&self.read, 1);
        }
    }

    pub(crate) fn on_heartbeat(&self, shape: HeartbeatShape) {
        add(&self.heartbeats, 1);
        self.tell(|observer| observer.heartbeat(&self.head, shape));
    }

    /// A frame is handed on.
    pub(crate) fn on_sent(&self, bytes: usize) {
        // Freed from outside, and counted; then its client read on.
        if self.ended.load(Relaxed) {
            return;
        }
        let events = self.read.load(Relaxed);
        if events > 0 {
            self.read.store(0, Relaxed);
            add(&self.events, events);
            if self.first_event.get().is_none() {
                self.on_first_event();
            }
        }
        add(&self.bytes, bytes as u64);
        self.tell(|observer| observer.sent(&self.head, events, bytes as u64));
    }

    /// Only the first reason counts.
    pub(crate) fn end(&self, reason: EndReason) {
        if self.ended.swap(true, Relaxed) {
            return;
        }
        let totals = StreamTotals {
            reason,
            lifetime: self.opened.elapsed(),
            time_to_first_event: self.first_event.get().copied(),
            events: self.events.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            heartbeats: self.heartbeats.load(Relaxed),
        };
        self.tell(|observer| observer.ended(&self.head, &totals));
    }

    fn on_first_event(&self) {
        let after = *self.first_event.get_or_init(|| self.arrived.elapsed());
        self.tell(|observer| observer.first_event(&self.head, after));
    }

    fn tell(&self, of: impl Fn(&dyn Observer)) {
        for observer in self.observers.iter() {
            of(&**observer);
        }
    }
}

/// Without a locked instruction: only the stream's own polls count.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Relaxed) + more, Relaxed);
}

impl fmt::Debug for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tally").field("head", &self.head).finish()
    }
}
