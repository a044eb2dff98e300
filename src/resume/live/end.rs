use std::sync::Arc;

use http::HeaderMap;

use crate::{error::BoxError, resume::StreamEnd};

/// How a stream ended, and what came behind its last byte.
#[derive(Clone, Debug)]
pub(in crate::resume) enum LiveEnd {
    Complete(Option<HeaderMap>),
    Stopped,
    /// Upstream failed, or what comes is lost: the reader's connection must break, so that nobody
    /// takes the half for the whole.
    Broken(Option<Arc<BoxError>>),
    /// The same, since nobody read it for too long or the process goes.
    Abandoned,
}

impl LiveEnd {
    pub(in crate::resume) fn failed(error: BoxError) -> Self {
        Self::Broken(Some(Arc::new(error)))
    }
}

impl From<StreamEnd> for LiveEnd {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::Complete => Self::Complete(None),
            StreamEnd::Stopped => Self::Stopped,
            StreamEnd::Failed => Self::Broken(None),
            StreamEnd::Abandoned => Self::Abandoned,
        }
    }
}

impl From<&LiveEnd> for StreamEnd {
    fn from(end: &LiveEnd) -> Self {
        match end {
            LiveEnd::Complete(_) => Self::Complete,
            LiveEnd::Stopped => Self::Stopped,
            LiveEnd::Broken(_) => Self::Failed,
            LiveEnd::Abandoned => Self::Abandoned,
        }
    }
}
