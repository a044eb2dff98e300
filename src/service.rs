use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::{body::SseBody, engine::Concerns, future::ResponseFuture};

/// A service whose event streams go through the layers of this crate.
///
/// Any service with a response body that is `Send + 'static` can be wrapped, whatever its request
/// body and its error; neither of those changes.
#[derive(Clone, Debug)]
pub struct SseService<S> {
    inner: S,
    concerns: Arc<Concerns>,
}

impl<S> SseService<S> {
    pub(crate) fn new(inner: S, concerns: Arc<Concerns>) -> Self {
        Self { inner, concerns }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for SseService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    // Sent and owned, so that the drain can drop it from outside.
    ResBody: Body + Send + 'static,
{
    type Response = Response<SseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        match self.concerns.on_request(&mut head) {
            Ok(exchange) => {
                let response = self.inner.call(Request::from_parts(head, body));
                ResponseFuture::new(response, self.concerns.clone(), exchange)
            }
            Err(refused) => ResponseFuture::refused(refused),
        }
    }
}
