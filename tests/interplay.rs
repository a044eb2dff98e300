//! The guards and what stands between them and a client: other layers, late polls, lengths, slow readers.

mod support;

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant as Clock},
};

use axum::{Router, body::Body as AxumBody, routing::post};
use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use support::body::{
    Client, End, Step, data, events, pause, poll, record, record_for, record_kept, request,
    response, through,
};
use tokio::{sync::mpsc, time::sleep};
use tower::ServiceExt as _;
use tower_sse::{
    DrainLayer, EndReason, LifetimeLayer, LimitLayer, MetricsLayer, Observer, SilenceLayer,
    SseLayer, StallLayer, StreamHead, StreamTotals, TruncationLayer,
};

const SECOND: Duration = Duration::from_secs(1);

fn bare() -> SseLayer {
    SseLayer::new().without_heartbeat()
}

#[derive(Default)]
struct Reasons(Mutex<Vec<EndReason>>);

impl Observer for Reasons {
    fn ended(&self, _: &StreamHead, totals: &StreamTotals) {
        self.0.lock().unwrap().push(totals.reason);
    }
}

// === lengths ===

/// The mark is taken off, and the length is left: hyper breaks the connection of a body that is
/// shorter than its head says.
#[tokio::test(start_paused = true)]
async fn a_length_that_stays_still_holds() {
    let wrong = |response: &Response<_>, len: usize| {
        let said = response.headers().get("content-length");
        said.is_some_and(|said| said.to_str().unwrap() != len.to_string())
    };
    let bytes = b"\xef\xbb\xbfdata: x\n\n";
    let with_length = || {
        let mut response = events([data(bytes)]);
        let headers = response.headers_mut();
        headers.insert("content-length", bytes.len().into());
        response
    };
    let request = || Client::Fetch.request();
    let mut broken = Vec::new();
    let alone = through(LimitLayer::new(), request(), with_length()).await;
    let stall = through(StallLayer::after(SECOND), request(), with_length()).await;
    let metrics = through(MetricsLayer::new(()), request(), with_length()).await;
    let fused = bare().without_headers().limit(LimitLayer::new());
    let fused = through(fused, request(), with_length()).await;
    for (what, response) in [
        ("limit", alone),
        ("stall", stall),
        ("metrics", metrics),
        ("fused", fused),
    ] {
        let (head, body) = response.into_parts();
        let len = record(body).await.bytes().len();
        if wrong(&Response::from_parts(head, ()), len) {
            broken.push(what);
        }
    }
    assert_eq!(broken, [""; 0]);
}

// === reasons ===

/// Between two layers axum wraps every error: what a layer further in has seen to is then not known.
#[tokio::test(start_paused = true)]
async fn stacked_on_a_router_the_reason_is_the_same() {
    let cut = || {
        let head = Response::builder().header("content-type", "text/event-stream");
        head.body(AxumBody::from("data: x\n\n")).unwrap()
    };
    let mut seen = Vec::new();
    for stacked in [false, true] {
        let reasons = Arc::new(Reasons::default());
        let metrics = MetricsLayer::new(reasons.clone());
        let route = Router::new().route("/v1/messages", post(async move || cut()));
        let app = if stacked {
            route.layer(TruncationLayer::new()).layer(metrics)
        } else {
            let both = bare().truncation(TruncationLayer::new()).metrics(metrics);
            route.layer(both)
        };
        let request = request("POST", "/v1/messages", &[]).map(|()| AxumBody::empty());
        let Ok::<_, Infallible>(response) = app.oneshot(request).await;
        record(response.into_body()).await;
        seen.push(reasons.0.lock().unwrap().clone());
    }
    assert_eq!(seen, vec![vec![EndReason::Truncated]; 2], "fused, stacked");
}

// === silence ===

fn received(
    mut poll_recv: impl FnMut(&mut Context<'_>) -> Poll<Option<Bytes>> + Send + 'static,
) -> Response<impl Body<Data = Bytes, Error = Infallible>> {
    let frames = futures_util::stream::poll_fn(move |cx| {
        let next = poll_recv(cx);
        next.map(|next| next.map(|bytes| Ok(Frame::data(bytes))))
    });
    response("text/event-stream", http_body_util::StreamBody::new(frames))
}

/// The client did not read for longer than the limit; upstream has spoken long before, behind a
/// comment that filled the channel.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_nobody_asked_was_not_silent() {
    let (sender, mut receiver) = mpsc::channel(1);
    let response = received(move |cx| receiver.poll_recv(cx));
    let layer = bare().silence(SilenceLayer::after(10 * SECOND));
    let response = through(layer, Client::Fetch.request(), response).await;
    let mut body = response.into_body();
    assert!(poll(&mut body).is_pending());
    tokio::spawn(async move {
        for frame in [&b": hi\n\n"[..], b"data: x\n\n"] {
            let _ = sender.send(Bytes::from_static(frame)).await;
        }
        sender.closed().await;
    });
    sleep(11 * SECOND).await;
    let recording = record_for(body, SECOND).await;
    assert!(recording.text().contains("data: x"), "{recording:?}");
}

/// The same where the event lies in a channel, and only tokio's budget keeps it back.
#[tokio::test(start_paused = true)]
async fn a_budget_that_is_used_up_is_no_silence() {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Bytes>();
    let (fill, mut budget) = mpsc::unbounded_channel::<()>();
    let response = received(move |cx| receiver.poll_recv(cx));
    let layer = bare().silence(SilenceLayer::after(10 * SECOND));
    let response = through(layer, Client::Fetch.request(), response).await;
    let mut body = response.into_body();
    assert!(poll(&mut body).is_pending());
    sender.send(Bytes::from_static(b"data: x\n\n")).unwrap();
    sleep(11 * SECOND).await;
    // Others of the same task have done much.
    for _ in 0..1000 {
        fill.send(()).unwrap();
    }
    let polled = std::future::poll_fn(|cx| {
        while budget.poll_recv(cx).is_ready() {}
        Poll::Ready(poll(&mut body))
    });
    let first = polled.await;
    assert!(!body.is_end_stream(), "{first:?}");
    let recording = record_for(body, SECOND).await;
    assert!(recording.text().contains("data: x"), "{recording:?}");
}

// === life time ===

/// Ready for ever, after it was once not.
struct Flood(bool);

impl Body for Flood {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !std::mem::replace(&mut self.0, true) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: x\n\n")))))
    }
}

/// "Control before the upstream, so that an always-ready upstream cannot outlive its limit": also
/// where the one who reads never yields, and the timer that was set is never turned.
#[tokio::test]
async fn a_timer_that_nobody_turns_does_not_prolong_a_life() {
    let layer = LifetimeLayer::after(SECOND / 10).without_retry();
    let response = response("text/event-stream", Flood(false));
    let response = through(layer, Client::EventSource.request(), response).await;
    let mut body = response.into_body();
    let start = Clock::now();
    while body.frame().await.is_some() {
        assert!(start.elapsed() < 2 * SECOND, "still there");
    }
}

// === what was sent before a break ===

/// "If the client reads on after all, it gets what was sent, and then its connection breaks."
#[tokio::test(start_paused = true)]
async fn the_break_does_not_overtake_what_was_sent_before_the_stall() {
    let layer = bare().stall(StallLayer::after(10 * SECOND));
    let response = events([
        data("data: x\n\n"),
        pause(1.0),
        data("data: y\n\n"),
        Step::Hang,
    ]);
    let response = through(layer, Client::Fetch.request(), response).await;
    let mut body = response.into_body();
    let Poll::Ready(Some(Ok(unwritten))) = poll(&mut body) else {
        panic!("no frame");
    };
    sleep(20 * SECOND).await;
    let recording = record_kept(body).await;
    assert!(matches!(recording.end.1, End::Error(_)), "{recording:?}");
    let waited = recording.end.0.as_millis();
    assert!(waited >= 900, "an unwritten frame was given {waited} ms");
    drop(unwritten);
}

/// Compressed, so nothing in it is known, and it is always broken off.
#[tokio::test(start_paused = true)]
async fn the_break_of_an_opaque_stream_does_not_overtake_it() {
    let layer = bare().lifetime(LifetimeLayer::after(10 * SECOND).jitter(0.0));
    let mut response = events([pause(9.9), data("gzip"), pause(20.0)]);
    let headers = response.headers_mut();
    headers.insert("content-encoding", http::HeaderValue::from_static("gzip"));
    let response = through(layer, Client::Fetch.request(), response).await;
    let recording = record_kept(response.into_body()).await;
    let waited = recording.end.0.as_millis() - 10_500;
    assert!(waited >= 900, "an unwritten frame was given {waited} ms");
}

// === hints ===

/// `DrainLayer::retry`: "one whose stream never had an event, at its end". Stacked it is.
#[tokio::test(start_paused = true)]
async fn who_ends_the_stream_says_when_to_come_back() {
    let (drained, drain) = DrainLayer::pair();
    let drained = drained.retry(30 * SECOND).jitter(0.0);
    let layer = bare()
        .drain(drained.spread(Duration::ZERO))
        .lifetime(LifetimeLayer::after(3600 * SECOND));
    let response = through(layer, Client::EventSource.request(), events([Step::Hang])).await;
    drain.start();
    let text = record(response.into_body()).await.text();
    assert_eq!(text, "retry: 30000\n\n");
}
