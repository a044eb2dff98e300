//! gRPC, grpc-web and event streams on one port, as the example of tonic has them.

use std::time::Duration;

use axum::routing::get;
use futures_util::future::join_all;
use http::StatusCode;
use tonic::{
    service::Routes,
    transport::{Channel, Endpoint},
};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, health_client::HealthClient},
    server::HealthReporter,
};
use tonic_web::GrpcWebLayer;
use tower_sse::{DrainLayer, EventIdLayer, SseLayer};

use crate::{
    answers::{Answer, HEARTBEAT},
    examples,
    support::{
        reference,
        serve::{
            Connection, EVENT_SOURCE, End, PATIENCE, PROTOCOLS, Protocol, Reader, Server, Stack,
            soon,
        },
    },
};

const OFTEN: Duration = Duration::from_millis(15);
/// Ten of them are a stream, which must not be over before the test is.
const PAUSE: Duration = Duration::from_millis(500);

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";

#[tokio::test]
async fn grpc_and_event_streams_run_side_by_side_on_one_port() {
    let (layer, drain) = DrainLayer::pair();
    let layer = layer.spread(Duration::ZERO).deadline(PATIENCE * 2);
    let sse = SseLayer::new().heartbeat(OFTEN).drain(layer);
    let (mut server, mut reporter) = start(Some(sse)).await;
    let mut client = grpc_client(&server).await;
    let request = HealthCheckRequest::default();
    let checked = client.check(request.clone()).await.expect("an answer");
    assert_eq!(checked.into_inner().status, ServingStatus::Serving as i32);
    let watched = client.watch(request).await.expect("an answer");
    let mut watched = watched.into_inner();
    let mut readers = Vec::new();
    for protocol in PROTOCOLS {
        let mut connection = Connection::open(server.address, protocol).await;
        readers.push(connection.get("/progress", EVENT_SOURCE).await);
    }
    for (n, status) in [
        ServingStatus::Serving,
        ServingStatus::NotServing,
        ServingStatus::Serving,
    ]
    .into_iter()
    .enumerate()
    {
        // How it is comes first.
        if n > 0 {
            reporter.set_service_status("", status).await;
        }
        let message = soon("a message", watched.message()).await.expect("one");
        assert_eq!(message.map(|it| it.status), Some(status as i32));
        for reader in &mut readers {
            reader.until(HEARTBEAT).await;
        }
    }
    for reader in &mut readers {
        let some = |read: &[u8]| !reference::parse(read).events.is_empty();
        reader.until_it("an event", some).await;
    }
    assert_eq!(drain.left(), 2, "the gRPC stream is none of ours");
    drain.start();
    server.stop();
    for reader in &mut readers {
        assert_eq!(reader.end().await, End::Clean);
        assert!(reader.text().ends_with("\n"), "{:?}", reader.text());
    }
    // The drain leaves gRPC to itself.
    let down = reporter.set_service_status("", ServingStatus::NotServing);
    down.await;
    let message = soon("a message", watched.message()).await.expect("one");
    let status = message.map(|it| it.status);
    assert_eq!(status, Some(ServingStatus::NotServing as i32));
    reporter.clear_service_status("").await;
    let end = soon("the end", watched.message()).await.expect("an end");
    assert_eq!(end, None);
    assert!(watched.trailers().await.expect("trailers").is_some());
    server.ended().await;
}

#[tokio::test]
async fn grpc_web_is_byte_for_byte_the_same() {
    let sse = SseLayer::new()
        .heartbeat(OFTEN)
        .event_id(EventIdLayer::new().track(true).assign(|_| true))
        .drain(DrainLayer::pair().0);
    let (wrapped, _reporter) = start(Some(sse)).await;
    let (bare, _reporter) = start(None).await;
    let serving = &b"\0\0\0\0\0"[..];
    let unknown = &b"\0\0\0\0\x03\x0a\x01x"[..];
    let text = &b"AAAAAAA="[..];
    let events = "text/event-stream, application/grpc-web-text";
    let cases: [(_, _, &[(_, _)], _, _); 8] = [
        (
            "POST",
            CHECK,
            &[("content-type", "application/grpc-web")],
            serving,
            200,
        ),
        (
            "POST",
            CHECK,
            &[("content-type", "application/grpc-web+proto")],
            serving,
            200,
        ),
        (
            "POST",
            CHECK,
            &[("content-type", "application/grpc-web")],
            unknown,
            200,
        ),
        (
            "POST",
            "/no.Such/Method",
            &[("content-type", "application/grpc-web")],
            serving,
            200,
        ),
        (
            "POST",
            CHECK,
            &[
                ("content-type", "application/grpc-web-text"),
                ("accept", "application/grpc-web-text"),
            ],
            text,
            200,
        ),
        (
            "POST",
            CHECK,
            &[
                ("content-type", "application/grpc-web-text"),
                ("accept", events),
            ],
            text,
            200,
        ),
        (
            "GET",
            CHECK,
            &[("content-type", "application/grpc-web")],
            b"",
            405,
        ),
        ("GET", CHECK, &[], b"", 400),
    ];
    for protocol in PROTOCOLS {
        for (method, path, headers, body, status) in cases {
            let what = format!("{method} {path} {headers:?} on {protocol:?}");
            let asked = (method, path, headers, body);
            let expected = Answer::of(&bare, protocol, asked).await;
            // Over HTTP/2 what is not grpc-web goes on to the service.
            if headers.is_empty() && protocol == Protocol::Http2 {
                assert_ne!(expected.status, StatusCode::BAD_REQUEST, "{what}");
            } else {
                assert_eq!(expected.status, status, "{what}: {expected:?}");
            }
            assert_eq!(
                Answer::of(&wrapped, protocol, asked).await,
                expected,
                "{what}"
            );
        }
    }
}

#[tokio::test]
async fn a_stream_in_grpc_web_is_byte_for_byte_the_same() {
    for protocol in PROTOCOLS {
        let layers = [None, Some(SseLayer::new().heartbeat(OFTEN))];
        let both = join_all(layers.into_iter().map(async |sse| {
            let (server, mut reporter) = start(sse).await;
            let mut reader = watch(&server, protocol).await;
            for (n, status) in [ServingStatus::NotServing, ServingStatus::Serving]
                .into_iter()
                .enumerate()
            {
                // A message in grpc-web: its flags, its length, and a field of two bytes.
                let so_far = 7 * (n + 1);
                reader
                    .until_it("a message", |read| read.len() == so_far)
                    .await;
                // A silence that an event stream would not have.
                tokio::time::sleep(OFTEN * 4).await;
                reporter.set_service_status("", status).await;
            }
            reader.until_it("a message", |read| read.len() == 21).await;
            reporter.clear_service_status("").await;
            assert_eq!(reader.end().await, End::Clean);
            reader
        }))
        .await;
        let [bare, wrapped] = &both[..] else {
            unreachable!("two servers")
        };
        assert!(bare.text().ends_with("grpc-status:0\r\n"), "{bare:?}");
        assert_eq!(wrapped.read, bare.read, "{protocol:?}");
        let names = |reader: &Reader| reader.headers.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(wrapped), names(bare), "{protocol:?}");
    }
}

/// Why the example does not do it.
#[tokio::test]
async fn grpc_web_around_the_server_refuses_event_streams_over_http_1() {
    let (_reporter, health) = tonic_health::server::health_reporter();
    let app = Routes::new(health).into_axum_router();
    let app = app.route("/progress", get(async || "data: 1\n\n"));
    let app = app.layer(GrpcWebLayer::new());
    let server = Server::start(Stack::Tonic, app, Some(SseLayer::new())).await;
    for (protocol, status) in PROTOCOLS.into_iter().zip([400, 200]) {
        let asked = ("GET", "/progress", EVENT_SOURCE, &b""[..]);
        let answer = Answer::of(&server, protocol, asked).await;
        assert_eq!(answer.status, status, "{protocol:?}");
    }
}

// ---- what the tests stand on ----

async fn start(sse: Option<SseLayer>) -> (Server, HealthReporter) {
    let (reporter, routes) = examples::tonic::routes(PAUSE);
    let server = Server::start(Stack::Tonic, routes.into_axum_router(), sse).await;
    (server, reporter)
}

async fn grpc_client(server: &Server) -> HealthClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address));
    let channel = endpoint.expect("an address").connect().await;
    HealthClient::new(channel.expect("a connection"))
}

async fn watch(server: &Server, protocol: Protocol) -> Reader {
    let mut connection = Connection::open(server.address, protocol).await;
    let headers = [
        ("content-type", "application/grpc-web"),
        ("accept", "text/event-stream"),
    ];
    let answer = connection.send("POST", WATCH, &headers, &b"\0\0\0\0\0"[..]);
    soon("an answer", answer).await.expect("an answer")
}
