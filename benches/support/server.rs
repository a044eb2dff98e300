//! A server on a thread of its own, whose CPU time is read from outside, and clients that cost it
//! nothing but their sockets.

use std::{
    convert::Infallible,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{runtime::Builder, sync::oneshot};
use tower::Service;
use tower_sse::BoxError;

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// Where the kernel says what its thread has used.
    schedstat: String,
    /// Dropped, it stops.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// One that reads when it is told to: what has arrived waits in its socket.
pub(crate) struct Client {
    socket: TcpStream,
    buffer: Box<[u8]>,
    /// The events so far.
    events: usize,
}

/// Once in every event, and nowhere else.
pub(crate) const MARK: u8 = b'~';

/// How long a thread must have used nothing until it counts as idle. The kernel adds up the time of
/// a thread that runs at least 100 times a second.
const IDLE: Duration = Duration::from_millis(12);

/// What is waited for longer than this is lost.
const PATIENCE: Duration = Duration::from_secs(20);

impl Server {
    /// One that does what `run` does with its listener, until that returns by itself.
    pub(crate) fn of(run: impl FnOnce(TcpListener) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            let itself = fs::read_link("/proc/thread-self").expect("Linux");
            tell.send(itself).expect("who started it");
            run(listener);
        });
        let itself = told.recv().expect("its thread");
        Self {
            address,
            schedstat: format!("/proc/{}/schedstat", itself.display()),
            stop: None,
            thread: Some(thread),
        }
    }

    /// hyper with HTTP/1, on a runtime of its own. `service` is called there.
    pub(crate) fn serve<S, B>(service: impl FnOnce() -> S + Send + 'static) -> Self
    where
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let (stop, stopped) = oneshot::channel();
        let mut server = Self::of(move |listener| {
            let runtime = Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                tokio::spawn(accept(listener, service()));
                let _ = stopped.await;
            });
        });
        server.stop = Some(stop);
        server
    }

    /// The CPU time of its thread, once that has nothing to do.
    pub(crate) fn cpu(&self) -> Duration {
        let mut before = self.cpu_so_far();
        loop {
            thread::sleep(IDLE);
            let now = self.cpu_so_far();
            if now == before {
                return now;
            }
            before = now;
        }
    }

    fn cpu_so_far(&self) -> Duration {
        let schedstat = fs::read_to_string(&self.schedstat).expect("a thread that runs");
        let cpu = schedstat.split_whitespace().next();
        let nanoseconds = cpu.and_then(|cpu| cpu.parse().ok());
        Duration::from_nanos(nanoseconds.expect("nanoseconds"))
    }
}

async fn accept<S, B>(listener: TcpListener, service: S)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    listener.set_nonblocking(true).expect("a listener");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let (socket, _) = listener.accept().await.expect("a client");
        socket.set_nodelay(true).expect("a socket");
        let service = TowerToHyperService::new(service.clone());
        let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        tokio::spawn(connection);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a server that did not panic");
        }
    }
}

impl Client {
    pub(crate) fn connect(server: SocketAddr) -> Self {
        let socket = TcpStream::connect(server).expect("a server");
        socket.set_nodelay(true).expect("a socket");
        socket
            .set_read_timeout(Some(PATIENCE))
            .expect("a socket with a time-out");
        Self {
            socket,
            buffer: vec![0; 16 * 1024].into(),
            events: 0,
        }
    }

    /// Asks with these headers, each with its line end.
    pub(crate) fn ask(&mut self, method: &str, headers: &str) {
        let request = format!("{method} / HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
        self.socket
            .write_all(request.as_bytes())
            .expect("a server that reads");
    }

    /// Reads the head of the answer, and no byte behind it.
    pub(crate) fn head(&mut self) -> String {
        loop {
            let there = self.socket.peek(&mut self.buffer).expect("a head in time");
            assert!(there > 0, "a server that answers");
            if let Some(len) = memchr::memmem::find(&self.buffer[..there], b"\r\n\r\n") {
                let head = &mut self.buffer[..len + 4];
                self.socket.read_exact(head).expect("what is there");
                return String::from_utf8_lossy(head).into_owned();
            }
        }
    }

    /// Reads until it has had so many events altogether.
    pub(crate) fn read_until(&mut self, events: usize) {
        while self.events < events {
            let read = self.socket.read(&mut self.buffer).expect("events in time");
            assert!(read > 0, "a stream that goes on");
            self.events += memchr::memchr_iter(MARK, &self.buffer[..read]).count();
        }
        assert_eq!(self.events, events, "no event but those that were sent");
    }
}

/// An event of so many bytes, its blank line included.
pub(crate) fn event(size: usize) -> Bytes {
    let text = "x".repeat(size - "data: ~\n\n".len());
    format!("data: {text}~\n\n").into()
}
