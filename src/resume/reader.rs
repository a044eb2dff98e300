use std::{
    error::Error,
    fmt, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Frame;
use tokio::time::sleep;

use super::{
    IdLines, Page, StoredEvent, StreamId, Then,
    about::About,
    follow::{Follower, STORE_PATIENCE},
    hub::{Hub, RETRY},
    live::{LiveEnd, Reading, Seat, Spot},
    piece::Piece,
    stats::Count,
};
use crate::{error::BoxError, frames::PollFrame, outbox::Outbox, wire::BOM};

/// The body of a client that reads a stream: from the store, page by page, and then live.
pub(super) struct Reader {
    hub: Arc<Hub>,
    stream: StreamId,
    about: Arc<About>,
    spot: Spot,
    /// Where it sits once the stream runs, or is followed, here.
    seat: Option<Seat>,
    source: Source,
    /// For a client that gets ids, as long as the service has none of its own.
    ids: Option<IdLines>,
    /// What a turn has read; kept for its allocation, unless that is large.
    taken: Vec<Bytes>,
    outbox: Outbox,
    /// The client has had something.
    begun: bool,
    limit: usize,
}

enum Source {
    Live,
    /// Never locked: it makes the body `Sync`.
    Store(Mutex<Paging>),
    End(LiveEnd),
    Done,
}

/// `None` if there is no page to be had.
type Paging = Pin<Box<dyn Future<Output = Option<Page>> + Send>>;

/// The error of a stream that was broken off because it cannot be told to its end: the service's
/// body failed, its process died, or the reader fell behind what is kept.
///
/// The client comes back with the last id that it has, and is told then what is lost.
#[derive(Debug)]
pub struct Interrupted {
    cause: Option<Arc<BoxError>>,
}

/// How many events the first page may have; the size of the next follows from their bytes.
pub(super) const FIRST_PAGE: usize = 16;
const LONGEST_PAGE: usize = 1024;

/// How many bytes a page is to have, and a turn takes from the live end: what a client that does not
/// read keeps from others.
const BYTES_PER_TURN: usize = 32 * 1024;

/// Room for so many pieces is not worth giving back.
const FEW: usize = 32;

impl Reader {
    /// Behind event `after`; without a seat, in a stream that only the store has.
    pub(super) fn new(
        hub: Arc<Hub>,
        stream: StreamId,
        about: Arc<About>,
        seat: Option<Seat>,
        after: u64,
        ids: bool,
    ) -> Self {
        Self {
            hub,
            stream,
            about,
            spot: Spot::after(after),
            seat,
            source: Source::Live,
            ids: ids.then(|| IdLines::of(stream)),
            taken: Vec::new(),
            outbox: Outbox::default(),
            begun: false,
            limit: FIRST_PAGE,
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> PollFrame<Bytes, BoxError> {
        loop {
            if let Some(output) = self.outbox.take() {
                return Poll::Ready(Some(Ok(Frame::data(output.bytes))));
            }
            match &mut self.source {
                Source::Live => ready!(self.poll_live(cx)),
                Source::Store(paging) => {
                    let paging = paging.get_mut().unwrap_or_else(PoisonError::into_inner);
                    let page = ready!(paging.as_mut().poll(cx));
                    self.on_page(page);
                }
                Source::End(_) | Source::Done => return Poll::Ready(self.end()),
            }
        }
    }

    pub(super) fn is_end(&self) -> bool {
        let ended = matches!(
            self.source,
            Source::Done | Source::End(LiveEnd::Complete(None) | LiveEnd::Stopped)
        );
        ended && self.outbox.is_empty()
    }

    fn poll_live(&mut self, cx: &Context<'_>) -> Poll<()> {
        let Some(seat) = &self.seat else {
            self.source = self.page(false);
            return Poll::Ready(());
        };
        let first = self.spot.number + 1;
        let (spot, ids, taken) = (&mut self.spot, &mut self.ids, &mut self.taken);
        match ready!(seat.poll_read(spot, BYTES_PER_TURN, ids, taken, cx)) {
            Reading::Pieces => {
                let mut taken = mem::take(&mut self.taken);
                for bytes in taken.drain(..) {
                    self.push(first, bytes);
                }
                // Of those who caught up there may be thousands, silent from now on.
                taken.shrink_to(FEW);
                self.taken = taken;
            }
            Reading::Behind if self.spot.is_torn() => self.break_off(),
            Reading::Behind => self.source = self.page(false),
            Reading::Ended(end) => self.source = Source::End(end),
        }
        Poll::Ready(())
    }

    /// Asks the store for what comes next, and asks again while it is down: its faults are no reason
    /// to break a connection. If it `waits`, until there is something.
    fn page(&self, waits: bool) -> Source {
        let (hub, stream, limit) = (self.hub.clone(), self.stream, self.limit);
        let after = self.spot.number;
        let produced_here = self.seat.as_ref().is_some_and(Seat::is_produced);
        Source::Store(Mutex::new(Box::pin(async move {
            if waits && produced_here {
                sleep(RETRY).await;
            } else if waits {
                match hub.store.next(stream, after, limit).await {
                    Ok(page) if !page.says_nothing() => return Some(page),
                    _ => sleep(RETRY).await,
                }
            }
            let read = || hub.store.read(stream, after, limit);
            hub.ask_again(STORE_PATIENCE, read).await.ok()
        })))
    }

    pub(super) fn on_page(&mut self, page: Option<Page>) {
        self.source = Source::Live;
        let Some(Page { events, then }) = page else {
            return self.break_off();
        };
        self.limit = next_limit(&events);
        let some = !events.is_empty();
        for event in events {
            if event.number != self.spot.number + 1 {
                return self.break_off();
            }
            self.spot.turn_to(event.number);
            self.push_event(event);
        }
        match (then, self.seat.is_some()) {
            (Then::Ended { last, end }, _) if self.spot.number >= last => {
                self.source = Source::End(end.into());
            }
            (Then::Running, false) => self.follow(),
            // The live end knows better than the store.
            (Then::More, _) | (Then::Running | Then::Lost, true) if some => {}
            // Somebody else is further on, who had more than the store; or the store was down.
            (Then::Running, true) if self.is_to_come() => self.source = self.page(true),
            // What the live end says is missing is not in the store either.
            (Then::More | Then::Running | Then::Ended { .. } | Then::Lost, _) => self.break_off(),
        }
    }

    fn is_to_come(&self) -> bool {
        let seat = self.seat.as_ref();
        seat.is_some_and(|seat| seat.is_to_come(self.spot.number + 1))
    }

    /// The stream runs on another machine, and there is no more of it so far.
    fn follow(&mut self) {
        let (stream, after) = (self.stream, self.spot.number);
        let (hold, seat) = self.hub.follow(stream, self.about.clone(), after);
        self.seat = Some(seat);
        if let Some(hold) = hold {
            tokio::spawn(Follower::new(hold, after).run());
        }
    }

    fn push_event(&mut self, event: StoredEvent) {
        let number = event.number;
        let bytes = if self.ids.is_some() {
            Piece::of(event).told(&mut self.ids)
        } else {
            // What is in it matters to nobody.
            event.bytes
        };
        self.push(number, bytes);
    }

    /// Bytes of event `number`, or of one behind it if they are not the client's first.
    fn push(&mut self, number: u64, bytes: Bytes) {
        if !mem::replace(&mut self.begun, true) && number > 1 && bytes.starts_with(BOM) {
            // Not at the start of the stream it is a part of a name; the client takes off the first.
            self.outbox.push(Bytes::from_static(BOM));
        }
        self.outbox.push(bytes);
    }

    fn break_off(&mut self) {
        self.hub.counters.add(Count::BrokenOff);
        self.source = Source::End(LiveEnd::Broken(None));
    }

    fn end(&mut self) -> Option<Result<Frame<Bytes>, BoxError>> {
        self.seat = None;
        match mem::replace(&mut self.source, Source::Done) {
            Source::End(LiveEnd::Complete(Some(trailers))) => Some(Ok(Frame::trailers(trailers))),
            Source::End(LiveEnd::Broken(cause)) => Some(Err(Box::new(Interrupted { cause }))),
            Source::End(LiveEnd::Abandoned) => Some(Err(Box::new(Interrupted { cause: None }))),
            _ => None,
        }
    }
}

/// As many events as the wanted bytes hold, going by the last page; growing slowly, since the next
/// ones may be larger.
fn next_limit(events: &[StoredEvent]) -> usize {
    let bytes: usize = events.iter().map(|event| event.bytes.len()).sum();
    let fitting = events.len() * BYTES_PER_TURN / bytes.max(1);
    fitting.clamp(1, (2 * events.len()).clamp(FIRST_PAGE, LONGEST_PAGE))
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("stream", &self.stream)
            .field("spot", &self.spot)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("event stream broken off: the rest of it cannot be had here")
    }
}

impl Error for Interrupted {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause
            .as_deref()
            .map(|cause| cause.as_ref() as &(dyn Error + 'static))
    }
}
