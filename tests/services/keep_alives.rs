//! Services with heartbeats of their own: the client gets theirs or ours.

use std::time::Duration;

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use tokio::time::{Instant, sleep_until};
use tower::ServiceExt as _;
use tower_sse::SseLayer;

use crate::{
    answers::HEARTBEAT,
    examples,
    support::serve::{Connection, EVENT_SOURCE, Protocol, Server, Stack},
};

/// Of axum, rmcp and warp.
const THEIRS: &str = ":\n\n";

/// Both come every 15 seconds, and the defaults of the layer must not add a second one.
#[tokio::test(start_paused = true)]
async fn in_a_service_that_sends_heartbeats_of_its_own_by_default_there_are_no_others() {
    let pause = Duration::from_secs(45);
    let read = an_hour_of(examples::axum::app(pause).layer(SseLayer::new()), "/kept").await;
    assert_eq!(count(&read, "tick "), 80);
    // Two in each silence; the third would come with the event.
    assert_eq!(count(&read, THEIRS), 160);
    assert_eq!(count(&read, HEARTBEAT), 0);
    let read = an_hour_of(examples::axum::app(pause).layer(SseLayer::new()), "/ticks").await;
    assert_eq!(count(&read, "tick "), 80);
    assert_eq!(count(&read, THEIRS), 0);
    // After 15 seconds, and then up to a tenth sooner.
    let ours = count(&read, HEARTBEAT);
    assert!((160..=240).contains(&ours), "{ours}");
}

/// Over a network, and with the same interval.
#[tokio::test(start_paused = true)]
async fn heartbeats_that_come_a_little_late_get_no_others_beside_them() {
    let late = Duration::from_millis(15_500);
    let app = examples::axum::app(late * 3).layer(SseLayer::new());
    let read = an_hour_of(app, "/kept").await;
    assert!(count(&read, THEIRS) > 150, "{read:?}");
    // The first one, before anything was heard of theirs.
    assert_eq!(count(&read, HEARTBEAT), 1);
}

#[tokio::test]
async fn with_the_same_interval_only_its_own_heartbeats_come() {
    let pause = Duration::from_millis(150);
    let layer = SseLayer::new().heartbeat(pause / 3);
    let read = until_some(pause, layer, THEIRS).await;
    assert_eq!(count(&read, HEARTBEAT), 0, "{read:?}");
}

#[tokio::test]
async fn with_a_much_shorter_interval_only_ours_come() {
    let layer = SseLayer::new().heartbeat(Duration::from_millis(20));
    let read = until_some(Duration::from_secs(600), layer, HEARTBEAT).await;
    assert_eq!(count(&read, THEIRS), 0, "{read:?}");
}

/// What comes until some heartbeats have come.
async fn until_some(pause: Duration, layer: SseLayer, heartbeat: &str) -> String {
    let app = examples::axum::app(pause);
    let server = Server::start(Stack::Axum, app, Some(layer)).await;
    let mut connection = Connection::open(server.address, Protocol::Http1).await;
    let mut reader = connection.get("/kept", EVENT_SOURCE).await;
    let wanted = |read: &[u8]| count(&String::from_utf8_lossy(read), heartbeat) >= 8;
    reader.until_it(heartbeat, wanted).await;
    reader.text()
}

/// What a service sends within an hour.
async fn an_hour_of(app: axum::Router, path: &str) -> String {
    let end = Instant::now() + Duration::from_secs(3600) + Duration::from_millis(500);
    let request = Request::get(path).header("accept", "text/event-stream");
    let response = app.oneshot(request.body(Body::empty()).unwrap()).await;
    let mut body = response.unwrap().into_body();
    let mut read = Vec::new();
    loop {
        tokio::select! {
            biased;
            frame = body.frame() => {
                read.extend(frame.unwrap().unwrap().into_data().unwrap());
            }
            () = sleep_until(end) => return String::from_utf8(read).unwrap(),
        }
    }
}

fn count(text: &str, what: &str) -> usize {
    text.matches(what).count()
}
