//! Whether a request is still being sent, which hyper does not tell.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use http_body::{Body, Frame, SizeHint};

/// The body of a request. hyper drops it when it has taken all of it.
pub(crate) struct Sending<B> {
    pub(crate) body: B,
    _here: Arc<()>,
}

/// Tells whether a body is still there.
pub(crate) struct Sender(Weak<()>);

impl<B> Sending<B> {
    pub(crate) fn new(body: B) -> (Self, Sender) {
        let here = Arc::new(());
        let sender = Sender(Arc::downgrade(&here));
        (Self { body, _here: here }, sender)
    }
}

impl Sender {
    pub(crate) fn has_more(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl<B: Body + Unpin> Body for Sending<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
