//! Requests to the upstream, and the heads of its answers.
//!
//! hyper's client sends a request and reads the head, driven by whoever waits for it. What becomes of
//! the body is the matter of [`crate::answer`].

use std::{
    error::Error as StdError,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response, StatusCode, Uri};
use http_body::Body;
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    ext::on_informational,
};
use hyper_util::client::legacy::connect::HttpConnector;
use tower::{BoxError, Service};

use crate::{
    answer::{Answer, Driven, Open},
    idle::{Idle, Socket},
    sending::Sending,
    wire::{Tap, Wire},
};

/// Sends requests to one server.
#[derive(Clone)]
pub(crate) struct Upstream {
    connector: HttpConnector,
    server: Uri,
    idle: Arc<Idle>,
}

/// A connection in hyper's hands: for one exchange.
pub(crate) struct Connection {
    requests: SendRequest<Sending>,
    driver: http1::Connection<Wire, Sending>,
    /// Whether the driver has ended, and must not be polled.
    ended: bool,
    tap: Tap,
}

#[derive(Debug)]
pub(crate) enum Error {
    /// There is no connection.
    Connect(BoxError),
    /// There was one.
    Broken(hyper::Error),
}

/// The longest head of an answer, which hyper must hold in one piece.
const LONGEST_HEAD: usize = 64 * 1024;

/// An upstream that is gone without a word is noticed after this silence and three probes; nothing
/// else would end a stream that waits for it.
const KEEPALIVE: Duration = Duration::from_secs(30);
const PROBE: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

impl Upstream {
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

    async fn send(mut self, request: Request<Sending>) -> Result<Response<Answer>, Error> {
        let socket = match self.idle.take() {
            Some(socket) => socket,
            None => self.connect().await?,
        };
        let connection = Connection::new(socket).await.map_err(Error::Broken)?;
        let exchange = connection.exchange(request, &self.idle).await;
        exchange.map_err(Error::Broken)
    }

    async fn connect(&mut self) -> Result<Socket, Error> {
        let connecting = self.connector.call(self.server.clone()).await;
        connecting.map_err(|error| Error::Connect(error.into()))
    }
}

impl Service<Request<Sending>> for Upstream {
    type Response = Response<Answer>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let ready = self.connector.poll_ready(cx);
        ready.map_err(|error| Error::Connect(error.into()))
    }

    fn call(&mut self, request: Request<Sending>) -> Self::Future {
        Box::pin(self.clone().send(request))
    }
}

// === One exchange ===

impl Connection {
    async fn new(socket: Socket) -> hyper::Result<Self> {
        let tap = Tap::default();
        let mut http = http1::Builder::new();
        let handshake = http
            .max_buf_size(LONGEST_HEAD)
            .handshake(Wire::new(socket, tap.clone()));
        let (requests, driver) = handshake.await?;
        Ok(Self {
            requests,
            driver,
            ended: false,
            tap,
        })
    }

    async fn exchange(
        mut self,
        mut request: Request<Sending>,
        idle: &Arc<Idle>,
    ) -> hyper::Result<Response<Answer>> {
        let sender = request.body().sender();
        let tap = self.tap.clone();
        // "103 Early Hints", say, is not the answer. That nobody has one yet does not tell: tokio
        // keeps back what is there from a task that has done much in one poll.
        on_informational(&mut request, move |_| tap.expect_head());
        let mut head = pin!(self.requests.send_request(request));
        let answer = poll_fn(|cx| {
            self.drive(cx);
            head.as_mut().poll(cx)
        });
        let answer = answer.await?;
        let sent = !sender.has_more() && !self.tap.is_backed_up();
        Ok(self.hand_over(answer, sent, idle))
    }

    fn hand_over(
        self,
        answer: Response<Incoming>,
        sent: bool,
        idle: &Arc<Idle>,
    ) -> Response<Answer> {
        self.tap.open();
        if sent && answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            return answer.map(|_| Answer::Switched(self.into_wire()));
        }
        // Where it has ended with a body to come, the request broke off. Then hyper knows, and the
        // upstream would take another request for the rest of this one.
        let whole = sent && !self.ended;
        if whole && answer.body().size_hint().exact().is_none() {
            let open = Open::new(self.into_wire(), &answer, idle);
            return answer.map(|_| Answer::Open(open));
        }
        answer.map(|body| {
            let connection = if sent { Some(self) } else { self.leave() };
            Answer::Driven(Driven::new(body, connection, idle))
        })
    }

    /// To a task: the rest of a request must not wait for who reads the answer. A client may send
    /// all before it reads, and an upstream may answer before it has read. Then it is closed.
    fn leave(self) -> Option<Self> {
        if !self.ended {
            tokio::spawn(self.driver);
        }
        None
    }

    /// Reads and writes what can be read and written now.
    pub(crate) fn drive(&mut self, cx: &mut Context<'_>) {
        // An error, if any, is the one of the head or of the body, too.
        self.ended = self.ended || self.driver.poll_without_shutdown(cx).is_ready();
    }

    /// The connection without hyper.
    fn into_wire(self) -> Wire {
        let parts = self.driver.into_parts();
        parts.io.unread(parts.read_buf)
    }

    /// The connection for another request, if the upstream will have one.
    pub(crate) fn into_socket(mut self) -> Option<Socket> {
        self.drive(&mut Context::from_waker(Waker::noop()));
        let ready = self.requests.is_ready();
        ready.then(|| self.into_wire().into_socket())?
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

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Empty};
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        task::coop::consume_budget,
    };

    use super::*;

    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\r\n\r\nx\r\n0\r\n\r\n";

    /// How much a task may do in one poll, as tokio has it.
    const BUDGET: usize = 128;

    #[tokio::test]
    async fn a_head_is_the_answer_however_late_in_a_poll_it_comes() {
        for used in 0..BUDGET {
            let (mut upstream, server) = upstream().await;
            let mut exchange = upstream.call(Request::new(Sending::new(Empty::new())));
            let answer = poll_fn(|cx| {
                for _ in 0..used {
                    let _ = pin!(consume_budget()).poll(cx);
                }
                exchange.as_mut().poll(cx)
            });
            let body = answer.await.unwrap().into_body().collect().await;
            let body = body.unwrap_or_else(|error| panic!("with {used} used: {error}"));
            assert_eq!(body.to_bytes(), "\r\n\r\nx", "with {used} used");
            server.abort();
        }
    }

    async fn upstream() -> (Upstream, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            socket.read(&mut head).await.unwrap();
            socket.write_all(ANSWER).await.unwrap();
            std::future::pending().await
        });
        let server_uri = format!("http://{address}/").parse().unwrap();
        (Upstream::new(server_uri, Duration::from_secs(10)), server)
    }
}
