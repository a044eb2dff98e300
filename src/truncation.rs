use std::sync::Arc;

use bytes::Bytes;
use http::{StatusCode, request, response};

use crate::{
    departure::{Ending, How},
    end::EndReason,
    judge::Judge,
    protocol::{BreakOff, Fault, Protocol, Terminal},
    wire::Field,
};

/// Notices answers that were cut off, and does not let them pass for complete ones.
///
/// An upstream that ends its response in the middle of an answer looks like success to most
/// libraries of OpenAI's and Anthropic's protocols, and to nearly everything hand-written. But each
/// protocol says with its last event that the answer is complete. Where that is missing when the
/// upstream ends, or fails, the client's connection is broken off, or it gets the protocol's error
/// event ([`BreakOff`]). Behind a proper end nothing is ever done.
///
/// Off in [`SseLayer`](crate::SseLayer) until it is handed one. It looks at streams of a known
/// [`Protocol`] and a successful status, and at those of a [terminal event](Self::terminal) of yours;
/// all others may end when they like. It does not hold events back, so a half event that was sent
/// stays sent; the connection then breaks within it, and no client dispatches it.
///
/// Not every upstream that looks like OpenAI's sends `data: [DONE]`, and not each ends it with a blank
/// line, without which it is no event. [Count](Self::count_only) first, and see.
///
/// ```
/// use tower_sse::{BreakOff, SseLayer, TruncationLayer};
///
/// let layer = SseLayer::new().truncation(TruncationLayer::new().break_off(BreakOff::ErrorEvent));
/// # drop(layer);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TruncationLayer {
    protocol: Judge<Option<Protocol>>,
    terminal: Option<Terminal>,
    /// `None` only counts.
    break_off: Option<BreakOff>,
}

/// What there is to see of one answer's end.
#[derive(Debug)]
pub(crate) struct Truncation {
    protocol: Option<Protocol>,
    break_off: Option<BreakOff>,
}

impl TruncationLayer {
    /// Streams of a known protocol are broken off by [`BreakOff::Abort`].
    pub fn new() -> Self {
        Self {
            protocol: Judge::new(Protocol::of),
            terminal: None,
            break_off: Some(BreakOff::default()),
        }
    }

    /// The protocol of a request's answer. Default: [`Protocol::of`]. A response overrides it by a
    /// [`Protocol`] among its extensions.
    pub fn protocol(
        mut self,
        of: impl Fn(&request::Parts) -> Option<Protocol> + Send + Sync + 'static,
    ) -> Self {
        self.protocol = Judge::new(of);
        self
    }

    /// For streams of no known protocol: which field says that its event is the last one. Default:
    /// none; such streams may end when they like.
    ///
    /// Of a long line the field has only the start; see [`Field::value`].
    pub fn terminal(
        mut self,
        is_terminal: impl Fn(&Field<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.terminal = Some(Terminal::Field(Arc::new(is_terminal)));
        self
    }

    /// What the client gets. Default: [`BreakOff::Abort`].
    pub fn break_off(mut self, how: BreakOff) -> Self {
        self.break_off = Some(how);
        self
    }

    /// The client gets exactly what the upstream sent. The end counts as
    /// [`EndReason::Truncated`], and that is all.
    pub fn count_only(mut self) -> Self {
        self.break_off = None;
        self
    }

    pub(crate) fn on_request(&self, request: &request::Parts) -> Option<Protocol> {
        self.protocol.of(request)
    }

    /// The part of this stream and its last event, if it has a rule.
    pub(crate) fn on_response(
        &self,
        response: &response::Parts,
        protocol: Option<Protocol>,
    ) -> Option<(Truncation, Terminal)> {
        let protocol = response.extensions.get().copied().or(protocol);
        let terminal = protocol.map(Terminal::Of).or(self.terminal.clone())?;
        let truncation = Truncation {
            protocol,
            break_off: self.break_off,
        };
        response
            .status
            .is_success()
            .then_some((truncation, terminal))
    }
}

impl Truncation {
    pub(crate) fn may_break_off(&self) -> bool {
        self.break_off.is_some()
    }

    /// How the stream must end whose upstream has ended or failed before its last event, and what to
    /// say before.
    pub(crate) fn on_upstream_end(&self, between_events: bool) -> (Ending, Bytes) {
        let fault = Fault {
            status: StatusCode::BAD_GATEWAY,
            code: "stream_truncated",
            message: "The answer is not complete: its upstream ended in the middle of it.",
        };
        let (how, last) = match self.break_off {
            None => (How::AsUpstream, Bytes::new()),
            Some(how) => how.last_words(&fault, self.protocol, between_events),
        };
        let reason = EndReason::Truncated;
        (Ending { reason, how }, last)
    }
}

impl Default for TruncationLayer {
    fn default() -> Self {
        Self::new()
    }
}
