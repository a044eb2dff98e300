//! `GET /predictions`: a batch of texts that a classifier works through, each result as it comes.
//!
//! ```sh
//! curl -N http://127.0.0.1:8080/predictions
//! curl -N 'http://127.0.0.1:8080/predictions?total=100&pause_ms=50'
//! curl -N -H 'Last-Event-ID: 20' http://127.0.0.1:8080/predictions
//! ```

use axum::{extract::Query, response::Response};
use serde::Deserialize;
use serde_json::json;

use super::{
    LastEventId,
    finite::{self, MAX_PAUSE},
};

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

impl Default for Batch {
    fn default() -> Self {
        Self {
            total: 24,
            pause_ms: 300,
        }
    }
}

pub(super) async fn run(Query(batch): Query<Batch>, last: LastEventId) -> Response {
    let total = batch.total.clamp(1, MAX_TOTAL);
    let pause = batch.pause_ms.min(MAX_PAUSE);
    finite::respond(total, last, move |id| {
        if id > total {
            return (0, "done", json!({ "total": total }));
        }
        let (text, label, confidence) = TEXTS[(id - 1) as usize % TEXTS.len()];
        let took = took(id, pause);
        let data = json!({
            "n": id,
            "total": total,
            "text": text,
            "label": label,
            "confidence": confidence,
            "took_ms": took,
        });
        (took, "prediction", data)
    })
}

/// Some are harder than others: from half the pause to one and a half, the same whoever asks.
fn took(id: u64, pause: u64) -> u64 {
    pause * (50 + (id * 37) % 101) / 100
}
