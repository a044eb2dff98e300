//! gRPC, grpc-web and event streams on one port: the layer touches the streams and nothing else.
//!
//! ```text
//! cargo run --example tonic
//! curl -N http://127.0.0.1:3000/progress                          # the same with --http2-prior-knowledge
//! grpcurl -plaintext 127.0.0.1:3000 grpc.health.v1.Health/Check    # where there is a grpcurl
//! printf '\0\0\0\0\0' | curl -s --data-binary @- -H 'Content-Type: application/grpc-web' \
//!     http://127.0.0.1:3000/grpc.health.v1.Health/Check | xxd
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
use tonic_health::server::HealthReporter;
use tonic_web::GrpcWebLayer;
use tower::Layer;
use tower_sse::{DrainLayer, SseLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (_reporter, routes) = routes(Duration::from_secs(5));
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

/// `GrpcWebLayer` stands around the gRPC service alone. Around the server it would answer 400 to
/// every request over HTTP/1 that is not grpc-web, and event streams are such requests.
#[must_use]
pub fn routes(pause: Duration) -> (HealthReporter, Routes) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut routes = Routes::new(GrpcWebLayer::new().layer(health));
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = router.route("/progress", get(move || progress(pause)));
    (reporter, routes)
}

/// Training progress: a finite stream with long silences.
async fn progress(pause: Duration) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    Sse::new(stream::unfold(1, move |epoch: u32| async move {
        sleep(pause).await;
        let event = Event::default()
            .event("progress")
            .data(format!("epoch {epoch} of 10"));
        (epoch <= 10).then_some((Ok(event), epoch + 1))
    }))
}
