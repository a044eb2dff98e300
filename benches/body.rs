//! A whole stream through the layers: `cargo bench --bench body`.
//!
//! `burst` has all frames ready at once, `spaced` has a pause behind each, as tokens come. The
//! `none` rows are the same loop without a layer, `passthrough` is a response that is no event
//! stream.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    hint::black_box,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceBuilder};
use tower_sse::{
    BoxError, CompressionBypassLayer, DrainLayer, EventIdLayer, HeadersLayer, HeartbeatLayer,
    SseLayer,
};

mod support;

use support::{EVENTS, SIZES, shapes};

/// Frames from memory.
#[derive(Clone)]
struct Upstream {
    frames: std::vec::IntoIter<Bytes>,
    spaced: bool,
    pause: bool,
}

impl Body for Upstream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if std::mem::replace(&mut self.pause, false) {
            return Poll::Pending;
        }
        self.pause = self.spaced;
        Poll::Ready(self.frames.next().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A service that answers with one stream.
struct Fixed(Upstream, &'static str);

impl Service<Request<()>> for Fixed {
    type Response = Response<Upstream>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Upstream>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let response = Response::builder().header("content-type", self.1);
        ready(Ok(response.body(self.0.clone()).expect("a valid response")))
    }
}

type Stream = Pin<Box<dyn Body<Data = Bytes, Error = BoxError>>>;

/// The stream as a client gets it through `layer`, ready to be polled.
fn through<L, B>(layer: L) -> impl Fn(Upstream) -> Stream
where
    L: Layer<Fixed>,
    L::Service: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = BoxError> + 'static,
{
    response_through(layer, "text/event-stream")
}

fn response_through<L, B>(layer: L, media_type: &'static str) -> impl Fn(Upstream) -> Stream
where
    L: Layer<Fixed>,
    L::Service: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error = BoxError> + 'static,
{
    move |upstream| {
        let request = Request::builder()
            .header("accept", "text/event-stream")
            .body(());
        let response = layer
            .layer(Fixed(upstream, media_type))
            .call(request.expect("a valid request"));
        Box::pin(
            response
                .now_or_never()
                .expect("an answer at once")
                .expect("infallible")
                .into_body(),
        )
    }
}

/// Polls until the end, as hyper does, and counts the bytes.
fn drive(mut stream: Stream) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let mut bytes = 0;
    loop {
        match stream.as_mut().poll_frame(&mut cx) {
            Poll::Ready(Some(frame)) => {
                bytes += black_box(frame)
                    .ok()
                    .and_then(|f| f.into_data().ok())
                    .map_or(0, |d| d.len());
            }
            Poll::Ready(None) => return bytes,
            Poll::Pending => {}
        }
    }
}

type Through = Box<dyn Fn(Upstream) -> Stream>;

fn layers() -> Vec<(&'static str, Through)> {
    let drain = || DrainLayer::pair().0.without_retry();
    let stacked = ServiceBuilder::new()
        .layer(HeadersLayer::new())
        .layer(CompressionBypassLayer::new())
        .layer(HeartbeatLayer::new())
        .layer(drain())
        .layer(EventIdLayer::new());
    let fused = SseLayer::new().drain(drain()).event_id(EventIdLayer::new());
    vec![
        (
            "none",
            Box::new(|upstream| Box::pin(upstream.map_err(BoxError::from))),
        ),
        (
            "passthrough",
            Box::new(response_through(SseLayer::new(), "text/plain")),
        ),
        ("headers", Box::new(through(HeadersLayer::new()))),
        (
            "compression-bypass",
            Box::new(through(CompressionBypassLayer::new())),
        ),
        ("heartbeat", Box::new(through(HeartbeatLayer::new()))),
        ("event-id", Box::new(through(EventIdLayer::new()))),
        ("drain", Box::new(through(drain()))),
        ("default", Box::new(through(SseLayer::new()))),
        ("fused", Box::new(through(fused))),
        ("stacked", Box::new(through(stacked))),
    ]
}

fn body(c: &mut Criterion) {
    // The timers of the heartbeats want a runtime; it never has to run.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("a runtime");
    let _entered = runtime.enter();
    for (size, bytes) in SIZES {
        for (shape, frames) in shapes(bytes) {
            for (pace, spaced) in [("burst", false), ("spaced", true)] {
                let mut group = c.benchmark_group(format!("body/{size}/{shape}/{pace}"));
                group.throughput(Throughput::Elements(EVENTS as u64));
                let upstream = Upstream {
                    frames: frames.clone().into_iter(),
                    spaced,
                    pause: false,
                };
                for (name, layer) in layers() {
                    assert_eq!(drive(layer(upstream.clone())), bytes * EVENTS, "{name}");
                    group.bench_function(BenchmarkId::from_parameter(name), |b| {
                        b.iter_batched(|| layer(upstream.clone()), drive, BatchSize::LargeInput);
                    });
                }
            }
        }
    }
}

criterion_group!(benches, body);
criterion_main!(benches);
