//! Who listens, over either.

use std::{io, net::SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{io::AsyncWriteExt as _, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use crate::wire::{PATIENCE, Wire};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Sse,
    WebSocket,
}

/// A client that has asked, and got the head of its answer.
pub(crate) enum Reader {
    Sse(Events),
    WebSocket(Box<Messages>),
}

/// It looks for lines, and takes those of the chunks for what they are: no field.
pub(crate) struct Events {
    wire: Wire,
    buffer: Vec<u8>,
    /// How much of it was read.
    done: usize,
    pub(crate) last_id: String,
    opening: [u64; 2],
}

pub(crate) struct Messages {
    socket: WebSocketStream<Wire>,
    opening: [u64; 2],
}

/// Of what a client reads at once. tungstenite clears that much before each read, which with its own
/// 128 KiB would be much of a latency.
const READ: usize = 4 * 1024;

pub(crate) const BOTH: [Kind; 2] = [Kind::Sse, Kind::WebSocket];

impl Reader {
    /// Listens to the topic: behind the message with this id, which only one of them can say; the other
    /// hears what comes from now on.
    pub(crate) async fn open(kind: Kind, server: SocketAddr, last_id: &str) -> io::Result<Self> {
        match kind {
            Kind::Sse => Ok(Self::Sse(Events::open(server, "/sse", last_id).await?)),
            Kind::WebSocket => {
                let messages = Messages::open(server, "/ws/feed").await?;
                Ok(Self::WebSocket(Box::new(messages)))
            }
        }
    }

    /// The next message; none if the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<String> {
        match self {
            Self::Sse(events) => events.next().await,
            Self::WebSocket(messages) => messages.next().await,
        }
    }

    /// What it can say to go on from here.
    pub(crate) fn last_id(&self) -> &str {
        match self {
            Self::Sse(events) => &events.last_id,
            Self::WebSocket(_) => "",
        }
    }

    /// Bytes that were sent and received before the first message could come.
    pub(crate) fn opening(&self) -> [u64; 2] {
        match self {
            Self::Sse(events) => events.opening,
            Self::WebSocket(messages) => messages.opening,
        }
    }

    /// Bytes received since.
    pub(crate) fn received(&self) -> u64 {
        match self {
            Self::Sse(events) => events.wire.received - events.opening[1],
            Self::WebSocket(messages) => messages.socket.get_ref().received - messages.opening[1],
        }
    }
}

impl Events {
    pub(crate) async fn open(server: SocketAddr, path: &str, last_id: &str) -> io::Result<Self> {
        let mut wire = Wire::connect(server).await;
        let last = match last_id {
            "" => String::new(),
            id => format!("last-event-id: {id}\r\n"),
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {server}\r\naccept: text/event-stream\r\n\
             cache-control: no-store\r\n{last}\r\n"
        );
        wire.write_all(request.as_bytes()).await?;
        let mut buffer = Vec::new();
        let head = wire.read_head(&mut buffer).await?;
        assert!(buffer.starts_with(b"HTTP/1.1 200 "), "an event stream");
        let opening = [wire.sent, head as u64];
        Ok(Self {
            wire,
            buffer,
            done: head,
            last_id: last_id.to_owned(),
            opening,
        })
    }

    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            while let Some(line) = self.line() {
                if let Some(id) = line.strip_prefix("id: ") {
                    id.clone_into(&mut self.last_id);
                } else if let Some(data) = line.strip_prefix("data: ") {
                    return Some(data.to_owned());
                }
            }
            self.buffer.drain(..self.done);
            self.done = 0;
            let more = self.wire.read_more(&mut self.buffer).await;
            if !more.unwrap_or(false) {
                return None;
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let rest = &self.buffer[self.done..];
        let end = memchr::memchr(b'\n', rest)?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.done += end + 1;
        Some(line)
    }
}

impl Messages {
    /// What a message costs is asked of a path of its own: there each comes back.
    pub(crate) async fn open(server: SocketAddr, path: &str) -> io::Result<Self> {
        let wire = Wire::connect(server).await;
        let config = WebSocketConfig::default().read_buffer_size(READ);
        let url = format!("ws://{server}{path}");
        let opened = client_async_with_config(url, wire, Some(config)).await;
        let (socket, _) = opened.map_err(io::Error::other)?;
        let wire = socket.get_ref();
        let opening = [wire.sent, wire.received];
        Ok(Self { socket, opening })
    }

    pub(crate) async fn next(&mut self) -> Option<String> {
        let next = timeout(PATIENCE, self.socket.next()).await;
        match next.ok()??.ok()? {
            Message::Text(text) => Some(text.to_string()),
            Message::Pong(_) => Some("pong".to_owned()),
            _ => None,
        }
    }

    /// Sends, and waits for what comes back.
    pub(crate) async fn exchange(&mut self, message: Message) -> String {
        self.socket
            .send(message)
            .await
            .expect("a server that reads");
        self.next().await.expect("what was sent")
    }

    /// Bytes sent and received so far.
    pub(crate) fn bytes(&self) -> [u64; 2] {
        let wire = self.socket.get_ref();
        [wire.sent, wire.received]
    }
}
