//! Instructions per event, counted by valgrind: `cargo bench --bench instructions`.
//!
//! Unlike times they are the same on a busy machine. Each case runs as a process of its own, with
//! some events and with twice as many: the difference is what an event costs, without the start.

use std::{
    convert::Infallible,
    env,
    future::ready,
    hint::black_box,
    process::{Command, exit},
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, StreamBody};
use tokio::{runtime::Builder, task::yield_now};
use tower::{Layer, Service, ServiceExt, layer::util::Identity, service_fn};
use tower_sse::{BoxError, MemoryStore, ResumeLayer, SseLayer};

/// What runs: its name, and what it does with so many events.
type Case = (&'static str, fn(usize));

/// Events come one by one, as tokens do.
const CASES: [Case; 5] = [
    ("no layer", |events| run(Identity::new(), POST, events)),
    ("SseLayer", |events| run(SseLayer::new(), POST, events)),
    ("SseLayer + resume", |events| {
        run(with_resume(), POST, events)
    }),
    ("SseLayer + resume, ids", |events| {
        run(with_resume(), EVENT_SOURCE, events)
    }),
    ("ResumeLayer alone", |events| run(resume(), POST, events)),
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
    for (number, (name, _)) in CASES.iter().enumerate() {
        let [once, twice] = [EVENTS, 2 * EVENTS].map(|events| instructions(number, events));
        println!("{:>12}  {name}", (twice - once) / EVENTS as u64);
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
