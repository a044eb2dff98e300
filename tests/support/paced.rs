//! Random streams, and a server that sends each of them no faster than its client can follow: so it
//! still runs when the client is cut off and comes back, on any machine.

use std::{
    convert::Infallible,
    env,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Path,
    response::Response,
};
use fastrand::Rng;
use futures_util::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::{sync::watch, task::yield_now};

use super::{
    reference,
    serve::{EVENT_STREAM, respond},
};

/// How many events a stream has.
pub(crate) const EVENTS: usize = 500;

/// Behind this event a stream waits while [`Upstream::halt`] says so.
pub(crate) const HALT: usize = EVENTS / 2;

/// A stream that is made, and what became of it.
pub(crate) struct Paced {
    chunks: Vec<Chunk>,
    /// Type and data of each event.
    pub(crate) events: Vec<(String, String)>,
    pub(crate) len: usize,
    /// How far it may run ahead of its client, in events.
    ahead: usize,
    calls: AtomicUsize,
    /// How many events the client has.
    seen: watch::Sender<usize>,
}

struct Chunk {
    bytes: Bytes,
    /// How many events have ended before it.
    after: usize,
}

/// A server of streams, by their number, whatever the method.
#[derive(Clone)]
pub(crate) struct Upstream {
    streams: Arc<Vec<Paced>>,
    halted: watch::Sender<Which>,
}

type Which = fn(usize) -> bool;

/// The seed of this test's random numbers, which is printed when it fails: `SEED=` tries it again.
pub(crate) fn seed() -> u64 {
    let seed = env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("SEED={seed}");
    seed
}

impl Upstream {
    /// `own_ids` says which streams have ids of their own.
    pub(crate) fn new(rng: &mut Rng, streams: usize, own_ids: impl Fn(usize) -> bool) -> Self {
        let streams = (0..streams).map(|n| Paced::random(rng, own_ids(n)));
        Self {
            streams: Arc::new(streams.collect()),
            halted: watch::Sender::new(|_| false),
        }
    }

    /// These streams, and no others, wait behind event [`HALT`].
    pub(crate) fn halt(&self, which: Which) {
        self.halted.send_replace(which);
    }

    pub(crate) fn stream(&self, n: usize) -> &Paced {
        &self.streams[n]
    }

    pub(crate) fn app(&self) -> Router {
        let upstream = self.clone();
        let handler = axum::routing::any(async move |Path(n): Path<usize>, _: Bytes| {
            upstream.streams[n].calls.fetch_add(1, Relaxed);
            upstream.respond(n)
        });
        Router::new().route("/streams/{n}", handler)
    }

    fn respond(&self, n: usize) -> Response {
        let upstream = self.clone();
        let chunks = stream::iter(0..self.streams[n].chunks.len());
        let frames = chunks.then(move |chunk| {
            let upstream = upstream.clone();
            async move { Ok::<_, Infallible>(Frame::data(upstream.chunk(n, chunk).await)) }
        });
        respond(EVENT_STREAM, Body::new(StreamBody::new(frames)))
    }

    async fn chunk(&self, n: usize, chunk: usize) -> Bytes {
        let stream = &self.streams[n];
        let Chunk { bytes, after } = &stream.chunks[chunk];
        if *after >= HALT {
            let mut halted = self.halted.subscribe();
            let _ = halted.wait_for(|halted| !halted(n)).await;
        }
        let mut seen = stream.seen.subscribe();
        let _ = seen.wait_for(|seen| *after < seen + stream.ahead).await;
        // Some chunks come together, others do not.
        if chunk % 3 != 0 {
            yield_now().await;
        }
        bytes.clone()
    }
}

impl Paced {
    fn random(rng: &mut Rng, own_ids: bool) -> Self {
        let line_ends = *rng.choice(&LINE_ENDS).expect("a choice");
        let mut bytes = Vec::new();
        if rng.u8(..) < 32 {
            bytes.extend_from_slice("\u{feff}".as_bytes());
        }
        let mut ends = Vec::new();
        for number in 1..=EVENTS {
            write_event(rng, line_ends, number, own_ids, &mut bytes);
            ends.push(bytes.len());
        }
        // What follows the last event is none.
        bytes.extend_from_slice(
            rng.choice(["", ": end\n\n", "data: half"])
                .unwrap()
                .as_bytes(),
        );
        let events = reference::parse(&bytes).events.into_iter();
        let events: Vec<_> = events.map(|event| (event.kind, event.data)).collect();
        assert_eq!(events.len(), EVENTS);
        Self {
            len: bytes.len(),
            chunks: cut(rng, &ends, bytes.into()),
            events,
            ahead: *rng.choice(&[2, 10, 50, EVENTS]).expect("a choice"),
            calls: AtomicUsize::new(0),
            seen: watch::Sender::new(0),
        }
    }

    /// How often it was asked for.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    /// The client has so many events.
    pub(crate) fn on_seen(&self, events: usize) {
        self.seen.send_replace(events);
    }

    /// Waits until the client has so many.
    pub(crate) async fn seen(&self, events: usize) {
        let mut seen = self.seen.subscribe();
        let _ = seen.wait_for(|seen| *seen >= events).await;
    }
}

/// How the lines of a stream may end.
const LINE_ENDS: [&[&str]; 5] = [&["\n"], &["\n"], &["\r\n"], &["\r"], &["\n", "\r\n", "\r"]];

const LETTERS: [&str; 6] = ["x", "ö", "€", "𝄞", ":", " "];

fn write_event(rng: &mut Rng, line_ends: &[&str], number: usize, own_ids: bool, to: &mut Vec<u8>) {
    let mut lines = Vec::new();
    if rng.u8(..) < 16 {
        lines.push(": a comment".to_owned());
        // alone in its block, or in that of the event
        lines.extend(rng.bool().then(String::new));
    }
    if rng.u8(..) < 64 {
        lines.push("event: note".to_owned());
    }
    if own_ids {
        lines.push(format!("id: own-{number}"));
    }
    lines.push(format!("data: {number} {}", text(rng)));
    for _ in 0..rng.u8(..4) {
        lines.push(format!("data:{}", text(rng)));
    }
    lines.push(String::new());
    for line in lines {
        to.extend_from_slice(line.as_bytes());
        let last = to.ends_with(b"\r");
        let end = *rng.choice(line_ends).expect("a line end");
        // CR, LF would be one end.
        let end = if last && end == "\n" { "\r" } else { end };
        to.extend_from_slice(end.as_bytes());
    }
}

/// Mostly short.
fn text(rng: &mut Rng) -> String {
    let letter = rng.choice(LETTERS).expect("a letter");
    let len = match rng.u8(..) {
        0..3 => rng.usize(..3000),
        3..30 => rng.usize(..300),
        _ => rng.usize(..40),
    };
    letter.repeat(len / letter.len())
}

/// Chunks of all sizes, cut anywhere; `ends` says where the events end.
fn cut(rng: &mut Rng, ends: &[usize], bytes: Bytes) -> Vec<Chunk> {
    let longest = *rng.choice(&[8, 100, 1000]).expect("a choice");
    let mut chunks = Vec::new();
    let mut from = 0;
    while from < bytes.len() {
        let Range { start, end } = from..bytes.len().min(from + rng.usize(1..=longest));
        chunks.push(Chunk {
            bytes: bytes.slice(start..end),
            after: ends.partition_point(|end| *end <= start),
        });
        from = end;
    }
    chunks
}
