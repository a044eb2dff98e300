//! A reverse proxy that keeps event streams alive: hyper's client and server with `SseLayer`
//! around them. Without `--upstream` it fronts a demo platform of its own, with a page to look at.
//!
//! ```sh
//! cargo run --release --example gateway                 # then open http://127.0.0.1:8080
//! cargo run --release --example gateway -- --heartbeat 1s
//! cargo run --release --example gateway -- --upstream http://127.0.0.1:9000
//! cargo run --release --example gateway --features redis -- --resume redis://127.0.0.1
//!
//! curl -N http://127.0.0.1:8080/sse
//! curl -N -d '{"stream":true}' http://127.0.0.1:8080/v1/chat/completions
//! ```

mod answer;
mod args;
mod chunks;
mod demo;
mod fields;
mod idle;
mod layers;
mod metrics;
mod proxy;
mod sending;
mod server;
mod socket;
mod store;
mod upstream;
mod wants;
mod wire;

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
};

use clap::Parser as _;
use futures_util::{Stream, stream};
use tokio::{net::TcpListener, sync::Notify};
use tower::{BoxError, Layer as _};
use tower_sse::DrainLayer;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Args, explain},
    demo::Panel,
    metrics::{Exporter, Metrics},
    proxy::{Proxy, Timeouts},
    server::{Server, stop_signals},
};

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return explain(&error),
    };
    match start(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> Result<(), BoxError> {
    let filter = EnvFilter::try_new(&args.log)
        .map_err(|error| format!("invalid value '{}' for '--log': {error}", args.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(run(args));
    // a name lookup sits in a thread of its own and must not hold up the exit
    runtime.shutdown_background();
    result
}

async fn run(args: Args) -> Result<(), BoxError> {
    let stop = stop_signals()?;
    let listener = listen(&args.listen).await?;
    let address = listener.local_addr()?;
    let exporter = Exporter::bind(&args).await?;
    let exported = exporter.as_ref().map(Exporter::address).transpose()?;
    let (resume_layer, producers) = store::resume(&args);
    let (drain_layer, drain) = DrainLayer::pair();
    // the demo's page shows them, with or without a port of their own
    let counted = exporter.is_some() || args.upstream.is_none();
    let metrics = counted.then(|| Metrics::install(&args, resume_layer.handle()));
    let metrics = metrics.transpose()?;
    if let (Some(exporter), Some(metrics)) = (exporter, &metrics) {
        exporter.serve(Server::new(args.write_timeout), metrics.clone());
    }
    let demo = metrics.filter(|_| args.upstream.is_none());
    let demo = demo.map(|metrics| Panel::new(&args, metrics, drain.clone()));
    let layer = layers::layer(&args, resume_layer, drain_layer);
    let service = layer.layer(proxy(&args, demo.clone()).await?.into_service());
    let service = wants::wants(service, layers::ask_who_wants_a_stream(&args));
    let server = Server::new(args.write_timeout);
    announce(address, exported)?;
    let mut stop = or_by_the_page(stop, demo.as_ref());
    match demo {
        Some(Panel { cuts, .. }) => {
            let service = demo::cuttable(service, cuts);
            server.accept_until(&mut stop, listener, service).await;
        }
        None => server.accept_until(&mut stop, listener, service).await,
    }
    let deadline = args.drain_timeout;
    server.leave(&mut stop, &drain, producers, deadline).await;
    Ok(())
}

/// The page's button is one signal more.
fn or_by_the_page<S: Stream<Item = ()> + Unpin>(
    signals: S,
    demo: Option<&Panel>,
) -> impl Stream<Item = ()> + Unpin + use<S> {
    let asked = demo.map_or_else(Arc::<Notify>::default, |panel| panel.stop.clone());
    let asked = stream::once(async move { asked.notified().await });
    stream::select(signals, Box::pin(asked))
}

async fn listen(address: &str) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| format!("cannot listen on {address}: {error}"))
}

async fn proxy(args: &Args, demo: Option<Panel>) -> Result<Proxy, BoxError> {
    let upstream = match (&args.upstream, demo) {
        (Some(upstream), _) => upstream.clone(),
        (None, Some(panel)) => demo::start(panel).await?,
        (None, None) => return Err("neither an upstream nor a demo".into()),
    };
    info!("upstream: http://{upstream}");
    let timeouts = Timeouts {
        connect: args.connect_timeout,
        head: args.head_timeout,
    };
    Ok(Proxy::new(&upstream, &timeouts)?)
}

/// On standard output, where a script can wait for it; the log goes to standard error.
fn announce(address: SocketAddr, metrics: Option<SocketAddr>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "gateway listening on http://{address}")?;
    if let Some(metrics) = metrics {
        writeln!(out, "gateway metrics on http://{metrics}/metrics")?;
    }
    out.flush()
}
