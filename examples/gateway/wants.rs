//! Who asks for a stream. The libraries of OpenAI and Anthropic say `Accept: application/json` when
//! they do; that a stream is wanted is in the request's body, and that is read here.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    Method, Request, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
    request,
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tower::{Service, ServiceExt as _, service_fn};
use tower_sse::{accepts_events, accepts_only_events};

/// A request whose body says `"stream": true`.
#[derive(Clone, Copy)]
pub(crate) struct WantsStream;

/// A request's body, of which the beginning may have been read.
pub(crate) struct Question {
    read: Bytes,
    /// What came behind that and is no part of it: trailers, or an error.
    end: Option<Result<Frame<Bytes>, hyper::Error>>,
    /// Not read so far.
    rest: Option<Incoming>,
    /// Its share of [`TOGETHER`].
    _share: Option<OwnedSemaphorePermit>,
}

#[derive(Deserialize)]
struct Asked {
    stream: bool,
}

/// The longest body that is read: a question with pictures in it.
const LONGEST: u64 = 4 * 1024 * 1024;

/// And all that are read at the same time, in KiB. Beyond it bodies go on as they come.
const TOGETHER: usize = 64 * 1024;

/// How long it may take to come. One that is slower goes on as it comes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Marks the requests to `inner` that ask for a stream. Unless it `reads`, none, and no body is
/// touched.
pub(crate) fn wants<S, B>(
    inner: S,
    reads: bool,
) -> impl Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Clone
where
    S: Service<Request<Question>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    let together = Arc::new(Semaphore::new(if reads { TOGETHER } else { 0 }));
    service_fn(move |request: Request<Incoming>| {
        let (inner, together) = (inner.clone(), together.clone());
        async move {
            let (mut head, body) = request.into_parts();
            let length = length_to_read(&head);
            let share = length.and_then(|kib| together.try_acquire_many_owned(kib).ok());
            let body = match share {
                Some(share) => Question::read(body, share).await,
                None => Question::unread(body),
            };
            if body.wants_stream() {
                head.extensions.insert(WantsStream);
            }
            inner.oneshot(Request::from_parts(head, body)).await
        }
    })
}

/// Whether a stream is asked for, by the body or by `Accept`.
pub(crate) fn stream(request: &request::Parts) -> bool {
    request.extensions.get::<WantsStream>().is_some() || accepts_events(request)
}

/// The same, and no other answer is one.
pub(crate) fn nothing_but_a_stream(request: &request::Parts) -> bool {
    request.extensions.get::<WantsStream>().is_some() || accepts_only_events(request)
}

/// How long the body is, in KiB, if it is worth a look: it is short, and nothing else has said what it
/// might say.
fn length_to_read(head: &request::Parts) -> Option<u32> {
    let kind = head.headers.get(CONTENT_TYPE)?;
    let length = head.headers.get(CONTENT_LENGTH)?.to_str().ok()?;
    let length = length
        .parse()
        .ok()
        .filter(|length: &u64| *length <= LONGEST)?;
    let may = head.method == Method::POST
        && essence_is(kind.as_bytes(), "application/json")
        && !nothing_but_a_stream(head);
    may.then_some(length.div_ceil(1024).max(1) as u32)
}

fn essence_is(value: &[u8], essence: &str) -> bool {
    let value = value.split(|byte| *byte == b';').next().unwrap_or_default();
    value.trim_ascii().eq_ignore_ascii_case(essence.as_bytes())
}

impl Question {
    fn unread(body: Incoming) -> Self {
        Self {
            read: Bytes::new(),
            end: None,
            rest: Some(body),
            _share: None,
        }
    }

    /// To the end, or as far as it comes in time. Whatever goes wrong is for who reads this one.
    async fn read(mut body: Incoming, share: OwnedSemaphorePermit) -> Self {
        let mut read = BytesMut::new();
        let mut end = None;
        let reading = async {
            while let Some(frame) = body.frame().await {
                match frame.map(Frame::into_data) {
                    Ok(Ok(data)) => read.extend_from_slice(&data),
                    Ok(Err(trailers)) => end = Some(Ok(trailers)),
                    Err(error) => {
                        end = Some(Err(error));
                        break;
                    }
                }
            }
        };
        let late = timeout(PATIENCE, reading).await.is_err();
        Self {
            read: read.freeze(),
            end,
            rest: late.then_some(body),
            _share: Some(share),
        }
    }

    fn wants_stream(&self) -> bool {
        let whole = self.rest.is_none() && !matches!(self.end, Some(Err(_)));
        // An array would be read as the fields in their order.
        let object = self.read.trim_ascii_start().starts_with(b"{");
        let asked = (whole && object).then(|| serde_json::from_slice(&self.read));
        asked.is_some_and(|asked| matches!(asked, Ok(Asked { stream: true })))
    }
}

impl Body for Question {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if !self.read.is_empty() {
            let read = std::mem::take(&mut self.read);
            return Poll::Ready(Some(Ok(Frame::data(read))));
        }
        match &mut self.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(self.end.take()),
        }
    }

    fn is_end_stream(&self) -> bool {
        let rest = self.rest.as_ref();
        self.read.is_empty() && self.end.is_none() && rest.is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.len() as u64;
        let rest = match &self.rest {
            Some(rest) => rest.size_hint(),
            // what an error has cut off would have been longer
            None if matches!(self.end, Some(Err(_))) => SizeHint::default(),
            None => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(read + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(read + upper);
        }
        hint
    }
}
