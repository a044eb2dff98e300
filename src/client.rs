//! Who asks: what the request says of the client, read once, before the request is gone.

use http::{
    HeaderMap, HeaderName, Method,
    header::{self, HeaderValue},
    request,
};

use crate::media;

/// What a client is, as far as the layers treat clients differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// A `HEAD` request, whose response has no body whatever its headers say.
    pub(crate) wants_head: bool,
    /// `Accept` names `text/event-stream`: a library that knows the format, comments included.
    pub(crate) accepts_events: bool,
    /// That, and it can come back by itself with a `GET`: a browser's `EventSource` or its like.
    pub(crate) event_source: bool,
    /// Speaks the Model Context Protocol, where an id would make it come back with a `GET`.
    pub(crate) mcp: bool,
    pub(crate) gemini: Option<Gemini>,
}

/// Google's client libraries, which take no comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gemini {
    /// They pass over blank lines.
    Current,
    /// `@google/generative-ai` stumbles over anything that is not an event.
    Legacy,
}

// As constants, since a name that is looked up as text is parsed each time.
const GOOG_API_CLIENT: HeaderName = HeaderName::from_static("x-goog-api-client");
const MCP_SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const MCP_PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// Whether the request is a browser's `EventSource`, or one of its like: a `GET` whose `Accept`
/// names `text/event-stream`.
#[must_use]
pub fn is_event_source(request: &request::Parts) -> bool {
    Client::of(request).event_source
}

/// Whether the request's `Accept` names `text/event-stream`.
#[must_use]
pub fn accepts_events(request: &request::Parts) -> bool {
    Client::of(request).accepts_events
}

/// Whether that is the only answer the client takes: one of the Model Context Protocol takes JSON as
/// well, and so does whoever names it.
#[must_use]
pub fn accepts_only_events(request: &request::Parts) -> bool {
    let client = Client::of(request);
    client.accepts_events && !client.mcp
}

impl Client {
    pub(crate) fn of(request: &request::Parts) -> Self {
        let headers = &request.headers;
        let accepts_events = media::accepts_event_stream(headers);
        Self {
            wants_head: request.method == Method::HEAD,
            accepts_events,
            event_source: accepts_events && request.method == Method::GET,
            mcp: is_mcp(headers, accepts_events),
            gemini: Gemini::of(request),
        }
    }

    /// Whether ids that it did not ask for do no harm.
    pub(crate) fn bears_ids(self) -> bool {
        !self.mcp && self.gemini.is_none()
    }
}

impl Gemini {
    fn of(request: &request::Parts) -> Option<Self> {
        let starts = |value: &HeaderValue, prefix: &[u8]| value.as_bytes().starts_with(prefix);
        let api_client = request.headers.get(GOOG_API_CLIENT);
        if api_client.is_some_and(|value| starts(value, b"genai-js/")) {
            return Some(Self::Legacy);
        }
        let user_agent = request.headers.get(header::USER_AGENT);
        let current = api_client.is_some()
            || user_agent.is_some_and(|value| starts(value, b"google-genai-sdk/"))
            || request.uri.path().ends_with(":streamGenerateContent");
        current.then_some(Self::Current)
    }
}

fn is_mcp(headers: &HeaderMap, accepts_events: bool) -> bool {
    headers.contains_key(MCP_SESSION_ID)
        || headers.contains_key(MCP_PROTOCOL_VERSION)
        // the first request of a session, before it has either (MCP, Streamable HTTP)
        || accepts_events && media::accepts_json(headers)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn client(method: &str, uri: &str, headers: &[(&str, &str)]) -> Client {
        let builder = Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(builder, |builder, (name, value)| {
            builder.header(*name, *value)
        });
        Client::of(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn an_event_source_is_a_get_that_names_event_streams() {
        let event_source = |method, accept| client(method, "/", &[("accept", accept)]).event_source;
        assert!(event_source("GET", "text/event-stream"));
        assert!(event_source("GET", "text/html, Text/Event-Stream;q=0.9"));
        assert!(!event_source("POST", "text/event-stream"));
        assert!(!event_source("GET", "*/*"));
        assert!(!event_source("GET", "text/event-streams"));
        assert!(!event_source("GET", "text/html, text/event-stream; q=0.00"));
    }

    #[test]
    fn google_clients_are_told_apart() {
        let gemini = |uri, headers: &[_]| client("POST", uri, headers).gemini;
        assert_eq!(
            gemini("/", &[("x-goog-api-client", "genai-js/0.24")]),
            Some(Gemini::Legacy)
        );
        let current = ("x-goog-api-client", "google-genai-sdk/1.9 gl-node/v20");
        assert_eq!(gemini("/", &[current]), Some(Gemini::Current));
        assert_eq!(
            gemini("/", &[("user-agent", "google-genai-sdk/1.9")]),
            Some(Gemini::Current)
        );
        assert_eq!(
            gemini("/v1/models/x:streamGenerateContent?alt=sse", &[]),
            Some(Gemini::Current)
        );
        assert_eq!(
            gemini("/v1/chat/completions", &[("user-agent", "OpenAI/Python")]),
            None
        );
    }

    #[test]
    fn mcp_clients_are_known_from_their_first_request_on() {
        let mcp = |headers: &[_]| client("POST", "/mcp", headers).mcp;
        assert!(mcp(&[("accept", "application/json, text/event-stream")]));
        assert!(mcp(&[
            ("accept", "text/event-stream"),
            ("mcp-session-id", "x")
        ]));
        assert!(!mcp(&[("accept", "text/event-stream")]));
        assert!(!mcp(&[("accept", "application/json")]));
    }
}
