//! What a stream costs beside the service's body: a test binary of its own, whose allocations are
//! counted.

#[path = "support/allocations.rs"]
mod allocations;

use std::{
    convert::Infallible,
    future::ready,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use allocations::Allocations;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::{runtime::Builder, time::Duration};
use tower::{Layer, Service, ServiceExt, layer::util::Identity, service_fn};
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

struct Nobody;

impl Observer for Nobody {}

fn frames(count: usize) -> Frames {
    Frames(count, Bytes::from(format!("data: {}\n\n", "x".repeat(248))))
}

async fn respond<L, S, B>(layer: L, body: Frames) -> B
where
    L: Layer<
            tower::util::BoxCloneSyncService<Request<()>, Response<Frames>, Infallible>,
            Service = S,
        >,
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let service = service_fn(move |_| {
        let response = Response::builder().header("content-type", "text/event-stream");
        ready(Ok(response.body(body.clone()).unwrap()))
    });
    let service = layer.layer(tower::util::BoxCloneSyncService::new(service));
    let request = Request::get("/").header("accept", "text/event-stream");
    let Ok(response) = service.oneshot(request.body(()).unwrap()).await;
    response.into_body()
}

/// What one more stream holds that is open and silent, after some events.
async fn held<L, S, B>(layer: L) -> isize
where
    L: Layer<
            tower::util::BoxCloneSyncService<Request<()>, Response<Frames>, Infallible>,
            Service = S,
        >,
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
        L: Layer<
                tower::util::BoxCloneSyncService<Request<()>, Response<Frames>, Infallible>,
                Service = S,
            >,
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    {
        size_of::<B>()
    }
    let (bare, ours) = (body_of(Identity::new()), body_of(SseLayer::new()));
    assert!(ours <= bare + 16, "{ours} of {bare}");
}
