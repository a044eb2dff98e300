//! Cut, reload and drain, and what the page knows of the gateway's streams.

use crate::{
    programs::{browser::Browser, client, process::eventually},
    world::{again, becomes, count, data, number, on_the_page, publish, texts},
};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_cut_network_brings_all_streams_back_without_a_loss() {
    on_the_page("cut-all", async |page, _| {
        page.click("inspector-connect").await;
        publish(page, "one").await;
        for stream in ["topic-a", "inspector"] {
            count(page, &format!("{stream}-events"), 1).await;
        }
        page.click("cut-all").await;
        for stream in ["topic-a", "inspector"] {
            becomes(page, &format!("{stream}-reconnects"), "1").await;
        }
        // while they are away
        publish(page, "two").await;
        for stream in ["topic-a", "inspector"] {
            becomes(page, &format!("{stream}-last-id"), "2").await;
            assert_eq!(data(page, &format!("{stream}-log")).await, ["one", "two"]);
        }
        count(page, "ended-disconnected", 2).await;
        let journal = page.text("journal").await;
        for line in ["The network is cut", "Topic: is back", "Inspector: is back"] {
            assert!(journal.contains(line), "{line:?} is not in {journal}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn one_page_cuts_its_own_streams_only() {
    on_the_page("cut-own", async |page, gateway| {
        let other = Browser::start().await;
        other.page.goto(&gateway.url("/")).await.expect("the page");
        for page in [page, &other] {
            becomes(page, "topic-a-state", "open").await;
        }
        page.click("cut-all").await;
        becomes(page, "topic-a-reconnects", "1").await;
        becomes(page, "topic-a-state", "open").await;
        publish(page, "to both").await;
        count(&other, "topic-a-events", 1).await;
        assert_eq!(other.text("topic-a-reconnects").await, "0");
        other.close().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn open_streams_and_their_ends_are_those_of_the_metrics() {
    on_the_page("metrics", async |page, gateway| {
        becomes(page, "metrics-open", "1").await;
        let drawn = "[data-testid=metrics-chart] .tick";
        let ticks = texts(page, drawn).await;
        let halves = ticks.iter().any(|tick| tick.contains('.'));
        assert!(!halves, "streams are whole: {ticks:?}");
        page.click("inspector-connect").await;
        becomes(page, "metrics-open", "2").await;
        becomes(page, "connections", "2 of 5 streams").await;
        let others = client::get(&gateway.url("/sse"), &[]).await;
        becomes(page, "metrics-open", "3").await;
        assert_eq!(page.text("connections").await, "2 of 5 streams");
        let before = number(&page.text("ended-disconnected").await);
        drop(others);
        becomes(page, "metrics-open", "2").await;
        becomes(page, "ended-disconnected", &(before + 1).to_string()).await;
        let complete = number(&page.text("ended-complete").await);
        let run = client::text(&gateway.url("/training?epochs=1&pause_ms=0")).await;
        assert!(run.expect("a run").contains("event: done"));
        becomes(page, "ended-complete", &(complete + 1).to_string()).await;
        let streams = page.text("page-streams").await;
        for stream in ["Topic", "Inspector"] {
            assert!(streams.contains(stream), "{streams}");
        }
        let points = "[data-testid=metrics-chart] polyline";
        assert_eq!(texts(page, points).await.len(), 1);
        let ticks = texts(page, drawn).await;
        assert!(ticks.len() > 3, "a scale: {ticks:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_drain_ends_the_streams_says_so_and_all_come_back_to_a_new_gateway() {
    on_the_page("drain", async |page, gateway| {
        page.click("inspector-connect").await;
        publish(page, "before").await;
        for stream in ["topic-a", "inspector"] {
            count(page, &format!("{stream}-events"), 1).await;
        }
        page.click("drain").await;
        page.screenshot("drain-dialog").await;
        page.click("drain-cancel").await;
        assert_eq!(
            page.text("gateway-state").await,
            "up",
            "it was only asked for"
        );
        page.click("drain").await;
        page.click("drain-confirm").await;
        assert!(gateway.exit().await.success(), "{}", gateway.stderr());
        becomes(page, "gateway-state", "gone").await;
        assert_eq!(page.text("ended-drained").await, "2");
        assert_eq!(page.text("metrics-open").await, "0");
        for stream in ["topic-a", "inspector"] {
            becomes(page, &format!("{stream}-state"), "reconnecting").await;
        }
        page.text_that("notice", |text| text.contains("start the gateway again"))
            .await;
        page.screenshot("drain-gone").await;
        let journal = page.text("journal").await;
        for line in [
            "Drain: as after SIGTERM",
            "Topic: the stream ended; EventSource waits",
            "Inspector: ended between two events",
            "The drain is over. Streams by how they ended: drained 2.",
        ] {
            assert!(journal.contains(line), "{line:?} is not in {journal}");
        }
        assert_eq!(
            page.find("drain")
                .await
                .prop("disabled")
                .await
                .ok()
                .flatten(),
            Some("true".to_owned()),
        );
        again(gateway).await;
        for stream in ["topic-a", "inspector"] {
            becomes(page, &format!("{stream}-state"), "open").await;
        }
        page.text_that("notice", |text| text.contains("A new gateway is here"))
            .await;
        becomes(page, "gateway-state", "up").await;
        publish(page, "after").await;
        for stream in ["topic-a", "inspector"] {
            eventually("the event", async || {
                let data = data(page, &format!("{stream}-log")).await;
                (data == ["before", "after"]).then_some(())
            })
            .await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn a_drain_lets_an_answer_finish() {
    on_the_page("drain-answer", async |page, gateway| {
        page.click("chat-ask").await;
        count(page, "chat-events", 10).await;
        page.click("drain").await;
        page.click("drain-confirm").await;
        becomes(page, "chat-state", "finished").await;
        let answer = page.text("chat-text").await;
        assert!(answer.ends_with("for the end."), "{answer}");
        assert_eq!(page.text("chat-reconnects").await, "0");
        assert!(gateway.exit().await.success(), "{}", gateway.stderr());
    })
    .await;
}
