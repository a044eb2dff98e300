//! The id that a client comes back with, the last one sent to it, and the ids that events get.

mod support;

use std::{
    convert::Infallible,
    future::ready,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Waker},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use http_body::Body;
use support::{
    body::{
        AnyBody, Client, End, Script, Step, data, events, pause, poll, record, request, script,
        through,
    },
    reference,
    streams::{NASTY, cut_at, every_split, shown},
};
use tower::{Layer, Service, service_fn};
use tower_sse::{
    DrainLayer, DrainMode, EndReason, EventIdLayer, HeartbeatLayer, HeartbeatShape, LastEventId,
    LastSentId, SseLayer, is_event_source, wire::EventId,
};

// === the id that the client comes back with ===

/// What the service finds in the request's extensions.
fn last_event_id<L>(layer: &L, request: Request<()>) -> Option<String>
where
    L: Layer<Recorder>,
    L::Service: Service<Request<()>>,
{
    let recorder = Recorder::default();
    drop(layer.layer(recorder.clone()).call(request));
    recorder.0.lock().unwrap().take()
}

/// A service that keeps the [`LastEventId`] of its request.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Option<String>>>);

impl Service<Request<()>> for Recorder {
    type Response = Response<Script>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let id = request.extensions().get();
        *self.0.lock().unwrap() = id.map(|LastEventId(id)| id.as_str().into());
        ready(Ok(Response::new(script([]))))
    }
}

fn coming_back_with(id: &[u8], uri: &str) -> Request<()> {
    let mut request = request("GET", uri, &[]);
    let id = HeaderValue::from_bytes(id).unwrap();
    request.headers_mut().insert("last-event-id", id);
    request
}

#[test]
fn the_header_is_read_as_the_utf8_that_browsers_send() {
    let longest = "x".repeat(EventId::MAX_LEN);
    let too_long = "x".repeat(EventId::MAX_LEN + 1);
    for (id, expected) in [
        (&b"41"[..], Some("41")),
        (b"a b", Some("a b")),
        (b"a\tb", Some("a\tb")),
        ("ümläut 🦀".as_bytes(), Some("ümläut 🦀")),
        (longest.as_bytes(), Some(&*longest)),
        (too_long.as_bytes(), None),
        (&[b'x'; 60_000], None),
        (b"", None),
        (b"\xff", None),
        (b"\xf0\x9f", None),
    ] {
        for layer in [EventIdLayer::new(), EventIdLayer::new().track(false)] {
            let found = last_event_id(&layer, coming_back_with(id, "/"));
            assert_eq!(found.as_deref(), expected, "{}", id.escape_ascii());
        }
        let found = last_event_id(&SseLayer::new(), coming_back_with(id, "/"));
        assert_eq!(found.as_deref(), expected, "{}", id.escape_ascii());
    }
    // http takes no NUL, CR or LF into a header.
    for byte in [0, b'\r', b'\n'] {
        assert!(HeaderValue::from_bytes(&[b'1', byte]).is_err());
    }
}

#[test]
fn a_client_that_does_not_come_back_has_no_id() {
    assert_eq!(
        last_event_id(&EventIdLayer::new(), request("GET", "/", &[])),
        None
    );
    let off = SseLayer::new().without_event_id();
    assert_eq!(last_event_id(&off, coming_back_with(b"1", "/")), None);
}

#[test]
fn a_query_parameter_is_read_only_where_asked_for_and_only_without_the_header() {
    let asked = EventIdLayer::new().query("lastEventId");
    for (query, expected) in [
        ("lastEventId=41", Some("41")),
        ("a=b&lastEventId=41&c=d", Some("41")),
        ("lastEventId=a%20b%2Bc+d", Some("a b+c d")),
        ("lastEventId=%C3%BC%F0%9F%A6%80", Some("ü🦀")),
        ("last%45ventId=41", Some("41")),
        ("lastEventId=&lastEventId=41", Some("41")),
        ("lastEventId=%00", None),
        ("lastEventId=1%0Adata:x", None),
        ("lastEventId=%0D", None),
        ("lastEventId=", None),
        ("lastEventId", None),
        ("lasteventid=41", None),
        ("xlastEventId=41", None),
        ("", None),
    ] {
        let uri = format!("/?{query}");
        let found = |layer: &EventIdLayer, request| last_event_id(layer, request);
        assert_eq!(
            found(&asked, request("GET", &uri, &[])).as_deref(),
            expected,
            "{query}"
        );
        assert_eq!(found(&EventIdLayer::new(), request("GET", &uri, &[])), None);
        assert_eq!(
            found(&asked, coming_back_with(b"7", &uri)).as_deref(),
            Some("7")
        );
    }
    let too_long = format!("/?lastEventId={}", "x".repeat(EventId::MAX_LEN + 1));
    assert_eq!(last_event_id(&asked, request("GET", &too_long, &[])), None);
    assert_eq!(last_event_id(&asked, request("GET", "/", &[])), None);
}

#[test]
fn the_id_is_there_for_every_request_whatever_its_response() {
    // The recorder answers without a media type.
    assert_eq!(
        last_event_id(&EventIdLayer::new(), coming_back_with(b"1", "/")).as_deref(),
        Some("1")
    );
}

// === the last id sent ===

async fn tracked(steps: impl IntoIterator<Item = Step>) -> (LastSentId, AnyBody) {
    let layer = EventIdLayer::new();
    opened(through(layer, Client::EventSource.request(), events(steps)).await)
}

fn opened(response: Response<AnyBody>) -> (LastSentId, AnyBody) {
    let sent = response.extensions().get::<LastSentId>().cloned();
    (sent.expect("a handle"), response.into_body())
}

fn id(sent: &LastSentId) -> Option<String> {
    sent.get().map(|id| id.as_str().into())
}

#[tokio::test]
async fn an_id_counts_from_the_blank_line_on() {
    let steps = [
        ("data: x\n\n", None),
        ("id: 1\n", None),
        ("data: x\n", None),
        ("\n", Some("1")),
        // without data it counts too
        ("id: 2\n\n", Some("2")),
        ("id: 3\r\ndata: x\r\n", Some("2")),
        ("\r\n", Some("3")),
        // with a NUL it is as if it were not there
        ("id: 4\0\ndata: x\n\n", Some("3")),
        ("id: 5\nid: \0\n\n", Some("5")),
        ("id: 6\nid: 7\n\n", Some("7")),
        ("ID: 8\nidx: 8\n id: 8\n: id: 8\n\n", Some("7")),
        // an empty one clears the cursor
        ("id\n", Some("7")),
        ("\n", None),
        ("id:ü 🦀\n\n", Some("ü 🦀")),
        ("id: \n\n", None),
        ("id:  \n\n", Some(" ")),
    ];
    let spaced = steps
        .iter()
        .flat_map(|(bytes, _)| [data(bytes), pause(1.0)]);
    tokio::time::pause();
    let (sent, mut body) = tracked(spaced).await;
    for (bytes, expected) in steps {
        let frame = http_body_util::BodyExt::frame(&mut body)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(frame.into_data().unwrap(), bytes);
        assert_eq!(id(&sent).as_deref(), expected, "{bytes:?}");
        assert_eq!(sent.end(), None);
    }
}

#[tokio::test]
async fn the_last_id_is_the_one_that_a_client_has() {
    for (name, stream) in NASTY {
        let client = reference::parse(stream).last_id;
        for chunks in every_split(stream).into_iter().take(100) {
            let (sent, body) = tracked(chunks.iter().cloned().map(Step::Data)).await;
            record(body).await;
            // What cannot be an id of ours is none.
            let kept = EventId::new(&*client).ok().map(|id| id.to_string());
            assert_eq!(id(&sent), kept, "{name}, cut as {}", shown(&chunks));
        }
    }
}

#[tokio::test]
async fn the_handle_is_there_only_for_event_streams_that_are_tracked() {
    let untracked = EventIdLayer::new().track(false);
    let assigning = untracked.clone().assign(|_| true);
    for (layer, content_type, expected) in [
        (EventIdLayer::new(), "text/event-stream", true),
        (EventIdLayer::new(), "text/plain", false),
        (untracked, "text/event-stream", false),
        (assigning, "text/event-stream", false),
    ] {
        let response = support::body::response(content_type, script([]));
        let response = through(layer, Client::Fetch.request(), response).await;
        assert_eq!(
            response.extensions().get::<LastSentId>().is_some(),
            expected
        );
    }
}

#[tokio::test(start_paused = true)]
async fn every_kind_of_end_has_its_reason() {
    let trailers = http::HeaderMap::new();
    for (steps, reason) in [
        (vec![data("id: 1\n\n")], EndReason::Complete),
        (
            vec![data("id: 1\n\n"), Step::Trailers(trailers)],
            EndReason::Complete,
        ),
        (
            vec![data("id: 1\n\n"), Step::Error("broken")],
            EndReason::Failed,
        ),
    ] {
        let (sent, body) = tracked(steps).await;
        assert_eq!(sent.end(), None);
        record(body).await;
        assert_eq!(
            (id(&sent).as_deref(), sent.end()),
            (Some("1"), Some(reason))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_a_reason_of_its_own() {
    for (mode, reason) in [
        (DrainMode::EndNow, EndReason::Drained),
        (DrainMode::Finish, EndReason::Aborted),
    ] {
        let (layer, drain) = DrainLayer::pair();
        let layer = layer.mode(mode).deadline(Duration::ZERO);
        let layers = SseLayer::new().event_id(EventIdLayer::new()).drain(layer);
        let steps = [
            data("id: 1\n\nid: 2\n"),
            pause(0.2),
            data("\nid: 3\n\n"),
            Step::Hang,
        ];
        let response = through(layers, Client::Fetch.request(), events(steps)).await;
        let (sent, mut body) = opened(response);
        assert!(poll(&mut body).is_ready());
        drain.start();
        record(body).await;
        assert_eq!(
            (id(&sent).as_deref(), sent.end()),
            (Some("2"), Some(reason))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_is_a_reason_too() {
    let (sent, mut body) = tracked([data("id: 1\n\nid: 2\n"), Step::Hang]).await;
    assert!(poll(&mut body).is_ready());
    assert_eq!(sent.end(), None);
    drop(body);
    assert_eq!(
        (id(&sent).as_deref(), sent.end()),
        (Some("1"), Some(EndReason::Disconnected))
    );

    // Also before the first poll.
    let (sent, body) = tracked([data("id: 1\n\n")]).await;
    drop(body);
    assert_eq!(
        (sent.get(), sent.end()),
        (None, Some(EndReason::Disconnected))
    );
}

#[tokio::test(start_paused = true)]
async fn the_first_end_is_the_one_that_counts() {
    let (sent, mut body) = tracked([Step::Error("broken")]).await;
    // The error waits for what was sent to be written.
    assert!(poll(&mut body).is_pending());
    assert_eq!(sent.end(), Some(EndReason::Failed));
    drop(body);
    assert_eq!(sent.end(), Some(EndReason::Failed));
}

// === ids for events that have none ===

fn numbering() -> EventIdLayer {
    EventIdLayer::new().assign(is_event_source)
}

async fn numbered(request: Request<()>, steps: impl IntoIterator<Item = Step>) -> String {
    let response = through(numbering(), request, events(steps)).await;
    let (sent, body) = opened(response);
    let recording = record(body).await;
    assert_eq!(recording.end.1, End::Clean);
    let last = reference::parse(&recording.bytes()).last_id;
    assert_eq!(id(&sent).unwrap_or_default(), last);
    recording.text()
}

#[tokio::test]
async fn an_id_goes_into_the_block_that_it_names_however_that_is_cut() {
    for (up, down) in [
        ("data: x\n\n", "data: x\nid: 1\n\n"),
        ("data: x\r\n\r\n", "data: x\r\nid: 1\r\n\r\n"),
        ("data: x\r\r", "data: x\rid: 1\r\r"),
        ("data\n\ndata:\n\n", "data\nid: 1\n\ndata:\nid: 2\n\n"),
        ("data: x\n: hi\r\n\n", "data: x\n: hi\r\nid: 1\r\n\n"),
        (
            "event: e\ndata: x\nfoo\n\n",
            "event: e\ndata: x\nfoo\nid: 1\n\n",
        ),
        // no data, no event, no id
        ("event: e\n\ndata: x\n\n", "event: e\n\ndata: x\nid: 1\n\n"),
        ("retry: 5\n\ndata: x\n\n", "retry: 5\n\ndata: x\nid: 1\n\n"),
        ("\n\ndata: x\n\n\n", "\n\ndata: x\nid: 1\n\n\n"),
        ("dat: x\n\n data: x\n\n", "dat: x\n\n data: x\n\n"),
        // never in half a block
        ("data: x\n", "data: x\n"),
        ("data: x", "data: x"),
        // an id of the service ends the numbering, and is never touched
        (
            "data: x\n\nid: 7\n\ndata: y\n\n",
            "data: x\nid: 1\n\nid: 7\n\ndata: y\n\n",
        ),
        ("data: x\nid\n\ndata: y\n\n", "data: x\nid\n\ndata: y\n\n"),
        ("id: \ndata: x\n\n", "id: \ndata: x\n\n"),
        // but one with a NUL is none
        ("id: 7\0\ndata: x\n\n", "id: 7\0\ndata: x\nid: 1\n\n"),
        // a comment block would be an empty event in a stream with ids
        (": hi\n\ndata: x\n\n", ": hi\ndata: x\nid: 1\n\n"),
        (
            ": hi\r\n\r\ndata: x\r\n\r\n",
            ": hi\r\ndata: x\r\nid: 1\r\n\r\n",
        ),
        (": hi\r\rdata: x\r\r", ": hi\rdata: x\rid: 1\r\r"),
        (":\n\n:\n: hi\n\n", ":\n:\n: hi\n"),
        (": hi\nfoo\n\n", ": hi\nfoo\n\n"),
        ("id: 7\n\n: hi\n\n", "id: 7\n\n: hi\n\n"),
        // the LF of a blank line that was taken away goes too, that of any other line stays
        (
            ": hi\r\n\r\ndata: x\r\n\r\n: hi\r\n\r\n",
            ": hi\r\ndata: x\r\nid: 1\r\n\r\n: hi\r\n",
        ),
        (": hi\n\nid: 7\ndata: x\r\n\n", ": hi\nid: 7\ndata: x\r\n\n"),
        (": hi\n\ndata: x\r\n\n", ": hi\ndata: x\r\nid: 1\r\n\n"),
        (": hi\r\rdata: x\r\n\r\n", ": hi\rdata: x\r\nid: 1\r\n\r\n"),
    ] {
        for chunks in every_split(up.as_bytes()) {
            let steps = chunks.iter().cloned().map(Step::Data);
            let got = numbered(Client::EventSource.request(), steps).await;
            assert_eq!(got, down, "cut as {}", shown(&chunks));
            let (sent, got) = (
                reference::parse(up.as_bytes()),
                reference::parse(got.as_bytes()),
            );
            assert_eq!(
                sent.events.len(),
                got.events.len(),
                "cut as {}",
                shown(&chunks)
            );
        }
    }
}

#[tokio::test]
async fn numbering_goes_on_behind_the_number_that_the_client_has() {
    let max = u64::MAX.to_string();
    for (last, first, second) in [
        ("41", "42", "43"),
        ("0", "1", "2"),
        ("007", "8", "9"),
        ("abc", "1", "2"),
        ("-1", "1", "2"),
        ("1.5", "1", "2"),
        (&max, "1", "2"),
        ("99999999999999999999999", "1", "2"),
    ] {
        let mut request = Client::EventSource.request();
        let id = HeaderValue::from_str(last).unwrap();
        request.headers_mut().insert("last-event-id", id);
        let text = numbered(request, [data("data\n\ndata\n\n")]).await;
        assert_eq!(
            text,
            format!("data\nid: {first}\n\ndata\nid: {second}\n\n"),
            "{last}"
        );
    }
}

#[tokio::test]
async fn only_clients_that_asked_get_ids_and_never_mcp_nor_google() {
    for client in Client::ALL {
        let text = |layer| async {
            let stream = events([data(": hi\n\ndata: x\n\n")]);
            let body = through(layer, client.request(), stream).await.into_body();
            record(body).await.text()
        };
        let plain = ": hi\n\ndata: x\n\n";
        let ids = ": hi\ndata: x\nid: 1\n\n";
        let asked = client == Client::EventSource;
        assert_eq!(
            text(numbering()).await,
            if asked { ids } else { plain },
            "{client:?}"
        );
        assert_eq!(text(EventIdLayer::new()).await, plain, "{client:?}");
        let everyone = EventIdLayer::new().assign(|_| true);
        let barred = matches!(client, Client::Mcp | Client::Gemini | Client::OldGemini);
        assert_eq!(
            text(everyone).await,
            if barred { plain } else { ids },
            "{client:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_in_the_middle_of_a_comment_block_harms_neither() {
    let heartbeat = HeartbeatLayer::every(Duration::from_secs(10))
        .jitter(0.0)
        .shape(HeartbeatShape::CommentLine);
    let layers = SseLayer::new().heartbeat(heartbeat).event_id(numbering());
    for stream in [
        ": hi\r\n\r\ndata: x\r\n\r\n",
        ": hi\n\ndata: x\n\n",
        ": hi\r\rdata: x\r\r",
    ] {
        for cut in 0..=stream.len() {
            let chunks = cut_at(stream.as_bytes(), [cut]).into_iter().map(Step::Data);
            let steps = chunks.flat_map(|step| [step, pause(11.0)]);
            let request = Client::EventSource.request();
            let body = through(layers.clone(), request, events(steps))
                .await
                .into_body();
            let text = record(body).await.text();
            let client = reference::parse(text.as_bytes());
            let ids: Vec<_> = client.events.iter().map(|event| &*event.id).collect();
            assert_eq!(ids, ["1"], "{text:?}");
            // No block but that of the event.
            let lines = text.replace("\r\n", "\n").replace('\r', "\n");
            assert_eq!(lines.matches("\n\n").count(), 1, "{text:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_mark_behind_a_heartbeat_makes_an_unknown_field_and_no_event_to_number() {
    let heartbeat = HeartbeatLayer::every(Duration::from_secs(10)).jitter(0.0);
    let layers = SseLayer::new().heartbeat(heartbeat).event_id(numbering());
    let stream = "\u{feff}\u{feff}data: x\n\ndata: y\n\n";
    let request = Client::EventSource.request();
    let steps = [pause(11.0), data(stream)];
    let body = through(layers, request, events(steps)).await.into_body();
    assert_eq!(
        record(body).await.text(),
        ": keep-alive\n\u{feff}data: x\n\ndata: y\nid: 1\n\n"
    );
}

#[test]
fn a_poll_needs_no_runtime_as_long_as_there_are_bytes() {
    let mut cx = Context::from_waker(Waker::noop());
    let layer = EventIdLayer::new();
    let service = service_fn(|_| ready(Ok::<_, Infallible>(events([data("id: 1\n\n")]))));
    let mut response = Box::pin(layer.layer(service).call(Client::Fetch.request()));
    let std::task::Poll::Ready(Ok(response)) = response.as_mut().poll(&mut cx) else {
        panic!("pending");
    };
    let mut body = response.into_body();
    assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
    assert!(body.is_end_stream());
}
