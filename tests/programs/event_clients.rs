//! Three clients for event streams: curl, a browser's `EventSource` and a Rust library.

use std::{
    process::Command,
    sync::{Arc, Mutex},
};

use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyDataStream;
use serde_json::{Value, json};
use sse_stream::{Sse, SseByteStream};
use tokio::task::JoinHandle;

use super::{browser::Browser, client, process::Process};
use crate::support::reference::{self, Event};

/// The event types that the tests use: a browser wants to know them beforehand.
pub(crate) const KINDS: [&str; 3] = ["message", "note", "größe"];

/// A client with an open stream.
pub(crate) trait EventClient: Sized {
    async fn open(url: &str) -> Self;
    /// All events so far.
    async fn events(&self) -> Vec<Event>;
    /// How many comments came in so far, from the raw bytes.
    async fn heartbeats(&self) -> usize;
    async fn close(self);
}

/// curl without the settings and the proxies of who runs the tests.
pub(crate) fn curl() -> Command {
    let mut command = Command::new("curl");
    command.args(["-q", "--noproxy", "*"]);
    command
}

/// `curl -N`, which says `Accept: */*`.
pub(crate) struct Curl(Process);

impl EventClient for Curl {
    async fn open(url: &str) -> Self {
        Self(Process::start(curl().args([
            "--silent",
            "--show-error",
            "-N",
            url,
        ])))
    }

    async fn events(&self) -> Vec<Event> {
        reference::parse(&self.0.stdout()).events
    }

    async fn heartbeats(&self) -> usize {
        heartbeats_in(&self.0.stdout())
    }

    async fn close(self) {}
}

/// Chromium: one `EventSource` for the events and one `fetch` for the raw bytes.
pub(crate) struct Chromium(Browser);

impl EventClient for Chromium {
    async fn open(url: &str) -> Self {
        let browser = Browser::start().await;
        // Any page of the same origin will do; the servers here answer with their 404 page.
        let origin = url.rsplit_once('/').expect("a path").0;
        browser
            .page
            .goto(&format!("{origin}/a-page"))
            .await
            .expect("a page");
        browser.run(OPEN, vec![json!(url), json!(KINDS)]).await;
        Self(browser)
    }

    async fn events(&self) -> Vec<Event> {
        let events = self.0.run("return window.events", vec![]).await;
        events
            .as_array()
            .expect("a list")
            .iter()
            .map(event_of_page)
            .collect()
    }

    async fn heartbeats(&self) -> usize {
        let raw = self.0.run("return window.raw", vec![]).await;
        heartbeats_in(raw.as_str().expect("text").as_bytes())
    }

    async fn close(self) {
        self.0.close().await;
    }
}

const OPEN: &str = r#"
    const [url, kinds] = arguments;
    window.events = [];
    window.raw = "";
    const source = new EventSource(url);
    for (const kind of kinds)
        source.addEventListener(kind, (event) =>
            window.events.push({ kind: event.type, data: event.data, id: event.lastEventId }));
    fetch(url, { headers: { accept: "text/event-stream" } }).then(async (response) => {
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let part; !(part = await reader.read()).done; ) window.raw += part.value;
    });
"#;

/// hyper-util's client with the parser of the `sse-stream` crate.
pub(crate) struct Rust {
    events: Arc<Mutex<Vec<Event>>>,
    raw: Arc<Mutex<Vec<u8>>>,
    reading: JoinHandle<Result<(), sse_stream::Error>>,
}

impl Rust {
    pub(crate) fn raw(&self) -> Vec<u8> {
        self.raw.lock().unwrap().clone()
    }

    /// All bytes and all events of a stream that ends.
    pub(crate) async fn finish(self) -> (Vec<u8>, Vec<Event>) {
        let end = self.reading.await.expect("no panic");
        end.expect("an end without an error");
        let events = self.events.lock().unwrap().clone();
        let raw = self.raw.lock().unwrap().clone();
        (raw, events)
    }
}

impl EventClient for Rust {
    async fn open(url: &str) -> Self {
        let response = client::get(url, &[("accept", "text/event-stream")])
            .await
            .expect("a response");
        assert_eq!(response.status(), 200);
        let events = Arc::<Mutex<Vec<Event>>>::default();
        let raw = Arc::<Mutex<Vec<u8>>>::default();
        let copy = raw.clone();
        let bytes = BodyDataStream::new(response.into_body())
            .inspect_ok(move |bytes| copy.lock().unwrap().extend_from_slice(bytes));
        let sink = events.clone();
        let reading = tokio::spawn(async move {
            let mut last_id = String::new();
            let mut blocks = SseByteStream::new(bytes);
            while let Some(block) = blocks.next().await {
                sink.lock().unwrap().extend(event_of(block?, &mut last_id));
            }
            Ok(())
        });
        Self {
            events,
            raw,
            reading,
        }
    }

    async fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    async fn heartbeats(&self) -> usize {
        heartbeats_in(&self.raw.lock().unwrap())
    }

    async fn close(self) {
        self.reading.abort();
    }
}

/// The crate gives raw blocks; ids last from block to block, and one without data is no event.
fn event_of(block: Sse, last_id: &mut String) -> Option<Event> {
    if let Some(id) = block.id {
        *last_id = id;
    }
    let kind = block
        .event
        .filter(|kind| !kind.is_empty())
        .unwrap_or("message".to_owned());
    Some(Event {
        kind,
        data: block.data?,
        id: last_id.clone(),
    })
}

pub(crate) fn event_of_page(event: &Value) -> Event {
    let field = |name| event[name].as_str().expect("text").to_owned();
    Event {
        kind: field("kind"),
        data: field("data"),
        id: field("id"),
    }
}

/// Comment lines, whatever ends the lines around them.
pub(crate) fn heartbeats_in(stream: &[u8]) -> usize {
    let lines = stream.split(|byte| matches!(byte, b'\r' | b'\n'));
    lines.filter(|line| line.starts_with(b":")).count()
}
