use std::{sync::OnceLock, time::Duration};

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

use super::{MetricsLayer, Observer, ResumeOutcome, StreamHead, StreamTotals};
use crate::{end::EndReason, refusal::RefusedBy, shape::HeartbeatShape};

/// Counts through the facade, with handles that are made once.
#[derive(Default)]
struct Facade(OnceLock<Handles>);

struct Handles {
    opened: Counter,
    open: Gauge,
    ended: Family<EndReason>,
    refused: Family<RefusedBy>,
    resumed: Family<ResumeOutcome>,
    ignored_ids: Counter,
    events: Counter,
    bytes: Counter,
    heartbeats: Family<HeartbeatShape>,
    time_to_head: Histogram,
    time_to_first_event: Histogram,
    lifetime: Histogram,
}

/// A counter for each value of a label; there are at most nine.
struct Family<T>(Vec<(T, Counter)>);

const OPENED: &str = "sse_streams_opened_total";
const OPEN: &str = "sse_streams_open";
const ENDED: &str = "sse_streams_ended_total";
const REFUSED: &str = "sse_streams_refused_total";
const RESUMED: &str = "sse_streams_resumed_total";
const IGNORED_IDS: &str = "sse_ignored_ids_total";
const EVENTS: &str = "sse_events_total";
const BYTES: &str = "sse_bytes_total";
const HEARTBEATS: &str = "sse_heartbeats_total";
const TIME_TO_HEAD: &str = "sse_time_to_head_seconds";
const TIME_TO_FIRST_EVENT: &str = "sse_time_to_first_event_seconds";
const LIFETIME: &str = "sse_lifetime_seconds";

/// Those that have bytes.
const SHAPES: &[HeartbeatShape] = &[
    HeartbeatShape::CommentLine,
    HeartbeatShape::CommentBlock,
    HeartbeatShape::BlankLines,
];

impl MetricsLayer {
    /// Counts through the facade of the `metrics` crate, for whatever
    /// recorder the application installs: Prometheus, StatsD, OpenTelemetry.
    ///
    /// | name | type | unit | labels |
    /// |---|---|---|---|
    /// | `sse_streams_opened_total` | counter | count | |
    /// | `sse_streams_open` | gauge | count | |
    /// | `sse_streams_ended_total` | counter | count | `reason`: [`EndReason::as_str`](crate::EndReason::as_str) |
    /// | `sse_streams_refused_total` | counter | count | `by`: [`RefusedBy::as_str`](crate::RefusedBy::as_str) |
    /// | `sse_streams_resumed_total` | counter | count | `outcome`: [`ResumeOutcome::as_str`](crate::ResumeOutcome::as_str) |
    /// | `sse_ignored_ids_total` | counter | count | |
    /// | `sse_events_total` | counter | count | |
    /// | `sse_bytes_total` | counter | bytes | |
    /// | `sse_heartbeats_total` | counter | count | `shape`: [`HeartbeatShape::as_str`](crate::HeartbeatShape::as_str) |
    /// | `sse_time_to_head_seconds` | histogram | seconds, from the request | |
    /// | `sse_time_to_first_event_seconds` | histogram | seconds, from the request | |
    /// | `sse_lifetime_seconds` | histogram | seconds, from the head to the end | |
    ///
    /// Where the recorder has buckets, give them to the histograms: streams live for hours. All
    /// values of a label are there from the start, at zero.
    ///
    /// Install the recorder first. What it is told is looked up once, with the first stream: a
    /// recorder that is installed after that hears nothing. One that is there when this is called
    /// knows all names and their descriptions at once.
    ///
    /// ```
    /// use tower_sse::{MetricsLayer, SseLayer};
    ///
    /// let layer = SseLayer::new().metrics(MetricsLayer::facade());
    /// # drop(layer);
    /// ```
    pub fn facade() -> Self {
        describe();
        // A rate needs the zero before the first one.
        drop(Handles::new());
        Self::new(Facade::default())
    }
}

impl Facade {
    fn handles(&self) -> &Handles {
        self.0.get_or_init(|| {
            describe();
            Handles::new()
        })
    }
}

impl Observer for Facade {
    fn opened(&self, stream: &StreamHead) {
        let handles = self.handles();
        handles.opened.increment(1);
        handles.open.increment(1.0);
        handles.time_to_head.record(stream.time_to_head);
    }

    fn first_event(&self, _: &StreamHead, after: Duration) {
        self.handles().time_to_first_event.record(after);
    }

    fn sent(&self, _: &StreamHead, events: u64, bytes: u64) {
        let handles = self.handles();
        handles.events.increment(events);
        handles.bytes.increment(bytes);
    }

    fn heartbeat(&self, _: &StreamHead, shape: HeartbeatShape) {
        self.handles().heartbeats.add(shape);
    }

    fn ended(&self, _: &StreamHead, totals: &StreamTotals) {
        let handles = self.handles();
        handles.open.decrement(1.0);
        handles.ended.add(totals.reason);
        handles.lifetime.record(totals.lifetime);
    }

    fn refused(&self, by: RefusedBy) {
        self.handles().refused.add(by);
    }

    fn resumed(&self, outcome: ResumeOutcome) {
        self.handles().resumed.add(outcome);
    }

    fn ignored_id(&self) {
        self.handles().ignored_ids.increment(1);
    }
}

impl Handles {
    fn new() -> Self {
        Self {
            opened: counter!(OPENED),
            open: gauge!(OPEN),
            ended: Family::new(
                EndReason::ALL,
                |reason| counter!(ENDED, "reason" => reason.as_str()),
            ),
            refused: Family::new(RefusedBy::ALL, |by| counter!(REFUSED, "by" => by.as_str())),
            resumed: Family::new(
                ResumeOutcome::ALL,
                |outcome| counter!(RESUMED, "outcome" => outcome.as_str()),
            ),
            ignored_ids: counter!(IGNORED_IDS),
            events: counter!(EVENTS),
            bytes: counter!(BYTES),
            heartbeats: Family::new(
                SHAPES,
                |shape| counter!(HEARTBEATS, "shape" => shape.as_str()),
            ),
            time_to_head: histogram!(TIME_TO_HEAD),
            time_to_first_event: histogram!(TIME_TO_FIRST_EVENT),
            lifetime: histogram!(LIFETIME),
        }
    }
}

impl<T: Copy + PartialEq> Family<T> {
    fn new(values: &[T], counter: impl Fn(T) -> Counter) -> Self {
        let counters = values.iter().map(|value| (*value, counter(*value)));
        Self(counters.collect())
    }

    fn add(&self, value: T) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == value) {
            counter.increment(1);
        }
    }
}

fn describe() {
    for (name, unit, text) in [
        (OPENED, Unit::Count, "Event streams that have opened."),
        (
            ENDED,
            Unit::Count,
            "Event streams that have ended, by why they did.",
        ),
        (
            REFUSED,
            Unit::Count,
            "Event streams that were refused, by who did.",
        ),
        (
            RESUMED,
            Unit::Count,
            "Clients that came back for a stream, by what they found.",
        ),
        (
            IGNORED_IDS,
            Unit::Count,
            "Requests whose Last-Event-ID cannot be one.",
        ),
        (EVENTS, Unit::Count, "Events that were handed on."),
        (
            BYTES,
            Unit::Bytes,
            "Bytes of event streams that were handed on, heartbeats included.",
        ),
        (
            HEARTBEATS,
            Unit::Count,
            "Heartbeats that were handed on, by their shape.",
        ),
    ] {
        describe_counter!(name, unit, text);
    }
    describe_gauge!(OPEN, Unit::Count, "Event streams that are open.");
    for (name, text) in [
        (
            TIME_TO_HEAD,
            "From a request to the head of its event stream.",
        ),
        (
            TIME_TO_FIRST_EVENT,
            "From a request to the first event of its stream.",
        ),
        (LIFETIME, "From the head of an event stream to its end."),
    ] {
        describe_histogram!(name, Unit::Seconds, text);
    }
}
