//! `GET /predictions`: a batch of texts that a classifier works through, each result as it comes.
//!
//! ```sh
//! curl -N http://127.0.0.1:8080/predictions
//! curl -N 'http://127.0.0.1:8080/predictions?total=100&pause_ms=50'
//! curl -N -H 'Last-Event-ID: 20' http://127.0.0.1:8080/predictions
//! ```

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::Query,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;

use super::LastEventId;

#[derive(Deserialize)]
#[serde(default)]
pub(super) struct Batch {
    total: u64,
    pause_ms: u64,
}

/// What was asked, and what the classifier makes of it.
const TEXTS: [(&str, &str, f64); 12] = [
    ("I was charged twice for the same month.", "billing", 0.97),
    ("The export button does nothing in Firefox.", "bug", 0.94),
    ("Could the chart show two runs at once?", "feature", 0.91),
    ("Love the new dashboard, thank you!", "praise", 0.99),
    ("Where do I find the invoice for May?", "billing", 0.88),
    ("The stream stops after exactly 60 seconds.", "bug", 0.83),
    ("Please add single sign-on for our team.", "feature", 0.95),
    ("It works, but only after the third reload.", "bug", 0.64),
    ("Cancel my plan at the end of the year.", "billing", 0.92),
    ("A dark mode would be easier on the eyes.", "feature", 0.86),
    ("Support answered within minutes. Great.", "praise", 0.96),
    ("Is the price per seat or per token?", "billing", 0.71),
];

const MAX_TOTAL: u64 = 10_000;
const MAX_PAUSE: u64 = 60_000;

impl Default for Batch {
    fn default() -> Self {
        Self {
            total: 24,
            pause_ms: 300,
        }
    }
}

/// Result *n* has the id *n*, and `done` the one after the last, as in a training run.
pub(super) async fn run(Query(batch): Query<Batch>, LastEventId(last): LastEventId) -> Response {
    let total = batch.total.clamp(1, MAX_TOTAL);
    let pause = batch.pause_ms.min(MAX_PAUSE);
    if last > total {
        return StatusCode::NO_CONTENT.into_response();
    }
    let events = stream::iter(last + 1..=total + 1).then(move |id| async move {
        if id > total {
            return Ok::<_, Infallible>(done(id, total));
        }
        let took = took(id, pause);
        tokio::time::sleep(Duration::from_millis(took)).await;
        Ok(prediction(id, total, took))
    });
    Sse::new(events).into_response()
}

/// Some are harder than others: from half the pause to one and a half, the same whoever asks.
fn took(id: u64, pause: u64) -> u64 {
    pause * (50 + (id * 37) % 101) / 100
}

fn prediction(id: u64, total: u64, took: u64) -> Event {
    let (text, label, confidence) = TEXTS[(id - 1) as usize % TEXTS.len()];
    let data = json!({
        "n": id,
        "total": total,
        "text": text,
        "label": label,
        "confidence": confidence,
        "took_ms": took,
    });
    event(id, "prediction").data(data.to_string())
}

fn done(id: u64, total: u64) -> Event {
    event(id, "done").data(json!({ "total": total }).to_string())
}

fn event(id: u64, name: &str) -> Event {
    Event::default().id(id.to_string()).event(name)
}
