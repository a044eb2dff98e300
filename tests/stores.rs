//! What a store must do, tried on ours and on broken ones, and what ours holds in how much memory.

#![cfg(feature = "test-util")]

#[path = "support/allocations.rs"]
mod allocations;
#[path = "stores/broken.rs"]
mod broken;
#[path = "stores/model.rs"]
mod model;

use std::{
    collections::BTreeSet,
    hint,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    thread,
    time::Duration,
};

use allocations::Allocations;
use broken::{Broken, Fault};
use bytes::Bytes;
use futures_util::{
    FutureExt,
    task::{ArcWake, waker},
};
use model::{Answer, Call, Model, Refused, STREAMS, about, calls};
use proptest::prelude::*;
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, advance},
};
use tower_sse::resume::{
    MemoryStore, Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, StreamId,
    Then, conformance,
};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn paused() -> Runtime {
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build();
    runtime.expect("a runtime")
}

fn new_stream() -> StreamId {
    StreamId::random().expect("random numbers")
}

fn event(number: u64, bytes: impl Into<Bytes>) -> StoredEvent {
    let bytes = bytes.into();
    StoredEvent { number, bytes }
}

/// With a hundred bytes each.
fn events(numbers: impl IntoIterator<Item = u64>) -> Vec<StoredEvent> {
    let numbers = numbers.into_iter();
    numbers
        .map(|number| event(number, vec![b'x'; 100]))
        .collect()
}

/// What the store answers at once.
fn now<T: Unpin>(answer: StoreFuture<'_, T>) -> Result<T, StoreError> {
    answer.now_or_never().expect("an answer at once")
}

fn opened(store: &MemoryStore) -> StreamId {
    let stream = new_stream();
    now(store.open(stream, Bytes::from_static(b"about"))).expect("opened");
    stream
}

fn append(store: &MemoryStore, stream: StreamId, events: &[StoredEvent]) {
    now(store.append(stream, events, 0)).expect("appended");
}

fn close(store: &MemoryStore, stream: StreamId, last: u64) {
    now(store.close(stream, last, StreamEnd::Complete)).expect("closed");
}

/// The numbers of all events; nothing of a stream that is not there.
fn numbers(store: &MemoryStore, stream: StreamId) -> Option<Vec<u64>> {
    let page = match now(store.read(stream, 0, usize::MAX)) {
        Ok(page) => page,
        Err(StoreError::Unknown) => return None,
        Err(error) => panic!("{error}"),
    };
    Some(page.events.iter().map(|event| event.number).collect())
}

fn is_full(answer: &Result<(), StoreError>) -> bool {
    matches!(answer, Err(StoreError::Refused(_)))
}

// === what every store must do ===

#[tokio::test(start_paused = true)]
async fn memory_keeps_every_rule() {
    let store = MemoryStore::new();
    conformance::check(async || store.clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_every_rule_in_real_time() {
    let store = MemoryStore::new().lease(2 * SECOND);
    conformance::check(async || store.clone()).await;
}

#[test]
fn every_fault_breaks_its_rule() {
    for (fault, rule) in Fault::ALL {
        let broken = broken_rules(&Broken::new(fault));
        assert!(broken.contains(rule), "{fault:?} breaks only {broken:?}");
    }
}

#[test]
fn every_rule_is_broken_by_a_fault() {
    let broken: BTreeSet<_> = Fault::ALL.into_iter().map(|(_, rule)| rule).collect();
    let rules: BTreeSet<_> = conformance::checks().map(|check| check.rule()).collect();
    assert_eq!(broken, rules);
}

/// Those that panic, as they must, with their rule.
fn broken_rules(store: &Broken) -> BTreeSet<&'static str> {
    let mut broken = BTreeSet::new();
    for check in conformance::checks() {
        let attempt = || paused().block_on(check.run(async || store.clone()));
        if let Err(panic) = catch_unwind(AssertUnwindSafe(attempt)) {
            let message = panic.downcast::<String>().expect("a message");
            assert!(message.starts_with(check.rule()), "{message}");
            broken.insert(check.rule());
        }
    }
    broken
}

// === the bounds ===

#[test]
fn whatever_comes_the_store_stays_within_its_bytes() {
    const MAX: usize = 4 * 1024 * 1024;
    let before = Allocations::so_far().held;
    let store = MemoryStore::new().max_bytes(MAX);
    let within = || {
        let held = Allocations::so_far().held - before;
        assert!(store.used() <= MAX, "{store:?}");
        // What the allocator counts lacks what it takes for itself.
        assert!(held <= store.used() as isize, "{held} of {store:?}");
    };
    let running: Vec<_> = (0..1000).map(|_| opened(&store)).collect();
    for round in 0..20 {
        for _ in 0..500 {
            let finished = opened(&store);
            append(&store, finished, &events(1..=20));
            close(&store, finished, 20);
            within();
        }
        for stream in &running {
            append(&store, *stream, &events([round + 1]));
        }
        within();
    }
    // The running ones alone are more than fits.
    let kept = running.iter().map(|stream| numbers(&store, *stream));
    let kept: Vec<_> = kept.map(|numbers| numbers.expect("still known")).collect();
    assert!(
        kept.iter()
            .all(|numbers| numbers.iter().copied().eq(21 - numbers.len() as u64..=20))
    );
    let evicted = store.evicted();
    let left: usize = kept.iter().map(Vec::len).sum();
    assert_eq!((store.streams(), evicted.streams), (1000, 10_000));
    assert_eq!(evicted.events as usize, 220_000 - left);
}

#[test]
fn the_account_covers_what_the_process_holds() {
    for (streams, each, bytes) in [
        (10_000, 0, 0),
        (10_000, 1, 10),
        (1000, 33, 1),
        (100, 129, 100),
        (1, 70_000, 10),
    ] {
        let before = Allocations::so_far().held;
        let store = MemoryStore::new();
        for _ in 0..streams {
            let stream = opened(&store);
            for number in 1..=each {
                append(&store, stream, &[event(number, vec![b'x'; bytes])]);
            }
            if each % 2 == 0 {
                close(&store, stream, each);
            }
        }
        let held = (Allocations::so_far().held - before) as usize;
        let used = store.used();
        assert!(held <= used && used < 4 * held, "{held} of {store:?}");
    }
}

#[test]
fn the_account_is_what_is_held_and_goes_back_to_nothing() {
    paused().block_on(async {
        let store = MemoryStore::new().keep(60 * SECOND);
        assert_eq!(store.used(), 0);
        for n in 0..500 {
            let stream = opened(&store);
            assert_eq!(store.streams(), n + 1);
            append(&store, stream, &events(1..=3));
            append(&store, stream, &events(2..=4));
            now(store.append(stream, &events(5..=5), 3)).expect("appended");
            assert_eq!(numbers(&store, stream), Some(vec![3, 4, 5]));
            let each = 512 + "about".len() + 3 * (128 + 100);
            assert_eq!(store.used(), (n + 1) * each);
            if n % 2 == 0 {
                close(&store, stream, 5);
            }
        }
        advance(60 * SECOND).await;
        for _ in 0..=500 / 4 {
            assert_eq!(now(store.find(new_stream())).expect("an answer"), None);
        }
        assert_eq!((store.streams(), store.used()), (0, 0));
        assert_eq!((store.evicted().streams, store.evicted().events), (0, 0));
    });
}

#[test]
fn ended_streams_go_first_then_the_oldest_events_of_running_ones() {
    // Four streams, and ten events.
    let store = MemoryStore::new().max_bytes(4 * (512 + 5) + 10 * 228);
    let [a, b, c, d] = [0; 4].map(|_| opened(&store));
    for stream in [c, a, d, b] {
        append(&store, stream, &events(1..=2));
    }
    close(&store, d, 2);
    close(&store, b, 2);
    let left = || [a, b, c, d].map(|stream| numbers(&store, stream));
    append(&store, a, &events(3..=5));
    // The first that ended is gone, and its stream's cost is two events more.
    assert_eq!(
        left(),
        [
            Some(vec![1, 2, 3, 4, 5]),
            Some(vec![1, 2]),
            Some(vec![1, 2]),
            None
        ]
    );
    append(&store, a, &events(6..=9));
    assert_eq!(
        left(),
        [Some((1..=9).collect()), None, Some(vec![1, 2]), None]
    );
    // Running ones are known when they have nothing left.
    append(&store, a, &events(10..=15));
    assert_eq!(left(), [Some((2..=15).collect()), None, Some(vec![]), None]);
    append(&store, c, &events(3..=3));
    append(&store, a, &events(16..=16));
    assert_eq!(
        left(),
        [Some((4..=16).collect()), None, Some(vec![3]), None]
    );
    assert_eq!((store.evicted().streams, store.evicted().events), (2, 9));
}

#[test]
fn what_does_not_fit_is_refused() {
    let store = MemoryStore::new().max_bytes(3 * (512 + 5) + 1000);
    let [ended, running, empty] = [0; 3].map(|_| opened(&store));
    for stream in [ended, running] {
        append(&store, stream, &events(1..=1));
    }
    close(&store, ended, 1);
    let used = store.used();
    let large = [event(2, vec![b'x'; 3000])];
    assert!(is_full(&now(store.append(running, &large, 0))));
    assert!(is_full(&now(
        store.open(new_stream(), large[0].bytes.clone())
    )));
    assert_eq!(store.used(), used);
    assert_eq!(numbers(&store, ended), Some(vec![1]));

    // Nothing but streams that run, and room for none more.
    let more: Vec<_> = (0..2).map(|_| opened(&store)).collect();
    assert_eq!(numbers(&store, ended), None);
    assert!(is_full(&now(store.open(new_stream(), Bytes::new()))));
    for stream in more.into_iter().chain([running, empty]) {
        assert_eq!(numbers(&store, stream), Some(vec![]));
    }
}

/// Bytes that call the store when they are dropped.
struct Calls(MemoryStore, StreamId, Arc<AtomicUsize>);

impl AsRef<[u8]> for Calls {
    fn as_ref(&self) -> &[u8] {
        &[b'x'; 100]
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        let Self(store, stream, dropped) = self;
        assert!(store.streams() <= 2 && store.used() < 10_000);
        drop(now(store.append(*stream, &[], 0)));
        drop(now(store.open(*stream, Bytes::new())));
        dropped.fetch_add(1, SeqCst);
    }
}

#[test]
fn no_lock_is_held_where_events_are_dropped() {
    paused().block_on(async {
        let store = MemoryStore::new().max_bytes(2000).keep(SECOND);
        let stream = opened(&store);
        let dropped = Arc::<AtomicUsize>::default();
        let calls = |number| {
            let owner = Calls(store.clone(), stream, dropped.clone());
            event(number, Bytes::from_owner(owner))
        };
        let gone = || dropped.load(SeqCst);
        append(&store, stream, &[calls(1), calls(2)]);
        now(store.append(stream, &[calls(3)], 2)).expect("appended");
        assert_eq!(gone(), 1, "dropped by keep_from");
        append(&store, stream, &[event(4, vec![b'x'; 1000])]);
        append(&store, stream, &[calls(5)]);
        assert_eq!(gone(), 3, "evicted from a running stream");
        close(&store, stream, 5);
        let other = opened(&store);
        append(&store, other, &[event(1, vec![b'x'; 500])]);
        assert_eq!(gone(), 4, "evicted with an ended stream");
        now(store.open(stream, Bytes::new())).expect("opened");
        append(&store, stream, &[calls(6)]);
        advance(SECOND).await;
        drop(now(store.find(other)));
        assert_eq!(gone(), 5, "too old");
    });
}

#[test]
fn producers_that_run_at_once_do_not_upset_the_account() {
    const MAX: usize = 100_000;
    let runtime = paused();
    let _inside = runtime.enter();
    let store = MemoryStore::new().max_bytes(MAX).keep(60 * SECOND);
    let work = |store: MemoryStore, worker: u64| {
        for n in 0..300 {
            let stream = opened(&store);
            for number in 1..=n % 20 {
                // May be evicted by then, or find no room among the others.
                drop(now(store.append(
                    stream,
                    &events([number]),
                    number.saturating_sub(5),
                )));
                assert!(store.used() <= MAX + 4 * 1000);
            }
            if n % 10 != worker {
                drop(now(store.close(stream, n % 20, StreamEnd::Complete)));
            }
        }
    };
    thread::scope(|threads| {
        for worker in 0..4 {
            let store = store.clone();
            threads.spawn(move || work(store, worker));
        }
    });
    runtime.block_on(advance(120 * SECOND));
    while store.streams() > 0 {
        assert_eq!(now(store.find(new_stream())).expect("an answer"), None);
    }
    assert_eq!(store.used(), 0);
}

// === time ===

#[tokio::test(start_paused = true)]
async fn a_stream_is_kept_for_its_time_after_the_last_sign_of_life() {
    let store = MemoryStore::new().keep(60 * SECOND).lease(600 * SECOND);
    let one = |stream| numbers(&store, stream).map(|numbers| numbers.len());
    let signs: [fn(&MemoryStore, StreamId); 4] = [
        |store, stream| drop(now(store.open(stream, Bytes::new()))),
        |store, stream| append(store, stream, &events(1..=1)),
        |store, stream| drop(now(store.renew(&[stream]))),
        |store, stream| close(store, stream, 1),
    ];
    for sign in signs {
        let stream = opened(&store);
        advance(59 * SECOND).await;
        sign(&store, stream);
        advance(60 * SECOND - MILLISECOND).await;
        assert!(one(stream).is_some());
        // Who only reads does not keep it.
        assert!(now(store.find(stream)).is_ok_and(|about| about.is_some()));
        let told = now(store.attend(&[stream], &[stream]));
        assert_eq!(told.expect("an answer"), [stream]);
        advance(MILLISECOND).await;
        assert_eq!(one(stream), None);
        let told = now(store.attend(&[stream], &[stream]));
        assert_eq!(told.expect("an answer"), []);
        assert!(now(store.find(stream)).is_ok_and(|about| about.is_none()));
        let answer = now(store.append(stream, &events(2..=2), 0));
        assert!(matches!(answer, Err(StoreError::Unknown)));
        assert_eq!(store.streams(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_told_when_a_stream_is_lost_or_goes() {
    let begin = Instant::now();
    let store = MemoryStore::new().lease(10 * SECOND);
    let stream = opened(&store);
    let next = store.next(stream, 0, 1);
    advance(4 * SECOND).await;
    now(store.renew(&[stream])).expect("renewed");
    let then = next.await.expect("a page").then;
    assert_eq!((then, begin.elapsed().as_secs()), (Then::Lost, 14));

    now(store.renew(&[stream])).expect("renewed");
    let store = store.keep(5 * SECOND);
    let answer = store.next(stream, 0, 1).await;
    assert!(matches!(answer, Err(StoreError::Unknown)), "{answer:?}");
    assert_eq!(begin.elapsed().as_secs(), 19);
}

#[tokio::test]
async fn nobody_sleeps_over_an_event_that_comes_while_it_looks() {
    const ROUNDS: u64 = 30_000;
    let store = MemoryStore::new();
    let [there, back] = [0; 2].map(|_| opened(&store));
    let other = store.clone();
    // Answers each event a little sooner or later, to meet every step of who waits for it.
    let answering = thread::spawn(move || {
        for number in 1..=ROUNDS {
            while now(other.read(there, number - 1, 1)).is_ok_and(|page| page.events.is_empty()) {}
            for _ in 0..number % 1024 {
                hint::spin_loop();
            }
            append(&other, back, &[event(number, Bytes::new())]);
        }
    });
    for number in 1..=ROUNDS {
        append(&store, there, &[event(number, Bytes::new())]);
        let page = store.next(back, number - 1, 1).await.expect("a page");
        assert_eq!(page.then, Then::Running, "missed {number}");
    }
    answering.join().expect("no panic");
}

// === what it costs ===

#[test]
fn an_append_allocates_nothing_but_room_in_the_log() {
    let store = MemoryStore::new();
    let stream = opened(&store);
    let events: Vec<_> = (1..=20_000)
        .map(|number| event(number, Bytes::from_static(b"data: x\n\n")))
        .collect();
    let allocations = |events: &[StoredEvent], window: u64| {
        let before = Allocations::so_far().count;
        for event in events {
            let keep_from = event.number.saturating_sub(window);
            let one = std::slice::from_ref(event);
            now(store.append(stream, one, keep_from)).expect("appended");
        }
        Allocations::so_far().count - before
    };
    // It doubles from four to 16,384, and is ranked.
    let growing = allocations(&events[..10_000], u64::MAX);
    assert!(growing <= 14, "{growing} allocations");
    let held = Allocations::so_far().held;
    // Once it is small again.
    allocations(&events[10_000..11_000], 100);
    assert!(Allocations::so_far().held < held - 500_000);
    assert_eq!(allocations(&events[11_000..], 100), 0);
    assert_eq!(
        numbers(&store, stream).map(|numbers| numbers.len()),
        Some(101)
    );
}

#[test]
fn a_wait_that_is_dropped_leaves_nothing_behind() {
    paused().block_on(async {
        let store = MemoryStore::new();
        let stream = opened(&store);
        let wait = || assert!(store.next(stream, 0, 1).now_or_never().is_none());
        wait();
        let before = Allocations::so_far().held;
        for _ in 0..1000 {
            wait();
        }
        assert_eq!(Allocations::so_far().held, before);
    });
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn those_who_wait_for_a_stream_are_woken_once_by_each_append() {
    paused().block_on(async {
        let store = MemoryStore::new();
        let [stream, other] = [0; 2].map(|_| opened(&store));
        let woken = Arc::<Woken>::default();
        let (waker, count) = (waker(woken.clone()), || woken.0.load(SeqCst));
        let mut context = Context::from_waker(&waker);
        let mut waits: Vec<_> = (0..10).map(|_| store.next(stream, 2, 1)).collect();
        let mut ready = || {
            let polls = waits.iter_mut().map(|wait| wait.poll_unpin(&mut context));
            polls.filter(Poll::is_ready).count()
        };
        assert_eq!((ready(), count()), (0, 0));
        append(&store, other, &events(1..=5));
        assert_eq!(count(), 0);
        // What was known is no news.
        append(&store, stream, &events(1..=2));
        assert_eq!((count(), ready(), count()), (10, 0, 10));
        append(&store, stream, &events(1..=2));
        now(store.renew(&[stream])).expect("renewed");
        assert_eq!((count(), ready(), count()), (10, 0, 10));
        append(&store, stream, &events(1..=3));
        assert_eq!((count(), ready()), (20, 10));
    });
}

// === against the model ===

fn refused<T>(answer: Result<T, StoreError>) -> Result<T, Refused> {
    answer.map_err(|error| match error {
        StoreError::Unknown => Refused::Unknown,
        StoreError::Refused(_) => Refused::Full,
        StoreError::Failed(error) => panic!("{error}"),
    })
}

/// What the store answers, where the model is as it was before the call.
async fn answer(store: &MemoryStore, ids: &[StreamId], model: &Model, call: &Call) -> Answer {
    let number = |stream| ids.iter().position(|id| id == stream);
    match call {
        Call::Open(n) => Answer::Done(refused(store.open(ids[*n], about(*n)).await)),
        Call::Append(n, batch) => {
            let (events, keep_from) = model.batch(*n, *batch);
            Answer::Done(refused(store.append(ids[*n], &events, keep_from).await))
        }
        Call::Close(n, end) => {
            let last = model.newest(*n);
            Answer::Done(refused(store.close(ids[*n], last, *end).await))
        }
        Call::Renew(streams) => {
            let streams: Vec<_> = streams.iter().map(|n| ids[*n]).collect();
            Answer::Done(refused(store.renew(&streams).await))
        }
        Call::Attend(read, unread) => {
            let [read, unread] = [read, unread].map(|streams| streams.iter().map(|n| ids[*n]));
            let (read, unread): (Vec<_>, Vec<_>) = (read.collect(), unread.collect());
            let told = store.attend(&read, &unread).await.expect("an answer");
            Answer::Read(told.iter().filter_map(number).collect())
        }
        Call::Find(n) => Answer::Found(store.find(ids[*n]).await.expect("an answer")),
        Call::Read(n, after, limit) => {
            let page = refused(store.read(ids[*n], *after, *limit).await);
            let next = store.next(ids[*n], *after, *limit).now_or_never();
            let nothing = Ok(Page {
                events: vec![],
                then: Then::Running,
            });
            let waits = page == nothing;
            assert_eq!(next.map(refused).as_ref(), (!waits).then_some(&page));
            Answer::Page(page)
        }
        Call::Wait(time) => {
            advance(*time).await;
            Answer::Done(Ok(()))
        }
    }
}

async fn does_as_the_model(max_bytes: usize, calls: Vec<Call>) {
    let (keep, lease) = (25 * SECOND, 10 * SECOND);
    let mut model = Model::new(max_bytes, keep, lease);
    let store = MemoryStore::new();
    let store = store.max_bytes(max_bytes).keep(keep).lease(lease);
    let ids: Vec<_> = (0..STREAMS).map(|_| new_stream()).collect();
    for call in calls {
        let answer = answer(&store, &ids, &model, &call).await;
        assert_eq!(answer, model.answer(&call), "{call:?}");
        let evicted = store.evicted();
        let model_evicted = (model.evicted_streams, model.evicted_events);
        assert_eq!((evicted.streams, evicted.events), model_evicted, "{call:?}");
        // What is too old may still be there.
        assert!(store.used() >= model.used() && store.used() <= max_bytes);
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn memory_does_as_the_model_does_over_time(calls in calls(true)) {
        paused().block_on(does_as_the_model(1 << 30, calls));
    }

    #[test]
    fn memory_does_as_the_model_does_when_room_is_short(calls in calls(false), room in 1000..6000_usize) {
        paused().block_on(does_as_the_model(room, calls));
    }
}
