//! What a client sends as an id opens no stream but its own, and tells it of no other; and whatever
//! is no event stream passes as if the layer were not there. By the bytes on the socket.

#![cfg(feature = "resume")]

mod support;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Body, extract::Request, response::Response};
use http::StatusCode;
use support::serve::{
    Connection, EVENT_STREAM, Protocol, Reader, Server, Stack, Upstream, respond, soon,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower_sse::{
    LastEventId, LossPolicy, Resume, ResumeLayer, SseLayer,
    resume::{MemoryStore, StreamId},
};

/// A server with a stream of Alice's that runs, and has had two events.
struct World {
    server: Server,
    store: MemoryStore,
    handle: Resume,
    stream: StreamId,
    alice: Reader,
    _upstream: Upstream,
}

/// A response as the client gets it, but for its date and the name of a stream that it begins.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    head: String,
    body: String,
}

const POLICIES: [LossPolicy; 3] = [
    LossPolicy::StartAnew,
    LossPolicy::NoContent,
    LossPolicy::Gone,
];

const ALICE: &[u8] = b"Authorization: Bearer alice";

/// No stream has it.
const UNKNOWN: &str = "ts_0123456789abcdef0123456789abcdef";

// === Ids of streams that are not the client's ===

#[tokio::test]
async fn somebody_elses_stream_looks_like_none() {
    for policy in POLICIES {
        let world = World::new(policy).await;
        let id = format!("Last-Event-ID: {}.1", world.stream).into_bytes();
        let stream = format!("sse-stream: {}", world.stream).into_bytes();
        for who in [
            &b""[..],
            b"Authorization: Bearer bob",
            b"Authorization: Bearer alic",
            b"Authorization: Bearer alice\r\nAuthorization: Bearer alice",
            b"Authorization: bearer alice",
            b"Cookie: Authorization=Bearer alice",
        ] {
            for asked in [&[&id[..]][..], &[&stream], &[&stream, b"Last-Event-ID: 1"]] {
                world.knows_nothing("/", &[&[who], asked].concat()).await;
            }
            for query in ["sse-stream={}", "lastEventId={}.1", "lastEventId={}.0"] {
                let path = format!("/?{}", query.replace("{}", &world.stream.to_string()));
                world.knows_nothing(&path, &[who]).await;
            }
        }
        world.is_still_alices().await;
    }
}

#[tokio::test]
async fn one_bit_off_is_another_stream() {
    for policy in POLICIES {
        let world = World::new(policy).await;
        let bits = u128::from_str_radix(&world.stream.to_string()[3..], 16).expect("digits");
        for bit in 0..128 {
            let other = format!("ts_{:032x}", bits ^ (1 << bit));
            let id = format!("Last-Event-ID: {other}.1").into_bytes();
            world.knows_nothing("/", &[ALICE, &id]).await;
            let stream = format!("sse-stream: {other}").into_bytes();
            world.knows_nothing("/", &[ALICE, &stream]).await;
        }
        world.is_still_alices().await;
    }
}

#[tokio::test]
async fn a_malformed_id_looks_like_that_of_no_stream() {
    for policy in POLICIES {
        let world = World::new(policy).await;
        let stream = world.stream.to_string();
        let digits = &stream[3..];
        for id in [
            stream.clone(),
            format!("{stream}."),
            format!("{stream}.01"),
            format!("{stream}.+1"),
            format!("{stream}.-1"),
            format!("{stream}.1 2"),
            format!("{stream}.1.2"),
            format!("{stream}.1,{stream}.1"),
            format!("{stream}.18446744073709551615"),
            format!("{stream}.18446744073709551616"),
            format!("{stream}.{}", "1".repeat(500)),
            format!("{stream}0.1"),
            format!("ts_{}.1", digits.to_uppercase()),
            format!("ts_0{digits}.1"),
            format!("ts_+{}.1", &digits[1..]),
            format!("ts_{}.1", &digits[1..]),
            "ts_".to_owned(),
            "ts_.1".to_owned(),
            format!("ts_{}", "0".repeat(1021)),
            format!("ts_{}", "0".repeat(10 * 1024)),
            format!("{stream}.{}", "1".repeat(10 * 1024)),
        ] {
            let header = format!("Last-Event-ID: {id}").into_bytes();
            world.knows_nothing("/", &[ALICE, &header]).await;
        }
        world.is_still_alices().await;
    }
}

#[tokio::test]
async fn every_byte_that_a_header_can_carry_is_harmless_in_an_id() {
    for policy in POLICIES {
        let world = World::new(policy).await;
        let stream = format!("{}.", world.stream);
        let id = format!("{stream}1").into_bytes();
        for byte in field_bytes() {
            // in the digits, in the number, and behind it all
            for at in [5, id.len() - 1, id.len()] {
                let mut id = id.clone();
                id.splice(at..(at + 1).min(id.len()), [byte]);
                // Alice may say any number; spaces around it are no part of the field.
                let number = id.strip_prefix(stream.as_bytes());
                let number = number.map_or(&b""[..], <[u8]>::trim_ascii_end);
                let fine = !number.is_empty() && number.iter().all(u8::is_ascii_digit);
                if !fine {
                    let header = [b"Last-Event-ID: ", &id[..]].concat();
                    world.knows_nothing("/", &[ALICE, &header]).await;
                }
            }
        }
        world.is_still_alices().await;
    }
}

#[tokio::test]
async fn garbage_for_a_stream_looks_like_none() {
    for policy in POLICIES {
        let world = World::new(policy).await;
        let stream = world.stream.to_string();
        let bytes = field_bytes().map(|byte| vec![b'x', byte, b'x']);
        let mut garbage: Vec<_> = bytes.collect();
        garbage.extend([
            vec![],
            vec![b'0'; 10 * 1024],
            stream.to_uppercase().into_bytes(),
            format!("{stream}.1").into_bytes(),
            format!("{stream}, {stream}").into_bytes(),
            stream[3..].into(),
        ]);
        for garbage in garbage {
            let header = [b"sse-stream: ", &garbage[..]].concat();
            world.knows_nothing("/", &[ALICE, &header]).await;
            let with_id = [ALICE, &header, b"Last-Event-ID: 1"];
            world.knows_nothing("/", &with_id).await;
        }
        world.is_still_alices().await;
    }
}

// === What is not this layer's business ===

#[tokio::test]
async fn an_id_that_is_not_ours_reaches_the_service_untouched() {
    for policy in POLICIES {
        let world = World::new(policy).await;
        let long = "7".repeat(1025);
        for (id, known) in [
            (&b"42"[..], Some("42")),
            (b"ts", Some("ts")),
            (b"TS_1", Some("TS_1")),
            (b"xts_0", Some("xts_0")),
            (b"a b,c;d=\"e\"", Some("a b,c;d=\"e\"")),
            ("größe".as_bytes(), Some("größe")),
            (b"\xff\xfe", None),
            (long.as_bytes(), None),
            (&long.as_bytes()[1..], Some(&long[1..])),
        ] {
            let header = [b"Last-Event-ID: ", id].concat();
            let answer = world.answer("POST", "/", &[ALICE, &header]).await;
            assert_eq!(answer.body, saw(Some(id), known));
            assert!(!answer.head.contains("sse-resume"), "{answer:?}");
        }
        let answer = world.answer("POST", "/", &[]).await;
        assert_eq!(answer.body, saw(None, None));
    }
}

#[tokio::test]
async fn an_id_that_is_ours_is_hidden_from_the_service() {
    let world = World::new(LossPolicy::StartAnew).await;
    let id = format!("Last-Event-ID: {UNKNOWN}.1").into_bytes();
    let stream = format!("sse-stream: {UNKNOWN}").into_bytes();
    for ours in [&id, &stream] {
        let answer = world.answer("POST", "/", &[ALICE, ours]).await;
        assert_eq!(answer.body, saw(None, None));
    }
}

#[tokio::test]
async fn what_is_no_event_stream_passes_as_without_the_layer() {
    let without = Server::start(Stack::Axum, app(None), Some(SseLayer::new())).await;
    for policy in POLICIES {
        let world = World::new(policy).await;
        let id = format!("Last-Event-ID: {}.1", world.stream).into_bytes();
        let unknown = format!("Last-Event-ID: {UNKNOWN}.1").into_bytes();
        let stream = format!("sse-stream: {}", world.stream).into_bytes();
        let query = format!("/?sse-stream={}&lastEventId={UNKNOWN}.1", world.stream);
        let cases: [(&str, &str, &[&[u8]]); 14] = [
            ("HEAD", "/", &[ALICE]),
            ("HEAD", "/", &[ALICE, &id]),
            ("HEAD", "/", &[ALICE, &unknown]),
            ("HEAD", "/", &[ALICE, &stream]),
            ("HEAD", &query, &[ALICE]),
            ("OPTIONS", "/options", &[ALICE]),
            ("OPTIONS", "/options", &[ALICE, &id]),
            ("OPTIONS", "/options", &[ALICE, &unknown]),
            ("OPTIONS", "/options", &[ALICE, &stream]),
            ("OPTIONS", &query.replace('?', "options?"), &[]),
            ("GET", "/json", &[ALICE]),
            ("POST", "/json", &[b"Last-Event-ID: 42", b"sse-resume: ids"]),
            ("GET", "/missing", &[b"Accept: text/event-stream"]),
            ("GET", "/gzip", &[b"Accept: text/event-stream"]),
        ];
        for (method, path, headers) in cases {
            let streams = world.store.streams();
            let answer = world.answer(method, path, headers).await;
            let expected = Answer::of(&exchange(without.address, method, path, headers).await);
            assert_eq!(answer, expected, "{policy:?}: {method} {path}");
            assert_eq!(world.store.streams(), streams);
        }
        world.is_still_alices().await;
    }
}

impl World {
    async fn new(policy: LossPolicy) -> Self {
        let store = MemoryStore::new();
        let resume = ResumeLayer::new(store.clone())
            .on_loss(policy)
            .query("lastEventId");
        let handle = resume.handle();
        let (upstream, body) = Upstream::pair();
        upstream.send("data: 1\n\ndata: 2\n\n");
        let app = app(Some(body)).layer(SseLayer::new().resume(resume));
        let server = Server::start(Stack::Axum, app, None).await;
        let alice = visit_as_alice(server.address, &[], "data: 1\n\ndata: 2\n\n").await;
        let stream = alice.headers["sse-stream"].to_str().expect("text");
        Self {
            stream: stream.parse().expect("its name"),
            server,
            store,
            handle,
            alice,
            _upstream: upstream,
        }
    }

    async fn answer(&self, method: &str, path: &str, headers: &[&[u8]]) -> Answer {
        Answer::of(&exchange(self.server.address, method, path, headers).await)
    }

    /// It answers as if there were no such stream, and there is none afterwards.
    async fn knows_nothing(&self, path: &str, headers: &[&[u8]]) {
        let unknown = format!("Last-Event-ID: {UNKNOWN}.1");
        let expected = self.answer("POST", "/", &[ALICE, unknown.as_bytes()]).await;
        assert!(expected.head.contains("sse-resume: lost"), "{expected:?}");
        let streams = self.store.streams();
        for _ in 0..2 {
            let answer = self.answer("POST", path, headers).await;
            let shown: Vec<_> = headers.iter().map(|line| line.escape_ascii()).collect();
            assert_eq!(answer, expected, "{path} {shown:?}");
        }
        let new = if expected.begins_a_stream() { 2 } else { 0 };
        assert_eq!(self.store.streams(), streams + new);
    }

    /// Nobody else has got hold of it.
    async fn is_still_alices(&self) {
        let stream = self.handle.stream(self.stream).expect("a stream that runs");
        assert_eq!((stream.events, stream.readers), (2, 1));
        assert_eq!(self.alice.text(), "data: 1\n\ndata: 2\n\n");
        let id = format!("{}.1", self.stream);
        let again = [("last-event-id", &*id)];
        visit_as_alice(self.server.address, &again, "data: 2\n\n").await;
    }
}

impl Answer {
    fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let lines = head.lines().filter(|line| !line.starts_with("date: "));
        let lines = lines.map(|line| match line.strip_prefix("sse-stream: ") {
            Some(name) => {
                name.parse::<StreamId>().expect("a name");
                assert_ne!(name, UNKNOWN);
                "sse-stream: (new)"
            }
            None => line,
        });
        let head: Vec<_> = lines.collect();
        let chunked = head.contains(&"transfer-encoding: chunked");
        Self {
            body: if chunked {
                whole(body)
            } else {
                body.to_owned()
            },
            head: head.join("\n"),
        }
    }

    fn begins_a_stream(&self) -> bool {
        self.head.contains("sse-stream: ")
    }
}

/// What is in the chunks, which must come to their end.
fn whole(mut chunks: &str) -> String {
    let mut body = String::new();
    loop {
        let (len, rest) = chunks.split_once("\r\n").expect("a length");
        let len = usize::from_str_radix(len, 16).expect("a length");
        if len == 0 {
            assert_eq!(rest, "\r\n");
            return body;
        }
        body += &rest[..len];
        chunks = rest[len..]
            .strip_prefix("\r\n")
            .expect("the end of a chunk");
    }
}

/// All bytes but the control characters, at which a server stops to read.
fn field_bytes() -> impl Iterator<Item = u8> {
    (0..=255).filter(|byte| *byte == b'\t' || !byte.is_ascii_control())
}

async fn exchange(server: SocketAddr, method: &str, path: &str, headers: &[&[u8]]) -> Vec<u8> {
    let start = format!("{method} {path} HTTP/1.1\r\nHost: here\r\nConnection: close");
    let mut request = start.into_bytes();
    for line in headers.iter().filter(|line| !line.is_empty()) {
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(line);
    }
    request.extend_from_slice(b"\r\n\r\n");
    soon("an answer", async {
        let mut socket = TcpStream::connect(server).await.expect("a connection");
        socket.write_all(&request).await.expect("a server");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.expect("an answer");
        answer
    })
    .await
}

async fn visit_as_alice(server: SocketAddr, headers: &[(&str, &str)], until: &str) -> Reader {
    let mut connection = Connection::open(server, Protocol::Http1).await;
    let alice = [("authorization", "Bearer alice")];
    let headers = [&alice, headers].concat();
    let mut reader = connection.get("/alice", &headers).await;
    reader.until(until).await;
    reader
}

/// One stream for Alice, and a short one that says what the service saw for whoever else comes.
fn app(alice: Option<Body>) -> Router {
    let alice = Arc::new(Mutex::new(alice));
    Router::new().fallback(async move |request: Request| match request.uri().path() {
        "/alice" => {
            let body = alice.lock().unwrap().take().expect("one call");
            respond(EVENT_STREAM, body)
        }
        "/options" => respond(&[("allow", "GET, POST")], ""),
        "/json" => respond(&[("content-type", "application/json")], r#"{"data":"1"}"#),
        "/gzip" => respond(
            &[EVENT_STREAM, &[("content-encoding", "gzip")]].concat(),
            "x",
        ),
        "/missing" => missing(),
        _ => respond(EVENT_STREAM, what_it_saw(&request)),
    })
}

fn missing() -> Response {
    let mut response = respond(EVENT_STREAM, "data: nothing\n\n");
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn what_it_saw(request: &Request) -> String {
    let header = request.headers().get("last-event-id");
    let known = request.extensions().get::<LastEventId>();
    let known = known.map(|LastEventId(id)| id.as_str());
    saw(header.map(|header| header.as_bytes()), known)
}

fn saw(header: Option<&[u8]>, known: Option<&str>) -> String {
    let header = header.map(|header| header.escape_ascii().to_string());
    format!("data: {header:?}, known as {known:?}\n\n")
}
