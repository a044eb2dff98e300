use std::{
    error::Error,
    fmt::{self, Write as _},
    str::FromStr,
};

use bytes::BytesMut;

use crate::{
    error::BoxError,
    wire::{EventId, LineEnd},
};

/// The name of a stream: 128 random bits, which nobody guesses.
///
/// As text it is `ts_` and 32 hexadecimal digits. The id of event *n* of that stream is the text, a
/// dot and *n*: short, and free of whatever would cost a cross-origin request a preflight.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u128);

/// A place in a stream: behind event `number`, of which there is none before 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) stream: StreamId,
    pub(super) number: u64,
}

/// The `id:` lines of a stream's events, up to their numbers: 128 bits take a while to write.
#[derive(Debug)]
pub(super) struct IdLines(String);

/// The text is not a [`StreamId`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidStreamId(());

/// What tells our ids from those of services, which must reach them untouched.
const PREFIX: &str = "ts_";

const DIGITS: usize = 32;

/// Of an event's number.
const MOST_DIGITS: usize = 20;

impl StreamId {
    /// A new one.
    ///
    /// # Errors
    ///
    /// When the system has no random numbers.
    pub fn random() -> Result<Self, BoxError> {
        let mut bits = [0; 16];
        getrandom::fill(&mut bits)?;
        Ok(Self(u128::from_be_bytes(bits)))
    }

    pub(super) fn bits(self) -> u128 {
        self.0
    }
}

impl Cursor {
    /// Whether an id is meant to be one of ours, well-formed or not.
    pub(super) fn is_ours(id: &[u8]) -> bool {
        id.starts_with(PREFIX.as_bytes())
    }

    pub(super) fn parse(id: &EventId) -> Option<Self> {
        let (stream, number) = id.as_str().split_once('.')?;
        // There is a number behind every number.
        let number = decimal(number).filter(|number| *number < u64::MAX)?;
        Some(Self {
            stream: stream.parse().ok()?,
            number,
        })
    }
}

impl IdLines {
    /// No line is longer.
    pub(super) const MAX_LEN: usize = "id: .\r\n".len() + PREFIX.len() + DIGITS + MOST_DIGITS;

    pub(super) fn of(stream: StreamId) -> Self {
        Self(format!("id: {stream}."))
    }

    /// Writes the line of event `number`.
    pub(super) fn write(&self, number: u64, end: LineEnd, to: &mut BytesMut) {
        to.extend_from_slice(self.0.as_bytes());
        // It cannot fail: the bytes grow.
        let _ = write!(to, "{number}");
        to.extend_from_slice(end.as_bytes());
    }
}

/// Only what we write: no sign, no leading zero.
fn decimal(text: &str) -> Option<u64> {
    let plain = text == "0" || !text.starts_with(['0', '+']);
    text.parse().ok().filter(|_| plain)
}

impl FromStr for StreamId {
    type Err = InvalidStreamId;

    fn from_str(text: &str) -> Result<Self, InvalidStreamId> {
        let digits = text.strip_prefix(PREFIX).ok_or(InvalidStreamId(()))?;
        let lower = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if digits.len() != DIGITS || !digits.bytes().all(lower) {
            return Err(InvalidStreamId(()));
        }
        let bits = u128::from_str_radix(digits, 16).map_err(|_| InvalidStreamId(()))?;
        Ok(Self(bits))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{:032x}", self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for InvalidStreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "stream id is not {PREFIX:?} and {DIGITS} hexadecimal digits"
        )
    }
}

impl Error for InvalidStreamId {}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(id: &str) -> Option<Cursor> {
        Cursor::parse(&id.parse().expect("an event id"))
    }

    #[test]
    fn a_cursor_reads_what_an_id_says_and_nothing_else() {
        let stream = StreamId::random().unwrap();
        let parsed = cursor(&format!("{stream}.18446744073709551614"));
        let number = u64::MAX - 1;
        assert_eq!(parsed, Some(Cursor { stream, number }));
        let zeros = "0".repeat(32);
        assert!(cursor(&format!("ts_{zeros}.0")).is_some());
        for id in [
            "ts_",
            "ts_.1",
            &format!("ts_{zeros}"),
            &format!("ts_{zeros}."),
            &format!("ts_{zeros}.01"),
            &format!("ts_{zeros}.+1"),
            &format!("ts_{zeros}.-1"),
            &format!("ts_{zeros}.1.1"),
            &format!("ts_{zeros}.18446744073709551615"),
            &format!("ts_{zeros}.18446744073709551616"),
            &format!("ts_{zeros}0.1"),
            &format!("ts_+{}.1", "0".repeat(31)),
            &format!("ts_{}.1", "A".repeat(32)),
            &format!("TS_{zeros}.1"),
        ] {
            assert_eq!(cursor(id), None, "{id}");
        }
    }

    #[test]
    fn two_streams_have_two_names() {
        assert_ne!(StreamId::random().unwrap(), StreamId::random().unwrap());
    }
}
