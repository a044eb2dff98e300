use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{HeaderValue, Request, Response, StatusCode, header, response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::runtime::Handle;
use tower_service::Service;

use super::{
    ResumeBody, StreamEnd, StreamId,
    about::{About, Principal},
    ask::{Ask, COMPLETE, LOST, RESUMED, SSE_RESUME, SSE_STREAM, Want, strip},
    find::{Found, find},
    hub::Hub,
    layer::{LossPolicy, ResumeLayer, Settings},
    pump::Pump,
    reader::Reader,
    stats::Count,
};
use crate::{detect::EventStream, error::BoxError, headers, trace::trace, withdraw::Withdraw};

/// A service whose event streams outlive their connections.
#[derive(Clone, Debug)]
pub struct ResumeService<S> {
    inner: S,
    shared: Shared,
}

#[derive(Clone, Debug)]
struct Shared {
    hub: Arc<Hub>,
    settings: Arc<Settings>,
}

pin_project! {
    /// The response of a [`ResumeService`].
    pub struct ResumeFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B>,
        shared: Shared,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B>
    where
        S: Service<Request<B>>,
    {
        // The stream that the client comes back to is looked for.
        Looking { looking: Looking, rest: Option<(S, Request<B>, Ask)> },
        // The service has been called.
        Calling { #[pin] response: S::Future, ask: Option<Ask>, lost: bool },
    }
}

type Looking = Pin<Box<dyn Future<Output = Found> + Send>>;

impl<S> ResumeService<S> {
    pub(crate) fn new(inner: S, layer: &ResumeLayer) -> Self {
        Self {
            inner,
            shared: Shared {
                hub: layer.hub.clone(),
                settings: Arc::new(layer.settings.clone()),
            },
        }
    }
}

impl<S, B, ResBody> Service<Request<B>> for ResumeService<S>
where
    // The service that is ready waits for the store, a clone takes its place.
    S: Service<Request<B>, Response = Response<ResBody>> + Clone,
    // It moves to a task of its own.
    ResBody: Body + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Response = Response<ResumeBody<ResBody>>;
    type Error = S::Error;
    type Future = ResumeFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (head, body) = request.into_parts();
        let ask = Ask::of(&head, &self.shared.settings);
        let request = Request::from_parts(head, body);
        let state = match ask {
            // The store is asked, and for that there must be time.
            Some(ask) if ask.want != Want::New && Handle::try_current().is_ok() => {
                let clone = self.inner.clone();
                let ready = mem::replace(&mut self.inner, clone);
                State::Looking {
                    looking: Box::pin(find(self.shared.hub.clone(), ask.clone())),
                    rest: Some((ready, request, ask)),
                }
            }
            ask => State::Calling {
                response: self.inner.call(request),
                ask,
                lost: false,
            },
        };
        ResumeFuture {
            state,
            shared: self.shared.clone(),
        }
    }
}

impl<S, B, ResBody> Future for ResumeFuture<S, B>
where
    S: Service<Request<B>, Response = Response<ResBody>>,
    ResBody: Body + Send + 'static,
    ResBody::Error: Into<BoxError>,
{
    type Output = Result<Response<ResumeBody<ResBody>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Looking { looking, rest } => {
                    let found = ready!(looking.as_mut().poll(cx));
                    let (mut service, request, ask) = rest.take().expect("polled after completion");
                    if let Some(response) = this.shared.answer(found) {
                        return Poll::Ready(Ok(response));
                    }
                    let (mut head, body) = request.into_parts();
                    strip(&mut head, &this.shared.settings);
                    this.state.set(State::Calling {
                        response: service.call(Request::from_parts(head, body)),
                        ask: Some(ask),
                        lost: true,
                    });
                }
                StateProj::Calling {
                    response,
                    ask,
                    lost,
                } => {
                    let response = ready!(response.poll(cx))?;
                    let response = this.shared.begin(response, ask.take());
                    return Poll::Ready(Ok(if *lost {
                        said(response, LOST)
                    } else {
                        response
                    }));
                }
            }
        }
    }
}

impl Shared {
    /// The answer to a client that came back; `None` if the service is to be called.
    fn answer<B>(&self, found: Found) -> Option<Response<ResumeBody<B>>> {
        match found {
            Found::Stream(stream) => {
                let (head, id, reader) = *stream;
                Some(said(read(head, id, reader), RESUMED))
            }
            Found::Complete(mut head) => {
                // An `EventSource` comes back after every end but this.
                head.status = StatusCode::NO_CONTENT;
                head.headers.remove(header::CONTENT_TYPE);
                Some(said(
                    Response::from_parts(*head, ResumeBody::empty()),
                    COMPLETE,
                ))
            }
            Found::Nothing => {
                let status = match self.settings.on_loss {
                    LossPolicy::StartAnew => return None,
                    LossPolicy::NoContent => StatusCode::NO_CONTENT,
                    LossPolicy::Gone => StatusCode::GONE,
                };
                let mut response = Response::new(ResumeBody::empty());
                *response.status_mut() = status;
                Some(said(response, LOST))
            }
        }
    }

    /// Where the response is an event stream that can be kept, its body goes to a task of its own,
    /// and the client reads what that has.
    fn begin<B>(&self, response: Response<B>, ask: Option<Ask>) -> Response<ResumeBody<B>>
    where
        B: Body + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut head, body) = response.into_parts();
        let stream = ask.filter(|ask| {
            head.status.is_success()
                && EventStream::of(&head, ask.client) == Some(EventStream::Plain)
        });
        let (Some(ask), Some(id)) = (stream, new_id()) else {
            return Response::from_parts(head, ResumeBody::passed(body));
        };
        let about = Arc::new(About::new(Principal::new(id, &ask.principal), &head));
        let (hold, seat) = self.hub.begin(id, about.clone());
        self.hub.counters.add(Count::Started);
        let live = hold.live.clone();
        // What a drain refuses must not run on without a reader.
        head.extensions.insert(Withdraw::new(move |headers| {
            headers.remove(SSE_STREAM);
            live.stop(StreamEnd::Abandoned);
        }));
        tokio::spawn(Pump::new(body, hold, about.clone(), self.settings.clone()).run());
        headers::unbind(&mut head.headers);
        let reader = Reader::new(self.hub.clone(), id, about, Some(seat), 0, ask.ids);
        read(head, id, reader)
    }
}

/// A new stream's id. Without one, or without a runtime, the stream passes as it is.
fn new_id() -> Option<StreamId> {
    let id = StreamId::random();
    let id = id.inspect_err(|error| trace!(error, "no stream id", error = error));
    id.ok().filter(|_| Handle::try_current().is_ok())
}

fn read<B>(mut head: response::Parts, id: StreamId, reader: Reader) -> Response<ResumeBody<B>> {
    if let Ok(text) = HeaderValue::try_from(id.to_string()) {
        head.headers.insert(SSE_STREAM, text);
    }
    head.extensions.insert(id);
    Response::from_parts(head, ResumeBody::read(reader))
}

fn said<B>(mut response: Response<B>, how: HeaderValue) -> Response<B> {
    response.headers_mut().insert(SSE_RESUME, how);
    response
}

impl<S, B> fmt::Debug for ResumeFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeFuture")
    }
}
