//! Randomness that keeps many streams from doing the same thing at once.

use std::time::Duration;

/// So that a time can be added to any other without an overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// A timer wheel turns in milliseconds: asking for less would be a busy loop.
pub(crate) const SHORTEST: Duration = Duration::from_millis(1);

/// How far a time may be moved, as a share of it: 0 not at all, 1 all the way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Jitter(f64);

impl Jitter {
    pub(crate) const fn new(share: f64) -> Self {
        // NaN is neither, and becomes no jitter.
        if share >= 1.0 {
            Self(1.0)
        } else if share > 0.0 {
            Self(share)
        } else {
            Self(0.0)
        }
    }

    /// `time` or up to the share earlier; for what must not come late.
    pub(crate) fn earlier(self, time: Duration) -> Duration {
        let cut = Duration::try_from_secs_f64(time.as_secs_f64() * self.0 * fastrand::f64());
        time.saturating_sub(cut.unwrap_or_default())
    }

    /// `time`, up to the share earlier or later; for what should spread around a middle.
    pub(crate) fn around(self, time: Duration) -> Duration {
        Self(self.0 * 2.0 / (1.0 + self.0)).earlier(self.latest(time))
    }

    /// `time` and all of the share.
    pub(crate) fn latest(self, time: Duration) -> Duration {
        let later = Duration::try_from_secs_f64(time.as_secs_f64() * self.0);
        time.saturating_add(later.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_stay_within_their_share_and_nothing_overflows() {
        let second = Duration::from_secs(1);
        for share in [0.0, 0.25, 1.0, -3.0, 7.0, f64::NAN, f64::INFINITY] {
            let jitter = Jitter::new(share);
            let reach = second.mul_f64(jitter.0);
            for _ in 0..1000 {
                let earlier = jitter.earlier(second);
                assert!(earlier <= second && earlier >= second - reach);
                let around = jitter.around(second);
                assert!(
                    around <= second + reach && around + reach >= second,
                    "{around:?}"
                );
            }
            for extreme in [Duration::ZERO, Duration::MAX] {
                jitter.earlier(extreme);
                jitter.around(extreme);
            }
        }
    }
}
