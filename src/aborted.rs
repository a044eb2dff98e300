use std::{error::Error, fmt, iter::successors};

use crate::end::EndReason;

/// The error of a stream that was broken off, so that its client does not take it for complete.
#[derive(Debug)]
pub struct Aborted(pub(crate) EndReason);

impl Aborted {
    /// What is between two layers may have wrapped it.
    pub(crate) fn among_the_causes(error: &(dyn Error + 'static)) -> Option<EndReason> {
        let mut causes = successors(Some(error), |&error| error.source());
        causes.find_map(|cause| cause.downcast_ref().map(Self::reason))
    }

    /// Why the stream was broken off.
    #[must_use]
    pub fn reason(&self) -> EndReason {
        self.0
    }
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.0 {
            EndReason::Aborted => "the drain's deadline passed",
            EndReason::Truncated => "its upstream ended in the middle of the answer",
            EndReason::Silent => "its upstream has said nothing for too long",
            EndReason::Expired => "its time is over",
            EndReason::Stalled => "its client did not read",
            other => other.as_str(),
        };
        write!(f, "event stream broken off: {why}")
    }
}

impl Error for Aborted {}
