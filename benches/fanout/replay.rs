use std::{
    convert::Infallible,
    hint::black_box,
    pin::pin,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service, ServiceExt};
use tower_sse::{BoxError, MemoryStore, ResumeLayer, SseLayer, resume::Resume};

use self::allocations::Allocations;
use crate::{
    SIZE,
    report::median,
    server::{MARK, event},
    topic::Topic,
    valgrind::instructions,
};

#[path = "../../tests/support/allocations.rs"]
mod allocations;

/// A stream that is all in the log, and goes on.
struct World<S> {
    runtime: Runtime,
    service: S,
    stream: String,
    events: usize,
    produced: Duration,
    _topic: Topic,
    _resume: Resume,
}

/// What a resume took.
struct Replay {
    took: Duration,
    /// The most memory that was held meanwhile, besides what was held before.
    held: isize,
    largest_frame: usize,
}

/// Events in a log.
const LENGTHS: [usize; 3] = [1000, 10_000, 100_000];
const ROUNDS: usize = 5;

/// Events that are published at once while the log is filled.
const AT_ONCE: usize = 50;

pub(crate) fn check() {
    world(100).replay(false);
    world(100).replay(true);
}

/// A log that is read so many times.
pub(crate) fn run(events: usize, times: usize) {
    let world = world(events);
    for _ in 0..times {
        world.replay(false);
    }
}

pub(crate) fn report() {
    println!("a log in memory of events of {SIZE} bytes: written, and read again by a resume");
    for events in LENGTHS {
        let worlds: Vec<_> = (0..ROUNDS).map(|_| world(events)).collect();
        let replays: Vec<_> = worlds.iter().map(|world| world.replay(false)).collect();
        let written = worlds.iter().map(|world| world.produced);
        let copied = (0..ROUNDS).map(|_| copy(events));
        let [written, took, copied] = [
            written.collect(),
            replays.iter().map(|replay| replay.took).collect(),
            copied.collect::<Vec<_>>(),
        ]
        .map(|times| median(&times.iter().map(Duration::as_secs_f64).collect::<Vec<_>>()));
        let per_event = |seconds: f64| seconds * 1e9 / events as f64;
        let megabytes = |seconds: f64| (events * SIZE) as f64 / 1e6 / seconds;
        println!("  {events} events");
        println!(
            "{:>12} instructions, {:.0} ns  an event written",
            counted([events / 2, 0], [events, 0]) * 2 / events as u64,
            per_event(written)
        );
        println!(
            "{:>12} instructions, {:.0} ns  an event read again: {:.0} MB/s, a copy of the same \
             bytes {:.0}",
            counted([events, 1], [events, 2]) / events as u64,
            per_event(took),
            megabytes(took),
            megabytes(copied),
        );
        println!(
            "{:>12} bytes held at most while it is read, {} in a frame",
            replays.iter().map(|replay| replay.held).max().unwrap_or(0),
            replays
                .iter()
                .map(|replay| replay.largest_frame)
                .max()
                .unwrap_or(0),
        );
    }
}

/// By how many instructions two runs differ.
fn counted(less: [usize; 2], more: [usize; 2]) -> u64 {
    let [less, more] = [less, more].map(|numbers| {
        let numbers = numbers.map(|number| number.to_string());
        instructions(&[["replay".into()].as_slice(), &numbers].concat())
    });
    more - less
}

/// The same bytes, copied into frames as they would be joined.
fn copy(events: usize) -> Duration {
    let event = event(SIZE);
    let log: Vec<_> = (0..events)
        .map(|_| Bytes::copy_from_slice(&event))
        .collect();
    let start = Instant::now();
    for frame in log.chunks(16 * 1024 / SIZE) {
        drop(black_box(frame.concat()));
    }
    start.elapsed()
}

fn world(
    events: usize,
) -> World<
    impl Service<
        Request<()>,
        Response = Response<impl Body<Data = Bytes, Error = BoxError>>,
        Error = Infallible,
    > + Clone,
> {
    let runtime = Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let layer = ResumeLayer::new(MemoryStore::new())
        .max_events(events)
        .max_bytes(events * SIZE);
    let resume = layer.handle();
    let topic = Topic::default();
    let service = SseLayer::new().resume(layer).layer(topic.clone());
    let (stream, produced) = runtime.block_on(async {
        let Ok(first) = service.clone().oneshot(Request::new(())).await;
        let stream = first.headers()["sse-stream"]
            .to_str()
            .expect("text")
            .to_owned();
        let mut body = pin!(first.into_body());
        let event = event(SIZE);
        let start = Instant::now();
        for _ in (0..events).step_by(AT_ONCE) {
            topic.publish(&event, AT_ONCE);
            let mut seen = 0;
            while seen < AT_ONCE {
                seen += marks(&frame(body.as_mut()).await);
            }
        }
        (stream, start.elapsed())
    });
    World {
        runtime,
        service,
        stream,
        events,
        produced,
        _topic: topic,
        _resume: resume,
    }
}

impl<S, B> World<S>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error = BoxError>,
{
    /// Reads all of it again, with ids or without.
    fn replay(&self, ids: bool) -> Replay {
        let request = Request::builder().header("last-event-id", format!("{}.0", self.stream));
        let request = if ids {
            request.header("sse-resume", "ids")
        } else {
            request
        };
        let request = request.body(()).expect("a request");
        let mut replay = Replay {
            took: Duration::ZERO,
            held: 0,
            largest_frame: 0,
        };
        let before = Allocations::so_far().held;
        self.runtime.block_on(async {
            let start = Instant::now();
            let Ok(response) = self.service.clone().oneshot(request).await;
            let mut body = pin!(response.into_body());
            let mut seen = 0;
            while seen < self.events {
                let frame = frame(body.as_mut()).await;
                seen += marks(&frame);
                replay.largest_frame = replay.largest_frame.max(frame.len());
                replay.held = replay.held.max(Allocations::so_far().held - before);
            }
            assert_eq!(seen, self.events);
            replay.took = start.elapsed();
        });
        replay
    }
}

async fn frame(mut body: std::pin::Pin<&mut impl Body<Data = Bytes, Error = BoxError>>) -> Bytes {
    let frame = body.frame().await.expect("a stream that goes on");
    frame.expect("no error").into_data().expect("data")
}

fn marks(frame: &Bytes) -> usize {
    memchr::memchr_iter(MARK, frame).count()
}
