//! A network that breaks when the page says so. No page can cut an `EventSource` without closing it
//! for good; here the gateway's side breaks the connection in the middle, and the browser sees what
//! it would see of a proxy that fell over.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::extract::Query;
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use serde::Deserialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tower::{BoxError, Service, ServiceExt as _, service_fn};

/// Tells all streams which of them are cut.
#[derive(Clone)]
pub(crate) struct Cuts(broadcast::Sender<Arc<str>>);

pin_project! {
    /// A body that fails when it is cut.
    pub(crate) struct Cuttable<B> {
        #[pin]
        inner: B,
        cut: Option<Cut>,
    }
}

type Cut = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The name under which a stream can be cut; without one it cannot.
#[derive(Deserialize)]
struct Named {
    cut: String,
}

/// How many cuts a stream may be behind. One that is further behind missed those between.
const BEHIND: usize = 64;

/// Lets streams be cut that say how they are called. Around all layers, since the connection is what
/// breaks: for them the client has gone.
pub(crate) fn cuttable<S, R, B>(
    inner: S,
    cuts: Cuts,
) -> impl Service<Request<R>, Response = Response<Cuttable<B>>, Error = S::Error, Future: Send> + Clone
where
    S: Service<Request<R>, Response = Response<B>> + Clone + Send,
    S::Future: Send,
    R: Send,
{
    service_fn(move |request: Request<R>| {
        let (inner, cut) = (inner.clone(), cuts.of(request.uri()));
        async move {
            let response = inner.oneshot(request).await?;
            Ok(response.map(|inner| Cuttable { inner, cut }))
        }
    })
}

impl Cuts {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }

    pub(super) fn cut(&self, start: &str) {
        // an error means that no stream is open
        let _ = self.0.send(start.into());
    }

    fn of(&self, uri: &Uri) -> Option<Cut> {
        let Query(Named { cut: name }) = Query::try_from_uri(uri).ok()?;
        let mut cuts = self.0.subscribe();
        Some(Box::pin(async move {
            loop {
                match cuts.recv().await {
                    Ok(start) if name.starts_with(&*start) => return,
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => std::future::pending().await,
                }
            }
        }))
    }
}

impl<B> Body for Cuttable<B>
where
    B: Body<Data = Bytes, Error: Into<BoxError>>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        if let Some(cut) = this.cut
            && cut.as_mut().poll(cx).is_ready()
        {
            *this.cut = None;
            return Poll::Ready(Some(Err("cut by the page".into())));
        }
        let frame = ready!(this.inner.poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
