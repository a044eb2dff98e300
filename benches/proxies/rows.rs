//! The rows of the table: what is sent, and what is measured while it is.

use std::time::Duration;

use crate::{
    Trouble,
    bench::Bench,
    contenders::{Contender, Start},
    count,
    events::Shape,
    measure::{cpu, share},
    memory,
    process::Process,
    streams::Streams,
};

pub(crate) struct Row {
    /// For `--only`.
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    work: Work,
}

#[derive(Clone, Copy)]
enum Work {
    Cpu(Point),
    /// With the time from the origin to the client.
    Paced,
    LockStep,
    Calls,
    Instructions,
    Stalled,
    Idle,
    /// The gateway's flag, and its seconds.
    Beats(&'static str, u64),
    /// Each point is named by its place on the axis.
    Growth(&'static [(&'static str, Point)]),
}

#[derive(Clone, Copy)]
struct Point {
    streams: usize,
    shape: Shape,
    /// Over all streams.
    events: u64,
    way: Way,
}

#[derive(Clone, Copy)]
enum Way {
    /// As fast as they are taken.
    Flood,
    /// One chunk for each stream, and the next when all have arrived.
    Rounds,
}

/// A number and what it is.
pub(crate) type Measured = (String, f64);

pub(crate) const CPU: &str = "CPU µs/event";
pub(crate) const P50: &str = "p50 µs";
pub(crate) const P99: &str = "p99 µs";

const SMALL: Shape = Shape {
    size: 200,
    chunk: 1,
};
const TOKEN: Shape = Shape {
    size: 120,
    chunk: 1,
};

pub(crate) static ROWS: [Row; 16] = [
    row(
        "flood",
        "one event of 200 B a chunk, back to back, 50 streams",
        Work::Cpu(flood(50, 200, 1, 400_000)),
    ),
    row(
        "flood-1",
        "the same, 1 stream",
        Work::Cpu(flood(1, 200, 1, 400_000)),
    ),
    row(
        "chunks",
        "64 events of 200 B a chunk, 50 streams",
        Work::Cpu(flood(50, 200, 64, 1_600_000)),
    ),
    row(
        "large",
        "one event of 4 KiB a chunk, 50 streams",
        Work::Cpu(flood(50, 4096, 1, 100_000)),
    ),
    row(
        "tokens",
        "token chunks of 120 B as they come, 50 streams",
        Work::Cpu(rounds(50, 80_000)),
    ),
    row("paced", "paced, 200 streams of 50 events/s", Work::Paced),
    row("lock-step", "lock step, 1 stream", Work::LockStep),
    row("calls", "lock step, 1 stream", Work::Calls),
    row("instructions", "lock step, 1 stream", Work::Instructions),
    row("stalled", "200 readers that stopped reading", Work::Stalled),
    row("idle", "idle streams", Work::Idle),
    row(
        "beats-15s",
        "idle, heartbeats every 15 s",
        Work::Beats("15s", 15),
    ),
    row(
        "beats-1s",
        "idle, heartbeats every second",
        Work::Beats("1s", 1),
    ),
    row(
        "growth-streams",
        "streams, one event each at a time",
        Work::Growth(&[
            ("1", rounds(1, 15_000)),
            ("10", rounds(10, 30_000)),
            ("100", rounds(100, 50_000)),
            ("1000", rounds(1000, 50_000)),
            ("5000", rounds(5000, 50_000)),
        ]),
    ),
    row(
        "growth-size",
        "bytes of an event, one a chunk, back to back, 50 streams",
        Work::Growth(&[
            ("64", flood(50, 64, 1, 400_000)),
            ("256", flood(50, 256, 1, 300_000)),
            ("1024", flood(50, 1024, 1, 150_000)),
            ("4096", flood(50, 4096, 1, 75_000)),
            ("16384", flood(50, 16_384, 1, 25_000)),
            ("65536", flood(50, 65_536, 1, 10_000)),
        ]),
    ),
    row(
        "growth-chunk",
        "events of 200 B in a chunk, back to back, 50 streams",
        Work::Growth(&[
            ("1", flood(50, 200, 1, 400_000)),
            ("4", flood(50, 200, 4, 600_000)),
            ("16", flood(50, 200, 16, 800_000)),
            ("64", flood(50, 200, 64, 1_000_000)),
            ("256", flood(50, 200, 256, 1_000_000)),
        ]),
    ),
];

const fn row(key: &'static str, title: &'static str, work: Work) -> Row {
    Row { key, title, work }
}

const fn flood(streams: usize, size: usize, chunk: usize, events: u64) -> Point {
    Point {
        streams,
        shape: Shape { size, chunk },
        events,
        way: Way::Flood,
    }
}

const fn rounds(streams: usize, events: u64) -> Point {
    Point {
        streams,
        shape: TOKEN,
        events,
        way: Way::Rounds,
    }
}

impl Row {
    /// Rows of the full form alone take long.
    pub(crate) fn in_quick_form(&self) -> bool {
        !matches!(
            self.work,
            Work::Calls | Work::Instructions | Work::Growth(_) | Work::Beats(_, 15)
        )
    }

    /// Whether each of its numbers is named by its place on an axis.
    pub(crate) fn is_growth(&self) -> bool {
        matches!(self.work, Work::Growth(_))
    }

    pub(crate) fn is_for(&self, contender: Contender) -> bool {
        match self.work {
            Work::Beats(..) => contender == Contender::Gateway,
            Work::Growth(_) => contender.grows(),
            _ => true,
        }
    }

    /// What takes long is done less often, and hardly changes between rounds.
    pub(crate) fn rounds(&self, rounds: usize) -> usize {
        match self.work {
            Work::Cpu(_) | Work::Paced | Work::LockStep => rounds,
            Work::Stalled | Work::Growth(_) | Work::Instructions => rounds.div_ceil(2),
            Work::Calls | Work::Idle | Work::Beats(..) => 1,
        }
    }

    pub(crate) async fn measure(
        &self,
        bench: &mut Bench,
        contender: Contender,
    ) -> Result<Vec<Measured>, Trouble> {
        match self.work {
            Work::Cpu(point) => Ok(vec![(CPU.to_owned(), at(bench, contender, point).await?)]),
            Work::Paced => paced(bench, contender).await,
            Work::LockStep => lock_step(bench, contender).await,
            Work::Calls => count::calls(bench, contender).await,
            Work::Instructions => count::instructions(bench, contender).await,
            Work::Stalled => memory::stalled(bench, contender).await,
            Work::Idle => memory::idle(bench, contender).await,
            Work::Beats(flag, seconds) => {
                memory::beats(bench, flag, Duration::from_secs(seconds)).await
            }
            Work::Growth(points) => {
                let mut measured = Vec::new();
                for (name, point) in points {
                    measured.push(((*name).to_owned(), at(bench, contender, *point).await?));
                }
                Ok(measured)
            }
        }
    }
}

/// Microseconds of CPU per event, after a tenth as many that are not counted.
async fn at(bench: &mut Bench, contender: Contender, point: Point) -> Result<f64, Trouble> {
    let each = (point.events / bench.divisor() / point.streams as u64).max(2);
    let process = bench.start(contender, Start::default())?;
    let address = process.address;
    let mut streams = Streams::open(&mut bench.origin, address, point.streams, point.shape).await?;
    send(&mut streams, point, each.div_ceil(10)).await?;
    cpu_per_event(&process, &mut streams, async |streams| {
        send(streams, point, each).await
    })
    .await
}

async fn send(streams: &mut Streams, point: Point, each: u64) -> Result<(), Trouble> {
    match point.way {
        Way::Flood => streams.flood(each).await,
        Way::Rounds => streams.rounds(each).await,
    }
}

async fn cpu_per_event(
    process: &Process,
    streams: &mut Streams,
    work: impl AsyncFnOnce(&mut Streams) -> Result<(), Trouble>,
) -> Result<f64, Trouble> {
    let before = (cpu(process.id), streams.arrivals.events.get());
    work(streams).await?;
    let after = (cpu(process.id), streams.arrivals.events.get());
    Ok(after.0.saturating_sub(before.0) as f64 / 1000.0 / (after.1 - before.1) as f64)
}

async fn paced(bench: &mut Bench, contender: Contender) -> Result<Vec<Measured>, Trouble> {
    const STREAMS: usize = 200;
    const INTERVAL: Duration = Duration::from_millis(20);
    let times = 150 / bench.divisor() as u32;
    let process = bench.start(contender, Start::default())?;
    let mut streams = Streams::open(&mut bench.origin, process.address, STREAMS, SMALL).await?;
    streams.paced(INTERVAL, times / 10).await?;
    streams.arrivals.latencies.replace(Some(Vec::new()));
    let cpu = cpu_per_event(&process, &mut streams, async |streams| {
        streams.paced(INTERVAL, times).await
    })
    .await?;
    let mut latencies = streams.arrivals.latencies.take().unwrap_or_default();
    let [p50, p99] = [50, 99].map(|percent| share(&mut latencies, percent) as f64 / 1000.0);
    Ok(vec![
        (CPU.to_owned(), cpu),
        (P50.to_owned(), p50),
        (P99.to_owned(), p99),
    ])
}

async fn lock_step(bench: &mut Bench, contender: Contender) -> Result<Vec<Measured>, Trouble> {
    const EVENTS: u64 = 15_000;
    let events = EVENTS / bench.divisor();
    let process = bench.start(contender, Start::default())?;
    let mut streams = Streams::open(&mut bench.origin, process.address, 1, SMALL).await?;
    streams.rounds(events / 10).await?;
    streams.arrivals.latencies.replace(Some(Vec::new()));
    let cpu = cpu_per_event(&process, &mut streams, async |streams| {
        streams.rounds(events).await
    })
    .await?;
    let mut latencies = streams.arrivals.latencies.take().unwrap_or_default();
    let p50 = share(&mut latencies, 50) as f64 / 1000.0;
    Ok(vec![(CPU.to_owned(), cpu), (P50.to_owned(), p50)])
}
