//! The bytes of a connection to the upstream.
//!
//! hyper reads the head of an answer, and only that: what is behind it is kept back until somebody
//! knows what it is. A body of unknown length is then taken from hyper, see [`crate::answer`].

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead as _, ReadBuf};

use crate::{fields::EmptyLine, idle::Socket};

/// The socket.
pub(crate) struct Wire {
    socket: Socket,
    tap: Tap,
    head: EmptyLine,
    /// What was read with the head and is behind it.
    behind: Bytes,
}

/// What may pass, said from outside: hyper owns the [`Wire`].
#[derive(Clone, Default)]
pub(crate) struct Tap(Arc<Passing>);

#[derive(Default)]
struct Passing {
    state: AtomicU8,
    /// Whether hyper has more to write than the socket takes.
    backed_up: AtomicBool,
}

/// The head passes, and then nothing.
const HEAD: u8 = 0;
const CLOSED: u8 = 1;
/// Everything passes.
const OPEN: u8 = 2;

/// How much is read at once. As much as a stream hands on in one frame, and no more: what a client
/// does not take is kept.
const READ: usize = 16 * 1024;

thread_local! {
    /// Of the thread and not of each connection, most of which wait.
    static INPUT: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

impl Wire {
    pub(crate) fn new(socket: Socket, tap: Tap) -> Self {
        Self {
            socket,
            tap,
            head: EmptyLine::default(),
            behind: Bytes::new(),
        }
    }

    /// Puts back what hyper has read and not used.
    pub(crate) fn unread(mut self, bytes: Bytes) -> Self {
        if !bytes.is_empty() {
            self.behind = [bytes, self.behind].concat().into();
        }
        self
    }

    /// The socket, if nothing was read from it that nobody has had.
    pub(crate) fn into_socket(self) -> Option<Socket> {
        self.behind.is_empty().then_some(self.socket)
    }

    /// What `use_input` makes of the bytes that come next; there are none at the end.
    pub(crate) fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        use_input: impl FnOnce(&mut [u8]) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        INPUT.with_borrow_mut(|input| {
            let length = ready!(self.poll_input(cx, input))?;
            Poll::Ready(use_input(&mut input[..length]))
        })
    }

    /// How many bytes came.
    fn poll_input(&mut self, cx: &mut Context<'_>, input: &mut [u8]) -> Poll<io::Result<usize>> {
        if !self.behind.is_empty() {
            let length = self.behind.len().min(input.len());
            input[..length].copy_from_slice(&self.behind.split_to(length));
            return Poll::Ready(Ok(length));
        }
        let mut input = ReadBuf::new(input);
        ready!(Pin::new(self.socket.inner_mut()).poll_read(cx, &mut input))?;
        Poll::Ready(Ok(input.filled().len()))
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.behind.is_empty() {
            self.behind = ready!(self.poll_with(cx, |input| Ok(Bytes::copy_from_slice(input))))?;
        }
        let length = self.behind.len().min(out.remaining());
        let end = self.head.find(&self.behind[..length]);
        if end.is_some() {
            self.tap.set(CLOSED);
        }
        out.put_slice(&self.behind.split_to(end.unwrap_or(length)));
        Poll::Ready(Ok(()))
    }

    fn poll_open(
        &mut self,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.behind.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, out);
        }
        let length = self.behind.len().min(out.remaining());
        out.put_slice(&self.behind.split_to(length));
        Poll::Ready(Ok(()))
    }

    /// Not between a head and its body: an upstream that refuses a request closes the connection,
    /// and hyper gives up reading at the first error of writing.
    fn poll_writable(&self) -> Poll<()> {
        self.tap.set_backed_up(true);
        match self.tap.get() {
            // whoever opens it polls again
            CLOSED => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.tap.get() {
            HEAD => self.poll_head(cx, out),
            // whoever opens it polls again
            CLOSED => Poll::Pending,
            _ => self.poll_open(cx, out),
        }
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_writable());
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when all is written.
        self.tap.set_backed_up(false);
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_writable());
        Pin::new(&mut self.socket).poll_write_vectored(cx, bytes)
    }
}

impl Tap {
    /// A head comes next.
    pub(crate) fn expect_head(&self) {
        self.set(HEAD);
    }

    /// What is behind the head may pass.
    pub(crate) fn open(&self) {
        self.set(OPEN);
    }

    /// Whether some of what hyper has written still waits for the socket.
    pub(crate) fn is_backed_up(&self) -> bool {
        self.0.backed_up.load(Ordering::Relaxed)
    }

    // Always in the one task that has the connection now.
    fn get(&self) -> u8 {
        self.0.state.load(Ordering::Relaxed)
    }

    fn set(&self, state: u8) {
        self.0.state.store(state, Ordering::Relaxed);
    }

    fn set_backed_up(&self, backed_up: bool) {
        self.0.backed_up.store(backed_up, Ordering::Relaxed);
    }
}
