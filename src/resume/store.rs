use std::{
    error::Error,
    fmt,
    pin::Pin,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;

use super::StreamId;
use crate::error::BoxError;

/// Where the events of streams are kept for those who come back.
///
/// [`MemoryStore`](super::MemoryStore) keeps them in the process. Write your own for another
/// database; `conformance::check`, behind the feature `test-util`, tells whether it does what the
/// layer leans on.
///
/// A stream has one producer, which calls [`open`](Self::open), [`append`](Self::append) and
/// [`close`](Self::close), one after the other; its process calls [`renew`](Self::renew) for all of
/// its streams meanwhile. Any number of readers, on any machine that shares the store, call the
/// others.
///
/// - Events are numbered from 1. What is read is in order, each event once. Numbers may be missing
///   where the store failed, or has dropped old events; the layer sees that, the store need not.
/// - A call may fail, be dropped half done, or be repeated: every write must bear to be repeated.
/// - The layer bounds the time of every call but [`next`](Self::next) by itself, and goes on without
///   the store while it is down. What a store that works does not take, because it is full say, it
///   refuses by [`StoreError::Refused`].
/// - Nothing stays for ever: a stream that was neither appended to nor renewed for the store's own
///   time of keeping is gone.
///
/// Ids of streams come from the layer, never from a client: what a client sent is parsed, and
/// [`find`](Self::find) says whether it exists.
pub trait ResumeStore: fmt::Debug + Send + Sync + 'static {
    /// A new stream, or one that the store has lost. `about` is what the layer wants to know of it
    /// again, a few hundred bytes that are nobody else's business.
    fn open(&self, stream: StreamId, about: Bytes) -> StoreFuture<'_, ()>;

    /// Adds `events` behind those that are there, and may drop those before number `keep_from`.
    ///
    /// The numbers in `events` follow each other. Those that are stored already are passed over:
    /// an append whose answer was lost is repeated, with more events behind it. The answer comes
    /// when readers can see the events.
    ///
    /// Answers [`StoreError::Unknown`] for a stream that is not there; it is opened again then.
    fn append<'a>(
        &'a self,
        stream: StreamId,
        events: &'a [StoredEvent],
        keep_from: u64,
    ) -> StoreFuture<'a, ()>;

    /// The stream has ended with event `last`, 0 if it had none.
    ///
    /// Answers [`StoreError::Unknown`] for a stream that is not there.
    fn close(&self, stream: StreamId, last: u64, end: StreamEnd) -> StoreFuture<'_, ()>;

    /// The producers of these streams are alive, and the streams are to be kept. Called three times
    /// per [`lease`](Self::lease), for all streams that this process produces; those that are not
    /// there are passed over.
    fn renew<'a>(&'a self, streams: &'a [StreamId]) -> StoreFuture<'a, ()>;

    /// Somebody reads the streams in `read` here, which are produced elsewhere; and tells which of
    /// those in `unread`, which are produced here, somebody reads elsewhere: said so within the last
    /// [`lease`](Self::lease), on any machine.
    ///
    /// So a producer without a reader learns that it has one on another machine. Called as often as
    /// [`renew`](Self::renew), and when the first reader of a stream comes. Streams that are not there
    /// are passed over.
    fn attend<'a>(
        &'a self,
        read: &'a [StreamId],
        unread: &'a [StreamId],
    ) -> StoreFuture<'a, Vec<StreamId>>;

    /// How long a producer may go without [`renew`](Self::renew) before its readers are told
    /// [`Then::Lost`].
    fn lease(&self) -> Duration;

    /// What [`open`](Self::open) was given; `None` for a stream that is not there.
    fn find(&self, stream: StreamId) -> StoreFuture<'_, Option<Bytes>>;

    /// The first events with a number over `after`, at most `limit` of them, as they are now.
    ///
    /// Answers [`StoreError::Unknown`] for a stream that is not there.
    fn read(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page>;

    /// The same, but waits until there is an event, an end or a loss to tell of: until the page
    /// would be another than no events and [`Then::Running`]. May be dropped while it waits.
    fn next(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page>;
}

/// One event of a stream: its bytes are the upstream's, from the end of the event before it to the
/// end of its own blank line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Counted from 1.
    pub number: u64,
    /// What the upstream sent.
    pub bytes: Bytes,
}

/// Some events of a stream, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The events; none is there twice.
    pub events: Vec<StoredEvent>,
    /// What follows the last of them.
    pub then: Then,
}

/// What follows the events of a [`Page`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// More events that are there already.
    More,
    /// Nothing so far: the producer is at work.
    Running,
    /// The end.
    Ended {
        /// The number of the stream's last event, whether or not it is still stored.
        last: u64,
        /// How it ended.
        end: StreamEnd,
    },
    /// Nothing any more: the producer has not renewed its lease.
    Lost,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// As the upstream wanted.
    Complete,
    /// [`Resume::stop`](super::Resume::stop) ended it.
    Stopped,
    /// The upstream's body failed.
    Failed,
    /// Nobody read it for longer than its grace, or its process was shut down.
    Abandoned,
}

/// The text is not the name of a [`StreamEnd`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownStreamEnd(());

/// Why a store did not do what it was asked.
#[derive(Debug)]
pub enum StoreError {
    /// There is no such stream, or not any more.
    Unknown,
    /// The store works, and does not take what it was given: it is too large, or the store is full.
    Refused(BoxError),
    /// The store is down, slow or broken.
    Failed(BoxError),
}

/// What a store answers: at once, without an allocation, or later.
#[must_use = "futures do nothing unless polled"]
pub struct StoreFuture<'a, T>(Answer<'a, T>);

enum Answer<'a, T> {
    Now(Option<Result<T, StoreError>>),
    Later(Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>),
}

/// A store that is chosen while the program runs: `Arc<dyn ResumeStore>`.
impl<S: ResumeStore + ?Sized> ResumeStore for Arc<S> {
    fn open(&self, stream: StreamId, about: Bytes) -> StoreFuture<'_, ()> {
        (**self).open(stream, about)
    }

    fn append<'a>(
        &'a self,
        stream: StreamId,
        events: &'a [StoredEvent],
        keep_from: u64,
    ) -> StoreFuture<'a, ()> {
        (**self).append(stream, events, keep_from)
    }

    fn close(&self, stream: StreamId, last: u64, end: StreamEnd) -> StoreFuture<'_, ()> {
        (**self).close(stream, last, end)
    }

    fn renew<'a>(&'a self, streams: &'a [StreamId]) -> StoreFuture<'a, ()> {
        (**self).renew(streams)
    }

    fn attend<'a>(
        &'a self,
        read: &'a [StreamId],
        unread: &'a [StreamId],
    ) -> StoreFuture<'a, Vec<StreamId>> {
        (**self).attend(read, unread)
    }

    fn lease(&self) -> Duration {
        (**self).lease()
    }

    fn find(&self, stream: StreamId) -> StoreFuture<'_, Option<Bytes>> {
        (**self).find(stream)
    }

    fn read(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page> {
        (**self).read(stream, after, limit)
    }

    fn next(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page> {
        (**self).next(stream, after, limit)
    }
}

impl Page {
    /// Neither an event nor an end.
    pub(super) fn says_nothing(&self) -> bool {
        self.events.is_empty() && matches!(self.then, Then::More | Then::Running)
    }
}

impl StreamEnd {
    /// All of them, each with the name under which a store may keep it.
    const NAMES: [(Self, &'static str); 4] = [
        (Self::Complete, "complete"),
        (Self::Stopped, "stopped"),
        (Self::Failed, "failed"),
        (Self::Abandoned, "abandoned"),
    ];

    /// Its name, which [`FromStr`] reads.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        names
            .find(|(end, _)| *end == self)
            .map_or("", |(_, name)| name)
    }
}

impl FromStr for StreamEnd {
    type Err = UnknownStreamEnd;

    fn from_str(text: &str) -> Result<Self, UnknownStreamEnd> {
        let mut names = Self::NAMES.iter();
        let found = names.find(|(_, name)| *name == text);
        found.map(|(end, _)| *end).ok_or(UnknownStreamEnd(()))
    }
}

impl<'a, T> StoreFuture<'a, T> {
    /// An answer that is known.
    pub fn ready(answer: Result<T, StoreError>) -> Self {
        Self(Answer::Now(Some(answer)))
    }

    /// An answer that `future` will give.
    pub fn new(future: impl Future<Output = Result<T, StoreError>> + Send + 'a) -> Self {
        Self(Answer::Later(Box::pin(future)))
    }

    /// The answer if it is known, which then takes no timer.
    pub(super) fn at_once(mut self) -> Result<Result<T, StoreError>, Self> {
        match &mut self.0 {
            Answer::Now(answer) => answer.take().ok_or(self),
            Answer::Later(_) => Err(self),
        }
    }
}

impl<T: Unpin> Future for StoreFuture<'_, T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Answer::Now(answer) => Poll::Ready(answer.take().expect("polled after completion")),
            Answer::Later(future) => future.as_mut().poll(cx),
        }
    }
}

impl<T> fmt::Debug for StoreFuture<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoreFuture")
    }
}

impl fmt::Display for UnknownStreamEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no stream ends like that")
    }
}

impl Error for UnknownStreamEnd {}

impl StoreError {
    /// The store is down, slow or broken, and this is how.
    pub fn failed(error: impl Into<BoxError>) -> Self {
        Self::Failed(error.into())
    }

    /// The store works, and does not take what it was given, for this reason.
    pub fn refused(reason: impl Into<BoxError>) -> Self {
        Self::Refused(reason.into())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("no such stream in the store"),
            Self::Refused(_) => f.write_str("store refused what it was given"),
            Self::Failed(_) => f.write_str("store failed"),
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Unknown => None,
            Self::Refused(error) | Self::Failed(error) => Some(error.as_ref()),
        }
    }
}
