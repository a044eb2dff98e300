use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak},
    task::Waker,
};

use crate::{
    end::EndReason,
    engine::Held,
    reach::{Reach, Relay},
    trace::trace,
};

/// The service's body while the stream is open.
pub(crate) enum Slot<B> {
    Own(Option<Pin<Box<B>>>),
    /// It can be reached while nobody polls the body around it, and has beside it what the stream
    /// holds.
    ///
    /// hyper does not poll a response while its client does not read, and only then is the lock of
    /// any use; a poll takes it uncontended.
    Shared(Arc<Shared<B>>),
}

/// The body while it is polled.
pub(crate) enum Open<'a, B> {
    Own(&'a mut Option<Pin<Box<B>>>),
    Shared(MutexGuard<'a, Option<Content<B>>>),
}

pub(crate) struct Shared<B> {
    content: Mutex<Option<Content<B>>>,
    /// Why it was emptied from outside.
    freed: OnceLock<EndReason>,
    /// Apart from the body: that is locked while it is polled, and may start the drain itself.
    relay: Arc<Relay>,
}

/// Dropped in this order.
pub(crate) struct Content<B> {
    body: Pin<Box<B>>,
    held: Held,
}

impl<B> Slot<B> {
    /// For a stream that nobody reaches from outside.
    pub(crate) fn own(body: B) -> Self {
        Self::Own(Some(Box::pin(body)))
    }

    /// For one with what it holds, which is made by who learns how it is woken and reached.
    pub(crate) fn shared(body: B, held: impl FnOnce(&Arc<Relay>, &Weak<dyn Reach>) -> Held) -> Self
    where
        B: Send + 'static,
    {
        let content = Content {
            body: Box::pin(body),
            held: Held::default(),
        };
        let shared = Arc::new(Shared {
            content: Mutex::new(Some(content)),
            freed: OnceLock::new(),
            relay: Arc::default(),
        });
        let reach: Arc<dyn Reach> = shared.clone();
        let held = held(&shared.relay, &Arc::downgrade(&reach));
        // Unless it was freed in between.
        if let Some(content) = &mut *lock(&shared.content) {
            content.held = held;
        }
        Self::Shared(shared)
    }

    /// Who is woken when something comes from outside. Tells whether it may have.
    pub(crate) fn set_waker(&self, waker: &Waker) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Shared(shared) => shared.relay.set(waker),
        }
    }

    /// Why it was emptied from outside, if it was.
    pub(crate) fn freed(&self) -> Option<EndReason> {
        match self {
            Self::Own(_) => None,
            Self::Shared(shared) => shared.freed.get().copied(),
        }
    }

    /// The body, for as many frames as are there.
    pub(crate) fn open(&mut self) -> Open<'_, B> {
        match self {
            Self::Own(body) => Open::Own(body),
            Self::Shared(shared) => Open::Shared(lock(&shared.content)),
        }
    }

    /// Drops the body.
    pub(crate) fn clear(&mut self) {
        match self {
            Self::Own(body) => *body = None,
            Self::Shared(shared) => {
                // Taken first: the lock must be free when the body is dropped.
                let content = lock(&shared.content).take();
                drop(content);
            }
        }
    }
}

impl<B> Open<'_, B> {
    /// None if the slot was emptied.
    pub(crate) fn body(&mut self) -> Option<Pin<&mut B>> {
        match self {
            Self::Own(body) => body.as_mut().map(Pin::as_mut),
            Self::Shared(content) => content.as_mut().map(|content| content.body.as_mut()),
        }
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
