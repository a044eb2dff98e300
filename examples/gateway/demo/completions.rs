//! `GET /v1/completions`: an answer as plain text, word by word and without ids, for whoever can
//! only ask with a URL: a browser's `EventSource`.
//!
//! ```sh
//! curl -N -H 'accept: text/event-stream' 'http://127.0.0.1:8080/v1/completions?prompt=Hello'
//! ```

use std::convert::Infallible;

use axum::{
    extract::{Query, State},
    response::sse::{Event, Sse},
};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;

use super::model::{self, Calls, Pace};

#[derive(Deserialize)]
#[serde(default)]
pub(super) struct Prompt {
    prompt: Option<String>,
    delay_ms: u64,
    pause_ms: u64,
}

impl Default for Prompt {
    fn default() -> Self {
        let Pace { delay_ms, pause_ms } = Pace::default();
        Self {
            prompt: None,
            delay_ms,
            pause_ms,
        }
    }
}

/// The start is an event too, so that its client can come back during the silence behind it; and
/// the end, of which an `EventSource` has no other way to tell its page.
pub(super) async fn complete(
    State(calls): State<Calls>,
    Query(prompt): Query<Prompt>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    calls.completion();
    let Prompt {
        delay_ms, pause_ms, ..
    } = prompt;
    let answer = model::answer(prompt.prompt.as_deref());
    let words = stream::iter(model::words(&answer, Pace { delay_ms, pause_ms }));
    let words = words.then(|(silence, word)| async move {
        tokio::time::sleep(silence).await;
        Event::default().data(word)
    });
    let [start, done] = ["start", "done"].map(|name| Event::default().event(name).data(name));
    let events = stream::iter([start])
        .chain(words)
        .chain(stream::iter([done]));
    Sse::new(events.map(Ok))
}
