//! What a client gets whose service takes its time to answer.

mod support;

use std::{
    error::Error,
    fmt,
    future::{Future, Ready, pending, ready},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use support::body::{
    AnyBody, AnyService, Client, End, Recording, Script, Step, boxed, data, events, layered, pause,
    poll, record, request, response, script, service, through,
};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt, service_fn, util::BoxService};
use tower_sse::{
    BoxError, BreakOff, EarlyOpenBody, EarlyOpenFuture, EarlyOpenLayer, EndReason, EventIdLayer,
    HeartbeatLayer, HeartbeatShape, LastSentId, Protocol, SilenceLayer, SseLayer, TruncationLayer,
};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// Long before it comes, and long before the answer.
const WAIT: Duration = Duration::from_secs(10);
const DELAY: Duration = Duration::from_secs(25);

fn early() -> EarlyOpenLayer {
    EarlyOpenLayer::after(WAIT)
}

fn ask(path: &str) -> Request<()> {
    request("POST", path, &[("accept", "text/event-stream")])
}

/// Answers the one request after a while.
fn slow<B>(delay: Duration, response: Response<B>) -> AnyService
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let inner = service(response);
    let mut inner = Some(inner);
    BoxService::new(service_fn(move |request| {
        let inner = inner.take().expect("one request");
        async move {
            sleep(delay).await;
            inner.oneshot(request).await
        }
    }))
}

/// What the client gets of an answer that comes too late.
async fn late<B>(path: &str, response: Response<B>) -> Recording
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let start = Instant::now();
    let service = layered(early(), slow(DELAY, response));
    let opened = opened(service.oneshot(ask(path)).await.unwrap());
    assert_eq!(start.elapsed().as_secs(), WAIT.as_secs());
    record(opened).await
}

/// The body behind an early head.
fn opened(response: Response<AnyBody>) -> AnyBody {
    let (head, body) = response.into_parts();
    assert_eq!(head.status, 200);
    let stream = HeaderValue::from_static("text/event-stream");
    let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, stream)]);
    assert_eq!(head.headers, headers);
    assert!(!body.is_end_stream());
    body
}

fn answer(status: u16, content_type: &str, body: impl AsRef<[u8]>) -> Response<Script> {
    let mut response = response(content_type, script([data(body)]));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// The time from the early head to the answer.
fn left() -> Duration {
    DELAY - WAIT
}

// === a late event stream ===

#[tokio::test(start_paused = true)]
async fn a_late_stream_goes_on_as_it_comes() {
    let steps = [
        data("data: 1\n\n"),
        pause(3.0),
        data("data: 2\r"),
        data("\n\r\n"),
        pause(1.0),
    ];
    for status in [200, 201] {
        let mut response = events(steps.clone());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        let recording = late(CHAT, response).await;
        let moments = [(15_000, "data: 1\n\n"), (18_000, "data: 2\r\n\r\n")];
        let expected = moments.map(|(at, text)| (at, text.to_owned()));
        assert_eq!(in_seconds(&recording), expected);
        assert_eq!(recording.end.0.as_secs(), 19);
        assert_eq!(recording.end.1, End::Clean);
    }
}

#[tokio::test(start_paused = true)]
async fn its_trailers_and_errors_come_too() {
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        HeaderValue::from_static("7"),
    )]);
    for (step, end) in [
        (Step::Trailers(trailers.clone()), End::Trailers(trailers)),
        (Step::Error("cut"), End::Error("cut".into())),
    ] {
        let response = events([data("data: 1\n\n"), step]);
        let probe = response.body().probe();
        let recording = late(CHAT, response).await;
        assert_eq!(recording.text(), "data: 1\n\n");
        assert_eq!(recording.end.1, end);
        // For the data and what came behind it: nothing is asked for behind that.
        assert_eq!(probe.polls(), 2);
        assert!(probe.dropped().is_some());
    }
    let recording = late(CHAT, events([])).await;
    assert_eq!(
        (recording.text().as_str(), recording.end.1),
        ("", End::Clean)
    );
}

#[tokio::test(start_paused = true)]
async fn the_splice_is_exact_wherever_it_is_cut() {
    let stream = "\u{feff}: hi\r\nid: 1\r\ndata: ä\r\ndata: b\r\n\r\ndata: c\rdata\r\rdata: half";
    for cut in 0..=stream.len() {
        let (first, second) = stream.as_bytes().split_at(cut);
        let parts = [first, second].into_iter().filter(|part| !part.is_empty());
        let steps: Vec<_> = parts.flat_map(|part| [data(part), pause(1.0)]).collect();
        let alone = late(CHAT, events(steps.clone())).await;
        assert_eq!(alone.bytes(), stream.as_bytes(), "{cut}");

        let layer = SseLayer::new().heartbeat(beats()).early_open(early());
        let service = layered(layer, slow(DELAY, events(steps)));
        let response = service.oneshot(ask(CHAT)).await.unwrap();
        let text = record(response.into_body()).await.text();
        let rest = text.strip_prefix(": keep-alive\n: keep-alive\n: keep-alive\n");
        let rest = rest.unwrap_or_else(|| panic!("{cut}: {text:?}"));
        // A mark is none behind a heartbeat.
        assert_eq!(rest, stream.trim_start_matches('\u{feff}'), "{cut}");
    }
}

/// Whole seconds and what came in them.
fn in_seconds(recording: &Recording) -> Vec<(u128, String)> {
    let moments = recording.moments().into_iter();
    moments.map(|(at, text)| (at / 1000 * 1000, text)).collect()
}

/// Three before the answer, and no more for a while.
fn beats() -> HeartbeatLayer {
    HeartbeatLayer::every(Duration::from_secs(4))
        .jitter(0.0)
        .shape(HeartbeatShape::CommentLine)
}

// === anything else that is late ===

#[tokio::test(start_paused = true)]
async fn a_late_error_is_said_as_its_protocol_has_it() {
    let openai =
        r#"{"error":{"message":"Slow down.","type":"requests","code":"rate_limit_exceeded"}}"#;
    let anthropic =
        r#"{"type":"error","request_id":"r","error":{"type":"x","message":"Slow down."}}"#;
    let told =
        r#""code":"rate_limit_exceeded","message":"Slow down.","status":429,"type":"requests"}"#;
    for (path, body, expected) in [
        (CHAT, openai, format!("data: {{\"error\":{{{told}}}\n\n")),
        (
            RESPONSES,
            openai,
            format!("event: error\ndata: {{\"error\":{{{told},\"type\":\"error\"}}\n\n"),
        ),
        (
            MESSAGES,
            anthropic,
            "event: error\ndata: {\"error\":{\"message\":\"Slow down.\",\"status\":429,\
             \"type\":\"x\"},\"request_id\":\"r\",\"type\":\"error\"}\n\n"
                .to_owned(),
        ),
        (
            "/other",
            openai,
            format!("event: error\ndata: {{\"error\":{{{told}}}\n\n"),
        ),
    ] {
        let recording = late(path, answer(429, "application/json", body)).await;
        assert_eq!(recording.text(), expected, "{path}");
        assert_eq!(recording.end.0.as_secs(), left().as_secs());
        assert_eq!(recording.end.1, End::Clean);
    }
}

#[tokio::test(start_paused = true)]
async fn what_json_says_of_its_error_is_not_changed() {
    for (status, body, expected) in [
        (
            500,
            r#"{"error":"no such model"}"#,
            r#"{"error":{"message":"no such model","status":500}}"#,
        ),
        (
            429,
            r#"{"a":1,"error":{"status":"RESOURCE_EXHAUSTED"}}"#,
            r#"{"error":{"status":"RESOURCE_EXHAUSTED"},"a":1}"#,
        ),
        // No status for what has gone well, as far as the status says.
        (
            200,
            r#"{"error":{"message":"no"}}"#,
            r#"{"error":{"message":"no"}}"#,
        ),
        (
            400,
            "{\n \"error\": [\"a\\nb\u{2028}\u{85}\"]\n}",
            r#"{"error":["a\nb\u2028\u0085"]}"#,
        ),
    ] {
        let recording = late(CHAT, answer(status, "application/json", body)).await;
        assert_eq!(recording.text(), format!("data: {expected}\n\n"));
    }
}

/// `if error` is false in Python and in JavaScript for 0, and in Python for `[]` and `0.0`: the
/// libraries then take the event for a chunk, and the clean end behind it for success.
#[tokio::test(start_paused = true)]
async fn an_error_that_libraries_take_for_none_becomes_one_of_ours() {
    for body in [
        r#"{"error":0,"message":"no"}"#,
        r#"{"error":0.0}"#,
        r#"{"error":[]}"#,
    ] {
        let recording = late(CHAT, answer(500, "application/json", body)).await;
        assert!(recording.text().contains("stream_refused"), "{body}");
    }
}

/// It is no status any more, so nothing but our own numbers could show it.
#[tokio::test(start_paused = true)]
async fn a_late_failure_is_no_complete_stream() {
    for (late, reason) in [
        (answer(500, "application/json", "{}"), EndReason::Failed),
        (events([data("data: x\n\n")]), EndReason::Complete),
    ] {
        let layer = SseLayer::new()
            .without_heartbeat()
            .event_id(EventIdLayer::new())
            .early_open(early());
        let service = layered(layer, slow(DELAY, late));
        let Ok(response) = service.oneshot(ask(CHAT)).await;
        let last: LastSentId = response.extensions().get().cloned().expect("tracking");
        record(response.into_body()).await;
        assert_eq!(last.end(), Some(reason));
    }
}

#[tokio::test(start_paused = true)]
async fn what_names_no_error_becomes_one_of_ours() {
    let mut coded = answer(429, "application/json", r#"{"error":{}}"#);
    let gzip = HeaderValue::from_static("gzip");
    coded.headers_mut().insert("content-encoding", gzip.clone());
    let mut stream = events([data("\x1f\u{8b}")]);
    stream.headers_mut().insert("content-encoding", gzip);
    let mut none = response("text/plain", script([]));
    *none.status_mut() = StatusCode::NO_CONTENT;
    let mut elsewhere = answer(302, "text/html", "");
    let there = HeaderValue::from_static("/there");
    elsewhere.headers_mut().insert("location", there);
    let done = r#"{"error":null,"id":"x"}"#;
    let nothing = |status| format!("The service answered {status}, and no event stream.");
    for (response, status, code, kind, message) in [
        (answer(429, "text/plain", " Slow\ndown. \n"), 429, "stream_refused", "rate_limit_error", "Slow\ndown.".to_owned()),
        (answer(503, "text/html", ""), 503, "stream_refused", "overloaded_error", nothing("503 Service Unavailable")),
        (answer(404, "application/json", r#"{"detail":"no"}"#), 404, "stream_refused", "not_found_error", r#"{"detail":"no"}"#.to_owned()),
        (answer(422, "application/json", r#"[{"error":1}]"#), 422, "stream_refused", "invalid_request_error", r#"[{"error":1}]"#.to_owned()),
        (answer(500, "text/event-stream", "data: 1\n\n"), 500, "stream_refused", "api_error", "data: 1".to_owned()),
        (coded, 429, "stream_refused", "rate_limit_error", nothing("429 Too Many Requests")),
        (answer(500, "image/png", b"GIF\x89a"), 500, "stream_refused", "api_error", nothing("500 Internal Server Error")),
        (answer(200, "application/json", done), 502, "not_a_stream", "api_error", done.to_owned()),
        (none, 502, "not_a_stream", "api_error", nothing("204 No Content")),
        (elsewhere, 502, "not_a_stream", "api_error", nothing("302 Found")),
        (stream, 502, "stream_encoded", "api_error",
         "The service's event stream came too late, and in a coding that cannot be named any more.".to_owned()),
    ] {
        let recording = late(MESSAGES, response).await;
        assert_eq!(said(&recording), fault(status, code, kind, &message));
        assert_eq!(recording.end.0.as_secs(), left().as_secs(), "{code}");
        assert_eq!(recording.end.1, End::Clean);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_of_a_body_is_read_than_an_error_has_to_say() {
    let long = "ä".repeat(20 * 1024);
    let steps = [
        data("x"),
        data(&long),
        data(&long),
        data("never"),
        Step::Hang,
    ];
    let mut response = response("text/plain", script(steps));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    let probe = response.body().probe();
    let recording = late(CHAT, response).await;
    let message = said(&recording)["error"]["message"].clone();
    // The last character is cut in half, and left out.
    let message = message.as_str().unwrap();
    assert_eq!(message.len(), 64 * 1024 - 1);
    assert!(message.starts_with("xää") && message.ends_with('ä'));
    assert_eq!(recording.end.0.as_secs(), left().as_secs());
    assert_eq!(probe.polls(), 3);
    assert!(probe.dropped().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_or_hangs_is_told_as_far_as_it_came() {
    let fields = r#"{"error":{}}"#;
    for (steps, after, message) in [
        (vec![data("so"), Step::Error("cut")], 0, "so"),
        (vec![data("so"), Step::Hang], 5, "so"),
        (vec![data("so"), pause(4.0), data(" far")], 4, "so far"),
        (
            vec![Step::Hang],
            5,
            "The service answered 500 Internal Server Error, and no event stream.",
        ),
        (vec![data(&fields[..5]), Step::Hang], 5, &fields[..5]),
    ] {
        let mut response = response("text/plain", script(steps));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        let recording = late(CHAT, response).await;
        assert_eq!(said(&recording)["error"]["message"], message);
        assert_eq!(
            recording.end.0.as_secs(),
            left().as_secs() + after,
            "{message}"
        );
        assert_eq!(recording.end.1, End::Clean);
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_empty_frames_lets_others_run_and_holds_nothing_up() {
    let flood = || {
        let steps = (0..1000).map(|_| Step::Empty).chain([data("no")]);
        let mut response = response("text/plain", script(steps));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    };
    let response = flood();
    let probe = response.body().probe();
    let service = layered(early(), slow(DELAY, response));
    let mut body = opened(service.oneshot(ask(CHAT)).await.unwrap());
    assert!(poll(&mut body).is_pending());
    tokio::time::advance(left() + Duration::from_millis(1)).await;
    assert!(poll(&mut body).is_pending());
    assert!((1..100).contains(&probe.polls()), "{}", probe.polls());

    let recording = late(CHAT, flood()).await;
    assert_eq!(said(&recording)["error"]["message"], "no");
    assert_eq!(recording.end.0.as_secs(), left().as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_late_is_a_502_that_tells_nothing_of_it() {
    let failing = service_fn(async |_: Request<()>| {
        sleep(DELAY).await;
        Err::<Response<Script>, _>(Secret)
    });
    let response = early().layer(failing).oneshot(ask(MESSAGES)).await.unwrap();
    let recording = record(opened(response.map(boxed))).await;
    let message = "The service failed before it answered.";
    let fault = fault(502, "stream_failed", "api_error", message);
    assert_eq!(said(&recording), fault);
    assert_eq!(recording.end.1, End::Clean);
}

#[tokio::test(start_paused = true)]
async fn what_cuts_answers_off_sees_the_error_as_their_end() {
    for (path, body) in [
        (CHAT, r#"{"a":{},"error":{"message":"no"}}"#),
        (CHAT, "no"),
        (RESPONSES, "no"),
        (MESSAGES, "no"),
    ] {
        let truncation = TruncationLayer::new().break_off(BreakOff::ErrorEvent);
        let layer = SseLayer::new().truncation(truncation).early_open(early());
        let service = layered(layer, slow(DELAY, answer(500, "text/plain", body)));
        let response = service.oneshot(ask(path)).await.unwrap();
        let text = record(response.into_body()).await.text();
        assert_eq!(text.matches("data: ").count(), 1, "{text}");
        assert!(!text.contains("truncated"), "{text}");
    }
}

/// The JSON of the one event.
fn said(recording: &Recording) -> serde_json::Value {
    let events = support::reference::parse(&recording.bytes()).events;
    let [event] = &events[..] else {
        panic!("not one event: {events:?}")
    };
    serde_json::from_str(&event.data).unwrap()
}

fn fault(status: u16, code: &str, kind: &str, message: &str) -> serde_json::Value {
    serde_json::json!({
        "type": "error",
        "error": { "type": kind, "message": message, "code": code, "status": status },
    })
}

#[derive(Debug)]
struct Secret;

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("password")
    }
}

impl Error for Secret {}

// === when it opens, and when not ===

#[tokio::test(start_paused = true)]
async fn an_answer_in_time_is_untouched() {
    for delay in [Duration::ZERO, WAIT - Duration::from_millis(10)] {
        for build in [in_json, in_events] {
            let plain = seen(slow(delay, build()).oneshot(ask(CHAT)).await.unwrap()).await;
            let service = layered(early(), slow(delay, build()));
            let through = seen(service.oneshot(ask(CHAT)).await.unwrap()).await;
            assert_eq!(through, plain);
        }
    }
    let failing = service_fn(|_: Request<()>| ready(Err::<Response<Script>, _>(Secret)));
    let failed = early().layer(failing).oneshot(ask(CHAT)).await;
    assert_eq!(failed.map(drop).unwrap_err().to_string(), "password");
}

fn in_json() -> Response<Script> {
    let mut response = answer(429, "application/json", "{}");
    let cookie = HeaderValue::from_static("a=1");
    response.headers_mut().insert("set-cookie", cookie);
    response
}

fn in_events() -> Response<Script> {
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("x-sum"),
        HeaderValue::from_static("7"),
    )]);
    events([data("data: 1\n\n"), pause(60.0), Step::Trailers(trailers)])
}

/// All that can be seen of a response.
async fn seen(response: Response<AnyBody>) -> (StatusCode, HeaderMap, Option<u64>, Recording) {
    let (head, body) = response.into_parts();
    let size = body.size_hint().exact();
    (head.status, head.headers, size, record(body).await)
}

#[tokio::test(start_paused = true)]
async fn only_requests_for_a_stream_open_early() {
    let stream = ("accept", "text/event-stream");
    for (method, headers, early_open) in [
        ("GET", &[stream][..], true),
        ("POST", &[stream], true),
        (
            "POST",
            &[("accept", "text/html, Text/Event-Stream;q=0.5")],
            true,
        ),
        ("HEAD", &[stream], false),
        ("POST", &[("accept", "application/json")], false),
        ("POST", &[("accept", "*/*")], false),
        (
            "POST",
            &[("accept", "application/json, text/event-stream")],
            false,
        ),
        ("GET", &[stream, ("mcp-session-id", "x")], false),
        ("POST", &[], false),
    ] {
        let request = request(method, CHAT, headers);
        let service = layered(early(), slow(DELAY, in_json()));
        let status = service.oneshot(request).await.unwrap().status();
        assert_eq!(status == 200, early_open, "{method} {headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_a_stream_and_in_which_protocol_can_be_said() {
    let layer = early()
        .when(|request| request.uri.query() == Some("stream"))
        .protocol(|_| Some(Protocol::OpenAiChat));
    for (method, uri, early_open) in [
        ("POST", "/?stream", true),
        ("GET", "/?stream", true),
        // Its body is never polled, and the service's work would go with it.
        ("HEAD", "/?stream", false),
        ("POST", "/", false),
    ] {
        let service = layered(layer.clone(), slow(DELAY, in_json()));
        let response = service.oneshot(request(method, uri, &[])).await.unwrap();
        assert_eq!(response.status() == 200, early_open, "{method} {uri}");
        if early_open {
            let text = record(response.into_body()).await.text();
            assert!(text.starts_with("data: {\"error\":{"), "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn zero_opens_when_there_is_no_answer_at_once_and_the_longest_never() {
    // Timers go off on a whole millisecond, which is too late here.
    tokio::time::advance(Duration::from_micros(500)).await;
    let start = Instant::now();
    let at_once = EarlyOpenLayer::after(Duration::ZERO);
    let second_poll = service_fn(async |_: Request<()>| {
        tokio::task::yield_now().await;
        Ok::<_, BoxError>(in_json())
    });
    let response = at_once.layer(second_poll).oneshot(ask(CHAT)).await;
    opened(response.unwrap().map(boxed));
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(through(at_once, ask(CHAT), in_json()).await.status(), 429);

    let never = EarlyOpenLayer::after(Duration::MAX);
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    let service = layered(never, slow(year, in_json()));
    assert_eq!(service.oneshot(ask(CHAT)).await.unwrap().status(), 429);
}

#[tokio::test(start_paused = true)]
async fn the_service_is_asked_for_no_coding_that_could_not_be_named_any_more() {
    let asks_for = async |layer: EarlyOpenLayer, accept| {
        let coding = service_fn(async |request: Request<()>| {
            let coding = request.headers().get("accept-encoding").cloned();
            let coding = coding.unwrap_or(HeaderValue::from_static("none"));
            let response = Response::builder().header("x-asked", coding);
            Ok::<_, BoxError>(response.body(String::new()).unwrap())
        });
        let headers = [("accept", accept), ("accept-encoding", "gzip, br")];
        let request = request("POST", CHAT, &headers);
        let response = layer.layer(coding).oneshot(request).await.unwrap();
        response.headers()["x-asked"].clone()
    };
    assert_eq!(asks_for(early(), "text/event-stream").await, "identity");
    assert_eq!(asks_for(early(), "application/json").await, "gzip, br");
    assert_eq!(asks_for(early().when(|_| true), "*/*").await, "identity");
    let never = EarlyOpenLayer::after(Duration::MAX);
    assert_eq!(asks_for(never, "text/event-stream").await, "gzip, br");
}

// === the service's future ===

/// Answers never, and tells when it is dropped.
#[derive(Clone, Default)]
struct Forgotten(Arc<AtomicBool>);

struct OnDrop(Arc<AtomicBool>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Forgotten {
    fn service(&self) -> AnyService {
        let dropped = self.0.clone();
        BoxService::new(service_fn(move |_| {
            let guard = OnDrop(dropped.clone());
            async move {
                let _guard = guard;
                pending().await
            }
        }))
    }

    fn is_dropped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_while_it_waits_takes_the_service_with_it() {
    let forgotten = Forgotten::default();
    let service = layered(early(), forgotten.service());
    let mut body = opened(service.oneshot(ask(CHAT)).await.unwrap());
    assert!(poll(&mut body).is_pending());
    assert!(!forgotten.is_dropped());
    drop(body);
    assert!(forgotten.is_dropped());

    let forgotten = Forgotten::default();
    let mut response = Box::pin(layered(early(), forgotten.service()).oneshot(ask(CHAT)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(response.as_mut().poll(&mut cx).is_pending());
    drop(response);
    assert!(forgotten.is_dropped());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_never_answers_falls_silent_for_those_who_mind() {
    let forgotten = Forgotten::default();
    let silence = SilenceLayer::after(Duration::from_secs(60)).break_off(BreakOff::ErrorEvent);
    let layer = SseLayer::new()
        .without_heartbeat()
        .silence(silence)
        .early_open(early());
    let service = layered(layer, forgotten.service());
    let recording = record(service.oneshot(ask(CHAT)).await.unwrap().into_body()).await;
    assert_eq!(said(&recording)["error"]["code"], "stream_silent");
    assert_eq!(recording.end.0.as_secs(), 60);
    assert!(forgotten.is_dropped());
}

/// Not ready at first, and panics when it is polled behind its end.
struct Once(u32);

impl Future for Once {
    type Output = Result<Response<Script>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0 += 1;
        cx.waker().wake_by_ref();
        match self.0 {
            1 | 2 => Poll::Pending,
            3 => Poll::Ready(Ok(events([data("data: 1\n\n")]))),
            _ => panic!("polled after completion"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_service_is_not_polled_behind_its_answer() {
    let once = service_fn(|_: Request<()>| Once(0));
    let at_once = EarlyOpenLayer::after(Duration::ZERO);
    let response = at_once.layer(once).oneshot(ask(CHAT)).await.unwrap();
    let recording = record(opened(response.map(boxed))).await;
    assert_eq!(recording.text(), "data: 1\n\n");
}

#[test]
fn what_passes_is_not_boxed() {
    type Inner = Ready<Result<Response<[u8; 4096]>, BoxError>>;
    assert!(size_of::<EarlyOpenFuture<Inner>>() >= size_of::<Inner>());
    assert!(size_of::<EarlyOpenBody<AnyBody>>() <= size_of::<AnyBody>() + 8);
    assert!(EarlyOpenBody::<axum::body::Body>::default().is_end_stream());
}

// === with the others around it ===

#[tokio::test(start_paused = true)]
async fn heartbeats_cover_the_wait() {
    let start = Instant::now();
    for (client, beat) in [
        (Client::Events, ": keep-alive\n"),
        (Client::Fetch, ": keep-alive\n\n"),
        (Client::Gemini, "\n\n"),
    ] {
        let layer = SseLayer::new()
            .heartbeat(HeartbeatLayer::every(Duration::from_secs(4)).jitter(0.0))
            .early_open(early().when(|_| true));
        let service = layered(layer, slow(DELAY, events([data("data: 1\n\n")])));
        let response = service.oneshot(client.request()).await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(
            response.headers()["cache-control"],
            "no-cache, no-transform"
        );
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        let recording = record(response.into_body()).await;
        let beats = [4, 8, 12].map(|at| (at * 1000, beat.to_owned()));
        let expected = [&beats[..], &[(15_000, "data: 1\n\n".to_owned())]].concat();
        assert_eq!(in_seconds(&recording), expected, "{client:?}");
        assert_eq!(recording.end.1, End::Clean);
    }
    assert_eq!(start.elapsed().as_secs(), 3 * DELAY.as_secs());
}

#[cfg(feature = "resume")]
mod resume {
    use super::*;
    use support::resume::{Upstream, World};
    use tower_sse::{MemoryStore, ResumeLayer};

    #[tokio::test(start_paused = true)]
    async fn a_stream_is_kept_from_its_early_head_on_whichever_layer_came_first() {
        let store = || ResumeLayer::new(MemoryStore::new());
        let plain = || SseLayer::new().without_heartbeat();
        for layer in [
            plain().resume(store()).early_open(early()),
            plain().early_open(early()).resume(store()),
        ] {
            let steps = [data("data: 1\n\ndata: 2\n\n")];
            let world = World::new(layer, Upstream::new(steps).after(25.0));
            let start = Instant::now();
            let first = world.ask(ask(CHAT)).await;
            assert_eq!(start.elapsed().as_secs(), 10);
            let stream = first.headers["sse-stream"].to_str().unwrap().to_owned();
            // Gone before the service has answered.
            drop(first);
            let again = [("last-event-id", &*format!("{stream}.0"))];
            let again = world.ask(request("POST", CHAT, &again)).await;
            assert_eq!(again.headers["sse-resume"], "resumed");
            assert_eq!(record(again.body).await.text(), "data: 1\n\ndata: 2\n\n");
            assert_eq!(start.elapsed().as_secs(), 25);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_error_is_kept_like_any_event() {
        let layer = SseLayer::new()
            .resume(ResumeLayer::new(MemoryStore::new()))
            .early_open(early());
        let upstream = Upstream::new([data("no")]).after(25.0).head(|mut head| {
            *head.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            head
        });
        let world = World::new(layer, upstream);
        let first = world.ask(ask(CHAT)).await;
        let stream = first.headers["sse-stream"].to_str().unwrap().to_owned();
        drop(first);
        sleep(DELAY).await;
        let again = [("last-event-id", &*format!("{stream}.0"))];
        let again = world.ask(request("POST", CHAT, &again)).await;
        let recording = record(again.body).await;
        assert_eq!(said(&recording)["error"]["status"], 429);
        assert_eq!(recording.end.1, End::Clean);
    }
}
