mod observer;
mod tally;

use std::{fmt, sync::Arc};

use http::{Method, Uri, request, response};
use tokio::time::Instant;

pub use self::observer::{Observer, ResumeOutcome, StreamHead, StreamTotals};
pub(crate) use self::tally::Tally;
use crate::refusal::RefusedBy;

/// Tells observers what becomes of event streams.
#[derive(Clone)]
#[must_use]
pub struct MetricsLayer {
    observers: Arc<[Arc<dyn Observer>]>,
}

/// What is kept of a request for the stream that may follow.
#[derive(Debug)]
pub(crate) struct Arrival {
    at: Instant,
    method: Method,
    uri: Uri,
}

impl MetricsLayer {
    /// The observer is told of every stream.
    pub fn new(observer: impl Observer) -> Self {
        Self {
            observers: Arc::new([Arc::new(observer)]),
        }
    }

    /// One more observer, told after those before it.
    pub fn and(self, observer: impl Observer) -> Self {
        let one_more: Arc<dyn Observer> = Arc::new(observer);
        Self {
            observers: self.observers.iter().cloned().chain([one_more]).collect(),
        }
    }

    pub(crate) fn on_request(&self, request: &request::Parts) -> Arrival {
        Arrival {
            at: Instant::now(),
            method: request.method.clone(),
            uri: request.uri.clone(),
        }
    }

    /// Any response, also one that is no stream: who came back to a stream that is complete gets
    /// none.
    pub(crate) fn on_response(&self, response: &response::Parts) {
        if let Some(outcome) = ResumeOutcome::of(&response.headers) {
            for observer in self.observers.iter() {
                observer.resumed(outcome);
            }
        }
    }

    pub(crate) fn on_refusal(&self, by: RefusedBy) {
        for observer in self.observers.iter() {
            observer.refused(by);
        }
    }

    /// The part of a stream that has opened.
    pub(crate) fn open(&self, arrival: Arrival) -> Arc<Tally> {
        Arc::new(Tally::open(self.observers.clone(), arrival))
    }
}

impl fmt::Debug for MetricsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsLayer")
            .field("observers", &self.observers.len())
            .finish()
    }
}
