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
///
/// Most streams have a heartbeat and nothing else, so what is large has its place elsewhere.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) silence: Option<Box<Silence>>,
    pub(super) truncation: Option<Truncation>,
    pub(super) ids: Option<Box<EventIds>>,
    pub(super) lifetime: Option<Box<Lifetime>>,
    pub(super) drain: Option<Box<Watcher>>,
    pub(super) heartbeat: Option<Heartbeat>,
    /// For those above who mind.
    pub(super) answer: Option<Box<Answer>>,
    /// From those who may end the stream before its service does.
    pub(super) retry: Option<Box<Retry>>,
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

    /// Whether any line may mean something.
    pub(super) fn need_lines(&self) -> bool {
        self.retry.is_some()
            || self.ids.as_deref().is_some_and(EventIds::numbers)
            || self.answer.as_deref().is_some_and(Answer::needs_lines)
            || self.heartbeat.as_ref().is_some_and(Heartbeat::needs_lines)
            || self.departures().any(Departure::is_due)
            || self.drain.as_deref().is_some_and(Watcher::has_started)
    }

    /// Whether events matter, or at least that there are some.
    pub(super) fn need_events(&self) -> bool {
        self.ids.is_some()
            || self.answer.is_some()
            || self.heartbeat.as_ref().is_some_and(Heartbeat::needs_events)
    }

    /// Whether a field of an event means something, where not every line does. Neither an id nor a
    /// `retry` is asked about.
    #[inline]
    pub(super) fn is_minded(&self, field: &Field<'_>) -> bool {
        let answer = self.answer.as_deref();
        answer.is_some_and(|answer| answer.is_last(field))
    }

    /// So many events of which nothing was minded.
    #[inline]
    pub(super) fn on_events(&mut self, events: u64) {
        if let Some(silence) = &mut self.silence {
            silence.on_event();
        }
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.on_events(events);
        }
        if let Some(answer) = &mut self.answer {
            answer.on_events();
        }
    }

    pub(super) fn departures(&self) -> impl Iterator<Item = &Departure> {
        let lifetime = self.lifetime.as_deref().map(Lifetime::departure);
        let drain = self.drain.as_deref().map(Watcher::departure);
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

    /// The id that the block still needs.
    pub(super) fn on_event_end(&mut self, block: &BlockEnd) -> Option<Bytes> {
        let id = self.ids.as_mut().and_then(|ids| ids.on_event_end(block));
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.on_event_end(block, id.is_some());
        }
        if let Some(answer) = &mut self.answer {
            answer.on_event_end(block);
        }
        id
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
            self.drain.as_deref().and_then(Watcher::next_deadline),
            self.lifetime.as_deref().map(Lifetime::next_deadline),
            self.silence.as_mut().map(|part| part.next_deadline(now)),
            self.heartbeat
                .as_mut()
                .and_then(|part| part.next_deadline(now)),
        ];
        deadlines.into_iter().flatten().min()
    }

    fn is_complete(&self) -> bool {
        self.answer.as_deref().is_some_and(Answer::is_complete)
    }
}
