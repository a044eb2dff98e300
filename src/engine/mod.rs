//! The concerns in their one order, for one request and its stream.
//!
//! Bytes in, bytes out: nothing here waits, and the time is an argument. The engine holds the
//! order and no logic; what a concern does stands in the concern's own file. A new one adds its
//! field, and a line to each hook that it needs.
//!
//! | hook | order |
//! |---|---|
//! | request | limit · metrics · compression · ids · truncation · silence · lifetime · drain |
//! | response | drain, limit (refusals) · headers · then the parts of the stream |
//! | event end | ids · heartbeat · answer (for truncation, life time, drain) · retry |
//! | poll | output · drain · life time · upstream · silence · heartbeat, the last only in silence |
//! | upstream's end | truncation |
//! | output | metrics |
//!
//! The limit, the watchdog over stalled clients and the metrics hold something for as long as the
//! stream runs. It stands beside the service's body ([`Held`]), where others reach it, too.

mod concerns;
mod lines;
mod opening;
mod parts;

use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use tokio::time::Instant;

pub(crate) use self::{
    concerns::{Concerns, Exchange, Handling, Refused},
    opening::{Held, Opening},
};
use self::{
    lines::{Lines, Rest},
    parts::Parts,
};
use crate::{
    departure::{Departure, Ending},
    detect::EventStream,
    drain::Watcher,
    end::EndReason,
    metrics::Tally,
    outbox::Outbox,
    protocol::Answer,
    trace::trace,
    truncation::Truncation,
    verdict::Verdict,
    wire::{Bom, LineEnd, Position, Scanner},
};

/// One stream on its way through the concerns.
#[derive(Debug)]
pub(crate) struct Engine {
    kind: EventStream,
    bom: Bom,
    scanner: Scanner,
    parts: Parts,
    outbox: Outbox,
    tally: Option<Arc<Tally>>,
    depth: Depth,
    polls: u8,
    /// The client has had bytes that are not the service's.
    spoken: bool,
    /// A blank line was dropped of which the last frame has only the CR: its LF goes too.
    dropped: bool,
    verdict: Option<Verdict>,
    ended: Option<EndReason>,
}

/// How closely a stream is read: as little as its parts need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Every line is told to every part. Also what is not known.
    Lines,
    /// Nearly all frames are events that mean nothing to any part but their number.
    Events,
    /// Only the ends of frames.
    Ends,
}

/// How many polls may go by without a look at the clock.
const POLLS_PER_LOOK: u8 = 16;

impl Engine {
    fn new(
        kind: EventStream,
        parts: Parts,
        tally: Option<Arc<Tally>>,
        verdict: Option<Verdict>,
    ) -> Self {
        trace!(debug, "event stream opened", kind = kind);
        Self {
            kind,
            bom: Bom::default(),
            scanner: Scanner::new(),
            parts,
            outbox: Outbox::default(),
            tally,
            depth: Depth::Lines,
            polls: 0,
            spoken: false,
            dropped: false,
            verdict,
            ended: None,
        }
    }

    /// Whether a drain may have to wake the stream.
    pub(crate) fn may_be_drained(&self) -> bool {
        self.parts.drain.is_some()
    }

    /// Whether the stream may be broken off behind the next frame, so that it must be seen when that is
    /// written. Not for its silence: what was sent before has had all its limit.
    pub(crate) fn may_break_off(&self) -> bool {
        let Parts {
            truncation,
            lifetime,
            drain,
            ..
        } = &self.parts;
        truncation.as_ref().is_some_and(Truncation::may_break_off)
            || lifetime
                .as_deref()
                .is_some_and(|part| part.departure().minds_the_answer())
            || drain.as_deref().is_some_and(Watcher::has_started)
    }

    /// What must happen before upstream is heard, so that one that is always ready cannot outlive
    /// its end. `watched` says that a timer is running that would see to it, and the clock is read
    /// only where it matters.
    pub(crate) fn on_poll(
        &mut self,
        watched: bool,
        now: impl FnOnce() -> Instant,
    ) -> Option<Ending> {
        // A timer does not fire where the one who polls never lets go.
        self.polls = self.polls.wrapping_add(1);
        let unwatched = !watched || self.polls.is_multiple_of(POLLS_PER_LOOK);
        let drain = self.parts.drain.as_deref();
        let drained = drain.is_some_and(Watcher::has_started);
        let due = self.parts.departures().any(Departure::is_due);
        let ending = if drained || due || unwatched && self.parts.lifetime.is_some() {
            self.on_time(now())
        } else {
            None
        };
        self.depth = self.needed_depth();
        ending
    }

    /// A frame from upstream. The stream may end in it; then what is behind the end is dropped.
    #[inline]
    pub(crate) fn on_data(&mut self, frame: Bytes) -> Option<Ending> {
        if frame.is_empty() {
            return None;
        }
        if let Some(heartbeat) = &mut self.parts.heartbeat {
            heartbeat.on_data(&frame);
        }
        match self.depth {
            Depth::Ends => {
                self.on_end_of(frame);
                None
            }
            Depth::Events => self.on_events(frame),
            Depth::Lines => self.on_frame(frame),
        }
    }

    #[inline]
    fn on_end_of(&mut self, frame: Bytes) {
        self.tell_silence(&frame);
        self.scanner.skim(&frame);
        self.outbox.push(frame);
    }

    fn on_events(&mut self, frame: Bytes) -> Option<Ending> {
        let parts = &mut self.parts;
        let events = self
            .scanner
            .pass_events(&frame, |field| parts.is_minded(field));
        let Some(events) = events else {
            return self.on_frame(frame);
        };
        parts.on_events(events);
        self.outbox.push_events(frame, events);
        None
    }

    /// The slow way of a frame.
    fn on_frame(&mut self, frame: Bytes) -> Option<Ending> {
        if self.kind == EventStream::Opaque {
            if let Some(silence) = &mut self.parts.silence {
                silence.on_event();
            }
            self.outbox.push(frame);
            return None;
        }
        let frame = if self.bom.has_passed() {
            frame
        } else {
            self.bom.strip(&frame, self.spoken)
        };
        if frame.is_empty() {
            return None;
        }
        self.tell_silence(&frame);
        self.on_lines(frame)
    }

    #[inline]
    fn tell_silence(&mut self, frame: &[u8]) {
        if let Some(silence) = &mut self.parts.silence {
            let in_event = self.scanner.is_in_event();
            silence.on_data(frame, self.scanner.position(), in_event);
        }
    }

    /// Upstream has ended, or failed: how the stream ends, if not in the same way.
    pub(crate) fn on_upstream_end(&mut self) -> Option<Ending> {
        let complete = self
            .parts
            .answer
            .as_deref()
            .is_some_and(Answer::was_complete);
        let truncation = self.parts.truncation.as_ref().filter(|_| !complete)?;
        let (ending, last) = truncation.on_upstream_end(self.is_between_events());
        self.say_last(&last);
        Some(ending)
    }

    /// What it means that upstream has ended properly.
    pub(crate) fn verdict(&self) -> EndReason {
        let verdict = self.verdict.as_ref();
        verdict.map_or(EndReason::Complete, Verdict::reason)
    }

    /// Upstream has nothing: the stream may have to end for that, or gets a heartbeat.
    pub(crate) fn on_silence(&mut self, now: Instant) -> Option<Ending> {
        let ending = self.on_time(now).or_else(|| self.on_no_event(now));
        if ending.is_none() {
            self.on_heartbeat(now);
        }
        ending
    }

    /// Upstream has sent something, and no timer is running: it may all have been comments.
    pub(crate) fn on_flood(&mut self, now: impl FnOnce() -> Instant) -> Option<Ending> {
        self.parts.silence.as_ref()?;
        let now = now();
        let ending = self.on_no_event(now);
        self.parts.next_deadline(now);
        ending
    }

    /// When to look again, if nothing happens before.
    pub(crate) fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        self.parts.next_deadline(now)
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
        let retry = self.parts.retry.take();
        let last = retry.and_then(|retry| retry.at_end(reason, at));
        self.outbox.push(last.unwrap_or_default());
        // The parts stay: the stream is one of those that are left until its last byte is taken.
        if let Some(ids) = &self.parts.ids {
            ids.on_end(reason);
        }
    }

    /// Nobody will take anything any more.
    pub(crate) fn on_drop(&mut self, reason: EndReason) {
        self.finish(reason);
        self.on_all_sent();
    }

    pub(crate) fn take_output(&mut self) -> Option<Bytes> {
        let output = self.outbox.take()?;
        if let Some(tally) = &self.tally {
            tally.on_sent(&output);
        }
        Some(output.bytes)
    }

    /// The stream has ended, and all output is gone: only now all is counted that was sent.
    pub(crate) fn on_all_sent(&self) {
        if let (Some(tally), Some(reason)) = (&self.tally, self.ended) {
            tally.end(reason);
        }
    }

    pub(crate) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.outbox.is_full()
    }

    /// An event of ours in the place of the upstream's next one, behind a boundary. It gets no id: a
    /// client would come back behind an event that the service never had.
    fn say_last(&mut self, event: &Bytes) {
        let Some(lines) = event.strip_suffix(b"\n") else {
            return;
        };
        self.outbox.push(event.slice_ref(lines));
        let retry = self.parts.retry_line(LineEnd::Lf);
        self.outbox.push(retry.unwrap_or_default());
        self.outbox.push_events(event.slice(lines.len()..), 1);
    }

    fn on_time(&mut self, now: Instant) -> Option<Ending> {
        let at = self.position();
        self.parts.on_time(now, at)
    }

    fn on_no_event(&mut self, now: Instant) -> Option<Ending> {
        let between_events = self.is_between_events();
        let silence = self.parts.silence.as_mut()?;
        let (ending, last) = silence.on_deadline(now, between_events)?;
        self.say_last(&last);
        Some(ending)
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
        // Nothing else is in the outbox, and this poll takes it.
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

    fn needed_depth(&self) -> Depth {
        if !self.bom.has_passed() || self.parts.need_lines() {
            Depth::Lines
        } else if self.tally.is_some() || self.parts.need_events() {
            Depth::Events
        } else {
            Depth::Ends
        }
    }

    fn is_readable(&self) -> bool {
        self.kind == EventStream::Plain && !self.bom.is_holding()
    }

    fn on_lines(&mut self, mut frame: Bytes) -> Option<Ending> {
        let mut lines = Lines::new(&frame, &mut self.parts, &mut self.outbox);
        lines.on_start(&self.scanner, self.dropped);
        self.scanner.scan(&frame, |mark| lines.on_mark(&mark));
        let Rest {
            from,
            events,
            dropped,
            ending,
        } = lines.finish();
        self.dropped = dropped;
        if ending.is_some() {
            // What was scanned behind the end does not go down.
            self.scanner = Scanner::new();
        } else {
            frame.advance(from);
            self.outbox.push_events(frame, events);
        }
        ending
    }
}
