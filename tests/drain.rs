//! How a drain ends streams, refuses new ones, and knows what is left. Real sockets are in
//! `shutdown.rs`.

mod support;

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use proptest::prelude::*;
use support::{
    body::{
        AnyBody, Client, End, Endless, Recording, Script, Step, boxed, data, events, pause, paused,
        poll, record, record_for, request, response, script, through,
    },
    reference,
    streams::{NASTY, chunked_with_silences, config, stream},
};
use tokio::time::{Instant, advance, sleep, timeout};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse::{
    Aborted, Drain, DrainLayer, DrainMode, EventIdLayer, HeartbeatLayer, HeartbeatShape, SseLayer,
};

const SECOND: Duration = Duration::from_secs(1);

/// What ends when it is time, to the millisecond, and says nothing.
fn exact() -> (DrainLayer, Drain) {
    let (layer, drain) = DrainLayer::pair();
    let layer = layer.spread(Duration::ZERO).jitter(0.0).without_retry();
    (layer.deadline(10 * SECOND), drain)
}

/// Starts the drain in a second.
fn start_soon(drain: &Drain) {
    let drain = drain.clone();
    tokio::spawn(async move {
        sleep(SECOND).await;
        drain.start();
    });
}

async fn open(
    layer: &DrainLayer,
    client: Client,
    steps: impl IntoIterator<Item = Step>,
) -> AnyBody {
    through(layer.clone(), client.request(), events(steps))
        .await
        .into_body()
}

/// The stream with a drain that starts in a second.
async fn drained(
    (layer, drain): (DrainLayer, Drain),
    client: Client,
    steps: impl IntoIterator<Item = Step>,
) -> Recording {
    let body = open(&layer, client, steps).await;
    start_soon(&drain);
    record(body).await
}

/// The time of the end in milliseconds, and its kind.
fn end(recording: &Recording) -> (u128, &'static str) {
    let (at, end) = &recording.end;
    let kind = match end {
        End::Clean => "clean",
        End::Error(error) if error.contains("drain") => "aborted",
        End::Error(_) => "failed",
        End::Trailers(_) => "trailers",
        End::None => "open",
    };
    (at.as_millis(), kind)
}

/// A timer may be late by one, and an abort waits 10 for what was sent.
fn assert_end(recording: &Recording, at: u128, kind: &str) {
    let (ended, how) = end(recording);
    let late = if kind == "aborted" { 10..=13 } else { 0..=2 };
    assert!(
        how == kind && ended >= at && late.contains(&(ended - at)),
        "{how} at {ended} ms instead of {kind} at {at} ms: {recording:?}"
    );
}

// === a level, not an edge ===

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_is_woken() {
    for client in Client::ALL {
        let (layer, drain) = exact();
        let (layer, steps) = (
            layer.mode(DrainMode::EndNow),
            [data("data: x\n\n"), Step::Hang],
        );
        assert_end(&drained((layer, drain), client, steps).await, 1000, "clean");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_not_polled_before_the_start_sees_it() {
    let (layer, drain) = exact();
    let body = open(
        &layer,
        Client::EventSource,
        [data("data: x\n\n"), Step::Hang],
    )
    .await;
    drain.start();
    let recording = record(body).await;
    assert_end(&recording, 0, "clean");
    assert_eq!(recording.bytes(), b"");
}

/// A response whose head takes two seconds, during which the drain starts.
async fn with_late_head(
    (layer, drain): (DrainLayer, Drain),
    client: Client,
    head_takes: Duration,
) -> Response<AnyBody> {
    start_soon(&drain);
    let service = service_fn(async |_| {
        sleep(head_takes).await;
        Ok::<_, Infallible>(events([data("data: x\n\n"), Step::Hang]))
    });
    let Ok(response) = layer.layer(service).oneshot(client.request()).await;
    response.map(boxed)
}

#[tokio::test(start_paused = true)]
async fn a_head_that_comes_during_the_drain_begins_an_answer_but_no_feed() {
    let feed = with_late_head(exact(), Client::EventSource, 2 * SECOND).await;
    assert_eq!(feed.status(), StatusCode::OK);
    let recording = record(feed.into_body()).await;
    assert_eq!((end(&recording), recording.bytes()), ((0, "clean"), vec![]));

    let answer = with_late_head(exact(), Client::Fetch, 2 * SECOND).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let recording = record(answer.into_body()).await;
    assert_eq!(recording.bytes(), b"data: x\n\n");
    // Ten seconds after the start, which was a second before the head.
    assert_end(&recording, 9000, "aborted");

    let (layer, drain) = exact();
    let end_now = (layer.mode(DrainMode::EndNow), drain);
    let feed = with_late_head(end_now, Client::Fetch, 2 * SECOND).await;
    assert_eq!(feed.status(), StatusCode::SERVICE_UNAVAILABLE);

    let too_late = with_late_head(exact(), Client::Fetch, 12 * SECOND).await;
    assert_eq!(too_late.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test(start_paused = true)]
async fn a_second_start_changes_nothing() {
    let (layer, drain) = exact();
    assert!(!drain.has_started());
    let body = open(&layer, Client::Fetch, [data("data: x\n\n"), Step::Hang]).await;
    drain.start();
    assert!(drain.has_started());
    let again = drain.clone();
    tokio::spawn(async move {
        sleep(5 * SECOND).await;
        again.start();
    });
    assert_end(&record(body).await, 10_000, "aborted");
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_layer_drain_together_and_pairs_do_not() {
    let (layer, drain) = exact();
    let (other, _other_drain) = exact();
    let steps = || [data("data: x\n\n"), Step::Hang];
    let clone = layer.clone().deadline(SECOND).mode(DrainMode::EndNow);
    let bodies = [
        open(&layer, Client::EventSource, steps()).await,
        open(&clone, Client::Fetch, steps()).await,
    ];
    let untouched = open(&other, Client::EventSource, steps()).await;
    assert_eq!(drain.left(), 2);
    drain.start();
    for body in bodies {
        assert_end(&record(body).await, 0, "clean");
    }
    assert_eq!(
        end(&record_for(untouched, 60 * SECOND).await),
        (60_000, "open")
    );
}

// === where a stream ends ===

#[tokio::test(start_paused = true)]
async fn a_feed_ends_at_its_boundary_and_waits_for_one_but_not_long() {
    for (before, later, got, at, kind) in [
        ("", "", "", 1000, "clean"),
        ("data: x\n\n", "data: y\n\n", "data: x\n\n", 1000, "clean"),
        ("data: x\n\n: hi\n", "", "data: x\n\n: hi\n", 1000, "clean"),
        ("data: x\r\r", "", "data: x\r\r", 1000, "clean"),
        // what the event still needs comes 200 ms later, and all behind it is dropped
        ("data: x\n", "\n", "data: x\n\n", 1200, "clean"),
        ("data: x\n", "\ndata: y\n\n", "data: x\n\n", 1200, "clean"),
        ("dat", "a: x\r\n\r\nda", "data: x\r\n\r\n", 1200, "clean"),
        // a CR may still get its LF, and an end between them would be in the middle
        ("data: x\r\n", "\r", "data: x\r\n\r", 1500, "middle"),
        ("data: x\r\n\r", "\n", "data: x\r\n\r\n", 1200, "clean"),
        ("data: x\r\n\r", "\nda", "data: x\r\n\r\n", 1200, "clean"),
        (": hi", "\ndata: x\n\n", ": hi\ndata: x\n\n", 1200, "clean"),
        // or never: then no blank line is added
        ("data: x\n", "", "data: x\n", 1500, "middle"),
        ("data: x", "\n", "data: x\n", 1500, "middle"),
        (
            "data: x\n\nda",
            "ta: y\n",
            "data: x\n\ndata: y\n",
            1500,
            "middle",
        ),
        ("\u{feff}", "", "", 1000, "clean"),
    ] {
        for client in [Client::EventSource, Client::Fetch] {
            let (layer, drain) = exact();
            let steps = [data(before), pause(1.2), data(later), Step::Hang];
            let recording = drained((layer.mode(DrainMode::EndNow), drain), client, steps).await;
            assert_eq!(recording.text(), got, "{before:?} {later:?}");
            // Half an event must not look like a success to those who cannot come back.
            let kind = match (kind, client) {
                ("middle", Client::EventSource) => "clean",
                ("middle", _) => "aborted",
                _ => kind,
            };
            assert_end(&recording, at, kind);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_runs_until_it_is_complete() {
    let (layer, drain) = exact();
    let steps = [data("data: x\n\n"), pause(9.0), data("data: y\n\n")];
    let recording = drained((layer, drain), Client::Fetch, steps).await;
    assert_eq!(recording.bytes(), b"data: x\n\ndata: y\n\n");
    assert_end(&recording, 9000, "clean");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_complete_at_the_deadline_is_broken_off_behind_its_last_event() {
    for (chunk, every, bytes, at) in [
        ("data: x\n\n", 4.0, "data: x\n\n".repeat(3), 11_000),
        ("data: x\n\ndata", 20.0, "data: x\n\ndata".into(), 11_500),
        (": a comment\n\n", 4.0, ": a comment\n\n".repeat(3), 11_000),
    ] {
        let steps = (0..9).flat_map(|_| [data(chunk), pause(every)]);
        let recording = drained(exact(), Client::Fetch, steps).await;
        assert_eq!(recording.text(), bytes);
        assert_end(&recording, at, "aborted");
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_of_an_abort_is_of_a_type_of_its_own() {
    let (layer, drain) = exact();
    let layer = layer.deadline(Duration::ZERO);
    let mut body = open(&layer, Client::Fetch, [data("data: x\n\n"), Step::Hang]).await;
    drain.start();
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(error.is::<Aborted>());
    assert!(body.is_end_stream());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_said_it_is_complete_ends_cleanly_and_has_nothing_to_wait_for() {
    for (last, complete) in [
        ("data: [DONE]\n\n", true),
        ("data:[DONE]\r\n\r\n", true),
        ("event: message_stop\ndata: {}\n\n", true),
        ("event: response.completed\ndata: {}\n\n", true),
        ("event: response.failed\ndata: {}\n\n", true),
        ("event: response.incomplete\ndata: {}\n\n", true),
        ("event: error\ndata: {}\n\n", true),
        ("data: [DONE]\n\n: hi\n\n", true),
        ("data: x\n\n", false),
        ("data: \"[DONE]\"\n\n", false),
        (": [DONE]\n\n", false),
        ("event: message_stopped\ndata: {}\n\n", false),
        ("data: message_stop\n\n", false),
        // another answer in the same stream
        ("data: [DONE]\n\ndata: y\n\n", false),
    ] {
        let steps = || [data("data: x\n\n"), pause(0.1), data(last), Step::Hang];
        let recording = drained(exact(), Client::Fetch, steps()).await;
        if complete {
            assert_end(&recording, 1000, "clean");
        } else {
            assert_end(&recording, 11_000, "aborted");
        }
        // An EventSource comes back by itself.
        let (layer, drain) = exact();
        let finish = (layer.mode(DrainMode::Finish), drain);
        assert_end(
            &drained(finish, Client::EventSource, steps()).await,
            11_000,
            "clean",
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_completes_during_the_drain_ends_there() {
    let steps = [pause(5.0), data("data: [DONE]\n\n: hi\n\n"), Step::Hang];
    let recording = drained(exact(), Client::Fetch, steps).await;
    assert_eq!(recording.text(), "data: [DONE]\n\n");
    assert_end(&recording, 5000, "clean");
}

#[tokio::test(start_paused = true)]
async fn the_terminal_event_counts_only_when_it_is_whole() {
    let steps = [data("data: [DONE]\n"), Step::Hang];
    assert_end(
        &drained(exact(), Client::Fetch, steps).await,
        11_500,
        "aborted",
    );
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_comes_before_an_abort() {
    let (layer, drain) = exact();
    let mut body = open(&layer, Client::Fetch, [data("data: x\n\n"), Step::Hang]).await;
    assert!(poll(&mut body).is_ready());
    drain.start();
    sleep(10 * SECOND).await;
    assert!(poll(&mut body).is_pending());
    sleep(Duration::from_millis(11)).await;
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
}

#[tokio::test(start_paused = true)]
async fn auto_ends_an_event_source_now_and_lets_all_others_finish() {
    for client in Client::ALL {
        let recording = drained(exact(), client, [data("data: x\n\n"), Step::Hang]).await;
        match client {
            Client::EventSource => assert_end(&recording, 1000, "clean"),
            _ => assert_end(&recording, 11_000, "aborted"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_mode_among_the_extensions_of_a_response_overrides_the_layer() {
    for (layers, own, at) in [
        (DrainMode::Finish, DrainMode::EndNow, 1000),
        (DrainMode::EndNow, DrainMode::Finish, 11_000),
        (DrainMode::Finish, DrainMode::Auto, 1000),
        (DrainMode::EndNow, DrainMode::Auto, 1000),
    ] {
        let (layer, drain) = exact();
        let mut response = events([data("data: x\n\n"), Step::Hang]);
        response.extensions_mut().insert(own);
        let request = Client::EventSource.request();
        let body = through(layer.mode(layers), request, response).await;
        start_soon(&drain);
        assert_end(&record(body.into_body()).await, at, "clean");
    }
}

#[tokio::test(start_paused = true)]
async fn an_encoded_stream_ends_too_though_nobody_knows_where() {
    for (client, at, kind) in [
        (Client::EventSource, 1500, "clean"),
        (Client::Fetch, 11_500, "aborted"),
    ] {
        let (layer, drain) = exact();
        let mut response = events([data("\n\n"), Step::Hang]);
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert("content-encoding", gzip);
        let body = through(layer, client.request(), response).await;
        start_soon(&drain);
        let recording = record(body.into_body()).await;
        assert_eq!(recording.text(), "\n\n");
        assert_end(&recording, at, kind);
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_service_is_the_services() {
    let trailers = HeaderMap::new();
    for (step, kind) in [
        (None, "clean"),
        (Some(Step::Error("broken")), "failed"),
        (Some(Step::Trailers(trailers)), "trailers"),
    ] {
        let steps = [data("data: x\n\n"), pause(2.0)].into_iter().chain(step);
        let recording = drained(exact(), Client::Fetch, steps).await;
        assert_eq!(end(&recording).1, kind);
    }
}

// === upstreams that never wait ===

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_always_ready_cannot_outlive_its_end() {
    for (frame, whole) in [
        (&b"data: x\n\n"[..], true),
        // None of its frames ends at a boundary.
        (b"x\n\ndata: ", true),
        (b"x\r\n\r\ndata: ", true),
        // Nor does one end when its blank line does.
        (b"\ndata: x\r\n\r", true),
        (&[b'x'; 5000], false),
        (b"", true),
    ] {
        for (client, mode) in [
            (Client::EventSource, DrainMode::EndNow),
            (Client::Fetch, DrainMode::EndNow),
            (Client::EventSource, DrainMode::Finish),
            (Client::Fetch, DrainMode::Finish),
        ] {
            let (layer, drain) = exact();
            let response = response("text/event-stream", Endless(frame));
            let layer = layer.mode(mode);
            let mut body = through(layer, client.request(), response).await.into_body();
            let mut got = Vec::new();
            for _ in 0..10 {
                match poll(&mut body) {
                    Poll::Ready(Some(Ok(bytes))) => got.extend(bytes),
                    other => assert!(other.is_pending() && frame.is_empty()),
                }
            }
            drain.start();
            if mode == DrainMode::Finish {
                advance(10 * SECOND).await;
            }
            let mut polls = 0;
            while !body.is_end_stream() {
                polls += 1;
                assert!(polls < 20, "no end of {}", frame.escape_ascii());
                match poll(&mut body) {
                    Poll::Ready(Some(Ok(bytes))) => got.extend(bytes),
                    Poll::Ready(_) => break,
                    Poll::Pending => {}
                }
                // Where there is no boundary, the grace must pass.
                advance(SECOND / 10).await;
            }
            assert!(
                !whole || frame.is_empty() || ends_whole(&got),
                "{}",
                got.escape_ascii()
            );
        }
    }
}

fn ends_whole(bytes: &[u8]) -> bool {
    bytes.is_empty() || bytes.ends_with(b"\n\n") || bytes.ends_with(b"\r\n\r\n")
}

// === all at once, or not ===

#[tokio::test(start_paused = true)]
async fn ends_are_spread_but_not_beyond_the_deadline() {
    for (spread, deadline, reach) in [(1.0, 10.0, 1000), (5.0, 2.0, 2000), (0.0, 10.0, 0)] {
        let (layer, drain) = exact();
        let seconds = Duration::from_secs_f64;
        let layer = layer.spread(seconds(spread)).deadline(seconds(deadline));
        let mut ends = Vec::new();
        for _ in 0..200 {
            let body = open(
                &layer,
                Client::EventSource,
                [data("data: x\n\n"), Step::Hang],
            )
            .await;
            ends.push(tokio::spawn(record(body)));
        }
        start_soon(&drain);
        let (mut first, mut last) = (u128::MAX, 0);
        for recording in ends {
            let (at, kind) = end(&recording.await.unwrap());
            assert_eq!(kind, "clean");
            (first, last) = (first.min(at), last.max(at));
        }
        assert!(
            first >= 1000 && last <= 1000 + reach + 2,
            "{first} to {last}"
        );
        assert!(last - first >= reach / 2, "{first} to {last}");
    }
}

// === the hint ===

fn hinting() -> (DrainLayer, Drain) {
    let (layer, drain) = exact();
    (layer.retry(2 * SECOND), drain)
}

#[tokio::test(start_paused = true)]
async fn the_hint_is_a_line_of_the_first_event_for_those_who_know_event_streams() {
    for (up, down) in [
        (
            "data: x\n\ndata: y\n\n",
            "data: x\nretry: 2000\n\ndata: y\n\n",
        ),
        ("data: x\r\n\r\n", "data: x\r\nretry: 2000\r\n\r\n"),
        ("data: x\r\r", "data: x\rretry: 2000\r\r"),
        (
            ": hi\n\nid: 1\n\ndata: x\n\n",
            ": hi\n\nid: 1\n\ndata: x\nretry: 2000\n\n",
        ),
        // never a block of its own where there are events
        ("id: 1\n\nevent: e\n\n", "id: 1\n\nevent: e\n\n"),
        ("data: x\n", "data: x\n"),
        // the service knows better
        ("retry: 5\ndata: x\n\n", "retry: 5\ndata: x\n\n"),
        ("data: x\nretry: 5\n\n", "data: x\nretry: 5\n\n"),
        ("retry: 5\n\ndata: x\n\n", "retry: 5\n\ndata: x\n\n"),
    ] {
        for client in Client::ALL {
            let knows = matches!(client, Client::EventSource | Client::Events | Client::Mcp);
            let expected = if knows { down } else { up };
            for chunk in [1, 100] {
                // Long before any drain, and its service ends it.
                let body = open(&hinting().0, client, up.as_bytes().chunks(chunk).map(data)).await;
                assert_eq!(record(body).await.text(), expected, "{client:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_an_event_source_without_any_event_is_told_at_its_end() {
    for (sent, told) in [
        ("", true),
        (": hi\n\n", true),
        ("id: 1\n\n", true),
        ("data: x\n\n", false),
        ("retry: 5\n\n", false),
        // in the middle of an event a blank line would dispatch it
        ("data: x\n", false),
        ("id: 1\n", false),
        (": hi", false),
        ("\u{feff}: hi\n", true),
    ] {
        for client in Client::ALL {
            let (layer, drain) = hinting();
            let end_now = (layer.mode(DrainMode::EndNow), drain);
            let text = drained(end_now, client, [data(sent), Step::Hang])
                .await
                .text();
            let last = text.strip_suffix("retry: 2000\n\n");
            let block = last.is_some_and(|before| before == sent.trim_start_matches('\u{feff}'));
            assert_eq!(
                block,
                told && client == Client::EventSource,
                "{client:?}: {text:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_hint_at_the_end_is_behind_a_mark_and_a_cut_mark_stays_what_it_was() {
    let text = async |sent: &[u8]| {
        let recording = drained(hinting(), Client::EventSource, [data(sent), Step::Hang]).await;
        recording.bytes()
    };
    assert_eq!(text(b"\xef\xbb\xbf").await, b"retry: 2000\n\n");
    assert_eq!(text(b"\xef\xbb").await, b"\xef\xbb");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_by_itself_gets_no_hint_at_its_end() {
    let body = open(&hinting().0, Client::EventSource, [data(": hi\n\n")]).await;
    assert_eq!(record(body).await.text(), ": hi\n\n");
}

#[tokio::test(start_paused = true)]
async fn hints_are_jittered_per_stream() {
    let (layer, _) = DrainLayer::pair();
    let mut hints = Vec::new();
    for _ in 0..200 {
        let body = open(&layer, Client::EventSource, [data("data: x\n\n")]).await;
        let client = reference::parse(&record(body).await.bytes());
        hints.push(client.retry.unwrap());
    }
    hints.sort_unstable();
    let (first, last) = (hints[0], hints[hints.len() - 1]);
    assert!(
        first >= 1000 && last <= 3000 && last - first > 1000,
        "{first} to {last}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_id_and_a_hint_share_a_block() {
    let layers = SseLayer::new()
        .event_id(EventIdLayer::new().assign(|_| true))
        .drain(hinting().0);
    let stream = events([data("data: x\n\n")]);
    let body = through(layers, Client::EventSource.request(), stream).await;
    let client = reference::parse(&record(body.into_body()).await.bytes());
    assert_eq!((client.last_id.as_str(), client.retry), ("1", Some(2000)));
    assert_eq!(client.events.len(), 1);
}

// === what comes too late ===

async fn refused(
    layer: DrainLayer,
    client: Client,
    response: Response<Script>,
) -> Response<AnyBody> {
    through(layer, client.request(), response).await
}

#[tokio::test(start_paused = true)]
async fn an_event_source_that_comes_too_late_is_told_to_come_again() {
    let (layer, drain) = hinting();
    drain.start();
    let response = refused(layer, Client::EventSource, events([data("data: x\n\n")])).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let recording = record(response.into_body()).await;
    assert_eq!(recording.text(), "retry: 2000\n\n");
    assert_end(&recording, 0, "clean");
}

#[tokio::test(start_paused = true)]
async fn everyone_else_that_comes_too_late_is_refused() {
    for (retry, header) in [(2000, "2"), (2001, "3"), (1, "1"), (0, "1"), (90_000, "90")] {
        for client in Client::ALL.into_iter().skip(1) {
            let (layer, drain) = exact();
            let layer = layer.retry(Duration::from_millis(retry));
            drain.start();
            let response = refused(layer, client, events([data("data: x\n\n")])).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()["retry-after"], header);
            assert_eq!(
                response.headers()["content-type"],
                "text/plain; charset=utf-8"
            );
            let length = response.body().size_hint().exact().unwrap();
            let text = record(response.into_body()).await.text();
            assert!(text.contains("shutting down"), "{text:?}");
            assert_eq!(text.len() as u64, length);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_keeps_the_headers_of_the_service_but_those_of_its_body() {
    for client in [Client::EventSource, Client::Fetch] {
        for encoding in [None, Some("gzip")] {
            let (layer, drain) = exact();
            drain.start();
            let mut response = events([data("data: x\n\n")]);
            let headers = response.headers_mut();
            headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
            headers.insert("vary", HeaderValue::from_static("origin"));
            headers.insert("content-length", HeaderValue::from_static("9"));
            headers.insert("content-digest", HeaderValue::from_static("x=:y:"));
            if let Some(encoding) = encoding {
                headers.insert("content-encoding", HeaderValue::from_static(encoding));
            }
            let probe = response.body().probe();
            let response = refused(layer, client, response).await;
            assert_eq!(response.headers()["access-control-allow-origin"], "*");
            assert_eq!(response.headers()["vary"], "origin");
            for gone in ["content-length", "content-encoding", "content-digest"] {
                assert!(
                    !response.headers().contains_key(gone),
                    "{gone} {encoding:?}"
                );
            }
            // Nobody would read it.
            assert!(probe.dropped().is_some() && probe.polls() == 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_hint_a_refusal_says_one_second_and_an_event_source_nothing() {
    let (layer, drain) = exact();
    drain.start();
    let fetch = refused(layer.clone(), Client::Fetch, events([])).await;
    assert_eq!(fetch.headers()["retry-after"], "1");
    let browser = refused(layer, Client::EventSource, events([])).await;
    assert_eq!(browser.status(), StatusCode::OK);
    assert_eq!(record(browser.into_body()).await.bytes(), b"");
}

#[tokio::test(start_paused = true)]
async fn only_event_streams_are_refused() {
    let (layer, drain) = exact();
    drain.start();
    for (method, content_type) in [("GET", "text/html"), ("HEAD", "text/event-stream")] {
        let request = request(method, "/", &[("accept", "text/event-stream")]);
        let response = response(content_type, script([data("data: x\n\n")]));
        let response = through(layer.clone(), request, response).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.headers().contains_key("retry-after"));
        assert_eq!(record(response.into_body()).await.bytes(), b"data: x\n\n");
    }
}

// === what is left ===

#[tokio::test(start_paused = true)]
async fn streams_are_counted_from_their_head_to_their_end() {
    let (layer, drain) = exact();
    assert_eq!(drain.left(), 0);
    let complete = open(&layer, Client::Fetch, [data("data: x\n\n")]).await;
    let failed = open(&layer, Client::Fetch, [Step::Error("broken")]).await;
    let dropped = open(&layer, Client::Fetch, [Step::Hang]).await;
    let drained = open(&layer, Client::EventSource, [Step::Hang]).await;
    let page = response("text/html", script([]));
    let page = through(layer.clone(), Client::Fetch.request(), page).await;
    assert_eq!(drain.left(), 4);
    record(complete).await;
    assert_eq!(drain.left(), 3);
    record(failed).await;
    assert_eq!(drain.left(), 2);
    drop(dropped);
    assert_eq!(drain.left(), 1);
    drain.start();
    let refused = refused(layer, Client::Fetch, events([])).await;
    record(drained).await;
    assert_eq!(drain.left(), 0);
    drop((page, refused));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_drain_has_started_and_nothing_is_left() {
    let (layer, drain) = exact();
    let start = Instant::now();
    let body = open(&layer, Client::Fetch, [data("data: x\n\n"), pause(5.0)]).await;
    let stream = tokio::spawn(record(body));
    assert!(timeout(SECOND / 2, drain.wait()).await.is_err());
    start_soon(&drain);
    drain.wait().await;
    assert_eq!(start.elapsed().as_secs(), 5);
    stream.await.unwrap();
    // From now on at once.
    drain.wait().await;
    assert_eq!(start.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn waiting_with_nothing_open_waits_for_the_start_alone() {
    let (_layer, drain) = exact();
    let start = Instant::now();
    start_soon(&drain);
    drain.wait().await;
    assert_eq!(start.elapsed().as_secs(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_polls_is_freed_a_second_after_the_deadline() {
    for waits in [true, false] {
        let (layer, drain) = exact();
        let response = events([data("data: x\n\n"), Step::Hang]);
        let probe = response.body().probe();
        let mut body = through(layer, Client::Fetch.request(), response)
            .await
            .into_body();
        assert!(poll(&mut body).is_ready());
        let start = Instant::now();
        drain.start();
        if waits {
            drain.wait().await;
        } else {
            sleep(20 * SECOND).await;
        }
        let freed = probe.dropped().expect("freed") - start;
        assert!((11_000..=11_005).contains(&freed.as_millis()), "{freed:?}");
        assert_eq!(drain.left(), 0);
        // Who comes back to it is told that it was not all.
        let recording = record(body).await;
        assert_eq!((recording.bytes(), end(&recording).1), (vec![], "aborted"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_came_during_the_drain_and_is_never_polled_is_freed_too() {
    let (layer, drain) = exact();
    let body = with_late_head((layer, drain.clone()), Client::Fetch, 2 * SECOND).await;
    assert_eq!(drain.left(), 1);
    sleep(11 * SECOND).await;
    assert_eq!(drain.left(), 0);
    drop(body);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_polled_is_not_taken_for_one_that_is_not() {
    let (layer, drain) = exact();
    let steps = (0..100).flat_map(|_| [data("data: x\n\n"), pause(0.1)]);
    let recording = drained((layer, drain), Client::Fetch, steps).await;
    assert_eq!(recording.frames.len(), 100);
    assert_end(&recording, 10_000, "clean");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_streams_of_every_kind_are_gone_within_a_second_of_the_deadline() {
    let (layer, drain) = DrainLayer::pair();
    let layer = layer.deadline(3 * SECOND);
    let mut unpolled = Vec::new();
    for number in 0..1000 {
        let client = Client::ALL[number % Client::ALL.len()];
        let steps = match number % 4 {
            0 => vec![Step::Hang],
            1 => vec![data("data: x\n\n"), Step::Hang],
            2 => vec![data("data: x\n"), Step::Hang],
            _ => (0..100)
                .flat_map(|_| [data("data: x\n\n"), pause(0.1)])
                .collect(),
        };
        let body = open(&layer, client, steps).await;
        if number % 7 == 0 {
            unpolled.push(body);
        } else {
            tokio::spawn(record(body));
        }
    }
    assert_eq!(drain.left(), 1000);
    let start = Instant::now();
    drain.start();
    drain.wait().await;
    assert_eq!(drain.left(), 0);
    assert!(
        start.elapsed() <= Duration::from_millis(4010),
        "{:?}",
        start.elapsed()
    );
}

// === odd places and odd times ===

/// Starts the drain whenever it is polled.
struct Starter(Drain);

impl Body for Starter {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.start();
        Poll::Pending
    }
}

/// Starts the drain and looks at it when it is dropped.
impl Drop for Starter {
    fn drop(&mut self) {
        self.0.start();
        assert!(self.0.has_started() && self.0.left() <= 1);
    }
}

#[test]
fn a_start_from_inside_of_a_body_does_not_deadlock() {
    paused().block_on(async {
        let (layer, drain) = hinting();
        let response = response("text/event-stream", Starter(drain.clone()));
        let request = Client::EventSource.request();
        let body = through(layer.clone(), request, response).await.into_body();
        let recording = record(body).await;
        assert_eq!(recording.text(), "retry: 2000\n\n");
        assert_end(&recording, 0, "clean");
        assert_eq!(drain.left(), 0);
    });
    // Freed from outside, it is dropped by the drain itself.
    paused().block_on(async {
        let (layer, drain) = exact();
        let response = response("text/event-stream", Starter(drain.clone()));
        let _body = through(layer, Client::Fetch.request(), response).await;
        drain.start();
        drain.wait().await;
    });
}

#[test]
fn a_start_outside_of_a_runtime_is_seen_by_the_next_poll() {
    let (layer, drain) = exact();
    let runtime = paused();
    let body = runtime.block_on(open(&layer, Client::EventSource, [Step::Hang]));
    drain.start();
    assert_end(&runtime.block_on(record(body)), 0, "clean");
}

#[tokio::test(start_paused = true)]
async fn no_time_is_too_long_or_too_short() {
    let times = [Duration::ZERO, Duration::from_secs(u64::MAX), Duration::MAX];
    for deadline in times {
        for spread in times {
            for retry in times {
                for client in [Client::EventSource, Client::Fetch] {
                    let (layer, drain) = DrainLayer::pair();
                    let layer = layer
                        .deadline(deadline)
                        .spread(spread)
                        .retry(retry)
                        .jitter(1.0);
                    let steps = [data("data: x\n\n"), pause(3.0)];
                    let body = open(&layer, client, steps).await;
                    start_soon(&drain);
                    record(body).await;
                    refused(layer, client, events([])).await;
                    drain.wait().await;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_go_on_during_a_drain_and_end_with_the_stream() {
    let (layer, drain) = exact();
    let heartbeat = HeartbeatLayer::every(3 * SECOND)
        .jitter(0.0)
        .shape(HeartbeatShape::CommentLine);
    let layers = SseLayer::new().heartbeat(heartbeat).drain(layer);
    let response = events([data("data: x\n\n"), Step::Hang]);
    let body = through(layers, Client::Fetch.request(), response).await;
    start_soon(&drain);
    let recording = record(body.into_body()).await;
    let beats = recording.text().matches(": keep-alive\n").count();
    assert_eq!(beats, 3, "{recording:?}");
    assert_end(&recording, 11_000, "aborted");
}

// === whatever the moment ===

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_drain_at_any_moment_makes_no_event_up(
        chunks in chunked_with_silences(stream()),
        at in 0..40_u32,
        client in prop::sample::select(&Client::ALL[..]),
        end_now in any::<bool>(),
    ) {
        let up: Vec<_> = chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect();
        let (layer, drain) = hinting();
        let layer = layer.deadline(2 * SECOND);
        let layer = if end_now { layer.mode(DrainMode::EndNow) } else { layer };
        let recording = paused().block_on(async {
            let steps = chunks.into_iter().flat_map(|chunk| {
                let rest = if chunk.then_silence { 3.0 } else { 0.2 };
                [Step::Data(chunk.bytes), pause(rest)]
            });
            let body = open(&layer, client, steps).await;
            tokio::spawn(async move {
                sleep(SECOND / 4 * at).await;
                drain.start();
            });
            record(body).await
        });
        assert_beginning(&up, &recording);
    }
}

#[test]
fn a_drain_at_any_byte_of_a_nasty_stream_makes_no_event_up() {
    for (_, stream) in NASTY.iter().filter(|(_, stream)| stream.len() < 150) {
        for cut in 0..=stream.len() {
            for client in [Client::EventSource, Client::Fetch] {
                let (before, after) = stream.split_at(cut);
                let recording = paused().block_on(async {
                    let (layer, drain) = hinting();
                    let steps = [data(before), pause(1.3), data(after), Step::Hang];
                    drained((layer.mode(DrainMode::EndNow), drain), client, steps).await
                });
                assert_beginning(stream, &recording);
            }
        }
    }
}

/// The client has the first events of the upstream, whole, and a place among them to go on from.
fn assert_beginning(up: &[u8], recording: &Recording) {
    let (sent, got) = (reference::parse(up), reference::parse(&recording.bytes()));
    assert!(
        sent.events.starts_with(&got.events),
        "\nup   {}\n  is {sent:?}\ndown {recording:?}\n  is {got:?}",
        up.escape_ascii()
    );
}
