//! A stream outlives its connection.

mod id;
#[cfg(feature = "redis")]
mod redis;
mod store;

pub use id::{InvalidStreamId, StreamId};
#[cfg(feature = "redis")]
pub use redis::RedisStore;
pub use store::{
    Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, Then, UnknownStreamEnd,
};
