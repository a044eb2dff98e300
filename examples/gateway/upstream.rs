//! Connections to the upstream.
//!
//! Usually a task of its own drives a connection and hands the body of an answer over to its reader,
//! frame by frame. An answer has its connection to itself, so here its reader drives it: first the
//! one who waits for the head, then the body, in its own poll. No task is woken to wake another, and
//! all that has come is there at once. A body that is dropped takes the connection with it, which is
//! how the upstream learns that its client has gone.

use std::{
    error::Error as StdError,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::time::{Instant, sleep_until};
use tower::{BoxError, Service};

use crate::{
    sending::Sending,
    wire::{Tap, Wire},
};

/// Sends requests with bodies `B` to one server.
pub(crate) struct Upstream<B> {
    connector: HttpConnector,
    server: Uri,
    idle: Arc<Idle<B>>,
}

/// The body of an answer, and its connection as long as there is more to come and nobody else
/// drives it.
pub(crate) struct Answer<B> {
    body: Incoming,
    connection: Option<Connection<B>>,
    idle: Arc<Idle<B>>,
}

#[derive(Debug)]
pub(crate) enum Error {
    /// There is no connection.
    Connect(BoxError),
    /// There was one.
    Broken(hyper::Error),
}

/// hyper's connection, whose type has no name.
type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

struct Connection<B> {
    requests: SendRequest<Sending<B>>,
    /// None when it has ended, or become a tunnel.
    driver: Option<Driver>,
    tap: Tap,
    bell: Arc<Bell>,
    /// The bell as a waker, made once.
    ring: Waker,
}

/// Wakes who reads an answer when its connection has something to do.
///
/// A server polls a body again and again until it has nothing, and hyper wakes whoever takes a frame
/// for the next one, which is asked for anyway. Both would cost as much as the event itself.
struct Bell {
    state: AtomicU8,
    reader: AtomicWaker,
}

/// Connections without a request, the one that waits longest in front.
struct Idle<B>(Mutex<Waiting<B>>);

struct Waiting<B> {
    connections: Vec<(Instant, Connection<B>)>,
    /// Whether somebody will close those that nobody takes.
    reaped: bool,
}

/// Nothing to do for the connection since it was driven last.
const QUIET: u8 = 0;
/// It is driven just now.
const DRIVEN: u8 = 1;
/// It must be driven.
const RUNG: u8 = 2;

/// Shorter than the 5 s after which uvicorn and Node close an idle connection: not to be the one
/// who writes to it at that moment matters more than a saved handshake.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// How many connections may wait.
const MOST_IDLE: usize = 256;

/// The longest head of an answer, which hyper must hold in one piece.
const LONGEST_HEAD: usize = 64 * 1024;

/// An upstream that is gone without a word is noticed after this silence and three probes; nothing
/// else would end a stream that waits for it.
const KEEPALIVE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

impl<B> Upstream<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    pub(crate) fn new(server: Uri, connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        connector.set_keepalive(Some(KEEPALIVE));
        connector.set_keepalive_interval(Some(PROBE));
        connector.set_keepalive_retries(Some(PROBES));
        Self {
            connector,
            server,
            idle: Arc::default(),
        }
    }

    async fn send(mut self, mut request: Request<B>) -> Result<Response<Answer<B>>, Error> {
        while let Some(connection) = self.idle.take() {
            match connection.exchange(request).await {
                Ok(exchange) => return Ok(self.answer(exchange)),
                // It was closed while it waited.
                Err((_, Some(unsent))) => request = unsent,
                Err((error, None)) => return Err(Error::Broken(error)),
            }
        }
        let connection = self.connect().await?;
        match connection.exchange(request).await {
            Ok(exchange) => Ok(self.answer(exchange)),
            Err((error, _)) => Err(Error::Broken(error)),
        }
    }

    async fn connect(&mut self) -> Result<Connection<B>, Error> {
        let connecting = self.connector.call(self.server.clone()).await;
        let socket = connecting.map_err(|error| Error::Connect(error.into()))?;
        let (tap, bell) = (Tap::default(), Arc::new(Bell::new()));
        let mut http = http1::Builder::new();
        let handshake = http
            .max_buf_size(LONGEST_HEAD)
            .handshake(Wire::new(socket, tap.clone()));
        let (requests, driver) = handshake.await.map_err(Error::Broken)?;
        Ok(Connection {
            requests,
            driver: Some(Box::pin(driver.with_upgrades())),
            tap,
            ring: Waker::from(bell.clone()),
            bell,
        })
    }

    fn answer(
        self,
        (response, connection): (Response<Incoming>, Option<Connection<B>>),
    ) -> Response<Answer<B>> {
        response.map(|body| {
            let mut answer = Answer {
                body,
                connection,
                idle: self.idle,
            };
            if answer.body.is_end_stream() {
                answer.release();
            }
            answer
        })
    }
}

impl<B> Clone for Upstream<B> {
    fn clone(&self) -> Self {
        Self {
            connector: self.connector.clone(),
            server: self.server.clone(),
            idle: self.idle.clone(),
        }
    }
}

impl<B> Service<Request<B>> for Upstream<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    type Response = Response<Answer<B>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let ready = self.connector.poll_ready(cx);
        ready.map_err(|error| Error::Connect(error.into()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

// === One exchange ===

impl<B> Connection<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    /// The head of the answer, and the connection if who reads the body is to drive it; or an error,
    /// with the request if nothing of it was sent.
    async fn exchange(
        mut self,
        request: Request<B>,
    ) -> Result<(Response<Incoming>, Option<Self>), (hyper::Error, Option<Request<B>>)> {
        let (head, body) = request.into_parts();
        let (body, sender) = Sending::new(body);
        let request = Request::from_parts(head, body);
        self.tap.expect_head();
        let mut head = pin!(self.requests.try_send_request(request));
        let response = poll_fn(|cx| {
            loop {
                self.drive(cx);
                match head.as_mut().poll(cx) {
                    // One that is not the answer, as in "103 Early Hints".
                    Poll::Pending if self.tap.is_closed() => self.tap.expect_head(),
                    polled => return polled,
                }
            }
        });
        let response = response.await.map_err(|mut error| {
            let unsent = error.take_message();
            let unsent = unsent.map(|request| request.map(|sending| sending.body));
            (error.into_error(), unsent)
        })?;
        self.tap.open(&response);
        self.bell.state.store(RUNG, Ordering::Relaxed);
        let sent = !sender.has_more() && !self.tap.is_backed_up();
        Ok((response, if sent { Some(self) } else { self.leave() }))
    }

    /// To a task: the rest of a request must not wait for who reads the answer. A client may send
    /// all before it reads, and an upstream may answer before it has read. Then it is closed.
    fn leave(self) -> Option<Self> {
        tokio::spawn(self.driver?);
        None
    }

    /// Reads and writes what can be read and written now.
    fn drive(&mut self, cx: &mut Context<'_>) {
        let driver = self.driver.as_mut().map(|driver| driver.as_mut().poll(cx));
        // Its error, if any, is the one of the head or of the body, too.
        if let Some(Poll::Ready(_)) = driver {
            self.driver = None;
        }
    }
}

impl Bell {
    fn new() -> Self {
        Self {
            state: AtomicU8::new(RUNG),
            reader: AtomicWaker::new(),
        }
    }

    /// Whether the connection must be driven; if not, `cx` is woken when it must.
    fn has_rung(&self, cx: &Context<'_>) -> bool {
        // First: who rings after the question finds the waker.
        self.reader.register(cx.waker());
        let quiet = self.state.load(Ordering::Acquire) == QUIET;
        if !quiet {
            self.state.swap(DRIVEN, Ordering::AcqRel);
        }
        !quiet
    }

    /// The connection has been driven, and gave a frame or has none now.
    fn rest(&self, frame: bool) {
        if frame {
            self.state.store(RUNG, Ordering::Release);
        } else if let Err(RUNG) = self.exchange(DRIVEN, QUIET) {
            // While it was driven, which may have come too late for it.
            self.reader.wake();
        }
    }

    fn exchange(&self, from: u8, to: u8) -> Result<u8, u8> {
        let state = &self.state;
        state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.swap(RUNG, Ordering::AcqRel) == QUIET {
            self.reader.wake();
        }
    }
}

impl<B> Answer<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    /// The connection is for others now, if it can be: the server may close it.
    fn release(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            connection.drive(&mut Context::from_waker(Waker::noop()));
            connection.bell.reader.take();
            if connection.requests.is_ready() {
                self.idle.put(connection);
            }
        }
    }
}

impl<B> Body for Answer<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let Some(connection) = &mut this.connection else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        // Nobody but us puts anything there, so nobody has to be woken for it.
        let unwoken = &mut Context::from_waker(Waker::noop());
        let mut frame = Pin::new(&mut this.body).poll_frame(unwoken);
        if frame.is_pending() {
            if !connection.bell.has_rung(cx) {
                return Poll::Pending;
            }
            let ring = connection.ring.clone();
            connection.drive(&mut Context::from_waker(&ring));
            frame = Pin::new(&mut this.body).poll_frame(unwoken);
            connection.bell.rest(frame.is_ready());
        }
        let frame = ready!(frame);
        let data = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        if !data || this.body.is_end_stream() {
            this.release();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === Between two exchanges ===

impl<B> Idle<B> {
    fn take(&self) -> Option<Connection<B>> {
        let (since, connection) = self.lock().connections.pop()?;
        // With the youngest all are too old; they go when they are reaped.
        (since.elapsed() < POOL_IDLE).then_some(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Send + 'static> Idle<B> {
    fn put(self: &Arc<Self>, connection: Connection<B>) {
        let mut waiting = self.lock();
        if waiting.connections.len() < MOST_IDLE {
            waiting.connections.push((Instant::now(), connection));
        }
        if !std::mem::replace(&mut waiting.reaped, true) {
            tokio::spawn(self.clone().reap());
        }
    }

    /// Closes what nobody has taken, until there is nothing.
    async fn reap(self: Arc<Self>) {
        while let Some(next) = self.close_old() {
            sleep_until(next).await;
        }
    }

    /// When it is time to do it again.
    fn close_old(&self) -> Option<Instant> {
        let mut waiting = self.lock();
        let connections = &mut waiting.connections;
        connections.retain(|(since, _)| since.elapsed() < POOL_IDLE);
        let next = connections.first().map(|(since, _)| *since + POOL_IDLE);
        waiting.reaped = next.is_some();
        next
    }
}

impl<B> Default for Idle<B> {
    fn default() -> Self {
        Self(Mutex::new(Waiting {
            connections: Vec::new(),
            reaped: false,
        }))
    }
}

// === Errors ===

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect(_) => "no connection",
            Self::Broken(_) => "a broken connection",
        })
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(match self {
            Self::Connect(error) => &**error,
            Self::Broken(error) => error,
        })
    }
}
