//! Fields of a message that are lists (RFC 9110, 5.6.1).

use http::{HeaderMap, HeaderName, HeaderValue};

/// Whether one of the items of a field is this.
pub(crate) fn names(headers: &HeaderMap, field: HeaderName, token: &str) -> bool {
    list(headers, field).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// The items of a comma-separated field, over all of its lines. As bytes: one item that is no text
/// must not hide those beside it.
pub(crate) fn list(headers: &HeaderMap, field: HeaderName) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(field).into_iter();
    lines
        .flat_map(|line| line.as_bytes().split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Makes one line of many, for servers that look at the first only.
pub(crate) fn join_lines(headers: &mut HeaderMap, field: HeaderName, separator: &[u8]) {
    let lines = headers.get_all(&field).into_iter();
    let lines: Vec<_> = lines.map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(line) = HeaderValue::from_bytes(&lines.join(separator))
    {
        headers.insert(field, line);
    }
}
