use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

use super::{StreamId, hub::Hub, live::Live};

/// The task that tells the store which producers and readers are here, for as long as there are any,
/// and finds out when a store that is down is back.
pub(super) struct Keeper {
    hub: Weak<Hub>,
    called: Arc<Notify>,
    lease: Duration,
    /// It has given up its place, maybe to another.
    released: bool,
}

/// The streams of this process.
#[derive(Default)]
struct Here {
    produced: Vec<StreamId>,
    /// Those of them that nobody reads here.
    unread: Vec<StreamId>,
    /// Those that are produced elsewhere.
    followed: Vec<StreamId>,
}

/// How often a store that is down is asked whether it is back: at first soon, it may have been a
/// hiccup, and then less and less often.
const PROBES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// A lease that a store may have: not nothing, and no longer than can be added to a clock.
const LEASES: (Duration, Duration) = (
    Duration::from_millis(10),
    Duration::from_secs(365 * 24 * 60 * 60),
);

impl Keeper {
    /// Has one at work. Producers and followers ask for it again and again, since the runtime of the
    /// last one may have gone.
    pub(super) fn ensure(hub: &Arc<Hub>) {
        if hub.claim_keeper() {
            let keeper = Self {
                hub: Arc::downgrade(hub),
                called: hub.keeper_call(),
                lease: hub.store.lease().clamp(LEASES.0, LEASES.1),
                released: false,
            };
            tokio::spawn(keeper.run());
        }
    }

    async fn run(mut self) {
        let mut probe = PROBES.0;
        let mut pause = self.lease / 3;
        loop {
            // Whether it was the time or a call: the round is the same.
            let _ = timeout(pause, self.called.notified()).await;
            let Some(hub) = self.hub.upgrade() else {
                return;
            };
            let here = Here::of(&hub);
            if here.is_nothing() && !hub.keep_on() {
                self.released = true;
                return;
            }
            self.round(&hub, &here).await;
            (pause, probe) = if hub.is_down() {
                (probe, (2 * probe).min(PROBES.1))
            } else {
                (self.lease / 3, PROBES.0)
            };
        }
    }

    async fn round(&self, hub: &Hub, here: &Here) {
        if !here.produced.is_empty() {
            // A fault is counted and traced where it was seen.
            let _ = hub.ask_to_write(hub.store.renew(&here.produced)).await;
        }
        if !here.followed.is_empty() || !here.unread.is_empty() {
            let attended = hub.store.attend(&here.followed, &here.unread);
            let attended = hub.ask(attended).await.unwrap_or_default();
            let until = Instant::now() + self.lease;
            for running in attended.iter().filter_map(|stream| hub.running(*stream)) {
                running.live.attend(until);
            }
        }
        if !hub.is_down() {
            hub.wake_those_behind();
        }
    }
}

impl Here {
    fn of(hub: &Hub) -> Self {
        let mut here = Self::default();
        hub.each(|stream, live: &Live| {
            if !live.is_produced() {
                here.followed.push(stream);
                return;
            }
            here.produced.push(stream);
            if live.wants_readers() {
                here.unread.push(stream);
            }
        });
        here
    }

    fn is_nothing(&self) -> bool {
        self.produced.is_empty() && self.followed.is_empty()
    }
}

impl Drop for Keeper {
    /// Also when its runtime goes.
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade().filter(|_| !self.released) {
            hub.release_keeper();
        }
    }
}
