use std::{cell::Cell, convert::Infallible, rc::Rc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::{
    runtime::Builder,
    task::{LocalSet, spawn_local, yield_now},
};
use tower::{Layer, Service, ServiceExt, layer::util::Identity};
use tower_sse::{BoxError, MemoryStore, ResumeLayer, SseLayer};

use crate::{SIZE, replay, server::event, topic::Topic, valgrind::instructions};

/// What runs: its name, and what it does with so many readers, events at once, and times.
type Case = (&'static str, fn([usize; 3]));

const CASES: [Case; 4] = [
    ("a channel for each reader", |numbers| {
        deliver(Identity::new(), POST, numbers);
    }),
    ("ResumeLayer alone", |numbers| {
        deliver(resume(), POST, numbers);
    }),
    ("SseLayer + resume", |numbers| {
        deliver(SseLayer::new().resume(resume()), POST, numbers);
    }),
    ("SseLayer + resume, ids", |numbers| {
        deliver(SseLayer::new().resume(resume()), EVENT_SOURCE, numbers);
    }),
];

const POST: (&str, &str) = ("POST", "application/json");
const EVENT_SOURCE: (&str, &str) = ("GET", "text/event-stream");

/// What an id line takes, at most.
const ID_LINE: usize = "id: ts_.\n".len() + 32 + 4;

/// So many that the producer's share is lost among them.
const READERS: usize = 200;
const AT_ONCE: [usize; 2] = [1, 16];
const TIMES: usize = 20;

pub(crate) fn check() {
    for (_, run) in CASES {
        run([3, 2, 2]);
    }
}

/// A case by its number, as a process of its own.
pub(crate) fn run(case: &str, numbers: &[String]) {
    let numbers = numbers.iter().map(|number| number.parse());
    let numbers: Result<Vec<usize>, _> = numbers.collect();
    match (case, numbers.as_deref()) {
        ("replay", Ok([events, times])) => replay::run(*events, *times),
        (case, Ok([readers, at_once, times])) => {
            let (_, run) = CASES[case.parse::<usize>().expect("the number of a case")];
            run([*readers, *at_once, *times]);
        }
        _ => panic!("the numbers of a case"),
    }
}

pub(crate) fn report() {
    println!("in process: instructions per event of {SIZE} bytes and reader, of {READERS}");
    for at_once in AT_ONCE {
        println!("  {at_once} at once");
        let counts = [0, 1, 2, 3].map(|case| per_delivery(case, at_once));
        for ((name, _), count) in CASES.iter().zip(counts) {
            println!("{count:>12.0}  {name}");
        }
    }
}

fn per_delivery(case: usize, at_once: usize) -> f64 {
    let [once, twice] = [TIMES, 2 * TIMES].map(|times| {
        instructions(&[case, READERS, at_once, times].map(|number| number.to_string()))
    });
    (twice - once) as f64 / (READERS * at_once * TIMES) as f64
}

fn resume() -> ResumeLayer {
    ResumeLayer::new(MemoryStore::new())
}

/// One stream, and readers that come behind its first and have it from the start.
fn deliver<L, S, B>(layer: L, request: (&str, &str), [readers, at_once, times]: [usize; 3])
where
    L: Layer<Topic, Service = S>,
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error: Into<BoxError>> + 'static,
{
    let topic = Topic::default();
    let service = layer.layer(topic.clone());
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let event = event(SIZE);
        let longest = if request == EVENT_SOURCE {
            SIZE + ID_LINE
        } else {
            SIZE
        };
        let seen = Rc::new(Cell::new(0));
        let mut last = String::new();
        for _ in 0..readers {
            let Ok(response) = service.clone().oneshot(asking(request, &last)).await;
            if let Some(stream) = response.headers().get("sse-stream") {
                last = format!("{}.0", stream.to_str().expect("text"));
            }
            spawn_local(read(response.into_body(), longest, seen.clone()));
        }
        for time in 1..=times {
            topic.publish(&event, at_once);
            while seen.get() < time * at_once * readers {
                yield_now().await;
            }
        }
    });
}

fn asking((method, accept): (&str, &str), last: &str) -> Request<()> {
    let request = Request::builder().method(method).header("accept", accept);
    let request = if last.is_empty() {
        request
    } else {
        request.header("last-event-id", last)
    };
    request.body(()).expect("a request")
}

/// Counts the events, whose size is `longest` or little less: to look for them would cost more than
/// what is counted here.
async fn read(body: impl Body<Data = Bytes>, longest: usize, seen: Rc<Cell<usize>>) {
    let mut body = std::pin::pin!(body);
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            seen.set(seen.get() + data.len().div_ceil(longest));
        }
    }
}
