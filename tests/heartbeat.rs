//! When heartbeats go out, where, and in which bytes.

mod support;

use std::{ops::RangeInclusive, time::Duration};

use http::Request;
use support::body::{
    Client, End, Recording, Step, data, events, pause, paused, record, record_for, request, through,
};
use tower_sse::{EventIdLayer, HeartbeatLayer, HeartbeatShape, HeartbeatStart};

const LINE: &str = ": keep-alive\n";
const BLOCK: &str = ": keep-alive\n\n";

/// Ten seconds, to the millisecond.
fn exact() -> HeartbeatLayer {
    HeartbeatLayer::every(Duration::from_secs(10)).jitter(0.0)
}

fn lines() -> HeartbeatLayer {
    exact().shape(HeartbeatShape::CommentLine)
}

async fn play(layer: HeartbeatLayer, steps: impl IntoIterator<Item = Step>) -> Recording {
    play_to(layer, Client::Fetch.request(), steps).await
}

async fn play_to(
    layer: HeartbeatLayer,
    request: Request<()>,
    steps: impl IntoIterator<Item = Step>,
) -> Recording {
    record(through(layer, request, events(steps)).await.into_body()).await
}

/// Whole seconds, and the text that came in them.
fn seconds(recording: &Recording) -> Vec<(u128, String)> {
    let moments = recording.moments().into_iter();
    moments
        .map(|(at, text)| {
            assert!(at % 1000 < 10, "{at} ms is not on the second");
            (at / 1000, text)
        })
        .collect()
}

fn expected(moments: &[(u128, &str)]) -> Vec<(u128, String)> {
    let moments = moments.iter();
    moments.map(|(at, text)| (*at, (*text).into())).collect()
}

// === when ===

#[tokio::test(start_paused = true)]
async fn a_heartbeat_comes_after_every_interval_of_silence() {
    let recording = play(lines(), [pause(35.0)]).await;
    assert_eq!(
        seconds(&recording),
        expected(&[(10, LINE), (20, LINE), (30, LINE)])
    );
    assert_eq!(recording.end.1, End::Clean);
}

#[tokio::test(start_paused = true)]
async fn any_byte_of_the_service_begins_a_new_silence() {
    for byte in ["data: x\n\n", ": a comment\n", "\n", "\r\n", ":\n\n"] {
        let steps = [pause(4.0), data(byte), pause(9.0), data(byte), pause(11.0)];
        let recording = play(lines(), steps).await;
        assert_eq!(
            seconds(&recording),
            expected(&[(4, byte), (13, byte), (23, LINE)])
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_frame_is_silence() {
    let recording = play(lines(), [pause(4.0), Step::Empty, pause(7.0)]).await;
    assert_eq!(seconds(&recording), expected(&[(10, LINE)]));
}

#[tokio::test(start_paused = true)]
async fn a_busy_stream_has_no_heartbeat_and_wakes_for_one_once_an_interval() {
    let calm = Step::Pause(Duration::from_millis(99));
    let response = events((0..1000).flat_map(|_| [data("data: x\n\n"), calm.clone()]));
    let probe = response.body().probe();
    let body = through(lines(), Client::Fetch.request(), response).await;
    let recording = record(body.into_body()).await;
    assert_eq!(recording.bytes(), b"data: x\n\n".repeat(1000));
    // For each event one that finds it and one behind it, and one that waits for the next; more
    // only when the timer fires, every 10 s.
    let polls = 3 * 1000 + 1;
    assert!(
        (polls..=polls + 10).contains(&probe.polls()),
        "{}",
        probe.polls()
    );
}

#[tokio::test(start_paused = true)]
async fn jitter_makes_heartbeats_earlier_and_by_no_more_than_its_share() {
    for (share, reach) in [
        (0.1, 9000..=10_000),
        (1.0, 0..=10_000),
        (0.0, 10_000..=10_000),
    ] {
        let recording = play(lines().jitter(share), [pause(2000.0)]).await;
        let gaps = gaps(&recording);
        assert!(gaps.len() >= 199, "{share}: {}", gaps.len());
        // A timer may be a millisecond late.
        let late = RangeInclusive::new(*reach.start(), reach.end() + 1);
        assert!(
            gaps.iter().all(|gap| late.contains(gap)),
            "{share}: {gaps:?}"
        );
        let width = gaps.iter().max().unwrap() - gaps.iter().min().unwrap();
        assert!(
            width >= (reach.end() - reach.start()) / 2,
            "{share}: {width}"
        );
    }
}

fn gaps(recording: &Recording) -> Vec<u64> {
    let mut before = Duration::ZERO;
    let frames = recording.frames.iter();
    frames
        .map(|(at, _)| (*at - std::mem::replace(&mut before, *at)).as_millis() as u64)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_default_is_fifteen_seconds_and_a_tenth_of_jitter() {
    let recording = play(HeartbeatLayer::new(), [pause(3600.0)]).await;
    let gaps = gaps(&recording);
    // An hour has 240 times fifteen seconds, and 266 times nine tenths of it.
    assert!((239..=266).contains(&gaps.len()), "{}", gaps.len());
    assert!(
        gaps.iter().all(|gap| (13_500..=15_001).contains(gap)),
        "{gaps:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_interval_without_end_never_comes_and_one_of_nothing_is_a_millisecond() {
    let never = HeartbeatLayer::every(Duration::MAX);
    assert_eq!(play(never, [pause(1e9)]).await.bytes(), b"");

    let at_once = HeartbeatLayer::every(Duration::ZERO).shape(HeartbeatShape::CommentLine);
    let beats = play(at_once, [pause(1.0)]).await.frames.len();
    assert!((500..=1000).contains(&beats), "{beats}");
}

#[tokio::test(start_paused = true)]
async fn any_interval_and_any_jitter_is_survived() {
    let times = [
        Duration::ZERO,
        Duration::from_nanos(1),
        Duration::from_secs(u64::MAX / 4),
        Duration::from_secs(u64::MAX),
        Duration::MAX,
    ];
    for time in times {
        for share in [f64::NAN, f64::NEG_INFINITY, -1.0, 2.0, f64::INFINITY] {
            let layer = HeartbeatLayer::every(time).jitter(share);
            play(layer, [pause(0.05), data("data: x\n\n")]).await;
        }
    }
}

// === where ===

#[tokio::test(start_paused = true)]
async fn a_heartbeat_waits_for_the_event_boundary() {
    for (open, close) in [
        ("data: x", "\n\n"),
        ("data: x\n", "\n"),
        ("d", "ata: x\n\n"),
        ("id: 1\n", "\n"),
        ("foo\n: bar\n", "\n"),
        ("data: x\r\n", "\r\n"),
        // A CR that ends a frame may still get its LF.
        ("data: x\r", "\n\r\n"),
        ("data: x\r\n\r", "\n"),
        (": a comment\r", "\n"),
        (": a comm", "ent\n"),
        ("\r", "\n"),
        ("data: x\r", "\r"),
    ] {
        let layer = exact().shape(HeartbeatShape::CommentLine);
        let recording = play(layer, [data(open), pause(25.0), data(close), pause(11.0)]).await;
        let shown = [(0, open), (25, close), (35, LINE)];
        assert_eq!(seconds(&recording), expected(&shown));
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_frame_that_only_looks_like_a_boundary_at_its_end_is_none() {
    // Wherever a look at the end begins, it finds comments alone.
    let comments = format!(":{}\n", "c".repeat(62)).repeat(200);
    let event = format!("data: x\n{comments}");
    let recording = play(
        lines(),
        [data(&event), pause(25.0), data("\n"), pause(11.0)],
    )
    .await;
    assert_eq!(
        seconds(&recording),
        expected(&[(0, &event), (25, "\n"), (35, LINE)])
    );
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_goes_out_at_every_boundary() {
    for before in [
        "\n",
        "\r\n",
        ": a comment\n",
        "data: x\n\n",
        "data: x\n\n: a comment\n",
        "data: x\r\n\r\n",
        // Whoever ends lines with CR alone sends no LF any more.
        "data: x\r\r",
        "data: x\n\r\n",
        "\r\r",
    ] {
        let recording = play(lines(), [data(before), pause(11.0)]).await;
        let shown = [(0, before), (10, LINE)];
        assert_eq!(seconds(&recording), expected(&shown));
    }
}

#[tokio::test(start_paused = true)]
async fn inside_of_an_event_a_comment_line_goes_in_only_where_asked_for_and_only_between_lines() {
    let inside = exact().inside_events(true);
    let block = inside.clone().shape(HeartbeatShape::CommentBlock);
    let blank = inside.clone().shape(HeartbeatShape::BlankLines);
    let silent = inside.clone().shape(HeartbeatShape::Silent);
    for (layer, open, beat) in [
        // Never the blank line: it would dispatch half an event.
        (&block, "data: x\n", Some(LINE)),
        (&inside, "data: x\r\n", Some(LINE)),
        (&inside, "data: x\n: hi\n", Some(LINE)),
        (&inside, "data: x", None),
        (&inside, "data: x\n: hi", None),
        (&inside, "data: x\r", None),
        (&blank, "data: x\n", None),
        (&silent, "data: x\n", None),
        (&exact(), "data: x\n", None),
    ] {
        let steps = [data(open), pause(11.0), data("data: y\n\n")];
        let recording = play(layer.clone(), steps).await;
        let moments = [
            Some((0, open)),
            beat.map(|beat| (10, beat)),
            Some((11, "data: y\n\n")),
        ];
        let moments: Vec<_> = moments.into_iter().flatten().collect();
        assert_eq!(seconds(&recording), expected(&moments), "{open:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mark_behind_a_heartbeat_is_taken_off() {
    let mark = ["\u{feff}data: x\n\n", "\u{feff}\u{feff}data: x\n\n"];
    let rest = ["data: x\n\n", "\u{feff}data: x\n\n"];
    for (mark, rest) in mark.into_iter().zip(rest) {
        let recording = play(lines(), [pause(11.0), data(mark)]).await;
        assert_eq!(recording.text(), format!(": keep-alive\n{rest}"));
        for cut in 1..mark.len() {
            let (a, b) = mark.as_bytes().split_at(cut);
            let steps = [pause(11.0), data(a), pause(11.0), data(b)];
            let text = play(lines(), steps).await.text();
            assert!(text.ends_with(rest), "{text:?}");
            assert_eq!(text.replace(": keep-alive\n", ""), rest, "{cut}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_in_the_middle_of_a_mark() {
    let steps = [data(b"\xef\xbb"), pause(25.0), data(b"\xbfdata: x\n\n")];
    assert_eq!(
        seconds(&play(lines(), steps).await),
        expected(&[(25, "data: x\n\n")])
    );
}

// === from when on ===

#[tokio::test(start_paused = true)]
async fn a_start_at_once_speaks_before_the_first_event_unless_that_is_there() {
    let layer = lines().start(HeartbeatStart::AtOnce);
    let recording = play(
        layer.clone(),
        [pause(12.0), data("data: x\n\n"), pause(11.0)],
    )
    .await;
    assert_eq!(
        seconds(&recording),
        expected(&[(0, LINE), (10, LINE), (12, "data: x\n\n"), (22, LINE)])
    );
    let recording = play(layer, [data("data: x\n\n"), pause(11.0)]).await;
    assert_eq!(
        seconds(&recording),
        expected(&[(0, "data: x\n\n"), (10, LINE)])
    );
}

#[tokio::test(start_paused = true)]
async fn a_start_after_silence_speaks_before_the_first_event_too() {
    let recording = play(lines(), [pause(11.0), data("data: x\n\n")]).await;
    assert_eq!(
        seconds(&recording),
        expected(&[(10, LINE), (11, "data: x\n\n")])
    );
}

#[tokio::test(start_paused = true)]
async fn a_start_after_the_first_event_wants_an_event_not_a_block() {
    let layer = lines().start(HeartbeatStart::AfterFirstEvent);
    let steps = [
        data(": hi\n\n"),
        pause(25.0),
        data("id: 1\n\n"),
        pause(25.0),
        data("data: x\n"),
        pause(25.0),
        data("\n"),
        pause(11.0),
    ];
    let recording = play(layer, steps).await;
    assert_eq!(
        seconds(&recording),
        expected(&[
            (0, ": hi\n\n"),
            (25, "id: 1\n\n"),
            (50, "data: x\n"),
            (75, "\n"),
            (85, LINE)
        ])
    );
}

// === in which bytes ===

#[tokio::test(start_paused = true)]
async fn every_client_gets_the_heartbeat_that_it_survives() {
    const BLANK: &str = "\n\n";
    let gemini = "google-genai-sdk/1.9.0 gl-node/v20";
    for (headers, uri, beat) in [
        // browsers, polyfills, the SSE libraries, Mistral
        (&[("accept", "text/event-stream")][..], "/", LINE),
        (&[("accept", "Text/Event-Stream; q=0.9, */*")], "/", LINE),
        // MCP
        (
            &[("accept", "application/json, text/event-stream")],
            "/mcp",
            LINE,
        ),
        // OpenAI, Anthropic, Vercel, fetch, curl
        (
            &[("accept", "application/json")],
            "/v1/chat/completions",
            BLOCK,
        ),
        (&[("accept", "*/*"), ("user-agent", "curl/8.0")], "/", BLOCK),
        (&[], "/", BLOCK),
        (&[("accept", "text/event-stream;q=0, */*")], "/", BLOCK),
        // Google
        (&[("x-goog-api-client", gemini)], "/", BLANK),
        (&[("user-agent", gemini)], "/", BLANK),
        (&[], "/v1beta/models/x:streamGenerateContent?alt=sse", BLANK),
        (
            &[
                ("accept", "text/event-stream"),
                ("x-goog-api-client", gemini),
            ],
            "/",
            BLANK,
        ),
        (&[("x-goog-api-client", "genai-js/0.24.1")], "/", ""),
        (
            &[
                ("accept", "text/event-stream"),
                ("x-goog-api-client", "genai-js/0.24.1"),
            ],
            "/",
            "",
        ),
    ] {
        for method in ["GET", "POST"] {
            let request = request(method, uri, headers);
            let recording = play_to(exact(), request, [pause(21.0)]).await;
            assert_eq!(
                recording.text(),
                beat.repeat(2),
                "{method} {uri} {headers:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_in_the_stream_takes_the_blank_line_away() {
    for (event, beat) in [
        ("data: x\n\n", BLOCK),
        ("data: id: 1\n\n", BLOCK),
        ("id: 1\ndata: x\n\n", LINE),
        ("data: x\nid\n\n", LINE),
        ("id:\n\n", LINE),
    ] {
        let recording = play(exact(), [pause(11.0), data(event), pause(21.0)]).await;
        assert_eq!(
            seconds(&recording),
            expected(&[(10, BLOCK), (11, event), (21, beat), (31, beat)])
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_is_looked_for_in_the_first_32_events() {
    for (before, beat) in [(0, LINE), (31, LINE), (32, BLOCK)] {
        let numbered = data("id: 1\ndata: x\n\n");
        // A frame and a poll for each.
        let plain = (0..before).flat_map(|_| [data("data: x\n\n"), pause(0.001)]);
        let steps = plain.chain([numbered, pause(11.0)]);
        let text = play(exact(), steps).await.text();
        assert!(
            text.ends_with(&["data: x\n\n", beat].concat()),
            "{before}: {text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_of_ours_takes_the_blank_line_away_too() {
    let steps = [pause(11.0), data("data: x\n\n"), pause(11.0)];
    let layers = tower_sse::SseLayer::new()
        .event_id(EventIdLayer::new().assign(|_| true))
        .heartbeat(exact());
    let body = through(layers, Client::Fetch.request(), events(steps)).await;
    assert_eq!(
        seconds(&record(body.into_body()).await),
        expected(&[(10, BLOCK), (11, "data: x\nid: 1\n\n"), (21, LINE)])
    );
}

#[tokio::test(start_paused = true)]
async fn only_blank_lines_follow_the_line_ends_of_the_stream() {
    for (event, blank) in [
        ("data: x\n\n", "\n\n"),
        ("data: x\r\n\r\n", "\r\n\r\n"),
        ("data: x\r\r", "\r\r"),
    ] {
        let steps = || [data(event), pause(11.0)];
        for (shape, beat) in [
            (HeartbeatShape::BlankLines, blank),
            (HeartbeatShape::CommentLine, LINE),
            (HeartbeatShape::CommentBlock, BLOCK),
        ] {
            let recording = play(exact().shape(shape), steps()).await;
            assert_eq!(seconds(&recording), expected(&[(0, event), (10, beat)]));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_is_a_frame_of_its_own() {
    let recording = play(
        exact(),
        [data("data: x\n\n"), pause(11.0), data("data: y\n\n")],
    )
    .await;
    let frames: Vec<_> = recording
        .frames
        .iter()
        .map(|(_, frame)| &frame[..])
        .collect();
    let wanted = ["data: x\n\n", BLOCK, "data: y\n\n"];
    assert_eq!(frames, wanted.map(str::as_bytes));
}

#[tokio::test(start_paused = true)]
async fn a_chosen_shape_and_text_are_for_every_client() {
    let text = "still here".parse().unwrap();
    for (shape, beat) in [
        (HeartbeatShape::CommentLine, ": still here\n"),
        (HeartbeatShape::CommentBlock, ": still here\n\n"),
        (HeartbeatShape::BlankLines, "\n\n"),
        (HeartbeatShape::Silent, ""),
    ] {
        for client in Client::ALL {
            let layer = exact().comment(&text).shape(shape);
            let recording = play_to(layer, client.request(), [pause(11.0)]).await;
            assert_eq!(recording.text(), beat, "{client:?}");
        }
    }
}

// === per response ===

#[tokio::test(start_paused = true)]
async fn a_layer_among_the_extensions_of_a_response_overrides_the_layer() {
    let five = HeartbeatLayer::every(Duration::from_secs(5))
        .jitter(0.0)
        .comment(&"five".parse().unwrap());
    for (layer, own, expected) in [
        (exact(), Some(five.clone()), ": five\n\n: five\n\n"),
        (HeartbeatLayer::off(), Some(five), ": five\n\n: five\n\n"),
        (exact(), Some(HeartbeatLayer::off()), ""),
        (HeartbeatLayer::off(), None, ""),
        (exact(), None, ": keep-alive\n\n"),
    ] {
        let mut response = events([pause(11.0)]);
        if let Some(own) = own {
            response.extensions_mut().insert(own);
        }
        let body = through(layer, Client::Fetch.request(), response).await;
        assert_eq!(record(body.into_body()).await.text(), expected);
    }
}

#[test]
fn heartbeats_go_on_for_as_long_as_the_service_hangs() {
    paused().block_on(async {
        let body = through(lines(), Client::Fetch.request(), events([Step::Hang])).await;
        let recording = record_for(body.into_body(), Duration::from_secs(3605)).await;
        assert_eq!((recording.frames.len(), recording.end.1), (360, End::None));
    });
}
