//! The demo platform behind the gateway: what teams stream, each in a few lines of axum. It returns
//! axum's `Sse` as it is, without `keep_alive`: all else is the gateway's to add.

mod chat;
mod completions;
mod cut;
mod finite;
mod model;
mod odd;
mod page;
mod panel;
mod predictions;
mod topic;
mod training;

use std::{future::IntoFuture as _, io};

use axum::{
    Router,
    extract::{
        DefaultBodyLimit, FromRequestParts, Query,
        ws::{Message, WebSocket, WebSocketUpgrade},
    },
    http::{HeaderMap, StatusCode, request::Parts, uri::Authority},
    response::{IntoResponse, Response},
    routing::{any, get, post},
    serve::ListenerExt as _,
};
use serde::Deserialize;
use tokio::net::TcpListener;

pub(crate) use cut::cuttable;
pub(crate) use panel::Panel;

/// The id of the last event that a client has seen; 0 if it has seen none. All streams here count
/// their events from 1.
struct LastEventId(u64);

/// An `EventSource` sends the header when it comes back by itself. The one that a page makes anew
/// cannot, so the page puts the id into the query.
#[derive(Deserialize)]
struct ResumeQuery {
    last_event_id: Option<String>,
}

const NOT_FOUND: &str = "\
there are: / (a page), /sse (GET and POST), /training, /predictions, /odd,
/v1/chat/completions (POST), /v1/completions, /v1/calls, /ws, /ws/feed; of the
gateway itself /gateway/about, /gateway/metrics, /gateway/cut and /gateway/drain (POST)
";

/// Events are kept and messages are sent back whole, so none may be large.
const MAX_BODY: usize = 64 * 1024;

/// Starts the platform on a port of its own, so that the gateway reaches it as it reaches any other.
pub(crate) async fn start(panel: Panel) -> io::Result<Authority> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let listener = listener.tap_io(|socket| {
        // without it an event is sent late at worst
        let _ = socket.set_nodelay(true);
    });
    tokio::spawn(axum::serve(listener, router(panel)).into_future());
    address.parse().map_err(io::Error::other)
}

fn router(panel: Panel) -> Router {
    Router::new()
        .route("/sse", get(topic::subscribe).post(topic::publish))
        .route("/ws/feed", any(topic::feed))
        .with_state(topic::Topic::default())
        .route("/training", get(training::run))
        .route("/predictions", get(predictions::run))
        .route("/odd", get(odd::run))
        .merge(answers())
        .merge(panel.routes())
        .merge(page::routes())
        .route("/ws", any(echo))
        .fallback((StatusCode::NOT_FOUND, NOT_FOUND))
        .layer(DefaultBodyLimit::max(MAX_BODY))
}

fn answers() -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", get(completions::complete))
        .route("/v1/calls", get(model::calls))
        .with_state(model::Calls::new())
}

/// What a WebSocket does instead: two ways, frames of its own, no ids, no resume.
async fn echo(upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(MAX_BODY).on_upgrade(send_back)
}

async fn send_back(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let sent = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            // axum answers pings and the closing by itself
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}

impl<S: Sync> FromRequestParts<S> for LastEventId {
    type Rejection = std::convert::Infallible;

    /// What is not one of our ids is as good as none.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let query = Query::<ResumeQuery>::try_from_uri(&parts.uri).ok();
        let query = query.and_then(|query| query.0.last_event_id);
        let id = header(&parts.headers).or(query);
        Ok(Self(id.and_then(|id| id.parse().ok()).unwrap_or(0)))
    }
}

fn header(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("last-event-id")?;
    id.to_str().ok().map(str::to_owned)
}

fn bad_request(line: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{line}\n")).into_response()
}
