//! What is not an event stream passes as if the layer were not there; and what an event stream
//! needs of HTTP itself.

mod support;

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody},
    response::Response,
    routing::get,
};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Version};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, SizeHint};
use support::{
    reference,
    serve::{
        Connection, EVENT_SOURCE, EVENT_STREAM, End, PROTOCOLS, Protocol, Server, Stack, respond,
        soon, upstreams,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::service::Routes;
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
    server::HealthReporter,
};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::{compression::CompressionLayer, services::ServeDir};
use tower_sse::{DrainLayer, EventIdLayer, HeartbeatLayer, SseLayer};

/// All that the layer can do.
fn everything() -> SseLayer {
    SseLayer::new()
        .heartbeat(often())
        .event_id(EventIdLayer::new().track(true).assign(|_| true))
        .drain(DrainLayer::pair().0)
}

fn often() -> HeartbeatLayer {
    HeartbeatLayer::every(Duration::from_millis(10))
}

// ---- over sockets, with the layer and without ----

/// What a client can see of a response.
#[derive(Debug, PartialEq)]
struct Seen {
    version: Version,
    status: StatusCode,
    headers: BTreeMap<String, Vec<HeaderValue>>,
    /// What the client knows of the length before it reads.
    size: (u64, Option<u64>),
    body: Bytes,
    trailers: Option<BTreeMap<String, Vec<HeaderValue>>>,
    end: End,
}

/// A request, and what makes its response worth a look.
struct Case {
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static [u8],
    protocols: &'static [Protocol],
    is_meant: fn(&Seen) -> bool,
}

const GRPC: Case = Case {
    method: "POST",
    path: "",
    headers: &[("content-type", "application/grpc"), ("te", "trailers")],
    body: b"\0\0\0\0\0",
    protocols: &[Protocol::Http2],
    is_meant: |_| true,
};

const GET: Case = Case {
    method: "GET",
    path: "",
    headers: &[],
    body: b"",
    protocols: &PROTOCOLS,
    is_meant: |_| true,
};

const HEAD: Case = Case {
    method: "HEAD",
    is_meant: |seen| seen.status == 200 && seen.body.is_empty(),
    ..GET
};

const CASES: &[Case] = &[
    Case {
        path: "/grpc.health.v1.Health/Check",
        is_meant: |seen| seen.body == b"\0\0\0\0\x02\x08\x01"[..] && seen.ends_with_status("0"),
        ..GRPC
    },
    Case {
        path: "/grpc.health.v1.Health/Check",
        // There is no service "x".
        body: b"\0\0\0\0\x03\x0a\x01x",
        is_meant: |seen| seen.header("grpc-status") == Some("5"),
        ..GRPC
    },
    Case {
        path: "/grpc-error",
        is_meant: |seen| !seen.body.is_empty() && seen.ends_with_status("13"),
        ..GRPC
    },
    Case {
        path: "/trailers",
        headers: &[("te", "trailers")],
        is_meant: |seen| seen.trailers.is_some(),
        ..GET
    },
    Case {
        path: "/files/Cargo.toml",
        is_meant: |seen| seen.size == (seen.body.len() as u64, Some(seen.body.len() as u64)),
        ..GET
    },
    Case {
        path: "/files/Cargo.toml",
        headers: &[("range", "bytes=1-10")],
        is_meant: |seen| seen.status == 206 && seen.body.len() == 10,
        ..GET
    },
    Case {
        path: "/files/Cargo.toml",
        headers: &[("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT")],
        is_meant: |seen| seen.status == 304 && seen.body.is_empty(),
        ..GET
    },
    Case {
        path: "/files/Cargo.toml",
        is_meant: |seen| seen.header("content-length").is_some() && seen.body.is_empty(),
        ..HEAD
    },
    Case {
        path: "/page",
        headers: &[("accept-encoding", "gzip")],
        is_meant: |seen| seen.header("content-encoding") == Some("gzip"),
        ..GET
    },
    Case {
        path: "/page",
        is_meant: |seen| seen.body == page().as_bytes(),
        ..GET
    },
    Case {
        path: "/nothing",
        is_meant: |seen| seen.status == 204,
        ..GET
    },
    Case {
        path: "/no-events",
        headers: EVENT_SOURCE,
        is_meant: |seen| seen.status == 204,
        ..GET
    },
    Case {
        path: "/events",
        headers: EVENT_SOURCE,
        is_meant: |seen| seen.header("content-type") == Some("text/event-stream"),
        ..HEAD
    },
    Case {
        path: "/missing",
        is_meant: |seen| seen.header("grpc-status") == Some("12"),
        ..GET
    },
];

#[tokio::test]
async fn responses_are_the_same_with_the_layer_and_without() {
    for stack in [Stack::Tonic, Stack::Axum] {
        let with = Server::start(stack, app().0, Some(everything())).await;
        let without = Server::start(stack, app().0, None).await;
        for case in CASES {
            for protocol in case.protocols {
                let what = format!("{} {} on {protocol:?}", case.method, case.path);
                let expected = seen(&without, *protocol, case).await;
                assert!((case.is_meant)(&expected), "{what}: {expected:?}");
                assert_eq!(seen(&with, *protocol, case).await, expected, "{what}");
            }
        }
    }
}

/// With the client that tonic made for it: messages, the end, and its trailers.
#[tokio::test]
async fn a_grpc_stream_runs_and_ends_with_its_status() {
    for layer in [None, Some(everything())] {
        let (app, mut reporter) = app();
        let server = Server::start(Stack::Tonic, app, layer).await;
        let url = format!("http://{}", server.address);
        let channel = tonic::transport::Endpoint::from_shared(url).unwrap();
        let mut client = HealthClient::new(channel.connect().await.unwrap());
        let request = HealthCheckRequest::default();
        let checked = client.check(request.clone()).await.unwrap();
        assert_eq!(checked.into_inner().status, ServingStatus::Serving as i32);
        let unknown = client.check(HealthCheckRequest {
            service: "x".to_owned(),
        });
        assert_eq!(unknown.await.unwrap_err().code(), tonic::Code::NotFound);

        let mut watched = client.watch(request).await.unwrap().into_inner();
        let first = soon("a message", watched.message()).await.unwrap();
        assert_eq!(first.unwrap().status, ServingStatus::Serving as i32);
        let down = reporter.set_service_status("", ServingStatus::NotServing);
        down.await;
        let second = soon("a message", watched.message()).await.unwrap();
        assert_eq!(second.unwrap().status, ServingStatus::NotServing as i32);
        reporter.clear_service_status("").await;
        let end = soon("the end", watched.message()).await;
        assert_eq!(end.unwrap(), None);
        assert!(watched.trailers().await.unwrap().is_some());
    }
}

fn app() -> (Router, HealthReporter) {
    let reporter = HealthReporter::new();
    let health = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
    let health = tonic_health::pb::health_server::HealthServer::new(health);
    let files = ServeDir::new(env!("CARGO_MANIFEST_DIR"));
    let gzip = CompressionLayer::new();
    let app = Routes::new(health)
        .into_axum_router()
        .nest_service("/files", files)
        .route("/page", get(async || page()).layer(gzip))
        .route("/nothing", get(async || StatusCode::NO_CONTENT))
        .route("/no-events", get(no_events))
        .route("/events", get(async || respond(EVENT_STREAM, page())))
        .route("/trailers", get(trailers))
        .route("/grpc-error", axum::routing::post(grpc_error));
    (app, reporter)
}

fn page() -> String {
    "<p>Not an event stream, and long enough to be worth it.</p>\n".repeat(20)
}

async fn no_events() -> Response {
    let mut response = respond(EVENT_STREAM, Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

async fn trailers() -> Response {
    let body = with_trailers(["some ", "bytes"], "x-sum", "42");
    respond(
        &[("content-type", "text/plain"), ("trailer", "x-sum")],
        body,
    )
}

async fn grpc_error() -> Response {
    let body = with_trailers(["\0\0\0\0\x02\x08\x01"; 2], "grpc-status", "13");
    respond(&[("content-type", "application/grpc")], body)
}

fn with_trailers<const N: usize>(
    data: [&'static str; N],
    name: &'static str,
    value: &'static str,
) -> Body {
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static(name),
        HeaderValue::from_static(value),
    )]);
    let data = data.map(|data| Frame::data(Bytes::from(data)));
    let frames = data.into_iter().chain([Frame::trailers(trailers)]);
    Body::new(StreamBody::new(stream::iter(
        frames.map(Ok::<_, Infallible>),
    )))
}

async fn seen(server: &Server, protocol: Protocol, case: &Case) -> Seen {
    let mut connection = Connection::open(server.address, protocol).await;
    let response = connection.send(case.method, case.path, case.headers, case.body);
    let mut response = soon(case.path, response).await.expect("a response");
    let size = response.body.size_hint();
    let end = response.end().await;
    Seen {
        version: response.version,
        status: response.status,
        headers: sorted(&response.headers),
        size: (size.lower(), size.upper()),
        body: response.read.into(),
        trailers: response.trailers.as_ref().map(sorted),
        end,
    }
}

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.first()?.to_str().ok()
    }

    fn ends_with_status(&self, status: &str) -> bool {
        let status_of = |trailers: &BTreeMap<_, Vec<_>>| trailers["grpc-status"] == [status];
        self.end == End::Clean && self.trailers.as_ref().is_some_and(status_of)
    }
}

fn sorted(headers: &HeaderMap) -> BTreeMap<String, Vec<HeaderValue>> {
    let mut sorted = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in headers.iter().filter(|(name, _)| *name != "date") {
        let values = sorted.entry(name.to_string()).or_default();
        values.push(value.clone());
    }
    sorted
}

// ---- in process, where frames are what the service made them ----

/// A body, frame by frame, and what it says of itself before each.
type Steps = Vec<(String, SizeHint, bool)>;

type MakeBody = fn() -> Body;

#[tokio::test]
async fn frames_and_hints_are_the_same_with_the_layer_and_without() {
    let bodies: [(&str, MakeBody); 5] = [
        ("empty", Body::empty),
        ("whole", || Body::from("some bytes")),
        ("trailers", || {
            with_trailers(["some ", "", "bytes"], "x-sum", "42")
        }),
        ("only trailers", || with_trailers([], "grpc-status", "0")),
        ("streamed", || {
            let frames = ["", "data: 1\n\n", "", ": hi\n\n"].map(Ok::<_, Infallible>);
            Body::from_stream(stream::iter(frames))
        }),
    ];
    for (name, body) in bodies {
        let service = service_fn(move |_: Request<()>| async move {
            Ok::<_, Infallible>(respond(&[("content-type", "text/plain")], body()))
        });
        let response = everything().layer(service).oneshot(Request::new(()));
        let response = response.await.unwrap();
        assert_eq!(response.headers().len(), 1, "{name}");
        let steps_with = steps(response.into_body()).await;
        assert_eq!(
            format!("{steps_with:?}"),
            format!("{:?}", steps(body()).await),
            "{name}"
        );
    }
}

async fn steps<B>(mut body: B) -> Steps
where
    B: HttpBody<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let mut steps = Vec::new();
    loop {
        let (size, end) = (body.size_hint(), body.is_end_stream());
        let frame = body.frame().await.map(|frame| frame.expect("a frame"));
        let is_last = frame.is_none();
        steps.push((format!("{frame:?}"), size, end));
        if is_last {
            return steps;
        }
    }
}

// ---- event streams, and what HTTP makes of them ----

#[tokio::test]
async fn on_http_1_0_a_stream_ends_with_its_connection() {
    let (app, mut opened) = upstreams(EVENT_STREAM);
    let layer = SseLayer::new().heartbeat(often());
    let server = Server::start(Stack::Axum, app, Some(layer)).await;
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let request = "GET / HTTP/1.0\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let upstream = soon("a stream", opened.recv()).await.unwrap();
    let mut answer = String::new();
    for sent in [": keep-alive\n", "data: 1\n\n", ": keep-alive\n"] {
        if sent.starts_with("data") {
            upstream.send(sent);
        }
        let before = answer.len();
        while !answer[before..].contains(sent) {
            let mut bytes = [0; 1024];
            let read = soon(sent, socket.read(&mut bytes)).await.unwrap();
            assert!(read > 0, "an end after {answer}");
            answer += str::from_utf8(&bytes[..read]).unwrap();
        }
    }
    drop(upstream);
    soon("an end", socket.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_lowercase();
    assert!(head.starts_with("http/1.0 200 ok\r\n"), "{head}");
    for absent in ["transfer-encoding:", "connection:", "content-length:"] {
        assert!(!head.contains(absent), "{head}");
    }
    assert!(
        head.contains("cache-control: no-cache, no-transform"),
        "{head}"
    );
    let lines_of_its_own = body.replace(": keep-alive\n", "");
    assert_eq!(lines_of_its_own, "data: 1\n\n");
}

/// Kept, the length would end with the heartbeat, and the event be cut off without an error.
#[tokio::test]
async fn a_stale_length_does_not_cut_the_event_behind_a_heartbeat() {
    const STALE: &[(&str, &str)] = &[
        ("content-type", "text/event-stream"),
        ("content-length", "13"),
    ];
    for protocol in PROTOCOLS {
        let (app, mut opened) = upstreams(STALE);
        let layer = SseLayer::new().heartbeat(often());
        let server = Server::start(Stack::Axum, app, Some(layer)).await;
        let mut connection = Connection::open(server.address, protocol).await;
        let mut reader = connection.get("/", EVENT_SOURCE).await;
        assert_eq!(reader.headers.get("content-length"), None, "{protocol:?}");
        reader.until(": keep-alive\n").await;
        let upstream = soon("a stream", opened.recv()).await.unwrap();
        upstream.send("data: hello\n\n");
        drop(upstream);
        assert_eq!(reader.end().await, End::Clean, "{protocol:?}");
        let events = reference::parse(&reader.read).events;
        assert_eq!(events.len(), 1, "{protocol:?}");
    }
}
