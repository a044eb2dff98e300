//! `GET /sse` and `POST /sse`: publish and subscribe, with a history to come back to. And `/ws/feed`,
//! the same over a WebSocket, to compare.
//!
//! ```sh
//! curl -N http://127.0.0.1:8080/sse
//! curl -N -H 'Last-Event-ID: 2' http://127.0.0.1:8080/sse
//! curl -d data=hello http://127.0.0.1:8080/sse
//! ```

use std::{collections::VecDeque, convert::Infallible, future::ready, sync::Arc};

use axum::{
    Form,
    extract::{
        State,
        rejection::FormRejection,
        ws::{Message, WebSocketUpgrade},
    },
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{Stream, StreamExt as _, future::select, stream};
use serde::Deserialize;
use tokio::sync::watch;

use super::{LastEventId, MAX_BODY, bad_request};

/// The history itself is the channel: a subscriber copies what it has not seen and waits for a
/// change. So nothing falls between the events so far and the live ones, and a slow subscriber
/// fills no queue.
#[derive(Clone, Default)]
pub(super) struct Topic(Arc<watch::Sender<History>>);

/// The newest events, oldest first.
#[derive(Default)]
struct History {
    events: VecDeque<Published>,
    newest: u64,
}

#[derive(Clone)]
struct Published {
    id: u64,
    data: Arc<str>,
}

#[derive(Deserialize)]
pub(super) struct Publication {
    data: Option<String>,
}

const HISTORY: usize = 1000;

/// How much of a WebSocket is read at once.
const READ: usize = 4 * 1024;

pub(super) async fn subscribe(
    State(topic): State<Topic>,
    LastEventId(last): LastEventId,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = events_after(topic.0.subscribe(), last);
    Sse::new(events.map(|event| Ok(event.into())))
}

/// The same over a WebSocket, from now on: it has no id to come back with.
pub(super) async fn feed(State(topic): State<Topic>, upgrade: WebSocketUpgrade) -> Response {
    let topic = topic.0.subscribe();
    let newest = topic.borrow().newest;
    let events = events_after(topic, newest);
    let messages = events.map(|event| Ok(Message::text(&*event.data)));
    // who only listens says little, and by default each connection holds 128 KiB for it
    let upgrade = upgrade.read_buffer_size(READ).max_message_size(MAX_BODY);
    upgrade.on_upgrade(|socket| {
        let (sink, source) = socket.split();
        // who does not read never learns that a silent client has gone
        let gone = source.for_each(|_| ready(()));
        let ended = select(Box::pin(messages.forward(sink)), gone);
        async { drop(ended.await) }
    })
}

fn events_after(topic: watch::Receiver<History>, last: u64) -> impl Stream<Item = Published> {
    // An id that is newer than the newest was given before a restart, and stands for nothing now.
    let last = if last > topic.borrow().newest {
        0
    } else {
        last
    };
    let batches = stream::unfold((topic, last), |(mut topic, last)| async move {
        loop {
            let batch = topic.borrow_and_update().after(last);
            if let Some(newest) = batch.last() {
                let last = newest.id;
                return Some((stream::iter(batch), (topic, last)));
            }
            topic.changed().await.ok()?;
        }
    });
    batches.flatten()
}

pub(super) async fn publish(
    State(topic): State<Topic>,
    form: Result<Form<Publication>, FormRejection>,
) -> Response {
    let data = form.ok().and_then(|Form(publication)| publication.data);
    let Some(data) = data.filter(|data| !data.is_empty()) else {
        return bad_request("the form needs a field `data`, as in: curl -d data=hello URL");
    };
    format!("event {}\n", topic.publish(&data)).into_response()
}

impl Topic {
    fn publish(&self, data: &str) -> u64 {
        // a browser's form writes line ends as CRLF, and axum takes that for two
        let data: Arc<str> = data.replace("\r\n", "\n").into();
        let mut id = 0;
        self.0.send_modify(|history| id = history.push(data));
        id
    }
}

impl History {
    fn push(&mut self, data: Arc<str>) -> u64 {
        self.newest += 1;
        let id = self.newest;
        self.events.push_back(Published { id, data });
        if self.events.len() > HISTORY {
            self.events.pop_front();
        }
        id
    }

    fn after(&self, last: u64) -> Vec<Published> {
        let unseen = self.events.iter().filter(|event| event.id > last);
        unseen.cloned().collect()
    }
}

impl From<Published> for Event {
    fn from(published: Published) -> Self {
        let id = published.id.to_string();
        Self::default().id(id).data(published.data)
    }
}
