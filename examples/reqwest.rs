//! What another server streams, taken with reqwest and handed on.
//!
//! ```text
//! cargo run --example axum                                     # the upstream, or give another one
//! cargo run --example reqwest -- http://127.0.0.1:3000
//! curl -N http://127.0.0.1:3001/ticks                          # heartbeats every half second
//! curl -N -H 'Last-Event-ID: 41' http://127.0.0.1:3001/ticks   # the upstream gets the id
//! ```
//!
//! The gateway does this in earnest; this is for a service that passes on an answer among others.

use std::time::Duration;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header, uri::PathAndQuery};
use reqwest::{Client, redirect::Policy};
use tokio::net::TcpListener;
use tower_sse::SseLayer;

/// What belongs to one connection, and not to the message that comes over it.
const HOP_BY_HOP: [HeaderName; 4] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let upstream = std::env::args().nth(1);
    let upstream = upstream.unwrap_or_else(|| "http://127.0.0.1:3000".to_owned());
    let app = app(upstream)?.layer(SseLayer::new().heartbeat(Duration::from_millis(500)));
    let listener = TcpListener::bind("127.0.0.1:3001").await?;
    println!("try: curl -N http://{}/ticks", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}

/// Hands every request on to `upstream`.
pub fn app(upstream: String) -> reqwest::Result<Router> {
    let client = Client::builder()
        // `timeout` would count the body too, and cut every stream.
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(Duration::from_secs(300))
        .redirect(Policy::none())
        .build()?;
    Ok(Router::new()
        .fallback(forward)
        .with_state((client, upstream)))
}

async fn forward(
    State((client, upstream)): State<(Client, String)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, StatusCode> {
    let mut headers = end_to_end(headers);
    headers.remove(header::HOST);
    // Over HTTP/2 the rest of the URI is the client's way to us.
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let request = client.request(method, format!("{upstream}{path}"));
    let response = request.headers(headers).body(body).send().await;
    let response = response.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let (mut head, body) = http::Response::from(response).into_parts();
    head.headers = end_to_end(head.headers);
    Ok(Response::from_parts(head, Body::new(body)))
}

fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers
}
