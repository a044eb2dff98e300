//! The bytes of an event stream: grammar, scanner, ids and encoders.
//!
//! Everything here takes bytes and gives bytes; nothing waits, nothing needs a runtime. The layers
//! of this crate are built on it, and so can yours be.
//!
//! # The grammar
//!
//! An event stream is UTF-8 text, read line by line ([WHATWG HTML, section 9.2.5][spec]):
//!
//! ```text
//! stream  = [ BOM ] *block               ; one byte order mark at the start is ignored
//! block   = *( comment / field ) blank   ; the blank line dispatches the event
//! comment = ":" *any-char end-of-line
//! field   = name [ ":" [ space ] *any-char ] end-of-line
//! blank   = end-of-line
//! end-of-line = CR LF / CR / LF          ; a CR that ends a chunk may still get its LF
//! ```
//!
//! - `data` adds a line to the event, `event` names it, `id` moves the client's cursor, `retry`
//!   (ASCII digits, milliseconds) sets its reconnection time; any other name is ignored.
//! - A block without `data` dispatches nothing, yet its `id` counts.
//! - An `id` with a NUL is ignored; an empty one clears the cursor.
//! - What the end of the stream cuts off before its blank line is dropped, its `id` too.
//!
//! # Example
//!
//! ```
//! use tower_sse::wire::{Mark, Position, Scanner};
//!
//! let mut scanner = Scanner::new();
//! let mut events = 0;
//! for chunk in [&b"id: 7\ndata: he"[..], b"llo\n", b"\ndata: wor"] {
//!     scanner.scan(chunk, |mark| {
//!         if let Mark::BlockEnd(block) = mark {
//!             events += usize::from(block.data);
//!         }
//!     });
//! }
//! assert_eq!(events, 1);
//! assert_eq!(scanner.position(), Position::MidLine);
//! ```
//!
//! # What it does not do
//!
//! It marks places; it builds no events. To consume a stream, use a client library. It does not
//! check UTF-8: bytes that are not pass through the layers as they came.
//!
//! [spec]: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

mod bom;
mod encode;
mod event_id;
mod plain;
mod scanner;

pub(crate) use bom::Bom;
pub use encode::{Comment, InvalidComment, LineEnd, comment_line, id_line, retry_line};
pub use event_id::{EventId, InvalidEventId};
#[cfg(feature = "resume")]
pub(crate) use scanner::BOM;
pub use scanner::{BlockEnd, Field, Mark, Position, Scanner};
