use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    StreamEnd, StreamId,
    hub::{Hub, Running},
    stats::ResumeStats,
};

/// The streams that a [`ResumeLayer`](super::ResumeLayer) produces in this process.
///
/// Clones are handles of the same layer.
#[derive(Clone, Debug)]
pub struct Resume {
    hub: Arc<Hub>,
}

/// A stream that is being produced, as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProducedStream {
    /// Its id.
    pub id: StreamId,
    /// How many events it has had.
    pub events: u64,
    /// How many connections read it here.
    pub readers: usize,
    /// Since when it runs.
    pub age: Duration,
}

/// How long the last words to the store may take once the deadline has passed.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Resume {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub }
    }

    /// All of them, in no order; also those that have ended and still tell the store so.
    #[must_use]
    pub fn streams(&self) -> Vec<ProducedStream> {
        let running = self.hub.list().into_iter();
        let produced = running.filter(|(_, running)| running.live.is_produced());
        produced
            .map(|(id, run)| ProducedStream::of(id, &run))
            .collect()
    }

    /// One of them.
    #[must_use]
    pub fn stream(&self, id: StreamId) -> Option<ProducedStream> {
        Some(ProducedStream::of(id, &self.produced(id)?))
    }

    /// Ends a stream: the service's body is dropped, its readers end behind its last event, and
    /// whoever comes back gets 204. False if it is not produced here, or not any more.
    ///
    /// The id in a request is the client's: whether it may stop that stream is yours to know.
    #[must_use]
    pub fn stop(&self, id: StreamId) -> bool {
        self.produced(id)
            .is_some_and(|running| running.live.stop(StreamEnd::Stopped))
    }

    /// For a shutdown: waits until nothing is produced any more, and stops what is left after
    /// `deadline`. It returns when the store knows their ends, or is not there to be told.
    ///
    /// Start the drain first: it sends the readers away, and with a store that other machines share
    /// they go on there, while the producers finish here. A feed has no end: leave it to
    /// [`when`](super::ResumeLayer::when), or it takes the whole deadline.
    pub async fn finish(&self, deadline: Duration) {
        if timeout(deadline, self.hub.idle()).await.is_err() {
            for (_, running) in self.hub.list() {
                running.live.stop(StreamEnd::Abandoned);
            }
            // What is not told in this time, the lease will tell.
            let _ = timeout(LAST_WORDS, self.hub.idle()).await;
        }
    }

    fn produced(&self, id: StreamId) -> Option<Running> {
        let running = self.hub.running(id)?;
        running.live.is_produced().then_some(running)
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> ResumeStats {
        self.hub.counters.stats()
    }
}

impl ProducedStream {
    fn of(id: StreamId, running: &Running) -> Self {
        Self {
            id,
            events: running.live.newest(),
            readers: running.live.readers(),
            age: running.since.elapsed(),
        }
    }
}
