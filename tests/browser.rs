//! The page of the gateway, as somebody sees it who opens it in a browser.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures_util::FutureExt;
use programs::{browser::Browser, gateway::Gateway};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn the_page_shows_events_headers_and_heartbeats() {
    on_the_page("events", async |page, gateway| {
        publish(page, "hello").await;
        page.text_that("publish-result", |text| text == "event 1")
            .await;
        for subscriber in ["topic-a", "topic-b"] {
            count(page, &format!("{subscriber}-events"), 1).await;
            page.text_that(&format!("{subscriber}-log"), |text| text.contains("hello"))
                .await;
            page.text_that(&format!("{subscriber}-last-id"), |text| text == "1")
                .await;
        }
        page.text_that("header-x-accel-buffering", |text| text == "no")
            .await;
        page.text_that("header-cache-control", |text| text.contains("no-transform"))
            .await;
        page.text_that("header-content-type", |text| {
            text.starts_with("text/event-stream")
        })
        .await;
        count(page, "topic-b-heartbeats", 3).await;
        page.text_that("topic-b-wire", |text| text.contains(": keep-alive"))
            .await;
        page.text_that("curl", |text| text.contains(&gateway.url("/sse")))
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_subscriber_that_was_away_gets_what_it_missed_and_nothing_twice() {
    on_the_page("reconnect", async |page, _| {
        for away in ["topic-a", "topic-b"] {
            page.text_that(&format!("{away}-state"), |text| text == "open")
                .await;
        }
        publish(page, "one").await;
        for away in ["topic-a", "topic-b"] {
            count(page, &format!("{away}-events"), 1).await;
            page.click(&format!("{away}-disconnect")).await;
            page.text_that(&format!("{away}-state"), |text| text == "closed")
                .await;
        }
        for data in ["two", "three"] {
            publish(page, data).await;
        }
        page.text_that("publish-result", |text| text == "event 3")
            .await;
        for away in ["topic-a", "topic-b"] {
            assert_eq!(page.text(&format!("{away}-events")).await, "1");
            page.click(&format!("{away}-reconnect")).await;
            page.text_that(&format!("{away}-last-id"), |text| text == "3")
                .await;
            assert_eq!(page.text(&format!("{away}-events")).await, "3");
            let log = page.text(&format!("{away}-log")).await;
            let data: Vec<_> = log
                .split_whitespace()
                .filter(|word| word.len() > 2)
                .collect();
            assert_eq!(data, ["one", "two", "three"], "{away}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn what_one_page_publishes_reaches_the_other() {
    on_the_page("two-pages", async |page, gateway| {
        page.text_that("topic-a-state", |text| text == "open").await;
        let other = Browser::start().await;
        other.page.goto(&gateway.url("/")).await.expect("the page");
        publish(&other, "from the other page").await;
        page.text_that("topic-a-log", |text| text.contains("from the other page"))
            .await;
        other.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn an_answer_types_out_after_a_thinking_pause_full_of_heartbeats() {
    on_the_page("chat", async |page, _| {
        page.run(WATCH_THE_CHAT, vec![]).await;
        page.click("chat-ask").await;
        page.text_that("chat-state", |text| text == "finished")
            .await;
        let answer = page.text("chat-text").await;
        assert!(answer.starts_with("You asked"), "{answer}");
        assert!(answer.ends_with("for the end."), "{answer}");
        let seen = page.run("return window.seen", vec![]).await;
        let seen: Vec<(String, String)> = serde_json::from_value(seen).expect("pairs");
        let [(heartbeats, words), .., (_, last)] = &seen[..] else {
            panic!("it came at once: {seen:?}");
        };
        assert!(number(heartbeats) >= 2, "a pause of {heartbeats}");
        assert!(last.starts_with(words) && last.len() > words.len());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_training_run_goes_on_where_it_was_left_and_ends() {
    on_the_page("training", async |page, _| {
        page.find("training-pause")
            .await
            .select_by_value("100")
            .await
            .expect("a choice");
        page.click("training-start").await;
        count(page, "training-events", 5).await;
        page.click("training-disconnect").await;
        page.text_that("training-state", |text| text == "closed")
            .await;
        let before: u64 = number(&page.text("training-events").await);
        let last_id: u64 = number(&page.text("training-last-id").await);
        assert_eq!(before, last_id, "epoch n has the id n");
        page.click("training-reconnect").await;
        page.text_that("training-epoch", |text| text.starts_with("done"))
            .await;
        page.text_that("training-state", |text| text == "finished")
            .await;
        // 40 epochs and the end, each of them once
        assert_eq!(page.text("training-events").await, "41");
        assert_eq!(page.text("training-last-id").await, "41");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_websocket_echoes_through_the_gateway() {
    on_the_page("websocket", async |page, _| {
        page.click("ws-send").await;
        page.text_that("ws-echo", |text| text == "hello").await;
        page.click("ws-send").await;
        count(page, "ws-echoed", 2).await;
        page.click("ws-close").await;
        page.text_that("ws-state", |text| text == "closed").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn an_event_source_comes_back_by_itself_after_a_restart() {
    on_the_page("restart", async |page, gateway| {
        publish(page, "one").await;
        count(page, "topic-a-events", 1).await;
        gateway.signal("TERM");
        assert!(gateway.exit().await.success(), "{}", gateway.stderr());
        page.text_that("topic-a-state", |text| text == "reconnecting")
            .await;
        let address = gateway.address.clone();
        *gateway = Gateway::start(&["--listen", &address, "--heartbeat", "300ms"]).await;
        page.text_that("topic-a-state", |text| text == "open").await;
        page.text_that("topic-b-state", |text| text == "open").await;
        publish(page, "after-the-restart").await;
        for log in ["topic-a-log", "topic-b-log"] {
            page.text_that(log, |text| text.contains("after-the-restart"))
                .await;
        }
    })
    .await;
}

/// Keeps every state of the answer that has words, and how many heartbeats had come by then: what
/// a look now and then would miss on a busy machine.
const WATCH_THE_CHAT: &str = r#"
    const element = (id) => document.querySelector(`[data-testid="${id}"]`);
    const [text, heartbeats] = [element("chat-text"), element("chat-heartbeats")];
    window.seen = [];
    new MutationObserver(() => {
        if (text.textContent !== "") window.seen.push([heartbeats.textContent, text.textContent]);
    }).observe(text, { childList: true, characterData: true, subtree: true });
"#;

/// Opens the page of a new gateway; when the test fails, a picture of it is saved in target/.
async fn on_the_page(name: &str, test: impl AsyncFnOnce(&Browser, &mut Gateway)) {
    let mut gateway = Gateway::demo(&["--heartbeat", "300ms"]).await;
    let browser = Browser::start().await;
    browser
        .page
        .goto(&gateway.url("/"))
        .await
        .expect("the page");
    let result = AssertUnwindSafe(test(&browser, &mut gateway))
        .catch_unwind()
        .await;
    if let Err(panic) = result {
        let picture = browser.screenshot(&format!("browser-{name}")).await;
        eprintln!("the page when it failed: {}", picture.display());
        resume_unwind(panic);
    }
    browser.close().await;
}

async fn publish(page: &Browser, data: &str) {
    let field = page.find("publish-data").await;
    field.send_keys(data).await.expect("a field to write in");
    page.click("publish").await;
    // the page empties the field when the event is out
    page.value_that("publish-data", str::is_empty).await;
}

/// Waits until a figure has come to `least`.
async fn count(page: &Browser, figure: &str, least: u64) {
    page.text_that(figure, |text| number(text) >= least).await;
}

fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("no number: {text:?}"))
}
