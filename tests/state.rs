//! What a stream costs beside the service's body: a test binary of its own, whose allocations are
//! counted.

#[path = "support/allocations.rs"]
mod allocations;

use std::{
    convert::Infallible,
    future::ready,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use allocations::Allocations;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri};
use http_body::{Body, Frame};
use tokio::{runtime::Builder, time::Duration};
use tower::{
    Layer, Service, ServiceExt, layer::util::Identity, service_fn, util::BoxCloneSyncService,
};
use tower_sse::{EventIdLayer, MetricsLayer, Observer, SseLayer};

/// Frames that are there, and then silence.
#[derive(Clone)]
struct Frames(usize, Bytes);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(left) = self.0.checked_sub(1) else {
            return Poll::Pending;
        };
        self.0 = left;
        Poll::Ready(Some(Ok(Frame::data(self.1.clone()))))
    }
}

/// The service without layers.
type Bare = BoxCloneSyncService<Request<()>, Response<Frames>, Infallible>;

struct Nobody;

impl Observer for Nobody {}

fn frames(count: usize) -> Frames {
    Frames(count, Bytes::from(format!("data: {}\n\n", "x".repeat(248))))
}

fn service(body: Frames) -> Bare {
    Bare::new(service_fn(move |_| {
        let response = Response::builder().header("content-type", "text/event-stream");
        ready(Ok(response.body(body.clone()).unwrap()))
    }))
}

async fn respond<L, S, B>(layer: L, body: Frames) -> B
where
    L: Layer<Bare, Service = S>,
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let service = layer.layer(service(body));
    let request = Request::get("/").header("accept", "text/event-stream");
    let Ok(response) = service.oneshot(request.body(()).unwrap()).await;
    response.into_body()
}

/// What one more stream holds that is open and silent, after some events.
async fn held<L, S, B>(layer: L) -> isize
where
    L: Layer<Bare, Service = S>,
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body,
{
    let frames = frames(2);
    let before = Allocations::so_far().held;
    // As long as it lives is what it holds: its place is on the stack of this future.
    let mut body = pin!(respond(layer, frames).await);
    let mut context = Context::from_waker(Waker::noop());
    while body.as_mut().poll_frame(&mut context).is_ready() {}
    Allocations::so_far().held - before
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.unwrap().block_on(test)
}

#[test]
fn a_silent_stream_takes_at_most_400_bytes() {
    run(async {
        let bare = held(Identity::new()).await;
        assert_eq!(bare, 0);
        let frames = size_of::<Frames>() as isize;
        // The first one also finds the runtime's timer as it was made.
        held(SseLayer::new()).await;
        let ours = held(SseLayer::new()).await - frames;
        println!("{ours} bytes");
        assert!(ours <= 400, "{ours} bytes");
        // What is measured is the stream and its timer.
        assert!(
            ours > size_of::<tokio::time::Sleep>() as isize,
            "{ours} bytes"
        );
    });
}

#[test]
fn frames_cost_no_allocation() {
    run(async {
        let all = || {
            let ids = EventIdLayer::new();
            SseLayer::new()
                .event_id(ids)
                .metrics(MetricsLayer::new(Nobody))
        };
        for layer in [SseLayer::new(), all()] {
            let mut body = pin!(respond(layer, frames(10_100)).await);
            let mut context = Context::from_waker(Waker::noop());
            let mut next = || body.as_mut().poll_frame(&mut context);
            assert!(next().is_ready());
            let before = Allocations::so_far().count;
            let mut handed_on = 0;
            while next().is_ready() {
                handed_on += 1;
            }
            // Joined frames need a place: a buffer that grows, and who shares it.
            let count = Allocations::so_far().count - before;
            assert!(count <= 6 * handed_on, "{count} for {handed_on} frames");
            assert!(handed_on * 20 < 10_000, "{handed_on} frames");
        }
        tokio::time::sleep(Duration::ZERO).await;
    });
}

#[test]
fn a_response_that_is_no_stream_grows_by_at_most_16_bytes() {
    fn body_of<L, S, B>(_: L) -> usize
    where
        L: Layer<Bare, Service = S>,
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    {
        size_of::<B>()
    }
    let (bare, ours) = (body_of(Identity::new()), body_of(SseLayer::new()));
    assert!(ours <= bare + 16, "{ours} of {bare}");
}

/// What a server has read, of which a request is a part.
struct Read {
    part: &'static str,
    _buffer: Arc<()>,
}

impl AsRef<[u8]> for Read {
    fn as_ref(&self) -> &[u8] {
        self.part.as_bytes()
    }
}

#[test]
fn a_stream_keeps_nothing_of_the_bytes_that_its_request_came_in() {
    let buffer = Arc::new(());
    let part = |part| {
        let _buffer = buffer.clone();
        Bytes::from_owner(Read { part, _buffer })
    };
    let layer = SseLayer::new()
        .event_id(EventIdLayer::new())
        .metrics(MetricsLayer::new(Nobody));
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_maybe_shared(part("/events?of=today")).unwrap();
    for (name, value) in [("accept", "text/event-stream"), ("last-event-id", "7")] {
        let value = HeaderValue::from_maybe_shared(part(value)).unwrap();
        request.headers_mut().insert(name, value);
    }
    assert_eq!(Arc::strong_count(&buffer), 4);
    let response = run(layer.layer(service(frames(2))).oneshot(request));
    assert_eq!(Arc::strong_count(&buffer), 1);
    drop(response);
}
