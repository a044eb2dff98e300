use std::{mem, sync::Arc, time::Duration};

use http::response;
use tokio::time::timeout;

use super::{
    Page, StreamEnd, StreamId, Then,
    about::{About, Principal},
    ask::{Ask, Want},
    hub::Hub,
    live::{Seat, Standing},
    piece::scanner_of,
    reader::{FIRST_PAGE, Reader},
    stats::Count,
};
use crate::{
    trace::trace,
    wire::{EventId, Mark},
};

/// What is left of the stream that a client comes back to.
pub(super) enum Found {
    /// It goes on.
    Stream(Box<(response::Parts, StreamId, Reader)>),
    /// The client has all of it.
    Complete(Box<response::Parts>),
    /// Gone, unknown, somebody else's, or no id at all: nobody can tell from outside.
    Nothing,
}

/// A stream that the client may read.
struct Stream {
    hub: Arc<Hub>,
    id: StreamId,
    about: Arc<About>,
    /// It runs, or is followed, here.
    seat: Option<Seat>,
}

/// How many events are looked through at once for an id of the service's.
const PAGE: usize = 256;

/// How long somebody who comes back waits for a store that is down, before it counts as a loss.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long he waits altogether.
const LONGEST: Duration = Duration::from_secs(10);

pub(super) async fn find(hub: Arc<Hub>, ask: Ask) -> Found {
    let found = timeout(LONGEST, look(hub.clone(), ask)).await;
    let found = found.ok().flatten().unwrap_or(Found::Nothing);
    let count = match found {
        Found::Stream(_) => Count::Resumed,
        Found::Complete(_) => Count::Complete,
        Found::Nothing => Count::Lost,
    };
    trace!(debug, "client came back", count = count);
    hub.counters.add(count);
    found
}

async fn look(hub: Arc<Hub>, ask: Ask) -> Option<Found> {
    let stream = Stream::find(hub, ask.want.stream()?, &ask.principal).await?;
    match ask.want {
        // A stream with ids of the service gets none of ours.
        Want::AfterId(_, last) => {
            let number = stream.number_of(&last).await?;
            stream.go_on(number, false).await
        }
        Want::After(cursor) => stream.go_on(cursor.number, ask.ids).await,
        Want::New | Want::Nowhere => None,
    }
}

impl Stream {
    async fn find(hub: Arc<Hub>, id: StreamId, principal: &[u8]) -> Option<Self> {
        let principal = Principal::new(id, principal);
        let about = match hub.running(id) {
            Some(running) => running.about,
            None => {
                let about = hub.ask_again(PATIENCE, || hub.store.find(id)).await;
                let about = about.ok()??;
                Arc::new(About::decode(about)?)
            }
        };
        // Nobody else may so much as keep it running.
        (about.principal == principal).then(|| Self {
            seat: hub.join(id),
            hub,
            id,
            about,
        })
    }

    async fn go_on(self, after: u64, ids: bool) -> Option<Found> {
        match self.seat.as_ref().map(|seat| seat.standing(after)) {
            Some(Standing::Here) => Some(self.read(after, ids, None)),
            Some(Standing::Ended(end)) => self.over(StreamEnd::from(&end)),
            // The store shows an event a moment before it is shown here.
            Some(Standing::Ahead) if self.has(after).await => Some(self.read(after, ids, None)),
            Some(Standing::Ahead) => None,
            Some(Standing::Behind) | None => self.go_on_from_store(after, ids).await,
        }
    }

    async fn go_on_from_store(self, after: u64, ids: bool) -> Option<Found> {
        let store = &self.hub.store;
        let read = || store.read(self.id, after, FIRST_PAGE);
        let page = self.hub.ask_again(PATIENCE, read).await.ok()?;
        let seat = self.seat.as_ref();
        let to_come = seat.is_none_or(|seat| seat.is_to_come(after + 1));
        match (page.events.first(), page.then) {
            (Some(event), _) if event.number == after + 1 => {}
            // Where it is produced here, what is missing will not come, unless the store is late.
            (None, Then::Running) if to_come => {}
            (None, Then::Ended { last, end }) if after >= last => return self.over(end),
            _ => return None,
        }
        Some(self.read(after, ids, Some(page)))
    }

    async fn has(&self, number: u64) -> bool {
        let store = &self.hub.store;
        let page = self.hub.ask(store.read(self.id, number - 1, 1)).await;
        page.is_ok_and(|page| page.events.iter().any(|event| event.number == number))
    }

    fn read(self, after: u64, ids: bool, page: Option<Page>) -> Found {
        let head = self.about.head();
        let mut reader = Reader::new(self.hub, self.id, self.about, self.seat, after, ids);
        if page.is_some() {
            reader.on_page(page);
        }
        Found::Stream(Box::new((head, self.id, reader)))
    }

    /// There is nothing behind what the client has.
    fn over(&self, end: StreamEnd) -> Option<Found> {
        match end {
            StreamEnd::Complete | StreamEnd::Stopped => {
                Some(Found::Complete(Box::new(self.about.head())))
            }
            StreamEnd::Failed | StreamEnd::Abandoned => None,
        }
    }

    /// The last event up to which a client is whose last id is this one of the service's.
    async fn number_of(&self, id: &EventId) -> Option<u64> {
        let here = self.seat.as_ref();
        match here.and_then(|seat| seat.search(|piece| has_id(&piece.bytes, piece.number, id))) {
            Some(number) => Some(number),
            None => self.stored_number_of(id).await,
        }
    }

    async fn stored_number_of(&self, id: &EventId) -> Option<u64> {
        let store = &self.hub.store;
        let (mut number, mut after) = (None, 0);
        loop {
            let read = || store.read(self.id, after, PAGE);
            let page = self.hub.ask_again(PATIENCE, read).await.ok()?;
            for event in &page.events {
                number = has_id(&event.bytes, event.number, id).or(number);
                after = event.number;
            }
            if page.then != Then::More || page.events.is_empty() {
                return number;
            }
        }
    }
}

/// Up to which event a client is, at least, that has the id from this one. The id may stand in a
/// block before the event, without data: then it may not have seen the event.
fn has_id(bytes: &[u8], number: u64, id: &EventId) -> Option<u64> {
    let (mut last, mut found) = (false, None);
    scanner_of(number).scan(bytes, |mark| match mark {
        Mark::Field(field) if field.name == b"id" => last = field.value == id.as_str().as_bytes(),
        Mark::BlockEnd(block) if mem::take(&mut last) => {
            found = Some(number - u64::from(!block.data));
        }
        _ => {}
    });
    found
}
