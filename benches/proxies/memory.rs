//! What streams hold while nothing moves, and what their heartbeats cost.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::{
    Trouble,
    bench::Bench,
    contenders::{Contender, Start},
    events::Shape,
    measure::{Kernel, cpu, kernel, memory},
    process::Process,
    rows::Measured,
    streams::{Streams, stall},
};

/// Before streams are opened, and when they are there.
struct Held {
    own: f64,
    kernel: Kernel,
}

/// When a heartbeat came to which stream.
type Beat = (usize, Instant);

pub(crate) const OWN: &str = "KiB/stream";
const BUFFERS: &str = "kernel's buffers, KiB/stream";
const OBJECTS: &str = "kernel's objects, KiB/stream";

const SHAPE: Shape = Shape {
    size: 200,
    chunk: 1,
};

/// Parts of a heartbeat's interval, in which there should be equally many.
const PARTS: usize = 10;

pub(crate) async fn stalled(
    bench: &mut Bench,
    contender: Contender,
) -> Result<Vec<Measured>, Trouble> {
    const STREAMS: usize = 200;
    let process = start(bench, contender, &[]).await?;
    let before = held(&process);
    let after = || held(&process);
    let after = stall(&mut bench.origin, process.address, STREAMS, SHAPE, after).await?;
    Ok(each(&before, &after, STREAMS))
}

pub(crate) async fn idle(
    bench: &mut Bench,
    contender: Contender,
) -> Result<Vec<Measured>, Trouble> {
    let process = start(bench, contender, &[]).await?;
    let before = held(&process);
    let streams = Streams::open(&mut bench.origin, process.address, bench.idle, SHAPE).await?;
    // the kernel frees some objects a little later
    sleep(Duration::from_secs(1)).await;
    streams.arrivals.check()?;
    Ok(each(&before, &held(&process), bench.idle))
}

/// One that has served a stream: what the first one alone brings is not counted.
async fn start(
    bench: &mut Bench,
    contender: Contender,
    flags: &[&str],
) -> Result<Process, Trouble> {
    let start = Start { flags, under: &[] };
    let process = bench.start(contender, start)?;
    drop(Streams::open(&mut bench.origin, process.address, 1, SHAPE).await?);
    Ok(process)
}

fn held(process: &Process) -> Held {
    Held {
        own: memory(process.id),
        kernel: kernel(),
    }
}

/// The kernel's share is that of the whole way: client, both ends of the proxy, and origin.
fn each(before: &Held, after: &Held, streams: usize) -> Vec<Measured> {
    let differences = [
        (OWN, after.own - before.own),
        (BUFFERS, after.kernel.buffers - before.kernel.buffers),
        (OBJECTS, after.kernel.slab - before.kernel.slab),
    ];
    let each = |(what, bytes): (&str, f64)| (what.to_owned(), bytes / 1024.0 / streams as f64);
    differences.map(each).into()
}

/// Over two intervals, or over ten seconds, so that there are some thousands to each tenth of one.
pub(crate) async fn beats(
    bench: &mut Bench,
    flag: &str,
    interval: Duration,
) -> Result<Vec<Measured>, Trouble> {
    let process = start(bench, Contender::Gateway, &["--heartbeat", flag]).await?;
    let opening = Instant::now();
    let streams = Streams::open(&mut bench.origin, process.address, bench.idle, SHAPE).await?;
    let opening = opening.elapsed();
    // the first of each stream follows its opening, so the second tells of the spread
    sleep(interval).await;
    streams.arrivals.beats.replace(Some(Vec::new()));
    let before = cpu(process.id);
    let watched = interval * (10.0 / interval.as_secs_f64()).ceil().max(2.0) as u32;
    sleep(watched).await;
    let spent = cpu(process.id).saturating_sub(before);
    streams.arrivals.check()?;
    let beats = streams.arrivals.beats.take().unwrap_or_default();
    let left_out = bench.idle - heard(&beats, bench.idle);
    if left_out > 0 {
        return Err(Trouble::Wrong(format!(
            "{left_out} of {} streams got no heartbeat in {watched:?}",
            bench.idle
        )));
    }
    Ok(vec![
        ("opened within, s".to_owned(), opening.as_secs_f64()),
        (
            "heartbeats/(stream × interval)".to_owned(),
            beats.len() as f64
                / bench.idle as f64
                / (watched.as_secs_f64() / interval.as_secs_f64()),
        ),
        (
            "CPU µs/heartbeat".to_owned(),
            spent as f64 / 1000.0 / beats.len() as f64,
        ),
        (
            "fullest tenth of the interval, share of the mean".to_owned(),
            fullest(&beats, interval),
        ),
    ])
}

/// How many streams got one at all.
fn heard(beats: &[Beat], streams: usize) -> usize {
    let mut heard = vec![false; streams];
    for (stream, _) in beats {
        heard[*stream] = true;
    }
    heard.into_iter().filter(|heard| *heard).count()
}

/// 1 is even, [`PARTS`] is all at once.
fn fullest(beats: &[Beat], interval: Duration) -> f64 {
    let mut parts = [0_u32; PARTS];
    let Some((_, first)) = beats.first() else {
        return 0.0;
    };
    for (_, at) in beats {
        let intervals = (*at - *first).as_secs_f64() / interval.as_secs_f64();
        parts[(intervals.fract() * PARTS as f64) as usize % PARTS] += 1;
    }
    let fullest = parts.into_iter().max().unwrap_or_default();
    f64::from(fullest) * PARTS as f64 / beats.len() as f64
}
