use std::{error::Error, fmt, str::FromStr};

/// An event's id: one to [`MAX_LEN`](Self::MAX_LEN) bytes of UTF-8 without CR, LF or NUL.
///
/// Once built it cannot be wrong: a line end would inject a line into the stream, and browsers
/// ignore an id with a NUL ([the `id` field][spec]). The empty id is not one: it clears the
/// client's cursor.
///
/// For ids of your own, letters, digits and `._~-` in at most 128 bytes also keep cross-origin
/// requests free of a CORS preflight.
///
/// [spec]: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Box<str>);

/// The text cannot be an [`EventId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidEventId(Reason);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reason {
    Empty,
    TooLong,
    Forbidden,
    NotUtf8,
}

impl EventId {
    /// The longest id that this crate reads, writes or stores, in bytes.
    ///
    /// A client sends its id back in a request header, and servers refuse heads of some 8 KiB; an
    /// id near that would lock the client out for good.
    pub const MAX_LEN: usize = 1024;

    /// Checks `id`.
    ///
    /// # Errors
    ///
    /// When `id` is empty, longer than [`MAX_LEN`](Self::MAX_LEN), or has a CR, LF or NUL.
    pub fn new(id: impl Into<Box<str>>) -> Result<Self, InvalidEventId> {
        let id = id.into();
        if id.is_empty() {
            Err(InvalidEventId(Reason::Empty))
        } else if id.len() > Self::MAX_LEN {
            Err(InvalidEventId(Reason::TooLong))
        } else if id.contains(['\r', '\n', '\0']) {
            Err(InvalidEventId(Reason::Forbidden))
        } else {
            Ok(Self(id))
        }
    }

    /// Checks bytes from a request: `Last-Event-ID` is raw UTF-8, which
    /// [`HeaderValue::to_str`](http::HeaderValue::to_str) would refuse.
    pub(crate) fn from_bytes(id: &[u8]) -> Result<Self, InvalidEventId> {
        match std::str::from_utf8(id) {
            Ok(id) => Self::new(id),
            Err(_) => Err(InvalidEventId(Reason::NotUtf8)),
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for EventId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<u64> for EventId {
    fn from(number: u64) -> Self {
        Self(number.to_string().into())
    }
}

impl FromStr for EventId {
    type Err = InvalidEventId;

    fn from_str(id: &str) -> Result<Self, InvalidEventId> {
        Self::new(id)
    }
}

impl fmt::Display for InvalidEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reason::Empty => f.write_str("event id is empty"),
            Reason::TooLong => write!(f, "event id is longer than {} bytes", EventId::MAX_LEN),
            Reason::Forbidden => f.write_str("event id has a CR, LF or NUL"),
            Reason::NotUtf8 => f.write_str("event id is not UTF-8"),
        }
    }
}

impl Error for InvalidEventId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_would_break_the_stream_is_a_typed_error() {
        for (id, reason) in [
            ("", Reason::Empty),
            ("a\rb", Reason::Forbidden),
            ("a\n", Reason::Forbidden),
            ("\0", Reason::Forbidden),
            (&"x".repeat(EventId::MAX_LEN + 1), Reason::TooLong),
        ] {
            assert_eq!(EventId::new(id), Err(InvalidEventId(reason)), "{id:?}");
        }
        assert_eq!(
            EventId::from_bytes(b"\xff"),
            Err(InvalidEventId(Reason::NotUtf8))
        );
    }

    #[test]
    fn any_other_text_is_an_id() {
        for id in ["7", "ümläut 🦀", " ", ":", &"x".repeat(EventId::MAX_LEN)] {
            assert_eq!(EventId::new(id).unwrap().as_str(), id);
        }
        assert_eq!(EventId::from(42).as_str(), "42");
    }
}
