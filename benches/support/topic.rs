use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower::Service;

/// A service whose streams have the same events: each has a channel of its own, and gets a clone of
/// the bytes.
#[derive(Clone, Default)]
pub(crate) struct Topic(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    streams: Vec<UnboundedSender<Bytes>>,
    /// What a stream begins with.
    first: Option<Bytes>,
}

pub(crate) struct Events(UnboundedReceiver<Bytes>);

#[allow(dead_code)]
impl Topic {
    pub(crate) fn publish(&self, event: &Bytes, times: usize) {
        for stream in &self.state().streams {
            for _ in 0..times {
                // Who has gone gets nothing.
                let _ = stream.send(event.clone());
            }
        }
    }

    /// Streams that open from now on have this event at once.
    pub(crate) fn greet(&self, event: &Bytes) {
        self.state().first = Some(event.clone());
    }

    /// Ends all streams behind what was published.
    pub(crate) fn end(&self) {
        self.state().streams.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }
}

impl<B> Service<Request<B>> for Topic {
    type Response = Response<Events>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Events>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let (sender, events) = unbounded_channel();
        let mut state = self.state();
        if let Some(first) = &state.first {
            let _ = sender.send(first.clone());
        }
        state.streams.push(sender);
        let response = Response::builder().header("content-type", "text/event-stream");
        ready(Ok(response.body(Events(events)).expect("a response")))
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let event = self.0.poll_recv(cx);
        event.map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
