//! What the system knows of a process, and of itself.

use std::{cmp::Ordering, fs};

/// Bytes that the kernel holds for all processes.
#[derive(Clone, Copy)]
pub(crate) struct Kernel {
    /// What waits in the buffers of connections, in whole pages.
    pub(crate) buffers: f64,
    /// Objects: sockets, files, what epoll knows of them.
    pub(crate) slab: f64,
}

const PAGE: f64 = 4096.0;

/// The CPU time of all its threads, in nanoseconds.
pub(crate) fn cpu(process: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else {
        return 0;
    };
    let times = threads.flatten().filter_map(|thread| {
        let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedstat.split(' ').next()?.parse::<u64>().ok()
    });
    times.sum()
}

/// The memory that it has to itself and its share of what it has with others, in bytes.
pub(crate) fn memory(process: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"));
    kibibytes(&rollup.unwrap_or_default(), "Pss:")
}

pub(crate) fn kernel() -> Kernel {
    let sockets = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:"));
    let pages = tcp.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Kernel {
        buffers: pages.unwrap_or_default() * PAGE,
        slab: kibibytes(&memory, "Slab:"),
    }
}

fn kibibytes(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    number.unwrap_or_default() * 1024.0
}

/// The value below which so many percent are.
pub(crate) fn share<T: PartialOrd + Copy + Default>(values: &mut [T], percent: usize) -> T {
    values.sort_unstable_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    let last = values.len().saturating_sub(1);
    let at = (last * percent).div_ceil(100);
    values.get(at).copied().unwrap_or_default()
}
