//! SSE or WebSocket: the same topic over both, `cargo bench --bench websocket` (under two minutes, and the
//! build of the gateway).
//!
//! The gateway with its demo platform is a process of its own, on a core of its own if there are two,
//! with its defaults. The clients are here, on one thread, and both kinds on the same runtime: for
//! events a socket on which lines are looked for, for WebSockets tokio-tungstenite.
//!
//! - Latencies are from before a message is published to after its reader has it, one message at a
//!   time. In each round both kinds have their turn; a cell is the median over the rounds, and the
//!   ratio that of one round, with the least and the most.
//! - Bytes are counted on the client's sockets: HTTP and WebSocket framing is in them, TCP and TLS are
//!   not. Requests have no field that they could do without: a browser adds the same to both.
//! - Memory is what the process has more (PSS) with so many connections open, and nothing said.
//! - A cut closes the connection between client and gateway. Who comes back by themselves is asked of
//!   Chromium, if ChromeDriver is installed.
//!
//! What this does not tell: anything over HTTP/2, where many streams share one connection and heads are
//! compressed; TLS; a network. Latencies below the time that a core takes to wake up are that time.

use std::{env, net::SocketAddr, process::Command, thread::available_parallelism, time::Duration};

use tokio::runtime::Builder;

use crate::{
    held::Silent,
    process::{First, pin, raise_files},
    programs::process::eventually,
};

pub(crate) use crate::programs::gateway::Gateway;

mod cable;
mod held;
mod latency;
#[allow(dead_code)]
#[path = "../proxies/measure.rs"]
mod measure;
#[allow(dead_code)]
#[path = "../proxies/process.rs"]
mod process;
mod programs;
mod reader;
mod reconnect;
#[path = "../support/report.rs"]
mod report;
mod table;
mod wire;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    rounds: usize,
    /// In a round, to one reader; a quarter of them to many.
    messages: usize,
    readers: usize,
    idle: usize,
    /// How long nobody says anything.
    silence: Duration,
    /// None is the gateway's default.
    heartbeat: Option<&'static str>,
    /// Whether a browser is asked, too.
    browser: bool,
}

/// Where a gateway listens, and its platform behind it.
pub(crate) struct Addresses {
    gateway: SocketAddr,
    platform: SocketAddr,
}

/// What the programs of the proxies' bench say when they cannot.
pub(crate) enum Trouble {
    Unable(String),
}

const MEASURED: Size = Size {
    rounds: 15,
    messages: 200,
    readers: 100,
    idle: 1000,
    silence: Duration::from_secs(60),
    heartbeat: None,
    browser: true,
};

/// Where it is only seen that it runs.
const TESTED: Size = Size {
    rounds: 1,
    messages: 8,
    readers: 3,
    idle: 3,
    silence: Duration::from_millis(500),
    heartbeat: Some("100ms"),
    browser: false,
};

/// Of a message, in bytes.
pub(crate) const LENGTH: usize = 100;

/// Of each program: the gateway's has three for a connection, its platform being in it, and some more.
const FILES: usize = 8_000;

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Unable(error.to_string())
    }
}

fn main() {
    let mut size = if env::args().any(|argument| argument == "--bench") {
        MEASURED
    } else {
        TESTED
    };
    let files = raise_files(FILES);
    size.idle = size.idle.min(files / 4);
    let _first = size.browser.then(First::new);
    if cores() > 1
        && let Err(Trouble::Unable(what)) = pin(0)
    {
        eprintln!("client and server are not kept apart: {what}");
    }
    let runtime = Builder::new_current_thread().enable_all().build();
    let rows = runtime.expect("a runtime").block_on(run(&size));
    table::print(&rows);
}

async fn run(size: &Size) -> Vec<table::Row> {
    let silent = Silent::open(size).await;
    let (gateway, addresses) = start(&[]).await;
    let mut rows = Vec::new();
    for readers in [1, size.readers] {
        rows.extend(latency::readers(&gateway, &addresses, readers, size).await);
    }
    rows.extend(latency::exchanges(&addresses, size).await);
    rows.extend(held::bytes(&addresses).await);
    let idle = held::idle(size).await;
    let mut losses = reconnect::losses(&addresses, size).await;
    losses.push(reconnect::answer(&addresses).await);
    rows.push(silent.row(&addresses).await);
    rows.extend(idle);
    rows.extend(losses);
    if size.browser {
        rows.push(reconnect::browser().await);
    }
    rows
}

/// A gateway with its platform, on the other core.
pub(crate) async fn start(flags: &[&str]) -> (Gateway, Addresses) {
    let gateway = Gateway::demo(flags).await;
    if cores() > 1 {
        let _ = Command::new("taskset")
            .args(["-acp", "1", &gateway.id().to_string()])
            .output();
    }
    let platform = eventually("the platform's address", async || {
        let log = gateway.stderr();
        let (_, rest) = log.split_once("upstream: http://")?;
        rest.split_once('\n')?.0.trim().parse().ok()
    });
    let addresses = Addresses {
        gateway: gateway.address.parse().expect("an address"),
        platform: platform.await,
    };
    (gateway, addresses)
}

/// Of the machine: this program may already be kept to one.
fn cores() -> usize {
    static CORES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *CORES.get_or_init(|| available_parallelism().map_or(1, Into::into))
}
