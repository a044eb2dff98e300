//! The body of a request, and whether it is still being sent, which hyper does not tell.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use tower::BoxError;

/// The body of a request. hyper drops it when it has taken all of it.
pub(crate) struct Sending {
    // Boxed, since hyper has room for 32 requests in each connection.
    body: UnsyncBoxBody<Bytes, BoxError>,
    here: Arc<()>,
}

/// Tells whether a body is still there.
pub(crate) struct Sender(Weak<()>);

impl Sending {
    pub(crate) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        Self {
            body: body.map_err(Into::into).boxed_unsync(),
            here: Arc::new(()),
        }
    }

    pub(crate) fn sender(&self) -> Sender {
        Sender(Arc::downgrade(&self.here))
    }
}

impl Sender {
    pub(crate) fn has_more(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
