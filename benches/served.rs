//! Whether a stream is cheaper behind `SseLayer::new()`: `cargo bench --bench served`, and with
//! `-- --quick` a shorter look.
//!
//! A server on a thread of its own, real sockets, and one reader on another thread. In pairs, bare
//! and wrapped, in rounds that take turns:
//!
//! - bursts: the CPU time of the server's thread per event, where so many are there at once and then
//!   none for a moment;
//! - latency: from an event to its reader, and from a request to its first event, where they come
//!   one by one. What two bare servers differ by is the noise.

use std::{
    convert::Infallible,
    env, future,
    iter::repeat_with,
    pin::Pin,
    task::{Context, Poll, ready},
    thread,
    time::{Duration, Instant},
};

use axum::{
    Router,
    response::sse::{Event, KeepAlive, Sse},
    routing::get,
};
use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::task::JoinHandle;
use tower::{Layer, service_fn};
use tower_sse::SseLayer;

use crate::{
    report::{at_least, at_most, median, share},
    server::{Client, MARK, Server, event},
    topic::Topic,
};

#[path = "support/report.rs"]
mod report;
#[path = "support/server.rs"]
mod server;
#[path = "support/topic.rs"]
mod topic;

/// How much is measured.
#[derive(Clone, Copy)]
struct Size {
    rounds: usize,
    /// Events of a stream that comes in bursts.
    events: usize,
    /// Events in a round that come one by one.
    paced: usize,
    /// Requests in a round.
    requests: usize,
}

/// A service, served bare or wrapped.
struct Stack {
    name: &'static str,
    /// With so many events at once, and in all.
    serve: fn([usize; 2], bool) -> Server,
    /// How many times the events per CPU second it must deliver when wrapped, in large bursts.
    bound: f64,
}

/// How a stream's events come.
struct Bursts {
    at_once: usize,
    /// How many are left.
    events: usize,
    /// Of the burst.
    left: usize,
    /// Who brings the next burst. It takes a turn of the runtime: to be pending for a single poll is
    /// not to be silent, since a body may be polled again at once.
    next: Option<JoinHandle<()>>,
}

/// A body whose frames come like that.
struct Frames {
    bursts: Bursts,
    event: Bytes,
}

const MEASURED: Size = Size {
    rounds: 11,
    events: 64 * 1024,
    paced: 400,
    requests: 100,
};

const QUICK: Size = Size {
    rounds: 3,
    ..MEASURED
};

/// Where it is only seen that it runs.
const TESTED: Size = Size {
    rounds: 1,
    events: 128,
    paced: 2,
    requests: 2,
};

const STACKS: [Stack; 2] = [
    Stack {
        name: "hyper",
        serve: serve_hyper,
        bound: 2.0,
    },
    Stack {
        name: "axum's Sse, keep-alive",
        serve: serve_axum,
        bound: 1.25,
    },
];

/// How many events are there at once. The bounds are for the first.
const AT_ONCE: [usize; 4] = [64, 16, 4, 1];

/// Of an event, its blank line included.
const SIZE: usize = 256;

/// From one event to the next, where they come one by one.
const PACE: Duration = Duration::from_micros(200);

fn main() {
    let given = |name: &str| env::args().any(|argument| argument == name);
    let size = match (given("--bench"), given("--quick")) {
        (_, true) => QUICK,
        (true, false) => MEASURED,
        (false, false) => TESTED,
    };
    bursts(size);
    latency(size);
}

// === bursts ===

fn bursts(size: Size) {
    println!("bursts: CPU time of the server per event of {SIZE} bytes");
    for stack in &STACKS {
        for at_once in AT_ONCE {
            let [bare, wrapped] = measure(stack, at_once, size);
            let ratio = bare / wrapped;
            let ratio = if at_once == AT_ONCE[0] {
                at_least(ratio, stack.bound)
            } else {
                format!("{ratio:.2}")
            };
            println!(
                "  {}, {at_once} at once: {bare:.0} ns bare, {wrapped:.0} ns wrapped: events per CPU \
                 second, times bare: {ratio}",
                stack.name
            );
        }
    }
}

/// What an event takes bare, and wrapped, in nanoseconds.
fn measure(stack: &Stack, at_once: usize, size: Size) -> [f64; 2] {
    let servers = [false, true].map(|wrapped| (stack.serve)([at_once, size.events], wrapped));
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..size.rounds {
        for (server, costs) in servers.iter().zip(&mut costs) {
            let mut reader = Client::connect(server.address);
            let before = server.cpu();
            reader.ask("GET", "accept: text/event-stream\r\n");
            reader.head();
            reader.read_until(size.events);
            let took = server.cpu() - before;
            costs.push(took.as_nanos() as f64 / size.events as f64);
        }
    }
    costs.map(|costs| median(&costs))
}

fn serve_hyper([at_once, events]: [usize; 2], wrapped: bool) -> Server {
    let service = service_fn(move |_: Request<hyper::body::Incoming>| {
        let body = Frames {
            bursts: Bursts::new(at_once, events),
            event: event(SIZE),
        };
        let response = Response::builder().header("content-type", "text/event-stream");
        future::ready(Ok::<_, Infallible>(
            response.body(body).expect("a response"),
        ))
    });
    if wrapped {
        Server::serve(move || SseLayer::new().layer(service))
    } else {
        Server::serve(move || service)
    }
}

fn serve_axum([at_once, events]: [usize; 2], wrapped: bool) -> Server {
    let mut text = "x".repeat(SIZE - "data: ~\n\n".len());
    text.push(char::from(MARK));
    let service = get(async move || {
        let mut bursts = Bursts::new(at_once, events);
        let events = stream::poll_fn(move |cx| {
            let next = bursts.poll_next(cx);
            next.map(|next| next.map(|()| Ok::<_, Infallible>(Event::default().data(&text))))
        });
        Sse::new(events).keep_alive(KeepAlive::default())
    });
    let app = Router::new().route("/", service);
    let app = if wrapped {
        app.layer(SseLayer::new())
    } else {
        app
    };
    Server::serve(move || app)
}

impl Bursts {
    fn new(at_once: usize, events: usize) -> Self {
        Self {
            at_once,
            events,
            left: at_once,
            next: None,
        }
    }

    /// Ready when the next one is there; `None` behind the last.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<()>> {
        if self.events == 0 {
            return Poll::Ready(None);
        }
        if self.left == 0 {
            let next = self.next.get_or_insert_with(|| tokio::spawn(async {}));
            let came = ready!(Pin::new(next).poll(cx));
            came.expect("a task that ends");
            self.next = None;
            self.left = self.at_once;
        }
        self.left -= 1;
        self.events -= 1;
        Poll::Ready(Some(()))
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = self.bursts.poll_next(cx);
        next.map(|next| next.map(|()| Ok(Frame::data(self.event.clone()))))
    }
}

// === latency ===

/// A server whose events come when they are sent, in microseconds from then.
struct Paced {
    server: Server,
    topic: Topic,
}

/// Streams that are open and silent beside those whose first event is measured. The first timer of
/// a runtime, or one that is due before all others, wakes the driver by a system call; on a server
/// that has streams a new one seldom is that.
const OTHERS: usize = 16;

/// What of the latencies is compared, in percent.
const SHARES: [usize; 2] = [50, 99];

fn latency(size: Size) {
    // The first two are the same: they tell what is noise.
    let servers = [false, false, true].map(Paced::serve);
    println!("latency of one event after the other, in pairs of rounds");
    let rounds: Vec<_> = (0..size.rounds)
        .map(|_| events(&servers, size.paced))
        .collect();
    compare("from the event to its reader", &rounds);
    let rounds: Vec<_> = (0..size.rounds)
        .map(|_| first_events(&servers, size.requests))
        .collect();
    compare("from the request to its first event", &rounds);
}

impl Paced {
    fn serve(wrapped: bool) -> Self {
        let topic = Topic::default();
        let service = topic.clone();
        let server = if wrapped {
            Server::serve(move || SseLayer::new().layer(service))
        } else {
            Server::serve(move || service)
        };
        Self { server, topic }
    }

    fn open(&self) -> Client {
        let mut reader = Client::connect(self.server.address);
        reader.ask("GET", "accept: text/event-stream\r\n");
        reader.head();
        reader
    }
}

/// A round of events, of which each server gets one after the other.
fn events(servers: &[Paced; 3], events: usize) -> [Vec<f64>; 3] {
    let event = event(SIZE);
    let mut latencies = <[Vec<f64>; 3]>::default();
    let mut readers = servers.each_ref().map(Paced::open);
    for sent in 1..=events {
        for (number, latencies) in latencies.iter_mut().enumerate() {
            thread::sleep(PACE);
            let start = Instant::now();
            servers[number].topic.publish(&event, 1);
            readers[number].read_until(sent);
            latencies.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    for server in servers {
        server.topic.end();
    }
    latencies
}

/// A round of requests, each on a connection of its own, which is there before.
fn first_events(servers: &[Paced; 3], requests: usize) -> [Vec<f64>; 3] {
    let event = event(SIZE);
    let mut latencies = <[Vec<f64>; 3]>::default();
    for server in servers {
        server.topic.greet(&event);
    }
    let _others = servers.each_ref().map(|server| {
        let others = repeat_with(|| server.open());
        others.take(OTHERS).collect::<Vec<_>>()
    });
    for _ in 0..requests {
        for (server, latencies) in servers.iter().zip(&mut latencies) {
            let mut reader = Client::connect(server.server.address);
            thread::sleep(PACE);
            let start = Instant::now();
            reader.ask("GET", "accept: text/event-stream\r\n");
            reader.head();
            reader.read_until(1);
            latencies.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    for server in servers {
        server.topic.end();
    }
    latencies
}

fn compare(what: &str, rounds: &[[Vec<f64>; 3]]) {
    for percent in SHARES {
        let shares: Vec<_> = rounds
            .iter()
            .map(|round| round.each_ref().map(|latencies| share(latencies, percent)))
            .collect();
        let each = [0, 1, 2].map(|number| {
            let of_one: Vec<_> = shares.iter().map(|round| round[number]).collect();
            median(&of_one)
        });
        let bare = each[0];
        // The largest difference of two bare servers in a round.
        let noise = shares
            .iter()
            .map(|[one, other, _]| one.max(*other) / one.min(*other));
        let noise = noise.fold(1.0, f64::max);
        println!(
            "  {what}, {percent}%: {bare:.1} µs bare, {:.1} µs bare again, {:.1} µs wrapped: times \
             bare: {}",
            each[1],
            each[2],
            at_most(each[2] / bare, (noise * 100.0).round() / 100.0)
        );
    }
}
