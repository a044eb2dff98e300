use http::{HeaderName, HeaderValue, Method, Uri, request};

use super::{Cursor, StreamId, layer::Settings};
use crate::{
    client::Client,
    event_id::{LAST_EVENT_ID, LastEventId, parameter, read_id, said_last},
    wire::EventId,
};

/// What a request wants of this layer.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) want: Want,
    /// It wants `id:` lines.
    pub(super) ids: bool,
    /// Who asks.
    pub(super) principal: Vec<u8>,
    pub(super) client: Client,
}

/// Where in which stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// At the start of a new one.
    New,
    After(Cursor),
    /// Behind the event that has this id of the service's.
    AfterId(StreamId, EventId),
    /// It is meant for us, and wrong.
    Nowhere,
}

/// In a response: the id of its stream. In a request: the stream in which `Last-Event-ID` is an id
/// of the service's.
pub(super) const SSE_STREAM: HeaderName = HeaderName::from_static("sse-stream");

/// In a request: `ids` asks for `id:` lines. In a response: how the coming back went.
pub(super) const SSE_RESUME: HeaderName = HeaderName::from_static("sse-resume");

pub(super) const RESUMED: HeaderValue = HeaderValue::from_static("resumed");
pub(super) const COMPLETE: HeaderValue = HeaderValue::from_static("complete");
pub(super) const LOST: HeaderValue = HeaderValue::from_static("lost");

const IDS: &[u8] = b"ids";

impl Ask {
    /// `None` if the request is none of this layer's business.
    pub(super) fn of(request: &request::Parts, settings: &Settings) -> Option<Self> {
        let client = Client::of(request);
        // A preflight has the query of the request that it asks for, and nothing else of it.
        let preflight = request.method == Method::OPTIONS;
        if client.wants_head || preflight || client.mcp || !settings.when.of(request) {
            return None;
        }
        let asks = said(request, &SSE_RESUME).is_some_and(|said| *said == *IDS);
        Some(Self {
            want: Want::of(request, settings),
            ids: client.bears_ids() && (asks || settings.ids.of(request)),
            principal: settings.principal.of(request),
            client,
        })
    }
}

impl Want {
    fn of(request: &request::Parts, settings: &Settings) -> Self {
        // An outer layer may have read it from its own query parameter.
        let known = request.extensions.get::<LastEventId>();
        let said_last = match known {
            Some(LastEventId(id)) => Some(id.as_str().as_bytes().into()),
            None => said_last(request, settings.query.as_deref()),
        };
        let last = said_last.as_deref().and_then(read_id);
        if said_last.is_some_and(|said| Cursor::is_ours(&said)) {
            let cursor = last.and_then(|id| Cursor::parse(&id));
            return cursor.map_or(Self::Nowhere, Self::After);
        }
        Self::in_stream(said(request, &SSE_STREAM), last)
    }

    /// The stream that it is about.
    pub(super) fn stream(&self) -> Option<StreamId> {
        match self {
            Self::After(cursor) => Some(cursor.stream),
            Self::AfterId(stream, _) => Some(*stream),
            Self::New | Self::Nowhere => None,
        }
    }

    fn in_stream(stream: Option<Box<[u8]>>, last: Option<EventId>) -> Self {
        let Some(stream) = stream else {
            return Self::New;
        };
        let stream = str::from_utf8(&stream)
            .ok()
            .and_then(|text| text.parse().ok());
        match (stream, last) {
            (Some(stream), Some(id)) => Self::AfterId(stream, id),
            (Some(stream), None) => Self::After(Cursor { stream, number: 0 }),
            (None, _) => Self::Nowhere,
        }
    }
}

/// What a header says, or else the query parameter of that name.
fn said(request: &request::Parts, name: &HeaderName) -> Option<Box<[u8]>> {
    let header = request
        .headers
        .get(name)
        .map(|value| value.as_bytes().into());
    header.or_else(|| Some(parameter(request, name.as_str())?.into_boxed_bytes()))
}

/// Our id means nothing to the service.
pub(super) fn strip(request: &mut request::Parts, settings: &Settings) {
    request.headers.remove(LAST_EVENT_ID);
    request.headers.remove(SSE_STREAM);
    request.extensions.remove::<LastEventId>();
    let stream = SSE_STREAM;
    let ours = [settings.query.as_deref(), Some(stream.as_str())];
    if let Some(uri) = without(&request.uri, &ours) {
        request.uri = uri;
    }
}

/// The same without some query parameters; `None` if there is no query.
fn without(uri: &Uri, names: &[Option<&str>]) -> Option<Uri> {
    let is_other = |pair: &&str| {
        let mut decoded = form_urlencoded::parse(pair.as_bytes());
        let name = decoded.next().map(|(name, _)| name);
        !names.contains(&name.as_deref())
    };
    let kept: Vec<_> = uri.query()?.split('&').filter(is_other).collect();
    let path = match kept.as_slice() {
        [] => uri.path().to_owned(),
        kept => format!("{}?{}", uri.path(), kept.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}
