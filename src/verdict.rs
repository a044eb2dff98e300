use std::sync::{Arc, OnceLock};

use crate::end::EndReason;

/// A response extension of who learns how its stream has really gone, where that ends cleanly.
#[derive(Clone, Debug, Default)]
pub(crate) struct Verdict(Arc<OnceLock<EndReason>>);

impl Verdict {
    /// Before the body ends; the first one counts.
    pub(crate) fn give(&self, reason: EndReason) {
        let _ = self.0.set(reason);
    }

    /// What a clean end means.
    pub(crate) fn reason(&self) -> EndReason {
        self.0.get().copied().unwrap_or(EndReason::Complete)
    }
}
