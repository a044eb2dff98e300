//! A warp filter, which `warp::service` makes a service that takes layers.
//!
//! ```text
//! cargo run --example warp
//! curl -N http://127.0.0.1:3000/ticks                          # `: keep-alive` between the ticks
//! curl -N -H 'Last-Event-ID: 41' http://127.0.0.1:3000/ticks   # goes on with 42
//! ```
//!
//! `warp::serve` takes no layers, so hyper-util serves it; `examples/hyper.rs` has the shutdown.

use std::{convert::Infallible, time::Duration};

use futures_util::stream;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::sleep};
use tower::Layer;
use tower_sse::SseLayer;
use warp::{Filter, Rejection, reply::Reply, sse::Event};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let sse = SseLayer::new().heartbeat(Duration::from_secs(1));
    let service = sse.layer(warp::service(ticks(Duration::from_secs(3))));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("try: curl -N http://{}/ticks", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let server = Builder::new(TokioExecutor::new());
            let connection = server.serve_connection(TokioIo::new(socket), service);
            if let Err(error) = connection.await {
                eprintln!("connection: {error}");
            }
        });
    }
}

/// `GET /ticks`: a tick after each pause.
#[must_use]
pub fn ticks(
    pause: Duration,
) -> impl Filter<Extract = (impl Reply,), Error = Rejection> + Clone + Send + Sync + 'static {
    let last = warp::header::optional::<u64>("last-event-id");
    let ticks = warp::path!("ticks").and(warp::get()).and(last);
    ticks.map(move |last: Option<u64>| {
        let next = last.unwrap_or_default().saturating_add(1);
        warp::sse::reply(stream::unfold(next, move |tick| async move {
            sleep(pause).await;
            let event = Event::default().id(tick.to_string());
            let event = event.data(format!("tick {tick}"));
            Some((Ok::<_, Infallible>(event), tick + 1))
        }))
    })
}
