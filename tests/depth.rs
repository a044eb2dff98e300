//! However little of a stream is read, it comes out as if each of its lines were.
//!
//! The way is chosen by how a stream's last event is told: by a protocol, frames of plain events pass
//! at once; by a function of the user, every line is read. Both know the same last event here, and all
//! else is the same around them.

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};
use support::{
    body::{Client, End, Recording, Step, events, paused, record, through},
    reference,
    streams::{NASTY, byte_by_byte, config, cut_at, shown},
};
use tokio::time::sleep;
use tower_sse::{
    BreakOff, DrainLayer, DrainMode, EndReason, EventIdLayer, HeartbeatLayer, HeartbeatStart,
    LastSentId, LifetimeLayer, MetricsLayer, Observer, Protocol, SilenceLayer, SseLayer,
    StreamHead, StreamTotals, TruncationLayer,
    wire::{EventId, Field, Position, Scanner},
};

#[derive(Clone, Debug)]
struct Setup {
    client: Client,
    start: HeartbeatStart,
    assigns: bool,
    /// Whether a stream without its last event is broken off.
    breaks: bool,
    hints: bool,
    mode: DrainMode,
    drains_at: Option<Duration>,
    expires_at: Option<Duration>,
    silence: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Frames,
    Lines,
}

/// All that can be seen of a stream.
#[derive(Debug, PartialEq)]
struct Seen {
    recording: Recording,
    told: Vec<(u64, u64)>,
    heartbeats: u64,
    reason: EndReason,
    last: Option<EventId>,
}

#[derive(Default)]
struct Ear {
    sent: Mutex<Vec<(u64, u64)>>,
    totals: Mutex<Option<StreamTotals>>,
}

/// Between two frames, so that they come in polls of their own.
const SHORT: Duration = Duration::from_millis(1);
const LONG: Duration = Duration::from_secs(25);

/// Of this every line is read; behind it frames may pass.
const START: &[u8] = b"data: start\n\n";

const STARTS: [HeartbeatStart; 3] = [
    HeartbeatStart::AtOnce,
    HeartbeatStart::AfterSilence,
    HeartbeatStart::AfterFirstEvent,
];

const MODES: [DrainMode; 3] = [DrainMode::Auto, DrainMode::EndNow, DrainMode::Finish];

impl Observer for Ear {
    fn sent(&self, _: &StreamHead, events: u64, bytes: u64) {
        self.sent.lock().unwrap().push((events, bytes));
    }

    fn ended(&self, _: &StreamHead, totals: &StreamTotals) {
        *self.totals.lock().unwrap() = Some(*totals);
    }
}

/// What [`Protocol::OpenAiChat`] takes for the last event.
fn ends_chat(field: &Field<'_>) -> bool {
    let last: [&[u8]; 2] = [b"[DONE]", b"{\"error\":"];
    field.name == b"data" && last.iter().any(|last| field.value.starts_with(last))
}

impl Setup {
    /// Nothing in it adds a byte, or ends a stream.
    const QUIET: Self = Self {
        client: Client::Fetch,
        start: HeartbeatStart::AfterFirstEvent,
        assigns: false,
        breaks: false,
        hints: false,
        mode: DrainMode::Auto,
        drains_at: None,
        expires_at: None,
        silence: None,
    };

    fn truncation(&self, way: Way) -> TruncationLayer {
        let layer = match way {
            Way::Frames => TruncationLayer::new().protocol(|_| Some(Protocol::OpenAiChat)),
            Way::Lines => TruncationLayer::new().terminal(ends_chat),
        };
        if self.breaks {
            layer.break_off(BreakOff::Abort)
        } else {
            layer.count_only()
        }
    }

    fn event_id(&self) -> EventIdLayer {
        let layer = EventIdLayer::new();
        if self.assigns {
            layer.assign(|_| true)
        } else {
            layer
        }
    }

    fn drain(&self, layer: DrainLayer) -> DrainLayer {
        let layer = layer.mode(self.mode).spread(Duration::ZERO).jitter(0.0);
        if self.hints {
            layer
        } else {
            layer.without_retry()
        }
    }

    async fn see(&self, way: Way, steps: &[Step]) -> Seen {
        let ear = Arc::new(Ear::default());
        let (drain_layer, drain) = DrainLayer::pair();
        let mut layer = SseLayer::new()
            .heartbeat(
                HeartbeatLayer::every(Duration::from_secs(10))
                    .jitter(0.0)
                    .start(self.start),
            )
            .event_id(self.event_id())
            .truncation(self.truncation(way))
            .drain(self.drain(drain_layer))
            .metrics(MetricsLayer::new(ear.clone()));
        if let Some(time) = self.expires_at {
            layer = layer.lifetime(LifetimeLayer::after(time).jitter(0.0).without_retry());
        }
        if let Some(limit) = self.silence {
            layer = layer.silence(SilenceLayer::after(limit));
        }
        let response = through(layer, self.client.request(), events(steps.to_vec())).await;
        let sent = response.extensions().get::<LastSentId>().unwrap().clone();
        let drains_at = self.drains_at;
        let draining = tokio::spawn(async move {
            if let Some(time) = drains_at {
                sleep(time).await;
                drain.start();
            }
        });
        let recording = record(response.into_body()).await;
        draining.abort();
        let totals = ear.totals.lock().unwrap().take().expect("an end");
        assert_eq!(sent.end(), Some(totals.reason));
        let told = std::mem::take(&mut *ear.sent.lock().unwrap());
        let sum = told.iter().fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        assert_eq!(sum, (totals.events, totals.bytes));
        Seen {
            recording,
            told,
            heartbeats: totals.heartbeats,
            reason: totals.reason,
            last: sent.get(),
        }
    }
}

fn see(setup: &Setup, way: Way, steps: &[Step]) -> Seen {
    paused().block_on(setup.see(way, steps))
}

// === against the slow way ===

/// A frame, mostly of whole plain events, and what comes behind it.
fn frame() -> impl Strategy<Value = Vec<Step>> {
    let plain = select(vec![
        "data: x\n\n",
        "data:\n\n",
        "event: e\ndata: x\ndata: y\n\n",
        "data: [DONE]\n\n",
        "data: {\"error\":1}\n\n",
    ]);
    let other = select(vec![
        "data: x\r\n\r\n",
        "data: x\r\r",
        "data\n\n",
        "event: e\n\n",
        ": c\n",
        ": c\n\n",
        "\n",
        "\r",
        "id: 7\ndata: x\n\n",
        "id: 8\n\n",
        "id:\ndata: x\n\n",
        "retry: 10\n\n",
        "data: x\n",
        "data: [DO",
        "NE]\n\n",
        "data: [DONE]\n",
        "\u{feff}data: x\n\n",
        "data: x\n\ndata: [DONE]\n\ndata: y\n\n",
        "data: half",
    ]);
    let part = prop_oneof![5 => plain, 2 => other];
    let text = vec(part, 0..4).prop_map(|parts| parts.concat());
    let pause = prop_oneof![3 => Just(None), 3 => Just(Some(SHORT)), 1 => Just(Some(LONG))];
    (text, pause).prop_map(|(text, pause)| {
        let data = Step::Data(text.into());
        [data].into_iter().chain(pause.map(Step::Pause)).collect()
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    vec(frame(), 0..24).prop_map(|frames| frames.concat())
}

fn time() -> impl Strategy<Value = Option<Duration>> {
    let micros = prop_oneof![2 => 0..20_000_u64, 1 => 0..200_000_000_u64];
    prop_oneof![1 => Just(None), 1 => micros.prop_map(|micros| Some(Duration::from_micros(micros)))]
}

fn setup() -> impl Strategy<Value = Setup> {
    let switches = (any::<bool>(), any::<bool>(), any::<bool>());
    let silence =
        prop_oneof![2 => Just(None), 1 => (1..60_u64).prop_map(|s| Some(Duration::from_secs(s)))];
    (
        select(&Client::ALL[..]),
        select(&STARTS[..]),
        switches,
        select(&MODES[..]),
        (time(), time(), silence),
    )
        .prop_map(|(client, start, switches, mode, times)| Setup {
            client,
            start,
            assigns: switches.0,
            breaks: switches.1,
            hints: switches.2,
            mode,
            drains_at: times.0,
            expires_at: times.1,
            silence: times.2,
        })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn frames_that_pass_go_the_way_of_their_lines(setup in setup(), steps in steps()) {
        let frames = see(&setup, Way::Frames, &steps);
        let lines = see(&setup, Way::Lines, &steps);
        prop_assert_eq!(frames, lines);
    }
}

// === against the reference ===

/// Streams on whose way from frame to frame something changes.
const TURNS: &[(&str, &[u8])] = &[
    (
        "plain events",
        b"data: a\n\nevent: e\ndata: b\ndata: c\n\ndata:\n\n",
    ),
    (
        "the last event among others",
        b"data: a\n\ndata: [DONE]\n\ndata: b\n\n",
    ),
    ("a second answer", b"data: [DONE]\n\ndata: b\n\n"),
    (
        "an error is the last",
        b"data: a\n\ndata: {\"error\":{}}\n\n",
    ),
    (
        "the last event in a block without its end",
        b"data: a\n\ndata: [DONE]\n",
    ),
    (
        "comments between",
        b"data: a\n\n: c\ndata: b\n\n: c\n\ndata: c\n\n",
    ),
    (
        "an id late",
        b"data: a\n\ndata: b\n\nid: 9\ndata: c\n\ndata: d\n\n",
    ),
    (
        "an id alone",
        b"data: a\n\nid: 9\n\ndata: b\n\nid:\n\ndata: c\n\n",
    ),
    (
        "line ends change",
        b"data: a\n\ndata: b\r\n\r\ndata: c\n\ndata: d\r\rdata: e\n\n\n",
    ),
    (
        "a CR before a plain event",
        b"data: a\n\n\rdata: b\n\ndata: c\n\r\n",
    ),
    (
        "a mark late",
        b"data: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n",
    ),
    ("a mark first", b"\xef\xbb\xbfdata: a\n\ndata: b\n\n"),
    (
        "a retry late",
        b"data: a\n\nretry: 5\n\ndata: b\n\nretry: 6\ndata: c\n\n",
    ),
];

/// Cut everywhere in two, in three where it is short, and into bytes.
fn chunkings(stream: &[u8]) -> Vec<Vec<Bytes>> {
    let len = stream.len();
    let two = (0..=len).filter(|&cut| cut < 50 || len - cut < 50 || cut % 101 == 0);
    let mut all: Vec<_> = two.map(|cut| cut_at(stream, [cut])).collect();
    if len <= 64 {
        all.extend(
            (0..len)
                .flat_map(|a| (a + 1..len).map(move |b| (a, b)))
                .map(|(a, b)| cut_at(stream, [a, b])),
        );
        all.push(byte_by_byte(stream));
    }
    all
}

fn is_last(event: &reference::Event) -> bool {
    event
        .data
        .split('\n')
        .any(|line| line.starts_with("[DONE]") || line.starts_with("{\"error\":"))
}

#[test]
fn what_is_told_of_a_stream_is_what_a_client_has_of_it() {
    for (name, stream) in TURNS.iter().chain(NASTY) {
        for chunks in chunkings(stream) {
            let starts = [&[][..], &[Bytes::from_static(START)]];
            for start in starts {
                let all = [start, &chunks].concat();
                let steps = all.iter().cloned().map(Step::Data);
                let steps: Vec<_> = steps.flat_map(|step| [step, Step::Pause(SHORT)]).collect();
                let seen = see(&Setup::QUIET, Way::Frames, &steps);
                let up = all.concat();
                let down = seen.recording.bytes();
                let (sent, got) = (reference::parse(&up), reference::parse(&down));
                let case = format!("{name}, cut as {}: {seen:?}", shown(&all));
                assert_eq!(got, sent, "{case}");
                let (mut events, mut bytes) = (0, 0);
                for (more, len) in &seen.told {
                    (events, bytes) = (events + more, bytes + *len as usize);
                    let so_far = reference::parse(&down[..bytes]);
                    assert_eq!(events, so_far.events.len() as u64, "at {bytes}: {case}");
                }
                let complete = sent.events.iter().any(is_last);
                let reason = if complete {
                    EndReason::Complete
                } else {
                    EndReason::Truncated
                };
                assert_eq!(seen.reason, reason, "{case}");
                assert_eq!(seen.recording.end.1, End::Clean, "{case}");
                let last =
                    Some(&sent.last_id).filter(|id| !id.is_empty() && id.len() <= EventId::MAX_LEN);
                assert_eq!(
                    seen.last.as_ref().map(EventId::as_str),
                    last.map(String::as_str),
                    "{case}"
                );
            }
        }
    }
}

// === where a drain ends them ===

/// Where the stream may end, from `start` on; nowhere, where it would be inside of an event.
fn boundary(stream: &[u8], start: usize) -> Option<usize> {
    let position = |bytes: &[&[u8]]| {
        let mut scanner = Scanner::new();
        bytes.iter().for_each(|bytes| scanner.scan(bytes, |_| ()));
        scanner.position()
    };
    (start..=stream.len()).find(|&at| {
        let (before, behind) = stream.split_at(at);
        match position(&[before]) {
            Position::Boundary => true,
            // No LF follows, so the CR was all of the line's end.
            Position::AfterCr => {
                behind.first().is_some_and(|byte| *byte != b'\n')
                    && position(&[before, b"\n"]) == Position::Boundary
            }
            Position::LineStart | Position::MidLine => false,
        }
    })
}

async fn drained(layer: SseLayer, chunks: [Bytes; 2]) -> Recording {
    let [first, second] = chunks;
    let (drain_layer, drain) = DrainLayer::pair();
    let drain_layer = drain_layer
        .mode(DrainMode::EndNow)
        .spread(Duration::ZERO)
        .without_retry();
    let start = Step::Data(Bytes::from_static(START));
    let pause = Step::Pause(2 * SHORT);
    let steps = [
        start,
        pause.clone(),
        Step::Data(first),
        pause,
        Step::Data(second),
    ];
    let layer = layer.drain(drain_layer);
    let response = through(layer, Client::Fetch.request(), events(steps)).await;
    tokio::spawn(async move {
        sleep(3 * SHORT).await;
        drain.start();
    });
    record(response.into_body()).await
}

#[test]
fn a_drain_ends_a_stream_at_its_next_boundary_however_it_was_read() {
    let runtime = paused();
    let ends = || SseLayer::new().without_heartbeat();
    let frames = || ends().metrics(MetricsLayer::new(Arc::new(Ear::default())));
    let lines = || ends().truncation(TruncationLayer::new().terminal(ends_chat).count_only());
    // Behind comments there is a boundary that only the end of a frame shows, and of a long line the
    // end of a frame shows less than its lines do.
    let is_told = |stream: &&[u8]| {
        let has = |part: &[u8]| stream.windows(part.len()).any(|bytes| bytes == part);
        let comments = stream.starts_with(b":") || has(b"\n:") || has(b"\r:");
        stream.len() <= 64 && !comments && !has(b"\xef") && !has(b"\r\r\n")
    };
    let streams = TURNS.iter().chain(NASTY).map(|(_, stream)| *stream);
    for stream in streams.filter(is_told) {
        for cut in 0..=stream.len() {
            let end = boundary(stream, cut).unwrap_or(stream.len());
            let expected = [START, &stream[..end]].concat();
            for layer in [ends(), frames(), lines()] {
                let (first, second) = stream.split_at(cut);
                let chunks = [first, second].map(Bytes::copy_from_slice);
                let seen = runtime.block_on(drained(layer.clone(), chunks));
                let case = format!("{} cut at {cut}: {layer:?}", stream.escape_ascii());
                assert_eq!(
                    seen.bytes().escape_ascii().to_string(),
                    expected.escape_ascii().to_string(),
                    "{case}"
                );
                assert_eq!(seen.end.1, End::Clean, "{case}");
            }
        }
    }
}
