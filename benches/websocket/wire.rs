//! A socket that counts, and who publishes over one.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::TcpStream,
    time::timeout,
};

/// Counts what passes: all that HTTP and WebSocket add to a message, nothing of what TCP adds.
pub(crate) struct Wire {
    socket: TcpStream,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// Sends messages by `POST`, one after the other over one connection.
pub(crate) struct Publisher {
    wire: Wire,
    server: SocketAddr,
    answer: Vec<u8>,
    /// The id of the last.
    pub(crate) newest: String,
}

/// What is waited for longer than this is lost.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

impl Wire {
    pub(crate) async fn connect(server: SocketAddr) -> Self {
        let socket = TcpStream::connect(server).await.expect("a server");
        socket.set_nodelay(true).expect("a socket");
        Self {
            socket,
            sent: 0,
            received: 0,
        }
    }

    /// Reads what is there, and tells whether the connection goes on.
    pub(crate) async fn read_more(&mut self, buffer: &mut Vec<u8>) -> io::Result<bool> {
        let read = timeout(PATIENCE, self.read_buf(buffer)).await;
        Ok(read.map_err(io::Error::from)?? > 0)
    }

    /// Reads up to the end of a head, and returns its length.
    pub(crate) async fn read_head(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            if let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") {
                return Ok(end + 4);
            }
            if !self.read_more(buffer).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        self.received += (buffer.filled().len() - before) as u64;
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &written {
            self.sent += *written as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Publisher {
    pub(crate) async fn connect(server: SocketAddr) -> Self {
        let mut publisher = Self {
            wire: Wire::connect(server).await,
            server,
            answer: Vec::new(),
            newest: String::new(),
        };
        // who begins behind it need not hear what was before
        publisher.publish("begin").await;
        publisher
    }

    /// Publishes, and waits for the answer, which has the message's id.
    pub(crate) async fn publish(&mut self, message: &str) {
        let (server, length) = (self.server, "data=".len() + message.len());
        let request = format!(
            "POST /sse HTTP/1.1\r\nhost: {server}\r\n\
             content-type: application/x-www-form-urlencoded\r\n\
             content-length: {length}\r\n\r\ndata={message}"
        );
        let wrote = self.wire.write_all(request.as_bytes()).await;
        wrote.expect("a server that reads");
        self.answer.clear();
        let head = self.wire.read_head(&mut self.answer).await;
        let head = head.expect("an answer");
        while !self.answer.ends_with(b"\n") || self.answer.len() == head {
            let more = self.wire.read_more(&mut self.answer).await;
            assert!(more.expect("the answer"), "a whole answer");
        }
        let body = String::from_utf8_lossy(&self.answer[head..]);
        let id = body.trim().strip_prefix("event ");
        id.expect("its id").clone_into(&mut self.newest);
    }

    /// Bytes sent and received so far.
    pub(crate) fn bytes(&self) -> [u64; 2] {
        [self.wire.sent, self.wire.received]
    }
}
