//! The connections between the gateway and its upstream: which are used again, when they are closed,
//! and how their bytes are read.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::sync::Arc;

use http_body_util::BodyExt;
use programs::{client, gateway::Gateway, process::PATIENCE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};

/// What becomes of the connections to an upstream, the first of which is 0.
#[derive(Debug, PartialEq)]
enum Seen {
    /// A request, by its path.
    Asked(usize, String),
    /// The gateway has closed it.
    Closed(usize),
}

/// What an upstream does.
#[derive(Clone, Copy)]
enum After {
    Stay,
    Close,
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                      Transfer-Encoding: chunked\r\n\r\n";

// === Connections ===

#[tokio::test]
async fn a_connection_is_used_again_when_its_answer_is_whole() {
    for (answer, body) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", ""),
        ("HTTP/1.1 204 No Content\r\n\r\n", ""),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", ""),
        (&[CHUNKED, "2\r\nok\r\n0\r\n\r\n"].concat(), "ok"),
        (
            &[CHUNKED, "2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n"].concat(),
            "ok",
        ),
        (&[CHUNKED, "0\r\n\r\n"].concat(), ""),
        (
            &[STREAM, "9\r\ndata: 1\n\n\r\n0\r\n\r\n"].concat(),
            "data: 1\n\n",
        ),
        (
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\
             Content-Length: 2\r\n\r\nok",
            "ok",
        ),
    ] {
        let (upstream, mut seen) = upstream(answer, After::Stay).await;
        let gateway = Gateway::before(&upstream, &[]).await;
        for path in ["/1", "/2", "/3"] {
            assert_eq!(client::text(&gateway.url(path)).await.unwrap(), body);
            assert_eq!(next(&mut seen).await, asked(0, path), "{answer}");
        }
        let question = "?".repeat(10_000);
        for kind in ["text/plain", "application/json"] {
            let response = client::post(&gateway.url("/4"), kind, question.clone()).await;
            assert_eq!(client::body(response.unwrap()).await.unwrap(), body);
            assert_eq!(next(&mut seen).await, asked(0, "/4"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_connection_whose_answer_was_not_read_is_closed_at_once_and_not_used_again() {
    let unfinished = [STREAM, "9\r\ndata: 1\n\n\r\n"].concat();
    let (upstream, mut seen) = upstream(&unfinished, After::Stay).await;
    let gateway = Gateway::before(&upstream, &[]).await;
    for connection in 0..2 {
        let mut response = client::get(&gateway.url("/"), &[]).await.unwrap();
        response.frame().await.unwrap().unwrap();
        assert_eq!(next(&mut seen).await, asked(connection, "/"));
        drop(response);
        assert_eq!(next(&mut seen).await, Seen::Closed(connection));
    }
}

#[tokio::test]
async fn a_connection_that_the_upstream_closed_meanwhile_is_not_used() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (upstream, mut seen) = upstream(answer, After::Close).await;
    let gateway = Gateway::before(&upstream, &[]).await;
    for connection in 0..4 {
        // which nobody may send twice
        let response = client::post(&gateway.url("/"), "text/plain", "1").await;
        let response = response.unwrap();
        assert_eq!(response.status(), 200, "on connection {connection}");
        assert_eq!(client::body(response).await.unwrap(), "ok");
        assert_eq!(next(&mut seen).await, asked(connection, "/"));
        assert_eq!(next(&mut seen).await, Seen::Closed(connection));
    }
}

#[tokio::test]
async fn a_connection_that_the_upstream_will_close_is_not_used_again() {
    for answer in [
        "HTTP/1.1 200 OK\r\nConnection: a,\tCLOSE\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\nConnection: close, a\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: a, cLoSe\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let (upstream, mut seen) = upstream(answer, After::Stay).await;
        let gateway = Gateway::before(&upstream, &[]).await;
        for connection in 0..2 {
            client::text(&gateway.url("/")).await.unwrap();
            let mut event = next(&mut seen).await;
            while let Seen::Closed(_) = event {
                event = next(&mut seen).await;
            }
            assert_eq!(event, asked(connection, "/"), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_connection_that_nobody_needs_is_closed() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (upstream, mut seen) = upstream(answer, After::Stay).await;
    let gateway = Gateway::before(&upstream, &[]).await;
    client::text(&gateway.url("/")).await.unwrap();
    assert_eq!(next(&mut seen).await, asked(0, "/"));
    assert_eq!(next(&mut seen).await, Seen::Closed(0));
    client::text(&gateway.url("/")).await.unwrap();
    assert_eq!(next(&mut seen).await, asked(1, "/"));
}

// === Bytes ===

#[tokio::test]
async fn a_burst_of_chunks_becomes_few() {
    const CHUNKS: usize = 1_000;
    let burst = [STREAM, &"9\r\ndata: x\n\n\r\n".repeat(CHUNKS), "0\r\n\r\n"].concat();
    let (upstream, _seen) = upstream(&burst, After::Stay).await;
    let gateway = Gateway::before(&upstream, &[]).await;
    let mut body = client::get(&gateway.url("/"), &[])
        .await
        .unwrap()
        .into_body();
    let (mut bytes, mut frames) = (0, 0);
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().into_data().unwrap().len();
        frames += 1;
    }
    assert_eq!(bytes, CHUNKS * "data: x\n\n".len());
    assert!(frames < CHUNKS / 20, "{frames} frames");
}

#[tokio::test]
async fn bytes_may_come_one_by_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        head_of(&mut socket).await.unwrap();
        let chunks = "5;a=\"b\"\r\nhello\r\n00C \r\n, over there\r\n0;last\r\nx-sum: 7\r\n\r\n";
        for byte in [CHUNKED, chunks].concat().bytes() {
            socket.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        head_of(&mut socket).await
    });
    let gateway = Gateway::before(&url, &[]).await;
    let body = client::get(&gateway.url("/"), &[("te", "trailers")]).await;
    let body = body.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "hello, over there");
}

#[tokio::test]
async fn chunks_that_are_none_break_the_answer() {
    for chunks in [
        "hello",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5;a\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello!\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "ffffffffffffffffff\r\nhello",
        "5\r\nhel",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0",
    ] {
        let (upstream, _seen) = upstream(&[CHUNKED, chunks].concat(), After::Close).await;
        let gateway = Gateway::before(&upstream, &[]).await;
        // where all of it came at once, not even the head has left
        let text = timeout(PATIENCE, client::text(&gateway.url("/"))).await;
        assert!(text.unwrap().is_err(), "{chunks:?}");
    }
}

#[tokio::test]
async fn long_heads_pass_and_too_long_ones_are_refused() {
    let long = "x".repeat(40_000);
    let answer = format!("HTTP/1.1 200 OK\r\nX-Long: {long}\r\nContent-Length: 2\r\n\r\nok");
    let (upstream, _seen) = upstream(&answer, After::Stay).await;
    let gateway = Gateway::before(&upstream, &[]).await;
    for (length, status) in [(20_000, 200), (100_000, 431)] {
        let field = "y".repeat(length);
        let response = client::get(&gateway.url("/"), &[("x-field", &field)]).await;
        let response = response.unwrap();
        assert_eq!(response.status(), status);
        let answered = response.headers().get("x-long").map(|long| long.len());
        assert_eq!(answered, (status == 200).then_some(long.len()));
    }
}

// === The upstream ===

/// Gives each request the same answer.
async fn upstream(answer: &str, after: After) -> (String, UnboundedReceiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, seen) = unbounded_channel();
    let answer: Arc<str> = answer.into();
    tokio::spawn(async move {
        for connection in 0.. {
            let (socket, _) = listener.accept().await.unwrap();
            let (answer, sender) = (answer.clone(), sender.clone());
            tokio::spawn(async move {
                serve(socket, connection, &answer, after, &sender).await;
                let _ = sender.send(Seen::Closed(connection));
            });
        }
    });
    (url, seen)
}

async fn serve(
    mut socket: TcpStream,
    connection: usize,
    answer: &str,
    after: After,
    seen: &UnboundedSender<Seen>,
) {
    while let Some(path) = head_of(&mut socket).await {
        let _ = seen.send(Seen::Asked(connection, path));
        let answered = socket.write_all(answer.as_bytes()).await.is_ok();
        if !answered || matches!(after, After::Close) {
            return;
        }
    }
}

/// The path that is asked for, and its body away; none at the end of the connection.
async fn head_of(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    if let Some(length) = lines.find_map(|line| line.strip_prefix("content-length: ")) {
        let mut body = vec![0; length.parse().unwrap()];
        socket.read_exact(&mut body).await.ok()?;
    }
    head.split(' ').nth(1).map(str::to_owned)
}

fn asked(connection: usize, path: &str) -> Seen {
    Seen::Asked(connection, path.to_owned())
}

async fn next(seen: &mut UnboundedReceiver<Seen>) -> Seen {
    timeout(PATIENCE, seen.recv()).await.unwrap().unwrap()
}
