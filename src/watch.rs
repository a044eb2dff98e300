use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};

use crate::stall::Pulse;

/// How a stream is watched for a client that does not read.
#[derive(Debug)]
pub(crate) struct Watch {
    pulse: Arc<Pulse>,
    /// Of the pulse, which hears of every wake.
    waker: Waker,
    waits: bool,
}

impl Watch {
    pub(crate) fn new(pulse: Arc<Pulse>) -> Box<Self> {
        let waker = pulse.waker();
        let waits = false;
        Box::new(Self {
            pulse,
            waker,
            waits,
        })
    }

    /// Whether the last poll found nothing.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waits
    }

    pub(crate) fn poll<T>(&mut self, poll: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        self.pulse.on_poll();
        let next = poll(&mut Context::from_waker(&self.waker));
        self.waits = next.is_pending();
        if next.is_ready() {
            self.pulse.on_frame();
        }
        next
    }
}
