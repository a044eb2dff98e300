use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::reader::Reader;
use crate::{
    error::BoxError,
    frames::{PollFrame, poll_passing},
};

pin_project! {
    /// A response's body behind a [`ResumeLayer`](crate::ResumeLayer).
    ///
    /// What is not an event stream passes frame by frame, with its size hint, end and trailers.
    #[derive(Debug)]
    pub struct ResumeBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<B> {
        Passed { #[pin] body: B },
        // Boxed, or every body that passes would have its size.
        Read { reader: Box<Reader> },
        Empty,
    }
}

impl<B> ResumeBody<B> {
    pub(super) fn passed(body: B) -> Self {
        Self {
            kind: Kind::Passed { body },
        }
    }

    pub(super) fn read(reader: Reader) -> Self {
        Self {
            kind: Kind::Read {
                reader: Box::new(reader),
            },
        }
    }

    pub(super) fn empty() -> Self {
        Self { kind: Kind::Empty }
    }
}

impl<B> Body for ResumeBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError> {
        match self.project().kind.project() {
            KindProj::Passed { body } => poll_passing(body, cx),
            KindProj::Read { reader } => reader.poll_frame(cx),
            KindProj::Empty => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passed { body } => body.is_end_stream(),
            Kind::Read { reader } => reader.is_end(),
            Kind::Empty => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passed { body } => body.size_hint(),
            Kind::Read { .. } => SizeHint::default(),
            Kind::Empty => SizeHint::with_exact(0),
        }
    }
}

impl<B: Default> Default for ResumeBody<B> {
    fn default() -> Self {
        Self::passed(B::default())
    }
}
