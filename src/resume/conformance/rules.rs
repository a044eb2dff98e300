use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::trial::{PATIENCE, Trial, all_bytes, event, events, joined, nothing};
use crate::resume::{StreamEnd, Then};

/// Long enough that a call has most likely begun to wait.
const MOMENT: Duration = Duration::from_millis(50);

pub(super) async fn found(trial: Trial) {
    let long = vec![b'x'; 1000];
    for about in [&[], &all_bytes()[..], &long] {
        let stream = trial.new_stream();
        trial.open(stream, about).await;
        let found = trial.ok("find", trial.reader.find(stream)).await;
        trial.same("found", &found.as_deref(), &Some(about));
    }
    let found = trial.ok("find", trial.reader.find(trial.new_stream()));
    trial.same("found of no stream", &found.await, &None);
}

pub(super) async fn unknown(trial: Trial) {
    let stream = trial.new_stream();
    let event = events(1..=1);
    trial.unknown("read", trial.reader.read(stream, 0, 1)).await;
    trial.unknown("next", trial.reader.next(stream, 0, 1)).await;
    let append = trial.producer.append(stream, &event, 0);
    trial.unknown("append", append).await;
    let close = trial.producer.close(stream, 0, StreamEnd::Complete);
    trial.unknown("close", close).await;
    trial.ok("renew", trial.producer.renew(&[stream])).await;
    for store in [&trial.reader, &trial.producer] {
        let told = trial.attend(store, &[stream], &[stream]).await;
        trial.same("attended", &told, &BTreeSet::new());
    }
    let found = trial.ok("find", trial.reader.find(stream)).await;
    trial.same("found after all that", &found, &None);
    trial.unknown("read", trial.reader.read(stream, 0, 1)).await;
}

pub(super) async fn bytes(trial: Trial) {
    let large: Vec<_> = all_bytes().repeat(4096);
    let mut contents = vec![all_bytes(), large, "data: ü\r\n\r\n".into()];
    contents.extend((0..=u8::MAX).map(|byte| vec![byte]));
    let numbered = contents.into_iter().zip(1..);
    let events: Vec<_> = numbered
        .map(|(bytes, number)| event(number, bytes))
        .collect();
    let stream = trial.opened().await;
    trial.append(stream, &events, 0).await;
    for event in &events {
        let page = trial.read(stream, event.number - 1, 1).await;
        let same = page.events == [event.clone()];
        trial.holds(same, || format!("other bytes in event {}", event.number));
    }
}

pub(super) async fn pages(trial: Trial) {
    let (stream, events) = (trial.opened().await, events(1..=5));
    for batch in [&events[..1], &events[1..3], &events[3..]] {
        trial.append(stream, batch, 0).await;
    }
    trial.every_page(stream, &events, Then::Running).await;
    let end = StreamEnd::Complete;
    trial.close(stream, 5, end).await;
    let then = Then::Ended { last: 5, end };
    trial.every_page(stream, &events, then).await;
}

pub(super) async fn gaps(trial: Trial) {
    let stream = trial.opened().await;
    let parts = [events(4..=5), events(7..=7), events(1000..=1001)];
    let mut before = 0;
    for part in &parts {
        let waiting = trial.waiting(stream, before, part.len());
        trial.append(stream, part, 0).await;
        for page in joined(waiting).await {
            trial.same("the next page", &page.events, part);
        }
        before = part.last().map_or(0, |event| event.number);
    }
    let events = parts.concat();
    trial.every_page(stream, &events, Then::Running).await;
}

pub(super) async fn many(trial: Trial) {
    let (stream, events) = (trial.opened().await, events(1..=10_000));
    for batch in events.chunks(100) {
        trial.append(stream, batch, 0).await;
    }
    trial.holds_exactly(stream, &events).await;
}

pub(super) async fn repeated_append(trial: Trial) {
    let (stream, events) = (trial.opened().await, events(1..=9));
    for range in [0..3, 0..3, 1..2, 1..5, 0..6, 5..7, 8..9, 8..9] {
        trial.append(stream, &events[range], 0).await;
    }
    trial.append(stream, &[], 0).await;
    let stored = [&events[..7], &events[8..]].concat();
    trial.holds_exactly(stream, &stored).await;
}

pub(super) async fn dropped(trial: Trial) {
    let (stream, events) = (trial.opened().await, events(1..=20));
    for (range, keep_from) in [(0..10, 1), (10..15, 8), (13..15, 12), (10..20, 14)] {
        let (so_far, kept) = (&events[..range.end], &events[keep_from - 1..range.end]);
        trial.append(stream, &events[range], keep_from as u64).await;
        let (stored, _) = trial.all(stream, 0).await;
        let known = stored.iter().all(|event| so_far.contains(event));
        trial.holds(known && stored.ends_with(kept), || {
            format!("{stored:?} instead of some before, and {kept:?}")
        });
    }
    let end = StreamEnd::Complete;
    trial.close(stream, 20, end).await;
    let (_, then) = trial.all(stream, 0).await;
    trial.same("the end", &then, &Then::Ended { last: 20, end });
}

pub(super) async fn repeated_open(trial: Trial) {
    let (stream, events) = (trial.new_stream(), events(1..=4));
    for event in &events {
        trial.open(stream, b"about").await;
        trial.append(stream, std::slice::from_ref(event), 0).await;
    }
    trial.open(stream, b"about").await;
    trial.holds_exactly(stream, &events).await;
    let found = trial.ok("find", trial.reader.find(stream)).await;
    trial.same("found", &found.as_deref(), &Some(&b"about"[..]));
}

pub(super) async fn ends(trial: Trial) {
    use StreamEnd::{Abandoned, Complete, Failed, Stopped};
    // The last ones are never stored when their number is higher.
    for (stored, last, end) in [
        (0, 0, Complete),
        (2, 2, Complete),
        (2, 2, Stopped),
        (2, 2, Failed),
        (0, 0, Abandoned),
        (2, 7, Abandoned),
    ] {
        let (stream, events) = (trial.opened().await, events(1..=stored));
        trial.append(stream, &events, 0).await;
        for _ in 0..3 {
            trial.close(stream, last, end).await;
            let then = Then::Ended { last, end };
            trial.every_page(stream, &events, then).await;
        }
    }
}

pub(super) async fn next_at_once(trial: Trial) {
    let (stream, events) = (trial.opened().await, events(1..=3));
    trial.append(stream, &events, 0).await;
    let end = StreamEnd::Stopped;
    for close in [false, true] {
        if close {
            trial.close(stream, 3, end).await;
        }
        // Without an end there is nothing behind the third yet.
        for after in 0..3 + u64::from(close) {
            for limit in 1..=4 {
                let read = trial.read(stream, after, limit).await;
                let next = trial.next(stream, after, limit).await;
                trial.same(&format!("next after {after}"), &next, &read);
            }
        }
    }
}

pub(super) async fn next_event(trial: Trial) {
    let (stream, events) = (trial.opened().await, events(1..=3));
    for (event, after) in events.iter().zip(0..) {
        let waiting = trial.waiting(stream, after, 3);
        sleep(MOMENT).await;
        trial.append(stream, std::slice::from_ref(event), 0).await;
        for page in joined(waiting).await {
            trial.same("the next page", &page.events, &vec![event.clone()]);
            trial.same("what follows", &page.then, &Then::Running);
        }
    }
}

pub(super) async fn next_end(trial: Trial) {
    let (stream, end) = (trial.opened().await, StreamEnd::Failed);
    trial.append(stream, &events(1..=1), 0).await;
    let waiting = trial.waiting(stream, 1, 3);
    sleep(MOMENT).await;
    trial.close(stream, 1, end).await;
    let then = Then::Ended { last: 1, end };
    for page in joined(waiting).await {
        trial.same("the next page", &page, &nothing(then));
    }
}

pub(super) async fn next_ahead(trial: Trial) {
    let (stream, events) = (trial.opened().await, events(1..=6));
    let waiting = trial.waiting(stream, 4, 3);
    for batch in [&events[..1], &events[1..4], &events[4..]] {
        sleep(MOMENT).await;
        trial.append(stream, batch, 0).await;
    }
    for page in joined(waiting).await {
        trial.same("the next page", &page.events, &events[4..].to_vec());
    }
}

pub(super) async fn next_quiet(trial: Trial) {
    let (stream, other) = (trial.opened().await, trial.opened().await);
    let events = events(1..=3);
    trial.append(stream, &events, 0).await;
    let mut waiting = trial.waiting(stream, 3, 3);
    sleep(MOMENT).await;
    trial.open(stream, b"about").await;
    trial.append(stream, &events[1..], 2).await;
    trial.append(stream, &[], 3).await;
    trial.append(other, &events, 0).await;
    trial.close(other, 3, StreamEnd::Complete).await;
    trial.ok("renew", trial.producer.renew(&[stream])).await;
    trial.attend(&trial.reader, &[stream], &[stream]).await;
    let answered = timeout(trial.producer.lease(), waiting.join_next()).await;
    trial.holds(answered.is_err(), || format!("{answered:?}"));
}

pub(super) async fn next_dropped(trial: Trial) {
    let (stream, events) = (trial.opened().await, events(1..=2));
    let before = trial.waiting(stream, 0, 2);
    for _ in 0..50 {
        let given_up = timeout(MOMENT / 10, trial.reader.next(stream, 0, 2)).await;
        trial.holds(given_up.is_err(), || "an answer without an event".into());
    }
    let after = trial.waiting(stream, 0, 2);
    sleep(MOMENT).await;
    trial.append(stream, &events[..1], 0).await;
    for waiting in [before, after] {
        for page in joined(waiting).await {
            trial.same("the next page", &page.events, &events[..1].to_vec());
        }
    }
    trial.append(stream, &events[1..], 0).await;
    trial.holds_exactly(stream, &events).await;
}

pub(super) async fn crowd(trial: Trial) {
    const EVENTS: usize = 300;
    let mut tasks = JoinSet::new();
    for _ in 0..4 {
        let stream = trial.opened().await;
        let events: Arc<[_]> = (1..=EVENTS as u64)
            .map(|number| event(number, format!("data: {stream}.{number}\n\n")))
            .collect();
        for (after, limit) in [(0, 1), (0, 7), (0, 1000), (EVENTS / 2, 3), (EVENTS, 3)] {
            tasks.spawn(trial.clone().follow(stream, after, limit, events.clone()));
        }
        tasks.spawn(trial.clone().produce(stream, events));
    }
    joined(tasks).await;
}

pub(super) async fn lease(trial: Trial) {
    let lease = trial.producer.lease();
    trial.same("the reader's lease", &trial.reader.lease(), &lease);
    let (renewed, left) = (trial.opened().await, trial.new_stream());
    let open = trial.producer.open(left, Bytes::new());
    trial.ok("open", open).await;
    let begin = Instant::now();
    trial.append(left, &events(1..=1), 0).await;
    let lost = timeout(lease + PATIENCE, trial.reader.next(left, 1, 1)).await;
    trial.holds(begin.elapsed() > lease / 2, || "lost too early".into());
    let lost = lost.unwrap_or_else(|_| trial.fail("nobody was told of the loss"));
    trial.same("the next page", &lost.ok(), &Some(nothing(Then::Lost)));
    let page = trial.read(left, 0, 1).await;
    trial.same("what was stored", &page.events, &events(1..=1));
    trial.same("what follows", &page.then, &Then::Lost);
    let kept = timeout(2 * lease, trial.reader.next(renewed, 0, 1)).await;
    trial.holds(kept.is_err(), || {
        format!("{kept:?} of one that was renewed")
    });
    let renew = [trial.new_stream(), left];
    trial.ok("renew", trial.producer.renew(&renew)).await;
    let page = trial.read(left, 1, 1).await;
    trial.same(
        "the page of one that is back",
        &page,
        &nothing(Then::Running),
    );
}

pub(super) async fn attend(trial: Trial) {
    let streams @ [a, b, c] = [
        trial.opened().await,
        trial.opened().await,
        trial.opened().await,
    ];
    let (here, there) = (&trial.producer, &trial.reader);
    for (store, read, unread, told) in [
        (here, &[][..], &streams[..], &[][..]),
        (there, &[a], &[], &[]),
        (here, &[], &streams, &[a]),
        (here, &[], &[b, c], &[]),
        (there, &[c], &[b], &[]),
        (here, &[b], &[c, a], &[a, c]),
        (there, &[a, c], &[b], &[b]),
        (here, &[], &streams, &streams),
        (here, &[], &[], &[]),
    ] {
        // Said again, it is the same.
        for _ in 0..2 {
            let answer = trial.attend(store, read, unread).await;
            let told = told.iter().copied().collect();
            trial.same("attended", &answer, &told);
        }
    }
}

pub(super) async fn attend_again(trial: Trial) {
    let lease = trial.producer.lease();
    let [once, again] = [trial.opened().await, trial.opened().await];
    let begin = Instant::now();
    trial.attend(&trial.reader, &[once, again], &[]).await;
    loop {
        sleep(lease / 3).await;
        let unread = [once, again];
        let told = trial.attend(&trial.producer, &[], &unread).await;
        trial.holds(told.contains(&again), || "forgot who said it again".into());
        if !told.contains(&once) {
            break;
        }
        let late = begin.elapsed() > lease + PATIENCE;
        trial.holds(!late, || "never forgets".into());
        trial.attend(&trial.reader, &[again], &[]).await;
    }
    trial.holds(begin.elapsed() > lease / 2, || "forgets too early".into());
}

pub(super) async fn attend_lost(trial: Trial) {
    let (lease, left) = (trial.producer.lease(), trial.new_stream());
    let open = trial.producer.open(left, Bytes::new());
    trial.ok("open", open).await;
    let begin = Instant::now();
    while trial.read(left, 0, 1).await.then == Then::Running {
        let late = begin.elapsed() > lease + PATIENCE;
        trial.holds(!late, || "nobody was told of the loss".into());
        for store in [&trial.reader, &trial.producer] {
            trial.attend(store, &[left], &[left]).await;
        }
        sleep(lease / 3).await;
    }
    let page = trial.read(left, 0, 1).await;
    trial.same("the page", &page, &nothing(Then::Lost));
}
