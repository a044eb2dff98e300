use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    ResumeStore, StoreError, StoreFuture, StreamEnd, StreamId,
    about::About,
    live::{Live, LiveEnd, Seat},
    stats::{Count, Counters},
};
use crate::trace::trace;

/// What all requests and streams of one layer share: the store, and the streams that run.
pub(super) struct Hub {
    pub(super) store: Arc<dyn ResumeStore>,
    pub(super) counters: Counters,
    streams: Mutex<Streams>,
    /// The store did not do what it was asked.
    down: AtomicBool,
    /// A stream has gone.
    gone: Notify,
}

#[derive(Default)]
struct Streams {
    running: HashMap<StreamId, Running>,
    /// A task renews the leases.
    kept: bool,
}

/// A stream that runs, and is read here.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) live: Arc<Live>,
    pub(super) about: Arc<About>,
    pub(super) since: Instant,
    /// Its producer is here too.
    pub(super) produced: bool,
}

/// The producer's or follower's hold on its stream: when it is dropped, the stream has gone.
pub(super) struct Hold {
    pub(super) hub: Arc<Hub>,
    pub(super) stream: StreamId,
    pub(super) live: Arc<Live>,
}

/// How long the store may take. A live stream waits for it once, and then goes on without.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a store that is down is asked whether it is back.
pub(super) const PROBE: Duration = Duration::from_millis(500);

impl Hub {
    pub(super) fn new(store: Arc<dyn ResumeStore>) -> Arc<Self> {
        Arc::new(Self {
            store,
            counters: Counters::default(),
            streams: Mutex::default(),
            down: AtomicBool::new(false),
            gone: Notify::new(),
        })
    }

    // === The store ===

    /// Asks the store, but not for long.
    pub(super) async fn ask<T: Unpin>(&self, answer: StoreFuture<'_, T>) -> Result<T, StoreError> {
        let answer = timeout(PATIENCE, answer).await;
        let answer = answer.unwrap_or_else(|late| Err(StoreError::failed(late)));
        match &answer {
            Err(StoreError::Failed(error)) => {
                self.counters.add(Count::StoreFaults);
                if !self.down.swap(true, Relaxed) {
                    trace!(warn, "the store of event streams is down", error = error);
                }
            }
            Ok(_) | Err(StoreError::Unknown) => {
                if self.down.swap(false, Relaxed) {
                    trace!(info, "the store of event streams is back");
                    self.wake_producers();
                }
            }
        }
        answer
    }

    /// The same, but asks again while the store fails, for so long: its faults are no loss yet.
    pub(super) async fn ask_again<'a, T: Unpin>(
        &self,
        patience: Duration,
        ask: impl Fn() -> StoreFuture<'a, T>,
    ) -> Result<T, StoreError> {
        let give_up = Instant::now() + patience;
        loop {
            match self.ask(ask()).await {
                Err(StoreError::Failed(_)) if Instant::now() < give_up => sleep(PROBE).await,
                answer => return answer,
            }
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.load(Relaxed)
    }

    /// Renews the leases for as long as anything is produced here, and finds out when a store that
    /// is down is back.
    async fn keep(hub: Weak<Self>, lease: Duration) {
        loop {
            let down = hub.upgrade().is_some_and(|hub| hub.is_down());
            sleep(if down { PROBE } else { lease / 3 }).await;
            let Some(hub) = hub.upgrade() else { return };
            let Some(streams) = hub.produced() else {
                return;
            };
            // A fault is counted and traced where it was seen.
            let _ = hub.ask(hub.store.renew(&streams)).await;
        }
    }

    /// The ids of what is produced here; with none, nobody keeps them any more.
    fn produced(&self) -> Option<Vec<StreamId>> {
        let mut streams = self.streams();
        let produced = streams.running.iter().filter(|(_, run)| run.produced);
        let produced: Vec<_> = produced.map(|(stream, _)| *stream).collect();
        streams.kept = !produced.is_empty();
        streams.kept.then_some(produced)
    }

    fn wake_producers(&self) {
        for (_, running) in self.list() {
            running.live.wake_producer();
        }
    }

    // === The streams ===

    /// A stream that will be produced here, and its first reader.
    pub(super) fn begin(self: &Arc<Self>, stream: StreamId, about: Arc<About>) -> (Hold, Seat) {
        let mut streams = self.streams();
        if !std::mem::replace(&mut streams.kept, true) {
            tokio::spawn(Self::keep(Arc::downgrade(self), self.store.lease()));
        }
        self.enter(streams, stream, about, Live::new(0), true)
    }

    /// A reader of a stream that runs elsewhere; with the hold, if nobody follows it so far.
    pub(super) fn follow(
        self: &Arc<Self>,
        stream: StreamId,
        about: Arc<About>,
        after: u64,
    ) -> (Option<Hold>, Seat) {
        let streams = self.streams();
        if let Some(running) = streams.running.get(&stream) {
            return (None, running.live.join());
        }
        let (hold, seat) = self.enter(streams, stream, about, Live::new(after), false);
        (Some(hold), seat)
    }

    fn enter(
        self: &Arc<Self>,
        mut streams: MutexGuard<'_, Streams>,
        stream: StreamId,
        about: Arc<About>,
        live: Arc<Live>,
        produced: bool,
    ) -> (Hold, Seat) {
        let seat = live.join();
        let running = Running {
            live: live.clone(),
            about,
            since: Instant::now(),
            produced,
        };
        streams.running.insert(stream, running);
        let hub = self.clone();
        (Hold { hub, stream, live }, seat)
    }

    /// A reader of a stream that runs, or is followed, here.
    pub(super) fn join(&self, stream: StreamId) -> Option<Seat> {
        let streams = self.streams();
        Some(streams.running.get(&stream)?.live.join())
    }

    pub(super) fn list(&self) -> Vec<(StreamId, Running)> {
        let streams = self.streams();
        let running = streams.running.iter();
        running.map(|(id, run)| (*id, run.clone())).collect()
    }

    pub(super) fn running(&self, stream: StreamId) -> Option<Running> {
        self.streams().running.get(&stream).cloned()
    }

    /// Waits until nothing is produced here.
    pub(super) async fn idle(&self) {
        loop {
            let gone = self.gone.notified();
            if !self.list().iter().any(|(_, running)| running.produced) {
                return;
            }
            gone.await;
        }
    }

    pub(super) fn stop_all(&self, end: StreamEnd) {
        for (_, running) in self.list() {
            running.live.stop(end);
        }
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// Lets go of the stream if nobody reads it. Those who come from now on find it gone.
    pub(super) fn release_unread(&self) -> bool {
        let mut streams = self.hub.streams();
        let unread = self.live.readers() == 0;
        if unread {
            streams.remove(self.stream, &self.live);
        }
        unread
    }
}

impl Streams {
    /// Only that one: another may run under the same id by now.
    fn remove(&mut self, stream: StreamId, live: &Arc<Live>) {
        let running = self.running.get(&stream);
        if running.is_some_and(|running| Arc::ptr_eq(&running.live, live)) {
            self.running.remove(&stream);
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Has an effect only where the task died of a panic, in the service's body say.
        self.live.finish(LiveEnd::Broken(None));
        self.hub.streams().remove(self.stream, &self.live);
        self.hub.gone.notify_waiters();
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("store", &self.store)
            .field("streams", &self.streams().running.len())
            .field("down", &self.is_down())
            .finish_non_exhaustive()
    }
}
