use std::time::Duration;

use http::{HeaderMap, Method, Uri};

use crate::{end::EndReason, refusal::RefusedBy, shape::HeartbeatShape};

/// Watches event streams from their head to their end.
///
/// All methods do nothing by default. They are called from within polls and must not block.
pub trait Observer: Send + Sync + 'static {
    /// A stream's head goes out.
    fn opened(&self, stream: &StreamHead) {
        let _ = stream;
    }

    /// Its first event goes out, so long after its request came.
    fn first_event(&self, stream: &StreamHead, after: Duration) {
        let _ = (stream, after);
    }

    /// A frame was handed on: so many events were in it or before it, and so many bytes.
    fn sent(&self, stream: &StreamHead, events: u64, bytes: u64) {
        let _ = (stream, events, bytes);
    }

    /// A heartbeat goes out.
    fn heartbeat(&self, stream: &StreamHead, shape: HeartbeatShape) {
        let _ = (stream, shape);
    }

    /// The stream has ended. Once for each that has opened.
    fn ended(&self, stream: &StreamHead, totals: &StreamTotals) {
        let _ = (stream, totals);
    }

    /// A stream was refused.
    fn refused(&self, by: RefusedBy) {
        let _ = by;
    }

    /// A client came back for a stream.
    fn resumed(&self, outcome: ResumeOutcome) {
        let _ = outcome;
    }
}

/// What is known of a stream from its head on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StreamHead {
    /// The request's method.
    pub method: Method,
    /// What the request asked for.
    pub uri: Uri,
    /// From the request to the head of its response.
    pub time_to_head: Duration,
}

/// What has become of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamTotals {
    /// Why it ended.
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
    /// As the response says it, if it does.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        match headers.get("sse-resume")?.as_bytes() {
            b"resumed" => Some(Self::Resumed),
            b"complete" => Some(Self::Complete),
            b"lost" => Some(Self::Lost),
            _ => None,
        }
    }
}
