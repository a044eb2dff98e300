use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header, response};

use crate::{client::Client, media, retry::retry_block};

/// The answer to a stream that cannot be had now, and may be had later.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) by: RefusedBy,
    pub(crate) client: Client,
    /// When to come back.
    pub(crate) after: Option<Duration>,
}

/// Who refused a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusedBy {
    /// The [`DrainLayer`](crate::DrainLayer): the server is shutting down.
    Drain,
    /// The [`LimitLayer`](crate::LimitLayer): as many streams as may be are open.
    Limit,
    /// The [`LimitLayer`](crate::LimitLayer): as many streams of one principal as may be are open.
    PrincipalLimit,
}

/// What the service said of the body that is replaced.
const OF_THE_BODY: [HeaderName; 7] = [
    header::EXPIRES,
    HeaderName::from_static("repr-digest"),
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::ETAG,
    header::LAST_MODIFIED,
    header::TRAILER,
];

impl Refusal {
    /// A response of our own.
    pub(crate) fn head(&self) -> (response::Parts, Bytes) {
        let (mut head, ()) = Response::new(()).into_parts();
        let stream = HeaderValue::from_static(media::EVENT_STREAM);
        head.headers.insert(header::CONTENT_TYPE, stream);
        let body = self.turn(&mut head);
        (head, body)
    }

    /// Turns the head of a stream into the refusal, and returns its body. The service's own headers
    /// stay: without those of CORS an `EventSource` would give up for good.
    ///
    /// An `EventSource` takes any other status for a "never again", so it gets a 200, a `retry`, and
    /// an end.
    pub(crate) fn turn(&self, response: &mut response::Parts) -> Bytes {
        for name in OF_THE_BODY {
            response.headers.remove(name);
        }
        // What holds now must not be said again later, to anybody.
        let no_store = HeaderValue::from_static("no-store");
        response.headers.insert(header::CACHE_CONTROL, no_store);
        if self.client.event_source {
            response.status = StatusCode::OK;
            return self.after.map_or_else(Bytes::new, retry_block);
        }
        response.status = self.by.status();
        let seconds = self.after.unwrap_or_default().as_secs_f64().ceil().max(1.0);
        let headers = &mut response.headers;
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds as u64));
        let text = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, text);
        Bytes::from_static(self.by.text())
    }
}

impl RefusedBy {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Drain, Self::Limit, Self::PrincipalLimit];

    /// Who refused, as words joined by `_`, for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Limit => "limit",
            Self::PrincipalLimit => "principal_limit",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Drain | Self::Limit => StatusCode::SERVICE_UNAVAILABLE,
            Self::PrincipalLimit => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    fn text(self) -> &'static [u8] {
        match self {
            Self::Drain => b"The server is shutting down. Please try again.\n",
            Self::Limit => b"Too many streams are open. Please try again.\n",
            Self::PrincipalLimit => b"Too many of your streams are open. Please close one.\n",
        }
    }
}
