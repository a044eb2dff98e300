use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header, response};
use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    client::Client,
    jitter::Jitter,
    trace::trace,
    wire::{BlockEnd, Field, LineEnd, Position, retry_line},
};

/// Ends event streams when the server shuts down, so that the shutdown does end.
///
/// A graceful shutdown waits for every response, and an event stream is a response that never
/// ends: the server hangs until it is killed, and then cuts every answer in half. With this layer
/// [`Drain::start`] ends each stream at an event boundary:
///
/// - live feeds at once ([`DrainMode::EndNow`]), spread over a second so that their clients do
///   not all come back together, and with a jittered `retry` hint, sent early in the stream;
/// - finite answers when they are complete ([`DrainMode::Finish`]), but no later than the deadline.
///   There an `EventSource` stream ends cleanly. Anyone else's connection is broken off after its
///   last whole event, unless the answer was complete: most SDKs take a clean end for a success;
/// - a stream that begins during the drain is refused, with 503 and `Retry-After`. An
///   `EventSource` would take that for a "never again", so it gets its 200, a `retry`, and an end.
///
/// The drain is a level, not an edge: a request that was half sent at the signal sees it too. A
/// stream whose client does not read is not polled and cannot end itself; soon after the deadline
/// the service's body is dropped from outside. Its socket is the listener's: give it a write
/// time-out, as `examples/gateway` does.
///
/// ```no_run
/// use axum::{Router, routing::get};
/// use tower_sse::{DrainLayer, SseLayer};
///
/// # async fn events() {}
/// # async fn ctrl_c() {}
/// # async fn serve(listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let (layer, drain) = DrainLayer::pair();
/// let app = Router::new().route("/events", get(events)).layer(SseLayer::new().drain(layer));
/// axum::serve(listener, app)
///     .with_graceful_shutdown(async move {
///         ctrl_c().await;
///         drain.start();
///     })
///     .await
/// # }
/// ```
///
/// Off in [`SseLayer`](crate::SseLayer) until it is handed one. It stops neither the listener nor
/// anything that is not an event stream.
#[derive(Clone, Debug)]
pub struct DrainLayer {
    shared: Arc<Shared>,
    mode: DrainMode,
    deadline: Duration,
    spread: Duration,
    retry: Option<Duration>,
    jitter: Jitter,
}

/// How a stream ends in a drain. As a response extension it overrides the layer's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainMode {
    /// `EndNow` for an `EventSource`, which comes back by itself; `Finish` for all others.
    #[default]
    Auto,
    /// At the next event boundary, cleanly.
    EndNow,
    /// When the service ends it, but no later than the deadline.
    Finish,
}

/// Starts the drain and tells what is left. Clones belong to the same drain.
#[derive(Clone, Debug)]
pub struct Drain {
    shared: Arc<Shared>,
}

/// What a stream must do to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Clean,
    Abort,
}

/// A stream, as far as the drain can reach it while nobody polls it.
pub(crate) trait Reach: Send + Sync {
    /// Has it polled soon.
    fn wake(&self);
    /// Drops what the service gave.
    fn free(&self);
}

/// The drain's part in one stream.
#[derive(Debug)]
pub(crate) struct Watcher {
    layer: DrainLayer,
    client: Client,
    mode: DrainMode,
    /// The hint that is still to be given.
    retry: Option<Duration>,
    answer: Answer,
    /// When the stream should end, once the drain has started.
    end_at: Option<Instant>,
    due: bool,
    registration: Option<Registration>,
}

/// How far an answer is, by the protocol that runs on the stream.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Running,
    /// The open block is the protocol's terminal event.
    Closing,
    Complete,
}

#[derive(Default)]
struct Shared {
    started: OnceLock<Instant>,
    streams: Mutex<Streams>,
    changed: Notify,
}

#[derive(Default)]
struct Streams {
    next: u64,
    open: HashMap<u64, Open>,
}

struct Open {
    /// How long after the start it is freed from outside.
    free_after: Duration,
    stream: Weak<dyn Reach>,
}

/// Keeps a stream among those that are left; dropped, it is gone.
#[derive(Debug)]
struct Registration {
    id: u64,
    shared: Arc<Shared>,
}

/// So that a time can be added to any other without an overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// How long a stream that should end may take to finish the event it is in. Then it ends in the
/// middle, without a blank line: that would dispatch half an event.
const EVENT_GRACE: Duration = Duration::from_millis(500);

/// How long after its last moment a stream has not been polled and is freed from outside.
const FREE_GRACE: Duration = Duration::from_millis(500);

impl DrainLayer {
    /// A layer, and the handle that drains every stream of the layer and of its clones.
    #[must_use]
    pub fn pair() -> (Self, Drain) {
        let shared = Arc::<Shared>::default();
        let layer = Self {
            shared: shared.clone(),
            mode: DrainMode::Auto,
            deadline: Duration::from_secs(10),
            spread: Duration::from_secs(1),
            retry: Some(Duration::from_secs(2)),
            jitter: Jitter::new(0.5),
        };
        (layer, Drain { shared })
    }

    /// How streams end. Default: [`DrainMode::Auto`].
    #[must_use]
    pub fn mode(mut self, mode: DrainMode) -> Self {
        self.mode = mode;
        self
    }

    /// How long after the start an unfinished answer may run on. Default: 10 seconds; zero ends
    /// all at their next boundary. Half a second more is given to an event that is under way; more
    /// than a year is taken as one.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(LONGEST);
        self
    }

    /// Over how long the ends of live feeds are spread, within the deadline. Default: 1 second;
    /// zero ends all at once.
    #[must_use]
    pub fn spread(mut self, spread: Duration) -> Self {
        self.spread = spread;
        self
    }

    /// After which time clients should come back, in whole milliseconds. Default: 2 seconds.
    ///
    /// Clients that accept `text/event-stream` are told in their first event, as a `retry` line,
    /// unless the service has told them; one whose stream never had an event, at its end. Refused
    /// ones learn it too.
    #[must_use]
    pub fn retry(mut self, after: Duration) -> Self {
        self.retry = Some(after);
        self
    }

    /// No `retry` line in any stream. A refusal still says `Retry-After`, of one second.
    #[must_use]
    pub fn without_retry(mut self) -> Self {
        self.retry = None;
        self
    }

    /// The share by which the hint is spread around its time, between 0 (not at all) and 1.
    /// Default: 0.5, so that 2 seconds become something between 1 and 3.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = Jitter::new(share);
        self
    }

    pub(crate) fn has_started(&self) -> bool {
        self.shared.started.get().is_some()
    }

    /// Turns the head of a stream that comes too late into a refusal, and returns its body. The
    /// service's own headers stay: without those of CORS an `EventSource` would give up for good.
    pub(crate) fn refuse(
        &self,
        response: &mut response::Parts,
        client: Client,
        late: bool,
    ) -> Option<Bytes> {
        let started = *self.shared.started.get()?;
        let finishes = self.mode_of(response, client) == DrainMode::Finish;
        if finishes && !late && Instant::now() < started + self.deadline {
            return None;
        }
        trace!(debug, "refused an event stream: draining", client = client);
        response.headers.remove(header::CONTENT_LENGTH);
        response.headers.remove(header::CONTENT_ENCODING);
        let hint = self.hint();
        if client.event_source {
            return Some(hint.map_or_else(Bytes::new, retry_block));
        }
        response.status = StatusCode::SERVICE_UNAVAILABLE;
        let seconds = hint.unwrap_or_default().as_secs_f64().ceil().max(1.0);
        response
            .headers
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds as u64));
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers.insert(header::CONTENT_TYPE, text);
        Some(Bytes::from_static(
            b"The server is shutting down. Please try again.\n",
        ))
    }

    pub(crate) fn on_response(&self, response: &response::Parts, client: Client) -> Watcher {
        let told = client.accepts_events && client.gemini.is_none();
        Watcher {
            layer: self.clone(),
            client,
            mode: self.mode_of(response, client),
            retry: self.hint().filter(|_| told),
            answer: Answer::Running,
            end_at: None,
            due: false,
            registration: None,
        }
    }

    fn mode_of(&self, response: &response::Parts, client: Client) -> DrainMode {
        match response.extensions.get().copied().unwrap_or(self.mode) {
            DrainMode::Auto if client.event_source => DrainMode::EndNow,
            DrainMode::Auto => DrainMode::Finish,
            chosen => chosen,
        }
    }

    fn hint(&self) -> Option<Duration> {
        self.retry.map(|after| self.jitter.around(after))
    }

    /// How long after the start a stream should end.
    fn wait(&self, mode: DrainMode) -> Duration {
        match mode {
            DrainMode::EndNow => Jitter::new(1.0).earlier(self.spread.min(self.deadline)),
            DrainMode::Auto | DrainMode::Finish => self.deadline,
        }
    }
}

impl Drain {
    /// Starts the drain; a second call changes nothing.
    ///
    /// Inside a tokio runtime it also sees to it that streams which nobody polls are freed at the
    /// deadline. Elsewhere [`wait`](Self::wait) does that.
    pub fn start(&self) {
        if self.shared.started.set(Instant::now()).is_err() {
            return;
        }
        trace!(info, "draining event streams", left = self.left());
        self.shared.changed.notify_waiters();
        for stream in self.shared.reachable() {
            stream.wake();
        }
        if let Ok(runtime) = Handle::try_current() {
            let drain = self.clone();
            runtime.spawn(async move { drain.wait().await });
        }
    }

    /// Whether the drain has started.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.shared.started.get().is_some()
    }

    /// How many streams are open.
    #[must_use]
    pub fn left(&self) -> usize {
        self.shared.streams().open.len()
    }

    /// Waits until the drain has started and no stream is left: no later than a second after the
    /// deadline.
    ///
    /// It says nothing of connections: a client that does not read keeps its socket, and requests
    /// whose head is still to come are none of the streams.
    pub async fn wait(&self) {
        loop {
            let changed = self.shared.changed.notified();
            match self.shared.free_overdue() {
                None => changed.await,
                Some(Left::Until(next)) => drop(timeout_at(next, changed).await),
                Some(Left::Nothing) => return,
            }
        }
    }
}

impl Watcher {
    /// Makes the stream one of those that are left.
    pub(crate) fn on_open(&mut self, stream: Weak<dyn Reach>) {
        let free_after = self.layer.deadline + EVENT_GRACE + FREE_GRACE;
        self.registration = Some(Shared::register(
            &self.layer.shared,
            Open { free_after, stream },
        ));
    }

    pub(crate) fn needs_lines(&self) -> bool {
        self.due || self.retry.is_some() || self.watches_answer()
    }

    pub(crate) fn on_field(&mut self, field: &Field<'_>) {
        match (field.name, field.value) {
            // The service knows better.
            (b"retry", _) => self.retry = None,
            // OpenAI and most others · Anthropic · OpenAI Responses
            (b"data", b"[DONE]") | (b"event", b"message_stop") => self.answer = Answer::Closing,
            (b"event", b"response.completed" | b"response.failed" | b"response.incomplete") => {
                self.answer = Answer::Closing;
            }
            _ => {}
        }
    }

    /// The line that the block still needs.
    pub(crate) fn on_event_end(&mut self, block: &BlockEnd) -> Option<Bytes> {
        if self.answer == Answer::Closing {
            self.answer = Answer::Complete;
        }
        let after = self.retry.take_if(|_| block.data)?;
        Some(retry_line(after, block.line_end))
    }

    /// Whether the stream is in a drain, so that the time matters.
    pub(crate) fn has_started(&self) -> bool {
        self.layer.has_started()
    }

    /// How the stream must end now, if it must. Half an event is waited for, but not long.
    pub(crate) fn on_drain(&mut self, now: Instant, at: Position) -> Option<Ending> {
        let started = *self.layer.shared.started.get()?;
        let mode = self.mode;
        let end_at = *self
            .end_at
            .get_or_insert_with(|| started + self.layer.wait(mode));
        self.due = now >= end_at;
        let ends = self.due && (at == Position::Boundary || now >= end_at + EVENT_GRACE);
        ends.then(|| self.ending(at))
    }

    /// How the stream must end at the boundary that was just reached in the bytes, if it must.
    pub(crate) fn on_boundary(&self) -> Option<Ending> {
        self.due.then(|| self.ending(Position::Boundary))
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let end_at = self.end_at?;
        Some(if self.due {
            end_at + EVENT_GRACE
        } else {
            end_at
        })
    }

    /// What to say at a clean end: the hint, where no event could carry it, and only to those who
    /// do not make an event of a block without data.
    pub(crate) fn on_end(&mut self, at: Position) -> Option<Bytes> {
        let sayable = self.client.event_source && at == Position::Boundary;
        self.retry.take().filter(|_| sayable).map(retry_block)
    }

    fn ending(&self, at: Position) -> Ending {
        let whole = self.mode == DrainMode::EndNow && at == Position::Boundary;
        if whole || self.client.event_source || self.answer == Answer::Complete {
            Ending::Clean
        } else {
            Ending::Abort
        }
    }

    fn watches_answer(&self) -> bool {
        self.mode == DrainMode::Finish && !self.client.event_source
    }
}

/// What is left of a drain that has started.
enum Left {
    Until(Instant),
    Nothing,
}

impl Shared {
    fn register(shared: &Arc<Self>, open: Open) -> Registration {
        let free_after = open.free_after;
        let id = shared.streams().add(open);
        // Looked at after the stream is in: a start in between finds it there.
        if let Some(started) = shared.started.get() {
            Self::free_at(shared, id, *started + free_after);
        }
        Registration {
            id,
            shared: shared.clone(),
        }
    }

    /// For a stream whose request was under way when the drain started, and that no sleeping
    /// [`Drain::wait`] knows of.
    fn free_at(shared: &Arc<Self>, id: u64, free_at: Instant) {
        if let Ok(runtime) = Handle::try_current() {
            let shared = shared.clone();
            runtime.spawn(async move {
                sleep_until(free_at).await;
                shared.free(&[id]);
            });
        }
    }

    /// Frees the streams that had their time; `None` before the start.
    fn free_overdue(&self) -> Option<Left> {
        let (started, now) = (*self.started.get()?, Instant::now());
        let overdue: Vec<_> = {
            let streams = self.streams();
            let open = streams.open.iter();
            open.filter(|(_, open)| started + open.free_after <= now)
                .map(|(id, _)| *id)
                .collect()
        };
        self.free(&overdue);
        let next = self
            .streams()
            .open
            .values()
            .map(|open| started + open.free_after)
            .min();
        Some(next.map_or(Left::Nothing, Left::Until))
    }

    fn free(&self, ids: &[u64]) {
        for id in ids {
            // Bound first: the lock must be free when the service's body is dropped.
            let open = self.remove(*id);
            if let Some(stream) = open.and_then(|open| open.stream.upgrade()) {
                trace!(warn, "freed an event stream that nobody reads", id = id);
                stream.free();
            }
        }
    }

    fn remove(&self, id: u64) -> Option<Open> {
        let mut streams = self.streams();
        let open = streams.open.remove(&id);
        if streams.open.is_empty() && self.started.get().is_some() {
            self.changed.notify_waiters();
        }
        open
    }

    fn reachable(&self) -> Vec<Arc<dyn Reach>> {
        self.streams()
            .open
            .values()
            .filter_map(|open| open.stream.upgrade())
            .collect()
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Streams {
    fn add(&mut self, open: Open) -> u64 {
        let id = self.next;
        self.next += 1;
        self.open.insert(id, open);
        id
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.remove(self.id);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("started", &self.started.get())
            .field("left", &self.streams().open.len())
            .finish()
    }
}

fn retry_block(after: Duration) -> Bytes {
    [&retry_line(after, LineEnd::Lf)[..], b"\n"].concat().into()
}
