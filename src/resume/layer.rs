use std::{sync::Arc, time::Duration};

use http::request;

use super::{ResumeStore, about::Principal, handle::Resume, hub::Hub, live::Bounds};
use crate::{client::Client, judge::Judge};

/// A stream outlives its connection: whoever comes back with its last id goes on behind it.
///
/// The service's body is read by a task of its own and kept, event by event, in a
/// [`ResumeStore`]. The client reads from there; so it can lose its connection, reload its page or
/// land on another machine, and the service is called once.
///
/// The response says the stream's id in `sse-stream`. An event's id is that text, a dot and the
/// event's number, and a request with such a `Last-Event-ID`, of any method but `HEAD` and `OPTIONS`,
/// is answered from the store, strictly behind that event, and then live. The service and what is inside of this
/// layer do not see it: authentication belongs outside.
///
/// - A browser's `EventSource` gets `id:` lines and needs nothing else. So does whoever asks for them
///   with `sse-resume: ids`, as a header or in the query. Ids of the service are left alone, and
///   where there are some, none are added.
/// - For everyone else the bytes stay the service's. Such a client counts the events it has
///   dispatched and says `<sse-stream>.<count>`.
/// - Where the service has ids of its own, say the stream (`sse-stream`, as a header or in the query)
///   and that id (`Last-Event-ID`). Without the stream an id that is not ours is the service's to
///   understand, and reaches it untouched.
///
/// The response to a request that came back says how it went in `sse-resume`: `resumed`,
/// `complete` (204: there is nothing any more, which also stops an `EventSource`), or `lost`, and
/// then [`LossPolicy`] says what follows. A stream that cannot be told to its end breaks off, so
/// that nobody takes a part for the whole.
///
/// Whoever reads a stream must show the same `Authorization` as who started it, or what
/// [`principal`](Self::principal) says; for cookies, write that function. All else looks like a
/// stream that never was.
///
/// The client that is gone no longer ends the service's work: that goes on for the
/// [`grace`](Self::grace) time. So this layer is for answers that end, and on only where asked for.
/// What was produced last, up to 64 KiB of a stream that runs, is in memory besides the store, and
/// once more with its ids where a reader gets them.
/// It keeps away from the Model Context Protocol, which has its own way.
///
/// ```
/// use std::time::Duration;
///
/// use axum::{Router, routing::post};
/// use tower_sse::{MemoryStore, ResumeLayer, SseLayer};
///
/// # async fn complete() {}
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let resume = ResumeLayer::new(MemoryStore::new()).grace(Duration::from_secs(60));
/// let handle = resume.handle();
/// let app: Router = Router::new()
///     .route("/v1/chat/completions", post(complete))
///     .layer(SseLayer::new().resume(resume));
/// assert!(handle.streams().is_empty());
/// # drop(app);
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ResumeLayer {
    pub(super) settings: Settings,
    pub(super) hub: Arc<Hub>,
}

/// What follows when a client comes back to what is not there any more.
///
/// It is the same, byte for byte, whether the stream is gone, never was, or is somebody else's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LossPolicy {
    /// The service is called as for a first request, and `sse-resume: lost` is in its response.
    #[default]
    StartAnew,
    /// 204, on which an `EventSource` does not come back.
    NoContent,
    /// 410, for clients that are to show an error.
    Gone,
}

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) grace: Duration,
    pub(super) log: Bounds,
    pub(super) max_age: Duration,
    pub(super) on_loss: LossPolicy,
    pub(super) query: Option<Arc<str>>,
    pub(super) ids: Judge<bool>,
    pub(super) when: Judge<bool>,
    pub(super) principal: Judge<Vec<u8>>,
}

impl ResumeLayer {
    /// Streams are kept in `store`.
    pub fn new(store: impl ResumeStore) -> Self {
        Self {
            settings: Settings {
                grace: Duration::from_secs(30),
                log: Bounds {
                    count: 10_000,
                    bytes: 1024 * 1024,
                },
                max_age: Duration::from_secs(60 * 60),
                on_loss: LossPolicy::default(),
                query: None,
                ids: Judge::new(|request| Client::of(request).event_source),
                when: Judge::new(|_| true),
                principal: Judge::new(Principal::authorization),
            },
            hub: Hub::new(Arc::new(store)),
        }
    }

    /// To look at the streams that are being produced here, and to stop them.
    #[must_use]
    pub fn handle(&self) -> Resume {
        Resume::new(self.hub.clone())
    }

    /// How long the service's body is read on after its last reader has left; then it is dropped.
    /// Default: 30 seconds. Zero ends it with its reader.
    ///
    /// A reader on another machine counts from its first word in the store on, which is looked for
    /// three times in the store's lease; so the grace should not be shorter than a third of that.
    pub fn grace(mut self, time: Duration) -> Self {
        self.settings.grace = time;
        self
    }

    /// How many events of a stream are kept, the newest. Default: 10,000.
    ///
    /// While nobody reads here, upstream is read no further than what nobody has seen fits into half of
    /// this, and of [`max_bytes`](Self::max_bytes); the other half is for what was on its way.
    pub fn max_events(mut self, events: usize) -> Self {
        self.settings.log.count = events.max(1);
        self
    }

    /// How many bytes of a stream are kept, the newest. Default: 1 MiB. An event that is larger
    /// passes in parts, and cannot be resumed across.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.settings.log.bytes = bytes.max(1);
        self
    }

    /// How old the events of a stream that runs may become; they go when the next one comes. Default:
    /// one hour. How long a stream is kept after its end is the store's to say.
    pub fn max_age(mut self, age: Duration) -> Self {
        self.settings.max_age = age;
        self
    }

    /// What follows when a client comes back to what is not there any more. Default:
    /// [`LossPolicy::StartAnew`].
    pub fn on_loss(mut self, policy: LossPolicy) -> Self {
        self.settings.on_loss = policy;
        self
    }

    /// A query parameter to read the last id from where the header is missing, `lastEventId` say.
    /// Default: none.
    ///
    /// For the first request of a page that was reloaded, whose `EventSource` cannot set headers.
    pub fn query(mut self, parameter: impl Into<Arc<str>>) -> Self {
        self.settings.query = Some(parameter.into());
        self
    }

    /// Which requests get `id:` lines without asking for them in `sse-resume`. Default:
    /// [`is_event_source`](crate::is_event_source). Never MCP, nor Google's libraries.
    pub fn ids(mut self, when: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.settings.ids = Judge::new(when);
        self
    }

    /// Which requests this layer is for. Default: all. The others pass untouched.
    pub fn when(mut self, when: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.settings.when = Judge::new(when);
        self
    }

    /// Who asks, in any bytes: only who started a stream can come back to it. Only a hash of it is
    /// kept. Default: the `Authorization` header.
    pub fn principal(
        mut self,
        who: impl Fn(&request::Parts) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        self.settings.principal = Judge::new(who);
        self
    }
}
