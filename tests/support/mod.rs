//! What several test binaries share.

// Each test binary is a crate of its own and uses only a part of this.
#![allow(dead_code)]

pub(crate) mod body;
pub(crate) mod paced;
pub(crate) mod reference;
#[cfg(feature = "resume")]
pub(crate) mod resume;
pub(crate) mod serve;
pub(crate) mod streams;
pub(crate) mod visitor;
