use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    Page, StoreError, Then,
    hub::{Hold, RETRY},
    keeper::Keeper,
    live::{LiveEnd, TAIL},
    piece::Piece,
    stats::Count,
};

/// Shows the readers here a stream that is produced on another machine: one task per stream, however
/// many they are.
pub(super) struct Follower {
    hold: Hold,
    /// The last event that was shown.
    number: u64,
    /// Since when the store has failed.
    failing: Option<Instant>,
}

/// How many events are asked for at once.
const PAGE: usize = 64;

/// How long readers wait for a store that is down before they are sent away.
pub(super) const STORE_PATIENCE: Duration = Duration::from_secs(30);

impl Follower {
    pub(super) fn new(hold: Hold, after: u64) -> Self {
        Self {
            hold,
            number: after,
            failing: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            Keeper::ensure(&self.hold.hub);
            let end = match self.next().await {
                Some(answer) => self.on_answer(answer).await,
                None if self.hold.release_unread() => return,
                // Somebody came at the last moment.
                None => None,
            };
            if let Some(end) = end {
                return self.hold.live.finish(end);
            }
        }
    }

    /// What the store has next; `None` if nobody wants it any more.
    async fn next(&self) -> Option<Result<Page, StoreError>> {
        let Hold { hub, stream, live } = &self.hold;
        poll_fn(|cx| self.poll_wanted(cx)).await?;
        let mut next = pin!(hub.store.next(*stream, self.number, PAGE));
        poll_fn(|cx| match live.poll_unread(cx) {
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => next.as_mut().poll(cx).map(Some),
        })
        .await
    }

    /// Ready when the fastest reader wants more, or nobody any.
    fn poll_wanted(&self, cx: &Context<'_>) -> Poll<Option<()>> {
        let live = &self.hold.live;
        if live.poll_unread(cx).is_ready() {
            Poll::Ready(None)
        } else if live.room(TAIL).is_over() {
            Poll::Pending
        } else {
            Poll::Ready(Some(()))
        }
    }

    async fn on_answer(&mut self, answer: Result<Page, StoreError>) -> Option<LiveEnd> {
        match answer {
            Ok(page) if page.says_nothing() => self.on_fault().await,
            Ok(page) => {
                self.failing = None;
                self.on_page(page)
            }
            Err(StoreError::Unknown) => Some(LiveEnd::Broken(None)),
            Err(StoreError::Refused(_) | StoreError::Failed(_)) => self.on_fault().await,
        }
    }

    /// The readers wait for the store to be back, but not for ever.
    async fn on_fault(&mut self) -> Option<LiveEnd> {
        self.hold.hub.counters.add(Count::StoreFaults);
        let since = *self.failing.get_or_insert_with(Instant::now);
        sleep(RETRY).await;
        (since.elapsed() > STORE_PATIENCE).then_some(LiveEnd::Broken(None))
    }

    fn on_page(&mut self, page: Page) -> Option<LiveEnd> {
        if let Some(event) = page.events.last() {
            self.number = event.number;
        }
        let mut pieces = page.events.into_iter().map(Piece::of).collect();
        self.hold.live.publish(&mut pieces, None);
        match page.then {
            Then::More | Then::Running => None,
            Then::Ended { last, end } if self.number >= last => Some(end.into()),
            Then::Ended { .. } | Then::Lost => Some(LiveEnd::Broken(None)),
        }
    }
}
