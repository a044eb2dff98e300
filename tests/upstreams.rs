//! The gateway among servers that it does not know, and what three clients see through it that do
//! not know it either: curl, Chromium's `EventSource` and a Rust library.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::{fs, time::Duration};

use futures_util::{StreamExt, stream};
use programs::{
    browser::Browser,
    client,
    event_clients::{Chromium, Curl, EventClient, Rust, curl, event_of_page, heartbeats_in},
    folder::Folder,
    gateway::Gateway,
    process::{PATIENCE, Process, eventually},
    upstreams::{Nginx, Tornado},
};
use serde_json::json;
use support::reference::{self, Event};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

const QUICK: [&str; 2] = ["--heartbeat", "300ms"];

// === gateway -> Tornado ===

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado and curl: run tests/run"]
async fn curl_sees_the_events_of_tornado() {
    before_tornado::<Curl>().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado and Chromium: run tests/run"]
async fn chromium_sees_the_events_of_tornado() {
    before_tornado::<Chromium>().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado: run tests/run"]
async fn rust_sees_the_events_of_tornado() {
    before_tornado::<Rust>().await;
}

async fn before_tornado<C: EventClient>() {
    let tornado = Tornado::start().await;
    let gateway = Gateway::before(&tornado.url(), &QUICK).await;
    sees_what_is_published::<C>(&gateway.url("/sse"), &tornado).await;
}

// === gateway -> nginx, which compresses -> Tornado ===

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado, nginx and curl: run tests/run"]
async fn curl_sees_the_events_behind_nginx() {
    before_nginx::<Curl>().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado, nginx and Chromium: run tests/run"]
async fn chromium_sees_the_events_behind_nginx() {
    before_nginx::<Chromium>().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado and nginx: run tests/run"]
async fn rust_sees_the_events_behind_nginx() {
    before_nginx::<Rust>().await;
}

async fn before_nginx<C: EventClient>() {
    let tornado = Tornado::start().await;
    let nginx = Nginx::before(&tornado.url()).await;
    let gateway = Gateway::before(&nginx.url(""), &QUICK).await;
    sees_what_is_published::<C>(&gateway.url("/unbuffered/sse"), &tornado).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado and nginx: run tests/run"]
async fn nginx_compresses_events_unless_the_gateway_asks() {
    let tornado = Tornado::start().await;
    let nginx = Nginx::before(&tornado.url()).await;
    let gateway = Gateway::before(&nginx.url(""), &QUICK).await;
    publish(&tornado, &event("message", "one", "")).await;
    let headers = [
        ("accept", "text/event-stream"),
        ("accept-encoding", "gzip, deflate, br"),
    ];
    let encoding = async |url: String| {
        let response = client::get(&url, &headers).await.expect("a response");
        response.headers().get("content-encoding").cloned()
    };
    let without = encoding(nginx.url("/unbuffered/sse")).await;
    assert_eq!(without.expect("gzip without the gateway"), "gzip");
    assert_eq!(encoding(gateway.url("/unbuffered/sse")).await, None);
}

/// With its defaults nginx fills a buffer before it hands it on, so what comes out of it stops in
/// the middle of an event, and no client can do anything about that. But no heartbeat may go there.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado and nginx: run tests/run"]
async fn an_event_that_nginx_cuts_at_its_buffer_has_no_heartbeat_inside() {
    let tornado = Tornado::start().await;
    let nginx = Nginx::before(&tornado.url()).await;
    let gateway = Gateway::before(&nginx.url(""), &QUICK).await;
    let mut published = Vec::new();
    for n in 0..30 {
        published.push(event("note", &format!("{n} {}", "x".repeat(900)), ""));
        publish(&tornado, published.last().expect("an event")).await;
    }
    let client = Rust::open(&gateway.url("/sse")).await;
    eventually("a full buffer", async || {
        (!client.raw().is_empty()).then_some(())
    })
    .await;
    // the silence in question: three heartbeats long
    sleep(Duration::from_secs(1)).await;

    let stream = client.raw();
    let blocks = String::from_utf8(stream.clone()).expect("UTF-8");
    let (_, cut) = blocks.rsplit_once("\n\n").expect("whole events");
    assert!(!cut.is_empty(), "nginx stopped at an event by chance");
    assert_eq!(
        heartbeats_in(cut.as_bytes()),
        0,
        "a heartbeat in the middle of an event"
    );
    let events = reference::parse(&stream).events;
    assert_eq!(events, published[..events.len()]);
    client.close().await;
}

// === nginx, with its defaults -> gateway -> Tornado ===

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado, nginx and curl: run tests/run"]
async fn curl_sees_the_events_through_nginx() {
    after_nginx::<Curl>().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado, nginx and Chromium: run tests/run"]
async fn chromium_sees_the_events_through_nginx() {
    after_nginx::<Chromium>().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado and nginx: run tests/run"]
async fn rust_sees_the_events_through_nginx() {
    after_nginx::<Rust>().await;
}

async fn after_nginx<C: EventClient>() {
    let tornado = Tornado::start().await;
    let gateway = Gateway::before(&tornado.url(), &QUICK).await;
    let nginx = Nginx::before(&gateway.url("")).await;
    sees_what_is_published::<C>(&nginx.url("/sse"), &tornado).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado and nginx: run tests/run"]
async fn without_the_gateway_nginx_holds_even_the_head_back() {
    let tornado = Tornado::start().await;
    let nginx = Nginx::before(&tornado.url()).await;
    publish(&tornado, &event("message", "one", "")).await;
    let url = nginx.url("/sse");
    let asked = client::get(&url, &[]);
    let held = timeout(Duration::from_secs(1), asked).await.is_err();
    assert!(
        held,
        "this nginx needs no gateway: the tests above show nothing"
    );
}

/// nginx takes X-Accel-Buffering for itself: each hop has to say it anew.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Tornado and nginx: run tests/run"]
async fn a_gateway_on_each_side_of_nginx_says_no_buffering_twice() {
    let tornado = Tornado::start().await;
    let inner = Gateway::before(&tornado.url(), &["--heartbeat", "1h"]).await;
    let nginx = Nginx::before(&inner.url("")).await;
    let outer = Gateway::before(&nginx.url(""), &QUICK).await;
    let said = async |url: String| {
        let response = client::get(&url, &[]).await.expect("a response");
        response.headers().get("x-accel-buffering").cloned()
    };
    assert_eq!(said(nginx.url("/sse")).await, None);
    assert_eq!(said(outer.url("/sse")).await.expect("no"), "no");
    sees_what_is_published::<Rust>(&outer.url("/sse"), &tornado).await;
}

// === What all of them see ===

/// Some events before the client comes, a silence, then live ones, each seen before the next.
async fn sees_what_is_published<C: EventClient>(url: &str, tornado: &Tornado) {
    let mut published = vec![
        event("message", "one", "1"),
        event("note", "two\nlines\n", "2"),
        event("größe", "drei ✓", "x-3"),
    ];
    for event in &published {
        publish(tornado, event).await;
    }
    let client = C::open(url).await;
    has_seen(&client, published.len()).await;
    heartbeats_go_on(&client).await;
    for data in ["four", "five", "", "data: seven"] {
        let live = event("note", data, "x-3");
        tornado.publish(&[("event", "note"), ("data", data)]).await;
        published.push(live);
        has_seen(&client, published.len()).await;
    }
    heartbeats_go_on(&client).await;
    assert_eq!(client.events().await, published);
    client.close().await;
}

async fn has_seen<C: EventClient>(client: &C, count: usize) {
    eventually("the events", async || {
        (client.events().await.len() >= count).then_some(())
    })
    .await;
}

async fn heartbeats_go_on<C: EventClient>(client: &C) {
    let before = client.heartbeats().await;
    eventually("heartbeats in the silence", async || {
        (client.heartbeats().await >= before + 3).then_some(())
    })
    .await;
}

fn event(kind: &str, data: &str, id: &str) -> Event {
    Event {
        kind: kind.to_owned(),
        data: data.to_owned(),
        id: id.to_owned(),
    }
}

async fn publish(tornado: &Tornado, event: &Event) {
    tornado
        .publish(&[
            ("event", &event.kind),
            ("data", &event.data),
            ("id", &event.id),
        ])
        .await;
}

// === gateway -> a server that cuts its bytes at every offset ===

/// With a byte order mark, all three line ends, comments, and characters of several bytes.
const STREAM: &str = "\u{feff}: welcome\nretry: 60000\n\ndata: one\n\n\
    id: 2\nevent: note\ndata: zwei\ndata: Zeilen ✓\n\n\
    data:drei\r\nid: 3\r\n\r\n: nothing but a comment\n\n\
    event: größe\rdata: vier\r\rid\ndata\n\ndata: six\n\n";

fn events_of_the_stream() -> Vec<Event> {
    let events = vec![
        event("message", "one", ""),
        event("note", "zwei\nZeilen ✓", "2"),
        event("message", "drei", "3"),
        event("größe", "vier", "3"),
        event("message", "", ""),
        event("message", "six", ""),
    ];
    assert_eq!(reference::parse(STREAM.as_bytes()).events, events);
    events
}

/// In milliseconds: on a busy machine the heartbeats of 64 streams may come late.
const PAUSE: &str = "2000";

#[tokio::test(flavor = "multi_thread")]
async fn rust_sees_the_events_whole_wherever_they_are_cut() {
    let gateway = Gateway::before(&CutResponse::serve().await, &QUICK).await;
    let expected = events_of_the_stream();
    stream::iter(CutResponse::new().offsets())
        .for_each_concurrent(64, async |at| {
            let client = Rust::open(&gateway.url(&CutResponse::path(at, PAUSE))).await;
            let (raw, events) = client.finish().await;
            assert_eq!(events, expected, "cut at {at}");
            seen_whole(at, &raw);
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs curl: run tests/run"]
async fn curl_sees_the_events_whole_wherever_they_are_cut() {
    let gateway = Gateway::before(&CutResponse::serve().await, &QUICK).await;
    let offsets = CutResponse::new().offsets();
    let range = format!("[{}-{}]", offsets.start(), offsets.end());
    let folder = Folder::new("curl");
    let mut process = Process::start(
        curl()
            .args([
                "--silent",
                "--show-error",
                "--fail",
                "-N",
                "--parallel",
                "--parallel-max",
                "64",
            ])
            .args(["--output", &format!("{}/#1", folder.path())])
            .arg(gateway.url(&CutResponse::path(range, PAUSE))),
    );
    let status = process.exit().await;
    assert!(status.success(), "{}", process.stderr());
    for at in offsets {
        seen_whole(
            at,
            &fs::read(format!("{}/{at}", folder.path())).expect("an answer"),
        );
    }
}

/// The heartbeats and the pauses are shorter here, for a browser has six connections to a host.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn chromium_sees_the_events_whole_wherever_they_are_cut() {
    let gateway = Gateway::before(&CutResponse::serve().await, &["--heartbeat", "100ms"]).await;
    let urls: Vec<_> = CutResponse::new()
        .offsets()
        .map(|at| CutResponse::path(at, "250"))
        .collect();
    let browser = Browser::start().await;
    browser
        .page
        .goto(&gateway.url("/a-page"))
        .await
        .expect("a page");
    browser.run(OPEN_ALL, vec![json!(urls)]).await;
    let expected = events_of_the_stream();
    for (at, url) in urls.iter().enumerate() {
        let seen = eventually(url, async || {
            let seen = browser
                .run("return window.seen[arguments[0]]", vec![json!(at)])
                .await;
            seen.as_array().cloned()
        })
        .await;
        let events: Vec<_> = seen.iter().map(event_of_page).collect();
        assert_eq!(events, expected, "cut at {at}");
    }
    browser.close().await;
}

/// An `EventSource` comes back after the end of its stream; these are closed instead.
const OPEN_ALL: &str = r#"
    const [urls] = arguments;
    const queue = [...urls.entries()];
    window.seen = {};
    const next = () => {
        if (queue.length === 0) return;
        const [at, url] = queue.shift();
        const events = [];
        const source = new EventSource(url);
        for (const kind of ["message", "note", "größe"])
            source.addEventListener(kind, (event) =>
                events.push({ kind: event.type, data: event.data, id: event.lastEventId }));
        source.onerror = () => {
            source.close();
            window.seen[at] = events;
            next();
        };
    };
    for (let slot = 0; slot < 6; slot++) next();
"#;

/// Checks what came of the response that was cut at `at`.
fn seen_whole(at: usize, raw: &[u8]) {
    let text = String::from_utf8_lossy(raw);
    assert_eq!(
        reference::parse(raw).events,
        events_of_the_stream(),
        "cut at {at}: {text:?}"
    );
    let lines = |text: &str| {
        let lines = text.trim_start_matches('\u{feff}').split(['\r', '\n']);
        let lines = lines.filter(|line| !line.is_empty() && *line != HEARTBEAT.trim_end());
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(lines(&text), lines(STREAM), "cut at {at}");
    let mut heartbeats = 0;
    for (start, _) in text.match_indices(HEARTBEAT) {
        assert!(is_between_events(&text[..start]), "cut at {at}: {text:?}");
        heartbeats += 1;
    }
    if CutResponse::new().is_silent_between_events(at) {
        assert!(heartbeats > 0, "cut at {at}: no heartbeat in {text:?}");
    }
}

const HEARTBEAT: &str = ": keep-alive\n";

/// Whether the last line was blank, but for comments.
fn is_between_events(prefix: &str) -> bool {
    let lines = prefix.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<_> = lines.split('\n').collect();
    let unfinished = lines.pop();
    lines.reverse();
    let last = lines.into_iter().find(|line| !line.starts_with(':'));
    unfinished == Some("") && last.is_none_or(str::is_empty)
}

/// One response in HTTP's chunked coding, from its status line to its last chunk.
struct CutResponse {
    bytes: Vec<u8>,
    /// How much of the stream is out after each byte; none while the head is not.
    delivered: Vec<Option<usize>>,
}

impl CutResponse {
    fn new() -> Self {
        let mut response = Self {
            bytes: Vec::new(),
            delivered: vec![None],
        };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\
                    transfer-encoding: chunked\r\n\r\n";
        response.push(head, |_| None);
        *response.delivered.last_mut().expect("a head") = Some(0);
        let mut sent = 0;
        // 23 is no multiple of anything, so chunks end anywhere too
        for chunk in STREAM.as_bytes().chunks(23) {
            response.push(format!("{:x}\r\n", chunk.len()), |_| Some(sent));
            response.push(chunk, |n| Some(sent + n));
            sent += chunk.len();
            response.push("\r\n", |_| Some(sent));
        }
        response.push("0\r\n\r\n", |_| Some(sent));
        response
    }

    fn push(&mut self, part: impl AsRef<[u8]>, delivered: impl Fn(usize) -> Option<usize>) {
        let part = part.as_ref();
        self.bytes.extend_from_slice(part);
        self.delivered.extend((1..=part.len()).map(delivered));
    }

    /// Where it can be cut: before its first byte, behind its last, and everywhere between.
    fn offsets(&self) -> std::ops::RangeInclusive<usize> {
        0..=self.bytes.len()
    }

    /// The stream is open, and the cut is clearly behind a blank line or before the first byte.
    fn is_silent_between_events(&self, at: usize) -> bool {
        let Some(delivered) = self.delivered[at] else {
            return false;
        };
        let before = &STREAM.as_bytes()[..delivered];
        let blank = before.ends_with(b"\n\n") || before.ends_with(b"\r\n\r\n");
        let over = at == self.bytes.len();
        !over && (blank || before.is_empty())
    }

    fn path(at: impl std::fmt::Display, pause: &str) -> String {
        format!("/cut/{at}/{pause}")
    }

    /// Serves `/cut/OFFSET/MILLISECONDS`; the pause in it is longer than two heartbeats.
    async fn serve() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(Self::answer(socket));
            }
        });
        format!("http://{address}")
    }

    async fn answer(mut socket: TcpStream) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        let (reader, mut writer) = socket.split();
        let mut lines = BufReader::new(reader).lines();
        let asked = lines.next_line().await?.unwrap_or_default();
        while lines
            .next_line()
            .await?
            .is_some_and(|line| !line.is_empty())
        {}
        let mut path = asked
            .split(['/', ' '])
            .filter(|part| !part.is_empty())
            .skip(1);
        let (Some("cut"), Some(Ok(at)), Some(Ok(pause))) = (
            path.next(),
            path.next().map(str::parse::<usize>),
            path.next().map(str::parse),
        ) else {
            let page =
                b"HTTP/1.1 404 Not Found\r\ncontent-type: text/html\r\nconnection: close\r\n\
                         content-length: 7\r\n\r\nno page";
            return writer.write_all(page).await;
        };
        let response = Self::new();
        let (before, after) = response.bytes.split_at(at);
        writer.write_all(before).await?;
        sleep(Duration::from_millis(pause)).await;
        writer.write_all(after).await?;
        writer.shutdown().await?;
        // until the gateway has read it all: a reset would drop what is on its way
        let _ = timeout(PATIENCE, lines.into_inner().read_to_end(&mut Vec::new())).await;
        Ok(())
    }
}
