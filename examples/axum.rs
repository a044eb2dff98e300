//! One layer on an axum router: headers, heartbeats and the id that the client comes back with.
//!
//! ```text
//! cargo run --example axum
//! curl -N http://127.0.0.1:3000/ticks                          # `: keep-alive` between the ticks
//! curl -N -H 'Last-Event-ID: 41' http://127.0.0.1:3000/ticks   # goes on with 42
//! curl -N http://127.0.0.1:3000/kept                           # axum's own `:`, and none of ours
//! ```

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension, Router,
    extract::State,
    response::sse::{Event, KeepAlive, KeepAliveStream, Sse},
    routing::get,
};
use futures_util::{Stream, stream};
use tokio::{net::TcpListener, time::sleep};
use tower_sse::{LastEventId, SseLayer};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = app(Duration::from_secs(3)).layer(SseLayer::new().heartbeat(Duration::from_secs(1)));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("try: curl -N http://{}/ticks", listener.local_addr()?);
    axum::serve(listener, app).await
}

/// The service, which knows nothing of heartbeats or proxies. It pauses before each tick.
pub fn app(pause: Duration) -> Router {
    Router::new()
        .route("/ticks", get(ticks))
        .route("/kept", get(kept))
        .with_state(pause)
}

async fn ticks(
    State(pause): State<Duration>,
    last: Option<Extension<LastEventId>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let next = last.map_or(1, |Extension(last)| after(&last));
    Sse::new(stream::unfold(next, move |tick| async move {
        sleep(pause).await;
        let event = Event::default()
            .id(tick.to_string())
            .data(format!("tick {tick}"));
        Some((Ok(event), tick + 1))
    }))
}

/// Heartbeats of its own. They break every silence before the layer would, as long as their interval
/// is not the longer one.
async fn kept(
    State(pause): State<Duration>,
) -> Sse<KeepAliveStream<impl Stream<Item = Result<Event, Infallible>>>> {
    ticks(State(pause), None)
        .await
        .keep_alive(KeepAlive::new().interval(pause / 3))
}

/// The id comes from the client and may be anything.
fn after(LastEventId(last): &LastEventId) -> u64 {
    last.as_str()
        .parse()
        .map_or(1, |seen: u64| seen.saturating_add(1))
}
