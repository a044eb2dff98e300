use std::sync::Arc;

use tower_layer::{Identity, Layer};

#[cfg(feature = "resume")]
use crate::resume::{ResumeLayer, ResumeService};
use crate::{
    compression::CompressionBypassLayer,
    drain::DrainLayer,
    early::{EarlyOpenLayer, EarlyOpenService},
    engine::Concerns,
    event_id::EventIdLayer,
    headers::HeadersLayer,
    heartbeat::HeartbeatLayer,
    lifetime::LifetimeLayer,
    limit::LimitLayer,
    metrics::MetricsLayer,
    service::SseService,
    silence::SilenceLayer,
    stall::StallLayer,
    truncation::TruncationLayer,
};

/// All concerns in the one right order: one scan, one timer, one body.
///
/// On from the start are [headers](HeadersLayer), [compression bypass](CompressionBypassLayer),
/// [heartbeats](HeartbeatLayer) after 15 seconds of silence, and the
/// [`LastEventId`](crate::LastEventId) request extension. What ends streams, refuses them or adds
/// ids is on only when asked for.
///
/// # Beside the layers of tower-http
///
/// *Inside* is nearer to the service: on an axum router, what was handed to `layer` before this one. On
/// either side events and heartbeats arrive as they are sent, the service's bytes stay what they are,
/// and a drain ends the stream. What else is to be known, of 0.6 and of 0.7:
///
/// | layer | inside | outside |
/// |---|---|---|
/// | `CompressionLayer` | leaves event streams plain; one that it is told to compress all the same, for a request that does not name them in `Accept`, gets headers and no more | leaves event streams plain; told to compress them, it passes events and heartbeats at once |
/// | `TimeoutLayer` | is over when the head is there; ends the wait of an early open | is over when the head is there, which an [early open](Self::early_open) sends in time |
/// | `ResponseBodyTimeoutLayer` | breaks a stream whose service is silent; so does [`SilenceLayer`], which can also say it | never fires: it takes heartbeats for signs of life |
/// | `ResponseBodyDeadlineLayer` | breaks every stream; [`LifetimeLayer`] ends it between two events | the same |
/// | `TraceLayer` | sees the service's chunks, and of a drain no end (`on_eos`) | sees heartbeats as chunks, and the end by a drain |
/// | `OnEarlyDropLayer` | is told once of a client that goes, and of a drain | is told once of a client that goes |
/// | `CorsLayer` | not in what a limit or an early open answers, which the page then cannot read | in every answer |
/// | `CatchPanicLayer` | a handler's panic is a 500 | the same |
/// | `SetResponseHeaderLayer` | `Cache-Control` is merged: `max-age=60, no-cache, no-transform` | has the last word: overriding `Cache-Control`, it loses `no-transform` |
///
/// So CORS belongs outside, and what limits the time of a body inside. On both sides at once, each does
/// what its own does. `tests/services/order.rs` tries each cell, and `tests/compression.rs` compressors
/// that compress everything.
///
/// # Example
///
/// ```
/// use std::time::Duration;
///
/// use axum::{Router, routing::get};
/// use tower_sse::{DrainLayer, EventIdLayer, SseLayer};
///
/// # async fn events() {}
/// let (layer, drain) = DrainLayer::pair();
/// let app: Router = Router::new().route("/events", get(events)).layer(
///     SseLayer::new()
///         .heartbeat(Duration::from_secs(20))
///         .event_id(EventIdLayer::new().query("lastEventId"))
///         .drain(layer.deadline(Duration::from_secs(30))),
/// );
/// # drop((app, drain));
/// ```
///
/// Two layers have services of their own, inside all others: `R` is none or a `ResumeLayer`, and inside
/// of that `E` is none or an [`EarlyOpenLayer`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SseLayer<R = Identity, E = Identity> {
    concerns: Concerns,
    resume: R,
    early_open: E,
}

impl SseLayer {
    /// The layer with its defaults.
    pub fn new() -> Self {
        Self {
            resume: Identity::new(),
            early_open: Identity::new(),
            concerns: Concerns {
                headers: Some(HeadersLayer::new()),
                compression: Some(CompressionBypassLayer::new()),
                heartbeat: Some(Arc::new(HeartbeatLayer::new())),
                event_id: Some(EventIdLayer::new().track(false)),
                ..Concerns::default()
            },
        }
    }
}

impl<R, E> SseLayer<R, E> {
    /// Streams that outlive their connection. Default: none.
    #[cfg(feature = "resume")]
    pub fn resume(self, layer: ResumeLayer) -> SseLayer<ResumeLayer, E> {
        SseLayer {
            concerns: self.concerns,
            resume: layer,
            early_open: self.early_open,
        }
    }

    /// Streams that open before the service has answered. Default: none; see what it
    /// [costs](EarlyOpenLayer#what-it-costs).
    ///
    /// It is inside of [`resume`](Self::resume), whichever was called first: a stream is kept from its
    /// early head on.
    pub fn early_open(self, layer: EarlyOpenLayer) -> SseLayer<R, EarlyOpenLayer> {
        SseLayer {
            concerns: self.concerns,
            resume: self.resume,
            early_open: layer,
        }
    }

    /// Leaves headers as they are, but for a length that no longer holds where bytes may be added.
    /// Default: [`HeadersLayer::new`].
    pub fn without_headers(mut self) -> Self {
        self.concerns.headers = None;
        self
    }

    /// Which requests must not be answered compressed. Default: [`CompressionBypassLayer::new`].
    pub fn compression_bypass(mut self, layer: CompressionBypassLayer) -> Self {
        self.concerns.compression = Some(layer);
        self
    }

    /// Leaves `Accept-Encoding` as it is.
    pub fn without_compression_bypass(mut self) -> Self {
        self.concerns.compression = None;
        self
    }

    /// Heartbeats, by their interval or by all their settings. Default: [`HeartbeatLayer::new`].
    pub fn heartbeat(mut self, layer: impl Into<HeartbeatLayer>) -> Self {
        self.concerns.heartbeat = Some(Arc::new(layer.into()));
        self
    }

    /// No heartbeats, whatever a response's extensions say. To have them for some responses
    /// only, hand over [`HeartbeatLayer::off`] instead.
    pub fn without_heartbeat(mut self) -> Self {
        self.concerns.heartbeat = None;
        self
    }

    /// Event ids. Default: the [`LastEventId`](crate::LastEventId) extension alone.
    pub fn event_id(mut self, layer: EventIdLayer) -> Self {
        self.concerns.event_id = Some(layer);
        self
    }

    /// No `LastEventId` extension.
    pub fn without_event_id(mut self) -> Self {
        self.concerns.event_id = None;
        self
    }

    /// The drain that ends the streams. Default: none.
    pub fn drain(mut self, layer: DrainLayer) -> Self {
        self.concerns.drain = Some(layer);
        self
    }

    /// How many streams may be open. Default: any number.
    pub fn limit(mut self, layer: LimitLayer) -> Self {
        self.concerns.limit = Some(layer);
        self
    }

    /// How long streams may live. Default: for ever.
    pub fn lifetime(mut self, layer: LifetimeLayer) -> Self {
        self.concerns.lifetime = Some(layer);
        self
    }

    /// How long clients may not read. Default: for ever.
    pub fn stall(mut self, layer: StallLayer) -> Self {
        self.concerns.stall = Some(layer);
        self
    }

    /// How long the service may say nothing. Default: for ever.
    pub fn silence(mut self, layer: SilenceLayer) -> Self {
        self.concerns.silence = Some(layer);
        self
    }

    /// What becomes of answers that are cut off. Default: they pass as they are.
    pub fn truncation(mut self, layer: TruncationLayer) -> Self {
        self.concerns.truncation = Some(layer);
        self
    }

    /// Who is told what becomes of streams. Default: nobody.
    pub fn metrics(mut self, layer: MetricsLayer) -> Self {
        self.concerns.metrics = Some(layer);
        self
    }
}

impl Default for SseLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S, R, E> Layer<S> for SseLayer<R, E>
where
    E: Layer<S>,
    R: Layer<E::Service>,
{
    type Service = SseService<R::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        let inner = self.resume.layer(self.early_open.layer(inner));
        SseService::new(inner, Arc::new(self.concerns.clone()))
    }
}

impl<S> Layer<S> for HeadersLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| concerns.headers = Some(*self))
    }
}

impl<S> Layer<S> for CompressionBypassLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| concerns.compression = Some(*self))
    }
}

impl<S> Layer<S> for HeartbeatLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| {
            concerns.heartbeat = Some(Arc::new(self.clone()))
        })
    }
}

impl<S> Layer<S> for EventIdLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| concerns.event_id = Some(self.clone()))
    }
}

impl<S> Layer<S> for DrainLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| concerns.drain = Some(self.clone()))
    }
}

impl<S> Layer<S> for LimitLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| concerns.limit = Some(self.clone()))
    }
}

impl<S> Layer<S> for LifetimeLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| concerns.lifetime = Some(self.clone()))
    }
}

impl<S> Layer<S> for StallLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| concerns.stall = Some(self.clone()))
    }
}

impl<S> Layer<S> for SilenceLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| concerns.silence = Some(self.clone()))
    }
}

impl<S> Layer<S> for TruncationLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| concerns.truncation = Some(self.clone()))
    }
}

impl<S> Layer<S> for MetricsLayer {
    type Service = SseService<S>;

    fn layer(&self, inner: S) -> SseService<S> {
        only(inner, |concerns| concerns.metrics = Some(self.clone()))
    }
}

impl<S> Layer<S> for EarlyOpenLayer {
    type Service = EarlyOpenService<S>;

    fn layer(&self, inner: S) -> EarlyOpenService<S> {
        EarlyOpenService::new(inner, self.clone())
    }
}

#[cfg(feature = "resume")]
impl<S> Layer<S> for ResumeLayer {
    type Service = ResumeService<S>;

    fn layer(&self, inner: S) -> ResumeService<S> {
        ResumeService::new(inner, self)
    }
}

fn only<S>(inner: S, switch_on: impl FnOnce(&mut Concerns)) -> SseService<S> {
    let mut concerns = Concerns::default();
    switch_on(&mut concerns);
    SseService::new(inner, Arc::new(concerns))
}
