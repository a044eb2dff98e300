//! The layers of tower-http 0.6 and 0.7, inside of ours, outside of it, and on both sides.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, header::CACHE_CONTROL, response};
use tower_sse::SseLayer;
use tracing::Span;

/// A layer of tower-http that a service may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Compression,
    /// For the head.
    Timeout,
    BodyTimeout,
    /// There is none in 0.6.
    BodyDeadline,
    Trace,
    Cors,
    CatchPanic,
    EarlyDrop,
    SetHeader,
    SetHeaderIfAbsent,
}

pub(crate) const KINDS: [Kind; 10] = [
    Kind::Compression,
    Kind::Timeout,
    Kind::BodyTimeout,
    Kind::BodyDeadline,
    Kind::Trace,
    Kind::Cors,
    Kind::CatchPanic,
    Kind::EarlyDrop,
    Kind::SetHeader,
    Kind::SetHeaderIfAbsent,
];

/// Where it stands: who is inside is nearer to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Inside,
    Outside,
    Both,
}

pub(crate) const PLACES: [Place; 3] = [Place::Inside, Place::Outside, Place::Both];

/// One cell of the table.
#[derive(Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) version: Version,
    pub(crate) kind: Kind,
    pub(crate) place: Place,
    /// Of the layers that limit time.
    pub(crate) limit: Duration,
}

/// What puts its layer around an app.
type Wrap = fn(Router, Kind, Duration, &Seen) -> Router;

#[derive(Clone, Copy)]
pub(crate) struct Version {
    name: &'static str,
    wrap: Wrap,
}

/// What the layers have seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sides {
    pub(crate) inside: Seen,
    pub(crate) outside: Seen,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    chunks: Arc<AtomicUsize>,
    ends: Arc<AtomicUsize>,
    drops: Arc<AtomicUsize>,
}

/// What the service sets: anybody may keep the answer for a minute.
pub(crate) const CACHED: HeaderValue = HeaderValue::from_static("max-age=60");

impl Version {
    pub(crate) fn has(self, kind: Kind) -> bool {
        kind != Kind::BodyDeadline || self.name == "0.7"
    }
}

pub(crate) const VERSIONS: [Version; 2] = [
    Version {
        name: "0.6",
        wrap: |app, kind, limit, seen| match kind {
            Kind::BodyDeadline => app,
            _ => with_0_6(app, kind, limit, seen),
        },
    },
    Version {
        name: "0.7",
        wrap: |app, kind, limit, seen| match kind {
            Kind::BodyDeadline => app.layer(ResponseBodyDeadlineLayer::new(limit)),
            _ => with_0_7(app, kind, limit, seen),
        },
    },
];

impl Cell {
    pub(crate) fn app(self, app: Router, sse: SseLayer) -> (Router, Sides) {
        self.around(app, |app| app.layer(sse))
    }

    /// The app with this layer on its side of `ours`.
    pub(crate) fn around(
        self,
        app: Router,
        ours: impl FnOnce(Router) -> Router,
    ) -> (Router, Sides) {
        let sides = Sides::default();
        let wrap = |app, seen| (self.version.wrap)(app, self.kind, self.limit, seen);
        let app = match self.place {
            Place::Outside => app,
            Place::Inside | Place::Both => wrap(app, &sides.inside),
        };
        let app = ours(app);
        let app = match self.place {
            Place::Inside => app,
            Place::Outside | Place::Both => wrap(app, &sides.outside),
        };
        (app, sides)
    }
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            version,
            kind,
            place,
            ..
        } = self;
        write!(f, "{kind:?} of {} {place:?}", version.name)
    }
}

impl Seen {
    /// Frames of data.
    pub(crate) fn chunks(&self) -> usize {
        self.chunks.load(SeqCst)
    }

    /// Ends of streams.
    pub(crate) fn ends(&self) -> usize {
        self.ends.load(SeqCst)
    }

    /// Bodies dropped before their ends.
    pub(crate) fn drops(&self) -> usize {
        self.drops.load(SeqCst)
    }
}

/// Both versions have the same names, and types that are strangers to each other.
macro_rules! layers {
    ($name:ident, $tower_http:ident) => {
        fn $name(app: Router, kind: Kind, limit: Duration, seen: &Seen) -> Router {
            use ::$tower_http::{
                catch_panic::CatchPanicLayer,
                compression::CompressionLayer,
                cors::CorsLayer,
                on_early_drop::{OnBodyDropFn, OnEarlyDropLayer},
                set_header::SetResponseHeaderLayer,
                timeout::{ResponseBodyTimeoutLayer, TimeoutLayer},
                trace::TraceLayer,
            };

            let Seen {
                chunks,
                ends,
                drops,
            } = seen.clone();
            let timed_out = http::StatusCode::REQUEST_TIMEOUT;
            match kind {
                Kind::Compression => app.layer(CompressionLayer::new()),
                Kind::Timeout => app.layer(TimeoutLayer::with_status_code(timed_out, limit)),
                Kind::BodyTimeout => app.layer(ResponseBodyTimeoutLayer::new(limit)),
                Kind::BodyDeadline => app,
                Kind::Trace => app.layer(
                    TraceLayer::new_for_http()
                        .on_body_chunk(move |_: &Bytes, _: Duration, _: &Span| {
                            chunks.fetch_add(1, SeqCst);
                        })
                        .on_eos(move |_: Option<&HeaderMap>, _: Duration, _: &Span| {
                            ends.fetch_add(1, SeqCst);
                        }),
                ),
                Kind::Cors => app.layer(CorsLayer::permissive()),
                Kind::CatchPanic => app.layer(CatchPanicLayer::new()),
                Kind::EarlyDrop => app.layer(OnEarlyDropLayer::builder().on_body_drop(
                    OnBodyDropFn::new(move |_: &Request<Body>| {
                        let drops = drops.clone();
                        move |_: &response::Parts| {
                            move || {
                                drops.fetch_add(1, SeqCst);
                            }
                        }
                    }),
                )),
                Kind::SetHeader => {
                    app.layer(SetResponseHeaderLayer::overriding(CACHE_CONTROL, CACHED))
                }
                Kind::SetHeaderIfAbsent => {
                    let layer = SetResponseHeaderLayer::if_not_present(CACHE_CONTROL, CACHED);
                    app.layer(layer)
                }
            }
        }
    };
}

use ::tower_http::timeout::ResponseBodyDeadlineLayer;

layers!(with_0_6, tower_http_06);
layers!(with_0_7, tower_http);
