use bytes::Bytes;

use crate::{
    departure::Ending,
    drain::Watcher,
    event_id::EventIds,
    heartbeat::Heartbeat,
    lifetime::Lifetime,
    silence::Silence,
    truncation::Truncation,
    wire::{BlockEnd, Field, LineEnd},
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
            || self
                .truncation
                .as_ref()
                .is_some_and(Truncation::needs_lines)
            || self.ids.is_some()
            || self.lifetime.as_ref().is_some_and(Lifetime::needs_lines)
            || self.drain.as_ref().is_some_and(Watcher::needs_lines)
            || self.heartbeat.as_ref().is_some_and(Heartbeat::needs_lines)
    }

    pub(super) fn on_field(&mut self, field: &Field<'_>) {
        if let Some(truncation) = &mut self.truncation {
            truncation.on_field(field);
        }
        if let Some(ids) = &mut self.ids {
            ids.on_field(field);
        }
        if let Some(lifetime) = &mut self.lifetime {
            lifetime.on_field(field);
        }
        if let Some(drain) = &mut self.drain {
            drain.on_field(field);
        }
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.on_field(field);
        }
    }

    /// The lines that the block still needs.
    pub(super) fn on_event_end(&mut self, block: &BlockEnd) -> [Option<Bytes>; 2] {
        if let Some(truncation) = &mut self.truncation {
            truncation.on_event_end(block);
        }
        let id = self.ids.as_mut().and_then(|ids| ids.on_event_end(block));
        let lifetime = self.lifetime.as_mut();
        let retry = lifetime.and_then(|lifetime| lifetime.on_event_end(block));
        let told = retry.is_some();
        let drain = self.drain.as_mut();
        let drain = drain.and_then(|drain| drain.on_event_end(block, told));
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.on_event_end(block, id.is_some());
        }
        [id, retry.or(drain)]
    }

    /// The hint that the stream's first event still needs.
    pub(super) fn retry_line(&mut self, end: LineEnd) -> Option<Bytes> {
        let lifetime = self.lifetime.as_mut();
        let retry = lifetime.and_then(|lifetime| lifetime.retry_line(end));
        let drain = self.drain.as_mut();
        retry.or_else(|| drain.and_then(|drain| drain.retry_line(end)))
    }

    pub(super) fn drops_blank_line(&self, block: &BlockEnd) -> bool {
        self.ids
            .as_ref()
            .is_some_and(|ids| ids.drops_blank_line(block))
    }

    /// How the stream ends at the boundary that was just reached, if it does.
    pub(super) fn on_boundary(&self) -> Option<Ending> {
        let drain = self.drain.as_ref().and_then(Watcher::on_boundary);
        drain.or_else(|| self.lifetime.as_ref().and_then(Lifetime::on_boundary))
    }
}
