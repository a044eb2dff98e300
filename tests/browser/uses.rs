//! The three uses of a platform for models, and the inspector: what the page shows of each stream.

use serde_json::json;

use crate::{
    programs::{browser::Browser, process::eventually},
    world::{
        becomes, choose, count, data, has_all_of, number, on_the_page, publish, reloaded, texts,
        whole_answer,
    },
};

const RAW: &str = "[data-testid=inspector-raw]";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn the_loss_is_a_chart_that_grows_and_has_a_scale() {
    on_the_page("chart", async |page, _| {
        assert_eq!(points(page, "loss").await, []);
        let scale = texts(page, "[data-testid=training-chart] .tick").await;
        assert!(scale.contains(&"1".to_owned()), "an empty chart: {scale:?}");
        choose(page, "training-pause", "100").await;
        page.click("training-start").await;
        count(page, "training-events", 5).await;
        let before = points(page, "loss").await;
        assert!((5..40).contains(&before.len()), "{before:?}");
        becomes(page, "training-state", "finished").await;
        for series in ["loss", "validation"] {
            let points = points(page, series).await;
            assert_eq!(points.len(), 40, "{series}");
            let rises = points.windows(2).any(|pair| pair[0].0 >= pair[1].0);
            assert!(!rises, "one epoch after the other: {points:?}");
            let ((_, first), (_, last)) = (points[0], points[39]);
            assert!(first + 50.0 < last, "a loss that falls: {points:?}");
        }
        let chart = "[data-testid=training-chart]";
        assert_eq!(
            texts(page, &format!("{chart} .axis")).await,
            ["epoch", "loss"]
        );
        let ticks = texts(page, &format!("{chart} .tick")).await;
        for tick in ["0", "1", "2", "40"] {
            assert!(ticks.iter().any(|text| text == tick), "{ticks:?}");
        }
        let description = texts(page, "#training-description").await;
        assert!(
            description[0].contains("to epoch 40 of 40"),
            "{description:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn the_chart_goes_on_after_a_cut_and_after_a_reload() {
    on_the_page("chart-cut", async |page, _| {
        page.click("training-start").await;
        count(page, "training-events", 5).await;
        page.click("training-cut").await;
        becomes(page, "training-reconnects", "1").await;
        becomes(page, "training-state", "open").await;
        count(page, "training-events", 12).await;
        reloaded(page, "reload").await;
        assert!(points(page, "loss").await.len() >= 12, "it was kept");
        becomes(page, "training-state", "finished").await;
        assert_eq!(points(page, "loss").await.len(), 40);
        // each epoch once, and the end
        assert_eq!(page.text("training-events").await, "41");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn predictions_are_shown_as_they_come_and_each_once() {
    on_the_page("predictions", async |page, _| {
        page.click("predictions-run").await;
        count(page, "predictions-results", 3).await;
        let rows = texts(page, "[data-testid=predictions-list] .text").await;
        assert!((3..24).contains(&rows.len()), "{rows:?}");
        page.click("predictions-cut").await;
        becomes(page, "predictions-reconnects", "1").await;
        becomes(page, "predictions-state", "finished").await;
        assert_eq!(page.text("predictions-count").await, "24 of 24");
        let kept = "return JSON.parse(sessionStorage.predictions).rows.map(({ n }) => n)";
        let numbers = page.run(kept, vec![]).await;
        assert_eq!(numbers, json!((1..=24).collect::<Vec<_>>()));
        let rows = "[data-testid=predictions-list] li";
        assert_eq!(texts(page, rows).await.len(), 24);
        let labels = texts(page, &format!("{rows} .label")).await;
        assert_eq!(labels[..4], ["billing", "bug", "feature", "praise"]);
        let confidences = texts(page, &format!("{rows} .confidence")).await;
        assert_eq!(confidences[..2], ["97 %", "94 %"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn the_inspector_shows_ids_heartbeats_and_bytes() {
    on_the_page("inspector", async |page, _| {
        page.click("inspector-connect").await;
        count(page, "inspector-heartbeats", 2).await;
        publish(page, "hello").await;
        count(page, "inspector-events", 1).await;
        let log = "[data-testid=inspector-log]";
        let event = texts(page, &format!("{log} li:not(.comment) > :not(time)")).await;
        assert_eq!(event, ["1", "message", "hello"]);
        let heartbeats = texts(page, &format!("{log} .comment i")).await;
        assert!(
            heartbeats.iter().all(|text| text == "heartbeat"),
            "{heartbeats:?}"
        );
        let marked = texts(page, &format!("{RAW} .comment")).await;
        assert!(marked.len() >= 2 && marked.iter().all(|text| text == ": keep-alive"));
        let bytes = texts(page, &format!("{RAW} .as-text")).await.concat();
        // with the gateway's hint of when to come back, should it be drained
        assert!(bytes.contains("id: 1LF\ndata: helloLF\nretry: "), "{bytes}");
        assert!(bytes.ends_with("LF\nLF\n"), "{bytes}");
        let counted = number(&page.text("inspector-bytes").await);
        assert!(counted >= bytes.len() as u64 / 2, "{counted} bytes");
        let hex = "64 61 74 61 3a 20 68 65";
        assert!(!page.text("inspector-raw").await.contains(hex), "as text");
        page.click("inspector-hex").await;
        page.text_that("inspector-raw", |text| text.contains(hex))
            .await;
        page.screenshot("inspector-hex").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn the_inspector_shows_each_line_end_and_reads_them_all() {
    on_the_page("odd", async |page, _| {
        choose(page, "inspector-stream", "GET /odd").await;
        page.click("inspector-connect").await;
        // it asks again with its last id, and is told that this was all
        becomes(page, "inspector-state", "finished").await;
        let expected = [
            "lines may end with CRLF",
            "or with CR alone",
            "or with LF, and an event\nmay have several lines",
            "an event may come in two parts",
            "and so may a single letter: é",
            "a name, and no space behind the colon",
            "",
        ];
        assert_eq!(data(page, "inspector-log").await, expected);
        let comments = texts(page, "[data-testid=inspector-log] .comment i").await;
        let own = comments.iter().filter(|text| *text == "comment").count();
        assert_eq!(own, 2, "those are not the gateway's: {comments:?}");
        let bytes = texts(page, &format!("{RAW} .as-text")).await.concat();
        for line in [
            ": the gateway took away a byte order mark before thisCRLF\n",
            "data: lines may end with CRLFCRLF\nretry: ",
            "data: or with CR aloneCR\nCR\n",
            "retry: 2000LF\n",
        ] {
            assert!(bytes.contains(line), "{line:?} is not in {bytes}");
        }
        assert!(!bytes.contains('\u{feff}'), "{bytes}");
        assert_eq!(page.text("inspector-retry").await, "2000 ms");
        assert_eq!(page.text("inspector-last-id").await, "7");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn an_inspected_answer_without_ids_goes_on_after_a_cut() {
    on_the_page("inspected", async |page, gateway| {
        let answer = whole_answer(gateway).await;
        choose(page, "inspector-stream", "POST /v1/chat/completions").await;
        page.click("inspector-connect").await;
        count(page, "inspector-events", 10).await;
        page.click("inspector-cut").await;
        becomes(page, "header-sse-resume", "resumed").await;
        let stream = page.text("header-sse-stream").await;
        becomes(page, "inspector-state", "finished").await;
        let chunks = data(page, "inspector-log").await;
        let (done, chunks) = chunks.split_last().expect("an end");
        assert_eq!(done, "[DONE]");
        let words = chunks.iter().map(|chunk| {
            let chunk: serde_json::Value = serde_json::from_str(chunk).expect("JSON");
            let word = &chunk["choices"][0]["delta"]["content"];
            word.as_str().unwrap_or_default().to_owned()
        });
        assert_eq!(words.collect::<String>(), answer);
        let last_id = page.text("inspector-last-id").await;
        assert_eq!(last_id, format!("{stream}.{}", chunks.len() + 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Chromium: run tests/run"]
async fn all_uses_run_side_by_side_and_a_stream_more_is_refused_in_words() {
    on_the_page("room", async |page, gateway| {
        let answer = whole_answer(gateway).await;
        choose(page, "training-pause", "2000").await;
        for button in ["training-start", "predictions-run", "chat-ask"] {
            page.click(button).await;
        }
        becomes(page, "connections", "5 of 5 streams").await;
        page.click("inspector-connect").await;
        page.text_that("notice", |text| text.contains("No connection is free"))
            .await;
        assert_eq!(page.text("inspector-state").await, "idle");
        count(page, "chat-events", 40).await;
        page.screenshot("all-uses").await;
        // what is counted at the platform comes by the connection that was kept for it
        has_all_of(page, "chat", &answer).await;
        eventually("a free connection", async || {
            page.click("inspector-connect").await;
            (page.text("inspector-state").await == "open").then_some(())
        })
        .await;
        assert_eq!(page.text("notice").await, "");
    })
    .await;
}

/// The points of a line of the training chart, in pixels from the upper left corner.
async fn points(page: &Browser, series: &str) -> Vec<(f64, f64)> {
    let script = r#"
        const line = document.querySelector(`[data-testid=training-chart] polyline.series-${arguments[0]}`);
        return (line?.getAttribute("points") ?? "").split(" ").filter(Boolean).map((point) => point.split(",").map(Number));
    "#;
    let points = page.run(script, vec![json!(series)]).await;
    serde_json::from_value(points).expect("pairs")
}
