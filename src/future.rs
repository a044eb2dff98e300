use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{
    body::SseBody,
    engine::{Concerns, Exchange, Handling},
};

pin_project! {
    /// The response of an [`SseService`](crate::SseService).
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        concerns: Arc<Concerns>,
        // Taken when the head arrives.
        exchange: Option<Exchange>,
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) fn new(inner: F, concerns: Arc<Concerns>, exchange: Exchange) -> Self {
        Self {
            inner,
            concerns,
            exchange: Some(exchange),
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body + Send + 'static,
{
    type Output = Result<Response<SseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let (mut head, body) = ready!(this.inner.poll(cx))?.into_parts();
        let exchange = this.exchange.take().expect("polled after completion");
        let body = match this.concerns.on_response(&mut head, exchange) {
            Handling::Untouched => SseBody::untouched(body),
            Handling::Replaced(bytes) => SseBody::replaced(bytes),
            Handling::Stream(engine) => SseBody::stream(body, engine),
        };
        Poll::Ready(Ok(Response::from_parts(head, body)))
    }
}
