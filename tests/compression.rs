//! Event streams behind real compressors, inside and outside of the layer.

mod support;

use std::{pin::Pin, time::Duration};

use axum::{Router, routing::get};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use support::{
    reference,
    serve::{Connection, EVENT_STREAM, Protocol, Reader, Server, Stack, Upstream, soon, upstreams},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, duplex},
    sync::mpsc,
    time::sleep,
};
use tower_sse::{CompressionBypassLayer, SseLayer, should_compress};

/// The interval of heartbeats.
const OFTEN: Duration = Duration::from_millis(20);

const MIXED_CASE: &[(&str, &str)] = &[("content-type", "Text/Event-Stream; charset=UTF-8")];

/// Where the compressor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Inside,
    Outside,
}

/// Puts a compressor around an app.
type Compress = fn(Router, When) -> Router;

/// When it compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Default,
    Always,
    Ours,
    AlwaysAndOurs,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    compress: Compress,
    place: Place,
    when: When,
    headers: &'static [(&'static str, &'static str)],
    accept: &'static str,
    coding: &'static str,
}

impl Case {
    /// Whether the stream is compressed.
    fn compresses(self) -> bool {
        let asks = self.accept == "text/event-stream";
        match (self.place, self.when) {
            (Place::Inside, _) if asks => false,
            // The rule for event streams compares bytes; outside, they are what it expects.
            (Place::Inside, When::Default) => self.headers == MIXED_CASE,
            (Place::Outside, When::Default) => false,
            (_, When::Always) => true,
            (_, When::Ours | When::AlwaysAndOurs) => false,
        }
    }

    /// Whether the stream was compressed before the layer saw it.
    fn is_opaque(self) -> bool {
        self.place == Place::Inside && self.compresses()
    }

    fn app(self, sse: SseLayer) -> (Router, mpsc::UnboundedReceiver<Upstream>) {
        let (app, opened) = upstreams(self.headers);
        let app = app.route("/page", get(async || page()));
        let app = match self.place {
            Place::Inside => (self.compress)(app, self.when).layer(sse),
            Place::Outside => (self.compress)(app.layer(sse), self.when),
        };
        (app, opened)
    }
}

fn with_0_7(app: Router, when: When) -> Router {
    use tower_http::compression::{CompressionLayer, Predicate, predicate::SizeAbove};

    let layer = CompressionLayer::new();
    match when {
        When::Default => app.layer(layer),
        When::Always => app.layer(layer.compress_when(SizeAbove::new(0))),
        When::Ours => app.layer(layer.compress_when(should_compress)),
        When::AlwaysAndOurs => {
            app.layer(layer.compress_when(SizeAbove::new(0).and(should_compress)))
        }
    }
}

fn with_0_6(app: Router, when: When) -> Router {
    use tower_http_06::compression::{CompressionLayer, Predicate, predicate::SizeAbove};

    let layer = CompressionLayer::new();
    match when {
        When::Default => app.layer(layer),
        When::Always => app.layer(layer.compress_when(SizeAbove::new(0))),
        When::Ours => app.layer(layer.compress_when(should_compress)),
        When::AlwaysAndOurs => {
            app.layer(layer.compress_when(SizeAbove::new(0).and(should_compress)))
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let compressors: [(Compress, _); 3] =
        [(with_0_7, "gzip"), (with_0_7, "br"), (with_0_6, "gzip")];
    for (compress, coding) in compressors {
        for place in [Place::Inside, Place::Outside] {
            for when in [When::Default, When::Always, When::Ours, When::AlwaysAndOurs] {
                for headers in [EVENT_STREAM, MIXED_CASE] {
                    cases.extend(["text/event-stream", "*/*"].map(|accept| Case {
                        compress,
                        place,
                        when,
                        headers,
                        accept,
                        coding,
                    }));
                }
            }
        }
    }
    cases
}

#[tokio::test]
async fn every_event_arrives_as_it_is_sent_and_every_heartbeat_too() {
    join_all(cases().into_iter().map(async |case| {
        let (app, mut opened) = case.app(SseLayer::new().heartbeat(OFTEN));
        let (response, upstream) = open(app, &mut opened, case.accept, case.coding).await;
        let coding = case.compresses().then_some(case.coding);
        assert_eq!(coding_of(&response), coding, "{case:?}");

        let mut decoder = Decoder::new(response);
        if case.is_opaque() {
            // A silence that any other stream would break.
            sleep(OFTEN * 3).await;
        }
        let mut sent = String::new();
        for n in 0..4 {
            let event = format!("id: {n}\ndata: event {n}\n\n");
            sent += &event;
            upstream.send(event);
            let is_there = |text: &str| reference::parse(text.as_bytes()).events.len() == n + 1;
            decoder
                .until(&format!("event {n} of {case:?}"), is_there)
                .await;
            if !case.is_opaque() {
                let heartbeats = decoder.heartbeats();
                let is_there = |text: &str| count_heartbeats(text) > heartbeats;
                decoder
                    .until(&format!("a heartbeat of {case:?}"), is_there)
                    .await;
            }
        }
        drop(upstream);
        decoder.end().await;
        assert_eq!(
            reference::parse(decoder.text.as_bytes()),
            reference::parse(sent.as_bytes()),
            "{case:?}"
        );
        if case.is_opaque() {
            assert_eq!(decoder.text, sent, "{case:?}");
        }
    }))
    .await;
}

#[tokio::test]
async fn other_responses_are_still_compressed() {
    join_all(cases().into_iter().map(async |case| {
        let (app, _opened) = case.app(SseLayer::new());
        let response = request(app, "/page", case.accept, case.coding).await;
        // Who asks for an event stream gets no compression inside, whatever comes.
        let asks = case.place == Place::Inside && case.accept == "text/event-stream";
        let coding = (!asks).then_some(case.coding);
        assert_eq!(coding_of(&response), coding, "{case:?}");
        let mut decoder = Decoder::new(response);
        decoder.end().await;
        assert_eq!(decoder.text, page(), "{case:?}");
    }))
    .await;
}

/// The SDKs of OpenAI and Anthropic ask for their streams so.
#[tokio::test]
async fn every_request_is_rewritten_where_asked_for() {
    for (every, coding) in [(true, None), (false, Some("gzip"))] {
        let (app, mut opened) = upstreams(EVENT_STREAM);
        let bypass = CompressionBypassLayer::new().every_request(every);
        let sse = SseLayer::new().compression_bypass(bypass);
        let app = with_0_7(app, When::Always).layer(sse);
        let (response, upstream) = open(app, &mut opened, "application/json", "gzip").await;
        assert_eq!(coding_of(&response), coding, "every: {every}");
        let mut decoder = Decoder::new(response);
        upstream.send("data: 1\n\n");
        decoder
            .until("the event", |text| text == "data: 1\n\n")
            .await;
    }
}

// ---- what the tests stand on ----

fn page() -> String {
    "<p>Not an event stream, and long enough to be worth it.</p>\n".repeat(20)
}

fn coding_of(response: &Reader) -> Option<&str> {
    let coding = response.headers.get("content-encoding")?;
    Some(coding.to_str().expect("a coding"))
}

async fn open(
    app: Router,
    opened: &mut mpsc::UnboundedReceiver<Upstream>,
    accept: &str,
    coding: &str,
) -> (Reader, Upstream) {
    let response = request(app, "/", accept, coding).await;
    let upstream = opened.recv().await.expect("a stream");
    (response, upstream)
}

async fn request(app: Router, path: &str, accept: &str, coding: &str) -> Reader {
    let server = Server::start(Stack::Axum, app, None).await;
    let mut connection = Connection::open(server.address, Protocol::Http1).await;
    let headers = [("accept", accept), ("accept-encoding", coding)];
    connection.get(path, &headers).await
}

/// What a client makes of a body, as far as it has arrived.
struct Decoder {
    bytes: Pin<Box<dyn AsyncRead>>,
    text: String,
}

impl Decoder {
    fn new(response: Reader) -> Self {
        use async_compression::tokio::bufread::{BrotliDecoder, GzipDecoder};

        let coding = coding_of(&response).map(str::to_owned);
        let (mut to, from) = duplex(64 * 1024);
        let mut body = response.body;
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let frame = frame.expect("bytes").into_data().expect("data");
                to.write_all(&frame).await.expect("a reader");
            }
        });
        let from = BufReader::new(from);
        let bytes: Pin<Box<dyn AsyncRead>> = match coding.as_deref() {
            None => Box::pin(from),
            Some("gzip") => Box::pin(GzipDecoder::new(from)),
            Some("br") => Box::pin(BrotliDecoder::new(from)),
            Some(other) => panic!("content-encoding: {other}"),
        };
        Self {
            bytes,
            text: String::new(),
        }
    }

    /// Reads until what was read is as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        while !wanted(&self.text) {
            assert!(
                soon(what, self.read()).await > 0,
                "an end instead of {what}"
            );
        }
    }

    async fn end(&mut self) {
        while soon("an end", self.read()).await > 0 {}
    }

    async fn read(&mut self) -> usize {
        let mut bytes = [0; 1024];
        let read = self.bytes.read(&mut bytes).await.expect("valid bytes");
        self.text += str::from_utf8(&bytes[..read]).expect("ASCII");
        read
    }

    fn heartbeats(&self) -> usize {
        count_heartbeats(&self.text)
    }
}

fn count_heartbeats(text: &str) -> usize {
    text.matches(": keep-alive\n").count()
}
