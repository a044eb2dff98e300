use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Wake, Waker},
    time::Duration,
};

use tokio::{runtime::Handle, task::JoinHandle, time::sleep};

use crate::{
    end::EndReason,
    jitter::LONGEST,
    reach::{Reach, Relay},
    registry::Registry,
    trace::trace,
};

/// Lets go of event streams whose client does not read.
///
/// hyper does not poll a response whose client does not read, so no timer inside the body can fire:
/// such a stream keeps its subscription, its place under a [limit](crate::LimitLayer) and its
/// upstream until TCP gives up, which may take a quarter of an hour or for ever. This layer looks
/// from outside, one task for all its streams. Where something was ready for the client and nobody
/// came for it for longer than the limit, the service's body is dropped and the stream counts as
/// ended. If the client reads on after all, it gets what was sent, and then its connection
/// [breaks](crate::Aborted).
///
/// A stream that has nothing to say may be silent for ever. How soon a client that has stopped is
/// noticed depends on how much the service sends: first the buffers on the way fill, of the server
/// some hundred KiB, of the system some MiB. A client that reads may look like one that does not
/// when it is too slow: Linux reports room only when a third of the socket's buffer is free. So does
/// any client to a server that is too busy to poll: the limit belongs far above that, at seconds.
///
/// Off in [`SseLayer`](crate::SseLayer) until it is handed one. The socket stays: give it a write
/// time-out or `TCP_USER_TIMEOUT`, as `examples/gateway/socket.rs` does.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{SseLayer, StallLayer};
///
/// let layer = SseLayer::new().stall(StallLayer::after(Duration::from_secs(30)));
/// # drop(layer);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct StallLayer {
    watchdog: Arc<Watchdog>,
}

/// Whether a stream has something for its client that nobody comes for.
///
/// It stands between all below the stream and who polls it: what wakes the stream has something.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// The turn in which the stream began to be owed a poll, plus one; 0 while it is not.
    owed: AtomicU64,
    turn: Arc<AtomicU64>,
    relay: Arc<Relay>,
}

/// Keeps a stream among those that are looked at; dropped, it is none of them.
#[derive(Debug)]
pub(crate) struct Watched {
    id: u64,
    watchdog: Arc<Watchdog>,
    pulse: Arc<Pulse>,
}

struct Watchdog {
    /// From one look to the next.
    tick: Duration,
    /// How often it has looked.
    turn: Arc<AtomicU64>,
    streams: Registry<Stream>,
    /// There while there are streams, and while its runtime is.
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Stream {
    pulse: Arc<Pulse>,
    reach: Weak<dyn Reach>,
}

/// How often the watchdog looks within its limit. Time is counted in its looks and not by the clock:
/// where the process stood still, nobody could come.
///
/// A stream that is owed a poll is freed at the ninth look from then on, after eight whole turns and
/// the rest of one.
const TURNS: u64 = 8;

/// A timer wheel turns in milliseconds.
const SHORTEST: Duration = Duration::from_millis(TURNS);

impl StallLayer {
    /// Lets go of a stream when nobody has come for what it has for `limit`, and an eighth of that
    /// longer at most: so often it is looked at, within the milliseconds of a timer. Never sooner; a
    /// process that stood still has not waited. Less than 8 milliseconds is taken as that, more than
    /// a year as one.
    pub fn after(limit: Duration) -> Self {
        Self {
            watchdog: Arc::new(Watchdog {
                tick: limit.clamp(SHORTEST, LONGEST) / TURNS as u32,
                turn: Arc::default(),
                streams: Registry::default(),
                task: Mutex::default(),
            }),
        }
    }

    /// Has the stream looked at.
    pub(crate) fn watch(&self, relay: Arc<Relay>, reach: Weak<dyn Reach>) -> Watched {
        let pulse = Arc::new(Pulse {
            owed: AtomicU64::new(0),
            turn: self.watchdog.turn.clone(),
            relay,
        });
        // Also the head wants to be sent.
        pulse.owe();
        let id = self.watchdog.streams.insert(Stream {
            pulse: pulse.clone(),
            reach,
        });
        self.watchdog.run();
        Watched {
            id,
            watchdog: self.watchdog.clone(),
            pulse,
        }
    }
}

impl Watched {
    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }
}

impl Pulse {
    /// The waker for all that the stream waits for.
    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        self.clone().into()
    }

    /// Somebody comes for what there is. Before the poll: what wakes the stream during it stays
    /// owed.
    pub(crate) fn on_poll(&self) {
        self.owed.store(0, Relaxed);
    }

    /// Somebody has got a frame, and comes for the next one: as of now, however long the poll took.
    pub(crate) fn on_frame(&self) {
        self.owed.store(self.turn.load(Relaxed) + 1, Relaxed);
    }

    /// There is something. What is there already is waited for since then.
    fn owe(&self) {
        if self.owed.load(Relaxed) == 0 {
            self.on_frame();
        }
    }

    /// Whether whole turns as long as the limit have passed since.
    fn is_overdue(&self, turn: u64) -> bool {
        let owed = self.owed.load(Relaxed);
        owed != 0 && turn > owed - 1 + TURNS
    }
}

impl Wake for Pulse {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.owe();
        self.relay.wake();
    }
}

impl Watchdog {
    /// Sees to it that the task is there. Called when the stream is in: the task ends where it sees
    /// none, and nobody can come between its look and its end.
    fn run(self: &Arc<Self>) {
        let mut task = self.task();
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => *task = Some(runtime.spawn(look_on(Arc::downgrade(self), self.tick))),
            // The next stream tries again.
            Err(error) => trace!(warn, "stalled streams stay: no runtime", error = error),
        }
    }

    fn ends(&self) -> bool {
        let mut task = self.task();
        let ends = self.streams.is_empty();
        if ends {
            *task = None;
        }
        ends
    }

    fn task(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        let turn = self.turn.fetch_add(1, Relaxed) + 1;
        let stalled = self.streams.collect(|_, stream| {
            let overdue = stream.pulse.is_overdue(turn);
            let reach = overdue.then(|| stream.reach.upgrade()).flatten();
            reach.map(|reach| (stream.pulse.clone(), reach))
        });
        // No lock is held where the service's body is dropped.
        for (pulse, stream) in stalled {
            // Its client may have come while the others were freed.
            if pulse.is_overdue(turn) && stream.free(EndReason::Stalled) {
                trace!(info, "freed an event stream whose client does not read");
            }
        }
    }
}

/// Ends with the last stream, or with the layer.
async fn look_on(watchdog: Weak<Watchdog>, tick: Duration) {
    loop {
        sleep(tick).await;
        let Some(watchdog) = watchdog.upgrade() else {
            return;
        };
        watchdog.look();
        if watchdog.ends() {
            return;
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watchdog.streams.remove(self.id);
    }
}

impl fmt::Debug for Watchdog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watchdog")
            .field("tick", &self.tick)
            .field("streams", &self.streams.len())
            .finish()
    }
}
