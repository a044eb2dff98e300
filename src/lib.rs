#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod body;
mod client;
mod compression;
mod detect;
mod drain;
mod end;
mod engine;
mod error;
mod event_id;
mod flush;
mod frames;
mod future;
mod headers;
mod heartbeat;
mod jitter;
mod judge;
mod layer;
mod media;
mod outbox;
#[cfg(feature = "resume")]
pub mod resume;
mod service;
mod slot;
mod timer;
mod trace;
pub mod wire;
mod withdraw;

pub use body::{Aborted, SseBody};
pub use compression::{CompressionBypassLayer, should_compress};
pub use drain::{Drain, DrainLayer, DrainMode};
pub use end::EndReason;
pub use error::BoxError;
pub use event_id::{EventIdLayer, LastEventId, LastSentId, is_event_source};
pub use future::ResponseFuture;
pub use headers::HeadersLayer;
pub use heartbeat::{HeartbeatLayer, HeartbeatShape, HeartbeatStart};
pub use layer::SseLayer;
#[cfg(feature = "redis")]
pub use resume::RedisStore;
#[cfg(feature = "resume")]
pub use resume::{LossPolicy, MemoryStore, Resume, ResumeLayer, ResumeStore};
pub use service::SseService;
