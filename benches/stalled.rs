//! What clients that do not read cost those who do: `cargo bench --bench stalled`.
//!
//! `latency` is the time from an event to each of a thousand clients, over HTTP/2 on one machine,
//! alone and beside a hundred clients that do not read a flood, in rounds that take turns. `look` is
//! what the watchdog of `StallLayer` takes for each stream at each of its eight looks within the
//! limit, `poll` what the layer adds to a poll.

use std::{
    convert::Infallible,
    env,
    future::ready,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, response::Response, routing::get, serve::ListenerExt as _};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use http::Request;
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    runtime::Builder,
    sync::{broadcast, mpsc},
    time::sleep,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_sse::{SseLayer, StallLayer};

/// How much is measured.
struct Size {
    connections: usize,
    /// Streams on each connection.
    streams: usize,
    deaf: usize,
    rounds: usize,
    /// Events in a round.
    events: usize,
    watched: usize,
    looks: u32,
    polls: u32,
}

const MEASURED: Size = Size {
    connections: 10,
    streams: 100,
    deaf: 100,
    rounds: 10,
    events: 40,
    watched: 10_000,
    looks: 400,
    polls: 2_000_000,
};

/// Where it is only seen that it runs.
const TESTED: Size = Size {
    connections: 2,
    streams: 10,
    deaf: 5,
    rounds: 1,
    events: 3,
    watched: 100,
    looks: 8,
    polls: 100,
};

/// From one event to the next.
const PACE: Duration = Duration::from_millis(50);

/// So long that nobody is freed while it is measured.
const NEVER: Duration = Duration::from_secs(3600);

fn main() {
    let measures = env::args().any(|argument| argument == "--bench");
    let size = if measures { MEASURED } else { TESTED };
    let runtime = Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(latency(&size));
    look(&size);
    poll(&size);
}

// === latency ===

async fn latency(size: &Size) {
    let server = Server::start().await;
    let (seen, mut latencies) = mpsc::unbounded_channel();
    let clients = size.connections * size.streams;
    for _ in 0..size.connections {
        listen(&server, size.streams, &seen).await;
    }
    let [mut alone, mut beside] = [Vec::new(), Vec::new()];
    for _ in 0..size.rounds {
        alone.push(round(&server, size.events, clients, &mut latencies).await);
        let deaf = server.deaf(size.deaf).await;
        beside.push(round(&server, size.events, clients, &mut latencies).await);
        drop(deaf);
        sleep(2 * PACE).await;
    }
    for (name, of) in [("median", 50), ("99th", 99)] {
        let [alone, beside] = [&alone, &beside].map(|rounds| {
            let mut shares: Vec<_> = rounds.iter().map(|round| share(round, of)).collect();
            shares.sort_unstable();
            share(&shares, 50)
        });
        let ratio = beside.as_secs_f64() / alone.as_secs_f64();
        println!(
            "latency, {clients} clients, {name}: {alone:?} alone, {beside:?} beside {} that do not \
             read: {ratio:.2}",
            size.deaf,
        );
    }
}

/// A server of one topic, and of a flood that nobody is told of.
struct Server {
    address: SocketAddr,
    events: broadcast::Sender<Instant>,
    /// The frames that were taken for those who do not read.
    flooded: Arc<AtomicUsize>,
}

impl Server {
    async fn start() -> Self {
        let events = broadcast::Sender::<Instant>::new(64);
        let topic = events.clone();
        let topic = get(async move || {
            let events = stream::unfold(topic.subscribe(), async |mut events| {
                let _ = events.recv().await;
                Some((Ok::<_, Infallible>("data: x\n\n"), events))
            });
            respond(Body::from_stream(events))
        });
        let event = Bytes::from(format!("data: {:x>16000}\n\n", ""));
        let flooded = Arc::<AtomicUsize>::default();
        let taken = flooded.clone();
        let flood = get(async move || {
            let frames = stream::repeat(event).map(move |event| {
                taken.fetch_add(1, Relaxed);
                Ok::<_, Infallible>(event)
            });
            respond(Body::from_stream(frames))
        });
        let layer = SseLayer::new().stall(StallLayer::after(NEVER));
        let app = Router::new().route("/topic", topic).route("/flood", flood);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        // without it an event waits for the acknowledgement of the one before
        let listener = listener.tap_io(|socket| socket.set_nodelay(true).expect("a socket"));
        tokio::spawn(async move { axum::serve(listener, app.layer(layer)).await });
        Self {
            address,
            events,
            flooded,
        }
    }

    /// Clients that do not read, when all buffers on the way to them are full.
    async fn deaf(&self, clients: usize) -> Vec<TcpStream> {
        let start = self.flooded.load(Relaxed);
        let deaf = join_all((0..clients).map(|_| deaf(self.address))).await;
        let mut before = start;
        loop {
            sleep(4 * PACE).await;
            let now = self.flooded.load(Relaxed);
            if now >= start + clients && now == before {
                return deaf;
            }
            before = now;
        }
    }
}

fn respond(body: Body) -> Response {
    let response = Response::builder().header("content-type", "text/event-stream");
    response.body(body).expect("a response")
}

/// Opens the streams of a connection, whose events are told of as they come.
async fn listen(server: &Server, streams: usize, seen: &mpsc::UnboundedSender<Instant>) {
    let socket = TcpStream::connect(server.address).await.expect("a server");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
    let (mut sender, connection) = handshake.expect("HTTP/2");
    tokio::spawn(connection);
    for _ in 0..streams {
        let uri = format!("http://{}/topic", server.address);
        let request = Request::get(uri).body(Empty::<Bytes>::new());
        let response = sender.send_request(request.expect("a request")).await;
        let mut body = response.expect("a response").into_body();
        let seen = seen.clone();
        tokio::spawn(async move {
            while let Some(Ok(_)) = body.frame().await {
                let _ = seen.send(Instant::now());
            }
        });
    }
}

/// A client that reads nothing of its flood.
async fn deaf(server: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(server).await.expect("a server");
    let request = b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n";
    socket.write_all(request).await.expect("a server");
    socket
}

/// How long each event took to each client, sorted.
async fn round(
    server: &Server,
    events: usize,
    clients: usize,
    seen: &mut mpsc::UnboundedReceiver<Instant>,
) -> Vec<Duration> {
    let mut latencies = Vec::new();
    for _ in 0..events {
        let sent = Instant::now();
        server.events.send(sent).expect("clients");
        for _ in 0..clients {
            latencies.push(seen.recv().await.expect("an event") - sent);
        }
        sleep(PACE).await;
    }
    latencies.sort_unstable();
    latencies
}

fn share(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() - 1) * percent / 100]
}

// === the layer itself ===

/// Ready at every second poll.
struct Spaced(bool);

impl http_body::Body for Spaced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 = !self.0;
        if self.0 {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data: x\n\n")))))
    }
}

fn open(layer: &SseLayer) -> impl http_body::Body<Data = Bytes> + Unpin + use<> {
    let inner = service_fn(|_: Request<()>| {
        let response = Response::builder().header("content-type", "text/event-stream");
        let response = response.body(Spaced(false)).expect("a response");
        ready(Ok::<_, Infallible>(response))
    });
    let called = layer.layer(inner).oneshot(Request::new(()));
    let response = called.now_or_never().expect("at once");
    Box::pin(response.expect("a response").into_body())
}

/// In paused time: all that happens is the watchdog.
fn look(size: &Size) {
    const TURN: Duration = Duration::from_secs(1);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build();
    runtime.expect("a runtime").block_on(async {
        let layer = SseLayer::new()
            .without_heartbeat()
            .stall(StallLayer::after(8 * TURN));
        let mut bodies: Vec<_> = (0..size.watched).map(|_| open(&layer)).collect();
        let mut cx = Context::from_waker(Waker::noop());
        for body in &mut bodies {
            assert!(Pin::new(body).poll_frame(&mut cx).is_pending());
        }
        let start = Instant::now();
        sleep(TURN * size.looks).await;
        let each = start.elapsed() / size.looks;
        let of_one = each.as_nanos() as f64 / size.watched as f64;
        println!(
            "look at {} streams: {each:?}, {of_one:.1} ns each",
            size.watched
        );
    });
}

fn poll(size: &Size) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let _inside = runtime.enter();
    let without = SseLayer::new().without_heartbeat();
    let with = without.clone().stall(StallLayer::after(NEVER));
    // Without any concern a stream passes as it is, so both have one.
    let [without, with] = [without, with].map(|layer| layer.limit(tower_sse::LimitLayer::new()));
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..9 {
        for (layer, times) in [&without, &with].into_iter().zip(&mut times) {
            let mut body = open(layer);
            let mut cx = Context::from_waker(Waker::noop());
            let start = Instant::now();
            for _ in 0..size.polls {
                let _ = std::hint::black_box(Pin::new(&mut body).poll_frame(&mut cx));
            }
            times.push(start.elapsed() / size.polls);
        }
    }
    let [without, with] = times.map(|mut times| {
        times.sort_unstable();
        share(&times, 50)
    });
    println!("poll: {without:?} without the layer, {with:?} with it");
}
