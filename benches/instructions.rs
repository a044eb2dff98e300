//! Instructions per event, counted by valgrind: `cargo bench --bench instructions`.
//!
//! Unlike times they are the same on a busy machine. Each case runs as a process of its own, with
//! some events and with twice as many: the difference is what an event costs, without the start.

use std::{
    collections::HashMap,
    convert::Infallible,
    env,
    future::ready,
    hint::black_box,
    process::{Command, exit},
    time::Duration,
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::{runtime::Builder, task::yield_now};
use tower::{Layer, Service, ServiceExt, layer::util::Identity, service_fn};
use tower_sse::{
    BoxError, HeartbeatLayer, LifetimeLayer, LimitLayer, MemoryStore, ResumeLayer, SilenceLayer,
    SseLayer, StallLayer, TruncationLayer,
};

/// What runs: its name, and what it does with so many events.
type Case = (&'static str, fn(usize));

/// Events come one by one, as tokens do.
const CASES: [Case; 9] = [
    ("no layer", |events| run(Identity::new(), POST, events)),
    ("SseLayer", |events| run(SseLayer::new(), POST, events)),
    ("heartbeat, answer", |events| {
        run(HeartbeatLayer::new(), POST, events)
    }),
    ("heartbeat and guards, answer", |events| {
        run(guards(), POST, events)
    }),
    ("heartbeat, feed", |events| {
        run(HeartbeatLayer::new(), EVENT_SOURCE, events)
    }),
    ("heartbeat and guards, feed", |events| {
        run(guards(), EVENT_SOURCE, events)
    }),
    ("SseLayer + resume", |events| {
        run(with_resume(), POST, events)
    }),
    ("SseLayer + resume, ids", |events| {
        run(with_resume(), EVENT_SOURCE, events)
    }),
    ("ResumeLayer alone", |events| run(resume(), POST, events)),
];

/// What the guards may cost, all of them, as a share of an event with heartbeats alone.
const BOUNDS: [(&str, &str, f64); 2] = [
    ("heartbeat and guards, answer", "heartbeat, answer", 1.25),
    ("heartbeat and guards, feed", "heartbeat, feed", 1.25),
];

const POST: (&str, &str) = ("POST", "application/json");
const EVENT_SOURCE: (&str, &str) = ("GET", "text/event-stream");

/// Of an event, its blank line included.
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
        _ => report(),
    }
}

fn report() {
    println!("{:>12}  instructions per event of {SIZE} bytes", "");
    let mut counts = HashMap::new();
    for (number, (name, _)) in CASES.iter().enumerate() {
        let [once, twice] = [EVENTS, 2 * EVENTS].map(|events| instructions(number, events));
        let count = (twice - once) / EVENTS as u64;
        println!("{count:>12}  {name}");
        counts.insert(*name, count as f64);
    }
    for (name, than, bound) in BOUNDS {
        let ratio = counts[name] / counts[than];
        let held = if ratio <= bound { "held" } else { "missed" };
        println!("{ratio:>12.2}  times {than}: {name} (at most {bound}: {held})");
    }
}

/// Of the whole process.
fn instructions(case: usize, events: usize) -> u64 {
    let program = env::current_exe().expect("the path of this program");
    let counted = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([case.to_string(), events.to_string()])
        .output();
    let Ok(counted) = counted else {
        eprintln!("valgrind is not installed");
        exit(1);
    };
    let said = String::from_utf8_lossy(&counted.stderr);
    let count = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let count = count.and_then(|(_, count)| count.trim().parse().ok());
    count.unwrap_or_else(|| panic!("no count: {said}"))
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

fn run<L, S, B>(layer: L, (method, accept): (&str, &str), events: usize)
where
    L: Layer<Upstream, Service = S>,
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    let request = Request::builder()
        .method(method)
        .uri("/v1/chat/completions")
        .header("accept", accept)
        .body(());
    let service = layer.layer(upstream(events));
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let Ok(response) = service.oneshot(request.expect("a request")).await;
        let mut body = std::pin::pin!(response.into_body());
        while let Some(frame) = body.frame().await {
            drop(black_box(frame));
        }
    });
}

type Upstream = tower::util::BoxCloneSyncService<
    Request<()>,
    Response<http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>>,
    Infallible,
>;

/// A service whose events come one by one.
fn upstream(events: usize) -> Upstream {
    Upstream::new(service_fn(move |_: Request<()>| {
        let event = Bytes::from(format!("data: {}\n\n", "x".repeat(SIZE - 8)));
        let frames = futures_util::stream::iter(0..events).then(move |_| {
            let event = event.clone();
            async move {
                yield_now().await;
                Ok::<_, BoxError>(Frame::data(event))
            }
        });
        let response = Response::builder().header("content-type", "text/event-stream");
        let body = StreamBody::new(frames).boxed_unsync();
        ready(Ok(response.body(body).expect("a response")))
    }))
}
