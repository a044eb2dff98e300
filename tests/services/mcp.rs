//! rmcp's streamable HTTP service: heartbeats while a tool works, a drain that lets it finish, and ids
//! that stay its own.

use std::time::Duration;

use tower_sse::{DrainLayer, SseLayer};

use crate::{
    answers::{HEARTBEAT, own_bytes},
    examples,
    support::{
        reference,
        serve::{Connection, End, PATIENCE, PROTOCOLS, Protocol, Reader, Server, Stack, soon},
    },
};

/// Between two events there is time for some heartbeats.
const PAUSE: Duration = Duration::from_millis(150);
const OFTEN: Duration = Duration::from_millis(15);

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{
    "protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{
    "name":"train","_meta":{"progressToken":"t"}}}"#;

/// What an MCP client says of itself when it posts.
const CLIENT: [(&str, &str); 2] = [
    ("accept", "application/json, text/event-stream"),
    ("content-type", "application/json"),
];

#[tokio::test]
async fn a_tool_that_works_has_heartbeats_and_the_same_bytes() {
    for protocol in PROTOCOLS {
        let mut session = Session::start(None, None, protocol).await;
        let mut bare = session.call().await;
        assert_eq!(bare.end().await, End::Clean);
        assert_eq!(data(&bare).len(), 5, "{}", bare.text());

        let layer = SseLayer::new().heartbeat(OFTEN);
        let mut session = Session::start(Some(layer), None, protocol).await;
        let mut wrapped = session.call().await;
        let cache = wrapped.headers["cache-control"].to_str();
        assert_eq!(cache.unwrap(), "no-cache, no-transform");
        assert_eq!(wrapped.end().await, End::Clean);
        assert!(count(&wrapped.read, HEARTBEAT) > 3, "{}", wrapped.text());
        let without = wrapped.text().replace(HEARTBEAT, "");
        assert_eq!(without, bare.text(), "{protocol:?}");
    }
}

#[tokio::test]
async fn with_heartbeats_of_its_own_there_are_no_others() {
    let theirs = Duration::from_millis(50);
    let layer = SseLayer::new().heartbeat(theirs);
    let mut session = Session::start(Some(layer), Some(theirs), Protocol::Http1).await;
    let mut listening = session.listen(None).await;
    let some = |read: &[u8]| count(read, ":\n\n") >= 8;
    listening.until_it("heartbeats", some).await;
    assert_eq!(count(&listening.read, HEARTBEAT), 0, "{}", listening.text());
}

#[tokio::test]
async fn a_drain_ends_who_only_listens_and_lets_the_tool_finish() {
    for protocol in PROTOCOLS {
        let (layer, drain) = DrainLayer::pair();
        let layer = layer.spread(Duration::ZERO).deadline(PATIENCE * 2);
        let layer = SseLayer::new().heartbeat(OFTEN).drain(layer);
        let mut session = Session::start(Some(layer), None, protocol).await;
        let mut listening = session.listen(None).await;
        listening.until(HEARTBEAT).await;
        let mut calling = session.call().await;
        let first = |read: &[u8]| count(read, "\"progress\":1") == 1;
        calling.until_it("progress", first).await;
        drain.start();
        session.server.stop();
        assert_eq!(listening.end().await, End::Clean);
        assert_eq!(data(&listening), data(&listening)[..1], "the priming event");
        assert_eq!(calling.end().await, End::Clean);
        assert!(data(&calling)[4].contains("trained"), "{}", calling.text());
        session.server.ended().await;
    }
}

#[tokio::test]
async fn its_last_event_id_is_its_own() {
    let mut resumed = Vec::new();
    for layer in [None, Some(SseLayer::new().heartbeat(OFTEN))] {
        let mut session = Session::start(layer, None, Protocol::Http1).await;
        let mut calling = session.call().await;
        let first = |read: &[u8]| count(read, "\"progress\":1") == 1;
        calling.until_it("progress", first).await;
        let events = reference::parse(&calling.read).events;
        let last = events[1].id.clone();
        drop(calling);
        let mut rest = session.listen(Some(&last)).await;
        let result = |read: &[u8]| count(read, "trained") == 1;
        rest.until_it("the result", result).await;
        assert_eq!(rest.end().await, End::Clean);
        let ids = reference::parse(&rest.read).events;
        let ids: Vec<_> = ids.into_iter().map(|event| event.id).collect();
        resumed.push((last, ids, own_bytes(&rest.read)));
    }
    // rmcp sends the last one once more.
    assert!(!resumed[0].1.contains(&"0/0".to_owned()), "{resumed:?}");
    assert_eq!(resumed[0], resumed[1]);
}

// ---- an MCP client ----

struct Session {
    server: Server,
    protocol: Protocol,
    id: String,
}

impl Session {
    async fn start(
        sse: Option<SseLayer>,
        keep_alive: Option<Duration>,
        protocol: Protocol,
    ) -> Self {
        let app = examples::rmcp::app(PAUSE, keep_alive);
        let server = Server::start(Stack::Axum, app, sse).await;
        let mut connection = Connection::open(server.address, protocol).await;
        let mut answer = post(&mut connection, &CLIENT, INITIALIZE).await;
        let id = answer.headers["mcp-session-id"].to_str().expect("an id");
        let mut session = Self {
            id: id.to_owned(),
            server,
            protocol,
        };
        assert_eq!(answer.end().await, End::Clean);
        let accepted = session.post(INITIALIZED).await;
        assert_eq!(accepted.status, 202);
        session
    }

    /// Calls the tool.
    async fn call(&mut self) -> Reader {
        let answer = self.post(CALL).await;
        assert_eq!(answer.status, 200);
        answer
    }

    /// Opens the stream that belongs to no request, or resumes one.
    async fn listen(&mut self, last: Option<&str>) -> Reader {
        let mut headers = vec![
            ("accept", "text/event-stream"),
            ("mcp-session-id", &*self.id),
        ];
        headers.extend(last.map(|last| ("last-event-id", last)));
        let mut connection = Connection::open(self.server.address, self.protocol).await;
        let answer = connection.get("/mcp", &headers).await;
        assert_eq!(answer.status, 200);
        answer
    }

    async fn post(&mut self, message: &'static str) -> Reader {
        let mut connection = Connection::open(self.server.address, self.protocol).await;
        let [accept, content_type] = CLIENT;
        let headers = [accept, content_type, ("mcp-session-id", &*self.id)];
        post(&mut connection, &headers, message).await
    }
}

async fn post(
    connection: &mut Connection,
    headers: &[(&str, &str)],
    message: &'static str,
) -> Reader {
    let answer = connection.send("POST", "/mcp", headers, message);
    soon("an answer", answer).await.expect("an answer")
}

/// The data of its events.
fn data(reader: &Reader) -> Vec<String> {
    let events = reference::parse(&reader.read).events;
    events.into_iter().map(|event| event.data).collect()
}

fn count(read: &[u8], what: &str) -> usize {
    String::from_utf8_lossy(read).matches(what).count()
}
