//! The gateway as its users have it: a program with flags, spoken to over sockets.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::{
    net::TcpListener as StdListener,
    process::Output,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, channel::Channel};
use hyper::{HeaderMap, Request, Response, Version, body::Incoming};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use programs::{
    client::{self, BoxError},
    event_clients::heartbeats_in,
    gateway::{self, Gateway},
    process::{PATIENCE, Process, eventually},
};
use serde_json::{Value, json};
use support::reference;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

const EVENT_SOURCE: [(&str, &str); 1] = [("accept", "text/event-stream")];
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

// === Flags ===

#[test]
fn help_teaches_flags_variables_and_the_demo() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    for word in [
        "--listen",
        "--upstream",
        "--heartbeat",
        "--drain-timeout",
        "--log",
        "--resume",
        "--resume-paths",
        "--resume-grace",
        "--on-loss",
        "GATEWAY_LISTEN",
        "127.0.0.1:8080",
        "curl -N",
        "last-event-id: ts_",
        "SIGTERM",
    ] {
        assert!(text.contains(word), "no {word} in:\n{text}");
    }
}

#[test]
fn a_bad_flag_is_one_line_that_names_it() {
    for (flags, named) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["stray"], "stray"),
        (&["--heartbeat", "soon"], "--heartbeat"),
        (&["--heartbeat", "0s"], "--heartbeat"),
        (&["--heartbeat", "15"], "--heartbeat"),
        (&["--drain-timeout=-1s"], "--drain-timeout"),
        (&["--upstream", "127.0.0.1:9000"], "--upstream"),
        (&["--upstream", "https://127.0.0.1:9000"], "--upstream"),
        (&["--upstream", "http://127.0.0.1:9000/path"], "--upstream"),
        (&["--upstream", "http://"], "--upstream"),
        (&["--upstream", ""], "--upstream"),
        (&["--listen", "here"], "here"),
        (&["--listen", "127.0.0.1:99999"], "127.0.0.1:99999"),
        (&["--log", "loud=loud=loud"], "--log"),
    ] {
        one_line_that_names(named, &run(flags));
    }
}

#[test]
fn a_busy_port_is_one_line_that_names_it() {
    let taken = StdListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    one_line_that_names(&address, &run(&["--listen", &address]));
}

#[tokio::test]
async fn a_variable_does_what_its_flag_does() {
    let mut command = gateway::command();
    command
        .env("GATEWAY_LISTEN", "127.0.0.1:0")
        .env("GATEWAY_UPSTREAM", "http://127.0.0.1:1");
    let mut process = Process::start(&mut command);
    let address = process.line("gateway listening on http://").await;
    let response = client::get(&format!("http://{address}/"), &[])
        .await
        .unwrap();
    assert_eq!(response.status(), 502);
}

fn run(flags: &[&str]) -> Output {
    gateway::command().args(flags).output().unwrap()
}

fn one_line_that_names(word: &str, output: &Output) {
    let line = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!output.status.success(), "{word}: {line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains(word), "no {word} in: {line}");
    assert_eq!(output.stdout, b"", "nothing was announced");
}

// === Upstreams that fail ===

#[tokio::test]
async fn an_upstream_that_nobody_serves_is_a_502() {
    // taken, so that no other program gets it, but not listening
    let unserved = TcpSocket::new_v4().unwrap();
    unserved.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let unused = unserved.local_addr().unwrap();
    let gateway = Gateway::before(&format!("http://{unused}"), &[]).await;
    assert_plain_answer(
        &gateway.url("/sse"),
        502,
        "the upstream cannot be reached\n",
    )
    .await;
}

#[tokio::test]
async fn an_upstream_that_hangs_up_is_a_502() {
    let (upstream, _) = server("").await;
    let gateway = Gateway::before(&upstream, &[]).await;
    assert_plain_answer(
        &gateway.url("/"),
        502,
        "the upstream broke off before its answer\n",
    )
    .await;
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_a_504() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", silent.local_addr().unwrap());
    let gateway = Gateway::before(&upstream, &["--head-timeout", "300ms"]).await;
    assert_plain_answer(
        &gateway.url("/"),
        504,
        "the upstream took too long to answer\n",
    )
    .await;
}

#[tokio::test]
async fn an_upstream_that_breaks_off_in_a_stream_is_an_error_to_the_client_too() {
    let cut = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
               transfer-encoding: chunked\r\n\r\nb\r\ndata: one\n\n\r\n";
    let (upstream, _) = server(cut).await;
    let gateway = Gateway::before(&upstream, &[]).await;
    let (bytes, end) = to_the_end(client::get(&gateway.url("/"), &[]).await.unwrap()).await;
    assert_eq!(bytes, "data: one\n\n");
    assert!(end.is_err(), "a cut stream must not look complete");
}

async fn assert_plain_answer(url: &str, status: u16, text: &str) {
    let response = client::get(url, &EVENT_SOURCE).await.unwrap();
    let content_type = &response.headers()["content-type"];
    assert_eq!(content_type, "text/plain; charset=utf-8");
    assert_eq!(response.status().as_u16(), status);
    assert_eq!(client::body(response).await.unwrap(), text);
}

// === A hop in the middle ===

#[tokio::test]
async fn fields_for_one_hop_end_at_the_gateway_and_the_upstream_learns_who_asks() {
    let (upstream, mut requests) = server(
        "HTTP/1.1 200 OK\r\nConnection: x-private, keep-alive\r\nX-Private: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: close\r\nX-Public: 2\r\n\
         Content-Length: 2\r\n\r\nok",
    )
    .await;
    let gateway = Gateway::before(&upstream, &[]).await;
    let response = raw(
        &gateway.address,
        "GET /a/b?c=%20d HTTP/1.1\r\nHost: example.test\r\nConnection: close, X-Secret\r\n\
         X-Secret: 1\r\nKeep-Alive: 1\r\nProxy-Connection: keep-alive\r\nX-Kept: 2\r\n\
         X-Forwarded-For: 192.0.2.7\r\nCookie: a=1\r\n\r\n",
    )
    .await;
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "ok");
    let head = head.to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 200") && head.contains("\r\nx-public: 2"),
        "{head}"
    );
    for private in ["x-private", "keep-alive", "proxy-connection"] {
        assert!(!head.contains(private), "{private} in {head}");
    }

    let asked = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /a/b?c=%20d http/1.1\r\n"), "{asked}");
    for line in [
        &format!("host: {}", upstream.strip_prefix("http://").unwrap()),
        "x-forwarded-host: example.test",
        "x-forwarded-proto: http",
        "x-forwarded-for: 192.0.2.7, 127.0.0.1",
        "x-kept: 2",
        "cookie: a=1",
    ] {
        assert!(
            asked.contains(&format!("\r\n{line}\r\n")),
            "no {line} in {asked}"
        );
    }
    for secret in ["x-secret", "keep-alive", "proxy-connection", "connection:"] {
        assert!(!asked.contains(secret), "{secret} in {asked}");
    }
}

#[tokio::test]
async fn only_a_websocket_is_tunnelled_and_bytes_that_are_no_text_hide_nothing() {
    let (upstream, mut requests) = server(OK).await;
    let gateway = Gateway::before(&upstream, &[]).await;
    for protocol in [
        &b"h2c"[..],
        b"h2c, \xff",
        b"websocket, h2c",
        b"websocket\r\nUpgrade: h2c",
    ] {
        let head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Secret: 1\r\n\
                     HTTP2-Settings: AAMAAABk\r\nX-Kept: 2\r\n\
                     Connection: Upgrade, HTTP2-Settings, X-Secret, \xff\r\nUpgrade: ";
        let request = [head, protocol, b"\r\n\r\n"].concat();
        let response = raw(&gateway.address, request).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        let asked = requests.recv().await.unwrap().to_ascii_lowercase();
        assert!(asked.contains("\r\nx-kept: 2\r\n"), "{asked}");
        for private in ["upgrade", "http2-settings", "x-secret", "connection:"] {
            assert!(!asked.contains(private), "{private} in {asked}");
        }
    }
}

#[tokio::test]
async fn a_target_that_is_no_resource_is_refused() {
    let gateway = Gateway::before("http://127.0.0.1:1", &[]).await;
    for (target, status) in [("CONNECT x.test:80", 501), ("GET x.test", 400)] {
        let request = format!("{target} HTTP/1.1\r\nHost: x.test\r\nConnection: close\r\n\r\n");
        let response = raw(&gateway.address, request).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(response.starts_with(&expected), "{target}: {response}");
    }
}

#[tokio::test]
async fn a_host_in_the_target_overrules_the_field() {
    let (upstream, mut requests) = server(OK).await;
    let gateway = Gateway::before(&upstream, &[]).await;
    let request = "GET http://me:pass@a.test:81/b HTTP/1.1\r\nHost: b.test\r\n\
                   Connection: close\r\n\r\n";
    raw(&gateway.address, request).await;
    let asked = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /b http/1.1\r\n"), "{asked}");
    assert!(
        asked.contains("\r\nx-forwarded-host: a.test:81\r\n"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_body_of_unknown_length_goes_on_whatever_the_method() {
    let gateway = Gateway::before(&echo().await, &[]).await;
    for method in ["GET", "POST", "DELETE"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        let response = raw(&gateway.address, request).await;
        assert!(response.contains("hello"), "{method}: {response}");
    }
}

#[tokio::test]
async fn a_broken_body_is_the_fault_of_the_client() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", silent.local_addr().unwrap());
    let gateway = Gateway::before(&upstream, &[]).await;
    let request = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n";
    let response = raw(&gateway.address, request).await;
    assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
}

#[tokio::test]
async fn trailers_reach_a_client_that_takes_them() {
    let (upstream, mut requests) = server(
        "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n\
         2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n",
    )
    .await;
    let gateway = Gateway::before(&upstream, &[]).await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n";
    let response = raw(&gateway.address, request).await;
    assert!(response.ends_with("0\r\nx-sum: 7\r\n\r\n"), "{response}");
    let asked = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(asked.contains("\r\nte: trailers\r\n"), "{asked}");
}

#[tokio::test]
async fn what_is_no_event_stream_comes_back_as_it_is() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\
                  cache-control: max-age=60\r\ncontent-encoding: gzip\r\n\
                  date: today\r\ncontent-length: 4\r\n\r\n\x1f?\x08\0";
    let (upstream, mut requests) = server(answer).await;
    let gateway = Gateway::before(&upstream, &[]).await;
    let request =
        "GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip, br\r\nConnection: close\r\n\r\n";
    let response = raw(&gateway.address, request).await;
    assert_eq!(response.replace("connection: close\r\n", ""), answer);
    assert!(requests.recv().await.unwrap().contains("gzip, br"));
}

#[tokio::test]
async fn an_event_stream_is_asked_for_uncompressed_and_gets_its_headers() {
    let (upstream, mut requests) = server(
        "HTTP/1.0 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n\
         Cache-Control: private\r\n\r\ndata: one\n\n",
    )
    .await;
    let gateway = Gateway::before(&upstream, &[]).await;
    let headers = [
        ("accept", "text/event-stream"),
        ("accept-encoding", "gzip, br"),
    ];
    let response = client::get(&gateway.url("/"), &headers).await.unwrap();
    event_stream_headers(response.headers(), "private, no-cache, no-transform");
    assert_eq!(response.version(), Version::HTTP_11);
    let (bytes, end) = to_the_end(response).await;
    assert_eq!(reference::parse(bytes.as_bytes()).events[0].data, "one");
    end.unwrap();
    let asked = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(
        !asked.contains("gzip") && !asked.contains("br\r\n"),
        "{asked}"
    );
}

#[tokio::test]
async fn bodies_stream_both_ways_while_they_are_made() {
    const ROUNDS: usize = 64;
    let part = Bytes::from(vec![b'x'; 256 * 1024]);
    let gateway = Gateway::before(&echo().await, &[]).await;
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
    let request = Request::post(gateway.url("/")).body(body).unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut body = within(client.request(request)).await.unwrap().into_body();
    for round in 0..ROUNDS {
        // the next part leaves only when the one before has come back
        sender.send_data(part.clone()).await.unwrap();
        let mut left = part.len();
        while left > 0 {
            let frame = timeout(PATIENCE, body.frame()).await;
            let frame = frame.unwrap_or_else(|_| panic!("part {round} is held back"));
            left -= frame.unwrap().unwrap().into_data().unwrap().len();
        }
    }
    drop(sender);
    assert!(body.frame().await.is_none());
}

/// A server that sends each body back while it comes in.
async fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(async |body: axum::body::Body| body);
    tokio::spawn(async { axum::serve(listener, app).await });
    format!("http://{address}")
}

#[tokio::test]
async fn a_websocket_goes_through_byte_for_byte() {
    let gateway = Gateway::demo(&[]).await;
    let mut socket = TcpStream::connect(&gateway.address).await.unwrap();
    // the key and its answer are those of RFC 6455, section 1.3
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    let head = head_of(&mut socket).await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(
        head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
        "{head}"
    );
    assert!(head.contains("\r\nupgrade: websocket\r\n"), "{head}");

    // section 5.7: a masked "Hello" from the client, an unmasked one back
    let hello = [
        0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    socket.write_all(&hello).await.unwrap();
    let mut echoed = [0; 7];
    within(socket.read_exact(&mut echoed)).await.unwrap();
    assert_eq!(&echoed, b"\x81\x05Hello");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_the_upstream_with_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let gateway = Gateway::before(&upstream, &["--write-timeout", "300ms"]).await;
    let mut stuck = TcpStream::connect(&gateway.address).await.unwrap();
    stuck
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let (mut connection, _) = within(listener.accept()).await.unwrap();
    head_of(&mut connection).await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    connection.write_all(head).await.unwrap();
    let event = ["data: ", &"x".repeat(64 * 1024), "\n\n"].concat();
    let cut = within(async { while connection.write_all(event.as_bytes()).await.is_ok() {} });
    cut.await;
}

// === The demo, over HTTP/1.1 and HTTP/2 ===

#[tokio::test]
async fn both_versions_of_http_get_the_stream() {
    let gateway = Gateway::demo(&["--heartbeat", "100ms"]).await;
    publish(&gateway, "one").await;
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let client = Client::builder(TokioExecutor::new())
            .http2_only(version == Version::HTTP_2)
            .build_http::<Full<Bytes>>();
        let request = Request::get(gateway.url("/sse")).header("accept", "text/event-stream");
        let response = client
            .request(request.body(Default::default()).unwrap())
            .await
            .unwrap();
        assert_eq!(response.version(), version);
        event_stream_headers(response.headers(), "no-cache, no-transform");
        let bytes = until(response, |bytes| heartbeats_in(bytes) > 2).await;
        let events = reference::parse(&bytes).events;
        assert_eq!(events.len(), 1, "{version:?}");
        assert_eq!(
            (events[0].data.as_str(), events[0].id.as_str()),
            ("one", "1")
        );
    }
}

#[tokio::test]
async fn a_topic_goes_on_after_the_last_event_id() {
    let gateway = Gateway::demo(&[]).await;
    for data in ["one", "two", "three"] {
        publish(&gateway, data).await;
    }
    let headers = [EVENT_SOURCE[0], ("last-event-id", "2")];
    let response = client::get(&gateway.url("/sse"), &headers).await.unwrap();
    let bytes = until(response, |bytes| bytes.ends_with(b"\n\n")).await;
    let events = reference::parse(&bytes).events;
    assert_eq!(events.len(), 1);
    assert_eq!(
        (events[0].data.as_str(), events[0].id.as_str()),
        ("three", "3")
    );
}

#[tokio::test]
async fn a_model_that_thinks_is_covered_by_heartbeats() {
    let gateway = Gateway::demo(&["--heartbeat", "1s"]).await;
    let question = json!({ "stream": true, "delay_ms": 4000, "pause_ms": 0 });
    let (bytes, end) = to_the_end(ask(&gateway, &question).await).await;
    end.unwrap();
    let first_word = bytes.find("\"content\":\"No").expect("the answer");
    let silence = &bytes[..first_word];
    assert!(heartbeats_in(silence.as_bytes()) >= 2, "{silence}");
    assert!(answer_in(&bytes).starts_with("No model runs here"));
}

#[tokio::test]
async fn a_large_question_does_not_make_a_larger_answer() {
    let gateway = Gateway::demo(&[]).await;
    let long = "é".repeat(10_000);
    let messages = json!([{ "role": "user", "content": long }]);
    let question = json!({
        "stream": true, "delay_ms": 0, "pause_ms": 0, "model": long, "messages": messages,
    });
    let (bytes, end) = to_the_end(ask(&gateway, &question).await).await;
    end.unwrap();
    assert!(bytes.len() < 2 * long.len(), "{} bytes", bytes.len());
    let echoed = format!("“{}”", "é".repeat(200));
    assert!(answer_in(&bytes).contains(&echoed), "{bytes}");
}

#[tokio::test]
async fn a_run_goes_on_after_the_last_event_id_and_is_over_after_its_end() {
    let gateway = Gateway::demo(&[]).await;
    let url = gateway.url("/training?epochs=3&pause_ms=0");
    let resumed = client::get(&url, &[EVENT_SOURCE[0], ("last-event-id", "2")]);
    let (bytes, end) = to_the_end(resumed.await.unwrap()).await;
    end.unwrap();
    let events = reference::parse(bytes.as_bytes()).events;
    let ids: Vec<_> = events.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["3", "4"]);
    let over = client::get(&url, &[EVENT_SOURCE[0], ("last-event-id", "4")]);
    assert_eq!(over.await.unwrap().status(), 204);
}

#[tokio::test]
async fn an_answer_in_one_piece_has_no_heartbeats() {
    let gateway = Gateway::demo(&["--heartbeat", "50ms"]).await;
    let response = ask(&gateway, &json!({ "delay_ms": 500 })).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let answer: Value = serde_json::from_str(&client::body(response).await.unwrap()).unwrap();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

// === Leaving ===

#[tokio::test]
async fn at_sigterm_feeds_end_between_events_answers_finish_and_the_exit_is_clean() {
    let mut gateway = Gateway::demo(&["--heartbeat", "100ms", "--drain-timeout", "30s"]).await;
    publish(&gateway, "one").await;
    let mut feeds = Vec::new();
    for _ in 0..20 {
        let feed = client::get(&gateway.url("/sse"), &EVENT_SOURCE)
            .await
            .unwrap();
        feeds.push(tokio::spawn(to_the_end(feed)));
    }
    let mut answer = ask(
        &gateway,
        &json!({ "stream": true, "delay_ms": 0, "pause_ms": 50 }),
    )
    .await;
    let mut bytes = Vec::new();
    while !bytes.windows(5).any(|part| part == b"model") {
        bytes.extend(answer.frame().await.unwrap().unwrap().into_data().unwrap());
    }

    gateway.signal("TERM");
    let refused = async || {
        TcpStream::connect(&gateway.address)
            .await
            .is_err()
            .then_some(())
    };
    eventually("a closed door", refused).await;
    for feed in feeds {
        let (bytes, end) = feed.await.unwrap();
        end.expect("a clean end of the feed");
        assert_eq!(reference::parse(bytes.as_bytes()).events.len(), 1);
        assert!(bytes.ends_with('\n'), "cut in a line: {bytes}");
    }
    let (rest, end) = to_the_end(answer).await;
    end.expect("a whole answer");
    let answer = String::from_utf8(bytes).unwrap() + &rest;
    assert!(answer_in(&answer).ends_with("for the end."), "{answer}");
    assert!(gateway.exit().await.success(), "{}", gateway.stderr());
}

#[tokio::test]
async fn at_the_deadline_an_unfinished_answer_breaks_off_and_the_exit_is_clean() {
    let mut gateway = Gateway::demo(&["--drain-timeout", "1s"]).await;
    let mut answer = ask(&gateway, &json!({ "stream": true, "delay_ms": 600_000 })).await;
    let first = answer.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.ends_with(b"\n\n"));

    let start = Instant::now();
    gateway.signal("TERM");
    let (rest, end) = to_the_end(answer).await;
    assert!(end.is_err(), "half an answer must not look whole: {rest}");
    assert!(
        rest.is_empty() || rest.ends_with('\n'),
        "cut in a line: {rest}"
    );
    let status = gateway.exit().await;
    assert!(status.success(), "{status}: {}", gateway.stderr());
    let waited = start.elapsed();
    assert!(
        waited > Duration::from_millis(900),
        "the answer had no chance: {waited:?}"
    );
    assert!(
        waited < Duration::from_secs(10),
        "the deadline was 1s: {waited:?}"
    );
}

#[tokio::test]
async fn a_websocket_does_not_hold_up_the_exit() {
    let mut gateway = Gateway::demo(&["--drain-timeout", "1s"]).await;
    let mut socket = TcpStream::connect(&gateway.address).await.unwrap();
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.write_all(request.as_bytes()).await.unwrap();
    assert!(head_of(&mut socket).await.starts_with("HTTP/1.1 101 "));
    gateway.signal("TERM");
    assert!(gateway.exit().await.success(), "{}", gateway.stderr());
}

#[tokio::test]
async fn a_connection_without_a_word_does_not_hold_up_the_exit() {
    let mut gateway = Gateway::demo(&["--drain-timeout", "1h"]).await;
    let silent = TcpStream::connect(&gateway.address).await.unwrap();
    // the gateway takes connections in turn, so it has the silent one when this one is answered
    publish(&gateway, "one").await;
    gateway.signal("TERM");
    assert!(gateway.exit().await.success(), "{}", gateway.stderr());
    drop(silent);
}

#[tokio::test]
async fn a_second_signal_does_not_wait() {
    let mut gateway = Gateway::demo(&["--drain-timeout", "1h"]).await;
    let answer = ask(&gateway, &json!({ "stream": true, "delay_ms": 600_000 })).await;
    gateway.signal("INT");
    let refused = async || {
        TcpStream::connect(&gateway.address)
            .await
            .is_err()
            .then_some(())
    };
    eventually("a closed door", refused).await;
    assert!(gateway.exit_status().is_none(), "{}", gateway.stderr());
    gateway.signal("INT");
    assert!(gateway.exit().await.success(), "{}", gateway.stderr());
    drop(answer);
}

// === Clients and servers ===

async fn publish(gateway: &Gateway, data: &str) {
    let status = client::post_form(&gateway.url("/sse"), &format!("data={data}")).await;
    assert_eq!(status, 200);
}

async fn ask(gateway: &Gateway, question: &Value) -> Response<Incoming> {
    let url = gateway.url("/v1/chat/completions");
    let response = client::post(&url, "application/json", question.to_string())
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    response
}

/// The text of a streamed answer, whose terminal event must be there.
fn answer_in(stream: &str) -> String {
    let events = reference::parse(stream.as_bytes()).events;
    let (done, chunks) = events.split_last().expect("events");
    assert_eq!(done.data, "[DONE]");
    let chunks = chunks
        .iter()
        .map(|event| serde_json::from_str::<Value>(&event.data).unwrap());
    chunks
        .filter_map(|chunk| Some(chunk["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect()
}

fn event_stream_headers(headers: &HeaderMap, cache_control: &str) {
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/event-stream")
    );
    assert_eq!(headers["cache-control"], cache_control);
    assert_eq!(headers["x-accel-buffering"], "no");
    for name in ["connection", "content-length", "content-encoding"] {
        assert!(!headers.contains_key(name), "{name}");
    }
}

/// All that came, and how it ended.
async fn to_the_end(response: Response<Incoming>) -> (String, Result<(), hyper::Error>) {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let end = loop {
        match within(body.frame()).await {
            Some(Ok(frame)) => bytes.extend(frame.into_data().expect("no trailers")),
            Some(Err(error)) => break Err(error),
            None => break Ok(()),
        }
    };
    (String::from_utf8(bytes).unwrap(), end)
}

/// What came until `enough` of it was there.
async fn until(response: Response<Incoming>, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while !enough(&bytes) {
        let frame = within(body.frame()).await.expect("more").expect("no error");
        bytes.extend(frame.into_data().expect("data"));
    }
    bytes
}

/// A server that gives each connection the same answer, and what it was asked.
async fn server(answer: &'static str) -> (String, UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let sender = sender.clone();
            // a client may connect and ask nothing, which must not end the server
            tokio::spawn(async move {
                let request = head_of(&mut connection).await;
                let _ = sender.send(request);
                let _ = connection.write_all(answer.as_bytes()).await;
            });
        }
    });
    (format!("http://{address}"), requests)
}

/// Everything up to the end of the connection.
async fn raw(address: &str, request: impl AsRef<[u8]>) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_ref()).await.unwrap();
    let mut response = String::new();
    within(socket.read_to_string(&mut response)).await.unwrap();
    response
}

/// Byte by byte, so that nothing behind the head is lost.
async fn head_of(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(within(socket.read_u8()).await.expect("a whole head"));
    }
    String::from_utf8(head).unwrap()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("an answer in time")
}
