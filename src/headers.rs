use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, CACHE_CONTROL, CONNECTION, CONTENT_TYPE},
};

use crate::media;

/// The response headers that keep an event stream a stream on its way.
///
/// Without them proxies buffer or cache it, and a stale length cuts it off. The layer merges with
/// what the service said and never replaces it:
///
/// - `Cache-Control` gets `no-cache` (unless `no-store` says more) and `no-transform`, which
///   HAProxy and content delivery networks honour; every other directive stays;
/// - `X-Accel-Buffering: no` switches off buffering in nginx, unless the service set it; each
///   nginx on the way eats the header, so every hop has to say it anew;
/// - `Content-Type` keeps its parameters and gets its essence in lower case, since the
///   compression layer of `tower-http` compares bytes;
/// - `Content-Length` goes, and digests of the content: a layer further in may have added bytes;
/// - hop-by-hop headers go ([RFC 9110, section 7.6.1][hop]): on HTTP/2 they are illegal, and
///   Safari drops such a stream. There is never a `Connection` header.
///
/// On by default in [`SseLayer`](crate::SseLayer); off with
/// [`without_headers`](crate::SseLayer::without_headers). It does not touch the body, nor any
/// response that is not an event stream.
///
/// ```
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_sse::HeadersLayer;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let service = service_fn(async |_: Request<()>| {
///     let response = Response::builder().header("content-type", "text/event-stream");
///     response.header("cache-control", "private").body(String::from("data: hi\n\n"))
/// });
/// let response = HeadersLayer::new().layer(service).oneshot(Request::new(())).await.unwrap();
/// assert_eq!(response.headers()["cache-control"], "private, no-cache, no-transform");
/// assert_eq!(response.headers()["x-accel-buffering"], "no");
/// # }
/// ```
///
/// [hop]: https://www.rfc-editor.org/rfc/rfc9110#section-7.6.1
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadersLayer(());

const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

const HOP_BY_HOP: [HeaderName; 5] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const BOUND_TO_THE_BYTES: [HeaderName; 4] = [
    header::CONTENT_LENGTH,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
];

impl HeadersLayer {
    /// The layer; it has no settings.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }

    pub(crate) fn on_response(&self, headers: &mut HeaderMap) {
        remove_hop_by_hop(headers);
        if let Some(value) = headers.get(CONTENT_TYPE).and_then(media::normalized) {
            headers.insert(CONTENT_TYPE, value);
        }
        merge_cache_control(headers);
        headers
            .entry(X_ACCEL_BUFFERING)
            .or_insert(HeaderValue::from_static("no"));
    }
}

/// Removes what only holds for the exact bytes of the service, for a body that gets others. With a
/// length that is too short, hyper cuts the rest off and the connection looks fine.
pub(crate) fn unbind(headers: &mut HeaderMap) {
    for name in BOUND_TO_THE_BYTES {
        headers.remove(name);
    }
}

pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for value in headers
        .get_all(CONNECTION)
        .iter()
        .cloned()
        .collect::<Vec<_>>()
    {
        for name in value.as_bytes().split(|byte| *byte == b',') {
            // Never the one that says what this is, whatever a broken upstream names.
            if let Ok(name) = HeaderName::from_bytes(name.trim_ascii())
                && name != CONTENT_TYPE
            {
                headers.remove(name);
            }
        }
    }
    headers.remove(CONNECTION);
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn merge_cache_control(headers: &mut HeaderMap) {
    let said = directives(headers);
    let has = |name: &str| {
        said.iter()
            .any(|directive| directive.eq_ignore_ascii_case(name.as_bytes()))
    };
    let mut merged = said.clone();
    if !has("no-cache") && !has("no-store") {
        merged.push(b"no-cache".to_vec());
    }
    if !has("no-transform") {
        merged.push(b"no-transform".to_vec());
    }
    if merged.len() > said.len()
        && let Ok(value) = HeaderValue::from_bytes(&merged.join(&b", "[..]))
    {
        headers.insert(CACHE_CONTROL, value);
    }
}

/// The directives of all `Cache-Control` lines, split at commas outside of quotes.
fn directives(headers: &HeaderMap) -> Vec<Vec<u8>> {
    let mut directives = Vec::new();
    for value in headers.get_all(CACHE_CONTROL) {
        let mut quoted = false;
        let parts = value.as_bytes().split(|byte| {
            quoted ^= *byte == b'"';
            *byte == b',' && !quoted
        });
        directives.extend(parts.map(|part| part.trim_ascii().to_vec()));
    }
    directives.retain(|directive| !directive.is_empty());
    directives
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(before: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in before {
            headers.append(
                HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        HeadersLayer::new().on_response(&mut headers);
        headers
    }

    #[test]
    fn cache_control_keeps_what_the_service_said() {
        for (said, expected) in [
            (&[][..], "no-cache, no-transform"),
            (&["no-cache"], "no-cache, no-transform"),
            (&["No-Transform"], "No-Transform, no-cache"),
            (&["no-store"], "no-store, no-transform"),
            (
                &["private, max-age=60"],
                "private, max-age=60, no-cache, no-transform",
            ),
            (
                &["private", "no-transform"],
                "private, no-transform, no-cache",
            ),
            (
                &["no-cache=\"set-cookie, x\""],
                "no-cache=\"set-cookie, x\", no-cache, no-transform",
            ),
            (&[" , "], "no-cache, no-transform"),
            (&["no-cache,no-transform"], "no-cache,no-transform"),
        ] {
            let before: Vec<_> = said.iter().map(|value| ("cache-control", *value)).collect();
            let headers = after(&before);
            let values: Vec<_> = headers.get_all("cache-control").iter().collect();
            assert_eq!(values, [expected], "{said:?}");
        }
    }

    #[test]
    fn a_buffering_wish_of_the_service_stays() {
        assert_eq!(after(&[])["x-accel-buffering"], "no");
        assert_eq!(
            after(&[("x-accel-buffering", "yes")])["x-accel-buffering"],
            "yes"
        );
    }

    #[test]
    fn the_essence_is_lower_case_and_parameters_stay() {
        let content_type = |value| after(&[("content-type", value)])["content-type"].clone();
        assert_eq!(
            content_type("Text/Event-Stream; Charset=UTF-8"),
            "text/event-stream; Charset=UTF-8"
        );
        assert_eq!(content_type("TEXT/EVENT-STREAM"), "text/event-stream");
    }

    #[test]
    fn hop_by_hop_headers_go_those_named_by_connection_too() {
        let headers = after(&[
            ("content-type", "text/event-stream"),
            ("connection", "keep-alive, X-Hop, content-type"),
            ("connection", "close"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("x-end", "2"),
            ("trailer", "x-sum"),
        ]);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "cache-control",
                "content-type",
                "trailer",
                "x-accel-buffering",
                "x-end"
            ]
        );
    }
}
