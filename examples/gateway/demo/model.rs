//! What stands for a language model: words, one after the other, and a count of what it was asked
//! to do, since that is what would cost money.

use std::{
    iter::repeat,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{Json, extract::State};
use serde::Deserialize;
use serde_json::{Value, json};

/// How often an answer was begun, by the endpoint that was asked for it.
#[derive(Clone)]
pub(super) struct Calls(Arc<Counts>);

struct Counts {
    /// When the counting began: a platform that was restarted begins at zero.
    since: Duration,
    chat: AtomicU64,
    completions: AtomicU64,
}

/// How fast the words come, in milliseconds.
#[derive(Clone, Copy, Deserialize)]
#[serde(default)]
pub(super) struct Pace {
    /// The silence before the first token, while a model would think.
    pub(super) delay_ms: u64,
    /// The silence between two tokens.
    pub(super) pause_ms: u64,
}

const MAX_DELAY: u64 = 10 * 60_000;
const MAX_PAUSE: u64 = 60_000;

/// What of a question comes back in its answer, in characters: a large question must not make a
/// much larger answer.
const MAX_ECHO: usize = 200;

const ANSWER: &str = "No model runs here, but the stream is real: this text comes word by word, from \
    a server that knows nothing of proxies and time-outs and keeps nothing that it has sent. The \
    gateway in front of it forwards each word as it comes, tells every proxy on the way not to hold \
    it back, and while nobody says anything it sends a comment now and then, so that nothing on the \
    way takes the silence for the end.";

impl Calls {
    pub(super) fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self(Arc::new(Counts {
            since: since.unwrap_or_default(),
            chat: AtomicU64::new(0),
            completions: AtomicU64::new(0),
        }))
    }

    pub(super) fn chat(&self) {
        self.0.chat.fetch_add(1, Relaxed);
    }

    pub(super) fn completion(&self) {
        self.0.completions.fetch_add(1, Relaxed);
    }
}

/// `GET /v1/calls`: how often the answers of this platform were asked for.
pub(super) async fn calls(State(Calls(counts)): State<Calls>) -> Json<Value> {
    Json(json!({
        "since": counts.since.as_secs_f64(),
        "chat": counts.chat.load(Relaxed),
        "completions": counts.completions.load(Relaxed),
    }))
}

impl Pace {
    pub(super) fn delay(self) -> Duration {
        Duration::from_millis(self.delay_ms.min(MAX_DELAY))
    }

    pub(super) fn pause(self) -> Duration {
        Duration::from_millis(self.pause_ms.min(MAX_PAUSE))
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            delay_ms: 1000,
            pause_ms: 40,
        }
    }
}

pub(super) fn answer(question: Option<&str>) -> String {
    match question {
        Some(text) => format!("You asked: “{}” {ANSWER}", start(text.trim(), MAX_ECHO)),
        None => ANSWER.to_owned(),
    }
}

/// The words of an answer, each with the silence before it.
pub(super) fn words(answer: &str, pace: Pace) -> impl Iterator<Item = (Duration, String)> + use<> {
    let words: Vec<_> = answer.split_inclusive(' ').map(str::to_owned).collect();
    let silences = [pace.delay()].into_iter().chain(repeat(pace.pause()));
    silences.zip(words)
}

pub(super) fn start(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}
