//! What the layers tell through `tracing`, as a subscriber of an application writes it down.

#![cfg(feature = "tracing")]

mod support;

use std::{
    convert::Infallible,
    future::ready,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode};
use support::body::{
    AnyBody, AnyService, Client, End, Step, boxed, data, events, layered, pause, record,
    record_for, request, response, through,
};
use tower::{ServiceExt, service_fn, util::BoxService};
use tower_sse::{
    Drain, DrainLayer, EventIdLayer, LastEventId, MetricsLayer, SseLayer, StallLayer, wire::EventId,
};
use tracing::{Instrument as _, Level, info_span, subscriber::DefaultGuard};
use tracing_subscriber::fmt::format::FmtSpan;

// === the log ===

/// What this thread has traced. Each test has its own thread, and its runtime no other.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::DEBUG)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// A line for each span that closes, and for whatever else is worth more than a debugger's look.
    fn of_spans() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::INFO)
            .with_span_events(FmtSpan::CLOSE)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The one new line that has the word.
    fn line_of(&self, word: &str) -> String {
        let lines = self.lines().into_iter();
        let mut lines: Vec<_> = lines.filter(|line| line.contains(word)).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    /// The lines since the last time, without the blanks that pad the level.
    fn lines(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === ids ===

/// A service that is no event stream and says which id it was told.
fn told() -> AnyService {
    BoxService::new(service_fn(|request: Request<()>| {
        let id = request.extensions().get::<LastEventId>();
        let id = id.map_or("none", |LastEventId(id)| id.as_str());
        let body = boxed(http_body_util::Full::from(id.to_owned()));
        ready(Ok::<_, Infallible>(response("text/plain", body)))
    }))
}

async fn told_of(request: Request<()>) -> String {
    let service = layered(EventIdLayer::new().query("lastEventId"), told());
    let Ok(response) = service.oneshot(request).await;
    record(response.into_body()).await.text()
}

fn with_id(id: &[u8]) -> Request<()> {
    let mut request = Client::EventSource.request();
    let id = HeaderValue::from_bytes(id).unwrap();
    request.headers_mut().insert("last-event-id", id);
    request
}

#[tokio::test(start_paused = true)]
async fn an_id_that_cannot_be_one_is_ignored_and_traced() {
    let (log, _guard) = Log::start();
    let long = "x".repeat(EventId::MAX_LEN + 1);
    let absurd = "x".repeat(1 << 20);
    let in_query = format!("/?lastEventId={long}");
    for request in [
        with_id(b"4\xff1"),
        with_id(b"\xc3"),
        with_id(long.as_bytes()),
        with_id(absurd.as_bytes()),
        request("GET", &in_query, &[]),
        request("GET", "/?lastEventId=4%0A1", &[]),
    ] {
        assert_eq!(told_of(request).await, "none");
        let lines = log.lines();
        let [line] = &lines[..] else {
            panic!("{lines:?}");
        };
        let start = "DEBUG tower_sse::event_id: ignored a Last-Event-ID error=";
        assert!(line.starts_with(start), "{line}");
        assert!(line.len() < 200, "a log must not be filled: {line}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_one_is_told_and_so_is_none_and_neither_is_traced() {
    let (log, _guard) = Log::start();
    let longest = "x".repeat(EventId::MAX_LEN);
    for id in ["41", "ümläut 🦀", &longest] {
        assert_eq!(told_of(with_id(id.as_bytes())).await, id);
    }
    assert_eq!(told_of(with_id(b"")).await, "none");
    assert_eq!(told_of(Client::EventSource.request()).await, "none");
    assert_eq!(log.lines(), [""; 0]);
}

// === refusals ===

#[tokio::test(start_paused = true)]
async fn a_refusal_in_a_drain_is_traced() {
    let (log, _guard) = Log::start();
    let (layer, drain) = DrainLayer::pair();
    drain.start();
    assert_eq!(
        log.lines(),
        ["INFO tower_sse::drain: draining event streams left=0"]
    );
    for (client, status) in [
        (Client::EventSource, StatusCode::OK),
        (Client::Fetch, StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let events = events([data("data: x\n\n")]);
        let response = through(layer.clone(), client.request(), events).await;
        assert_eq!(response.status(), status);
        let body = record(response.into_body()).await.text();
        assert!(!body.contains("data: x"), "{body}");
        let lines = log.lines();
        let [line] = &lines[..] else {
            panic!("{lines:?}");
        };
        let start = "DEBUG tower_sse::engine::concerns: refused an event stream by=Drain client=";
        assert!(line.starts_with(start), "{line}");
    }
}

// === streams ===

const OPENED: &str = "DEBUG tower_sse::engine: event stream opened kind=";

fn ended(reason: &str) -> String {
    format!("DEBUG tower_sse::engine: event stream ended reason={reason}")
}

async fn opened(
    log: &Log,
    client: Client,
    steps: impl IntoIterator<Item = Step>,
) -> (Response<AnyBody>, Drain) {
    let (layer, drain) = DrainLayer::pair();
    let layer = layer.deadline(Duration::ZERO).spread(Duration::ZERO);
    let layer = SseLayer::new().drain(layer);
    let response = through(layer, client.request(), events(steps)).await;
    let lines = log.lines();
    assert!(
        matches!(&lines[..], [line] if line.starts_with(OPENED)),
        "{lines:?}"
    );
    (response, drain)
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_traced_when_it_opens_and_when_it_ends_or_fails() {
    let (log, _guard) = Log::start();
    for (last, end, reason) in [
        (data("data: y\n\n"), End::Clean, "Complete"),
        (Step::Error("broken"), End::Error("broken".into()), "Failed"),
    ] {
        let steps = [data("data: x\n\n"), pause(1.0), last];
        let (response, _drain) = opened(&log, Client::Fetch, steps).await;
        assert_eq!(record(response.into_body()).await.end.1, end);
        assert_eq!(log.lines(), [ended(reason)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_whose_client_goes_away_is_traced_as_disconnected() {
    let (log, _guard) = Log::start();
    let steps = [data("data: x\n\n"), Step::Hang];
    let (response, _drain) = opened(&log, Client::Fetch, steps).await;
    let recording = record_for(response.into_body(), Duration::from_secs(1)).await;
    assert_eq!(recording.end.1, End::None);
    assert_eq!(log.lines(), [ended("Disconnected")]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_drain_ends_is_traced_as_drained_or_aborted() {
    let (log, _guard) = Log::start();
    for (client, reason) in [(Client::EventSource, "Drained"), (Client::Fetch, "Aborted")] {
        let steps = [data("data: x\n\n"), Step::Hang];
        let (response, drain) = opened(&log, client, steps).await;
        drain.start();
        let recording = record(response.into_body()).await;
        let clean = recording.end.1 == End::Clean;
        assert_eq!(clean, reason == "Drained", "{:?}", recording.end);
        assert_eq!(
            log.lines(),
            [
                "INFO tower_sse::drain: draining event streams left=1",
                &ended(reason)
            ]
        );
    }
}

// === spans ===

#[tokio::test(start_paused = true)]
async fn a_stream_has_a_span_below_the_one_that_is_current_at_its_head() {
    let (log, _guard) = Log::of_spans();
    let steps = [data("data: x\n\n"), pause(20.0), data("data: y\n\n")];
    let request = request("POST", "/v1/chat?key=secret", &[]);
    let layer = SseLayer::new().metrics(MetricsLayer::new(()));
    let response = through(layer, request, events(steps));
    let response = response.instrument(info_span!("outer")).await;
    let body = response.into_body();
    assert_eq!(log.lines(), [""; 0]);
    let bytes = record(body).await.bytes().len();
    let line = log.line_of("event_stream");
    let start = "INFO outer:event_stream{method=\"POST\" path=\"/v1/chat\" reason=\"complete\" \
                 events=2 bytes=BYTES heartbeats=1 lifetime=20.0}: tower_sse: close";
    assert!(
        line.starts_with(&start.replace("BYTES", &bytes.to_string())),
        "{line}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_span_closes_where_its_stream_ends_and_not_where_its_body_is_dropped() {
    let (log, _guard) = Log::of_spans();
    let stall = StallLayer::after(Duration::from_secs(8));
    let layer = SseLayer::new().stall(stall).metrics(MetricsLayer::new(()));
    let steps = [data("data: x\n\n"), Step::Hang];
    let response = through(layer, Client::Fetch.request(), events(steps)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let line = log.line_of("event_stream");
    assert!(
        line.contains("reason=\"stalled\" events=0 bytes=0 "),
        "{line}"
    );
    drop(response);
    assert_eq!(log.lines(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn without_metrics_there_is_no_span() {
    let steps = || events([data("data: x\n\n")]);
    let (log, _guard) = Log::of_spans();
    let request = || Client::Fetch.request();
    record(
        through(SseLayer::new(), request(), steps())
            .await
            .into_body(),
    )
    .await;
    assert_eq!(log.lines(), [""; 0]);
}
