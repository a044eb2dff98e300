//! What a client can see of an answer.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::support::serve::{Connection, End, Protocol, Server, soon};

/// As it comes to a client that asks for event streams.
pub(crate) const HEARTBEAT: &str = ": keep-alive\n";

/// The bytes of the service: without heartbeats, and without the hint of when to come back.
pub(crate) fn own_bytes(read: &[u8]) -> String {
    let text = std::str::from_utf8(read).expect("text");
    let own = text.split_inclusive('\n');
    own.filter(|line| *line != HEARTBEAT && !line.starts_with("retry: "))
        .collect()
}

/// A whole answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<Headers>,
    pub(crate) end: End,
}

type Headers = BTreeMap<String, Vec<HeaderValue>>;

/// Its method, path, headers and body.
pub(crate) type Asked<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'static [u8]);

impl Answer {
    pub(crate) async fn of(
        server: &Server,
        protocol: Protocol,
        (method, path, headers, body): Asked<'_>,
    ) -> Self {
        let mut connection = Connection::open(server.address, protocol).await;
        let response = connection.send(method, path, headers, body);
        let mut response = soon(path, response).await.expect("a response");
        let end = response.end().await;
        Self {
            status: response.status,
            headers: sorted(&response.headers),
            body: response.read.into(),
            trailers: response.trailers.as_ref().map(sorted),
            end,
        }
    }
}

fn sorted(headers: &HeaderMap) -> Headers {
    let mut sorted = Headers::new();
    for (name, value) in headers.iter().filter(|(name, _)| *name != "date") {
        let values = sorted.entry(name.to_string()).or_default();
        values.push(value.clone());
    }
    sorted
}
