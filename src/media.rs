//! Media types, compared as RFC 9110 section 8.3.1 says: without case, without parameters.

use http::{HeaderMap, HeaderValue, header};

pub(crate) const EVENT_STREAM: &str = "text/event-stream";

/// Whether the response headers say that the body is an event stream.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| essence_is(value.as_bytes(), EVENT_STREAM))
}

/// Whether a request names event streams among what it accepts. `*/*` does not: it says nothing.
pub(crate) fn accepts_event_stream(headers: &HeaderMap) -> bool {
    ranges(headers).any(|range| essence_is(range, EVENT_STREAM) && !is_refused(range))
}

/// Whether a request names JSON among what it accepts.
pub(crate) fn accepts_json(headers: &HeaderMap) -> bool {
    ranges(headers).any(|range| essence_is(range, "application/json"))
}

/// The value with its essence in lower case, parameters kept, for those who compare bytes.
pub(crate) fn normalized(value: &HeaderValue) -> Option<HeaderValue> {
    let bytes = value.as_bytes().trim_ascii();
    let parameters = bytes.get(EVENT_STREAM.len()..)?;
    let mut normal = EVENT_STREAM.as_bytes().to_vec();
    normal.extend_from_slice(parameters);
    HeaderValue::from_bytes(&normal).ok()
}

fn ranges(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(header::ACCEPT).into_iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
}

fn essence_is(value: &[u8], essence: &str) -> bool {
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    value[..end]
        .trim_ascii()
        .eq_ignore_ascii_case(essence.as_bytes())
}

/// A weight of zero means "not acceptable" (RFC 9110 section 12.4.2).
fn is_refused(range: &[u8]) -> bool {
    range.split(|byte| *byte == b';').skip(1).any(|parameter| {
        let parameter = parameter.trim_ascii();
        let weight = parameter
            .strip_prefix(b"q=")
            .or(parameter.strip_prefix(b"Q="));
        weight.is_some_and(|q| q.starts_with(b"0") && q[1..].iter().all(|c| b".0".contains(c)))
    })
}
