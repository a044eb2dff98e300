//! Instructions per event, counted by valgrind: `cargo bench --bench instructions`.
//!
//! Unlike times they are the same on a busy machine. Each case runs as a process of its own, with
//! some events and with twice as many: the difference is what an event costs, without the start.
//!
//! Frames of one event each come in two ways: *in bursts*, all there when they are asked for, which
//! shows the work of the layer alone; and *one by one*, each with a wake of its own and a silence
//! behind it, as tokens do.

#[path = "support/counted.rs"]
mod counted;
#[path = "support/report.rs"]
mod report;

use std::{
    collections::HashMap,
    convert::Infallible,
    env,
    future::ready,
    hint::black_box,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use counted::instructions;
use futures_util::{StreamExt as _, stream::poll_fn};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use report::at_most;
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};
use tower::{Layer, Service, ServiceExt, layer::util::Identity, service_fn};
use tower_sse::{
    BoxError, EventIdLayer, HeartbeatLayer, LifetimeLayer, LimitLayer, MemoryStore, MetricsLayer,
    Observer, ResumeLayer, SilenceLayer, SseLayer, StallLayer, TruncationLayer,
};

/// What runs: its name, and what it does with so many events.
type Case = (&'static str, fn(usize));

const CASES: [Case; 18] = [
    ("burst: no layer", |n| burst(Identity::new(), FEED, 256, n)),
    ("burst: SseLayer, feed", |n| {
        burst(SseLayer::new(), FEED, 256, n)
    }),
    ("burst: SseLayer, answer", |n| {
        burst(SseLayer::new(), POST, 256, n)
    }),
    ("burst: SseLayer, feed, 2 KiB", |n| {
        burst(SseLayer::new(), FEED, 2048, n)
    }),
    ("burst: SseLayer, answer, 64 KiB", |n| {
        burst(SseLayer::new(), POST, 65_536, n)
    }),
    ("burst: ids and counts", |n| {
        burst(ids_and_counts(), FEED, 256, n)
    }),
    ("burst: ids and counts, answer", |n| {
        burst(ids_and_counts(), POST, 256, n)
    }),
    ("burst: not a stream, no layer", |n| {
        burst(Identity::new(), PLAIN, 256, n)
    }),
    ("burst: not a stream, SseLayer", |n| {
        burst(SseLayer::new(), PLAIN, 256, n)
    }),
    ("no layer", |n| run(Identity::new(), POST, n)),
    ("SseLayer", |n| run(SseLayer::new(), POST, n)),
    ("heartbeat, answer", |n| run(HeartbeatLayer::new(), POST, n)),
    ("heartbeat and guards, answer", |n| run(guards(), POST, n)),
    ("heartbeat, feed", |n| run(HeartbeatLayer::new(), FEED, n)),
    ("heartbeat and guards, feed", |n| run(guards(), FEED, n)),
    ("SseLayer + resume", |n| run(with_resume(), POST, n)),
    ("SseLayer + resume, ids", |n| run(with_resume(), FEED, n)),
    ("ResumeLayer alone", |n| run(resume(), POST, n)),
];

/// How much a case may cost, beside another.
enum Bound {
    /// So many instructions more.
    Over(f64),
    /// So many times as much.
    Times(f64),
}

const BOUNDS: [(&str, &str, Bound); 9] = [
    ("burst: SseLayer, feed", BURST, Bound::Over(60.0)),
    ("burst: SseLayer, answer", BURST, Bound::Over(60.0)),
    ("burst: SseLayer, feed, 2 KiB", BURST, Bound::Over(60.0)),
    ("burst: SseLayer, answer, 64 KiB", BURST, Bound::Over(60.0)),
    ("burst: ids and counts", BURST, Bound::Over(300.0)),
    ("burst: ids and counts, answer", BURST, Bound::Over(300.0)),
    (
        "burst: not a stream, SseLayer",
        "burst: not a stream, no layer",
        Bound::Over(40.0),
    ),
    (
        "heartbeat and guards, answer",
        "heartbeat, answer",
        Bound::Times(1.25),
    ),
    (
        "heartbeat and guards, feed",
        "heartbeat, feed",
        Bound::Times(1.25),
    ),
];

const BURST: &str = "burst: no layer";

/// The method and the `Accept` of a request, and the media type of its answer.
type Exchange = (&'static str, &'static str, &'static str);

const POST: Exchange = ("POST", "application/json", "text/event-stream");
const FEED: Exchange = ("GET", "text/event-stream", "text/event-stream");
const PLAIN: Exchange = ("GET", "*/*", "text/plain");

/// Of an event, its blank line included, where nothing else is said.
const SIZE: usize = 256;
const EVENTS: usize = 2000;

fn main() {
    let arguments: Vec<_> = env::args().collect();
    match &arguments[1..] {
        [case, events] if !case.starts_with('-') => {
            let (_, run) = CASES[case.parse::<usize>().expect("the number of a case")];
            run(events.parse().expect("a number of events"));
        }
        // `cargo test` wants to know that it runs.
        arguments if !arguments.iter().any(|argument| argument == "--bench") => {
            for (_, run) in CASES {
                run(10);
            }
        }
        _ => report_all(),
    }
}

fn report_all() {
    println!("{:>12}  instructions per event of {SIZE} bytes", "");
    let mut counts = HashMap::new();
    for (number, (name, _)) in CASES.iter().enumerate() {
        let [once, twice] = [EVENTS, 2 * EVENTS]
            .map(|events| instructions(&[number.to_string(), events.to_string()]));
        let count = (twice - once) / EVENTS as u64;
        println!("{count:>12}  {name}");
        counts.insert(*name, count as f64);
    }
    println!("{:>12}  bounds", "");
    for (name, than, bound) in BOUNDS {
        let (count, than_count) = (counts[name], counts[than]);
        let (found, word) = match bound {
            Bound::Over(limit) => (at_most(count - than_count, limit), "over"),
            Bound::Times(limit) => (at_most(count / than_count, limit), "times"),
        };
        println!("    {name}: {word} {than} {found}");
    }
}

/// All that may end a stream, or refuse it, and never does.
fn guards() -> SseLayer {
    let long = Duration::from_secs(3600);
    SseLayer::new()
        .without_headers()
        .without_compression_bypass()
        .without_event_id()
        .limit(LimitLayer::new().max_streams(10))
        .lifetime(LifetimeLayer::after(long))
        .stall(StallLayer::after(long))
        .silence(SilenceLayer::after(long))
        .truncation(TruncationLayer::new().count_only())
}

fn resume() -> ResumeLayer {
    ResumeLayer::new(MemoryStore::new())
}

fn with_resume() -> SseLayer<ResumeLayer> {
    SseLayer::new().resume(resume())
}

/// All that reads every line.
fn ids_and_counts() -> SseLayer {
    struct Nobody;
    impl Observer for Nobody {}
    SseLayer::new()
        .event_id(EventIdLayer::new())
        .metrics(MetricsLayer::new(Nobody))
}

/// Events one by one.
fn run<L, S, B>(layer: L, exchange: Exchange, events: usize)
where
    L: Layer<Upstream, Service = S>,
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let event = event(SIZE);
    runtime().block_on(async {
        // A channel that holds one, filled by another task: the body is woken for each.
        let (sender, mut events_sent) = mpsc::channel(1);
        tokio::spawn(async move {
            for _ in 0..events {
                let _ = sender.send(event.clone()).await;
            }
        });
        let frames = poll_fn(move |cx| events_sent.poll_recv(cx));
        let frames = frames.map(|event| Ok::<_, BoxError>(Frame::data(event)));
        let mut body = pin!(respond(layer, exchange, StreamBody::new(frames)).await);
        while let Some(frame) = body.frame().await {
            drop(black_box(frame));
        }
    });
}

/// Frames of one event each, all there at once.
fn burst<L, S, B>(layer: L, exchange: Exchange, size: usize, frames: usize)
where
    L: Layer<Upstream, Service = S>,
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let frame = event(size);
    let frames = Frames { frame, frames };
    runtime().block_on(async {
        let mut body = pin!(respond(layer, exchange, frames).await);
        let mut context = Context::from_waker(std::task::Waker::noop());
        loop {
            match body.as_mut().poll_frame(&mut context) {
                Poll::Ready(None) => break,
                frame => drop(black_box(frame)),
            }
        }
    });
}

struct Frames {
    frame: Bytes,
    frames: usize,
}

impl Body for Frames {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let more = self.frames.checked_sub(1);
        self.frames = more.unwrap_or_default();
        Poll::Ready(more.map(|_| Ok(Frame::data(self.frame.clone()))))
    }
}

type Upstream = tower::util::BoxCloneSyncService<
    Request<()>,
    Response<http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>>,
    Infallible,
>;

/// The body of the answer behind `layer`, of a service that answers once.
async fn respond<L, S, B>(
    layer: L,
    (method, accept, content_type): Exchange,
    body: impl Body<Data = Bytes, Error = BoxError> + Send + 'static,
) -> B
where
    L: Layer<Upstream, Service = S>,
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let response = Response::builder()
        .header("content-type", content_type)
        .body(body.boxed_unsync())
        .expect("a response");
    let response = Arc::new(Mutex::new(Some(response)));
    let service = layer.layer(Upstream::new(service_fn(move |_: Request<()>| {
        let response = response.lock().expect("nobody has panicked").take();
        ready(Ok(response.expect("one request")))
    })));
    let request = Request::builder()
        .method(method)
        .uri("/v1/chat/completions")
        .header("accept", accept)
        .body(());
    let Ok(response) = service.oneshot(request.expect("a request")).await;
    response.into_body()
}

fn event(size: usize) -> Bytes {
    Bytes::from(format!("data: {}\n\n", "x".repeat(size - 8)))
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime")
}
