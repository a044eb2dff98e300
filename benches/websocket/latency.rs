//! How long a message is on its way, in rounds in which both take turns.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    join,
    time::{Instant, sleep},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    Addresses, Size,
    reader::{BOTH, Kind, Messages, Reader},
    report::{median, share},
    table::Row,
    wire::Publisher,
};

/// In microseconds, by round: what half of the messages and 99 of 100 did not exceed.
type Shares = [Vec<f64>; 2];

/// Who is asked first changes with each round.
type Rounds = [Shares; 2];

/// From one message to the next, so that each finds all asleep.
const PACE: Duration = Duration::from_millis(1);

const NAMES: [&str; 2] = ["p50", "p99"];

/// One message after the other to so many readers, until the last of them has it. It is published
/// at the platform itself: the way of the message alone goes through the gateway.
pub(crate) async fn readers(addresses: &Addresses, readers: usize, size: &Size) -> Vec<Row> {
    let mut publisher = Publisher::connect(addresses.platform).await;
    let messages = if readers == 1 {
        size.messages
    } else {
        size.messages / 4
    };
    let mut rounds = Rounds::default();
    for round in 0..size.rounds {
        for kind in in_turn(round) {
            let server = addresses.gateway;
            let took = delivered(&mut publisher, kind, server, [readers, messages]).await;
            rounds[kind as usize].add(&took);
        }
    }
    let what = match readers {
        1 => "a message to its reader".to_owned(),
        _ => format!("a message to {readers} readers, until the last has it"),
    };
    rows(&what, &rounds)
}

async fn delivered(
    publisher: &mut Publisher,
    kind: Kind,
    server: SocketAddr,
    [readers, messages]: [usize; 2],
) -> Vec<f64> {
    let mut open = Vec::new();
    for _ in 0..readers {
        let reader = Reader::open(kind, server, publisher.newest).await;
        open.push(reader.expect("a reader"));
    }
    let mut took = Vec::new();
    for _ in 0..messages {
        sleep(PACE).await;
        let message = message(publisher.newest);
        let start = Instant::now();
        let arrival = async {
            for reader in &mut open {
                let came = reader.next().await;
                assert_eq!(came.as_ref(), Some(&message), "what was published");
            }
            start.elapsed()
        };
        let ((), arrived) = join!(publisher.publish(&message), arrival);
        took.push(arrived.as_secs_f64() * 1e6);
    }
    took
}

/// A message from a client, and the answer to it: a `POST` over a connection that is open, or a frame
/// that comes back.
pub(crate) async fn exchanges(addresses: &Addresses, size: &Size) -> Vec<Row> {
    let mut publisher = Publisher::connect(addresses.gateway).await;
    let socket = Messages::open(addresses.gateway, "/ws").await;
    let mut socket = socket.expect("an echo");
    let mut rounds = Rounds::default();
    for round in 0..size.rounds {
        for kind in in_turn(round) {
            let mut took = Vec::new();
            for number in 0..size.messages as u64 {
                sleep(PACE).await;
                let message = message(number);
                let start = Instant::now();
                match kind {
                    Kind::Sse => publisher.publish(&message).await,
                    Kind::WebSocket => {
                        let back = socket.exchange(Message::text(&message)).await;
                        assert_eq!(back, message, "what was sent");
                    }
                }
                took.push(start.elapsed().as_secs_f64() * 1e6);
            }
            rounds[kind as usize].add(&took);
        }
    }
    rows("a client's message and its answer", &rounds)
}

/// Of one length.
pub(crate) fn message(number: u64) -> String {
    const LENGTH: usize = crate::LENGTH - 8;
    format!("{number:08}{}", "x".repeat(LENGTH))
}

fn in_turn(round: usize) -> [Kind; 2] {
    let [sse, websocket] = BOTH;
    if round.is_multiple_of(2) {
        [sse, websocket]
    } else {
        [websocket, sse]
    }
}

trait Add {
    fn add(&mut self, took: &[f64]);
}

impl Add for Shares {
    fn add(&mut self, took: &[f64]) {
        for (shares, percent) in self.iter_mut().zip([50, 99]) {
            shares.push(share(took, percent));
        }
    }
}

fn rows(what: &str, [sse, websocket]: &Rounds) -> Vec<Row> {
    let row = |number: usize| {
        let (sse, websocket) = (&sse[number], &websocket[number]);
        let ratios: Vec<_> = sse
            .iter()
            .zip(websocket)
            .map(|(sse, ws)| ws / sse)
            .collect();
        let (least, most) = (share(&ratios, 0), share(&ratios, 100));
        Row {
            what: format!("{what}: {}, µs", NAMES[number]),
            cells: [sse, websocket].map(|values| format!("{:.0}", median(values))),
            ratio: format!("{:.2} ({least:.2} to {most:.2})", median(&ratios)),
        }
    };
    vec![row(0), row(1)]
}
