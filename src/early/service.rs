use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::{EarlyOpenBody, EarlyOpenLayer, layer::Plan};
use crate::{error::BoxError, media, timer::Timer, trace::trace, verdict::Verdict};

/// A service whose event streams open before it has answered.
#[derive(Clone, Debug)]
pub struct EarlyOpenService<S> {
    inner: S,
    layer: EarlyOpenLayer,
}

pin_project! {
    /// The response of an [`EarlyOpenService`].
    ///
    /// # Panics
    ///
    /// When a response that may open early is polled outside of a tokio runtime with timers.
    #[derive(Debug)]
    pub struct EarlyOpenFuture<F> {
        #[pin]
        kind: Kind<F>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<F> {
        Called { #[pin] inner: F },
        // Boxed before it is first polled: from then on it cannot be moved, and it must be, into the
        // body.
        Awaited { inner: Option<Pin<Box<F>>>, plan: Plan, timer: Timer },
    }
}

impl<S> EarlyOpenService<S> {
    pub(crate) fn new(inner: S, layer: EarlyOpenLayer) -> Self {
        Self { inner, layer }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for EarlyOpenService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    // They move into a body, whose type says nothing of them.
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    ResBody: Body + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<EarlyOpenBody<ResBody>>;
    type Error = S::Error;
    type Future = EarlyOpenFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let plan = self.layer.on_request(&mut head);
        let inner = self.inner.call(Request::from_parts(head, body));
        let kind = match plan {
            None => Kind::Called { inner },
            Some(plan) => Kind::Awaited {
                inner: Some(Box::pin(inner)),
                plan,
                timer: Timer::default(),
            },
        };
        EarlyOpenFuture { kind }
    }
}

impl<F, B, E> Future for EarlyOpenFuture<F>
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    E: Into<BoxError>,
{
    type Output = Result<Response<EarlyOpenBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (inner, plan, timer) = match self.project().kind.project() {
            KindProj::Called { inner } => return inner.poll(cx).map_ok(passed),
            KindProj::Awaited { inner, plan, timer } => (inner, plan, timer),
        };
        let future = inner.as_mut().expect("polled after completion");
        if let Poll::Ready(answer) = future.as_mut().poll(cx) {
            *inner = None;
            return Poll::Ready(answer.map(passed));
        }
        let waits = plan
            .due
            .is_some_and(|due| timer.poll_until(due, cx).is_pending());
        if waits {
            return Poll::Pending;
        }
        let future = inner.take().expect("polled after completion");
        trace!(debug, "opened an event stream early");
        let verdict = plan.verdict.clone();
        let body = EarlyOpenBody::opened(future, plan.clone());
        Poll::Ready(Ok(head(body, verdict)))
    }
}

fn passed<B>(response: Response<B>) -> Response<EarlyOpenBody<B>> {
    response.map(EarlyOpenBody::passed)
}

fn head<B>(body: EarlyOpenBody<B>, verdict: Verdict) -> Response<EarlyOpenBody<B>> {
    let mut response = Response::new(body);
    response.extensions_mut().insert(verdict);
    let stream = HeaderValue::from_static(media::EVENT_STREAM);
    response.headers_mut().insert(header::CONTENT_TYPE, stream);
    response
}
