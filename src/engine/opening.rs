use std::{
    mem,
    sync::{Arc, Weak},
};

use super::{Engine, parts::Parts};
use crate::{
    end::EndReason,
    event_id::{EventIds, LastSentId},
    limit::Permit,
    metrics::Tally,
    reach::{Reach, Relay},
    stall::{Pulse, StallLayer, Watched},
};

/// A stream that is about to open.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) engine: Engine,
    pub(super) held: Held,
    pub(super) stall: Option<StallLayer>,
}

/// What a stream holds while its service's body is there, given back when that goes: in this order,
/// behind the body.
#[derive(Debug, Default)]
pub(crate) struct Held {
    watched: Option<Watched>,
    permit: Option<Permit>,
    tally: Option<Arc<Tally>>,
    sent: Option<LastSentId>,
}

impl Opening {
    /// Whether anything is held for the stream, or it may be ended from outside.
    pub(crate) fn is_shared(&self) -> bool {
        let Held { permit, tally, .. } = &self.held;
        let Parts { ids, drain, .. } = &self.engine.parts;
        let sent = ids.as_deref().and_then(EventIds::sent);
        let held = permit.is_some() || tally.is_some() || sent.is_some();
        held || drain.is_some() || self.stall.is_some()
    }

    /// Lets those reach the stream who may end it from outside, and hands over what it holds.
    pub(crate) fn on_open(&mut self, relay: &Arc<Relay>, stream: &Weak<dyn Reach>) -> Held {
        let parts = &mut self.engine.parts;
        if let Some(drain) = &mut parts.drain {
            drain.on_open(stream.clone());
        }
        let mut held = mem::take(&mut self.held);
        let stall = self.stall.take();
        held.watched = stall.map(|stall| stall.watch(relay.clone(), stream.clone()));
        held.sent = parts.ids.as_deref().and_then(EventIds::sent).cloned();
        held
    }
}

impl Held {
    pub(super) fn new(permit: Option<Permit>, tally: Option<Arc<Tally>>) -> Self {
        Self {
            permit,
            tally,
            ..Self::default()
        }
    }

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
