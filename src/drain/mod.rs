mod streams;
mod watcher;

use std::{sync::Arc, time::Duration};

use http::response;
use tokio::{runtime::Handle, time::Instant};

use self::streams::Streams;
pub(crate) use self::watcher::Watcher;
use crate::{
    client::Client,
    departure::{Departure, DrainMode},
    end::EndReason,
    jitter::{Jitter, LONGEST},
    refusal::{Refusal, RefusedBy},
    trace::trace,
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
///   There an `EventSource` stream ends cleanly. Anyone else's connection is
///   [broken off](crate::Aborted) after its last whole event, since most SDKs take a clean end for
///   a success; an answer is complete with the terminal event of OpenAI's and Anthropic's
///   protocols, or with the end that the service gives it;
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
    streams: Arc<Streams>,
    mode: DrainMode,
    deadline: Duration,
    spread: Duration,
    retry: Option<Duration>,
    jitter: Jitter,
}

/// Starts the drain and tells what is left. Clones belong to the same drain.
#[derive(Clone, Debug)]
pub struct Drain {
    streams: Arc<Streams>,
}

impl DrainLayer {
    /// A layer, and the handle that drains every stream of the layer and of its clones.
    #[must_use]
    pub fn pair() -> (Self, Drain) {
        let streams = Arc::<Streams>::default();
        let layer = Self {
            streams: streams.clone(),
            mode: DrainMode::Auto,
            deadline: Duration::from_secs(10),
            spread: Duration::from_secs(1),
            retry: Some(Duration::from_secs(2)),
            jitter: Jitter::new(0.5),
        };
        (layer, Drain { streams })
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
        self.retry = Some(after.min(LONGEST));
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
        self.streams.started().is_some()
    }

    /// The refusal of a stream that comes too late.
    pub(crate) fn refuse(
        &self,
        response: &response::Parts,
        client: Client,
        late: bool,
    ) -> Option<Refusal> {
        let started = self.streams.started()?;
        let finishes = self.mode_of(response).finishes(client);
        if finishes && !late && Instant::now() < started + self.deadline {
            return None;
        }
        Some(Refusal {
            by: RefusedBy::Drain,
            client,
            after: self.hint(),
        })
    }

    pub(crate) fn on_response(&self, response: &response::Parts, client: Client) -> Watcher {
        let mode = self.mode_of(response);
        let end_after = if mode.finishes(client) {
            self.deadline
        } else {
            Jitter::new(1.0).earlier(self.spread.min(self.deadline))
        };
        let departure = Departure::new(client, mode, (EndReason::Drained, EndReason::Aborted));
        Watcher::new(self.streams.clone(), end_after, departure)
    }

    /// When a client should come back, if it is to be told.
    pub(crate) fn hint(&self) -> Option<Duration> {
        self.retry.map(|after| self.jitter.around(after))
    }

    fn mode_of(&self, response: &response::Parts) -> DrainMode {
        response.extensions.get().copied().unwrap_or(self.mode)
    }
}

impl Drain {
    /// Starts the drain; a second call changes nothing.
    ///
    /// Inside a tokio runtime it also sees to it that streams which nobody polls are freed at the
    /// deadline. Elsewhere [`wait`](Self::wait) does that.
    pub fn start(&self) {
        if !self.streams.start() {
            return;
        }
        trace!(info, "draining event streams", left = self.left());
        if let Ok(runtime) = Handle::try_current() {
            let drain = self.clone();
            runtime.spawn(async move { drain.wait().await });
        }
    }

    /// Whether the drain has started.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.streams.started().is_some()
    }

    /// How many streams are open.
    #[must_use]
    pub fn left(&self) -> usize {
        self.streams.left()
    }

    /// Waits until the drain has started and no stream is left: no later than a second after the
    /// deadline.
    ///
    /// It says nothing of connections: a client that does not read keeps its socket, and requests
    /// whose head is still to come are none of the streams.
    pub async fn wait(&self) {
        self.streams.wait().await;
    }
}
