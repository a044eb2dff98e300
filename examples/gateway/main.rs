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
};

use clap::Parser as _;
use tokio::net::TcpListener;
use tower::{BoxError, Layer as _};
use tower_sse::DrainLayer;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Args, explain},
    metrics::Exporter,
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
    let mut stop = stop_signals()?;
    let listener = listen(&args.listen).await?;
    let address = listener.local_addr()?;
    let exporter = Exporter::bind(&args).await?;
    let metrics = exporter.as_ref().map(Exporter::address).transpose()?;
    let (resume_layer, producers) = store::resume(&args);
    let (drain_layer, drain) = DrainLayer::pair();
    if let Some(exporter) = exporter {
        exporter.serve(Server::new(args.write_timeout), resume_layer.handle());
    }
    let layer = layers::layer(&args, resume_layer, drain_layer);
    let service = layer.layer(proxy(&args).await?.into_service());
    let service = wants::wants(service, layers::ask_who_wants_a_stream(&args));
    let server = Server::new(args.write_timeout);
    announce(address, metrics)?;
    server.accept_until(&mut stop, listener, service).await;
    let deadline = args.drain_timeout;
    server.leave(&mut stop, &drain, producers, deadline).await;
    Ok(())
}

async fn listen(address: &str) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| format!("cannot listen on {address}: {error}"))
}

async fn proxy(args: &Args) -> Result<Proxy, BoxError> {
    let upstream = match &args.upstream {
        Some(upstream) => upstream.clone(),
        None => demo::start().await?,
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
