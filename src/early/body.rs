use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::Instant;

use super::{
    answer::{Answer, failure},
    layer::Plan,
};
use crate::{
    end::EndReason,
    error::BoxError,
    frames::{PollFrame, into_bytes, poll_passing},
    timer::Timer,
    trace::trace,
};

pin_project! {
    /// A response's body behind an [`EarlyOpenLayer`](crate::EarlyOpenLayer).
    ///
    /// That of an answer in time passes frame by frame, with its size hint, end and trailers.
    ///
    /// # Panics
    ///
    /// When it has to read what is no event stream outside of a tokio runtime with timers.
    #[derive(Debug)]
    pub struct EarlyOpenBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    #[derive(Debug)]
    enum Kind<B> {
        Passed { #[pin] body: B },
        // Boxed, or every body that passes would have its size.
        Opened { opened: Box<Opened<B>> },
    }
}

/// A body whose head went out early.
#[derive(Debug)]
struct Opened<B> {
    plan: Plan,
    stage: Stage<B>,
}

#[derive(Debug)]
enum Stage<B> {
    /// The service has not answered.
    Waiting(Waiting<B>),
    /// It has, with an event stream.
    Spliced(Pin<Box<B>>),
    /// It has, with something else, which is read.
    Reading(Reading<B>),
    Ended,
}

/// The future of the service, in the box that it was first polled in.
struct Waiting<B>(Pin<Box<dyn Answering<B>>>);

#[derive(Debug)]
struct Reading<B> {
    body: Pin<Box<B>>,
    answer: Answer,
    due: Instant,
    timer: Timer,
}

/// The future of a service of which only the response's body has a known type.
trait Answering<B>: Send {
    fn poll_answer(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<B>, BoxError>>;
}

/// How long a body may take that says what went wrong.
const READING: Duration = Duration::from_secs(5);

/// How many of its frames are taken before others may run: a flood of empty ones would otherwise
/// starve them.
const FRAMES_PER_POLL: usize = 32;

impl<B> EarlyOpenBody<B> {
    pub(super) fn passed(body: B) -> Self {
        Self {
            kind: Kind::Passed { body },
        }
    }

    pub(super) fn opened<F, E>(answer: Pin<Box<F>>, plan: Plan) -> Self
    where
        F: Future<Output = Result<Response<B>, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let stage = Stage::Waiting(Waiting(answer));
        Self {
            kind: Kind::Opened {
                opened: Box::new(Opened { plan, stage }),
            },
        }
    }
}

impl<B> Body for EarlyOpenBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError> {
        match self.project().kind.project() {
            KindProj::Passed { body } => poll_passing(body, cx),
            KindProj::Opened { opened } => opened.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Passed { body } => body.is_end_stream(),
            Kind::Opened { opened } => opened.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Passed { body } => body.size_hint(),
            // Nobody knows what will be answered.
            Kind::Opened { .. } => SizeHint::default(),
        }
    }
}

impl<B> Opened<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError> {
        loop {
            match &mut self.stage {
                Stage::Waiting(waiting) => {
                    let answer = ready!(waiting.0.as_mut().poll_answer(cx));
                    match answer {
                        Ok(response) => self.stage = Stage::of(response, &self.plan),
                        Err(error) => {
                            trace!(warn, "the service failed before it answered", error = error);
                            return self.fail(failure(self.plan.protocol));
                        }
                    }
                }
                Stage::Spliced(body) => {
                    let frame = ready!(poll_passing(body.as_mut(), cx));
                    if is_last(&frame) {
                        self.stage = Stage::Ended;
                    }
                    return Poll::Ready(frame);
                }
                Stage::Reading(reading) => {
                    let event = ready!(reading.poll_event(cx));
                    return self.fail(event);
                }
                Stage::Ended => return Poll::Ready(None),
            }
        }
    }

    /// The last event goes out, and whatever the service gave is dropped.
    fn fail(&mut self, event: Bytes) -> PollFrame<Bytes, BoxError> {
        self.plan.verdict.give(EndReason::Failed);
        self.stage = Stage::Ended;
        Poll::Ready(Some(Ok(Frame::data(event))))
    }

    fn is_end(&self) -> bool {
        match &self.stage {
            Stage::Waiting(_) | Stage::Reading(_) => false,
            Stage::Spliced(body) => body.is_end_stream(),
            Stage::Ended => true,
        }
    }
}

impl<B> Stage<B> {
    fn of(response: Response<B>, plan: &Plan) -> Self {
        let (head, body) = response.into_parts();
        let body = Box::pin(body);
        match Answer::of(&head, plan) {
            None => Self::Spliced(body),
            Some(answer) => Self::Reading(Reading {
                body,
                answer,
                due: Instant::now() + READING,
                timer: Timer::default(),
            }),
        }
    }
}

impl<B> Reading<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        if self.poll_body(cx).is_pending() {
            ready!(self.timer.poll_until(self.due, cx));
        }
        Poll::Ready(self.answer.event())
    }

    /// Ready when there is nothing more, or nothing more is wanted.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..FRAMES_PER_POLL {
            if self.answer.is_full() {
                return Poll::Ready(());
            }
            match ready!(self.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.answer.on_data(&into_bytes(data));
                    }
                }
                Some(Err(error)) => {
                    let error: BoxError = error.into();
                    trace!(debug, "a late answer broke off", error = error);
                    return Poll::Ready(());
                }
                None => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<F, B, E> Answering<B> for F
where
    F: Future<Output = Result<Response<B>, E>> + Send,
    E: Into<BoxError>,
{
    fn poll_answer(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<B>, BoxError>> {
        self.poll(cx).map_err(Into::into)
    }
}

impl<B: Default> Default for EarlyOpenBody<B> {
    fn default() -> Self {
        Self::passed(B::default())
    }
}

impl<B> fmt::Debug for Waiting<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiting")
    }
}

/// Behind an end, an error or trailers a body is not polled.
fn is_last(frame: &Option<Result<Frame<Bytes>, BoxError>>) -> bool {
    match frame {
        Some(Ok(frame)) => frame.is_trailers(),
        Some(Err(_)) | None => true,
    }
}
