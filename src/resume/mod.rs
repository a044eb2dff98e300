//! A stream outlives its connection: one producer, a log, many readers.
//!
//! ```text
//! service's body ─► pump ─► cutter ─► log (store) ─► live end ─► reader 1 ─► client
//!                   a task            every event      │    └──► reader 2, after a reload
//!                                     by its number    └ another machine follows the store
//! ```
//!
//! [`ResumeLayer`] is the whole of it for most users, by itself or in
//! [`SseLayer::resume`](crate::SseLayer::resume). Where the events are kept is a [`ResumeStore`]:
//! [`MemoryStore`] for one process, `RedisStore` (feature `redis`) for several machines, or one of
//! your own, which `conformance` (feature `test-util`) tells whether it is right.
//!
//! # What holds
//!
//! - A client that comes back gets every event behind its last one, in order, none twice; it does
//!   not matter where its connection broke, in the middle of an event say.
//! - An event is in the store before a client can have its id. While the store is down streams go
//!   on without it, and bring it up to date when it is back.
//! - Upstream is read at the pace of the fastest reader, as without the layer. A slower one reads
//!   from the store, and is broken off when that has dropped what comes next. Of readers on other
//!   machines only is known that they are there: for them it is half a log three times in a lease.
//! - Nothing is lost without a word: a stream that cannot be told to its end breaks off, and whoever
//!   comes back for what is gone is told so by [`LossPolicy`].
//!
//! # Example
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::{Request, Response};
//! use http_body_util::BodyExt;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_sse::{MemoryStore, ResumeLayer};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let answer = service_fn(async |_: Request<()>| {
//!     let response = Response::builder().header("content-type", "text/event-stream");
//!     let body = String::from("data: to\n\ndata: be\n\n");
//!     Ok::<_, Infallible>(response.body(body).expect("a response"))
//! });
//! let service = ResumeLayer::new(MemoryStore::new()).layer(answer);
//!
//! let first = service.clone().oneshot(Request::new(())).await.unwrap();
//! let stream = first.headers()["sse-stream"].to_str().unwrap().to_owned();
//! // Say that the connection is lost behind the first event.
//! drop(first.into_body().frame().await);
//!
//! let last_id = format!("{stream}.1");
//! let again = Request::builder().header("last-event-id", last_id).body(()).unwrap();
//! let again = service.oneshot(again).await.unwrap();
//! assert_eq!(again.headers()["sse-resume"], "resumed");
//! assert_eq!(again.into_body().collect().await.unwrap().to_bytes(), "data: be\n\n");
//! # }
//! ```
//!
//! # What it does not do
//!
//! It keeps no stream whose bytes it cannot read (with a `Content-Encoding`), and nothing that is no
//! event stream. It brings back what was sent, not the service: a producer whose process dies is
//! lost, and said to be. It is no broker: each stream has one producer, the response that began it.

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
mod keeper;
mod layer;
mod live;
mod log;
mod memory;
mod piece;
mod pump;
mod reader;
#[cfg(feature = "redis")]
mod redis;
mod service;
mod stats;
mod store;

pub use body::ResumeBody;
pub use handle::{ProducedStream, Resume};
use id::{Cursor, IdLines};
pub use id::{InvalidStreamId, StreamId};
pub use layer::{LossPolicy, ResumeLayer};
pub use memory::{Evicted, MemoryStore};
pub use reader::Interrupted;
#[cfg(feature = "redis")]
pub use redis::RedisStore;
pub use service::{ResumeFuture, ResumeService};
pub use stats::ResumeStats;
pub use store::{
    Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, Then, UnknownStreamEnd,
};
