//! What a delivery from the log costs: `cargo bench --bench fanout`.
//!
//! One stream to many readers, who joined by `Last-Event-ID`, in three parts:
//!
//! - over sockets, the CPU time of the server's thread for each event that reaches a reader. The
//!   base is the *plain write*: the same server without the layers, whose handler gives every reader
//!   a channel of its own and each event as a clone of its `Bytes`. Below it stands what the kernel
//!   takes of that: `write(2)` of the same bytes to the same number of sockets, and nothing else.
//! - in process, the instructions for the same, without hyper and the kernel;
//! - a resume: what it takes to read a long log again, beside a copy of its bytes.

use std::env;

use crate::report::at_most;

mod counted;
mod replay;
#[path = "../support/report.rs"]
mod report;
#[path = "../support/server.rs"]
mod server;
mod sockets;
#[path = "../support/topic.rs"]
mod topic;
#[path = "../support/counted.rs"]
mod valgrind;

/// Of an event, its blank line included.
const SIZE: usize = 256;

/// What a delivery may cost, in plain writes.
const BOUND: f64 = 1.5;

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.as_slice() {
        [case, numbers @ ..] if !case.starts_with('-') => counted::run(case, numbers),
        // `cargo test` wants to know that it runs.
        arguments if !arguments.iter().any(|argument| argument == "--bench") => {
            sockets::check();
            counted::check();
            replay::check();
        }
        _ => {
            sockets::report();
            counted::report();
            replay::report();
        }
    }
}

/// A cost beside that of a plain write.
fn beside(cost: f64, plain: f64) -> String {
    at_most(cost / plain, BOUND)
}
