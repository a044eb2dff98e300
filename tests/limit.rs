//! A place of a stream under a `LimitLayer`: who gets one, and that it always comes back.

#[cfg(all(unix, feature = "resume"))]
mod programs;
mod support;

use std::{
    collections::HashMap,
    convert::Infallible,
    future::{pending, ready},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use axum::{Router, extract::Path, routing::get};
use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use proptest::{collection::vec, prelude::*};
use support::{
    body::{
        Client, End, Probe, Script, Step, data, events, paused, poll, record, request, response,
        script, through,
    },
    serve::{
        Connection, EVENT_SOURCE, EVENT_STREAM, PROTOCOLS, Protocol, STACKS, Server, Stack,
        respond, soon, upstreams,
    },
};
use tokio::{
    sync::{Mutex, watch},
    time::{sleep, timeout},
};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_sse::{
    DrainLayer, LifetimeLayer, LimitLayer, MetricsLayer, Observer, RefusedBy, SilenceLayer,
    SseLayer, SseService, StallLayer, TruncationLayer,
};

const SECOND: Duration = Duration::from_secs(1);

fn limited(limit: &LimitLayer) -> SseLayer {
    SseLayer::new().without_heartbeat().limit(limit.clone())
}

fn key(request: &http::request::Parts) -> Option<Vec<u8>> {
    let key = request.headers.get("authorization")?;
    Some(key.as_bytes().to_vec())
}

// === every end gives the place back ===

/// Opens a stream, lets it end, and holds its body all the time: the place must not wait for it.
async fn ended(layer: SseLayer, limit: &LimitLayer, steps: impl IntoIterator<Item = Step>) -> End {
    let response = events(steps);
    let probe = response.body().probe();
    let mut body = through(layer, Client::Fetch.request(), response)
        .await
        .into_body();
    assert_eq!(limit.open(), 1);
    let end = record(&mut body).await.end.1;
    assert_eq!(limit.open(), 0, "{end:?}");
    assert!(probe.dropped().is_some());
    end
}

#[tokio::test(start_paused = true)]
async fn a_place_comes_back_with_the_end_and_not_only_with_the_body() {
    let limit = LimitLayer::new();
    let event = || data("data: x\n\n");
    let layer = limited(&limit);
    let trailers = HeaderMap::from_iter([("a".parse().unwrap(), "b".parse().unwrap())]);
    let end = ended(layer.clone(), &limit, [event()]).await;
    assert_eq!(end, End::Clean);
    let end = ended(
        layer.clone(),
        &limit,
        [event(), Step::Trailers(trailers.clone())],
    )
    .await;
    assert_eq!(end, End::Trailers(trailers));
    let end = ended(layer.clone(), &limit, [event(), Step::Error("broken")]).await;
    assert_eq!(end, End::Error("broken".to_owned()));

    let aborted = |why| End::Error(format!("event stream broken off: {why}"));
    let lifetime = layer.clone().lifetime(LifetimeLayer::after(SECOND));
    let end = ended(lifetime, &limit, [event(), Step::Hang]).await;
    assert_eq!(end, aborted("its time is over"));
    let silence = layer.clone().silence(SilenceLayer::after(SECOND));
    let end = ended(silence, &limit, [event(), Step::Hang]).await;
    assert_eq!(end, aborted("its upstream has said nothing for too long"));
    let truncation = TruncationLayer::new().protocol(|_| Some(tower_sse::Protocol::OpenAiChat));
    let end = ended(layer.truncation(truncation), &limit, [event()]).await;
    assert_eq!(
        end,
        aborted("its upstream ended in the middle of the answer")
    );
}

#[tokio::test(start_paused = true)]
async fn a_place_comes_back_in_a_drain() {
    for (client, end) in [
        (Client::EventSource, End::Clean),
        (
            Client::Fetch,
            End::Error("event stream broken off: the drain's deadline passed".to_owned()),
        ),
    ] {
        let limit = LimitLayer::new();
        let (layer, drain) = DrainLayer::pair();
        let layer = limited(&limit).drain(layer.deadline(SECOND));
        let response = events([data("data: x\n\n"), Step::Hang]);
        let mut body = through(layer, client.request(), response).await.into_body();
        assert_eq!(limit.open(), 1);
        drain.start();
        assert_eq!(record(&mut body).await.end.1, end);
        assert_eq!(limit.open(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_comes_back_from_a_stream_that_nobody_reads() {
    let limit = LimitLayer::new();
    let (drain_layer, drain) = DrainLayer::pair();
    let drains = limited(&limit).drain(drain_layer);
    let stalls = limited(&limit).stall(StallLayer::after(SECOND));
    for layer in [drains, stalls] {
        let response = events([data("data: x\n\n"), Step::Hang]);
        let probe = response.body().probe();
        let body = through(layer, Client::Fetch.request(), response).await;
        assert_eq!(limit.open(), 1);
        // Of these two only one is in the layer.
        drain.start();
        sleep(20 * SECOND).await;
        assert_eq!(limit.open(), 0);
        assert!(probe.dropped().is_some());
        drop(body);
        assert_eq!(limit.open(), 0, "not given back twice");
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_comes_back_with_the_client_that_goes() {
    let limit = LimitLayer::new();
    let body = through(
        limited(&limit),
        Client::EventSource.request(),
        events([Step::Hang]),
    )
    .await;
    assert_eq!(limit.open(), 1);
    drop(body);
    assert_eq!(limit.open(), 0);
}

/// A body that panics.
struct Mine {
    in_poll: bool,
    in_drop: bool,
}

impl Body for Mine {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        assert!(!self.in_poll, "in poll");
        Poll::Ready(None)
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        assert!(!self.in_drop || thread::panicking(), "in drop");
    }
}

#[tokio::test(start_paused = true)]
async fn a_place_comes_back_from_a_panic() {
    let limit = LimitLayer::new();
    let open = async |mine: Mine| {
        let request = Client::Fetch.request();
        let response = response("text/event-stream", mine);
        let body = through(limited(&limit), request, response)
            .await
            .into_body();
        assert_eq!(limit.open(), 1);
        body
    };
    // in a poll: as hyper does, whoever polls lets go
    let mut body = open(Mine {
        in_poll: true,
        in_drop: false,
    })
    .await;
    catch_unwind(AssertUnwindSafe(move || poll(&mut body).is_pending())).unwrap_err();
    assert_eq!(limit.open(), 0);
    // in a drop, at the end of the stream and before it
    let mine = || Mine {
        in_poll: false,
        in_drop: true,
    };
    let mut body = open(mine()).await;
    catch_unwind(AssertUnwindSafe(|| poll(&mut body).is_pending())).unwrap_err();
    assert_eq!(limit.open(), 0, "at the end");
    drop(body);
    let body = open(mine()).await;
    catch_unwind(AssertUnwindSafe(|| drop(body))).unwrap_err();
    assert_eq!(limit.open(), 0, "before the end");
}

#[tokio::test(start_paused = true)]
async fn a_drain_frees_a_stream_that_has_panicked_and_is_kept() {
    let limit = LimitLayer::new();
    let (layer, drain) = DrainLayer::pair();
    let mine = Mine {
        in_poll: true,
        in_drop: false,
    };
    let response = response("text/event-stream", mine);
    let layer = limited(&limit).drain(layer.deadline(SECOND));
    let mut body = through(layer, Client::Fetch.request(), response)
        .await
        .into_body();
    catch_unwind(AssertUnwindSafe(|| poll(&mut body).is_pending())).unwrap_err();
    assert_eq!(limit.open(), 1);
    drain.start();
    drain.wait().await;
    assert_eq!(limit.open(), 0);
    drop(body);
}

// === what is no stream keeps no place ===

#[tokio::test(start_paused = true)]
async fn what_is_no_stream_has_its_place_only_until_its_head() {
    let limit = LimitLayer::new();
    for (asks, content_type) in [
        (Client::EventSource, "application/json"),
        (Client::Fetch, "application/json"),
        (Client::Fetch, "text/html"),
    ] {
        let response = response(content_type, script([data("{}")]));
        let counted = limit.clone();
        let mut response = Some(response);
        let inner = service_fn(move |_| {
            assert_eq!(counted.open(), usize::from(asks == Client::EventSource));
            ready(Ok::<_, Infallible>(response.take().unwrap()))
        });
        let service = limited(&limit).layer(inner);
        let response = service.oneshot(asks.request()).await.unwrap();
        assert_eq!(limit.open(), 0);
        assert_eq!(record(response.into_body()).await.text(), "{}");
    }
    let head = request("HEAD", "/", &[("accept", "text/event-stream")]);
    let response = through(limited(&limit), head, events([])).await;
    assert_eq!(response.status(), 200);
    assert_eq!(limit.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_never_comes_gives_its_place_back() {
    let limit = LimitLayer::new().max_streams(1);
    let waits = service_fn(|_: Request<()>| pending::<Result<Response<Script>, Infallible>>());
    let mut service = limited(&limit).layer(waits);
    let mut waiting = Box::pin(service.call(Client::EventSource.request()));
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!(limit.open(), 1);
    let refused = service.call(Client::EventSource.request()).await.unwrap();
    assert_eq!(record(refused.into_body()).await.end.1, End::Clean);
    drop(waiting);
    assert_eq!(limit.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_or_panics_gives_its_place_back() {
    let limit = LimitLayer::new();
    let fails = service_fn(|_: Request<()>| ready(Err::<Response<Script>, _>("no")));
    let mut failed = Box::pin(
        limited(&limit)
            .layer(fails)
            .call(Client::EventSource.request()),
    );
    assert_eq!(limit.open(), 1);
    assert_eq!((&mut failed).await.unwrap_err(), "no");
    // Held by a `join!`, for one, until all others are done.
    assert_eq!(limit.open(), 0);
    drop(failed);

    let panics = service_fn(
        async |_: Request<()>| -> Result<Response<Script>, Infallible> { panic!("in the service") },
    );
    let mut service = limited(&limit).layer(panics);
    let panicked = AssertUnwindSafe(service.call(Client::EventSource.request()));
    assert!(panicked.catch_unwind().await.is_err());
    assert_eq!(limit.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_by_the_drain_gives_its_place_back() {
    let limit = LimitLayer::new();
    let (layer, drain) = DrainLayer::pair();
    let inner = service_fn(|_: Request<()>| {
        assert_eq!(limit.open(), 1);
        drain.start();
        ready(Ok::<_, Infallible>(events([Step::Hang])))
    });
    let service = limited(&limit).drain(layer).layer(inner);
    let request = Client::EventSource.request();
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(limit.open(), 0);
    assert!(
        record(response.into_body())
            .await
            .text()
            .starts_with("retry: ")
    );
}

// === refusals ===

/// A service that counts its calls and gives streams without an end.
fn endless() -> (
    Calls,
    impl Service<Request<()>, Response = Response<Script>, Error = Infallible, Future: Send>
    + Clone
    + Send,
) {
    let calls = Calls::default();
    let counted = calls.clone();
    let service = service_fn(move |_| {
        counted.0.fetch_add(1, Relaxed);
        let cors = Response::builder()
            .header("content-type", "text/event-stream")
            .header("access-control-allow-origin", "*")
            .header("content-length", "1000")
            .header("etag", "\"x\"");
        let response = cors
            .body(script([data("data: x\n\n"), Step::Hang]))
            .unwrap();
        counted.1.lock().unwrap().push(response.body().probe());
        ready(Ok::<_, Infallible>(response))
    });
    (calls, service)
}

#[derive(Clone, Default)]
struct Calls(Arc<AtomicUsize>, Arc<std::sync::Mutex<Vec<Probe>>>);

impl Calls {
    fn count(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// The bodies that are not dropped.
    fn alive(&self) -> usize {
        let probes = self.1.lock().unwrap();
        probes
            .iter()
            .filter(|probe| probe.dropped().is_none())
            .count()
    }
}

#[derive(Clone, Default)]
struct Refusals(Arc<std::sync::Mutex<Vec<RefusedBy>>>);

impl Observer for Refusals {
    fn refused(&self, by: RefusedBy) {
        self.0.lock().unwrap().push(by);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_its_client_understands() {
    let exact = || {
        LimitLayer::new()
            .jitter(0.0)
            .retry(Duration::from_millis(6_001))
    };
    let total = exact().max_streams(1);
    let each = exact().max_per_principal(1, key);
    for (limit, status, by) in [
        (&total, StatusCode::SERVICE_UNAVAILABLE, RefusedBy::Limit),
        (
            &each,
            StatusCode::TOO_MANY_REQUESTS,
            RefusedBy::PrincipalLimit,
        ),
    ] {
        let (calls, inner) = endless();
        let refusals = Refusals::default();
        let layer = limited(limit).metrics(MetricsLayer::new(refusals.clone()));
        let mut service = layer.layer(inner);
        let as_one = |client: Client| {
            let mut request = client.request();
            request
                .headers_mut()
                .insert("authorization", "one".parse().unwrap());
            request
        };
        let first = service.call(as_one(Client::Fetch)).await.unwrap();
        assert_eq!(first.status(), 200);
        for client in Client::ALL {
            let before = calls.count();
            let refused = service.call(as_one(client)).await.unwrap();
            let asks = matches!(client, Client::EventSource | Client::Events | Client::Mcp);
            assert_eq!(calls.count() - before, usize::from(!asks), "{client:?}");
            assert_eq!(calls.alive(), 1, "what the service gave is dropped");
            assert_eq!(limit.open(), 1);
            check(client, status, asks, refused).await;
        }
        let seen = refusals.0.lock().unwrap().clone();
        assert_eq!(seen, [by; Client::ALL.len()]);
        drop(first);
        assert_eq!(
            service
                .call(as_one(Client::EventSource))
                .await
                .unwrap()
                .status(),
            200
        );
    }
}

async fn check(
    client: Client,
    status: StatusCode,
    asks: bool,
    refused: Response<tower_sse::SseBody<Script>>,
) {
    let (head, body) = refused.into_parts();
    let said = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap());
    let is_source = client == Client::EventSource;
    let expected = if is_source { StatusCode::OK } else { status };
    assert_eq!(head.status, expected, "{client:?}");
    assert_eq!(
        said("retry-after"),
        (!is_source).then_some("7"),
        "rounded up"
    );
    let kind = if is_source {
        "text/event-stream"
    } else {
        "text/plain; charset=utf-8"
    };
    assert_eq!(said("content-type"), Some(kind));
    let no_store = if is_source {
        "no-store, no-transform"
    } else {
        "no-store"
    };
    assert_eq!(said("cache-control"), Some(no_store), "{client:?}");
    // The service's own, where it was called: without CORS an `EventSource` gives up for good.
    assert_eq!(said("access-control-allow-origin"), (!asks).then_some("*"));
    assert_eq!((said("content-length"), said("etag")), (None, None));
    let recording = record_passing(body).await;
    if is_source {
        assert_eq!(recording, "retry: 6001\n\n");
    } else {
        assert!(
            recording.ends_with(".\n") && recording.starts_with("Too many"),
            "{recording}"
        );
    }
}

/// A body with a length, which is none of a stream.
async fn record_passing(body: tower_sse::SseBody<Script>) -> String {
    assert!(Body::size_hint(&body).exact().is_some());
    let bytes = body.collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_hint_is_spread_around_its_time() {
    let limit = LimitLayer::new().max_streams(0);
    let mut times = Vec::new();
    for _ in 0..300 {
        let (_, inner) = endless();
        let service = limited(&limit).layer(inner);
        let refused = service
            .oneshot(Client::EventSource.request())
            .await
            .unwrap();
        let text = record_passing(refused.into_body()).await;
        let time = text.strip_prefix("retry: ").unwrap().trim_end();
        times.push(time.parse::<u64>().unwrap());
    }
    let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!((2_500..3_500).contains(least), "{least}");
    assert!((6_500..=7_500).contains(most), "{most}");
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_for_the_user_to_say() {
    let limit = LimitLayer::new()
        .max_streams(0)
        .asks(|request| request.uri.path() == "/events");
    for (path, called) in [("/events", 0), ("/other", 1)] {
        let (calls, inner) = endless();
        let request = request("GET", path, &[("accept", "text/event-stream")]);
        let response = limited(&limit).layer(inner).oneshot(request).await.unwrap();
        assert_eq!(calls.count(), called, "{path}");
        assert!(
            record_passing(response.into_body())
                .await
                .starts_with("retry: ")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn each_principal_has_places_of_its_own_and_who_is_none_only_shares_the_total() {
    let limit = LimitLayer::new().max_streams(5).max_per_principal(2, key);
    let (_, inner) = endless();
    let mut service = limited(&limit).layer(inner);
    let mut open = async |who: Option<&str>| {
        let headers: Vec<_> = who.iter().map(|who| ("authorization", *who)).collect();
        let request = request("POST", "/", &headers);
        service.call(request).await.unwrap()
    };
    let mut held = HashMap::<_, Vec<_>>::new();
    for (who, status) in [
        (Some("a"), 200),
        (Some("a"), 200),
        (Some("a"), 429),
        (Some("b"), 200),
        (None, 200),
        (None, 200),
        // the total comes first
        (None, 503),
        (Some("a"), 503),
        (Some("b"), 503),
    ] {
        let response = open(who).await;
        assert_eq!(response.status(), status, "{who:?}");
        held.entry(who).or_default().push(response);
    }
    assert_eq!(limit.open(), 5);
    held.remove(&None);
    assert_eq!(open(Some("a")).await.status(), 429);
    let response = open(Some("b")).await;
    assert_eq!(response.status(), 200);
    held.remove(&Some("a"));
    assert_eq!(open(Some("b")).await.status(), 429);
    assert_eq!(open(Some("a")).await.status(), 200);
    drop((held, response));
    assert_eq!(limit.open(), 0);
    let nothing = format!("{limit:?}");
    assert!(nothing.contains("total: 0, principals: 0"), "{nothing}");
}

#[tokio::test(start_paused = true)]
async fn zero_refuses_all() {
    let none = LimitLayer::new().max_streams(0);
    let none_each = LimitLayer::new().max_per_principal(0, |_| Some(Vec::new()));
    for (limit, status) in [(none, 503), (none_each, 429)] {
        for client in [Client::Fetch, Client::Events] {
            let (_, inner) = endless();
            let service = limited(&limit).layer(inner);
            let response = service.oneshot(client.request()).await.unwrap();
            assert_eq!(response.status(), status);
        }
        // what is no stream is none of its business
        let json = response("application/json", script([data("{}")]));
        let response = through(limited(&limit), Client::Fetch.request(), json).await;
        assert_eq!(response.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn clones_count_together_and_two_layers_apart() {
    let limit = LimitLayer::new().max_streams(1);
    let (_, inner) = endless();
    let mut one = limited(&limit).layer(inner.clone());
    let mut other = limit.clone().layer(inner.clone());
    let first = one.call(Client::Fetch.request()).await.unwrap();
    assert_eq!(
        other.call(Client::Fetch.request()).await.unwrap().status(),
        503
    );
    drop(first);
    let first = other.call(Client::Fetch.request()).await.unwrap();
    assert_eq!(
        one.call(Client::Fetch.request()).await.unwrap().status(),
        503
    );
    drop(first);

    // One inside of the other: a stream has a place in both, and a refusal in neither.
    let (inside, outside) = (
        LimitLayer::new().max_streams(1),
        LimitLayer::new().max_streams(2),
    );
    for client in [Client::Fetch, Client::Events] {
        let mut service = outside.layer(inside.layer(inner.clone()));
        let first = service.call(client.request()).await.unwrap();
        assert_eq!((inside.open(), outside.open()), (1, 1));
        let refused = service.call(client.request()).await.unwrap();
        assert_eq!(refused.status(), 503);
        assert_eq!((inside.open(), outside.open()), (1, 1));
        drop(first);
        assert_eq!((inside.open(), outside.open()), (0, 0));
    }
}

#[cfg(feature = "resume")]
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_kept_is_withdrawn_when_its_client_is_refused() {
    use tower_sse::{MemoryStore, ResumeLayer};
    let resume = ResumeLayer::new(MemoryStore::new());
    let limit = LimitLayer::new().max_streams(1);
    let (calls, inner) = endless();
    let mut service = limited(&limit).resume(resume).layer(inner);
    let first = service.call(Client::Fetch.request()).await.unwrap();
    assert!(first.headers().contains_key("sse-stream"));
    let refused = service.call(Client::Fetch.request()).await.unwrap();
    assert_eq!(
        (refused.status(), calls.count()),
        (StatusCode::SERVICE_UNAVAILABLE, 2)
    );
    assert!(
        !refused.headers().contains_key("sse-stream"),
        "nothing to come back to"
    );
    sleep(Duration::from_millis(10)).await;
    assert_eq!(calls.alive(), 1, "the producer of what was refused is gone");
    drop(first);
}

// === any order ===

#[derive(Clone, Copy, Debug)]
enum Act {
    Open {
        asks: bool,
        who: Option<u8>,
    },
    /// A stream ends, the one at this place among those that are open.
    End(usize),
    Drop(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let open = (any::<bool>(), proptest::option::of(0..3_u8));
    let act = prop_oneof![
        3 => open.prop_map(|(asks, who)| Act::Open { asks, who }),
        1 => any::<usize>().prop_map(Act::End),
        1 => any::<usize>().prop_map(Act::Drop),
    ];
    vec(act, 0..60)
}

proptest! {
    #[test]
    fn places_are_counted_as_a_list_would(acts in acts(), total in 0..6_usize, each in 0..4_usize) {
        paused().block_on(async {
            let limit = LimitLayer::new().max_streams(total).max_per_principal(each, key);
            let inner = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(events([]))));
            let mut service = limited(&limit).layer(inner);
            let mut open = Vec::new();
            for act in acts {
                match act {
                    Act::Open { asks, who } => {
                        let accept = if asks { "text/event-stream" } else { "*/*" };
                        let who = who.map(|who| who.to_string());
                        let mut headers = vec![("accept", accept)];
                        headers.extend(who.as_deref().map(|who| ("authorization", who)));
                        let response = service.call(request("POST", "/", &headers)).await.unwrap();
                        let theirs = open.iter().filter(|(other, _)| *other == who).count();
                        let expected = if open.len() >= total {
                            503
                        } else if who.is_some() && theirs >= each {
                            429
                        } else {
                            200
                        };
                        assert_eq!(response.status(), expected);
                        if expected == 200 {
                            open.push((who, response.into_body()));
                        }
                    }
                    Act::End(at) if !open.is_empty() => {
                        let (_, mut body) = open.swap_remove(at % open.len());
                        assert!(body.frame().await.is_none());
                        assert_eq!(limit.open(), open.len());
                        drop(body);
                    }
                    Act::Drop(at) if !open.is_empty() => {
                        open.swap_remove(at % open.len());
                    }
                    Act::End(_) | Act::Drop(_) => {}
                }
                assert_eq!(limit.open(), open.len());
            }
            open.clear();
            assert!(format!("{limit:?}").contains("total: 0, principals: 0"));
        });
    }
}

/// Counts the bodies that are alive, and the most that ever were.
#[derive(Clone, Default)]
struct Alive(Arc<(AtomicUsize, AtomicUsize)>);

struct Counted<B> {
    body: B,
    alive: Alive,
}

impl Alive {
    fn count<B>(&self, body: B) -> Counted<B> {
        let now = self.0.0.fetch_add(1, SeqCst) + 1;
        self.0.1.fetch_max(now, SeqCst);
        let alive = self.clone();
        Counted { body, alive }
    }

    fn now(&self) -> usize {
        self.0.0.load(SeqCst)
    }

    fn most(&self) -> usize {
        self.0.1.load(SeqCst)
    }
}

impl<B> Drop for Counted<B> {
    fn drop(&mut self) {
        self.alive.0.0.fetch_sub(1, SeqCst);
    }
}

impl<B: Body + Unpin> Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

#[test]
fn threads_that_open_and_end_streams_at_once_never_exceed_the_limit_and_lose_no_place() {
    const LIMIT: usize = 5;
    let limit = LimitLayer::new()
        .max_streams(LIMIT)
        .max_per_principal(3, key);
    let alive = Alive::default();
    let counted = alive.clone();
    let inner = service_fn(move |_: Request<()>| {
        let body = counted.count(http_body_util::Full::new(Bytes::from("data: x\n\n")));
        ready(Ok::<_, Infallible>(response("text/event-stream", body)))
    });
    let service = limited(&limit).layer(inner);
    let refused = AtomicUsize::new(0);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (mut service, refused) = (service.clone(), &refused);
            scope.spawn(move || work(&mut service, thread, refused));
        }
    });
    assert!(alive.most() <= LIMIT, "{}", alive.most());
    assert!(refused.into_inner() > 0, "the limit was never reached");
    assert_eq!((limit.open(), alive.now()), (0, 0));
    assert!(format!("{limit:?}").contains("total: 0, principals: 0"));
}

fn work<S>(service: &mut SseService<S>, seed: u64, refused: &AtomicUsize)
where
    S: Service<
            Request<()>,
            Response = Response<Counted<http_body_util::Full<Bytes>>>,
            Error = Infallible,
        >,
{
    let mut random = fastrand::Rng::with_seed(seed);
    let mut open = Vec::new();
    for _ in 0..5_000 {
        let who = random.u8(0..3).to_string();
        let headers = [("accept", "text/event-stream"), ("authorization", &who)];
        let called = service.call(request("POST", "/", &headers)).now_or_never();
        let response = called.expect("at once").unwrap();
        if response.status() == 200 {
            open.push(response.into_body());
        } else {
            refused.fetch_add(1, Relaxed);
        }
        while !open.is_empty() && random.bool() {
            let mut body = open.swap_remove(random.usize(..open.len()));
            let mut cx = Context::from_waker(Waker::noop());
            for _ in 0..random.u8(0..3) {
                let _ = Pin::new(&mut body).poll_frame(&mut cx);
            }
        }
    }
}

// === two thousand clients on a thousand places ===

/// Connections of each protocol, and the clients on each: a process may have only 1,024 files open.
const CROWD: [(Protocol, usize, usize); 2] = [(Protocol::Http1, 200, 1), (Protocol::Http2, 20, 90)];
const CLIENTS: usize = 2_000;
const PLACES: usize = 1_000;

/// How a stream goes when the gates open.
const WAYS: [&str; 5] = ["complete", "error", "panic", "gone", "drained"];

/// A body that waits for the gates, and then ends in the way that its path says.
struct Gated {
    gates: Pin<Box<dyn Future<Output = ()> + Send>>,
    way: String,
    begun: bool,
}

impl Body for Gated {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if !std::mem::replace(&mut self.begun, true) {
            return Poll::Ready(Some(Ok(Frame::data("data: in\n\n".into()))));
        }
        std::task::ready!(self.gates.as_mut().poll(cx));
        self.gates = Box::pin(pending());
        match self.way.as_str() {
            "complete" => Poll::Ready(None),
            "error" => Poll::Ready(Some(Err(std::io::ErrorKind::Other.into()))),
            // without a line on standard error
            "panic" => resume_unwind(Box::new("as the test wants it")),
            // the client goes, or the drain comes
            _ => Poll::Pending,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_on_a_thousand_places() {
    let limit = LimitLayer::new().max_streams(PLACES);
    let alive = Alive::default();
    let gates = watch::Sender::new(false);
    let app = gated(&alive, &gates);
    let (layer, drain) = DrainLayer::pair();
    let layer = limited(&limit).drain(layer.spread(Duration::ZERO).without_retry());
    let server = Server::start(Stack::Axum, app, Some(layer)).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let stayed = Arc::new(AtomicUsize::new(0));
    let gone = Arc::new(AtomicUsize::new(0));
    let crowd = CROWD
        .into_iter()
        .flat_map(|(protocol, connections, clients)| {
            (0..connections).map(move |number| (protocol, number, clients))
        });
    let crowd = crowd.map(|(protocol, number, clients)| {
        let (refused, stayed, gone) = (refused.clone(), stayed.clone(), gone.clone());
        let gates = gates.subscribe();
        tokio::spawn(async move {
            let connection = Connection::open(server.address, protocol).await;
            let connection = Mutex::new(connection);
            let visits = (0..clients).map(|client| {
                let way = WAYS[(number + client) % WAYS.len()];
                let visit = visit(&connection, way, [&refused, &stayed], gates.clone());
                visit.map(|()| gone.fetch_add(1, Relaxed))
            });
            join_all(visits).await;
        })
    });
    let crowd: Vec<_> = crowd.collect();
    // Each that has no place has been told so, and tries on.
    until("a full house", || {
        alive.now() == PLACES && refused.load(Relaxed) >= CLIENTS - PLACES
    })
    .await;
    assert_eq!(limit.open(), PLACES);
    gates.send_replace(true);
    let stay = CLIENTS / WAYS.len();
    until("only those stay that have no end", || {
        // nobody is on the way back, who would meet the drain
        let all = gone.load(Relaxed) == CLIENTS - stay && stayed.load(Relaxed) == stay;
        all && limit.open() == stay && alive.now() == stay
    })
    .await;
    drain.start();
    for clients in crowd {
        timeout(120 * SECOND, clients)
            .await
            .expect("in time")
            .unwrap();
    }
    until("all is given back", || {
        limit.open() == 0 && alive.now() == 0
    })
    .await;
    assert_eq!(alive.most(), PLACES, "never more");
}

fn gated(alive: &Alive, gates: &watch::Sender<bool>) -> Router {
    let (alive, gates) = (alive.clone(), gates.clone());
    Router::new().route(
        "/{way}",
        get(async move |Path(way): Path<String>| {
            let mut opened = gates.subscribe();
            let gates = async move {
                let _ = opened.wait_for(|open| *open).await;
            };
            let body = Gated {
                gates: Box::pin(gates),
                way,
                begun: false,
            };
            respond(EVENT_STREAM, axum::body::Body::new(alive.count(body)))
        }),
    )
}

/// Comes until it has a place, and stays until its stream ends.
async fn visit(
    connection: &Mutex<Connection>,
    way: &str,
    [refused, stayed]: [&AtomicUsize; 2],
    mut gates: watch::Receiver<bool>,
) {
    let mut first = true;
    loop {
        let path = format!("/{way}");
        let mut sender = connection.lock().await;
        let reader = sender.send("GET", &path, EVENT_SOURCE, "");
        let mut reader = match soon("a head", reader).await {
            Ok(reader) => reader,
            // what breaks at once may overtake its first event, and its head
            Err(error) => {
                assert!(
                    matches!(way, "error" | "panic") && *gates.borrow(),
                    "{way}: {error:?}"
                );
                return;
            }
        };
        drop(sender);
        let begun = soon("an event", reader.body.frame()).await;
        let Some(Ok(frame)) = begun else {
            assert!(
                matches!(way, "error" | "panic") && *gates.borrow(),
                "{way}: {begun:?}"
            );
            return;
        };
        assert_eq!(reader.status, 200);
        let text = frame.into_data().unwrap();
        if text.starts_with(b"retry: ") {
            refused.fetch_add(usize::from(std::mem::take(&mut first)), Relaxed);
            assert!(reader.body.frame().await.is_none());
            sleep(Duration::from_millis(fastrand::u64(20..200))).await;
            continue;
        }
        assert_eq!(text, "data: in\n\n");
        gates.wait_for(|open| *open).await.unwrap();
        stayed.fetch_add(usize::from(way == "drained"), Relaxed);
        if way != "gone" {
            while let Some(Ok(_)) = soon("an end", reader.body.frame()).await {}
        }
        return;
    }
}

async fn until(what: &str, is: impl Fn() -> bool) {
    soon(what, async {
        while !is() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn every_stack_lets_the_next_one_in_when_a_client_goes() {
    for stack in STACKS {
        for protocol in PROTOCOLS {
            let limit = LimitLayer::new().max_streams(1);
            let (app, mut opened) = upstreams(EVENT_STREAM);
            let server = Server::start(stack, app, Some(limited(&limit))).await;
            let mut first = Connection::open(server.address, protocol).await;
            let reader = first.get("/", EVENT_SOURCE).await;
            let upstream = opened.recv().await.unwrap();
            let mut second = Connection::open(server.address, protocol).await;
            let refused = second.post("/").await;
            assert_eq!(refused.status, 503, "{stack:?} {protocol:?}");
            let seconds: u64 = refused.headers["retry-after"]
                .to_str()
                .unwrap()
                .parse()
                .unwrap();
            assert!((3..=8).contains(&seconds));
            drop((reader, first));
            upstream.is_dropped().await;
            until("the place is free", || limit.open() == 0).await;
            assert_eq!(second.post("/").await.status, 200);
        }
    }
}

// === the gateway's flags ===

#[cfg(all(unix, feature = "resume"))]
mod gateway {
    use super::{programs::gateway::Gateway, *};

    const KEY_A: (&str, &str) = ("authorization", "Bearer a");
    const KEY_B: (&str, &str) = ("authorization", "Bearer b");

    /// The statuses of these requests for the demo's topic, one after the other, while each answer
    /// is held.
    async fn statuses(gateway: &Gateway, requests: &[&[(&str, &str)]]) -> Vec<u16> {
        let address = gateway.address.parse().unwrap();
        let mut held = Vec::new();
        for headers in requests {
            let mut connection = Connection::open(address, Protocol::Http1).await;
            held.push((connection.get("/sse", headers).await, connection));
        }
        let statuses = held.iter().map(|(reader, _)| reader.status.as_u16());
        statuses.collect()
    }

    #[tokio::test]
    async fn max_streams_is_for_all() {
        let gateway = Gateway::demo(&["--max-streams", "2"]).await;
        assert_eq!(
            statuses(&gateway, &[&[][..]; 4]).await,
            [200, 200, 503, 503]
        );
        let address = gateway.address.parse().unwrap();
        let mut connection = Connection::open(address, Protocol::Http2).await;
        // The gateway still has to see that those have gone.
        let mut held = Vec::new();
        soon("both places", async {
            while held.len() < 2 {
                let reader = connection.get("/sse", &[]).await;
                held.extend((reader.status == 200).then_some(reader));
            }
        })
        .await;
        let mut refused = connection.get("/sse", EVENT_SOURCE).await;
        assert_eq!(refused.status, 200);
        assert_eq!(refused.end().await, support::serve::End::Clean);
        assert!(refused.text().starts_with("retry: "), "{}", refused.text());
        // what is no stream is always welcome
        assert_eq!(connection.get("/", &[]).await.status, 200);
    }

    #[tokio::test]
    async fn max_streams_per_client_goes_by_key_and_else_by_address() {
        let gateway = Gateway::demo(&["--max-streams-per-client", "1"]).await;
        let requests: &[&[_]] = &[&[KEY_A], &[KEY_A], &[KEY_B], &[], &[], &[KEY_B]];
        let expected = [200, 429, 200, 200, 429, 429];
        assert_eq!(statuses(&gateway, requests).await, expected);
    }

    #[tokio::test]
    async fn without_them_there_is_no_limit() {
        let gateway = Gateway::demo(&[]).await;
        assert_eq!(statuses(&gateway, &[&[][..]; 50]).await, [200; 50]);
    }
}
