//! What becomes of streams: for Prometheus, on a port of its own, and a line in the log for each.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, http::header::CONTENT_TYPE, routing::get};
use futures_util::stream;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{net::TcpListener, time::interval};
use tower::BoxError;
use tower_sse::{MetricsLayer, Observer, Resume, StreamHead, StreamTotals, resume::ResumeStats};
use tracing::{
    field::{DebugValue, debug},
    info, warn,
};

use crate::{args::Args, server::Server};

/// All that is counted.
#[derive(Clone)]
pub(crate) struct Metrics {
    recorder: PrometheusHandle,
    resume: Resume,
}

/// The second listener.
pub(crate) struct Exporter(TcpListener);

/// Writes the line.
struct Log;

/// A counter's name, where it comes from, and what it says.
type FromResume = (&'static str, fn(&ResumeStats) -> u64, &'static str);

/// Where nobody else's metrics are by custom.
const ADDRESS: &str = "127.0.0.1:9464";

/// From what a cache says at once to a model that thinks.
const FIRST_EVENT: [f64; 14] = [
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0, 600.0,
];

/// From an answer to a feed that is open all day.
const LIFETIME: [f64; 14] = [
    0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0,
    86_400.0,
];

/// The recorder keeps each single time until somebody sums them up.
const UPKEEP: Duration = Duration::from_secs(5);

/// The type of [`Metrics::text`].
pub(crate) const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What the layers do not count by themselves.
const RESUME: [FromResume; 5] = [
    (
        "sse_resume_started_total",
        |stats| stats.started,
        "Streams that are kept for clients which come back.",
    ),
    (
        "sse_resume_broken_off_total",
        |stats| stats.broken_off,
        "Readers whose connection was broken off, since what comes next could not be had.",
    ),
    (
        "sse_resume_abandoned_total",
        |stats| stats.abandoned,
        "Streams that were ended before their time, since nobody read them or the gateway left.",
    ),
    (
        "sse_resume_unstored_total",
        |stats| stats.unstored,
        "Events that the store does not have.",
    ),
    (
        "sse_resume_store_faults_total",
        |stats| stats.store_faults,
        "Calls that the store failed or refused.",
    ),
];

const MAX_STREAMS: &str = "gateway_max_streams";

/// Counts for whoever is installed, and writes the log.
pub(crate) fn layer() -> MetricsLayer {
    MetricsLayer::facade().and(Log)
}

impl Metrics {
    /// Must come before the layer is made: nothing is counted without it.
    pub(crate) fn install(args: &Args, resume: Resume) -> Result<Self, BoxError> {
        let recorder = recorder()?;
        for (name, _, text) in RESUME {
            describe_counter!(name, Unit::Count, text);
        }
        if let Some(streams) = args.max_streams {
            let text = "How many streams may be open at once.";
            describe_gauge!(MAX_STREAMS, Unit::Count, text);
            gauge!(MAX_STREAMS).set(streams as f64);
        }
        tokio::spawn(upkeep(recorder.clone()));
        Ok(Self { recorder, resume })
    }

    /// As Prometheus reads it.
    pub(crate) fn text(&self) -> String {
        publish(&self.resume.stats());
        self.recorder.render()
    }
}

impl Exporter {
    /// None where it is off.
    pub(crate) async fn bind(args: &Args) -> Result<Option<Self>, BoxError> {
        let given = args.metrics.as_deref();
        if given == Some("off") {
            return Ok(None);
        }
        let address = given.unwrap_or(ADDRESS);
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) if given.is_some() => {
                return Err(format!(
                    "cannot listen on {address} (--metrics: an address, or off): {error}"
                )
                .into());
            }
            // a second gateway on this machine is no reason not to start
            Err(error) => {
                warn!("no metrics, choose another --metrics: cannot listen on {address}: {error}");
                return Ok(None);
            }
        };
        Ok(Some(Self(listener)))
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// By a server of its own, until the process ends: also while the other drains, and nobody waits
    /// for this one.
    pub(crate) fn serve(self, server: Server, metrics: Metrics) {
        let Self(listener) = self;
        let page = move || {
            let text = metrics.text();
            async { ([(CONTENT_TYPE, TEXT)], text) }
        };
        let app = Router::new().route("/metrics", get(page));
        tokio::spawn(async move {
            let mut never = stream::pending();
            server.accept_until(&mut never, listener, app).await;
        });
    }
}

fn recorder() -> Result<PrometheusHandle, BoxError> {
    let name = |name: &str| Matcher::Full(name.to_owned());
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(name("sse_time_to_head_seconds"), &FIRST_EVENT)?
        .set_buckets_for_metric(name("sse_time_to_first_event_seconds"), &FIRST_EVENT)?
        .set_buckets_for_metric(name("sse_lifetime_seconds"), &LIFETIME)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    Ok(handle)
}

async fn upkeep(recorder: PrometheusHandle) {
    let mut ticks = interval(UPKEEP);
    loop {
        ticks.tick().await;
        recorder.run_upkeep();
    }
}

fn publish(stats: &ResumeStats) {
    for (name, count, _) in RESUME {
        counter!(name).absolute(count(stats));
    }
}

impl Observer for Log {
    /// The path without the query, which may hold secrets.
    fn ended(&self, stream: &StreamHead, totals: &StreamTotals) {
        info!(
            target: "gateway",
            reason = %totals.reason.as_str(),
            method = %stream.method,
            path = %stream.uri.path().escape_default(),
            events = totals.events,
            bytes = totals.bytes,
            heartbeats = totals.heartbeats,
            first_event = totals.time_to_first_event.map(shown),
            lifetime = shown(totals.lifetime),
            "stream ended"
        );
    }
}

/// To the millisecond: `350ms`, `62.5s`.
fn shown(time: Duration) -> DebugValue<Duration> {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    debug(Duration::from_millis(millis))
}
