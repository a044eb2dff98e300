use http::{Extensions, HeaderMap, HeaderValue, StatusCode, Version, header::ACCEPT_ENCODING};

use crate::{client::Client, media};

/// Asks the inner service not to compress event streams.
///
/// A compressor holds events back until its buffer is full (all that use `async-compression`
/// before 0.4.31 do), and what is compressed cannot get heartbeats any more. So a request that
/// accepts `text/event-stream` reaches the inner service with `Accept-Encoding: identity`; that
/// also stops an upstream behind a proxy. Requests that do not ask for event streams keep their
/// header, so that other responses are still compressed.
///
/// A compressor *around* this layer reads the request before it. There, the default predicate of
/// `tower-http` knows event streams, and a predicate of your own wants [`should_compress`].
///
/// On by default in [`SseLayer`](crate::SseLayer); off with
/// [`without_compression_bypass`](crate::SseLayer::without_compression_bypass). It decompresses
/// nothing: a stream that arrives encoded passes byte for byte, with its headers fixed, without
/// heartbeats and ids.
///
/// ```
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_sse::CompressionBypassLayer;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let service = service_fn(async |request: Request<()>| {
///     assert_eq!(request.headers()["accept-encoding"], "identity");
///     Ok::<_, std::convert::Infallible>(Response::new(String::new()))
/// });
/// let request = Request::builder()
///     .header("accept", "text/event-stream")
///     .header("accept-encoding", "gzip, br")
///     .body(())
///     .unwrap();
/// CompressionBypassLayer::new().layer(service).oneshot(request).await.unwrap();
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CompressionBypassLayer {
    every_request: bool,
}

impl CompressionBypassLayer {
    /// Rewrites the requests that accept `text/event-stream`.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            every_request: false,
        }
    }

    /// Rewrites every request, if `yes`. Default: no.
    ///
    /// For routes that serve nothing but streams: the OpenAI and Anthropic SDKs ask for theirs
    /// with `Accept: application/json`.
    #[must_use]
    pub const fn every_request(mut self, yes: bool) -> Self {
        self.every_request = yes;
        self
    }

    pub(crate) fn on_request(self, headers: &mut HeaderMap, client: Client) {
        // Replaced, not removed: without the header any coding is acceptable (RFC 9110, 12.5.3).
        if (self.every_request || client.accepts_events) && headers.contains_key(ACCEPT_ENCODING) {
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
    }
}

/// Whether a compressor should touch this response: yes, unless it is an event stream.
///
/// A predicate for the `CompressionLayer` of `tower-http` 0.6 and 0.7, on its own or in addition
/// to another. Replacing their default predicate loses its rule for event streams, and that rule
/// misses `Text/Event-Stream`; this one does not.
///
/// ```
/// use tower_http::compression::{CompressionLayer, Predicate, predicate::SizeAbove};
/// use tower_sse::should_compress;
///
/// let predicate = SizeAbove::new(1024).and(should_compress);
/// let layer: CompressionLayer<_> = CompressionLayer::new().compress_when(predicate);
/// ```
#[must_use]
pub fn should_compress(_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions) -> bool {
    !media::is_event_stream(headers)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn accept_encoding(layer: CompressionBypassLayer, headers: &[(&str, &str)]) -> Vec<String> {
        let builder = headers.iter().fold(Request::builder(), |b, (name, value)| {
            b.header(*name, *value)
        });
        let mut request = builder.body(()).unwrap().into_parts().0;
        let client = Client::of(&request);
        layer.on_request(&mut request.headers, client);
        let values = request.headers.get_all(ACCEPT_ENCODING).iter();
        values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn only_requests_for_event_streams_are_rewritten() {
        let default = CompressionBypassLayer::new();
        let gzip = ("accept-encoding", "gzip");
        let events = ("accept", "text/event-stream");
        let none: [&str; 0] = [];
        assert_eq!(accept_encoding(default, &[gzip, events]), ["identity"]);
        assert_eq!(
            accept_encoding(default, &[gzip, ("accept-encoding", "br"), events]),
            ["identity"]
        );
        assert_eq!(
            accept_encoding(default, &[gzip, ("accept", "*/*")]),
            ["gzip"]
        );
        assert_eq!(accept_encoding(default, &[events]), none);
        assert_eq!(
            accept_encoding(default.every_request(true), &[gzip]),
            ["identity"]
        );
    }
}
