//! A bare hyper service that shuts down while streams are open.
//!
//! ```text
//! cargo run --example hyper
//! curl -N http://127.0.0.1:3000/    # press Ctrl-C in the server: curl ends within a second, cleanly
//! ```
//!
//! Take the `drain` line out, and the server hangs for as long as curl listens.

use std::{convert::Infallible, io, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::StreamBody;
use hyper::body::{Body, Frame, Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, signal::ctrl_c, time::sleep};
use tower::{ServiceBuilder, service_fn};
use tower_sse::{DrainLayer, DrainMode, SseLayer};

#[tokio::main]
async fn main() -> io::Result<()> {
    let (layer, drain) = DrainLayer::pair();
    let service = ServiceBuilder::new()
        .layer(SseLayer::new().drain(layer.mode(DrainMode::EndNow)))
        .service(service_fn(ticks));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("try: curl -N http://{}/", listener.local_addr()?);

    let (server, graceful) = (Builder::new(TokioExecutor::new()), GracefulShutdown::new());
    let mut stop = pin!(ctrl_c());
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (socket, _) = accepted?;
                let service = TowerToHyperService::new(service.clone());
                let connection = server.serve_connection(TokioIo::new(socket), service);
                let connection = graceful.watch(connection.into_owned());
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        eprintln!("connection: {error}");
                    }
                });
            }
            _ = &mut stop => break,
        }
    }
    println!("draining {} streams", drain.left());
    drain.start();
    graceful.shutdown().await;
    Ok(())
}

/// A stream without an end.
async fn ticks(
    _: Request<Incoming>,
) -> Result<Response<impl Body<Data = Bytes, Error = Infallible>>, http::Error> {
    let ticks = stream::unfold(1, async |tick: u64| {
        sleep(Duration::from_secs(1)).await;
        Some((
            Ok(Frame::data(Bytes::from(format!("data: tick {tick}\n\n")))),
            tick + 1,
        ))
    });
    Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .body(StreamBody::new(ticks))
}
