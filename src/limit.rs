use std::{
    collections::{HashMap, hash_map::RandomState},
    fmt,
    hash::BuildHasher as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::request;

use crate::{
    client::{Client, accepts_events},
    jitter::{Jitter, LONGEST},
    judge::Judge,
    refusal::{Refusal, RefusedBy},
};

/// Limits how many event streams are open at once, in total and for each principal.
///
/// tower's `ConcurrencyLimit` lets go when the response head is there, and an event stream only
/// begins then. Here a stream holds its place until its body is gone, however it ends: by itself, by
/// an error or a panic, with its client, by a [drain](crate::DrainLayer), at the end of its
/// [life time](crate::LifetimeLayer), or because nobody [reads](crate::StallLayer) it.
///
/// A stream over the limit is refused with 503, one over the limit of its principal with 429, both
/// with `Retry-After`. An `EventSource` would take either for a "never again", so it gets a 200, a
/// `retry`, and an end, and comes back by itself until there is room.
///
/// Whoever [asks](Self::asks) for a stream is refused before the service is called. Of all others
/// it is only known when the service has answered; what it gave is then dropped. Put CORS outside of
/// this layer, or a page of another origin cannot see the refusal.
///
/// Off in [`SseLayer`](crate::SseLayer) until it is handed one. Responses that are no event stream
/// are not counted, and neither are the connections: these are the listener's.
///
/// ```
/// use http::header::AUTHORIZATION;
/// use tower_sse::{LimitLayer, SseLayer};
///
/// let limit = LimitLayer::new().max_streams(20_000).max_per_principal(10, |request| {
///     let key = request.headers.get(AUTHORIZATION)?;
///     Some(key.as_bytes().to_vec())
/// });
/// let layer = SseLayer::new().limit(limit.clone());
/// assert_eq!(limit.open(), 0);
/// # drop(layer);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct LimitLayer {
    room: Arc<Room>,
    total: usize,
    each: usize,
    principal: Option<Judge<Option<Vec<u8>>>>,
    asks: Judge<bool>,
    retry: Duration,
    jitter: Jitter,
}

/// Where a request stands with the limit before its response.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It has its place.
    In(Permit),
    /// It gets one if it becomes a stream; the hash of who asks.
    Later(Option<u64>),
}

/// A place; dropped, it is free for others.
#[derive(Debug)]
pub(crate) struct Permit {
    room: Arc<Room>,
    principal: Option<u64>,
}

/// The places that are taken.
#[derive(Default)]
struct Room {
    taken: Mutex<Taken>,
    /// Keyed anew in each process: nobody can make a principal that is counted as another.
    hasher: RandomState,
}

#[derive(Default)]
struct Taken {
    total: usize,
    each: HashMap<u64, usize>,
}

impl LimitLayer {
    /// Without a limit, until it is told one. Clones count together.
    pub fn new() -> Self {
        Self {
            room: Arc::default(),
            total: usize::MAX,
            each: usize::MAX,
            principal: None,
            asks: Judge::new(accepts_events),
            retry: Duration::from_secs(5),
            jitter: Jitter::new(0.5),
        }
    }

    /// How many streams may be open at once. Default: any number. Zero refuses all.
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.total = streams;
        self
    }

    /// How many streams may be open at once of whoever `who` says that asks: an address, a key, a
    /// user. Default: any number. Zero refuses all. Of `None` only the total is counted.
    ///
    /// Of what `who` says only a hash is kept, and nothing of who has no stream.
    pub fn max_per_principal(
        mut self,
        streams: usize,
        who: impl Fn(&request::Parts) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        self.each = streams;
        self.principal = Some(Judge::new(who));
        self
    }

    /// Which requests are for a stream, so that they can be refused before the service is called.
    /// Default: those whose `Accept` names `text/event-stream`.
    ///
    /// If the response is no stream after all, the place is free again with its head.
    pub fn asks(mut self, when: impl Fn(&request::Parts) -> bool + Send + Sync + 'static) -> Self {
        self.asks = Judge::new(when);
        self
    }

    /// When who was refused should come back. Default: 5 seconds. More than a year is taken as one.
    pub fn retry(mut self, after: Duration) -> Self {
        self.retry = after.min(LONGEST);
        self
    }

    /// The share by which that is spread around its time, between 0 (not at all) and 1. Default:
    /// 0.5.
    pub fn jitter(mut self, share: f64) -> Self {
        self.jitter = Jitter::new(share);
        self
    }

    /// How many streams are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.room.taken().total
    }

    pub(crate) fn on_request(
        &self,
        request: &request::Parts,
        client: Client,
    ) -> Result<Admission, Refusal> {
        let who = self.principal.as_ref().and_then(|who| who.of(request));
        let principal = who.map(|who| self.room.hasher.hash_one(who));
        if client.wants_head || !self.asks.of(request) {
            return Ok(Admission::Later(principal));
        }
        self.take(principal, client).map(Admission::In)
    }

    /// The place of a response that is a stream.
    pub(crate) fn on_response(
        &self,
        admission: Admission,
        client: Client,
    ) -> Result<Permit, Refusal> {
        match admission {
            Admission::In(permit) => Ok(permit),
            Admission::Later(principal) => self.take(principal, client),
        }
    }

    fn take(&self, principal: Option<u64>, client: Client) -> Result<Permit, Refusal> {
        let full = self.room.take(principal, self.total, self.each).err();
        match full {
            None => Ok(Permit {
                room: self.room.clone(),
                principal,
            }),
            Some(by) => Err(Refusal {
                by,
                client,
                after: Some(self.jitter.around(self.retry)),
            }),
        }
    }
}

impl Room {
    fn take(&self, principal: Option<u64>, total: usize, each: usize) -> Result<(), RefusedBy> {
        let mut taken = self.taken();
        if taken.total >= total {
            return Err(RefusedBy::Limit);
        }
        if let Some(principal) = principal {
            let theirs = taken.each.get(&principal).copied().unwrap_or(0);
            if theirs >= each {
                return Err(RefusedBy::PrincipalLimit);
            }
            taken.each.insert(principal, theirs + 1);
        }
        taken.total += 1;
        Ok(())
    }

    fn give_back(&self, principal: Option<u64>) {
        let mut taken = self.taken();
        taken.total -= 1;
        if let Some(principal) = principal
            && let Some(theirs) = taken.each.get_mut(&principal)
        {
            *theirs -= 1;
            if *theirs == 0 {
                taken.each.remove(&principal);
            }
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.room.give_back(self.principal);
    }
}

impl Default for LimitLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let taken = self.taken();
        f.debug_struct("Room")
            .field("total", &taken.total)
            .field("principals", &taken.each.len())
            .finish()
    }
}
