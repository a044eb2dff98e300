use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::stream::Stream;
use crate::resume::StoredEvent;

/// Which stream goes when: too old, or first when room is short.
///
/// Its lock is taken before that of a stream, and no other is taken under it.
#[derive(Default)]
pub(super) struct Order {
    next: u64,
    /// All of them, by a sign of life that may not be the last: it is looked at when it is too old.
    heard: BTreeMap<(Instant, u64), Arc<Stream>>,
    /// Those that have something to give up.
    ranks: BTreeMap<Rank, Arc<Stream>>,
}

/// The lowest goes first: within a kind, who has been of that kind for longest.
pub(super) type Rank = (Kind, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Goes as a whole.
    Ended,
    /// Gives up its oldest events.
    Running,
}

impl Order {
    pub(super) fn len(&self) -> usize {
        self.heard.len()
    }

    pub(super) fn add(&mut self, stream: &Arc<Stream>) {
        let number = self.number();
        let mut log = stream.lock();
        if !log.gone {
            log.place = (log.renewed, number);
            self.heard.insert(log.place, stream.clone());
        }
    }

    /// Ranks a stream that has got its first event or its end.
    pub(super) fn rank(&mut self, stream: &Arc<Stream>) {
        let mut log = stream.lock();
        let kind = if log.end.is_some() {
            Kind::Ended
        } else {
            Kind::Running
        };
        if log.gone || log.rank.is_some_and(|(ranked, _)| ranked == kind) {
            return;
        }
        let rank = (kind, self.number());
        if let Some(old) = log.rank.replace(rank) {
            self.ranks.remove(&old);
        }
        self.ranks.insert(rank, stream.clone());
    }

    pub(super) fn first(&self) -> Option<(Kind, Arc<Stream>)> {
        let (rank, stream) = self.ranks.first_key_value()?;
        Some((rank.0, stream.clone()))
    }

    /// Takes the oldest event of a running stream.
    pub(super) fn pop(&mut self, stream: &Stream) -> Option<StoredEvent> {
        let mut log = stream.lock();
        let event = log.pop();
        let empty = log.events.is_empty();
        if let Some(rank) = log.rank.take_if(|_| empty) {
            self.ranks.remove(&rank);
        }
        event
    }

    /// The stream that was not heard of for longest, if that is `keep` or more.
    pub(super) fn overdue(&mut self, keep: Duration, now: Instant) -> Option<Arc<Stream>> {
        let first = self.heard.first_entry()?;
        if now.saturating_duration_since(first.key().0) < keep {
            return None;
        }
        if first.get().lock().silence(now) >= keep {
            return Some(first.get().clone());
        }
        let stream = first.remove();
        self.add(&stream);
        None
    }

    /// Forgets a stream and returns what it held, if nobody has forgotten it before.
    pub(super) fn forget(&mut self, stream: &Stream) -> Option<VecDeque<StoredEvent>> {
        let mut log = stream.lock();
        let events = log.forget()?;
        self.heard.remove(&log.place);
        if let Some(rank) = log.rank.take() {
            self.ranks.remove(&rank);
        }
        Some(events)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}
