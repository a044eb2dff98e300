//! The layers of the gateway, as its flags say.

use std::time::Duration;

use http::{header::AUTHORIZATION, request};
use tower_sse::{
    DrainLayer, EarlyOpenLayer, LifetimeLayer, LimitLayer, ResumeLayer, SilenceLayer, SseLayer,
    StallLayer, TruncationLayer,
};

use crate::{
    args::{Args, OnTruncation},
    metrics,
    proxy::Peer,
    wants,
};

pub(crate) fn layer(
    args: &Args,
    resume: ResumeLayer,
    drain: DrainLayer,
) -> SseLayer<ResumeLayer, EarlyOpenLayer> {
    let layer = SseLayer::new()
        .heartbeat(args.heartbeat)
        .resume(resume)
        .early_open(early_open(args))
        .drain(drain.deadline(args.drain_timeout))
        .stall(StallLayer::after(args.stall_timeout))
        .limit(limit(args))
        .truncation(truncation(args))
        .metrics(metrics::layer());
    let layer = match args.lifetime {
        Some(lifetime) => layer.lifetime(LifetimeLayer::after(lifetime)),
        None => layer,
    };
    match args.silence_timeout {
        Some(limit) => layer.silence(SilenceLayer::after(limit).break_off(args.on_silence)),
        None => layer,
    }
}

/// Whether anybody here asks for what only a request's body may say.
pub(crate) fn ask_who_wants_a_stream(args: &Args) -> bool {
    args.early_open.is_some() || args.max_streams.is_some() || args.max_streams_per_client.is_some()
}

fn early_open(args: &Args) -> EarlyOpenLayer {
    let layer = EarlyOpenLayer::after(args.early_open.unwrap_or(Duration::MAX));
    layer.when(wants::nothing_but_a_stream)
}

fn limit(args: &Args) -> LimitLayer {
    let layer = LimitLayer::new()
        .max_streams(args.max_streams.unwrap_or(usize::MAX))
        .asks(wants::stream);
    match args.max_streams_per_client {
        Some(streams) => layer.max_per_principal(streams, client),
        None => layer,
    }
}

/// The key first: behind a proxy all clients have one address. Neither can be made to look like the
/// other.
fn client(request: &request::Parts) -> Option<Vec<u8>> {
    let key = request.headers.get(AUTHORIZATION);
    let address = || {
        let Peer(address) = request.extensions.get()?;
        Some(format!("address {}", address.ip()).into_bytes())
    };
    let key = key.map(|key| [b"key ", key.as_bytes()].concat());
    key.or_else(address)
}

fn truncation(args: &Args) -> TruncationLayer {
    match args.on_truncation {
        OnTruncation::Count => TruncationLayer::new().count_only(),
        OnTruncation::BreakOff(how) => TruncationLayer::new().break_off(how),
    }
}
