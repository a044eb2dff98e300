use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    ResumeStore, StoreError, StoreFuture, StreamId,
    about::About,
    live::{Live, LiveEnd, Seat},
    stats::{Count, Counters},
};
use crate::trace::trace;

/// What all requests and streams of one layer share: the store, and the streams that run.
pub(super) struct Hub {
    pub(super) store: Arc<dyn ResumeStore>,
    pub(super) counters: Counters,
    streams: Mutex<HashMap<StreamId, Running>>,
    /// Until when the store counts as down. It did not take what it was given, and others do not wait
    /// for it to do the same.
    down: Mutex<Option<Instant>>,
    /// Some producer has something that the store did not take.
    behind: AtomicBool,
    /// How many streams are produced here, those included whose end the store has still to be told.
    producing: AtomicUsize,
    /// One less.
    gone: Notify,
    /// There is a keeper.
    kept: AtomicBool,
    keeper_call: Arc<Notify>,
}

/// A stream that runs, and is read here.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) live: Arc<Live>,
    pub(super) about: Arc<About>,
    pub(super) since: Instant,
}

/// The producer's or follower's hold on its stream: when it is dropped, the stream has gone.
pub(super) struct Hold {
    pub(super) hub: Arc<Hub>,
    pub(super) stream: StreamId,
    pub(super) live: Arc<Live>,
}

/// How long the store may take. A live stream waits for it once, and then goes on without.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a store that fails is asked again.
pub(super) const RETRY: Duration = Duration::from_millis(500);

/// For how long a fault tells that the store is down, if nobody asks it again.
const DOWN: Duration = Duration::from_secs(3);

/// How long a producer that was about to give up waits for the next word of who reads it elsewhere.
const ATTENDED: Duration = Duration::from_secs(5);

impl Hub {
    pub(super) fn new(store: Arc<dyn ResumeStore>) -> Arc<Self> {
        Arc::new(Self {
            store,
            counters: Counters::default(),
            streams: Mutex::default(),
            down: Mutex::default(),
            behind: AtomicBool::new(false),
            producing: AtomicUsize::new(0),
            gone: Notify::new(),
            kept: AtomicBool::new(false),
            keeper_call: Arc::default(),
        })
    }

    // === The store ===

    /// Asks the store, but not for long.
    pub(super) async fn ask<T: Unpin>(&self, answer: StoreFuture<'_, T>) -> Result<T, StoreError> {
        let answer = match answer.at_once() {
            Ok(answer) => answer,
            Err(later) => {
                let answer = timeout(PATIENCE, later).await;
                answer.unwrap_or_else(|late| Err(StoreError::failed(late)))
            }
        };
        if let Err(error @ (StoreError::Failed(_) | StoreError::Refused(_))) = &answer {
            trace!(debug, "store of event streams", error = error);
            self.counters.add(Count::StoreFaults);
        }
        answer
    }

    /// The same for what a stream waits for. Reads tell nothing of whether writes work.
    pub(super) async fn ask_to_write<T: Unpin>(
        &self,
        answer: StoreFuture<'_, T>,
    ) -> Result<T, StoreError> {
        let answer = self.ask(answer).await;
        let fails = matches!(answer, Err(StoreError::Failed(_)));
        let was_down = self.is_down();
        *self.down() = fails.then(|| Instant::now() + DOWN);
        if was_down != fails {
            trace!(warn, "the store of event streams", down = fails);
            // It is asked again at once, it may have been a hiccup.
            self.keeper_call.notify_one();
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
                Err(StoreError::Failed(_)) if Instant::now() < give_up => sleep(RETRY).await,
                answer => return answer,
            }
        }
    }

    pub(super) fn is_down(&self) -> bool {
        let until = *self.down();
        until.is_some_and(|until| Instant::now() < until)
    }

    fn down(&self) -> MutexGuard<'_, Option<Instant>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A producer waits for a store that works.
    pub(super) fn fall_behind(&self) {
        self.behind.store(true, SeqCst);
    }

    pub(super) fn wake_those_behind(&self) {
        if self.behind.swap(false, SeqCst) {
            for (_, running) in self.list() {
                running.live.wake_producer();
            }
        }
    }

    // === Its keeper ===

    /// Whether there was none.
    pub(super) fn claim_keeper(&self) -> bool {
        !self.kept.load(SeqCst) && !self.kept.swap(true, SeqCst)
    }

    /// The keeper has found nothing to keep and wants to go. Who comes from now on calls another; who
    /// came since it looked keeps this one, unless another is there by now.
    pub(super) fn keep_on(&self) -> bool {
        self.release_keeper();
        !self.streams().is_empty() && self.claim_keeper()
    }

    pub(super) fn release_keeper(&self) {
        self.kept.store(false, SeqCst);
    }

    pub(super) fn keeper_call(&self) -> Arc<Notify> {
        self.keeper_call.clone()
    }

    // === The streams ===

    /// A stream that will be produced here, and its first reader.
    pub(super) fn begin(self: &Arc<Self>, stream: StreamId, about: Arc<About>) -> (Hold, Seat) {
        self.producing.fetch_add(1, SeqCst);
        self.enter(self.streams(), stream, about, Live::produced())
    }

    /// A reader of a stream that runs elsewhere; with the hold, if nobody follows it so far.
    pub(super) fn follow(
        self: &Arc<Self>,
        stream: StreamId,
        about: Arc<About>,
        after: u64,
    ) -> (Option<Hold>, Seat) {
        let streams = self.streams();
        if let Some(running) = streams.get(&stream) {
            return (None, running.live.join());
        }
        let (hold, seat) = self.enter(streams, stream, about, Live::followed(after));
        // Its producer may be about to give up.
        self.keeper_call.notify_one();
        (Some(hold), seat)
    }

    fn enter(
        self: &Arc<Self>,
        mut streams: MutexGuard<'_, HashMap<StreamId, Running>>,
        stream: StreamId,
        about: Arc<About>,
        live: Arc<Live>,
    ) -> (Hold, Seat) {
        let seat = live.join();
        let running = Running {
            live: live.clone(),
            about,
            since: Instant::now(),
        };
        streams.insert(stream, running);
        let hub = self.clone();
        (Hold { hub, stream, live }, seat)
    }

    /// A reader of a stream that runs, or is followed, here.
    pub(super) fn join(&self, stream: StreamId) -> Option<Seat> {
        Some(self.streams().get(&stream)?.live.join())
    }

    pub(super) fn running(&self, stream: StreamId) -> Option<Running> {
        self.streams().get(&stream).cloned()
    }

    pub(super) fn list(&self) -> Vec<(StreamId, Running)> {
        let streams = self.streams();
        streams.iter().map(|(id, run)| (*id, run.clone())).collect()
    }

    pub(super) fn each(&self, mut see: impl FnMut(StreamId, &Live)) {
        for (stream, running) in self.streams().iter() {
            see(*stream, &running.live);
        }
    }

    /// Waits until nothing is produced here.
    pub(super) async fn idle(&self) {
        loop {
            let gone = self.gone.notified();
            if self.producing.load(SeqCst) == 0 {
                return;
            }
            gone.await;
        }
    }

    /// Only that one: another may run under the same id by now.
    fn remove(&self, streams: &mut HashMap<StreamId, Running>, hold: &Hold) -> Option<Running> {
        let running = streams.get(&hold.stream)?;
        let same = Arc::ptr_eq(&running.live, &hold.live);
        same.then(|| streams.remove(&hold.stream)).flatten()
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<StreamId, Running>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// A last look, since somebody may have come there a moment ago.
    pub(super) async fn is_read_elsewhere(&self) -> bool {
        let Self { hub, stream, live } = self;
        let attended = hub.ask(hub.store.attend(&[], &[*stream])).await;
        let attended = attended.is_ok_and(|attended| !attended.is_empty());
        if attended {
            live.attend(Instant::now() + ATTENDED);
        }
        attended
    }

    /// Lets go of the stream if nobody reads it. Those who come from now on find it gone.
    pub(super) fn release_unread(&self) -> bool {
        let mut streams = self.hub.streams();
        let unread = self.live.readers() == 0;
        let removed = unread.then(|| self.hub.remove(&mut streams, self));
        // No lock is held where a stream is dropped.
        drop(streams);
        drop(removed);
        unread
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Has an effect only where the task died of a panic, in the service's body say.
        self.live.finish(LiveEnd::Broken(None));
        let removed = self.hub.remove(&mut self.hub.streams(), self);
        drop(removed);
        if self.live.is_produced() {
            self.hub.producing.fetch_sub(1, SeqCst);
            self.hub.gone.notify_waiters();
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("store", &self.store)
            .field("streams", &self.streams().len())
            .field("down", &self.is_down())
            .finish_non_exhaustive()
    }
}
