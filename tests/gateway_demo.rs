//! What the gateway's demo may do to its gateway, and that a gateway before a real server has
//! nothing of it.

#![cfg(all(unix, feature = "metrics", feature = "resume"))]

mod programs;
mod support;

use http_body_util::BodyExt;
use hyper::{Response, StatusCode, body::Incoming};
use programs::{client, gateway::Gateway, process::eventually};

const JSON: &str = "application/json";

#[tokio::test]
async fn the_demo_drains_its_gateway_and_answers_with_the_last_that_is_counted() {
    let mut gateway = Gateway::demo(&[]).await;
    let headers = [("accept", "text/event-stream")];
    let feed = client::get(&gateway.url("/sse"), &headers).await;
    let feed = feed.expect("a stream");
    let drain = client::post(&gateway.url("/gateway/drain"), JSON, "{}").await;
    let last = client::body(drain.expect("an answer")).await.expect("text");
    assert!(last.contains("sse_streams_open 0\n"), "{last}");
    let drained = "sse_streams_ended_total{reason=\"drained\"} 1\n";
    assert!(last.contains(drained), "{last}");
    client::body(feed).await.expect("a clean end");
    assert!(gateway.exit().await.success(), "{}", gateway.stderr());
}

#[tokio::test]
async fn another_site_s_page_cannot_drain_or_cut() {
    let gateway = Gateway::demo(&[]).await;
    // what a form can send, and a script without asking first
    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        for path in ["/gateway/drain", "/gateway/cut"] {
            let body = r#"{"streams":"a"}"#;
            let answer = client::post(&gateway.url(path), kind, body).await;
            let status = answer.expect("an answer").status();
            assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}: {kind}");
        }
    }
    let about = client::text(&gateway.url("/gateway/about")).await;
    assert!(about.expect("it is here").contains("started"));
}

#[tokio::test]
async fn a_cut_breaks_the_streams_that_it_names_and_no_others() {
    let gateway = Gateway::demo(&[]).await;
    let mut cut = Vec::new();
    for name in ["page.a.", "page.b."] {
        cut.push(get(&gateway, &format!("/sse?cut={name}")).await);
    }
    let mut others = Vec::new();
    for path in ["/sse?cut=other.a.", "/sse"] {
        others.push(get(&gateway, path).await);
    }
    let status = cut_all(&gateway, "page.").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    for stream in cut {
        let end = stream.into_body().collect().await;
        assert!(end.is_err(), "the connection breaks, there is no clean end");
    }
    assert_eq!(cut_all(&gateway, "").await, StatusCode::BAD_REQUEST);
    let status = client::post_form(&gateway.url("/sse"), "data=hello").await;
    assert!(status.is_success(), "{status}");
    for stream in &mut others {
        let frame = stream.body_mut().frame().await.expect("no end");
        let data = frame.expect("no cut").into_data().expect("data");
        assert!(data.starts_with(b"id: 1\ndata: hello\n"), "{data:?}");
    }
    let metrics = gateway.url("/gateway/metrics");
    eventually("the ends to be counted", async || {
        let text = client::text(&metrics).await.expect("metrics");
        text.contains("sse_streams_ended_total{reason=\"disconnected\"} 2\n")
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn before_a_real_server_all_of_it_is_the_server_s() {
    let mut server = Gateway::demo(&["--drain-timeout", "1s"]).await;
    let gateway = Gateway::before(&server.url(""), &[]).await;
    let mut stream = get(&gateway, "/sse?cut=a").await;
    let status = client::post_form(&gateway.url("/sse"), "data=hello").await;
    assert!(status.is_success(), "{status}");
    let frame = stream.body_mut().frame().await.expect("no end");
    assert!(frame.is_ok());
    // it is the server that has a demo, and the server that leaves
    let drain = client::post(&gateway.url("/gateway/drain"), JSON, "{}").await;
    assert_eq!(drain.expect("an answer").status(), StatusCode::OK);
    assert!(server.exit().await.success(), "{}", server.stderr());
    let answer = get(&gateway, "/gateway/about").await;
    assert_eq!(answer.status(), StatusCode::BAD_GATEWAY, "it is still here");
}

#[tokio::test]
async fn the_page_and_its_parts_come_from_one_host_and_say_so() {
    let gateway = Gateway::demo(&[]).await;
    let mut paths = vec!["/".to_owned()];
    let mut seen = 0;
    while let Some(path) = paths.get(seen).cloned() {
        seen += 1;
        let answer = get(&gateway, &path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()["content-security-policy"].clone();
        let policy = policy.to_str().expect("text").to_owned();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        assert!(
            !policy.contains("unsafe") && !policy.contains("http"),
            "{policy}"
        );
        let text = client::body(answer).await.expect("text");
        // namespaces of XML are names, not addresses
        let text = text.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !text.contains("http://") && !text.contains("https://"),
            "{path}"
        );
        for part in parts(&text) {
            if !paths.contains(&part) {
                paths.push(part);
            }
        }
    }
    assert!(seen >= 13, "{paths:?}");
}

/// What a page or a script loads besides.
fn parts(text: &str) -> Vec<String> {
    let quoted = text.split('"').skip(1).step_by(2);
    let parts = quoted.filter(|part| part.ends_with(".js") || part.ends_with(".css"));
    parts.map(|part| part.replace("./", "/page/")).collect()
}

async fn get(gateway: &Gateway, path: &str) -> Response<Incoming> {
    let answer = client::get(&gateway.url(path), &[]).await;
    answer.expect("an answer")
}

async fn cut_all(gateway: &Gateway, streams: &str) -> StatusCode {
    let body = format!(r#"{{"streams":"{streams}"}}"#);
    let answer = client::post(&gateway.url("/gateway/cut"), JSON, body).await;
    answer.expect("an answer").status()
}
