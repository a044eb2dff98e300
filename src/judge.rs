use std::{fmt, sync::Arc};

use http::request;

/// What a user's function says of a request.
pub(crate) struct Judge<T>(Arc<Function<T>>);

type Function<T> = dyn Fn(&request::Parts) -> T + Send + Sync;

impl<T> Judge<T> {
    pub(crate) fn new(function: impl Fn(&request::Parts) -> T + Send + Sync + 'static) -> Self {
        Self(Arc::new(function))
    }

    pub(crate) fn of(&self, request: &request::Parts) -> T {
        (self.0)(request)
    }
}

impl<T> Clone for Judge<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Judge<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fn")
    }
}
