//! A stream that ends: its events have the ids from 1 on, and behind the last comes `done`.

use std::{convert::Infallible, time::Duration};

use axum::{
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use super::LastEventId;

/// Longest pause before an event.
pub(super) const MAX_PAUSE: u64 = 60_000;

/// A stream whose `last` event has been seen, with `event` for each number that comes: its pause in
/// milliseconds, its name and its data. A client that has seen `done`, the one behind `total`, gets 204,
/// the one answer that stops an `EventSource` from coming back.
pub(super) fn respond<F>(total: u64, LastEventId(last): LastEventId, event: F) -> Response
where
    F: Fn(u64) -> (u64, &'static str, Value) + Send + 'static,
{
    if last > total {
        return StatusCode::NO_CONTENT.into_response();
    }
    let events = stream::iter(last + 1..=total + 1).then(move |id| {
        let (pause, name, data) = event(id);
        let event = Event::default().id(id.to_string()).event(name);
        let event = event.data(data.to_string());
        async move {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            Ok::<_, Infallible>(event)
        }
    });
    Sse::new(events).into_response()
}
