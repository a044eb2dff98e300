/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The service ended it.
    Complete,
    /// The service's body failed, and the client saw the connection break; or its answer came too late
    /// to be one, and became an error event (see [`EarlyOpenLayer`](crate::EarlyOpenLayer)).
    Failed,
    /// The service ended it, or its body failed, before the answer was complete; see
    /// [`TruncationLayer`](crate::TruncationLayer).
    Truncated,
    /// The service said nothing for too long; see [`SilenceLayer`](crate::SilenceLayer).
    Silent,
    /// The drain ended it cleanly, at an event boundary where there was one in time.
    Drained,
    /// The drain broke the connection off in the middle of an answer, so that the client does not
    /// take the half for the whole.
    Aborted,
    /// Its time was over; see [`LifetimeLayer`](crate::LifetimeLayer).
    Expired,
    /// The client did not read for too long; see [`StallLayer`](crate::StallLayer).
    Stalled,
    /// The client went away, or the server dropped the connection.
    Disconnected,
}

impl EndReason {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Complete,
        Self::Failed,
        Self::Truncated,
        Self::Silent,
        Self::Drained,
        Self::Aborted,
        Self::Expired,
        Self::Stalled,
        Self::Disconnected,
    ];

    /// The reason as one lower-case word, for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Failed => "failed",
            Self::Truncated => "truncated",
            Self::Silent => "silent",
            Self::Drained => "drained",
            Self::Aborted => "aborted",
            Self::Expired => "expired",
            Self::Stalled => "stalled",
            Self::Disconnected => "disconnected",
        }
    }
}
