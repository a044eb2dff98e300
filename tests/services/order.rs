//! The order of our layer and those of tower-http: the table in the documentation of `SseLayer`, cell
//! by cell.

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body};

use futures_util::future::join_all;
use http::{HeaderValue, Request, Response, StatusCode, header::CACHE_CONTROL};
use http_body_util::BodyExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tower::ServiceExt as _;
use tower_sse::{DrainLayer, EarlyOpenLayer, LimitLayer, SseLayer};

use crate::{
    answers::{HEARTBEAT, own_bytes},
    support::serve::{
        Connection, EVENT_STREAM, End, PATIENCE, PROTOCOLS, Protocol, Server, Stack, Upstream,
        respond, soon, upstreams,
    },
    tower_http::{Cell, KINDS, Kind, PLACES, Place, VERSIONS},
};

const OFTEN: Duration = Duration::from_millis(15);
/// Of what limits time, where time is paused; and of heartbeats beside it.
const LIMIT: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_secs(4);

/// A page of another origin, in a browser that takes compressed answers.
const PAGE: &[(&str, &str)] = &[
    ("accept", "text/event-stream"),
    ("accept-encoding", "gzip"),
    ("origin", "http://elsewhere.example"),
];

/// Over real sockets.
#[tokio::test]
async fn every_event_arrives_as_it_is_sent_and_heartbeats_too_and_a_drain_ends_the_stream() {
    let cells = KINDS.iter().flat_map(|kind| cells(*kind, PATIENCE));
    join_all(cells.map(async |cell| {
        for protocol in PROTOCOLS {
            lock_step(cell, protocol).await;
        }
    }))
    .await;
}

async fn lock_step(cell: Cell, protocol: Protocol) {
    let what = format!("{cell:?} on {protocol:?}");
    let (layer, drain) = DrainLayer::pair();
    let sse = SseLayer::new()
        .heartbeat(OFTEN)
        .drain(layer.without_retry());
    let (app, mut opened) = upstreams(EVENT_STREAM);
    let (app, _) = cell.app(app, sse);
    let mut server = Server::start(Stack::Axum, app, None).await;
    let mut connection = Connection::open(server.address, protocol).await;
    let mut reader = connection.get("/", PAGE).await;
    assert_eq!(reader.status, StatusCode::OK, "{what}");
    assert_eq!(reader.headers.get("content-encoding"), None, "{what}");
    let upstream = soon(&what, opened.recv()).await.expect("a stream");
    let mut sent = String::new();
    for event in ["id: 1\ndata: a\n\n", "data: b\r\n\r\n", ": c\n\n"] {
        upstream.send(event);
        sent += event;
        reader.until(event).await;
        reader.until(HEARTBEAT).await;
    }
    drain.start();
    assert_eq!(reader.end().await, End::Clean, "{what}");
    assert_eq!(own_bytes(&reader.read), sent, "{what}");
    upstream.is_dropped().await;
    server.stop();
    server.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_timeout_inside_hears_the_service_and_outside_the_heartbeats() {
    for cell in cells(Kind::BodyTimeout, LIMIT) {
        let mut stream = Stream::open(cell).await;
        stream.upstream.send("data: 1\n\n");
        let end = stream.read_for(LIMIT * 20).await;
        let (expected, heartbeats) = match cell.place {
            Place::Outside => (StreamEnd::Open, 50..=60),
            Place::Inside | Place::Both => (StreamEnd::Broken(LIMIT), 2..=2),
        };
        assert_eq!(end, expected, "{cell:?}");
        assert_eq!(own_bytes(&stream.read), "data: 1\n\n", "{cell:?}");
        assert!(heartbeats.contains(&stream.heartbeats()), "{cell:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_of_the_body_breaks_every_stream() {
    for cell in cells(Kind::BodyDeadline, LIMIT) {
        let mut stream = Stream::open(cell).await;
        stream.upstream.send("data: 1\n\n");
        let end = stream.read_for(LIMIT * 20).await;
        assert_eq!(end, StreamEnd::Broken(LIMIT), "{cell:?}");
        assert_eq!(own_bytes(&stream.read), "data: 1\n\n", "{cell:?}");
    }
}

/// It is for the head; what comes later than that is not its business.
#[tokio::test(start_paused = true)]
async fn a_timeout_is_over_when_the_stream_begins_and_that_may_be_early() {
    for cell in cells(Kind::Timeout, LIMIT) {
        let mut stream = Stream::open(cell).await;
        assert_eq!(stream.read_for(LIMIT * 20).await, StreamEnd::Open);
        assert!(stream.heartbeats() > 40, "{cell:?}");

        let late = Router::new().fallback(async || {
            sleep(LIMIT * 2).await;
            respond(EVENT_STREAM, "data: 1\n\n")
        });
        let (app, _) = cell.app(late.clone(), SseLayer::new());
        let answer = ask(app, PAGE).await;
        assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT, "{cell:?}");

        let early = SseLayer::new().early_open(EarlyOpenLayer::after(LIMIT / 2));
        let (app, _) = cell.around(late, |app| app.layer(early));
        let answer = ask(app, PAGE).await;
        assert_eq!(answer.status(), StatusCode::OK, "{cell:?}");
        let body = answer.into_body().collect().await.expect("a body");
        let own = own_bytes(&body.to_bytes());
        // Inside it ends the wait, and what it answers is an error to the client.
        let in_time = cell.place == Place::Outside;
        assert_eq!(own == "data: 1\n\n", in_time, "{cell:?}: {own:?}");
        assert_eq!(own.contains("408"), !in_time, "{cell:?}: {own:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn trace_counts_heartbeats_where_it_is_outside_and_the_end_by_a_drain_too() {
    for cell in cells(Kind::Trace, LIMIT) {
        for drained in [true, false] {
            let mut stream = Stream::open(cell).await;
            for _ in 0..3 {
                stream.upstream.send("data: 1\n\n");
                assert_eq!(stream.read_for(INTERVAL * 2).await, StreamEnd::Open);
            }
            let frames = 3 + stream.heartbeats();
            stream.finish(drained).await;
            let (inside, outside) = (&stream.sides.inside, &stream.sides.outside);
            let inside = (inside.chunks(), inside.ends());
            let outside = (outside.chunks(), outside.ends());
            let served = (3, usize::from(!drained));
            let expected = match cell.place {
                Place::Inside => (served, (0, 0)),
                Place::Outside => ((0, 0), (frames, 1)),
                Place::Both => (served, (frames, 1)),
            };
            assert_eq!((inside, outside), expected, "{cell:?}, drained: {drained}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_early_drop_is_told_once_and_a_drain_is_one_only_inside() {
    /// What becomes of the stream.
    #[derive(Clone, Copy, Debug)]
    enum Fate {
        Complete,
        Drained,
        ClientGone,
    }
    for cell in cells(Kind::EarlyDrop, LIMIT) {
        for fate in [Fate::Complete, Fate::Drained, Fate::ClientGone] {
            let mut stream = Stream::open(cell).await;
            stream.upstream.send("data: 1\n\n");
            assert_eq!(stream.read_for(INTERVAL * 2).await, StreamEnd::Open);
            match fate {
                Fate::Complete => stream.finish(false).await,
                Fate::Drained => stream.finish(true).await,
                Fate::ClientGone => (),
            }
            let sides = stream.sides.clone();
            drop(stream);
            let (inside, outside) = match fate {
                Fate::Complete => (0, 0),
                Fate::Drained => (1, 0),
                Fate::ClientGone => (1, 1),
            };
            let expected = match cell.place {
                Place::Inside => (inside, 0),
                Place::Outside => (0, outside),
                Place::Both => (inside, outside),
            };
            let told = (sides.inside.drops(), sides.outside.drops());
            assert_eq!(told, expected, "{cell:?}, {fate:?}");
        }
    }
}

/// A limit refuses before the service is asked, if the request wants a stream. A drain refuses after.
#[tokio::test]
async fn only_from_outside_cors_reaches_who_is_refused_unasked() {
    for cell in cells(Kind::Cors, LIMIT) {
        let (draining, drain) = DrainLayer::pair();
        drain.start();
        let none = LimitLayer::new().max_streams(0);
        let event_source = "text/event-stream";
        for (sse, accept, status, inside) in [
            (SseLayer::new(), event_source, 200, 1),
            (
                SseLayer::new().drain(draining.clone()),
                event_source,
                200,
                1,
            ),
            (SseLayer::new().drain(draining), "*/*", 503, 1),
            (SseLayer::new().limit(none.clone()), event_source, 200, 0),
            (SseLayer::new().limit(none), "*/*", 503, 1),
        ] {
            let (app, _opened) = upstreams(EVENT_STREAM);
            let (app, _) = cell.app(app, sse);
            let page = [("accept", accept), ("origin", "http://elsewhere.example")];
            let answer = ask(app, &page).await;
            assert_eq!(answer.status(), status, "{cell:?}");
            let origins = answer.headers().get_all("access-control-allow-origin");
            let expected = match cell.place {
                Place::Inside => inside,
                Place::Outside | Place::Both => 1,
            };
            assert_eq!(origins.iter().count(), expected, "{cell:?}: {answer:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn only_from_outside_cors_is_in_an_early_head() {
    for cell in cells(Kind::Cors, LIMIT) {
        let late = Router::new().fallback(async || sleep(LIMIT).await);
        let early = SseLayer::new().early_open(EarlyOpenLayer::after(LIMIT / 2));
        let (app, _) = cell.around(late, |app| app.layer(early));
        let answer = ask(app, PAGE).await;
        assert_eq!(answer.status(), StatusCode::OK, "{cell:?}");
        let origin = answer.headers().get("access-control-allow-origin");
        assert_eq!(origin.is_some(), cell.place != Place::Inside, "{cell:?}");
    }
}

#[tokio::test]
async fn a_panic_is_caught_on_either_side() {
    for cell in cells(Kind::CatchPanic, LIMIT) {
        async fn panics() -> &'static str {
            panic!("as it must");
        }
        let (app, _) = cell.app(Router::new().fallback(panics), SseLayer::new());
        let answer = ask(app, PAGE).await;
        assert_eq!(
            answer.status(),
            StatusCode::INTERNAL_SERVER_ERROR,
            "{cell:?}"
        );
        let body = answer.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "Service panicked", "{cell:?}");
    }
}

#[tokio::test]
async fn a_header_that_is_set_inside_is_merged_and_outside_it_wins() {
    const OURS: &str = "no-cache, no-transform";
    const MERGED: &str = "max-age=60, no-cache, no-transform";
    for kind in [Kind::SetHeader, Kind::SetHeaderIfAbsent] {
        for cell in cells(kind, LIMIT) {
            let (app, _opened) = upstreams(EVENT_STREAM);
            let (app, _) = cell.app(app, SseLayer::new());
            let answer = ask(app, PAGE).await;
            let expected = match (kind, cell.place) {
                (_, Place::Inside) | (Kind::SetHeaderIfAbsent, Place::Both) => MERGED,
                (Kind::SetHeaderIfAbsent, Place::Outside) => OURS,
                (_, Place::Outside | Place::Both) => "max-age=60",
            };
            let expected = HeaderValue::from_static(expected);
            let values = answer.headers().get_all(CACHE_CONTROL);
            assert_eq!(values.iter().collect::<Vec<_>>(), [&expected], "{cell:?}");
        }
    }
}

// ---- what the tests stand on ----

/// The row of the table.
fn cells(kind: Kind, limit: Duration) -> impl Iterator<Item = Cell> {
    let versions = VERSIONS.into_iter().filter(move |it| it.has(kind));
    versions.flat_map(move |version| {
        PLACES.map(|place| Cell {
            version,
            kind,
            place,
            limit,
        })
    })
}

/// A stream in process, where time can be paused.
struct Stream {
    body: Body,
    read: Vec<u8>,
    upstream: Upstream,
    _opened: mpsc::UnboundedReceiver<Upstream>,
    drain: tower_sse::Drain,
    sides: crate::tower_http::Sides,
}

/// What has become of a stream, and after which time.
#[derive(Debug, PartialEq, Eq)]
enum StreamEnd {
    Open,
    Clean,
    Broken(Duration),
}

impl Stream {
    async fn open(cell: Cell) -> Self {
        let (layer, drain) = DrainLayer::pair();
        let sse = SseLayer::new()
            .heartbeat(INTERVAL)
            .drain(layer.without_retry());
        let (app, mut opened) = upstreams(EVENT_STREAM);
        let (app, sides) = cell.app(app, sse);
        let answer = ask(app, PAGE).await;
        Self {
            body: answer.into_body(),
            read: Vec::new(),
            upstream: opened.recv().await.expect("a stream"),
            _opened: opened,
            drain,
            sides,
        }
    }

    async fn read_for(&mut self, time: Duration) -> StreamEnd {
        let start = Instant::now();
        while let Ok(frame) = timeout_at(start + time, self.body.frame()).await {
            match frame {
                Some(Ok(frame)) => self.read.extend(frame.into_data().expect("data")),
                // Timers turn in milliseconds.
                Some(Err(_)) => {
                    let after = start.elapsed().as_millis() / 100 * 100;
                    return StreamEnd::Broken(Duration::from_millis(after as u64));
                }
                None => return StreamEnd::Clean,
            }
        }
        StreamEnd::Open
    }

    /// Ends it, by a drain or by its service.
    async fn finish(&mut self, drained: bool) {
        if drained {
            self.drain.start();
        } else {
            self.upstream = Upstream::pair().0;
        }
        assert_eq!(self.read_for(LIMIT).await, StreamEnd::Clean);
    }

    fn heartbeats(&self) -> usize {
        let read = std::str::from_utf8(&self.read).expect("text");
        read.matches(HEARTBEAT).count()
    }
}

async fn ask(app: Router, headers: &[(&str, &str)]) -> Response<Body> {
    let request = headers
        .iter()
        .fold(Request::get("/"), |request, (name, value)| {
            request.header(*name, *value)
        });
    let answer = app.oneshot(request.body(Body::empty()).expect("a request"));
    let answer: Result<_, Infallible> = answer.await;
    answer.unwrap_or_else(|never| match never {})
}
