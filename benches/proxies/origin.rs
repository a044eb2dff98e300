//! The server behind the proxies: it opens streams and hands them to what is measured, which writes.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, time::Duration};

use socket2::SockRef;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{JoinSet, spawn_local},
    time::timeout,
};

use crate::{
    Trouble,
    events::{Chunks, Shape, nanoseconds},
};

/// Listens until it is dropped.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    opened: mpsc::UnboundedReceiver<(usize, TcpStream)>,
    _listening: JoinSet<()>,
}

/// A stream whose head is written.
pub(crate) struct Source {
    socket: TcpStream,
    chunks: Chunks,
    /// Bytes that the system took, seen also by those who do not write.
    pub(crate) written: Rc<Cell<u64>>,
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
    cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n";

/// Of connections that stall, at both ends of the way.
pub(crate) const SMALL_BUFFER: usize = 32 * 1024;

/// How long a proxy may take from a client's request to its own.
const PATIENCE: Duration = Duration::from_secs(10);

impl Origin {
    pub(crate) async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (sender, opened) = mpsc::unbounded_channel();
        let mut listening = JoinSet::new();
        listening.spawn_local(async move {
            loop {
                if let Ok((socket, _)) = listener.accept().await {
                    let sender = sender.clone();
                    spawn_local(async move {
                        if let Ok(opened) = open(socket).await {
                            let _ = sender.send(opened);
                        }
                    });
                }
            }
        });
        Ok(Self {
            address,
            opened,
            _listening: listening,
        })
    }

    /// The next stream that a proxy asks for.
    pub(crate) async fn opened(&mut self, shape: Shape) -> Result<Source, Trouble> {
        let opened = timeout(PATIENCE, self.opened.recv()).await;
        let Ok(Some((stream, socket))) = opened else {
            return Err(Trouble::Unable("a request did not come through".to_owned()));
        };
        Ok(Source {
            socket,
            chunks: Chunks::new(stream, shape),
            written: Rc::default(),
        })
    }

    /// Forgets streams that nobody waits for any more.
    pub(crate) fn clear(&mut self) {
        while self.opened.try_recv().is_ok() {}
    }
}

/// Reads `GET /<stream> HTTP/1.1` and answers.
async fn open(mut socket: TcpStream) -> io::Result<(usize, TcpStream)> {
    socket.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let stream = path.trim_start_matches('/').parse();
    let stream = stream.map_err(|_| io::Error::other("a path that no client asked for"))?;
    socket.write_all(HEAD).await?;
    Ok((stream, socket))
}

impl Source {
    /// What waits here is not the proxy's.
    pub(crate) fn small_buffer(&self) -> io::Result<()> {
        SockRef::from(&self.socket).set_send_buffer_size(SMALL_BUFFER)
    }

    /// Writes so many events as fast as they are taken, many at once.
    pub(crate) async fn flood(&mut self, mut events: u64) -> io::Result<()> {
        while events > 0 {
            let (next, bytes) = self.chunks.next(events, 0);
            write(&mut self.socket, bytes, &self.written).await?;
            events = events.saturating_sub(next);
        }
        Ok(())
    }

    /// Writes one chunk, in one system call unless the connection is full.
    pub(crate) async fn chunk(&mut self) -> io::Result<()> {
        let (_, bytes) = self.chunks.next(1, nanoseconds());
        match self.socket.try_write(bytes) {
            Ok(length) if length == bytes.len() => Ok(()),
            Ok(length) => write(&mut self.socket, &bytes[length..], &self.written).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                write(&mut self.socket, bytes, &self.written).await
            }
            Err(error) => Err(error),
        }
    }
}

async fn write(socket: &mut TcpStream, mut bytes: &[u8], written: &Cell<u64>) -> io::Result<()> {
    while !bytes.is_empty() {
        let length = socket.write(bytes).await?;
        written.set(written.get() + length as u64);
        bytes = &bytes[length..];
    }
    Ok(())
}
