//! The protocols that language models answer in: how an answer ends, and how an error is said.

mod answer;
mod fault;

use bytes::Bytes;
use http::{Method, request};

pub(crate) use self::{
    answer::{Answer, Terminal},
    fault::{Fault, passed_on},
};
use crate::departure::How;

/// A protocol in which language models answer, event by event.
///
/// Told from the request's path; among the extensions of a response it overrides that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// OpenAI's chat completions, and the many that speak like it. The last event is
    /// `data: [DONE]`.
    OpenAiChat,
    /// OpenAI's responses. The last event is `response.completed`, `response.failed`,
    /// `response.incomplete` or `error`.
    OpenAiResponses,
    /// Anthropic's messages. The last event is `message_stop` or `error`.
    AnthropicMessages,
}

/// What a client gets in place of the rest of an answer that went wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakOff {
    /// The connection breaks, which every HTTP client reports; the default.
    #[default]
    Abort,
    /// The error event of the stream's protocol, on which its libraries raise a typed error, and
    /// then a clean end. Within an event it is [`Abort`](Self::Abort): the half event would
    /// otherwise be dispatched. Outside of the known protocols it is an event named `error` with
    /// the same JSON as OpenAI's.
    ErrorEvent,
}

impl BreakOff {
    /// How the stream ends in which this has happened, and what to say before.
    pub(crate) fn last_words(
        self,
        fault: &Fault<'_>,
        protocol: Option<Protocol>,
        between_events: bool,
    ) -> (How, Bytes) {
        match self {
            Self::ErrorEvent if between_events => (How::Clean, fault.event(protocol)),
            Self::ErrorEvent | Self::Abort => (How::Abort, Bytes::new()),
        }
    }
}

impl Protocol {
    /// The protocol of a request, by its path: a `POST` to whatever ends in `/completions`,
    /// `/responses` or `/messages`.
    #[must_use]
    pub fn of(request: &request::Parts) -> Option<Self> {
        if request.method != Method::POST {
            return None;
        }
        match request
            .uri
            .path()
            .trim_end_matches('/')
            .rsplit('/')
            .next()?
        {
            "completions" => Some(Self::OpenAiChat),
            "responses" => Some(Self::OpenAiResponses),
            "messages" => Some(Self::AnthropicMessages),
            _ => None,
        }
    }

    /// Whether the JSON of each event has its type in it too.
    fn types_events(self) -> bool {
        match self {
            Self::OpenAiChat => false,
            Self::OpenAiResponses | Self::AnthropicMessages => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn a_protocol_is_told_by_the_end_of_the_path() {
        for (method, path, expected) in [
            ("POST", "/v1/chat/completions", Some(Protocol::OpenAiChat)),
            ("POST", "/v1/completions", Some(Protocol::OpenAiChat)),
            (
                "POST",
                "/openai/deployments/x/chat/completions?api-version=1",
                Some(Protocol::OpenAiChat),
            ),
            ("POST", "/v1/responses", Some(Protocol::OpenAiResponses)),
            ("POST", "/v1/responses/", Some(Protocol::OpenAiResponses)),
            ("POST", "/v1/messages", Some(Protocol::AnthropicMessages)),
            ("POST", "/v1/messages/count_tokens", None),
            ("GET", "/v1/chat/completions", None),
            ("POST", "/", None),
            ("POST", "/mymessages", None),
        ] {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(())
                .unwrap();
            assert_eq!(Protocol::of(&request.into_parts().0), expected, "{path}");
        }
    }
}
