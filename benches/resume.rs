//! What resume costs: `cargo bench --bench resume`, and with `--features redis` also in a Redis that
//! it starts, if `redis-server` is installed.
//!
//! `append` and `read` are events per second in the stores themselves; `fan-out` is one stream of
//! [`EVENTS`] to so many readers; `latency` is the time from a request with a last id to the first
//! event that comes again.

#[cfg(feature = "redis")]
#[allow(dead_code)]
#[path = "../tests/programs/folder.rs"]
mod folder;
#[cfg(feature = "redis")]
#[allow(dead_code)]
#[path = "../tests/programs/process.rs"]
mod process;
#[cfg(feature = "redis")]
#[allow(dead_code)]
#[path = "../tests/programs/redis.rs"]
mod redis_server;

use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::runtime::{Builder, Runtime};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sse::{
    MemoryStore, ResumeLayer, ResumeStore,
    resume::{StoredEvent, StreamId},
};

/// A store, and what must live as long as it is used.
struct Measured {
    name: &'static str,
    store: Arc<dyn ResumeStore>,
    #[cfg(feature = "redis")]
    _server: Option<redis_server::Redis>,
}

/// Events in a stream, of 256 bytes each.
const EVENTS: u64 = 1000;
const SIZE: usize = 256;

/// How many readers a stream has.
const READERS: [usize; 3] = [1, 10, 1000];

/// The same where it is only seen that they run, without optimization: a thousand readers would take
/// minutes over what Redis answers.
const READERS_IN_TESTS: [usize; 2] = [1, 10];

fn stores(runtime: &Runtime) -> Vec<Measured> {
    let memory = Measured {
        name: "memory",
        store: Arc::new(MemoryStore::new()),
        #[cfg(feature = "redis")]
        _server: None,
    };
    let mut stores = vec![memory];
    stores.extend(redis(runtime));
    stores
}

#[cfg(feature = "redis")]
fn redis(runtime: &Runtime) -> Option<Measured> {
    if std::process::Command::new("redis-server")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("redis-server is not installed: Redis is left out");
        return None;
    }
    let server = runtime.block_on(redis_server::Redis::start());
    let store = tower_sse::RedisStore::new(&server.url()).expect("a URL");
    Some(Measured {
        name: "redis",
        store: Arc::new(store),
        _server: Some(server),
    })
}

#[cfg(not(feature = "redis"))]
fn redis(_: &Runtime) -> Option<Measured> {
    None
}

fn event() -> Bytes {
    format!("data: {}\n\n", "x".repeat(SIZE - 8)).into()
}

fn events(from: u64, count: u64) -> Vec<StoredEvent> {
    let numbers = from..from + count;
    let events = numbers.map(|number| StoredEvent {
        number,
        bytes: event(),
    });
    events.collect()
}

async fn opened(store: &dyn ResumeStore) -> StreamId {
    let stream = StreamId::random().expect("random numbers");
    store
        .open(stream, Bytes::from_static(b"about"))
        .await
        .expect("a new stream");
    stream
}

async fn append(store: &dyn ResumeStore, stream: StreamId, batch: u64) {
    for from in (1..=EVENTS).step_by(batch as usize) {
        let events = events(from, batch.min(EVENTS + 1 - from));
        store.append(stream, &events, 1).await.expect("appended");
    }
}

async fn read(store: &dyn ResumeStore, stream: StreamId) -> u64 {
    let mut number = 0;
    while number < EVENTS {
        let page = store.read(stream, number, 64).await.expect("a page");
        number = page.events.last().expect("an event").number;
    }
    number
}

/// The stores by themselves.
fn store(c: &mut Criterion, runtime: &Runtime, measured: &Measured) {
    let (name, store) = (measured.name, &*measured.store);
    let mut group = c.benchmark_group("resume/store");
    group.throughput(Throughput::Elements(EVENTS));
    for batch in [1, 64] {
        group.bench_function(BenchmarkId::new(format!("append by {batch}"), name), |b| {
            b.iter(|| {
                runtime.block_on(async { append(store, opened(store).await, batch).await });
            });
        });
    }
    let stream = runtime.block_on(async {
        let stream = opened(store).await;
        append(store, stream, 64).await;
        stream
    });
    group.bench_function(BenchmarkId::new("read by 64", name), |b| {
        b.iter(|| runtime.block_on(read(store, stream)));
    });
}

/// A service whose streams have all their events at once, behind the layer.
fn service(
    store: &Arc<dyn ResumeStore>,
) -> impl Service<
    Request<()>,
    Response = Response<impl http_body::Body<Data = Bytes, Error = tower_sse::BoxError> + Unpin>,
    Error = Infallible,
    Future: Send,
> + Clone {
    let layer = ResumeLayer::new(store.clone()).max_bytes(4 * 1024 * 1024);
    layer.layer(service_fn(|_: Request<()>| {
        let frames = (0..EVENTS).map(|_| Ok::<_, Infallible>(Frame::data(event())));
        let body = StreamBody::new(stream::iter(frames));
        let response = Response::builder().header("content-type", "text/event-stream");
        ready(Ok(response.body(body).expect("a response")))
    }))
}

fn request(last_id: Option<String>) -> Request<()> {
    let request = Request::builder().method("POST");
    let request = match last_id {
        Some(id) => request.header("last-event-id", id),
        None => request,
    };
    request.body(()).expect("a request")
}

/// One stream, read by several at once, each to its end.
async fn fan_out(store: &Arc<dyn ResumeStore>, readers: usize) {
    let service = service(store);
    let first = service.clone().oneshot(request(None)).await;
    let Ok(first) = first;
    let id = first.headers()["sse-stream"]
        .to_str()
        .expect("text")
        .to_owned();
    let mut others = Vec::with_capacity(readers - 1);
    for _ in 1..readers {
        let Ok(other) = service
            .clone()
            .oneshot(request(Some(format!("{id}.0"))))
            .await;
        others.push(other.into_body());
    }
    let bytes = first.into_body().collect();
    let others = futures_util::future::join_all(others.into_iter().map(BodyExt::collect));
    let (first, others) = futures_util::join!(bytes, others);
    for body in others.into_iter().chain([first]) {
        let bytes = body.expect("the whole stream").to_bytes();
        assert_eq!(bytes.len(), EVENTS as usize * SIZE);
    }
}

fn readers(c: &mut Criterion, runtime: &Runtime, measured: &Measured) {
    let mut group = c.benchmark_group("resume/fan-out");
    group.sample_size(10);
    let measures = std::env::args().any(|argument| argument == "--bench");
    let counts = if measures {
        &READERS[..]
    } else {
        &READERS_IN_TESTS
    };
    for &readers in counts {
        group.throughput(Throughput::Elements(EVENTS * readers as u64));
        group.bench_function(BenchmarkId::new(readers.to_string(), measured.name), |b| {
            b.iter(|| runtime.block_on(fan_out(&measured.store, readers)));
        });
    }
}

/// From the id to the first event that comes again, of a stream that has ended.
fn latency(c: &mut Criterion, runtime: &Runtime, measured: &Measured) {
    let service = service(&measured.store);
    let id = runtime.block_on(async {
        let Ok(first) = service.clone().oneshot(request(None)).await;
        let id = first.headers()["sse-stream"]
            .to_str()
            .expect("text")
            .to_owned();
        first.into_body().collect().await.expect("the whole stream");
        // Until the store alone has it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        id
    });
    let mut group = c.benchmark_group("resume/latency");
    group.bench_function(measured.name, |b| {
        b.iter(|| {
            runtime.block_on(async {
                let last = format!("{id}.{}", EVENTS / 2);
                let Ok(again) = service.clone().oneshot(request(Some(last))).await;
                let frame = again.into_body().frame().await;
                frame.expect("an event").expect("no error")
            })
        });
    });
}

fn resume(c: &mut Criterion) {
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for measured in stores(&runtime) {
        store(c, &runtime, &measured);
        readers(c, &runtime, &measured);
        latency(c, &runtime, &measured);
    }
}

criterion_group!(benches, resume);
criterion_main!(benches);
