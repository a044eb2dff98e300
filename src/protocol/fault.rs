use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::Protocol;

/// What went wrong with an answer, as its client is to be told.
#[derive(Debug)]
pub(crate) struct Fault<'a> {
    /// The status that a response would have had.
    pub(crate) status: StatusCode,
    /// One word for programs.
    pub(crate) code: &'static str,
    pub(crate) message: &'a str,
}

impl Fault<'_> {
    /// The whole event, on which the protocol's libraries raise.
    pub(crate) fn event(&self, protocol: Option<Protocol>) -> Bytes {
        event(protocol, &self.said(protocol))
    }

    fn said(&self, protocol: Option<Protocol>) -> Value {
        let Self {
            status,
            code,
            message,
        } = self;
        let kind = kind(*status);
        let status = status.as_u16();
        match protocol {
            None | Some(Protocol::OpenAiChat) => json!({
                "error": { "message": message, "type": kind, "param": null, "code": code, "status": status },
            }),
            // What its libraries look at is `error`; the rest is as the API's reference has it.
            Some(Protocol::OpenAiResponses) => json!({
                "type": "error", "code": code, "message": message, "param": null,
                "error": { "message": message, "type": kind, "param": null, "code": code, "status": status },
            }),
            Some(Protocol::AnthropicMessages) => json!({
                "type": "error",
                "error": { "type": kind, "message": message, "code": code, "status": status },
            }),
        }
    }
}

/// An error that the service has said itself, in JSON with an `error` in it, as the event that says
/// the same.
pub(crate) fn passed_on(body: &[u8], protocol: Option<Protocol>) -> Option<Bytes> {
    let said: Value = serde_json::from_slice(body).ok()?;
    said.get("error")?;
    Some(event(protocol, &said))
}

fn event(protocol: Option<Protocol>, said: &Value) -> Bytes {
    // JSON has no line end but between its tokens, and here it has none there.
    match protocol {
        Some(Protocol::OpenAiChat) => format!("data: {said}\n\n").into(),
        None | Some(Protocol::OpenAiResponses | Protocol::AnthropicMessages) => {
            format!("event: error\ndata: {said}\n\n").into()
        }
    }
}

/// The types of errors as the references of both providers name them.
fn kind(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..500 => "invalid_request_error",
        503 | 529 => "overloaded_error",
        _ => "api_error",
    }
}
