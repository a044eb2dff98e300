//! One exchange between the gateway and its upstream where the two sides do not keep to turns:
//! answers that come before the request is whole, and bytes behind an answer.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::join_all;
use programs::{client, gateway::Gateway, process::PATIENCE};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{
        Barrier,
        mpsc::{UnboundedReceiver, unbounded_channel},
    },
    time::timeout,
};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

/// As the gateway has it.
const MOST_IDLE: usize = 256;

// === Answers before the end of the request ===

#[tokio::test]
async fn a_request_goes_on_behind_its_answer() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        &[CHUNKED, "2\r\nok\r\n0\r\n\r\n"].concat(),
    ] {
        let (listener, gateway) = listen().await;
        let mut client = TcpStream::connect(&gateway.address).await.unwrap();
        let half = "x".repeat(100_000);
        let head = post(2 * half.len());
        client
            .write_all([&head, &*half].concat().as_bytes())
            .await
            .unwrap();
        let mut upstream = accepted(&listener).await;
        upstream.write_all(answer.as_bytes()).await.unwrap();
        // the client has its answer before it sends the rest
        let head = head_of(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 20"), "{head}");
        if answer.contains("ok") {
            until(&mut client, b"ok").await;
        }
        client.write_all(half.as_bytes()).await.unwrap();
        let mut body = vec![0; 2 * half.len()];
        let read = within(upstream.read_exact(&mut body)).await;
        assert!(read.is_ok(), "{answer:?}: {read:?}");
    }
}

#[tokio::test]
async fn an_upload_that_is_refused_has_its_answer() {
    const SAYS: &str =
        "HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo big\n";
    for _ in 0..5 {
        let (listener, gateway) = listen().await;
        let client = TcpStream::connect(&gateway.address).await.unwrap();
        let (mut reads, mut writes) = client.into_split();
        let sent = Arc::new(AtomicUsize::new(0));
        let sending = sent.clone();
        tokio::spawn(async move {
            let chunk = [b'x'; 64 * 1024];
            let _ = writes.write_all(post(1 << 30).as_bytes()).await;
            while let Ok(n) = writes.write(&chunk).await {
                sending.fetch_add(n, Ordering::Relaxed);
            }
            // its end would be taken for that of the client
            std::future::pending::<()>().await;
        });
        let mut upstream = accepted(&listener).await;
        stuck(&sent).await;
        upstream.write_all(SAYS.as_bytes()).await.unwrap();
        // with all that it has not read, which resets the connection
        drop(upstream);
        let mut answer = Vec::new();
        let _ = within(reads.read_to_end(&mut answer)).await;
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:?}");
        assert!(answer.ends_with("too big\n"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_client_may_send_all_before_it_reads_anything() {
    const SIZE: usize = 24 << 20;
    let (listener, gateway) = listen().await;
    let mut client = TcpStream::connect(&gateway.address).await.unwrap();
    client.write_all(post(SIZE).as_bytes()).await.unwrap();
    let upstream = accepted(&listener).await;
    let (mut reads, mut writes) = upstream.into_split();
    let sent = Arc::new(AtomicUsize::new(0));
    let sending = sent.clone();
    tokio::spawn(async move {
        let _ = writes.write_all(CHUNKED.as_bytes()).await;
        let chunk = ["10000\r\n", &"x".repeat(65536), "\r\n"].concat();
        while writes.write_all(chunk.as_bytes()).await.is_ok() {
            sending.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    });
    stuck(&sent).await;
    let read = tokio::spawn(async move {
        let mut body = vec![0; SIZE];
        reads.read_exact(&mut body).await.unwrap();
    });
    within(client.write_all(&vec![b'x'; SIZE])).await.unwrap();
    within(read).await.unwrap();
}

#[tokio::test]
async fn a_request_that_broke_off_has_no_other_behind_it() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 204 No Content\r\n\r\n",
        &[CHUNKED, "2\r\nok\r\n0\r\n\r\n"].concat(),
    ] {
        let (listener, gateway) = listen().await;
        let mut client = TcpStream::connect(&gateway.address).await.unwrap();
        let begun =
            "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
        client.write_all(begun.as_bytes()).await.unwrap();
        let mut upstream = accepted(&listener).await;
        until(&mut upstream, b"hello\r\n").await;
        // so that the gateway finds both at once
        gateway.signal("STOP");
        client.write_all(b"no chunk\r\n").await.unwrap();
        upstream.write_all(answer.as_bytes()).await.unwrap();
        gateway.signal("CONT");
        let mut rest = Vec::new();
        let _ = within(client.read_to_end(&mut rest)).await;
        let url = gateway.url("/");
        let next = tokio::spawn(async move { client::text(&url).await });
        let rest = within(try_head_of(&mut upstream)).await;
        assert!(rest.is_none(), "{answer:?} is followed by {rest:?}");
        let mut upstream = accepted(&listener).await;
        let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        upstream.write_all(ok).await.unwrap();
        assert_eq!(within(next).await.unwrap().unwrap(), "ok");
    }
}

// === Bytes behind an answer ===

#[tokio::test]
async fn a_connection_with_bytes_behind_its_answer_is_not_used_again() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let bodiless = "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n";
    let unchanged = "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (method, answer, behind) in [
        ("HEAD", CHUNKED, "0\r\n\r\n"),
        ("HEAD", CHUNKED, "5\r\n"),
        ("HEAD", CHUNKED, "5"),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            "hello",
        ),
        ("HEAD", CHUNKED, EVIL),
        ("GET", bodiless, "5\r\n"),
        ("GET", unchanged, "5;"),
        ("GET", bodiless, EVIL),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", EVIL),
        ("GET", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", EVIL),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            EVIL,
        ),
        (
            "GET",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "\r\n",
        ),
        ("GET", &[CHUNKED, "2\r\nok\r\n0\r\n\r\n"].concat(), EVIL),
        ("GET", &[CHUNKED, "2\r\nok\r\n0\r\n\r\n"].concat(), "5\r\n"),
        (
            "GET",
            &[CHUNKED, "2\r\nok\r\n0\r\na: b\r\n\r\n"].concat(),
            EVIL,
        ),
    ] {
        let answer = [answer, behind].concat();
        let (upstream, mut asked) = server(move |_| answer.clone()).await;
        let gateway = Gateway::before(&upstream, &[]).await;
        for connection in 0..2 {
            let request = format!("{method} / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let answered = raw(&gateway.address, request).await;
            assert!(!answered.contains("evil"), "{answered}");
            let on = within(asked.recv()).await.unwrap();
            assert_eq!(
                on, connection,
                "{method} with {behind:?} behind {answered:?}"
            );
        }
    }
}

#[tokio::test]
async fn bytes_behind_a_new_protocol_are_its_own() {
    for field in ["", "Transfer-Encoding: chunked\r\n"] {
        let (listener, gateway) = listen().await;
        let mut client = TcpStream::connect(&gateway.address).await.unwrap();
        let request =
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let mut upstream = accepted(&listener).await;
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
             {field}\r\n2\r\nhe2\r\nllo"
        );
        upstream.write_all(answer.as_bytes()).await.unwrap();
        head_of(&mut client).await;
        upstream.write_all(b"0\r\n\r\nmore").await.unwrap();
        let expected = "2\r\nhe2\r\nllo0\r\n\r\nmore";
        let mut read = vec![0; expected.len()];
        within(client.read_exact(&mut read)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&read), expected);
        client.write_all(b"back").await.unwrap();
        let mut read = [0; 4];
        within(upstream.read_exact(&mut read)).await.unwrap();
        assert_eq!(&read, b"back");
    }
}

#[tokio::test]
async fn many_heads_may_come_before_the_one_that_counts() {
    let hint = "HTTP/1.1 102 Processing\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for before in ["\r\n", "\n", hint, &["\r\n\r\n", hint].concat()] {
        let answer = [&before.repeat(5_000), ok].concat();
        let (upstream, _asked) = server(move |_| answer.clone()).await;
        let gateway = Gateway::before(&upstream, &[]).await;
        let text = within(client::text(&gateway.url("/"))).await;
        assert_eq!(text.unwrap(), "ok", "{before:?}");
    }
}

// === What a body is ===

#[tokio::test]
async fn only_a_body_whose_last_coding_is_chunked_has_chunks() {
    let chunks = "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n";
    for (fields, body) in [
        (&b"Transfer-Encoding: chunked"[..], "hello"),
        (b"transfer-encoding:\tCHUNKED \t", "hello"),
        (b"Transfer-Encoding: gzip, chunked", "hello"),
        (
            b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
            "hello",
        ),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3", "hello"),
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked", "hello"),
        (
            b"Content-Length: 3, 4\r\nTransfer-Encoding: chunked",
            "hello",
        ),
        (b"Transfer-Encoding: chunked, gzip", chunks),
        (
            b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip",
            chunks,
        ),
        (b"Transfer-Encoding: chunked;a=b", chunks),
        (b"Transfer-Encoding: \"chunked\"", chunks),
        (b"Transfer-Encoding:", chunks),
        // of which hyper reads nothing
        (b"Transfer-Encoding: \xe9, chunked", chunks),
    ] {
        let (listener, gateway) = listen().await;
        let url = gateway.url("/");
        let text = tokio::spawn(async move { client::text(&url).await });
        let mut upstream = accepted(&listener).await;
        let answer = [
            b"HTTP/1.1 200 OK\r\n",
            fields,
            b"\r\n\r\n",
            chunks.as_bytes(),
        ]
        .concat();
        upstream.write_all(&answer).await.unwrap();
        drop(upstream);
        let text = within(text).await.unwrap();
        let fields = String::from_utf8_lossy(fields);
        assert_eq!(text.unwrap(), body, "{fields}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_no_whole_one() {
    let (listener, gateway) = listen().await;
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\na: b\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n4 4\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        // up to each byte of the body, then the rest
        let body = answer.find("\r\n\r\n").unwrap() + 4;
        for cut in body..=answer.len() {
            // which nobody may send twice
            let url = gateway.url("/");
            let text = tokio::spawn(async move {
                let response = client::post(&url, "text/plain", "").await?;
                client::body(response).await
            });
            let mut upstream = accepted(&listener).await;
            upstream.set_nodelay(true).unwrap();
            upstream.write_all(&answer.as_bytes()[..cut]).await.unwrap();
            tokio::task::yield_now().await;
            let _ = upstream.write_all(&answer.as_bytes()[cut..]).await;
            drop(upstream);
            let text = timeout(PATIENCE, text).await;
            let text = text
                .unwrap_or_else(|_| panic!("{answer:?} at {cut}"))
                .unwrap();
            let fine = answer.starts_with("HTTP/1.0")
                && matches!(&text, Ok(text) if text.starts_with("the upstream"));
            assert!(text.is_err() || fine, "{answer:?} at {cut}: {text:?}");
        }
    }
}

#[tokio::test]
async fn what_has_no_end_is_given_up() {
    for (head, more) in [
        ("HTTP/1.1 200 OK\r\n", "x-more: of them\r\n"),
        ("HTTP/1.1 200 OK\r\nx-long: ", "xxxxxxxxxxxxxxxxxx"),
        ("", "\r\n\r\n\r\n\r\n\r\n\r\n"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;",
            "xxxxxxxxxxxxxxxxxxxx",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            "a: b\r\n",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: ",
            "bbbbbbbbbbbbbbbbbbbbbb",
        ),
    ] {
        let (listener, gateway) = listen().await;
        let url = gateway.url("/");
        let text = tokio::spawn(async move { client::text(&url).await });
        let mut upstream = accepted(&listener).await;
        drop(listener);
        let _ = upstream.write_all(head.as_bytes()).await;
        let more = more.repeat(1_000);
        let mut sent = 0;
        while sent < 10 << 20 {
            let written = timeout(PATIENCE, upstream.write_all(more.as_bytes())).await;
            let written =
                written.unwrap_or_else(|_| panic!("{head:?} {more:.20?} stuck at {sent}"));
            if written.is_err() {
                break;
            }
            sent += more.len();
        }
        assert!(sent < 10 << 20, "{head:?} took {sent} bytes");
        let _ = within(text).await;
    }
}

// === Idle connections ===

#[tokio::test]
async fn no_more_than_256_connections_wait() {
    const AT_ONCE: usize = MOST_IDLE + 24;
    let barrier = Arc::new(Barrier::new(AT_ONCE));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let reused = Arc::new(AtomicUsize::new(0));
    let counts = reused.clone();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (barrier, reused) = (barrier.clone(), counts.clone());
            tokio::spawn(async move {
                for turn in 0.. {
                    if try_head_of(&mut socket).await.is_none() {
                        return;
                    }
                    reused.fetch_add(usize::from(turn > 0), Ordering::Relaxed);
                    // so that each request has a connection
                    barrier.wait().await;
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                    socket.write_all(answer).await.unwrap();
                }
            });
        }
    });
    let gateway = Gateway::before(&upstream, &[]).await;
    for _ in 0..2 {
        let url = gateway.url("/");
        let texts = within(join_all((0..AT_ONCE).map(|_| client::text(&url)))).await;
        assert!(texts.iter().all(|text| matches!(text.as_deref(), Ok("ok"))));
    }
    let reused = reused.load(Ordering::Relaxed);
    assert!((1..=MOST_IDLE).contains(&reused), "{reused} waited");
}

// === The upstream ===

async fn listen() -> (TcpListener, Gateway) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let gateway = Gateway::before(&upstream, &[]).await;
    (listener, gateway)
}

/// A connection whose first head is read.
async fn accepted(listener: &TcpListener) -> TcpStream {
    let (mut socket, _) = within(listener.accept()).await.unwrap();
    head_of(&mut socket).await;
    socket
}

/// Answers each request as its connection does, of which the first is 0; says which was asked.
async fn server(
    answer: impl Fn(usize) -> String + Send + Sync + 'static,
) -> (String, UnboundedReceiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, asked) = unbounded_channel();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        for connection in 0.. {
            let (mut socket, _) = listener.accept().await.unwrap();
            let (answer, sender) = (answer.clone(), sender.clone());
            tokio::spawn(async move {
                while try_head_of(&mut socket).await.is_some() {
                    let _ = sender.send(connection);
                    let _ = socket.write_all(answer(connection).as_bytes()).await;
                }
            });
        }
    });
    (url, asked)
}

fn post(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
}

/// Everything up to the end of the connection.
async fn raw(address: &str, request: impl AsRef<[u8]>) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_ref()).await.unwrap();
    let mut response = String::new();
    within(socket.read_to_string(&mut response)).await.unwrap();
    response
}

async fn until(socket: &mut TcpStream, end: &[u8]) {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        read.push(within(socket.read_u8()).await.unwrap());
    }
}

/// Until nobody takes more.
async fn stuck(sent: &AtomicUsize) {
    let mut before = 0;
    loop {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        let now = sent.load(Ordering::Relaxed);
        if now > 0 && now == before {
            return;
        }
        before = now;
    }
}

/// Byte by byte, so that nothing behind the head is lost.
async fn head_of(socket: &mut TcpStream) -> String {
    within(try_head_of(socket)).await.expect("a whole head")
}

async fn try_head_of(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("an answer in time")
}
