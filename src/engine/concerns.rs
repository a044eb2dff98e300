use std::sync::Arc;

use bytes::Bytes;
use http::{request, response};

use super::{Engine, Held, Opening, parts::Parts};
use crate::{
    client::Client,
    compression::CompressionBypassLayer,
    departure::Departure,
    detect::EventStream,
    drain::DrainLayer,
    event_id::{EventIdLayer, EventIds},
    headers::{self, HeadersLayer},
    heartbeat::HeartbeatLayer,
    lifetime::{LifetimeLayer, Term},
    limit::{Admission, LimitLayer, Permit},
    metrics::{Arrival, MetricsLayer},
    protocol::{Answer, Protocol, Terminal},
    refusal::Refusal,
    retry::Retry,
    silence::SilenceLayer,
    stall::StallLayer,
    trace::trace,
    truncation::TruncationLayer,
    withdraw::Withdraw,
};

/// The concerns that are on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Concerns {
    pub(crate) headers: Option<HeadersLayer>,
    pub(crate) compression: Option<CompressionBypassLayer>,
    pub(crate) heartbeat: Option<Arc<HeartbeatLayer>>,
    pub(crate) event_id: Option<EventIdLayer>,
    pub(crate) truncation: Option<TruncationLayer>,
    pub(crate) silence: Option<SilenceLayer>,
    pub(crate) lifetime: Option<LifetimeLayer>,
    pub(crate) drain: Option<DrainLayer>,
    pub(crate) stall: Option<StallLayer>,
    pub(crate) limit: Option<LimitLayer>,
    pub(crate) metrics: Option<MetricsLayer>,
}

/// What is known of a request when its response arrives.
#[derive(Debug)]
pub(crate) struct Exchange {
    client: Client,
    ids: Option<EventIds>,
    truncation_protocol: Option<Protocol>,
    silence_protocol: Option<Protocol>,
    term: Option<Term>,
    /// It came when the drain had started.
    late: bool,
    admission: Option<Admission>,
    arrival: Option<Arrival>,
}

/// The response to a request that does not reach the service.
pub(crate) type Refused = Box<(response::Parts, Bytes)>;

/// What becomes of a response's body.
#[derive(Debug)]
pub(crate) enum Handling {
    /// It passes as it is.
    Untouched,
    /// It is dropped for these bytes.
    Replaced(Bytes),
    Stream(Box<Opening>),
}

impl Concerns {
    /// Refuses a request that is for a stream where there is no room.
    pub(crate) fn on_request(&self, request: &mut request::Parts) -> Result<Exchange, Refused> {
        let client = Client::of(request);
        let admission = self
            .limit
            .as_ref()
            .map(|limit| limit.on_request(request, client));
        let admission = admission
            .transpose()
            .map_err(|refusal| self.refuse(&refusal))?;
        let arrival = self.metrics.as_ref().map(|layer| layer.on_request(request));
        if let Some(compression) = self.compression {
            compression.on_request(&mut request.headers, client);
        }
        let ids = self.event_id.as_ref();
        let ids = ids.map(|layer| layer.on_request(request, client));
        if let Some(metrics) = &self.metrics
            && ids.as_ref().is_some_and(EventIds::has_ignored)
        {
            metrics.on_ignored_id();
        }
        Ok(Exchange {
            client,
            ids,
            truncation_protocol: self
                .truncation
                .as_ref()
                .and_then(|layer| layer.on_request(request)),
            silence_protocol: self
                .silence
                .as_ref()
                .and_then(|layer| layer.on_request(request)),
            term: self
                .lifetime
                .as_ref()
                .map(|layer| layer.on_request(request)),
            late: self.drain.as_ref().is_some_and(DrainLayer::has_started),
            admission,
            arrival,
        })
    }

    pub(crate) fn on_response(
        &self,
        response: &mut response::Parts,
        mut exchange: Exchange,
    ) -> Handling {
        let client = exchange.client;
        let Some(kind) = EventStream::of(response, client) else {
            self.on_pass(response);
            return Handling::Untouched;
        };
        let permit = match self.admit(response, &mut exchange) {
            Ok(permit) => permit,
            Err(refusal) => return Handling::Replaced(self.turn_away(response, &refusal)),
        };
        self.on_pass(response);
        if let Some(headers) = &self.headers {
            headers.on_response(&mut response.headers);
        }
        let arrival = exchange.arrival.take();
        let parts = self.parts(kind, response, exchange);
        let tally = self.metrics.as_ref().zip(arrival);
        let tally =
            tally.map(|(metrics, arrival)| metrics.open(arrival, kind == EventStream::Opaque));
        let wraps = !parts.is_idle() || permit.is_some() || self.stall.is_some() || tally.is_some();
        // Bytes may be added or a mark taken off, or the stream ends before its time.
        if wraps || kind == EventStream::Plain && self.headers.is_some() {
            headers::unbind(&mut response.headers);
        }
        if !wraps {
            return Handling::Untouched;
        }
        let verdict = response.extensions.remove();
        let opening = Opening {
            engine: Engine::new(kind, parts, tally.clone(), verdict),
            held: Held::new(permit, tally),
            stall: self.stall.clone(),
        };
        Handling::Stream(Box::new(opening))
    }

    /// A response that is not refused, whether it is a stream or not.
    fn on_pass(&self, response: &response::Parts) {
        if let Some(metrics) = &self.metrics {
            metrics.on_response(response);
        }
    }

    /// The place of a stream, if it may be.
    fn admit(
        &self,
        response: &response::Parts,
        exchange: &mut Exchange,
    ) -> Result<Option<Permit>, Refusal> {
        let client = exchange.client;
        let drain = self.drain.as_ref();
        let late = drain.and_then(|drain| drain.refuse(response, client, exchange.late));
        if let Some(refusal) = late {
            return Err(refusal);
        }
        let limit = self.limit.as_ref().zip(exchange.admission.take());
        limit
            .map(|(limit, admission)| limit.on_response(admission, client))
            .transpose()
    }

    /// Turns the head of a stream into its refusal, and returns the refusal's body.
    fn turn_away(&self, response: &mut response::Parts, refusal: &Refusal) -> Bytes {
        let body = refusal.turn(response);
        Withdraw::from(response);
        self.on_refusal(response, refusal);
        body
    }

    /// The refusal of a request that has not reached the service.
    fn refuse(&self, refusal: &Refusal) -> Refused {
        let (mut response, body) = refusal.head();
        self.on_refusal(&mut response, refusal);
        Box::new((response, body))
    }

    fn on_refusal(&self, response: &mut response::Parts, refusal: &Refusal) {
        trace!(
            debug,
            "refused an event stream",
            by = refusal.by,
            client = refusal.client
        );
        if let Some(metrics) = &self.metrics {
            metrics.on_refusal(refusal.by);
        }
        // A refusal in plain text is no event stream any more.
        if let Some(headers) = &self.headers
            && EventStream::of(response, refusal.client).is_some()
        {
            headers.on_response(&mut response.headers);
        }
        headers::remove_hop_by_hop(&mut response.headers);
        headers::unbind(&mut response.headers);
    }

    fn parts(
        &self,
        kind: EventStream,
        response: &mut response::Parts,
        exchange: Exchange,
    ) -> Parts {
        let client = exchange.client;
        let lifetime = self.lifetime.as_ref().zip(exchange.term);
        let mut parts = Parts {
            silence: self
                .silence
                .as_ref()
                .map(|layer| layer.on_response(response, exchange.silence_protocol))
                .map(Box::new),
            lifetime: lifetime
                .and_then(|(layer, term)| layer.on_response(response, client, term))
                .map(Box::new),
            drain: self
                .drain
                .as_ref()
                .map(|layer| layer.on_response(response, client))
                .map(Box::new),
            ..Parts::default()
        };
        if kind == EventStream::Plain {
            self.add_readers(&mut parts, response, exchange);
        }
        parts
    }

    /// The parts that read the stream, or write into it.
    fn add_readers(&self, parts: &mut Parts, response: &mut response::Parts, exchange: Exchange) {
        let client = exchange.client;
        let ids = exchange.ids.and_then(|ids| ids.on_response(response));
        parts.ids = ids.map(Box::new);
        let heartbeat = self.heartbeat.as_ref();
        parts.heartbeat = heartbeat.and_then(|layer| layer.on_response(response, client));
        let truncation = self.truncation.as_ref();
        let truncation =
            truncation.and_then(|layer| layer.on_response(response, exchange.truncation_protocol));
        let (truncation, terminal) = truncation.unzip();
        parts.truncation = truncation;
        let minded = parts.departures().any(Departure::minds_the_answer);
        let terminal = terminal.or(minded.then_some(Terminal::Any));
        parts.answer = terminal.map(Answer::new).map(Box::new);
        let lifetime = self.lifetime.as_ref().filter(|_| parts.lifetime.is_some());
        let hint = lifetime.and_then(LifetimeLayer::hint);
        let drain = self.drain.as_ref().and_then(DrainLayer::hint);
        parts.retry = Retry::new(client, hint, drain).map(Box::new);
    }
}
