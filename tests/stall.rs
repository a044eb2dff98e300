//! Clients that do not read: what counts as one, when its stream is freed, and that nobody else
//! notices.

#[cfg(all(target_os = "linux", feature = "resume"))]
mod programs;
mod support;

use std::{
    convert::Infallible,
    panic::resume_unwind,
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Wake, Waker, ready},
    thread,
    time::{Duration, Instant as Clock},
};

use axum::{Router, routing::get};
use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http::Response;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use proptest::prelude::*;
use socket2::{Domain, Socket, Type};
use support::{
    body::{
        AnyBody, Client, End, Script, Step, data, events, pause, paused, poll, record, response,
        through,
    },
    serve::{
        Connection, EVENT_SOURCE, EVENT_STREAM, Protocol, Reader, STACKS, Server, Stack, respond,
        soon,
    },
};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::mpsc,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout},
};
use tower_sse::{
    Aborted, BoxError, EndReason, EventIdLayer, HeartbeatLayer, LastSentId, LifetimeLayer,
    LimitLayer, MetricsLayer, Observer, SilenceLayer, SseLayer, StallLayer, StreamHead,
    StreamTotals,
};

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_millis(800);
const TURN: Duration = Duration::from_millis(100);

/// Whatever was not read for so long is freed.
const OVER: Duration = Duration::from_millis(901);

/// No concern but this one.
fn watched(stall: &StallLayer) -> SseLayer {
    SseLayer::new().without_heartbeat().stall(stall.clone())
}

async fn open(layer: SseLayer, response: Response<Script>) -> AnyBody {
    let response = through(layer, Client::Fetch.request(), response).await;
    response.into_body()
}

/// Between the limit, and that and one turn.
#[track_caller]
fn in_time(freed: Duration) {
    assert!((LIMIT..=LIMIT + TURN).contains(&freed), "{freed:?}");
}

// === what counts ===

/// Opens a stream, polls it as often as there is something, and leaves it alone: how long after
/// its opening it was freed.
async fn left_alone(layer: SseLayer, polls: usize, steps: Vec<Step>) -> Option<Duration> {
    let start = Instant::now();
    let response = events(steps);
    let probe = response.body().probe();
    let mut body = open(layer, response).await;
    for _ in 0..polls {
        let _ = poll(&mut body);
    }
    sleep(1000 * SECOND).await;
    let freed = probe.dropped();
    drop(body);
    freed.map(|at| at - start)
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_freed_when_nobody_comes_for_what_it_has() {
    let layer = || watched(&StallLayer::after(LIMIT));
    let event = || data("data: x\n\n");
    let beats = HeartbeatLayer::from(3 * SECOND).jitter(0.0);
    let late = || vec![pause(3.0), event(), Step::Hang];
    let hangs = || vec![Step::Hang];
    let life = LifetimeLayer::after(3 * SECOND).jitter(0.0);
    let silence = SilenceLayer::after(3 * SECOND);
    for (what, layer, polls, steps, since) in [
        ("never polled", layer(), 0, hangs(), Some(0)),
        ("nothing there", layer(), 1, hangs(), None),
        ("nothing there, still", layer(), 9, hangs(), None),
        ("upstream wakes", layer(), 1, late(), Some(3)),
        ("upstream ends", layer(), 1, vec![pause(3.0)], Some(3)),
        (
            "a frame taken",
            layer(),
            1,
            vec![event(), Step::Hang],
            Some(0),
        ),
        ("and all of it", layer(), 2, vec![event(), Step::Hang], None),
        ("heartbeat", layer().heartbeat(beats), 1, hangs(), Some(3)),
        ("life time", layer().lifetime(life), 1, hangs(), Some(3)),
        ("silence", layer().silence(silence), 1, hangs(), Some(3)),
    ] {
        let freed = left_alone(layer, polls, steps).await;
        match (freed, since) {
            (Some(freed), Some(since)) => in_time(freed - since * SECOND),
            (freed, since) => assert_eq!(freed, since.map(|_| SECOND), "{what}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_that_is_not_read_is_one_too_empty_frames_also() {
    for flood in [data("data: x\n\n"), Step::Empty, data(vec![b'x'; 100_000])] {
        let steps = vec![flood; 1000];
        let layer = watched(&StallLayer::after(LIMIT));
        in_time(left_alone(layer, 1, steps).await.expect("freed"));
    }
}

#[tokio::test(start_paused = true)]
async fn who_comes_within_the_limit_keeps_the_stream() {
    let stall = StallLayer::after(LIMIT);
    let response = events((0..1000).map(|n| data(format!("data: {n}\n\n{}", "x".repeat(16_384)))));
    let probe = response.body().probe();
    let mut body = open(watched(&stall), response).await;
    // As late as it may be, and at another point of the turn each time.
    for _ in 0..100 {
        sleep(LIMIT - Duration::from_millis(7)).await;
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
    }
    assert_eq!(probe.dropped(), None);
    sleep(OVER).await;
    assert!(probe.dropped().is_some());
}

proptest! {
    #[test]
    fn no_sooner_than_the_limit_and_a_turn_later_at_most(
        limit in 8..20_000_u64,
        since in 0..5_000_u64,
    ) {
        paused().block_on(async {
            let (limit, since) = (Duration::from_millis(limit), Duration::from_millis(since));
            let stall = StallLayer::after(limit);
            let steps = vec![Step::Pause(since), data("data: x\n\n"), Step::Hang];
            let freed = left_alone(watched(&stall), 1, steps).await.expect("freed") - since;
            // The timer's own: up to a millisecond for each look.
            let most = limit + limit / 8 + Duration::from_millis(9);
            assert!(limit <= freed && freed <= most, "{freed:?} {limit:?}");
        });
    }
}

#[tokio::test(start_paused = true)]
async fn limits_are_taken_as_what_a_timer_can_do() {
    for (limit, taken) in [(0, 8), (1, 8), (8, 8)] {
        let stall = StallLayer::after(Duration::from_millis(limit));
        let freed = left_alone(watched(&stall), 0, vec![Step::Hang]).await;
        let freed = freed.expect("freed").as_millis();
        assert!((taken + 1..=2 * taken + 2).contains(&freed), "{freed}");
    }
    let never = StallLayer::after(Duration::MAX);
    assert_eq!(left_alone(watched(&never), 0, vec![Step::Hang]).await, None);
}

// === what becomes of it ===

/// Why streams ended.
#[derive(Clone, Default)]
struct Ends(Arc<Mutex<Vec<StreamTotals>>>);

/// Whether anything was told of a stream behind its end.
#[derive(Clone, Default)]
struct Late(Arc<AtomicBool>, Ends);

impl Observer for Ends {
    fn ended(&self, _: &StreamHead, totals: &StreamTotals) {
        self.0.lock().unwrap().push(*totals);
    }
}

impl Ends {
    fn reasons(&self) -> Vec<EndReason> {
        let ends = self.0.lock().unwrap();
        ends.iter().map(|totals| totals.reason).collect()
    }
}

impl Observer for Late {
    fn sent(&self, _: &StreamHead, _: u64, _: u64) {
        if !self.1.reasons().is_empty() {
            self.0.store(true, Relaxed);
        }
    }

    fn ended(&self, head: &StreamHead, totals: &StreamTotals) {
        self.1.ended(head, totals);
    }
}

#[tokio::test(start_paused = true)]
async fn what_it_held_is_given_back_at_once_and_it_counts_once() {
    for reads_on in [true, false] {
        let ends = Ends::default();
        let limit = LimitLayer::new();
        let layer = watched(&StallLayer::after(LIMIT))
            .limit(limit.clone())
            .event_id(EventIdLayer::new())
            .metrics(MetricsLayer::new(ends.clone()));
        let steps = [
            data("id: 7\ndata: x\n\n"),
            data("id: 8\ndata: y\n\n"),
            Step::Hang,
        ];
        let response = events(steps);
        let probe = response.body().probe();
        let response = through(layer, Client::Fetch.request(), response).await;
        let sent: LastSentId = response.extensions().get().cloned().unwrap();
        let mut body = response.into_body();
        assert!(poll(&mut body).is_ready());
        assert_eq!(
            (limit.open(), ends.reasons(), sent.end()),
            (1, vec![], None)
        );
        sleep(OVER).await;
        let after = (limit.open(), ends.reasons(), sent.end());
        assert_eq!(
            after,
            (0, vec![EndReason::Stalled], Some(EndReason::Stalled))
        );
        assert!(probe.dropped().is_some());
        let totals = ends.0.lock().unwrap()[0];
        assert_eq!((totals.events, totals.bytes), (2, 30));
        if reads_on {
            let error = body.frame().await.unwrap().unwrap_err();
            let aborted = error.downcast_ref::<Aborted>().expect("ours");
            assert_eq!(aborted.reason(), EndReason::Stalled);
            assert!(body.frame().await.is_none());
        }
        drop(body);
        let after = (limit.open(), ends.reasons(), sent.end());
        assert_eq!(
            after,
            (0, vec![EndReason::Stalled], Some(EndReason::Stalled))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn who_reads_on_gets_what_was_taken_and_then_the_break() {
    let late = Late::default();
    let layer = watched(&StallLayer::after(LIMIT)).metrics(MetricsLayer::new(late.clone()));
    let large = |letter: u8| data([b"data: ", &[letter; 5_000][..], b"\n\n"].concat());
    // Two of them are taken at once, and handed on one by one.
    let response = events([large(b'a'), large(b'b'), large(b'c'), Step::Hang]);
    let mut body = open(layer, response).await;
    assert!(poll(&mut body).is_ready());
    sleep(OVER).await;
    assert_eq!(late.1.reasons(), [EndReason::Stalled]);
    let recording = record(body).await;
    let text = recording.text();
    assert_eq!(text.len(), 5_008);
    assert!(text.starts_with("data: bbb") && text.ends_with("bbb\n\n"));
    let broken = "event stream broken off: its client did not read";
    assert_eq!(recording.end.1, End::Error(broken.to_owned()));
    assert!(!late.0.load(Relaxed), "told of a frame behind the end");
    assert_eq!(late.1.reasons(), [EndReason::Stalled]);
}

#[tokio::test(start_paused = true)]
async fn an_end_of_its_own_comes_first() {
    let ends = Ends::default();
    let layer = watched(&StallLayer::after(LIMIT)).metrics(MetricsLayer::new(ends.clone()));
    let mut body = open(layer, events([data("data: x\n\n")])).await;
    assert!(poll(&mut body).is_ready());
    drop(body);
    sleep(10 * SECOND).await;
    assert_eq!(ends.reasons(), [EndReason::Complete]);
}

// === wakers ===

/// Counts how often it is woken.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

impl Bell {
    fn rung(&self) -> usize {
        self.0.load(SeqCst)
    }
}

fn poll_as(bell: &Arc<Bell>, body: &mut AnyBody) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
    let waker = Waker::from(bell.clone());
    Pin::new(body).poll_frame(&mut Context::from_waker(&waker))
}

/// What is sent comes out.
struct Fed(mpsc::UnboundedReceiver<Bytes>);

impl Body for Fed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = ready!(self.0.poll_recv(cx));
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

async fn fed(stall: &StallLayer) -> (mpsc::UnboundedSender<Bytes>, AnyBody) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let response = response("text/event-stream", Fed(receiver));
    let response = through(watched(stall), Client::Fetch.request(), response).await;
    (sender, response.into_body())
}

#[tokio::test(start_paused = true)]
async fn the_last_who_polled_is_woken_once() {
    let stall = StallLayer::after(LIMIT);
    let (sender, mut body) = fed(&stall).await;
    let (first, last) = (Arc::<Bell>::default(), Arc::<Bell>::default());
    assert!(poll_as(&first, &mut body).is_pending());
    assert!(poll_as(&last, &mut body).is_pending());
    sender.send("data: 1\n\n".into()).unwrap();
    sender.send("data: 2\n\n".into()).unwrap();
    assert_eq!((first.rung(), last.rung()), (0, 1));
    assert!(poll_as(&first, &mut body).is_ready());
    assert!(poll_as(&first, &mut body).is_pending());
    sender.send("data: 3\n\n".into()).unwrap();
    assert_eq!((first.rung(), last.rung()), (1, 1));
    drop((sender, body));
    assert_eq!(
        (Arc::strong_count(&first), Arc::strong_count(&last)),
        (1, 1),
        "nobody is kept"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wake_in_the_middle_of_a_poll_is_one() {
    struct Wakes;

    impl Body for Wakes {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    }

    let ends = Ends::default();
    let stall = StallLayer::after(LIMIT);
    let layer = watched(&stall).metrics(MetricsLayer::new(ends.clone()));
    let response = response("text/event-stream", Wakes);
    let mut body = through(layer, Client::Fetch.request(), response)
        .await
        .into_body();
    let bell = Arc::<Bell>::default();
    for polls in 1..100 {
        assert!(poll_as(&bell, &mut body).is_pending());
        assert_eq!(bell.rung(), polls);
        sleep(TURN).await;
        assert_eq!(ends.reasons(), []);
    }
    sleep(OVER).await;
    assert_eq!(ends.reasons(), [EndReason::Stalled]);
}

// === the task that looks ===

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn one_task_looks_and_only_while_there_is_something_to_look_at() {
    let stall = StallLayer::after(LIMIT);
    assert_eq!(tasks(), 0);
    for _ in 0..3 {
        let bodies = [fed(&stall).await, fed(&stall).await];
        assert_eq!(tasks(), 1);
        drop(bodies);
        // before its next look: it stays, and no second one comes
        let (sender, body) = fed(&stall).await;
        assert_eq!(tasks(), 1);
        sleep(OVER).await;
        assert!(sender.is_closed());
        sleep(TURN).await;
        assert_eq!(tasks(), 0, "although there is a body");
        drop(body);
    }
}

#[tokio::test(start_paused = true)]
async fn streams_outlive_their_layer_and_the_task_does_not_outlive_the_streams() {
    let stall = StallLayer::after(LIMIT);
    let (sender, body) = fed(&stall).await;
    let (_kept, other) = fed(&stall).await;
    drop((stall, other));
    sleep(OVER).await;
    assert!(sender.is_closed());
    drop(body);
    sleep(TURN).await;
    assert_eq!(tasks(), 0);
}

#[test]
fn another_runtime_takes_over_what_the_first_one_left() {
    let stall = StallLayer::after(LIMIT);
    let (first, before) = paused().block_on(fed(&stall));
    // Opened where there is no runtime at all.
    let (second, outside) = fed(&stall).now_or_never().expect("at once");
    paused().block_on(async {
        sleep(10 * SECOND).await;
        assert!(!first.is_closed() && !second.is_closed(), "nobody looks");
        let (third, inside) = fed(&stall).await;
        sleep(OVER).await;
        assert!(first.is_closed() && second.is_closed() && third.is_closed());
        drop(inside);
    });
    drop((before, outside));
}

/// A body that does something when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut() + Unpin> Body for OnDrop<F> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

async fn on_drop(stall: &StallLayer, act: impl FnMut() + Send + Unpin + 'static) -> AnyBody {
    let response = response("text/event-stream", OnDrop(act));
    let response = through(watched(stall), Client::Fetch.request(), response).await;
    response.into_body()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_panics_when_it_is_dropped_takes_nobody_with_it() {
    let stall = StallLayer::after(LIMIT);
    let limit = LimitLayer::new();
    let freed = Arc::<AtomicUsize>::default();
    let mut bodies = Vec::new();
    for _ in 0..10 {
        let freed = freed.clone();
        let panics = OnDrop(move || {
            freed.fetch_add(1, Relaxed);
            // without a line on standard error
            resume_unwind(Box::new("in drop"));
        });
        let layer = watched(&stall).limit(limit.clone());
        let response = response("text/event-stream", panics);
        bodies.push(through(layer, Client::Fetch.request(), response).await);
    }
    sleep(OVER).await;
    assert_eq!((freed.load(Relaxed), limit.open()), (10, 0));
    // ten of them at one look, and it looks on
    let (sender, _body) = fed(&stall).await;
    sleep(OVER).await;
    assert!(sender.is_closed());
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_others_are_freed_keeps_its_stream() {
    let stall = StallLayer::after(LIMIT);
    let freed = Arc::<AtomicUsize>::default();
    let bodies = Arc::<Mutex<Vec<AnyBody>>>::default();
    for _ in 0..3 {
        let (freed, others): (_, Weak<_>) = (freed.clone(), Arc::downgrade(&bodies));
        // The first that is freed takes so long that the clients of the others come.
        let body = on_drop(&stall, move || {
            freed.fetch_add(1, Relaxed);
            for body in others.upgrade().iter().flat_map(|all| all.try_lock()) {
                let mut body = body;
                for body in &mut *body {
                    let _ = poll(body);
                }
            }
        });
        let body = body.await;
        bodies.lock().unwrap().push(body);
    }
    sleep(100 * SECOND).await;
    assert_eq!(freed.load(Relaxed), 1);
}

// === threads ===

#[test]
fn a_stream_that_is_being_polled_is_left_alone_however_long_that_takes() {
    /// Is woken at once, and takes its time.
    struct Slow(usize);

    impl Body for Slow {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            cx.waker().wake_by_ref();
            thread::sleep(3 * LIMIT / 2);
            self.0 -= 1;
            let more = self.0 > 0;
            // One for each poll: what is large is not joined.
            Poll::Ready(more.then(|| Ok(Frame::data(vec![b'x'; 20_000].into()))))
        }
    }

    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let frames = runtime.block_on(async {
        let response = response("text/event-stream", Slow(3));
        let stall = StallLayer::after(LIMIT);
        let response = through(watched(&stall), Client::Fetch.request(), response).await;
        let mut body = response.into_body();
        let reader = tokio::spawn(async move {
            let mut frames = 0;
            while let Some(frame) = body.frame().await {
                assert_eq!(frame.unwrap().into_data().unwrap().len(), 20_000);
                frames += 1;
                // It has the limit from the frame on, not from what was there before.
                sleep(LIMIT / 2).await;
            }
            frames
        });
        reader.await.unwrap()
    });
    assert_eq!(frames, 2);
}

#[test]
fn who_reads_at_the_very_moment_gets_all_or_is_told() {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let ends = runtime.block_on(async {
        let stall = StallLayer::after(Duration::ZERO);
        let tasks = (0..400).map(|number| {
            let stall = stall.clone();
            tokio::spawn(async move {
                let (sender, mut body) = fed(&stall).await;
                // the watchdog's turn is 1 ms, and a bit more
                sleep(Duration::from_micros(8_000 + number * 25)).await;
                // from here on the client waits: it must be woken, for an event or for the end
                let told = tokio::spawn(async move { body.frame().await.unwrap() });
                sleep(Duration::from_millis(2)).await;
                let _ = sender.send("data: x\n\n".into());
                let told = timeout(30 * SECOND, told).await.expect("not for ever");
                told.unwrap().is_ok()
            })
        });
        join_all(tasks).await
    });
    let got = ends
        .into_iter()
        .filter(|got| *got.as_ref().unwrap())
        .count();
    println!("{got} of 400 were in time");
}

// === over sockets ===

/// Streams on a server: how many are open, and when the others went.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<Vec<Duration>>>, Arc<AtomicUsize>);

/// Events without an end: as fast as they are taken, or numbered, with a pause before each.
struct Numbers {
    next: u64,
    flood: Bytes,
    pace: Option<Interval>,
    streams: Streams,
    /// When it was last polled, which is when its client last had room.
    polled: Clock,
}

impl Streams {
    fn body(&self, pace: Option<Duration>) -> axum::body::Body {
        self.1.fetch_add(1, SeqCst);
        let pace = pace.map(|pace| {
            let mut pace = interval(pace);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            pace
        });
        axum::body::Body::new(Numbers {
            next: 0,
            flood: format!("data: {:x>16000}\n\n", "").into(),
            pace,
            streams: self.clone(),
            polled: Clock::now(),
        })
    }

    /// How long each that is gone had not been polled.
    fn gone(&self) -> Vec<Duration> {
        self.0.lock().unwrap().clone()
    }

    fn opened(&self) -> usize {
        self.1.load(SeqCst)
    }
}

impl Body for Numbers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.polled = Clock::now();
        let event = match &mut self.pace {
            Some(pace) => {
                ready!(pace.poll_tick(cx));
                self.next += 1;
                format!("data: {}\n\n", self.next).into()
            }
            // made once: a flood must cost no more than the sockets
            None => self.flood.clone(),
        };
        Poll::Ready(Some(Ok(Frame::data(event))))
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        let unread = self.polled.elapsed();
        self.streams.0.lock().unwrap().push(unread);
    }
}

/// A server of floods and of paced streams.
async fn numbers(stack: Stack, layer: SseLayer) -> (Server, [Streams; 2]) {
    let (floods, paced) = (Streams::default(), Streams::default());
    let of = |streams: &Streams, pace: Option<Duration>| {
        let streams = streams.clone();
        get(async move || respond(EVENT_STREAM, streams.body(pace)))
    };
    let app = Router::new()
        .route("/flood", of(&floods, None))
        .route("/paced", of(&paced, Some(Duration::from_millis(250))));
    (
        Server::start(stack, app, Some(layer)).await,
        [floods, paced],
    )
}

/// A client that asks, and reads nothing of the answer.
async fn deaf(server: std::net::SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.into()).unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut socket = TcpStream::from_std(socket.into()).unwrap();
    let request = b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut socket, request)
        .await
        .unwrap();
    socket
}

/// Reads until told to stop, and then checks that nothing was lost.
async fn faithful(mut reader: Reader, stop: &AtomicBool) -> u64 {
    let (mut next, mut open) = (0, Vec::new());
    while !stop.load(Relaxed) {
        let frame = soon("an event", reader.body.frame()).await;
        let frame = frame.expect("no end").expect("no break");
        open.extend_from_slice(&frame.into_data().unwrap());
        while let Some(end) = memchr::memmem::find(&open, b"\n\n") {
            let event: Vec<_> = open.drain(..end + 2).collect();
            next += 1;
            let expected = format!("data: {next}\n\n");
            assert_eq!(event, expected.as_bytes(), "one is missing");
        }
    }
    next
}

async fn until(what: &str, is: impl Fn() -> bool) {
    soon(what, async {
        while !is() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Longer than a busy machine lets a healthy stream wait.
const REAL: Duration = Duration::from_secs(3);

/// Connections of each protocol, and the streams on each: a process may have only 1,024 files open.
const HEALTHY: [(Protocol, usize, usize); 2] =
    [(Protocol::Http1, 100, 1), (Protocol::Http2, 10, 90)];
const DEAF: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_that_do_not_read_are_freed_beside_a_thousand_that_lose_nothing() {
    let ends = Ends::default();
    let limit = LimitLayer::new();
    let layer = watched(&StallLayer::after(REAL))
        .limit(limit.clone())
        .metrics(MetricsLayer::new(ends.clone()));
    let (server, [floods, paced]) = numbers(Stack::Axum, layer).await;
    let stop = Arc::<AtomicBool>::default();
    let healthy = HEALTHY
        .map(|(protocol, connections, streams)| (0..connections).map(move |_| (protocol, streams)));
    let healthy = healthy.into_iter().flatten().map(|(protocol, streams)| {
        let stop = stop.clone();
        tokio::spawn(async move {
            let mut connection = Connection::open(server.address, protocol).await;
            let mut readers = Vec::new();
            for _ in 0..streams {
                readers.push(connection.get("/paced", EVENT_SOURCE).await);
            }
            join_all(readers.into_iter().map(|reader| faithful(reader, &stop))).await
        })
    });
    let healthy: Vec<_> = healthy.collect();
    until("a thousand clients", || paced.opened() == 1_000).await;
    let deaf = join_all((0..DEAF).map(|_| deaf(server.address))).await;
    until("a hundred more", || floods.opened() == DEAF).await;
    let start = Clock::now();
    until("they are freed", || floods.gone().len() == DEAF).await;
    println!("all were freed after {:?}", start.elapsed());
    let soonest = floods.gone().into_iter().min().unwrap();
    assert!(soonest >= REAL, "{soonest:?}");
    until("and counted", || {
        ends.reasons() == [EndReason::Stalled; DEAF]
    })
    .await;
    assert_eq!((limit.open(), paced.gone().len()), (1_000, 0));
    stop.store(true, Relaxed);
    for clients in healthy {
        for events in clients.await.expect("nothing lost") {
            assert!(events > 0);
        }
    }
    drop(deaf);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_of_a_connection_that_is_not_read_and_one_that_is() {
    for stack in STACKS {
        let stall = StallLayer::after(SECOND);
        let (server, [floods, paced]) = numbers(stack, watched(&stall)).await;
        let mut connection = Connection::open(server.address, Protocol::Http2).await;
        let mut unread = connection.get("/flood", EVENT_SOURCE).await;
        let read = connection.get("/paced", EVENT_SOURCE).await;
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let read = tokio::spawn(async move { faithful(read, &stopped).await });
        until("it is freed", || floods.gone().len() == 1).await;
        let after = floods.gone()[0];
        assert!(after >= SECOND, "{stack:?}: {after:?}");
        // What is on its way comes, event by event, and then it breaks.
        let end = unread.end().await;
        assert_eq!(end, support::serve::End::Broken, "{stack:?}");
        assert!(unread.text().starts_with("data: xxx"));
        assert!(paced.gone().is_empty());
        stop.store(true, Relaxed);
        assert!(read.await.unwrap() > 0);
    }
}

// === the gateway ===

#[cfg(all(target_os = "linux", feature = "resume"))]
mod gateway {
    use std::fs;

    use tokio::io::AsyncReadExt;

    use super::{
        programs::{gateway::Gateway, process::eventually},
        *,
    };

    const NEVER: &str = "1h";

    /// A gateway in front of a flood, and a hundred clients that do not read.
    struct Deafened {
        _upstream: Server,
        gateway: Gateway,
        floods: Streams,
        deaf: Vec<TcpStream>,
        /// How many the gateway had open before they came.
        files: usize,
    }

    async fn deafened(flags: &[&str]) -> Deafened {
        let (upstream, [floods, _]) = numbers(Stack::Axum, SseLayer::new()).await;
        let url = format!("http://{}", upstream.address);
        let gateway = Gateway::before(&url, flags).await;
        let files = files(&gateway);
        let address = gateway.address.parse().unwrap();
        let deaf = join_all((0..DEAF).map(|_| deaf(address))).await;
        until("they have their streams", || floods.opened() == DEAF).await;
        Deafened {
            _upstream: upstream,
            gateway,
            floods,
            deaf,
            files,
        }
    }

    fn files(gateway: &Gateway) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", gateway.id()));
        files.expect("Linux").count()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_sockets_of_those_who_do_not_read_are_cut_off() {
        let flags = ["--write-timeout", "1s", "--stall-timeout", NEVER];
        let world = deafened(&flags).await;
        until("the upstream is let go of", || {
            world.floods.gone().len() == DEAF
        })
        .await;
        eventually("the sockets are closed", async || {
            (files(&world.gateway) <= world.files).then_some(())
        })
        .await;
        for mut socket in world.deaf {
            // what its system had taken, and then no more
            let mut bytes = Vec::new();
            let end = soon("the end", socket.read_to_end(&mut bytes)).await;
            assert!(bytes.starts_with(b"HTTP/1.1 200 OK\r\n"));
            assert!(
                end.is_err() || !bytes.ends_with(b"0\r\n\r\n"),
                "a clean end"
            );
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_upstream_is_let_go_of_and_the_place_is_free_where_the_sockets_stay() {
        let places = DEAF.to_string();
        let stall = ["--stall-timeout", "1s", "--write-timeout", NEVER];
        let flags = [&stall[..], &["--max-streams", &places]].concat();
        let world = deafened(&flags).await;
        let address = world.gateway.address.parse().unwrap();
        until("the upstream is let go of", || {
            world.floods.gone().len() == DEAF
        })
        .await;
        // Most of them: a system that takes one more piece late, as a busy one does, lets a server
        // ask for the next, and then it hears of the break.
        assert!(files(&world.gateway) > world.files + DEAF / 2);
        let mut connection = Connection::open(address, Protocol::Http1).await;
        let mut reader = connection.get("/paced", EVENT_SOURCE).await;
        reader.until("data: 2\n\n").await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_stop_takes_no_longer_for_those_who_do_not_read() {
        let flags = [
            ["--write-timeout", NEVER],
            ["--stall-timeout", NEVER],
            ["--drain-timeout", "1s"],
        ];
        let mut world = deafened(&flags.concat()).await;
        let start = Clock::now();
        world.gateway.signal("TERM");
        assert!(world.gateway.exit().await.success());
        // the deadline and the second after it, and whatever a busy machine needs
        let took = start.elapsed();
        assert!(took < Duration::from_secs(10), "{took:?}");
        until("the upstream is let go of", || {
            world.floods.gone().len() == DEAF
        })
        .await;
    }
}
