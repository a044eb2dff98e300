use std::{
    fmt,
    sync::{Mutex, PoisonError},
    task::Waker,
};

use crate::end::EndReason;

/// A stream, as far as it can be reached while nobody polls it: hyper does not poll a response
/// whose client does not read.
pub(crate) trait Reach: Send + Sync {
    /// Has it polled soon.
    fn wake(&self);
    /// Drops what the service gave, and tells whether there was something to drop. A stream that is
    /// being polled ends by itself, and is left alone.
    fn free(&self, reason: EndReason) -> bool;
}

/// Who polls a stream, to be woken from elsewhere.
#[derive(Default)]
pub(crate) struct Relay(Mutex<Option<Waker>>);

impl Relay {
    /// Tells whether there was a wake since the last time, or this is the first.
    pub(crate) fn set(&self, waker: &Waker) -> bool {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let woken = current.is_none();
        if current.as_ref().is_none_or(|old| !old.will_wake(waker)) {
            let old = current.replace(waker.clone());
            // No lock is held where code of others runs.
            drop(current);
            drop(old);
        }
        woken
    }

    /// Once for each poll: until the next one, who was woken knows.
    pub(crate) fn wake(&self) {
        let waker = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relay")
    }
}
