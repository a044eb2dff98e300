use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    client::Client,
    end::EndReason,
    protocol::{Answer, Terminal},
    refusal::retry_block,
    wire::{BlockEnd, Field, LineEnd, Position, retry_line},
};

/// How a stream goes that is ended before its service ends it: when, is for others to say.
#[derive(Debug)]
pub(crate) struct Departure {
    client: Client,
    /// It goes in the middle of what it is for, and may run until its answer is complete.
    finishes: bool,
    answer: Answer,
    /// The hint when to come back, that is still to be given.
    retry: Option<Duration>,
    due: bool,
}

/// What a stream must do to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) reason: EndReason,
    pub(crate) how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Clean,
    Abort,
}

/// How long a stream that should end may take to finish the event it is in. Then it ends in the
/// middle, without a blank line: that would dispatch half an event.
pub(crate) const EVENT_GRACE: Duration = Duration::from_millis(500);

/// So that a time can be added to any other without an overflow.
pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

impl Departure {
    /// `retry` is for those who know event streams: others make an event of it, or stumble.
    pub(crate) fn new(client: Client, finishes: bool, retry: Option<Duration>) -> Self {
        let told = client.accepts_events && client.gemini.is_none();
        Self {
            client,
            finishes,
            answer: Answer::new(Terminal::Any),
            retry: retry.filter(|_| told),
            due: false,
        }
    }

    pub(crate) fn needs_lines(&self) -> bool {
        self.due || self.retry.is_some() || self.watches_answer()
    }

    pub(crate) fn on_field(&mut self, field: &Field<'_>) {
        if field.name == b"retry" {
            // The service knows better.
            self.retry = None;
        } else if self.watches_answer() {
            self.answer.on_field(field);
        }
    }

    /// The line that the block still needs, unless one is in it already.
    pub(crate) fn on_event_end(&mut self, block: &BlockEnd, told: bool) -> Option<Bytes> {
        self.answer.on_event_end(block);
        if told {
            self.retry = None;
        }
        let after = self.retry.take_if(|_| block.data)?;
        Some(retry_line(after, block.line_end))
    }

    pub(crate) fn retry_line(&mut self, end: LineEnd) -> Option<Bytes> {
        Some(retry_line(self.retry.take()?, end))
    }

    /// How the stream must end now, if it must. Half an event is waited for, but not long.
    pub(crate) fn on_time(&mut self, now: Instant, end_at: Instant, at: Position) -> Option<How> {
        self.due = now >= end_at;
        let over = now >= end_at + EVENT_GRACE;
        (over || self.due && at == Position::Boundary).then(|| self.how(at))
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.answer.is_complete()
    }

    pub(crate) fn next_deadline(&self, end_at: Instant) -> Instant {
        if self.due {
            end_at + EVENT_GRACE
        } else {
            end_at
        }
    }

    /// What to say at a clean end: the hint, where no event could carry it, and only to those who
    /// do not make an event of a block without data.
    pub(crate) fn on_end(&mut self, at: Position) -> Option<Bytes> {
        let sayable = self.client.event_source && at == Position::Boundary;
        self.retry.take().filter(|_| sayable).map(retry_block)
    }

    /// A clean end in the middle of an answer looks like a success to most libraries.
    pub(crate) fn how(&self, at: Position) -> How {
        let whole = !self.finishes && at == Position::Boundary;
        if whole || self.client.event_source || self.is_complete() {
            How::Clean
        } else {
            How::Abort
        }
    }

    fn watches_answer(&self) -> bool {
        self.finishes && !self.client.event_source
    }
}
