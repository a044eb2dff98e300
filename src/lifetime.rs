use std::time::Duration;

use http::{request, response};
use tokio::time::Instant;

use crate::{
    client::Client,
    departure::{Departure, DrainMode, Ending},
    end::EndReason,
    jitter::{Jitter, LONGEST},
    wire::Position,
};

/// Ends event streams before somebody on the way does, at an event boundary.
///
/// Many load balancers cut every connection after a fixed time, in the middle of whatever it
/// carries; and streams that live for ever stay on the old instances when new ones are started. With
/// this layer an `EventSource` stream ends at the boundary behind its time, with a jittered `retry`
/// hint that was in its first event, and its client comes back, maybe elsewhere. Anyone else's stream
/// is [broken off](crate::Aborted) there unless its answer is complete, since most libraries take a
/// clean end for a success.
///
/// The time counts from the request on, as it does for those on the way. A [`StreamDeadline`] among
/// the extensions of the request or of the response, for a token that expires, may end a stream
/// sooner.
///
/// Off in [`SseLayer`](crate::SseLayer) until it is handed one. A stream whose client does not read
/// cannot end by itself: that is the [`StallLayer`](crate::StallLayer)'s.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{LifetimeLayer, SseLayer};
///
/// // Behind a load balancer that cuts after an hour.
/// let layer = SseLayer::new().lifetime(LifetimeLayer::after(Duration::from_secs(55 * 60)));
/// # drop(layer);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct LifetimeLayer {
    lifetime: Option<Duration>,
    jitter: Jitter,
    retry: Option<Duration>,
}

/// When a stream must have ended, as an extension of its request or of its response.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::StreamDeadline;
///
/// # let mut request = http::Request::new(());
/// let token_expires_in = Duration::from_secs(90);
/// request.extensions_mut().insert(StreamDeadline::after(token_expires_in));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamDeadline(Instant);

/// What is known of a stream's end when its request comes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term(Option<Instant>);

/// The life time of one stream.
#[derive(Debug)]
pub(crate) struct Lifetime {
    end_at: Instant,
    departure: Departure,
}

/// The share by which the `retry` hint is spread around its time.
const SPREAD: Jitter = Jitter::new(0.5);

impl LifetimeLayer {
    /// Streams end `lifetime` after their request, or up to a tenth earlier. Zero ends each at its
    /// first boundary; more than a year is taken as one.
    pub fn after(lifetime: Duration) -> Self {
        Self {
            lifetime: Some(lifetime.min(LONGEST)),
            ..Self::deadlines()
        }
    }

    /// Only streams with a [`StreamDeadline`] end.
    pub fn deadlines() -> Self {
        Self {
            lifetime: None,
            jitter: Jitter::new(0.1),
            retry: Some(Duration::from_secs(1)),
        }
    }

    /// The largest share of the life time by which a stream may end earlier, between 0 (none) and
    /// 1. Default: 0.1. Streams that began together do not all come back together.
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = Jitter::new(share);
        self
    }

    /// After which time clients should come back, spread by half of it. Default: 1 second. More than
    /// a year is taken as one.
    ///
    /// Clients that accept `text/event-stream` are told in their first event, as a `retry` line,
    /// unless the service has told them. With a drain in the same `SseLayer` this is the hint in the
    /// first event.
    pub fn retry(mut self, after: Duration) -> Self {
        self.retry = Some(after.min(LONGEST));
        self
    }

    /// No `retry` line in any stream.
    pub fn without_retry(mut self) -> Self {
        self.retry = None;
        self
    }

    pub(crate) fn on_request(&self, request: &request::Parts) -> Term {
        let lifetime = self.lifetime.map(|time| self.jitter.earlier(time));
        let lifetime = lifetime.map(|time| Instant::now() + time);
        let deadline = request.extensions.get().map(|StreamDeadline(at)| *at);
        Term(sooner(lifetime, deadline))
    }

    /// The part of this stream, if it has an end to come.
    pub(crate) fn on_response(
        &self,
        response: &response::Parts,
        client: Client,
        Term(term): Term,
    ) -> Option<Lifetime> {
        let deadline = response.extensions.get().map(|StreamDeadline(at)| *at);
        let mode: DrainMode = response.extensions.get().copied().unwrap_or_default();
        let reasons = (EndReason::Expired, EndReason::Expired);
        Some(Lifetime {
            end_at: sooner(term, deadline)?,
            departure: Departure::new(client, mode, reasons),
        })
    }

    /// When a client should come back, if it is to be told.
    pub(crate) fn hint(&self) -> Option<Duration> {
        self.retry.map(|after| SPREAD.around(after))
    }
}

impl StreamDeadline {
    /// So much from now on. More than a year is taken as one.
    #[must_use]
    pub fn after(time: Duration) -> Self {
        Self(Instant::now() + time.min(LONGEST))
    }
}

impl Lifetime {
    pub(crate) fn departure(&self) -> &Departure {
        &self.departure
    }

    /// How the stream must end now, if it must.
    pub(crate) fn on_time(&mut self, now: Instant, at: Position, complete: bool) -> Option<Ending> {
        self.departure.on_time(now, self.end_at, at, complete)
    }

    /// How the stream must end at the boundary that was just reached in the bytes, if it must.
    pub(crate) fn on_boundary(&self, complete: bool) -> Option<Ending> {
        self.departure.on_boundary(complete)
    }

    pub(crate) fn next_deadline(&self) -> Instant {
        self.departure.next_deadline(self.end_at)
    }
}

fn sooner(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
