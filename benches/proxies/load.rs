//! The clients: they open streams through a proxy, read, and check each event.

use std::{
    cell::{Cell, RefCell},
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    net::{TcpSocket, TcpStream},
    sync::Notify,
    time::timeout,
};

use crate::{
    Trouble,
    events::{Checker, Seen, nanoseconds},
    origin::SMALL_BUFFER,
};

/// One stream's reader.
pub(crate) struct Client {
    stream: usize,
    socket: TcpStream,
    part: Part,
    checker: Checker,
}

/// Where in the response the next byte stands.
enum Part {
    /// The head, as far as it is here.
    Head(Vec<u8>),
    /// The line before a chunk, with its size so far.
    Size(usize),
    /// So many bytes before the end of a chunk's line.
    Extension(usize),
    /// Inside of a chunk, so many bytes before its end.
    Data(usize),
    /// The line end behind a chunk.
    Behind,
}

/// What all clients of a measurement have seen.
#[derive(Default)]
pub(crate) struct Arrivals {
    pub(crate) events: Cell<u64>,
    pub(crate) comments: Cell<u64>,
    awaited: Cell<u64>,
    reached: Notify,
    trouble: RefCell<Option<Trouble>>,
    /// From the origin's write to here, where it is wanted.
    pub(crate) latencies: RefCell<Option<Vec<u64>>>,
    /// Which stream got a comment and when, where it is wanted.
    pub(crate) beats: RefCell<Option<Vec<(usize, Instant)>>>,
}

/// How long nothing may arrive that is awaited.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many connections have one source address: there are 28,000 ports by default.
const PORTS: usize = 10_000;

thread_local! {
    /// All clients read into the same: 20,000 of them have no memory of their own to wait in.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

impl Client {
    pub(crate) async fn open(proxy: SocketAddr, stream: usize, size: usize) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        let address = Ipv4Addr::new(127, 0, 0, 1 + (stream / PORTS) as u8);
        if stream >= PORTS {
            socket.bind((address, 0).into())?;
        }
        let socket = socket.connect(proxy).await?;
        socket.set_nodelay(true)?;
        let request = format!(
            "GET /{stream} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\n\r\n"
        );
        if socket.try_write(request.as_bytes())? != request.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(Self {
            stream,
            socket,
            part: Part::Head(Vec::new()),
            checker: Checker::new(stream, size),
        })
    }

    /// What waits here is not the proxy's.
    pub(crate) fn small_buffer(&self) -> io::Result<()> {
        SockRef::from(&self.socket).set_recv_buffer_size(SMALL_BUFFER)
    }

    /// Reads until something is wrong, of which it tells.
    pub(crate) async fn read(mut self, arrivals: Rc<Arrivals>) {
        let error = std::future::poll_fn(|cx| self.poll_read(cx, &arrivals)).await;
        arrivals.trouble(error);
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, arrivals: &Arrivals) -> Poll<String> {
        BUFFER.with_borrow_mut(|buffer| {
            loop {
                let mut buffer = ReadBuf::new(buffer);
                let read = ready!(Pin::new(&mut self.socket).poll_read(cx, &mut buffer));
                let taken = match read {
                    Ok(()) if buffer.filled().is_empty() => Err("its connection ended".to_owned()),
                    Ok(()) => self.take(buffer.filled(), arrivals),
                    Err(error) => Err(error.to_string()),
                };
                if let Err(error) = taken {
                    return Poll::Ready(format!("stream {}: {error}", self.stream));
                }
            }
        })
    }

    fn take(&mut self, mut bytes: &[u8], arrivals: &Arrivals) -> Result<(), String> {
        let now = nanoseconds();
        let stream = self.stream;
        let mut seen = |seen| match seen {
            Seen::Event(sent) => arrivals.event(now.saturating_sub(sent)),
            Seen::Comment => arrivals.comment(stream),
        };
        while let &[first, ..] = bytes {
            let (part, length) = match &mut self.part {
                Part::Head(head) => head_part(head, bytes)?,
                Part::Size(size) => (size_part(*size, first)?, 1),
                Part::Extension(size) => (extension_part(*size, first), 1),
                Part::Data(0) => (Part::Behind, usize::from(first == b'\r')),
                Part::Data(left) => {
                    let length = bytes.len().min(*left);
                    self.checker.take(&bytes[..length], &mut seen)?;
                    (Part::Data(*left - length), length)
                }
                Part::Behind if first == b'\n' => (Part::Size(0), 1),
                Part::Behind => return Err("no line end behind a chunk".to_owned()),
            };
            self.part = part;
            bytes = &bytes[length..];
        }
        arrivals.tell();
        Ok(())
    }
}

fn head_part(head: &mut Vec<u8>, bytes: &[u8]) -> Result<(Part, usize), String> {
    let before = head.len();
    head.extend_from_slice(bytes);
    let Some(end) = memchr::memmem::find(head, b"\r\n\r\n") else {
        return Ok((Part::Head(std::mem::take(head)), bytes.len()));
    };
    let text = String::from_utf8_lossy(&head[..end]).to_ascii_lowercase();
    if !text.starts_with("http/1.1 200") || !text.contains("transfer-encoding: chunked") {
        return Err(format!("an answer that is none: {text:?}"));
    }
    Ok((Part::Size(0), end + 4 - before))
}

fn size_part(size: usize, byte: u8) -> Result<Part, String> {
    match (char::from(byte).to_digit(16), byte) {
        (Some(digit), _) => Ok(Part::Size(size * 16 + digit as usize)),
        (None, b'\r' | b';' | b' ') if size > 0 => Ok(Part::Extension(size)),
        (None, _) => Err("the stream ended, or a chunk has no size".to_owned()),
    }
}

fn extension_part(size: usize, byte: u8) -> Part {
    match byte {
        b'\n' => Part::Data(size),
        _ => Part::Extension(size),
    }
}

impl Arrivals {
    fn event(&self, latency: u64) {
        self.events.set(self.events.get() + 1);
        if let Some(latencies) = &mut *self.latencies.borrow_mut() {
            latencies.push(latency);
        }
    }

    fn comment(&self, stream: usize) {
        self.comments.set(self.comments.get() + 1);
        if let Some(beats) = &mut *self.beats.borrow_mut() {
            beats.push((stream, Instant::now()));
        }
    }

    fn tell(&self) {
        if self.events.get() >= self.awaited.get() {
            self.reached.notify_waiters();
        }
    }

    fn trouble(&self, error: String) {
        self.trouble
            .borrow_mut()
            .get_or_insert(Trouble::Wrong(error));
        self.reached.notify_waiters();
    }

    pub(crate) fn check(&self) -> Result<(), Trouble> {
        self.trouble.borrow_mut().take().map_or(Ok(()), Err)
    }

    /// Waits until so many events have arrived since the streams were opened, and no more.
    pub(crate) async fn until(&self, events: u64) -> Result<(), Trouble> {
        self.awaited.set(events);
        loop {
            let reached = self.reached.notified();
            self.check()?;
            let here = self.events.get();
            match here {
                _ if here == events => return Ok(()),
                _ if here > events => {
                    return Err(Trouble::Wrong(format!("{here} events of {events}")));
                }
                _ => {}
            }
            if timeout(PATIENCE, reached).await.is_err() && self.events.get() == here {
                return Err(Trouble::Wrong(format!(
                    "only {here} of {events} events arrived"
                )));
            }
        }
    }
}
