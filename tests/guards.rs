//! The guards where they meet: each other, the drain, slow clients, and the last bytes of a stream.

mod support;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue};
use http_body::Body as _;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use support::{
    body::{
        AnyBody, Client, End, Endless, Recording, Step, data, events, layered, pause, paused, poll,
        record, record_kept, request, response, service, through,
    },
    reference,
    streams::config,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    time::{advance, sleep},
};
use tower::{Layer as _, ServiceExt as _};
use tower_sse::{
    BreakOff, DrainLayer, EndReason, EventIdLayer, LastSentId, LifetimeLayer, MetricsLayer,
    Observer, SilenceLayer, SseLayer, StreamHead, StreamTotals, TruncationLayer, is_event_source,
};

const SECOND: Duration = Duration::from_secs(1);
const CHAT: &str = "/v1/chat/completions";

fn bare() -> SseLayer {
    SseLayer::new().without_heartbeat()
}

fn chat() -> http::Request<()> {
    request("POST", CHAT, &[])
}

fn has_ended(body: &mut AnyBody) -> bool {
    let polled = poll(body);
    body.is_end_stream() || matches!(polled, Poll::Ready(None | Some(Err(_))))
}

// === bytes ===

/// "The client gets exactly what the upstream sent."
#[tokio::test(start_paused = true)]
async fn counting_only_leaves_trailers_too() {
    let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("x"))]);
    let steps = [data("data: x\n\n"), Step::Trailers(trailers.clone())];
    let layer = TruncationLayer::new().count_only();
    let response = through(layer, chat(), events(steps)).await;
    assert_eq!(
        record(response.into_body()).await.end.1,
        End::Trailers(trailers)
    );
}

/// It ends in a CR behind which an LF may come, and its life time is over: the event that says so
/// meets the life time's end in the engine, is dropped, and the end is clean.
#[tokio::test(start_paused = true)]
async fn a_silent_answer_is_never_taken_for_a_whole_one() {
    let layer = bare()
        .lifetime(LifetimeLayer::after(10 * SECOND).jitter(0.0))
        .silence(SilenceLayer::after(SECOND * 51 / 5).break_off(BreakOff::ErrorEvent));
    let steps = [data("data: x\r\n\r"), Step::Hang];
    let response = through(layer, chat(), events(steps)).await;
    let recording = record(response.into_body()).await;
    assert!(
        recording.text().contains("stream_silent") || recording.end.1 != End::Clean,
        "{recording:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_truncated_answer_is_never_taken_for_a_whole_one() {
    let layer = bare()
        .lifetime(LifetimeLayer::after(10 * SECOND).jitter(0.0))
        .truncation(TruncationLayer::new().break_off(BreakOff::ErrorEvent));
    let steps = [data("data: x\r\n\r"), pause(10.2)];
    let response = through(layer, chat(), events(steps)).await;
    let recording = record(response.into_body()).await;
    assert!(
        recording.text().contains("stream_truncated") || recording.end.1 != End::Clean,
        "{recording:?}"
    );
}

/// The client would come back behind an event that the service never had, and miss the next one.
#[tokio::test(start_paused = true)]
async fn an_error_event_of_ours_does_not_move_the_clients_cursor() {
    let layer = bare()
        .event_id(EventIdLayer::new().assign(is_event_source))
        .silence(SilenceLayer::after(10 * SECOND).break_off(BreakOff::ErrorEvent));
    let steps = [data("data: x\n\ndata: y\n\n"), Step::Hang];
    let response = through(layer, Client::EventSource.request(), events(steps)).await;
    let last: LastSentId = response.extensions().get().cloned().expect("tracking");
    let recording = record(response.into_body()).await;
    let parsed = reference::parse(&recording.bytes());
    assert_eq!(parsed.last_id, "2", "{}", recording.text());
    assert_eq!(last.get().map(|id| id.to_string()), Some("2".to_owned()));
}

// === times ===

/// "Neither the upstream's comments nor our heartbeats count as a sign of its life."
#[tokio::test(start_paused = true)]
async fn comments_that_are_always_ready_hide_no_silence() {
    for comment in [&b": hi\n\n"[..], b": hi\n", b"\n"] {
        let response = response("text/event-stream", Endless(comment));
        let layer = SilenceLayer::after(10 * SECOND);
        let response = through(layer, Client::Fetch.request(), response).await;
        let mut body = response.into_body();
        let mut polls = 0;
        while !has_ended(&mut body) {
            polls += 1;
            assert!(polls < 100, "no end of {}", comment.escape_ascii());
            advance(SECOND).await;
        }
    }
}

/// "Zero ends each at its first boundary."
#[tokio::test(start_paused = true)]
async fn no_time_at_all_is_no_event_but_the_first() {
    let layer = LifetimeLayer::after(Duration::ZERO).without_retry();
    let steps = [
        data("data: x\n\n"),
        data("data: y\n\n"),
        data("data: z\n\n"),
    ];
    let steps = steps.into_iter().chain([Step::Hang]);
    let response = through(layer, Client::EventSource.request(), events(steps)).await;
    let text = record(response.into_body()).await.text();
    assert!(["", "data: x\n\n"].contains(&&*text), "{text:?}");
}

/// A token that has expired, and a client that reads slowly.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_does_not_outlive_its_time() {
    let layer = LifetimeLayer::after(10 * SECOND)
        .jitter(0.0)
        .without_retry();
    let response = response("text/event-stream", Endless(b"data: x\n\n"));
    let response = through(layer, Client::EventSource.request(), response).await;
    let mut body = response.into_body();
    let mut seconds = 0;
    while !has_ended(&mut body) {
        seconds += 3;
        assert!(
            seconds <= 13,
            "got data {seconds} seconds after the request"
        );
        advance(3 * SECOND).await;
    }
}

/// "An abort holds the inner error until what was sent has been flushed", for a second at most.
#[tokio::test(start_paused = true)]
async fn an_abort_waits_for_what_was_sent() {
    let mut early = Vec::new();
    for (layer, at) in [
        (
            bare().lifetime(LifetimeLayer::after(10 * SECOND).jitter(0.0)),
            10_000,
        ),
        (bare().truncation(TruncationLayer::new()), 20_000),
    ] {
        let steps = [data("data: x\n\n"), pause(20.0)];
        let response = through(layer, chat(), events(steps)).await;
        let recording = record_kept(response.into_body()).await;
        let waited = recording.end.0.as_millis() - at;
        if waited < 900 {
            early.push(waited);
        }
    }
    assert_eq!(early, [0; 0], "milliseconds that an unwritten frame got");
}

/// The same with hyper and a socket: a client that reads slowly loses events that were handed on,
/// which it would have had without the layer.
#[tokio::test]
async fn a_slow_client_has_all_events_before_its_answer_is_broken_off() {
    const FRAMES: usize = 100;
    let app = || {
        let handler = async || {
            let frames = stream::iter(0..FRAMES).then(async |n| {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(format!("data: {n:016000}\n\n"))
            });
            // Its process dies a moment after its last word.
            let dies = stream::once(async { sleep(Duration::from_millis(20)).await });
            let frames = frames.chain(dies.filter_map(async |()| None));
            let head = [("content-type", "text/event-stream")];
            (head, axum::body::Body::from_stream(frames))
        };
        axum::Router::new().route(CHAT, axum::routing::post(handler))
    };
    let mut got = Vec::new();
    for layer in [TruncationLayer::new().count_only(), TruncationLayer::new()] {
        let layer = bare().truncation(layer);
        let app = layer.layer(app());
        // Small buffers, as on a slow line.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(32 * 1024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (socket, _) = listener.accept().await.unwrap();
            let service = hyper_util::service::TowerToHyperService::new(app);
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        });
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(32 * 1024).unwrap();
        let mut client = socket.connect(address).await.unwrap();
        let head = format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        loop {
            let mut part = vec![0; 32 * 1024];
            match client.read(&mut part).await {
                Ok(0) | Err(_) => break,
                Ok(len) => bytes.extend_from_slice(&part[..len]),
            }
            sleep(Duration::from_millis(10)).await;
        }
        got.push(bytes.windows(2).filter(|end| end == b"\n\n").count());
    }
    assert_eq!(got, [FRAMES; 2]);
}

// === reasons ===

#[derive(Clone, Default)]
struct Reasons(Arc<Mutex<Vec<EndReason>>>);

impl Observer for Reasons {
    fn ended(&self, _: &StreamHead, totals: &StreamTotals) {
        self.0.lock().unwrap().push(totals.reason);
    }
}

/// Freed from outside; then its connection goes, or it is read on after all.
#[tokio::test(start_paused = true)]
async fn all_say_the_same_of_a_stream_that_was_freed() {
    for reads_on in [true, false] {
        let reasons = Reasons::default();
        let (drain_layer, drain) = DrainLayer::pair();
        let layer = bare()
            .event_id(EventIdLayer::new())
            .metrics(MetricsLayer::new(reasons.clone()))
            .drain(drain_layer);
        let steps = [data("data: x\n\n"), Step::Hang];
        let response = through(layer, Client::EventSource.request(), events(steps)).await;
        let last: LastSentId = response.extensions().get().cloned().expect("tracking");
        let mut body = response.into_body();
        assert!(poll(&mut body).is_ready());
        drain.start();
        sleep(30 * SECOND).await;
        if reads_on {
            record(&mut body).await;
        }
        drop(body);
        let counted = reasons.0.lock().unwrap().clone();
        let said: Vec<_> = last.end().into_iter().collect();
        assert_eq!(counted, said, "reads on: {reads_on}");
    }
}

// === together ===

/// "Stacking the single layers in this order gives the same bytes."
#[tokio::test(start_paused = true)]
async fn silence_and_truncation_by_hand_end_as_they_do_together() {
    for (of_silence, of_truncation) in [
        (BreakOff::Abort, BreakOff::Abort),
        (BreakOff::ErrorEvent, BreakOff::ErrorEvent),
        (BreakOff::ErrorEvent, BreakOff::Abort),
        (BreakOff::Abort, BreakOff::ErrorEvent),
    ] {
        let silence = SilenceLayer::after(SECOND).break_off(of_silence);
        let truncation = TruncationLayer::new().break_off(of_truncation);
        let steps = || events([data("data: x\n\n"), Step::Hang]);
        let fused = bare()
            .silence(silence.clone())
            .truncation(truncation.clone());
        let fused = record(through(fused, chat(), steps()).await.into_body()).await;
        let inner = layered(silence, service(steps()));
        let Ok(stacked) = layered(truncation, inner).oneshot(chat()).await;
        let stacked = record(stacked.into_body()).await;
        assert_eq!(
            (fused.text(), fused.end.1),
            (stacked.text(), stacked.end.1),
            "silence: {of_silence:?}, truncation: {of_truncation:?}"
        );
    }
}

/// What the user named as the last event ends the answer for the truncation alone.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_complete_by_the_users_rule_is_not_broken_off() {
    let done = |field: &tower_sse::wire::Field<'_>| field.value == b"done";
    let layer = bare()
        .truncation(TruncationLayer::new().terminal(done))
        .lifetime(LifetimeLayer::after(10 * SECOND).jitter(0.0));
    let steps = [data("event: done\ndata: {}\n\n"), Step::Hang];
    let response = through(layer, Client::Fetch.request(), events(steps)).await;
    assert_eq!(record(response.into_body()).await.end.1, End::Clean);
}

/// An explicit life time makes any status cacheable (RFC 9111, section 3), a 503 too.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_cached_as_the_stream_would_have_been() {
    let (layer, drain) = DrainLayer::pair();
    drain.start();
    let mut response = events([data("data: x\n\n")]);
    for (name, value) in [
        ("cache-control", "public, max-age=3600"),
        ("repr-digest", "sha-256=:AA==:"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    let response = through(bare().drain(layer), Client::Fetch.request(), response).await;
    assert_eq!(response.status(), 503);
    let cached = response
        .headers()
        .get("cache-control")
        .is_some_and(|value| value.as_bytes().windows(7).any(|part| part == b"max-age"));
    let digest = response.headers().contains_key("repr-digest");
    assert_eq!((cached, digest), (false, false));
}

// === protocols ===

#[test]
fn a_slash_behind_the_path_changes_no_protocol() {
    let parts = request("POST", "/v1/chat/completions/", &[]).into_parts().0;
    assert!(tower_sse::Protocol::of(&parts).is_some());
}

/// What its SDKs look at is `type` in the JSON: gateways in use send no `event` lines.
#[tokio::test(start_paused = true)]
async fn a_response_without_names_of_events_is_complete() {
    let last = "data: {\"type\":\"response.completed\",\"response\":{}}\n\n";
    let request = request("POST", "/v1/responses", &[]);
    let response = through(TruncationLayer::new(), request, events([data(last)])).await;
    assert_eq!(record(response.into_body()).await.end.1, End::Clean);
}

/// The SDKs ask whether the data begins with it, and read no further.
#[tokio::test(start_paused = true)]
async fn a_chat_is_complete_where_its_sdks_say_so() {
    for (last, complete) in [
        ("data: [DONE] \n\n", true),
        // Without its blank line it is no event.
        ("data: [DONE]\n", false),
        ("data: [DONE]", false),
    ] {
        let steps = [data("data: {}\n\n"), data(last)];
        let response = through(TruncationLayer::new(), chat(), events(steps)).await;
        let end = record(response.into_body()).await.end.1;
        assert_eq!(end == End::Clean, complete, "{last:?}");
    }
}

// === all at once ===

const PIECES: &[&str] = &[
    "data: x",
    "data: [DONE]",
    "event: error\ndata: z\n\n",
    "id: 9",
    "retry: 1",
    ": hi",
    ":",
    "\n",
    "\n\n",
    "\r",
    "\r\n",
    "\r\n\r\n",
    "\u{feff}",
    "data: {\"error\":1}\n\n",
    "data: y\n\n",
];

fn fuzzed() -> ProptestConfig {
    ProptestConfig {
        cases: 4000,
        ..config()
    }
}

proptest! {
    #![proptest_config(fuzzed())]

    /// Whatever comes together: the events are the upstream's and one of ours at most; who does not
    /// come back by itself gets a clean end only where it may take the answer for whole, or is told.
    #[test]
    fn all_guards_at_once(
        chunks in prop::collection::vec(
            (prop::sample::select(PIECES), prop_oneof![Just(0_u64), Just(100), 0..4000_u64]), 0..12),
        end in 0..3_u8,
        drain_at in prop::option::of(0..8000_u64),
        lifetime in prop::option::of(0..8000_u64),
        silence in prop::option::of(1..8000_u64),
        event_source in any::<bool>(),
        ids in any::<bool>(),
        heartbeat in any::<bool>(),
    ) {
        let up: Vec<u8> = chunks.iter().flat_map(|(text, _)| text.bytes()).collect();
        let (recording, reasons, last) = paused().block_on(async {
            let reasons = Reasons::default();
            let (drain_layer, drain) = DrainLayer::pair();
            let mut layer = if heartbeat { SseLayer::new().heartbeat(SECOND) } else { bare() };
            layer = layer
                .drain(drain_layer.deadline(2 * SECOND))
                .metrics(MetricsLayer::new(reasons.clone()))
                .truncation(TruncationLayer::new().break_off(BreakOff::ErrorEvent))
                .event_id(if ids { EventIdLayer::new().assign(|_| true) } else { EventIdLayer::new() });
            if let Some(time) = lifetime {
                layer = layer.lifetime(LifetimeLayer::after(Duration::from_millis(time)).jitter(0.0));
            }
            if let Some(time) = silence {
                layer = layer.silence(
                    SilenceLayer::after(Duration::from_millis(time)).break_off(BreakOff::ErrorEvent));
            }
            let steps = chunks.iter().flat_map(|(text, then)| {
                [Some(data(text)), (*then > 0).then(|| pause(*then as f64 / 1000.0))]
            }).flatten();
            let last = match end {
                0 => None,
                1 => Some(Step::Error("broken")),
                // something always ends a stream
                _ => Some(pause(100.0)),
            };
            let request = if event_source { Client::EventSource.request() } else { chat() };
            let response = through(layer, request, events(steps.chain(last))).await;
            let last: LastSentId = response.extensions().get().cloned().expect("tracking");
            if let Some(at) = drain_at {
                tokio::spawn(async move {
                    sleep(Duration::from_millis(at)).await;
                    drain.start();
                });
            }
            let recording = record(response.into_body()).await;
            let reasons = reasons.0.lock().unwrap().clone();
            (recording, reasons, last)
        });
        check(&up, &recording, &reasons, &last, event_source);
        if let Some(time) = lifetime {
            prop_assert!(recording.end.0 <= Duration::from_millis(time + 600), "{:?}", recording);
        }
    }
}

fn check(
    up: &[u8],
    recording: &Recording,
    reasons: &[EndReason],
    last: &LastSentId,
    event_source: bool,
) {
    let bytes = recording.bytes();
    let shown = format!("{} {:?} {reasons:?}", bytes.escape_ascii(), recording.end);
    assert_eq!(reasons, last.end().as_slice(), "{shown}");
    let dispatched = |bytes: &[u8]| -> Vec<_> {
        let events = reference::parse(bytes).events.into_iter();
        events.map(|event| (event.kind, event.data)).collect()
    };
    let (sent, mut got) = (dispatched(up), dispatched(&bytes));
    let told = got.last().is_some_and(|(_, data)| {
        data.contains("stream_truncated") || data.contains("stream_silent")
    });
    if told {
        got.pop();
    }
    assert!(sent.starts_with(&got), "{shown}: {got:?} of {sent:?}");
    let clean = recording.end.1 == End::Clean;
    let may = match reasons[0] {
        EndReason::Truncated | EndReason::Silent => told,
        _ => event_source || got.iter().any(is_last),
    };
    assert!(!clean || may, "taken for whole: {shown}");
    assert!(!told || clean, "told and broken off: {shown}");
}

fn is_last((kind, data): &(String, String)) -> bool {
    kind == "error"
        || data
            .lines()
            .any(|line| line.starts_with("[DONE]") || line.starts_with("{\"error\":"))
}
