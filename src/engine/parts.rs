use bytes::Bytes;

use crate::{
    drain::Watcher,
    event_id::EventIds,
    heartbeat::Heartbeat,
    wire::{BlockEnd, Field},
};

/// What runs in one stream, in the order in which it hears of the bytes.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) ids: Option<EventIds>,
    pub(super) drain: Option<Watcher>,
    pub(super) heartbeat: Option<Heartbeat>,
}

impl Parts {
    pub(super) fn is_idle(&self) -> bool {
        self.ids.is_none() && self.drain.is_none() && self.heartbeat.is_none()
    }

    pub(super) fn needs_lines(&self) -> bool {
        self.ids.is_some()
            || self.drain.as_ref().is_some_and(Watcher::needs_lines)
            || self.heartbeat.as_ref().is_some_and(Heartbeat::needs_lines)
    }

    pub(super) fn on_field(&mut self, field: &Field<'_>) {
        if let Some(ids) = &mut self.ids {
            ids.on_field(field);
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
        let id = self.ids.as_mut().and_then(|ids| ids.on_event_end(block));
        if let Some(heartbeat) = &mut self.heartbeat {
            heartbeat.on_event_end(block, id.is_some());
        }
        let drain = self.drain.as_mut();
        [id, drain.and_then(|drain| drain.on_event_end(block))]
    }

    pub(super) fn drops_blank_line(&self, block: &BlockEnd) -> bool {
        self.ids
            .as_ref()
            .is_some_and(|ids| ids.drops_blank_line(block))
    }
}
