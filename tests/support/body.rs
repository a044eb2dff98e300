//! An upstream that follows a script, and an eye on what comes out of the layers around it.
//!
//! Everything runs in paused time: a day of silence takes no time, and every time is exact.

use std::{
    collections::VecDeque,
    convert::Infallible,
    error::Error,
    fmt,
    future::ready,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tokio::{
    runtime::{Builder, Runtime},
    time::{Instant, Sleep, sleep, timeout_at},
};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxService};
use tower_sse::BoxError;

// === the upstream ===

/// What the upstream does next. After the last step it ends.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Data(Bytes),
    /// A frame without a byte.
    Empty,
    Pause(Duration),
    /// Nothing ever again, not even an end.
    Hang,
    Error(&'static str),
    Trailers(HeaderMap),
}

/// A body that follows its steps.
///
/// It knows its exact length and its end, which the layers must not hand on where bytes may be
/// added, and it panics when it is polled after its end.
#[derive(Debug)]
pub(crate) struct Script {
    steps: VecDeque<Step>,
    pause: Option<Pin<Box<Sleep>>>,
    over: bool,
    probe: Probe,
}

/// The error of a scripted body.
#[derive(Debug)]
pub(crate) struct Broken(&'static str);

/// Watches a [`Script`], also when that is gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probe(Arc<Watched>);

#[derive(Debug, Default)]
struct Watched {
    polls: AtomicUsize,
    dropped: Mutex<Option<Instant>>,
}

/// Always ready, always the same.
#[derive(Debug)]
pub(crate) struct Endless(pub(crate) &'static [u8]);

pub(crate) fn data(bytes: impl AsRef<[u8]>) -> Step {
    Step::Data(Bytes::copy_from_slice(bytes.as_ref()))
}

pub(crate) fn pause(seconds: f64) -> Step {
    Step::Pause(Duration::from_secs_f64(seconds))
}

pub(crate) fn script(steps: impl IntoIterator<Item = Step>) -> Script {
    Script {
        steps: steps.into_iter().collect(),
        pause: None,
        over: false,
        probe: Probe::default(),
    }
}

impl Script {
    pub(crate) fn probe(&self) -> Probe {
        self.probe.clone()
    }
}

impl Probe {
    /// How often the body was polled.
    pub(crate) fn polls(&self) -> usize {
        self.0.polls.load(Ordering::Relaxed)
    }

    /// When the body was dropped.
    pub(crate) fn dropped(&self) -> Option<Instant> {
        *self.0.dropped.lock().unwrap()
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        self.probe.0.polls.fetch_add(1, Ordering::Relaxed);
        assert!(!self.over, "polled after its end");
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            return Poll::Ready(match self.steps.pop_front() {
                Some(Step::Pause(time)) => {
                    self.pause = Some(Box::pin(sleep(time)));
                    continue;
                }
                Some(Step::Hang) => {
                    self.steps.push_front(Step::Hang);
                    return Poll::Pending;
                }
                Some(Step::Data(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Step::Empty) => Some(Ok(Frame::data(Bytes::new()))),
                Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
                Some(Step::Error(text)) => {
                    self.over = true;
                    Some(Err(Broken(text)))
                }
                None => {
                    self.over = true;
                    None
                }
            });
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && self.pause.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.steps.iter().map(|step| match step {
            Step::Data(bytes) => bytes.len() as u64,
            _ => 0,
        });
        SizeHint::with_exact(left.sum())
    }
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.0)))))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        *self.probe.0.dropped.lock().unwrap() = Some(Instant::now());
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Broken {}

// === requests, responses, services ===

/// A client by what it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Client {
    /// A browser's `EventSource`.
    EventSource,
    /// A library that posts and knows event streams.
    Events,
    /// The SDKs of OpenAI and Anthropic, `fetch`, curl.
    Fetch,
    Mcp,
    Gemini,
    /// `@google/generative-ai`.
    OldGemini,
}

impl Client {
    pub(crate) const ALL: [Self; 6] = [
        Self::EventSource,
        Self::Events,
        Self::Fetch,
        Self::Mcp,
        Self::Gemini,
        Self::OldGemini,
    ];

    pub(crate) fn request(self) -> Request<()> {
        let (method, headers): (_, &[_]) = match self {
            Self::EventSource => ("GET", &[("accept", "text/event-stream")]),
            Self::Events => ("POST", &[("accept", "text/event-stream")]),
            Self::Fetch => ("POST", &[("accept", "application/json")]),
            Self::Mcp => ("POST", &[("accept", "application/json, text/event-stream")]),
            Self::Gemini => ("POST", &[("x-goog-api-client", "google-genai-sdk/1.9")]),
            Self::OldGemini => ("POST", &[("x-goog-api-client", "genai-js/0.24")]),
        };
        request(method, "/", headers)
    }
}

pub(crate) fn request(method: &str, uri: &str, headers: &[(&str, &str)]) -> Request<()> {
    let builder = Request::builder().method(method).uri(uri);
    let request = headers.iter().fold(builder, |request, (name, value)| {
        request.header(*name, *value)
    });
    request.body(()).unwrap()
}

/// An event stream that follows the steps.
pub(crate) fn events(steps: impl IntoIterator<Item = Step>) -> Response<Script> {
    response("text/event-stream", script(steps))
}

pub(crate) fn response<B>(content_type: &str, body: B) -> Response<B> {
    let response = Response::builder().header("content-type", content_type);
    response.body(body).unwrap()
}

/// A body whose type does not say what layers are around it.
pub(crate) type AnyBody = UnsyncBoxBody<Bytes, BoxError>;

/// A service whose type does not say what layers are around it, so that they can be chosen in a
/// test.
pub(crate) type AnyService = BoxService<Request<()>, Response<AnyBody>, Infallible>;

/// Gives `response` to the one request that comes.
pub(crate) fn service<B>(response: Response<B>) -> AnyService
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let mut response = Some(response.map(boxed));
    BoxService::new(service_fn(move |_| {
        ready(Ok(response.take().expect("one request")))
    }))
}

/// The service inside of the layer.
pub(crate) fn layered<L, B>(layer: L, service: AnyService) -> AnyService
where
    L: Layer<AnyService>,
    L::Service: Service<Request<()>, Response = Response<B>, Error = Infallible> + Send + 'static,
    <L::Service as Service<Request<()>>>::Future: Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let service = layer.layer(service);
    BoxService::new(service.map_response(|response| response.map(boxed)))
}

/// The response that `client` gets through the layer.
pub(crate) async fn through<L, B, O>(
    layer: L,
    request: Request<()>,
    response: Response<B>,
) -> Response<AnyBody>
where
    L: Layer<AnyService>,
    L::Service: Service<Request<()>, Response = Response<O>, Error = Infallible> + Send + 'static,
    <L::Service as Service<Request<()>>>::Future: Send,
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    O: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let Ok(response) = layered(layer, service(response)).oneshot(request).await;
    response
}

pub(crate) fn boxed<B>(body: B) -> AnyBody
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    body.map_err(Into::into).boxed_unsync()
}

// === what comes out ===

/// What came out of a body, and when, from the start of the recording on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recording {
    pub(crate) frames: Vec<(Duration, Bytes)>,
    pub(crate) end: (Duration, End),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Clean,
    Trailers(HeaderMap),
    Error(String),
    /// It had not ended when the recording did.
    None,
}

impl Recording {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let frames = self.frames.iter();
        frames
            .flat_map(|(_, frame)| frame.iter().copied())
            .collect()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes()).unwrap()
    }

    /// What came at once, in milliseconds and as text.
    pub(crate) fn moments(&self) -> Vec<(u128, String)> {
        let mut moments = Vec::<(u128, String)>::new();
        for (at, frame) in &self.frames {
            let text = String::from_utf8_lossy(frame);
            match moments.last_mut() {
                Some((last, before)) if *last == at.as_millis() => before.push_str(&text),
                _ => moments.push((at.as_millis(), text.into())),
            }
        }
        moments
    }
}

/// Longer than any test.
const LONG: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Records the body until its end.
pub(crate) async fn record<B>(body: B) -> Recording
where
    B: Body<Data = Bytes, Error: fmt::Display>,
{
    record_for(body, LONG).await
}

/// Records the very frames, as a client does that never lets go of one.
pub(crate) async fn record_kept<B>(body: B) -> Recording
where
    B: Body<Data = Bytes, Error: fmt::Display>,
{
    recorded(body, LONG, Bytes::clone).await
}

/// Records the body until its end, but no longer than `time`, and holds it to the contract of
/// every body on the way.
pub(crate) async fn record_for<B>(body: B, time: Duration) -> Recording
where
    B: Body<Data = Bytes, Error: fmt::Display>,
{
    recorded(body, time, |bytes| Bytes::copy_from_slice(bytes)).await
}

async fn recorded<B>(body: B, time: Duration, keep: impl Fn(&Bytes) -> Bytes) -> Recording
where
    B: Body<Data = Bytes, Error: fmt::Display>,
{
    let mut body = pin!(body);
    let start = Instant::now();
    // One of ours never knows its length. Any other is a body that passes as it is.
    let ours = body.size_hint().exact().is_none();
    let mut frames = Vec::new();
    let end = loop {
        let told_end = body.is_end_stream();
        let hint = body.size_hint();
        let Ok(next) = timeout_at(start + time, body.frame()).await else {
            break End::None;
        };
        let frame = match next {
            None => break End::Clean,
            Some(Err(error)) => break End::Error(error.to_string()),
            Some(Ok(frame)) => frame,
        };
        assert!(!told_end, "{frame:?} after the body said that it has ended");
        match frame.into_data() {
            Ok(bytes) => {
                assert!(!ours || !bytes.is_empty(), "an empty frame");
                assert!(hint.upper().is_none_or(|upper| bytes.len() as u64 <= upper));
                frames.push((start.elapsed(), keep(&bytes)));
            }
            Err(frame) => break End::Trailers(frame.into_trailers().unwrap()),
        }
    };
    let at = start.elapsed();
    if ours && end != End::None {
        for _ in 0..3 {
            assert!(body.frame().await.is_none(), "a frame after the end");
            assert!(body.is_end_stream(), "an end that is not told");
        }
    }
    Recording {
        frames,
        end: (at, end),
    }
}

/// The next frame of a body that has one at once, if it does.
pub(crate) fn poll<B>(body: &mut B) -> Poll<Option<Result<Bytes, B::Error>>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let frame = ready!(Pin::new(body).poll_frame(&mut cx));
    Poll::Ready(frame.map(|frame| frame.map(|frame| frame.into_data().expect("data"))))
}

/// A runtime in which time passes only when nothing else can happen.
pub(crate) fn paused() -> Runtime {
    let mut builder = Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}
