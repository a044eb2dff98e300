use std::error::Error;

/// Any error of a body or a store.
pub type BoxError = Box<dyn Error + Send + Sync>;
