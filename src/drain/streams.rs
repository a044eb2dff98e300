use std::{
    fmt,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{end::EndReason, reach::Reach, registry::Registry, trace::trace};

/// The streams of a drain that are open, and when it started.
#[derive(Default)]
pub(super) struct Streams {
    started: OnceLock<Instant>,
    open: Registry<Stream>,
    /// It has started, or the last stream has gone.
    changed: Notify,
}

struct Stream {
    /// How long after the start it is freed from outside.
    free_after: Duration,
    reason: EndReason,
    reach: Weak<dyn Reach>,
}

/// Keeps a stream among those that are left; dropped, it is gone.
#[derive(Debug)]
pub(super) struct Registration {
    id: u64,
    streams: Arc<Streams>,
}

impl Streams {
    /// When the drain started.
    pub(super) fn started(&self) -> Option<Instant> {
        self.started.get().copied()
    }

    /// Starts the drain and has all streams polled; false if it had started before.
    pub(super) fn start(&self) -> bool {
        let first = self.started.set(Instant::now()).is_ok();
        if first {
            self.changed.notify_waiters();
            for stream in self.reachable() {
                stream.wake();
            }
        }
        first
    }

    pub(super) fn left(&self) -> usize {
        self.open.len()
    }

    pub(super) fn register(
        self: &Arc<Self>,
        free_after: Duration,
        reason: EndReason,
        reach: Weak<dyn Reach>,
    ) -> Registration {
        let id = self.open.insert(Stream {
            free_after,
            reason,
            reach,
        });
        // Looked at after the stream is in: a start in between finds it there.
        if let Some(started) = self.started() {
            self.free_at(id, started + free_after);
        }
        Registration {
            id,
            streams: self.clone(),
        }
    }

    /// Waits until it has started and no stream is left, and frees those that had their time.
    pub(super) async fn wait(&self) {
        loop {
            let changed = self.changed.notified();
            let Some(started) = self.started() else {
                changed.await;
                continue;
            };
            self.free_overdue(started);
            match self.next_overdue(started) {
                // Whether it was a change or the time: the look is the same.
                Some(next) => drop(timeout_at(next, changed).await),
                None => return,
            }
        }
    }

    /// For a stream whose request was under way when the drain started, and that no sleeping
    /// [`wait`](Self::wait) knows of.
    fn free_at(self: &Arc<Self>, id: u64, free_at: Instant) {
        if let Ok(runtime) = Handle::try_current() {
            let streams = Arc::downgrade(self);
            runtime.spawn(async move {
                sleep_until(free_at).await;
                if let Some(streams) = streams.upgrade() {
                    streams.free(id);
                }
            });
        }
    }

    fn free_overdue(&self, started: Instant) {
        let now = Instant::now();
        let overdue = |stream: &Stream| started + stream.free_after <= now;
        let ids = self
            .open
            .collect(|id, stream| overdue(stream).then_some(id));
        for id in ids {
            self.free(id);
        }
    }

    fn next_overdue(&self, started: Instant) -> Option<Instant> {
        let times = self.open.collect(|_, stream| Some(stream.free_after));
        Some(started + times.into_iter().min()?)
    }

    fn free(&self, id: u64) {
        let stream = self.open.get(id, |stream| {
            let reach = stream.reach.upgrade();
            reach.map(|reach| (reach, stream.reason))
        });
        if let Some((stream, reason)) = stream.flatten()
            && stream.free(reason)
        {
            trace!(warn, "freed an event stream that nobody reads", id = id);
        }
        self.remove(id);
    }

    fn remove(&self, id: u64) {
        self.open.remove(id);
        if self.started().is_some() && self.open.is_empty() {
            self.changed.notify_waiters();
        }
    }

    fn reachable(&self) -> Vec<Arc<dyn Reach>> {
        self.open.collect(|_, stream| stream.reach.upgrade())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.streams.remove(self.id);
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("started", &self.started())
            .field("left", &self.left())
            .finish()
    }
}
