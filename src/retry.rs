use std::time::Duration;

use bytes::Bytes;

use crate::{
    client::Client,
    end::EndReason,
    wire::{LineEnd, Position, retry_line},
};

/// The hints when to come back, of which a stream is still to be given one.
#[derive(Debug)]
pub(crate) struct Retry {
    client: Client,
    /// From who may end the stream.
    lifetime: Option<Duration>,
    drain: Option<Duration>,
}

impl Retry {
    /// Only for those who know event streams: others make an event of it, or stumble.
    pub(crate) fn new(
        client: Client,
        lifetime: Option<Duration>,
        drain: Option<Duration>,
    ) -> Option<Self> {
        let told = client.accepts_events && client.gemini.is_none();
        let any = lifetime.is_some() || drain.is_some();
        (told && any).then_some(Self {
            client,
            lifetime,
            drain,
        })
    }

    /// Inside of an event, where it disturbs nobody; one is enough.
    pub(crate) fn line(&self, end: LineEnd) -> Option<Bytes> {
        let after = self.lifetime.or(self.drain)?;
        Some(retry_line(after, end))
    }

    /// At a clean end, where no event could carry it, and only to those who do not make an event of
    /// a block without data.
    pub(crate) fn at_end(&self, reason: EndReason, at: Position) -> Option<Bytes> {
        let after = match reason {
            EndReason::Drained => self.drain,
            EndReason::Expired => self.lifetime,
            _ => None,
        };
        let sayable = self.client.event_source && at == Position::Boundary;
        after.filter(|_| sayable).map(retry_block)
    }
}

/// The hint as a block of its own.
pub(crate) fn retry_block(after: Duration) -> Bytes {
    [&retry_line(after, LineEnd::Lf)[..], b"\n"].concat().into()
}
