//! The reverse proxy: what RFC 9110 asks of a hop in the middle. It knows nothing of event streams;
//! those are `SseLayer`'s.

use std::{
    convert::Infallible,
    error::Error,
    future::{Ready, ready},
    io,
    iter::successors,
    net::SocketAddr,
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    request,
    uri::{Authority, Scheme},
};
use http_body::Body as _;
use http_body_util::{Either, Full};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tower::{
    BoxError, Service, ServiceBuilder, ServiceExt as _,
    retry::{Policy, Retry},
    service_fn,
    timeout::{Timeout, error::Elapsed},
};
use tracing::{debug, warn};

use crate::{
    answer::Answer,
    fields::{join_lines, list, names},
    sending::Sending,
    upstream::{self, Upstream},
    wants::Question,
    wire::Wire,
};

/// The body of a response: streamed from the upstream, or a short text of our own.
pub(crate) type Body = Either<Answer, Full<Bytes>>;

type Client = Timeout<Retry<RetryOnce, Upstream>>;

/// Forwards each request to one upstream.
#[derive(Clone)]
pub(crate) struct Proxy {
    client: Client,
    /// Names the upstream.
    host: HeaderValue,
}

/// How long the upstream may take.
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    /// Until the head of the response. Its body may take for ever: that is what a stream does.
    pub(crate) head: Duration,
}

/// Who is at the other end of the client's connection; the listener puts it into each request.
#[derive(Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// A change of protocol (RFC 9110, 7.8) that a client asked for, and its end of the tunnel.
struct Upgrade {
    protocol: HeaderValue,
    client: OnUpgrade,
}

/// Sends a request a second time if the connection broke before the answer: one that has waited may
/// be closed by the upstream in the moment that we write to it.
#[derive(Clone, Default)]
struct RetryOnce {
    spent: bool,
}

/// Fields for one hop only, beside those that `Connection` names (RFC 9110, 7.6.1).
const HOP_BY_HOP: [&str; 6] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

impl Proxy {
    pub(crate) fn new(upstream: &Authority, timeouts: &Timeouts) -> Result<Self, http::Error> {
        let server = Uri::builder()
            .scheme(Scheme::HTTP)
            .authority(upstream.clone())
            .path_and_query("/")
            .build()?;
        let client = ServiceBuilder::new()
            .timeout(timeouts.head)
            .retry(RetryOnce::default())
            .service(Upstream::new(server, timeouts.connect));
        // the port that everybody assumes is left out
        let host = upstream.as_str();
        let host = HeaderValue::from_str(host.strip_suffix(":80").unwrap_or(host))?;
        Ok(Self { client, host })
    }

    pub(crate) fn into_service(
        self,
    ) -> impl Service<
        Request<Question>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static {
        service_fn(move |request| {
            let proxy = self.clone();
            async move { Ok(proxy.forward(request).await) }
        })
    }

    async fn forward(self, mut request: Request<Question>) -> Response<Body> {
        if request.method() == Method::CONNECT {
            return text(StatusCode::NOT_IMPLEMENTED, "this proxy opens no tunnels");
        }
        let upgrade = Upgrade::asked(&mut request);
        let request = match to_upstream(request, self.host, upgrade.as_ref()) {
            Some(request) => request,
            None => return text(StatusCode::BAD_REQUEST, "the request has no usable target"),
        };
        match self.client.oneshot(request).await {
            Ok(response) => to_client(response, upgrade),
            Err(error) => failure(&*error),
        }
    }
}

// === The request ===

/// None for a target without a path, as in `GET host`: that form is for CONNECT alone (RFC 9112,
/// 3.2.3).
fn to_upstream(
    request: Request<Question>,
    host: HeaderValue,
    upgrade: Option<&Upgrade>,
) -> Option<Request<Sending>> {
    let (mut head, body) = request.into_parts();
    debug!(method = %head.method, path = head.uri.path(), "request");
    let trailers = names(&head.headers, TE, "trailers");
    strip_hop_by_hop(&mut head.headers);
    if trailers {
        head.headers
            .insert(TE, HeaderValue::from_static("trailers"));
        head.headers
            .append(CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(upgrade) = upgrade {
        switch_to(&mut head.headers, &upgrade.protocol);
    }
    say_who_asked(&mut head);
    head.headers.insert(HOST, host);
    // HTTP/2 splits cookies, HTTP/1 wants them in one line (RFC 9113, 8.2.3)
    join_lines(&mut head.headers, COOKIE, b"; ");
    if must_announce(&head.method, &body) {
        let chunked = HeaderValue::from_static("chunked");
        head.headers.insert(TRANSFER_ENCODING, chunked);
    }
    head.uri = Uri::from(head.uri.path_and_query()?.clone());
    head.version = Version::HTTP_11;
    Some(Request::from_parts(head, Sending::new(body)))
}

/// hyper's client drops a body of unknown length with these methods, unless a field announces it;
/// with the others it writes the field itself.
fn must_announce(method: &Method, body: &Question) -> bool {
    let bodiless = *method == Method::GET || *method == Method::HEAD;
    bodiless && !body.is_end_stream() && body.size_hint().exact().is_none()
}

/// Says for whom we ask. What came in is kept: a proxy in front of us that ends TLS knows better.
fn say_who_asked(head: &mut request::Parts) {
    let headers = &mut head.headers;
    let host = headers.remove(HOST);
    // a target with a host in it overrules the field (RFC 9112, 3.2.2)
    if let Some(host) = head.uri.authority().and_then(host_and_port).or(host) {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    let proto = HeaderValue::from_static("http");
    headers.entry(X_FORWARDED_PROTO).or_insert(proto);
    if let Some(peer) = head.extensions.get().and_then(peer_address) {
        headers.append(X_FORWARDED_FOR, peer);
        join_lines(headers, X_FORWARDED_FOR, b", ");
    }
}

/// Without the name and the password, which are nobody else's business.
fn host_and_port(authority: &Authority) -> Option<HeaderValue> {
    let host = authority.as_str().rsplit('@').next()?;
    HeaderValue::from_str(host).ok()
}

fn peer_address(peer: &Peer) -> Option<HeaderValue> {
    HeaderValue::from_str(&peer.0.ip().to_canonical().to_string()).ok()
}

impl Policy<Request<Sending>, Response<Answer>, upstream::Error> for RetryOnce {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut Request<Sending>,
        result: &mut Result<Response<Answer>, upstream::Error>,
    ) -> Option<Ready<()>> {
        let broke = matches!(result, Err(upstream::Error::Broken(_)));
        let first = !std::mem::replace(&mut self.spent, true);
        (broke && first).then(|| ready(()))
    }

    /// Only what may be done twice (RFC 9110, 9.2.2), and whose body is not gone after once.
    fn clone_request(&mut self, request: &Request<Sending>) -> Option<Request<Sending>> {
        if !request.method().is_idempotent() || !request.body().is_end_stream() {
            return None;
        }
        let mut copy = Request::new(Sending::new(Full::default()));
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        Some(copy)
    }
}

// === The response ===

fn to_client(mut response: Response<Answer>, upgrade: Option<Upgrade>) -> Response<Body> {
    if response.headers().contains_key(TRANSFER_ENCODING) {
        // then it is not the length (RFC 9112, 6.3)
        response.headers_mut().remove(CONTENT_LENGTH);
    }
    strip_hop_by_hop(response.headers_mut());
    // an HTTP/1.0 upstream is no reason to answer in HTTP/1.0
    *response.version_mut() = Version::HTTP_11;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return response.map(Either::Left);
    }
    let Some(upgrade) = upgrade else {
        return text(
            StatusCode::BAD_GATEWAY,
            "the upstream changed the protocol unasked",
        );
    };
    switch_to(response.headers_mut(), &upgrade.protocol);
    response.map(|answer| {
        tokio::spawn(tunnel(upgrade.client, answer.into_wire()));
        Either::Right(Full::default())
    })
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<_> = list(headers, CONNECTION)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    for name in HOP_BY_HOP
        .into_iter()
        .chain(named.iter().map(HeaderName::as_str))
    {
        headers.remove(name);
    }
}

/// The client reads a plain line that tells nothing about what is behind us; the log has it all.
fn failure(error: &(dyn Error + 'static)) -> Response<Body> {
    let (status, reason) = if error.is::<Elapsed>() {
        (
            StatusCode::GATEWAY_TIMEOUT,
            "the upstream took too long to answer",
        )
    } else if causes(error).any(is_request_body) {
        (StatusCode::BAD_REQUEST, "the body of the request is broken")
    } else if causes(error).any(is_timeout) {
        (
            StatusCode::GATEWAY_TIMEOUT,
            "the upstream took too long to accept a connection",
        )
    } else if causes(error).any(is_connect) {
        (StatusCode::BAD_GATEWAY, "the upstream cannot be reached")
    } else {
        (
            StatusCode::BAD_GATEWAY,
            "the upstream broke off before its answer",
        )
    };
    let causes: Vec<_> = causes(error).map(ToString::to_string).collect();
    warn!(status = status.as_u16(), "{reason}: {}", causes.join(": "));
    text(status, reason)
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    successors(Some(error), |&error| error.source())
}

fn is_connect(cause: &(dyn Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(upstream::Error::Connect(_)))
}

/// Reading from the client failed inside of writing to the upstream: one hyper error in another.
fn is_request_body(cause: &(dyn Error + 'static)) -> bool {
    let error = cause.downcast_ref::<hyper::Error>();
    let user = error.is_some_and(hyper::Error::is_user);
    user && cause
        .source()
        .is_some_and(|inner| inner.is::<hyper::Error>())
}

fn is_timeout(cause: &(dyn Error + 'static)) -> bool {
    let error = cause.downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

fn text(status: StatusCode, line: &'static str) -> Response<Body> {
    let body = Full::from(format!("{line}\n"));
    let mut response = Response::new(Either::Right(body));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, plain);
    response
}

// === Upgrades ===

impl Upgrade {
    /// HTTP/2 has no such thing. Only a WebSocket gets a tunnel: in one of `h2c` requests would
    /// pass that nobody here has looked at.
    fn asked(request: &mut Request<Question>) -> Option<Self> {
        let headers = request.headers();
        let mut lines = headers.get_all(UPGRADE).into_iter();
        let (protocol, more) = (lines.next()?.clone(), lines.next());
        let tunnel = request.version() == Version::HTTP_11
            && names(headers, CONNECTION, "upgrade")
            && protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
            && more.is_none();
        tunnel.then(|| Self {
            protocol,
            client: hyper::upgrade::on(request),
        })
    }
}

fn switch_to(headers: &mut HeaderMap, protocol: &HeaderValue) {
    headers.append(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, protocol.clone());
}

async fn tunnel(client: OnUpgrade, upstream: Option<Wire>) {
    match copy(client, upstream).await {
        Ok((sent, received)) => debug!(sent, received, "tunnel closed"),
        Err(error) => debug!(error, "tunnel broken"),
    }
}

async fn copy(client: OnUpgrade, upstream: Option<Wire>) -> Result<(u64, u64), BoxError> {
    let upstream = upstream.ok_or("the upstream has closed")?;
    let (mut client, mut upstream) = (TokioIo::new(client.await?), TokioIo::new(upstream));
    Ok(tokio::io::copy_bidirectional(&mut client, &mut upstream).await?)
}
