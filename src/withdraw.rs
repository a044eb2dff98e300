use std::{fmt, sync::Arc};

use http::{HeaderMap, response};

/// A response extension of who has begun something for this response: what to do if it is refused
/// further out, and its client never gets it.
#[derive(Clone)]
pub(crate) struct Withdraw(Arc<dyn Fn(&mut HeaderMap) + Send + Sync>);

impl Withdraw {
    #[cfg(feature = "resume")]
    pub(crate) fn new(withdraw: impl Fn(&mut HeaderMap) + Send + Sync + 'static) -> Self {
        Self(Arc::new(withdraw))
    }

    pub(crate) fn from(response: &mut response::Parts) {
        if let Some(Self(withdraw)) = response.extensions.remove() {
            withdraw(&mut response.headers);
        }
    }
}

impl fmt::Debug for Withdraw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Withdraw")
    }
}
