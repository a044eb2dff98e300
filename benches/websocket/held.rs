//! What connections cost: bytes on the wire, memory, and what passes while nobody says anything.

use std::{net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    Addresses, Size,
    latency::message,
    measure::memory,
    reader::{BOTH, Kind, Messages, Reader},
    start,
    table::Row,
    wire::Publisher,
};

/// Connections on which nothing is said, of both kinds.
pub(crate) struct Silent {
    readers: [Vec<Reader>; 2],
    until: Instant,
    size: Size,
    _gateway: crate::Gateway,
}

/// So many are silent beside each other.
const SILENT: usize = 4;

/// For the kernel to give back what it no longer needs, and for the gateway to become quiet.
const SETTLE: Duration = Duration::from_secs(1);

// === Bytes ===

pub(crate) async fn bytes(addresses: &Addresses) -> Vec<Row> {
    let mut publisher = Publisher::connect(addresses.gateway).await;
    let message = message(1);
    // the ids are as long as they are for most of a topic's life
    while publisher.newest.len() < 4 {
        publisher.publish("one of many").await;
    }
    let mut openings = [[0; 2]; 2];
    let mut down = [0; 2];
    for kind in BOTH {
        let reader = Reader::open(kind, addresses.gateway, &publisher.newest).await;
        let mut reader = reader.expect("a reader");
        openings[kind as usize] = reader.opening();
        // the first has the gateway's hint when to come back
        for _ in 0..2 {
            let before = reader.received();
            publisher.publish(&message).await;
            assert_eq!(reader.next().await.as_ref(), Some(&message));
            down[kind as usize] = reader.received() - before;
        }
    }
    let before = publisher.bytes();
    publisher.publish(&message).await;
    let posted = difference(publisher.bytes(), before);
    let socket = Messages::open(addresses.gateway, "/ws").await;
    let mut socket = socket.expect("an echo");
    let before = socket.bytes();
    socket.exchange(Message::text(&message)).await;
    let echoed = difference(socket.bytes(), before);
    let [what, up] = ["to its reader", "from its client"]
        .map(|way| format!("a message of {} B {way}: bytes on the wire", message.len()));
    let sums = openings.map(|[up, down]| up + down);
    let both = openings.map(|[up, down]| format!("{up} + {down}"));
    vec![
        Row::counted(&what, down),
        Row::counted(&up, [posted[0], echoed[0]]),
        Row {
            cells: both,
            ..Row::counted("the opening, request + answer: bytes", sums)
        },
    ]
}

fn difference(after: [u64; 2], before: [u64; 2]) -> [u64; 2] {
    [after[0] - before[0], after[1] - before[1]]
}

// === Silence ===

impl Silent {
    /// Opens them in front of a gateway of their own, with its defaults.
    pub(crate) async fn open(size: &Size) -> Self {
        let flags: &[&str] = match size.heartbeat {
            Some(heartbeat) => &["--heartbeat", heartbeat],
            None => &[],
        };
        let (gateway, addresses) = start(flags).await;
        let readers = BOTH.map(|kind| open(kind, addresses.gateway, SILENT));
        let [sse, websocket] = readers;
        Self {
            readers: [sse.await, websocket.await],
            until: Instant::now() + size.silence,
            size: *size,
            _gateway: gateway,
        }
    }

    /// What has come until then; it waited in the sockets.
    pub(crate) async fn row(mut self, addresses: &Addresses) -> Row {
        sleep_until(self.until).await;
        let minutes = self.size.silence.as_secs_f64() / 60.0;
        let mut came = [0.0; 2];
        for (came, readers) in came.iter_mut().zip(&mut self.readers) {
            for reader in readers {
                // no message comes, and what is there is read
                let _ = timeout(Duration::from_millis(20), reader.next()).await;
                *came += reader.received() as f64 / minutes / SILENT as f64;
            }
        }
        assert!(came[0] > 0.0, "an event stream with heartbeats");
        let socket = Messages::open(addresses.gateway, "/ws").await;
        let mut socket = socket.expect("an echo");
        let before = socket.bytes();
        socket.exchange(Message::Ping(Default::default())).await;
        let [ping, pong] = difference(socket.bytes(), before);
        Row::told(
            "a minute of silence: bytes",
            [
                format!("{:.0}", came[0]),
                format!(
                    "{:.0}; a ping and its pong would be {ping} + {pong}",
                    came[1]
                ),
            ],
        )
    }
}

async fn open(kind: Kind, server: SocketAddr, connections: usize) -> Vec<Reader> {
    let mut open = Vec::new();
    for _ in 0..connections {
        let reader = Reader::open(kind, server, "").await;
        open.push(reader.expect("a connection"));
    }
    open
}

// === Memory ===

/// Through the gateway, whose process the platform shares; and at the platform alone.
pub(crate) async fn idle(size: &Size) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, through) in [("gateway and platform", true), ("platform alone", false)] {
        let mut each = [0.0; 2];
        for kind in BOTH {
            let feed = async |server, connections| open(kind, server, connections).await;
            each[kind as usize] = held(feed, through, size).await;
        }
        let default = held(echoes, through, size).await;
        rows.push(Row {
            what: format!("an idle connection, {name}: KiB"),
            cells: [
                format!("{:.0}", each[0]),
                format!("{:.0}; with axum's default buffer {default:.0}", each[1]),
            ],
            ratio: format!("{:.2}", each[1] / each[0]),
        });
    }
    rows
}

/// A process of its own for each, which has had such a connection before: what the first one alone
/// brings is not counted.
async fn held<C>(
    open: impl AsyncFn(SocketAddr, usize) -> Vec<C>,
    through: bool,
    size: &Size,
) -> f64 {
    let (gateway, addresses) = start(&[]).await;
    let server = if through {
        addresses.gateway
    } else {
        addresses.platform
    };
    drop(open(server, 1).await);
    sleep(size.settle()).await;
    let before = memory(gateway.id());
    let connections = open(server, size.idle).await;
    sleep(size.settle()).await;
    let after = memory(gateway.id());
    (after - before) / connections.len() as f64 / 1024.0
}

/// As axum has them, unless told otherwise.
async fn echoes(server: SocketAddr, connections: usize) -> Vec<Messages> {
    let mut open = Vec::new();
    for _ in 0..connections {
        let socket = Messages::open(server, "/ws").await;
        open.push(socket.expect("an echo"));
    }
    open
}

impl Size {
    fn settle(&self) -> Duration {
        SETTLE.min(self.silence)
    }
}
