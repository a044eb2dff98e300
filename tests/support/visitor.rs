//! A client that loses its connection after so many bytes, wherever that is, and comes back with
//! what it has.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, StatusCode, header, request};
use http_body_util::{BodyExt, Full};
use hyper::{Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::{
    paced::Paced,
    reference::{self, Event},
    serve::soon,
};

pub(crate) struct Visitor<'a> {
    kind: Kind,
    path: String,
    stream: &'a Paced,
    /// Its name, once a response has said it.
    id: Option<String>,
    pub(crate) events: Vec<Event>,
}

/// How a client says what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By the last id: a `GET` as of an `EventSource`.
    EventSource,
    /// By the name of the stream and the number of events that it has dispatched: a `POST`.
    Counter,
    /// By the name of the stream and the last id that the service gave.
    OwnIds,
}

/// How a visit went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visit {
    /// The client was cut off.
    Cut,
    /// Nobody listens there.
    Refused,
    /// The server is about to leave.
    Turned,
    /// The response ended as HTTP/1 says.
    Ended,
    /// It broke off.
    Broken,
    /// There is nothing any more.
    Complete,
    /// Something is missing.
    Lost,
}

/// A connection of which only so many bytes arrive.
struct Cut {
    socket: TcpStream,
    left: Arc<AtomicUsize>,
}

/// What came on one connection; events count from their blank line on.
#[derive(Default)]
struct Connection {
    /// What has come behind the last blank line.
    open: Vec<u8>,
    last_id: String,
}

const UNCUT: usize = usize::MAX;

impl<'a> Visitor<'a> {
    pub(crate) fn new(kind: Kind, path: String, stream: &'a Paced) -> Self {
        Self {
            kind,
            path,
            stream,
            id: None,
            events: Vec::new(),
        }
    }

    /// Reads until the response ends, or until so many bytes have come, the head among them. A
    /// client that has nothing yet to come back with is spared until it has.
    pub(crate) async fn visit(&mut self, server: SocketAddr, cut_after: Option<usize>) -> Visit {
        let visit = self.try_visit(server, cut_after.unwrap_or(UNCUT));
        soon("an end of the visit", visit).await
    }

    async fn try_visit(&mut self, server: SocketAddr, cut_after: usize) -> Visit {
        let Ok(socket) = TcpStream::connect(server).await else {
            return Visit::Refused;
        };
        let first = if self.can_come_back() {
            cut_after
        } else {
            UNCUT
        };
        let left = Arc::new(AtomicUsize::new(first));
        let socket = Cut {
            socket,
            left: left.clone(),
        };
        let visit = self.read(socket, &left, cut_after).await;
        if left.load(Relaxed) == 0 {
            return Visit::Cut;
        }
        visit.unwrap_or(Visit::Broken)
    }

    async fn read(
        &mut self,
        socket: Cut,
        left: &AtomicUsize,
        cut_after: usize,
    ) -> hyper::Result<Visit> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await?;
        tokio::spawn(connection);
        let response = sender.send_request(self.request()).await?;
        if let Some(visit) = self.on_head(&response) {
            return Ok(visit);
        }
        let mut body = response.into_body();
        let mut connection = Connection::default();
        loop {
            if self.can_come_back() && left.load(Relaxed) == UNCUT {
                left.store(cut_after, Relaxed);
            }
            let Some(frame) = body.frame().await else {
                return Ok(Visit::Ended);
            };
            if let Ok(bytes) = frame?.into_data() {
                self.events.extend(connection.feed(&bytes));
                self.stream.on_seen(self.events.len());
            }
        }
    }

    fn can_come_back(&self) -> bool {
        match self.kind {
            Kind::EventSource => !self.events.is_empty(),
            Kind::Counter | Kind::OwnIds => self.id.is_some(),
        }
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let request = Request::builder().uri(&self.path);
        let request = request.header(header::HOST, "localhost");
        let request = match self.kind {
            Kind::EventSource => self.as_event_source(request),
            Kind::Counter => self.as_counter(request),
            Kind::OwnIds => self.with_own_ids(request),
        };
        request.body(Full::from("{}")).expect("a request")
    }

    fn as_event_source(&self, request: request::Builder) -> request::Builder {
        let request = request.header(header::ACCEPT, "text/event-stream");
        match self.events.last() {
            Some(event) => request.header("last-event-id", &event.id),
            None => request,
        }
    }

    fn as_counter(&self, request: request::Builder) -> request::Builder {
        let request = request.method("POST").header(header::ACCEPT, "*/*");
        match &self.id {
            Some(id) => request.header("last-event-id", format!("{id}.{}", self.events.len())),
            None => request,
        }
    }

    fn with_own_ids(&self, request: request::Builder) -> request::Builder {
        let request = self.as_event_source(request);
        match &self.id {
            Some(id) => request.header("sse-stream", id),
            None => request,
        }
    }

    /// How the visit ends with the head, if it does.
    fn on_head(&mut self, response: &Response<Incoming>) -> Option<Visit> {
        let said = |name| {
            let value = response.headers().get(name);
            value.map(|value| value.to_str().expect("text").to_owned())
        };
        let (stream, resumed) = (said("sse-stream"), said("sse-resume"));
        match (response.status(), resumed.as_deref(), stream) {
            (StatusCode::NO_CONTENT, Some("complete"), _) => Some(Visit::Complete),
            (_, Some("lost"), _) => Some(Visit::Lost),
            (StatusCode::OK, resumed, Some(stream)) => {
                let known = self.id.get_or_insert_with(|| stream.clone());
                assert_eq!(*known, stream, "another stream");
                let first = resumed.is_none() && self.events.is_empty();
                assert!(first || resumed == Some("resumed"), "{response:?}");
                None
            }
            (StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE, None, None) => Some(Visit::Turned),
            _ => panic!("{response:?}"),
        }
    }

    /// It has these events of its stream, each once and in order, with the ids that they must have.
    pub(crate) fn check(&self) {
        for (n, event) in self.events.iter().enumerate() {
            let number = n + 1;
            let id = match self.kind {
                Kind::EventSource => format!("{}.{number}", self.id.as_deref().unwrap_or_default()),
                Kind::Counter => String::new(),
                Kind::OwnIds => format!("own-{number}"),
            };
            assert_eq!(event.id, id);
            let seen = (&event.kind, &event.data);
            let sent = self.stream.events.get(n).map(|(kind, data)| (kind, data));
            assert_eq!(Some(seen), sent, "event {number} of {}", self.path);
        }
    }

    pub(crate) fn has_all(&self) -> bool {
        self.events.len() == self.stream.events.len()
    }
}

impl Connection {
    /// The events that these bytes end.
    fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.open.extend_from_slice(bytes);
        let rest = self.open.split_off(whole_blocks(&self.open));
        let parsed = reference::parse(&self.open);
        self.open = rest;
        let events = parsed.events.into_iter();
        events.map(|event| self.with_last_id(event)).collect()
    }

    /// An id lasts from event to event.
    fn with_last_id(&mut self, mut event: Event) -> Event {
        if event.id.is_empty() {
            event.id.clone_from(&self.last_id);
        }
        self.last_id.clone_from(&event.id);
        event
    }
}

/// How many of the bytes are blocks with their blank line.
fn whole_blocks(bytes: &[u8]) -> usize {
    let (mut end, mut blank) = (0, true);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if at > 0 && bytes[at - 1] == b'\r' => end += usize::from(end == at),
            b'\r' | b'\n' => {
                if blank {
                    end = at + 1;
                }
                blank = true;
            }
            _ => blank = false,
        }
    }
    end
}

impl AsyncRead for Cut {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let left = this.left.load(Relaxed);
        if left == 0 {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let mut bytes = [0; 1024];
        let room = left.min(bytes.len()).min(buffer.remaining());
        let mut part = ReadBuf::new(&mut bytes[..room]);
        ready!(Pin::new(&mut this.socket).poll_read(cx, &mut part))?;
        buffer.put_slice(part.filled());
        if left != UNCUT {
            this.left.fetch_sub(part.filled().len(), Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Cut {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
