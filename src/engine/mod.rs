//! The concerns in their one order, for one request and its stream.
//!
//! Bytes in, bytes out: nothing here waits, and the time is an argument. The engine holds the
//! order and no logic; what a concern does stands in the concern's own file. A new one adds its
//! field, and a line to each hook that it needs.
//!
//! | hook | order |
//! |---|---|
//! | request | metrics · compression · ids · truncation · silence · lifetime · drain · limit |
//! | response | drain, limit (refusals) · headers · then the parts of the stream |
//! | event end | ids · truncation · heartbeat · lifetime · drain · metrics |
//! | poll | output · drain · lifetime · upstream · silence · heartbeat, the last two only in silence |
//! | upstream's end | truncation |
//!
//! The limit, the watchdog over stalled clients and the metrics hold something for as long as the
//! stream runs. It stands beside the service's body ([`Held`]), where others reach it, too.

mod concerns;
mod lines;
mod parts;

use std::{
    mem,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use tokio::time::Instant;

pub(crate) use self::concerns::{Concerns, Exchange, Handling, Refused};
use self::{lines::Lines, parts::Parts};
use crate::{
    departure::Ending,
    detect::EventStream,
    drain::Watcher,
    end::EndReason,
    event_id::{EventIds, LastSentId},
    lifetime::Lifetime,
    limit::Permit,
    metrics::Tally,
    outbox::Outbox,
    reach::{Reach, Relay},
    stall::{Pulse, StallLayer, Watched},
    trace::trace,
    wire::{Bom, Position, Scanner},
};

/// One stream on its way through the concerns.
#[derive(Debug)]
pub(crate) struct Engine {
    kind: EventStream,
    bom: Bom,
    scanner: Scanner,
    parts: Parts,
    outbox: Outbox,
    /// Until the stream opens.
    held: Held,
    stall: Option<StallLayer>,
    tally: Option<Arc<Tally>>,
    /// Polls since the clock was read.
    polls: u8,
    /// The client has had bytes that are not the service's.
    spoken: bool,
    /// A blank line was dropped of which the last frame has only the CR: its LF goes too.
    dropped: bool,
    ended: Option<EndReason>,
}

/// What a stream holds while its service's body is there, given back when that goes: in this order,
/// behind the body.
#[derive(Debug, Default)]
pub(crate) struct Held {
    watched: Option<Watched>,
    _permit: Option<Permit>,
    tally: Option<Arc<Tally>>,
    sent: Option<LastSentId>,
}

/// How many polls in a row may go by without a look at the clock. Where upstream pauses it is looked
/// at anyway; where it never does, its life time must end all the same.
const POLLS_PER_LOOK: u8 = 16;

impl Engine {
    fn new(kind: EventStream, parts: Parts, held: Held, stall: Option<StallLayer>) -> Self {
        trace!(debug, "event stream opened", kind = kind);
        Self {
            kind,
            bom: Bom::default(),
            scanner: Scanner::new(),
            parts,
            outbox: Outbox::default(),
            tally: held.tally.clone(),
            held,
            stall,
            polls: 0,
            spoken: false,
            dropped: false,
            ended: None,
        }
    }

    /// Lets those reach the stream who may end it from outside, and hands over what it holds.
    pub(crate) fn on_open(&mut self, relay: &Arc<Relay>, stream: &Weak<dyn Reach>) -> Held {
        if let Some(drain) = &mut self.parts.drain {
            drain.on_open(stream.clone());
        }
        let mut held = mem::take(&mut self.held);
        let stall = self.stall.take();
        held.watched = stall.map(|stall| stall.watch(relay.clone(), stream.clone()));
        held.sent = self.parts.ids.as_ref().and_then(EventIds::sent).cloned();
        held
    }

    /// Whether the stream may have to be woken from outside.
    pub(crate) fn is_watched(&self) -> bool {
        self.parts.drain.is_some()
    }

    /// Whether the stream may soon be broken off.
    pub(crate) fn is_draining(&self) -> bool {
        let Parts {
            drain, lifetime, ..
        } = &self.parts;
        drain.as_ref().is_some_and(Watcher::has_started)
            || lifetime.as_ref().is_some_and(Lifetime::is_due)
    }

    /// What must happen before upstream is heard, so that one that is always ready cannot outlive
    /// its end. The clock is only read when it may matter.
    pub(crate) fn on_poll(&mut self, now: impl FnOnce() -> Instant) -> Option<Ending> {
        if self.parts.lifetime.is_some() {
            self.polls += 1;
        }
        if self.is_draining() || self.polls >= POLLS_PER_LOOK {
            self.on_time(now())
        } else {
            None
        }
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
            if let Some(silence) = &mut self.parts.silence {
                silence.on_opaque();
            }
            self.outbox.push(frame);
            return None;
        }
        let frame = self.bom.strip(frame, self.spoken);
        if frame.is_empty() {
            return None;
        }
        if let Some(silence) = &mut self.parts.silence {
            silence.on_data(&frame, self.scanner.position());
        }
        if self.tally.is_some() || self.parts.needs_lines() {
            return self.on_lines(&frame);
        }
        self.scanner.skim(&frame);
        self.outbox.push(frame);
        None
    }

    /// Upstream has ended, or failed: how the stream ends, if not in the same way.
    pub(crate) fn on_upstream_end(&mut self, failed: bool) -> Option<Ending> {
        let between_events = self.is_between_events();
        let truncation = self.parts.truncation.as_mut()?;
        let (ending, last) = truncation.on_upstream_end(between_events, failed)?;
        self.outbox.push(last);
        Some(ending)
    }

    /// Upstream has nothing: the stream may have to end for that, or gets a heartbeat.
    pub(crate) fn on_silence(&mut self, now: Instant) -> Option<Ending> {
        if let Some(ending) = self.on_time(now) {
            return Some(ending);
        }
        let between_events = self.is_between_events();
        if let Some(silence) = &mut self.parts.silence
            && let Some((ending, last)) = silence.on_deadline(now, between_events)
        {
            self.outbox.push(last);
            return Some(ending);
        }
        self.on_heartbeat(now);
        None
    }

    /// When to look again, if nothing happens before.
    pub(crate) fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        let Parts {
            silence,
            lifetime,
            drain,
            heartbeat,
            ..
        } = &mut self.parts;
        let deadlines = [
            drain.as_ref().and_then(Watcher::next_deadline),
            lifetime.as_ref().map(Lifetime::next_deadline),
            silence.as_mut().map(|part| part.next_deadline(now)),
            heartbeat.as_mut().and_then(|part| part.next_deadline(now)),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// The stream ends; only the first reason counts.
    pub(crate) fn finish(&mut self, reason: EndReason) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(reason);
        trace!(debug, "event stream ended", reason = reason);
        let at = self.position();
        self.outbox.push(self.bom.finish());
        // The part stays: the stream is one of those that are left until its last byte is taken.
        let Parts {
            drain, lifetime, ..
        } = &mut self.parts;
        let last = match reason {
            EndReason::Drained => drain.as_mut().and_then(|drain| drain.on_end(at)),
            EndReason::Expired => lifetime.as_mut().and_then(|part| part.on_end(at)),
            _ => None,
        };
        self.outbox.push(last.unwrap_or_default());
        if let Some(ids) = &self.parts.ids {
            ids.on_end(reason);
        }
    }

    pub(crate) fn take_output(&mut self) -> Option<Bytes> {
        let frame = self.outbox.take();
        if let Some(tally) = &self.tally {
            match (&frame, self.ended) {
                (Some(frame), _) => tally.on_sent(frame.len()),
                // Only now all is counted that was sent.
                (None, Some(reason)) => tally.end(reason),
                (None, None) => {}
            }
        }
        frame
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.outbox.is_full()
    }

    fn on_time(&mut self, now: Instant) -> Option<Ending> {
        self.polls = 0;
        let at = self.position();
        let Parts {
            drain, lifetime, ..
        } = &mut self.parts;
        let drained = drain.as_mut().and_then(|part| part.on_drain(now, at));
        drained.or_else(|| lifetime.as_mut().and_then(|part| part.on_time(now, at)))
    }

    fn on_heartbeat(&mut self, now: Instant) {
        let (at, line_end) = (self.position(), self.scanner.line_end());
        let heartbeat = self.parts.heartbeat.as_mut();
        let Some((shape, bytes)) = heartbeat.and_then(|part| part.on_deadline(now, at, line_end))
        else {
            return;
        };
        self.spoken = true;
        self.scanner.skip_start();
        self.outbox.push(bytes);
        if let Some(tally) = &self.tally {
            tally.on_heartbeat(shape);
        }
    }

    fn position(&self) -> Position {
        if self.is_readable() {
            self.scanner.position()
        } else {
            Position::MidLine
        }
    }

    /// At a boundary, if nothing more comes from upstream.
    fn is_between_events(&self) -> bool {
        self.is_readable() && self.scanner.is_between_events()
    }

    fn is_readable(&self) -> bool {
        self.kind == EventStream::Plain && !self.bom.is_holding()
    }

    fn on_lines(&mut self, frame: &Bytes) -> Option<Ending> {
        let tally = self.tally.as_deref();
        let mut lines = Lines::new(frame, &mut self.parts, tally, &mut self.outbox);
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

impl Held {
    /// The stream was ended from outside.
    pub(crate) fn on_end(&self, reason: EndReason) {
        if let Some(sent) = &self.sent {
            sent.on_end(reason);
        }
        if let Some(tally) = &self.tally {
            tally.end(reason);
        }
    }

    pub(crate) fn pulse(&self) -> Option<&Arc<Pulse>> {
        self.watched.as_ref().map(Watched::pulse)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.finish(EndReason::Disconnected);
        if let (Some(tally), Some(reason)) = (&self.tally, self.ended) {
            tally.end(reason);
        }
    }
}
