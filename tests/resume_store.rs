//! Streams and their store: one that fails, one that several machines share, and the pace at which
//! upstream is read.
#![cfg(feature = "resume")]

mod support;

use std::time::Duration;

use futures_util::FutureExt;
use http::StatusCode;
use http_body_util::BodyExt;
use support::{
    body::{End, Step, data, pause, paused, request},
    reference,
    resume::{Answer, Fault, Faulty, Upstream, World, data_of, expected, numbers, seconds},
};
use tokio::time::{Instant, sleep};
use tower_sse::{LossPolicy, MemoryStore, ResumeLayer, ResumeStore, resume::StreamId};

/// An id of ours that nobody has given.
const UNKNOWN: &str = "ts_00000000000000000000000000000000.1";

/// A machine that shares the store.
fn machine(store: &MemoryStore, steps: &[Step]) -> World {
    let layer = ResumeLayer::new(store.clone());
    World::new(layer, Upstream::new(steps.iter().cloned()))
}

/// How many events there were, and how it ended.
async fn count(answer: Answer) -> (usize, End) {
    let recording = answer.record_for(300.0).await;
    let events = reference::parse(&recording.bytes()).events;
    (events.len(), recording.end.1)
}

/// `data: first` to `data: last`, a hundred a second.
fn fast(first: usize, last: usize) -> impl Iterator<Item = Step> {
    (first..=last).flat_map(|n| [pause(0.01), data(format!("data: {n}\n\n"))])
}

/// Ten large events in a second: more than the live end holds.
fn large() -> Vec<Step> {
    let event = data(format!("data: {}\n\n", "x".repeat(20_000)));
    (0..10).flat_map(|_| [pause(0.1), event.clone()]).collect()
}

// === a store that fails ===

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_stops_nothing_and_gets_what_it_missed() {
    for fault in [Fault::Down, Fault::Hung] {
        let store = Faulty::default();
        let layer = ResumeLayer::new(store.clone());
        let world = World::new(layer.clone(), Upstream::new(numbers(20)));
        let first = world.listen("").await;
        let stream = first.stream();
        let first = tokio::spawn(first.record());
        sleep(Duration::from_millis(3500)).await;
        store.set(fault);
        sleep(seconds(5)).await;
        // Here the stream runs, so who comes back needs no store.
        let here = world.listen(&format!("{stream}.5")).await;
        assert_eq!(here.header("sse-resume"), "resumed");
        let here = tokio::spawn(here.events());
        store.set(Fault::None);
        let first = first.await.unwrap();
        assert_eq!(
            data_of(&reference::parse(&first.bytes()).events),
            expected(1, 20)
        );
        // It waits for a store that does not answer once, not for each event.
        let late = first
            .frames
            .iter()
            .enumerate()
            .map(|(n, (at, _))| *at - seconds(n as u64 + 1));
        assert!(late.max().unwrap() <= seconds(1), "{first:?}");
        assert_eq!(data_of(&here.await.unwrap()), expected(6, 20));
        sleep(seconds(60)).await;
        let again = world.listen(&format!("{stream}.0")).await;
        assert_eq!(data_of(&again.events().await), expected(1, 20));
        let stats = layer.handle().stats();
        assert_eq!((stats.unstored, world.calls()), (0, 1));
        assert!((1..30).contains(&stats.store_faults), "{stats:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_waits_for_a_store_that_is_down_and_does_not_break() {
    let store = Faulty::default();
    let steps: Vec<_> = (1..=3000).map(|n| data(format!("data: {n}\n\n"))).collect();
    let world = World::new(ResumeLayer::new(store.clone()), Upstream::new(steps));
    let stream = world.post("").await.stream();
    sleep(seconds(1)).await;
    let again = world.post(&format!("{stream}.0")).await;
    store.set(Fault::Down);
    let again = tokio::spawn(again.record());
    sleep(seconds(20)).await;
    store.set(Fault::None);
    let recording = again.await.unwrap();
    assert_eq!(recording.end.1, End::Clean);
    assert!(recording.end.0 >= seconds(20));
    assert_eq!(
        data_of(&reference::parse(&recording.bytes()).events),
        expected(1, 3000)
    );
}

#[tokio::test(start_paused = true)]
async fn without_its_store_a_stream_that_has_gone_is_lost() {
    let store = Faulty::default();
    let world = World::new(ResumeLayer::new(store.clone()), Upstream::new(numbers(2)));
    let answer = world.post("").await;
    let stream = answer.stream();
    answer.events().await;
    sleep(seconds(1)).await;
    store.set(Fault::Hung);
    let lost = world.post(&format!("{stream}.1")).await;
    assert_eq!(lost.header("sse-resume"), "lost");
    assert_eq!(data_of(&lost.events().await), expected(1, 2));
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_was_too_long_is_a_loss_that_is_said() {
    let store = Faulty::default();
    let steps = (1..=5000).flat_map(|n| [data(format!("data: {n}\n\n")), pause(0.01)]);
    let layer = ResumeLayer::new(store.clone());
    let world = World::new(layer.clone(), Upstream::new(steps));
    let first = world.post("").await;
    let stream = first.stream();
    let first = tokio::spawn(first.events());
    sleep(seconds(5)).await;
    store.set(Fault::Down);
    sleep(seconds(30)).await;
    store.set(Fault::None);
    assert_eq!(first.await.unwrap().len(), 5000);
    sleep(seconds(5)).await;
    assert!(layer.handle().stats().unstored > 1000);
    assert_eq!(
        world
            .post(&format!("{stream}.600"))
            .await
            .header("sse-resume"),
        "lost"
    );
    let cut = world.post(&format!("{stream}.100")).await.record().await;
    assert!(matches!(cut.end.1, End::Error(_)));
    let events = reference::parse(&cut.bytes()).events;
    assert_eq!(data_of(&events), expected(101, 100 + events.len()));
    let end = world.post(&format!("{stream}.4900")).await;
    assert_eq!(data_of(&end.events().await), expected(4901, 5000));
}

#[tokio::test(start_paused = true)]
async fn a_hiccup_of_the_store_costs_nothing() {
    let store = Faulty::default();
    let layer = ResumeLayer::new(store.clone());
    let world = World::new(layer.clone(), Upstream::new(fast(1, 1000)));
    let reading = tokio::spawn(world.post("").await.events());
    sleep(Duration::from_millis(500)).await;
    store.set(Fault::Down);
    sleep(Duration::from_millis(20)).await;
    store.set(Fault::None);
    assert_eq!(reading.await.unwrap().len(), 1000);
    assert_eq!(layer.handle().stats().unstored, 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_reads_and_does_not_write_is_waited_for_seldom() {
    let store = Faulty::default();
    let layer = ResumeLayer::new(store.clone()).on_loss(LossPolicy::Gone);
    let world = World::new(layer, Upstream::new(fast(1, 1000)));
    let reading = world.post("").await;
    store.set(Fault::HungAppends);
    // That reads work says nothing.
    let asking = async {
        loop {
            world.listen(UNKNOWN).await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    let recording = tokio::select! {
        recording = reading.record() => recording,
        () = asking => unreachable!(),
    };
    assert!(recording.end.0 < seconds(13), "{:?}", recording.end);
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_store_refuses_is_the_trouble_of_its_stream_alone() {
    let store = MemoryStore::new().max_bytes(64 * 1024);
    let layer = ResumeLayer::new(store.clone());
    let refused = data(format!("data: {}\n\n", "x".repeat(100_000)));
    let steps = [vec![refused], numbers(60)].concat();
    let troubled = World::new(layer.clone(), Upstream::new(steps));
    let other = World::new(layer.clone(), Upstream::new(numbers(60)));
    let troubled = tokio::spawn(troubled.post("").await.events());
    let answer = other.post("").await;
    let id: StreamId = answer.stream().parse().unwrap();
    let answer = tokio::spawn(answer.events());
    for second in 1..=30 {
        sleep(seconds(1)).await;
        let stored = store.read(id, 0, 1000).await.unwrap().events.len() as u64;
        let shown = layer.handle().stream(id).unwrap().events;
        assert_eq!(stored, shown, "after {second} s");
    }
    assert_eq!(troubled.await.unwrap().len(), 61);
    assert_eq!(answer.await.unwrap().len(), 60);
    assert_eq!(layer.handle().stats().unstored, 1);
}

#[tokio::test(start_paused = true)]
async fn the_numbers_of_an_append_follow_each_other() {
    let store = Faulty::default();
    let layer = ResumeLayer::new(store.clone()).max_bytes(1000);
    let half = "x".repeat(600);
    let steps = [
        data("data: 1\n\n"),
        pause(1.0),
        data("data: 2\n\n"),
        // Too large to be stored.
        data(format!("data: {half}")),
        data(format!("{half}\n\n")),
        data("data: 4\n\n"),
        pause(20.0),
        data("data: 5\n\n"),
    ];
    let world = World::new(layer, Upstream::new(steps));
    let reading = tokio::spawn(world.post("").await.events());
    sleep(Duration::from_millis(500)).await;
    store.set(Fault::Down);
    sleep(seconds(5)).await;
    store.set(Fault::None);
    assert_eq!(reading.await.unwrap().len(), 5);
    let appends = store.seen().appends;
    assert_eq!(appends[0], [1]);
    assert_eq!(appends[appends.len() - 3..], [vec![2], vec![4], vec![5]]);
}

#[tokio::test(start_paused = true)]
async fn who_has_an_id_of_the_service_needs_no_store_where_the_stream_runs() {
    let store = Faulty::default();
    let steps = (1..=20).flat_map(|n| [pause(1.0), data(format!("id: x{n}\ndata: {n}\n\n"))]);
    let world = World::new(ResumeLayer::new(store.clone()), Upstream::new(steps));
    let first = world.post("").await;
    let stream = first.stream();
    let first = tokio::spawn(first.events());
    sleep(Duration::from_millis(5500)).await;
    store.set(Fault::Down);
    let headers = [("last-event-id", "x5"), ("sse-stream", &stream)];
    let again = world.ask(request("GET", "/", &headers)).await;
    assert_eq!(data_of(&again.events().await), expected(6, 20));
    assert_eq!((first.await.unwrap().len(), world.calls()), (20, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_lapsed_breaks_nobody_where_the_stream_runs() {
    let store = Faulty::default();
    let steps = [large(), vec![pause(30.0)], numbers(3)].concat();
    let world = World::new(ResumeLayer::new(store.clone()), Upstream::new(steps));
    let first = world.post("").await;
    let stream = first.stream();
    let first = tokio::spawn(first.events());
    sleep(seconds(2)).await;
    // Its process cannot renew, and then it can read.
    store.set(Fault::Down);
    sleep(seconds(15)).await;
    store.set(Fault::None);
    let again = world.post(&format!("{stream}.0")).await;
    assert_eq!(count(again).await, (13, End::Clean));
    assert_eq!(first.await.unwrap().len(), 13);
}

#[test]
fn leases_are_renewed_though_the_runtime_of_the_first_stream_has_gone() {
    let store = Faulty::default();
    let layer = ResumeLayer::new(store.clone());
    let world = World::new(layer.clone(), Upstream::new(numbers(30)));
    let first = paused();
    drop(first.block_on(world.post("")));
    drop(first);
    assert!(layer.handle().streams().is_empty());
    let before = store.seen().renewals;
    let events = paused().block_on(async { world.post("").await.events().await });
    assert_eq!(events.len(), 30);
    assert!(store.seen().renewals > before);
}

#[test]
fn without_a_runtime_a_stream_passes_as_it_is() {
    let world = World::of([data("data: 1\n\n")]);
    for last in ["", UNKNOWN] {
        let answer = world
            .listen(last)
            .now_or_never()
            .expect("an answer at once");
        assert_eq!(answer.stream(), "");
        let body = answer
            .body
            .collect()
            .now_or_never()
            .expect("a body at once");
        assert_eq!(body.unwrap().to_bytes(), "data: 1\n\n");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_a_stream_from_the_start_holds_up_nobody() {
    let layer = ResumeLayer::new(MemoryStore::new().max_bytes(100));
    let world = World::new(layer, Upstream::new(numbers(3)));
    assert_eq!(
        data_of(&world.post("").await.events().await),
        expected(1, 3)
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_no_stream_saw_the_end_of_is_over_for_the_next() {
    let store = Faulty::default();
    let layer = ResumeLayer::new(store.clone());
    let first = World::new(layer.clone(), Upstream::new(numbers(3)));
    let burst = (1..=2000).map(|n| data(format!("data: {n}\n\n")));
    let second = World::new(layer.clone(), Upstream::new(burst));
    let answer = first.post("").await;
    sleep(Duration::from_millis(1500)).await;
    store.set(Fault::Down);
    assert_eq!(answer.events().await.len(), 3);
    sleep(seconds(100)).await;
    assert!(layer.handle().streams().is_empty());
    store.set(Fault::None);
    sleep(seconds(3600)).await;
    assert_eq!(second.post("").await.events().await.len(), 2000);
    assert_eq!(layer.handle().stats().unstored, 0);
}

#[tokio::test(start_paused = true)]
async fn an_end_is_told_to_a_store_that_comes_back_though_nobody_reads() {
    let store = Faulty::default();
    let layer = ResumeLayer::new(store.clone()).grace(Duration::ZERO);
    let world = World::new(layer.clone(), Upstream::new(numbers(100)));
    let answer = world.post("").await;
    let stream = answer.stream();
    let reading = tokio::spawn(answer.record_for(5.5));
    sleep(Duration::from_millis(3200)).await;
    store.set(Fault::Down);
    reading.await.unwrap();
    sleep(seconds(2)).await;
    store.set(Fault::None);
    layer.handle().finish(seconds(60)).await;
    let again = world.post(&format!("{stream}.0")).await.record().await;
    assert_eq!(
        data_of(&reference::parse(&again.bytes()).events),
        expected(1, 5)
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_store_that_was_down_has_still_to_get_is_no_loss() {
    let store = Faulty::default();
    let layer = ResumeLayer::new(store.clone());
    // With the comments, the live end holds half as many events as wait for the store.
    let steps = fast(1, 1000).flat_map(|step| [data(": c\n\n"), step]);
    let world = World::new(layer.clone(), Upstream::new(steps));
    let first = world.post("").await;
    let stream = first.stream();
    let first = tokio::spawn(first.events());
    sleep(seconds(3)).await;
    store.set(Fault::Down);
    sleep(seconds(4)).await;
    // It is back, and the producer does not know yet.
    store.set(Fault::None);
    let again = world.post(&format!("{stream}.305")).await;
    assert_eq!(again.header("sse-resume"), "resumed");
    assert_eq!(data_of(&again.events().await), expected(306, 1000));
    assert_eq!((first.await.unwrap().len(), world.calls()), (1000, 1));
}

#[tokio::test(start_paused = true)]
async fn any_lease_is_survived() {
    for lease in [Duration::ZERO, Duration::MAX] {
        let store = MemoryStore::new().lease(lease);
        let world = World::new(ResumeLayer::new(store), Upstream::new(numbers(3)));
        assert_eq!(world.post("").await.events().await.len(), 3);
    }
}

// === pace ===

#[tokio::test(start_paused = true)]
async fn who_has_all_from_the_store_frees_upstream() {
    let steps = [numbers(1), large(), vec![pause(5.0)], numbers(3)].concat();
    let world = World::of(steps);
    let first = world.post("").await;
    let stream = first.stream();
    first.record_for(1.05).await;
    sleep(seconds(2)).await;
    let again = world.post(&format!("{stream}.1")).await;
    assert_eq!(count(again).await, (13, End::Clean));
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_has_seen_is_never_more_than_the_log_holds() {
    for in_a_frame in [1, 100] {
        let events = (0..20_000).map(|n| format!("data: {n:080}\n\n"));
        let events: Vec<_> = events.collect();
        let frames = events
            .chunks(in_a_frame)
            .map(|events| data(events.concat()));
        let layer = ResumeLayer::new(MemoryStore::new());
        let layer = layer.max_events(2000).grace(seconds(1000));
        let world = World::new(layer, Upstream::new(frames));
        let stream = world.listen("").await.stream();
        sleep(seconds(10)).await;
        let again = world.listen(&format!("{stream}.0")).await;
        assert_eq!(again.header("sse-resume"), "resumed", "{in_a_frame}");
        assert_eq!(again.events().await.len(), 20_000, "{in_a_frame}");
        assert_eq!(world.calls(), 1);
    }
}

// === two machines ===

#[tokio::test(start_paused = true)]
async fn who_lands_on_another_machine_goes_on_while_the_producer_runs() {
    let store = MemoryStore::new();
    let machine = || {
        let layer = ResumeLayer::new(store.clone());
        World::new(layer, Upstream::new(numbers(30)))
    };
    let (a, b) = (machine(), machine());
    let first = a.listen("").await;
    let stream = first.stream();
    first.record_for(5.5).await;
    let mut readers = Vec::new();
    for after in [5, 3, 0, 7] {
        let answer = b.listen(&format!("{stream}.{after}")).await;
        assert_eq!(answer.header("sse-resume"), "resumed");
        readers.push((after, tokio::spawn(answer.events())));
        sleep(seconds(2)).await;
    }
    for (after, events) in readers {
        assert_eq!(
            data_of(&events.await.unwrap()),
            expected(after + 1, 30),
            "{after}"
        );
    }
    assert_eq!((a.calls(), b.calls()), (1, 0));
    assert_eq!(
        b.listen(&format!("{stream}.30")).await.status,
        StatusCode::NO_CONTENT
    );
}

#[test]
fn a_producer_whose_process_died_is_told_within_its_lease() {
    let store = MemoryStore::new();
    let (stream, doomed) = {
        let doomed = paused();
        let store = store.clone();
        let stream = doomed.block_on(async {
            let world = World::new(ResumeLayer::new(store), Upstream::new(numbers(30)));
            let first = world.listen("").await;
            let stream = first.stream();
            first.record_for(5.5).await;
            stream
        });
        (stream, doomed)
    };
    paused().block_on(async {
        // This runtime's clock has not seen the seconds of the other one.
        sleep(seconds(6)).await;
        let world = World::new(ResumeLayer::new(store), Upstream::new(numbers(30)));
        let start = Instant::now();
        let answer = world.listen(&format!("{stream}.2")).await;
        let recording = answer.record().await;
        assert_eq!(
            data_of(&reference::parse(&recording.bytes()).events),
            expected(3, 5)
        );
        assert!(matches!(recording.end.1, End::Error(_)));
        assert!(start.elapsed() <= seconds(11), "{:?}", start.elapsed());
        let again = world.listen(&format!("{stream}.5")).await;
        assert_eq!(again.header("sse-resume"), "lost");
    });
    drop(doomed);
}

#[tokio::test(start_paused = true)]
async fn a_reader_on_another_machine_is_a_reader() {
    let store = MemoryStore::new();
    let (a, b) = (
        machine(&store, &numbers(100)),
        machine(&store, &numbers(100)),
    );
    let first = a.post("").await;
    let stream = first.stream();
    first.record_for(5.5).await;
    let there = b.post(&format!("{stream}.5")).await;
    assert_eq!(data_of(&there.events().await), expected(6, 100));
    assert_eq!((a.calls(), b.calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn from_one_machine_to_another_and_back() {
    let store = MemoryStore::new();
    let steps: Vec<_> = numbers(5).into_iter().chain(fast(6, 1500)).collect();
    let steps = [steps, vec![pause(5.0)], numbers(20)].concat();
    let (a, b) = (machine(&store, &steps), machine(&store, &steps));
    let first = a.post("").await;
    let stream = first.stream();
    first.record_for(5.005).await;
    let there = b.post(&format!("{stream}.5")).await.record_for(17.0).await;
    assert_eq!(reference::parse(&there.bytes()).events.len(), 1495);
    let back = a.post(&format!("{stream}.1500")).await;
    assert_eq!(count(back).await, (20, End::Clean));
}

#[tokio::test(start_paused = true)]
async fn who_says_more_than_there_is_harms_nobody_else() {
    let store = MemoryStore::new();
    let (a, b) = (machine(&store, &numbers(30)), machine(&store, &numbers(30)));
    let first = a.post("").await;
    let stream = first.stream();
    let first = tokio::spawn(first.events());
    sleep(Duration::from_millis(5500)).await;
    let here = a.post(&format!("{stream}.7")).await;
    assert_eq!(here.header("sse-resume"), "lost");
    // Elsewhere it may be the store that is late.
    let ahead = b.post(&format!("{stream}.7")).await;
    let ahead = tokio::spawn(ahead.events());
    sleep(Duration::from_millis(100)).await;
    let other = b.post(&format!("{stream}.5")).await;
    assert_eq!(count(other).await, (25, End::Clean));
    assert_eq!(data_of(&ahead.await.unwrap()), expected(8, 30));
    assert_eq!((first.await.unwrap().len(), b.calls()), (30, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stalls_holds_up_nobody_who_is_ahead() {
    let store = MemoryStore::new();
    let steps: Vec<_> = numbers(5).into_iter().chain(fast(6, 3000)).collect();
    let steps = [steps, numbers(20)].concat();
    let (a, b) = (machine(&store, &steps), machine(&store, &steps));
    let first = a.post("").await;
    let stream = first.stream();
    let first = tokio::spawn(first.events());
    sleep(Duration::from_millis(5500)).await;
    // It is at the live end, and then its client reads no more.
    let mut stalled = b.post(&format!("{stream}.5")).await;
    for _ in 0..5 {
        stalled.body.frame().await.unwrap().unwrap();
    }
    sleep(seconds(20)).await;
    let ahead = b.post(&format!("{stream}.2000")).await;
    assert_eq!(count(ahead).await, (1020, End::Clean));
    assert_eq!(first.await.unwrap().len(), 3020);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_vanished_here_holds_up_nobody_elsewhere() {
    let store = MemoryStore::new();
    let steps: Vec<_> = fast(1, 3000).collect();
    let (a, b) = (machine(&store, &steps), machine(&store, &steps));
    // Its connection is dead, and nobody knows.
    let mut vanished = a.post("").await;
    let stream = vanished.stream();
    for _ in 0..5 {
        vanished.body.frame().await.unwrap().unwrap();
    }
    let there = b.post(&format!("{stream}.5")).await;
    assert_eq!(count(there).await, (2995, End::Clean));
}

#[tokio::test(start_paused = true)]
async fn a_fast_stream_waits_for_who_reads_it_elsewhere() {
    let store = MemoryStore::new();
    let burst = (6..=20_000).map(|n| data(format!("data: {n:0100}\n\n")));
    let steps: Vec<_> = numbers(5)
        .into_iter()
        .chain([pause(10.0)])
        .chain(burst)
        .collect();
    let (a, b) = (machine(&store, &steps), machine(&store, &steps));
    let first = a.post("").await;
    let stream = first.stream();
    first.record_for(5.5).await;
    let there = b.post(&format!("{stream}.5")).await;
    assert_eq!(count(there).await, (19_995, End::Clean));
    assert_eq!((a.calls(), b.calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_comes_elsewhere_at_the_end_of_the_grace_is_seen() {
    for after in [20, 24, 28, 29] {
        let store = MemoryStore::new();
        let (a, b) = (machine(&store, &numbers(60)), machine(&store, &numbers(60)));
        let first = a.post("").await;
        let stream = first.stream();
        first.record_for(1.5).await;
        sleep(seconds(after)).await;
        let there = b.post(&format!("{stream}.1")).await;
        assert_eq!(count(there).await, (59, End::Clean), "{after}");
    }
}
