//! Graceful shutdowns of real servers, with event streams open over real sockets.

mod support;

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, routing::any};
use bytes::Bytes;
use futures_util::{StreamExt, future::join_all, stream};
use support::{
    reference,
    serve::{
        Connection, EVENT_SOURCE, EVENT_STREAM, End, PATIENCE, PROTOCOLS, Protocol, Reader, STACKS,
        Server, Stack, Upstream, respond, soon, upstreams,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, sleep},
};
use tower_sse::{Drain, DrainLayer, DrainMode, SseLayer};

/// How long a shutdown may take that waits for nothing.
const PROMPT: Duration = Duration::from_secs(3);

// ---- a thousand idle streams and a hundred busy ones ----

/// Held by who opens hundreds of sockets: a process may often have no more than 1,024 files open.
static SOCKETS: Mutex<()> = Mutex::const_new(());

const CROWD: [(Protocol, &str, usize, usize); 4] = [
    // protocol, path, connections, streams on each
    (Protocol::Http1, "/idle", 200, 1),
    (Protocol::Http1, "/busy", 50, 1),
    (Protocol::Http2, "/idle", 10, 80),
    (Protocol::Http2, "/busy", 5, 10),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn axum_sends_a_crowd_home_at_once() {
    a_crowd_goes_home_at_once(Stack::Axum).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonic_sends_a_crowd_home_at_once() {
    a_crowd_goes_home_at_once(Stack::Tonic).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hyper_sends_a_crowd_home_at_once() {
    a_crowd_goes_home_at_once(Stack::Hyper).await;
}

async fn a_crowd_goes_home_at_once(stack: Stack) {
    let _turn = SOCKETS.lock().await;
    let (layer, drain) = DrainLayer::pair();
    let layer = SseLayer::new().drain(layer.deadline(Duration::ZERO));
    let mut server = Server::start(stack, idle_and_busy(), Some(layer)).await;
    let mut crowd = open_crowd(&server).await;
    assert_eq!(drain.left(), 1_100);

    let start = Instant::now();
    drain.start();
    server.stop();
    server.ended().await;
    let took = start.elapsed();
    println!("{stack:?} took {took:?}");
    assert!(took < PROMPT, "{took:?}");
    soon("the end of the drain", drain.wait()).await;
    assert_eq!(drain.left(), 0);
    while let Some(gone) = crowd.join_next().await {
        let (end, read) = gone.unwrap();
        assert_eq!(end, End::Clean);
        assert!(read.ends_with("\n\n"), "in the middle of an event: {read}");
    }
}

/// `/idle` sends an event and no more, `/busy` one after the other, each in three frames.
fn idle_and_busy() -> Router {
    let idle = async || {
        let event = stream::iter([Ok::<_, Infallible>("data: hello\n\n")]);
        respond(
            EVENT_STREAM,
            Body::from_stream(event.chain(stream::pending())),
        )
    };
    let busy = async || {
        let frames = stream::iter(
            ["data: one\n", "data: and ano", "ther\n\n"]
                .into_iter()
                .cycle(),
        );
        let paced = frames.then(async |frame| {
            sleep(Duration::from_millis(10)).await;
            Ok::<_, Infallible>(frame)
        });
        respond(EVENT_STREAM, Body::from_stream(paced))
    };
    Router::new()
        .route("/idle", any(idle))
        .route("/busy", any(busy))
}

/// Opens all streams, sees an event on each, and reads on.
async fn open_crowd(server: &Server) -> JoinSet<(End, String)> {
    let connections = CROWD
        .into_iter()
        .flat_map(|(protocol, path, connections, streams)| {
            (0..connections).map(move |_| (protocol, path, streams))
        });
    let readers = join_all(connections.map(async |(protocol, path, streams)| {
        let mut connection = Connection::open(server.address, protocol).await;
        let mut readers = Vec::new();
        for _ in 0..streams {
            let mut reader = connection.get(path, EVENT_SOURCE).await;
            reader.until("\n\n").await;
            readers.push(reader);
        }
        readers
    }));
    let readers = readers.await.into_iter().flatten();
    readers
        .map(async |mut reader| (reader.end().await, reader.text()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_layer_one_idle_stream_holds_up_the_shutdown() {
    join_all(everywhere().map(async |(stack, protocol)| {
        let mut server = Server::start(stack, idle_and_busy(), None).await;
        let mut connection = Connection::open(server.address, protocol).await;
        let mut reader = connection.get("/idle", EVENT_SOURCE).await;
        reader.until("\n\n").await;
        server.stop();
        assert!(server.hangs_for(PROMPT * 2).await, "{stack:?} {protocol:?}");
        drop((reader, connection));
        server.ended().await;
    }))
    .await;
}

// ---- the signals: that of the server and that of the drain ----

#[tokio::test]
async fn either_signal_may_come_first() {
    for (stack, protocol) in everywhere() {
        let mut stage = Stage::new(stack, protocol, at_once).await;
        let (mut reader, upstream) = stage.event_source().await;
        stage.server.stop();
        assert!(stage.server.hangs_for(Duration::from_millis(50)).await);
        upstream.send("data: 2\n\n");
        reader.until("data: 2\n\n").await;
        stage.drain.start();
        assert_eq!(reader.end().await, End::Clean, "{stack:?} {protocol:?}");
        stage.server.ended().await;

        let mut stage = Stage::new(stack, protocol, at_once).await;
        let (mut reader, _upstream) = stage.event_source().await;
        stage.drain.start();
        assert_eq!(reader.end().await, End::Clean, "{stack:?} {protocol:?}");
        soon("the end of the drain", stage.drain.wait()).await;
        stage.ends().await;
    }
}

#[tokio::test]
async fn a_stream_asked_for_on_an_open_connection_during_the_drain_is_refused() {
    for (stack, protocol) in everywhere() {
        let mut stage = Stage::new(stack, protocol, late).await;
        let (mut running, upstream) = stage.post().await;
        if protocol == Protocol::Http1 {
            // There, one comes after the other.
            drop(upstream);
            assert_eq!(running.end().await, End::Clean);
        }
        stage.drain.start();
        let mut refused = stage.connection.get("/", EVENT_SOURCE).await;
        assert_eq!(refused.status, 200, "{stack:?} {protocol:?}");
        assert_eq!(refused.headers["content-type"], "text/event-stream");
        assert_eq!(refused.end().await, End::Clean);
        let parsed = reference::parse(&refused.read);
        assert!(parsed.retry.is_some() && parsed.events.is_empty());

        let mut refused = stage.connection.post("/").await;
        assert_eq!(refused.status, 503, "{stack:?} {protocol:?}");
        assert!(refused.headers.contains_key("retry-after"));
        assert_eq!(refused.end().await, End::Clean);
        drop(running);
        stage.ends().await;
    }
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_and_holds_nothing_up() {
    for (stack, protocol) in everywhere() {
        let mut stage = Stage::new(stack, protocol, at_once).await;
        let (mut reader, upstream) = stage.event_source().await;
        drop(upstream);
        assert_eq!(reader.end().await, End::Clean);
        stage.server.stop();
        stage.drain.start();
        stage.server.ended().await;
        let late = stage.connection.send("GET", "/", EVENT_SOURCE, "").await;
        assert!(late.is_err(), "{stack:?} {protocol:?}");
    }
}

#[tokio::test]
async fn a_request_whose_head_was_half_sent_at_the_signal_is_refused() {
    const EVENT_SOURCE: &str = "GET / HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    const FETCH: &str = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
    for stack in STACKS {
        for (request, status, text) in [
            (EVENT_SOURCE, "HTTP/1.1 200 ", "retry: "),
            (FETCH, "HTTP/1.1 503 ", "Please try again."),
        ] {
            let (sent, rest) = request.split_at(request.len() / 2);
            let (mut stage, mut socket) = Stage::half_sent(stack, sent).await;
            stage.drain.start();
            stage.server.stop();
            socket.write_all(rest.as_bytes()).await.unwrap();
            let answer = all_of(&mut socket).await;
            assert!(answer.starts_with(status), "{stack:?}: {answer}");
            assert!(answer.contains(text), "{stack:?}: {answer}");
            stage.upstream().await.is_dropped().await;
            stage.server.ended().await;
        }
    }
}

/// The service has it already, so it is not late; its head arrives during the drain.
#[tokio::test]
async fn a_request_whose_body_was_half_sent_at_the_signal_gets_its_answer() {
    const SENT: &str = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{";
    for stack in STACKS {
        let (mut stage, mut socket) = Stage::half_sent(stack, SENT).await;
        stage.drain.start();
        stage.server.stop();
        socket.write_all(b"}").await.unwrap();
        stage.upstream().await.send("data: [DONE]\n\n");
        let answer = all_of(&mut socket).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{stack:?}: {answer}");
        assert!(answer.contains("data: [DONE]\n\n"), "{stack:?}: {answer}");
        assert!(answer.ends_with("\r\n0\r\n\r\n"), "{stack:?}: {answer}");
        stage.server.ended().await;
    }
}

// ---- answers, and the deadline ----

#[tokio::test]
async fn an_answer_completes_during_the_drain() {
    for (stack, protocol) in everywhere() {
        let mut stage = Stage::new(stack, protocol, late).await;
        let (mut reader, upstream) = stage.post().await;
        stage.drain.start();
        stage.server.stop();
        upstream.send("data: 2\n\n");
        reader.until("data: 2\n\n").await;
        upstream.send("data: [DONE]\n\n");
        drop(upstream);
        assert_eq!(reader.end().await, End::Clean, "{stack:?} {protocol:?}");
        assert_eq!(reader.text(), "data: 1\n\ndata: 2\n\ndata: [DONE]\n\n");
        stage.server.ended().await;
    }
}

#[tokio::test]
async fn at_the_deadline_an_event_source_that_was_to_finish_ends_cleanly() {
    for (stack, protocol) in everywhere() {
        let to_finish = |layer| at_once(layer).mode(DrainMode::Finish);
        let mut stage = Stage::new(stack, protocol, to_finish).await;
        let (mut reader, _upstream) = stage.event_source().await;
        stage.drain.start();
        assert_eq!(reader.end().await, End::Clean, "{stack:?} {protocol:?}");
        stage.ends().await;
    }
}

#[tokio::test]
async fn an_answer_that_is_complete_but_for_its_end_is_not_aborted() {
    for (stack, protocol) in everywhere() {
        let mut stage = Stage::new(stack, protocol, at_once).await;
        let (mut reader, upstream) = stage.post().await;
        upstream.send("data: [DONE]\n\n");
        reader.until("data: [DONE]\n\n").await;
        stage.drain.start();
        assert_eq!(reader.end().await, End::Clean, "{stack:?} {protocol:?}");
        stage.ends().await;
    }
}

/// A blank line would make an event of its half.
#[tokio::test]
async fn an_event_that_stalls_stays_half() {
    for protocol in PROTOCOLS {
        for get in [true, false] {
            an_event_stays_half(protocol, get).await;
        }
    }
}

async fn an_event_stays_half(protocol: Protocol, get: bool) {
    let mut stage = Stage::new(Stack::Axum, protocol, at_once).await;
    let (mut reader, upstream) = if get {
        stage.event_source().await
    } else {
        stage.post().await
    };
    upstream.send("data: 2\n");
    reader.until("data: 2\n").await;
    stage.drain.start();
    let end = if get { End::Clean } else { End::Broken };
    assert_eq!(reader.end().await, end, "{protocol:?}");
    assert!(
        reader.text().ends_with("\n\ndata: 2\n"),
        "{protocol:?} {get}: {}",
        reader.text()
    );
    stage.ends().await;
}

/// The event ends and the stream is broken off in the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_event_that_an_abort_has_waited_for_arrives() {
    let _turn = SOCKETS.lock().await;
    for (stack, protocol) in everywhere() {
        let mut stage = Stage::new(stack, protocol, at_once).await;
        let mut streams = stage.posts(TRIALS).await;
        for (reader, upstream) in &mut streams {
            upstream.send("data: 2\n");
            reader.until("data: 2\n").await;
        }
        stage.drain.start();
        for (_, upstream) in &streams {
            upstream.send("\n");
        }
        for (mut reader, _) in streams {
            assert_eq!(reader.end().await, End::Broken, "{stack:?} {protocol:?}");
            assert_eq!(reader.text(), "data: 1\n\ndata: 2\n\n");
        }
        stage.ends().await;
    }
}

/// Tokens come at the pace of a language model when the deadline passes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_before_an_abort_arrives() {
    let _turn = SOCKETS.lock().await;
    for (stack, protocol) in everywhere() {
        let deadline = |layer: DrainLayer| layer.deadline(Duration::from_millis(200));
        let mut stage = Stage::new(stack, protocol, deadline).await;
        let mut clients = JoinSet::new();
        for (mut reader, upstream) in stage.posts(TRIALS).await {
            clients.spawn(async move {
                let talks = talk(&upstream);
                let end = tokio::select! {
                    end = reader.end() => end,
                    () = talks => unreachable!("it talks for ever"),
                };
                (end, reader.text(), upstream.taken())
            });
        }
        stage.drain.start();
        while let Some(client) = clients.join_next().await {
            let (end, read, taken) = client.unwrap();
            assert_eq!(end, End::Broken, "{stack:?} {protocol:?}");
            assert_eq!(
                read,
                String::from_utf8(taken).unwrap(),
                "{stack:?} {protocol:?}"
            );
        }
        stage.ends().await;
    }
}

async fn talk(upstream: &Upstream) {
    for frame in ["data: one\n", "data: and ano", "ther\n\n"]
        .into_iter()
        .cycle()
    {
        upstream.send(frame);
        sleep(Duration::from_millis(5)).await;
    }
}

// ---- clients that do not read ----

#[tokio::test]
async fn a_client_that_does_not_read_is_freed_from_outside() {
    for (stack, protocol) in everywhere() {
        let mut stage = Stage::new(stack, protocol, at_once).await;
        let (reader, upstream) = stage.event_source().await;
        flood(&upstream).await;
        stage.drain.start();
        stage.server.stop();
        upstream.is_dropped().await;
        soon("the end of the drain", stage.drain.wait()).await;
        assert_eq!(stage.drain.left(), 0);
        // The socket is the listener's business.
        assert!(stage.server.hangs_for(Duration::from_millis(50)).await);
        drop((reader, stage.connection));
        stage.server.ended().await;
    }
}

/// Its end is not the answer's end, so it must not look like one.
#[tokio::test]
async fn a_client_that_reads_again_after_that_sees_the_break() {
    for (stack, protocol) in everywhere() {
        let mut stage = Stage::new(stack, protocol, at_once).await;
        let (mut reader, upstream) = stage.post().await;
        flood(&upstream).await;
        stage.drain.start();
        upstream.is_dropped().await;
        assert_eq!(reader.end().await, End::Broken, "{stack:?} {protocol:?}");
        stage.ends().await;
    }
}

/// Sends more than all buffers on the way can take, until no more of it is taken.
async fn flood(upstream: &Upstream) {
    let event = Bytes::from(format!("data: {}\n\n", "x".repeat(64 * 1024)));
    for _ in 0..512 {
        upstream.send(event.clone());
    }
    let mut taken = 0;
    soon("a full socket", async {
        while taken < upstream.taken().len() {
            taken = upstream.taken().len();
            sleep(Duration::from_millis(200)).await;
        }
    })
    .await;
    assert!(taken < 512 * event.len(), "all of it was taken");
}

// ---- what the tests stand on ----

/// A server with a drain, a client's connection, and the far ends of its streams.
struct Stage {
    server: Server,
    drain: Drain,
    protocol: Protocol,
    connection: Connection,
    opened: mpsc::UnboundedReceiver<Upstream>,
}

/// How many streams try what may go wrong once in a while.
const TRIALS: usize = 120;

/// The deadline has passed when the drain starts.
fn at_once(layer: DrainLayer) -> DrainLayer {
    layer.deadline(Duration::ZERO)
}

/// The deadline is not reached.
fn late(layer: DrainLayer) -> DrainLayer {
    layer.deadline(PATIENCE * 10)
}

impl Stage {
    async fn new(
        stack: Stack,
        protocol: Protocol,
        configure: impl FnOnce(DrainLayer) -> DrainLayer,
    ) -> Self {
        let (layer, drain) = DrainLayer::pair();
        let (app, opened) = upstreams(EVENT_STREAM);
        let layer = SseLayer::new().drain(configure(layer));
        let server = Server::start(stack, app, Some(layer)).await;
        let connection = Connection::open(server.address, protocol).await;
        Self {
            server,
            drain,
            protocol,
            connection,
            opened,
        }
    }

    /// Without a client, but a socket from which the server has read this.
    async fn half_sent(stack: Stack, sent: &str) -> (Self, TcpStream) {
        let mut stage = Self::new(stack, Protocol::Http1, late).await;
        let mut socket = TcpStream::connect(stage.server.address).await.unwrap();
        socket.write_all(sent.as_bytes()).await.unwrap();
        stage.server.has_heard(sent.len()).await;
        (stage, socket)
    }

    async fn ends(&mut self) {
        self.server.stop();
        self.server.ended().await;
    }

    async fn upstream(&mut self) -> Upstream {
        let opened = soon("a stream", self.opened.recv()).await;
        opened.expect("a server")
    }

    /// A stream for an `EventSource`, whose first event has arrived.
    async fn event_source(&mut self) -> (Reader, Upstream) {
        let reader = self.connection.get("/", EVENT_SOURCE).await;
        self.begun(reader).await
    }

    /// A stream for an AI client, whose first event has arrived.
    async fn post(&mut self) -> (Reader, Upstream) {
        let reader = self.connection.post("/").await;
        self.begun(reader).await
    }

    /// Many of them, on HTTP/1 with a connection for each.
    async fn posts(&mut self, count: usize) -> Vec<(Reader, Upstream)> {
        let mut streams = Vec::new();
        for _ in 0..count {
            if let Protocol::Http1 = self.protocol {
                self.connection = Connection::open(self.server.address, self.protocol).await;
            }
            streams.push(self.post().await);
        }
        streams
    }

    async fn begun(&mut self, mut reader: Reader) -> (Reader, Upstream) {
        let upstream = self.upstream().await;
        upstream.send("data: 1\n\n");
        reader.until("\n\n").await;
        (reader, upstream)
    }
}

async fn all_of(socket: &mut TcpStream) -> String {
    let mut answer = String::new();
    let read = soon("the end of the answer", socket.read_to_string(&mut answer));
    read.await.expect("text");
    answer
}

fn everywhere() -> impl Iterator<Item = (Stack, Protocol)> {
    STACKS
        .into_iter()
        .flat_map(|stack| PROTOCOLS.map(|protocol| (stack, protocol)))
}
