//! The server: hyper's connections, from the first byte to the exit.

use std::{convert::Infallible, io, net::SocketAddr, task::Poll, time::Duration};

use axum::serve::Listener;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{Request, Response};
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
use tower::{BoxError, Service};
use tower_http::add_extension::AddExtension;
use tower_sse::{Drain, Resume};
use tracing::{debug, info, warn};

use crate::{proxy::Peer, socket};

/// hyper's connections, HTTP/1 and HTTP/2, and the count of those that are open.
pub(crate) struct Server {
    http: auto::Builder<TokioExecutor>,
    connections: GracefulShutdown,
    /// Dropped when we leave.
    open: watch::Sender<()>,
    write_timeout: Duration,
}

/// What remains after the deadline of the drain for last bytes to leave.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// A client on HTTP/2 that is gone without a word is noticed after two of these.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// How long a new connection may say nothing at all.
const FIRST_BYTE: Duration = Duration::from_secs(30);

/// The longest head of a request, and how much waits in the program for a client that does not take
/// it. hyper's own 408 KiB would be the most that a stream needs.
const BUFFER: usize = 32 * 1024;

impl Server {
    pub(crate) fn new(write_timeout: Duration) -> Self {
        let mut http = auto::Builder::new(TokioExecutor::new());
        // with a timer, hyper closes a connection that takes 30 s over the head of a request; the
        // clock starts when the first bytes have told HTTP/1 from HTTP/2
        http.http1().timer(TokioTimer::new()).max_buf_size(BUFFER);
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
    pub(crate) async fn accept_until<S, B>(
        &self,
        stop: &mut (impl Stream<Item = ()> + Unpin),
        mut listener: TcpListener,
        service: S,
    ) where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        // axum's `accept` survives a process that has no more files to open
        loop {
            tokio::select! {
                (socket, peer) = Listener::accept(&mut listener) => {
                    self.serve(socket, peer, service.clone());
                }
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
            let socket = TokioIo::new(socket::prepared(socket, write_timeout));
            let connection = http.serve_connection_with_upgrades(socket, service);
            if let Err(error) = watcher.watch(connection.into_owned()).await {
                debug!(%peer, error, "connection broken");
            }
        });
    }

    /// Lets go of everything within the deadline, whatever the clients do. Tunnels are not waited
    /// for: a WebSocket has no end of its own, so it is cut when all the others are done.
    ///
    /// `producers`, if any, go on with answers whose readers went to other gateways.
    pub(crate) async fn leave(
        self,
        stop: &mut (impl Stream<Item = ()> + Unpin),
        drain: &Drain,
        producers: Option<Resume>,
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
        let finished = async {
            if let Some(producers) = &producers {
                producers.finish(deadline).await;
            }
        };
        let drained = async { tokio::join!(self.connections.shutdown(), finished) };
        tokio::select! {
            _ = drained => info!("drained"),
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
pub(crate) fn stop_signals() -> io::Result<impl Stream<Item = ()> + Unpin> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(stream::poll_fn(move |cx| match interrupt.poll_recv(cx) {
        Poll::Pending => terminate.poll_recv(cx),
        ready @ Poll::Ready(_) => ready,
    }))
}

#[cfg(windows)]
pub(crate) fn stop_signals() -> io::Result<impl Stream<Item = ()> + Unpin> {
    let mut ctrl_c = tokio::signal::windows::ctrl_c()?;
    Ok(stream::poll_fn(move |cx| ctrl_c.poll_recv(cx)))
}
