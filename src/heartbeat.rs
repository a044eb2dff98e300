use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::response;
use tokio::time::Instant;

use crate::{
    client::{Client, Gemini},
    jitter::{Jitter, SHORTEST},
    shape::HeartbeatShape,
    wire::{BlockEnd, Comment, Field, LineEnd, Position, comment_line},
};

/// Comment heartbeats in the silences of a stream.
///
/// Load balancers and proxies cut a connection on which nothing moves: Heroku after 55 s, nginx
/// and ALB after 60 s, Cloudflare after 120 s. And for a `POST` whose body was not read to its
/// end, writing is the only way to learn that the client has gone. A heartbeat is a comment, which
/// every conforming client ignores; it goes out when the service has sent nothing for the
/// interval, its own comments included, and only between events.
///
/// A service that sends heartbeats of its own, as axum's and rmcp's can, gets no others beside them
/// unless it sends them less often: after a comment of the service the next silence may be as much
/// longer as the [jitter](Self::jitter) makes others shorter.
///
/// The [specification] advises a comment "every 15 seconds or so", which is the default here.
///
/// A response overrides the layer that it passes: with a `HeartbeatLayer` among its extensions it
/// gets that one, and with [`HeartbeatLayer::off`] none.
///
/// ```
/// use axum::{Extension, response::IntoResponse};
/// use tower_sse::HeartbeatLayer;
/// # use axum::response::sse::{Event, Sse};
/// # fn no_events() -> impl futures_util::Stream<Item = Result<Event, axum::Error>> {
/// #     futures_util::stream::empty()
/// # }
///
/// async fn events() -> impl IntoResponse {
///     (Extension(HeartbeatLayer::off()), Sse::new(no_events()))
/// }
/// ```
///
/// On by default in [`SseLayer`](crate::SseLayer); off with
/// [`without_heartbeat`](crate::SseLayer::without_heartbeat). It needs a tokio runtime with timers,
/// cannot speak before there is a response head (see [`EarlyOpenLayer`](crate::EarlyOpenLayer) for
/// that), and never speaks into a body that is compressed.
///
/// ```
/// use std::time::Duration;
/// use tower_sse::{HeartbeatLayer, HeartbeatShape};
///
/// let layer = HeartbeatLayer::every(Duration::from_secs(20))
///     .comment(&"still thinking".parse()?)
///     .shape(HeartbeatShape::CommentLine);
/// # Ok::<_, tower_sse::wire::InvalidComment>(())
/// ```
///
/// [specification]: https://html.spec.whatwg.org/multipage/server-sent-events.html#authoring-notes
#[derive(Clone, Debug)]
pub struct HeartbeatLayer {
    /// `None` is off.
    interval: Option<Duration>,
    jitter: Jitter,
    line: Bytes,
    shape: HeartbeatShape,
    start: HeartbeatStart,
    inside_events: bool,
}

/// When heartbeats may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeartbeatStart {
    /// At once with the response head, unless an event is there already: opens the stream through
    /// everything that waits for a first byte.
    AtOnce,
    /// After the first silence, also before the first event; the default. A language model that
    /// thinks for a minute is what heartbeats are for.
    #[default]
    AfterSilence,
    /// Not before the service has sent its first event.
    AfterFirstEvent,
}

/// The heartbeat of one stream.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    layer: Arc<HeartbeatLayer>,
    client: Client,
    carried_id: bool,
    /// How many more events are looked at for an id.
    looks: u8,
    start: HeartbeatStart,
    /// How long a silence may be: drawn anew for every heartbeat and not for every event, so that
    /// a busy stream only ever puts its deadline off, and its timer is left alone. At first all of the
    /// interval: a service with the same one speaks first.
    wait: Duration,
    /// When the silence is over; `None` while something was heard since the last look.
    due: Option<Instant>,
}

/// A service that gives its events ids gives them from the start. Beyond this many events without one,
/// to read every line would be most of what a heartbeat costs.
const LOOKS: u8 = 32;

impl HeartbeatLayer {
    /// Every 15 seconds of silence; after the first one up to a tenth earlier.
    #[must_use]
    pub fn new() -> Self {
        Self::every(Duration::from_secs(15))
    }

    /// After `interval` without a byte from the service. Default: 15 seconds.
    ///
    /// Stay below half of the shortest idle time-out on the way. Less than a millisecond is taken
    /// as one; [`Duration::MAX`] never comes.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self {
            interval: Some(interval.max(SHORTEST)),
            jitter: Jitter::new(0.1),
            line: Bytes::from_static(b": keep-alive\n"),
            shape: HeartbeatShape::default(),
            start: HeartbeatStart::default(),
            inside_events: false,
        }
    }

    /// No heartbeats: what to put into a response's extensions to switch them off for it.
    #[must_use]
    pub fn off() -> Self {
        Self {
            interval: None,
            ..Self::new()
        }
    }

    /// The largest share of the interval by which a heartbeat may come earlier, between 0 (none)
    /// and 1. Default: 0.1. Streams that were opened together, after a restart say, drift apart. The
    /// first one is not earlier.
    #[must_use]
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = Jitter::new(share);
        self
    }

    /// The text of the comment. Default: `keep-alive`.
    #[must_use]
    pub fn comment(mut self, text: &Comment) -> Self {
        self.line = comment_line(text, LineEnd::Lf);
        self
    }

    /// The bytes of a heartbeat. Default: [`HeartbeatShape::Auto`].
    #[must_use]
    pub fn shape(mut self, shape: HeartbeatShape) -> Self {
        self.shape = shape;
        self
    }

    /// When heartbeats may begin. Default: [`HeartbeatStart::AfterSilence`].
    #[must_use]
    pub fn start(mut self, start: HeartbeatStart) -> Self {
        self.start = start;
        self
    }

    /// Whether a comment line may also go between the lines of an event that stalls. Default: no.
    /// It is legal, and it breaks the parsers that split at blank lines.
    #[must_use]
    pub fn inside_events(mut self, yes: bool) -> Self {
        self.inside_events = yes;
        self
    }

    pub(crate) fn on_response(
        self: &Arc<Self>,
        response: &response::Parts,
        client: Client,
    ) -> Option<Heartbeat> {
        let own = response.extensions.get::<Self>();
        let layer = own.map_or_else(|| self.clone(), |own| Arc::new(own.clone()));
        let wait = layer.interval?;
        let heartbeat = Heartbeat {
            client,
            carried_id: false,
            looks: LOOKS,
            start: layer.start,
            wait,
            layer,
            due: None,
        };
        (heartbeat.shape() != HeartbeatShape::Silent).then_some(heartbeat)
    }

    /// How long a silence may be.
    fn wait(&self) -> Duration {
        self.jitter.earlier(self.interval())
    }

    /// How long it may be where the service may have heartbeats of its own, which a network may delay.
    fn patience(&self) -> Duration {
        self.jitter.latest(self.interval())
    }

    fn interval(&self) -> Duration {
        self.interval.unwrap_or(Duration::MAX)
    }
}

impl Heartbeat {
    /// Anything from the service ends the silence, its own comments too.
    #[inline]
    pub(crate) fn on_data(&mut self, frame: &[u8]) {
        self.due = None;
        // In the middle of a line it may be none, and then one heartbeat comes a little later.
        if frame.first() == Some(&b':') {
            self.wait = self.layer.patience();
        }
        if self.start == HeartbeatStart::AtOnce {
            self.start = HeartbeatStart::AfterSilence;
        }
    }

    pub(crate) fn on_field(&mut self, field: &Field<'_>) {
        self.carried_id |= field.name == b"id";
    }

    /// `numbered` says that the block got an id from us.
    pub(crate) fn on_event_end(&mut self, block: &BlockEnd, numbered: bool) {
        self.carried_id |= numbered;
        if block.data {
            self.on_events(1);
            if self.start == HeartbeatStart::AfterFirstEvent {
                self.start = HeartbeatStart::AfterSilence;
            }
        }
    }

    /// Events without ids.
    #[inline]
    pub(crate) fn on_events(&mut self, events: u64) {
        let seen = u8::try_from(events).unwrap_or(u8::MAX);
        self.looks = self.looks.saturating_sub(seen);
    }

    /// Whether the first event is still to come, which starts it.
    pub(crate) fn needs_lines(&self) -> bool {
        self.start == HeartbeatStart::AfterFirstEvent
    }

    /// Whether it is still open which shape this stream bears.
    pub(crate) fn needs_events(&self) -> bool {
        self.looks > 0
            && self.layer.shape == HeartbeatShape::Auto
            && self.shape() == HeartbeatShape::CommentBlock
    }

    pub(crate) fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        if self.due.is_none() {
            self.due = now.checked_add(self.wait);
        }
        self.due
    }

    /// The heartbeat, if it is time for one and it may go in here; either way a new silence begins.
    pub(crate) fn on_deadline(
        &mut self,
        now: Instant,
        at: Position,
        end: LineEnd,
    ) -> Option<(HeartbeatShape, Bytes)> {
        let at_once = self.start == HeartbeatStart::AtOnce;
        if !at_once && self.due.is_none_or(|due| now < due) {
            return None;
        }
        if at_once {
            self.start = HeartbeatStart::AfterSilence;
        }
        self.due = None;
        self.wait = self.layer.wait();
        match at {
            _ if self.start == HeartbeatStart::AfterFirstEvent => None,
            Position::Boundary => Some((self.shape(), self.bytes(end))),
            Position::LineStart if self.may_interrupt() => {
                Some((HeartbeatShape::CommentLine, self.layer.line.clone()))
            }
            Position::LineStart | Position::MidLine | Position::AfterCr => None,
        }
    }

    fn bytes(&self, end: LineEnd) -> Bytes {
        match self.shape() {
            HeartbeatShape::BlankLines => [end.as_bytes(); 2].concat().into(),
            HeartbeatShape::CommentBlock => [&self.layer.line[..], b"\n"].concat().into(),
            _ => self.layer.line.clone(),
        }
    }

    fn may_interrupt(&self) -> bool {
        self.layer.inside_events && self.shape() != HeartbeatShape::BlankLines
    }

    fn shape(&self) -> HeartbeatShape {
        match self.layer.shape {
            HeartbeatShape::Auto => auto(self.client, self.carried_id),
            chosen => chosen,
        }
    }
}

/// With this choice every client library that was tried gets through.
fn auto(client: Client, carried_id: bool) -> HeartbeatShape {
    match client.gemini {
        Some(Gemini::Legacy) => HeartbeatShape::Silent,
        Some(Gemini::Current) => HeartbeatShape::BlankLines,
        None if client.accepts_events || carried_id => HeartbeatShape::CommentLine,
        None => HeartbeatShape::CommentBlock,
    }
}

impl Default for HeartbeatLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Duration> for HeartbeatLayer {
    fn from(interval: Duration) -> Self {
        Self::every(interval)
    }
}
