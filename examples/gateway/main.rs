//! A reverse proxy that keeps event streams alive: hyper's client and server with `SseLayer`
//! around them. Without `--upstream` it fronts a demo platform of its own, with a page to look at.
//!
//! ```sh
//! cargo run --release --example gateway                 # then open http://127.0.0.1:8080
//! cargo run --release --example gateway -- --heartbeat 1s
//! cargo run --release --example gateway -- --upstream http://127.0.0.1:9000
//!
//! curl -N http://127.0.0.1:8080/sse
//! curl -N -d '{"stream":true}' http://127.0.0.1:8080/v1/chat/completions
//! ```

mod demo;
mod proxy;

use std::{
    convert::Infallible,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    process::ExitCode,
    task::Poll,
    time::Duration,
};

use axum::serve::{Listener, ListenerExt as _};
use bytes::Bytes;
use clap::Parser;
use futures_util::{Stream, StreamExt as _, stream};
use http::{
    Request, Response, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};
use tokio_io_timeout::TimeoutWriter;
use tower::{BoxError, Layer as _, Service};
use tower_http::add_extension::AddExtension;
use tower_sse::{Drain, DrainLayer, SseLayer};
use tracing::{debug, info, warn};
use tracing_subscriber::EnvFilter;

use crate::proxy::{Peer, Proxy, Timeouts};

/// A reverse proxy that keeps Server-Sent Events alive: headers, heartbeats, no buffering, and a
/// shutdown that ends each stream between two events.
///
/// Without --upstream it fronts a demo platform of its own: open the printed address in a browser.
#[derive(Parser)]
#[command(name = "gateway", version, after_help = EXAMPLES)]
struct Args {
    /// Where to listen; with port 0 the system chooses, and the printed line says which
    #[arg(long, env = "GATEWAY_LISTEN", default_value = "127.0.0.1:8080")]
    #[arg(value_name = "ADDR")]
    listen: String,

    /// The server behind the gateway, as http://host:port [default: the demo platform]
    #[arg(long, env = "GATEWAY_UPSTREAM", value_name = "URL", value_parser = upstream)]
    upstream: Option<Authority>,

    /// After how much silence a stream gets a heartbeat: sooner than any proxy on the way gives up
    #[arg(long, env = "GATEWAY_HEARTBEAT", default_value = "15s")]
    #[arg(value_name = "TIME", value_parser = some_time)]
    heartbeat: Duration,

    /// How long after SIGTERM or Ctrl-C answers may still finish; feeds end at once
    #[arg(long, env = "GATEWAY_DRAIN_TIMEOUT", default_value = "10s")]
    #[arg(value_name = "TIME", value_parser = time)]
    drain_timeout: Duration,

    /// How long a connection to the upstream may take; then 504
    #[arg(long, env = "GATEWAY_CONNECT_TIMEOUT", default_value = "5s")]
    #[arg(value_name = "TIME", value_parser = some_time)]
    connect_timeout: Duration,

    /// How long the upstream may take from the request to the head of its answer; then 504.
    /// Long, because a language model may think before it says anything
    #[arg(long, env = "GATEWAY_HEAD_TIMEOUT", default_value = "5m")]
    #[arg(value_name = "TIME", value_parser = some_time)]
    head_timeout: Duration,

    /// How long a client may refuse to read what waits for it; then its connection is cut
    #[arg(long, env = "GATEWAY_WRITE_TIMEOUT", default_value = "30s")]
    #[arg(value_name = "TIME", value_parser = some_time)]
    write_timeout: Duration,

    /// What to log, as `tracing` directives: info, debug, tower_sse=trace,info
    #[arg(long, env = "GATEWAY_LOG", default_value = "info")]
    #[arg(value_name = "FILTER")]
    log: String,
}

const EXAMPLES: &str = "\
Times are written as people do: 500ms, 15s, 2m, 1h30m.

Examples:
  gateway                                       the demo, on http://127.0.0.1:8080
  gateway --heartbeat 1s                        the same, with a pulse that one can watch
  gateway --upstream http://127.0.0.1:9000      in front of your own server
  GATEWAY_LISTEN=127.0.0.1:0 gateway            the flags also as environment variables

Then, with the demo:
  curl -N http://127.0.0.1:8080/sse             a topic: all events so far, then live
  curl -d data=hello http://127.0.0.1:8080/sse  an event for everybody who listens
  curl -N http://127.0.0.1:8080/training        a run that ends
  curl -N -d '{\"stream\":true}' http://127.0.0.1:8080/v1/chat/completions

A stop: SIGTERM or Ctrl-C drains, a second one leaves at once.";

/// What remains after the deadline of the drain for last bytes to leave.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// A client on HTTP/2 that is gone without a word is noticed after two of these.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// How long a new connection may say nothing at all.
const FIRST_BYTE: Duration = Duration::from_secs(30);

/// Longer than anybody waits, and short enough to be added to any clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

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

/// Help in full; an error as its one line that says what is wrong.
fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return error
            .print()
            .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    eprintln!("gateway: {line} (see --help)");
    ExitCode::from(2)
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
    let (drain_layer, drain) = DrainLayer::pair();
    let service = SseLayer::new()
        .heartbeat(args.heartbeat)
        .drain(drain_layer.deadline(args.drain_timeout))
        .layer(proxy(&args).await?.into_service());
    let server = Server::new(args.write_timeout);
    announce(address)?;
    server.accept_until(&mut stop, listener, service).await;
    server.leave(&mut stop, &drain, args.drain_timeout).await;
    Ok(())
}

async fn listen(address: &str) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await;
    listener.map_err(|error| format!("cannot listen on {address}: {error}"))
}

async fn proxy(args: &Args) -> io::Result<Proxy> {
    let upstream = match &args.upstream {
        Some(upstream) => upstream.clone(),
        None => demo::start().await?,
    };
    info!("upstream: http://{upstream}");
    let timeouts = Timeouts {
        connect: args.connect_timeout,
        head: args.head_timeout,
    };
    Ok(Proxy::new(upstream, &timeouts))
}

/// On standard output, where a script can wait for it; the log goes to standard error.
fn announce(address: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "gateway listening on http://{address}")?;
    out.flush()
}

// === The server ===

/// hyper's connections, HTTP/1 and HTTP/2, and the count of those that are open.
struct Server {
    http: auto::Builder<TokioExecutor>,
    connections: GracefulShutdown,
    /// Dropped when we leave.
    open: watch::Sender<()>,
    write_timeout: Duration,
}

impl Server {
    fn new(write_timeout: Duration) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        // with a timer, hyper closes a connection that takes 30 s over the head of a request; the
        // clock starts when the first bytes have told HTTP/1 from HTTP/2
        http.http1().timer(TokioTimer::new());
        http.http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING);
        Self {
            http,
            connections: GracefulShutdown::new(),
            open: watch::Sender::default(),
            write_timeout,
        }
    }

    /// The listener is dropped at the end: from then on the system refuses new connections, and a
    /// load balancer goes elsewhere.
    async fn accept_until<S, B>(
        &self,
        stop: &mut (impl Stream<Item = ()> + Unpin),
        listener: TcpListener,
        service: S,
    ) where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        // an event is small and must not wait for an acknowledgement of the one before
        let mut listener = listener.tap_io(|socket| {
            if let Err(error) = socket.set_nodelay(true) {
                debug!(%error, "no TCP_NODELAY");
            }
        });
        loop {
            tokio::select! {
                (socket, peer) = listener.accept() => self.serve(socket, peer, service.clone()),
                _ = stop.next() => return,
            }
        }
    }

    fn serve<S, B>(&self, socket: TcpStream, peer: SocketAddr, service: S)
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let (http, watcher) = (self.http.clone(), self.connections.watcher());
        let (open, write_timeout) = (self.open.subscribe(), self.write_timeout);
        let service = TowerToHyperService::new(AddExtension::new(service, Peer(peer)));
        tokio::spawn(async move {
            if !speaks(&socket, open).await {
                debug!(%peer, "connection without a word");
                return;
            }
            // hyper does not look at a body whose client does not read, so nothing in the body
            // can notice; the socket can
            let mut socket = TimeoutWriter::new(socket);
            socket.set_timeout(Some(write_timeout));
            let socket = TokioIo::new(Box::pin(socket));
            let connection = http.serve_connection_with_upgrades(socket, service);
            if let Err(error) = watcher.watch(connection.into_owned()).await {
                debug!(%peer, error, "connection broken");
            }
        });
    }

    /// Lets go of everything within the deadline, whatever the clients do. Tunnels are not waited
    /// for: a WebSocket has no end of its own, so it is cut when all the others are done.
    async fn leave(
        self,
        stop: &mut (impl Stream<Item = ()> + Unpin),
        drain: &Drain,
        deadline: Duration,
    ) {
        let open = self.connections.count();
        info!(
            open,
            streams = drain.left(),
            "draining for {deadline:?} at most"
        );
        drain.start();
        drop(self.open);
        tokio::select! {
            () = self.connections.shutdown() => info!("drained"),
            () = tokio::time::sleep(deadline + LAST_BYTES) => {
                warn!(streams = drain.left(), "deadline: connections are cut");
            }
            _ = stop.next() => warn!("second signal: leaving at once"),
        }
    }
}

/// Whether a first byte comes, in time and before we leave. No timer of hyper's runs that early.
async fn speaks(socket: &TcpStream, mut open: watch::Receiver<()>) -> bool {
    let mut byte = [0];
    tokio::select! {
        biased;
        // `readable` may say yes too early
        first = timeout(FIRST_BYTE, socket.peek(&mut byte)) => matches!(first, Ok(Ok(1..))),
        _ = open.changed() => false,
    }
}

/// Listens from the moment that it is made, so that no signal is missed.
#[cfg(unix)]
fn stop_signals() -> io::Result<impl Stream<Item = ()> + Unpin> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(stream::poll_fn(move |cx| match interrupt.poll_recv(cx) {
        Poll::Pending => terminate.poll_recv(cx),
        ready @ Poll::Ready(_) => ready,
    }))
}

#[cfg(windows)]
fn stop_signals() -> io::Result<impl Stream<Item = ()> + Unpin> {
    let mut ctrl_c = tokio::signal::windows::ctrl_c()?;
    Ok(stream::poll_fn(move |cx| ctrl_c.poll_recv(cx)))
}

// === The values of flags ===

fn upstream(url: &str) -> Result<Authority, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let parts = uri.into_parts();
    match (parts.scheme, parts.authority) {
        (Some(scheme), _) if scheme != Scheme::HTTP => {
            Err("the gateway speaks plain http to its upstream".to_owned())
        }
        (Some(_), Some(authority)) if is_plain(&authority, parts.path_and_query.as_ref()) => {
            Ok(authority)
        }
        (Some(_), Some(_)) => Err("must be http://host:port and no more".to_owned()),
        (None, _) | (_, None) => Err("must be written as http://host:port".to_owned()),
    }
}

/// Neither a user nor a path, and something that can be connected to.
fn is_plain(authority: &Authority, path: Option<&PathAndQuery>) -> bool {
    let user = authority.as_str().contains('@');
    let port = authority.as_str().len() == authority.host().len() || authority.port_u16().is_some();
    !user && port && !authority.host().is_empty() && path.is_none_or(|path| path == "/")
}

fn some_time(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    let some = !time.is_zero();
    some.then_some(time)
        .ok_or_else(|| "must be longer than 0s".to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let sane = time <= LONGEST;
    sane.then_some(time)
        .ok_or_else(|| "must be at most a year".to_owned())
}
