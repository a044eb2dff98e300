//! The gateway's `--early-open`: the head of a stream before its upstream has answered, and who
//! asks for a stream at all.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::{
    convert::Infallible,
    process::Output,
    time::{Duration, Instant},
};

use axum::{Router, body::to_bytes, extract::Request};
use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use programs::{
    client,
    event_clients::heartbeats_in,
    gateway::{self, Gateway},
};
use serde_json::{Value, json};
use support::{reference, serve::soon};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

const CHAT: &str = "/v1/chat/completions";
const QUESTION: &str = "{ \"stream\" : true, \"model\":\"m\" }\n";

/// With heartbeats, to see that the client has more than a head.
const FLAGS: [&str; 4] = ["--early-open", "100ms", "--heartbeat", "50ms"];

/// A server that answers when the test says so.
struct Upstream(TcpListener);

/// A stream that is open without an answer.
struct Early {
    body: Incoming,
    /// The upstream's side of it, and what that was asked.
    upstream: TcpStream,
    asked: String,
    _gateway: Gateway,
}

impl Upstream {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }

    /// The next connection, and the head of the request on it.
    async fn call(&self) -> (TcpStream, String) {
        let accepted = soon("a connection", self.0.accept()).await;
        let (mut connection, _) = accepted.unwrap();
        let head = head_of(&mut connection).await;
        (connection, head)
    }
}

impl Early {
    async fn open(flags: &[&str]) -> Self {
        let upstream = Upstream::start().await;
        let gateway = Gateway::before(&upstream.url(), flags).await;
        let response = ask(&gateway, QUESTION).await;
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        let (mut upstream, head) = upstream.call().await;
        let question = bytes_of(&mut upstream, QUESTION.len()).await;
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while heartbeats_in(&bytes) < 2 {
            bytes.extend(frame(&mut body).await.expect("a heartbeat"));
        }
        Self {
            body,
            upstream,
            asked: head + &question,
            _gateway: gateway,
        }
    }

    async fn answer(mut self, answer: &str) -> String {
        self.upstream.write_all(answer.as_bytes()).await.unwrap();
        self.rest().await
    }

    /// All that comes, up to a clean end.
    async fn rest(mut self) -> String {
        let mut bytes = Vec::new();
        while let Some(data) = frame(&mut self.body).await {
            bytes.extend(data);
        }
        String::from_utf8(bytes).unwrap()
    }
}

// === What a late upstream says ===

#[tokio::test]
async fn a_late_stream_follows_the_heartbeats() {
    let early = Early::open(&FLAGS).await;
    let asked = &early.asked;
    let length = format!("\r\ncontent-length: {}\r\n", QUESTION.len());
    assert!(asked.contains(&length), "{asked}");
    assert!(asked.ends_with(&format!("\r\n\r\n{QUESTION}")), "{asked}");
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                  Transfer-Encoding: chunked\r\n\r\n\
                  c\r\ndata: {}\r\n\r\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
    let text = early.answer(answer).await;
    let events = text.trim_start_matches(": keep-alive\n\n");
    assert_eq!(events, "data: {}\r\n\r\ndata: [DONE]\n\n");
}

#[tokio::test]
async fn a_late_429_is_an_error_event() {
    let said = r#"{"error":{"message":"Slow down."}}"#;
    let answer = format!(
        "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n\
         Retry-After: 3\r\nContent-Length: {}\r\n\r\n{said}",
        said.len()
    );
    let text = Early::open(&FLAGS).await.answer(&answer).await;
    let expected = json!({ "error": { "message": "Slow down.", "status": 429 } });
    assert_eq!(said_in(&text), expected);
}

#[tokio::test]
async fn a_connection_that_breaks_late_is_an_error_event() {
    let mut early = Early::open(&FLAGS).await;
    early.upstream.shutdown().await.unwrap();
    let said = said_in(&early.rest().await);
    assert_eq!(said["error"]["status"], 502);
    let message = "the upstream broke off before its answer";
    assert_eq!(said["error"]["message"], message);
}

#[tokio::test]
async fn an_upstream_that_takes_too_long_is_an_error_event() {
    let flags = [&FLAGS[..], &["--head-timeout", "1s"]].concat();
    let said = said_in(&Early::open(&flags).await.rest().await);
    assert_eq!(said["error"]["status"], 504);
}

#[tokio::test]
async fn a_client_that_goes_takes_the_call_with_it() {
    let mut early = Early::open(&FLAGS).await;
    drop(early.body);
    let end = soon("the end of the call", early.upstream.read(&mut [0])).await;
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn an_answer_in_time_comes_as_it_is() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::before(&upstream.url(), &["--early-open", "1h"]).await;
    let answering = async {
        let (mut connection, _) = upstream.call().await;
        bytes_of(&mut connection, QUESTION.len()).await;
        let answer = "HTTP/1.1 429 Slow\r\nRetry-After: 3\r\nContent-Length: 2\r\n\r\nno";
        connection.write_all(answer.as_bytes()).await.unwrap();
        connection
    };
    let (response, _connection) = tokio::join!(ask(&gateway, QUESTION), answering);
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "3");
    assert_eq!(client::body(response).await.unwrap(), "no");
}

// === Who asks for a stream ===

#[tokio::test]
async fn a_body_that_wants_a_stream_is_heard_and_every_body_goes_on_unchanged() {
    let (upstream, mut calls) = too_busy().await;
    let gateway = Gateway::before(&upstream, &["--early-open", "0s"]).await;
    let long = |length: usize| {
        let empty = r#"{"stream":true,"x":""}"#;
        let filled = format!(r#""{}""#, "x".repeat(length - empty.len()));
        empty.replace(r#""""#, &filled)
    };
    let most = 4 * 1024 * 1024;
    let json = "application/json";
    for (kind, body, early) in [
        (json, QUESTION.to_owned(), true),
        (
            "Application/JSON; charset=utf-8",
            r#"{"stream":true}"#.into(),
            true,
        ),
        (json, long(1024 * 1024), true),
        (json, long(most), true),
        (json, long(most + 1), false),
        ("text/plain", QUESTION.to_owned(), false),
        ("application/jsonl", QUESTION.to_owned(), false),
        (json, r#"{"stream":false}"#.into(), false),
        (json, r#"{"stream":"true"}"#.into(), false),
        (json, r#"{"stream":1}"#.into(), false),
        (json, r#"{"a":{"stream":true}}"#.into(), false),
        (json, r#"[{"stream":true}]"#.into(), false),
        (json, r#"{"stream":true"#.into(), false),
        (json, r#"{"stream":true,"stream":false}"#.into(), false),
        (json, String::new(), false),
    ] {
        let response = client::post(&gateway.url(CHAT), kind, body.clone())
            .await
            .unwrap();
        let shown = &body[..body.len().min(40)];
        let status = if early { 200 } else { 429 };
        assert_eq!(response.status(), status, "{kind} {shown}");
        let text = client::body(response).await.unwrap();
        assert_eq!(early, text.starts_with("data: "), "{text}");
        let (length, asked) = calls.recv().await.unwrap();
        // The client says none of a body that is empty.
        let said = (!body.is_empty()).then(|| body.len().to_string());
        assert_eq!(length, said, "{shown}");
        assert!(asked == body.as_bytes(), "{shown}");
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_not_read_ahead() {
    let (upstream, mut calls) = too_busy().await;
    let gateway = Gateway::before(&upstream, &["--early-open", "0s"]).await;
    let pieces = QUESTION.as_bytes().chunks(5);
    let frames = pieces.map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
    let request = http::Request::post(gateway.url(CHAT)).header("content-type", "application/json");
    let request = request.body(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())));
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 429);
    let (length, asked) = calls.recv().await.unwrap();
    assert_eq!((length, &asked[..]), (None, QUESTION.as_bytes()));
}

#[tokio::test]
async fn accept_says_it_too_unless_json_would_do() {
    let (upstream, _calls) = too_busy().await;
    let gateway = Gateway::before(&upstream, &["--early-open", "0s"]).await;
    let mcp = ("mcp-session-id", "x");
    for (headers, status) in [
        (&[("accept", "text/event-stream")][..], 200),
        (&[("accept", "text/html, Text/Event-Stream; q=0.5")], 200),
        (&[("accept", "application/json, text/event-stream")], 429),
        (&[("accept", "text/event-stream"), mcp], 429),
        (&[("accept", "*/*")], 429),
        (&[], 429),
    ] {
        let response = client::get(&gateway.url("/"), headers).await.unwrap();
        assert_eq!(response.status(), status, "{headers:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_slow_goes_on_as_it_comes() {
    let (first, second) = QUESTION.split_at(9);
    // At once where nobody wants to know, and otherwise after a while.
    for flags in [&[][..], &FLAGS] {
        let upstream = Upstream::start().await;
        let gateway = Gateway::before(&upstream.url(), flags).await;
        let mut socket = TcpStream::connect(&gateway.address).await.unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{first}",
            QUESTION.len()
        );
        let start = Instant::now();
        socket.write_all(head.as_bytes()).await.unwrap();
        let (mut connection, head) = upstream.call().await;
        let waited = start.elapsed() >= Duration::from_secs(10);
        assert_eq!(waited, !flags.is_empty(), "{flags:?}");
        assert!(head.contains("\r\ncontent-length: "), "{head}");
        assert_eq!(bytes_of(&mut connection, first.len()).await, first);
        socket.write_all(second.as_bytes()).await.unwrap();
        assert_eq!(bytes_of(&mut connection, second.len()).await, second);
        let answer = b"HTTP/1.1 204 Fine\r\n\r\n";
        connection.write_all(answer).await.unwrap();
        assert!(head_of(&mut socket).await.starts_with("HTTP/1.1 204 "));
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_the_fault_of_the_client() {
    let upstream = Upstream::start().await;
    for flags in [&[][..], &FLAGS] {
        let gateway = Gateway::before(&upstream.url(), flags).await;
        let mut socket = TcpStream::connect(&gateway.address).await.unwrap();
        let request = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                       Content-Length: 100\r\n\r\n{\"stream\":true";
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut response = String::new();
        let answered = socket.read_to_string(&mut response);
        soon("an answer", answered).await.unwrap();
        assert!(
            response.starts_with("HTTP/1.1 400 "),
            "{flags:?}: {response}"
        );
    }
}

#[tokio::test]
async fn a_limit_refuses_who_wants_a_stream_before_the_upstream_is_called() {
    let upstream = Upstream::start().await;
    let gateway = Gateway::before(&upstream.url(), &["--max-streams", "1"]).await;
    let url = gateway.url(CHAT);
    let first = async move { client::post(&url, "application/json", QUESTION).await };
    let first = tokio::spawn(first);
    // It has its place without an answer.
    let (connection, _) = upstream.call().await;
    let second = ask(&gateway, QUESTION).await;
    assert_eq!(second.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(second.headers().contains_key("retry-after"));
    first.abort();
    drop(connection);
}

// === The flag ===

#[test]
fn the_flag_is_a_time() {
    let help = run(&["--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    for word in ["--early-open <TIME>", "GATEWAY_EARLY_OPEN"] {
        assert!(help.contains(word), "no {word} in {help}");
    }
    let wrong = run(&["--early-open", "soon"]);
    let line = String::from_utf8(wrong.stderr).unwrap();
    assert!(!wrong.status.success());
    assert!(line.contains("--early-open"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
}

fn run(flags: &[&str]) -> Output {
    gateway::command().args(flags).output().unwrap()
}

// === Clients and servers ===

/// As the SDKs ask.
async fn ask(gateway: &Gateway, question: &'static str) -> Response<Incoming> {
    let url = gateway.url(CHAT);
    let asking = client::post(&url, "application/json", question);
    soon("an answer", asking).await.unwrap()
}

/// A server that answers 429 to all, and what it was asked: the length as the head says it, and the
/// body.
async fn too_busy() -> (String, UnboundedReceiver<(Option<String>, Bytes)>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, calls) = unbounded_channel();
    let app = Router::new().fallback(async move |request: Request| {
        let length = request.headers().get("content-length");
        let length = length.map(|length| length.to_str().unwrap().to_owned());
        let body = to_bytes(request.into_body(), usize::MAX).await.unwrap();
        let _ = sender.send((length, body));
        StatusCode::TOO_MANY_REQUESTS
    });
    tokio::spawn(async { axum::serve(listener, app).await });
    (format!("http://{address}"), calls)
}

/// The JSON of the one event in it.
fn said_in(stream: &str) -> Value {
    let events = reference::parse(stream.as_bytes()).events;
    let [event] = &events[..] else {
        panic!("not one event: {stream}")
    };
    serde_json::from_str(&event.data).unwrap()
}

async fn frame(body: &mut Incoming) -> Option<Bytes> {
    let frame = soon("a frame", body.frame()).await?.unwrap();
    Some(frame.into_data().unwrap())
}

async fn bytes_of(socket: &mut TcpStream, count: usize) -> String {
    let mut bytes = vec![0; count];
    let read = soon("some bytes", socket.read_exact(&mut bytes)).await;
    read.unwrap();
    String::from_utf8(bytes).unwrap()
}

/// Byte by byte, so that nothing behind the head is lost.
async fn head_of(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("a head", socket.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

// === who wants none, or too much ===

async fn busy() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new().fallback(async || StatusCode::TOO_MANY_REQUESTS);
    tokio::spawn(async { axum::serve(listener, app).await });
    format!("http://{address}")
}

#[tokio::test]
async fn who_refuses_event_streams_wants_none() {
    let gateway = Gateway::before(&busy().await, &["--early-open", "0s"]).await;
    let accept = [("accept", "text/html, text/event-stream;q=0")];
    let response = client::get(&gateway.url("/"), &accept).await.unwrap();
    assert_eq!(response.status(), 429);
}

#[tokio::test]
async fn a_list_wants_no_stream() {
    let gateway = Gateway::before(&busy().await, &["--early-open", "0s"]).await;
    let url = gateway.url(CHAT);
    let response = client::post(&url, "application/json", "[true]").await;
    assert_eq!(response.unwrap().status(), 429);
}

/// Without the flag an unfinished body costs a socket's buffer. With it each may pin 4 MiB for ten
/// seconds, before any limit is asked, and HTTP/2 has 200 of them on one connection.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn bodies_that_never_end_are_bounded_together() {
    const CLIENTS: usize = 100;
    let flags = ["--max-streams", "1", "--max-streams-per-client", "1"];
    let gateway = Gateway::before(&busy().await, &flags).await;
    let before = resident(gateway.id());
    let length = 4 * 1024 * 1024;
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    let body = vec![b'a'; length - 1];
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut socket = TcpStream::connect(&gateway.address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        // Bounded: who is not read cannot write.
        let written = tokio::time::timeout(Duration::from_millis(200), socket.write_all(&body));
        let _ = written.await;
        clients.push(socket);
    }
    let grown = resident(gateway.id()).saturating_sub(before);
    assert!(grown < 128 * 1024, "{} MiB", grown / 1024);
}

/// In KiB.
#[cfg(target_os = "linux")]
fn resident(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.unwrap().parse().unwrap()
}
