//! A stream outlives its connection.

#[cfg(feature = "test-util")]
pub mod conformance;
mod id;
mod memory;
mod store;

pub use id::{InvalidStreamId, StreamId};
pub use memory::{Evicted, MemoryStore};
pub use store::{
    Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, Then, UnknownStreamEnd,
};
