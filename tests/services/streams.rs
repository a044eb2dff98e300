//! What every service gets of the layer, whoever wrote it and whoever serves it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _, join_all};
use http::{HeaderMap, Request, StatusCode};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, server::graceful::GracefulShutdown, service::TowerToHyperService};
use tokio::net::TcpListener;
use tower::{Layer, Service, service_fn};
use tower_sse::{DrainLayer, EventIdLayer, SseLayer};

use crate::{
    answers::{Answer, HEARTBEAT, own_bytes},
    examples,
    support::{
        reference,
        serve::{
            Connection, EVENT_SOURCE, End, PATIENCE, PROTOCOLS, Protocol, Server, Stack, Stopped,
        },
    },
};

/// A stream of one of the examples.
struct Streaming {
    name: &'static str,
    path: &'static str,
    protocols: &'static [Protocol],
    start: Start,
}

/// Starts its server, wrapped or bare, with this pause before each event.
type Start = fn(Duration, Option<SseLayer>) -> BoxFuture<'static, Server>;

const STREAMS: [Streaming; 6] = [
    Streaming {
        name: "axum",
        path: "/ticks",
        protocols: &PROTOCOLS,
        start: |pause, sse| Server::start(Stack::Axum, examples::axum::app(pause), sse).boxed(),
    },
    Streaming {
        name: "tonic",
        path: "/progress",
        protocols: &PROTOCOLS,
        start: |pause, sse| {
            let (_, routes) = examples::tonic::routes(pause);
            Server::start(Stack::Tonic, routes.into_axum_router(), sse).boxed()
        },
    },
    Streaming {
        name: "hyper",
        path: "/",
        protocols: &[Protocol::Http1],
        start: |pause, sse| bare_hyper(pause, sse).boxed(),
    },
    Streaming {
        name: "hyper-util",
        path: "/",
        protocols: &PROTOCOLS,
        start: |pause, sse| hyper_util(pause, sse).boxed(),
    },
    Streaming {
        name: "warp",
        path: "/ticks",
        protocols: &PROTOCOLS,
        start: |pause, sse| warp(pause, sse).boxed(),
    },
    Streaming {
        name: "reqwest",
        path: "/ticks",
        protocols: &PROTOCOLS,
        start: |pause, sse| proxied(pause, sse).boxed(),
    },
];

/// Between two events there is time for some heartbeats.
const PAUSE: Duration = Duration::from_millis(250);
const OFTEN: Duration = Duration::from_millis(15);
/// Of the bare service, whose bytes are what counts.
const NO_PAUSE: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_stream_has_its_own_bytes_and_heartbeats_and_ends_in_a_drain() {
    join_all(STREAMS.iter().map(async |streaming| {
        for protocol in streaming.protocols {
            let what = format!("{} on {protocol:?}", streaming.name);
            let (layer, drain) = DrainLayer::pair();
            // It would have to wait for what does not end now.
            let layer = layer.spread(Duration::ZERO).deadline(PATIENCE * 2);
            let sse = SseLayer::new().heartbeat(OFTEN).drain(layer);
            let mut server = (streaming.start)(PAUSE, Some(sse)).await;
            let mut connection = Connection::open(server.address, *protocol).await;
            let mut reader = connection.get(streaming.path, EVENT_SOURCE).await;
            assert_eq!(reader.status, StatusCode::OK, "{what}");
            assert_head(&reader.headers, &what);
            for event in 1..=3 {
                let is_there = |read: &[u8]| reference::parse(read).events.len() >= event;
                reader.until_it(&what, is_there).await;
                reader.until(HEARTBEAT).await;
            }
            assert_eq!(drain.left(), 1, "{what}");
            drain.start();
            assert_eq!(reader.end().await, End::Clean, "{what}");
            assert_eq!(drain.left(), 0, "{what}");
            server.stop();
            server.ended().await;

            let own = own_bytes(&reader.read);
            assert!(own.ends_with("\n\n"), "{what} ends in an event: {own:?}");
            let bare = (streaming.start)(NO_PAUSE, None).await;
            let mut connection = Connection::open(bare.address, *protocol).await;
            let mut reader = connection.get(streaming.path, EVENT_SOURCE).await;
            reader.until_it(&what, |read| read.len() >= own.len()).await;
            assert!(reader.text().starts_with(&own), "{what}: {own:?}");
        }
    }))
    .await;
}

fn assert_head(headers: &HeaderMap, what: &str) {
    let value = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!(value("content-type"), Some("text/event-stream"), "{what}");
    assert_eq!(
        value("cache-control"),
        Some("no-cache, no-transform"),
        "{what}"
    );
    assert_eq!(value("x-accel-buffering"), Some("no"), "{what}");
    for absent in ["content-length", "connection", "content-encoding"] {
        assert_eq!(value(absent), None, "{what}");
    }
}

#[tokio::test]
async fn what_is_not_an_event_stream_is_what_it_was() {
    let cases = [
        ("GET", "/missing"),
        ("POST", "/missing"),
        ("POST", "/ticks"),
        ("HEAD", "/ticks"),
        ("HEAD", "/progress"),
        ("OPTIONS", "/ticks"),
    ];
    // Whatever is asked of it, the hyper service streams.
    let streams = STREAMS.iter().filter(|it| !it.name.starts_with("hyper"));
    join_all(streams.map(async |streaming| {
        let sse = SseLayer::new().heartbeat(OFTEN).drain(DrainLayer::pair().0);
        let wrapped = (streaming.start)(PAUSE, Some(sse)).await;
        let bare = (streaming.start)(PAUSE, None).await;
        for protocol in PROTOCOLS {
            for (method, path) in cases {
                let what = format!("{method} {path} of {} on {protocol:?}", streaming.name);
                let request = (method, path, EVENT_SOURCE, &b""[..]);
                let expected = Answer::of(&bare, protocol, request).await;
                assert!(expected.body.len() < 100, "{what}: {expected:?}");
                assert_eq!(
                    Answer::of(&wrapped, protocol, request).await,
                    expected,
                    "{what}"
                );
            }
        }
    }))
    .await;
}

/// Where a client comes back with an id, the service hears of it.
#[tokio::test]
async fn who_comes_back_goes_on_behind_the_last_event() {
    let with_ids = STREAMS.iter().filter(|it| it.path == "/ticks");
    join_all(with_ids.map(async |streaming| {
        for sse in [Some(SseLayer::new()), None] {
            // Bare, axum has nobody who reads the header.
            if sse.is_none() && streaming.name != "warp" {
                continue;
            }
            let server = (streaming.start)(NO_PAUSE, sse).await;
            let mut connection = Connection::open(server.address, Protocol::Http1).await;
            let headers = [("accept", "text/event-stream"), ("last-event-id", "41")];
            let mut reader = connection.get("/ticks", &headers).await;
            reader
                .until_it(streaming.name, |read| {
                    !reference::parse(read).events.is_empty()
                })
                .await;
            let first = &reference::parse(&reader.read).events[0];
            assert_eq!(
                (&*first.id, &*first.data),
                ("42", "tick 42"),
                "{}",
                streaming.name
            );
        }
    }))
    .await;
}

// ---- servers ----

/// hyper alone, without hyper-util's server.
async fn bare_hyper(pause: Duration, sse: Option<SseLayer>) -> Server {
    let ticks = service_fn(move |_: Request<Incoming>| examples::hyper::ticks(pause));
    match sse {
        Some(sse) => Server::of(|ear, stopped| http1_only(ear, sse.layer(ticks), stopped)).await,
        None => Server::of(|ear, stopped| http1_only(ear, ticks, stopped)).await,
    }
}

async fn http1_only<S, B>(listener: TcpListener, service: S, mut stopped: Stopped)
where
    S: Service<Request<Incoming>, Response = http::Response<B>, Error = http::Error>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let io = TokioIo::new(accepted.expect("a connection").0);
                let service = TowerToHyperService::new(service.clone());
                let connection = http1::Builder::new().serve_connection(io, service);
                tokio::spawn(graceful.watch(connection));
            }
            () = &mut stopped => break,
        }
    }
    graceful.shutdown().await;
}

async fn hyper_util(pause: Duration, sse: Option<SseLayer>) -> Server {
    let ticks = service_fn(move |_: Request<Incoming>| examples::hyper::ticks(pause));
    match sse {
        Some(sse) => Server::of(|ear, stopped| served(ear, sse.layer(ticks), stopped)).await,
        None => Server::of(|ear, stopped| served(ear, ticks, stopped)).await,
    }
}

async fn warp(pause: Duration, sse: Option<SseLayer>) -> Server {
    let ticks = warp::service(examples::warp::ticks(pause));
    match sse {
        Some(sse) => Server::of(|ear, stopped| served(ear, sse.layer(ticks), stopped)).await,
        None => Server::of(|ear, stopped| served(ear, ticks, stopped)).await,
    }
}

/// As the example of hyper does.
async fn served<S, B>(listener: TcpListener, service: S, stopped: Stopped)
where
    S: Service<Request<Incoming>, Response = http::Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<axum::BoxError>,
    B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let served = examples::hyper::serve(listener, service, stopped).await;
    served.expect("a listener");
}

/// The example of axum behind the one of reqwest.
async fn proxied(pause: Duration, sse: Option<SseLayer>) -> Server {
    // Without the layer, nobody tells its handler with which id the client came back.
    let origin = examples::axum::app(pause).layer(EventIdLayer::new());
    let origin = Server::start(Stack::Axum, origin, None).await;
    let app = examples::reqwest::app(format!("http://{}", origin.address)).expect("a client");
    let app = match sse {
        Some(sse) => app.layer(sse),
        None => app,
    };
    Server::of(|ear, stopped| async move {
        let served = axum::serve(ear, app).with_graceful_shutdown(stopped).await;
        served.expect("axum serves");
        drop(origin);
    })
    .await
}
