//! When the time of a stream is over, and how it ends then.

mod support;

use std::{task::Poll, time::Duration};

use http_body::Body as _;
use http_body_util::BodyExt as _;
use support::body::{
    AnyBody, Client, End, Endless, Recording, Step, boxed, data, events, layered, pause, poll,
    record, request, response, script, service, through,
};
use tokio::time::{advance, sleep};
use tower::ServiceExt;
use tower_sse::{
    Aborted, DrainLayer, EndReason, EventIdLayer, LastSentId, LifetimeLayer, SseLayer,
    StreamDeadline,
};

const SECOND: Duration = Duration::from_secs(1);

/// What ends after ten seconds, to the millisecond, and says nothing.
fn exact() -> LifetimeLayer {
    LifetimeLayer::after(10 * SECOND)
        .jitter(0.0)
        .without_retry()
}

async fn lived(
    layer: LifetimeLayer,
    client: Client,
    steps: impl IntoIterator<Item = Step>,
) -> Recording {
    let response = through(layer, client.request(), events(steps)).await;
    record(response.into_body()).await
}

/// A timer may be late by one, and an abort waits 10 for what was sent.
fn assert_end(recording: &Recording, at: u128, kind: &str) {
    let (ended, end) = (recording.end.0.as_millis(), &recording.end.1);
    let (late, fits) = match kind {
        "clean" => (0..=2, *end == End::Clean),
        _ => (
            10..=13,
            matches!(end, End::Error(error) if error.contains("time is over")),
        ),
    };
    let in_time = ended >= at && late.contains(&(ended - at));
    assert!(fits && in_time, "not {kind} at {at} ms: {recording:?}");
}

// === how ===

#[tokio::test(start_paused = true)]
async fn an_event_source_ends_at_a_boundary_and_half_an_event_is_not_waited_for_long() {
    for (before, later, got, at) in [
        ("", "", "", 10_000),
        ("data: x\n\n", "data: y\n\n", "data: x\n\n", 10_000),
        // what the event still needs comes 200 ms later, and all behind it is dropped
        ("data: x\n", "\ndata: y\n\n", "data: x\n\n", 10_200),
        ("dat", "a: x\r\n\r\nda", "data: x\r\n\r\n", 10_200),
        // or never: then no blank line is added
        ("data: x\n", "", "data: x\n", 10_500),
        ("data: x\n\nda", "ta: y\n", "data: x\n\ndata: y\n", 10_500),
    ] {
        let steps = [data(before), pause(10.2), data(later), Step::Hang];
        let recording = lived(exact(), Client::EventSource, steps).await;
        assert_eq!(recording.text(), got, "{before:?} {later:?}");
        assert_end(&recording, at, "clean");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_complete_is_broken_off_behind_its_last_event() {
    for client in Client::ALL {
        if client == Client::EventSource {
            continue;
        }
        for (last, at, kind) in [
            ("data: x\n\n", 10_000, "aborted"),
            ("data: x\n", 10_500, "aborted"),
            ("data: [DONE]\n\n", 10_000, "clean"),
            ("event: message_stop\ndata: {}\n\n", 10_000, "clean"),
            ("data: [DONE]\n\ndata: another\n\n", 10_000, "aborted"),
        ] {
            let recording = lived(exact(), client, [data(last), Step::Hang]).await;
            assert_eq!(recording.text(), last);
            assert_end(&recording, at, kind);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_in_its_time_is_left_alone() {
    for client in Client::ALL {
        let steps = [data("data: [DONE]\n\n"), pause(9.9), data("data: y\n\n")];
        let recording = lived(exact(), client, steps).await;
        assert_eq!(recording.text(), "data: [DONE]\n\ndata: y\n\n");
        assert_eq!(recording.end.1, End::Clean);
        assert_eq!(recording.end.0.as_millis(), 9900);
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_and_the_reason_say_that_its_time_is_over() {
    let layer = SseLayer::new()
        .event_id(EventIdLayer::new())
        .lifetime(exact());
    let steps = [data("data: x\n\n"), Step::Hang];
    let response = through(layer, Client::Fetch.request(), events(steps)).await;
    let last: LastSentId = response.extensions().get().cloned().expect("tracking");
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    let error = body.frame().await.unwrap().unwrap_err();
    let aborted = error.downcast::<Aborted>().expect("its own type");
    assert_eq!(aborted.reason(), EndReason::Expired);
    assert_eq!(last.end(), Some(EndReason::Expired));
}

#[tokio::test(start_paused = true)]
async fn an_encoded_stream_ends_too_though_nobody_knows_where() {
    for (client, kind) in [(Client::EventSource, "clean"), (Client::Fetch, "aborted")] {
        let mut response = events([data("??"), Step::Hang]);
        let gzip = http::HeaderValue::from_static("gzip");
        response.headers_mut().insert("content-encoding", gzip);
        let response = through(exact(), client.request(), response).await;
        assert_end(&record(response.into_body()).await, 10_500, kind);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_always_ready_cannot_outlive_its_time() {
    for frame in [&b"data: x\n\n"[..], b"x\n\ndata: ", &[b'x'; 5000], b""] {
        for client in [Client::EventSource, Client::Fetch] {
            let response = response("text/event-stream", Endless(frame));
            let mut body = through(exact(), client.request(), response)
                .await
                .into_body();
            for _ in 0..100 {
                let polled = poll(&mut body);
                assert!(matches!(polled, Poll::Ready(Some(Ok(_)))) || frame.is_empty());
            }
            advance(11 * SECOND).await;
            let mut polls = 0;
            while !ends(&mut body) {
                polls += 1;
                assert!(polls < 40, "no end of {}", frame.escape_ascii());
                // Where there is no boundary, the grace must pass.
                advance(SECOND / 100).await;
            }
        }
    }
}

fn ends(body: &mut AnyBody) -> bool {
    let polled = poll(body);
    body.is_end_stream() || matches!(polled, Poll::Ready(None | Some(Err(_))))
}

// === when ===

#[tokio::test(start_paused = true)]
async fn the_time_counts_from_the_request_on() {
    let late = tower::service_fn(async |_| {
        sleep(4 * SECOND).await;
        Ok::<_, std::convert::Infallible>(events([Step::Hang]).map(boxed))
    });
    let service = layered(exact(), tower::util::BoxService::new(late));
    let Ok(response) = service.oneshot(Client::EventSource.request()).await;
    assert_end(&record(response.into_body()).await, 6000, "clean");
}

#[tokio::test(start_paused = true)]
async fn jitter_only_ever_ends_a_stream_earlier() {
    let mut ends = Vec::new();
    for _ in 0..200 {
        let layer = LifetimeLayer::after(10 * SECOND).jitter(0.3);
        let recording = lived(layer, Client::EventSource, [Step::Hang]).await;
        ends.push(recording.end.0.as_millis());
    }
    assert!(
        ends.iter().all(|end| (7000..=10_002).contains(end)),
        "{ends:?}"
    );
    let (first, last) = (ends.iter().min().unwrap(), ends.iter().max().unwrap());
    assert!(last - first > 2000, "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn the_soonest_of_life_time_and_deadlines_counts() {
    let after = |seconds| StreamDeadline::after(seconds * SECOND);
    let never = || LifetimeLayer::deadlines().without_retry();
    for (layer, of_request, of_response, at) in [
        (exact(), Some(7), None, Some(7000)),
        (exact(), None, Some(3), Some(3000)),
        (exact(), Some(7), Some(3), Some(3000)),
        (exact(), Some(3), Some(7), Some(3000)),
        (exact(), Some(20), Some(30), Some(10_000)),
        (never(), Some(20), None, Some(20_000)),
        (never(), None, Some(30), Some(30_000)),
        (never(), None, None, None),
    ] {
        let mut request = Client::EventSource.request();
        let mut response = events([pause(100.0)]);
        if let Some(seconds) = of_request {
            request.extensions_mut().insert(after(seconds));
        }
        if let Some(seconds) = of_response {
            response.extensions_mut().insert(after(seconds));
        }
        let response = through(layer, request, response).await;
        let recording = record(response.into_body()).await;
        assert_end(&recording, at.unwrap_or(100_000), "clean");
    }
}

#[tokio::test(start_paused = true)]
async fn no_time_is_too_long_or_too_short() {
    for (layer, at) in [
        (LifetimeLayer::after(Duration::ZERO), Some(0)),
        (LifetimeLayer::after(Duration::from_nanos(1)), Some(0)),
        (LifetimeLayer::after(Duration::MAX), None),
        (exact().retry(Duration::MAX).jitter(f64::NAN), Some(10_000)),
        (exact().jitter(-1.0), Some(10_000)),
    ] {
        let recording = lived(
            layer,
            Client::EventSource,
            [pause(60.0), data("data: x\n\n")],
        )
        .await;
        assert_end(&recording, at.unwrap_or(60_000), "clean");
    }
    let mut request = Client::EventSource.request();
    request
        .extensions_mut()
        .insert(StreamDeadline::after(Duration::MAX));
    let response = through(exact(), request, events([pause(60.0)])).await;
    assert_end(&record(response.into_body()).await, 10_000, "clean");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_stream_lives_on() {
    let layer = || LifetimeLayer::after(SECOND);
    let steps = || script([pause(5.0), data("x")]);
    let plain = through(
        layer(),
        Client::Fetch.request(),
        response("text/plain", steps()),
    )
    .await;
    assert_eq!(record(plain.into_body()).await.text(), "x");
    let head = request("HEAD", "/", &[("accept", "text/event-stream")]);
    let head = through(layer(), head, response("text/event-stream", steps())).await;
    assert_eq!(record(head.into_body()).await.text(), "x");
}

// === the hint ===

#[tokio::test(start_paused = true)]
async fn the_hint_is_in_the_first_event_and_spread() {
    let mut hints = Vec::new();
    for _ in 0..100 {
        let layer = LifetimeLayer::after(10 * SECOND).retry(4 * SECOND);
        let steps = [data(": hi\n\ndata: x\n\ndata: y\n\n"), Step::Hang];
        let text = lived(layer, Client::EventSource, steps).await.text();
        let text = text
            .strip_prefix(": hi\n\ndata: x\nretry: ")
            .expect("the hint");
        let (hint, rest) = text.split_once('\n').unwrap();
        assert_eq!(rest, "\ndata: y\n\n");
        hints.push(hint.parse::<u64>().unwrap());
    }
    assert!(
        hints.iter().all(|hint| (2000..=6000).contains(hint)),
        "{hints:?}"
    );
    assert!(hints.iter().max().unwrap() - hints.iter().min().unwrap() > 1000);
}

#[tokio::test(start_paused = true)]
async fn the_hint_comes_at_the_end_where_no_event_could_carry_it() {
    let layer = LifetimeLayer::after(10 * SECOND);
    let text = lived(layer, Client::EventSource, [data(": hi\n\n"), Step::Hang])
        .await
        .text();
    assert!(
        text.starts_with(": hi\n\nretry: ") && text.ends_with("\n\n"),
        "{text:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn with_a_drain_there_is_one_hint() {
    let sse = || {
        let (drain, _) = DrainLayer::pair();
        SseLayer::new()
            .drain(drain)
            .lifetime(LifetimeLayer::after(10 * SECOND))
    };
    let steps = || [data("data: x\n\ndata: y\n\n"), Step::Hang];
    let response = through(sse(), Client::EventSource.request(), events(steps())).await;
    let text = record(response.into_body()).await.text();
    assert_eq!(text.matches("retry:").count(), 1, "{text:?}");
    // By hand, too.
    let (drain, _) = DrainLayer::pair();
    let inner = layered(LifetimeLayer::after(10 * SECOND), service(events(steps())));
    let Ok(response) = layered(drain, inner)
        .oneshot(Client::EventSource.request())
        .await;
    let text = record(response.into_body()).await.text();
    assert_eq!(text.matches("retry:").count(), 1, "{text:?}");
}
