use std::{
    collections::BTreeSet,
    fmt::Debug,
    ops::RangeInclusive,
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    task::{JoinError, JoinSet, yield_now},
    time::{sleep, timeout},
};

use crate::resume::{
    Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, StreamId, Then,
};

/// A store whose rule is tried.
#[derive(Clone)]
pub(super) struct Trial {
    rule: &'static str,
    pub(super) producer: Arc<dyn ResumeStore>,
    pub(super) reader: Arc<dyn ResumeStore>,
    /// Those whose producers are alive.
    alive: Arc<Mutex<Vec<StreamId>>>,
}

/// Longer than any answer takes that comes at all.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

impl Trial {
    pub(super) fn new(
        rule: &'static str,
        producer: impl ResumeStore,
        reader: impl ResumeStore,
    ) -> Self {
        Self {
            rule,
            producer: Arc::new(producer),
            reader: Arc::new(reader),
            alive: Arc::default(),
        }
    }

    /// Renews as the layer does, three times per lease.
    pub(super) async fn stay_alive(self) {
        loop {
            sleep(self.producer.lease() / 3).await;
            let alive = self.alive().clone();
            self.ok("renew", self.producer.renew(&alive)).await;
        }
    }

    fn alive(&self) -> MutexGuard<'_, Vec<StreamId>> {
        self.alive.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn new_stream(&self) -> StreamId {
        StreamId::random().unwrap_or_else(|error| self.fail(&format!("no random id: {error}")))
    }

    pub(super) async fn opened(&self) -> StreamId {
        let stream = self.new_stream();
        self.open(stream, b"about").await;
        stream
    }

    pub(super) async fn open(&self, stream: StreamId, about: &[u8]) {
        let about = Bytes::copy_from_slice(about);
        self.ok("open", self.producer.open(stream, about)).await;
        self.alive().push(stream);
    }

    pub(super) async fn append(&self, stream: StreamId, events: &[StoredEvent], keep_from: u64) {
        let append = self.producer.append(stream, events, keep_from);
        self.ok("append", append).await;
    }

    pub(super) async fn close(&self, stream: StreamId, last: u64, end: StreamEnd) {
        self.ok("close", self.producer.close(stream, last, end))
            .await;
    }

    pub(super) async fn attend(
        &self,
        store: &Arc<dyn ResumeStore>,
        read: &[StreamId],
        unread: &[StreamId],
    ) -> BTreeSet<StreamId> {
        let told = self.ok("attend", store.attend(read, unread)).await;
        let streams: BTreeSet<_> = told.iter().copied().collect();
        self.holds(streams.len() == told.len(), || {
            format!("one is there twice: {told:?}")
        });
        streams
    }

    pub(super) async fn read(&self, stream: StreamId, after: u64, limit: usize) -> Page {
        let page = self
            .ok("read", self.reader.read(stream, after, limit))
            .await;
        self.page(page, after, limit)
    }

    pub(super) async fn next(&self, stream: StreamId, after: u64, limit: usize) -> Page {
        let page = self
            .ok("next", self.reader.next(stream, after, limit))
            .await;
        let nothing = page.events.is_empty() && page.then == Then::Running;
        self.holds(!nothing, || {
            format!("next after {after} has nothing to tell")
        });
        self.page(page, after, limit)
    }

    /// What holds for every page.
    fn page(&self, page: Page, after: u64, limit: usize) -> Page {
        let numbers: Vec<_> = page.events.iter().map(|event| event.number).collect();
        let ascend = numbers.is_sorted_by(|a, b| a < b);
        let first = numbers.first().is_none_or(|first| *first > after);
        self.holds(ascend && first && numbers.len() <= limit, || {
            format!("events {numbers:?} instead of at most {limit} after {after}")
        });
        let empty = numbers.is_empty() && page.then == Then::More;
        self.holds(!empty, || "more, but none of it".into());
        page
    }

    /// Reads on until nothing more is there.
    pub(super) async fn all(&self, stream: StreamId, mut after: u64) -> (Vec<StoredEvent>, Then) {
        let mut events = Vec::new();
        loop {
            let page = self.read(stream, after, 1000).await;
            events.extend(page.events);
            after = events.last().map_or(after, |event| event.number);
            if page.then != Then::More {
                return (events, page.then);
            }
        }
    }

    pub(super) async fn holds_exactly(&self, stream: StreamId, events: &[StoredEvent]) {
        let (stored, then) = self.all(stream, 0).await;
        self.same("how many", &stored.len(), &events.len());
        let other = stored.iter().zip(events).find(|(a, b)| a != b);
        self.same("an event and what it was", &other, &None);
        self.same("what follows", &then, &Then::Running);
    }

    /// Reads after every number and with every limit.
    pub(super) async fn every_page(&self, stream: StreamId, events: &[StoredEvent], then: Then) {
        let numbers = events.iter().map(|event| event.number);
        let around = numbers.flat_map(|number| [number - 1, number, number + 1]);
        let afters: BTreeSet<_> = around.chain([0, u64::MAX]).collect();
        for after in afters {
            let rest = events.iter().filter(|event| event.number > after);
            let rest: Vec<_> = rest.cloned().collect();
            for limit in 1..=events.len() + 1 {
                let more = rest.len() > limit;
                let page = Page {
                    events: rest.iter().take(limit).cloned().collect(),
                    then: if more { Then::More } else { then },
                };
                let read = self.read(stream, after, limit).await;
                self.same(&format!("{limit} after {after}"), &read, &page);
            }
        }
    }

    /// Two readers that wait.
    pub(super) fn waiting(&self, stream: StreamId, after: u64, limit: usize) -> JoinSet<Page> {
        let mut tasks = JoinSet::new();
        for trial in [self.clone(), self.clone()] {
            tasks.spawn(async move { trial.next(stream, after, limit).await });
        }
        tasks
    }

    /// Appends in batches, each of which repeats the end of the one before.
    pub(super) async fn produce(self, stream: StreamId, events: Arc<[StoredEvent]>) {
        let mut done = 0_usize;
        for size in [1, 1, 3, 2, 8, 1, 21].into_iter().cycle() {
            let repeated = done.saturating_sub(2);
            let batch = events[repeated..].chunks(done - repeated + size).next();
            self.append(stream, batch.unwrap_or_default(), 0).await;
            done = events.len().min(done + size);
            if done == events.len() {
                break;
            }
            yield_now().await;
        }
        self.close(stream, done as u64, StreamEnd::Complete).await;
    }

    /// Reads what is there, waits for more when that was all, and so on to the end.
    pub(super) async fn follow(
        self,
        stream: StreamId,
        after: usize,
        limit: usize,
        events: Arc<[StoredEvent]>,
    ) {
        let (mut rest, mut then) = (&events[after..], Then::More);
        while matches!(then, Then::More | Then::Running) {
            let after = (events.len() - rest.len()) as u64;
            let page = match then {
                Then::Running => self.next(stream, after, limit).await,
                _ => self.read(stream, after, limit).await,
            };
            let Some(left) = rest.strip_prefix(&page.events[..]) else {
                self.fail(&format!("after {after} came {:?}", page.events));
            };
            (rest, then) = (left, page.then);
        }
        let (last, end) = (events.len() as u64, StreamEnd::Complete);
        self.same("the end", &then, &Then::Ended { last, end });
        self.same("what never came", &rest, &&[][..]);
    }

    pub(super) async fn unknown<T: Unpin + Debug>(&self, what: &str, answer: StoreFuture<'_, T>) {
        let answer = self.answer(what, answer).await;
        self.holds(matches!(answer, Err(StoreError::Unknown)), || {
            format!("{what} answers {answer:?}")
        });
    }

    pub(super) async fn ok<T: Unpin>(&self, what: &str, answer: StoreFuture<'_, T>) -> T {
        let answer = self.answer(what, answer).await;
        answer.unwrap_or_else(|error| self.fail(&format!("{what} answers {error:?}")))
    }

    async fn answer<T: Unpin>(
        &self,
        what: &str,
        answer: StoreFuture<'_, T>,
    ) -> Result<T, StoreError> {
        let answer = timeout(PATIENCE, answer).await;
        answer.unwrap_or_else(|_| self.fail(&format!("{what} does not answer")))
    }

    pub(super) fn same<T: PartialEq + Debug>(&self, what: &str, got: &T, expected: &T) {
        self.holds(got == expected, || {
            format!("{what}: {got:?} instead of {expected:?}")
        });
    }

    pub(super) fn holds(&self, so: bool, otherwise: impl FnOnce() -> String) {
        if !so {
            self.fail(&otherwise());
        }
    }

    pub(super) fn fail(&self, what: &str) -> ! {
        panic!("{}: {what}", self.rule)
    }
}

pub(super) fn event(number: u64, bytes: impl Into<Bytes>) -> StoredEvent {
    let bytes = bytes.into();
    StoredEvent { number, bytes }
}

pub(super) fn events(numbers: RangeInclusive<u64>) -> Vec<StoredEvent> {
    let events = numbers.map(|number| event(number, format!("id: {number}\ndata: x\n\n")));
    events.collect()
}

pub(super) fn nothing(then: Then) -> Page {
    let events = Vec::new();
    Page { events, then }
}

pub(super) fn all_bytes() -> Vec<u8> {
    (0..=u8::MAX).collect()
}

/// What the tasks returned, or the first panic.
pub(super) async fn joined<T: 'static>(mut tasks: JoinSet<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        match done.map_err(JoinError::try_into_panic) {
            Ok(done) => all.push(done),
            Err(Ok(panic)) => resume_unwind(panic),
            Err(Err(error)) => panic!("{error}"),
        }
    }
    all
}
