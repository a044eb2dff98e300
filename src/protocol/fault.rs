use std::borrow::Cow;

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
        event(protocol, &self.said(protocol).to_string())
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
/// the same. An answer that has gone well says `"error": null`.
///
/// `status` goes into the error where it has none of its own: all libraries hand the whole of it on,
/// and none minds what it does not know. Outside of it most would not show it.
pub(crate) fn passed_on(
    body: &[u8],
    status: Option<StatusCode>,
    protocol: Option<Protocol>,
) -> Option<Bytes> {
    let Ok(Value::Object(mut rest)) = serde_json::from_slice(body) else {
        return None;
    };
    let mut error = rest.remove("error").filter(is_something)?;
    if error.is_string() {
        // Only the message, as some servers have it.
        error = json!({ "message": error });
    }
    if let (Value::Object(fields), Some(status)) = (&mut error, status) {
        fields
            .entry("status")
            .or_insert_with(|| status.as_u16().into());
    }
    if protocol.is_some_and(Protocol::types_events) {
        rest.entry("type").or_insert_with(|| "error".into());
    }
    // First, since that is how a chat's error event is known without reading all of it.
    let mut json = format!("{{\"error\":{error}");
    for (name, value) in rest {
        json.push_str(&format!(",{}:{value}", Value::String(name)));
    }
    json.push('}');
    Some(event(protocol, &json))
}

/// What libraries take for an error: they ask whether it is true, in Python or in JavaScript, where
/// empty arrays and objects differ.
fn is_something(error: &Value) -> bool {
    match error {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn event(protocol: Option<Protocol>, json: &str) -> Bytes {
    let json = in_one_line(json);
    match protocol {
        Some(Protocol::OpenAiChat) => format!("data: {json}\n\n").into(),
        None | Some(Protocol::OpenAiResponses | Protocol::AnthropicMessages) => {
            format!("event: error\ndata: {json}\n\n").into()
        }
    }
}

/// JSON escapes all that ends a line here, but not what does for Python: its HTTP libraries split an
/// event stream there too.
fn in_one_line(json: &str) -> Cow<'_, str> {
    let ends = ['\u{85}', '\u{2028}', '\u{2029}'];
    if !json.contains(ends) {
        return json.into();
    }
    let json = json.replace('\u{85}', "\\u0085");
    json.replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
        .into()
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
