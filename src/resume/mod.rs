//! A stream outlives its connection: one producer, a log, many readers.

mod about;
mod ask;
mod body;
#[cfg(feature = "test-util")]
pub mod conformance;
mod cut;
mod find;
mod follow;
mod handle;
mod hub;
mod id;
mod layer;
mod live;
mod log;
mod memory;
mod piece;
mod pump;
mod reader;
mod service;
mod stats;
mod store;

pub use body::ResumeBody;
pub use handle::{ProducedStream, Resume};
use id::Cursor;
pub use id::{InvalidStreamId, StreamId};
pub use layer::{LossPolicy, ResumeLayer};
pub use memory::{Evicted, MemoryStore};
pub use reader::Interrupted;
pub use service::{ResumeFuture, ResumeService};
pub use stats::ResumeStats;
pub use store::{
    Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, Then, UnknownStreamEnd,
};
