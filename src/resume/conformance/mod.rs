//! Whether a [`ResumeStore`] of your own does what the layer leans on.
//!
//! [`check`] tries one rule after the other and panics at the first that is broken, with a message
//! that begins with the rule. Or each rule is a test of its own, by [`checks`].
//!
//! ```
//! use std::time::Duration;
//! use tower_sse::resume::{MemoryStore, conformance};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() {
//! let store = MemoryStore::new().lease(Duration::from_secs(2));
//! conformance::check(async || store.clone()).await;
//! # }
//! ```
//!
//! A store is made twice for each rule, as on two machines: what is written through one is read
//! through the other, so both must come to the same database. That may be one in use: all streams
//! are new ones, and the store's time of keeping is the only thing that takes them away again.
//!
//! The rules are tried in the time of the clock, and the lease takes eight of its own: a lease of a
//! few seconds is quick, and still long enough for a machine that is busy. How long the store keeps
//! streams that nobody needs is not tried. It takes a tokio runtime with its time enabled.

mod rules;
mod trial;

use std::{fmt, pin::Pin};

use tokio::task::JoinSet;

use self::{rules::*, trial::Trial};
use super::ResumeStore;

/// A rule that a store must keep, and how to try it.
#[derive(Clone, Copy)]
pub struct Check {
    rule: &'static str,
    attempt: fn(Trial) -> Attempt,
}

type Attempt = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All of them; each needs those before it.
const CHECKS: [Check; 21] = [
    Check::new("find answers what open was told", |trial| {
        Box::pin(found(trial))
    }),
    Check::new("a stream that was never opened is unknown", |trial| {
        Box::pin(unknown(trial))
    }),
    Check::new("events come back byte for byte", |trial| {
        Box::pin(bytes(trial))
    }),
    Check::new(
        "a page is the first events over a number, and says what follows",
        |trial| Box::pin(pages(trial)),
    ),
    Check::new("numbers may be missing", |trial| Box::pin(gaps(trial))),
    Check::new("many events come back in order", |trial| {
        Box::pin(many(trial))
    }),
    Check::new("an append that is repeated adds what is new", |trial| {
        Box::pin(repeated_append(trial))
    }),
    Check::new("only events under keep_from may go", |trial| {
        Box::pin(dropped(trial))
    }),
    Check::new("an open that is repeated changes nothing", |trial| {
        Box::pin(repeated_open(trial))
    }),
    Check::new(
        "an end is told as it was, however often it is said",
        |trial| Box::pin(ends(trial)),
    ),
    Check::new("next answers at once what is there", |trial| {
        Box::pin(next_at_once(trial))
    }),
    Check::new("next waits for an event", |trial| {
        Box::pin(next_event(trial))
    }),
    Check::new("next waits for an end", |trial| Box::pin(next_end(trial))),
    Check::new("next waits for events over its number", |trial| {
        Box::pin(next_ahead(trial))
    }),
    Check::new("next waits as long as there is nothing to tell", |trial| {
        Box::pin(next_quiet(trial))
    }),
    Check::new("a next that is dropped takes nothing with it", |trial| {
        Box::pin(next_dropped(trial))
    }),
    Check::new(
        "every reader of every stream sees each event once, in order",
        |trial| Box::pin(crowd(trial)),
    ),
    Check::new(
        "a producer that does not renew is lost, and only that",
        |trial| Box::pin(lease(trial)),
    ),
    Check::new("attend tells which streams somebody reads", |trial| {
        Box::pin(attend(trial))
    }),
    Check::new(
        "attend tells of those who said so within a lease",
        |trial| Box::pin(attend_again(trial)),
    ),
    Check::new("attend renews nothing", |trial| {
        Box::pin(attend_lost(trial))
    }),
];

/// Tries all rules, one after the other.
///
/// # Panics
///
/// At the first rule that the store breaks.
pub async fn check<S: ResumeStore>(store: impl AsyncFn() -> S) {
    for check in checks() {
        check.run(&store).await;
    }
}

/// The rules, to be tried one by one.
pub fn checks() -> impl Iterator<Item = Check> {
    CHECKS.into_iter()
}

impl Check {
    const fn new(rule: &'static str, attempt: fn(Trial) -> Attempt) -> Self {
        Self { rule, attempt }
    }

    /// What the store must do, in a few words.
    #[must_use]
    pub fn rule(&self) -> &'static str {
        self.rule
    }

    /// Tries the rule with two of these stores.
    ///
    /// # Panics
    ///
    /// When the store breaks the rule, fails, or does not answer for half a minute.
    pub async fn run<S: ResumeStore>(&self, store: impl AsyncFn() -> S) {
        let trial = Trial::new(self.rule, store().await, store().await);
        // Ends with the attempt, also when that panics.
        let mut renewing = JoinSet::new();
        renewing.spawn(trial.clone().stay_alive());
        (self.attempt)(trial).await;
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.rule).finish()
    }
}
