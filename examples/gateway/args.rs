//! The flags, and what their values must be.

use std::{ffi::OsStr, process::ExitCode, time::Duration};

use clap::{
    Arg, Command, Parser,
    builder::{PossibleValuesParser, TypedValueParser},
    error::ErrorKind,
};
use http::{
    Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use tower_sse::{BreakOff, LossPolicy};

use crate::store::Store;

/// A reverse proxy that keeps Server-Sent Events alive: headers, heartbeats, no buffering, answers
/// that outlive their connection, and a shutdown that ends each stream between two events.
///
/// Without --upstream it fronts a demo platform of its own: open the printed address in a browser.
#[derive(Parser)]
#[command(name = "gateway", version, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Where to listen; with port 0 the system chooses, and the printed line says which
    #[arg(long, env = "GATEWAY_LISTEN", default_value = "127.0.0.1:8080")]
    #[arg(value_name = "ADDR")]
    pub(crate) listen: String,

    /// The server behind the gateway, as http://host:port [default: the demo platform]
    #[arg(long, env = "GATEWAY_UPSTREAM", value_name = "URL", value_parser = upstream)]
    pub(crate) upstream: Option<Authority>,

    /// After how much silence a stream gets a heartbeat: sooner than any proxy on the way gives up
    #[arg(long, env = "GATEWAY_HEARTBEAT", default_value = "15s")]
    #[arg(value_name = "TIME", value_parser = some_time)]
    pub(crate) heartbeat: Duration,

    /// Where streams are kept, so that a client which lost its connection goes on where it was:
    /// memory; redis://host:port, or rediss:// with TLS, for several gateways; off [default: memory
    /// with the demo, off with --upstream]
    #[arg(long, env = "GATEWAY_RESUME", hide_env_values = true)]
    #[arg(value_name = "STORE", value_parser = StoreParser)]
    pub(crate) resume: Option<Store>,

    /// The streams that are kept, by what their paths begin with: answers that end, not feeds
    /// [default: /v1/ with the demo, / with --upstream]
    #[arg(long, env = "GATEWAY_RESUME_PATHS", value_delimiter = ',')]
    #[arg(value_name = "PREFIX,..", value_parser = path)]
    pub(crate) resume_paths: Vec<String>,

    /// How long the upstream's answer is read on without a reader; then it is given up
    #[arg(long, env = "GATEWAY_RESUME_GRACE", default_value = "30s")]
    #[arg(value_name = "TIME", value_parser = time)]
    pub(crate) resume_grace: Duration,

    /// What a client gets that comes back to a stream which is gone: a new answer, 204 (on which an
    /// EventSource stays away), or 410
    #[arg(long, env = "GATEWAY_ON_LOSS", default_value = "start-anew")]
    #[arg(value_name = "WHAT", value_parser = loss_policy())]
    pub(crate) on_loss: LossPolicy,

    /// How long after SIGTERM or Ctrl-C answers may still finish; feeds end at once
    #[arg(long, env = "GATEWAY_DRAIN_TIMEOUT", default_value = "10s")]
    #[arg(value_name = "TIME", value_parser = time)]
    pub(crate) drain_timeout: Duration,

    /// How long a connection to the upstream may take; then 504
    #[arg(long, env = "GATEWAY_CONNECT_TIMEOUT", default_value = "5s")]
    #[arg(value_name = "TIME", value_parser = some_time)]
    pub(crate) connect_timeout: Duration,

    /// How long the upstream may take from the request to the head of its answer; then 504.
    /// Long, because a language model may think before it says anything
    #[arg(long, env = "GATEWAY_HEAD_TIMEOUT", default_value = "5m")]
    #[arg(value_name = "TIME", value_parser = some_time)]
    pub(crate) head_timeout: Duration,

    /// How long a stream's upstream may take to answer before the client gets the head of its stream
    /// and heartbeats: sooner than any proxy on the way gives up. The status of an error that
    /// comes later is lost, and SDKs do not retry [default: never]
    #[arg(long, env = "GATEWAY_EARLY_OPEN", value_name = "TIME", value_parser = time)]
    pub(crate) early_open: Option<Duration>,

    /// How long a client may refuse to read what waits for it; then its connection is cut
    #[arg(long, env = "GATEWAY_WRITE_TIMEOUT", default_value = "30s")]
    #[arg(value_name = "TIME", value_parser = some_time)]
    pub(crate) write_timeout: Duration,

    /// How long a client may not come for what its stream has; then the stream is given up. Over
    /// HTTP/2 its connection may have others that are read
    #[arg(long, env = "GATEWAY_STALL_TIMEOUT", default_value = "30s")]
    #[arg(value_name = "TIME", value_parser = some_time)]
    pub(crate) stall_timeout: Duration,

    /// How many streams may be open at once; who comes then is told to come back [default: any number]
    #[arg(long, env = "GATEWAY_MAX_STREAMS", value_name = "N", value_parser = some_number)]
    pub(crate) max_streams: Option<usize>,

    /// How many of them for one client: by its Authorization, which the upstream must check, or else by
    /// its address [default: any number]
    #[arg(long, env = "GATEWAY_MAX_STREAMS_PER_CLIENT")]
    #[arg(value_name = "N", value_parser = some_number)]
    pub(crate) max_streams_per_client: Option<usize>,

    /// After which time a stream ends between two events, or up to a tenth earlier: sooner than a
    /// load balancer cuts it [default: never]
    #[arg(long, env = "GATEWAY_LIFETIME", value_name = "TIME", value_parser = some_time)]
    pub(crate) lifetime: Option<Duration>,

    /// How long a stream's upstream may send no event, comments not counted; then the stream is
    /// broken off [default: for ever]
    #[arg(long, env = "GATEWAY_SILENCE_TIMEOUT", value_name = "TIME", value_parser = some_time)]
    pub(crate) silence_timeout: Option<Duration>,

    /// What a client gets whose upstream was silent for too long: its connection breaks, or an error
    /// event in the protocol of the stream
    #[arg(long, env = "GATEWAY_ON_SILENCE", default_value = "abort")]
    #[arg(value_name = "WHAT", value_parser = break_off())]
    pub(crate) on_silence: BreakOff,

    /// What a client gets whose answer ends before its protocol's last event: what the upstream sent
    /// and no more, which is counted; or a connection that breaks, or an error event
    #[arg(long, env = "GATEWAY_ON_TRUNCATION", default_value = "count")]
    #[arg(value_name = "WHAT", value_parser = on_truncation())]
    pub(crate) on_truncation: OnTruncation,

    /// Where Prometheus finds the metrics, under /metrics and on a port of its own; or off. Nobody is
    /// asked who they are there. The demo's page has them in any case [default: 127.0.0.1:9464, and off
    /// if that is taken]
    #[arg(long, env = "GATEWAY_METRICS", value_name = "ADDR|off")]
    pub(crate) metrics: Option<String>,

    /// What to log, as `tracing` directives: info, debug, tower_sse=trace,info
    #[arg(long, env = "GATEWAY_LOG", default_value = "info")]
    #[arg(value_name = "FILTER")]
    pub(crate) log: String,
}

/// What `--on-truncation` says.
#[derive(Clone, Copy)]
pub(crate) enum OnTruncation {
    Count,
    BreakOff(BreakOff),
}

/// clap repeats a value that is wrong, and the URL of a Redis may hold a password.
#[derive(Clone)]
struct StoreParser;

const EXAMPLES: &str = "\
Times are written as people do: 500ms, 15s, 2m, 1h30m.

Examples:
  gateway                                       the demo, on http://127.0.0.1:8080
  gateway --heartbeat 1s                        the same, with a pulse that one can watch
  gateway --upstream http://127.0.0.1:9000      in front of your own server
  GATEWAY_LISTEN=127.0.0.1:0 gateway            the flags also as environment variables

Then, with the demo:
  curl -N http://127.0.0.1:8080/sse             a topic: all events so far, then live
  curl -d data=hello http://127.0.0.1:8080/sse  an event for everybody who listens
  curl -N http://127.0.0.1:8080/training        a run that ends
  curl -N http://127.0.0.1:8080/predictions     a batch, each result as it comes
  curl -N -d '{\"stream\":true}' http://127.0.0.1:8080/v1/chat/completions

An answer that goes on where the connection was lost, here behind its event 5:
  curl -N -H 'accept: text/event-stream' http://127.0.0.1:8080/v1/completions
  curl -N -H 'last-event-id: ts_….5' http://127.0.0.1:8080/v1/completions

What becomes of the streams, for Prometheus:
  curl http://127.0.0.1:9464/metrics

A stop: SIGTERM or Ctrl-C drains, a second one leaves at once. The demo's page can drain, too.";

/// Longer than anybody waits, and short enough to be added to any clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Help in full; an error as its one line that says what is wrong.
pub(crate) fn explain(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return error
            .print()
            .map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    eprintln!("gateway: {line} (see --help)");
    ExitCode::from(2)
}

// === The values ===

impl TypedValueParser for StoreParser {
    type Value = Store;

    fn parse_ref(
        &self,
        command: &Command,
        _: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Store, clap::Error> {
        let store = value.to_str().ok_or("not in UTF-8".to_owned());
        store.and_then(Store::parse).map_err(|error| {
            let line = format!("invalid value for '--resume <STORE>': {error}");
            clap::Error::raw(ErrorKind::ValueValidation, line).with_cmd(command)
        })
    }
}

fn loss_policy() -> impl TypedValueParser<Value = LossPolicy> {
    PossibleValuesParser::new(["start-anew", "204", "410"]).map(|text| match text.as_str() {
        "204" => LossPolicy::NoContent,
        "410" => LossPolicy::Gone,
        _ => LossPolicy::StartAnew,
    })
}

fn break_off() -> impl TypedValueParser<Value = BreakOff> {
    PossibleValuesParser::new(["abort", "error-event"]).map(|text| how(&text))
}

fn on_truncation() -> impl TypedValueParser<Value = OnTruncation> {
    PossibleValuesParser::new(["count", "abort", "error-event"]).map(|text| match text.as_str() {
        "count" => OnTruncation::Count,
        text => OnTruncation::BreakOff(how(text)),
    })
}

fn how(text: &str) -> BreakOff {
    match text {
        "error-event" => BreakOff::ErrorEvent,
        _ => BreakOff::Abort,
    }
}

fn path(text: &str) -> Result<String, String> {
    let path = text.starts_with('/').then(|| text.to_owned());
    path.ok_or_else(|| "must begin with /".to_owned())
}

fn upstream(url: &str) -> Result<Authority, String> {
    let uri: Uri = url.parse().map_err(|error| format!("{error}"))?;
    let parts = uri.into_parts();
    match (parts.scheme, parts.authority) {
        (Some(scheme), _) if scheme != Scheme::HTTP => {
            Err("the gateway speaks plain http to its upstream".to_owned())
        }
        (Some(_), Some(authority)) if is_plain(&authority, parts.path_and_query.as_ref()) => {
            Ok(authority)
        }
        (Some(_), Some(_)) => Err("must be http://host:port and no more".to_owned()),
        (None, _) | (_, None) => Err("must be written as http://host:port".to_owned()),
    }
}

/// Neither a user nor a path, and something that can be connected to.
fn is_plain(authority: &Authority, path: Option<&PathAndQuery>) -> bool {
    let user = authority.as_str().contains('@');
    let port = authority.as_str().len() == authority.host().len() || authority.port_u16().is_some();
    !user && port && !authority.host().is_empty() && path.is_none_or(|path| path == "/")
}

fn some_number(text: &str) -> Result<usize, String> {
    let number: usize = text.parse().map_err(|error| format!("{error}"))?;
    let some = (number > 0).then_some(number);
    some.ok_or_else(|| "must be at least 1".to_owned())
}

fn some_time(text: &str) -> Result<Duration, String> {
    let time = time(text)?;
    let some = !time.is_zero();
    some.then_some(time)
        .ok_or_else(|| "must be longer than 0s".to_owned())
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let sane = time <= LONGEST;
    sane.then_some(time)
        .ok_or_else(|| "must be at most a year".to_owned())
}
