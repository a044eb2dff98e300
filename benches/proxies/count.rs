//! What a busy machine does not change: system calls by strace, instructions by valgrind. In lock
//! step, so that each event is a passage of its own.

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tokio::time::sleep;

use crate::{
    Trouble,
    bench::Bench,
    contenders::{Contender, Start},
    events::Shape,
    process::{Folder, Process, signal},
    rows::Measured,
    streams::Streams,
};

pub(crate) const INSTRUCTIONS: &str = "user instructions/event";
const CALLS: &str = "system calls/event";

const SHAPE: Shape = Shape {
    size: 200,
    chunk: 1,
};

/// Enough that what differs from start to start is little beside them.
const EVENTS: u64 = 3000;

const VALGRIND: [&str; 3] = [
    "valgrind",
    "--tool=callgrind",
    "--callgrind-out-file=/dev/null",
];

/// How long strace may take to begin.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) async fn calls(
    bench: &mut Bench,
    contender: Contender,
) -> Result<Vec<Measured>, Trouble> {
    let process = bench.start(contender, Start::default())?;
    let mut streams = Streams::open(&mut bench.origin, process.address, 1, SHAPE).await?;
    streams.rounds(EVENTS / 10).await?;
    let folder = Folder::new("strace")?;
    let counts = folder.0.join("counts");
    let mut strace = Command::new("strace")
        .args(["-c", "-f", "-p", &process.id.to_string(), "-o"])
        .arg(&counts)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| Trouble::Unable(format!("strace: {error}")))?;
    let traced = traced(&process).await;
    let sent = match traced {
        Ok(()) => streams.rounds(EVENTS).await,
        Err(error) => Err(error),
    };
    signal("INT", strace.id());
    strace.wait()?;
    sent?;
    let counts = fs::read_to_string(&counts)?;
    let calls =
        total(&counts).ok_or_else(|| Trouble::Unable("strace tells no total".to_owned()))?;
    Ok(vec![(CALLS.to_owned(), calls / EVENTS as f64)])
}

async fn traced(process: &Process) -> Result<(), Trouble> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let status = fs::read_to_string(format!("/proc/{}/status", process.id))?;
        if !status.contains("TracerPid:\t0\n") {
            return Ok(());
        }
        sleep(Duration::from_millis(10)).await;
    }
    Err(Trouble::Unable("strace may not trace".to_owned()))
}

/// `100.00    0.012345           4      3000         1 total`
fn total(counts: &str) -> Option<f64> {
    let line = counts.lines().find(|line| line.ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// With some events and with twice as many: the difference is without start and end.
pub(crate) async fn instructions(
    bench: &mut Bench,
    contender: Contender,
) -> Result<Vec<Measured>, Trouble> {
    if contender == Contender::Caddy {
        let why = "programs in Go do not run under valgrind";
        return Err(Trouble::Unable(why.to_owned()));
    }
    let once = collected(bench, contender, EVENTS).await?;
    let twice = collected(bench, contender, 2 * EVENTS).await?;
    let each = (twice - once) / EVENTS as f64;
    Ok(vec![(INSTRUCTIONS.to_owned(), each)])
}

async fn collected(bench: &mut Bench, contender: Contender, events: u64) -> Result<f64, Trouble> {
    let start = Start {
        flags: &[],
        under: &VALGRIND,
    };
    let process = bench.start(contender, start)?;
    let mut streams = Streams::open(&mut bench.origin, process.address, 1, SHAPE).await?;
    streams.rounds(events).await?;
    drop(streams);
    let said = process.stop();
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.ok_or_else(|| Trouble::Unable("valgrind tells no count".to_owned()))
}
