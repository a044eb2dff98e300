use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Uri;
use tokio::time::Instant;

use super::{Arrival, Observer, StreamHead, StreamTotals};
use crate::{
    end::EndReason,
    outbox::Output,
    shape::HeartbeatShape,
    trace::{SpanEnd, StreamSpan},
};

/// What is counted of one stream. Shared with who may end it from outside.
pub(crate) struct Tally {
    observers: Arc<[Arc<dyn Observer>]>,
    head: StreamHead,
    span: StreamSpan,
    arrived: Instant,
    opened: Instant,
    first_event: OnceLock<Duration>,
    events: AtomicU64,
    bytes: AtomicU64,
    heartbeats: AtomicU64,
    ended: AtomicBool,
}

impl Tally {
    pub(super) fn open(
        observers: Arc<[Arc<dyn Observer>]>,
        arrival: Arrival,
        opaque: bool,
    ) -> Self {
        let Arrival { at, method, uri } = arrival;
        let opened = Instant::now();
        let tally = Self {
            observers,
            span: StreamSpan::open(method.as_str(), uri.path()),
            head: StreamHead {
                method,
                uri: apart(&uri),
                time_to_head: opened - at,
                opaque,
            },
            arrived: at,
            opened,
            first_event: OnceLock::new(),
            events: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            heartbeats: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        };
        tally.tell(|observer| observer.opened(&tally.head));
        tally
    }

    pub(crate) fn on_heartbeat(&self, shape: HeartbeatShape) {
        add(&self.heartbeats, 1);
        self.tell(|observer| observer.heartbeat(&self.head, shape));
    }

    /// A frame is handed on. What a client still takes of a stream that was ended from outside is not
    /// counted: the totals have been told.
    pub(crate) fn on_sent(&self, output: &Output) {
        if self.ended.load(Relaxed) {
            return;
        }
        let (events, bytes) = (output.events, output.bytes.len() as u64);
        add(&self.events, events);
        add(&self.bytes, bytes);
        if events > 0 && self.first_event.get().is_none() {
            self.on_first_event();
        }
        self.tell(|observer| observer.sent(&self.head, events, bytes));
    }

    /// Only the first reason counts.
    pub(crate) fn end(&self, reason: EndReason) {
        // Most are asked once more when they are dropped.
        if self.ended.load(Relaxed) || self.ended.swap(true, Relaxed) {
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
        self.span.close(&SpanEnd {
            reason: reason.as_str(),
            events: totals.events,
            bytes: totals.bytes,
            heartbeats: totals.heartbeats,
            lifetime: totals.lifetime,
        });
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

/// With bytes of its own. What came with the request is part of what the server has read, and hyper
/// would keep a buffer of 8 KiB beside its next one as long as the stream lives.
fn apart(uri: &Uri) -> Uri {
    uri.to_string().parse().unwrap_or_else(|_| uri.clone())
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
