use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::Instant;

use super::streams::{Registration, Streams};
use crate::{
    departure::{Departure, EVENT_GRACE, Ending},
    reach::Reach,
    wire::Position,
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
        // Nobody knows where it stands then.
        let reason = self.departure.ending(Position::MidLine, false).reason;
        let registration = self.streams.register(free_after, reason, stream);
        self.registration = Some(registration);
    }

    pub(crate) fn has_started(&self) -> bool {
        self.end_at().is_some()
    }

    pub(crate) fn departure(&self) -> &Departure {
        &self.departure
    }

    /// How the stream must end now, if it must.
    pub(crate) fn on_time(&mut self, now: Instant, at: Position, complete: bool) -> Option<Ending> {
        let end_at = self.end_at()?;
        let ending = self.departure.on_time(now, end_at, at, complete);
        ending.or_else(|| {
            self.on_boundary(complete)
                .filter(|_| at == Position::Boundary)
        })
    }

    /// How the stream must end at the boundary that was just reached in the bytes, if it must: its
    /// time has come, or there is nothing to wait for.
    pub(crate) fn on_boundary(&self, complete: bool) -> Option<Ending> {
        let ends = self.departure.is_due() || complete && self.has_started();
        ends.then(|| self.departure.ending(Position::Boundary, complete))
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        Some(self.departure.next_deadline(self.end_at()?))
    }

    /// When the stream should end, once the drain has started.
    fn end_at(&self) -> Option<Instant> {
        Some(self.streams.started()? + self.end_after)
    }
}
