use std::{error::Error, fmt, str::FromStr, time::Duration};

use bytes::Bytes;

use super::EventId;

/// How a line of the stream ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineEnd {
    /// `\n`, what nearly every server writes.
    #[default]
    Lf,
    /// `\r\n`.
    CrLf,
    /// `\r` alone: legal, yet lost by many client libraries.
    Cr,
}

/// The text of a comment: anything without a line end.
///
/// A line end would let the text leave its comment and become a field, so it cannot be built:
///
/// ```
/// use tower_sse::wire::Comment;
///
/// assert!("still here".parse::<Comment>().is_ok());
/// assert!("x\ndata: injected".parse::<Comment>().is_err());
/// ```
///
/// Do not call it `ping`: one client library in use takes `: ping` for the end of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment(Box<str>);

/// The text has a line end and cannot be a [`Comment`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidComment(());

impl LineEnd {
    /// The bytes that end the line.
    #[must_use]
    pub fn as_bytes(self) -> &'static [u8] {
        self.as_str().as_bytes()
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Lf => "\n",
            Self::CrLf => "\r\n",
            Self::Cr => "\r",
        }
    }
}

impl Comment {
    /// Checks `text`.
    ///
    /// # Errors
    ///
    /// When `text` has a CR or an LF.
    pub fn new(text: impl Into<Box<str>>) -> Result<Self, InvalidComment> {
        let text = text.into();
        if text.contains(['\r', '\n']) {
            return Err(InvalidComment(()));
        }
        Ok(Self(text))
    }

    /// The text, without the colon.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The line `: text`. The space is part of it: one client library refuses a bare colon.
#[must_use]
pub fn comment_line(text: &Comment, end: LineEnd) -> Bytes {
    format!(": {}{}", text.0, end.as_str()).into()
}

/// The line `id: id`, which belongs inside the block that it names.
#[must_use]
pub fn id_line(id: &EventId, end: LineEnd) -> Bytes {
    format!("id: {id}{}", end.as_str()).into()
}

/// The line `retry: n` with whole milliseconds, the only form that clients accept.
#[must_use]
pub fn retry_line(after: Duration, end: LineEnd) -> Bytes {
    format!("retry: {}{}", after.as_millis(), end.as_str()).into()
}

impl FromStr for Comment {
    type Err = InvalidComment;

    fn from_str(text: &str) -> Result<Self, InvalidComment> {
        Self::new(text)
    }
}

impl fmt::Display for InvalidComment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("comment has a line end")
    }
}

impl Error for InvalidComment {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_cannot_leave_its_line() {
        for text in ["\n", "\r", "a\r\nb", "x\ndata: y"] {
            assert_eq!(Comment::new(text), Err(InvalidComment(())), "{text:?}");
        }
    }

    #[test]
    fn every_encoder_writes_one_line() {
        let lines = [
            (
                comment_line(&"hi: x".parse().unwrap(), LineEnd::Lf),
                ": hi: x\n",
            ),
            (comment_line(&"".parse().unwrap(), LineEnd::Lf), ": \n"),
            (id_line(&EventId::from(9), LineEnd::CrLf), "id: 9\r\n"),
            (
                retry_line(Duration::from_micros(1_500_999), LineEnd::Cr),
                "retry: 1500\r",
            ),
        ];
        for (line, expected) in lines {
            assert_eq!(line, expected);
        }
    }
}
