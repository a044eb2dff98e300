//! A stream outlives its connection.

mod id;
mod store;

pub use id::{InvalidStreamId, StreamId};
pub use store::{
    Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, Then, UnknownStreamEnd,
};
