//! `GET /training`: the progress of a run, a stream that ends.
//!
//! ```sh
//! curl -N http://127.0.0.1:8080/training
//! curl -N 'http://127.0.0.1:8080/training?epochs=5&pause_ms=2000'
//! curl -N -H 'Last-Event-ID: 30' http://127.0.0.1:8080/training
//! curl -i -H 'Last-Event-ID: 41' http://127.0.0.1:8080/training      # 204: it is over
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
pub(super) struct Run {
    epochs: u64,
    pause_ms: u64,
}

const MAX_EPOCHS: u64 = 1000;
const MAX_PAUSE: u64 = 60_000;

impl Default for Run {
    fn default() -> Self {
        Self {
            epochs: 40,
            pause_ms: 300,
        }
    }
}

/// Epoch *n* has the id *n*, and `done` the one after the last. A client that has seen `done` gets
/// 204, the one answer that stops an `EventSource` from coming back.
pub(super) async fn run(Query(run): Query<Run>, LastEventId(last): LastEventId) -> Response {
    let epochs = run.epochs.clamp(1, MAX_EPOCHS);
    let pause = Duration::from_millis(run.pause_ms.min(MAX_PAUSE));
    if last > epochs {
        return StatusCode::NO_CONTENT.into_response();
    }
    let events = stream::iter(last + 1..=epochs + 1).then(move |id| async move {
        if id <= epochs {
            tokio::time::sleep(pause).await;
        }
        Ok::<_, Infallible>(event(id, epochs))
    });
    Sse::new(events).into_response()
}

fn event(id: u64, epochs: u64) -> Event {
    let (name, data) = if id <= epochs {
        let (loss, validation_loss) = (loss(id), validation_loss(id));
        let data = json!({
            "epoch": id,
            "epochs": epochs,
            "loss": loss,
            "validation_loss": validation_loss,
        });
        ("progress", data)
    } else {
        ("done", json!({ "epochs": epochs, "loss": loss(epochs) }))
    };
    let event = Event::default().id(id.to_string()).event(name);
    event.data(data.to_string())
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
