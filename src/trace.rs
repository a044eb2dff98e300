//! The one place that knows whether the `tracing` feature is on.

use std::time::Duration;

/// `trace!(debug, "message", field = value, …)`; fields are shown with `Debug`.
macro_rules! trace {
    ($level:ident, $message:literal $(, $field:ident = $value:expr)* $(,)?) => {{
        #[cfg(feature = "tracing")]
        tracing::$level!($($field = ?$value,)* $message);
        #[cfg(not(feature = "tracing"))]
        {
            $(let _ = &$value;)*
        }
    }};
}

pub(crate) use trace;

/// The span of one event stream, below the span that is current when it opens.
pub(crate) struct StreamSpan {
    /// The span closes when it is taken: a stream may be ended where it is only shared.
    #[cfg(feature = "tracing")]
    open: std::sync::Mutex<Option<tracing::Span>>,
}

/// What a span says of its stream when that ends.
pub(crate) struct SpanEnd {
    pub(crate) reason: &'static str,
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) heartbeats: u64,
    pub(crate) lifetime: Duration,
}

#[cfg(feature = "tracing")]
impl StreamSpan {
    pub(crate) fn open(method: &str, path: &str) -> Self {
        use tracing::field::Empty;
        let span = tracing::info_span!(
            target: "tower_sse",
            "event_stream",
            method,
            path,
            reason = Empty,
            events = Empty,
            bytes = Empty,
            heartbeats = Empty,
            lifetime = Empty,
        );
        Self {
            open: Some(span).into(),
        }
    }

    pub(crate) fn close(&self, end: &SpanEnd) {
        use std::sync::PoisonError;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let span = open.take();
        // No lock is held where code of others runs.
        drop(open);
        let Some(span) = span else {
            return;
        };
        span.record("reason", end.reason);
        span.record("events", end.events);
        span.record("bytes", end.bytes);
        span.record("heartbeats", end.heartbeats);
        span.record("lifetime", end.lifetime.as_secs_f64());
    }
}

#[cfg(not(feature = "tracing"))]
impl StreamSpan {
    pub(crate) fn open(_: &str, _: &str) -> Self {
        Self {}
    }

    pub(crate) fn close(&self, end: &SpanEnd) {
        let _ = (end.reason, end.lifetime);
        let _ = (end.events, end.bytes, end.heartbeats);
    }
}
