use std::{
    error::Error,
    fmt, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::{
    drain::Ending,
    end::EndReason,
    engine::Engine,
    error::BoxError,
    flush::Flush,
    frames::{PollFrame, into_bytes, poll_passing},
    slot::Slot,
    timer::Timer,
};

pin_project! {
    /// A response's body behind the layers of this crate.
    ///
    /// What is not an event stream passes frame by frame, with its size hint, end and trailers. Its
    /// error is boxed, since a stream that must be [broken off](Aborted) has an error of ours.
    ///
    /// # Panics
    ///
    /// When an event stream with heartbeats, a drain or an error is polled outside of a tokio
    /// runtime with timers.
    #[derive(Debug)]
    pub struct SseBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<B> {
        Untouched { #[pin] body: B },
        // Boxed, or every body that passes would have its size.
        Replaced { bytes: Option<Box<Bytes>> },
        Stream { stream: Box<Stream<B>> },
    }
}

/// The error of a stream that was broken off, so that its client does not take it for complete.
///
/// It comes from a [drain](crate::DrainLayer) whose deadline passed in the middle of an answer.
#[derive(Debug)]
pub struct Aborted(());

#[derive(Debug)]
struct Stream<B> {
    engine: Engine,
    slot: Slot<B>,
    timer: Timer,
    flush: Flush,
    stage: Stage,
}

/// How far a stream is. Only while it is open is the inner body polled.
#[derive(Debug)]
enum Stage {
    Open,
    /// All data has been handed on, these come behind it.
    Trailers(HeaderMap),
    /// The error waits while what was handed on is written.
    Failing(BoxError),
    Ended,
}

/// How many frames a poll takes from upstream before others may run: a flood of empty frames would
/// otherwise starve them.
const FRAMES_PER_POLL: usize = 32;

impl<B> SseBody<B> {
    pub(crate) fn untouched(body: B) -> Self {
        Self {
            kind: Kind::Untouched { body },
        }
    }

    pub(crate) fn replaced(bytes: Bytes) -> Self {
        Self {
            kind: Kind::Replaced {
                bytes: (!bytes.is_empty()).then(|| Box::new(bytes)),
            },
        }
    }
}

impl<B: Send + 'static> SseBody<B> {
    pub(crate) fn stream(body: B, mut engine: Engine) -> Self {
        let slot = Slot::new(body);
        engine.on_open(|| slot.reach());
        let stream = Stream {
            engine,
            slot,
            timer: Timer::default(),
            flush: Flush::default(),
            stage: Stage::Open,
        };
        Self {
            kind: Kind::Stream {
                stream: Box::new(stream),
            },
        }
    }
}

impl<B> Body for SseBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError> {
        match self.project().kind.project() {
            KindProj::Untouched { body } => poll_passing(body, cx),
            KindProj::Replaced { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(*bytes))))
            }
            KindProj::Stream { stream } => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Untouched { body } => body.is_end_stream(),
            Kind::Replaced { bytes } => bytes.is_none(),
            Kind::Stream { stream } => stream.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Untouched { body } => body.size_hint(),
            Kind::Replaced { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            // Nothing is known where bytes may be added.
            Kind::Stream { .. } => SizeHint::default(),
        }
    }
}

impl<B> Stream<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    /// In this order, always: output, drain, upstream, and in silence the heartbeat.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError> {
        loop {
            if let Some(bytes) = self.engine.take_output() {
                return Poll::Ready(Some(Ok(Frame::data(self.watched(bytes)))));
            }
            if self.is_open() {
                ready!(self.poll_open(cx));
            } else {
                return self.poll_end(cx);
            }
        }
    }

    /// Ready when there is output, the stage has changed, or it is time to look again.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.engine.is_watched() {
            self.slot.on_poll(cx);
        }
        if let Some(ending) = self.engine.on_poll(Instant::now) {
            self.on_ending(ending);
            return Poll::Ready(());
        }
        let upstream = self.poll_upstream(cx);
        if self.engine.has_output() || !self.is_open() {
            return Poll::Ready(());
        }
        if upstream.is_ready() {
            // Nothing but empty frames so far: the others first.
            cx.waker().wake_by_ref();
        }
        self.poll_silence(cx)
    }

    /// Takes what is there now, and waits for nothing. Pending when that was all.
    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..FRAMES_PER_POLL {
            match ready!(self.slot.poll_frame(cx)) {
                Some(Ok(frame)) => self.on_frame(frame),
                Some(Err(error)) => {
                    self.finish(EndReason::Failed, Stage::Failing(error.into()));
                }
                None => self.finish(EndReason::Complete, Stage::Ended),
            }
            if self.engine.is_full() || !self.is_open() {
                break;
            }
        }
        Poll::Ready(())
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let next = self.engine.on_silence(Instant::now());
        if self.engine.has_output() {
            return Poll::Ready(());
        }
        next.map_or(Poll::Pending, |deadline| {
            self.timer.poll_until(deadline, cx)
        })
    }

    /// What comes when all output is gone.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError> {
        if let Stage::Failing(_) = self.stage {
            ready!(self.flush.poll_written(&mut self.timer, cx));
        }
        Poll::Ready(match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
            Stage::Failing(error) => Some(Err(error)),
            Stage::Open | Stage::Ended => None,
        })
    }

    fn on_frame(&mut self, frame: Frame<B::Data>) {
        match frame.into_data() {
            Ok(data) => {
                if let Some(ending) = self.engine.on_data(into_bytes(data)) {
                    self.on_ending(ending);
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    self.finish(EndReason::Complete, Stage::Trailers(trailers));
                }
            }
        }
    }

    fn on_ending(&mut self, ending: Ending) {
        match ending {
            Ending::Clean => self.finish(EndReason::Drained, Stage::Ended),
            Ending::Abort => {
                let error = Box::new(Aborted(()));
                self.finish(EndReason::Aborted, Stage::Failing(error));
            }
        }
    }

    /// Costs an allocation, so only where an error follows or may soon.
    fn watched(&self, bytes: Bytes) -> Bytes {
        if matches!(self.stage, Stage::Failing(_)) || self.engine.is_draining() {
            self.flush.watch(bytes)
        } else {
            bytes
        }
    }

    /// Every end comes through here. The inner body is never polled again, so it goes at once.
    fn finish(&mut self, reason: EndReason, stage: Stage) {
        self.engine.finish(reason);
        self.slot.clear();
        self.stage = stage;
    }
}

impl<B> Stream<B> {
    fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    fn is_end(&self) -> bool {
        matches!(self.stage, Stage::Ended) && !self.engine.has_output()
    }
}

impl<B: Default> Default for SseBody<B> {
    fn default() -> Self {
        Self::untouched(B::default())
    }
}

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("event stream broken off: the drain's deadline passed")
    }
}

impl Error for Aborted {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_passes_pays_eight_bytes() {
        assert!(size_of::<SseBody<axum::body::Body>>() <= size_of::<axum::body::Body>() + 8);
        assert!(
            size_of::<SseBody<hyper::body::Incoming>>() <= size_of::<hyper::body::Incoming>() + 8
        );
    }
}
