//! A bare hyper service that shuts down while streams are open.
//!
//! ```text
//! cargo run --example hyper
//! curl -N http://127.0.0.1:3000/    # press Ctrl-C in the server: curl ends within a second, cleanly
//! ```
//!
//! Take the `drain` line out, and the server hangs for as long as curl listens.

use std::{convert::Infallible, error::Error, io, pin::pin, time::Duration};

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
use tower::{Service, ServiceBuilder, service_fn};
use tower_sse::{DrainLayer, DrainMode, SseLayer};

#[tokio::main]
async fn main() -> io::Result<()> {
    let (layer, drain) = DrainLayer::pair();
    let service = ServiceBuilder::new()
        .layer(SseLayer::new().drain(layer.mode(DrainMode::EndNow)))
        .service(service_fn(|_| ticks(Duration::from_secs(1))));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("try: curl -N http://{}/", listener.local_addr()?);
    serve(listener, service, async move {
        let _: io::Result<()> = ctrl_c().await;
        println!("draining {} streams", drain.left());
        drain.start();
    })
    .await
}

/// Serves HTTP/1 and HTTP/2 until `stop`, and then what is open to its end.
pub async fn serve<S, B>(
    listener: TcpListener,
    service: S,
    stop: impl Future<Output = ()>,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let (server, graceful) = (Builder::new(TokioExecutor::new()), GracefulShutdown::new());
    let mut stop = pin!(stop);
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
            () = &mut stop => break,
        }
    }
    graceful.shutdown().await;
    Ok(())
}

/// A stream without an end.
pub async fn ticks(
    pause: Duration,
) -> http::Result<Response<impl Body<Data = Bytes, Error = Infallible>>> {
    let ticks = stream::unfold(1, move |tick: u64| async move {
        sleep(pause).await;
        let event = Bytes::from(format!("data: tick {tick}\n\n"));
        Some((Ok(Frame::data(event)), tick + 1))
    });
    Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .body(StreamBody::new(ticks))
}
