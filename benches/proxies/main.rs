//! The gateway beside nginx, HAProxy, Caddy and a bare relay, with event streams through each:
//! `benches/proxies/run`, or `benches/proxies/run --quick` for a look.
//!
//! This program is the origin and all clients, on core 0. A proxy is one process on core 1, and the
//! only one: it is started for each measurement anew and told to hand on what it gets at once. In
//! each round every contender has its turn, and each round begins with another.
//!
//! Counted is what the proxy itself takes, from `/proc`: the CPU time of its threads to the nanosecond,
//! user and system, from the first event to the last after a tenth as many to warm up; and its memory
//! (PSS). A cell is the median over the rounds, with the least and the most. Every event has the
//! number of its stream and its own, and all must arrive, whole and in order, or the run fails.
//! The gateway runs as it does by default, with heartbeats, headers, drain and metrics on.
//!
//! What this does not tell:
//!
//! - How much a proxy can pass on at most. Origin and clients share a core, so in the rows that are
//!   back to back they are what is full, not a quick proxy: it waits, wakes up for what has come
//!   since, and pays more for an event than if it had been given many at once.
//! - The share of the network: all is on one machine, and the kernel does at each write what the
//!   other side would do. No TLS, no HTTP/2, no more than one core for the proxy.
//! - What else the machine does, though root is given the right of way. CPU times and latencies rise when others compute beside; the ratios
//!   of one round and the counts of instructions hardly do.
//! - Latencies below the time that a core takes to wake up, which is most of them when virtual.
//!   `p50` and `p99` are from before the origin's write to after the client's read.
//! - Which part of the kernel's memory is the proxy's: it is counted for the whole way, with origin and
//!   clients. nginx has memory for connections from its start, which is in no stream's share.

mod bench;
mod bounds;
mod chart;
mod contenders;
mod count;
mod events;
mod load;
mod measure;
mod memory;
mod origin;
mod process;
mod relay;
mod rows;
mod streams;
mod table;

use std::{
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    thread::available_parallelism,
};

use clap::{Parser, builder::PossibleValuesParser};
use tokio::{
    runtime::Builder,
    task::{LocalSet, spawn_local},
};

use crate::{
    bench::Bench,
    contenders::{Contender, Programs},
    events::Shape,
    origin::Origin,
    process::{First, free_address, pin, raise_files},
    rows::ROWS,
    streams::Streams,
};

/// Why there is no number.
pub(crate) enum Trouble {
    /// The row cannot be measured here.
    Unable(String),
    /// A proxy did not do its work, and nothing that was measured counts.
    Wrong(String),
}

#[derive(Parser)]
#[command(
    name = "proxies",
    about = "The gateway beside other proxies, streams through each"
)]
struct Args {
    /// A look: fewer rounds, fewer events, and the rows that take long left out
    #[arg(long)]
    quick: bool,

    /// Only this row; may be given more than once
    #[arg(long, value_name = "ROW", value_parser = PossibleValuesParser::new(ROWS.iter().map(|row| row.key)))]
    only: Vec<String>,

    /// Only this contender; may be given more than once
    #[arg(long, value_name = "NAME", value_parser = Contender::ALL.map(Contender::name))]
    only_proxy: Vec<String>,

    /// How often each contender is measured [default: 5, quick: 2]
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,

    /// Idle streams [default: 20000, quick: 1000]
    #[arg(long, value_name = "N")]
    idle: Option<usize>,

    /// The gateway's program [default: where cargo puts it]
    #[arg(long, value_name = "FILE")]
    gateway: Option<PathBuf>,

    /// Where the table, the chart and the numbers are put [default: proxies in the target folder]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// What `cargo bench` says
    #[arg(long, hide = true)]
    bench: bool,

    /// Be the bare relay
    #[arg(long, hide = true, requires = "upstream")]
    relay: Option<SocketAddr>,

    #[arg(long, hide = true)]
    upstream: Option<SocketAddr>,
}

/// Of this program and of each proxy: two for each of 20,000 streams, and as many again.
const FILES: usize = 80_000;

/// For all that is no stream.
const SPARE: usize = 200;

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Unable(error.to_string())
    }
}

fn main() -> ExitCode {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let tasks = LocalSet::new();
    // `cargo test` wants to know that it runs
    let ran = if env::args().any(|argument| argument == "--bench") {
        runtime.block_on(tasks.run_until(run(Args::parse())))
    } else {
        runtime.block_on(tasks.run_until(check()))
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Unable(what) | Trouble::Wrong(what)) => {
            eprintln!("proxies: {what}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Trouble> {
    if let (Some(listen), Some(upstream)) = (args.relay, args.upstream) {
        return Ok(relay::relay(listen, upstream).await?);
    }
    let cores = available_parallelism()?.get();
    if cores > 1 {
        pin(0)?;
    } else {
        eprintln!("one core: origin, load and proxy share it");
    }
    let _first = First::new();
    let files = raise_files(FILES);
    let target = target()?;
    let programs = Programs {
        gateway: args
            .gateway
            .unwrap_or(target.join("release/examples/gateway")),
        core: (cores > 1).then_some(1),
        connections: files.saturating_sub(SPARE).max(SPARE),
    };
    let wanted = args.idle.unwrap_or(if args.quick { 1000 } else { 20_000 });
    let idle = wanted.min(files.saturating_sub(2 * SPARE) / 2);
    if idle < wanted {
        eprintln!("{files} open files for each program allow {idle} idle streams, not {wanted}");
    }
    let rounds = args.rounds.unwrap_or(if args.quick { 2 } else { 5 });
    let contenders: Vec<_> = Contender::ALL
        .into_iter()
        .filter(|one| {
            args.only_proxy.is_empty() || args.only_proxy.iter().any(|name| name == one.name())
        })
        .collect();
    let mut bench = Bench::new(Origin::start().await?, programs, args.quick, idle);
    let ran = bench.run(&args.only, &contenders, rounds).await;
    let out = args.out.unwrap_or(target.join("proxies"));
    report(&bench, &contenders, &out)?;
    ran
}

/// `<target>`, of `<target>/release/deps/<this program>`.
fn target() -> io::Result<PathBuf> {
    let program = env::current_exe()?;
    Ok(program
        .ancestors()
        .nth(3)
        .unwrap_or(Path::new("."))
        .to_owned())
}

fn report(bench: &Bench, contenders: &[Contender], out: &Path) -> io::Result<()> {
    let table = table::markdown(&bench.samples, contenders);
    let verdicts = bounds::verdicts(&bench.samples);
    println!("{table}\n{verdicts}");
    fs::create_dir_all(out)?;
    fs::write(out.join("table.md"), table + "\n")?;
    let chart = chart::svg(&bench.samples, contenders);
    fs::write(out.join("chart.svg"), chart)?;
    fs::write(out.join("numbers.csv"), table::csv(&bench.samples))
}

/// Streams through the relay, in this process: no other program is needed.
async fn check() -> Result<(), Trouble> {
    let mut origin = Origin::start().await?;
    let listen = free_address()?;
    spawn_local(relay::relay(listen, origin.address));
    tokio::task::yield_now().await;
    for (size, chunk) in [(64, 1), (200, 7), (65_536, 1)] {
        let mut streams = Streams::open(&mut origin, listen, 3, Shape { size, chunk }).await?;
        streams.flood(50).await?;
        streams.rounds(5).await?;
    }
    events::check().map_err(Trouble::Wrong)?;
    println!("streams came through");
    Ok(())
}
