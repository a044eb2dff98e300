//! How long a message is on its way, in rounds in which both take turns.

use std::time::Duration;

use tokio::{
    join,
    time::{Instant, sleep},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    Addresses, Gateway, Size,
    measure::cpu,
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
pub(crate) async fn readers(
    gateway: &Gateway,
    addresses: &Addresses,
    readers: usize,
    size: &Size,
) -> Vec<Row> {
    let mut publisher = Publisher::connect(addresses.platform).await;
    let messages = if readers == 1 {
        size.messages
    } else {
        size.messages / 4
    };
    let mut rounds = Rounds::default();
    let mut costs = <[Vec<f64>; 2]>::default();
    for round in 0..size.rounds {
        for kind in in_turn(round) {
            let mut open = Vec::new();
            for _ in 0..readers {
                let reader = Reader::open(kind, addresses.gateway, &publisher.newest).await;
                open.push(reader.expect("a reader"));
            }
            let before = cpu(gateway.id());
            let took = delivered(&mut publisher, &mut open, messages).await;
            let spent = cpu(gateway.id()) - before;
            costs[kind as usize].push(spent as f64 / 1e3 / (messages * readers) as f64);
            add(&mut rounds[kind as usize], &took);
        }
    }
    if readers == 1 {
        return rows("a message to its reader", &rounds);
    }
    let what = format!("a message to {readers} readers");
    let mut rows = rows(&format!("{what}, until the last has it"), &rounds);
    let what = format!("{what}: CPU of gateway and platform for each, µs");
    rows.push(row(what, 1, [&costs[0], &costs[1]]));
    rows
}

async fn delivered(publisher: &mut Publisher, readers: &mut [Reader], messages: usize) -> Vec<f64> {
    let mut took = Vec::new();
    for number in 0..messages {
        sleep(PACE).await;
        let message = message(number);
        let start = Instant::now();
        let arrival = async {
            for reader in &mut *readers {
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
            for number in 0..size.messages {
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
            add(&mut rounds[kind as usize], &took);
        }
    }
    rows("a client's message and its answer", &rounds)
}

/// Of one length.
pub(crate) fn message(number: usize) -> String {
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

fn add(shares: &mut Shares, took: &[f64]) {
    for (shares, percent) in shares.iter_mut().zip([50, 99]) {
        shares.push(share(took, percent));
    }
}

fn rows(what: &str, [sse, websocket]: &Rounds) -> Vec<Row> {
    let share = |number: usize| {
        let what = format!("{what}: {}, µs", NAMES[number]);
        row(what, 0, [&sse[number], &websocket[number]])
    };
    vec![share(0), share(1)]
}

/// What came of each round, with so many digits behind the point.
fn row(what: String, digits: usize, [sse, websocket]: [&[f64]; 2]) -> Row {
    let ratios = sse.iter().zip(websocket).map(|(sse, other)| other / sse);
    let ratios: Vec<_> = ratios.collect();
    let (least, most) = (share(&ratios, 0), share(&ratios, 100));
    Row {
        what,
        cells: [sse, websocket].map(|values| format!("{:.digits$}", median(values))),
        ratio: format!("{:.2} ({least:.2} to {most:.2})", median(&ratios)),
    }
}
