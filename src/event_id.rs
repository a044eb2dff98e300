use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderName, request, response};

use crate::{
    client::Client,
    end::EndReason,
    judge::Judge,
    trace::trace,
    wire::{BlockEnd, EventId, Field, id_line},
};

/// Knows what each client has seen: the id it comes back with, and the last one sent to it.
///
/// - The request gets a [`LastEventId`] extension when the client comes back with an id.
/// - The response gets a [`LastSentId`] extension, from which the id of the last event that went
///   out can be read while the stream runs and at its end.
/// - Where asked for, events without an id get one.
///
/// In [`SseLayer`](crate::SseLayer) the first is on by default; hand it an `EventIdLayer` for the
/// others, or switch all off with [`without_event_id`](crate::SseLayer::without_event_id). This
/// layer replays nothing.
///
/// ```
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_sse::{EventIdLayer, LastEventId};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let service = service_fn(async |request: Request<()>| {
///     let LastEventId(last) = request.extensions().get().expect("the client came back");
///     assert_eq!(last.as_str(), "41");
///     Ok::<_, std::convert::Infallible>(Response::new(String::new()))
/// });
/// let request = Request::builder().header("last-event-id", "41").body(()).unwrap();
/// EventIdLayer::new().layer(service).oneshot(request).await.unwrap();
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct EventIdLayer {
    query: Option<Arc<str>>,
    track: bool,
    /// Which requests get ids.
    assign: Option<Judge<bool>>,
}

/// A request extension: the id of the last event that the client has seen.
///
/// It comes from the client and proves nothing: look it up, do not trust it. It is there only
/// when the client sent one that is an [`EventId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEventId(pub EventId);

/// A response extension: the id of the last event sent on this stream.
///
/// Clones look at the same stream. An id counts from the blank line on that ends its block, as it
/// does for the client.
#[derive(Clone, Debug, Default)]
pub struct LastSentId(Arc<Mutex<Sent>>);

#[derive(Debug, Default)]
struct Sent {
    id: Option<EventId>,
    end: Option<EndReason>,
}

/// The ids of one stream.
#[derive(Debug)]
pub(crate) struct EventIds {
    track: bool,
    sent: Option<LastSentId>,
    /// The number that the next event without an id gets; `None` when ids are not assigned.
    next: Option<u64>,
    /// What the open block says of the client's cursor.
    block: Option<Cursor>,
    /// The client has said an id that cannot be one.
    ignored: bool,
}

#[derive(Debug)]
enum Cursor {
    At(EventId),
    /// An empty id, or one that is too long to be kept.
    Lost,
}

pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

impl EventIdLayer {
    /// Reads `Last-Event-ID` and tracks what is sent.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            query: None,
            track: true,
            assign: None,
        }
    }

    /// A query parameter to read the id from where the header is missing, `lastEventId` say.
    /// Default: none.
    ///
    /// For clients that cannot set the header: the first request of a page that was reloaded. A
    /// query is shown in logs and in `Referer`.
    #[must_use]
    pub fn query(mut self, parameter: impl Into<Arc<str>>) -> Self {
        self.query = Some(parameter.into());
        self
    }

    /// Whether responses get a [`LastSentId`]. Default: yes. Without it no line is looked at.
    #[must_use]
    pub const fn track(mut self, yes: bool) -> Self {
        self.track = yes;
        self
    }

    /// Numbers the events that have no id, for the requests that `when` names. Default: none.
    ///
    /// Counting goes on behind a `Last-Event-ID` that is a number, and else begins at 1. An id of
    /// the service is never touched: with the first of them the numbering stops, since two
    /// sequences would only confuse the client's cursor. Comment blocks lose their blank line,
    /// which would be an empty event in several libraries once there are ids.
    ///
    /// Never for MCP, whose clients would come back with a `GET`, nor for Google's libraries.
    /// A good choice for `when` is [`is_event_source`](crate::is_event_source).
    #[must_use]
    pub fn assign(
        mut self,
        when: impl Fn(&request::Parts) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.assign = Some(Judge::new(when));
        self
    }

    pub(crate) fn on_request(&self, request: &mut request::Parts, client: Client) -> EventIds {
        let said = said_last(request, self.query.as_deref());
        let last = said.as_deref().map(read_id);
        let ignored = matches!(last, Some(None));
        let last = last.flatten();
        let assigns = self
            .assign
            .as_ref()
            .is_some_and(|when| client.bears_ids() && when.of(request));
        let ids = EventIds {
            track: self.track,
            sent: None,
            next: assigns.then(|| number_after(last.as_ref())),
            block: None,
            ignored,
        };
        if let Some(last) = last {
            request.extensions.insert(LastEventId(last));
        }
        ids
    }
}

/// What the client comes back with: from the header, or else from that query parameter.
pub(crate) fn said_last<'a>(
    request: &'a request::Parts,
    query: Option<&str>,
) -> Option<Cow<'a, [u8]>> {
    let header = request.headers.get(LAST_EVENT_ID);
    match header.filter(|id| !id.is_empty()) {
        Some(id) => Some(id.as_bytes().into()),
        None => Some(
            parameter(request, query?)?
                .into_string()
                .into_bytes()
                .into(),
        ),
    }
}

/// That as an id, if it is one.
pub(crate) fn read_id(said: &[u8]) -> Option<EventId> {
    EventId::from_bytes(said)
        .inspect_err(|error| trace!(debug, "ignored a Last-Event-ID", error = error))
        .ok()
}

/// The first value of a query parameter that is not empty.
pub(crate) fn parameter(request: &request::Parts, name: &str) -> Option<Box<str>> {
    let query = request.uri.query()?.as_bytes();
    let (_, value) =
        form_urlencoded::parse(query).find(|(key, value)| key == name && !value.is_empty())?;
    Some(value.into())
}

impl LastSentId {
    /// The id; `None` before the first, and after an empty one.
    #[must_use]
    pub fn get(&self) -> Option<EventId> {
        self.lock().id.clone()
    }

    /// Why the stream ended; `None` while it runs.
    #[must_use]
    pub fn end(&self) -> Option<EndReason> {
        self.lock().end
    }

    /// Only the first reason counts: a stream that was freed from outside ends again with its body.
    pub(crate) fn on_end(&self, reason: EndReason) {
        self.lock().end.get_or_insert(reason);
    }

    fn lock(&self) -> MutexGuard<'_, Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventIds {
    pub(crate) fn has_ignored(&self) -> bool {
        self.ignored
    }

    /// The part of this stream, if there is anything to do in it.
    pub(crate) fn on_response(mut self, response: &mut response::Parts) -> Option<Self> {
        if self.track {
            let sent = self.sent.insert(LastSentId::default());
            response.extensions.insert(sent.clone());
        }
        (self.track || self.next.is_some()).then_some(self)
    }

    /// Whether events without an id get one.
    pub(crate) fn numbers(&self) -> bool {
        self.next.is_some()
    }

    pub(crate) fn on_field(&mut self, field: &Field<'_>) {
        if field.name != b"id" {
            return;
        }
        // "If the field value does not contain U+0000 NULL": else it is as if it were not there.
        if memchr::memchr(0, field.value).is_some() {
            return;
        }
        self.next = None;
        let id = EventId::new(String::from_utf8_lossy(field.value)).ok();
        self.block = Some(
            id.filter(|_| field.complete)
                .map_or(Cursor::Lost, Cursor::At),
        );
    }

    /// The id line that the block still needs.
    pub(crate) fn on_event_end(&mut self, block: &BlockEnd) -> Option<Bytes> {
        let line = self.number(block);
        if let (Some(cursor), Some(sent)) = (self.block.take(), &self.sent) {
            sent.lock().id = match cursor {
                Cursor::At(id) => Some(id),
                Cursor::Lost => None,
            };
        }
        line
    }

    /// Whether the block is only a comment, which must not stay a block in a stream with ids.
    pub(crate) fn drops_blank_line(&self, block: &BlockEnd) -> bool {
        self.next.is_some() && block.comments && !block.fields
    }

    pub(crate) fn sent(&self) -> Option<&LastSentId> {
        self.sent.as_ref()
    }

    pub(crate) fn on_end(&self, reason: EndReason) {
        if let Some(sent) = &self.sent {
            sent.on_end(reason);
        }
    }

    fn number(&mut self, block: &BlockEnd) -> Option<Bytes> {
        let next = self.next.as_mut().filter(|_| block.data)?;
        let id = EventId::from(*next);
        *next = next.wrapping_add(1);
        let line = id_line(&id, block.line_end);
        self.block = Some(Cursor::At(id));
        Some(line)
    }
}

fn number_after(last: Option<&EventId>) -> u64 {
    let last = last.and_then(|id| id.as_str().parse::<u64>().ok());
    last.and_then(|number| number.checked_add(1)).unwrap_or(1)
}

impl Default for EventIdLayer {
    fn default() -> Self {
        Self::new()
    }
}
