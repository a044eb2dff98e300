//! An upstream that says nothing for too long, whatever its comments and our heartbeats say.

mod support;

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::HeaderValue;
use proptest::prelude::*;
use support::{
    body::{
        Client, End, Recording, Step, boxed, data, events, layered, pause, paused, record, request,
        response, script, through,
    },
    streams::{NASTY, byte_by_byte, config, every_split},
};
use tokio::time::{Instant, sleep, sleep_until};
use tower::{ServiceExt, service_fn, util::BoxService};
use tower_sse::{
    BreakOff, EndReason, EventIdLayer, HeartbeatLayer, LastSentId, Protocol, SilenceLayer, SseLayer,
};

const SECOND: Duration = Duration::from_secs(1);

fn ten() -> SilenceLayer {
    SilenceLayer::after(10 * SECOND)
}

async fn heard(
    layer: SilenceLayer,
    client: Client,
    steps: impl IntoIterator<Item = Step>,
) -> Recording {
    let response = through(layer, client.request(), events(steps)).await;
    record(response.into_body()).await
}

/// When the stream was broken off for its silence, in milliseconds, if it was; an abort waits 10 for
/// what was sent.
fn broken_off(recording: &Recording) -> Option<u128> {
    match &recording.end.1 {
        End::Error(error) if error.contains("said nothing") => {
            Some((recording.end.0.as_millis() - 10) / 10 * 10)
        }
        End::Clean => None,
        other => panic!("{other:?}"),
    }
}

// === what counts ===

#[tokio::test(start_paused = true)]
async fn lines_of_events_count_and_comments_and_blank_lines_do_not() {
    for (said, counts) in [
        ("data: x\n\n", true),
        ("data: x\n", true),
        ("data", true),
        ("x", true),
        (" ", true),
        ("event: ping\ndata: {}\n\n", true),
        ("id: 1\n\n", true),
        ("\u{feff}data: x\n\n", true),
        (": hi\n\ndata: x\n\n", true),
        (":\r\rdata", true),
        (": keep-alive\n\n", false),
        (": keep-alive\n", false),
        (":\n\n", false),
        (":", false),
        (": kee", false),
        ("\n\n", false),
        ("\r\n\r\n", false),
        ("\r", false),
        (":a\r\n:b\r\n\r\n:c", false),
        ("\u{feff}", false),
    ] {
        for split in every_split(said.as_bytes()) {
            // It is said after six seconds, and never again.
            let chunks = split.into_iter().map(Step::Data);
            let steps = [pause(6.0)].into_iter().chain(chunks).chain([Step::Hang]);
            let at = broken_off(&heard(ten(), Client::Fetch, steps).await);
            let expected = if counts { 16_000 } else { 10_000 };
            assert_eq!(at, Some(expected), "{said:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn comments_of_the_upstream_hide_no_silence_however_many_they_are() {
    for comment in [": hi\n\n", ": hi\n", ":\r\n", "\n\n"] {
        let comments = (0..100).flat_map(|_| [data(comment), pause(0.7)]);
        let steps = [data("data: x\n\n"), pause(0.1)]
            .into_iter()
            .chain(comments);
        let recording = heard(ten(), Client::Fetch, steps).await;
        let at = broken_off(&recording).expect("an abort");
        assert!((10_000..10_800).contains(&at), "{at}");
        assert!(recording.text().ends_with(comment), "they pass as they are");
    }
}

#[tokio::test(start_paused = true)]
async fn a_comment_that_comes_byte_by_byte_is_none() {
    let bytes =
        byte_by_byte(": a long comment, a byte a second, that goes on and on\n\n".as_bytes());
    let steps = bytes
        .into_iter()
        .flat_map(|byte| [Step::Data(byte), pause(1.0)]);
    assert_eq!(
        broken_off(&heard(ten(), Client::Fetch, steps).await),
        Some(10_000)
    );
    let bytes = byte_by_byte(b"data: a long line, a byte a second\n\n");
    let steps = bytes
        .into_iter()
        .flat_map(|byte| [Step::Data(byte), pause(1.0)]);
    assert_eq!(broken_off(&heard(ten(), Client::Fetch, steps).await), None);
}

#[tokio::test(start_paused = true)]
async fn our_heartbeats_do_not_count() {
    for client in Client::ALL {
        let layer = SseLayer::new()
            .heartbeat(HeartbeatLayer::every(SECOND).jitter(0.0))
            .silence(ten());
        let steps = [
            data("data: x\n\n"),
            pause(9.5),
            data("data: y\n\n"),
            Step::Hang,
        ];
        let response = through(layer, client.request(), events(steps)).await;
        let recording = record(response.into_body()).await;
        assert_eq!(broken_off(&recording), Some(19_500));
    }
}

#[tokio::test(start_paused = true)]
async fn every_byte_of_an_encoded_stream_counts() {
    let mut response = events([data(":?"), pause(6.0), data(":?"), Step::Hang]);
    let gzip = HeaderValue::from_static("gzip");
    response.headers_mut().insert("content-encoding", gzip);
    let response = through(ten(), Client::Fetch.request(), response).await;
    assert_eq!(
        broken_off(&record(response.into_body()).await),
        Some(16_000)
    );
}

/// A client that does not read does not make its upstream silent.
#[tokio::test(start_paused = true)]
async fn what_is_there_when_the_client_comes_back_is_heard_before_the_silence() {
    let steps = (0..5).flat_map(|_| [data("data: x\n\n"), pause(2.0)]);
    let mut body = through(ten(), Client::Fetch.request(), events(steps))
        .await
        .into_body();
    let first = http_body_util::BodyExt::frame(&mut body).await;
    assert!(first.is_some_and(|frame| frame.is_ok()));
    sleep(60 * SECOND).await;
    let recording = record(body).await;
    assert_eq!((broken_off(&recording), recording.frames.len()), (None, 4));
}

#[tokio::test(start_paused = true)]
async fn the_time_counts_from_the_head_on() {
    let late = service_fn(async |_| {
        sleep(60 * SECOND).await;
        Ok::<_, Infallible>(events([Step::Hang]).map(boxed))
    });
    let start = Instant::now();
    let service = layered(ten(), BoxService::new(late));
    let Ok(response) = service.oneshot(Client::Fetch.request()).await;
    assert_eq!(start.elapsed().as_secs(), 60);
    assert_eq!(
        broken_off(&record(response.into_body()).await),
        Some(10_000)
    );
}

#[tokio::test(start_paused = true)]
async fn what_is_no_stream_may_be_silent() {
    let steps = || script([pause(60.0), data("x")]);
    let plain = through(
        ten(),
        Client::Fetch.request(),
        response("text/plain", steps()),
    )
    .await;
    assert_eq!(record(plain.into_body()).await.text(), "x");
    let head = request("HEAD", "/", &[]);
    let head = through(ten(), head, response("text/event-stream", steps())).await;
    assert_eq!(record(head.into_body()).await.text(), "x");
}

#[tokio::test(start_paused = true)]
async fn no_limit_is_too_long_or_too_short() {
    for (limit, at) in [
        (Duration::ZERO, Some(0)),
        (Duration::from_nanos(1), Some(0)),
        (Duration::MAX, None),
    ] {
        let steps = [pause(60.0), data("data: x\n\n")];
        let recording = heard(SilenceLayer::after(limit), Client::Fetch, steps).await;
        assert_eq!(broken_off(&recording), at);
    }
}

// === what the client gets ===

#[tokio::test(start_paused = true)]
async fn an_error_event_is_that_of_the_protocol_and_goes_only_between_events() {
    for (path, start) in [
        ("/v1/chat/completions", "data: {\"error\":{"),
        ("/v1/responses", "event: error\ndata: {"),
        ("/v1/messages", "event: error\ndata: {"),
        ("/feed", "event: error\ndata: {\"error\":{"),
    ] {
        for (before, whole) in [
            ("", true),
            ("data: x\n\n", true),
            ("data: x\r\n\r\n", true),
            ("data: x\r\r", true),
            ("data: x\n\n: hi\n", true),
            ("data: x\n", false),
            ("data: x\n\ndata", false),
            ("data: x\n\n: hi", false),
        ] {
            let layer = ten().break_off(BreakOff::ErrorEvent);
            let request = request("POST", path, &[]);
            let response = through(layer, request, events([data(before), Step::Hang])).await;
            let recording = record(response.into_body()).await;
            let text = recording.text();
            let said = text.strip_prefix(before).expect("what was sent");
            if whole {
                assert_eq!(recording.end.1, End::Clean);
                assert!(
                    said.starts_with(start) && said.ends_with("}\n\n"),
                    "{said:?}"
                );
                assert!(said.contains("stream_silent"), "{said:?}");
            } else {
                assert_eq!((said, broken_off(&recording)), ("", Some(10_000)));
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_protocol_is_the_users_to_say() {
    let said = async |layer: SilenceLayer, of_response| {
        let layer = layer.break_off(BreakOff::ErrorEvent);
        let mut response = events([Step::Hang]);
        if let Some(protocol) = of_response {
            response.extensions_mut().insert::<Protocol>(protocol);
        }
        let response = through(layer, Client::Fetch.request(), response).await;
        record(response.into_body()).await.text()
    };
    let chat = |text: String| text.starts_with("data: {\"error\"");
    assert!(!chat(said(ten(), None).await));
    assert!(chat(said(ten(), Some(Protocol::OpenAiChat)).await));
    let layer = ten().protocol(|_| Some(Protocol::OpenAiChat));
    assert!(chat(said(layer.clone(), None).await));
    assert!(!chat(said(layer, Some(Protocol::AnthropicMessages)).await));
}

#[tokio::test(start_paused = true)]
async fn the_reason_says_that_it_was_silent() {
    for how in [BreakOff::Abort, BreakOff::ErrorEvent] {
        let layer = SseLayer::new()
            .event_id(EventIdLayer::new())
            .silence(ten().break_off(how));
        let response = through(layer, Client::Fetch.request(), events([Step::Hang])).await;
        let last: LastSentId = response.extensions().get().cloned().expect("tracking");
        record(response.into_body()).await;
        assert_eq!(last.end(), Some(EndReason::Silent));
    }
}

// === any stream ===

proptest! {
    #![proptest_config(config())]

    /// Against a plain model: the last line of an event, or part of one, that was said.
    #[test]
    fn a_stream_is_broken_off_so_long_after_its_last_line_of_an_event(
        chunks in prop::collection::vec(
            (prop::sample::select(&[": hi\n", "\n", "data: x\n", ":", "d", "\r", " ", "\r\n"][..]), 0..12_u64),
            1..20,
        ),
    ) {
        let (at, model) = paused().block_on(async {
            let start = Instant::now();
            let mut time = start;
            let steps: Vec<_> = chunks.iter().flat_map(|(text, then)| {
                [data(text), pause(*then as f64 + 0.5)]
            }).chain([Step::Hang]).collect();
            let mut model = start;
            let (mut line, mut in_event, mut behind_cr) = (String::new(), false, false);
            for (text, then) in &chunks {
                if time > model + 10 * SECOND {
                    break;
                }
                for byte in text.chars() {
                    let ends_crlf = byte == '\n' && behind_cr;
                    behind_cr = byte == '\r';
                    if ends_crlf {
                        continue;
                    }
                    line.push(byte);
                    let blank = line.starts_with(['\r', '\n']);
                    if !line.starts_with(':') && (!blank || in_event) {
                        model = time;
                    }
                    if byte == '\r' || byte == '\n' {
                        in_event = !blank && (in_event || !line.starts_with(':'));
                        line.clear();
                    }
                }
                time += Duration::from_millis(then * 1000 + 500);
            }
            let recording = heard(ten(), Client::Fetch, steps).await;
            sleep_until(start).await;
            (broken_off(&recording), (model - start).as_millis() + 10_000)
        });
        prop_assert_eq!(at, Some(model));
    }
}

#[test]
fn a_nasty_stream_that_hangs_at_any_byte_stays_what_it_was() {
    let runtime = paused();
    for (name, stream) in NASTY.iter().filter(|(_, stream)| stream.len() < 200) {
        for cut in 0..=stream.len() {
            let layer = SilenceLayer::after(SECOND);
            let steps = [
                Step::Data(Bytes::copy_from_slice(&stream[..cut])),
                Step::Hang,
            ];
            let recording = runtime.block_on(heard(layer, Client::Fetch, steps));
            let got = recording.bytes();
            let sent = stream[..cut]
                .strip_prefix(b"\xef\xbb\xbf")
                .unwrap_or(&stream[..cut]);
            assert!(got == sent || got == stream[..cut], "{name}, cut at {cut}");
        }
    }
}
