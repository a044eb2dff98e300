//! What thousands of streams cost, as the system sees it: a test binary of its own, so that nothing
//! else is in its memory.

#![cfg(all(target_os = "linux", feature = "resume"))]

mod support;

use std::{
    convert::Infallible,
    fs,
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use support::serve::{EVENT_STREAM, Upstream, respond, soon};
use tokio::task::yield_now;
use tower::{Layer, ServiceExt, service_fn};
use tower_sse::{
    ResumeLayer,
    resume::{MemoryStore, ResumeBody},
};

const FINISHED: usize = 10_000;

const RUNNING: usize = 1_000;

/// Events of a stream.
const EVENTS: usize = 10;

/// The buffer that the service has read into, and of which a frame is a small slice.
const BUFFER: usize = 64 * 1024;

/// What the store may take: less than all streams together.
const STORE: usize = 24 * 1024 * 1024;

/// What a stream that runs may take besides: its two tasks, what it holds for its readers, and the
/// block that it writes its events into.
const EACH_RUNNING: usize = 16 * 1024;

/// The slack of the allocator, and buffers on their way through.
const SLACK: usize = 32 * 1024 * 1024;

/// With frames kept whole, the streams that run alone would take ten times as much.
const BOUND: usize = STORE + RUNNING * EACH_RUNNING + SLACK;

#[tokio::test]
async fn memory_follows_the_events_that_are_kept_and_not_the_buffers_they_came_in() {
    let store = MemoryStore::new().max_bytes(STORE);
    let layer = ResumeLayer::new(store.clone()).grace(Duration::MAX);
    let handle = layer.handle();
    let before = resident();
    let mut running = Vec::new();
    for n in 0..RUNNING {
        let (upstream, body) = Upstream::pair();
        (1..=EVENTS).for_each(|n| upstream.send(frame(n)));
        let mut reader = ask(&layer, "", body).await.into_body();
        read(&mut reader, EVENTS).await;
        // Some are read on, from others the client has gone.
        running.push((upstream, (n % 2 == 0).then_some(reader)));
    }
    let mut most = resident();
    let mut last = String::new();
    for n in 0..FINISHED {
        let frames = (1..=EVENTS).map(|n| Ok::<_, Infallible>(Frame::data(frame(n))));
        let body = Body::new(StreamBody::new(stream::iter(frames)));
        let response = ask(&layer, "", body).await;
        last = response.headers()["sse-stream"]
            .to_str()
            .expect("text")
            .to_owned();
        read(&mut response.into_body(), EVENTS).await;
        if n % 100 == 0 {
            most = most.max(resident());
        }
    }
    soon("the end of the producers", async {
        while handle.streams().len() > RUNNING {
            yield_now().await;
        }
    })
    .await;
    let taken = most.max(resident()) - before;
    assert!(taken < BOUND, "{taken} of {BOUND} bytes");

    // It was full, and had to choose.
    assert!(
        (STORE / 10 * 9..=STORE).contains(&store.used()),
        "{store:?}"
    );
    assert!(store.evicted().streams > 0);
    assert_eq!(handle.stats().started, (FINISHED + RUNNING) as u64);
    let again = ask(&layer, &format!("{last}.1"), Body::empty()).await;
    assert_eq!(again.headers()["sse-resume"], "resumed");
    read(&mut again.into_body(), EVENTS - 1).await;
    drop(running);
}

/// What the layer makes of a service that answers with this body.
async fn ask(layer: &ResumeLayer, last_id: &str, body: Body) -> Response<ResumeBody<Body>> {
    let request = Request::get("/").header("last-event-id", last_id).body(());
    let body = Arc::new(Mutex::new(Some(body)));
    let service = layer.layer(service_fn(move |_: Request<()>| {
        let body = body.lock().unwrap().take().expect("one call");
        ready(Ok::<_, Infallible>(respond(EVENT_STREAM, body)))
    }));
    let Ok(response) = service.oneshot(request.expect("a request")).await;
    response
}

async fn read(body: &mut ResumeBody<Body>, events: usize) {
    let mut read = Vec::new();
    while read.windows(2).filter(|bytes| bytes == b"\n\n").count() < events {
        let frame = soon("an event", body.frame()).await.expect("an event");
        read.extend(frame.expect("no error").into_data().expect("data"));
    }
}

/// A small event in a large buffer.
fn frame(n: usize) -> Bytes {
    let event = format!("data: {n} {}\n\n", "x".repeat(90));
    let mut buffer = vec![b' '; BUFFER];
    buffer[..event.len()].copy_from_slice(event.as_bytes());
    Bytes::from(buffer).slice(..event.len())
}

/// The memory of this process that is really there, in bytes.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("Linux");
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes: usize = kilobytes.expect("its size").parse().expect("a number");
    kilobytes * 1024
}
