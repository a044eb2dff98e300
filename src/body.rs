use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    thread,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::{
    aborted::Aborted,
    departure::{Ending, How},
    end::EndReason,
    engine::{Engine, Opening},
    error::BoxError,
    flush::Flush,
    frames::{PollFrame, into_bytes, poll_passing},
    slot::Slot,
    timer::Timer,
    trace::trace,
    watch::Watch,
};

pin_project! {
    /// A response's body behind the layers of this crate.
    ///
    /// What is not an event stream passes frame by frame, with its size hint, end and trailers. Its
    /// error is boxed, since a stream that must be [broken off](Aborted) has an error of ours.
    ///
    /// # Panics
    ///
    /// When an event stream that has anything to wait for (heartbeats, a drain, a limit of its life time
    /// or of its silence, an error) is polled outside of a tokio runtime with timers.
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

#[derive(Debug)]
struct Stream<B> {
    engine: Engine,
    slot: Slot<B>,
    watch: Option<Box<Watch>>,
    timer: Timer,
    flush: Option<Box<Flush>>,
    stage: Stage,
}

/// How far a stream is. Only while it is open is the inner body polled. Boxed, or every stream would
/// have room for what hardly any comes to.
#[derive(Debug)]
enum Stage {
    Open,
    /// All data has been handed on, these come behind it.
    Trailers(Box<HeaderMap>),
    /// The error waits while what was handed on is written.
    Failing(Box<BoxError>),
    Ended,
}

/// What came from upstream.
enum Taken {
    /// Some frames, or none that has a byte.
    Data,
    /// Frames in which the stream ends.
    Ending(Ending),
    Error(BoxError),
    /// Its end, and what is behind it.
    End(Stage),
}

/// How many frames a poll takes from upstream before others may run: a flood of empty frames would
/// otherwise starve them.
const FRAMES_PER_POLL: usize = 64;

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
    pub(crate) fn stream(body: B, mut opening: Opening) -> Self {
        let mut pulse = None;
        let slot = if opening.is_shared() {
            Slot::shared(body, |relay, reach| {
                let held = opening.on_open(relay, reach);
                pulse = held.pulse().cloned();
                held
            })
        } else {
            Slot::own(body)
        };
        let stream = Stream {
            engine: opening.engine,
            slot,
            watch: pulse.map(Watch::new),
            timer: Timer::default(),
            flush: None,
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
    // Its registers are not saved for a body that passes.
    #[inline(never)]
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError> {
        // Before the drain is asked whether it has started: a start that comes after that question
        // finds the waker here.
        let reached = self.watch.is_some() || self.engine.may_be_drained();
        let woken = reached && self.slot.set_waker(cx.waker());
        // hyper asks twice before it believes that there is nothing.
        if !woken && self.watch.as_deref().is_some_and(Watch::is_waiting) {
            return Poll::Pending;
        }
        let Some(mut watch) = self.watch.take() else {
            return self.poll_next(cx);
        };
        let next = watch.poll(|cx| self.poll_next(cx));
        self.watch = Some(watch);
        next
    }

    /// In this order, always: output, drain, life time, upstream, silence, and the heartbeat.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError> {
        loop {
            if self.engine.has_output() {
                let output = self.engine.take_output();
                return Poll::Ready(output.map(|bytes| Ok(Frame::data(self.tracked(bytes)))));
            }
            if !self.is_open() {
                self.engine.on_all_sent();
                return self.poll_end(cx);
            }
            ready!(self.poll_open(cx));
        }
    }

    /// Ready when there is output, the stage has changed, or it is time to look again.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(reason) = self.slot.freed() {
            self.on_freed(reason);
            return Poll::Ready(());
        }
        let watched = self.timer.is_running();
        if let Some(ending) = self.engine.on_poll(watched, Instant::now) {
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

    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match ready!(self.poll_data(cx)) {
            Taken::Data if self.timer.is_running() => {}
            Taken::Data => {
                if let Some(ending) = self.engine.on_flood(Instant::now) {
                    self.on_ending(ending);
                }
            }
            Taken::Ending(ending) => self.on_ending(ending),
            Taken::Error(error) => self.on_error(error),
            Taken::End(stage) => self.on_upstream_end(stage),
        }
        Poll::Ready(())
    }

    /// Takes what is there now, and waits for nothing. Pending when that was all.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Taken> {
        let mut open = self.slot.open();
        let Some(mut body) = open.body() else {
            return Poll::Ready(Taken::End(Stage::Ended));
        };
        for _ in 0..FRAMES_PER_POLL {
            let frame = match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Taken::Error(error.into())),
                None => return Poll::Ready(Taken::End(Stage::Ended)),
            };
            match frame.into_data().map_err(Frame::into_trailers) {
                Ok(data) => {
                    if let Some(ending) = self.engine.on_data(into_bytes(data)) {
                        return Poll::Ready(Taken::Ending(ending));
                    }
                }
                Err(Ok(trailers)) => {
                    let stage = Stage::Trailers(Box::new(trailers));
                    return Poll::Ready(Taken::End(stage));
                }
                // Of a kind that nobody knows yet.
                Err(Err(_)) => {}
            }
            if self.engine.is_full() {
                break;
            }
        }
        Poll::Ready(Taken::Data)
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let now = Instant::now();
        if let Some(ending) = self.engine.on_silence(now) {
            self.on_ending(ending);
            return Poll::Ready(());
        }
        if self.engine.has_output() {
            return Poll::Ready(());
        }
        let next = self.engine.next_deadline(now);
        next.map_or(Poll::Pending, |deadline| {
            self.timer.poll_until(deadline, cx)
        })
    }

    /// What comes when all output is gone.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError> {
        if let Stage::Failing(_) = self.stage {
            let flush = self.flush.get_or_insert_default();
            ready!(flush.poll_written(&mut self.timer, cx));
        }
        Poll::Ready(match mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Trailers(trailers) => Some(Ok(Frame::trailers(*trailers))),
            Stage::Failing(error) => Some(Err(*error)),
            Stage::Open | Stage::Ended => None,
        })
    }

    /// Nobody read it. What was handed on may end anywhere.
    fn on_freed(&mut self, reason: EndReason) {
        // What was handed on before lies with the server, untracked.
        self.flush.get_or_insert_default().lose_track();
        let how = if reason == EndReason::Drained {
            How::Clean
        } else {
            How::Abort
        };
        self.on_ending(Ending { reason, how });
    }

    /// Upstream has ended, and `stage` comes after what it gave; or it was freed just now.
    fn on_upstream_end(&mut self, stage: Stage) {
        if let Some(reason) = self.slot.freed() {
            return self.on_freed(reason);
        }
        match self.engine.on_upstream_end() {
            Some(Ending {
                reason,
                how: How::AsUpstream,
            }) => self.finish(reason, stage),
            Some(ending) => self.on_ending(ending),
            None => self.finish(self.engine.verdict(), stage),
        }
    }

    fn on_error(&mut self, error: BoxError) {
        // One of our layers further in has seen to it.
        let ours = Aborted::among_the_causes(&*error);
        let ending = ours.is_none().then(|| self.engine.on_upstream_end());
        let ending = ending.flatten();
        let reason = ending.map(|ending| ending.reason).or(ours);
        let stage = if ending.is_some_and(|ending| ending.how == How::Clean) {
            trace!(warn, "an answer has failed", error = error);
            Stage::Ended
        } else {
            Stage::Failing(Box::new(error))
        };
        self.finish(reason.unwrap_or(EndReason::Failed), stage);
    }

    fn on_ending(&mut self, ending: Ending) {
        let Ending { reason, how } = ending;
        let stage = match how {
            How::Clean | How::AsUpstream => Stage::Ended,
            How::Abort => Stage::Failing(Box::new(Aborted(reason).into())),
        };
        self.finish(reason, stage);
    }

    /// Costs an allocation, so only where an error follows or may.
    fn tracked(&mut self, bytes: Bytes) -> Bytes {
        if matches!(self.stage, Stage::Failing(_)) || self.engine.may_break_off() {
            self.flush.get_or_insert_default().track(bytes)
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

impl<B> Drop for Stream<B> {
    fn drop(&mut self) {
        let gone = if thread::panicking() {
            // A body that panics takes its connection with it.
            EndReason::Failed
        } else {
            EndReason::Disconnected
        };
        self.engine.on_drop(self.slot.freed().unwrap_or(gone));
        // Whoever looks at the stream from outside right now keeps the slot.
        self.slot.clear();
    }
}

impl<B: Default> Default for SseBody<B> {
    fn default() -> Self {
        Self::untouched(B::default())
    }
}

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
