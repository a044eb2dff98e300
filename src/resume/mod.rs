//! A stream outlives its connection.

#[cfg(feature = "test-util")]
pub mod conformance;
mod id;
mod memory;
#[cfg(feature = "redis")]
mod redis;
mod store;

pub use id::{InvalidStreamId, StreamId};
pub use memory::{Evicted, MemoryStore};
#[cfg(feature = "redis")]
pub use redis::RedisStore;
pub use store::{
    Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, Then, UnknownStreamEnd,
};
