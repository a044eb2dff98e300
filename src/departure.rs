use std::time::Duration;

use tokio::time::Instant;

use crate::{client::Client, end::EndReason, wire::Position};

/// How a stream goes that is ended before its service ends it: when, is for others to say.
#[derive(Debug)]
pub(crate) struct Departure {
    event_source: bool,
    /// It goes in the middle of what it is for, unless its answer is complete.
    finishes: bool,
    /// Of a clean end, and of another.
    reasons: (EndReason, EndReason),
    due: bool,
}

/// How a stream goes that is ended before its service ends it: by a [drain](crate::DrainLayer), or
/// at the end of its [life time](crate::LifetimeLayer).
///
/// Among a response's extensions it overrides the layer's mode for that stream; in axum a handler
/// returns `(Extension(DrainMode::Finish), Sse::new(events))`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainMode {
    /// `EndNow` for an `EventSource`, which comes back by itself; `Finish` for all others.
    #[default]
    Auto,
    /// At the next event boundary, cleanly.
    EndNow,
    /// When the service ends it, but no later than the time is over; in the middle of an answer the
    /// connection then breaks.
    Finish,
}

/// What a stream must do to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) reason: EndReason,
    pub(crate) how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Clean,
    Abort,
    /// As its upstream did.
    AsUpstream,
}

/// How long a stream that should end may take to finish the event it is in. Then it ends in the
/// middle, without a blank line: that would dispatch half an event.
pub(crate) const EVENT_GRACE: Duration = Duration::from_millis(500);

impl Departure {
    pub(crate) fn new(client: Client, mode: DrainMode, reasons: (EndReason, EndReason)) -> Self {
        Self {
            event_source: client.event_source,
            finishes: mode.finishes(client),
            reasons,
            due: false,
        }
    }

    /// How the stream must end now, if it must; `complete` says that its answer is. Half an event is
    /// waited for, but not long.
    pub(crate) fn on_time(
        &mut self,
        now: Instant,
        end_at: Instant,
        at: Position,
        complete: bool,
    ) -> Option<Ending> {
        self.due = now >= end_at;
        let over = now >= end_at + EVENT_GRACE;
        (over || self.due && at == Position::Boundary).then(|| self.ending(at, complete))
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due
    }

    /// How the stream must end at the boundary that was just reached in the bytes, if it must.
    pub(crate) fn on_boundary(&self, complete: bool) -> Option<Ending> {
        self.due.then(|| self.ending(Position::Boundary, complete))
    }

    /// When to look again.
    pub(crate) fn next_deadline(&self, end_at: Instant) -> Instant {
        if self.due {
            end_at + EVENT_GRACE
        } else {
            end_at
        }
    }

    /// Whether it matters how far the answer is.
    pub(crate) fn minds_the_answer(&self) -> bool {
        self.finishes && !self.event_source
    }

    /// A clean end in the middle of an answer looks like a success to most libraries.
    pub(crate) fn ending(&self, at: Position, complete: bool) -> Ending {
        let whole = !self.finishes && at == Position::Boundary;
        let (clean, broken) = self.reasons;
        let (how, reason) = if whole || complete || self.event_source {
            (How::Clean, clean)
        } else {
            (How::Abort, broken)
        };
        Ending { reason, how }
    }
}

impl DrainMode {
    pub(crate) fn finishes(self, client: Client) -> bool {
        match self {
            Self::Auto => !client.event_source,
            Self::EndNow => false,
            Self::Finish => true,
        }
    }
}
