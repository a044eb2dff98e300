//! A store in which one can see at a glance that it is right, and random calls of stores.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use proptest::{collection::vec, prelude::*, sample::select};
use tokio::time::Instant;
use tower_sse::resume::{Page, StoredEvent, StreamEnd, Then};

/// What is called, on one of a few streams.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Open(usize),
    Append(usize, Batch),
    Close(usize, StreamEnd),
    Renew(Vec<usize>),
    Attend(Vec<usize>, Vec<usize>),
    Find(usize),
    Read(usize, u64, usize),
    Wait(Duration),
}

/// Some events around the end of a stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Batch {
    /// How many of the numbers that were there it repeats.
    back: u64,
    /// How many numbers it leaves out, if it repeats none.
    gap: u64,
    count: u64,
    /// How many before the last are to stay; nothing for all.
    keep: Option<u64>,
}

/// What comes of a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Done(Result<(), Refused>),
    Found(Option<Bytes>),
    Read(Vec<usize>),
    Page(Result<Page, Refused>),
}

pub(crate) const STREAMS: usize = 4;

/// What a stream and an event take besides their bytes.
const STREAM_BYTES: usize = 512;
const EVENT_BYTES: usize = 128;

/// What is stored, and when it goes.
#[derive(Debug)]
pub(crate) struct Model {
    max_bytes: usize,
    keep: Duration,
    lease: Duration,
    pub(crate) evicted_streams: u64,
    pub(crate) evicted_events: u64,
    streams: BTreeMap<usize, Stream>,
    /// Counts who was the first.
    clock: u64,
}

#[derive(Debug)]
struct Stream {
    events: Vec<StoredEvent>,
    newest: u64,
    end: Option<(u64, StreamEnd)>,
    heard: Instant,
    read: Option<Instant>,
    /// Since when it has ended, or held events.
    since: u64,
}

/// Why a call did nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Unknown,
    Full,
}

pub(crate) fn about(stream: usize) -> Bytes {
    vec![stream as u8; stream * 50].into()
}

/// The same number always has the same bytes.
fn event(number: u64) -> StoredEvent {
    let bytes = vec![number as u8; number as usize * 37 % 200].into();
    StoredEvent { number, bytes }
}

pub(crate) fn calls(waits: bool) -> impl Strategy<Value = Vec<Call>> {
    let stream = 0..STREAMS;
    let keep = proptest::option::of(0..6_u64);
    let batch = (0..4_u64, 0..3_u64, 0..6_u64, keep);
    let batch = batch.prop_map(|(back, gap, count, keep)| Batch {
        back,
        gap: if back == 0 && count > 0 { gap } else { 0 },
        count,
        keep,
    });
    let append = (stream.clone(), batch).prop_map(|(stream, batch)| Call::Append(stream, batch));
    let ends = [StreamEnd::Complete, StreamEnd::Failed];
    let wait = (0..12_u64)
        .prop_map(Duration::from_secs)
        .prop_map(Call::Wait);
    let call = prop_oneof![
        4 => stream.clone().prop_map(Call::Open),
        8 => append,
        1 => (stream.clone(), select(ends.to_vec())).prop_map(|(stream, end)| Call::Close(stream, end)),
        1 => vec(stream.clone(), 0..3).prop_map(Call::Renew),
        2 => (vec(stream.clone(), 0..3), vec(stream.clone(), 0..5)).prop_map(|(read, unread)| Call::Attend(read, unread)),
        1 => stream.clone().prop_map(Call::Find),
        4 => (stream, 0..20_u64, 0..8_usize).prop_map(|(stream, after, limit)| Call::Read(stream, after, limit)),
        if waits { 4 } else { 0 } => wait,
    ];
    vec(call, 0..100)
}

impl Model {
    pub(crate) fn new(max_bytes: usize, keep: Duration, lease: Duration) -> Self {
        Self {
            max_bytes,
            keep,
            lease,
            evicted_streams: 0,
            evicted_events: 0,
            streams: BTreeMap::new(),
            clock: 0,
        }
    }

    pub(crate) fn answer(&mut self, call: &Call) -> Answer {
        match call {
            Call::Open(stream) => Answer::Done(self.open(*stream)),
            Call::Append(stream, batch) => {
                let (events, keep_from) = self.batch(*stream, *batch);
                Answer::Done(self.append(*stream, &events, keep_from))
            }
            Call::Close(stream, end) => Answer::Done(self.close(*stream, *end)),
            Call::Renew(streams) => Answer::Done(self.renew(streams)),
            Call::Attend(read, unread) => Answer::Read(self.attend(read, unread)),
            Call::Find(stream) => Answer::Found(self.find(*stream)),
            Call::Read(stream, after, limit) => Answer::Page(self.read(*stream, *after, *limit)),
            Call::Wait(_) => Answer::Done(Ok(())),
        }
    }

    /// The events of a batch, and the number from which they are to stay.
    pub(crate) fn batch(&self, stream: usize, batch: Batch) -> (Vec<StoredEvent>, u64) {
        let newest = self.newest(stream);
        let before = newest.saturating_sub(batch.back) + batch.gap;
        let last = before + batch.count;
        let keep = batch
            .keep
            .map_or(0, |keep| newest.max(last).saturating_sub(keep));
        ((before + 1..=last).map(event).collect(), keep)
    }

    fn open(&mut self, stream: usize) -> Result<(), Refused> {
        if let Ok(known) = self.stream(stream) {
            known.heard = Instant::now();
            return Ok(());
        }
        self.make_room(STREAM_BYTES + about(stream).len())?;
        let new = Stream {
            events: Vec::new(),
            newest: 0,
            end: None,
            heard: Instant::now(),
            read: None,
            since: 0,
        };
        self.streams.insert(stream, new);
        Ok(())
    }

    /// The number of the newest event, 0 where there is none.
    pub(crate) fn newest(&self, stream: usize) -> u64 {
        self.streams.get(&stream).map_or(0, |stream| stream.newest)
    }

    fn append(
        &mut self,
        stream: usize,
        events: &[StoredEvent],
        keep_from: u64,
    ) -> Result<(), Refused> {
        self.stream(stream)?;
        self.make_room(events.iter().map(size).sum())?;
        self.clock += 1;
        let clock = self.clock;
        let stream = self.stream(stream)?;
        let held_none = stream.events.is_empty();
        for event in events {
            if event.number > stream.newest {
                stream.newest = event.number;
                stream.events.push(event.clone());
            }
        }
        if held_none && stream.end.is_none() {
            stream.since = clock;
        }
        stream.events.retain(|event| event.number >= keep_from);
        stream.heard = Instant::now();
        Ok(())
    }

    fn close(&mut self, stream: usize, end: StreamEnd) -> Result<(), Refused> {
        self.clock += 1;
        let clock = self.clock;
        let stream = self.stream(stream)?;
        if stream.end.is_none() {
            stream.since = clock;
        }
        stream.end = Some((stream.newest, end));
        stream.heard = Instant::now();
        Ok(())
    }

    fn renew(&mut self, streams: &[usize]) -> Result<(), Refused> {
        for stream in streams {
            if let Ok(stream) = self.stream(*stream) {
                stream.heard = Instant::now();
            }
        }
        Ok(())
    }

    fn attend(&mut self, read: &[usize], unread: &[usize]) -> Vec<usize> {
        for stream in read {
            if let Ok(stream) = self.stream(*stream) {
                stream.read = Some(Instant::now());
            }
        }
        let lease = self.lease;
        let mut told = unread.to_vec();
        told.retain(|stream| {
            let read = self.stream(*stream).ok().and_then(|stream| stream.read);
            read.is_some_and(|read| read.elapsed() < lease)
        });
        told
    }

    fn find(&mut self, stream: usize) -> Option<Bytes> {
        self.stream(stream).is_ok().then(|| about(stream))
    }

    fn read(&mut self, stream: usize, after: u64, limit: usize) -> Result<Page, Refused> {
        let lease = self.lease;
        let stream = self.stream(stream)?;
        let rest = stream.events.iter().filter(|event| event.number > after);
        let rest: Vec<_> = rest.cloned().collect();
        let then = match stream.end {
            _ if rest.len() > limit => Then::More,
            Some((last, end)) => Then::Ended { last, end },
            None if stream.heard.elapsed() < lease => Then::Running,
            None => Then::Lost,
        };
        let events = rest.into_iter().take(limit).collect();
        Ok(Page { events, then })
    }

    pub(crate) fn used(&self) -> usize {
        let streams = self.streams.iter().map(|(id, stream)| {
            let events: usize = stream.events.iter().map(size).sum();
            STREAM_BYTES + about(*id).len() + events
        });
        streams.sum()
    }

    fn stream(&mut self, stream: usize) -> Result<&mut Stream, Refused> {
        let keep = self.keep;
        self.streams
            .retain(|_, stream| stream.heard.elapsed() < keep);
        self.streams.get_mut(&stream).ok_or(Refused::Unknown)
    }

    fn make_room(&mut self, bytes: usize) -> Result<(), Refused> {
        while self.used() + bytes > self.max_bytes {
            if bytes > self.max_bytes || !self.evict() {
                return Err(Refused::Full);
            }
        }
        Ok(())
    }

    fn evict(&mut self) -> bool {
        let ended = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.end.is_some());
        let first = ended.min_by_key(|(_, stream)| stream.since);
        if let Some(id) = first.map(|(id, _)| *id) {
            let gone = self
                .streams
                .remove(&id)
                .map_or(0, |stream| stream.events.len());
            self.evicted_streams += 1;
            self.evicted_events += gone as u64;
            return true;
        }
        let holding = self.streams.values_mut();
        let holding = holding.filter(|stream| !stream.events.is_empty());
        let Some(first) = holding.min_by_key(|stream| stream.since) else {
            return false;
        };
        first.events.remove(0);
        self.evicted_events += 1;
        true
    }
}

fn size(event: &StoredEvent) -> usize {
    EVENT_BYTES + event.bytes.len()
}
