//! The fields of a message: where they end, and those that are lists (RFC 9110, 5.6.1).

use http::{HeaderMap, HeaderName, HeaderValue};

/// Looks for the empty line that ends the fields of a message.
#[derive(Default)]
pub(crate) struct EmptyLine {
    /// Empty lines may come before a head (RFC 9112, 2.2).
    begun: bool,
    /// Whether the line so far is empty.
    empty: bool,
}

impl EmptyLine {
    /// At the start of a line, where the fields are or end.
    pub(crate) fn behind_a_line() -> Self {
        Self {
            begun: true,
            empty: true,
        }
    }

    /// Behind the empty line. A line may end without CR (RFC 9112, 2.2).
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let end = bytes.iter().position(|byte| match byte {
            b'\n' => self.begun && std::mem::replace(&mut self.empty, true),
            b'\r' => false,
            _ => {
                (self.begun, self.empty) = (true, false);
                false
            }
        });
        self.begun &= end.is_none();
        end.map(|end| end + 1)
    }
}

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
