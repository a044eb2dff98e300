//! Streams that outlive their connections: what clients see, in paused time and a store in memory.
#![cfg(feature = "resume")]

mod support;

use std::time::Duration;

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use http::{Response, StatusCode};
use proptest::prelude::*;
use support::{
    body::{End, Step, data, pause, paused, request},
    reference::{self, Event},
    resume::{Answer, Upstream, World, data_of, expected, numbers, seconds},
    streams::{NASTY, byte_by_byte, chunked, config, every_split, stream},
};
use tokio::time::{Instant, sleep};
use tower_sse::{DrainLayer, LossPolicy, MemoryStore, ResumeLayer, SseLayer, resume::StreamId};

// === what goes down ===

#[test]
fn who_did_not_ask_gets_the_bytes_of_the_service_however_they_are_cut() {
    let runtime = paused();
    for (name, stream) in NASTY {
        let splits = if stream.len() < 200 {
            every_split(stream)
        } else {
            vec![byte_by_byte(stream)]
        };
        for chunks in splits {
            for silence in [0.0, 1.0] {
                let steps = chunks
                    .iter()
                    .flat_map(|chunk| [data(chunk), pause(silence)]);
                let answer = runtime.block_on(World::of(steps).post(""));
                let recording = runtime.block_on(answer.record());
                assert_eq!(recording.end.1, End::Clean, "{name}");
                assert_eq!(recording.bytes(), *stream, "{name}: {chunks:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_source_gets_an_id_in_every_event() {
    let world = World::of([
        data("data: a\n\n: hi\n\ndata: b\r\nevent: x\r\n\r"),
        data("\n"),
        data("id: \0\ndata: c\n\nretry: 5\n\ndata: d\r\r"),
    ]);
    let answer = world.listen("").await;
    let stream = answer.stream();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(stream.parse::<StreamId>().is_ok(), "{stream}");
    let text = answer.record().await.text();
    assert_eq!(
        text,
        format!(
            "data: a\nid: {stream}.1\n\n: hi\ndata: b\r\nevent: x\r\nid: {stream}.2\r\n\r\n\
             id: \0\ndata: c\nid: {stream}.3\n\nretry: 5\n\ndata: d\rid: {stream}.4\r\r"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn lines_with_ids_are_for_those_who_ask() {
    let asks = ("sse-resume", "ids");
    let stream = ("accept", "text/event-stream");
    for (method, uri, headers, ids) in [
        ("GET", "/", &[stream][..], true),
        ("POST", "/", &[stream], false),
        ("GET", "/", &[], false),
        ("POST", "/", &[asks], true),
        ("POST", "/?sse-resume=ids", &[], true),
        ("POST", "/?sse-resume=no", &[], false),
        ("POST", "/", &[("sse-resume", "no")], false),
        (
            "POST",
            "/",
            &[asks, ("x-goog-api-client", "genai-js/0.24")],
            false,
        ),
    ] {
        let world = World::of([data("data: x\n\n")]);
        let text = world
            .ask(request(method, uri, headers))
            .await
            .record()
            .await
            .text();
        assert_eq!(text.contains("id: "), ids, "{method} {uri} {headers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_comment_stays_a_line_though_its_blank_line_comes_late() {
    let steps = [
        data(": hi\n"),
        pause(1.0),
        data("\n"),
        pause(1.0),
        data("data: 1\n\n"),
    ];
    let answer = World::of(steps).listen("").await;
    let stream = answer.stream();
    let text = answer.record().await.text();
    assert_eq!(text, format!(": hi\ndata: 1\nid: {stream}.1\n\n"));
}

#[tokio::test(start_paused = true)]
async fn a_byte_order_mark_that_is_none_stays_none_where_a_client_goes_on() {
    let world = World::of([data("data: 1\n\n\u{feff}data: x\n\ndata: 2\n\n")]);
    let answer = world.post("").await;
    let stream = answer.stream();
    assert_eq!(data_of(&answer.events().await), ["1", "2"]);
    let again = world.post(&format!("{stream}.1")).await;
    assert_eq!(data_of(&again.events().await), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn ids_of_the_service_stay_alone() {
    let world = World::of([data("data: a\n\nid: 7\ndata: b\n\ndata: c\n\n")]);
    let answer = world.listen("").await;
    let stream = answer.stream();
    let text = answer.record().await.text();
    assert_eq!(
        text,
        format!("data: a\nid: {stream}.1\n\nid: 7\ndata: b\n\ndata: c\n\n")
    );
}

#[tokio::test(start_paused = true)]
async fn what_stands_between_events_does_not_wait_for_the_next() {
    let world = World::of([
        data(": hi\n"),
        pause(5.0),
        data(": ho\n\nretry: 7\n\n"),
        pause(5.0),
        data("data: half"),
        pause(5.0),
        data("\n\n"),
    ]);
    let moments = world.post("").await.record().await.moments();
    let expected = [
        (0, ": hi\n"),
        (5000, ": ho\n\nretry: 7\n\n"),
        (15_000, "data: half\n\n"),
    ];
    assert_eq!(moments, expected.map(|(at, text)| (at, text.to_owned())));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_too_large_passes_and_the_next_ones_have_their_numbers() {
    let layer = ResumeLayer::new(MemoryStore::new()).max_bytes(100);
    let large = format!("data: {}\n\n", "x".repeat(1000));
    let steps = [
        data("data: 1\n\n"),
        data(&large[..700]),
        pause(1.0),
        data(&large[700..]),
        pause(1.0),
        data("data: 3\n\n"),
        Step::Hang,
    ];
    let world = World::new(layer.clone(), Upstream::new(steps));
    let answer = world.post("").await;
    let stream = answer.stream();
    let recording = answer.record_for(10.0).await;
    assert_eq!(recording.text(), format!("data: 1\n\n{large}data: 3\n\n"));
    assert_eq!(layer.handle().stats().unstored, 1);
    // Whoever comes back behind it goes on, who wants it is told that it is not there.
    let late = world.post(&format!("{stream}.2")).await;
    assert_eq!(late.header("sse-resume"), "resumed");
    assert_eq!(late.record_for(10.0).await.text(), "data: 3\n\n");
}

#[tokio::test(start_paused = true)]
async fn trailers_and_an_unfinished_end_reach_who_is_there() {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    let world = World::of([
        data("data: x\n\ndata: un"),
        Step::Trailers(trailers.clone()),
    ]);
    let recording = world.post("").await.record().await;
    assert_eq!(recording.text(), "data: x\n\ndata: un");
    assert_eq!(recording.end.1, End::Trailers(trailers));
}

// === coming back ===

#[tokio::test(start_paused = true)]
async fn who_comes_back_goes_on_strictly_behind_the_id() {
    for wait in [0, 3, 8, 100] {
        let world = World::of(numbers(10));
        let first = world.listen("").await;
        let stream = first.stream();
        let got = first.record_for(4.5).await;
        assert_eq!(
            data_of(&reference::parse(&got.bytes()).events),
            expected(1, 4)
        );
        sleep(seconds(wait)).await;

        let second = world.listen(&format!("{stream}.4")).await;
        assert_eq!(second.header("sse-resume"), "resumed");
        assert_eq!(second.stream(), stream);
        assert_eq!(second.header("content-type"), "text/event-stream");
        let events = second.events().await;
        assert_eq!(data_of(&events), expected(5, 10));
        let ids: Vec<_> = events.iter().map(|event| event.id.clone()).collect();
        assert_eq!(
            ids,
            (5..=10)
                .map(|n| format!("{stream}.{n}"))
                .collect::<Vec<_>>()
        );
        assert_eq!(world.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn any_method_comes_back_and_who_counts_needs_no_ids() {
    let world = World::of(numbers(10));
    let first = world.post("").await;
    let stream = first.stream();
    let got = first.record_for(4.5).await;
    let count = reference::parse(&got.bytes()).events.len();
    for method in ["POST", "GET", "PUT"] {
        let last = format!("{stream}.{count}");
        let request = request(method, "/", &[("last-event-id", &last)]);
        let recording = world.ask(request).await.record().await;
        assert!(!recording.text().contains("id:"));
        let events = reference::parse(&recording.bytes()).events;
        assert_eq!(data_of(&events), expected(5, 10), "{method}");
    }
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn whoever_has_everything_is_told_not_to_come_back() {
    let world = World::of(numbers(3));
    let first = world.listen("").await;
    let stream = first.stream();
    assert_eq!(first.events().await.len(), 3);
    for wait in [0, 300] {
        sleep(seconds(wait)).await;
        let again = world.listen(&format!("{stream}.3")).await;
        assert_eq!(again.status, StatusCode::NO_CONTENT);
        assert_eq!(again.header("sse-resume"), "complete");
        assert_eq!(again.header("content-type"), "");
        assert_eq!(again.record().await.text(), "");
        let from_the_start = world.listen(&format!("{stream}.0")).await;
        assert_eq!(data_of(&from_the_start.events().await), expected(1, 3));
    }
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn several_read_at_once_each_from_its_place() {
    let world = World::of(numbers(100));
    let first = world.post("").await;
    let stream = first.stream();
    let first = tokio::spawn(first.events());
    let mut others = Vec::new();
    for n in 0..20 {
        sleep(seconds(5)).await;
        let answer = world.post(&format!("{stream}.{n}")).await;
        others.push((n, tokio::spawn(answer.events())));
    }
    assert_eq!(data_of(&first.await.unwrap()), expected(1, 100));
    for (n, events) in others {
        assert_eq!(data_of(&events.await.unwrap()), expected(n + 1, 100));
    }
    assert_eq!(world.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_one_reader_gets_with_ids_the_next_gets_too_and_others_without() {
    let frames = [
        "data: a\n\n",
        ": hi\n\ndata: b\n\n",
        "id: 7\ndata: c\n\n",
        "data: d\n\n",
    ];
    let world = World::of(frames.iter().flat_map(|frame| [pause(1.0), data(frame)]));
    let first = world.listen("").await;
    let stream = first.stream();
    let start = format!("{stream}.0");
    let with_ids = format!(
        "data: a\nid: {stream}.1\n\n: hi\ndata: b\nid: {stream}.2\n\nid: 7\ndata: c\n\ndata: d\n\n"
    );
    let (second, third) = (world.listen(&start).await, world.post(&start).await);
    let (first, second, third) = tokio::join!(first.record(), second.record(), third.record());
    assert_eq!(first.text(), with_ids);
    assert_eq!(second.text(), with_ids);
    assert_eq!(third.text(), frames.concat());
    // Also when only the store has it.
    sleep(seconds(1)).await;
    let again = world.listen(&start).await;
    assert_eq!(again.record().await.text(), with_ids);
}

#[tokio::test(start_paused = true)]
async fn an_id_of_the_service_counts_within_the_stream_that_is_named() {
    let steps = [
        data("id: a\ndata: 1\n\nid: b\ndata: 2\n\ndata: 3\n\nid: c\n\n"),
        data("data: 4\n\nid: b\ndata: 5\n\ndata: 6\n\n"),
    ];
    let world = World::of(steps);
    let first = world.listen("").await;
    let stream = first.stream();
    first.events().await;
    for (id, rest) in [("a", "2"), ("c", "4"), ("b", "6")] {
        let headers = [("last-event-id", id), ("sse-stream", &stream)];
        let answer = world.ask(request("GET", "/", &headers)).await;
        let events = answer.events().await;
        assert_eq!(data_of(&events)[0], rest, "{id}");
        let uri = format!("/?sse-stream={stream}");
        let answer = world.ask(request("POST", &uri, &headers[..1])).await;
        assert_eq!(answer.events().await, events, "{id}");
    }
    assert_eq!(world.calls(), 1);
    // Which stream is not said: it is the service's business.
    world.listen("a").await;
    assert_eq!(world.calls(), 2);
    assert_eq!(world.request(1).headers()["last-event-id"], "a");
    // Unknown in that stream.
    let headers = [("last-event-id", "z"), ("sse-stream", &stream)];
    let answer = world.ask(request("GET", "/", &headers)).await;
    assert_eq!(answer.header("sse-resume"), "lost");
}

// === who may ===

#[tokio::test(start_paused = true)]
async fn only_who_began_may_go_on_and_all_else_looks_like_nothing() {
    for policy in [
        LossPolicy::StartAnew,
        LossPolicy::NoContent,
        LossPolicy::Gone,
    ] {
        let layer = ResumeLayer::new(MemoryStore::new()).on_loss(policy);
        let world = World::new(layer.clone(), Upstream::new(numbers(2)));
        let ask = |who: &'static str, last: String| {
            world.ask(request(
                "POST",
                "/",
                &[("authorization", who), ("last-event-id", &last)],
            ))
        };
        let first = world
            .ask(request("POST", "/", &[("authorization", "me")]))
            .await;
        let stream = first.stream();
        first.events().await;
        let own = ask("me", format!("{stream}.1")).await;
        assert_eq!(own.header("sse-resume"), "resumed");
        assert_eq!(data_of(&own.events().await), ["2"]);

        let unknown = told(ask("me", format!("ts_{}.1", "0".repeat(32))).await).await;
        assert_eq!(unknown.1["sse-resume"], "lost");
        for (who, last) in [
            ("you", format!("{stream}.1")),
            ("you", format!("{stream}.2")),
            ("me ", stream.clone()),
            ("me", format!("{stream}.x")),
            ("me", format!("{stream}.18446744073709551615")),
            ("me", "ts_".to_owned()),
        ] {
            let other = told(ask(who, last.clone()).await).await;
            assert_eq!(other, unknown, "{policy:?} {who} {last}");
        }
        assert_eq!(layer.handle().stats().lost, 7);
        let calls = if policy == LossPolicy::StartAnew {
            8
        } else {
            1
        };
        assert_eq!(world.calls(), calls);
    }
}

/// All that can be seen from outside, but for the new stream's own id.
async fn told(answer: Answer) -> (StatusCode, http::HeaderMap, String) {
    let (status, mut headers) = (answer.status, answer.headers.clone());
    headers.remove("sse-stream");
    (status, headers, answer.record().await.text())
}

#[tokio::test(start_paused = true)]
async fn the_principal_is_what_the_user_says() {
    let layer = ResumeLayer::new(MemoryStore::new())
        .principal(|request| request.uri.path().as_bytes().to_vec())
        .on_loss(LossPolicy::Gone);
    let world = World::new(layer, Upstream::new(numbers(2)));
    let stream = world.ask(request("GET", "/a", &[])).await.stream();
    for (path, status) in [("/b", StatusCode::GONE), ("/a", StatusCode::OK)] {
        let last = format!("{stream}.0");
        let answer = world
            .ask(request("GET", path, &[("last-event-id", &last)]))
            .await;
        assert_eq!(answer.status, status, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_starts_anew_without_our_id_and_says_so() {
    let world = World::of(numbers(2));
    let answer = world.listen(&format!("ts_{}.7", "0".repeat(32))).await;
    assert_eq!(answer.header("sse-resume"), "lost");
    assert!(answer.stream().parse::<StreamId>().is_ok());
    assert!(!world.request(0).headers().contains_key("last-event-id"));
    assert_eq!(data_of(&answer.events().await), expected(1, 2));
}

#[tokio::test(start_paused = true)]
async fn our_ids_in_the_query_do_not_reach_the_service() {
    let layer = ResumeLayer::new(MemoryStore::new()).query("last");
    let world = World::new(layer, Upstream::new(numbers(1)));
    let unknown = format!("ts_{}", "0".repeat(32));
    for (query, left) in [
        (format!("last={unknown}.1"), None),
        (format!("a=1&last={unknown}.1&b=%20"), Some("a=1&b=%20")),
        (format!("a=1&sse-stream={unknown}"), Some("a=1")),
        (format!("l%61st={unknown}.1&b"), Some("b")),
    ] {
        let calls = world.calls();
        let answer = world.ask(request("GET", &format!("/?{query}"), &[])).await;
        assert_eq!(answer.header("sse-resume"), "lost", "{query}");
        assert_eq!(world.request(calls).uri().query(), left, "{query}");
    }
}

// === what is none of our business ===

#[tokio::test(start_paused = true)]
async fn what_is_no_event_stream_of_ours_passes_untouched() {
    let ours = format!("ts_{}.7", "0".repeat(32));
    let mcp = ("accept", "application/json, text/event-stream");
    for (request, head) in [
        (request("HEAD", "/", &[("last-event-id", &ours)]), None),
        (request("POST", "/", &[mcp, ("last-event-id", &ours)]), None),
        (
            request("GET", "/", &[("last-event-id", "41")]),
            Some(("content-type", "text/plain")),
        ),
        (request("GET", "/", &[]), Some(("content-encoding", "gzip"))),
        (request("GET", "/other", &[("last-event-id", &ours)]), None),
    ] {
        let layer = ResumeLayer::new(MemoryStore::new()).when(|head| head.uri.path() == "/");
        let upstream = Upstream::new([data("data: x\n\n")]).head(move |mut response| {
            if let Some((name, value)) = head {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            response
        });
        let world = World::new(layer.clone(), upstream);
        let answer = world.ask(request.clone()).await;
        assert_eq!(answer.stream(), "", "{request:?}");
        assert_eq!(answer.header("sse-resume"), "");
        assert_eq!(answer.record().await.text(), "data: x\n\n");
        assert_eq!(world.request(0).headers(), request.headers());
        assert_eq!(layer.handle().stats(), Default::default());
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_told_as_an_event_stream_passes() {
    let upstream = Upstream::new([data("data: x\n\n")]).head(|mut response| {
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        response
    });
    let world = World::new(ResumeLayer::new(MemoryStore::new()), upstream);
    let answer = world.post("").await;
    assert_eq!(answer.stream(), "");
    assert_eq!(answer.record().await.text(), "data: x\n\n");
}

#[tokio::test(start_paused = true)]
async fn the_head_comes_again_but_for_what_belonged_to_one_response() {
    let upstream = Upstream::new(numbers(1)).head(|response| {
        let (mut head, ()) = response.into_parts();
        for (name, value) in [
            ("access-control-allow-origin", "https://a"),
            ("x-model", "m"),
            ("set-cookie", "s=1"),
            ("date", "Mon, 23 Nov 2026 00:00:00 GMT"),
            ("content-length", "9"),
            ("connection", "x-hop"),
            ("x-hop", "1"),
        ] {
            head.headers.insert(name, value.parse().unwrap());
        }
        Response::from_parts(head, ())
    });
    let world = World::new(ResumeLayer::new(MemoryStore::new()), upstream);
    let first = world.post("").await;
    assert_eq!(first.header("set-cookie"), "s=1");
    assert_eq!(first.header("content-length"), "");
    let stream = first.stream();
    first.events().await;
    let again = world.post(&format!("{stream}.0")).await;
    let mut names: Vec<_> = again.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "access-control-allow-origin",
            "content-type",
            "sse-resume",
            "sse-stream",
            "x-model"
        ]
    );
    let over = world.post(&format!("{stream}.1")).await;
    assert_eq!(over.header("access-control-allow-origin"), "https://a");
}

// === the life of a producer ===

#[tokio::test(start_paused = true)]
async fn without_readers_it_runs_on_for_the_grace_and_no_longer() {
    for grace in [0, 5, 60] {
        let layer = ResumeLayer::new(MemoryStore::new()).grace(seconds(grace));
        let world = World::new(layer.clone(), Upstream::new(numbers(1000)));
        let start = Instant::now();
        let stream = {
            let answer = world.post("").await;
            let stream = answer.stream();
            answer.record_for(10.5).await;
            stream
        };
        sleep(seconds(100)).await;
        let dropped = world.probe(0).dropped().expect("cancelled") - start;
        assert_eq!(dropped.as_secs(), 10 + grace, "{grace}");
        assert_eq!(layer.handle().stats().abandoned, 1);
        assert!(layer.handle().streams().is_empty());
        // What there is of it can be read, but nobody takes it for the whole.
        let again = world.post(&format!("{stream}.10")).await;
        if grace == 0 {
            assert_eq!(again.header("sse-resume"), "lost");
            continue;
        }
        let recording = again.record().await;
        assert!(matches!(recording.end.1, End::Error(_)), "{recording:?}");
        let events = reference::parse(&recording.bytes()).events;
        assert_eq!(data_of(&events), expected(11, 10 + grace as usize));
        let last = world.post(&format!("{stream}.{}", 10 + grace)).await;
        assert_eq!(last.header("sse-resume"), "lost");
    }
}

#[tokio::test(start_paused = true)]
async fn the_handle_shows_and_stops_streams() {
    let layer = ResumeLayer::new(MemoryStore::new());
    let handle = layer.handle();
    let world = World::new(layer, Upstream::new(numbers(1000)));
    let answer = world.listen("").await;
    let id: StreamId = answer.stream().parse().unwrap();
    let reading = tokio::spawn(answer.events());
    sleep(Duration::from_millis(5500)).await;
    let seen = handle.stream(id).unwrap();
    assert_eq!((seen.id, seen.events, seen.readers), (id, 5, 1));
    assert_eq!(seen.age.as_millis(), 5500);
    assert_eq!(handle.streams(), [seen]);
    assert!(handle.stop(id));
    assert_eq!(data_of(&reading.await.unwrap()), expected(1, 5));
    assert!(world.probe(0).dropped().is_some());
    assert!(!handle.stop(id));
    let again = world.listen(&format!("{id}.5")).await;
    assert_eq!(again.status, StatusCode::NO_CONTENT);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_producers_but_not_for_ever() {
    for (deadline, took) in [(60, 20), (7, 7)] {
        let layer = ResumeLayer::new(MemoryStore::new());
        let handle = layer.handle();
        let world = World::new(layer, Upstream::new(numbers(20)));
        drop(world.post("").await);
        let start = Instant::now();
        handle.finish(seconds(deadline)).await;
        assert_eq!(start.elapsed().as_secs(), took);
        assert!(handle.streams().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_breaks_off_behind_its_last_event_now_and_later() {
    let mut steps = numbers(3);
    steps.push(Step::Error("broken"));
    let world = World::of(steps);
    let first = world.post("").await;
    let stream = first.stream();
    for answer in [first, world.post(&format!("{stream}.0")).await] {
        let recording = answer.record().await;
        assert!(matches!(recording.end.1, End::Error(_)));
        assert_eq!(
            data_of(&reference::parse(&recording.bytes()).events),
            expected(1, 3)
        );
    }
    sleep(seconds(60)).await;
    assert_eq!(
        world
            .post(&format!("{stream}.3"))
            .await
            .header("sse-resume"),
        "lost"
    );
}

#[tokio::test]
async fn a_body_that_panics_leaves_nobody_waiting() {
    let layer = ResumeLayer::new(MemoryStore::new());
    let handle = layer.handle();
    let panics = tower::service_fn(|_: http::Request<()>| async {
        let stream = futures_util::stream::poll_fn(|_| -> std::task::Poll<Option<_>> {
            panic!("a bug of the service")
        });
        let stream = futures_util::StreamExt::map(stream, |()| {
            Ok::<_, std::convert::Infallible>(http_body::Frame::data(bytes::Bytes::new()))
        });
        let body = http_body_util::StreamBody::new(stream);
        Ok::<_, std::convert::Infallible>(support::body::response("text/event-stream", body))
    });
    let service = tower::Layer::layer(&layer, panics);
    let response = tower::ServiceExt::oneshot(service, request("GET", "/", &[])).await;
    let recording = support::body::record(response.unwrap().into_body()).await;
    assert!(matches!(recording.end.1, End::Error(_)));
    assert!(handle.streams().is_empty());
}

// === pace and bounds ===

#[tokio::test(start_paused = true)]
async fn upstream_is_read_no_further_than_somebody_can_take_it() {
    let events = 100_000;
    let steps: Vec<_> = (0..events)
        .map(|n| data(format!("data: {n:080}\n\n")))
        .collect();
    let layer = ResumeLayer::new(MemoryStore::new())
        .max_events(2000)
        .grace(seconds(1000));
    let world = World::new(layer.clone(), Upstream::new(steps));
    // A client that does not read holds upstream up, as it does without the layer.
    let answer = world.listen("").await;
    let id: StreamId = answer.stream().parse().unwrap();
    sleep(seconds(10)).await;
    let unread = layer.handle().stream(id).unwrap().events;
    assert!((512..1000).contains(&unread), "{unread}");
    // When it has gone, as much is read as the log holds.
    drop(answer);
    sleep(seconds(10)).await;
    let unread = layer.handle().stream(id).unwrap().events;
    assert!((1000..1100).contains(&unread), "{unread}");
    // So nothing is lost for who comes back, whatever was produced meanwhile.
    let again = world.listen(&format!("{id}.0")).await;
    assert_eq!(again.header("sse-resume"), "resumed");
    let seen = again.events().await;
    assert_eq!((seen.len(), world.calls()), (events, 1));
    assert!(
        seen.iter()
            .enumerate()
            .all(|(n, event)| event.data == format!("{n:080}"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_falls_back_to_the_store_and_then_off() {
    let steps: Vec<_> = (1..=20_000)
        .flat_map(|n| [data(format!("data: {n:080}\n\n")), pause(0.001)])
        .collect();
    let layer = ResumeLayer::new(MemoryStore::new()).max_events(5000);
    let world = World::new(layer.clone(), Upstream::new(steps));
    let fast = world.post("").await;
    let stream = fast.stream();
    let slow = world.post(&format!("{stream}.0")).await;
    let slower = world.post(&format!("{stream}.0")).await;
    let fast = tokio::spawn(fast.events());
    // Out of what is live, and still in the store.
    sleep(seconds(4)).await;
    let slow = tokio::spawn(slow.events());
    sleep(seconds(4)).await;
    let slower = slower.record().await;
    assert!(matches!(slower.end.1, End::Error(_)), "{:?}", slower.end);
    assert_eq!(fast.await.unwrap().len(), 20_000);
    assert_eq!(slow.await.unwrap().len(), 20_000);
    assert_eq!(layer.handle().stats().broken_off, 1);
    assert_eq!(
        world
            .post(&format!("{stream}.9"))
            .await
            .header("sse-resume"),
        "lost"
    );
    assert_eq!(
        world
            .post(&format!("{stream}.19999"))
            .await
            .header("sse-resume"),
        "resumed"
    );
}

#[tokio::test(start_paused = true)]
async fn events_grow_old() {
    let layer = ResumeLayer::new(MemoryStore::new()).max_age(seconds(10));
    let world = World::new(layer, Upstream::new(numbers(100)));
    let answer = world.post("").await;
    let stream = answer.stream();
    let _reading = tokio::spawn(answer.events());
    sleep(Duration::from_millis(50_500)).await;
    // The live end holds some more; the store only the last ten seconds.
    sleep(seconds(60)).await;
    for (number, how) in [(80, "lost"), (95, "resumed")] {
        let answer = world.post(&format!("{stream}.{number}")).await;
        assert_eq!(answer.header("sse-resume"), how, "{number}");
    }
}

// === with the others ===

#[tokio::test(start_paused = true)]
async fn a_drain_sends_readers_away_and_producers_finish() {
    let (drain_layer, drain) = DrainLayer::pair();
    let drain_layer = drain_layer.spread(Duration::ZERO).jitter(0.0);
    let resume = ResumeLayer::new(MemoryStore::new());
    let handle = resume.handle();
    let layer = SseLayer::new().drain(drain_layer).resume(resume);
    let world = World::new(layer, Upstream::new(numbers(20)));
    let answer = world.listen("").await;
    let stream = answer.stream();
    let reading = tokio::spawn(answer.record());
    sleep(Duration::from_millis(5500)).await;
    drain.start();
    let recording = reading.await.unwrap();
    assert_eq!(recording.end, (Duration::from_millis(5500), End::Clean));
    let parsed = reference::parse(&recording.bytes());
    assert_eq!(parsed.last_id, format!("{stream}.5"));
    assert_eq!(parsed.retry, Some(2000));
    handle.finish(seconds(60)).await;
    assert!(world.probe(0).polls() > 20);
    assert_eq!(handle.stats().abandoned, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_drain_refuses_does_not_run_on() {
    // Of an `EventSource` also what came before the drain, and has its head only now.
    for starts_before_the_request in [true, false] {
        let (drain_layer, drain) = DrainLayer::pair();
        let resume = ResumeLayer::new(MemoryStore::new());
        let handle = resume.handle();
        let layer = SseLayer::new().drain(drain_layer).resume(resume);
        let world = World::new(layer, Upstream::new(numbers(20)).after(1.0));
        if starts_before_the_request {
            drain.start();
        }
        let asking = async {
            let refused = world.listen("").await;
            assert_eq!(refused.stream(), "");
            assert!(!refused.record().await.text().contains("data"));
        };
        let starting = async {
            sleep(Duration::from_millis(500)).await;
            drain.start();
        };
        tokio::join!(asking, starting);
        handle.finish(seconds(60)).await;
        assert!(world.probe(0).dropped().unwrap().elapsed() < seconds(1));
    }
}

#[tokio::test(start_paused = true)]
async fn through_the_whole_layer_heartbeats_fill_the_silence_of_a_resumed_stream() {
    let layer = SseLayer::new()
        .heartbeat(seconds(10))
        .event_id(tower_sse::EventIdLayer::new().query("last"))
        .resume(ResumeLayer::new(MemoryStore::new()));
    let steps = [data("data: 1\n\n"), pause(25.0), data("data: 2\n\n")];
    let world = World::new(layer, Upstream::new(steps));
    let first = world.listen("").await;
    assert_eq!(first.header("x-accel-buffering"), "no");
    let stream = first.stream();
    first.record_for(1.0).await;
    let uri = format!("/?last={stream}.1");
    let again = world
        .ask(request("GET", &uri, &[("accept", "text/event-stream")]))
        .await;
    assert_eq!(again.header("sse-resume"), "resumed");
    assert_eq!(again.header("x-accel-buffering"), "no");
    let text = again.record().await.text();
    assert_eq!(
        text,
        format!(": keep-alive\n: keep-alive\ndata: 2\nid: {stream}.2\n\n")
    );
}

// === whatever happens ===

/// Reads with cuts behind so many bytes each, as a browser would.
async fn read_with_cuts(world: &World, cuts: &[usize], counts: bool) -> Vec<Event> {
    let (mut events, mut last) = (Vec::new(), String::new());
    let mut stream = String::new();
    for bytes in cuts.iter().copied().chain([usize::MAX, usize::MAX]) {
        let answer = if counts {
            world.post(&last).await
        } else {
            world.listen(&last).await
        };
        if answer.status == StatusCode::NO_CONTENT {
            break;
        }
        stream = answer.stream();
        let parsed = reference::parse(&answer.read(bytes).await);
        let ids = !counts && !parsed.last_id.is_empty();
        events.extend(parsed.events);
        last = if ids {
            parsed.last_id
        } else {
            format!("{stream}.{}", events.len())
        };
    }
    assert!(!stream.is_empty());
    events
}

/// Without ids of its own, which lead to the service.
fn without_ids(stream: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(stream)
        .replace("id", "ie")
        .into_bytes()
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn however_often_it_is_cut_a_client_gets_every_event_once(
        chunks in chunked(stream().prop_map(|stream| without_ids(&stream))),
        cuts in prop::collection::vec(0..60_usize, 0..6),
        counts in any::<bool>(),
        silence in any::<bool>(),
    ) {
        let whole: Vec<u8> = chunks.concat();
        let gap = if silence { 1.0 } else { 0.0 };
        let steps = chunks.iter().flat_map(|chunk| [data(chunk), pause(gap)]);
        let (events, calls) = paused().block_on(async {
            let world = World::of(steps);
            (read_with_cuts(&world, &cuts, counts).await, world.calls())
        });
        let data = |events: &[Event]| -> Vec<_> {
            events.iter().map(|event| (event.kind.clone(), event.data.clone())).collect()
        };
        prop_assert_eq!(data(&events), data(&reference::parse(&whole).events));
        prop_assert_eq!(calls, 1);
    }
}

/// A stream of numbered events, so many at once, some of them behind a comment.
#[derive(Clone, Debug)]
struct Feed {
    comments: Vec<bool>,
    burst: usize,
}

/// One of many who read it.
#[derive(Clone, Debug)]
struct Visit {
    /// When it comes, and for how long, in milliseconds.
    at: u64,
    stays: u64,
    /// Behind which of the events that are there then.
    behind: prop::sample::Index,
    ids: bool,
}

impl Feed {
    /// Each burst takes as many seconds as it has events; they come at its start, with a millisecond
    /// between comment and event.
    fn steps(&self) -> Vec<Step> {
        let events = (1..=self.comments.len()).flat_map(|n| {
            let comment = data(if self.comments[n - 1] { ": c\n\n" } else { "" });
            let rest = if n % self.burst == 0 { self.burst } else { 0 };
            let event = data(format!("data: {n}\n\n"));
            [comment, pause(0.001), event, pause(rest as f64)]
        });
        events.collect()
    }

    /// How many events have come by then, at least.
    fn there(&self, time: Duration) -> usize {
        let bursts = time.saturating_sub(Duration::from_millis(50)).as_secs_f64()
            / (self.burst as f64 + 0.001 * self.burst as f64);
        let events = bursts.ceil() as usize * self.burst;
        // Of the last burst some may be still to come.
        events.saturating_sub(self.burst).min(self.comments.len())
    }

    /// The events from one to another, with ids or without.
    fn text(&self, stream: Option<&str>, after: usize, to: usize) -> String {
        let events = (after + 1..=to).map(|n| {
            let comment = self.comments[n - 1];
            match stream {
                Some(stream) => {
                    let comment = if comment { ": c\n" } else { "" };
                    format!("{comment}data: {n}\nid: {stream}.{n}\n\n")
                }
                None => {
                    let comment = if comment { ": c\n\n" } else { "" };
                    format!("{comment}data: {n}\n\n")
                }
            }
        });
        events.collect()
    }

    async fn visit(&self, world: &World, stream: &str, start: Instant, visit: Visit) {
        sleep(Duration::from_millis(visit.at)).await;
        let after = visit.behind.index(self.there(start.elapsed()) + 1);
        let last = format!("{stream}.{after}");
        let answer = if visit.ids {
            world.listen(&last).await
        } else {
            world.post(&last).await
        };
        let got = answer.record_for(visit.stays as f64 / 1000.0).await;
        let ids = visit.ids.then_some(stream);
        let all = self.text(ids, after, self.comments.len());
        let (text, case) = (got.text(), format!("{visit:?} behind {after}: {got:?}"));
        assert!(all.starts_with(&text), "{case}");
        if got.end.1 != End::None {
            assert_eq!((&got.end.1, text), (&End::Clean, all), "{case}");
            return;
        }
        // Not only at the end of its time, when it is polled anyway.
        let soon = got.end.0.saturating_sub(Duration::from_millis(10));
        let soon = got.frames.iter().take_while(|(at, _)| *at < soon);
        let soon: Vec<u8> = soon.flat_map(|(_, frame)| frame.to_vec()).collect();
        let due = self.text(ids, after, self.there(start.elapsed()));
        assert!(soon.starts_with(due.as_bytes()), "{case}, not {due:?}");
    }
}

fn feed() -> impl Strategy<Value = Feed> {
    let comments = prop::collection::vec(any::<bool>(), 20);
    (comments, 1..6_usize).prop_map(|(comments, burst)| Feed { comments, burst })
}

fn visits() -> impl Strategy<Value = Vec<Visit>> {
    let behind = any::<prop::sample::Index>();
    let visit = (0..30_000_u64, 100..20_000_u64, behind, any::<bool>());
    let visit = visit.prop_map(|(at, stays, behind, ids)| Visit {
        at,
        stays,
        behind,
        ids,
    });
    prop::collection::vec(visit, 1..24)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whoever_comes_and_goes_each_reads_on_from_its_place(feed in feed(), visits in visits()) {
        paused().block_on(async {
            let start = Instant::now();
            let world = World::of(feed.steps());
            let whole = world.post("").await;
            let stream = whole.stream();
            let whole = tokio::spawn(whole.record());
            let visits = visits.into_iter().map(|visit| feed.visit(&world, &stream, start, visit));
            // With a waker each.
            visits.collect::<FuturesUnordered<_>>().collect::<()>().await;
            let all = feed.text(None, 0, feed.comments.len());
            assert_eq!(whole.await.unwrap().text(), all);
            assert_eq!(world.calls(), 1);
        });
    }
}
