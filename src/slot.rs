use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak},
};

use crate::{
    end::EndReason,
    engine::Held,
    reach::{Reach, Relay},
    trace::trace,
};

/// The service's body, where it can be reached while nobody polls the body around it, and what the
/// stream holds besides.
///
/// hyper does not poll a response while its client does not read, and only then is the lock of any
/// use; a poll takes it uncontended.
pub(crate) struct Slot<B>(Arc<Shared<B>>);

/// The body while it is polled.
pub(crate) struct Open<'a, B>(MutexGuard<'a, Option<Content<B>>>);

struct Shared<B> {
    content: Mutex<Option<Content<B>>>,
    /// Why it was emptied from outside.
    freed: OnceLock<EndReason>,
    /// Apart from the body: that is locked while it is polled, and may start the drain itself.
    relay: Arc<Relay>,
}

/// Dropped in this order.
struct Content<B> {
    body: Pin<Box<B>>,
    held: Held,
}

impl<B> Slot<B> {
    pub(crate) fn new(body: B) -> Self {
        let content = Content {
            body: Box::pin(body),
            held: Held::default(),
        };
        Self(Arc::new(Shared {
            content: Mutex::new(Some(content)),
            freed: OnceLock::new(),
            relay: Arc::default(),
        }))
    }

    pub(crate) fn relay(&self) -> &Arc<Relay> {
        &self.0.relay
    }

    pub(crate) fn reach(&self) -> Weak<dyn Reach>
    where
        B: Send + 'static,
    {
        let shared: Arc<dyn Reach> = self.0.clone();
        Arc::downgrade(&shared)
    }

    pub(crate) fn hold(&self, held: Held) {
        if let Some(content) = &mut *lock(&self.0.content) {
            content.held = held;
        }
    }

    /// Why it was emptied from outside, if it was.
    pub(crate) fn freed(&self) -> Option<EndReason> {
        self.0.freed.get().copied()
    }

    /// The body, for as many frames as are there.
    pub(crate) fn open(&self) -> Open<'_, B> {
        Open(lock(&self.0.content))
    }

    /// Drops the body.
    pub(crate) fn clear(&self) {
        // Taken first: the lock must be free when the body is dropped.
        let content = lock(&self.0.content).take();
        drop(content);
    }
}

impl<B> Open<'_, B> {
    /// None if the slot was emptied.
    pub(crate) fn body(&mut self) -> Option<Pin<&mut B>> {
        let content = self.0.as_mut()?;
        Some(content.body.as_mut())
    }
}

impl<B: Send> Reach for Shared<B> {
    fn wake(&self) {
        self.relay.wake();
    }

    fn free(&self, reason: EndReason) -> bool {
        let mut locked = match self.content.try_lock() {
            Ok(locked) => locked,
            // Whoever polled has panicked and is gone.
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            // Who holds the lock polls, and a stream that is polled ends by itself.
            Err(TryLockError::WouldBlock) => return false,
        };
        let Some(content) = locked.take() else {
            return false;
        };
        // A poll that finds the slot empty finds the reason.
        let _ = self.freed.set(reason);
        drop(locked);
        content.release(reason);
        // A poll that came in between the look and the lock may have left without the end.
        self.relay.wake();
        true
    }
}

impl<B> Content<B> {
    /// What panics here is the service's, and must not end the task that looks after all streams.
    fn release(self, reason: EndReason) {
        let released = catch_unwind(AssertUnwindSafe(|| {
            self.held.on_end(reason);
            drop(self);
        }));
        if released.is_err() {
            trace!(error, "an event stream panicked when it was freed");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<B> fmt::Debug for Slot<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
