//! Answers that were cut off. How the libraries take them is in `sdks.rs`.

mod support;

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use proptest::prelude::*;
use support::{
    body::{
        Client, End, Recording, Script, Step, data, events, pause, paused, poll, record, request,
        response, script, through,
    },
    reference,
    streams::{NASTY, chunked, config, stream},
};
use tower_sse::{
    BreakOff, EndReason, EventIdLayer, LastSentId, Protocol, SseLayer, TruncationLayer,
};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const MESSAGES: &str = "/v1/messages";

/// An answer of each protocol: its path, its events, and its last one.
const ANSWERS: [(&str, &str, &str); 7] = [
    (CHAT, "data: {\"a\":1}\n\n", "data: [DONE]\n\n"),
    (CHAT, "data: {\"a\":1}\r\n\r\n", "data:[DONE]\r\n\r\n"),
    (
        CHAT,
        "data: {\"a\":1}\n\n",
        "data: {\"error\":{\"message\":\"no\"}}\n\n",
    ),
    (
        RESPONSES,
        "event: a\ndata: {}\n\n",
        "event: response.completed\ndata: {}\n\n",
    ),
    (
        RESPONSES,
        "event: a\ndata: {}\n\n",
        "event: response.failed\ndata: {}\n\n",
    ),
    (
        MESSAGES,
        "event: ping\ndata: {}\n\n",
        "event: message_stop\ndata: {}\n\n",
    ),
    (
        MESSAGES,
        "event: ping\ndata: {}\n\n",
        "event: error\ndata: {}\n\n",
    ),
];

/// How the upstream's bytes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Ended,
    Failed,
}

struct Seen {
    recording: Recording,
    reason: Option<EndReason>,
}

async fn seen(layer: TruncationLayer, path: &str, response: Response<Script>) -> Seen {
    let layer = SseLayer::new()
        .without_heartbeat()
        .event_id(EventIdLayer::new())
        .truncation(layer);
    let response = through(layer, request("POST", path, &[]), response).await;
    let last: Option<LastSentId> = response.extensions().get().cloned();
    let recording = record(response.into_body()).await;
    let reason = last.and_then(|last| last.end());
    Seen { recording, reason }
}

fn upstream(bytes: &str, cut: Cut) -> Response<Script> {
    let error = (cut == Cut::Failed).then_some(Step::Error("broken"));
    events([data(bytes), pause(1.0)].into_iter().chain(error))
}

fn is_abort(recording: &Recording) -> bool {
    matches!(&recording.end.1, End::Error(error) if error.contains("in the middle of the answer"))
}

/// Whether the first `at` bytes have all of `whole`. The CR of its last CRLF ends it already.
fn is_whole(whole: &str, at: usize) -> bool {
    at == whole.len() || at + 1 == whole.len() && whole.ends_with("\r\n")
}

// === cut off, or complete ===

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_cut_at_any_byte_is_broken_off_and_a_whole_one_never() {
    for (path, event, last) in ANSWERS {
        let whole = [event, event, last].concat();
        for at in 0..=whole.len() {
            for cut in [Cut::Ended, Cut::Failed] {
                let sent = &whole[..at];
                let complete = is_whole(&whole, at);
                let Seen { recording, reason } =
                    seen(TruncationLayer::new(), path, upstream(sent, cut)).await;
                assert_eq!(recording.text(), sent);
                let end = &recording.end.1;
                let said = format!("{path} {sent:?} {cut:?}: {end:?}");
                match (complete, cut) {
                    (true, Cut::Ended) => assert_eq!(*end, End::Clean, "{said}"),
                    (false, Cut::Ended) => assert!(is_abort(&recording), "{said}"),
                    (_, Cut::Failed) => assert_eq!(*end, End::Error("broken".into()), "{said}"),
                }
                let expected = match (complete, cut) {
                    (false, _) => EndReason::Truncated,
                    (true, Cut::Ended) => EndReason::Complete,
                    (true, Cut::Failed) => EndReason::Failed,
                };
                assert_eq!(reason, Some(expected), "{said}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_error_event_of_the_protocol_comes_instead_between_events() {
    for (path, event, last) in ANSWERS {
        let whole = [event, event, last].concat();
        for at in 0..=whole.len() {
            for cut in [Cut::Ended, Cut::Failed] {
                let sent = &whole[..at];
                let layer = TruncationLayer::new().break_off(BreakOff::ErrorEvent);
                let Seen { recording, reason } = seen(layer, path, upstream(sent, cut)).await;
                let text = recording.text();
                let more = text.strip_prefix(sent).expect("what was sent");
                let complete = is_whole(&whole, at);
                let between = [0, event.len(), 2 * event.len()]
                    .iter()
                    .any(|end| is_whole(&whole[..*end], at));
                let said = format!("{path} {sent:?} {cut:?}: {more:?}, {:?}", recording.end);
                if between {
                    let start = if path == CHAT {
                        "data: {\"error\""
                    } else {
                        "event: error\ndata: {"
                    };
                    assert!(more.starts_with(start) && more.ends_with("}\n\n"), "{said}");
                    assert_eq!(reference::parse(more.as_bytes()).events.len(), 1, "{said}");
                    assert_eq!(recording.end.1, End::Clean, "{said}");
                } else {
                    assert_eq!(more, "", "{said}");
                    let clean = complete && cut == Cut::Ended;
                    assert_eq!(recording.end.1 == End::Clean, clean, "{said}");
                }
                assert_eq!(reason == Some(EndReason::Truncated), !complete, "{said}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn counting_only_leaves_everything_as_it_was() {
    for (path, event, last) in ANSWERS {
        for sent in ["", event, &event[..5], last] {
            for (cut, end) in [
                (Cut::Ended, End::Clean),
                (Cut::Failed, End::Error("broken".into())),
            ] {
                let layer = TruncationLayer::new().count_only();
                let Seen { recording, reason } = seen(layer, path, upstream(sent, cut)).await;
                assert_eq!((recording.text(), recording.end.1), (sent.to_owned(), end));
                assert_eq!(reason == Some(EndReason::Truncated), sent != last);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_behind_the_last_event_changes_nothing() {
    for more in [": bye\n\n", "\n", "data: {\"usage\":1}\n\n", "data: hal"] {
        let sent = format!("data: x\n\ndata: [DONE]\n\n{more}");
        let layer = TruncationLayer::new().break_off(BreakOff::ErrorEvent);
        let Seen { recording, reason } = seen(layer, CHAT, upstream(&sent, Cut::Ended)).await;
        assert_eq!((recording.text(), recording.end.1), (sent, End::Clean));
        assert_eq!(reason, Some(EndReason::Complete));
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_looks_like_a_last_event_is_none() {
    for (path, not_last) in [
        (CHAT, ": [DONE]\n\n"),
        (CHAT, "data: \"[DONE]\"\n\n"),
        (CHAT, "data: {\"text\":\"data: [DONE]\"}\n\n"),
        (CHAT, "data: {\"text\":\"\",\"error\":1}\n\n"),
        (CHAT, "event: message_stop\ndata: {}\n\n"),
        (RESPONSES, "data: [DONE]\n\n"),
        (RESPONSES, "event: response.completed.x\ndata: {}\n\n"),
        (MESSAGES, "data: message_stop\n\n"),
        (MESSAGES, "event: message_delta\ndata: {}\n\n"),
    ] {
        let Seen { recording, .. } =
            seen(TruncationLayer::new(), path, upstream(not_last, Cut::Ended)).await;
        assert!(is_abort(&recording), "{not_last:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_end_an_answer_as_well() {
    let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("x"))]);
    let with = |text| events([data(text), Step::Trailers(trailers.clone())]);
    let Seen { recording, .. } = seen(TruncationLayer::new(), CHAT, with("data: [DONE]\n\n")).await;
    assert_eq!(recording.end.1, End::Trailers(trailers.clone()));
    let Seen { recording, .. } = seen(TruncationLayer::new(), CHAT, with("data: x\n\n")).await;
    assert!(is_abort(&recording));
}

// === which streams ===

#[tokio::test(start_paused = true)]
async fn only_streams_with_a_rule_have_to_end_with_something() {
    let cut = |path| {
        seen(
            TruncationLayer::new(),
            path,
            upstream("data: x\n\n", Cut::Ended),
        )
    };
    for path in ["/feed", "/", "/v1/models"] {
        assert_eq!(cut(path).await.recording.end.1, End::Clean);
    }
    // A browser's feed under the same name.
    let layer = SseLayer::new().truncation(TruncationLayer::new());
    let request = request("GET", CHAT, &[("accept", "text/event-stream")]);
    let response = through(layer, request, upstream("data: x\n\n", Cut::Ended)).await;
    assert_eq!(record(response.into_body()).await.end.1, End::Clean);
}

#[tokio::test(start_paused = true)]
async fn errors_and_what_is_no_stream_are_left_alone() {
    let mut failed = upstream("data: x\n\n", Cut::Ended);
    *failed.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    let mut encoded = upstream("data: x\n\n", Cut::Ended);
    let gzip = HeaderValue::from_static("gzip");
    encoded.headers_mut().insert("content-encoding", gzip);
    let json = response("application/json", script([data("{}")]));
    for response in [failed, encoded, json] {
        let Seen { recording, .. } = seen(TruncationLayer::new(), CHAT, response).await;
        assert_eq!(recording.end.1, End::Clean);
    }
}

#[tokio::test(start_paused = true)]
async fn the_protocol_and_the_last_event_are_the_users_to_say() {
    let all_chat = TruncationLayer::new().protocol(|_| Some(Protocol::OpenAiChat));
    let own =
        TruncationLayer::new().terminal(|field| field.name == b"event" && field.value == b"done");
    let none = TruncationLayer::new().protocol(|_| None);
    for (layer, path, of_response, last, complete) in [
        (&all_chat, "/feed", None, "data: [DONE]\n\n", true),
        (&all_chat, "/feed", None, "data: x\n\n", false),
        (
            &all_chat,
            "/feed",
            Some(Protocol::AnthropicMessages),
            "data: [DONE]\n\n",
            false,
        ),
        (&own, "/feed", None, "event: done\ndata\n\n", true),
        (&own, "/feed", None, "data: [DONE]\n\n", false),
        (&own, CHAT, None, "data: [DONE]\n\n", true),
        (&own, CHAT, None, "event: done\ndata\n\n", false),
        (&none, CHAT, None, "data: x\n\n", true),
    ] {
        let mut response = upstream(last, Cut::Ended);
        if let Some(protocol) = of_response {
            response.extensions_mut().insert::<Protocol>(protocol);
        }
        let Seen { recording, .. } = seen(layer.clone(), path, response).await;
        assert_eq!(recording.end.1 == End::Clean, complete, "{path} {last:?}");
    }
}

/// A client that goes away has not seen an end, and none is counted as cut off.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_truncates_nothing() {
    let layer = SseLayer::new()
        .event_id(EventIdLayer::new())
        .truncation(TruncationLayer::new());
    let steps = [data("data: x\n\n"), Step::Hang];
    let response = through(layer, request("POST", CHAT, &[]), events(steps)).await;
    let last: LastSentId = response.extensions().get().cloned().expect("tracking");
    let mut body = response.into_body();
    assert!(poll(&mut body).is_ready());
    drop(body);
    assert_eq!(last.end(), Some(EndReason::Disconnected));
}

// === any stream ===

proptest! {
    #![proptest_config(config())]

    /// Whatever an upstream sends before it is cut off, no event is made up, but the one that says so.
    #[test]
    fn events_are_the_upstreams_and_an_error_behind_them_at_most(
        chunks in chunked(stream()),
        path in prop::sample::select(&[CHAT, RESPONSES, MESSAGES][..]),
        spaced in any::<bool>(),
    ) {
        let up: Vec<_> = chunks.iter().flat_map(|chunk| chunk.to_vec()).collect();
        let steps = chunks.into_iter().flat_map(|chunk| {
            [Some(Step::Data(chunk)), spaced.then(|| pause(0.1))].into_iter().flatten()
        });
        let layer = TruncationLayer::new().break_off(BreakOff::ErrorEvent);
        let Seen { recording, reason } = paused().block_on(seen(layer, path, events(steps)));
        check(&up, &recording, reason);
    }
}

#[test]
fn nasty_streams_end_as_they_should() {
    let runtime = paused();
    for (_, stream) in NASTY {
        let layer = TruncationLayer::new().break_off(BreakOff::ErrorEvent);
        let Seen { recording, reason } =
            runtime.block_on(seen(layer, CHAT, events([data(stream)])));
        check(stream, &recording, reason);
    }
}

fn check(up: &[u8], recording: &Recording, reason: Option<EndReason>) {
    let sent = reference::parse(up).events;
    let mut got = reference::parse(&recording.bytes()).events;
    let shown = recording.bytes().escape_ascii().to_string();
    match (&recording.end.1, reason) {
        (End::Clean, Some(EndReason::Truncated)) => {
            let last = got.pop().expect("an event that says so");
            assert!(last.data.contains("stream_truncated"), "{shown}");
        }
        (End::Clean, Some(EndReason::Complete)) | (End::Error(_), Some(EndReason::Truncated)) => {}
        other => panic!("{other:?}: {shown}"),
    }
    assert_eq!(got, sent, "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_body_without_a_byte_is_cut_off_too() {
    let steps: [Step; 0] = [];
    let Seen { recording, .. } = seen(TruncationLayer::new(), CHAT, events(steps)).await;
    assert!(is_abort(&recording));
    let response = through(TruncationLayer::new(), Client::Fetch.request(), events([])).await;
    assert_eq!(record(response.into_body()).await.end.1, End::Clean);
}
