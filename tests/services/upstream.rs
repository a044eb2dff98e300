//! An upstream behind reqwest: what happens at one side is seen at the other.

use axum::Router;
use tower_sse::SseLayer;

use crate::{
    examples,
    support::serve::{
        Connection, EVENT_SOURCE, EVENT_STREAM, End, PROTOCOLS, Server, Stack, soon, upstreams,
    },
};

#[tokio::test]
async fn events_go_through_one_by_one_and_who_goes_is_missed() {
    for protocol in PROTOCOLS {
        let (origin, mut opened) = upstreams(EVENT_STREAM);
        let (_origin, server) = behind_reqwest(origin).await;
        let mut connection = Connection::open(server.address, protocol).await;
        let mut reader = connection.get("/?a=b", EVENT_SOURCE).await;
        let upstream = soon("a stream", opened.recv()).await.expect("one");
        for event in ["data: 1\n\n", "data: 2\n", "\n", ": hi\n\n"] {
            upstream.send(event);
            reader.until(event).await;
        }
        drop((reader, connection));
        upstream.is_dropped().await;
    }
}

/// An event, and a byte less than was promised, on which its server cuts the connection.
const SHORT: &[(&str, &str)] = &[EVENT_STREAM[0], ("content-length", "10")];
const WHOLE: &[(&str, &str)] = &[EVENT_STREAM[0], ("content-length", "9")];

#[tokio::test]
async fn an_upstream_that_breaks_off_does_not_pass_for_one_that_ends() {
    for protocol in PROTOCOLS {
        for (headers, end) in [(SHORT, End::Broken), (WHOLE, End::Clean)] {
            let (origin, mut opened) = upstreams(headers);
            let (_origin, server) = behind_reqwest(origin).await;
            let mut connection = Connection::open(server.address, protocol).await;
            let mut reader = connection.get("/", EVENT_SOURCE).await;
            let upstream = soon("a stream", opened.recv()).await.expect("one");
            upstream.send("data: 1\n\n");
            reader.until("data: 1\n\n").await;
            drop(upstream);
            assert_eq!(reader.end().await, end, "{headers:?} on {protocol:?}");
        }
    }
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_a_bad_gateway() {
    let (origin, _opened) = upstreams(EVENT_STREAM);
    let (mut origin, server) = behind_reqwest(origin).await;
    origin.stop();
    origin.ended().await;
    for protocol in PROTOCOLS {
        let mut connection = Connection::open(server.address, protocol).await;
        let mut answer = connection.get("/", EVENT_SOURCE).await;
        assert_eq!(answer.status, 502, "{protocol:?}");
        assert_eq!(answer.end().await, End::Clean, "{protocol:?}");
    }
}

async fn behind_reqwest(origin: Router) -> (Server, Server) {
    let origin = Server::start(Stack::Axum, origin, None).await;
    let app = examples::reqwest::app(format!("http://{}", origin.address)).expect("a client");
    let server = Server::start(Stack::Axum, app, Some(SseLayer::new())).await;
    (origin, server)
}
