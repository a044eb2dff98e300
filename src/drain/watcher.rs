use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::streams::{Registration, Streams};
use crate::{
    departure::{Departure, EVENT_GRACE, Ending, How},
    end::EndReason,
    reach::Reach,
    wire::{BlockEnd, Field, LineEnd, Position},
};

/// The drain's part in one stream.
#[derive(Debug)]
pub(crate) struct Watcher {
    streams: Arc<Streams>,
    /// How long after the start it ends.
    end_after: Duration,
    departure: Departure,
    registration: Option<Registration>,
}

/// How long after its last moment a stream has not been polled and is freed from outside.
const FREE_GRACE: Duration = Duration::from_millis(500);

impl Watcher {
    pub(super) fn new(streams: Arc<Streams>, end_after: Duration, departure: Departure) -> Self {
        Self {
            streams,
            end_after,
            departure,
            registration: None,
        }
    }

    /// Makes the stream one of those that are left.
    pub(crate) fn on_open(&mut self, stream: Weak<dyn Reach>) {
        let free_after = self.end_after + EVENT_GRACE + FREE_GRACE;
        self.registration = Some(self.streams.register(free_after, stream));
    }

    pub(crate) fn needs_lines(&self) -> bool {
        self.departure.needs_lines()
    }

    pub(crate) fn on_field(&mut self, field: &Field<'_>) {
        self.departure.on_field(field);
    }

    /// The line that the block still needs; `told` says that it has its `retry` from us already.
    pub(crate) fn on_event_end(&mut self, block: &BlockEnd, told: bool) -> Option<Bytes> {
        self.departure.on_event_end(block, told)
    }

    pub(crate) fn has_started(&self) -> bool {
        self.end_at().is_some()
    }

    pub(crate) fn retry_line(&mut self, end: LineEnd) -> Option<Bytes> {
        self.departure.retry_line(end)
    }

    /// How the stream must end now, if it must.
    pub(crate) fn on_drain(&mut self, now: Instant, at: Position) -> Option<Ending> {
        let end_at = self.end_at()?;
        let due = self.departure.on_time(now, end_at, at);
        due.or_else(|| self.on_boundary_at(at)).map(ending)
    }

    /// How the stream must end at the boundary that was just reached in the bytes, if it must.
    pub(crate) fn on_boundary(&self) -> Option<Ending> {
        self.on_boundary_at(Position::Boundary).map(ending)
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        Some(self.departure.next_deadline(self.end_at()?))
    }

    /// What to say at a clean end.
    pub(crate) fn on_end(&mut self, at: Position) -> Option<Bytes> {
        self.departure.on_end(at)
    }

    fn on_boundary_at(&self, at: Position) -> Option<How> {
        let departure = &self.departure;
        // Its time has come, or there is nothing to wait for.
        let may = departure.is_due() || departure.is_complete() && self.has_started();
        (may && at == Position::Boundary).then(|| departure.how(at))
    }

    /// When the stream should end, once the drain has started.
    fn end_at(&self) -> Option<Instant> {
        Some(self.streams.started()? + self.end_after)
    }
}

fn ending(how: How) -> Ending {
    let reason = match how {
        How::Clean => EndReason::Drained,
        How::Abort => EndReason::Aborted,
    };
    Ending { reason, how }
}
