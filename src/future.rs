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
    engine::{Concerns, Exchange, Handling, Refused},
};

pin_project! {
    /// The response of an [`SseService`](crate::SseService).
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<F> {
        Called {
            #[pin]
            inner: F,
            concerns: Arc<Concerns>,
            // Taken when the head arrives.
            exchange: Option<Exchange>,
        },
        // The service was not called.
        Refused { response: Option<Refused> },
    }
}

impl<F> ResponseFuture<F> {
    pub(crate) fn new(inner: F, concerns: Arc<Concerns>, exchange: Exchange) -> Self {
        let exchange = Some(exchange);
        Self {
            kind: Kind::Called {
                inner,
                concerns,
                exchange,
            },
        }
    }

    pub(crate) fn refused(response: Refused) -> Self {
        Self {
            kind: Kind::Refused {
                response: Some(response),
            },
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
        let (head, body) = match self.project().kind.project() {
            KindProj::Called {
                inner,
                concerns,
                exchange,
            } => {
                let response = ready!(inner.poll(cx));
                // Also where the service failed: its place must not wait for this future to go.
                let exchange = exchange.take().expect("polled after completion");
                let (mut head, body) = response?.into_parts();
                let body = match concerns.on_response(&mut head, exchange) {
                    Handling::Untouched => SseBody::untouched(body),
                    Handling::Replaced(bytes) => SseBody::replaced(bytes),
                    Handling::Stream(opening) => SseBody::stream(body, *opening),
                };
                (head, body)
            }
            KindProj::Refused { response } => {
                let (head, body) = *response.take().expect("polled after completion");
                (head, SseBody::replaced(body))
            }
        };
        Poll::Ready(Ok(Response::from_parts(head, body)))
    }
}
