//! `RedisStore` over a Redis of its own, which is killed, frozen, filled and emptied.

#![cfg(all(unix, feature = "redis"))]

mod programs;
mod support;

use std::{
    collections::BTreeSet, fmt::Debug, future::pending, net::SocketAddr, ops::RangeInclusive,
    sync::Arc, time::Duration,
};

use bytes::Bytes;
use programs::{
    process::{PATIENCE, eventually},
    redis::Redis,
};
use redis::{Client, FromRedisValue, aio::MultiplexedConnection};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};
use tower_sse::resume::{
    Page, RedisStore, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, StreamId, Then,
};

const COMPLETE: StreamEnd = StreamEnd::Complete;

// === Settings ===

#[test]
fn a_wrong_url_is_one_line_without_the_password() {
    for url in [
        "",
        "localhost:6379",
        "http://:secret@localhost",
        "redis://",
        "redis://:secret@",
        "redis://:secret@localhost:port",
        "redis://:secret@localhost/database",
        "redis://:secret@localhost:6379?protocol=9",
        "rediss://:secret@localhost/#secret",
        "rediss://:secret@localhost/#insecure",
    ] {
        let error = RedisStore::new(url).expect_err(url).to_string();
        assert!(error.starts_with("not a Redis URL: "), "{url}: {error}");
        let leaks = error.contains("secret") || error.contains('\n');
        assert!(!leaks, "{url}: {error}");
    }
}

#[test]
fn a_right_url_needs_no_redis_and_no_runtime() {
    for url in [
        "redis://localhost",
        "redis://user:secret@localhost:6380/3",
        "rediss://:secret@redis.example:6379/0?protocol=resp3",
        "valkey://[::1]:6379",
        "redis+unix:///run/redis.sock?pass=secret",
    ] {
        let store = RedisStore::new(url).expect(url).prefix("mine:");
        let shown = format!("{store:?}");
        assert!(shown.contains("mine:"), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}

#[test]
fn authorities_need_a_certificate_and_tls() {
    let tls = || RedisStore::new("rediss://localhost").unwrap();
    assert!(tls().root_certificates(b"").is_err());
    assert!(tls().root_certificates(b"----- nothing -----").is_err());
}

#[tokio::test(start_paused = true)]
async fn times_have_bounds() {
    for time in [Duration::ZERO, Duration::MAX] {
        let store = RedisStore::new("redis+unix:///nowhere").unwrap();
        let store = store.lease(time).keep(time).response_timeout(time);
        let lease = ResumeStore::lease(&store);
        assert!(lease > Duration::ZERO && lease < Duration::MAX);
        failed(store.find(new_stream())).await;
    }
}

// === What the trait promises ===

#[cfg(feature = "test-util")]
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: run tests/run"]
async fn redis_keeps_every_rule() {
    let redis = Redis::start().await;
    let lease = Duration::from_secs(2);
    let store = async || patient_store(store(&redis)).lease(lease);
    tower_sse::resume::conformance::check(store).await;
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn a_stream_is_read_as_it_was_written() {
    let redis = Redis::start().await;
    let (store, stream) = (store(&redis), new_stream());
    assert_eq!(store.find(stream).await.unwrap(), None);
    unknown(store.read(stream, 0, 9)).await;
    unknown(store.next(stream, 0, 9)).await;
    unknown(store.append(stream, &events(1..=1), 0)).await;
    unknown(store.close(stream, 0, COMPLETE)).await;

    let about = Bytes::from_static(b"\0\r\n\xff");
    store.open(stream, about.clone()).await.unwrap();
    assert_eq!(store.find(stream).await.unwrap(), Some(about.clone()));
    let running = nothing(Then::Running);
    assert_eq!(store.read(stream, 0, 9).await.unwrap(), running);
    for repeated in [events(1..=2), events(1..=2), events(2..=5), events(4..=5)] {
        store.append(stream, &repeated, 0).await.unwrap();
    }
    store.open(stream, about).await.unwrap();
    for (after, limit, expected) in [
        (0, 9, page(1..=5, Then::Running)),
        (0, 5, page(1..=5, Then::Running)),
        (0, 4, page(1..=4, Then::More)),
        (3, 1, page(4..=4, Then::More)),
        (4, usize::MAX, page(5..=5, Then::Running)),
        (5, 9, running.clone()),
        (u64::MAX, 9, running),
    ] {
        let read = store.read(stream, after, limit).await.unwrap();
        assert_eq!(read, expected, "{after} {limit}");
        if read.then != Then::Running || !read.events.is_empty() {
            assert_eq!(store.next(stream, after, limit).await.unwrap(), expected);
        }
    }
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn an_end_is_told_to_all_who_ask_wherever_they_are() {
    let redis = Redis::start().await;
    let store = store(&redis);
    for (last, end) in [
        (0, StreamEnd::Failed),
        (3, COMPLETE),
        (3, StreamEnd::Abandoned),
    ] {
        let stream = opened(&store).await;
        store.append(stream, &events(1..=last), 0).await.unwrap();
        for _ in 0..2 {
            store.close(stream, last, end).await.unwrap();
        }
        let then = Then::Ended { last, end };
        for after in [0, 2, 3, 4, u64::MAX] {
            let expected = page(after.saturating_add(1)..=last, then);
            assert_eq!(store.read(stream, after, 9).await.unwrap(), expected);
            assert_eq!(store.next(stream, after, 9).await.unwrap(), expected);
        }
        // what was evicted or never came is told by the end alone
        admin::<()>(&redis, &["DEL", &format!("tower-sse:{{{stream}}}:log")]).await;
        assert_eq!(store.next(stream, 0, 9).await.unwrap(), nothing(then));
    }
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn old_events_go_and_numbers_stay() {
    let redis = Redis::start().await;
    let (store, stream) = (store(&redis), new_stream());
    store.open(stream, Bytes::new()).await.unwrap();
    for number in 1..=500_u64 {
        let keep_from = number.saturating_sub(99);
        store
            .append(stream, &events(number..=number), keep_from)
            .await
            .unwrap();
    }
    let left = store.read(stream, 0, 500).await.unwrap().events;
    let first = left.first().unwrap().number;
    assert!(first > 1 && first <= 401, "from {first} on");
    assert_eq!(left, events(first..=500));
    store.append(stream, &[], 501).await.unwrap();
    store.append(stream, &events(499..=501), 0).await.unwrap();
    let rest = store.read(stream, 500, 500).await.unwrap();
    assert_eq!(rest, page(501..=501, Then::Running));
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn who_stops_to_renew_is_lost_and_comes_back() {
    let redis = Redis::start().await;
    let lease = Duration::from_millis(300);
    let (producer, reader) = (store(&redis).lease(lease), store(&redis).lease(lease));
    let stream = opened(&producer).await;
    producer.append(stream, &events(1..=1), 0).await.unwrap();
    assert_eq!(
        patient(reader.next(stream, 1, 9)).await.unwrap(),
        nothing(Then::Lost)
    );
    assert_eq!(
        reader.read(stream, 0, 9).await.unwrap(),
        page(1..=1, Then::Lost)
    );
    producer.renew(&[stream]).await.unwrap();
    assert_eq!(
        reader.read(stream, 0, 9).await.unwrap(),
        page(1..=1, Then::Running)
    );
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn who_reads_elsewhere_is_known_for_a_lease() {
    let redis = Redis::start().await;
    let lease = Duration::from_secs(20);
    let (producer, reader) = (store(&redis).lease(lease), store(&redis).lease(lease));
    let (read, unread) = (opened(&producer).await, opened(&producer).await);
    producer.append(read, &events(1..=1), 0).await.unwrap();
    for key in admin::<Vec<String>>(&redis, &["KEYS", "*"]).await {
        admin::<()>(&redis, &["PERSIST", &key]).await;
    }
    let strange = new_stream();
    let here = [unread, read, strange];
    assert_eq!(producer.attend(&[], &here).await.unwrap(), []);
    for _ in 0..2 {
        let none = reader.attend(&[read, strange], &[unread]).await.unwrap();
        assert_eq!(none, []);
        assert_eq!(producer.attend(&[], &here).await.unwrap(), [read]);
    }
    let (key, both) = (read_key(read), [unread, read]);
    assert_eq!(reader.attend(&[unread], &both).await.unwrap(), both);
    let left: u64 = admin(&redis, &["PTTL", &key]).await;
    assert!(left > 0 && left <= 20_000, "{left}");
    admin::<()>(&redis, &["PEXPIRE", &key, "1"]).await;
    eventually("the end of its lease", async || {
        let told = producer.attend(&[], &both).await.unwrap();
        (told == [unread]).then_some(())
    })
    .await;
    // Nothing else has got another time to live.
    for key in admin::<Vec<String>>(&redis, &["KEYS", "*"]).await {
        let left: i64 = admin(&redis, &["PTTL", &key]).await;
        assert_eq!(left < 0, !key.ends_with(":read"), "{key}: {left}");
    }
}

#[tokio::test]
async fn to_attend_nothing_takes_no_redis() {
    let store = RedisStore::new("redis+unix:///nowhere").unwrap();
    assert_eq!(store.attend(&[], &[]).await.unwrap(), []);
    failed(store.attend(&[new_stream()], &[])).await;
    failed(store.attend(&[], &[new_stream()])).await;
}

// === Waiting ===

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn a_thousand_readers_share_one_connection_and_one_append_wakes_all() {
    let redis = Redis::start().await;
    let (producer, reader) = (store(&redis), store(&redis));
    let stream = opened(&producer).await;
    let quiet = opened(&producer).await;
    producer.append(stream, &events(1..=10), 0).await.unwrap();
    let mut waits = JoinSet::new();
    for _ in 0..1000 {
        let reader = reader.clone();
        waits.spawn(async move { reader.next(stream, 10, 9).await.unwrap() });
    }
    for _ in 0..100 {
        let reader = reader.clone();
        waits.spawn(async move { reader.next(quiet, 0, 9).await.unwrap() });
    }
    blocked(&redis, 1).await;
    // the producer's, the reader's for calls and for waiting, and the one that asks
    assert!(connections(&redis).await.len() <= 4);
    producer.append(stream, &events(11..=11), 0).await.unwrap();
    for _ in 0..1000 {
        let woken = patient(waits.join_next()).await.unwrap().unwrap();
        assert_eq!(woken, page(11..=11, Then::Running));
    }
    producer.close(quiet, 0, COMPLETE).await.unwrap();
    let end = nothing(Then::Ended {
        last: 0,
        end: COMPLETE,
    });
    for _ in 0..100 {
        assert_eq!(patient(waits.join_next()).await.unwrap().unwrap(), end);
    }
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn who_waits_where_there_is_something_gets_it_at_once() {
    let redis = Redis::start().await;
    let (store, stream) = (store(&redis), new_stream());
    store.open(stream, Bytes::new()).await.unwrap();
    let at_the_end = tokio::spawn({
        let store = store.clone();
        async move { store.next(stream, 200, 9).await.unwrap() }
    });
    blocked(&redis, 1).await;
    store.append(stream, &events(1..=200), 0).await.unwrap();
    for (after, limit, expected) in [
        (0, 9, page(1..=9, Then::More)),
        (50, 9, page(51..=59, Then::More)),
        (191, 9, page(192..=200, Then::Running)),
        (199, 9, page(200..=200, Then::Running)),
    ] {
        assert_eq!(
            patient(store.next(stream, after, limit)).await.unwrap(),
            expected
        );
    }
    store.append(stream, &events(201..=201), 0).await.unwrap();
    assert_eq!(
        patient(at_the_end).await.unwrap(),
        page(201..=201, Then::Running)
    );
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn a_wait_that_is_given_up_leaves_nothing_behind() {
    let redis = Redis::start().await;
    let (store, stream) = (store(&redis), new_stream());
    store.open(stream, Bytes::new()).await.unwrap();
    for _ in 0..1000 {
        let mut wait = store.next(stream, 0, 9);
        assert!(timeout(Duration::ZERO, &mut wait).await.is_err());
    }
    // the follower has nobody to follow for, and goes with its connection
    eventually("the end of the follower", async || {
        (connections(&redis).await.len() <= 2).then_some(())
    })
    .await;
    store.append(stream, &events(1..=1), 0).await.unwrap();
    let woken = patient(store.next(stream, 0, 9)).await.unwrap();
    assert_eq!(woken, page(1..=1, Then::Running));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs redis-server: run tests/run"]
async fn nothing_is_missed_and_nothing_comes_twice_while_connections_break() {
    const LAST: u64 = 2000;
    let redis = Redis::start().await;
    let (producer, reader) = (store(&redis), store(&redis));
    let streams = [opened(&producer).await, opened(&producer).await];
    let mut tasks = JoinSet::new();
    for stream in streams {
        tasks.spawn(produce(producer.clone(), stream, LAST));
        for _ in 0..5 {
            tasks.spawn(consume(reader.clone(), stream, LAST));
        }
    }
    while !tasks.is_empty() {
        admin::<()>(
            &redis,
            &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
        )
        .await;
        sleep(Duration::from_millis(20)).await;
        while let Some(done) = tasks.try_join_next() {
            done.unwrap();
        }
    }
}

async fn produce(store: RedisStore, stream: StreamId, last: u64) {
    let mut stored = 0;
    while stored < last {
        let until = (stored + u64::from(stored.to_le_bytes()[0] % 7) + 1).min(last);
        // a repeated append has more events behind it
        if store
            .append(stream, &events(stored + 1..=until), 0)
            .await
            .is_ok()
        {
            stored = until;
        }
    }
    while store.close(stream, last, COMPLETE).await.is_err() {}
}

async fn consume(store: RedisStore, stream: StreamId, last: u64) {
    let mut seen = 0;
    loop {
        let Ok(page) = patient(store.next(stream, seen, 10)).await else {
            continue;
        };
        for event in page.events {
            assert_eq!(event.number, seen + 1);
            seen = event.number;
        }
        match page.then {
            Then::Ended { last: end, .. } => {
                assert_eq!((seen, end), (last, last));
                return;
            }
            Then::More | Then::Running => {}
            Then::Lost => panic!("lost at {seen}"),
        }
    }
}

// === Keys ===

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn keys_have_the_prefix_and_an_end() {
    let redis = Redis::start().await;
    let store = store(&redis)
        .prefix("mine:")
        .lease(Duration::from_millis(500))
        .keep(Duration::from_secs(2));
    let (open, ended) = (opened(&store).await, opened(&store).await);
    store.append(open, &events(1..=3), 0).await.unwrap();
    store.append(ended, &events(1..=3), 0).await.unwrap();
    store.close(ended, 3, COMPLETE).await.unwrap();
    call_back_the_follower(&redis, &store, open).await;
    store.renew(&[open]).await.unwrap();
    store.attend(&[open], &[ended]).await.unwrap();

    let keys: BTreeSet<String> = admin(&redis, &["KEYS", "*"]).await;
    for key in &keys {
        let left: i64 = admin(&redis, &["PTTL", key]).await;
        assert!(left > 0 && left <= 2000, "{key}: {left}");
    }
    let (random, ours): (BTreeSet<_>, BTreeSet<_>) = keys
        .into_iter()
        .partition(|key| key.starts_with("mine:owner:") || key.starts_with("mine:wake:"));
    let mut expected: BTreeSet<_> = [open, ended]
        .iter()
        .flat_map(|stream| {
            [
                format!("mine:{{{stream}}}"),
                format!("mine:{{{stream}}}:log"),
            ]
        })
        .collect();
    expected.insert(format!("mine:{{{open}}}:read"));
    assert_eq!(ours, expected);
    assert_eq!(random.len(), 2, "{random:?}");
    eventually("an empty Redis", async || {
        (admin::<u64>(&redis, &["DBSIZE"]).await == 0).then_some(())
    })
    .await;
    unknown(store.read(open, 0, 9)).await;
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn a_silent_stream_is_kept_as_long_as_it_is_renewed() {
    let redis = Redis::start().await;
    let store = store(&redis);
    let streams = [
        opened(&store).await,
        opened(&store).await,
        opened(&store).await,
    ];
    for stream in streams {
        store.append(stream, &events(1..=1), 0).await.unwrap();
    }
    let keys: Vec<String> = admin(&redis, &["KEYS", "*{*"]).await;
    assert_eq!(keys.len(), 6);
    for key in &keys {
        admin::<()>(&redis, &["EXPIRE", key, "300"]).await;
    }
    // thrice per lease of 10 seconds, until a quarter of the 10 minutes of keeping is over
    for _ in 0..46 {
        store.renew(&streams).await.unwrap();
    }
    for key in &keys {
        let left: i64 = admin(&redis, &["TTL", key]).await;
        assert!(left > 300, "{key}: {left}");
    }
}

// === A Redis that fails ===

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn what_was_stored_outlives_a_restart() {
    let mut redis = Redis::start_persistent().await;
    let (store, stream) = (store(&redis), new_stream());
    store
        .open(stream, Bytes::from_static(b"about"))
        .await
        .unwrap();
    store.append(stream, &events(1..=3), 0).await.unwrap();
    let waiting = waiting(&store, stream, 3);
    blocked(&redis, 1).await;
    redis.kill().await;
    all_fail(&store, stream).await;
    redis.restart().await;
    healed(store_call(&store, stream)).await;
    store.append(stream, &events(3..=4), 0).await.unwrap();
    assert_eq!(patient(waiting).await.unwrap(), page(4..=4, Then::Running));
    let about = store.find(stream).await.unwrap();
    assert_eq!(about.unwrap(), "about");
    assert_eq!(
        store.read(stream, 0, 9).await.unwrap(),
        page(1..=4, Then::Running)
    );
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn a_stream_that_redis_has_forgotten_is_opened_again_and_goes_on() {
    let mut redis = Redis::start().await;
    let (store, stream) = (store(&redis), new_stream());
    store.open(stream, Bytes::new()).await.unwrap();
    store.append(stream, &events(1..=3), 0).await.unwrap();
    redis.kill().await;
    redis.restart().await;
    eventually("a Redis that knows nothing", async || {
        match store.append(stream, &events(4..=4), 0).await {
            Err(StoreError::Unknown) => Some(()),
            Err(StoreError::Failed(_)) => None,
            answer => panic!("{answer:?}"),
        }
    })
    .await;
    store.open(stream, Bytes::new()).await.unwrap();
    store.append(stream, &events(4..=4), 0).await.unwrap();
    let rest = page(4..=4, Then::Running);
    assert_eq!(store.read(stream, 0, 9).await.unwrap(), rest);
    assert_eq!(patient(store.next(stream, 3, 9)).await.unwrap(), rest);
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn what_eviction_leaves_of_a_stream_is_not_in_the_way() {
    let redis = Redis::start().await;
    let store = store(&redis);
    for left in ["", ":log"] {
        let stream = opened(&store).await;
        store.append(stream, &events(1..=3), 0).await.unwrap();
        let evicted = if left.is_empty() { ":log" } else { "" };
        admin::<()>(
            &redis,
            &["DEL", &format!("tower-sse:{{{stream}}}{evicted}")],
        )
        .await;
        if store.append(stream, &events(3..=4), 0).await.is_err() {
            unknown(store.append(stream, &events(3..=4), 0)).await;
            store.open(stream, Bytes::new()).await.unwrap();
            store.append(stream, &events(3..=4), 0).await.unwrap();
        }
        let rest = store.read(stream, 3, 9).await.unwrap();
        assert_eq!(rest, page(4..=4, Then::Running), "{left}");
    }
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn a_frozen_redis_holds_nobody_up() {
    let redis = Redis::start().await;
    let (store, stream) = (store(&redis), new_stream());
    store.open(stream, Bytes::new()).await.unwrap();
    let waiting = waiting(&store, stream, 0);
    blocked(&redis, 1).await;
    redis.freeze();
    all_fail(&store, stream).await;
    failed(store.next(stream, 0, 9)).await;
    redis.thaw();
    healed(store_call(&store, stream)).await;
    // what was written to connections that were given up came, late or not at all, but once
    store.append(stream, &events(1..=2), 0).await.unwrap();
    assert_eq!(
        patient(waiting).await.unwrap().events.first(),
        events(1..=1).first()
    );
    assert_eq!(
        store.read(stream, 0, 9).await.unwrap().events,
        events(1..=2)
    );
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn an_outage_longer_than_the_lease_loses_nobody() {
    let redis = Redis::start().await;
    let lease = Duration::from_secs(3);
    let (producer, reader) = (store(&redis).lease(lease), store(&redis).lease(lease));
    let stream = opened(&producer).await;
    let waiting = waiting(&reader, stream, 0);
    blocked(&redis, 1).await;
    redis.freeze();
    sleep(lease).await;
    failed(reader.find(stream)).await;
    redis.thaw();
    healed(store_call(&reader, new_stream())).await;
    let lease_key: Vec<String> = admin(&redis, &["KEYS", "*:owner:*"]).await;
    assert_eq!(lease_key.len(), 1, "the reader's own alone");
    assert_eq!(
        reader.read(stream, 0, 9).await.unwrap(),
        nothing(Then::Running)
    );
    healed(store_call(&producer, stream)).await;
    producer.append(stream, &events(1..=1), 0).await.unwrap();
    assert_eq!(patient(waiting).await.unwrap(), page(1..=1, Then::Running));
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn what_others_write_into_a_stream_hurts_that_stream_alone() {
    let redis = Redis::start().await;
    let store = store(&redis);
    let (bad, good) = (opened(&store).await, opened(&store).await);
    let waiting_for_good = waiting(&store, good, 0);
    let log = format!("tower-sse:{{{bad}}}:log");
    admin::<()>(&redis, &["XADD", &log, "1-7", "field", "value"]).await;
    failed(store.next(bad, 0, 9)).await;
    failed(store.read(bad, 0, 9)).await;
    store.append(good, &events(1..=1), 0).await.unwrap();
    assert_eq!(
        patient(waiting_for_good).await.unwrap(),
        page(1..=1, Then::Running)
    );
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn a_connection_whose_peer_has_vanished_is_replaced() {
    let redis = Redis::start().await;
    let network = Network::before(&redis).await;
    let store = RedisStore::new(&network.url()).unwrap();
    let stream = opened(&store).await;
    let waiting = waiting(&store, stream, 0);
    blocked(&redis, 1).await;
    network.lose_what_is_open();
    failed(store.renew(&[stream])).await;
    healed(store_call(&store, stream)).await;
    store.append(stream, &events(1..=1), 0).await.unwrap();
    assert_eq!(patient(waiting).await.unwrap(), page(1..=1, Then::Running));
}

#[test]
#[ignore = "needs redis-server: run tests/run"]
fn a_runtime_that_ends_takes_nobody_elsewhere_with_it() {
    let (first, second) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let redis = second.block_on(Redis::start());
    let store = store(&redis);
    let stream = first.block_on(opened(&store));
    first.spawn({
        let store = store.clone();
        async move { store.next(stream, 0, 9).await }
    });
    second.block_on(async {
        blocked(&redis, 1).await;
        let waiting = waiting(&store, stream, 0);
        eventually("its call", async || {
            let keys: Vec<String> = admin(&redis, &["KEYS", "*:wake:*"]).await;
            (!keys.is_empty()).then_some(())
        })
        .await;
        first.shutdown_background();
        healed(store_call(&store, stream)).await;
        store.append(stream, &events(1..=1), 0).await.unwrap();
        assert_eq!(patient(waiting).await.unwrap(), page(1..=1, Then::Running));
    });
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn a_full_redis_refuses_events_and_nothing_else() {
    let redis = Redis::start_with(&["--maxmemory-policy", "noeviction"]).await;
    let (store, stream) = (store(&redis), new_stream());
    store.open(stream, Bytes::new()).await.unwrap();
    store.append(stream, &events(1..=3), 0).await.unwrap();
    admin::<()>(&redis, &["CONFIG", "SET", "maxmemory", "1"]).await;
    refused(store.append(stream, &events(4..=4), 0)).await;
    refused(store.close(stream, 3, COMPLETE)).await;
    refused(store.open(new_stream(), Bytes::new())).await;
    store.renew(&[stream]).await.unwrap();
    assert_eq!(
        store.read(stream, 0, 9).await.unwrap(),
        page(1..=3, Then::Running)
    );
    assert_eq!(
        store.next(stream, 2, 9).await.unwrap(),
        page(3..=3, Then::Running)
    );
    let waiting = waiting(&store, stream, 3);
    admin::<()>(&redis, &["CONFIG", "SET", "maxmemory", "0"]).await;
    store.append(stream, &events(4..=4), 0).await.unwrap();
    assert_eq!(patient(waiting).await.unwrap(), page(4..=4, Then::Running));
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn a_full_redis_goes_on_to_tell_who_reads() {
    let redis = Redis::start_with(&["--maxmemory-policy", "noeviction"]).await;
    let store = store(&redis);
    let (read, new) = (opened(&store).await, opened(&store).await);
    store.attend(&[read], &[]).await.unwrap();
    let key = read_key(read);
    admin::<()>(&redis, &["PEXPIRE", &key, "9000"]).await;
    admin::<()>(&redis, &["CONFIG", "SET", "maxmemory", "1"]).await;
    let both = [read, new];
    assert_eq!(store.attend(&both, &both).await.unwrap(), [read]);
    let left: u64 = admin(&redis, &["PTTL", &key]).await;
    assert!(left > 9000, "{left}");
    admin::<()>(&redis, &["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(store.attend(&both, &both).await.unwrap(), both);
    // Any other error is one.
    for denied in ["-set", "-exists"] {
        admin::<()>(&redis, &["ACL", "SETUSER", "default", "+@all", denied]).await;
        failed(store.attend(&both, &both)).await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn an_event_that_is_too_large_is_refused_and_others_are_stored() {
    let redis = Redis::start().await;
    let store = patient_store(store(&redis));
    let stream = opened(&store).await;
    let large = |bytes| StoredEvent {
        number: 2,
        bytes: vec![0; bytes].into(),
    };
    store.append(stream, &events(1..=1), 0).await.unwrap();
    refused(store.append(stream, &[large((512 << 20) + 1)], 0)).await;
    admin::<()>(&redis, &["CONFIG", "SET", "proto-max-bulk-len", "1mb"]).await;
    // Redis closes the connection, maybe before its answer is read.
    let answer = patient(store.append(stream, &[large((1 << 20) + 1)], 0)).await;
    let lost = matches!(answer, Err(StoreError::Refused(_) | StoreError::Failed(_)));
    assert!(lost, "{answer:?}");
    eventually("a connection", async || {
        store.append(stream, &events(2..=2), 0).await.ok()
    })
    .await;
    let all = page(1..=2, Then::Running);
    assert_eq!(store.read(stream, 0, 9).await.unwrap(), all);
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn a_redis_that_refuses_by_an_answer_is_asked_again() {
    let redis = Redis::start().await;
    let (store, stream) = (store(&redis), new_stream());
    store.open(stream, Bytes::new()).await.unwrap();
    let mut admin = Client::open(redis.url()).unwrap();
    let mut admin = connect(&mut admin).await;
    for (setting, wrong, right) in [("requirepass", "x", ""), ("maxclients", "1", "100")] {
        command::<()>(&mut admin, &["CONFIG", "SET", setting, wrong]).await;
        command::<()>(&mut admin, &["CLIENT", "KILL", "TYPE", "normal"]).await;
        eventually(setting, async || store.find(stream).await.err()).await;
        failed(store.find(stream)).await;
        command::<()>(&mut admin, &["CONFIG", "SET", setting, right]).await;
        healed(store_call(&store, stream)).await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server: run tests/run"]
async fn tls_is_checked_against_the_given_authority() {
    let (redis, port, authority) = Redis::start_with_tls().await;
    let url = format!("rediss://127.0.0.1:{port}");
    let strange = RedisStore::new(&url).unwrap();
    failed(patient_store(strange).find(new_stream())).await;
    let store = RedisStore::new(&url).unwrap();
    let store = patient_store(store.root_certificates(&authority).unwrap());
    let stream = opened(&store).await;
    let waiting = waiting(&store, stream, 0);
    blocked(&redis, 1).await;
    store.append(stream, &events(1..=1), 0).await.unwrap();
    assert_eq!(patient(waiting).await.unwrap(), page(1..=1, Then::Running));
    let plain = RedisStore::new(&redis.url()).unwrap();
    assert!(plain.root_certificates(&authority).is_err());
}

// === Helpers ===

/// Between a store and Redis.
struct Network {
    address: SocketAddr,
    lost: Arc<Notify>,
    _task: JoinSet<()>,
}

impl Network {
    async fn before(redis: &Redis) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (lost, redis) = (Arc::new(Notify::new()), redis.address());
        let (mut task, loses) = (JoinSet::new(), lost.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TcpStream::connect(&redis).await.unwrap();
                let loses = loses.clone();
                connections.spawn(async move {
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        // open on both sides, for ever
                        () = loses.notified() => pending().await,
                    }
                });
            }
        });
        Self {
            address,
            lost,
            _task: task,
        }
    }

    fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    fn lose_what_is_open(&self) {
        self.lost.notify_waiters();
    }
}

fn store(redis: &Redis) -> RedisStore {
    RedisStore::new(&redis.url()).unwrap()
}

/// For a busy machine.
fn patient_store(store: RedisStore) -> RedisStore {
    store.response_timeout(Duration::from_secs(10))
}

fn new_stream() -> StreamId {
    StreamId::random().unwrap()
}

async fn opened(store: &RedisStore) -> StreamId {
    let stream = new_stream();
    store.open(stream, Bytes::new()).await.unwrap();
    stream
}

fn read_key(stream: StreamId) -> String {
    format!("tower-sse:{{{stream}}}:read")
}

fn events(numbers: RangeInclusive<u64>) -> Vec<StoredEvent> {
    let event = |number| StoredEvent {
        number,
        bytes: format!("data: {number}\r\n\n").into(),
    };
    numbers.map(event).collect()
}

fn page(numbers: RangeInclusive<u64>, then: Then) -> Page {
    let events = events(numbers);
    Page { events, then }
}

fn nothing(then: Then) -> Page {
    let events = Vec::new();
    Page { events, then }
}

async fn patient<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("an answer")
}

async fn failed<T: Debug + Unpin>(call: StoreFuture<'_, T>) {
    let answer = patient(call).await;
    assert!(matches!(answer, Err(StoreError::Failed(_))), "{answer:?}");
}

async fn refused<T: Debug + Unpin>(call: StoreFuture<'_, T>) {
    let answer = patient(call).await;
    assert!(matches!(answer, Err(StoreError::Refused(_))), "{answer:?}");
}

async fn unknown<T: Debug + Unpin>(call: StoreFuture<'_, T>) {
    let answer = patient(call).await;
    assert!(matches!(answer, Err(StoreError::Unknown)), "{answer:?}");
}

/// Every call but the one that waits.
async fn all_fail(store: &RedisStore, stream: StreamId) {
    failed(store.open(stream, Bytes::new())).await;
    failed(store.append(stream, &events(1..=1), 0)).await;
    failed(store.renew(&[stream])).await;
    failed(store.attend(&[stream], &[stream])).await;
    failed(store.find(stream)).await;
    failed(store.read(stream, 0, 9)).await;
}

async fn healed(call: impl AsyncFnMut() -> Option<()>) {
    eventually("a store that works again", call).await;
}

fn store_call(store: &RedisStore, stream: StreamId) -> impl AsyncFnMut() -> Option<()> {
    async move || store.renew(&[stream]).await.ok()
}

/// One that waits, and asks again after an error as the layer does.
fn waiting(store: &RedisStore, stream: StreamId, after: u64) -> tokio::task::JoinHandle<Page> {
    let store = store.clone();
    tokio::spawn(async move {
        loop {
            match store.next(stream, after, 9).await {
                Ok(page) => return page,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    })
}

/// Somebody begins to wait while somebody else does.
async fn call_back_the_follower(redis: &Redis, store: &RedisStore, stream: StreamId) {
    let first = waiting(store, stream, 3);
    blocked(redis, 1).await;
    let second = waiting(store, stream, 2);
    assert_eq!(patient(second).await.unwrap(), page(3..=3, Then::Running));
    first.abort();
}

/// Waits until that many connections wait for news.
async fn blocked(redis: &Redis, count: usize) {
    eventually("a blocked connection", async || {
        let connections = connections(redis).await;
        let blocked = connections
            .iter()
            .filter(|line| line.contains("cmd=xread") && line.contains(" flags=b"));
        (blocked.count() == count).then_some(())
    })
    .await;
}

async fn connections(redis: &Redis) -> Vec<String> {
    let list: String = admin(redis, &["CLIENT", "LIST", "TYPE", "normal"]).await;
    list.lines().map(str::to_owned).collect()
}

async fn admin<T: FromRedisValue>(redis: &Redis, words: &[&str]) -> T {
    let mut client = Client::open(redis.url()).unwrap();
    command(&mut connect(&mut client).await, words).await
}

async fn connect(client: &mut Client) -> MultiplexedConnection {
    let connection = client.get_multiplexed_async_connection();
    connection.await.expect("a connection")
}

async fn command<T: FromRedisValue>(connection: &mut MultiplexedConnection, words: &[&str]) -> T {
    let mut command = redis::Cmd::new();
    command.arg(words);
    command.query_async(connection).await.expect("an answer")
}
