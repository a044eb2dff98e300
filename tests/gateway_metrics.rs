//! The gateway's `--metrics` and its log: the numbers are those that a client has seen.

#![cfg(all(unix, feature = "metrics", feature = "resume"))]

mod programs;
mod support;

use programs::{
    client,
    gateway::{self, Gateway},
    process::{Process, answer_of, eventually},
};
use support::{
    reference,
    serve::{
        Connection, EVENT_SOURCE, EVENT_STREAM, End, Protocol, Reader, Server, Stack, Upstream,
        soon, upstreams,
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc::UnboundedReceiver,
};

/// A gateway whose metrics can be read, in front of a server whose answers the test writes.
struct World {
    gateway: Gateway,
    metrics: String,
    _server: Server,
    calls: UnboundedReceiver<Upstream>,
}

const EVENT: &str = "data: 1\n\n";
const METRICS: &str = "gateway metrics on ";

impl World {
    async fn start(flags: &[&str]) -> Self {
        let (app, calls) = upstreams(EVENT_STREAM);
        let server = Server::start(Stack::Axum, app, None).await;
        let upstream = format!("http://{}", server.address);
        let own = ["--metrics", "127.0.0.1:0", "--heartbeat", "1h"];
        let mut gateway = Gateway::before(&upstream, &[&own, flags].concat()).await;
        let metrics = gateway.line(METRICS).await;
        Self {
            gateway,
            metrics,
            _server: server,
            calls,
        }
    }

    /// A stream that has had one event.
    async fn stream(&mut self, headers: &[(&str, &str)]) -> (Reader, Upstream) {
        let mut reader = self.ask(headers).await;
        let answer = soon("a call of the upstream", self.calls.recv()).await;
        let answer = answer.expect("the upstream");
        answer.send(EVENT);
        reader.until(EVENT).await;
        (reader, answer)
    }

    async fn ask(&self, headers: &[(&str, &str)]) -> Reader {
        let address = self.gateway.address.parse().expect("an address");
        let mut connection = Connection::open(address, Protocol::Http1).await;
        let answer = connection.send("POST", "/v1/a?key=secret", headers, "");
        soon("a head", answer).await.expect("a head")
    }

    async fn text(&self) -> String {
        client::text(&self.metrics).await.expect("metrics")
    }

    async fn value(&self, name: &str) -> f64 {
        value(&self.text().await, name)
    }

    async fn becomes(&self, name: &str, expected: f64) {
        let what = format!("{name} {expected}");
        eventually(&what, async || {
            (self.value(name).await == expected).then_some(())
        })
        .await;
    }

    /// The one line about a stream, from its reason on.
    async fn log_line(&self) -> String {
        const START: &str = " INFO gateway: stream ended ";
        eventually("a line about the stream", async || {
            let log = self.gateway.stderr();
            let lines: Vec<_> = log.split_inclusive('\n').collect();
            let lines = lines.iter().filter(|line| line.ends_with('\n'));
            let mut lines = lines.filter_map(|line| Some(line.split_once(START)?.1));
            let line = lines.next().map(|line| line.trim_end().to_owned());
            assert_eq!(lines.next(), None, "{log}");
            line
        })
        .await
    }
}

/// The first of that name, with its labels.
fn value(text: &str, name: &str) -> f64 {
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
    line.parse().expect("a number")
}

// === Streams ===

#[tokio::test]
async fn the_numbers_are_those_that_a_client_has_seen() {
    let mut world = World::start(&[]).await;
    let (mut reader, answer) = world.stream(&[]).await;
    assert_eq!(world.value("sse_streams_open").await, 1.0);
    assert_eq!(world.value("sse_events_total").await, 1.0);
    for _ in 0..20 {
        answer.send(EVENT);
        answer.send(": no event\n\n");
    }
    drop(answer);
    assert_eq!(reader.end().await, End::Clean);
    let seen = reference::parse(&reader.read).events.len();
    assert_eq!(seen, 21);
    world
        .becomes("sse_streams_ended_total{reason=\"complete\"}", 1.0)
        .await;
    let text = world.text().await;
    for (name, expected) in [
        ("sse_streams_opened_total", 1),
        ("sse_streams_open", 0),
        ("sse_streams_ended_total{reason=\"disconnected\"}", 0),
        ("sse_events_total", seen),
        ("sse_bytes_total", reader.read.len()),
        ("sse_time_to_head_seconds_count", 1),
        ("sse_time_to_first_event_seconds_count", 1),
        ("sse_time_to_first_event_seconds_bucket{le=\"600\"}", 1),
        ("sse_lifetime_seconds_bucket{le=\"86400\"}", 1),
        ("sse_resume_started_total", 0),
    ] {
        assert_eq!(value(&text, name), expected as f64, "{name} in {text}");
    }
    assert!(text.contains("# HELP sse_events_total "), "{text}");
    assert!(
        text.contains("# TYPE sse_lifetime_seconds histogram"),
        "{text}"
    );
    let line = world.log_line().await;
    let bytes = reader.read.len();
    let start = "reason=complete method=POST path=/v1/a events=21 ";
    assert!(line.starts_with(start), "{line}");
    let counts = format!(" bytes={bytes} heartbeats=0 first_event=");
    assert!(
        line.contains(&counts) && line.contains(" lifetime="),
        "{line}"
    );
}

#[tokio::test]
async fn a_client_that_vanishes_is_counted_and_its_query_is_not_logged() {
    let mut world = World::start(&[]).await;
    let (reader, answer) = world.stream(&[]).await;
    drop(reader);
    answer.is_dropped().await;
    world
        .becomes("sse_streams_ended_total{reason=\"disconnected\"}", 1.0)
        .await;
    assert_eq!(world.value("sse_streams_open").await, 0.0);
    assert_eq!(world.value("sse_events_total").await, 1.0);
    let line = world.log_line().await;
    assert!(line.starts_with("reason=disconnected "), "{line}");
    assert!(!world.gateway.stderr().contains("secret"));
}

#[tokio::test]
async fn a_refused_stream_and_the_limit_are_told() {
    let mut world = World::start(&["--max-streams", "1"]).await;
    let (_reader, _answer) = world.stream(&[]).await;
    let refused = world.ask(EVENT_SOURCE).await;
    assert_eq!(refused.status, 503);
    let text = world.text().await;
    for (name, expected) in [
        ("sse_streams_refused_total{by=\"limit\"}", 1.0),
        ("sse_streams_opened_total", 1.0),
        ("sse_streams_open", 1.0),
        ("gateway_max_streams", 1.0),
    ] {
        assert_eq!(value(&text, name), expected, "{name} in {text}");
    }
}

#[tokio::test]
async fn what_resume_counts_is_there_too() {
    let mut world = World::start(&["--resume", "memory"]).await;
    let (reader, answer) = world.stream(&[]).await;
    let id = reader.headers["sse-stream"].to_str().unwrap().to_owned();
    drop(reader);
    let mut back = world.ask(&[("last-event-id", &format!("{id}.0"))]).await;
    back.until(EVENT).await;
    drop(answer);
    assert_eq!(back.end().await, End::Clean);
    let text = world.text().await;
    for (name, expected) in [
        ("sse_resume_started_total", 1.0),
        ("sse_resume_store_faults_total", 0.0),
        ("sse_streams_resumed_total{outcome=\"resumed\"}", 1.0),
    ] {
        assert_eq!(value(&text, name), expected, "{name} in {text}");
    }
}

// === The second listener ===

#[tokio::test]
async fn a_drain_can_be_watched_and_is_not_held_up() {
    let mut world = World::start(&["--drain-timeout", "30s"]).await;
    let (_reader, answer) = world.stream(&[]).await;
    // a connection to the metrics that says nothing
    let address = world.metrics.strip_prefix("http://").unwrap();
    let address = address.strip_suffix("/metrics").unwrap();
    let _idle = TcpStream::connect(address).await.expect("a connection");
    world.gateway.signal("TERM");
    let log = "draining for";
    eventually(log, async || {
        world.gateway.stderr().contains(log).then_some(())
    })
    .await;
    assert_eq!(world.value("sse_streams_open").await, 1.0);
    drop(answer);
    assert!(world.gateway.exit().await.success());
    let stderr = world.gateway.stderr();
    assert!(!stderr.contains("deadline"), "{stderr}");
}

#[tokio::test]
async fn only_the_page_is_served() {
    let world = World::start(&[]).await;
    let response = client::get(&world.metrics, &[]).await.unwrap();
    let kind = &response.headers()["content-type"];
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    let elsewhere = world.metrics.replace("/metrics", "/");
    let response = client::get(&elsewhere, &[]).await.unwrap();
    assert_eq!(response.status(), 404);
}

#[tokio::test]
async fn off_is_off() {
    let gateway = Gateway::demo(&["--metrics", "off"]).await;
    let text = client::text(&gateway.url("/")).await.unwrap();
    assert!(text.contains("<html"), "{text}");
    let stdout = String::from_utf8(gateway.stdout()).unwrap();
    assert_eq!(stdout.lines().count(), 1, "{stdout}");
}

#[tokio::test]
async fn an_address_that_was_asked_for_must_be_free() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for address in [address.as_str(), "nowhere", ""] {
        let mut command = gateway::command();
        command.args(["--listen", "127.0.0.1:0", "--metrics", address]);
        let output = command.output().unwrap();
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        let start =
            format!("gateway: cannot listen on {address} (--metrics: an address, or off): ");
        assert!(line.starts_with(&start), "{line}");
        assert_eq!(output.stdout, b"", "nothing was announced");
    }
}

#[tokio::test]
async fn the_default_address_may_be_taken() {
    // By us, or by a gateway that stays on this machine.
    let taken = answer_of(async || TcpListener::bind("127.0.0.1:9464").await.ok());
    let _taken = taken.await;
    let mut command = gateway::command();
    command.env_remove("GATEWAY_METRICS");
    let mut process = Process::start(command.args(["--listen", "127.0.0.1:0"]));
    let address = process.line("gateway listening on http://").await;
    let warning = "WARN gateway::metrics: no metrics, choose another --metrics";
    assert!(process.stderr().contains(warning), "{}", process.stderr());
    let page = client::text(&format!("http://{address}/")).await.unwrap();
    assert!(page.contains("<html"));
    let stdout = String::from_utf8(process.stdout()).unwrap();
    assert!(!stdout.contains(METRICS), "{stdout}");
}
