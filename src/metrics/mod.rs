#[cfg(feature = "metrics")]
mod facade;
mod observer;
mod tally;

use std::{fmt, sync::Arc};

use http::{Method, Uri, request, response};
use tokio::time::Instant;

pub use self::observer::{Observer, ResumeOutcome, StreamHead, StreamTotals};
pub(crate) use self::tally::Tally;
use crate::refusal::RefusedBy;

/// Tells [observers](Observer) what becomes of event streams: how many are open, why they end, what
/// goes through them, and how soon.
///
/// The usual middleware measures a request from its head to its end. A stream of an hour spoils
/// every percentile there, and what matters about it is not seen: how long until its first event, and
/// whether it ended because it was complete or because its client, its upstream or somebody between
/// them gave up.
///
/// Events are counted as a client would dispatch them, when they are handed on. That needs a look at
/// every line, which other layers may need anyway.
///
/// `MetricsLayer::facade` counts for a recorder of the `metrics` crate, with the feature of that
/// name. With the feature `tracing` each stream has a span, whatever its observers:
/// `event_stream`, level info, target `tower_sse`, below the span that is current when the response
/// head comes, with `method` and `path`, and from its end `reason`, `events`, `bytes`, `heartbeats`
/// and `lifetime` (seconds). Nothing runs inside of it: it is there to be exported, and keeps the one
/// above it open for as long. A filter on its target switches it off.
///
/// Off in [`SseLayer`](crate::SseLayer) until it is handed one. As a layer alone it belongs outside
/// of the others, or it does not see what they add; what they refuse and why they end a stream is told
/// only within one `SseLayer`.
///
/// What it does not do: it knows when a frame was handed to the server, not when it left or was
/// read. Requests that become no stream are not counted. What resume counts of its store is in
/// `Resume::stats`.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering::Relaxed}};
///
/// use tower_sse::{EndReason, MetricsLayer, Observer, SseLayer, StreamHead, StreamTotals};
///
/// #[derive(Default)]
/// struct GoneEarly(AtomicU64);
///
/// impl Observer for GoneEarly {
///     fn ended(&self, stream: &StreamHead, totals: &StreamTotals) {
///         if totals.reason == EndReason::Disconnected && totals.events == 0 {
///             self.0.fetch_add(1, Relaxed);
///             println!("{} was left after {:?}", stream.uri.path(), totals.lifetime);
///         }
///     }
/// }
///
/// # use std::convert::Infallible;
/// # use http::{Request, Response};
/// # use http_body_util::{Empty, combinators::UnsyncBoxBody};
/// # use tower::{Layer, ServiceExt, service_fn};
/// # type Body = UnsyncBoxBody<bytes::Bytes, Infallible>;
/// # let service = service_fn(async |_: Request<Body>| {
/// #     let response = Response::builder().header("content-type", "text/event-stream");
/// #     Ok::<_, Infallible>(response.body(Empty::<bytes::Bytes>::new()).unwrap())
/// # });
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// let gone_early = Arc::new(GoneEarly::default());
/// let layer = SseLayer::new().metrics(MetricsLayer::new(gone_early.clone()));
/// let service = layer.layer(service);
/// // ... a client comes, and goes away before anything was sent
/// # let request = Request::new(Body::default());
/// let response = service.oneshot(request).await.unwrap();
/// drop(response);
/// assert_eq!(gone_early.0.load(Relaxed), 1);
/// # });
/// ```
#[derive(Clone)]
#[must_use]
pub struct MetricsLayer {
    observers: Arc<[Arc<dyn Observer>]>,
}

/// What is kept of a request for the stream that may follow.
#[derive(Debug)]
pub(crate) struct Arrival {
    at: Instant,
    method: Method,
    uri: Uri,
}

impl MetricsLayer {
    /// The observer is told of every stream.
    pub fn new(observer: impl Observer) -> Self {
        Self {
            observers: Arc::new([Arc::new(observer)]),
        }
    }

    /// One more observer, told after those before it.
    pub fn and(self, observer: impl Observer) -> Self {
        let one_more: Arc<dyn Observer> = Arc::new(observer);
        Self {
            observers: self.observers.iter().cloned().chain([one_more]).collect(),
        }
    }

    pub(crate) fn on_request(&self, request: &request::Parts) -> Arrival {
        Arrival {
            at: Instant::now(),
            method: request.method.clone(),
            uri: request.uri.clone(),
        }
    }

    pub(crate) fn on_ignored_id(&self) {
        self.tell(|observer| observer.ignored_id());
    }

    /// Any response, also one that is no stream: who came back to a stream that is complete gets
    /// none.
    pub(crate) fn on_response(&self, response: &response::Parts) {
        if let Some(outcome) = ResumeOutcome::of(&response.headers) {
            self.tell(|observer| observer.resumed(outcome));
        }
    }

    pub(crate) fn on_refusal(&self, by: RefusedBy) {
        self.tell(|observer| observer.refused(by));
    }

    /// The part of a stream that has opened.
    pub(crate) fn open(&self, arrival: Arrival, opaque: bool) -> Arc<Tally> {
        Arc::new(Tally::open(self.observers.clone(), arrival, opaque))
    }

    fn tell(&self, of: impl Fn(&dyn Observer)) {
        for observer in self.observers.iter() {
            of(&**observer);
        }
    }
}

impl fmt::Debug for MetricsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsLayer")
            .field("observers", &self.observers.len())
            .finish()
    }
}
