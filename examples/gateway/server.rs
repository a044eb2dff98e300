//! The server: hyper's connections, from the first byte to the exit.

use std::{convert::Infallible, io, net::SocketAddr, pin::Pin, task::Poll, time::Duration};

use axum::serve::Listener;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tower::{BoxError, Service};
use tower_http::add_extension::AddExtension;
use tower_sse::{Drain, Resume};
use tracing::{debug, info, warn};

use crate::{proxy::Peer, socket};

/// hyper's connections and the count of those that are open.
pub(crate) struct Server {
    http1: http1::Builder,
    http2: http2::Builder<TokioExecutor>,
    /// Says when we leave. Each connection holds a receiver as long as it is open.
    open: watch::Sender<()>,
    write_timeout: Duration,
}

/// The protocol that a connection's first words tell.
enum First {
    Http1,
    Http2,
}

/// What remains after the deadline of the drain for last bytes to leave.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// A client on HTTP/2 that is gone without a word is noticed after two of these.
const HTTP2_PING: Duration = Duration::from_secs(20);

/// How long a new connection may take to say which protocol it speaks.
const FIRST_WORDS: Duration = Duration::from_secs(30);

const NEXT_PIECE: Duration = Duration::from_millis(10);

/// The longest head of a request, and how much waits in the program for a client that does not take
/// it. hyper's own 408 KiB would be the most that a stream needs.
const BUFFER: usize = 24 * 1024;

/// How HTTP/2 begins (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Server {
    pub(crate) fn new(write_timeout: Duration) -> Self {
        // with a timer, hyper closes a connection that takes 30 s over the head of a request
        let mut http1 = http1::Builder::new();
        http1.timer(TokioTimer::new()).max_buf_size(BUFFER);
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .keep_alive_interval(HTTP2_PING);
        Self {
            http1,
            http2,
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
        let (http1, http2) = (self.http1.clone(), self.http2.clone());
        let (mut open, write_timeout) = (self.open.subscribe(), self.write_timeout);
        let service = TowerToHyperService::new(AddExtension::new(service, Peer(peer)));
        tokio::spawn(async move {
            let Some(first) = first_words(&socket, &mut open).await else {
                debug!(%peer, "connection without a word");
                return;
            };
            let socket = TokioIo::new(socket::prepared(socket, write_timeout));
            let closed = match first {
                First::Http1 => {
                    let connection = http1.serve_connection(socket, service).with_upgrades();
                    let leave = http1::UpgradeableConnection::graceful_shutdown;
                    drive(Box::pin(connection), leave, open).await
                }
                First::Http2 => {
                    let connection = http2.serve_connection(socket, service);
                    let leave = http2::Connection::graceful_shutdown;
                    drive(Box::pin(connection), leave, open).await
                }
            };
            if let Err(error) = closed {
                debug!(%peer, %error, "connection broken");
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
        let open = self.open.receiver_count();
        info!(
            open,
            streams = drain.left(),
            "draining for {deadline:?} at most"
        );
        drain.start();
        self.open.send_replace(());
        let finished = async {
            if let Some(producers) = &producers {
                producers.finish(deadline).await;
            }
        };
        let drained = async { tokio::join!(self.open.closed(), finished) };
        tokio::select! {
            _ = drained => info!("drained"),
            () = tokio::time::sleep(deadline + LAST_BYTES) => {
                warn!(streams = drain.left(), "deadline: connections are cut");
            }
            _ = stop.next() => warn!("second signal: leaving at once"),
        }
    }
}

/// What a client says first; none if it says too little in time, or before we leave. It is only looked
/// at: what was read by itself would make hyper's buffer twice as large, and no timer runs that early.
async fn first_words(socket: &TcpStream, open: &mut watch::Receiver<()>) -> Option<First> {
    tokio::select! {
        biased;
        first = timeout(FIRST_WORDS, protocol(socket)) => first.ok()?,
        _ = open.changed() => None,
    }
}

async fn protocol(socket: &TcpStream) -> Option<First> {
    let mut words = [0; PREFACE.len()];
    loop {
        let length = socket.peek(&mut words).await.ok()?;
        match &words[..length] {
            [] => return None,
            PREFACE => return Some(First::Http2),
            // which comes in pieces from hardly anybody, and nobody wakes us for the next one
            words if PREFACE.starts_with(words) => sleep(NEXT_PIECE).await,
            _ => return Some(First::Http1),
        }
    }
}

/// To the end, which comes soon once we leave.
async fn drive<C: Future>(
    // boxed, or a task would have room for two of them
    mut connection: Pin<Box<C>>,
    leave: impl FnOnce(Pin<&mut C>),
    mut open: watch::Receiver<()>,
) -> C::Output {
    tokio::select! {
        biased;
        closed = &mut connection => return closed,
        _ = open.changed() => leave(connection.as_mut()),
    }
    connection.await
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
