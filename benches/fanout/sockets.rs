use std::{convert::Infallible, io::Write, iter::repeat_with, sync::mpsc};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tower::{Layer, Service, layer::util::Identity};
use tower_sse::{BoxError, MemoryStore, ResumeLayer, SseLayer};

use crate::{
    SIZE, beside,
    report::median,
    server::{Client, Server, event},
    topic::Topic,
};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// A thread that writes to sockets.
    Write,
    /// The service, without our layers.
    Plain,
    /// From the log, the service's own bytes.
    Log,
    /// From the log, with ids.
    LogWithIds,
}

/// A server, its readers, and how to have an event sent so many times at once.
struct Fan {
    readers: Vec<Client>,
    trigger: Trigger,
    /// Behind `trigger`, whose end it waits for.
    server: Server,
    sent: usize,
}

enum Trigger {
    ByRuntime(UnboundedSender<usize>),
    ByThread(mpsc::Sender<usize>),
}

struct Size {
    readers: usize,
    /// How often an event, or a burst, is sent in a round.
    times: usize,
    rounds: usize,
}

const SENDERS: [Sender; 4] = [
    Sender::Write,
    Sender::Plain,
    Sender::Log,
    Sender::LogWithIds,
];

const MEASURED: [Size; 2] = [
    Size {
        readers: 1000,
        times: 30,
        rounds: 7,
    },
    Size {
        readers: 5000,
        times: 8,
        rounds: 7,
    },
];

const TESTED: Size = Size {
    readers: 3,
    times: 2,
    rounds: 1,
};

/// How many events are there at once: they come one by one, or as a burst.
const AT_ONCE: [usize; 2] = [1, 16];

pub(crate) fn check() {
    measure(&TESTED);
}

pub(crate) fn report() {
    println!("over sockets: CPU time of the server's thread per event of {SIZE} bytes and reader");
    for size in &MEASURED {
        let costs = measure(size);
        for (number, at_once) in AT_ONCE.into_iter().enumerate() {
            println!("  {} readers, {at_once} at once", size.readers);
            let medians = costs.each_ref().map(|costs| median(&costs[number]));
            for (sender, cost) in SENDERS.into_iter().zip(medians) {
                let name = sender.name();
                let beside = match sender {
                    Sender::Write => format!("{:.2}", cost / medians[1]),
                    Sender::Plain => String::from("1"),
                    Sender::Log | Sender::LogWithIds => beside(cost, medians[1]),
                };
                println!("{cost:>12.2} µs  {name}: times a plain write: {beside}");
            }
        }
    }
}

/// For each sender and each burst, what a delivery took in each round, in microseconds.
fn measure(size: &Size) -> [[Vec<f64>; 2]; 4] {
    let mut costs = <[[Vec<f64>; 2]; 4]>::default();
    for _ in 0..size.rounds {
        // One after the other, since not all of their sockets may be open at once.
        for (sender, costs) in SENDERS.into_iter().zip(&mut costs) {
            let mut fan = Fan::open(sender, size.readers);
            fan.deliver(1);
            for (at_once, costs) in AT_ONCE.into_iter().zip(costs) {
                costs.push(fan.cost(at_once, size.times));
            }
        }
    }
    costs
}

impl Sender {
    fn name(self) -> &'static str {
        match self {
            Self::Write => "write(2) alone",
            Self::Plain => "hyper, a channel for each reader",
            Self::Log => "SseLayer + resume",
            Self::LogWithIds => "SseLayer + resume, ids",
        }
    }

    /// How its readers ask.
    fn request(self) -> (&'static str, &'static str) {
        match self {
            Self::LogWithIds => ("GET", "accept: text/event-stream\r\n"),
            Self::Write | Self::Plain | Self::Log => ("POST", ""),
        }
    }
}

impl Fan {
    fn open(sender: Sender, readers: usize) -> Self {
        match sender {
            Sender::Write => Self::by_thread(readers),
            Sender::Plain => Self::by_runtime(sender, Identity::new(), readers),
            Sender::Log | Sender::LogWithIds => {
                let resume = ResumeLayer::new(MemoryStore::new());
                Self::by_runtime(sender, SseLayer::new().resume(resume), readers)
            }
        }
    }

    fn by_thread(readers: usize) -> Self {
        let (send, sends) = mpsc::channel();
        let server = Server::of(move |listener| {
            let mut sockets: Vec<_> = repeat_with(|| listener.accept().expect("a reader").0)
                .take(readers)
                .collect();
            for socket in &sockets {
                socket.set_nonblocking(true).expect("a socket");
            }
            // Framed as hyper does it.
            let chunk = [format!("{SIZE:X}\r\n").as_bytes(), &event(SIZE), b"\r\n"].concat();
            for times in sends {
                let chunks = chunk.repeat(times);
                for socket in &mut sockets {
                    socket.write_all(&chunks).expect("a reader that reads");
                }
            }
        });
        Self {
            readers: repeat_with(|| Client::connect(server.address))
                .take(readers)
                .collect(),
            trigger: Trigger::ByThread(send),
            server,
            sent: 0,
        }
    }

    fn by_runtime<L, S, B>(sender: Sender, layer: L, readers: usize) -> Self
    where
        L: Layer<Topic, Service = S> + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        let (send, mut sends) = unbounded_channel();
        let server = Server::serve(move || {
            let topic = Topic::default();
            let service = layer.layer(topic.clone());
            tokio::spawn(async move {
                let event = event(SIZE);
                while let Some(times) = sends.recv().await {
                    topic.publish(&event, times);
                }
            });
            service
        });
        let mut fan = Self {
            readers: Vec::with_capacity(readers),
            trigger: Trigger::ByRuntime(send),
            server,
            sent: 0,
        };
        let (method, accept) = sender.request();
        let mut headers = accept.to_owned();
        for _ in 0..readers {
            let mut reader = Client::connect(fan.server.address);
            reader.ask(method, &headers);
            let head = reader.head();
            if let Some(stream) = header(&head, "sse-stream") {
                headers = format!("{accept}last-event-id: {stream}.0\r\n");
            }
            fan.readers.push(reader);
        }
        fan
    }

    /// What the server took for each event to each reader, in microseconds.
    fn cost(&mut self, at_once: usize, times: usize) -> f64 {
        let before = self.server.cpu();
        for _ in 0..times {
            self.deliver(at_once);
        }
        let took = self.server.cpu() - before;
        let deliveries = self.readers.len() * at_once * times;
        took.as_secs_f64() * 1e6 / deliveries as f64
    }

    /// Returns when all readers have it.
    fn deliver(&mut self, at_once: usize) {
        let sent = match &self.trigger {
            Trigger::ByRuntime(send) => send.send(at_once).is_ok(),
            Trigger::ByThread(send) => send.send(at_once).is_ok(),
        };
        assert!(sent, "a server that runs");
        self.sent += at_once;
        for reader in &mut self.readers {
            reader.read_until(self.sent);
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.find_map(|(found, value)| (found == name).then_some(value))
}
