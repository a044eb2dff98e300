use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, Uri};

use crate::{end::EndReason, refusal::RefusedBy, shape::HeartbeatShape};

/// Watches event streams from their head to their end, for [`MetricsLayer`](crate::MetricsLayer).
///
/// All methods do nothing by default. An `Arc` of an observer is one too, so that it can be asked
/// what it has seen; and so is `()`, where only the spans of `tracing` are wanted.
///
/// They are called where the stream is polled, [`sent`](Self::sent) once for each frame: count, and
/// leave everything slow to a task of your own. An observer that blocks holds up all streams of its
/// thread. One that panics takes the connection with it, those behind it are not told, and in
/// [`ended`](Self::ended) it may end the process, since that is also called from `Drop`.
///
/// Of one stream the calls come one after another, `opened` first and `ended` last, with one
/// exception: a stream that a [drain](crate::DrainLayer) or a [watchdog](crate::StallLayer) lets go of
/// is ended by their thread. If its client comes back for it at that very moment, a `sent` may come
/// together with `ended`.
pub trait Observer: Send + Sync + 'static {
    /// A stream's head goes out.
    fn opened(&self, stream: &StreamHead) {
        let _ = stream;
    }

    /// A stream's first event goes out, so long after its request came.
    fn first_event(&self, stream: &StreamHead, after: Duration) {
        let _ = (stream, after);
    }

    /// A frame goes out: so many events end in it, and it has so many bytes, heartbeats and all else
    /// that was added included.
    ///
    /// An event is what a client dispatches: a block with `data`, with its blank line. Neither is a
    /// comment one, nor what the end of the stream cuts off.
    fn sent(&self, stream: &StreamHead, events: u64, bytes: u64) {
        let _ = (stream, events, bytes);
    }

    /// A heartbeat goes out. Its bytes come in the `sent` that follows.
    fn heartbeat(&self, stream: &StreamHead, shape: HeartbeatShape) {
        let _ = (stream, shape);
    }

    /// The stream has ended. Once for each that has opened, however it ends.
    ///
    /// What is left when a client goes away before it has taken all is in no total, and neither is what
    /// it still takes of a stream that was let go of.
    fn ended(&self, stream: &StreamHead, totals: &StreamTotals) {
        let _ = (stream, totals);
    }

    /// A stream was refused: it has not opened, and does not end.
    fn refused(&self, by: RefusedBy) {
        let _ = by;
    }

    /// A client came back for a stream, and was not refused. If it gets a stream, that opens too.
    ///
    /// It is read from the response's `sse-resume`, whether that is from the `ResumeLayer` here or
    /// from another server behind.
    fn resumed(&self, outcome: ResumeOutcome) {
        let _ = outcome;
    }

    /// A client came back with a `Last-Event-ID` that cannot be one, and it was ignored.
    ///
    /// Only known where the [`EventIdLayer`](crate::EventIdLayer) is in the same
    /// [`SseLayer`](crate::SseLayer), which has it from the start.
    fn ignored_id(&self) {}
}

/// What is known of a stream from its head on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamHead {
    /// The request's method.
    pub method: Method,
    /// What the request asked for, as it came to the layer. As a label it needs a bound: a client can
    /// make up any number of them.
    pub uri: Uri,
    /// From the request to the head of its response.
    pub time_to_head: Duration,
    /// It is compressed, and cannot be read: only its bytes are counted, and no event.
    pub opaque: bool,
}

/// What has become of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamTotals {
    /// Why it ended: the first reason counts. A service that was done before its client went away
    /// has made it [`Complete`](EndReason::Complete).
    pub reason: EndReason,
    /// From its head to its end.
    pub lifetime: Duration,
    /// From its request to its first event, if it had one.
    pub time_to_first_event: Option<Duration>,
    /// The events that were handed on.
    pub events: u64,
    /// The bytes that were handed on, heartbeats included.
    pub bytes: u64,
    /// The heartbeats that were handed on.
    pub heartbeats: u64,
}

/// What a client found that came back for a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResumeOutcome {
    /// It goes on behind its last event.
    Resumed,
    /// It has all that there is.
    Complete,
    /// The stream is gone.
    Lost,
}

impl ResumeOutcome {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Resumed, Self::Complete, Self::Lost];

    /// The outcome as one lower-case word, for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Complete => "complete",
            Self::Lost => "lost",
        }
    }

    /// As the response says it, if it does.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let said = headers.get("sse-resume")?.as_bytes();
        let mut all = Self::ALL.iter().copied();
        all.find(|outcome| outcome.as_str().as_bytes() == said)
    }
}

impl Observer for () {}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn opened(&self, stream: &StreamHead) {
        (**self).opened(stream);
    }

    fn first_event(&self, stream: &StreamHead, after: Duration) {
        (**self).first_event(stream, after);
    }

    fn sent(&self, stream: &StreamHead, events: u64, bytes: u64) {
        (**self).sent(stream, events, bytes);
    }

    fn heartbeat(&self, stream: &StreamHead, shape: HeartbeatShape) {
        (**self).heartbeat(stream, shape);
    }

    fn ended(&self, stream: &StreamHead, totals: &StreamTotals) {
        (**self).ended(stream, totals);
    }

    fn refused(&self, by: RefusedBy) {
        (**self).refused(by);
    }

    fn resumed(&self, outcome: ResumeOutcome) {
        (**self).resumed(outcome);
    }

    fn ignored_id(&self) {
        (**self).ignored_id();
    }
}
