//! [clients]: crate::guide::clients
//! [guide]: crate::guide
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod aborted;
mod body;
mod client;
mod compression;
mod departure;
mod detect;
mod drain;
mod early;
mod end;
mod engine;
mod error;
mod event_id;
mod flush;
mod frames;
mod future;
// Documentation, and nothing else.
#[cfg(any(doc, doctest))]
pub mod guide;
mod headers;
mod heartbeat;
mod jitter;
mod judge;
mod layer;
mod lifetime;
mod limit;
mod media;
mod metrics;
mod outbox;
mod protocol;
mod reach;
mod refusal;
mod registry;
#[cfg(feature = "resume")]
pub mod resume;
mod retry;
mod service;
mod shape;
mod silence;
mod slot;
mod stall;
mod timer;
mod trace;
mod truncation;
mod verdict;
mod watch;
pub mod wire;
mod withdraw;

pub use self::metrics::{MetricsLayer, Observer, ResumeOutcome, StreamHead, StreamTotals};
pub use aborted::Aborted;
pub use body::SseBody;
pub use client::{accepts_events, accepts_only_events, is_event_source};
pub use compression::{CompressionBypassLayer, should_compress};
pub use departure::DrainMode;
pub use drain::{Drain, DrainLayer};
pub use early::{EarlyOpenBody, EarlyOpenFuture, EarlyOpenLayer, EarlyOpenService};
pub use end::EndReason;
pub use error::BoxError;
pub use event_id::{EventIdLayer, LastEventId, LastSentId};
pub use future::ResponseFuture;
pub use headers::HeadersLayer;
pub use heartbeat::{HeartbeatLayer, HeartbeatStart};
pub use layer::SseLayer;
pub use lifetime::{LifetimeLayer, StreamDeadline};
pub use limit::LimitLayer;
pub use protocol::{BreakOff, Protocol};
pub use refusal::RefusedBy;
#[cfg(feature = "redis")]
pub use resume::RedisStore;
#[cfg(feature = "resume")]
pub use resume::{LossPolicy, MemoryStore, Resume, ResumeLayer, ResumeStore};
pub use service::SseService;
pub use shape::HeartbeatShape;
pub use silence::SilenceLayer;
pub use stall::StallLayer;
pub use truncation::TruncationLayer;
