//! The bytes of a connection to the upstream, on their way into hyper's client.
//!
//! A server that streams sends each event as a chunk of its own, and hyper hands on each chunk as a
//! frame of its own, at some 1,500 instructions. Where chunks are cut means nothing (RFC 9112, 7.1),
//! so those that came together are made into one before hyper sees them.
//!
//! Whether a body has chunks is in its head, which hyper reads. So no byte behind a head passes
//! before [`Tap::open`] has said what it is.

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
use http::{Response, header::TRANSFER_ENCODING};
use http_body::Body as _;
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::TcpStream,
};

/// The socket.
pub(crate) struct Wire {
    socket: TokioIo<TcpStream>,
    tap: Tap,
    head: Head,
    chunks: Chunks,
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

/// Looks for the end of a head.
#[derive(Default)]
struct Head {
    /// Empty lines may come before it (RFC 9112, 2.2).
    begun: bool,
    /// Whether the line so far is empty.
    empty: bool,
}

/// Where in the chunks (RFC 9112, 7.1) the next byte is.
#[derive(Clone, Copy)]
enum Chunks {
    /// In front of a size.
    Start,
    Size(u64),
    /// In the blanks behind a size.
    Blank(u64),
    /// In what may follow a size, and nobody uses. With the number of its bytes.
    Extension(u64, u16),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// Behind the last one. Trailers follow, or nothing.
    Last,
}

/// The head passes, and then nothing.
const HEAD: u8 = 0;
const CLOSED: u8 = 1;
/// Everything passes as it is.
const PLAIN: u8 = 2;
const CHUNKED: u8 = 3;

/// How much is read at once. As much as a stream hands on in one frame, and no more: what a client
/// does not take is kept.
const READ: usize = 16 * 1024;

/// The size of a chunk of at most [`READ`] bytes and what is around it, and the last size.
const FRAMING: usize = "4000\r\n".len() + "\r\n".len() + LAST.len();
const LAST: &[u8] = b"0\r\n";

const LONGEST_EXTENSION: u16 = 4 * 1024;

thread_local! {
    /// Of the thread and not of each connection, most of which wait.
    static INPUT: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

impl Wire {
    pub(crate) fn new(socket: TokioIo<TcpStream>, tap: Tap) -> Self {
        Self {
            socket,
            tap,
            head: Head::default(),
            chunks: Chunks::Start,
            behind: Bytes::new(),
        }
    }

    fn poll_plain(
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

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.chunks = Chunks::Start;
        if self.behind.is_empty() {
            let read: Poll<io::Result<()>> = INPUT.with_borrow_mut(|input| {
                let length = ready!(self.poll_input(cx, input))?;
                self.behind = Bytes::copy_from_slice(&input[..length]);
                Poll::Ready(Ok(()))
            });
            ready!(read)?;
        }
        let length = self.behind.len().min(out.remaining());
        let end = self.head.end(&self.behind[..length]);
        if end.is_some() {
            self.tap.set(CLOSED);
        }
        out.put_slice(&self.behind.split_to(end.unwrap_or(length)));
        Poll::Ready(Ok(()))
    }

    fn poll_chunks(
        &mut self,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        INPUT.with_borrow_mut(|input| {
            let room = out.remaining().saturating_sub(FRAMING).clamp(1, READ);
            loop {
                let length = ready!(self.poll_input(cx, &mut input[..room]))?;
                if length == 0 {
                    return Poll::Ready(Ok(()));
                }
                let (data, behind) = self.chunks.join(&mut input[..length])?;
                if data > 0 {
                    put_size(data, &mut out);
                    out.put_slice(&input[..data]);
                    out.put_slice(b"\r\n");
                }
                if let Chunks::Last = self.chunks {
                    self.tap.set(PLAIN);
                    out.put_slice(LAST);
                    out.put_slice(&input[behind..length]);
                } else if data == 0 {
                    continue;
                }
                return Poll::Ready(Ok(()));
            }
        })
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

    /// How many bytes came; none at the end.
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
            CHUNKED => self.poll_chunks(cx, out),
            _ => self.poll_plain(cx, out),
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

    /// Whether a head has passed.
    pub(crate) fn is_closed(&self) -> bool {
        self.get() == CLOSED
    }

    /// The body of the answer may pass.
    pub(crate) fn open(&self, answer: &Response<Incoming>) {
        let chunked = is_chunked(answer);
        self.set(if chunked { CHUNKED } else { PLAIN });
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

/// As hyper finds it out (RFC 9112, 6.3).
fn is_chunked(answer: &Response<Incoming>) -> bool {
    let line = answer
        .headers()
        .get_all(TRANSFER_ENCODING)
        .iter()
        .next_back();
    let last = line.and_then(|line| line.to_str().ok()?.rsplit(',').next());
    // Some answers have no body whatever they say, as those to HEAD.
    let body = !answer.body().is_end_stream();
    body && last.is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case("chunked"))
}

impl Head {
    /// Behind the empty line. A line may end without CR (RFC 9112, 2.2).
    fn end(&mut self, bytes: &[u8]) -> Option<usize> {
        let end = bytes.iter().position(|byte| match byte {
            b'\n' => self.begun && std::mem::replace(&mut self.empty, true),
            b'\r' => false,
            _ => {
                (self.begun, self.empty) = (true, false);
                false
            }
        });
        self.begun &= end.is_none();
        end.map(|end| end + 1)
    }
}

impl Chunks {
    /// Moves the data of all chunks to the front. Returns how much that is, and up to where `bytes`
    /// were read.
    fn join(&mut self, bytes: &mut [u8]) -> io::Result<(usize, usize)> {
        let (mut data, mut at) = (0, 0);
        while at < bytes.len() {
            if let Self::Data(left) = *self {
                let here = (bytes.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                bytes.copy_within(at..at + here, data);
                data += here;
                at += here;
                *self = match left - here as u64 {
                    0 => Self::DataCr,
                    left => Self::Data(left),
                };
            } else {
                *self = self.after(bytes[at]).ok_or_else(malformed)?;
                at += 1;
                if let Self::Last = self {
                    break;
                }
            }
        }
        Ok((data, at))
    }

    /// As strict as hyper is: what another reader of these bytes might take for something else is
    /// an error.
    fn after(self, byte: u8) -> Option<Self> {
        let digit = (byte as char).to_digit(16).map(u64::from);
        match (self, byte) {
            (Self::Start, _) => digit.map(Self::Size),
            (Self::Size(size) | Self::Blank(size) | Self::Extension(size, _), b'\r') => {
                Some(Self::SizeLf(size))
            }
            (Self::Size(size) | Self::Blank(size), b' ' | b'\t') => Some(Self::Blank(size)),
            (Self::Size(size) | Self::Blank(size), b';') => Some(Self::Extension(size, 0)),
            (Self::Size(size), _) => size.checked_mul(16)?.checked_add(digit?).map(Self::Size),
            (Self::Extension(..), b'\n') | (Self::Extension(_, LONGEST_EXTENSION), _) => None,
            (Self::Extension(size, length), _) => Some(Self::Extension(size, length + 1)),
            (Self::SizeLf(0), b'\n') => Some(Self::Last),
            (Self::SizeLf(size), b'\n') => Some(Self::Data(size)),
            (Self::DataCr, b'\r') => Some(Self::DataLf),
            (Self::DataLf, b'\n') => Some(Self::Start),
            _ => None,
        }
    }
}

/// By hand: `format!` would be half of the cost of a chunk.
fn put_size(size: usize, out: &mut ReadBufCursor<'_>) {
    let digits: [u8; 4] = std::array::from_fn(|at| b"0123456789abcdef"[size >> (12 - 4 * at) & 15]);
    let zeros = digits.iter().take_while(|&&digit| digit == b'0').count();
    out.put_slice(&digits[zeros..]);
    out.put_slice(b"\r\n");
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a chunk is malformed")
}
