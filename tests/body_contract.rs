//! What `http_body::Body` promises, what hyper makes of it, and that what is no event stream is
//! handed on as it is.

mod support;

use std::{
    convert::Infallible,
    fmt::Debug,
    future::{poll_fn, ready},
    marker::PhantomPinned,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use support::{
    body::{
        AnyBody, Broken, Client, End, Recording, Step, data, events, pause, poll, record,
        record_kept, request, response, script, through,
    },
    streams::{NASTY, every_split, shown},
};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, cors::CorsLayer,
    set_header::SetResponseHeaderLayer, timeout::TimeoutLayer, trace::TraceLayer,
};
use tower_sse::{
    BoxError, CompressionBypassLayer, Drain, DrainLayer, EventIdLayer, HeadersLayer,
    HeartbeatLayer, HeartbeatShape, LastEventId, LastSentId, ResponseFuture, SseBody, SseLayer,
    SseService,
};

/// All concerns, none of which says anything by itself for an hour.
fn layers() -> SseLayer {
    SseLayer::new()
        .heartbeat(Duration::from_secs(3600))
        .event_id(EventIdLayer::new())
        .drain(DrainLayer::pair().0)
}

/// A stream for a client whose bytes are the upstream's.
async fn stream(steps: impl IntoIterator<Item = Step>) -> AnyBody {
    let response = through(layers(), Client::Fetch.request(), events(steps)).await;
    response.into_body()
}

fn lengths(recording: &Recording) -> Vec<usize> {
    let frames = recording.frames.iter();
    frames.map(|(_, frame)| frame.len()).collect()
}

fn trailers() -> HeaderMap {
    [(
        "grpc-status".parse().unwrap(),
        HeaderValue::from_static("0"),
    )]
    .into_iter()
    .collect()
}

// === lengths and ends ===

#[tokio::test]
async fn a_stream_has_no_known_length_whatever_its_upstream_says() {
    let mut body = stream([data("data: x\n\n")]).await;
    assert_eq!(hint(&body), (0, None));
    assert!(!body.is_end_stream());
    assert!(poll(&mut body).is_ready());
    assert_eq!(hint(&body), (0, None));
}

fn hint(body: &impl Body) -> (u64, Option<u64>) {
    let hint = body.size_hint();
    (hint.lower(), hint.upper())
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_with_the_last_frame_as_soon_as_it_is_known() {
    let mut body = stream([data("data: x\n\n")]).await;
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    assert!(body.is_end_stream());

    let mut body = stream([data("data: x\n\n"), pause(1.0)]).await;
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    assert!(!body.is_end_stream());
    assert!(body.frame().await.is_none());
    assert!(body.is_end_stream());

    let mut empty = stream([]).await;
    assert!(!empty.is_end_stream());
    assert!(matches!(poll(&mut empty), Poll::Ready(None)));
    assert!(empty.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn no_frame_is_empty_not_even_where_all_of_it_was_taken_away() {
    let mark = b"\xef\xbb\xbf";
    for steps in [
        vec![Step::Empty, data("data: x\n\n"), Step::Empty],
        vec![Step::Empty, pause(1.0), Step::Empty],
        vec![data(mark), pause(1.0), data("data: x\n\n")],
        vec![data(mark)],
        // a blank line that goes because of the ids
        vec![
            data(": hi\n"),
            pause(1.0),
            data("\n"),
            pause(1.0),
            data("data: x\n\n"),
        ],
    ] {
        let ids = EventIdLayer::new().assign(|_| true);
        let layers = layers().event_id(ids);
        let body = through(layers, Client::Fetch.request(), events(steps)).await;
        // The recorder takes no empty frame.
        record(body.into_body()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_come_behind_all_data_and_are_the_end() {
    let trailers = trailers();
    for behind in [
        vec![],
        vec![data("data: y\n\n")],
        vec![Step::Hang],
        vec![Step::Error("x")],
    ] {
        let steps = [data("data: x\n\n"), Step::Trailers(trailers.clone())];
        let recording = record(stream(steps.into_iter().chain(behind)).await).await;
        assert_eq!(recording.bytes(), b"data: x\n\n");
        assert_eq!(recording.end.1, End::Trailers(trailers.clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_ended_is_dropped_at_once_and_not_polled_again() {
    for end in [
        None,
        Some(Step::Error("broken")),
        Some(Step::Trailers(trailers())),
    ] {
        let response = events([data("data: x\n\n")].into_iter().chain(end));
        let probe = response.body().probe();
        let response = through(layers(), Client::Fetch.request(), response).await;
        let mut body = response.into_body();
        assert!(poll(&mut body).is_ready());
        // While the error and the trailers are still to come.
        assert!(probe.dropped().is_some());
        // The recorder polls behind the end, and the script would panic.
        record(body).await;
    }
}

// === errors ===

#[tokio::test(start_paused = true)]
async fn an_error_waits_until_what_was_sent_is_written() {
    for (steps, sent_at) in [
        (vec![data("data: x\n\n"), Step::Error("broken")], 0),
        (
            vec![data("data: x\n\n"), pause(5.0), Step::Error("broken")],
            0,
        ),
        (
            vec![pause(5.0), data("data: x\n"), Step::Error("broken")],
            5000,
        ),
        (vec![Step::Error("broken")], 0),
    ] {
        let failed_at: Duration = steps.iter().map(length_of).sum();
        let recording = record(stream(steps).await).await;
        assert!(
            recording
                .frames
                .iter()
                .all(|(at, _)| at.as_millis() == sent_at)
        );
        let (at, end) = recording.end;
        assert_eq!(end, End::Error("broken".into()));
        let held = (at - failed_at).as_millis();
        assert!((10..=12).contains(&held), "held for {held} ms");
    }
}

fn length_of(step: &Step) -> Duration {
    match step {
        Step::Pause(time) => *time,
        _ => Duration::ZERO,
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_waits_from_the_time_on_at_which_the_last_frame_was_taken() {
    let mut body = stream([data("data: x\n\n"), Step::Error("broken")]).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    assert!(poll(&mut body).is_pending());
    assert!(!body.is_end_stream());
    let (at, end) = record(body).await.end;
    assert_eq!(end, End::Error("broken".into()));
    assert!((10..=12).contains(&at.as_millis()), "{at:?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_waits_for_a_server_that_still_has_a_frame_but_not_for_ever() {
    for (kept_for, at) in [(0, 10), (300, 300), (995, 1000), (60_000, 1000)] {
        let mut body = stream([data("data: x\n\n"), Step::Error("broken")]).await;
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(kept_for)).await;
            drop(frame);
        });
        let (ended, end) = record(body).await.end;
        assert_eq!(end, End::Error("broken".into()));
        let late = ended.as_millis() - at;
        assert!(late <= 12, "kept for {kept_for} ms, ended at {ended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_keeps_its_type() {
    let failing = || [Step::Error("broken")];
    for response in [events(failing()), response("text/plain", script(failing()))] {
        let service = service_fn(move |_: Request<()>| {
            let response = Response::new(script(failing()));
            ready(Ok::<_, Infallible>(response))
        });
        let body = layers()
            .layer(service)
            .oneshot(Client::Fetch.request())
            .await;
        let mut body = body.unwrap().into_body();
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(error.is::<Broken>());

        let body = through(layers(), Client::Fetch.request(), response).await;
        let error = body.into_body().frame().await.unwrap().unwrap_err();
        assert!(error.is::<Broken>());
    }
}

// === how frames are joined ===

#[tokio::test(start_paused = true)]
async fn frames_that_are_ready_at_once_come_as_one() {
    let event = format!("data: {}\n\n", "x".repeat(92));
    let burst = |count| (0..count).map(|_| data(&event));
    let lengths = async |steps: Vec<Step>| {
        let recording = record(stream(steps).await).await;
        lengths(&recording)
    };
    assert_eq!(lengths(burst(64).collect()).await, [6400]);
    assert_eq!(lengths(burst(72).collect()).await, [6400, 800]);
    // Nothing waits for more.
    let spaced = burst(3).chain([pause(0.001)]).chain(burst(2)).collect();
    assert_eq!(lengths(spaced).await, [300, 200]);
    // Empty ones are nothing.
    let empties = burst(3).flat_map(|event| [Step::Empty, event]).collect();
    assert_eq!(lengths(empties).await, [300]);
}

#[tokio::test(start_paused = true)]
async fn a_joined_frame_stays_within_16_kib() {
    for size in [1, 10, 1000, 3000, 4095] {
        let frames = (0..1000).map(|_| data(vec![b'x'; size]));
        let recording = record(stream(frames).await).await;
        let lengths = lengths(&recording);
        assert!(
            lengths.iter().all(|length| *length <= 16 * 1024),
            "{lengths:?}"
        );
        assert_eq!(lengths.iter().sum::<usize>(), 1000 * size);
        assert!(lengths.len() <= 500, "{}", lengths.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lone_frame_and_a_large_one_are_never_copied() {
    for sizes in [
        &[10][..],
        &[100_000],
        &[10, 4096, 10],
        &[4096, 5000, 70_000],
        &[16_384, 10],
    ] {
        let frames: Vec<_> = sizes
            .iter()
            .map(|size| Bytes::from(vec![b'x'; *size]))
            .collect();
        let recording = record_kept(stream(frames.iter().cloned().map(Step::Data)).await).await;
        let place = |frame: &Bytes| (frame.as_ptr(), frame.len());
        let got: Vec<_> = recording
            .frames
            .iter()
            .map(|(_, frame)| place(frame))
            .collect();
        assert_eq!(
            got,
            frames.iter().map(place).collect::<Vec<_>>(),
            "{sizes:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_without_its_mark_and_one_around_an_id_are_not_copied_either() {
    let frame = Bytes::from(format!("\u{feff}data: {}\n\n{0}\n", "x".repeat(5000)));
    let layers = layers().event_id(EventIdLayer::new().assign(|_| true));
    let response = events([Step::Data(frame.clone())]);
    let body = through(layers, Client::Fetch.request(), response).await;
    let recording = record_kept(body.into_body()).await;
    let range = frame.as_ptr_range();
    let (copied, same): (Vec<_>, Vec<_>) = recording
        .frames
        .iter()
        .map(|(_, frame)| frame)
        .partition(|frame| !range.contains(&frame.as_ptr()));
    assert_eq!(copied, [&Bytes::from("id: 1\n")]);
    assert_eq!(
        same.iter().map(|frame| frame.len()).sum::<usize>(),
        frame.len() - 3
    );
}

// === floods ===

#[derive(Default)]
struct CountWakes(AtomicUsize);

impl Wake for CountWakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_million_empty_frames_neither_starve_others_nor_overflow_the_stack() {
    let mut body = stream(
        (0..1_000_000)
            .map(|_| Step::Empty)
            .chain([data("data: x\n\n")]),
    )
    .await;
    let others = Arc::new(AtomicUsize::new(0));
    let runs = others.clone();
    let other = tokio::spawn(poll_fn(move |cx| {
        runs.fetch_add(1, Ordering::Relaxed);
        cx.waker().wake_by_ref();
        Poll::<()>::Pending
    }));
    let frame = tokio::spawn(async move { body.frame().await })
        .await
        .unwrap();
    assert_eq!(frame.unwrap().unwrap().into_data().unwrap(), "data: x\n\n");
    let runs = others.load(Ordering::Relaxed);
    assert!(runs >= 1_000_000 / 64, "the other task ran {runs} times");
    other.abort();
}

#[tokio::test]
async fn a_poll_takes_a_bounded_count_of_frames_and_asks_for_the_next() {
    let wakes = Arc::<CountWakes>::default();
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let response = events((0..10_000).map(|_| Step::Empty));
    let probe = response.body().probe();
    let response = through(layers(), Client::Fetch.request(), response).await;
    let mut body = response.into_body();
    let mut polled = 0;
    for round in 1..=150 {
        assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
        let polls = probe.polls() - std::mem::replace(&mut polled, probe.polls());
        assert!((1..=64).contains(&polls), "{polls} in one poll");
        assert_eq!(
            wakes.0.load(Ordering::Relaxed),
            round,
            "nobody would poll again"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_line_of_many_mib_passes_without_being_kept() {
    // Half of it is five times what all tests beside this one need.
    const MIB: usize = 1024;
    let chunk = Bytes::from(vec![b'x'; 1024 * 1024]);
    let frames = (0..MIB).map(|_| Step::Data(chunk.clone()));
    let mut body = stream(
        [data("data: ")]
            .into_iter()
            .chain(frames)
            .chain([data("\n\n")]),
    )
    .await;
    let (mut same, mut len) = (0, 0);
    let before = resident();
    while let Some(frame) = body.frame().await {
        let frame = frame.unwrap().into_data().unwrap();
        len += frame.len();
        same += usize::from(frame.as_ptr() == chunk.as_ptr() && frame.len() == chunk.len());
    }
    assert_eq!((same, len), (MIB, MIB * chunk.len() + "data: \n\n".len()));
    let grown = resident().saturating_sub(before);
    assert!(grown < MIB * chunk.len() / 2, "grew by {grown} bytes");
}

/// The memory of this process, where the system tells.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or_default() * 4096
}

// === what passes byte for byte ===

#[tokio::test(start_paused = true)]
async fn bytes_that_are_no_text_pass_as_they_came() {
    let mut bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    bytes.extend(b"data: \xff\xfe\n\n\xf0\x9f");
    for chunk in [1, 7, 600] {
        let recording = record(stream(bytes.chunks(chunk).map(data)).await).await;
        assert_eq!(recording.bytes(), bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn an_encoded_stream_passes_byte_for_byte_with_its_headers_fixed() {
    let heartbeat =
        HeartbeatLayer::every(Duration::from_secs(1)).shape(HeartbeatShape::CommentLine);
    for (name, value) in [
        ("content-encoding", "gzip"),
        ("content-encoding", "identity, br"),
        ("content-range", "bytes 0-9/10"),
    ] {
        // What looks like a mark, an end of an event and a silence is none.
        let steps = [
            data("\u{feff}data: x\n\n"),
            pause(10.0),
            data("\n\ndata: y\n\n"),
        ];
        let mut response = events(steps);
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
        let layers = layers()
            .heartbeat(heartbeat.clone())
            .event_id(EventIdLayer::new().assign(|_| true));
        let response = through(layers, Client::EventSource.request(), response).await;
        assert_eq!(response.headers()[name], value);
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert!(response.extensions().get::<LastSentId>().is_none());
        let text = record(response.into_body()).await.text();
        assert_eq!(text, "\u{feff}data: x\n\n\n\ndata: y\n\n");
    }
}

#[tokio::test]
async fn streams_in_which_nothing_is_switched_on_are_untouched() {
    for (name, bytes) in NASTY {
        for chunks in every_split(bytes).into_iter().take(50) {
            let steps = chunks.iter().cloned().map(Step::Data);
            let request = Client::EventSource.request();
            let response = through(HeadersLayer::new(), request, events(steps)).await;
            let body = response.into_body();
            assert_eq!(body.size_hint().exact(), Some(bytes.len() as u64));
            let recording = record(body).await;
            assert_eq!(
                recording.bytes(),
                *bytes,
                "{name}, cut as {}",
                shown(&chunks)
            );
        }
    }
}

// === what is no event stream ===

/// Everything that a server can see of a body: each frame, and the length and end told before it.
#[derive(Debug, PartialEq)]
enum Sight {
    Told { exact: Option<u64>, end: bool },
    Data(Bytes, *const u8),
    Trailers(HeaderMap),
    Error(String),
}

async fn sights<B>(mut body: B) -> Vec<Sight>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let mut sights = Vec::new();
    loop {
        let (exact, end) = (body.size_hint().exact(), body.is_end_stream());
        sights.push(Sight::Told { exact, end });
        let sight = match body.frame().await {
            None => return sights,
            Some(Err(error)) => {
                sights.push(Sight::Error(error.into().to_string()));
                return sights;
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => Sight::Data(bytes.clone(), bytes.as_ptr()),
                Err(frame) => Sight::Trailers(frame.into_trailers().unwrap()),
            },
        };
        sights.push(sight);
    }
}

fn of_every_kind() -> Vec<Vec<Step>> {
    let [a, b] = [data("\u{feff}data: x\n\n"), data("a\rb")];
    vec![
        vec![],
        vec![a.clone()],
        vec![a.clone(), b.clone(), Step::Empty, pause(3600.0), b.clone()],
        vec![Step::Empty, Step::Empty],
        vec![a.clone(), Step::Trailers(trailers())],
        vec![Step::Trailers(trailers())],
        vec![a, b, Step::Error("broken")],
    ]
}

#[tokio::test(start_paused = true)]
async fn what_is_no_event_stream_is_seen_exactly_as_without_the_layer() {
    let head = |method| request(method, "/", &[("accept", "text/event-stream")]);
    let typed = |content_type| response(content_type, ());
    let status = |status| {
        let mut response = typed("text/event-stream");
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    };
    for (method, head_of_response) in [
        ("GET", typed("text/html")),
        ("GET", typed("application/grpc")),
        ("GET", typed("text/event-streaming")),
        ("POST", typed("application/json")),
        ("GET", Response::new(())),
        ("HEAD", typed("text/event-stream")),
        ("GET", status(204)),
        ("GET", status(205)),
        ("GET", status(304)),
    ] {
        for steps in of_every_kind() {
            let mut response = head_of_response.clone().map(|()| script(steps.clone()));
            for (name, value) in [
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("content-length", "9"),
            ] {
                response
                    .headers_mut()
                    .insert(name, HeaderValue::from_static(value));
            }
            let headers = response.headers().clone();
            let response = through(layers(), head(method), response).await;
            assert_eq!(response.headers(), &headers);
            assert_eq!(response.status(), head_of_response.status());
            let expected = sights(script(steps.clone())).await;
            // The pointers of the frames too: nothing is copied.
            assert_eq!(sights(response.into_body()).await, expected);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_of_anything_else_is_not_held_back() {
    let response = response("text/plain", script([data("x"), Step::Error("broken")]));
    let body = through(layers(), Client::Fetch.request(), response).await;
    let recording = record(body.into_body()).await;
    assert_eq!(recording.end, (Duration::ZERO, End::Error("broken".into())));
}

/// Bytes in two halves, neither of which is `Bytes`.
struct Halves(Option<bytes::buf::Chain<&'static [u8], &'static [u8]>>);

impl Body for Halves {
    type Data = bytes::buf::Chain<&'static [u8], &'static [u8]>;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Infallible>>> {
        Poll::Ready(self.0.take().map(|halves| Ok(Frame::data(halves))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(
            self.0
                .as_ref()
                .map_or(0, |halves| halves.remaining() as u64),
        )
    }
}

#[tokio::test]
async fn any_kind_of_buffer_will_do() {
    for content_type in ["text/event-stream", "text/plain"] {
        let service = service_fn(move |_: Request<()>| {
            let halves = b"data: ".chain(&b"x\n\n"[..]);
            let response = response(content_type, Halves(Some(halves)));
            ready(Ok::<_, Infallible>(response))
        });
        let response = layers()
            .layer(service)
            .oneshot(Client::Fetch.request())
            .await;
        let body = response.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "data: x\n\n");
    }
}

// === types ===

#[test]
fn layers_services_and_bodies_are_what_servers_ask_for() {
    fn layer<T: Clone + Send + Sync + Debug + 'static>() {}
    layer::<SseLayer>();
    layer::<HeadersLayer>();
    layer::<CompressionBypassLayer>();
    layer::<HeartbeatLayer>();
    layer::<EventIdLayer>();
    layer::<DrainLayer>();
    layer::<Drain>();
    layer::<LastEventId>();
    layer::<LastSentId>();
    layer::<SseService<Router>>();

    fn body<T: Body + Default + Send + Sync + Unpin + Debug>() {}
    body::<SseBody<http_body_util::Full<Bytes>>>();
    body::<SseBody<SseBody<String>>>();

    // A body that cannot be shared is sent, as axum's is.
    fn sent<T: Send>() {}
    sent::<SseBody<axum::body::Body>>();
    sent::<ResponseFuture<std::future::Ready<Result<Response<axum::body::Body>, Infallible>>>>();
}

type Router = axum::Router;

/// Does not compile where `SseBody<PhantomPinned>` can be moved: both impls would fit.
#[test]
fn a_body_can_be_moved_only_where_the_one_inside_can() {
    trait AmbiguousIfUnpin<A> {
        fn check() {}
    }
    impl<T: ?Sized> AmbiguousIfUnpin<()> for T {}
    impl<T: ?Sized + Unpin> AmbiguousIfUnpin<u8> for T {}
    <SseBody<PhantomPinned> as AmbiguousIfUnpin<_>>::check();
    <ResponseFuture<PhantomPinned> as AmbiguousIfUnpin<_>>::check();
}

#[test]
fn a_body_that_is_not_a_stream_costs_next_to_nothing() {
    let plain = size_of::<axum::body::Body>();
    assert!(size_of::<SseBody<axum::body::Body>>() <= plain + size_of::<usize>());
}

// === beside the layers of tower-http ===

async fn handler(_: Request<axum::body::Body>) -> Result<Response<axum::body::Body>, Infallible> {
    let body = axum::body::Body::new(script([
        data("data: x\n\n"),
        pause(1.0),
        data("data: y\n\n"),
    ]));
    Ok(response("text/event-stream", body))
}

async fn check<S, B>(service: S)
where
    S: tower::Service<Request<axum::body::Body>, Response = Response<B>>,
    S::Error: Debug,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let request = Client::Fetch.request().map(|()| axum::body::Body::empty());
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let recording = record(support::body::boxed(response.into_body())).await;
    let text = recording.text().replace(": keep-alive\n\n", "");
    assert_eq!(text, "data: x\n\ndata: y\n\n");
    let last = recording.frames.last().unwrap();
    assert_eq!((last.0.as_secs(), recording.end.1), (1, End::Clean));
}

fn timeout() -> TimeoutLayer {
    TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, Duration::from_millis(10))
}

fn set_header() -> SetResponseHeaderLayer<HeaderValue> {
    SetResponseHeaderLayer::if_not_present(http::header::VIA, HeaderValue::from_static("test"))
}

#[tokio::test(start_paused = true)]
async fn the_layers_of_tower_http_fit_outside() {
    let builder = ServiceBuilder::new();
    check(
        builder
            .clone()
            .layer(timeout())
            .layer(layers())
            .service_fn(handler),
    )
    .await;
    check(
        builder
            .clone()
            .layer(CorsLayer::permissive())
            .layer(layers())
            .service_fn(handler),
    )
    .await;
    check(
        builder
            .clone()
            .layer(TraceLayer::new_for_http())
            .layer(layers())
            .service_fn(handler),
    )
    .await;
    check(
        builder
            .clone()
            .layer(CatchPanicLayer::new())
            .layer(layers())
            .service_fn(handler),
    )
    .await;
    check(
        builder
            .clone()
            .layer(set_header())
            .layer(layers())
            .service_fn(handler),
    )
    .await;
    check(
        builder
            .layer(CompressionLayer::new())
            .layer(layers())
            .service_fn(handler),
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_layers_of_tower_http_fit_inside() {
    let builder = ServiceBuilder::new().layer(layers());
    check(builder.clone().layer(timeout()).service_fn(handler)).await;
    check(
        builder
            .clone()
            .layer(CorsLayer::permissive())
            .service_fn(handler),
    )
    .await;
    check(
        builder
            .clone()
            .layer(TraceLayer::new_for_http())
            .service_fn(handler),
    )
    .await;
    check(
        builder
            .clone()
            .layer(CatchPanicLayer::new())
            .service_fn(handler),
    )
    .await;
    check(builder.clone().layer(set_header()).service_fn(handler)).await;
    check(builder.layer(CompressionLayer::new()).service_fn(handler)).await;
}

#[tokio::test(start_paused = true)]
async fn all_of_them_fit_together_with_the_layer_twice() {
    let service = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(layers())
        .layer(timeout())
        .layer(CorsLayer::permissive())
        .layer(SseLayer::new())
        .layer(set_header())
        .service_fn(handler);
    check(service).await;
}
