use bytes::Bytes;
use redis::{FromRedisValue, ParsingError, Value, from_redis_value};

use crate::resume::{Page, StoredEvent, StreamEnd, Then};

/// An entry of a log: event 5 has the id `5-0`, and the end behind it `5-1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Event(StoredEvent),
    End { last: u64, end: StreamEnd },
}

impl Entry {
    /// Whether it comes behind event `after`.
    pub(super) fn is_behind(&self, after: u64) -> bool {
        match self {
            Self::Event(event) => event.number > after,
            Self::End { last, .. } => *last >= after,
        }
    }

    fn new(id: &str, bytes: Bytes) -> Option<Self> {
        let (number, kind) = id.split_once('-')?;
        let number = number.parse().ok()?;
        match kind {
            "0" => Some(Self::Event(StoredEvent { number, bytes })),
            "1" => Some(Self::End {
                last: number,
                end: str::from_utf8(&bytes).ok()?.parse().ok()?,
            }),
            _ => None,
        }
    }
}

/// The first `limit` of `entries`. That there are more of them is told by one more.
pub(super) fn page(entries: impl IntoIterator<Item = Entry>, limit: usize) -> Page {
    let mut events = Vec::new();
    for entry in entries {
        match entry {
            Entry::Event(event) if events.len() < limit => events.push(event),
            Entry::Event(_) => {
                return Page {
                    events,
                    then: Then::More,
                };
            }
            Entry::End { last, end } => {
                let then = Then::Ended { last, end };
                return Page { events, then };
            }
        }
    }
    let then = Then::Running;
    Page { events, then }
}

impl FromRedisValue for Entry {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        let (id, (_, bytes)): (String, (Bytes, Bytes)) = from_redis_value(value)?;
        Self::new(&id, bytes).ok_or_else(|| format!("{id:?} is no event of ours").into())
    }

    fn from_redis_value_ref(value: &Value) -> Result<Self, ParsingError> {
        Self::from_redis_value(value.clone())
    }
}
