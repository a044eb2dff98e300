use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::RedisError;
use tokio::{
    sync::{Notify, oneshot},
    time::timeout,
};

use super::entry::{Entry, page};
use crate::resume::{Page, StoreError, StreamId, Then};

/// Who waits for what, and the task that follows the streams for them.
#[derive(Default)]
pub(super) struct Waits {
    state: Mutex<State>,
    added: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<(StreamId, u64), Wait>,
    is_followed: bool,
    /// The follower has asked Redis, and knows nothing of who comes now.
    is_away: bool,
    /// How often it was called back.
    calls: u64,
}

struct Wait {
    after: u64,
    limit: usize,
    answer: oneshot::Sender<Result<News, StoreError>>,
}

/// Why a wait is over.
#[derive(Debug)]
pub(super) enum News {
    Page(Page),
    /// There is something, and a plain read tells what.
    Look,
}

/// What a new wait takes to be seen.
#[derive(Debug)]
pub(super) enum Need {
    /// The follower is about to ask.
    Nothing,
    /// There is no follower.
    Follower,
    /// The follower is away, and comes back when it is called by this number.
    Call(u64),
}

/// One who waits; dropped, it is forgotten.
pub(super) struct Ticket {
    key: (StreamId, u64),
    waits: Arc<Waits>,
    answer: oneshot::Receiver<Result<News, StoreError>>,
}

/// What to ask Redis for.
pub(super) struct Asked {
    /// The streams, each with the first of the places where somebody waits.
    pub(super) places: BTreeMap<StreamId, u64>,
    /// The follower's calls that are answered with this.
    pub(super) calls: u64,
}

/// Events of a stream that are read at once. One more is asked for, to see whether there are more.
pub(super) const BATCH: usize = 64;

/// How long the follower stays when nobody waits.
const IDLE: Duration = Duration::from_secs(5);

impl Waits {
    pub(super) fn add(
        self: &Arc<Self>,
        stream: StreamId,
        after: u64,
        limit: usize,
    ) -> (Ticket, Need) {
        let (sender, answer) = oneshot::channel();
        let mut state = self.state();
        let key = (stream, state.next);
        state.next += 1;
        let wait = Wait {
            after,
            limit,
            answer: sender,
        };
        state.waiting.insert(key, wait);
        let need = state.need();
        drop(state);
        self.added.notify_one();
        let waits = self.clone();
        (Ticket { key, waits, answer }, need)
    }

    /// Waits for somebody who waits. If nobody comes the follower is let go.
    pub(super) async fn somebody(&self) -> bool {
        loop {
            if !self.state().waiting.is_empty() {
                return true;
            }
            let idle = timeout(IDLE, self.added.notified()).await.is_err();
            let mut state = self.state();
            if idle && state.waiting.is_empty() {
                state.is_followed = false;
                return false;
            }
        }
    }

    /// The follower goes away to ask Redis.
    pub(super) fn ask(&self) -> Asked {
        let mut state = self.state();
        state.is_away = true;
        let mut places = BTreeMap::new();
        for (&(stream, _), wait) in &state.waiting {
            let place = places.entry(stream).or_insert(wait.after);
            *place = wait.after.min(*place);
        }
        let calls = state.calls;
        Asked { places, calls }
    }

    /// The follower is back.
    pub(super) fn back(&self) {
        self.state().is_away = false;
    }

    /// Hands out what came behind event `asked` of a stream.
    pub(super) fn serve(&self, stream: StreamId, asked: u64, entries: &[Entry]) {
        self.end(Some(stream), |wait| wait.news(asked, entries).map(Ok));
    }

    pub(super) fn look(&self, stream: StreamId) {
        self.end(Some(stream), |_| Some(Ok(News::Look)));
    }

    /// The follower is gone while somebody may wait.
    pub(super) fn lost(&self) {
        let mut state = self.state();
        state.is_followed = false;
        state.is_away = false;
        drop(state);
        self.end(None, |_| Some(Ok(News::Look)));
    }

    pub(super) fn fail(&self, error: &RedisError) {
        self.end(None, |_| Some(Err(StoreError::failed(error.clone()))));
    }

    /// Ends the waits of a stream, or of all, for which there is an answer.
    fn end(
        &self,
        stream: Option<StreamId>,
        answer: impl Fn(&Wait) -> Option<Result<News, StoreError>>,
    ) {
        let ended = self.state().take(stream, answer);
        for (wait, answer) in ended {
            let _ = wait.answer.send(answer);
        }
    }

    fn forget(&self, key: (StreamId, u64)) {
        let gone = self.state().waiting.remove(&key);
        drop(gone);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn need(&mut self) -> Need {
        if !mem::replace(&mut self.is_followed, true) {
            Need::Follower
        } else if mem::take(&mut self.is_away) {
            self.calls += 1;
            Need::Call(self.calls)
        } else {
            Need::Nothing
        }
    }

    fn take<T>(
        &mut self,
        stream: Option<StreamId>,
        answer: impl Fn(&Wait) -> Option<T>,
    ) -> Vec<(Wait, T)> {
        let waits = match stream {
            Some(stream) => self.waiting.range((stream, 0)..=(stream, u64::MAX)),
            None => self.waiting.range(..),
        };
        let answers = waits.filter_map(|(key, wait)| Some((*key, answer(wait)?)));
        let answers: Vec<_> = answers.collect();
        let taken = answers.into_iter();
        taken
            .filter_map(|(key, answer)| Some((self.waiting.remove(&key)?, answer)))
            .collect()
    }
}

impl Wait {
    /// `entries` are what came behind event `asked`. Who has come since then and is further back
    /// would miss events: it waits for the next time.
    fn news(&self, asked: u64, entries: &[Entry]) -> Option<News> {
        let own = entries.iter().filter(|entry| entry.is_behind(self.after));
        let page = page(own.cloned(), self.limit.min(BATCH));
        let tells = !page.events.is_empty() || page.then != Then::Running;
        if self.after < asked || !tells {
            return None;
        }
        // Cut off at the batch for somebody further back: what follows is not known.
        let cut = entries.len() > BATCH && page.then == Then::Running;
        Some(if cut { News::Look } else { News::Page(page) })
    }
}

impl Ticket {
    pub(super) async fn answer(mut self) -> Result<News, StoreError> {
        let answer = (&mut self.answer).await;
        answer.unwrap_or(Ok(News::Look))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.waits.forget(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resume::StoredEvent;

    fn entries(count: u64) -> Vec<Entry> {
        let event = |number| {
            Entry::Event(StoredEvent {
                number,
                bytes: "x".into(),
            })
        };
        (1..=count).map(event).collect()
    }

    fn told(ticket: &mut Ticket) -> Option<(usize, Option<Then>)> {
        match ticket.answer.try_recv().ok()? {
            Ok(News::Page(page)) => Some((page.events.len(), Some(page.then))),
            Ok(News::Look) => Some((0, None)),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn each_gets_what_is_behind_its_place_or_waits_on() {
        let (stream, other) = (StreamId::random().unwrap(), StreamId::random().unwrap());
        let cut = BATCH as u64 + 1;
        // who waits where, asked from where, what came, and what the one is told of it
        for (after, limit, asked, came, expected) in [
            (0, 9, 0, 3, Some((3, Some(Then::Running)))),
            (0, 3, 0, 3, Some((3, Some(Then::Running)))),
            (0, 2, 0, 3, Some((2, Some(Then::More)))),
            (2, 9, 0, 3, Some((1, Some(Then::Running)))),
            (3, 9, 0, 3, None),
            (4, 9, 0, 3, None),
            // it came after the question, and has more to get than the answer
            (0, 9, 1, 3, None),
            (0, 1000, 0, cut, Some((BATCH, Some(Then::More)))),
            (9, 1000, 0, cut, Some((0, None))),
            (cut, 1000, 0, cut, None),
        ] {
            let waits = Arc::new(Waits::default());
            let (mut ticket, _) = waits.add(stream, after, limit);
            let (mut bystander, _) = waits.add(other, after, limit);
            waits.serve(stream, asked, &entries(came)[asked as usize..]);
            assert_eq!(
                told(&mut ticket),
                expected,
                "{after} {limit} {asked} {came}"
            );
            assert_eq!(told(&mut bystander), None);
            let waiting = waits.state().waiting.len();
            assert_eq!(waiting, 1 + usize::from(expected.is_none()));
        }
    }

    #[test]
    fn who_comes_too_late_for_a_question_calls_once() {
        let (stream, waits) = (StreamId::random().unwrap(), Arc::new(Waits::default()));
        let need = |after| waits.add(stream, after, 1);
        let (_first, follower) = need(7);
        assert!(matches!(follower, Need::Follower));
        let (_second, nothing) = need(5);
        assert!(matches!(nothing, Need::Nothing));
        let asked = waits.ask();
        assert_eq!((asked.places[&stream], asked.calls), (5, 0));
        let (_third, call) = need(3);
        assert!(matches!(call, Need::Call(1)));
        let (_fourth, nothing) = need(3);
        assert!(matches!(nothing, Need::Nothing));
        waits.back();
        let asked = waits.ask();
        assert_eq!((asked.places[&stream], asked.calls), (3, 1));
        waits.lost();
        let (_fifth, follower) = need(3);
        assert!(matches!(follower, Need::Follower));
    }

    #[test]
    fn a_wait_that_is_dropped_is_forgotten() {
        let (stream, waits) = (StreamId::random().unwrap(), Arc::new(Waits::default()));
        let tickets: Vec<_> = (0..9).map(|after| waits.add(stream, after, 1).0).collect();
        assert_eq!(waits.state().waiting.len(), 9);
        drop(tickets);
        assert!(waits.state().waiting.is_empty());
        assert!(waits.ask().places.is_empty());
    }
}
