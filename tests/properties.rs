//! The promise that all others lean on: whatever the stream, however it is cut, whenever it falls
//! silent, whichever layers are around it, a client gets exactly the upstream's events.

mod support;

use std::{cell::LazyCell, time::Duration};

use bytes::Bytes;
use proptest::{prelude::*, sample::select, sample::subsequence};
use support::{
    body::{AnyService, Client, End, Step, events, layered, paused, record, service},
    reference::{self, Event, Parsed},
    streams::{NASTY, chunked_with_silences, config, cut_at, shown, stream},
};
use tokio::runtime::Runtime;
use tower::ServiceExt;
use tower_sse::{
    CompressionBypassLayer, DrainLayer, EventIdLayer, HeadersLayer, HeartbeatLayer, HeartbeatShape,
    HeartbeatStart, LifetimeLayer, LimitLayer, MetricsLayer, Observer, SilenceLayer, SseLayer,
    StallLayer, TruncationLayer,
};

/// The silence after which a heartbeat comes, and a longer one.
const INTERVAL: Duration = Duration::from_secs(10);
const SILENCE: Step = Step::Pause(Duration::from_secs(25));

/// What is around the service, and who asks.
#[derive(Clone, Debug)]
struct Setup {
    client: Client,
    /// From the inside out.
    layers: Vec<Layer>,
    /// In one [`SseLayer`], where their order does not matter.
    fused: bool,
    shape: HeartbeatShape,
    start: HeartbeatStart,
    inside_events: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    Headers,
    Compression,
    Track,
    Assign,
    /// One that says how long to wait before a reconnect.
    Drain,
    QuietDrain,
    Heartbeat,
    // Guards that never act.
    Lifetime,
    Silence,
    Truncation,
    Watchers,
}

const LAYERS: [Layer; 11] = [
    Layer::Headers,
    Layer::Compression,
    Layer::Track,
    Layer::Assign,
    Layer::Drain,
    Layer::QuietDrain,
    Layer::Heartbeat,
    Layer::Lifetime,
    Layer::Silence,
    Layer::Truncation,
    Layer::Watchers,
];

/// How many of them, from the first on, are no guards.
const SPEAKING: usize = 7;

const SHAPES: [HeartbeatShape; 5] = [
    HeartbeatShape::Auto,
    HeartbeatShape::CommentLine,
    HeartbeatShape::CommentBlock,
    HeartbeatShape::BlankLines,
    HeartbeatShape::Silent,
];

const STARTS: [HeartbeatStart; 3] = [
    HeartbeatStart::AtOnce,
    HeartbeatStart::AfterSilence,
    HeartbeatStart::AfterFirstEvent,
];

impl Setup {
    fn of(client: Client, layers: &[Layer]) -> Self {
        Self {
            client,
            layers: layers.into(),
            fused: false,
            shape: HeartbeatShape::Auto,
            start: HeartbeatStart::AfterSilence,
            inside_events: false,
        }
    }

    fn has(&self, layer: Layer) -> bool {
        self.layers.contains(&layer)
    }

    fn heartbeat(&self) -> HeartbeatLayer {
        HeartbeatLayer::every(INTERVAL)
            .shape(self.shape)
            .start(self.start)
            .inside_events(self.inside_events)
    }

    fn around(&self, mut service: AnyService) -> AnyService {
        if self.fused {
            return layered(self.sse(), service);
        }
        for layer in &self.layers {
            service = match layer {
                Layer::Headers => layered(HeadersLayer::new(), service),
                Layer::Compression => layered(CompressionBypassLayer::new(), service),
                Layer::Track => layered(EventIdLayer::new(), service),
                Layer::Assign => layered(assign(), service),
                Layer::Drain => layered(DrainLayer::pair().0, service),
                Layer::QuietDrain => layered(DrainLayer::pair().0.without_retry(), service),
                Layer::Heartbeat => layered(self.heartbeat(), service),
                Layer::Lifetime => layered(lifetime(), service),
                Layer::Silence => layered(SilenceLayer::after(Duration::MAX), service),
                Layer::Truncation => layered(truncation(), service),
                Layer::Watchers => {
                    let service = layered(StallLayer::after(INTERVAL), service);
                    layered(
                        MetricsLayer::new(Nobody),
                        layered(LimitLayer::new(), service),
                    )
                }
            };
        }
        service
    }

    fn sse(&self) -> SseLayer {
        let off = SseLayer::new()
            .without_headers()
            .without_compression_bypass()
            .without_event_id()
            .without_heartbeat();
        // Headers and compression leave the bytes alone.
        self.layers.iter().fold(off, |layer, on| match on {
            Layer::Headers | Layer::Compression => layer,
            Layer::Track => layer.event_id(EventIdLayer::new()),
            Layer::Assign => layer.event_id(assign()),
            Layer::Drain => layer.drain(DrainLayer::pair().0),
            Layer::QuietDrain => layer.drain(DrainLayer::pair().0.without_retry()),
            Layer::Heartbeat => layer.heartbeat(self.heartbeat()),
            Layer::Lifetime => layer.lifetime(lifetime()),
            Layer::Silence => layer.silence(SilenceLayer::after(Duration::MAX)),
            Layer::Truncation => layer.truncation(truncation()),
            Layer::Watchers => layer
                .stall(StallLayer::after(INTERVAL))
                .limit(LimitLayer::new())
                .metrics(MetricsLayer::new(Nobody)),
        })
    }

    async fn bytes(&self, steps: impl IntoIterator<Item = Step>) -> Vec<u8> {
        let service = self.around(service(events(steps)));
        let Ok(response) = service.oneshot(self.client.request()).await;
        let recording = record(response.into_body()).await;
        assert_eq!(recording.end.1, End::Clean);
        recording.bytes()
    }
}

fn assign() -> EventIdLayer {
    EventIdLayer::new().assign(|_| true)
}

fn lifetime() -> LifetimeLayer {
    LifetimeLayer::after(Duration::MAX).without_retry()
}

/// Where no event is the last one, every stream is cut off.
fn truncation() -> TruncationLayer {
    TruncationLayer::new().terminal(|_| false).count_only()
}

/// Watches, and does nothing.
struct Nobody;

impl Observer for Nobody {}

thread_local! {
    static RUNTIME: LazyCell<Runtime> = const { LazyCell::new(paused) };
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

// === what must come out ===

/// Why `down` is not what a client must get where the upstream sent `up`.
fn difference(setup: &Setup, up: &[u8], down: &[u8]) -> Option<String> {
    let (sent, got) = (reference::parse(up), reference::parse(down));
    let same = if setup.has(Layer::Assign) {
        are_numbered(&sent, &got)
    } else {
        sent.events == got.events && sent.last_id == got.last_id
    };
    // The layer's own hint is only there where the service gave none.
    let hinted = sent.retry.is_none() && setup.has(Layer::Drain);
    let told = got.retry == sent.retry || hinted;
    let bytes = setup.alters_nothing().then(|| without_mark(setup, up));
    if same && told && bytes.is_none_or(|bytes| bytes == down) {
        return None;
    }
    Some(format!(
        "\n{setup:?}\nup   {}\n  is {sent:?}\ndown {}\n  is {got:?}\n",
        up.escape_ascii(),
        down.escape_ascii()
    ))
}

/// Up to the first id of the upstream, events may have got the numbers from 1 on.
fn are_numbered(sent: &Parsed, got: &Parsed) -> bool {
    let numbers = (1..).map(|number: usize| number.to_string());
    let unnamed = sent.events.iter().zip(&got.events).zip(numbers);
    let unnamed = unnamed.take_while(|((up, down), id)| up.id.is_empty() && down.id == *id);
    let (rest_sent, rest_got) = {
        let count = unnamed.count();
        (sent.events.get(count..), got.events.get(count..))
    };
    let nothing = |event: &Event| (event.kind.clone(), event.data.clone());
    sent.events
        .iter()
        .map(nothing)
        .eq(got.events.iter().map(nothing))
        && rest_sent == rest_got
        && is_cursor(sent, got)
}

/// A client comes back with the upstream's id, if there ever was one, and else with the number of
/// the last event, which the upstream may have emptied.
fn is_cursor(sent: &Parsed, got: &Parsed) -> bool {
    let named = sent.events.iter().any(|event| !event.id.is_empty());
    let last = got.events.last().map_or("", |event| &event.id);
    got.last_id == sent.last_id || !named && sent.last_id.is_empty() && got.last_id == last
}

impl Setup {
    fn alters_nothing(&self) -> bool {
        use Layer::{Assign, Drain, Heartbeat};
        !self.has(Heartbeat) && !self.has(Assign) && !self.has(Drain)
    }

    /// Whether any layer looks at the bytes.
    fn looks(&self) -> bool {
        use Layer::{Lifetime, QuietDrain, Silence, Track, Truncation, Watchers};
        [Track, QuietDrain, Lifetime, Silence, Truncation, Watchers]
            .iter()
            .any(|layer| self.has(*layer))
    }
}

/// What is left of `up`. The first of two marks stays, or the second would be taken for it.
fn without_mark<'a>(setup: &Setup, up: &'a [u8]) -> &'a [u8] {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    match up.strip_prefix(MARK) {
        Some(rest) if setup.looks() && !rest.starts_with(MARK) => rest,
        _ => up,
    }
}

// === random streams ===

fn setup() -> impl Strategy<Value = Setup> {
    let layers = subsequence(&LAYERS[..], 1..=LAYERS.len()).prop_shuffle();
    (
        select(&Client::ALL[..]),
        layers,
        any::<bool>(),
        select(&SHAPES[..]),
        select(&STARTS[..]),
        any::<bool>(),
    )
        .prop_map(
            |(client, layers, fused, shape, start, inside_events)| Setup {
                client,
                layers,
                fused,
                shape,
                start,
                inside_events,
            },
        )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn whatever_is_around_a_stream_its_events_are_the_upstreams(
        setup in setup(),
        chunks in chunked_with_silences(stream()),
    ) {
        let up: Vec<_> = chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect();
        let steps = chunks.into_iter().flat_map(|chunk| {
            let silence = chunk.then_silence.then_some(SILENCE);
            [Some(Step::Data(chunk.bytes)), silence].into_iter().flatten()
        });
        let down = block_on(setup.bytes(steps));
        prop_assert_eq!(difference(&setup, &up, &down), None);
    }
}

// === the nasty ones, with a silence at every place ===

/// Every layer alone, every pair of those that may add bytes, and all, by hand and fused.
fn sets() -> Vec<Setup> {
    let alone = LAYERS.iter().map(|layer| vec![*layer]);
    let pairs = (0..SPEAKING).flat_map(|b| (0..b).map(move |a| vec![LAYERS[a], LAYERS[b]]));
    let all = [
        Layer::Assign,
        Layer::Drain,
        Layer::Headers,
        Layer::Heartbeat,
    ];
    let guards = LAYERS[SPEAKING..].to_vec();
    let sets = alone.chain(pairs).chain([all.into(), guards]);
    sets.map(|layers| Setup::of(Client::Events, &layers))
        .chain(Client::ALL.map(|client| Setup {
            fused: true,
            ..Setup::of(client, &all)
        }))
        .collect()
}

/// Every shape at every start, and inside of events.
fn heartbeats() -> Vec<Setup> {
    let spoken = SHAPES
        .into_iter()
        .filter(|shape| *shape != HeartbeatShape::Silent);
    let setups = spoken.flat_map(|shape| {
        let of = |start, inside_events| Setup {
            shape,
            start,
            inside_events,
            ..Setup::of(Client::Fetch, &[Layer::Heartbeat])
        };
        let inside = of(HeartbeatStart::AfterSilence, true);
        STARTS
            .map(|start| of(start, false))
            .into_iter()
            .chain([inside])
    });
    setups.collect()
}

/// Everywhere, but in the middle of very long lines only now and then.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (0..=len).filter(move |&cut| cut < 50 || len - cut < 50 || cut % 101 == 0)
}

fn nasty_streams_survive(setups: &[Setup]) {
    for (name, stream) in NASTY {
        for cut in cuts(stream.len()) {
            let chunks = cut_at(stream, [cut]);
            for setup in setups {
                let down = block_on(setup.bytes(interrupted(&chunks)));
                if let Some(difference) = difference(setup, stream, &down) {
                    panic!("{name}, cut as {}: {difference}", shown(&chunks));
                }
            }
        }
    }
}

fn interrupted(chunks: &[Bytes]) -> Vec<Step> {
    let steps = chunks.iter().cloned().map(Step::Data);
    steps.flat_map(|step| [step, SILENCE]).collect()
}

#[test]
fn nasty_streams_survive_every_set_of_layers_at_every_split() {
    nasty_streams_survive(&sets());
}

#[test]
fn nasty_streams_survive_every_heartbeat_at_every_split() {
    nasty_streams_survive(&heartbeats());
}
