use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Buf;
use http_body::Body;
use tokio::time::{Instant, sleep};

use super::{
    StreamEnd,
    about::About,
    cut::{Cut, Cutter},
    hub::Hold,
    keeper::Keeper,
    layer::Settings,
    live::{Bounds, LiveEnd, TAIL},
    log::Log,
    piece::{Piece, Place},
    stats::Count,
};
use crate::{error::BoxError, timer::Timer, trace::trace};

/// The producer of a stream: reads the service's body, has its events stored, and then shows them
/// to the readers. It outlives them by the grace time.
pub(super) struct Pump<B> {
    body: Option<Pin<Box<B>>>,
    cutter: Cutter,
    cuts: Vec<Cut>,
    /// What is shown in a turn; kept for its allocation, unless that is large.
    pieces: Vec<Piece>,
    log: Log,
    hold: Hold,
    settings: Arc<Settings>,
    timer: Timer,
}

/// What the producer has to do.
enum Turn {
    /// There are new pieces, or the store wants old ones.
    Store,
    /// Nobody has read it for too long.
    Unread,
    End(LiveEnd),
}

/// How many frames are taken at once: what is ready is stored together.
const FRAMES_PER_TURN: usize = 64;

/// How many bytes of them, about.
const BYTES_PER_TURN: usize = 32 * 1024;

/// How often the end of a stream is tried to be told to a store that is down.
const RETRY: Duration = Duration::from_millis(100);

/// How long the end of a stream waits for a store that is down: at least, and at most.
const WAITS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

impl<B> Pump<B>
where
    B: Body + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(body: B, hold: Hold, about: Arc<About>, settings: Arc<Settings>) -> Self {
        let Settings { log, max_age, .. } = *settings;
        Self {
            body: Some(Box::pin(body)),
            cutter: Cutter::new(log.bytes),
            cuts: Vec::new(),
            pieces: Vec::new(),
            log: Log::new(hold.hub.clone(), hold.stream, about, log, max_age),
            hold,
            settings,
            timer: Timer::default(),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            match poll_fn(|cx| self.poll_turn(cx)).await {
                Turn::Store => self.pass_on().await,
                Turn::Unread if self.hold.is_read_elsewhere().await => {}
                // From here on it is not to be found, so nobody comes too late.
                Turn::Unread if self.hold.release_unread() => {
                    return self.end(LiveEnd::Abandoned).await;
                }
                Turn::Unread => {}
                Turn::End(end) => return self.end(end).await,
            }
        }
    }

    /// Control before upstream, which may always be ready.
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        if let Poll::Ready(turn) = self.poll_stop(cx) {
            return Poll::Ready(turn);
        }
        if self.log.is_behind() {
            return Poll::Ready(Turn::Store);
        }
        let room = self.hold.live.room(self.settings.log);
        if room.is_over() {
            return Poll::Pending;
        }
        match self.poll_upstream(room, cx) {
            Poll::Ready(Some(end)) => return Poll::Ready(Turn::End(end)),
            // No event has ended so far: the others first.
            Poll::Ready(None) if self.cuts.is_empty() => cx.waker().wake_by_ref(),
            Poll::Ready(None) => {}
            Poll::Pending => self.cuts.extend(self.cutter.show()),
        }
        if self.cuts.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Turn::Store)
        }
    }

    /// Ready when somebody stops it, or nobody has read it for too long.
    fn poll_stop(&mut self, cx: &mut Context<'_>) -> Poll<Turn> {
        let live = &self.hold.live;
        if let Poll::Ready(end) = live.poll_stop(cx) {
            return Poll::Ready(Turn::End(end.into()));
        }
        let deadline = live
            .left()
            .and_then(|left| left.checked_add(self.settings.grace));
        match deadline {
            Some(deadline) => self.timer.poll_until(deadline, cx).map(|()| Turn::Unread),
            None => Poll::Pending,
        }
    }

    /// Takes what is there now, as far as there is room. Ready with the end, or when there may be
    /// more.
    fn poll_upstream(&mut self, room: Bounds, cx: &mut Context<'_>) -> Poll<Option<LiveEnd>> {
        let mut bytes = 0;
        for _ in 0..FRAMES_PER_TURN {
            let Some(body) = &mut self.body else {
                return Poll::Ready(Some(LiveEnd::Broken(None)));
            };
            match ready!(body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => bytes += self.cut(data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            return Poll::Ready(Some(LiveEnd::Complete(Some(trailers))));
                        }
                    }
                },
                Some(Err(error)) => return Poll::Ready(Some(LiveEnd::failed(error.into()))),
                None => return Poll::Ready(Some(LiveEnd::Complete(None))),
            }
            if bytes >= BYTES_PER_TURN.min(room.bytes) || self.cuts.len() >= room.count {
                break;
            }
        }
        Poll::Ready(None)
    }

    fn cut(&mut self, mut data: impl Buf) -> usize {
        let len = data.remaining();
        while data.has_remaining() {
            let chunk = data.chunk();
            let taken = chunk.len();
            self.cutter.push(chunk, &mut self.cuts);
            data.advance(taken);
        }
        len
    }

    /// First the store has the events, then the readers: whoever holds an id can come back with it.
    async fn pass_on(&mut self) {
        Keeper::ensure(&self.hold.hub);
        let now = Instant::now();
        for Cut { piece, event } in self.cuts.drain(..) {
            match event {
                Some(event) => self.log.push(event, now),
                None if piece.place == Place::End => {
                    self.hold.hub.counters.add(Count::Unstored);
                }
                None => {}
            }
            self.pieces.push(piece);
        }
        self.log.store(now).await;
        let pending = self.log.pending();
        self.hold.live.publish(&mut self.pieces, pending);
        self.pieces.clear();
        // A frame may have had a million events, and the stream may be silent from now on.
        self.pieces.shrink_to(TAIL.count);
        self.cuts.shrink_to(TAIL.count);
    }

    async fn end(mut self, end: LiveEnd) {
        // The service's work ends here, whatever the store still has to be told.
        self.body = None;
        self.cuts.extend(self.cutter.finish());
        self.pass_on().await;
        let stored = StreamEnd::from(&end);
        trace!(
            debug,
            "producer ended",
            stream = self.hold.stream,
            end = stored
        );
        if stored == StreamEnd::Abandoned {
            self.hold.hub.counters.add(Count::Abandoned);
        }
        self.hold.live.finish(end);
        self.close(stored).await;
    }

    /// A store that is down is waited for, as long as a reader would be.
    async fn close(&mut self, end: StreamEnd) {
        let grace = self.settings.grace.clamp(WAITS.0, WAITS.1);
        let give_up = Instant::now() + grace;
        let last = self.cutter.last();
        while !self.log.close(last, end).await {
            if Instant::now() >= give_up {
                return;
            }
            sleep(RETRY).await;
        }
    }
}
