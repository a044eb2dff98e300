//! What the page shows of the gateway that it came through, and what it may do to it. Only the demo
//! has this: in front of another server all paths are that server's.
//!
//! ```sh
//! curl http://127.0.0.1:8080/gateway/metrics
//! curl http://127.0.0.1:8080/gateway/about
//! curl --json '{}' http://127.0.0.1:8080/gateway/drain                 # does what SIGTERM does
//! curl -N 'http://127.0.0.1:8080/sse?cut=me' & curl --json '{"streams":"me"}' http://127.0.0.1:8080/gateway/cut
//! ```

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::State,
    http::{
        HeaderName, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE},
    },
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower_sse::Drain;

use super::{bad_request, cut::Cuts};
use crate::{
    args::Args,
    metrics::{self, Metrics},
};

/// The gateway, as far as its demo may reach it.
#[derive(Clone)]
pub(crate) struct Panel {
    metrics: Metrics,
    /// When it was started, in seconds: tells one gateway from the next.
    started: f64,
    about: Arc<Value>,
    drain: Drain,
    pub(crate) cuts: Cuts,
    /// Told once when the gateway shall stop.
    pub(crate) stop: Arc<Notify>,
}

/// Which streams to cut: those whose `cut` in the query starts with this.
#[derive(Deserialize)]
struct Cut {
    streams: String,
}

/// Nothing needs to be said. But as JSON: another site's page cannot send that without being asked
/// (CORS), and nobody answers it.
#[derive(Deserialize)]
struct Nothing {}

const STARTED: HeaderName = HeaderName::from_static("gateway-started");

impl Panel {
    pub(crate) fn new(args: &Args, metrics: Metrics, drain: Drain) -> Self {
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let started = started.unwrap_or_default().as_secs_f64();
        let about = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "started": started,
            "heartbeat_ms": millis(args.heartbeat),
            "drain_timeout_ms": millis(args.drain_timeout),
            "resume_grace_ms": millis(args.resume_grace),
        });
        Self {
            metrics,
            started,
            about: Arc::new(about),
            drain,
            cuts: Cuts::new(),
            stop: Arc::new(Notify::new()),
        }
    }

    pub(super) fn routes(self) -> Router {
        Router::new()
            .route("/gateway/about", get(about))
            .route("/gateway/metrics", get(text))
            .route("/gateway/cut", post(cut))
            .route("/gateway/drain", post(drain))
            .with_state(self)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

async fn about(State(panel): State<Panel>) -> Response {
    ([(CACHE_CONTROL, "no-store")], Json(&*panel.about)).into_response()
}

/// The text that Prometheus gets on its own port, which a page from here could not read.
async fn text(State(panel): State<Panel>) -> Response {
    let headers = [(CONTENT_TYPE, metrics::TEXT), (CACHE_CONTROL, "no-store")];
    let started = [(STARTED, panel.started.to_string())];
    (headers, started, panel.metrics.text()).into_response()
}

async fn cut(State(panel): State<Panel>, Json(Cut { streams }): Json<Cut>) -> Response {
    if streams.is_empty() {
        return bad_request("say which: the `cut` of a stream's query, or how it begins");
    }
    panel.cuts.cut(&streams);
    StatusCode::NO_CONTENT.into_response()
}

/// Answers when no stream is left, with the last that is counted: who has not asked before can ask
/// no more.
async fn drain(panel: State<Panel>, Json(Nothing {}): Json<Nothing>) -> Response {
    panel.stop.notify_one();
    panel.drain.wait().await;
    text(panel).await
}
