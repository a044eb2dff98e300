//! `GET /training`: the progress of a run, a stream that ends.
//!
//! ```sh
//! curl -N http://127.0.0.1:8080/training
//! curl -N 'http://127.0.0.1:8080/training?epochs=5&pause_ms=2000'
//! curl -N -H 'Last-Event-ID: 30' http://127.0.0.1:8080/training
//! curl -i -H 'Last-Event-ID: 41' http://127.0.0.1:8080/training      # 204: it is over
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
pub(super) struct Run {
    epochs: u64,
    pause_ms: u64,
}

const MAX_EPOCHS: u64 = 1000;

impl Default for Run {
    fn default() -> Self {
        Self {
            epochs: 40,
            pause_ms: 300,
        }
    }
}

pub(super) async fn run(Query(run): Query<Run>, last: LastEventId) -> Response {
    let epochs = run.epochs.clamp(1, MAX_EPOCHS);
    let pause = run.pause_ms.min(MAX_PAUSE);
    finite::respond(epochs, last, move |epoch| {
        if epoch > epochs {
            return (0, "done", json!({ "epochs": epochs, "loss": loss(epochs) }));
        }
        let data = json!({
            "epoch": epoch,
            "epochs": epochs,
            "loss": loss(epoch),
            "validation_loss": validation_loss(epoch),
        });
        (pause, "progress", data)
    })
}

/// Falls and trembles, and is the same at each epoch whoever asks: so a resumed run goes on.
fn loss(epoch: u64) -> f64 {
    let epoch = epoch as f64;
    rounded(0.12 + 2.2 * (-epoch / 9.0).exp() + 0.03 * (epoch * 2.4).sin())
}

/// Of what the model has not seen: it stays above, and no longer falls when the model learns by heart.
fn validation_loss(epoch: u64) -> f64 {
    let epoch = epoch as f64;
    rounded(0.3 + 2.1 * (-epoch / 8.0).exp() + 0.004 * epoch + 0.05 * (epoch * 1.7).cos())
}

fn rounded(loss: f64) -> f64 {
    (loss * 1e4).round() / 1e4
}
