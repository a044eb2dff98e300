use std::time::Duration;

use http::request;
use tokio::time::Instant;

use crate::{
    client::{Client, accepts_only_events},
    compression::CompressionBypassLayer,
    judge::Judge,
    protocol::Protocol,
    verdict::Verdict,
};

/// Opens an event stream when its service takes too long to answer, so that heartbeats can begin.
///
/// A model behind a queue, or with a long prompt to read, may say nothing for minutes, not even a
/// response head, and load balancers give up on it after 30 to 120 seconds. No heartbeat helps before
/// the head. So when the service has not answered a request for a stream in time, this layer sends
/// `200` and `content-type: text/event-stream`, and waits on in the response's body. What the service
/// answers then goes there:
///
/// - an event stream with a successful status goes on, byte for byte, with its trailers and errors;
/// - anything else becomes one error event in the stream's [`Protocol`], on which its libraries raise,
///   and a clean end. If the answer is JSON with an `error` in it, the event says that, with `error`
///   first, a `status` in it where it has none, and `type: error` where the protocol wants one. If not,
///   the event says the answer's status and its text. Of a body at most 64 KiB are read, for at most 5
///   seconds;
/// - if the service fails, the event says `502`, and the failure is only traced.
///
/// # What it costs
///
/// The status and the headers are given away before they are known, for every request that is not
/// answered in time:
///
/// - A late 429 or 503 is no status any more, so nobody acts on it by itself. The SDKs of OpenAI and
///   Anthropic repeat such a request, unless it was a stream that has begun: they raise an error, and
///   not the one that has the status' name. Load balancers and dashboards count a success.
/// - An `EventSource` takes the end for a lost connection and comes back, also after a late 204, 401
///   or 404, which would have stopped it.
/// - The service's headers and extensions are lost: cookies, `retry-after`, request ids, a
///   `HeartbeatLayer` or `DrainMode` for this response. What must be in every response, as with CORS,
///   belongs outside of this layer.
/// - An answer that is no stream, JSON with 200 say, is an error to this client, though the service
///   has done the work. So [`when`](Self::when) should name no request that may have such an answer.
///
/// Therefore wait long: just less than whatever would cut the connection. An answer in time passes
/// untouched, with its status and its headers, and has cost an allocation; a request for anything else
/// costs none.
///
/// # In which order
///
/// Off in [`SseLayer`](crate::SseLayer) until it is [handed one](crate::SseLayer::early_open), which is
/// then inside of everything else: a silent stream, to them. The time of a
/// [`SilenceLayer`](crate::SilenceLayer) then begins with the early head. Alone it belongs inside of
/// the others, and outside of layers that limit the time to the service's answer: those end the wait.
///
/// An `Accept-Encoding` of the requests that it is for reaches the service as `identity`, since neither an event
/// stream nor an error can be told in a coding that the early head has not named. An event stream that
/// is encoded anyway ends in an error event. It needs a tokio runtime with timers.
///
/// ```
/// use std::{convert::Infallible, time::Duration};
///
/// use http::{Request, Response};
/// use http_body_util::BodyExt;
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_sse::EarlyOpenLayer;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() {
/// let queue = service_fn(async |_: Request<()>| {
///     tokio::time::sleep(Duration::from_secs(90)).await;
///     let busy = Response::builder().status(429).header("content-type", "application/json");
///     let why = String::from(r#"{"error":{"message":"The queue is full."}}"#);
///     Ok::<_, Infallible>(busy.body(why).expect("a response"))
/// });
/// let service = EarlyOpenLayer::after(Duration::from_secs(25)).layer(queue);
///
/// let request = Request::post("/v1/chat/completions").header("accept", "text/event-stream");
/// let response = service.oneshot(request.body(()).unwrap()).await.unwrap();
/// assert_eq!(response.status(), 200);
/// assert_eq!(
///     response.into_body().collect().await.unwrap().to_bytes(),
///     "data: {\"error\":{\"message\":\"The queue is full.\",\"status\":429}}\n\n"
/// );
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct EarlyOpenLayer {
    wait: Duration,
    when: Judge<bool>,
    protocol: Judge<Option<Protocol>>,
}

/// What there is to know of a request whose head may go out early.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// When it does; `None` is as soon as the service does not answer at once.
    pub(super) due: Option<Instant>,
    pub(super) client: Client,
    pub(super) protocol: Option<Protocol>,
    pub(super) verdict: Verdict,
}

impl EarlyOpenLayer {
    /// The head goes out when the service has not answered `wait` after its call. Zero: when it does
    /// not answer at its first poll. [`Duration::MAX`] never comes, and switches the layer off.
    pub fn after(wait: Duration) -> Self {
        Self {
            wait,
            when: Judge::new(accepts_only_events),
            protocol: Judge::new(Protocol::of),
        }
    }

    /// Which requests are for a stream, whatever their answer. Never one of `HEAD`. Default: those
    /// whose `Accept` names `text/event-stream`, but for the Model Context Protocol, where JSON is a
    /// proper answer as well, and whatever else takes JSON.
    ///
    /// The SDKs of OpenAI and Anthropic say `Accept: application/json` also when they ask for a
    /// stream; that they do is in the request's body.
    pub fn when(mut self, when: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.when = Judge::new(when);
        self
    }

    /// The protocol of a request's answer, for its error event. Default: [`Protocol::of`].
    pub fn protocol(
        mut self,
        of: impl Fn(&request::Parts) -> Option<Protocol> + Send + Sync + 'static,
    ) -> Self {
        self.protocol = Judge::new(of);
        self
    }

    /// What to do with this request, if its head may go out early.
    pub(super) fn on_request(&self, request: &mut request::Parts) -> Option<Plan> {
        let due = self.due()?;
        let client = Client::of(request);
        if client.wants_head || !self.when.of(request) {
            return None;
        }
        let bypass = CompressionBypassLayer::new().every_request(true);
        bypass.on_request(&mut request.headers, client);
        Some(Plan {
            due,
            client,
            protocol: self.protocol.of(request),
            verdict: Verdict::default(),
        })
    }

    /// `None` is never.
    fn due(&self) -> Option<Option<Instant>> {
        if self.wait.is_zero() {
            return Some(None);
        }
        Instant::now().checked_add(self.wait).map(Some)
    }
}
