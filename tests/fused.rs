//! One [`SseLayer`] is the same as its layers stacked by hand: bytes, times, heads and ends.
//!
//! The layers of a stack each see only what the one inside hands on, so a few things differ, harm
//! nobody and are left out here: a silence behind bytes that a layer keeps to itself (half a mark,
//! a blank line that goes because of the ids), which the layers around it do not notice; frames so
//! long that skimming their end tells less than reading their lines; a first id behind 32 events,
//! which a heartbeat sees only where another layer reads for it; and the ten milliseconds for
//! which each layer holds an error back, while those around it think of a heartbeat.

mod support;

use std::{convert::Infallible, future::ready, mem, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use proptest::{prelude::*, sample::select};
use support::{
    body::{
        AnyBody, AnyService, Client, End, Step, boxed, data, events, layered, pause, paused,
        record, request, response, script, service,
    },
    streams::{Chunk, NASTY, chunked_with_silences, config, cut_at, shown, stream},
};
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep},
};
use tower::{ServiceExt, service_fn, util::BoxService};
use tower_sse::{
    BreakOff, CompressionBypassLayer, Drain, DrainLayer, EventIdLayer, HeadersLayer,
    HeartbeatLayer, HeartbeatStart, LastEventId, LifetimeLayer, SilenceLayer, SseLayer,
    TruncationLayer, is_event_source,
};

/// The same settings for both ways.
#[derive(Clone, Debug)]
struct Setup {
    client: Client,
    assigns: bool,
    start: HeartbeatStart,
    /// When the drain starts, if it does.
    drains_at: Option<Duration>,
    /// With the guards that look at the bytes.
    guarded: bool,
}

#[derive(Clone, Copy, Debug)]
enum Way {
    Fused,
    ByHand,
}

/// Without any chance in it.
impl Setup {
    fn heartbeat(&self) -> HeartbeatLayer {
        HeartbeatLayer::every(Duration::from_secs(10))
            .jitter(0.0)
            .start(self.start)
    }

    fn event_id(&self) -> EventIdLayer {
        let layer = EventIdLayer::new().query("lastEventId");
        if self.assigns {
            layer.assign(is_event_source)
        } else {
            layer
        }
    }

    fn drain() -> (DrainLayer, Drain) {
        let (layer, drain) = DrainLayer::pair();
        let layer = layer.spread(Duration::ZERO).retry(Duration::ZERO);
        (layer.deadline(Duration::from_secs(5)), drain)
    }

    /// Those that are not on have nothing to do.
    fn truncation(&self) -> TruncationLayer {
        let layer = TruncationLayer::new().count_only();
        if self.guarded {
            layer.terminal(|field| field.value.starts_with(b"[DONE]"))
        } else {
            layer
        }
    }

    /// Never near a heartbeat, nor is the life time.
    fn silence(&self) -> SilenceLayer {
        let limit = self.guard(Duration::from_millis(33_300));
        SilenceLayer::after(limit).break_off(BreakOff::ErrorEvent)
    }

    fn lifetime(&self) -> LifetimeLayer {
        let lifetime = self.guard(Duration::from_millis(71_700));
        // The one time that no jitter moves.
        LifetimeLayer::after(lifetime)
            .jitter(0.0)
            .retry(Duration::ZERO)
    }

    /// What is held of a mark waits with each layer's error.
    fn unguarded(self, marked: bool) -> Self {
        let guarded = self.guarded && !marked;
        Self { guarded, ..self }
    }

    fn guard(&self, time: Duration) -> Duration {
        if self.guarded { time } else { Duration::MAX }
    }

    fn around(&self, way: Way, service: AnyService) -> (AnyService, Drain) {
        let (drain_layer, drain) = Self::drain();
        let service = match way {
            Way::Fused => {
                let layer = SseLayer::new()
                    .event_id(self.event_id())
                    .truncation(self.truncation())
                    .silence(self.silence())
                    .lifetime(self.lifetime())
                    .drain(drain_layer)
                    .heartbeat(self.heartbeat());
                layered(layer, service)
            }
            Way::ByHand => {
                // From the inside out; the order is README's.
                let service = layered(self.event_id(), service);
                let service = layered(self.truncation(), service);
                let service = layered(self.silence(), service);
                let service = layered(self.lifetime(), service);
                let service = layered(drain_layer, service);
                let service = layered(self.heartbeat(), service);
                let service = layered(CompressionBypassLayer::new(), service);
                layered(HeadersLayer::new(), service)
            }
        };
        (service, drain)
    }

    /// What a client sees: the head, the bytes at their times, and the end.
    async fn seen(&self, way: Way, response: Response<AnyBody>) -> Seen {
        let (service, drain) = self.around(way, service(response));
        let start = self.drains_at.map(|at| {
            tokio::spawn(async move {
                sleep(at).await;
                drain.start();
            })
        });
        let Ok(response) = service.oneshot(self.client.request()).await;
        let (head, body) = response.into_parts();
        let recording = record(body).await;
        if let Some(start) = start {
            start.abort();
        }
        // Each layer of a stack holds an error back by itself.
        let end_at = match recording.end.1 {
            End::Error(_) => None,
            _ => Some(recording.end.0),
        };
        Seen {
            status: head.status,
            headers: head.headers,
            moments: recording.moments(),
            end: (end_at, recording.end.1),
        }
    }
}

#[derive(Debug, PartialEq)]
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    moments: Vec<(u128, String)>,
    end: (Option<Duration>, End),
}

/// The difference between both ways, if there is any.
fn difference(runtime: &Runtime, setup: &Setup, steps: &[Step]) -> Option<String> {
    let seen = |way| {
        let response = events(steps.iter().cloned()).map(boxed);
        runtime.block_on(setup.seen(way, response))
    };
    let (fused, by_hand) = (seen(Way::Fused), seen(Way::ByHand));
    (fused != by_hand).then(|| format!("{setup:?}\nfused   {fused:?}\nby hand {by_hand:?}"))
}

/// The chunks as steps, with pieces that are read and skimmed alike, and without silences that
/// only one layer would notice.
fn steps(setup: &Setup, chunks: &[Chunk]) -> Vec<Step> {
    let stream: Vec<_> = chunks
        .iter()
        .flat_map(|chunk| chunk.bytes.to_vec())
        .collect();
    let mut passed = 0;
    let mut held = Vec::new();
    let mut steps = Vec::new();
    for chunk in chunks {
        for piece in chunk.bytes.chunks(24) {
            passed += piece.len();
            let in_mark = stream.starts_with(b"\xef") && passed < 7;
            let blank = piece.iter().all(|byte| b"\r\n".contains(byte));
            let behind_cr = piece.ends_with(b"\r") || piece.ends_with(b"\r\r\n");
            held.extend_from_slice(piece);
            // The innermost layer of a stack would hand it on joined to the next piece.
            if in_mark || setup.assigns && (blank || behind_cr) {
                continue;
            }
            steps.extend([data(mem::take(&mut held)), pause(0.001)]);
            steps.extend(chunk.then_silence.then(|| pause(25.0)));
        }
    }
    steps.push(data(held));
    steps
}

// === bytes, times and ends ===

fn setup() -> impl Strategy<Value = Setup> {
    (
        select(&Client::ALL[..]),
        any::<bool>(),
        select(
            &[
                HeartbeatStart::AtOnce,
                HeartbeatStart::AfterSilence,
                HeartbeatStart::AfterFirstEvent,
            ][..],
        ),
        prop::option::of((0..8_u64).prop_map(drain_time)),
        any::<bool>(),
    )
        .prop_map(|(client, assigns, start, drains_at, guarded)| Setup {
            client,
            assigns,
            start,
            drains_at,
            guarded,
        })
}

/// Never near a heartbeat, and neither are the ends that follow from it.
fn drain_time(number: u64) -> Duration {
    Duration::from_millis(5000 * number + 4200)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_streams_are_the_same_both_ways(
        setup in setup(),
        chunks in chunked_with_silences(stream()),
        fails in any::<bool>(),
    ) {
        let mut steps = steps(&setup, &chunks);
        let marked = chunks.iter().flat_map(|chunk| chunk.bytes.first()).next() == Some(&b'\xef');
        let setup = setup.unguarded(marked);
        if fails && !marked {
            steps.extend([pause(0.5), Step::Error("broken")]);
        }
        prop_assert_eq!(difference(&paused(), &setup, &steps), None);
    }
}

#[test]
fn nasty_streams_are_the_same_both_ways() {
    let runtime = paused();
    for client in [Client::EventSource, Client::Fetch, Client::Gemini] {
        for drains_at in [None, Some(drain_time(1))] {
            let setup = Setup {
                client,
                assigns: true,
                start: HeartbeatStart::AfterSilence,
                drains_at,
                guarded: drains_at.is_none(),
            };
            nasty_streams_are_the_same(&runtime, &setup);
        }
    }
}

fn nasty_streams_are_the_same(runtime: &Runtime, setup: &Setup) {
    for (name, stream) in NASTY {
        let setup = &setup.clone().unguarded(stream.starts_with(b"\xef"));
        let cuts = (0..=stream.len()).filter(|cut| stream.len() < 200 || cut % 101 == 0);
        for cut in cuts {
            let chunks = cut_at(stream, [cut]);
            let silent = chunks.iter().map(|bytes| Chunk {
                bytes: bytes.clone(),
                then_silence: true,
            });
            let steps = steps(setup, &silent.collect::<Vec<_>>());
            if let Some(difference) = difference(runtime, setup, &steps) {
                panic!("{name}, cut as {}:\n{difference}", shown(&chunks));
            }
        }
    }
}

#[test]
fn bursts_are_the_same_both_ways() {
    let events = (0..1000).map(|n| data(format!("data: {}\n\n", "x".repeat(n))));
    let steps: Vec<_> = events.chain([pause(30.0), data("data: y\n\n")]).collect();
    for client in Client::ALL {
        for drains_at in [None, Some(drain_time(3))] {
            let setup = Setup {
                client,
                assigns: true,
                start: HeartbeatStart::AtOnce,
                drains_at,
                guarded: drains_at.is_none(),
            };
            assert_eq!(difference(&paused(), &setup, &steps), None);
        }
    }
}

// === heads ===

fn quiet(client: Client, drains_at: Option<Duration>) -> Setup {
    Setup {
        client,
        assigns: false,
        start: HeartbeatStart::AfterSilence,
        drains_at,
        guarded: false,
    }
}

#[test]
fn heads_are_the_same_both_ways_refused_ones_too() {
    let runtime = paused();
    for head in heads() {
        for client in Client::ALL {
            for drains_at in [None, Some(Duration::ZERO)] {
                let setup = quiet(client, drains_at);
                let seen = |way| {
                    let body = script([data("data: x\n\n"), pause(1.0), data("data: y\n\n")]);
                    let late = late(head.clone().map(|()| boxed(body)));
                    runtime.block_on(async {
                        let (service, drain) = setup.around(way, late);
                        if drains_at.is_some() {
                            drain.start();
                        }
                        let Ok(response) = service.oneshot(client.request()).await;
                        let (head, body) = response.into_parts();
                        let recording = record(body).await;
                        (head.status, head.headers, recording.moments())
                    })
                };
                let (fused, by_hand) = (seen(Way::Fused), seen(Way::ByHand));
                assert_eq!(fused, by_hand, "{head:?} {client:?}");
            }
        }
    }
}

/// A service that takes a second for its head.
fn late(response: Response<AnyBody>) -> AnyService {
    let mut response = Some(response);
    BoxService::new(service_fn(move |_| {
        let response = response.take().expect("one request");
        async {
            sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(response)
        }
    }))
}

fn heads() -> Vec<Response<()>> {
    let with = |status, headers: &[(&'static str, &str)]| {
        let mut head = response("text/event-stream", ());
        *head.status_mut() = StatusCode::from_u16(status).unwrap();
        for (name, value) in headers {
            head.headers_mut()
                .append(*name, HeaderValue::from_str(value).unwrap());
        }
        head
    };
    vec![
        with(200, &[]),
        with(
            200,
            &[("cache-control", "private"), ("cache-control", "max-age=5")],
        ),
        with(
            200,
            &[("content-length", "18"), ("content-digest", "x=:y:")],
        ),
        with(
            200,
            &[
                ("connection", "x-hop"),
                ("x-hop", "1"),
                ("keep-alive", "timeout=5"),
            ],
        ),
        with(
            200,
            &[
                ("x-accel-buffering", "yes"),
                ("access-control-allow-origin", "*"),
            ],
        ),
        with(
            200,
            &[("content-encoding", "gzip"), ("content-length", "18")],
        ),
        with(404, &[]),
        with(204, &[("content-length", "18")]),
        response("text/plain", ()),
        response("Text/Event-Stream; charset=UTF-8", ()),
    ]
}

#[tokio::test(start_paused = true)]
async fn the_service_sees_the_same_request_both_ways() {
    for (headers, uri) in [
        (&[][..], "/"),
        (
            &[("accept", "text/event-stream"), ("accept-encoding", "gzip")],
            "/",
        ),
        (&[("accept", "*/*"), ("accept-encoding", "gzip")], "/"),
        (&[("last-event-id", "41")], "/"),
        (&[], "/?lastEventId=41"),
        (&[("last-event-id", "")], "/?lastEventId=41"),
    ] {
        let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
        for way in [Way::Fused, Way::ByHand] {
            let sender = sender.clone();
            let service = BoxService::new(service_fn(move |request: Request<()>| {
                let id = request.extensions().get::<LastEventId>().cloned();
                sender.send((request.headers().clone(), id)).unwrap();
                ready(Ok::<_, Infallible>(events([]).map(boxed)))
            }));
            let (service, _drain) = quiet(Client::Fetch, None).around(way, service);
            drop(service.oneshot(request("GET", uri, headers)).await);
        }
        assert_eq!(seen.recv().await, seen.recv().await, "{headers:?} {uri}");
    }
}

// === the table is not empty ===

#[test]
fn the_setups_do_speak_and_do_drain() {
    let chunks = [Chunk {
        bytes: Bytes::from_static(b": hi\n\ndata: x\n\n"),
        then_silence: true,
    }];
    let setup = Setup {
        client: Client::EventSource,
        assigns: true,
        start: HeartbeatStart::AtOnce,
        drains_at: Some(Duration::from_secs(22)),
        guarded: false,
    };
    let response = events(steps(&setup, &chunks)).map(boxed);
    let seen = paused().block_on(async {
        let start = Instant::now();
        let seen = setup.seen(Way::ByHand, response).await;
        assert_eq!(start.elapsed().as_secs(), 22);
        seen
    });
    let text: String = seen.moments.into_iter().map(|(_, text)| text).collect();
    assert_eq!(
        text,
        ": hi\ndata: x\nid: 1\nretry: 0\n\n: keep-alive\n: keep-alive\n"
    );
}
