use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
};

use http_body::Body;

use crate::{drain::Reach, frames::PollFrame};

/// The service's body, where the drain can reach it while nobody polls the body around it.
///
/// hyper does not poll a response while its client does not read, and only then is the lock of any
/// use; a poll takes it uncontended.
pub(crate) struct Slot<B>(Arc<Shared<B>>);

struct Shared<B> {
    body: Mutex<Option<Pin<Box<B>>>>,
    /// Apart from the body: that is locked while it is polled, and may start the drain itself.
    waker: Mutex<Option<Waker>>,
}

impl<B> Slot<B> {
    pub(crate) fn new(body: B) -> Self {
        Self(Arc::new(Shared {
            body: Mutex::new(Some(Box::pin(body))),
            waker: Mutex::default(),
        }))
    }

    pub(crate) fn reach(&self) -> Weak<dyn Reach>
    where
        B: Send + 'static,
    {
        let shared: Arc<dyn Reach> = self.0.clone();
        Arc::downgrade(&shared)
    }

    /// Who is to be woken. Before the drain is asked whether it has started: a start that comes
    /// after that question finds the waker here.
    pub(crate) fn on_poll(&self, cx: &Context<'_>) {
        let mut waker = lock(&self.0.waker);
        if waker
            .as_ref()
            .is_none_or(|waker| !waker.will_wake(cx.waker()))
        {
            let old = waker.replace(cx.waker().clone());
            // No lock is held where code of others runs.
            drop(waker);
            drop(old);
        }
    }

    /// The next frame; an emptied slot has ended.
    pub(crate) fn poll_frame(&self, cx: &mut Context<'_>) -> PollFrame<B::Data, B::Error>
    where
        B: Body,
    {
        match &mut *lock(&self.0.body) {
            Some(body) => body.as_mut().poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    /// Drops the body.
    pub(crate) fn clear(&self) {
        // Taken first: the lock must be free when the body is dropped.
        let body = lock(&self.0.body).take();
        drop(body);
    }
}

impl<B: Send> Reach for Shared<B> {
    fn wake(&self) {
        let waker = lock(&self.waker).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn free(&self) {
        // Who holds the lock polls, and a stream that is polled ends by itself.
        let body = self.body.try_lock().ok().and_then(|mut body| body.take());
        drop(body);
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
