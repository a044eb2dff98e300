//! The gateway's `--resume`: an answer outlives its connection, and even its gateway.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::{ops::RangeInclusive, process::Output};

use axum::Router;
use http::HeaderMap;
use programs::{
    client,
    gateway::{self, Gateway},
    process::Process,
};
use support::{
    reference,
    serve::{
        Connection, EVENT_SOURCE, EVENT_STREAM, End, Protocol, Reader, Server, Stack, Upstream,
        soon, upstreams,
    },
};
use tokio::sync::mpsc::UnboundedReceiver;

/// A server whose answers the test writes event by event, and each call of it.
struct Platform {
    server: Server,
    calls: UnboundedReceiver<Upstream>,
}

const CHAT: &str = "/v1/chat/completions";

/// Well-formed, and nobody's.
const GONE: &str = "ts_00000000000000000000000000000000.1";

impl Platform {
    async fn start() -> Self {
        let (app, calls) = upstreams(EVENT_STREAM);
        Self {
            server: Server::start(Stack::Axum, app, None).await,
            calls,
        }
    }

    /// Without heartbeats, which would make a wait for an event endless.
    async fn gateway(&self, flags: &[&str]) -> Gateway {
        let upstream = format!("http://{}", self.server.address);
        Gateway::before(&upstream, &[&["--heartbeat", "1h"], flags].concat()).await
    }

    async fn call(&mut self) -> Upstream {
        let call = soon("a call of the upstream", self.calls.recv());
        call.await.expect("the upstream")
    }

    fn was_not_called_again(&mut self) {
        assert!(self.calls.try_recv().is_err(), "it was called again");
    }
}

// === Flags ===

#[test]
fn a_bad_flag_is_one_line_that_names_it() {
    for (flag, value) in [
        ("--resume", "sometimes"),
        ("--resume", ""),
        ("--resume-paths", "v1"),
        ("--resume-grace", "soon"),
        ("--on-loss", "500"),
    ] {
        let line = refused(&[flag, value]);
        assert!(line.contains(flag), "{line}");
    }
}

#[test]
#[cfg(feature = "redis")]
fn a_wrong_redis_is_one_line_that_does_not_tell_the_password() {
    for url in [
        "redis://",
        "redis://:secret@127.0.0.1:port",
        "rediss://:secret@127.0.0.1/database",
        "http://:secret@127.0.0.1",
    ] {
        let line = refused(&["--resume", url]);
        assert!(line.contains("--resume"), "{line}");
        assert!(!line.contains("secret"), "{line}");
    }
}

#[test]
#[cfg(not(feature = "redis"))]
fn without_the_feature_one_line_says_how_to_get_redis() {
    let line = refused(&["--resume", "redis://:secret@127.0.0.1"]);
    assert!(line.contains("--features redis"), "{line}");
    assert!(!line.contains("secret"), "{line}");
}

#[test]
fn help_does_not_tell_the_password() {
    let mut help = gateway::command();
    help.arg("--help");
    let help = help.env("GATEWAY_RESUME", "redis://:secret@127.0.0.1");
    let text = String::from_utf8(help.output().unwrap().stdout).unwrap();
    assert!(text.contains("GATEWAY_RESUME"), "{text}");
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn the_demo_keeps_answers_but_not_feeds_and_other_upstreams_are_asked_for() {
    let demo = Gateway::demo(&[]).await;
    let off = Gateway::demo(&["--resume", "off"]).await;
    let all = Gateway::demo(&["--resume-paths", "/sse,/training"]).await;
    let upstream = Platform::start().await;
    let other = upstream.gateway(&[]).await;
    let (answers, feed) = ("/v1/completions?pause_ms=0", "/training?pause_ms=0");
    for (gateway, path, kept) in [
        (&demo, answers, true),
        (&demo, feed, false),
        (&off, answers, false),
        (&all, answers, false),
        (&all, feed, true),
        (&other, answers, false),
    ] {
        let answer = listen(gateway, path, "").await;
        assert_eq!(answer.headers.contains_key("sse-stream"), kept, "{path}");
    }
}

#[tokio::test]
async fn variables_do_what_the_flags_do() {
    let mut command = gateway::command();
    command
        .args(["--listen", "127.0.0.1:0"])
        .env("GATEWAY_UPSTREAM", "http://127.0.0.1:1")
        .env("GATEWAY_RESUME", "memory")
        .env("GATEWAY_RESUME_PATHS", "/a,/b")
        .env("GATEWAY_RESUME_GRACE", "1s")
        .env("GATEWAY_ON_LOSS", "410");
    let mut process = Process::start(&mut command);
    let address = process.line("gateway listening on http://").await;
    for (path, status) in [("/a", 410), ("/b/c", 410), ("/c", 502)] {
        let url = format!("http://{address}{path}");
        let answer = client::get(&url, &[("last-event-id", GONE)]).await;
        assert_eq!(answer.unwrap().status(), status, "{path}");
    }
}

fn refused(flags: &[&str]) -> String {
    let Output { status, stderr, .. } = gateway::command().args(flags).output().unwrap();
    let line = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    line
}

// === One gateway ===

#[tokio::test]
async fn a_cut_post_goes_on_without_a_gap_and_the_upstream_is_called_once() {
    let mut platform = Platform::start().await;
    let gateway = platform.gateway(&["--resume", "memory"]).await;
    let mut cut = post(&gateway, "").await;
    let answer = platform.call().await;
    answer.send(events(1..=5));
    cut.until(&events(5..=5)).await;
    let stream = header(&cut, "sse-stream").to_owned();
    drop(cut);

    answer.send(events(6..=8));
    let mut rest = post(&gateway, &format!("{stream}.3")).await;
    assert_eq!(header(&rest, "sse-resume"), "resumed");
    rest.until(&events(8..=8)).await;
    answer.send(events(9..=10));
    drop(answer);
    assert_eq!(rest.end().await, End::Clean);
    assert_eq!(rest.text(), events(4..=10));

    let mut again = post(&gateway, &format!("{stream}.8")).await;
    assert_eq!(again.end().await, End::Clean);
    assert_eq!(again.text(), events(9..=10), "also of one that has ended");
    let over = post(&gateway, &format!("{stream}.10")).await;
    assert_eq!(over.status, 204);
    assert_eq!(header(&over, "sse-resume"), "complete");
    platform.was_not_called_again();
}

#[tokio::test]
async fn an_event_source_gets_ids_and_its_page_says_the_last_one_in_the_query() {
    let mut platform = Platform::start().await;
    let gateway = platform.gateway(&["--resume", "memory"]).await;
    let mut lost = listen(&gateway, "/v1/a?b=c", "").await;
    let answer = platform.call().await;
    answer.send(events(1..=3));
    let stream = header(&lost, "sse-stream").to_owned();
    lost.until(&format!("id: {stream}.3\n\n")).await;
    drop(lost);

    let reloaded = format!("/v1/a?b=c&last_event_id={stream}.2");
    let mut rest = listen(&gateway, &reloaded, "").await;
    answer.send(events(4..=4));
    drop(answer);
    assert_eq!(rest.end().await, End::Clean);
    let ids = [3, 4].map(|n| format!("{stream}.{n}"));
    let read = reference::parse(&rest.read).events;
    let read: Vec<_> = read.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(read, ids);
    platform.was_not_called_again();
}

#[tokio::test]
async fn ids_of_the_upstream_reach_it_untouched() {
    let gateway = Gateway::demo(&["--resume-paths", "/"]).await;
    let path = "/training?epochs=3&pause_ms=0";
    let in_the_query = format!("{path}&last_event_id=2");
    for (path, last) in [(path, "2"), (&in_the_query, "")] {
        let mut rest = listen(&gateway, path, last).await;
        assert_eq!(rest.end().await, End::Clean);
        let ids: Vec<_> = reference::parse(&rest.read)
            .events
            .into_iter()
            .map(|event| event.id)
            .collect();
        assert_eq!(ids, ["3", "4"], "{path}");
    }
    let over = listen(&gateway, path, "4").await;
    assert_eq!(over.status, 204, "as the demo says it");
    assert_eq!(header(&over, "sse-resume"), "");
}

#[tokio::test]
async fn what_is_gone_follows_the_policy() {
    for (policy, status, calls) in [("start-anew", 200, 1), ("204", 204, 0), ("410", 410, 0)] {
        let mut platform = Platform::start().await;
        let flags = ["--resume", "memory", "--on-loss", policy];
        let gateway = platform.gateway(&flags).await;
        let answer = post(&gateway, GONE).await;
        assert_eq!(answer.status, status, "{policy}");
        assert_eq!(header(&answer, "sse-resume"), "lost", "{policy}");
        for _ in 0..calls {
            platform.call().await;
        }
        platform.was_not_called_again();
    }
}

#[tokio::test]
async fn without_resume_ids_like_ours_are_the_upstreams() {
    let echo = Router::new().fallback(async |headers: HeaderMap| {
        let last = headers.get("last-event-id").cloned();
        last.map(|last| last.to_str().unwrap().to_owned())
            .unwrap_or_default()
    });
    let echo = Server::start(Stack::Axum, echo, None).await;
    let gateway = Gateway::before(&format!("http://{}", echo.address), &[]).await;
    let mut answer = post(&gateway, GONE).await;
    assert_eq!(answer.end().await, End::Clean);
    assert_eq!(answer.text(), GONE);
}

#[tokio::test]
async fn an_answer_without_a_reader_is_given_up_after_the_grace() {
    let mut platform = Platform::start().await;
    let flags = ["--resume", "memory", "--resume-grace", "0s"];
    let gateway = platform.gateway(&flags).await;
    let mut cut = post(&gateway, "").await;
    let answer = platform.call().await;
    answer.send(events(1..=2));
    cut.until(&events(2..=2)).await;
    let stream = header(&cut, "sse-stream").to_owned();
    drop(cut);
    answer.is_dropped().await;
    let anew = post(&gateway, &format!("{stream}.2")).await;
    assert_eq!(header(&anew, "sse-resume"), "lost");
    platform.call().await;
}

#[tokio::test]
async fn what_nobody_can_come_back_to_does_not_hold_up_the_exit() {
    let mut platform = Platform::start().await;
    let flags = ["--resume", "memory", "--drain-timeout", "1h"];
    let mut gateway = platform.gateway(&flags).await;
    let mut cut = post(&gateway, "").await;
    let answer = platform.call().await;
    answer.send(events(1..=1));
    cut.until(&events(1..=1)).await;
    drop(cut);
    gateway.signal("TERM");
    assert!(gateway.exit().await.success(), "{}", gateway.stderr());
}

#[tokio::test]
#[cfg(feature = "redis")]
async fn a_redis_that_is_down_holds_up_neither_the_start_nor_an_answer() {
    let mut platform = Platform::start().await;
    let gateway = platform.gateway(&["--resume", "redis://127.0.0.1:1"]).await;
    let mut reader = post(&gateway, "").await;
    let answer = platform.call().await;
    answer.send(events(1..=3));
    drop(answer);
    assert_eq!(reader.end().await, End::Clean);
    assert_eq!(reader.text(), events(1..=3));
}

// === Two gateways on one Redis ===

#[cfg(feature = "redis")]
mod two {
    use super::*;
    use crate::programs::{process::eventually, redis::Redis};

    /// Two gateways before one platform.
    struct Two {
        platform: Platform,
        a: Gateway,
        b: Gateway,
        _redis: Redis,
    }

    impl Two {
        async fn start(flags: &[&str]) -> Self {
            let platform = Platform::start().await;
            let redis = Redis::start().await;
            let url = redis.url();
            let flags = [&["--resume", &url], flags].concat();
            Self {
                a: platform.gateway(&flags).await,
                b: platform.gateway(&flags).await,
                platform,
                _redis: redis,
            }
        }

        /// A stream on A that an `EventSource` has read up to event `last`.
        async fn stream(&mut self, last: usize) -> (String, Reader, Upstream) {
            let mut reader = listen(&self.a, CHAT, "").await;
            let answer = self.platform.call().await;
            answer.send(events(1..=last));
            let stream = header(&reader, "sse-stream").to_owned();
            reader.until(&format!("id: {stream}.{last}\n\n")).await;
            (stream, reader, answer)
        }
    }

    #[tokio::test]
    #[ignore = "needs redis-server: run tests/run"]
    async fn who_started_on_one_goes_on_at_the_other_while_it_is_produced() {
        let mut two = Two::start(&[]).await;
        let (stream, reader, answer) = two.stream(5).await;
        let mut rest = post(&two.b, &format!("{stream}.2")).await;
        assert_eq!(header(&rest, "sse-resume"), "resumed");
        rest.until(&events(5..=5)).await;
        drop(reader);
        for n in 6..=20 {
            answer.send(events(n..=n));
            rest.until(&events(n..=n)).await;
        }
        drop(answer);
        assert_eq!(rest.end().await, End::Clean);
        assert_eq!(rest.text(), events(3..=20));
        for gateway in [&two.a, &two.b] {
            let over = post(gateway, &format!("{stream}.20")).await;
            assert_eq!(over.status, 204);
        }
        two.platform.was_not_called_again();
    }

    #[tokio::test]
    #[ignore = "needs redis-server: run tests/run"]
    async fn at_sigterm_the_reader_goes_on_at_the_other_and_the_producer_finishes() {
        let mut two = Two::start(&["--drain-timeout", "1h"]).await;
        let (stream, mut reader, answer) = two.stream(5).await;
        two.a.signal("TERM");
        assert_eq!(reader.end().await, End::Clean, "an EventSource comes back");
        let mut rest = post(&two.b, &format!("{stream}.5")).await;
        for n in 6..=20 {
            answer.send(events(n..=n));
            rest.until(&events(n..=n)).await;
        }
        assert!(two.a.exit_status().is_none(), "{}", two.a.stderr());
        drop(answer);
        assert_eq!(rest.end().await, End::Clean);
        assert_eq!(rest.text(), events(6..=20));
        assert!(two.a.exit().await.success(), "{}", two.a.stderr());
        let over = post(&two.b, &format!("{stream}.20")).await;
        assert_eq!(over.status, 204);
        two.platform.was_not_called_again();
    }

    #[tokio::test]
    #[ignore = "needs redis-server: run tests/run"]
    async fn at_the_deadline_the_producer_is_given_up_and_readers_are_told() {
        let mut two = Two::start(&["--drain-timeout", "5s"]).await;
        let (stream, mut reader, answer) = two.stream(5).await;
        two.a.signal("TERM");
        assert_eq!(reader.end().await, End::Clean);
        let mut rest = post(&two.b, &format!("{stream}.3")).await;
        answer.send(events(6..=6));
        assert_eq!(rest.end().await, End::Broken, "it never was whole");
        assert_eq!(rest.text(), events(4..=6));
        assert!(two.a.exit().await.success(), "{}", two.a.stderr());
        let anew = post(&two.b, &format!("{stream}.6")).await;
        assert_eq!(header(&anew, "sse-resume"), "lost");
    }

    #[tokio::test]
    #[ignore = "needs redis-server: run tests/run"]
    async fn at_a_second_signal_the_producer_is_not_waited_for() {
        let mut two = Two::start(&["--drain-timeout", "1h"]).await;
        let (stream, mut reader, answer) = two.stream(2).await;
        two.a.signal("TERM");
        assert_eq!(reader.end().await, End::Clean);
        let mut rest = post(&two.b, &format!("{stream}.2")).await;
        answer.send(events(3..=3));
        rest.until(&events(3..=3)).await;
        assert!(two.a.exit_status().is_none(), "{}", two.a.stderr());
        two.a.signal("TERM");
        assert!(two.a.exit().await.success(), "{}", two.a.stderr());
    }

    #[tokio::test]
    #[ignore = "needs redis-server: run tests/run"]
    async fn when_one_is_killed_the_other_tells_all_that_was_acknowledged_and_then_the_loss() {
        let mut two = Two::start(&["--on-loss", "410"]).await;
        let (stream, mut reader, answer) = two.stream(5).await;
        let mut rest = post(&two.b, &format!("{stream}.0")).await;
        rest.until(&events(5..=5)).await;
        two.a.signal("KILL");
        assert_eq!(reader.end().await, End::Broken);
        answer.is_dropped().await;
        assert_eq!(rest.end().await, End::Broken, "it is not whole");
        assert_eq!(rest.text(), events(1..=5));

        // whoever comes first now gets what is there
        let mut late = post(&two.b, &format!("{stream}.3")).await;
        assert_eq!(header(&late, "sse-resume"), "resumed");
        assert_eq!(late.end().await, End::Broken);
        assert_eq!(late.text(), events(4..=5));
        let lost = post(&two.b, &format!("{stream}.5")).await;
        assert_eq!(
            (lost.status.as_u16(), header(&lost, "sse-resume")),
            (410, "lost")
        );
        two.platform.was_not_called_again();
    }

    #[tokio::test]
    #[ignore = "needs redis-server: run tests/run"]
    async fn an_end_that_only_the_store_saw_reaches_who_comes_later() {
        let mut two = Two::start(&[]).await;
        let (stream, reader, answer) = two.stream(2).await;
        drop(reader);
        answer.send(events(3..=4));
        drop(answer);
        let over = eventually("the end in the store", async || {
            let answer = post(&two.b, &format!("{stream}.4")).await;
            (answer.status == 204).then_some(answer)
        });
        assert_eq!(header(&over.await, "sse-resume"), "complete");
        let mut rest = post(&two.b, &format!("{stream}.2")).await;
        assert_eq!(rest.end().await, End::Clean);
        assert_eq!(rest.text(), events(3..=4));
        two.platform.was_not_called_again();
    }
}

// === Clients ===

async fn post(gateway: &Gateway, last: &str) -> Reader {
    ask(gateway, "POST", CHAT, &[("accept", "*/*")], last).await
}

/// As an `EventSource`.
async fn listen(gateway: &Gateway, path: &str, last: &str) -> Reader {
    ask(gateway, "GET", path, EVENT_SOURCE, last).await
}

async fn ask(
    gateway: &Gateway,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    last: &str,
) -> Reader {
    let last = [("last-event-id", last)];
    let last = if last[0].1.is_empty() { &[] } else { &last[..] };
    let address = gateway.address.parse().expect("an address");
    let mut connection = Connection::open(address, Protocol::Http1).await;
    let headers = [headers, last].concat();
    let answer = soon("a response", connection.send(method, path, &headers, "{}"));
    answer.await.expect("a response")
}

fn header<'a>(reader: &'a Reader, name: &str) -> &'a str {
    let value = reader.headers.get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

fn events(numbers: RangeInclusive<usize>) -> String {
    numbers.map(|n| format!("data: {n}\n\n")).collect()
}
