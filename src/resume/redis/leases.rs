use std::{
    collections::{HashMap, HashSet},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::resume::StreamId;

/// Whose producers are alive. One lease in Redis stands for all streams of the process, so that a
/// renewal is one command; which streams those are is kept here.
pub(super) struct Leases {
    lease: Duration,
    /// In how many turns all streams have their time of keeping begun anew.
    turns: u64,
    turn: AtomicU64,
    /// When each was opened or last renewed.
    ours: Mutex<HashMap<StreamId, Instant>>,
}

/// What a renewal has to tell Redis beside the lease.
pub(super) struct Renewal {
    /// Streams whose time of keeping begins anew.
    pub(super) kept: Vec<StreamId>,
    /// Streams that come, or come back, to this process.
    pub(super) taken: Vec<StreamId>,
    /// Streams whose producer has not renewed them in time.
    pub(super) lost: Vec<StreamId>,
}

impl Leases {
    /// Each stream has its turn once per quarter of its time of keeping: three may fail.
    pub(super) fn new(lease: Duration, keep: Duration) -> Self {
        let turns = (keep / 4).as_millis() / (lease / 3).as_millis().max(1);
        Self {
            lease,
            turns: u64::try_from(turns).unwrap_or(u64::MAX).max(1),
            turn: AtomicU64::new(0),
            ours: Mutex::default(),
        }
    }

    pub(super) fn opened(&self, stream: StreamId) {
        self.ours().insert(stream, Instant::now());
    }

    pub(super) fn closed(&self, stream: StreamId) {
        self.ours().remove(&stream);
    }

    /// These streams are alive.
    pub(super) fn renew(&self, streams: &[StreamId]) -> Renewal {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.turns;
        let has_turn = |stream: &&StreamId| stream.bits() % u128::from(self.turns) == turn.into();
        let kept = streams.iter().filter(has_turn).copied().collect();
        let (alive, now) = (
            streams.iter().copied().collect::<HashSet<_>>(),
            Instant::now(),
        );
        let mut ours = self.ours();
        let taken = alive
            .iter()
            .filter(|stream| !ours.contains_key(stream))
            .copied()
            .collect();
        let mut lost = Vec::new();
        for (stream, renewed) in ours.iter_mut() {
            if alive.contains(stream) {
                *renewed = now;
            } else if now >= *renewed + self.lease {
                lost.push(*stream);
            }
        }
        Renewal { kept, taken, lost }
    }

    /// Redis knows it.
    pub(super) fn renewed(&self, renewal: &Renewal) {
        let now = Instant::now();
        let mut ours = self.ours();
        ours.extend(renewal.taken.iter().map(|stream| (*stream, now)));
        for stream in &renewal.lost {
            ours.remove(stream);
        }
    }

    fn ours(&self) -> MutexGuard<'_, HashMap<StreamId, Instant>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn streams<const N: usize>() -> [StreamId; N] {
        std::array::from_fn(|_| StreamId::random().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_renewed_is_lost_until_it_is_again() {
        let leases = Leases::new(3 * SECOND, 60 * SECOND);
        let [renewed, left, closed] = streams();
        for stream in [renewed, left, closed] {
            leases.opened(stream);
        }
        leases.closed(closed);
        for second in 1..6 {
            tokio::time::advance(SECOND).await;
            let renewal = leases.renew(&[renewed]);
            assert!(renewal.taken.is_empty());
            // said again until Redis knows
            let lost = if second < 3 { vec![] } else { vec![left] };
            assert_eq!(renewal.lost, lost, "{second}");
        }
        leases.renewed(&leases.renew(&[renewed]));
        assert!(leases.renew(&[renewed]).lost.is_empty());
        let back = leases.renew(&[renewed, left]);
        assert_eq!(back.taken, [left]);
        leases.renewed(&back);
        assert!(leases.renew(&[renewed, left]).taken.is_empty());
    }

    #[test]
    fn each_stream_is_kept_once_per_quarter() {
        let streams = streams::<100>();
        for (lease, keep, turns) in [(10, 600, 45), (10, 10, 1), (1, 31_536_000, 23_675_675)] {
            let leases = Leases::new(lease * SECOND, Duration::from_secs(keep));
            assert_eq!(leases.turns, turns);
            if turns < 100 {
                let kept = (0..turns).flat_map(|_| leases.renew(&streams).kept);
                let mut kept: Vec<_> = kept.collect();
                kept.sort();
                let mut all = streams;
                all.sort();
                assert_eq!(kept, all);
            }
        }
    }
}
