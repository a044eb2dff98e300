//! The page of a new gateway in a browser, and what the tests do there.

use std::panic::{AssertUnwindSafe, resume_unwind};

use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::programs::{browser::Browser, client, gateway::Gateway, process::eventually};

pub(crate) const HEARTBEAT: [&str; 2] = ["--heartbeat", "300ms"];

/// Opens the page of a new gateway; when the test fails, a picture of it is saved in
/// target/screenshots/. Whatever the test does, the page's scripts have nothing to complain of.
pub(crate) async fn on_the_page(name: &str, test: impl AsyncFnOnce(&Browser, &mut Gateway)) {
    let mut gateway = Gateway::demo(&HEARTBEAT).await;
    let browser = Browser::start().await;
    open(&browser, &gateway).await;
    let result = AssertUnwindSafe(async {
        test(&browser, &mut gateway).await;
        let complaints = complaints(&browser).await;
        assert!(complaints.is_empty(), "{complaints:?}");
    })
    .catch_unwind()
    .await;
    if let Err(panic) = result {
        let picture = browser.screenshot(&format!("failed-{name}")).await;
        eprintln!("the page when it failed: {}", picture.display());
        resume_unwind(panic);
    }
    browser.close().await;
}

pub(crate) async fn open(browser: &Browser, gateway: &Gateway) {
    let page = browser.page.goto(&gateway.url("/")).await;
    page.expect("the page");
}

/// A gateway in the place of one that has gone.
pub(crate) async fn again(gateway: &mut Gateway) {
    let address = gateway.address.clone();
    *gateway = Gateway::start(&[&["--listen", &address], &HEARTBEAT[..]].concat()).await;
}

/// Waits until a new page is there in place of this one.
pub(crate) async fn reloaded(page: &Browser, reload: &str) {
    page.run("window.before = true", vec![]).await;
    page.click(reload).await;
    eventually("the new page", async || {
        let new = "return !window.before && document.readyState === 'complete'";
        (page.run(new, vec![]).await == json!(true)).then_some(())
    })
    .await;
}

/// What the scripts or the policy of the page did wrong. That a connection was lost is said to the
/// console too, and is what some of the tests are about.
pub(crate) async fn complaints(page: &Browser) -> Vec<(String, String)> {
    let mut console = page.console().await;
    console.retain(|(source, _)| source != "network");
    console
}

pub(crate) async fn publish(page: &Browser, data: &str) {
    let field = page.find("publish-data").await;
    field.send_keys(data).await.expect("a field to write in");
    page.click("publish").await;
    // the page empties the field when the event is out
    page.value_that("publish-data", str::is_empty).await;
}

pub(crate) async fn choose(page: &Browser, field: &str, value: &str) {
    let field = page.find(field).await;
    field.select_by_value(value).await.expect("a choice");
}

/// Waits until a figure has come to `least`.
pub(crate) async fn count(page: &Browser, figure: &str, least: u64) {
    let enough = |text: &str| text.parse::<u64>().is_ok_and(|number| number >= least);
    page.text_that(figure, enough).await;
}

pub(crate) async fn becomes(page: &Browser, id: &str, expected: &str) {
    page.text_that(id, |text| text == expected).await;
}

pub(crate) fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("no number: {text:?}"))
}

/// The data of the events in a list, heartbeats left out.
pub(crate) async fn data(page: &Browser, list: &str) -> Vec<String> {
    texts(
        page,
        &format!("[data-testid={list:?}] li:not(.comment) > span"),
    )
    .await
}

/// The texts of all elements that a selector finds.
pub(crate) async fn texts(page: &Browser, selector: &str) -> Vec<String> {
    let all = "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)";
    let found = page.run(all, vec![json!(selector)]).await;
    serde_json::from_value(found).expect("texts")
}

/// The answer to the question that the page has at first.
pub(crate) async fn whole_answer(gateway: &Gateway) -> String {
    let question = json!({ "role": "user", "content": "What is an event stream?" });
    let body = json!({ "messages": [question], "delay_ms": 0 }).to_string();
    let url = gateway.url("/v1/chat/completions");
    let answer = client::post(&url, "application/json", body).await;
    let answer = client::body(answer.expect("an answer")).await;
    let answer: Value = serde_json::from_str(&answer.expect("its text")).expect("JSON");
    let text = &answer["choices"][0]["message"]["content"];
    text.as_str().expect("a text").to_owned()
}

/// Waits for the end of the answer: all of it, nothing twice, and generated once.
pub(crate) async fn has_all_of(page: &Browser, reader: &str, answer: &str) {
    becomes(page, &format!("{reader}-state"), "finished").await;
    assert_eq!(page.text(&format!("{reader}-text")).await, answer);
    becomes(page, &format!("{reader}-calls"), "1").await;
}
