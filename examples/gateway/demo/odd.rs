//! `GET /odd`: all that the grammar of event streams allows and few servers write, to look at byte
//! by byte.
//!
//! ```sh
//! curl -sN http://127.0.0.1:8080/odd | od -c
//! ```

use std::{convert::Infallible, iter::repeat, time::Duration};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt as _, stream};

use super::LastEventId;

const CHUNKS: [&[u8]; 11] = [
    b"\xef\xbb\xbf: the gateway took away a byte order mark before this\r\n\r\n",
    b"id: 1\r\ndata: lines may end with CRLF\r\n\r\n",
    b"id: 2\rdata: or with CR alone\r\r",
    b"id: 3\ndata: or with LF, and an event\ndata: may have several lines\n\n",
    b"id: 4\ndata: an event may come in",
    b" two parts\n\n",
    b"id: 5\ndata: and so may a single letter: \xc3",
    b"\xa9\n\n",
    b": a comment of the platform's own\n\nretry: 2000\n\n",
    b"id: 6\nevent: note\ndata:a name, and no space behind the colon\n\n",
    b"id: 7\nevent: done\ndata\n\n",
];

/// The id of the last event.
const LAST: u64 = 7;

const PAUSE: Duration = Duration::from_millis(400);

/// Short, so it has no way to go on in the middle; but who has seen its end gets 204.
pub(super) async fn run(LastEventId(last): LastEventId) -> Response {
    if last >= LAST {
        return StatusCode::NO_CONTENT.into_response();
    }
    // at once, so that nothing can come before the byte order mark
    let pauses = [Duration::ZERO].into_iter().chain(repeat(PAUSE));
    let chunks = stream::iter(pauses.zip(CHUNKS)).then(|(pause, chunk)| async move {
        tokio::time::sleep(pause).await;
        Ok::<_, Infallible>(Bytes::from_static(chunk))
    });
    let content_type = [(CONTENT_TYPE, "text/event-stream")];
    (content_type, Body::from_stream(chunks)).into_response()
}
