mod order;
mod stream;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use self::{
    order::{Kind, Order},
    stream::{Log, Stream},
};
use super::{Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, StreamId, Then};

/// Keeps the events of streams in this process: fast, bounded, and gone when the process is.
///
/// Clones are the same store, each with the settings that it was cloned with: set them first.
///
/// Room is taken as in [`max_bytes`](Self::max_bytes). When it is short, the streams that ended
/// first go, as a whole. When none is left, running streams give up their oldest events: first all
/// of the one that has held some for longest, then those of the next. When nothing is left to
/// give up, what is to be stored is refused with [`StoreError::Refused`].
#[derive(Clone)]
pub struct MemoryStore {
    max_bytes: usize,
    keep: Duration,
    lease: Duration,
    shared: Arc<Shared>,
}

/// What a [`MemoryStore`] has given up because room was short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evicted {
    /// Streams that had ended.
    pub streams: u64,
    /// Events, those of these streams and those of running ones.
    pub events: u64,
}

#[derive(Default)]
struct Shared {
    /// By the lowest bits of the id, which is random.
    shards: [RwLock<Shard>; SHARDS],
    order: Mutex<Order>,
    used: AtomicUsize,
    evicted_streams: AtomicU64,
    evicted_events: AtomicU64,
}

type Shard = HashMap<StreamId, Arc<Stream>>;

/// So that those who open streams seldom stop those who write to others.
const SHARDS: usize = 16;

/// What a stream takes besides its events and what [`ResumeStore::open`] was told: the stream
/// itself, its places in three maps, and their slack.
const STREAM_BYTES: usize = 512;

/// What an event takes besides its bytes: its place in the log, which may have doubled just now,
/// and the head of the allocation behind its bytes.
const EVENT_BYTES: usize = 128;

/// How many streams that are too old one call takes away. A call brings at most one.
const STEPS: usize = 4;

impl MemoryStore {
    /// A store for 256 MiB, which keeps a stream for 10 minutes.
    #[must_use]
    pub fn new() -> Self {
        Self {
            max_bytes: 256 * 1024 * 1024,
            keep: Duration::from_secs(600),
            lease: Duration::from_secs(10),
            shared: Arc::default(),
        }
    }

    /// How many bytes all streams together may take. Default: 256 MiB.
    ///
    /// That counts the process's memory: an event is its bytes and 128 more, a stream 512 and what
    /// the layer wants to know of it.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How long a stream is kept after its end, or after its producer's last sign of life. Default:
    /// 10 minutes. It is gone for readers at that time; its memory is given back by the calls that
    /// follow.
    #[must_use]
    pub fn keep(mut self, time: Duration) -> Self {
        self.keep = time;
        self
    }

    /// How long a producer may be silent before its readers are told that it is lost, and for how
    /// long a reader counts that has said so by [`attend`](ResumeStore::attend). Default: 10 seconds.
    #[must_use]
    pub fn lease(mut self, time: Duration) -> Self {
        self.lease = time;
        self
    }

    /// How many bytes are taken, as [`max_bytes`](Self::max_bytes) counts them.
    #[must_use]
    pub fn used(&self) -> usize {
        self.shared.used.load(Relaxed)
    }

    /// How many streams there are.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.order().len()
    }

    /// What was given up so far because room was short. What had its time is not counted.
    #[must_use]
    pub fn evicted(&self) -> Evicted {
        Evicted {
            streams: self.shared.evicted_streams.load(Relaxed),
            events: self.shared.evicted_events.load(Relaxed),
        }
    }

    fn open_now(&self, id: StreamId, about: Bytes) -> Result<(), StoreError> {
        let now = Instant::now();
        self.sweep(now);
        if self.renew_now(id, now).is_ok() {
            return Ok(());
        }
        let bytes = STREAM_BYTES + about.len();
        self.reserve(bytes)?;
        let stream = Arc::new(Stream::new(id, about));
        let old = self.shared.shard_mut(id).insert(id, stream.clone());
        self.shared.order().add(&stream);
        if let Some(old) = old {
            self.shared.forget(&old);
        }
        Ok(())
    }

    fn append_now(
        &self,
        id: StreamId,
        events: &[StoredEvent],
        keep_from: u64,
    ) -> Result<(), StoreError> {
        let now = Instant::now();
        self.sweep(now);
        let stream = self.shared.stream(id)?;
        let (known, ranked) = self.append_to(&stream, events, now)?;
        if known < events.len() {
            if !ranked {
                self.shared.order().rank(&stream);
            }
            stream.changed.notify_waiters();
        }
        // One by one, since no lock is held where an event is dropped.
        while let Some(old) = stream.pop_before(keep_from) {
            self.shared.release(size(&old));
        }
        Ok(())
    }

    /// Returns how many of the events were known, and whether the stream was ranked.
    fn append_to(
        &self,
        stream: &Stream,
        events: &[StoredEvent],
        now: Instant,
    ) -> Result<(usize, bool), StoreError> {
        // Before they are there, so that never more is there than may be.
        let reserved = events.iter().map(size).sum();
        self.reserve(reserved)?;
        let appended = stream
            .log(self.keep, now)
            .map(|mut log| (log.append(events, now), log.rank.is_some()));
        let unused = match appended {
            Ok((known, _)) => events.iter().take(known).map(size).sum(),
            Err(_) => reserved,
        };
        self.shared.release(unused);
        appended
    }

    fn close_now(&self, id: StreamId, last: u64, end: StreamEnd) -> Result<(), StoreError> {
        let now = Instant::now();
        self.sweep(now);
        let stream = self.shared.stream(id)?;
        stream.log(self.keep, now)?.end(last, end, now);
        self.shared.order().rank(&stream);
        stream.changed.notify_waiters();
        Ok(())
    }

    fn renew_now(&self, id: StreamId, now: Instant) -> Result<(), StoreError> {
        self.with_log(id, now, |log| log.renewed = now)
    }

    fn attend_now(&self, read: &[StreamId], unread: &[StreamId]) -> Vec<StreamId> {
        let now = Instant::now();
        for id in read {
            // One that is not there needs no reader.
            drop(self.with_log(*id, now, |log| log.attend(now)));
        }
        let is_read = |id| self.with_log(id, now, |log| log.is_read(self.lease, now));
        let told = unread.iter().copied();
        told.filter(|id| is_read(*id).unwrap_or(false)).collect()
    }

    fn with_log<T>(
        &self,
        id: StreamId,
        now: Instant,
        call: impl FnOnce(&mut Log) -> T,
    ) -> Result<T, StoreError> {
        let stream = self.shared.stream(id)?;
        let mut log = stream.log(self.keep, now)?;
        Ok(call(&mut log))
    }

    fn find_now(&self, id: StreamId) -> Option<Bytes> {
        let now = Instant::now();
        self.sweep(now);
        let stream = self.shared.stream(id).ok()?;
        let there = stream.log(self.keep, now).is_ok();
        there.then(|| stream.about.clone())
    }

    fn read_now(&self, id: StreamId, after: u64, limit: usize) -> Result<Page, StoreError> {
        let now = Instant::now();
        self.with_log(id, now, |log| log.page(after, limit, self.lease, now))
    }

    async fn wait(&self, id: StreamId, after: u64, limit: usize) -> Result<Page, StoreError> {
        let stream = self.shared.stream(id)?;
        loop {
            // Before the look: it hears of whatever comes after it.
            let changed = stream.changed.notified();
            let now = Instant::now();
            let page = stream
                .log(self.keep, now)?
                .page(after, limit, self.lease, now);
            if !is_nothing(&page) {
                return Ok(page);
            }
            let silence = stream.lock().silence(now);
            let left = self.lease.min(self.keep).saturating_sub(silence);
            // Whether it was a change or the time: the look is the same.
            drop(timeout(left, changed).await);
        }
    }

    /// Counts `bytes` as used, if need be after others have been given up.
    fn reserve(&self, bytes: usize) -> Result<(), StoreError> {
        self.shared.used.fetch_add(bytes, Relaxed);
        while self.used() > self.max_bytes {
            if bytes > self.max_bytes || !self.shared.evict() {
                self.shared.release(bytes);
                return Err(StoreError::refused("the store is full"));
            }
        }
        Ok(())
    }

    /// Takes away some of what is too old, unless somebody else is at it.
    fn sweep(&self, now: Instant) {
        for _ in 0..STEPS {
            let order = self.shared.order.try_lock().ok();
            let Some(old) = order.and_then(|mut order| order.overdue(self.keep, now)) else {
                return;
            };
            self.shared.forget(&old);
        }
    }
}

fn size(event: &StoredEvent) -> usize {
    EVENT_BYTES + event.bytes.len()
}

fn is_nothing(page: &Page) -> bool {
    page.events.is_empty() && page.then == Then::Running
}

impl Shared {
    fn stream(&self, id: StreamId) -> Result<Arc<Stream>, StoreError> {
        let found = self.shard(id).get(&id).cloned();
        found.ok_or(StoreError::Unknown)
    }

    /// Gives up the next that may go; false if nothing may.
    fn evict(&self) -> bool {
        let mut order = self.order();
        let Some((kind, stream)) = order.first() else {
            return false;
        };
        if kind == Kind::Running {
            let event = order.pop(&stream);
            // No lock is held where an event is dropped.
            drop(order);
            self.release(event.iter().map(size).sum());
            self.evicted_events
                .fetch_add(event.iter().len() as u64, Relaxed);
        } else {
            drop(order);
            if let Some(events) = self.forget(&stream) {
                self.evicted_streams.fetch_add(1, Relaxed);
                self.evicted_events.fetch_add(events as u64, Relaxed);
            }
        }
        true
    }

    /// Takes a stream away, and returns how many events it held; nothing if it was gone already.
    fn forget(&self, stream: &Arc<Stream>) -> Option<usize> {
        let events = self.order().forget(stream)?;
        let mut shard = self.shard_mut(stream.id);
        let current = shard.get(&stream.id);
        if current.is_some_and(|current| Arc::ptr_eq(current, stream)) {
            shard.remove(&stream.id);
        }
        drop(shard);
        let bytes: usize = events.iter().map(size).sum();
        self.release(STREAM_BYTES + stream.about.len() + bytes);
        stream.changed.notify_waiters();
        Some(events.len())
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Relaxed);
    }

    fn order(&self) -> MutexGuard<'_, Order> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard(&self, id: StreamId) -> RwLockReadGuard<'_, Shard> {
        let shard = &self.shards[id.bits() as usize % SHARDS];
        shard.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn shard_mut(&self, id: StreamId) -> RwLockWriteGuard<'_, Shard> {
        let shard = &self.shards[id.bits() as usize % SHARDS];
        shard.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ResumeStore for MemoryStore {
    fn open(&self, stream: StreamId, about: Bytes) -> StoreFuture<'_, ()> {
        StoreFuture::ready(self.open_now(stream, about))
    }

    fn append<'a>(
        &'a self,
        stream: StreamId,
        events: &'a [StoredEvent],
        keep_from: u64,
    ) -> StoreFuture<'a, ()> {
        StoreFuture::ready(self.append_now(stream, events, keep_from))
    }

    fn close(&self, stream: StreamId, last: u64, end: StreamEnd) -> StoreFuture<'_, ()> {
        StoreFuture::ready(self.close_now(stream, last, end))
    }

    fn renew<'a>(&'a self, streams: &'a [StreamId]) -> StoreFuture<'a, ()> {
        let now = Instant::now();
        for stream in streams {
            self.sweep(now);
            // One that is not there is opened again when it has something to say.
            drop(self.renew_now(*stream, now));
        }
        StoreFuture::ready(Ok(()))
    }

    fn attend<'a>(
        &'a self,
        read: &'a [StreamId],
        unread: &'a [StreamId],
    ) -> StoreFuture<'a, Vec<StreamId>> {
        StoreFuture::ready(Ok(self.attend_now(read, unread)))
    }

    fn lease(&self) -> Duration {
        self.lease
    }

    fn find(&self, stream: StreamId) -> StoreFuture<'_, Option<Bytes>> {
        StoreFuture::ready(Ok(self.find_now(stream)))
    }

    fn read(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page> {
        StoreFuture::ready(self.read_now(stream, after, limit))
    }

    fn next(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page> {
        match self.read_now(stream, after, limit) {
            Ok(page) if is_nothing(&page) => StoreFuture::new(self.wait(stream, after, limit)),
            answer => StoreFuture::ready(answer),
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("max_bytes", &self.max_bytes)
            .field("keep", &self.keep)
            .field("lease", &self.lease)
            .field("used", &self.used())
            .field("streams", &self.streams())
            .finish()
    }
}
