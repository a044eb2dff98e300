//! An upstream that plays recorded streams event by event, and a tap between the gateway and its
//! clients that sees what passes.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::{BodyExt, Full};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::programs::{client, process::PATIENCE};

/// A heartbeat as it is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shape {
    Line,
    Block,
    BlankLines,
}

/// What is between two events, before the first and behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Nothing, not even time.
    Swift,
    /// A silence that lasts until the tap has seen a heartbeat in it.
    Heartbeat,
    /// A silence that lasts so long.
    Silence(Duration),
    /// The bytes of a heartbeat, from the upstream itself.
    Slipped(Shape),
}

/// A stream that one client reads.
pub(crate) struct Play {
    pace: Pace,
    events: Vec<Bytes>,
    passed: watch::Sender<Passed>,
    /// The `Last-Event-ID` of each request.
    requests: Mutex<Vec<Option<String>>>,
    /// Whether a heartbeat did not come.
    missed: AtomicBool,
}

/// What has come out of the gateway.
#[derive(Clone, Default)]
pub(crate) struct Passed {
    /// All but the heartbeats.
    pub(crate) bytes: Vec<u8>,
    /// The shapes of the heartbeats, those in a row that are the same once.
    pub(crate) shapes: Vec<Shape>,
    since_bytes: usize,
}

/// The streams by their numbers, with which the paths of the requests for them begin.
pub(crate) type Plays = Arc<BTreeMap<usize, Arc<Play>>>;

/// Dropped, it stops.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    task: AbortHandle,
}

/// Time for a client to read what was sent apart from what comes.
const APART: Duration = Duration::from_millis(4);

impl Shape {
    pub(crate) const ALL: [Self; 3] = [Self::Line, Self::Block, Self::BlankLines];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Block => "block",
            Self::BlankLines => "blank lines",
        }
    }

    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Line => b": keep-alive\n",
            Self::Block => b": keep-alive\n\n",
            Self::BlankLines => b"\n\n",
        }
    }

    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            b"\r\n\r\n" => Some(Self::BlankLines),
            bytes => Self::ALL.into_iter().find(|shape| shape.bytes() == bytes),
        }
    }
}

impl Play {
    pub(crate) fn new(stream: &[u8], pace: Pace) -> Self {
        Self {
            pace,
            events: events(stream),
            passed: watch::Sender::default(),
            requests: Mutex::default(),
            missed: AtomicBool::new(false),
        }
    }

    pub(crate) fn passed(&self) -> Passed {
        self.passed.borrow().clone()
    }

    pub(crate) fn requests(&self) -> Vec<Option<String>> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed)
    }

    /// Whether it is the first.
    fn request(&self, headers: &HeaderMap) -> bool {
        let id = headers.get("last-event-id");
        let id = id.map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
        let mut requests = self.requests.lock().unwrap();
        requests.push(id);
        requests.len() == 1
    }

    fn saw(&self, bytes: &[u8]) {
        self.passed.send_modify(|passed| match Shape::of(bytes) {
            Some(shape) => {
                passed.since_bytes += 1;
                if passed.shapes.last() != Some(&shape) {
                    passed.shapes.push(shape);
                }
            }
            None => {
                passed.since_bytes = 0;
                passed.bytes.extend_from_slice(bytes);
            }
        });
    }

    fn stream(self: Arc<Self>) -> impl Stream<Item = Result<Bytes, Infallible>> {
        // Each step is a silence and what ends it.
        stream::unfold((self, 0, 0), async |(play, step, sent)| {
            let slip = play.pause(sent).await;
            let event = match play.events.get(step) {
                Some(event) => event.clone(),
                None if step == play.events.len() && !slip.is_empty() => Bytes::new(),
                None => return None,
            };
            let sent = sent + event.len();
            Some((Ok([slip, &event].concat().into()), (play, step + 1, sent)))
        })
    }

    async fn pause(&self, sent: usize) -> &'static [u8] {
        match self.pace {
            Pace::Swift => {}
            Pace::Silence(time) => sleep(time).await,
            // One that is missed is enough to know.
            Pace::Heartbeat if self.missed() => {}
            Pace::Heartbeat => {
                let mut passed = self.passed.subscribe();
                let heard =
                    passed.wait_for(|passed| passed.bytes.len() == sent && passed.since_bytes > 0);
                if timeout(PATIENCE / 2, heard).await.is_err() {
                    self.missed.store(true, Ordering::Relaxed);
                }
            }
            Pace::Slipped(shape) => {
                sleep(APART).await;
                return shape.bytes();
            }
        }
        b""
    }
}

/// Each with its blank line.
fn events(stream: &[u8]) -> Vec<Bytes> {
    let text = str::from_utf8(stream).expect("UTF-8");
    let end = if text.contains('\r') {
        "\r\n\r\n"
    } else {
        "\n\n"
    };
    text.split_inclusive(end)
        .map(|event| Bytes::copy_from_slice(event.as_bytes()))
        .collect()
}

impl Server {
    /// The upstream. Whoever comes a second time learns that there is no more.
    pub(crate) async fn upstream(plays: Plays) -> Self {
        Self::start(plays, async |plays: Plays, request: Request| {
            let play = play(&plays, request.uri());
            if !play.request(request.headers()) {
                return StatusCode::NO_CONTENT.into_response();
            }
            let kind = (header::CONTENT_TYPE, "text/event-stream");
            ([kind], Body::from_stream(play.stream())).into_response()
        })
        .await
    }

    /// A tap in front of the gateway at `address`.
    pub(crate) async fn tap(plays: Plays, address: &str) -> Self {
        let gateway = address.to_owned();
        let forward = move |plays: Plays, request: Request| {
            let gateway = gateway.clone();
            async move {
                let play = play(&plays, request.uri());
                let (mut head, body) = request.into_parts();
                let path = head.uri.path_and_query().expect("a path");
                head.uri = format!("http://{gateway}{path}").parse().expect("a URI");
                let body = body.collect().await.expect("a body").to_bytes();
                let request = Request::from_parts(head, Full::new(body));
                let (head, body) = client::send(request)
                    .await
                    .expect("a response")
                    .into_parts();
                let body = body.map_frame(move |frame| {
                    if let Some(bytes) = frame.data_ref() {
                        play.saw(bytes);
                    }
                    frame
                });
                Response::from_parts(head, Body::new(body))
            }
        };
        Self::start(plays, forward).await
    }

    async fn start<F>(
        plays: Plays,
        answer: impl Fn(Plays, Request) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let answer = move |State(plays): State<Plays>, request: Request| {
            let answer = answer.clone();
            async move { answer(plays, request).await }
        };
        let app = Router::new().fallback(answer).with_state(plays);
        let task = tokio::spawn(async move { axum::serve(listener, app).await });
        Self {
            address,
            task: task.abort_handle(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn play(plays: &Plays, uri: &Uri) -> Arc<Play> {
    let number = uri
        .path()
        .split('/')
        .nth(1)
        .and_then(|part| part.parse().ok());
    let play = number.and_then(|number: usize| plays.get(&number));
    play.unwrap_or_else(|| panic!("a path that begins with a number: {uri}"))
        .clone()
}
