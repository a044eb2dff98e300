use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    departure::{Departure, Ending},
    drain::Watcher,
    event_id::EventIds,
    heartbeat::Heartbeat,
    lifetime::Lifetime,
    protocol::Answer,
    retry::Retry,
    silence::Silence,
    truncation::Truncation,
    wire::{BlockEnd, Field, LineEnd, Position},
};

/// What runs in one stream, in the order in which it hears of the bytes.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) silence: Option<Silence>,
    pub(super) truncation: Option<Truncation>,
    pub(super) ids: Option<EventIds>,
    pub(super) lifetime: Option<Lifetime>,
    pub(super) drain: Option<Watcher>,
    pub(super) heartbeat: Option<Heartbeat>,
    /// For those above who mind.
    pub(super) answer: Option<Answer>,
    /// From those who may end the stream before its service does.
    pub(super) retry: Option<Retry>,
}

impl Parts {
    pub(super) fn is_idle(&self) -> bool {
        let Self {
            silence,
            truncation,
            ids,
            lifetime,
            drain,
            heartbeat,
            // Only there for the others.
            answer: _,
            retry: _,
        } = self;
        silence.is_none()
            && truncation.is_none()
            && ids.is_none()
            && lifetime.is_none()
            && drain.is_none()
            && heartbeat.is_none()
    }

    pub(super) fn needs_lines(&self) -> bool {
        self.ids.is_some()
            || self.answer.is_some()
            || self.retry.is_some()
            || self.departures().any(Departure::is_due)
            || self.heartbeat.as_ref().is_some_and(Heartbeat::needs_lines)
    }

    pub(super) fn departures(&self) -> impl Iterator<Item = &Departure> {
        let lifetime = self.lifetime.as_ref().map(Lifetime::departure);
        let drain = self.drain.as_ref().map(Watcher::departure);
        lifetime.into_iter().chain(drain)
    }

    pub(super) fn on_field(&mut self, field: &Field<'_>) {
        if let Some(ids) = &mut self.ids {
            ids.on_field(field);
        }
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.on_field(field);
        }
        if let Some(answer) = &mut self.answer {
            answer.on_field(field);
        }
        if field.name == b"retry" {
            // The service knows better.
            self.retry = None;
        }
    }

    /// The lines that the block still needs.
    pub(super) fn on_event_end(&mut self, block: &BlockEnd) -> [Option<Bytes>; 2] {
        let id = self.ids.as_mut().and_then(|ids| ids.on_event_end(block));
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.on_event_end(block, id.is_some());
        }
        if let Some(answer) = &mut self.answer {
            answer.on_event_end(block);
        }
        let retry = block.data.then(|| self.retry_line(block.line_end));
        [id, retry.flatten()]
    }

    /// The hint that the stream's first event still needs.
    pub(super) fn retry_line(&mut self, end: LineEnd) -> Option<Bytes> {
        self.retry.take()?.line(end)
    }

    pub(super) fn drops_blank_line(&self, block: &BlockEnd) -> bool {
        self.ids
            .as_ref()
            .is_some_and(|ids| ids.drops_blank_line(block))
    }

    /// How the stream must end now, if its time is over.
    pub(super) fn on_time(&mut self, now: Instant, at: Position) -> Option<Ending> {
        let complete = self.is_complete();
        let drain = self.drain.as_mut();
        let drained = drain.and_then(|drain| drain.on_time(now, at, complete));
        let lifetime = self.lifetime.as_mut();
        drained.or_else(|| lifetime.and_then(|part| part.on_time(now, at, complete)))
    }

    /// How the stream must end at the boundary that was just reached, if it must.
    pub(super) fn on_boundary(&self) -> Option<Ending> {
        let complete = self.is_complete();
        let drain = self.drain.as_ref();
        let drained = drain.and_then(|drain| drain.on_boundary(complete));
        let lifetime = self.lifetime.as_ref();
        drained.or_else(|| lifetime.and_then(|part| part.on_boundary(complete)))
    }

    /// When one of them wants to be asked again, if nothing happens before.
    pub(super) fn next_deadline(&mut self, now: Instant) -> Option<Instant> {
        let deadlines = [
            self.drain.as_ref().and_then(Watcher::next_deadline),
            self.lifetime.as_ref().map(Lifetime::next_deadline),
            self.silence.as_mut().map(|part| part.next_deadline(now)),
            self.heartbeat
                .as_mut()
                .and_then(|part| part.next_deadline(now)),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn is_complete(&self) -> bool {
        self.answer.as_ref().is_some_and(Answer::is_complete)
    }
}
