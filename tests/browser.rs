//! The page of the gateway, as somebody sees it who opens it in a browser.

#![cfg(all(unix, feature = "resume"))]

#[path = "browser/looks.rs"]
mod looks;
#[path = "browser/operating.rs"]
mod operating;
mod programs;
mod support;
#[path = "browser/uses.rs"]
mod uses;
#[path = "browser/world.rs"]
mod world;

use programs::{browser::Browser, client, gateway::Gateway, process::eventually};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};
use world::{
    again, becomes, count, data, has_all_of, number, on_the_page, publish, reloaded, whole_answer,
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn the_page_shows_events_headers_and_heartbeats() {
    on_the_page("events", async |page, gateway| {
        page.click("inspector-connect").await;
        publish(page, "hello").await;
        page.text_that("publish-result", |text| text == "event 1")
            .await;
        for subscriber in ["topic-a", "inspector"] {
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
        count(page, "inspector-heartbeats", 3).await;
        page.text_that("inspector-raw", |text| text.contains(": keep-alive"))
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
        let subscribers = [
            ("topic-a", "topic-a-reconnect"),
            ("inspector", "inspector-connect"),
        ];
        page.click("inspector-connect").await;
        for (away, _) in subscribers {
            becomes(page, &format!("{away}-state"), "open").await;
        }
        publish(page, "one").await;
        for (away, _) in subscribers {
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
        for (away, reconnect) in subscribers {
            assert_eq!(page.text(&format!("{away}-events")).await, "1");
            page.click(reconnect).await;
            page.text_that(&format!("{away}-last-id"), |text| text == "3")
                .await;
            assert_eq!(page.text(&format!("{away}-events")).await, "3");
            let data = data(page, &format!("{away}-log")).await;
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
async fn an_answer_goes_on_after_a_cut_and_its_platform_was_called_once() {
    on_the_page("cut", async |page, gateway| {
        let answer = whole_answer(gateway).await;
        page.click("chat-ask").await;
        count(page, "chat-events", 10).await;
        page.click("chat-cut").await;
        has_all_of(page, "chat", &answer).await;
        assert_eq!(page.text("chat-reconnects").await, "1", "it was cut");
        assert_eq!(page.text("chat-resume").await, "resumed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn an_answer_goes_on_after_a_reload_and_its_platform_was_called_once() {
    on_the_page("reload", async |page, gateway| {
        let answer = whole_answer(gateway).await;
        page.click("chat-ask").await;
        for reader in ["chat", "source"] {
            count(page, &format!("{reader}-events"), 10).await;
        }
        reloaded(page, "chat-reload").await;
        for reader in ["chat", "source"] {
            has_all_of(page, reader, &answer).await;
            assert_eq!(page.text(&format!("{reader}-reconnects")).await, "1");
        }
        assert_eq!(page.text("chat-resume").await, "resumed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn both_readers_come_back_by_themselves_when_the_network_cuts_them() {
    on_the_page("network", async |page, gateway| {
        let answer = whole_answer(gateway).await;
        let network = Network::before(&gateway.address).await;
        page.page.goto(&network.url).await.expect("the page");
        page.click("chat-ask").await;
        for reader in ["chat", "source"] {
            count(page, &format!("{reader}-events"), 10).await;
        }
        network.cut();
        for reader in ["chat", "source"] {
            has_all_of(page, reader, &answer).await;
            assert_eq!(page.text(&format!("{reader}-reconnects")).await, "1");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn an_answer_that_is_lost_begins_anew() {
    on_the_page("lost", async |page, gateway| {
        let answer = whole_answer(gateway).await;
        page.click("chat-ask").await;
        for reader in ["chat", "source"] {
            count(page, &format!("{reader}-events"), 10).await;
        }
        // what it kept was in its memory
        gateway.signal("KILL");
        gateway.exit().await;
        again(gateway).await;
        for reader in ["chat", "source"] {
            has_all_of(page, reader, &answer).await;
        }
        assert_eq!(page.text("chat-resume").await, "lost");
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
        page.click("inspector-connect").await;
        becomes(page, "inspector-state", "open").await;
        publish(page, "one").await;
        count(page, "topic-a-events", 1).await;
        gateway.signal("TERM");
        assert!(gateway.exit().await.success(), "{}", gateway.stderr());
        page.text_that("topic-a-state", |text| text == "reconnecting")
            .await;
        again(gateway).await;
        page.text_that("topic-a-state", |text| text == "open").await;
        becomes(page, "inspector-state", "open").await;
        publish(page, "after-the-restart").await;
        for log in ["topic-a-log", "inspector-log"] {
            page.text_that(log, |text| text.contains("after-the-restart"))
                .await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn an_event_source_that_was_refused_gets_in_when_there_is_room() {
    let gateway = Gateway::demo(&["--max-streams", "1"]).await;
    let taken = client::get(&gateway.url("/sse"), &[])
        .await
        .expect("a stream");
    let browser = Browser::start().await;
    // a page of the same origin, without a stream of its own
    let page = gateway.url("/no-such-page");
    browser.page.goto(&page).await.expect("a page");
    browser.run(WATCH_A_SOURCE, vec![]).await;
    let seen = async || -> Vec<String> {
        let seen = browser.run("return window.seen", vec![]).await;
        serde_json::from_value(seen).expect("names")
    };
    // It is let in for an empty answer, and comes back for the next one.
    let first = eventually("a second visit", async || {
        let seen = seen().await;
        (seen.len() >= 4).then_some(seen)
    })
    .await;
    assert_eq!(first[..4], ["open", "error 0", "open", "error 0"]);
    drop(taken);
    let status = client::post_form(&gateway.url("/sse"), "data=hello").await;
    assert!(status.is_success(), "{status}");
    eventually("the event", async || {
        let seen = seen().await;
        (seen.last().map(String::as_str) == Some("message hello")).then_some(())
    })
    .await;
    browser.close().await;
}

/// An `EventSource` and no more: whatever it does, it does by itself.
const WATCH_A_SOURCE: &str = r#"
    window.seen = [];
    const source = new EventSource("/sse");
    source.onopen = () => window.seen.push("open");
    source.onerror = () => window.seen.push(`error ${source.readyState}`);
    source.onmessage = (event) => window.seen.push(`message ${event.data}`);
"#;

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

/// A network between the browser and the gateway, which can be cut.
struct Network {
    url: String,
    cut: watch::Sender<()>,
}

impl Network {
    async fn before(gateway: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let cut = watch::Sender::new(());
        let (gateway, cuts) = (gateway.to_owned(), cut.clone());
        tokio::spawn(async move {
            while let Ok((mut browser, _)) = listener.accept().await {
                let (gateway, mut cuts) = (gateway.clone(), cuts.subscribe());
                tokio::spawn(async move {
                    let mut gateway = TcpStream::connect(gateway).await.expect("the gateway");
                    tokio::select! {
                        _ = copy_bidirectional(&mut browser, &mut gateway) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { url, cut }
    }

    /// All connections; new ones are made as before.
    fn cut(&self) {
        self.cut.send_replace(());
    }
}
