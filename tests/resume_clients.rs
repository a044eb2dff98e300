//! Clients that others have written come back by themselves when their connection breaks in the
//! middle of an event: Chromium's `EventSource`, `eventsource` in Node, and
//! `@microsoft/fetch-event-source` in Chromium.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::{
    fs,
    future::ready,
    path::Path as FilePath,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Path,
    response::Response,
    routing::{any, get},
};
use futures_util::{StreamExt, stream};
use programs::{
    browser::Browser,
    cutter::Cutter,
    event_clients::event_of_page,
    node::{CLIENTS, node, package},
    process::eventually,
};
use support::{
    reference::{self, Event},
    serve::{EVENT_STREAM, Server, Stack, Upstream, respond},
};
use tower_sse::{Resume, ResumeLayer, SseLayer, resume::MemoryStore};

/// The events of the stream; the connection is cut where they say so.
const BEFORE_THE_LAST: [&str; 8] = [
    "retry: 20\ndata: one\n\n",
    "event: note\ndata: two is (cut a) here\ndata: and has two lines\n\n",
    "data: drei größe\n\n",
    ": not an event\n\ndata: four\n\n",
    "data: five (cut b)\n\n",
    "event: note\r\ndata: six\r\n\r\n",
    "data: seven\n\n",
    "data: eight (cut c) and so on\n\n",
];

/// With which the stream ends: who comes back behind it finds it ended.
const LAST: &str = "data: nine\n\n";

/// In the middle of the data.
const IN_DATA: [&str; 3] = ["(cut a)", "(cut b)", "(cut c)"];

/// Between the id of the seventh event and its blank line.
const BEHIND_AN_ID: &str = ".7\n";

/// Behind the last event, before the end of the response.
const BEHIND_ALL: &str = ".9\n\n";

/// A server of one stream behind a connection that breaks.
struct World {
    cuts: Vec<&'static str>,
    cutter: Cutter,
    handle: Resume,
    calls: Arc<AtomicUsize>,
    upstream: Option<Upstream>,
    _server: Server,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn an_event_source_of_chromium_misses_nothing_and_stops() {
    let cuts = [&IN_DATA[..2], &[BEHIND_AN_ID], &IN_DATA[2..]].concat();
    let mut world = World::new(&cuts).await;
    let browser = Browser::start().await;
    open(&browser, &world, "event_source.html").await;
    let stream = world
        .send_all(async || events_of(&browser).await.len())
        .await;
    wait_until(&browser, "source.readyState === EventSource.CLOSED").await;
    assert_eq!(events_of(&browser).await, expected(&stream));
    browser.close().await;
    world.was_called_once(4, 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node and its packages: run tests/run"]
async fn eventsource_of_npm_misses_nothing_and_stops() {
    let cuts = [&IN_DATA[..2], &[BEHIND_AN_ID], &IN_DATA[2..], &[BEHIND_ALL]].concat();
    let mut world = World::new(&cuts).await;
    let mut client = node("eventsource.cjs", &[&world.url("/events")]);
    let stream = world.send_all(async || client.stdout().len()).await;
    client.line("closed").await;
    assert!(client.exit().await.success(), "{}", client.stderr());
    let lines = String::from_utf8(client.stdout()).expect("text");
    let lines = lines.lines().filter(|line| *line != "closed");
    let events: Vec<_> = lines
        .map(|line| event_of_page(&serde_json::from_str(line).expect("JSON")))
        .collect();
    assert_eq!(events, expected(&stream));
    world.was_called_once(4, 1);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium and npm packages: run tests/run"]
async fn fetch_event_source_misses_nothing_and_stops() {
    let mut world = World::new(&IN_DATA).await;
    let browser = Browser::start().await;
    open(&browser, &world, "fetch_event_source.html").await;
    let stream = world
        .send_all(async || events_of(&browser).await.len())
        .await;
    wait_until(&browser, "ended").await;
    assert_eq!(events_of(&browser).await, expected(&stream));
    browser.close().await;
    // A clean end is the end for it.
    world.was_called_once(3, 0);
}

/// It takes the id for its cursor as soon as it has read the line. With a connection that breaks
/// there, it says that it has an event which it has not, and nobody can know. The standard sets the
/// cursor when the event is dispatched.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium and npm packages: run tests/run"]
async fn fetch_event_source_loses_an_event_that_is_cut_behind_its_id() {
    let mut world = World::new(&[BEHIND_AN_ID]).await;
    // A browser throws away what a page has not read when the connection breaks.
    world.cutter.hold(true);
    let browser = Browser::start().await;
    open(&browser, &world, "fetch_event_source.html").await;
    let stream = world
        .send_all(async || events_of(&browser).await.len())
        .await;
    wait_until(&browser, r#"read.endsWith(".7\n")"#).await;
    world.cutter.hold(false);
    wait_until(&browser, "ended").await;
    let mut expected = expected(&stream);
    assert_eq!(expected.remove(6).data, "seven");
    assert_eq!(events_of(&browser).await, expected);
    browser.close().await;
    world.was_called_once(1, 0);
}

/// It wants an event stream and asks again for ever, unless its `onopen` knows what 204 means.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium and npm packages: run tests/run"]
async fn fetch_event_source_has_to_be_told_what_204_means() {
    for (page, knows) in [
        ("fetch_event_source.html", false),
        ("fetch_event_source.html?knows-204", true),
    ] {
        let mut world = World::new(&[BEHIND_ALL]).await;
        let browser = Browser::start().await;
        open(&browser, &world, page).await;
        let stream = world
            .send_all(async || events_of(&browser).await.len())
            .await;
        if knows {
            wait_until(&browser, "ended").await;
            world.was_called_once(0, 1);
        } else {
            eventually("more questions", async || {
                (world.handle.stats().complete > 3).then_some(())
            })
            .await;
            assert_eq!(browser.run("return ended", vec![]).await, false);
            assert_eq!(world.calls.load(Relaxed), 1);
        }
        assert_eq!(events_of(&browser).await, expected(&stream));
        browser.close().await;
    }
}

impl World {
    async fn new(cuts: &[&'static str]) -> Self {
        let resume = ResumeLayer::new(MemoryStore::new());
        let handle = resume.handle();
        let (upstream, body) = Upstream::pair();
        let calls = Arc::<AtomicUsize>::default();
        let app = app(calls.clone(), body).layer(SseLayer::new().resume(resume));
        let server = Server::start(Stack::Axum, app, None).await;
        Self {
            cuts: cuts.to_vec(),
            cutter: Cutter::before(server.address, cuts).await,
            handle,
            calls,
            upstream: Some(upstream),
            _server: server,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.cutter.address)
    }

    /// Sends the first event, and the others when the client has it: what has no id yet cannot come
    /// back. And the second half once the first has been cut as often as it will be, so that some
    /// cuts are in what is told again and some in what is new. Returns the name of the stream.
    async fn send_all(&mut self, seen: impl AsyncFn() -> usize) -> String {
        let upstream = self.upstream.take().expect("a stream to be sent");
        let streams = async || self.handle.streams().first().map(|stream| stream.id);
        let stream = eventually("a client", streams).await;
        upstream.send(BEFORE_THE_LAST[0]);
        eventually("an event", async || (seen().await > 0).then_some(())).await;
        let (first, second) = BEFORE_THE_LAST[1..].split_at(4);
        upstream.send(first.concat());
        let in_first = |cut: &&&str| first.concat().contains(**cut);
        let left = self.cuts.len() - self.cuts.iter().filter(in_first).count();
        let cut = async || (self.cutter.left() <= left).then_some(());
        eventually("the first cuts", cut).await;
        for event in second {
            upstream.send(*event);
        }
        stream.to_string()
    }

    /// The service was called by the first request alone; so many went on with its stream, and so
    /// many heard that there is nothing any more.
    fn was_called_once(&self, resumed: u64, complete: u64) {
        assert_eq!(self.calls.load(Relaxed), 1);
        assert_eq!(self.cutter.left(), 0);
        let stats = self.handle.stats();
        assert_eq!((stats.resumed, stats.complete), (resumed, complete));
        assert_eq!((stats.started, stats.lost), (1, 0));
    }
}

/// The stream, for one call; the pages; and the modules of the package.
fn app(calls: Arc<AtomicUsize>, body: Body) -> Router {
    let body = Arc::new(Mutex::new(Some(body)));
    let events = async move |_: Bytes| {
        calls.fetch_add(1, Relaxed);
        let body = body.lock().unwrap().take().expect("one call");
        let last = stream::once(ready(Ok(Bytes::from(LAST))));
        respond(
            EVENT_STREAM,
            Body::from_stream(body.into_data_stream().chain(last)),
        )
    };
    let page = async |Path(name): Path<String>| {
        file(
            "text/html; charset=utf-8",
            &FilePath::new(CLIENTS).join(name),
        )
    };
    let module = async |Path(name): Path<String>| {
        // They import each other without an ending.
        let name = format!("{}.js", name.trim_end_matches(".js"));
        let modules = package("@microsoft/fetch-event-source/lib/esm");
        file("text/javascript", &modules.join(name))
    };
    Router::new()
        .route("/events", any(events))
        .route("/pages/{name}", get(page))
        .route("/fetch-event-source/{name}", get(module))
}

fn file(kind: &str, path: &FilePath) -> Response {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    respond(&[("content-type", kind)], text)
}

async fn open(browser: &Browser, world: &World, page: &str) {
    let url = world.url(&format!("/pages/{page}"));
    browser.page.goto(&url).await.expect("the page");
}

async fn wait_until(browser: &Browser, condition: &str) {
    let script = format!("return {condition}");
    eventually(condition, async || {
        (browser.run(&script, vec![]).await == true).then_some(())
    })
    .await;
}

async fn events_of(browser: &Browser) -> Vec<Event> {
    let events = browser.run("return events", vec![]).await;
    let events = events.as_array().expect("a list");
    events.iter().map(event_of_page).collect()
}

/// What the service has sent, with our ids.
fn expected(stream: &str) -> Vec<Event> {
    let sent = BEFORE_THE_LAST.concat() + LAST;
    let events = reference::parse(sent.as_bytes()).events;
    let numbered = (1..).zip(events);
    numbered
        .map(|(number, event)| Event {
            id: format!("{stream}.{number}"),
            ..event
        })
        .collect()
}
