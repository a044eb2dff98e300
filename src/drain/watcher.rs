use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use super::streams::{Reach, Registration, Streams};
use crate::{
    client::Client,
    wire::{BlockEnd, Field, LineEnd, Position, retry_line},
};

/// The drain's part in one stream.
#[derive(Debug)]
pub(crate) struct Watcher {
    streams: Arc<Streams>,
    client: Client,
    plan: Plan,
    /// The hint that is still to be given.
    retry: Option<Duration>,
    answer: Answer,
    due: bool,
    registration: Option<Registration>,
}

/// How this stream is to end.
#[derive(Debug)]
pub(super) struct Plan {
    /// It may run until its answer is complete.
    pub(super) finishes: bool,
    /// But no longer than this after the start.
    pub(super) end_after: Duration,
}

/// How far an answer is, by the protocol that runs on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Running,
    /// The open block is the protocol's terminal event.
    Closing,
    Complete,
}

/// What a stream must do to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Clean,
    Abort,
}

/// How long a stream that should end may take to finish the event it is in. Then it ends in the
/// middle, without a blank line: that would dispatch half an event.
const EVENT_GRACE: Duration = Duration::from_millis(500);

/// How long after its last moment a stream has not been polled and is freed from outside.
const FREE_GRACE: Duration = Duration::from_millis(500);

impl Watcher {
    pub(super) fn new(
        streams: Arc<Streams>,
        client: Client,
        plan: Plan,
        retry: Option<Duration>,
    ) -> Self {
        Self {
            streams,
            client,
            plan,
            retry,
            answer: Answer::Running,
            due: false,
            registration: None,
        }
    }

    /// Makes the stream one of those that are left.
    pub(crate) fn on_open(&mut self, stream: Weak<dyn Reach>) {
        let free_after = self.plan.end_after + EVENT_GRACE + FREE_GRACE;
        self.registration = Some(self.streams.register(free_after, stream));
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
            (
                b"event",
                b"response.completed" | b"response.failed" | b"response.incomplete" | b"error",
            ) => self.answer = Answer::Closing,
            _ => {}
        }
    }

    /// The line that the block still needs.
    pub(crate) fn on_event_end(&mut self, block: &BlockEnd) -> Option<Bytes> {
        self.answer = match self.answer {
            Answer::Closing => Answer::Complete,
            // Another answer in the same stream.
            Answer::Complete if block.data => Answer::Running,
            Answer::Running | Answer::Complete => self.answer,
        };
        let after = self.retry.take_if(|_| block.data)?;
        Some(retry_line(after, block.line_end))
    }

    /// When the stream should end, once the drain has started.
    pub(crate) fn end_at(&self) -> Option<Instant> {
        Some(self.streams.started()? + self.plan.end_after)
    }

    /// How the stream must end now, if it must. Half an event is waited for, but not long.
    pub(crate) fn on_drain(&mut self, now: Instant, at: Position) -> Option<Ending> {
        let end_at = self.end_at()?;
        self.due = now >= end_at;
        let over = now >= end_at + EVENT_GRACE;
        let ends = over || self.may_end() && at == Position::Boundary;
        ends.then(|| self.ending(at))
    }

    /// How the stream must end at the boundary that was just reached in the bytes, if it must.
    pub(crate) fn on_boundary(&self) -> Option<Ending> {
        self.may_end().then(|| self.ending(Position::Boundary))
    }

    /// Its time has come, or there is nothing to wait for.
    fn may_end(&self) -> bool {
        self.due || self.answer == Answer::Complete && self.end_at().is_some()
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let wait = if self.due {
            EVENT_GRACE
        } else {
            Duration::ZERO
        };
        Some(self.end_at()? + wait)
    }

    /// What to say at a clean end: the hint, where no event could carry it, and only to those who
    /// do not make an event of a block without data.
    pub(crate) fn on_end(&mut self, at: Position) -> Option<Bytes> {
        let sayable = self.client.event_source && at == Position::Boundary;
        self.retry.take().filter(|_| sayable).map(retry_block)
    }

    fn ending(&self, at: Position) -> Ending {
        let whole = !self.plan.finishes && at == Position::Boundary;
        if whole || self.client.event_source || self.answer == Answer::Complete {
            Ending::Clean
        } else {
            Ending::Abort
        }
    }

    fn watches_answer(&self) -> bool {
        self.plan.finishes && !self.client.event_source
    }
}

pub(super) fn retry_block(after: Duration) -> Bytes {
    [&retry_line(after, LineEnd::Lf)[..], b"\n"].concat().into()
}
