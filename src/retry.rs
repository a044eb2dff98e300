use std::time::Duration;

use bytes::Bytes;

use crate::{
    client::Client,
    wire::{LineEnd, Position, retry_line},
};

/// The hint when to come back, that a stream is still to be given.
#[derive(Debug)]
pub(crate) struct Retry {
    after: Duration,
    client: Client,
}

impl Retry {
    /// Only for those who know event streams: others make an event of it, or stumble.
    pub(crate) fn new(after: Duration, client: Client) -> Option<Self> {
        let told = client.accepts_events && client.gemini.is_none();
        told.then_some(Self { after, client })
    }

    /// Inside of an event, where it disturbs nobody.
    pub(crate) fn line(&self, end: LineEnd) -> Bytes {
        retry_line(self.after, end)
    }

    /// At a clean end, where no event could carry it, and only to those who do not make an event of
    /// a block without data.
    pub(crate) fn at_end(&self, at: Position) -> Option<Bytes> {
        let sayable = self.client.event_source && at == Position::Boundary;
        sayable.then(|| retry_block(self.after))
    }
}

/// The hint as a block of its own.
pub(crate) fn retry_block(after: Duration) -> Bytes {
    [&retry_line(after, LineEnd::Lf)[..], b"\n"].concat().into()
}
