//! Who asks for a stream. The libraries of OpenAI and Anthropic say `Accept: application/json` when
//! they do; that a stream is wanted is in the request's body, and that is read here.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{
    HeaderMap, Method, Request, Response,
    header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE},
    request,
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::time::timeout;
use tower::{Service, ServiceExt as _, service_fn};

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
}

#[derive(Deserialize)]
struct Asked {
    stream: bool,
}

/// The longest body that is read: a question with pictures in it.
const LONGEST: u64 = 4 * 1024 * 1024;

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
    service_fn(move |request: Request<Incoming>| {
        let inner = inner.clone();
        async move {
            let (mut head, body) = request.into_parts();
            let body = if reads && may_want(&head) {
                Question::read(body).await
            } else {
                Question::unread(body)
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
    request.extensions.get::<WantsStream>().is_some()
        || accepts(&request.headers, "text/event-stream")
}

/// The same, and no other answer is one: a request of the Model Context Protocol takes JSON as well.
pub(crate) fn nothing_but_a_stream(request: &request::Parts) -> bool {
    let mcp = ["mcp-session-id", "mcp-protocol-version"];
    request.extensions.get::<WantsStream>().is_some()
        || stream(request)
            && !accepts(&request.headers, "application/json")
            && !mcp.iter().any(|name| request.headers.contains_key(*name))
}

/// Whether the body is worth a look: it is short, and nothing else has said what it might say.
fn may_want(head: &request::Parts) -> bool {
    let length = head.headers.get(CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let kind = head.headers.get(CONTENT_TYPE);
    head.method == Method::POST
        && kind.is_some_and(|kind| essence_is(kind.as_bytes(), "application/json"))
        && length.is_some_and(|length: u64| length <= LONGEST)
        && !nothing_but_a_stream(head)
}

fn accepts(headers: &HeaderMap, kind: &str) -> bool {
    let lines = headers.get_all(ACCEPT).into_iter();
    let mut kinds = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    kinds.any(|range| essence_is(range, kind))
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
        }
    }

    /// To the end, or as far as it comes in time. Whatever goes wrong is for who reads this one.
    async fn read(mut body: Incoming) -> Self {
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
        }
    }

    fn wants_stream(&self) -> bool {
        let whole = self.rest.is_none() && !matches!(self.end, Some(Err(_)));
        let asked = whole.then(|| serde_json::from_slice(&self.read));
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
