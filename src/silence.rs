use std::{mem, time::Duration};

use bytes::Bytes;
use http::{StatusCode, request, response};
use memchr::memchr2;
use tokio::time::Instant;

use crate::{
    departure::Ending,
    end::EndReason,
    jitter::{LONGEST, SHORTEST},
    judge::Judge,
    protocol::{BreakOff, Fault, Protocol},
    wire::Position,
};

/// Breaks off event streams whose service has died without a word.
///
/// An upstream that hangs looks like one that thinks, the more so as heartbeats keep its clients
/// content. This layer counts neither those nor comments or blank lines of the upstream itself: a
/// proxy in between may send them for an upstream that is long gone. What counts is a line of an
/// event, or a part of one.
///
/// Off in [`SseLayer`](crate::SseLayer) until it is handed one. It begins with the response head; for
/// the time before that there is tower's `Timeout`. A live feed may be silent for good reasons: give
/// it a limit of its own, or none.
///
/// ```
/// use std::{mem, time::Duration};
/// use tower_sse::{BreakOff, SilenceLayer, SseLayer};
///
/// let silence = SilenceLayer::after(Duration::from_secs(300)).break_off(BreakOff::ErrorEvent);
/// let layer = SseLayer::new().silence(silence);
/// # drop(layer);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct SilenceLayer {
    limit: Duration,
    break_off: BreakOff,
    protocol: Judge<Option<Protocol>>,
}

/// The silence of one upstream.
#[derive(Debug)]
pub(crate) struct Silence {
    limit: Duration,
    break_off: BreakOff,
    protocol: Option<Protocol>,
    /// When it is to be looked at; `None` while something was heard since the last look.
    due: Option<Instant>,
    /// It has been asked for a last word: where the client did not read, nobody had asked for long.
    asked: bool,
    /// The open line is a comment.
    in_comment: bool,
}

/// How long an upstream is given that was asked for a last word; less where the limit is shorter.
const LAST_WORD: Duration = Duration::from_millis(10);

impl SilenceLayer {
    /// After `limit` without a line of an event. Less than a millisecond is taken as one, more than a
    /// year as one.
    pub fn after(limit: Duration) -> Self {
        Self {
            limit: limit.clamp(SHORTEST, LONGEST),
            break_off: BreakOff::default(),
            protocol: Judge::new(Protocol::of),
        }
    }

    /// What the client gets. Default: [`BreakOff::Abort`].
    pub fn break_off(mut self, how: BreakOff) -> Self {
        self.break_off = how;
        self
    }

    /// The protocol of a request's answer, for its error event. Default: [`Protocol::of`].
    pub fn protocol(
        mut self,
        of: impl Fn(&request::Parts) -> Option<Protocol> + Send + Sync + 'static,
    ) -> Self {
        self.protocol = Judge::new(of);
        self
    }

    pub(crate) fn on_request(&self, request: &request::Parts) -> Option<Protocol> {
        self.protocol.of(request)
    }

    pub(crate) fn on_response(
        &self,
        response: &response::Parts,
        protocol: Option<Protocol>,
    ) -> Silence {
        Silence {
            limit: self.limit,
            break_off: self.break_off,
            protocol: response.extensions.get().copied().or(protocol),
            due: None,
            asked: false,
            in_comment: false,
        }
    }
}

impl Silence {
    /// An event, or bytes that cannot be read.
    pub(crate) fn on_event(&mut self) {
        self.due = None;
    }

    /// A frame that is not empty, what stands before it, and whether an event is open there: then a
    /// blank line is its end, and else it is nothing. Nearly all are told by their first byte.
    pub(crate) fn on_data(&mut self, frame: &[u8], at: Position, in_event: bool) {
        let mut rest = match at {
            Position::AfterCr => frame.strip_prefix(b"\n").unwrap_or(frame),
            _ => frame,
        };
        let mut in_line = at == Position::MidLine;
        let mut in_comment = mem::take(&mut self.in_comment);
        loop {
            if in_comment {
                let Some(end) = memchr2(b'\n', b'\r', rest) else {
                    self.in_comment = true;
                    return;
                };
                let line_end = if rest[end..].starts_with(b"\r\n") {
                    2
                } else {
                    1
                };
                rest = &rest[end + line_end..];
                (in_comment, in_line) = (false, false);
            }
            match rest.first() {
                None => return,
                Some(b':') if !in_line => in_comment = true,
                Some(b'\r' | b'\n') if !in_line && !in_event => rest = &rest[1..],
                Some(_) => break,
            }
        }
        self.due = None;
    }

    pub(crate) fn next_deadline(&mut self, now: Instant) -> Instant {
        if self.due.is_none() {
            self.asked = false;
        }
        *self.due.get_or_insert(now + self.limit - self.last_word())
    }

    /// How long before its limit it is asked, and given to answer.
    fn last_word(&self) -> Duration {
        LAST_WORD.min(self.limit / 2)
    }

    /// How the stream must end, if the silence has lasted too long, and what to say before.
    pub(crate) fn on_deadline(
        &mut self,
        now: Instant,
        between_events: bool,
    ) -> Option<(Ending, Bytes)> {
        self.due.filter(|due| now >= *due)?;
        if !mem::replace(&mut self.asked, true) {
            self.due = Some(now + self.last_word());
            return None;
        }
        let fault = Fault {
            status: StatusCode::GATEWAY_TIMEOUT,
            code: "stream_silent",
            message: "The stream was broken off: its upstream has said nothing for too long.",
        };
        let (how, last) = self
            .break_off
            .last_words(&fault, self.protocol, between_events);
        let reason = EndReason::Silent;
        Some((Ending { reason, how }, last))
    }
}
