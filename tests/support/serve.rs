//! Real servers on a free port of 127.0.0.1, streams whose bytes a test sends one by one, and
//! clients that tell a clean end from a broken one.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, response::Response, serve::Listener};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, StatusCode, Version, header};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Body as _, Frame, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tonic::transport::server::Connected;
use tower::{Layer, Service};
use tower_sse::SseLayer;

/// How long anything may take on a slow, busy machine before it counts as never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What must happen.
pub(crate) async fn soon<T>(what: &str, happens: impl Future<Output = T>) -> T {
    let happened = timeout(PATIENCE, happens).await;
    happened.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain: {what}"))
}

// ---- servers ----

/// Who serves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stack {
    Axum,
    Tonic,
    Hyper,
}

pub(crate) const STACKS: [Stack; 3] = [Stack::Axum, Stack::Tonic, Stack::Hyper];

/// A running server with a graceful shutdown.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Dropped, it starts the shutdown.
    running: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
    heard: watch::Receiver<usize>,
}

/// When a server is told to stop.
pub(crate) type Stopped = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Server {
    pub(crate) async fn start(stack: Stack, app: Router, layer: Option<SseLayer>) -> Self {
        let (heard, hears) = watch::channel(0);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let ear = Ear { listener, heard };
        let (running, stopped) = oneshot::channel();
        let stopped = async move { stopped.await.unwrap_or_default() };
        let task = match (stack, layer) {
            (Stack::Axum, Some(layer)) => tokio::spawn(serve_axum(ear, app.layer(layer), stopped)),
            (Stack::Axum, None) => tokio::spawn(serve_axum(ear, app, stopped)),
            (Stack::Tonic, layer) => tokio::spawn(serve_tonic(ear, app, layer, stopped)),
            (Stack::Hyper, Some(layer)) => {
                tokio::spawn(serve_hyper(ear, layer.layer(app), stopped))
            }
            (Stack::Hyper, None) => tokio::spawn(serve_hyper(ear, app, stopped)),
        };
        Self {
            address,
            running: Some(running),
            task,
            heard: hears,
        }
    }

    /// Whatever serves on a listener until it is told to stop.
    pub(crate) async fn of<F>(serve: impl FnOnce(TcpListener, Stopped) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (running, stopped) = oneshot::channel();
        let stopped = Box::pin(async move { stopped.await.unwrap_or_default() });
        Self {
            address,
            running: Some(running),
            task: tokio::spawn(serve(listener, stopped)),
            heard: watch::channel(0).1,
        }
    }

    /// Waits until the server has read this many bytes from all its connections.
    pub(crate) async fn has_heard(&mut self, bytes: usize) {
        let heard = self.heard.wait_for(|heard| *heard >= bytes);
        soon("the server hears", heard).await.expect("a server");
    }

    /// Starts the graceful shutdown.
    pub(crate) fn stop(&mut self) {
        self.running = None;
    }

    /// Waits until every connection is closed.
    pub(crate) async fn ended(&mut self) {
        let ended = soon("the end of the server", &mut self.task).await;
        ended.expect("an end");
    }

    /// Whether the server is still there after `time`.
    pub(crate) async fn hangs_for(&mut self, time: Duration) -> bool {
        timeout(time, &mut self.task).await.is_err()
    }
}

async fn serve_axum(ear: Ear, app: Router, stopped: impl Future<Output = ()> + Send + 'static) {
    let server = axum::serve(ear, app).with_graceful_shutdown(stopped);
    server.await.expect("axum serves");
}

async fn serve_tonic(
    ear: Ear,
    app: Router,
    layer: Option<SseLayer>,
    stopped: impl Future<Output = ()> + Send,
) {
    let incoming = stream::unfold(ear, async |mut ear| {
        Some((Ok::<_, io::Error>(ear.accept().await.0), ear))
    });
    let server = tonic::transport::Server::builder().accept_http1(true);
    let served = match layer {
        Some(layer) => {
            let mut server = server.layer(layer);
            let router = server.add_routes(app.into());
            router.serve_with_incoming_shutdown(incoming, stopped).await
        }
        None => {
            let mut server = server;
            let router = server.add_routes(app.into());
            router.serve_with_incoming_shutdown(incoming, stopped).await
        }
    };
    served.expect("tonic serves");
}

async fn serve_hyper<S, B>(mut ear: Ear, service: S, stopped: impl Future<Output = ()>)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let builder = auto::Builder::new(TokioExecutor::new());
    let graceful = GracefulShutdown::new();
    let mut stopped = std::pin::pin!(stopped);
    loop {
        tokio::select! {
            (io, _) = ear.accept() => {
                let service = TowerToHyperService::new(service.clone());
                let connection = builder.serve_connection(TokioIo::new(io), service);
                tokio::spawn(graceful.watch(connection.into_owned()));
            }
            () = &mut stopped => break,
        }
    }
    drop(ear);
    graceful.shutdown().await;
}

/// A listener that counts what the server reads.
struct Ear {
    listener: TcpListener,
    heard: watch::Sender<usize>,
}

pub(crate) struct Heard {
    stream: TcpStream,
    heard: watch::Sender<usize>,
}

impl Listener for Ear {
    type Io = Heard;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Heard, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Without it, a small event behind a small head waits 40 ms for the client's ACK.
        stream.set_nodelay(true).expect("a socket");
        let heard = self.heard.clone();
        (Heard { stream, heard }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected for Heard {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Heard {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        this.heard.send_modify(|heard| *heard += read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

// ---- streams that the test drives ----

/// The far end of a response: what is sent here is what the service sends. Dropped, the response
/// ends.
#[derive(Debug)]
pub(crate) struct Upstream {
    frames: mpsc::UnboundedSender<Bytes>,
    taken: Arc<Mutex<Vec<u8>>>,
}

impl Upstream {
    /// Its body, and itself.
    pub(crate) fn pair() -> (Self, Body) {
        let (frames, mut sent) = mpsc::unbounded_channel::<Bytes>();
        let taken = Arc::<Mutex<Vec<u8>>>::default();
        let upstream = Self {
            frames,
            taken: taken.clone(),
        };
        let frames = stream::poll_fn(move |cx| {
            sent.poll_recv(cx).map(|frame| {
                let frame = frame?;
                taken.lock().unwrap().extend_from_slice(&frame);
                Some(Ok::<_, Infallible>(Frame::data(frame)))
            })
        });
        (upstream, Body::new(StreamBody::new(frames)))
    }

    /// Sends a frame, if anybody is still there.
    pub(crate) fn send(&self, frame: impl Into<Bytes>) {
        let _ = self.frames.send(frame.into());
    }

    /// What has been taken from the service's body so far.
    pub(crate) fn taken(&self) -> Vec<u8> {
        self.taken.lock().unwrap().clone()
    }

    /// Waits until the service's body has been dropped.
    pub(crate) async fn is_dropped(&self) {
        soon("the body is dropped", self.frames.closed()).await;
    }
}

/// An app that answers every request with these headers and a new stream, whose far end comes out
/// of the channel. Request bodies are read first.
pub(crate) fn upstreams(
    headers: &'static [(&'static str, &'static str)],
) -> (Router, mpsc::UnboundedReceiver<Upstream>) {
    let (opened, streams) = mpsc::unbounded_channel();
    let app = Router::new().fallback(async move |_: Bytes| {
        let (upstream, body) = Upstream::pair();
        let _ = opened.send(upstream);
        respond(headers, body)
    });
    (app, streams)
}

pub(crate) const EVENT_STREAM: &[(&str, &str)] = &[("content-type", "text/event-stream")];

pub(crate) fn respond(headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let builder = headers
        .iter()
        .fold(Response::builder(), |builder, (name, value)| {
            builder.header(*name, *value)
        });
    builder.body(body.into()).expect("a response")
}

// ---- clients ----

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// One connection.
pub(crate) struct Connection {
    address: SocketAddr,
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A response, and what has been read of it.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) version: Version,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    pub(crate) read: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As its protocol says: the last chunk on HTTP/1, `END_STREAM` on HTTP/2.
    Clean,
    Broken,
}

/// What an `EventSource` says of itself.
pub(crate) const EVENT_SOURCE: &[(&str, &str)] = &[("accept", "text/event-stream")];

impl Connection {
    pub(crate) async fn open(address: SocketAddr, protocol: Protocol) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        let io = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await.expect("HTTP/1");
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let handshake = http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = handshake.expect("HTTP/2");
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Self { address, sender }
    }

    /// Sends a request and waits for the head of its response.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<Reader> {
        let host = self.address.to_string();
        let request = Request::builder().method(method);
        let request = match self.sender {
            Sender::Http1(_) => request.uri(path).header(header::HOST, host),
            Sender::Http2(_) => {
                let request = request.uri(format!("http://{host}{path}"));
                request.version(Version::HTTP_2)
            }
        };
        let request = headers.iter().fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        let request = request.body(Full::new(body.into())).expect("a request");
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let (head, body) = response.into_parts();
        Ok(Reader {
            version: head.version,
            status: head.status,
            headers: head.headers,
            body,
            read: Vec::new(),
            trailers: None,
        })
    }

    pub(crate) async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Reader {
        let response = soon("a response", self.send("GET", path, headers, "")).await;
        response.expect("a response")
    }

    /// What an AI client sends.
    pub(crate) async fn post(&mut self, path: &str) -> Reader {
        let headers = [("accept", "*/*"), ("content-type", "application/json")];
        let response = soon("a response", self.send("POST", path, &headers, "{}")).await;
        response.expect("a response")
    }
}

impl Reader {
    /// Reads until all that was read ends with this.
    pub(crate) async fn until(&mut self, last: &str) {
        let is_there = |read: &[u8]| read.ends_with(last.as_bytes());
        self.until_it(&format!("{last:?}"), is_there).await;
    }

    /// Reads until all that was read is as wanted.
    pub(crate) async fn until_it(&mut self, what: &str, wanted: impl Fn(&[u8]) -> bool) {
        // One patience for all: heartbeats come for ever.
        soon(what, async {
            while !wanted(&self.read) {
                let frame = self.body.frame().await;
                let so_far = String::from_utf8_lossy(&self.read);
                let frame = frame.unwrap_or_else(|| panic!("an end instead of {what}: {so_far:?}"));
                self.take(frame.expect("bytes"));
            }
        })
        .await;
    }

    /// Reads what is left.
    pub(crate) async fn end(&mut self) -> End {
        soon("an end", async {
            while let Some(frame) = self.body.frame().await {
                match frame {
                    Ok(frame) => self.take(frame),
                    Err(_) => return End::Broken,
                }
            }
            // hyper takes a reset with NO_ERROR or CANCEL for an end.
            match self.version {
                Version::HTTP_2 if !self.body.is_end_stream() => End::Broken,
                _ => End::Clean,
            }
        })
        .await
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.read).into_owned()
    }

    fn take(&mut self, frame: Frame<Bytes>) {
        match frame.into_data() {
            Ok(data) => self.read.extend_from_slice(&data),
            Err(frame) => self.trailers = frame.into_trailers().ok(),
        }
    }
}
