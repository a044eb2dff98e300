//! A service whose streams outlive their connections, and clients that come back to it.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use tokio::time::sleep;
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneService};
use tower_sse::{
    MemoryStore, ResumeLayer, ResumeStore,
    resume::{Page, StoreError, StoreFuture, StoredEvent, StreamEnd, StreamId},
};

use super::{
    body::{
        AnyBody, End, Probe, Recording, Step, boxed, data, pause, record, record_for, request,
        script,
    },
    reference::{self, Event},
};

/// A service and all that called it.
#[derive(Clone)]
pub(crate) struct World {
    service: BoxCloneService<Request<()>, Response<AnyBody>, Infallible>,
    upstream: Upstream,
}

/// What every call begins, and what came of it.
#[derive(Clone)]
pub(crate) struct Upstream {
    head: Arc<dyn Fn(Response<()>) -> Response<()> + Send + Sync>,
    steps: Arc<Vec<Step>>,
    /// How long the head takes.
    delay: Duration,
    calls: Arc<Mutex<Vec<Call>>>,
}

/// What came, and a look at the body that it got.
type Call = (Request<()>, Probe);

/// A client's answer: the head, and the body that it reads as it likes.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: AnyBody,
}

impl Upstream {
    /// Each call gets these steps.
    pub(crate) fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            head: Arc::new(|head| head),
            steps: Arc::new(steps.into_iter().collect()),
            delay: Duration::ZERO,
            calls: Arc::default(),
        }
    }

    pub(crate) fn head(
        mut self,
        head: impl Fn(Response<()>) -> Response<()> + Send + Sync + 'static,
    ) -> Self {
        self.head = Arc::new(head);
        self
    }

    pub(crate) fn after(mut self, seconds: f64) -> Self {
        self.delay = Duration::from_secs_f64(seconds);
        self
    }

    fn answer(&self, request: Request<()>) -> Response<AnyBody> {
        let body = script(self.steps.iter().cloned());
        self.calls.lock().unwrap().push((request, body.probe()));
        let head = Response::builder().header("content-type", "text/event-stream");
        (self.head)(head.body(()).unwrap()).map(|()| boxed(body))
    }
}

impl World {
    /// The service behind a layer, which may be any.
    pub(crate) fn new<L, S, B>(layer: L, upstream: Upstream) -> Self
    where
        L: Layer<BoxCloneService<Request<()>, Response<AnyBody>, Infallible>, Service = S>,
        S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
        B: http_body::Body<Data = Bytes, Error: Into<tower_sse::BoxError>> + Send + 'static,
    {
        let answers = upstream.clone();
        let inner = service_fn(move |request| {
            let answers = answers.clone();
            async move {
                if !answers.delay.is_zero() {
                    sleep(answers.delay).await;
                }
                Ok(answers.answer(request))
            }
        });
        let service = layer.layer(BoxCloneService::new(inner));
        let service = service.map_response(|response| response.map(boxed));
        Self {
            service: BoxCloneService::new(service),
            upstream,
        }
    }

    /// The usual: a store in memory.
    pub(crate) fn of(steps: impl IntoIterator<Item = Step>) -> Self {
        Self::new(ResumeLayer::new(MemoryStore::new()), Upstream::new(steps))
    }

    pub(crate) async fn ask(&self, request: Request<()>) -> Answer {
        let Ok(response) = self.service.clone().oneshot(request).await;
        let (head, body) = response.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body,
        }
    }

    /// As an `EventSource`, with this last id if there is one.
    pub(crate) async fn listen(&self, last: &str) -> Answer {
        self.ask(with_last("GET", &[("accept", "text/event-stream")], last))
            .await
    }

    /// As a client that posts and counts.
    pub(crate) async fn post(&self, last: &str) -> Answer {
        self.ask(with_last("POST", &[], last)).await
    }

    pub(crate) fn calls(&self) -> usize {
        self.upstream.calls.lock().unwrap().len()
    }

    pub(crate) fn request(&self, call: usize) -> Request<()> {
        self.upstream.calls.lock().unwrap()[call].0.clone()
    }

    pub(crate) fn probe(&self, call: usize) -> Probe {
        self.upstream.calls.lock().unwrap()[call].1.clone()
    }
}

fn with_last(method: &str, headers: &[(&str, &str)], last: &str) -> Request<()> {
    let last = [("last-event-id", last)];
    let last = if last[0].1.is_empty() { &[] } else { &last[..] };
    request(method, "/", &[headers, last].concat())
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// The stream's id.
    pub(crate) fn stream(&self) -> String {
        self.header("sse-stream").to_owned()
    }

    pub(crate) async fn record(self) -> Recording {
        record(self.body).await
    }

    pub(crate) async fn record_for(self, seconds: f64) -> Recording {
        record_for(self.body, Duration::from_secs_f64(seconds)).await
    }

    /// All of it, which must end cleanly.
    pub(crate) async fn events(self) -> Vec<Event> {
        let recording = self.record().await;
        assert_eq!(recording.end.1, End::Clean, "{recording:?}");
        reference::parse(&recording.bytes()).events
    }

    /// Reads until that many bytes are there, or the end, and goes away.
    pub(crate) async fn read(mut self, bytes: usize) -> Vec<u8> {
        let mut read = Vec::new();
        while read.len() < bytes
            && let Some(Ok(frame)) = self.body.frame().await
        {
            read.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
        read.truncate(bytes);
        read
    }
}

/// `data: 1` to `data: n`, one a second.
pub(crate) fn numbers(n: usize) -> Vec<Step> {
    (1..=n)
        .flat_map(|n| [pause(1.0), data(format!("data: {n}\n\n"))])
        .collect()
}

pub(crate) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(crate) fn expected(from: usize, to: usize) -> Vec<String> {
    (from..=to).map(|n| n.to_string()).collect()
}

pub(crate) fn data_of(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.data.as_str()).collect()
}

// === a store that fails when it is told to ===

#[derive(Clone, Debug, Default)]
pub(crate) struct Faulty {
    pub(crate) store: MemoryStore,
    fault: Arc<Mutex<Fault>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Every call fails.
    Down,
    /// No call is ever answered.
    Hung,
    /// Appends alone are never answered.
    HungAppends,
}

/// What it was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) renewals: usize,
    /// The numbers of each append.
    pub(crate) appends: Vec<Vec<u64>>,
}

impl Faulty {
    pub(crate) fn of(store: MemoryStore) -> Self {
        Self {
            store,
            ..Self::default()
        }
    }

    pub(crate) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// The answer is made only where there is one: a store that is down has not stored anything.
    fn ask<'a, T: Send + 'a>(
        &'a self,
        answer: impl FnOnce() -> StoreFuture<'a, T>,
    ) -> StoreFuture<'a, T> {
        let fault = *self.fault.lock().unwrap();
        match fault {
            Fault::None | Fault::HungAppends => answer(),
            Fault::Down => StoreFuture::ready(Err(StoreError::failed("down"))),
            Fault::Hung => StoreFuture::new(std::future::pending()),
        }
    }
}

impl ResumeStore for Faulty {
    fn open(&self, stream: StreamId, about: Bytes) -> StoreFuture<'_, ()> {
        self.ask(|| self.store.open(stream, about))
    }

    fn append<'a>(
        &'a self,
        stream: StreamId,
        events: &'a [StoredEvent],
        keep_from: u64,
    ) -> StoreFuture<'a, ()> {
        if *self.fault.lock().unwrap() == Fault::HungAppends {
            return StoreFuture::new(std::future::pending());
        }
        let numbers = events.iter().map(|event| event.number);
        self.seen.lock().unwrap().appends.push(numbers.collect());
        self.ask(|| self.store.append(stream, events, keep_from))
    }

    fn close(&self, stream: StreamId, last: u64, end: StreamEnd) -> StoreFuture<'_, ()> {
        self.ask(|| self.store.close(stream, last, end))
    }

    fn renew<'a>(&'a self, streams: &'a [StreamId]) -> StoreFuture<'a, ()> {
        self.seen.lock().unwrap().renewals += 1;
        self.ask(|| self.store.renew(streams))
    }

    fn attend<'a>(
        &'a self,
        read: &'a [StreamId],
        unread: &'a [StreamId],
    ) -> StoreFuture<'a, Vec<StreamId>> {
        self.ask(|| self.store.attend(read, unread))
    }

    fn lease(&self) -> Duration {
        ResumeStore::lease(&self.store)
    }

    fn find(&self, stream: StreamId) -> StoreFuture<'_, Option<Bytes>> {
        self.ask(|| self.store.find(stream))
    }

    fn read(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page> {
        self.ask(|| self.store.read(stream, after, limit))
    }

    fn next(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page> {
        self.ask(|| self.store.next(stream, after, limit))
    }
}
