//! The head of an event stream goes out before the service has answered.
//!
//! ```text
//! request ─► service ─► its answer, in time ───────────────────► passes untouched
//!               │
//!               └ not in time: an early head, and a body that waits for the answer
//!                                 an event stream ─────► spliced in, frame by frame
//!                                 anything else ───────► one error event, and a clean end
//! ```
//!
//! To all layers outside, the body that waits is an event stream that is silent: heartbeats, a
//! drain, limits and a store of events need to know nothing of this.

mod answer;
mod body;
mod layer;
mod service;

pub use body::EarlyOpenBody;
pub use layer::EarlyOpenLayer;
pub use service::{EarlyOpenFuture, EarlyOpenService};
