use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::timer::Timer;

/// Sees that frames are written, so that an error behind them cannot overtake them.
///
/// hyper drops what it has not written yet when an error follows, even the response head. It also
/// drops what it has written: a frame that is gone is on its way.
#[derive(Debug, Default)]
pub(crate) struct Flush {
    /// Shared with every frame that is under way.
    unwritten: Arc<()>,
    /// There are frames that were not tracked, and may not be written for long.
    lost: Option<Arc<()>>,
    looks: Option<Looks>,
}

#[derive(Debug)]
struct Looks {
    next: Instant,
    last: Instant,
}

struct Tracked {
    bytes: Bytes,
    _unwritten: Arc<()>,
}

/// Between two looks. Also how long the frames are given that were not tracked: a millisecond is
/// enough where the machine is idle.
const LOOK: Duration = Duration::from_millis(10);

/// A client that does not read gets its error anyway.
const LIMIT: Duration = Duration::from_secs(1);

impl Flush {
    /// The frame, and a trace of it.
    pub(crate) fn track(&self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Tracked {
            bytes,
            _unwritten: self.unwritten.clone(),
        })
    }

    /// Frames are under way that nobody can see: they get all the time there is.
    pub(crate) fn lose_track(&mut self) {
        self.lost = Some(self.unwritten.clone());
    }

    /// Ready when all is written, as far as it can be seen.
    pub(crate) fn poll_written(&mut self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<()> {
        let looks = self.looks.get_or_insert_with(Looks::begin);
        loop {
            ready!(timer.poll_until(looks.next, cx));
            let now = Instant::now();
            if Arc::strong_count(&self.unwritten) == 1 || now >= looks.last {
                return Poll::Ready(());
            }
            looks.next = now + LOOK;
        }
    }
}

impl Looks {
    fn begin() -> Self {
        let now = Instant::now();
        Self {
            next: now + LOOK,
            last: now + LIMIT,
        }
    }
}

impl AsRef<[u8]> for Tracked {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
