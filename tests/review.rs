#![cfg(feature = "resume")]
#![allow(dead_code)]
mod support;
use bytes::Bytes;
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use support::{
    body::{End, Step, data, pause, paused, request},
    reference,
    resume::{Fault, Faulty, Upstream, World, data_of},
};
use tokio::time::{Instant, sleep};
use tower_sse::{MemoryStore, ResumeLayer, ResumeStore, resume::*};

fn numbers(n: usize) -> Vec<Step> {
    (1..=n)
        .flat_map(|n| [pause(1.0), data(format!("data: {n}\n\n"))])
        .collect()
}
fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

#[derive(Clone, Debug)]
struct Spy {
    store: MemoryStore,
    hang_append: Arc<AtomicBool>,
    down: Arc<AtomicBool>,
    renews: Arc<AtomicUsize>,
    appends: Arc<Mutex<Vec<Vec<u64>>>>,
}
impl Spy {
    fn new() -> Self {
        Self {
            store: MemoryStore::new(),
            hang_append: Arc::default(),
            down: Arc::default(),
            renews: Arc::default(),
            appends: Arc::default(),
        }
    }
}
impl ResumeStore for Spy {
    fn open(&self, s: StreamId, a: Bytes) -> StoreFuture<'_, ()> {
        self.store.open(s, a)
    }
    fn append<'a>(&'a self, s: StreamId, e: &'a [StoredEvent], k: u64) -> StoreFuture<'a, ()> {
        if self.hang_append.load(Relaxed) {
            return StoreFuture::new(std::future::pending());
        }
        if self.down.load(Relaxed) {
            return StoreFuture::ready(Err(StoreError::failed("down")));
        }
        self.appends
            .lock()
            .unwrap()
            .push(e.iter().map(|e| e.number).collect());
        self.store.append(s, e, k)
    }
    fn close(&self, s: StreamId, l: u64, e: StreamEnd) -> StoreFuture<'_, ()> {
        self.store.close(s, l, e)
    }
    fn renew<'a>(&'a self, s: &'a [StreamId]) -> StoreFuture<'a, ()> {
        self.renews.fetch_add(1, Relaxed);
        if self.down.load(Relaxed) {
            return StoreFuture::ready(Err(StoreError::failed("down")));
        }
        self.store.renew(s)
    }
    fn attend<'a>(
        &'a self,
        r: &'a [StreamId],
        u: &'a [StreamId],
    ) -> StoreFuture<'a, Vec<StreamId>> {
        self.store.attend(r, u)
    }
    fn lease(&self) -> Duration {
        ResumeStore::lease(&self.store)
    }
    fn find(&self, s: StreamId) -> StoreFuture<'_, Option<Bytes>> {
        self.store.find(s)
    }
    fn read(&self, s: StreamId, a: u64, l: usize) -> StoreFuture<'_, Page> {
        self.store.read(s, a, l)
    }
    fn next(&self, s: StreamId, a: u64, l: usize) -> StoreFuture<'_, Page> {
        self.store.next(s, a, l)
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_that_ends_at_the_live_end_frees_upstream() {
    let big = "x".repeat(20_000);
    let mut steps = numbers(1);
    for _ in 0..10 {
        steps.extend([pause(1.0), data(format!("data: {big}\n\n"))]);
    }
    steps.push(pause(5.0));
    steps.extend(numbers(3));
    let world = World::of(steps);
    let first = world.post("").await;
    let stream = first.stream();
    first.record_for(1.5).await;
    sleep(seconds(11)).await;
    let again = world.post(&format!("{stream}.1")).await;
    assert_eq!(again.header("sse-resume"), "resumed");
    let rec = again.record_for(300.0).await;
    let n = reference::parse(&rec.bytes()).events.len();
    assert_eq!((n, &rec.end.1), (13, &End::Clean));
}

#[tokio::test(start_paused = true)]
async fn from_a_to_b_and_back_to_a() {
    let store = MemoryStore::new();
    let mut steps = numbers(5);
    for n in 6..=1500 {
        steps.extend([pause(0.01), data(format!("data: {n}\n\n"))]);
    }
    steps.push(pause(5.0));
    steps.extend(numbers(20));
    let (a, b) = (
        World::new(
            ResumeLayer::new(store.clone()),
            Upstream::new(steps.clone()),
        ),
        World::new(ResumeLayer::new(store.clone()), Upstream::new(steps)),
    );
    let first = a.post("").await;
    let stream = first.stream();
    first.record_for(5.005).await;
    let there = b.post(&format!("{stream}.5")).await;
    let rec = there.record_for(17.0).await;
    let n = 5 + reference::parse(&rec.bytes()).events.len();
    assert_eq!(n, 1500);
    let back = a.post(&format!("{stream}.{n}")).await;
    assert_eq!(back.header("sse-resume"), "resumed");
    let rec = back.record_for(300.0).await;
    let n = reference::parse(&rec.bytes()).events.len();
    assert_eq!((n, &rec.end.1), (20, &End::Clean));
}

#[tokio::test(start_paused = true)]
async fn a_reader_on_another_machine_is_a_reader() {
    let store = MemoryStore::new();
    let (la, lb) = (
        ResumeLayer::new(store.clone()),
        ResumeLayer::new(store.clone()),
    );
    let (a, b) = (
        World::new(la.clone(), Upstream::new(numbers(100))),
        World::new(lb, Upstream::new(numbers(100))),
    );
    let first = a.post("").await;
    let stream = first.stream();
    first.record_for(5.5).await;
    let rec = b.post(&format!("{stream}.5")).await.record().await;
    let n = reference::parse(&rec.bytes()).events.len();
    assert_eq!(
        (n, &rec.end.1),
        (95, &End::Clean),
        "{:?}",
        la.handle().stats()
    );
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_seen_fits_into_the_log() {
    for frame in [1, 100] {
        let events = 100_000;
        let steps: Vec<_> = (0..events / frame)
            .map(|n| {
                data(
                    (0..frame)
                        .map(|m| format!("data: {n:040}{m:040}\n\n"))
                        .collect::<String>(),
                )
            })
            .collect();
        let layer = ResumeLayer::new(MemoryStore::new())
            .max_events(2000)
            .grace(seconds(1000));
        let world = World::new(layer.clone(), Upstream::new(steps));
        let answer = world.listen("").await;
        let id = answer.stream();
        sleep(seconds(10)).await;
        drop(answer);
        sleep(seconds(10)).await;
        let again = world.listen(&format!("{id}.0")).await;
        assert_eq!(
            (frame, again.header("sse-resume"), world.calls()),
            (frame, "resumed", 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_cursor_ahead_harms_no_other_reader() {
    let store = MemoryStore::new();
    let (a, b) = (
        World::new(ResumeLayer::new(store.clone()), Upstream::new(numbers(30))),
        World::new(ResumeLayer::new(store.clone()), Upstream::new(numbers(30))),
    );
    let first = a.post("").await;
    let stream = first.stream();
    let _keep = tokio::spawn(first.events());
    sleep(Duration::from_millis(5500)).await;
    let ahead = tokio::spawn(b.post(&format!("{stream}.7")).await.record());
    sleep(Duration::from_millis(100)).await;
    let good = b.post(&format!("{stream}.5")).await;
    assert_eq!((good.header("sse-resume"), b.calls()), ("resumed", 0));
    let rec = good.record().await;
    assert_eq!(
        (reference::parse(&rec.bytes()).events.len(), &rec.end.1),
        (25, &End::Clean)
    );
    drop(ahead);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_follower_holds_up_nobody_who_is_ahead() {
    let store = MemoryStore::new();
    let mut steps = numbers(5);
    for n in 6..=3000 {
        steps.extend([pause(0.01), data(format!("data: {n}\n\n"))]);
    }
    steps.extend(numbers(20));
    let (a, b) = (
        World::new(
            ResumeLayer::new(store.clone()),
            Upstream::new(steps.clone()),
        ),
        World::new(ResumeLayer::new(store.clone()), Upstream::new(steps)),
    );
    let first = a.post("").await;
    let stream = first.stream();
    let reading = tokio::spawn(first.record());
    sleep(Duration::from_millis(5500)).await;
    // It gets into the live end, and then its client stalls.
    let mut stalled = b.post(&format!("{stream}.5")).await;
    for _ in 0..5 {
        use http_body_util::BodyExt;
        let _ = stalled.body.frame().await;
    }
    sleep(seconds(20)).await;
    let ahead = b.post(&format!("{stream}.2000")).await;
    assert_eq!(ahead.header("sse-resume"), "resumed");
    let rec = ahead.record_for(300.0).await;
    assert_eq!(
        (reference::parse(&rec.bytes()).events.len(), &rec.end.1),
        (1020, &End::Clean)
    );
    drop((stalled, reading));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_store_refuses_is_that_streams_own_trouble() {
    let store = MemoryStore::new().max_bytes(64 * 1024);
    let layer = ResumeLayer::new(store.clone());
    let big = data(format!("data: {}\n\n", "x".repeat(100_000)));
    let a = World::new(
        layer.clone(),
        Upstream::new([vec![big], numbers(60)].concat()),
    );
    let b = World::new(layer.clone(), Upstream::new(numbers(60)));
    let other = World::new(layer.clone(), Upstream::new(numbers(1)));
    let (ra, rb) = (a.post("").await, b.post("").await);
    let stream = rb.stream();
    tokio::spawn(ra.record());
    tokio::spawn(rb.record());
    let id: StreamId = stream.parse().unwrap();
    let mut unsafe_samples = 0;
    for _ in 0..300 {
        sleep(Duration::from_millis(100)).await;
        let stored = store
            .read(id, 0, 1000)
            .await
            .map_or(0, |p| p.events.last().map_or(0, |e| e.number));
        unsafe_samples += usize::from(stored < layer.handle().stream(id).unwrap().events);
    }
    let _ = other;
    assert_eq!(unsafe_samples, 0, "of 300; {:?}", layer.handle().stats());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_reads_and_does_not_write_is_waited_for_once() {
    let spy = Spy::new();
    let layer = ResumeLayer::new(spy.clone()).on_loss(tower_sse::LossPolicy::Gone);
    let world = World::new(
        layer.clone(),
        Upstream::new((1..=100).flat_map(|n| [pause(0.1), data(format!("data: {n}\n\n"))])),
    );
    let start = Instant::now();
    let reading = world.post("").await;
    spy.hang_append.store(true, Relaxed);
    let asks = world.clone();
    let asking = async {
        loop {
            let _ = asks
                .ask(request(
                    "GET",
                    "/",
                    &[("last-event-id", "ts_00000000000000000000000000000000.1")],
                ))
                .await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    let rec = tokio::select! { rec = reading.record() => rec, () = asking => unreachable!() };
    assert!(
        rec.end.0 < seconds(12),
        "took {:?} {:?} {:?}",
        start.elapsed(),
        rec.end.0,
        layer.handle().stats()
    );
}

#[tokio::test(start_paused = true)]
async fn a_comment_whose_blank_line_comes_late() {
    let world = World::of([
        data(": hi\n"),
        pause(1.0),
        data("\n"),
        pause(1.0),
        data("data: 1\n\n"),
    ]);
    let text = world.listen("").await.record().await.text();
    assert!(!text.contains(": hi\n\n"), "{text:?}");
}

#[test]
fn without_a_runtime_who_comes_back_is_served_too() {
    let world = World::of([data("data: 1\n\n")]);
    let answer = futures_util::FutureExt::now_or_never(world.ask(request(
        "GET",
        "/",
        &[("last-event-id", "ts_00000000000000000000000000000000.1")],
    )));
    assert!(answer.is_some());
}

#[tokio::test(start_paused = true)]
async fn numbers_in_an_append_follow_each_other() {
    let spy = Spy::new();
    let layer = ResumeLayer::new(spy.clone()).max_bytes(1000);
    let big = "x".repeat(600);
    let steps = [
        data("data: 1\n\n"),
        pause(1.0),
        data("data: 2\n\n"),
        pause(1.0),
        data(format!("data: {big}")),
        data(&big),
        pause(0.01),
        data("\n\n"),
        data("data: 4\n\n"),
        pause(20.0),
        data("data: 5\n\n"),
    ];
    let world = World::new(layer, Upstream::new(steps));
    let reading = tokio::spawn(world.post("").await.record());
    sleep(Duration::from_millis(500)).await;
    spy.down.store(true, Relaxed);
    sleep(Duration::from_millis(5500)).await;
    spy.down.store(false, Relaxed);
    reading.await.unwrap();
    let appends = spy.appends.lock().unwrap().clone();
    assert!(
        appends
            .iter()
            .all(|e| e.windows(2).all(|w| w[1] == w[0] + 1)),
        "{appends:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_hiccup_of_the_store_costs_nothing() {
    let spy = Spy::new();
    let layer = ResumeLayer::new(spy.clone());
    let mut steps = Vec::new();
    for n in 1..=5000 {
        steps.extend([pause(0.002), data(format!("data: {n}\n\n"))]);
    }
    let world = World::new(layer.clone(), Upstream::new(steps));
    let reading = tokio::spawn(world.post("").await.record());
    sleep(Duration::from_millis(500)).await;
    spy.down.store(true, Relaxed);
    sleep(Duration::from_millis(20)).await;
    spy.down.store(false, Relaxed);
    reading.await.unwrap();
    assert_eq!(layer.handle().stats().unstored, 0);
}

#[test]
fn leases_are_renewed_though_the_runtime_of_the_first_stream_is_gone() {
    let spy = Spy::new();
    let layer = ResumeLayer::new(spy.clone());
    let world = World::new(layer.clone(), Upstream::new(numbers(30)));
    let one = paused();
    let first = one.block_on(async { world.post("").await });
    drop(first);
    drop(one);
    assert!(layer.handle().streams().is_empty());
    paused().block_on(async {
        let second = tokio::spawn(world.post("").await.record());
        sleep(seconds(20)).await;
        drop(second);
    });
    assert!(spy.renews.load(Relaxed) > 0);
}

#[tokio::test(start_paused = true)]
async fn who_has_an_id_of_the_services_needs_no_store_for_a_stream_that_runs_here() {
    let store = Faulty::new();
    let world = World::new(
        ResumeLayer::new(store.clone()),
        Upstream::new(
            (1..=20).flat_map(|n| [pause(1.0), data(format!("id: x{n}\ndata: {n}\n\n"))]),
        ),
    );
    let first = world.post("").await;
    let stream = first.stream();
    let _r = tokio::spawn(first.record());
    sleep(Duration::from_millis(5500)).await;
    store.set(Fault::Down);
    let again = world
        .ask(request(
            "GET",
            "/",
            &[("last-event-id", "x5"), ("sse-stream", &stream)],
        ))
        .await;
    assert_eq!((again.header("sse-resume"), world.calls()), ("resumed", 1));
}

#[tokio::test(start_paused = true)]
async fn our_id_in_the_query_does_not_reach_the_service() {
    let world = World::new(
        ResumeLayer::new(MemoryStore::new()).query("last"),
        Upstream::new(numbers(1)),
    );
    world
        .ask(request(
            "GET",
            "/?last=ts_00000000000000000000000000000000.1",
            &[],
        ))
        .await;
    assert_eq!(world.request(0).uri().query(), None);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_answers_next_at_once_does_not_stop_the_runtime() {
    // see Follower::run; only by reading
}
#[tokio::test(start_paused = true)]
async fn a_lease_that_lapsed_breaks_nobody_where_the_stream_runs() {
    let spy = Spy::new();
    let layer = ResumeLayer::new(spy.clone());
    let big = "x".repeat(20_000);
    let mut steps = Vec::new();
    for _ in 0..10 {
        steps.extend([pause(0.1), data(format!("data: {big}\n\n"))]);
    }
    steps.push(pause(30.0));
    steps.extend(numbers(3));
    let world = World::new(layer.clone(), Upstream::new(steps));
    let first = world.post("").await;
    let stream = first.stream();
    let _r = tokio::spawn(first.record());
    sleep(seconds(2)).await;
    spy.down.store(true, Relaxed);
    sleep(seconds(15)).await;
    let again = world.post(&format!("{stream}.0")).await;
    assert_eq!(again.header("sse-resume"), "resumed");
    let rec = again.record().await;
    assert_eq!(
        (reference::parse(&rec.bytes()).events.len(), &rec.end.1),
        (13, &End::Clean)
    );
}
#[tokio::test(start_paused = true)]
async fn the_head_says_nothing_of_an_age_or_request() {}
