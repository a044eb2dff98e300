//! `POST /v1/chat/completions`: an answer token by token, in the shape of OpenAI's API.
//!
//! ```sh
//! curl -N -d '{"stream":true}' http://127.0.0.1:8080/v1/chat/completions
//! curl -N -d '{"stream":true,"delay_ms":20000}' http://127.0.0.1:8080/v1/chat/completions
//! curl -d '{"messages":[{"role":"user","content":"Hello?"}]}' http://127.0.0.1:8080/v1/chat/completions
//! ```

use std::{
    convert::Infallible,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use super::model::{self, Calls, Pace};

#[derive(Deserialize)]
#[serde(default)]
struct Question {
    model: String,
    messages: Vec<Message>,
    stream: bool,
    #[serde(flatten)]
    pace: Pace,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    /// A string, or a list of parts.
    content: Value,
}

/// What all chunks of one answer have in common.
struct Completion {
    id: String,
    created: u64,
    model: String,
}

/// How much of a model's name comes back, in characters: it is in each chunk.
const MAX_MODEL: usize = 64;

impl Default for Question {
    fn default() -> Self {
        Self {
            model: "demo".to_owned(),
            messages: Vec::new(),
            stream: false,
            pace: Pace::default(),
        }
    }
}

/// Reads the body whatever its type is called, so that a plain `curl -d` works.
pub(super) async fn complete(State(calls): State<Calls>, body: Bytes) -> Response {
    let question: Question = match serde_json::from_slice(&body) {
        Ok(question) => question,
        Err(error) => return invalid(&error),
    };
    calls.chat();
    let answer = question.answer();
    if question.stream {
        return Sse::new(tokens(&question, &answer)).into_response();
    }
    tokio::time::sleep(question.pace.delay()).await;
    Json(Completion::new(&question).whole(&answer)).into_response()
}

/// The role comes at once and the first token after the delay; so the silence is one in the middle
/// of a stream, as it is with a model that thinks.
fn tokens(
    question: &Question,
    answer: &str,
) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
    let completion = Completion::new(question);
    let role = json!({ "role": "assistant", "content": "" });
    let words = model::words(answer, question.pace);
    let deltas = stream::iter([(Duration::ZERO, role, None)])
        .chain(
            stream::iter(words).map(|(silence, word)| (silence, json!({ "content": word }), None)),
        )
        .chain(stream::iter([(Duration::ZERO, json!({}), Some("stop"))]));
    let done = stream::iter([(Duration::ZERO, "[DONE]".to_owned())]);
    // each is made when it is due: many clients that read slowly keep little here
    let chunks = deltas
        .map(move |(silence, delta, finish)| (silence, completion.chunk(&delta, finish)))
        .chain(done);
    chunks.then(|(silence, data)| async move {
        tokio::time::sleep(silence).await;
        Ok(Event::default().data(data))
    })
}

impl Question {
    fn answer(&self) -> String {
        let mut asked = self.messages.iter().rev();
        let asked = asked.find(|message| message.role == "user");
        model::answer(asked.and_then(|message| message.content.as_str()))
    }
}

impl Completion {
    fn new(question: &Question) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default();
        Self {
            id: format!("chatcmpl-{:x}", now.as_nanos()),
            created: now.as_secs(),
            model: model::start(&question.model, MAX_MODEL),
        }
    }

    fn chunk(&self, delta: &Value, finish_reason: Option<&str>) -> String {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish_reason });
        self.object("chat.completion.chunk", &choice).to_string()
    }

    fn whole(&self, answer: &str) -> Value {
        let message = json!({ "role": "assistant", "content": answer });
        let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
        self.object("chat.completion", &choice)
    }

    fn object(&self, object: &str, choice: &Value) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": [choice],
        })
    }
}

/// As OpenAI says it, so that its SDKs show the message.
fn invalid(error: &serde_json::Error) -> Response {
    let error = json!({
        "message": format!("The body is not a chat completion request: {error}"),
        "type": "invalid_request_error",
        "param": null,
        "code": null,
    });
    (StatusCode::BAD_REQUEST, Json(json!({ "error": error }))).into_response()
}
