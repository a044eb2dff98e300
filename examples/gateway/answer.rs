//! The body of an answer.
//!
//! Usually a task of its own drives a connection and hands a body over to its reader, frame by frame:
//! some 5,000 instructions for each event, and 25 KiB for each stream that waits. But an answer has
//! its connection to itself, and once its head was read, no more than the chunked coding is left. So
//! a body of unknown length, as streams are, leaves hyper behind and reads from the socket. One
//! whose length is known stays with hyper, driven from the body's own poll; so does one whose request
//! is still being sent, driven by a task.
//!
//! A body that is dropped takes the connection with it, which is how the upstream learns that its
//! client has gone.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tower::BoxError;

use crate::{chunks::Chunks, fields::names, idle::Idle, upstream::Connection, wire::Wire};

/// The body of an answer, and its connection as long as there is more to come.
pub(crate) enum Answer {
    /// Its length is not known, and we read it.
    Open(Open),
    /// hyper reads it.
    Driven(Driven),
    /// There is none, but another protocol behind the head.
    Switched(Wire),
}

pub(crate) struct Open {
    /// None when nothing comes any more.
    wire: Option<Wire>,
    /// None for a body that goes on until the connection is closed.
    chunks: Option<Chunks>,
    trailers: Option<HeaderMap>,
    /// Where the connection may wait for the next request, if it may.
    idle: Option<Arc<Idle>>,
}

pub(crate) struct Driven {
    body: Incoming,
    /// None when a task of its own drives it, or nothing comes any more.
    connection: Option<Box<Connection>>,
    idle: Arc<Idle>,
}

impl Open {
    pub(crate) fn new(wire: Wire, answer: &Response<Incoming>, idle: &Arc<Idle>) -> Self {
        Self {
            wire: Some(wire),
            chunks: is_chunked(answer.headers()).then(Chunks::new),
            trailers: None,
            idle: may_stay_open(answer).then(|| idle.clone()),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        while let Some(wire) = &mut self.wire {
            let chunks = self.chunks.as_mut();
            let data = ready!(wire.poll_with(cx, |input| data_of(input, chunks)));
            match data.and_then(|data| self.on_data(data)) {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(error) => {
                    self.wire = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
        let trailers = self.trailers.take();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    /// There are none where only the coding came, or the end of a connection.
    fn on_data(&mut self, data: Bytes) -> io::Result<Bytes> {
        match &self.chunks {
            Some(chunks) if chunks.have_ended() => {
                self.trailers = chunks.trailers()?;
                let clean = !chunks.were_exceeded();
                self.release(clean);
            }
            None if data.is_empty() => self.wire = None,
            _ => {}
        }
        Ok(data)
    }

    fn release(&mut self, clean: bool) {
        let socket = self.wire.take().and_then(Wire::into_socket);
        if let (Some(socket), Some(idle), true) = (socket, &self.idle, clean) {
            idle.put(socket);
        }
    }
}

fn data_of(input: &mut [u8], chunks: Option<&mut Chunks>) -> io::Result<Bytes> {
    let length = chunks.map_or(Ok(input.len()), |chunks| chunks.join(input))?;
    Ok(Bytes::copy_from_slice(&input[..length]))
}

/// As hyper finds it out (RFC 9112, 6.3).
fn is_chunked(headers: &HeaderMap) -> bool {
    let line = headers
        .get_all(header::TRANSFER_ENCODING)
        .iter()
        .next_back();
    let last = line.and_then(|line| line.to_str().ok()?.rsplit(',').next());
    last.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case("chunked"))
}

fn may_stay_open(answer: &Response<Incoming>) -> bool {
    let close = names(answer.headers(), header::CONNECTION, "close");
    answer.version() == Version::HTTP_11 && !close
}

impl Driven {
    pub(crate) fn new(body: Incoming, connection: Option<Connection>, idle: &Arc<Idle>) -> Self {
        let mut answer = Self {
            body,
            connection: connection.map(Box::new),
            idle: idle.clone(),
        };
        if answer.body.is_end_stream() {
            answer.release();
        }
        answer
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        if let Some(connection) = &mut self.connection {
            connection.drive(cx);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) || self.body.is_end_stream() {
            self.release();
        }
        Poll::Ready(frame)
    }

    fn release(&mut self) {
        let connection = self.connection.take();
        if let Some(socket) = connection.and_then(|connection| connection.into_socket()) {
            self.idle.put(socket);
        }
    }
}

impl Answer {
    /// What comes behind the head of a new protocol.
    pub(crate) fn into_wire(self) -> Option<Wire> {
        match self {
            Self::Switched(wire) => Some(wire),
            Self::Open(_) | Self::Driven(_) => None,
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Open(open) => open.poll_frame(cx).map_err(Into::into),
            Self::Driven(driven) => driven.poll_frame(cx).map_err(Into::into),
            Self::Switched(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Open(open) => open.wire.is_none() && open.trailers.is_none(),
            Self::Driven(driven) => driven.body.is_end_stream(),
            Self::Switched(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Open(_) => SizeHint::new(),
            Self::Driven(driven) => driven.body.size_hint(),
            Self::Switched(_) => SizeHint::with_exact(0),
        }
    }
}
