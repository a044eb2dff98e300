//! Stores that break one rule each.

use std::{
    collections::HashSet,
    future::pending,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::timeout;
use tower_sse::resume::{
    MemoryStore, Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, StreamId, Then,
};

/// A [`MemoryStore`] with something wrong. Clones are the same store.
#[derive(Clone, Debug)]
pub(crate) struct Broken {
    store: MemoryStore,
    fault: Fault,
    /// What any reader was told by `next`.
    told: Arc<Mutex<HashSet<(StreamId, u64)>>>,
    /// A `next` was dropped.
    dropped: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    // in what it stores
    ForgetsAbout,
    OpensByItself,
    StoresText,
    RefusesGaps,
    ClosesGaps,
    StoresAThousand,
    LosesOverlap,
    DropsOneMore,
    OpensAnew,
    OneStreamForAll,
    // in its pages
    TellsTwice,
    IncludesAfter,
    IgnoresLimit,
    HidesMore,
    PromisesMore,
    HidesEnd,
    EndsWithStored,
    EndsWell,
    // in what waits
    NextNeedsNews,
    NextDoesNotWait,
    NextHearsNoEvent,
    NextHearsNoEnd,
    NextWaitsForAny,
    NextTellsOne,
    NextGivesUp,
    NextPromises,
    NextMustNotBeDropped,
    // in the lease
    NeverLost,
    LosesSilently,
    NeverRenews,
    // in who reads
    AttendTellsNobody,
    AttendTellsOfAll,
    AttendTellsOfUnknown,
    AttendListensOrTells,
    AttendRemembers,
    AttendForgets,
    AttendHearsOnce,
    AttendRenews,
}

use Fault::*;

const FOUND: &str = "find answers what open was told";
const UNKNOWN: &str = "a stream that was never opened is unknown";
const BYTES: &str = "events come back byte for byte";
const PAGES: &str = "a page is the first events over a number, and says what follows";
const GAPS: &str = "numbers may be missing";
const MANY: &str = "many events come back in order";
const REPEATED: &str = "an append that is repeated adds what is new";
const KEPT: &str = "only events under keep_from may go";
const REOPENED: &str = "an open that is repeated changes nothing";
const ENDS: &str = "an end is told as it was, however often it is said";
const AT_ONCE: &str = "next answers at once what is there";
const EVENT: &str = "next waits for an event";
const END: &str = "next waits for an end";
const AHEAD: &str = "next waits for events over its number";
const QUIET: &str = "next waits as long as there is nothing to tell";
const DROPPED: &str = "a next that is dropped takes nothing with it";
const CROWD: &str = "every reader of every stream sees each event once, in order";
const LEASE: &str = "a producer that does not renew is lost, and only that";
const ATTEND: &str = "attend tells which streams somebody reads";
const AGAIN: &str = "attend tells of those who said so within a lease";
const LOST: &str = "attend renews nothing";

impl Fault {
    /// Each with a rule that it breaks, maybe among others.
    pub(crate) const ALL: [(Self, &'static str); 38] = [
        (ForgetsAbout, FOUND),
        (OpensByItself, UNKNOWN),
        (StoresText, BYTES),
        (RefusesGaps, GAPS),
        (ClosesGaps, GAPS),
        (StoresAThousand, MANY),
        (LosesOverlap, REPEATED),
        (DropsOneMore, KEPT),
        (OpensAnew, REOPENED),
        (OneStreamForAll, CROWD),
        (TellsTwice, PAGES),
        (IncludesAfter, PAGES),
        (IgnoresLimit, PAGES),
        (HidesMore, PAGES),
        (PromisesMore, PAGES),
        (HidesEnd, PAGES),
        (EndsWithStored, ENDS),
        (EndsWell, ENDS),
        (NextNeedsNews, AT_ONCE),
        (NextDoesNotWait, EVENT),
        (NextHearsNoEvent, EVENT),
        (NextHearsNoEnd, END),
        (NextWaitsForAny, AHEAD),
        (NextTellsOne, CROWD),
        (NextGivesUp, QUIET),
        (NextPromises, QUIET),
        (NextMustNotBeDropped, DROPPED),
        (NeverLost, LEASE),
        (LosesSilently, LEASE),
        (NeverRenews, LEASE),
        (AttendTellsNobody, ATTEND),
        (AttendTellsOfAll, ATTEND),
        (AttendTellsOfUnknown, UNKNOWN),
        (AttendListensOrTells, ATTEND),
        (AttendRemembers, AGAIN),
        (AttendForgets, AGAIN),
        (AttendHearsOnce, AGAIN),
        (AttendRenews, LOST),
    ];
}

impl Broken {
    pub(crate) fn new(fault: Fault) -> Self {
        Self {
            store: MemoryStore::new(),
            fault,
            told: Arc::default(),
            dropped: Arc::default(),
        }
    }

    fn id(&self, stream: StreamId) -> StreamId {
        let one = format!("ts_{:032}", 0);
        match self.fault {
            OneStreamForAll => one.parse().expect("an id"),
            _ => stream,
        }
    }

    async fn append(
        &self,
        stream: StreamId,
        events: &[StoredEvent],
        keep_from: u64,
    ) -> Result<(), StoreError> {
        let store = &self.store;
        let first = events.first().map_or(0, |event| event.number);
        let last = events.last().map_or(0, |event| event.number);
        let mut events = self.stored(events);
        if self.fault == OpensByItself {
            store.open(stream, Bytes::new()).await?;
        }
        let newest = newest(&store.read(stream, 0, usize::MAX).await?);
        if self.fault == ClosesGaps && first > newest {
            for (event, number) in events.iter_mut().zip(newest + 1..) {
                event.number = number;
            }
        }
        let keep_from = match self.fault {
            RefusesGaps if first > newest + 1 => return Err(StoreError::failed("a gap")),
            LosesOverlap if first <= newest => return Ok(()),
            StoresAThousand => last.saturating_sub(1000),
            DropsOneMore if keep_from > 1 => keep_from + 1,
            _ => keep_from,
        };
        store.append(stream, &events, keep_from).await
    }

    fn stored(&self, events: &[StoredEvent]) -> Vec<StoredEvent> {
        let mut events = events.to_vec();
        if self.fault == StoresText {
            for event in &mut events {
                let text = String::from_utf8_lossy(&event.bytes).into_owned();
                event.bytes = text.into();
            }
        }
        events
    }

    async fn read(&self, stream: StreamId, after: u64, limit: usize) -> Result<Page, StoreError> {
        let (after, limit) = match self.fault {
            IncludesAfter => (after.saturating_sub(1), limit),
            IgnoresLimit => (after, limit + 1),
            _ => (after, limit),
        };
        let page = self.store.read(stream, after, limit).await?;
        Ok(self.told(page, limit))
    }

    fn told(&self, mut page: Page, limit: usize) -> Page {
        let newest = newest(&page);
        page.then = match (self.fault, page.then) {
            (HidesMore, Then::More) | (HidesEnd, Then::Ended { .. }) => Then::Running,
            (PromisesMore, _) if page.events.len() == limit => Then::More,
            (EndsWithStored, Then::Ended { end, .. }) => Then::Ended { last: newest, end },
            (EndsWell, Then::Ended { last, .. }) => Then::Ended {
                last,
                end: StreamEnd::Complete,
            },
            (NeverLost, Then::Lost) => Then::Running,
            (_, then) => then,
        };
        if self.fault == TellsTwice {
            page.events.extend(page.events.last().cloned());
        }
        page
    }

    async fn next(&self, stream: StreamId, after: u64, limit: usize) -> Result<Page, StoreError> {
        let page = self.read(stream, after, limit).await?;
        let news = !page.events.is_empty() || page.then != Then::Running;
        if news && self.fault != NextNeedsNews || self.fault == NextDoesNotWait {
            return Ok(page);
        }
        let page = self.waited(stream, after, limit).await?;
        match self.fault {
            NextHearsNoEvent if !page.events.is_empty() => pending().await,
            NextHearsNoEnd if matches!(page.then, Then::Ended { .. }) => pending().await,
            NeverLost | LosesSilently if page.then == Then::Lost => pending().await,
            NextTellsOne if !self.is_news(stream, &page) => pending().await,
            _ => Ok(self.told(page, limit)),
        }
    }

    async fn waited(&self, stream: StreamId, after: u64, limit: usize) -> Result<Page, StoreError> {
        let after = match self.fault {
            NextNeedsNews | NextWaitsForAny => {
                newest(&self.store.read(stream, 0, usize::MAX).await?)
            }
            _ => after,
        };
        let mut guard = Guard(Some(&self.dropped));
        if self.fault == NextMustNotBeDropped && self.dropped.load(SeqCst) {
            pending().await
        }
        let next = self.store.next(stream, after, limit);
        let page = match self.gives_up_with() {
            Some(then) => timeout(Duration::from_secs(1), next)
                .await
                .unwrap_or(Ok(Page {
                    events: vec![],
                    then,
                })),
            None => next.await,
        };
        guard.0 = None;
        page
    }

    fn gives_up_with(&self) -> Option<Then> {
        match self.fault {
            NextGivesUp => Some(Then::Running),
            NextPromises => Some(Then::More),
            _ => None,
        }
    }

    async fn attend(
        &self,
        read: &[StreamId],
        unread: &[StreamId],
    ) -> Result<Vec<StreamId>, StoreError> {
        let store = self.store.clone();
        match self.fault {
            AttendTellsNobody => store.attend(read, &[]).await,
            AttendTellsOfAll => Ok(unread.to_vec()),
            AttendTellsOfUnknown => {
                let mut told = store.attend(read, unread).await?;
                for stream in unread {
                    told.extend(store.find(*stream).await?.is_none().then_some(stream));
                }
                Ok(told)
            }
            AttendListensOrTells if !read.is_empty() => store.attend(read, &[]).await,
            AttendRemembers => store.lease(Duration::MAX).attend(read, unread).await,
            AttendForgets => {
                let lease = Duration::from_secs(1);
                store.lease(lease).attend(read, unread).await
            }
            AttendHearsOnce => {
                let mut new = read.to_vec();
                let known = store.attend(&[], read).await?;
                new.retain(|stream| !known.contains(stream));
                store.attend(&new, unread).await
            }
            AttendRenews => {
                store.renew(read).await?;
                store.attend(read, unread).await
            }
            _ => store.attend(read, unread).await,
        }
    }

    /// Whether nobody was told of these events.
    fn is_news(&self, stream: StreamId, page: &Page) -> bool {
        let mut told = self.told.lock().expect("no panic");
        let mut events = page.events.iter();
        events.all(|event| told.insert((stream, event.number)))
    }
}

fn newest(page: &Page) -> u64 {
    page.events.last().map_or(0, |event| event.number)
}

/// Tells when it is dropped before it is emptied.
struct Guard<'a>(Option<&'a AtomicBool>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(dropped) = self.0 {
            dropped.store(true, SeqCst);
        }
    }
}

impl ResumeStore for Broken {
    fn open(&self, stream: StreamId, about: Bytes) -> StoreFuture<'_, ()> {
        StoreFuture::new(async move {
            let stream = self.id(stream);
            self.store.open(stream, about).await?;
            match self.fault {
                OpensAnew => self.store.append(stream, &[], u64::MAX).await,
                _ => Ok(()),
            }
        })
    }

    fn append<'a>(
        &'a self,
        stream: StreamId,
        events: &'a [StoredEvent],
        keep_from: u64,
    ) -> StoreFuture<'a, ()> {
        StoreFuture::new(self.append(self.id(stream), events, keep_from))
    }

    fn close(&self, stream: StreamId, last: u64, end: StreamEnd) -> StoreFuture<'_, ()> {
        self.store.close(self.id(stream), last, end)
    }

    fn renew<'a>(&'a self, streams: &'a [StreamId]) -> StoreFuture<'a, ()> {
        match self.fault {
            NeverRenews => StoreFuture::ready(Ok(())),
            _ => self.store.renew(streams),
        }
    }

    fn attend<'a>(
        &'a self,
        read: &'a [StreamId],
        unread: &'a [StreamId],
    ) -> StoreFuture<'a, Vec<StreamId>> {
        StoreFuture::new(self.attend(read, unread))
    }

    fn lease(&self) -> Duration {
        ResumeStore::lease(&self.store)
    }

    fn find(&self, stream: StreamId) -> StoreFuture<'_, Option<Bytes>> {
        match self.fault {
            ForgetsAbout => StoreFuture::ready(Ok(Some(Bytes::new()))),
            _ => self.store.find(self.id(stream)),
        }
    }

    fn read(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page> {
        StoreFuture::new(self.read(self.id(stream), after, limit))
    }

    fn next(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page> {
        StoreFuture::new(self.next(self.id(stream), after, limit))
    }
}
