use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What a [`ResumeLayer`](super::ResumeLayer) has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResumeStats {
    /// Streams that the service began.
    pub started: u64,
    /// Requests that went on with a stream.
    pub resumed: u64,
    /// Requests that found their stream at its end, and were told so by 204.
    pub complete: u64,
    /// Requests that found their stream gone, not theirs or out of reach, and met the
    /// [`LossPolicy`](super::LossPolicy).
    pub lost: u64,
    /// Readers whose connection was broken off, since the store does not have what comes next, or was
    /// out of reach for too long.
    pub broken_off: u64,
    /// Streams that were ended before their time: nobody read them, or the process was shut down.
    pub abandoned: u64,
    /// Events that the store will not have: it was down for too long or refused them, or they were too
    /// large.
    pub unstored: u64,
    /// Calls that the store failed or refused.
    pub store_faults: u64,
}

/// The fields of [`ResumeStats`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Count {
    Started,
    Resumed,
    Complete,
    Lost,
    BrokenOff,
    Abandoned,
    Unstored,
    StoreFaults,
}

#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; 8]);

impl Counters {
    pub(super) fn add(&self, count: Count) {
        self.0[count as usize].fetch_add(1, Relaxed);
    }

    pub(super) fn stats(&self) -> ResumeStats {
        let count = |count: Count| self.0[count as usize].load(Relaxed);
        ResumeStats {
            started: count(Count::Started),
            resumed: count(Count::Resumed),
            complete: count(Count::Complete),
            lost: count(Count::Lost),
            broken_off: count(Count::BrokenOff),
            abandoned: count(Count::Abandoned),
            unstored: count(Count::Unstored),
            store_faults: count(Count::StoreFaults),
        }
    }
}
