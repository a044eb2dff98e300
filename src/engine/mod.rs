//! The concerns in their one order, for one request and its stream.
//!
//! Bytes in, bytes out: nothing here waits, and the time is an argument. The engine holds the
//! order and no logic; what a concern does stands in the concern's own file. A new one adds its
//! field, and a line to each hook that it needs.
//!
//! | hook | order |
//! |---|---|
//! | request | compression · event ids · drain |
//! | response | drain (refusal) · headers · then the parts of the stream |
//! | event end | event ids · drain |
//! | poll | output · drain · upstream · heartbeat, only in silence |

mod lines;
mod parts;

use std::{mem, sync::Weak};

use bytes::Bytes;
use http::{request, response};
use tokio::time::Instant;

use self::{lines::Lines, parts::Parts};
use crate::{
    client::Client,
    compression::CompressionBypassLayer,
    detect::EventStream,
    drain::{DrainLayer, Ending, Reach, Watcher},
    end::EndReason,
    event_id::{EventIdLayer, EventIds},
    headers::{self, HeadersLayer},
    heartbeat::HeartbeatLayer,
    outbox::Outbox,
    trace::trace,
    wire::{Bom, Position, Scanner},
    withdraw::Withdraw,
};

/// The concerns that are on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Concerns {
    pub(crate) headers: Option<HeadersLayer>,
    pub(crate) compression: Option<CompressionBypassLayer>,
    pub(crate) heartbeat: Option<HeartbeatLayer>,
    pub(crate) event_id: Option<EventIdLayer>,
    pub(crate) drain: Option<DrainLayer>,
}

/// What is known of a request when its response arrives.
#[derive(Debug)]
pub(crate) struct Exchange {
    client: Client,
    ids: Option<EventIds>,
    /// It came when the drain had started.
    late: bool,
}

/// What becomes of a response's body.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "moved once, into the box of its stream"
)]
pub(crate) enum Handling {
    /// It passes as it is.
    Untouched,
    /// It is dropped for these bytes.
    Replaced(Bytes),
    Stream(Engine),
}

/// One stream on its way through the concerns.
#[derive(Debug)]
pub(crate) struct Engine {
    kind: EventStream,
    bom: Bom,
    scanner: Scanner,
    parts: Parts,
    outbox: Outbox,
    /// The client has had bytes that are not the service's.
    spoken: bool,
    /// A blank line was dropped of which the last frame has only the CR: its LF goes too.
    dropped: bool,
    ended: bool,
}

impl Concerns {
    pub(crate) fn on_request(&self, request: &mut request::Parts) -> Exchange {
        let client = Client::of(request);
        if let Some(compression) = self.compression {
            compression.on_request(&mut request.headers, client);
        }
        Exchange {
            client,
            ids: self
                .event_id
                .as_ref()
                .map(|layer| layer.on_request(request, client)),
            late: self.drain.as_ref().is_some_and(DrainLayer::has_started),
        }
    }

    pub(crate) fn on_response(
        &self,
        response: &mut response::Parts,
        exchange: Exchange,
    ) -> Handling {
        let Exchange { client, ids, late } = exchange;
        let Some(kind) = EventStream::of(response, client) else {
            return Handling::Untouched;
        };
        let refusal = self
            .drain
            .as_ref()
            .and_then(|drain| drain.refuse(response, client, late));
        // A refusal in plain text is no event stream any more.
        if let Some(headers) = &self.headers
            && EventStream::of(response, client).is_some()
        {
            headers.on_response(&mut response.headers);
        }
        if let Some(body) = refusal {
            Withdraw::from(response);
            headers::unbind(&mut response.headers);
            return Handling::Replaced(body);
        }
        let parts = match kind {
            EventStream::Plain => self.parts(response, client, ids),
            EventStream::Opaque => Parts {
                drain: self.watcher(response, client),
                ..Parts::default()
            },
        };
        let idle = parts.is_idle();
        if kind == EventStream::Plain && !(idle && self.headers.is_none()) {
            headers::unbind(&mut response.headers);
        }
        if idle {
            return Handling::Untouched;
        }
        Handling::Stream(Engine::new(kind, parts))
    }

    fn parts(
        &self,
        response: &mut response::Parts,
        client: Client,
        ids: Option<EventIds>,
    ) -> Parts {
        Parts {
            ids: ids.and_then(|ids| ids.on_response(response)),
            drain: self.watcher(response, client),
            heartbeat: self
                .heartbeat
                .as_ref()
                .and_then(|layer| layer.on_response(response, client)),
        }
    }

    fn watcher(&self, response: &response::Parts, client: Client) -> Option<Watcher> {
        self.drain
            .as_ref()
            .map(|layer| layer.on_response(response, client))
    }
}

impl Engine {
    fn new(kind: EventStream, parts: Parts) -> Self {
        trace!(debug, "event stream opened", kind = kind);
        Self {
            kind,
            bom: Bom::default(),
            scanner: Scanner::new(),
            parts,
            outbox: Outbox::default(),
            spoken: false,
            dropped: false,
            ended: false,
        }
    }

    /// Lets the drain reach the stream.
    pub(crate) fn on_open(&mut self, stream: impl FnOnce() -> Weak<dyn Reach>) {
        if let Some(drain) = &mut self.parts.drain {
            drain.on_open(stream());
        }
    }

    /// Whether the drain watches, and may have to wake the stream.
    pub(crate) fn is_watched(&self) -> bool {
        self.parts.drain.is_some()
    }

    /// Whether the stream may soon be broken off.
    pub(crate) fn is_draining(&self) -> bool {
        let drain = self.parts.drain.as_ref();
        drain.is_some_and(|drain| drain.end_at().is_some())
    }

    /// What must happen before upstream is heard, so that one that is always ready cannot outlive
    /// its end. The clock is only read when it matters.
    pub(crate) fn on_poll(&mut self, now: impl FnOnce() -> Instant) -> Option<Ending> {
        let at = self.position();
        let drain = self.parts.drain.as_mut()?;
        drain.end_at()?;
        drain.on_drain(now(), at)
    }

    /// A frame from upstream. The stream may end in it; then what is behind the end is dropped.
    pub(crate) fn on_data(&mut self, frame: Bytes) -> Option<Ending> {
        if frame.is_empty() {
            return None;
        }
        if let Some(heartbeat) = &mut self.parts.heartbeat {
            heartbeat.on_data();
        }
        if self.kind == EventStream::Opaque {
            self.outbox.push(frame);
            return None;
        }
        let frame = self.bom.strip(frame, self.spoken);
        if frame.is_empty() {
            return None;
        }
        if self.parts.needs_lines() {
            return self.on_lines(&frame);
        }
        self.scanner.skim(&frame);
        self.outbox.push(frame);
        None
    }

    /// Upstream has nothing. Returns when to look again.
    pub(crate) fn on_silence(&mut self, now: Instant) -> Option<Instant> {
        let (at, line_end) = (self.position(), self.scanner.line_end());
        let Parts {
            drain, heartbeat, ..
        } = &mut self.parts;
        if let Some(beat) = heartbeat
            .as_mut()
            .and_then(|part| part.on_deadline(now, at, line_end))
        {
            self.spoken = true;
            self.scanner.skip_start();
            self.outbox.push(beat);
        }
        let drain = drain.as_ref().and_then(Watcher::next_deadline);
        let heartbeat = heartbeat.as_mut().and_then(|part| part.next_deadline(now));
        [drain, heartbeat].into_iter().flatten().min()
    }

    /// The stream ends; only the first reason counts.
    pub(crate) fn finish(&mut self, reason: EndReason) {
        if mem::replace(&mut self.ended, true) {
            return;
        }
        trace!(debug, "event stream ended", reason = reason);
        let at = self.position();
        self.outbox.push(self.bom.finish());
        // The part stays: the stream is one of those that are left until its last byte is taken.
        if let Some(drain) = &mut self.parts.drain
            && reason == EndReason::Drained
            && let Some(last) = drain.on_end(at)
        {
            self.outbox.push(last);
        }
        if let Some(ids) = &mut self.parts.ids {
            ids.on_end(reason);
        }
    }

    pub(crate) fn take_output(&mut self) -> Option<Bytes> {
        self.outbox.take()
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.outbox.is_full()
    }

    fn position(&self) -> Position {
        if self.kind == EventStream::Opaque || self.bom.is_holding() {
            Position::MidLine
        } else {
            self.scanner.position()
        }
    }

    fn on_lines(&mut self, frame: &Bytes) -> Option<Ending> {
        let mut lines = Lines::new(frame, &mut self.parts, &mut self.outbox);
        lines.on_start(&self.scanner, self.dropped);
        self.scanner.scan(frame, |mark| lines.on_mark(&mark));
        let (dropped, ending) = lines.finish();
        self.dropped = dropped;
        if ending.is_some() {
            // What was scanned behind the end does not go down.
            self.scanner = Scanner::new();
        }
        ending
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.finish(EndReason::Disconnected);
    }
}
