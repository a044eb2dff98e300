//! What `MetricsLayer` tells its observers, held against what came out of the body.

mod support;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use proptest::{prelude::*, sample::select};
use support::{
    body::{
        AnyBody, AnyService, Broken, Client, End, Step, boxed, data, events, layered, pause,
        paused, poll, record, record_for, request, response, service, through,
    },
    reference,
    streams::{NASTY, chunked_with_silences, config, cut_at, every_split, stream},
};
use tokio::time::sleep;
use tower::{ServiceExt, service_fn, util::BoxService};
use tower_sse::{
    BreakOff, Drain, DrainLayer, EndReason, EventIdLayer, HeartbeatLayer, HeartbeatShape,
    LifetimeLayer, LimitLayer, MetricsLayer, Observer, Protocol, RefusedBy, ResumeOutcome,
    SilenceLayer, SseLayer, StallLayer, StreamHead, StreamTotals, TruncationLayer,
};

// === an observer that keeps all that it is told ===

#[derive(Clone, Debug, PartialEq)]
enum Told {
    Opened,
    FirstEvent(Duration),
    Sent { events: u64, bytes: u64 },
    Heartbeat(HeartbeatShape),
    Ended(StreamTotals),
    Refused(RefusedBy),
    Resumed(ResumeOutcome),
    IgnoredId,
}

#[derive(Default)]
struct Ear {
    told: Mutex<Vec<Told>>,
    head: Mutex<Option<StreamHead>>,
}

impl Ear {
    fn layer() -> (Arc<Self>, MetricsLayer) {
        let ear = Arc::new(Self::default());
        (ear.clone(), MetricsLayer::new(ear))
    }

    fn hear(&self, told: Told) {
        self.told.lock().unwrap().push(told);
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    fn head(&self) -> StreamHead {
        self.head.lock().unwrap().clone().expect("a stream")
    }

    /// Of the one stream that has opened: it has ended, once, and nothing came after that.
    fn totals(&self) -> StreamTotals {
        let told = self.told();
        let opened = told.iter().filter(|told| **told == Told::Opened);
        assert_eq!(opened.count(), 1, "{told:?}");
        let ended = told.iter().filter(|told| matches!(told, Told::Ended(_)));
        assert_eq!(ended.count(), 1, "{told:?}");
        let (Some(Told::Opened), Some(Told::Ended(totals))) = (told.first(), told.last()) else {
            panic!("{told:?}");
        };
        let sum = told.iter().fold((0, 0, 0), |(e, b, h), told| match told {
            Told::Sent { events, bytes } => (e + events, b + bytes, h),
            Told::Heartbeat(_) => (e, b, h + 1),
            _ => (e, b, h),
        });
        assert_eq!(sum, (totals.events, totals.bytes, totals.heartbeats));
        *totals
    }

    /// And the totals are those of what came out.
    fn totals_of(&self, out: &[u8]) -> StreamTotals {
        let totals = self.totals();
        let (events, bytes) = (totals.events as usize, totals.bytes as usize);
        let counted = (reference::parse(out).events.len(), out.len());
        assert_eq!((events, bytes), counted, "{}", out.escape_ascii());
        totals
    }
}

impl Observer for Ear {
    fn opened(&self, stream: &StreamHead) {
        *self.head.lock().unwrap() = Some(stream.clone());
        self.hear(Told::Opened);
    }

    fn first_event(&self, _: &StreamHead, after: Duration) {
        self.hear(Told::FirstEvent(after));
    }

    fn sent(&self, _: &StreamHead, events: u64, bytes: u64) {
        self.hear(Told::Sent { events, bytes });
    }

    fn heartbeat(&self, _: &StreamHead, shape: HeartbeatShape) {
        self.hear(Told::Heartbeat(shape));
    }

    fn ended(&self, _: &StreamHead, totals: &StreamTotals) {
        self.hear(Told::Ended(*totals));
    }

    fn refused(&self, by: RefusedBy) {
        self.hear(Told::Refused(by));
    }

    fn resumed(&self, outcome: ResumeOutcome) {
        self.hear(Told::Resumed(outcome));
    }

    fn ignored_id(&self) {
        self.hear(Told::IgnoredId);
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn quiet() -> SseLayer {
    SseLayer::new().without_heartbeat()
}

// === every end, once ===

struct Case {
    name: &'static str,
    layer: SseLayer,
    client: Client,
    steps: Vec<Step>,
    /// It starts after two seconds.
    drain: Option<Drain>,
    /// How long the client reads.
    reads: Duration,
    reason: EndReason,
    events: u64,
    lifetime: Duration,
}

const ONE: &str = "data: 1\n\n";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn case(name: &'static str, reason: EndReason, lifetime: f64, steps: &[Step]) -> Case {
    Case {
        name,
        layer: quiet(),
        client: Client::Fetch,
        steps: [&[data(ONE)], steps].concat(),
        drain: None,
        reads: DAY,
        reason,
        events: 1,
        lifetime: Duration::from_secs_f64(lifetime),
    }
}

fn cases() -> Vec<Case> {
    let openai = |_: &http::request::Parts| Some(Protocol::OpenAiChat);
    let truncation = || TruncationLayer::new().protocol(openai);
    let draining = |name, reason, lifetime, client| {
        let (layer, drain) = DrainLayer::pair();
        let layer = layer.deadline(5 * SECOND).spread(Duration::ZERO);
        Case {
            layer: quiet().drain(layer),
            drain: Some(drain),
            client,
            ..case(name, reason, lifetime, &[Step::Hang])
        }
    };
    let more = [pause(2.0), data(ONE), pause(1.0), data(ONE)];
    let broken = [pause(2.0), Step::Error("broken")];
    let half = [data("data: ha"), pause(2.0)];
    vec![
        Case {
            events: 3,
            ..case("an end", EndReason::Complete, 3.0, &more)
        },
        case("an error", EndReason::Failed, 2.0, &broken),
        case("half an event", EndReason::Complete, 2.0, &half),
        Case {
            layer: quiet().truncation(truncation()),
            ..case("a cut answer", EndReason::Truncated, 2.0, &[pause(2.0)])
        },
        Case {
            layer: quiet().truncation(truncation().count_only()),
            ..case(
                "a cut, only counted",
                EndReason::Truncated,
                2.0,
                &[pause(2.0)],
            )
        },
        Case {
            layer: quiet().truncation(truncation().break_off(BreakOff::ErrorEvent)),
            events: 2,
            ..case("a cut that is told", EndReason::Truncated, 2.0, &broken)
        },
        Case {
            layer: quiet().silence(SilenceLayer::after(7 * SECOND)),
            ..case("silence", EndReason::Silent, 7.0, &[Step::Hang])
        },
        Case {
            layer: quiet().silence(SilenceLayer::after(7 * SECOND).break_off(BreakOff::ErrorEvent)),
            events: 2,
            ..case(
                "silence that is told",
                EndReason::Silent,
                7.0,
                &[Step::Hang],
            )
        },
        draining("a drain", EndReason::Drained, 2.0, Client::EventSource),
        draining("a drain's end", EndReason::Aborted, 7.0, Client::Fetch),
        Case {
            layer: quiet().lifetime(LifetimeLayer::after(60 * SECOND).jitter(0.0)),
            client: Client::EventSource,
            ..case("its time", EndReason::Expired, 60.0, &[Step::Hang])
        },
        Case {
            reads: 4 * SECOND,
            ..case(
                "a client that goes",
                EndReason::Disconnected,
                4.0,
                &[Step::Hang],
            )
        },
    ]
}

#[tokio::test(start_paused = true)]
async fn every_end_is_counted_once_with_its_totals() {
    for case in cases() {
        let name = case.name;
        let (ear, metrics) = Ear::layer();
        let layer = case.layer.metrics(metrics);
        let response = through(layer, case.client.request(), events(case.steps)).await;
        let drained = async {
            sleep(2 * SECOND).await;
            case.drain.iter().for_each(Drain::start);
        };
        let recorded = record_for(response.into_body(), case.reads);
        let (recording, ()) = tokio::join!(recorded, drained);
        let totals = ear.totals_of(&recording.bytes());
        let told = (totals.reason, totals.events, totals.heartbeats);
        assert_eq!(told, (case.reason, case.events, 0), "{name}");
        assert_eq!(totals.time_to_first_event, Some(Duration::ZERO), "{name}");
        assert_eq!(totals.lifetime, case.lifetime, "{name}");
    }
}

/// Two events in a frame each, too large to be joined.
fn two_frames() -> [Step; 3] {
    let large = format!("data: {}\n\n", "x".repeat(8 * 1024));
    [data(&large), data(&large), Step::Hang]
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_counted_at_once_and_what_it_reads_later_is_not() {
    let (ear, metrics) = Ear::layer();
    let layer = quiet()
        .stall(StallLayer::after(8 * SECOND))
        .metrics(metrics);
    let response = through(layer, Client::Fetch.request(), events(two_frames())).await;
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    sleep(60 * SECOND).await;
    let totals = ear.totals_of(&first);
    assert_eq!((totals.reason, totals.events), (EndReason::Stalled, 1));
    assert!(totals.lifetime <= 9 * SECOND, "{:?}", totals.lifetime);
    let rest = record(body).await;
    assert_eq!(rest.bytes().len(), first.len());
    assert!(matches!(rest.end.1, End::Error(_)), "{:?}", rest.end);
    assert_eq!(ear.totals(), totals);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_frees_a_stream_counts_it_once() {
    let (ear, metrics) = Ear::layer();
    let (layer, drain) = DrainLayer::pair();
    let layer = quiet().drain(layer.deadline(SECOND)).metrics(metrics);
    let response = through(layer, Client::Fetch.request(), events(two_frames())).await;
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    drain.start();
    sleep(60 * SECOND).await;
    assert_eq!(ear.totals_of(&first).reason, EndReason::Aborted);
    drop(body);
    assert_eq!(ear.totals_of(&first).reason, EndReason::Aborted);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_was_read_and_never_handed_on_is_not_counted() {
    let (ear, metrics) = Ear::layer();
    let response = through(metrics, Client::Fetch.request(), events(two_frames())).await;
    let mut body = response.into_body();
    let Poll::Ready(Some(Ok(first))) = poll(&mut body) else {
        panic!("a frame");
    };
    drop(body);
    let totals = ear.totals_of(&first);
    assert_eq!((totals.reason, totals.events), (EndReason::Disconnected, 1));
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_never_polled_has_opened_and_ended() {
    let (ear, metrics) = Ear::layer();
    drop(through(metrics, Client::Fetch.request(), events(two_frames())).await);
    assert_eq!(ear.totals_of(b"").reason, EndReason::Disconnected);
}

struct Panics(bool);

impl Body for Panics {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        assert!(!self.0, "as it does");
        self.0 = true;
        let frame = vec![b'\n'; 32 * 1024];
        Poll::Ready(Some(Ok(Frame::data(
            [b"data: x\n", &frame[..]].concat().into(),
        ))))
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_has_failed() {
    let (ear, metrics) = Ear::layer();
    let panics = response("text/event-stream", Panics(false));
    let mut body = through(metrics, Client::Fetch.request(), panics)
        .await
        .into_body();
    let Poll::Ready(Some(Ok(first))) = poll(&mut body) else {
        panic!("a frame");
    };
    // As a server's task does that is unwound: with all that it holds.
    let polled = catch_unwind(AssertUnwindSafe(move || drop(poll(&mut body))));
    assert!(polled.is_err());
    assert_eq!(ear.totals_of(&first).reason, EndReason::Failed);
}

// === what is in a stream ===

#[tokio::test(start_paused = true)]
async fn heartbeats_are_counted_by_their_shape() {
    for (client, steps, shape) in [
        (Client::EventSource, vec![], HeartbeatShape::CommentLine),
        (Client::Fetch, vec![data(ONE)], HeartbeatShape::CommentBlock),
        (
            Client::OldGemini,
            vec![data(ONE)],
            HeartbeatShape::BlankLines,
        ),
    ] {
        let (ear, metrics) = Ear::layer();
        let heartbeat = HeartbeatLayer::every(10 * SECOND).jitter(0.0);
        let heartbeat = match shape {
            HeartbeatShape::BlankLines => heartbeat.shape(shape),
            _ => heartbeat,
        };
        let layer = SseLayer::new().heartbeat(heartbeat).metrics(metrics);
        let steps = steps.into_iter().chain([pause(35.0), data(ONE)]);
        let response = through(layer, client.request(), events(steps)).await;
        let recording = record(response.into_body()).await;
        assert_eq!(
            ear.totals_of(&recording.bytes()).heartbeats,
            3,
            "{client:?}"
        );
        let told = ear.told();
        let shapes = told.iter().filter(|told| **told == Told::Heartbeat(shape));
        assert_eq!(shapes.count(), 3, "{told:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn times_are_exact() {
    let (ear, metrics) = Ear::layer();
    let slow: AnyService = BoxService::new(service_fn(async |_: Request<()>| {
        sleep(2 * SECOND).await;
        let steps = [
            data(": no event\n\nretry: 1\n\n"),
            pause(3.0),
            data("data: 1\n"),
            pause(0.5),
            data("\n"),
            pause(10.0),
            data(ONE),
        ];
        Ok(events(steps).map(boxed))
    }));
    let request = request("POST", "/v1/chat?key=secret", &[]);
    let Ok(response) = layered(quiet().metrics(metrics), slow)
        .oneshot(request)
        .await;
    record(response.into_body()).await;
    let head = ear.head();
    assert_eq!((head.time_to_head, head.opaque), (2 * SECOND, false));
    assert_eq!(
        (head.method.as_str(), head.uri.path()),
        ("POST", "/v1/chat")
    );
    let first = Duration::from_millis(5500);
    let totals = ear.totals();
    assert_eq!(totals.time_to_first_event, Some(first));
    assert_eq!(totals.lifetime, Duration::from_millis(13_500));
    let told = ear.told();
    let firsts: Vec<_> = told
        .iter()
        .filter(|told| matches!(told, Told::FirstEvent(_)))
        .collect();
    assert_eq!(firsts, [&Told::FirstEvent(first)]);
}

#[tokio::test(start_paused = true)]
async fn of_a_compressed_stream_only_bytes_are_counted() {
    let (ear, metrics) = Ear::layer();
    let mut response = events([data(ONE), data("\x1f\n\n")]);
    let encoding = http::HeaderValue::from_static("gzip");
    response.headers_mut().insert("content-encoding", encoding);
    let response = through(metrics, Client::Fetch.request(), response).await;
    let bytes = record(response.into_body()).await.bytes();
    assert!(ear.head().opaque);
    let totals = ear.totals();
    assert_eq!((totals.events, totals.bytes), (0, bytes.len() as u64));
    assert_eq!(totals.time_to_first_event, None);
    assert_eq!(totals.reason, EndReason::Complete);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_stream_is_not_told() {
    for (request, response) in [
        (request("HEAD", "/", &[]), events([])),
        (
            request("GET", "/", &[]),
            response("text/plain", support::body::script([data("x")])),
        ),
    ] {
        let (ear, metrics) = Ear::layer();
        let response = through(metrics, request, response).await;
        record(response.into_body()).await;
        assert_eq!(ear.told(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn all_observers_are_told_in_their_order() {
    let order = Arc::new(Mutex::new(Vec::new()));
    struct Named(u8, Arc<Mutex<Vec<u8>>>);
    impl Observer for Named {
        fn ended(&self, _: &StreamHead, _: &StreamTotals) {
            self.1.lock().unwrap().push(self.0);
        }
    }
    let layer = MetricsLayer::new(Named(1, order.clone()))
        .and(())
        .and(Named(2, order.clone()));
    let response = through(layer, Client::Fetch.request(), events([data(ONE)])).await;
    record(response.into_body()).await;
    assert_eq!(*order.lock().unwrap(), [1, 2]);
}

// === refused, come back, ignored ===

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_with_who_refused_and_no_stream_opens() {
    let drained = || {
        let (layer, drain) = DrainLayer::pair();
        drain.start();
        quiet().drain(layer)
    };
    let none = || quiet().limit(LimitLayer::new().max_streams(0));
    let mine = || {
        let limit = LimitLayer::new().max_per_principal(0, |_| Some(vec![1]));
        quiet().limit(limit)
    };
    for client in [Client::EventSource, Client::Fetch] {
        for (layer, by) in [
            (drained(), RefusedBy::Drain),
            (none(), RefusedBy::Limit),
            (mine(), RefusedBy::PrincipalLimit),
        ] {
            let (ear, metrics) = Ear::layer();
            // Who is refused has not come back.
            let mut events = events([data(ONE)]);
            let resumed = http::HeaderValue::from_static("resumed");
            events.headers_mut().insert("sse-resume", resumed);
            let response = through(layer.metrics(metrics), client.request(), events).await;
            record(response.into_body()).await;
            assert_eq!(ear.told(), [Told::Refused(by)], "{client:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn how_a_coming_back_went_is_told() {
    for (status, said, told) in [
        (StatusCode::OK, "resumed", Some(ResumeOutcome::Resumed)),
        (
            StatusCode::NO_CONTENT,
            "complete",
            Some(ResumeOutcome::Complete),
        ),
        (StatusCode::GONE, "lost", Some(ResumeOutcome::Lost)),
        (StatusCode::OK, "lost", Some(ResumeOutcome::Lost)),
        (StatusCode::OK, "else", None),
    ] {
        let (ear, metrics) = Ear::layer();
        let mut response = events([]);
        *response.status_mut() = status;
        let said = http::HeaderValue::from_static(said);
        response.headers_mut().insert("sse-resume", said);
        through(metrics, Client::EventSource.request(), response).await;
        let resumed = ear.told().into_iter().find_map(|told| match told {
            Told::Resumed(outcome) => Some(outcome),
            _ => None,
        });
        assert_eq!(resumed, told);
    }
}

#[cfg(feature = "resume")]
#[tokio::test(start_paused = true)]
async fn a_client_of_resume_that_comes_back_is_told() {
    use support::resume::{Upstream, World, numbers};
    use tower_sse::{MemoryStore, ResumeLayer};

    let (ear, metrics) = Ear::layer();
    let resume = ResumeLayer::new(MemoryStore::new());
    let layer = quiet().resume(resume).metrics(metrics);
    let world = World::new(layer, Upstream::new(numbers(3)));
    let first = world.post("").await;
    let stream = first.stream();
    assert_eq!(first.record_for(1.5).await.frames.len(), 1);
    world.post(&format!("{stream}.1")).await.events().await;
    world.post(&format!("{stream}.3")).await.events().await;
    let nobodys = "ts_00000000000000000000000000000000.1";
    world.post(nobodys).await.events().await;
    let told = ear.told();
    let outcomes: Vec<_> = told
        .iter()
        .filter(|told| matches!(told, Told::Resumed(_)))
        .collect();
    assert_eq!(
        outcomes,
        [
            &Told::Resumed(ResumeOutcome::Resumed),
            &Told::Resumed(ResumeOutcome::Complete),
            &Told::Resumed(ResumeOutcome::Lost),
        ]
    );
    let ended = told.iter().filter_map(|told| match told {
        Told::Ended(totals) => Some((totals.reason, totals.events)),
        _ => None,
    });
    let ended: Vec<_> = ended.collect();
    let expected = [
        (EndReason::Disconnected, 1),
        (EndReason::Complete, 2),
        (EndReason::Complete, 3),
    ];
    assert_eq!(ended, expected);
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_ignored_is_told() {
    let long = "x".repeat(2000);
    for (id, told) in [
        (long.as_str(), vec![Told::IgnoredId]),
        ("4", vec![]),
        ("", vec![]),
    ] {
        let (ear, metrics) = Ear::layer();
        let request = request("GET", "/", &[("last-event-id", id)]);
        let plain = response("text/plain", support::body::script([]));
        through(quiet().metrics(metrics), request, plain).await;
        assert_eq!(ear.told(), told, "{id}");
    }
}

// === whatever the stream ===

/// All of it, or the first frames only.
async fn read(mut body: AnyBody, frames: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..frames {
        match body.frame().await {
            Some(Ok(frame)) => out.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(_)) | None => break,
        }
    }
    out
}

/// Layers that put something into a stream, end it, or take something out.
fn busy(metrics: MetricsLayer, shape: HeartbeatShape) -> SseLayer {
    let (drain, _) = DrainLayer::pair();
    let heartbeat = HeartbeatLayer::every(10 * SECOND).jitter(0.0);
    SseLayer::new()
        .heartbeat(heartbeat.shape(shape))
        .event_id(EventIdLayer::new().assign(tower_sse::is_event_source))
        .truncation(
            TruncationLayer::new()
                .protocol(|_| Some(Protocol::OpenAiChat))
                .break_off(BreakOff::ErrorEvent),
        )
        .lifetime(LifetimeLayer::after(60 * SECOND).jitter(0.0))
        .drain(drain)
        .metrics(metrics)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_counted_is_what_a_client_sees(
        chunks in chunked_with_silences(stream()),
        client in select(&[Client::EventSource, Client::Events, Client::Fetch, Client::Gemini][..]),
        shape in select(&[HeartbeatShape::Auto, HeartbeatShape::CommentBlock, HeartbeatShape::BlankLines][..]),
        alone in any::<bool>(),
        frames in prop_oneof![Just(usize::MAX), 0..8_usize],
    ) {
        paused().block_on(async {
            let (ear, metrics) = Ear::layer();
            let silence = Step::Pause(25 * SECOND);
            let steps = chunks.iter().flat_map(|chunk| {
                let silence = chunk.then_silence.then(|| silence.clone());
                [Some(Step::Data(chunk.bytes.clone())), silence]
            });
            let service = service(events(steps.flatten()));
            let service = if alone {
                layered(metrics, service)
            } else {
                layered(busy(metrics, shape), service)
            };
            let Ok(response) = service.oneshot(client.request()).await;
            let out = read(response.into_body(), frames).await;
            ear.totals_of(&out);
        });
    }
}

#[test]
fn nasty_streams_are_counted_at_every_split() {
    let runtime = paused();
    for (name, stream) in NASTY {
        let splits = every_split(stream);
        // The last one is whole; a long stream has thousands.
        let step = splits.len().div_ceil(60);
        for chunks in splits.iter().step_by(step).chain([&cut_at(stream, [])]) {
            let (ear, metrics) = Ear::layer();
            let steps = chunks.iter().cloned().map(Step::Data);
            let out = runtime.block_on(async {
                let response = through(metrics, Client::Fetch.request(), events(steps)).await;
                record(response.into_body()).await.bytes()
            });
            assert_eq!(ear.totals_of(&out).reason, EndReason::Complete, "{name}");
        }
    }
}

// === the facade ===

#[cfg(feature = "metrics")]
mod facade {
    use std::collections::BTreeMap;

    use metrics::{
        Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
        set_default_local_recorder,
    };
    use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

    use super::*;

    fn line<'a>(text: &'a str, name: &str) -> &'a str {
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    async fn streams(layer: &MetricsLayer) {
        let heartbeat = HeartbeatLayer::every(10 * SECOND).jitter(0.0);
        let layer = SseLayer::new().metrics(layer.clone()).heartbeat(heartbeat);
        let steps = [pause(3.0), data(ONE), data(ONE), pause(12.0)];
        let response = through(layer.clone(), Client::Fetch.request(), events(steps)).await;
        record(response.into_body()).await;
        let refusing = layer.limit(LimitLayer::new().max_streams(0));
        through(refusing, Client::Fetch.request(), events([])).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_told_has_its_name() {
        let seconds = Matcher::Suffix("_seconds".into());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(seconds, &[1.0, 10.0])
            .unwrap()
            .build_recorder();
        let _guard = set_default_local_recorder(&recorder);
        let layer = MetricsLayer::facade();
        let before = recorder.handle().render();
        for name in [
            "sse_streams_opened_total",
            "sse_streams_open",
            "sse_streams_ended_total{reason=\"stalled\"}",
            "sse_streams_refused_total{by=\"drain\"}",
            "sse_streams_resumed_total{outcome=\"lost\"}",
            "sse_ignored_ids_total",
            "sse_heartbeats_total{shape=\"comment_line\"}",
        ] {
            assert_eq!(line(&before, name), "0");
        }
        streams(&layer).await;
        let resumed = || {
            let mut response = events([Step::Hang]);
            let said = http::HeaderValue::from_static("resumed");
            response.headers_mut().insert("sse-resume", said);
            response
        };
        let long = "x".repeat(2000);
        let request = request("GET", "/", &[("last-event-id", &long)]);
        let open = through(quiet().metrics(layer), request, resumed()).await;
        let text = recorder.handle().render();
        let heartbeat = ": keep-alive\n\n".len();
        for (name, value) in [
            ("sse_streams_opened_total", 2),
            ("sse_streams_open", 1),
            ("sse_streams_ended_total{reason=\"complete\"}", 1),
            ("sse_streams_ended_total{reason=\"failed\"}", 0),
            ("sse_streams_refused_total{by=\"limit\"}", 1),
            ("sse_streams_resumed_total{outcome=\"resumed\"}", 1),
            ("sse_ignored_ids_total", 1),
            ("sse_events_total", 2),
            ("sse_bytes_total", 2 * ONE.len() + heartbeat),
            ("sse_heartbeats_total{shape=\"comment_block\"}", 1),
            ("sse_time_to_head_seconds_count", 2),
            ("sse_time_to_first_event_seconds_bucket{le=\"1\"}", 0),
            ("sse_time_to_first_event_seconds_bucket{le=\"10\"}", 1),
            ("sse_time_to_first_event_seconds_sum", 3),
            ("sse_lifetime_seconds_sum", 15),
        ] {
            assert_eq!(line(&text, name), value.to_string(), "{name} in {text}");
        }
        drop(open);
        let text = recorder.handle().render();
        assert_eq!(line(&text, "sse_streams_open"), "0");
        let gone = "sse_streams_ended_total{reason=\"disconnected\"}";
        assert_eq!(line(&text, gone), "1");
    }

    #[tokio::test(start_paused = true)]
    async fn a_recorder_that_is_there_at_the_first_stream_is_early_enough() {
        let layer = MetricsLayer::facade();
        let recorder = PrometheusBuilder::new().build_recorder();
        let _guard = set_default_local_recorder(&recorder);
        streams(&layer).await;
        let text = recorder.handle().render();
        assert_eq!(line(&text, "sse_streams_opened_total"), "1");
        assert!(text.contains("# HELP sse_events_total "), "{text}");
    }

    /// Keeps what each name is said to be.
    #[derive(Default)]
    struct Names(Mutex<BTreeMap<String, (&'static str, Option<Unit>)>>);

    impl Names {
        fn add(&self, name: &KeyName, kind: &'static str, unit: Option<Unit>) {
            let name = name.as_str().to_owned();
            self.0.lock().unwrap().insert(name, (kind, unit));
        }
    }

    impl Recorder for Names {
        fn describe_counter(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
            self.add(&name, "counter", unit);
        }

        fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
            self.add(&name, "gauge", unit);
        }

        fn describe_histogram(&self, name: KeyName, unit: Option<Unit>, _: SharedString) {
            self.add(&name, "histogram", unit);
        }

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::noop()
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    /// The table that the documentation shows.
    #[test]
    fn every_name_has_its_type_and_its_unit_as_documented() {
        let names = Names::default();
        drop(metrics::with_local_recorder(&names, MetricsLayer::facade));
        let source = include_str!("../src/metrics/facade.rs");
        let rows = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix("/// | `"));
        let documented: BTreeMap<_, _> = rows
            .map(|row| {
                let cells: Vec<_> = row.split('|').map(str::trim).collect();
                let unit = cells[2].split(',').next().unwrap().to_owned();
                (
                    cells[0].trim_matches('`').to_owned(),
                    (cells[1].to_owned(), unit),
                )
            })
            .collect();
        let described: BTreeMap<_, _> = names.0.into_inner().unwrap().into_iter().collect();
        let described: BTreeMap<_, _> = described
            .into_iter()
            .map(|(name, (kind, unit))| {
                let unit = unit.map_or("", |unit| unit.as_str()).to_owned();
                (name, (kind.to_owned(), unit))
            })
            .collect();
        assert_eq!(described, documented);
        assert_eq!(described.len(), 12);
    }
}
