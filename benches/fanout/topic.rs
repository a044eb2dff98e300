use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::{Arc, Mutex},
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
pub(crate) struct Topic {
    streams: Arc<Mutex<Vec<UnboundedSender<Bytes>>>>,
}

pub(crate) struct Events(UnboundedReceiver<Bytes>);

impl Topic {
    pub(crate) fn publish(&self, event: &Bytes, times: usize) {
        for stream in self.streams.lock().expect("no panic").iter() {
            for _ in 0..times {
                // Who has gone gets nothing.
                let _ = stream.send(event.clone());
            }
        }
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
        self.streams.lock().expect("no panic").push(sender);
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
