//! `examples/react` in a browser: the built app and its hook against the gateway itself.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::{
    convert::Infallible,
    future::IntoFuture,
    panic::{AssertUnwindSafe, resume_unwind},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    http::{
        StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{FutureExt, Stream, StreamExt, stream};
use programs::{
    browser::Browser,
    client, folder,
    gateway::Gateway,
    process::{Process, eventually},
};
use serde_json::json;
use tokio::{net::TcpListener, task::AbortHandle, time::Instant};

/// The demo platform of one gateway, which lives on; before it another gateway, which does not; and the
/// app, behind that gateway or before it.
struct Stack {
    platform: Gateway,
    app: App,
    gateway: Gateway,
    flags: Vec<String>,
    metrics: String,
    app_is_behind: bool,
}

/// Vite, with its proxy to a gateway.
struct App {
    _process: Process,
    address: String,
}

/// A server that gives each stream the same answer.
struct Upstream {
    address: String,
    status: Arc<AtomicU16>,
    asked: Arc<Mutex<Vec<Instant>>>,
    task: AbortHandle,
}

/// 200, but a page, as a single-page app answers whatever it does not know.
const NO_STREAM: u16 = 0;
/// 200, and an end: what an `EventSource` gets that comes at a bad time.
const NO_ROOM: u16 = 1;
const STREAM: u16 = 200;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn it_waits_for_a_gateway_that_was_killed_and_goes_on_behind_its_last_id() {
    let mut stack = Stack::app_behind_gateway(&[]).await;
    on_the_page("kill", &stack.page(), async |page| {
        for data in ["one", "two"] {
            stack.publish(data).await;
        }
        status(page, "topic", "open").await;
        lines(page, &["1 one", "2 two"]).await;
        page.text_that("topic-last-id", |text| text == "2").await;
        stack.kill().await;
        status(page, "topic", "waiting").await;
        for data in ["three", "four"] {
            stack.publish(data).await;
        }
        stack.restart().await;
        status(page, "topic", "open").await;
        let field = page.find("topic-data").await;
        field.send_keys("five").await.expect("a field to write in");
        page.click("topic-publish").await;
        lines(page, &["1 one", "2 two", "3 three", "4 four", "5 five"]).await;
        assert_eq!(page.text("topic-last-id").await, "5");
        assert_eq!(page.text("topic-reconnects").await, "1");
    })
    .await;
}

/// Vite's proxy answers 502 while there is no gateway, and an `EventSource` takes that for the end.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn it_comes_back_where_the_browser_does_not() {
    let mut stack = Stack::gateway_behind_app(App::built).await;
    on_the_page("http-error", &stack.page(), async |page| {
        for data in ["one", "two"] {
            stack.publish(data).await;
        }
        lines(page, &["1 one", "2 two"]).await;
        stack.kill().await;
        status(page, "topic", "refused").await;
        page.text_that("topic-note", |text| {
            text.contains("502") && text.contains("again")
        })
        .await;
        stack.publish("three").await;
        stack.restart().await;
        status(page, "topic", "open").await;
        stack.publish("four").await;
        lines(page, &["1 one", "2 two", "3 three", "4 four"]).await;
        assert_eq!(page.text("topic-reconnects").await, "1");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn the_connection_goes_with_its_component() {
    let stack = Stack::app_behind_gateway(&[]).await;
    on_the_page("unmount", &stack.page(), async |page| {
        stack.publish("one").await;
        lines(page, &["1 one"]).await;
        assert_eq!(stack.left("/sse"), 0);
        page.click("topic-toggle").await;
        eventually("the end of the stream", async || {
            (stack.left("/sse") == 1).then_some(())
        })
        .await;
        // and the next one has a life of its own
        page.click("topic-toggle").await;
        lines(page, &["1 one"]).await;
        assert_eq!(page.text("topic-reconnects").await, "0");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_page_that_is_refused_says_so_and_gets_in_later() {
    let stack = Stack::app_behind_gateway(&["--max-streams", "1"]).await;
    let taken = client::get(&stack.gateway.url("/sse"), &[]).await;
    let taken = taken.expect("a stream");
    on_the_page("limit", &stack.page(), async |page| {
        status(page, "topic", "refused").await;
        page.text_that("topic-note", |text| text.contains("no room"))
            .await;
        drop(taken);
        status(page, "topic", "open").await;
        stack.publish("hello").await;
        lines(page, &["1 hello"]).await;
    })
    .await;
}

/// As it is over a network, where the head of an empty answer is there for a while before its end is.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_visit_without_events_does_not_look_like_a_stream() {
    let upstream = Upstream::that_answers(NO_ROOM, Duration::ZERO).await;
    let app = App::built(&upstream.address).await;
    on_the_page("visits", &app.url(), async |page| {
        status(page, "topic", "refused").await;
        page.run(WATCH_THE_STATUS, vec![]).await;
        let before = upstream.asked().len();
        eventually("three more visits", async || {
            (upstream.asked().len() >= before + 3).then_some(())
        })
        .await;
        upstream.becomes_a_stream();
        lines(page, &["7 seven"]).await;
        let seen = page.run("return window.seen", vec![]).await;
        assert_eq!(seen, json!(["open"]));
        assert_eq!(page.text("topic-reconnects").await, "0");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_run_goes_on_where_it_was_left_and_is_closed_when_it_is_complete() {
    let stack = Stack::app_behind_gateway(&[]).await;
    on_the_page("training", &stack.page(), async |page| {
        pace(page, "100").await;
        page.click("training-start").await;
        at_least(page, "training-last-id", 5).await;
        page.click("training-toggle").await;
        status(page, "training", "closed").await;
        page.click("training-toggle").await;
        status(page, "training", "open").await;
        page.text_that("training-note", |text| text == "The stream is complete.")
            .await;
        status(page, "training", "closed").await;
        page.text_that("training-epoch", |text| text == "done, 40 of 40")
            .await;
        assert_eq!(epochs_seen(page).await, Vec::from_iter(1..=40));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn another_url_is_another_stream() {
    let stack = Stack::app_behind_gateway(&[]).await;
    on_the_page("url", &stack.page(), async |page| {
        pace(page, "100").await;
        page.click("training-start").await;
        at_least(page, "training-last-id", 5).await;
        assert_eq!(stack.left("/training"), 0);
        pace(page, "2000").await;
        eventually("the end of the first stream", async || {
            (stack.left("/training") == 1).then_some(())
        })
        .await;
        at_least(page, "training-last-id", 1).await;
        let epochs = epochs_seen(page).await;
        assert!(epochs.len() < 5, "{epochs:?}");
        assert_eq!(epochs[0], 1);
        assert_eq!(page.text("training-reconnects").await, "0");
    })
    .await;
}

/// In development React mounts everything twice.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn in_strict_mode_one_mount_is_one_connection() {
    let stack = Stack::gateway_behind_app(App::in_development).await;
    on_the_page("strict", &stack.page(), async |page| {
        status(page, "topic", "open").await;
        stack.publish("one").await;
        lines(page, &["1 one"]).await;
        assert_eq!(stack.metric("sse_streams_opened_total").await, 1);
        page.click("topic-toggle").await;
        eventually("the end of the stream", async || {
            (stack.metric("sse_streams_open").await == 0).then_some(())
        })
        .await;
        // Chromium does not even begin with what is closed at once; others may
        page.run(COUNT_THE_SOURCES, vec![]).await;
        page.click("topic-toggle").await;
        lines(page, &["1 one"]).await;
        assert_eq!(page.run("return window.sources", vec![]).await, json!(1));
        assert_eq!(stack.metric("sse_streams_opened_total").await, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_page_in_the_back_forward_cache_has_no_stream() {
    let stack = Stack::app_behind_gateway(&[]).await;
    on_the_page("cache", &stack.page(), async |page| {
        pace(page, "100").await;
        page.click("training-start").await;
        at_least(page, "training-last-id", 5).await;
        page.run("window.before = true", vec![]).await;
        page.page.goto("about:blank").await.expect("another page");
        eventually("the end of the stream", async || {
            (stack.left("/training") == 1).then_some(())
        })
        .await;
        page.page.back().await.expect("the page");
        page.text_that("training-epoch", |text| text == "done, 40 of 40")
            .await;
        let same = page.run("return window.before === true", vec![]).await;
        assert_eq!(same, json!(true), "it was loaded anew");
        assert_eq!(epochs_seen(page).await, Vec::from_iter(1..=40));
        assert_eq!(page.text("training-reconnects").await, "1");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_page_that_nobody_sees_has_no_stream() {
    let stack = Stack::app_behind_gateway(&[]).await;
    on_the_page("hidden", &stack.page(), async |page| {
        stack.publish("one").await;
        lines(page, &["1 one"]).await;
        let first = page.page.window().await.expect("a tab");
        let second = page.page.new_window(true).await.expect("another tab");
        let second = second.handle;
        page.page
            .switch_to_window(second)
            .await
            .expect("another tab");
        eventually("the end of the stream", async || {
            (stack.left("/sse") == 1).then_some(())
        })
        .await;
        stack.publish("two").await;
        page.page.close_window().await.expect("an end of the tab");
        page.page.switch_to_window(first).await.expect("a tab");
        lines(page, &["1 one", "2 two"]).await;
        assert_eq!(page.text("topic-reconnects").await, "1");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn an_answer_that_would_be_the_same_again_is_asked_for_no_more() {
    for (answer, wanted, note) in [
        (204, "closed", "The stream is complete."),
        (
            NO_STREAM,
            "refused",
            "with no event stream, and it would again",
        ),
        (401, "refused", "401, and it would again"),
        (404, "refused", "404, and it would again"),
    ] {
        let upstream = Upstream::that_answers(answer, Duration::ZERO).await;
        let app = App::built(&upstream.address).await;
        on_the_page(&format!("answer-{answer}"), &app.url(), async |page| {
            status(page, "topic", wanted).await;
            page.text_that("topic-note", |text| text.contains(note))
                .await;
            // the EventSource, and the question what it got
            assert_eq!(upstream.asked().len(), 2, "{answer}");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn an_answer_for_now_is_asked_for_again_but_not_before_its_time() {
    let retry_after = Duration::from_secs(2);
    for answer in [429, 503] {
        let upstream = Upstream::that_answers(answer, retry_after).await;
        let app = App::built(&upstream.address).await;
        on_the_page(&format!("answer-{answer}"), &app.url(), async |page| {
            let note = format!("{answer} for now");
            page.text_that("topic-note", |text| text.contains(&note))
                .await;
            page.run(WATCH_THE_STATUS, vec![]).await;
            let asked = eventually("another attempt", async || {
                let asked = upstream.asked();
                (asked.len() >= 4).then_some(asked)
            })
            .await;
            let pause = asked[2] - asked[1];
            assert!(pause >= retry_after, "{pause:?}");
            upstream.becomes_a_stream();
            status(page, "topic", "open").await;
            lines(page, &["7 seven"]).await;
            // it was refused all the time
            let seen = page.run("return window.seen", vec![]).await;
            assert_eq!(seen, json!(["open"]));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn it_waits_no_longer_when_the_network_is_back() {
    let upstream = Upstream::that_answers(503, Duration::from_secs(3600)).await;
    let app = App::built(&upstream.address).await;
    on_the_page("online", &app.url(), async |page| {
        status(page, "topic", "refused").await;
        upstream.becomes_a_stream();
        page.run("dispatchEvent(new Event('online'))", vec![]).await;
        status(page, "topic", "open").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn it_is_readable_on_a_desk_on_a_phone_and_in_the_dark() {
    let mut stack = Stack::app_behind_gateway(&[]).await;
    on_the_page("pictures", &stack.page(), async |page| {
        for data in [
            "hello",
            "a message that is somewhat longer than the line of a phone can hold",
            "https://example.org/without/any/place/where/a/line/of/text/could/be/broken",
        ] {
            stack.publish(data).await;
        }
        pace(page, "100").await;
        page.click("training-start").await;
        page.text_that("training-note", |text| text == "The stream is complete.")
            .await;
        let pages = [(1280, 900, "desk"), (390, 1500, "phone")];
        for (width, height, size) in pages {
            let page_size = page.page.set_window_size(width, height);
            page_size.await.expect("a size");
            for (scheme, background) in
                [("light", "rgb(246, 247, 248)"), ("dark", "rgb(20, 23, 26)")]
            {
                let seen = page.run(DRESS, vec![json!(scheme)]).await;
                assert_eq!(seen, json!([background, 0]), "{scheme}, {size}");
                page.screenshot(&format!("react-{size}-{scheme}")).await;
            }
        }
        stack.kill().await;
        status(page, "topic", "waiting").await;
        page.screenshot("react-waiting").await;
    })
    .await;
}

/// Returns the background, and by how much the page is too wide.
const DRESS: &str = r#"
    const page = document.documentElement;
    page.style.colorScheme = arguments[0];
    return [getComputedStyle(document.body).backgroundColor, page.scrollWidth - page.clientWidth];
"#;

/// Those that are made from now on.
const COUNT_THE_SOURCES: &str = r#"
    window.sources = 0;
    window.EventSource = class extends EventSource {
        constructor(...all) {
            super(...all);
            window.sources += 1;
        }
    };
"#;

/// Keeps every status that the topic has from now on.
const WATCH_THE_STATUS: &str = r#"
    window.seen = [];
    const status = document.querySelector('[data-testid="topic-status"]');
    new MutationObserver(() => window.seen.push(status.dataset.status)).observe(status, { attributes: true });
"#;

impl Stack {
    /// A connection that is lost is lost for the browser too.
    async fn app_behind_gateway(flags: &[&str]) -> Self {
        let platform = Gateway::demo(&[]).await;
        let app = App::built(&platform.address).await;
        let (gateway, flags, metrics) = gateway(&app.address, flags).await;
        let app_is_behind = true;
        Self {
            platform,
            app,
            gateway,
            flags,
            metrics,
            app_is_behind,
        }
    }

    /// As it is while one works on the app.
    async fn gateway_behind_app(start: impl AsyncFnOnce(&str) -> App) -> Self {
        let platform = Gateway::demo(&[]).await;
        let (gateway, flags, metrics) = gateway(&platform.address, &[]).await;
        let app = start(&gateway.address).await;
        let app_is_behind = false;
        Self {
            platform,
            app,
            gateway,
            flags,
            metrics,
            app_is_behind,
        }
    }

    fn page(&self) -> String {
        if self.app_is_behind {
            self.gateway.url("/")
        } else {
            self.app.url()
        }
    }

    /// An event for the topic, whether the gateway is there or not.
    async fn publish(&self, data: &str) {
        let form = form_urlencoded::Serializer::new(String::new())
            .append_pair("data", data)
            .finish();
        let status = client::post_form(&self.platform.url("/sse"), &form).await;
        assert!(status.is_success(), "{status}");
    }

    async fn kill(&mut self) {
        self.gateway.signal("KILL");
        self.gateway.exit().await;
    }

    async fn restart(&mut self) {
        let flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        let listen = ["--listen", &self.gateway.address];
        self.gateway = Gateway::start(&[&listen, &flags[..]].concat()).await;
    }

    /// How many streams of this path the gateway has seen their clients leave.
    fn left(&self, path: &str) -> usize {
        let end = format!("stream ended reason=disconnected method=GET path={path} ");
        self.gateway.stderr().matches(&end).count()
    }

    async fn metric(&self, name: &str) -> u64 {
        let text = client::text(&self.metrics).await.expect("the metrics");
        let values = text
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(name));
        values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }
}

impl App {
    /// `npm run preview`: what was built.
    async fn built(gateway: &str) -> Self {
        Self::start(&["preview"], gateway).await
    }

    /// `npm run dev`: React in development, and the sources.
    async fn in_development(gateway: &str) -> Self {
        Self::start(&[], gateway).await
    }

    async fn start(command: &[&str], gateway: &str) -> Self {
        let folder = folder::target().join("react");
        let vite = folder.join("node_modules/vite/bin/vite.js");
        assert!(
            folder.join("dist/index.html").exists(),
            "no {}: run tests/run",
            folder.display()
        );
        let mut process = Process::start(
            Command::new("node")
                .current_dir(&folder)
                .env("GATEWAY", format!("http://{gateway}"))
                .env("NO_COLOR", "1")
                .arg(vite)
                .args(command)
                .args(["--port", "0"]),
        );
        let address = process.line("  ➜  Local:   http://").await;
        let address = address.trim_end_matches('/').to_owned();
        Self {
            _process: process,
            address,
        }
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }
}

impl Upstream {
    async fn that_answers(status: u16, retry_after: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let status = Arc::new(AtomicU16::new(status));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let handler = {
            let (status, asked) = (status.clone(), asked.clone());
            async move || {
                // before it is counted: what the test does then is for the next one
                let status = status.load(Ordering::Relaxed);
                asked.lock().unwrap().push(Instant::now());
                answer(status, retry_after)
            }
        };
        let router = Router::new().route("/sse", get(handler));
        let task = tokio::spawn(axum::serve(listener, router).into_future());
        Self {
            address,
            status,
            asked,
            task: task.abort_handle(),
        }
    }

    fn asked(&self) -> Vec<Instant> {
        self.asked.lock().unwrap().clone()
    }

    fn becomes_a_stream(&self) {
        self.status.store(STREAM, Ordering::Relaxed);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// With one event, and then as long as one likes; or with none at all.
fn answer(status: u16, retry_after: Duration) -> Response {
    let html = [(CONTENT_TYPE, "text/html")];
    match status {
        NO_STREAM => (html, "a page").into_response(),
        NO_ROOM => event_stream(
            async {
                tokio::time::sleep(Duration::from_millis(150)).await;
                "retry: 100\n\n"
            },
            stream::empty(),
        ),
        STREAM => event_stream(async { "id: 7\ndata: seven\n\n" }, stream::pending()),
        status => {
            let status = StatusCode::from_u16(status).expect("a status");
            let retry_after = [(RETRY_AFTER, retry_after.as_secs().to_string())];
            (status, retry_after, "no").into_response()
        }
    }
}

fn event_stream(
    begin: impl Future<Output = &'static str> + Send + 'static,
    rest: impl Stream<Item = &'static str> + Send + 'static,
) -> Response {
    let parts = stream::once(begin).chain(rest).map(Ok::<_, Infallible>);
    let kind = [(CONTENT_TYPE, "text/event-stream")];
    (kind, Body::from_stream(parts)).into_response()
}

/// A gateway before `upstream`, the flags besides its address, and where its metrics are.
async fn gateway(upstream: &str, flags: &[&str]) -> (Gateway, Vec<String>, String) {
    let own = ["--metrics", "127.0.0.1:0"];
    let flags = [&own, flags].concat();
    let mut gateway = Gateway::before(&format!("http://{upstream}"), &flags).await;
    let metrics = gateway.line("gateway metrics on ").await;
    let upstream = ["--upstream".to_owned(), format!("http://{upstream}")];
    let flags = flags.iter().map(ToString::to_string).chain(upstream);
    (gateway, flags.collect(), metrics)
}

/// Opens the page; when the test fails, a picture of it is saved in target/.
async fn on_the_page(name: &str, url: &str, test: impl AsyncFnOnce(&Browser)) {
    let browser = Browser::start().await;
    browser.page.goto(url).await.expect("the page");
    let result = AssertUnwindSafe(test(&browser)).catch_unwind().await;
    if let Err(panic) = result {
        let picture = browser.screenshot(&format!("react-failed-{name}")).await;
        eprintln!("the page when it failed: {}", picture.display());
        resume_unwind(panic);
    }
    browser.close().await;
}

async fn status(page: &Browser, stream: &str, wanted: &str) {
    page.text_that(&format!("{stream}-status"), |text| text == wanted)
        .await;
}

/// Waits for as many lines as these, and they must be these.
async fn lines(page: &Browser, wanted: &[&str]) {
    let script = "return [...document.querySelectorAll('[data-testid=topic-log] li')].map((line) => line.textContent)";
    let lines = eventually("the lines of the topic", async || {
        let lines = page.run(script, vec![]).await;
        let lines: Vec<String> = serde_json::from_value(lines).expect("texts");
        (lines.len() >= wanted.len()).then_some(lines)
    })
    .await;
    assert_eq!(lines, wanted);
}

async fn pace(page: &Browser, pause: &str) {
    let field = page.find("training-pause").await;
    field.select_by_value(pause).await.expect("a choice");
}

/// Waits until a figure has come to this.
async fn at_least(page: &Browser, figure: &str, least: u64) {
    page.text_that(figure, |text| {
        text.parse().is_ok_and(|value: u64| value >= least)
    })
    .await;
}

/// All that the page has drawn, in order, of 40.
async fn epochs_seen(page: &Browser) -> Vec<u64> {
    let points = page.find("training-curve").await.attr("points").await;
    let points = points.expect("an attribute").unwrap_or_default();
    let lefts = points
        .split(' ')
        .filter_map(|point| point.split(',').next());
    let percents = lefts.map(|left| left.parse::<f64>().expect("a number"));
    percents
        .map(|percent| (percent * 0.4).round() as u64)
        .collect()
}
