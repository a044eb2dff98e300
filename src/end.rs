/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// The service ended it.
    Complete,
    /// The service's body failed; the client saw the connection break, not a clean end.
    Failed,
    /// The drain ended it cleanly, at an event boundary where there was one in time.
    Drained,
    /// The drain broke the connection off in the middle of an answer, so that the client does not
    /// take the half for the whole.
    Aborted,
    /// The client went away, or the server dropped the connection.
    Disconnected,
}
