//! gRPC and event streams on one port: the layer touches the streams and nothing else.
//!
//! ```text
//! cargo run --example tonic
//! curl -N http://127.0.0.1:3000/progress
//! grpcurl -plaintext 127.0.0.1:3000 grpc.health.v1.Health/Check    # where there is a grpcurl
//! ```
//!
//! The health service of tonic stands for yours. Browsers speak HTTP/1.1 without TLS, which a tonic
//! server only does when asked to.

use std::{convert::Infallible, io, time::Duration};

use axum::{
    response::sse::{Event, Sse},
    routing::get,
};
use futures_util::{Stream, stream};
use tokio::{net::TcpListener, signal::ctrl_c, time::sleep};
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tower_sse::{DrainLayer, SseLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let mut routes = Routes::new(health);
    *routes.axum_router_mut() =
        std::mem::take(routes.axum_router_mut()).route("/progress", get(progress));

    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("try: curl -N http://{}/progress", listener.local_addr()?);
    let (layer, drain) = DrainLayer::pair();
    Server::builder()
        .accept_http1(true)
        .layer(
            SseLayer::new()
                .heartbeat(Duration::from_secs(1))
                .drain(layer),
        )
        .add_routes(routes)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), async move {
            let _: io::Result<()> = ctrl_c().await;
            drain.start();
        })
        .await?;
    Ok(())
}

/// Training progress: a finite stream with long silences.
async fn progress() -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::unfold(1, async |epoch: u32| {
        sleep(Duration::from_secs(5)).await;
        let event = Event::default()
            .event("progress")
            .data(format!("epoch {epoch} of 10"));
        (epoch <= 10).then_some((Ok(event), epoch + 1))
    }))
}
