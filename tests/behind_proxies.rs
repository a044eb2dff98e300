//! The gateway behind nginx, HAProxy and Caddy, configured as the guide says, and beside it the same
//! service behind the same proxy without the gateway: what passes at once, and what is held back.
//!
//! At once means in lock step: the service says an event when its clients have the one before, and
//! the streams stay open. No clock decides, only that all must happen before everybody's patience ends.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::{
    convert::Infallible,
    env, fs,
    net::TcpListener,
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use Expect::{AtOnce, Held, Late};
use async_compression::tokio::bufread::GzipDecoder;
use axum::{
    Router,
    extract::{Path as Segment, State},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::get,
    serve::ListenerExt,
};
use futures_util::{
    StreamExt,
    future::join_all,
    stream::{self, Stream},
};
use http::{HeaderValue, header::CONTENT_ENCODING};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use programs::{
    client,
    event_clients::heartbeats_in,
    folder::Folder,
    gateway::Gateway,
    process::{Process, eventually},
};
use support::reference;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, duplex},
    sync::broadcast::{self, Sender},
    task::JoinHandle,
};
use tower_sse::{HeartbeatLayer, HeartbeatStart, SseLayer};

/// The page whose configurations are tested.
const GUIDE: &str = include_str!("../src/guide/proxies.md");

/// Where its proxies find the service.
const SERVICE: &str = "127.0.0.1:3000";

/// Few enough to fit into one buffer of nginx.
const EVENTS: usize = 5;

/// So long a silence follows them, in heartbeats.
const SILENCE: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Proxy {
    Nginx,
    Haproxy,
    Caddy,
}

/// A stream, as its service has it and its clients ask for it.
#[derive(Clone, Copy, Debug)]
struct Case {
    accept_encoding: &'static str,
    begins: Begins,
    /// How much padding is in an event. Caddy compresses nothing whose first bytes are few.
    padding: usize,
    /// What the service says of its own coding.
    content_encoding: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begins {
    /// There is nothing at first but the head, and soon a heartbeat, if there is somebody to send one.
    Silent,
    /// The head and the first event come together.
    WithEvent,
}

/// What becomes of a stream on its way through a proxy, and the coding in which it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    AtOnce(Option<&'static str>),
    /// The end of each event arrives with the next one.
    Late(Option<&'static str>),
    /// No event arrives before the service has ended, and then all do.
    Held(Option<&'static str>),
}

const GZIP: Option<&str> = Some("gzip");

const PLAIN: Case = Case {
    accept_encoding: "identity",
    begins: Begins::Silent,
    padding: 0,
    content_encoding: None,
};

const CODED: Case = Case {
    accept_encoding: "gzip",
    ..PLAIN
};

const LARGE: Case = Case {
    begins: Begins::WithEvent,
    padding: 600,
    ..PLAIN
};

const LARGE_CODED: Case = Case {
    accept_encoding: "gzip",
    ..LARGE
};

/// What is seen with the gateway, and without it.
type Row = (Case, Expect, Expect);

// === As the guide says ===

/// nginx keeps what it has until the service ends, also the head, unless it is told otherwise. Then it
/// also flushes what it compresses.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx: run tests/run"]
async fn nginx_holds_events_back_where_the_gateway_is_not_behind_it() {
    let rows = [
        (PLAIN, AtOnce(None), Held(None)),
        (LARGE, AtOnce(None), Held(None)),
        (CODED, AtOnce(GZIP), Held(GZIP)),
        (LARGE_CODED, AtOnce(GZIP), Held(GZIP)),
    ];
    Proxy::Nginx.shows(&Proxy::Nginx.recipe(), &rows).await;
}

/// nginx keeps the header for itself: the one behind it, as seen from the service, is only told where
/// that is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs nginx: run tests/run"]
async fn of_two_nginx_the_first_must_pass_the_header_on() {
    let rows = [
        (PLAIN, AtOnce(None), Held(None)),
        (LARGE_CODED, AtOnce(GZIP), Held(GZIP)),
    ];
    assert!(GUIDE.contains(PASS_ON));
    let recipe = Proxy::Nginx.recipe();
    let service = Service::start(rows.iter().map(|(case, ..)| *case), None).await;
    let gateway = service.gateway().await;
    let outer =
        async |inner: &Running| Proxy::Nginx.before(&recipe, &inner.address, &service).await;
    let passes = recipe.replace("proxy_pass ", &format!("{PASS_ON}\n        proxy_pass "));
    let [passes, keeps] =
        [&passes, &recipe].map(|config| Proxy::Nginx.before(config, &gateway.address, &service));
    let [passes, keeps] = [passes.await, keeps.await];
    let [with, without] = [outer(&passes).await, outer(&keeps).await];
    let addresses = [&gateway.address, &with.address, &without.address];
    see_all(&service, &rows, addresses).await;
}

/// As the guide says it.
const PASS_ON: &str = "proxy_pass_header X-Accel-Buffering;";

/// What HAProxy compresses it flushes but for the last bits, so that a client is always one event
/// behind. It honours `no-transform`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs HAProxy: run tests/run"]
async fn haproxy_holds_the_last_event_back_where_the_gateway_is_not_behind_it() {
    let rows = [
        (PLAIN, AtOnce(None), AtOnce(None)),
        (LARGE, AtOnce(None), AtOnce(None)),
        (CODED, AtOnce(None), Late(GZIP)),
        (LARGE_CODED, AtOnce(None), Late(GZIP)),
    ];
    Proxy::Haproxy.shows(&Proxy::Haproxy.recipe(), &rows).await;
}

/// Caddy knows event streams and holds nothing back, where it is kept from compressing them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Caddy: run tests/run"]
async fn caddy_passes_events_on_where_it_is_told_what_to_compress() {
    let rows = [PLAIN, LARGE, CODED, LARGE_CODED].map(|case| (case, AtOnce(None), AtOnce(None)));
    Proxy::Caddy.shows(&Proxy::Caddy.recipe(), &rows).await;
}

// === Caddy, as many have it ===

/// With `encode gzip` alone Caddy compresses event streams too, if their first bytes are many, and
/// version 2.6 then holds them back and does not look at `no-transform`, which later ones do. So not
/// every stream of the gateway passes: a heartbeat must come first, or the service must have named its
/// coding.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Caddy: run tests/run"]
async fn caddy_that_compresses_all_holds_large_events_back() {
    let after_silence = Case {
        begins: Begins::Silent,
        ..LARGE_CODED
    };
    let named = Case {
        content_encoding: Some("identity"),
        ..LARGE_CODED
    };
    let identity = AtOnce(named.content_encoding);
    let rows = [
        (PLAIN, AtOnce(None), AtOnce(None)),
        (LARGE, AtOnce(None), AtOnce(None)),
        (CODED, AtOnce(None), AtOnce(None)),
        (LARGE_CODED, Held(GZIP), Held(GZIP)),
        (after_silence, AtOnce(None), Held(GZIP)),
        (named, identity, identity),
    ];
    Proxy::Caddy.shows(&gzip_for_all(), &rows).await;
}

fn gzip_for_all() -> String {
    format!("example.com {{\n    encode gzip\n    reverse_proxy {SERVICE}\n}}\n")
}

/// Such a heartbeat need not be waited for: it comes with the head.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Caddy: run tests/run"]
async fn caddy_that_compresses_all_is_opened_by_a_heartbeat_at_once() {
    let after_silence = Case {
        begins: Begins::Silent,
        ..LARGE_CODED
    };
    let heartbeat = HeartbeatLayer::every(Duration::from_secs(3600)).start(HeartbeatStart::AtOnce);
    let layer = SseLayer::new().heartbeat(heartbeat);
    let service = Service::start([after_silence].into_iter(), Some(layer)).await;
    let caddy = Proxy::Caddy
        .before(&gzip_for_all(), &service.address, &service)
        .await;
    let reader = Reader::open(format!("http://{}/streams/0", caddy.address), after_silence);
    reader.has_heartbeats(1).await;
    for event in 0..EVENTS {
        service.say(0, event);
        reader.has_events(event + 1).await;
    }
    service.end(0);
    assert_eq!(reader.finish().await.0, None);
}

// === A service ===

/// Streams of axum, one for each case, whose events the test says.
struct Service {
    address: String,
    streams: Streams,
}

type Streams = Arc<[(Case, Mutex<Option<Sender<usize>>>)]>;

impl Service {
    async fn start(cases: impl Iterator<Item = Case>, layer: Option<SseLayer>) -> Self {
        let streams = cases.map(|case| (case, Mutex::new(Some(broadcast::channel(EVENTS).0))));
        let streams: Streams = streams.collect();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0");
        let listener = listener.await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let app = Router::new()
            .route("/streams/{n}", get(Self::stream))
            .route("/whose", get(address.clone()))
            .with_state(streams.clone());
        let app = match layer {
            Some(layer) => app.layer(layer),
            None => app,
        };
        let listener = listener.tap_io(|socket| socket.set_nodelay(true).expect("a socket"));
        tokio::spawn(async { axum::serve(listener, app).await });
        Self { address, streams }
    }

    async fn gateway(&self) -> Gateway {
        let url = format!("http://{}", self.address);
        Gateway::before(&url, &["--heartbeat", "300ms"]).await
    }

    /// What axum makes of it: no header but `Content-Type` and `Cache-Control: no-cache`.
    async fn stream(State(streams): State<Streams>, Segment(n): Segment<usize>) -> Response {
        let (case, says) = &streams[n];
        let hears = says.lock().unwrap().as_ref().expect("open").subscribe();
        let mut response = Sse::new(case.events(hears)).into_response();
        if let Some(coding) = case.content_encoding {
            let coding = HeaderValue::from_static(coding);
            response.headers_mut().insert(CONTENT_ENCODING, coding);
        }
        response
    }

    /// Waits until so many have opened the stream.
    async fn has_readers(&self, n: usize, readers: usize) {
        eventually("the readers", async || {
            let says = self.streams[n].1.lock().unwrap();
            let count = says.as_ref().expect("open").receiver_count();
            (count == readers).then_some(())
        })
        .await;
    }

    fn say(&self, n: usize, event: usize) {
        let says = self.streams[n].1.lock().unwrap();
        says.as_ref().expect("open").send(event).expect("readers");
    }

    fn end(&self, n: usize) {
        *self.streams[n].1.lock().unwrap() = None;
    }
}

impl Case {
    fn events(
        self,
        hears: broadcast::Receiver<usize>,
    ) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
        let live = stream::unfold(hears, async |mut hears| {
            Some((hears.recv().await.ok()?, hears))
        });
        let first = stream::iter(0..self.before());
        let events = first.chain(live);
        events.map(move |n| Ok(Event::default().data(self.data(n))))
    }

    /// How many events are there before the test says one.
    fn before(self) -> usize {
        usize::from(self.begins == Begins::WithEvent)
    }

    fn data(self, n: usize) -> String {
        format!("{n}{}", "x".repeat(self.padding))
    }
}

// === What is seen ===

impl Proxy {
    /// Has each stream read through the proxy twice, and once without it, at the same time.
    async fn shows(self, config: &str, rows: &[Row]) {
        let service = Service::start(rows.iter().map(|(case, ..)| *case), None).await;
        let gateway = service.gateway().await;
        let with = self.before(config, &gateway.address, &service).await;
        let without = self.before(config, &service.address, &service).await;
        let addresses = [&gateway.address, &with.address, &without.address];
        see_all(&service, rows, addresses).await;
    }
}

/// The addresses are the gateway's, and the proxy's with it and without it.
async fn see_all(service: &Service, rows: &[Row], addresses: [&String; 3]) {
    let rows = rows.iter().enumerate();
    join_all(rows.map(|(n, row)| {
        let url = |address| format!("http://{address}/streams/{n}");
        let readers = addresses.map(|address| Reader::open(url(address), row.0));
        see(service, n, row, readers)
    }))
    .await;
}

async fn see(
    service: &Service,
    n: usize,
    (case, with, without): &Row,
    [control, through, bare]: [Reader; 3],
) {
    service.has_readers(n, 3).await;
    let readers = [
        (&control, AtOnce(None)),
        (&through, *with),
        (&bare, *without),
    ];
    if case.begins == Begins::Silent {
        // So does the head, which Caddy keeps until something follows it.
        through.has_heartbeats(with.of(1)).await;
    }
    for event in 0..EVENTS {
        if event >= case.before() {
            service.say(n, event);
        }
        for (reader, expect) in &readers {
            reader.has_events(expect.of(event + 1)).await;
        }
    }
    control.has_heartbeats(SILENCE).await;
    through.has_heartbeats(with.of(SILENCE)).await;
    for (reader, expect) in readers {
        let seen = reader.events().len();
        assert_eq!(seen, expect.of(EVENTS), "{case:?}: {expect:?}");
    }
    service.end(n);
    let all: Vec<_> = (0..EVENTS).map(|event| case.data(event)).collect();
    for (reader, expect) in [(through, with), (bare, without)] {
        let (coding, events) = reader.finish().await;
        assert_eq!(coding.as_deref(), expect.coding(), "{case:?}");
        assert_eq!(events, all, "{case:?}");
    }
}

impl Expect {
    /// How many of `sent` events have arrived when there is nothing more to come.
    fn of(self, sent: usize) -> usize {
        match self {
            AtOnce(_) => sent,
            Late(_) => sent - 1,
            Held(_) => 0,
        }
    }

    fn coding(self) -> Option<&'static str> {
        let (AtOnce(coding) | Late(coding) | Held(coding)) = self;
        coding
    }
}

/// A client with an open stream, which it decodes as it comes.
struct Reader {
    bytes: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<Option<String>>,
}

impl Reader {
    fn open(url: String, case: Case) -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let task = tokio::spawn(Self::read(url, case.accept_encoding, bytes.clone()));
        Self { bytes, task }
    }

    async fn read(url: String, accept: &str, bytes: Arc<Mutex<Vec<u8>>>) -> Option<String> {
        let headers = [("accept", "text/event-stream"), ("accept-encoding", accept)];
        let response = client::get(&url, &headers).await.expect("a response");
        let coding = response.headers().get(CONTENT_ENCODING).cloned();
        let coding = coding.map(|coding| coding.to_str().expect("text").to_owned());
        let (mut sends, receives) = duplex(64 * 1024);
        let body = response.into_body();
        let sending = tokio::spawn(async move { forward(body, &mut sends).await });
        if coding.as_deref() == GZIP {
            keep(GzipDecoder::new(BufReader::new(receives)), &bytes).await;
        } else {
            keep(receives, &bytes).await;
        }
        sending.await.expect("a whole body");
        coding
    }

    fn events(&self) -> Vec<String> {
        let events = reference::parse(&self.bytes.lock().unwrap()).events;
        events.into_iter().map(|event| event.data).collect()
    }

    async fn has_events(&self, count: usize) {
        eventually("the event", async || {
            (self.events().len() >= count).then_some(())
        })
        .await;
    }

    async fn has_heartbeats(&self, more: usize) {
        let count = || heartbeats_in(&self.bytes.lock().unwrap());
        let before = count();
        eventually("heartbeats in the silence", async || {
            (count() >= before + more).then_some(())
        })
        .await;
    }

    /// Waits for the end; returns the coding in which the stream came, and its events.
    async fn finish(self) -> (Option<String>, Vec<String>) {
        let events = self.bytes.clone();
        let coding = self.task.await.expect("a response");
        let events = reference::parse(&events.lock().unwrap()).events;
        (coding, events.into_iter().map(|event| event.data).collect())
    }
}

async fn forward(mut body: Incoming, to: &mut (impl AsyncWriteExt + Unpin)) {
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.expect("a whole body").into_data() {
            to.write_all(&data).await.expect("a reader");
        }
    }
}

async fn keep(mut from: impl AsyncReadExt + Unpin, bytes: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let length @ 1.. = from.read(&mut buffer).await.expect("whole bytes") {
        bytes.lock().unwrap().extend_from_slice(&buffer[..length]);
    }
}

// === The proxies ===

/// A proxy that runs.
struct Running {
    _process: Process,
    _folder: Folder,
    address: String,
}

impl Proxy {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Caddy => "caddy",
        }
    }

    /// The guide's configuration.
    fn recipe(self) -> String {
        let fence = format!("```{}\n", self.name());
        let mut blocks = GUIDE.split(&fence).skip(1);
        let recipe = blocks.next().and_then(|rest| rest.split_once("```"));
        assert!(blocks.next().is_none(), "two recipes for {self:?}");
        recipe.expect("a recipe").0.to_owned()
    }

    /// Starts it with `config` in front of `upstream`, behind which `service` is.
    async fn before(self, config: &str, upstream: &str, service: &Service) -> Running {
        // None of them can choose a port by itself, and another program may be faster.
        for _ in 0..5 {
            let folder = Folder::new(self.name());
            let address = free_address();
            let config = self.fill_in(config, &address, upstream, folder.path());
            let mut process = Process::start(&mut self.command(&folder, &config));
            if is_up(&mut process, &address, &service.address).await {
                return Running {
                    _process: process,
                    _folder: folder,
                    address,
                };
            }
        }
        panic!("{self:?} found no free port");
    }

    fn fill_in(self, config: &str, address: &str, upstream: &str, folder: &str) -> String {
        let (listens, around) = match self {
            Self::Nginx => (
                ("listen 80;", format!("listen {address};")),
                include_str!("behind_proxies/nginx.conf"),
            ),
            Self::Haproxy => (("bind :80", format!("bind {address}")), "@SITE@"),
            Self::Caddy => (
                ("example.com ", format!("http://{address} ")),
                include_str!("behind_proxies/Caddyfile"),
            ),
        };
        let (shown, real) = listens;
        for word in [shown, SERVICE] {
            assert_eq!(config.matches(word).count(), 1, "{word} in {config}");
        }
        let site = config.replace(shown, &real).replace(SERVICE, upstream);
        around.replace("@SITE@", &site).replace("@FOLDER@", folder)
    }

    fn command(self, folder: &Folder, config: &str) -> Command {
        let file = Path::new(folder.path()).join("config");
        fs::write(&file, config).expect("a file in target/tmp");
        let mut command = Command::new(self.name());
        // Where Debian has servers, which is not in everybody's.
        let path = env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin"));
        match self {
            Self::Nginx => command
                .args(["-e", "stderr", "-p", folder.path(), "-c"])
                .arg(file),
            Self::Haproxy => command.args(["-db", "-f"]).arg(file),
            Self::Caddy => command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(file)
                .envs(
                    ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"].map(|home| (home, folder.path())),
                ),
        };
        command
    }
}

/// Waits until it answers for that service; false if the port was taken.
async fn is_up(process: &mut Process, address: &str, service: &str) -> bool {
    let whose = format!("http://{address}/whose");
    let up = eventually("the proxy", async || match process.exit_status() {
        Some(_) => Some(false),
        None => (client::text(&whose).await.ok()? == service).then_some(true),
    })
    .await;
    let taken = process.stderr().contains("in use");
    assert!(up || taken, "{}", process.stderr());
    up
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").to_string()
}
