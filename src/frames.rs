use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame};

use crate::error::BoxError;

/// What polling a body gives.
pub(crate) type PollFrame<D, E> = Poll<Option<Result<Frame<D>, E>>>;

/// The next frame of a body that passes as it is.
#[inline]
pub(crate) fn poll_passing<B>(body: Pin<&mut B>, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    body.poll_frame(cx)
        .map_ok(|frame| frame.map_data(into_bytes))
        .map_err(Into::into)
}

pub(crate) fn into_bytes(mut data: impl Buf) -> Bytes {
    data.copy_to_bytes(data.remaining())
}
