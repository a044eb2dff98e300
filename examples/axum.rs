//! One layer on an axum router: headers, heartbeats and the id that the client comes back with.
//!
//! ```text
//! cargo run --example axum
//! curl -N http://127.0.0.1:3000/ticks                          # `: keep-alive` between the ticks
//! curl -N -H 'Last-Event-ID: 41' http://127.0.0.1:3000/ticks   # goes on with 42
//! ```

use std::{convert::Infallible, time::Duration};

use axum::{
    Extension, Router,
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, stream};
use tokio::{net::TcpListener, time::sleep};
use tower_sse::{LastEventId, SseLayer};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/ticks", get(ticks))
        .layer(SseLayer::new().heartbeat(Duration::from_secs(1)));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("try: curl -N http://{}/ticks", listener.local_addr()?);
    axum::serve(listener, app).await
}

/// A tick every three seconds. The handler knows nothing of heartbeats or proxies.
async fn ticks(
    last: Option<Extension<LastEventId>>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let next = last.map_or(1, |Extension(last)| after(&last));
    Sse::new(stream::unfold(next, async |tick| {
        sleep(Duration::from_secs(3)).await;
        let event = Event::default()
            .id(tick.to_string())
            .data(format!("tick {tick}"));
        Some((Ok(event), tick + 1))
    }))
}

/// The id comes from the client and may be anything.
fn after(LastEventId(last): &LastEventId) -> u64 {
    last.as_str()
        .parse()
        .map_or(1, |seen: u64| seen.saturating_add(1))
}
