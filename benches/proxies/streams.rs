//! Streams through a proxy, both ends of them, and the ways in which events are sent.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use futures_util::future::{join_all, try_join_all};
use tokio::{
    task::{JoinSet, yield_now},
    time::sleep,
};

use crate::{
    Trouble,
    events::Shape,
    load::{Arrivals, Client},
    origin::{Origin, Source},
};

pub(crate) struct Streams {
    shape: Shape,
    sources: Vec<Source>,
    pub(crate) arrivals: Rc<Arrivals>,
    /// Events that were sent, or are to be.
    sent: u64,
    _readers: JoinSet<()>,
}

/// Opened at once, so that no queue of connections overflows.
const BATCH: usize = 50;

/// A proxy that takes no byte for so long has stopped reading.
const STOPPED: Duration = Duration::from_secs(1);

impl Streams {
    /// Opens so many, and waits until an event has come through each.
    pub(crate) async fn open(
        origin: &mut Origin,
        proxy: SocketAddr,
        count: usize,
        shape: Shape,
    ) -> Result<Self, Trouble> {
        let arrivals = Rc::<Arrivals>::default();
        let mut readers = JoinSet::new();
        let mut sources = Vec::with_capacity(count);
        for first in (0..count).step_by(BATCH) {
            let batch = first..count.min(first + BATCH);
            let clients = connect(proxy, batch.clone(), shape).await?;
            for client in clients {
                readers.spawn_local(client.read(arrivals.clone()));
            }
            for _ in batch {
                sources.push(opened(origin, &arrivals, shape).await?);
            }
        }
        let mut streams = Self {
            shape,
            sources,
            arrivals,
            sent: 0,
            _readers: readers,
        };
        streams.round().await?;
        Ok(streams)
    }

    /// Each stream gets so many events as fast as they are taken, many with each system call.
    pub(crate) async fn flood(&mut self, each: u64) -> Result<(), Trouble> {
        let each = each.next_multiple_of(self.shape.chunk as u64);
        self.sent += each * self.sources.len() as u64;
        let written = join_all(self.sources.iter_mut().map(|source| source.flood(each)));
        // a write that fails is the proxy's end, of which the reader tells
        tokio::select! {
            arrived = self.arrivals.until(self.sent) => arrived,
            () = async { written.await; std::future::pending().await } => Ok(()),
        }
    }

    /// Each stream gets a chunk by a write of its own; all must arrive.
    pub(crate) async fn round(&mut self) -> Result<(), Trouble> {
        self.sent += (self.sources.len() * self.shape.chunk) as u64;
        for source in &mut self.sources {
            source.chunk().await?;
        }
        self.arrivals.until(self.sent).await
    }

    pub(crate) async fn rounds(&mut self, rounds: u64) -> Result<(), Trouble> {
        for _ in 0..rounds {
            self.round().await?;
        }
        Ok(())
    }

    /// Each stream gets a chunk at each interval, one stream after the other, evenly. It is a busy
    /// wait: the runtime's timer has a resolution of 1 ms.
    pub(crate) async fn paced(&mut self, interval: Duration, times: u32) -> Result<(), Trouble> {
        let gap = interval / self.sources.len() as u32;
        let mut due = Instant::now();
        for _ in 0..times {
            for source in &mut self.sources {
                while Instant::now() < due {
                    yield_now().await;
                }
                source.chunk().await?;
                due += gap;
            }
            self.arrivals.check()?;
        }
        self.sent += u64::from(times) * (self.sources.len() * self.shape.chunk) as u64;
        self.arrivals.until(self.sent).await
    }
}

async fn connect(
    proxy: SocketAddr,
    streams: std::ops::Range<usize>,
    shape: Shape,
) -> Result<Vec<Client>, Trouble> {
    let clients = streams.map(|stream| Client::open(proxy, stream, shape.size));
    Ok(try_join_all(clients).await?)
}

/// The request of a client, unless the proxy answers by itself.
async fn opened(origin: &mut Origin, arrivals: &Arrivals, shape: Shape) -> Result<Source, Trouble> {
    let opened = origin.opened(shape).await;
    // what the reader tells is more to the point
    opened.or_else(|error| arrivals.check().and(Err(error)))
}

/// Floods streams whose clients do not read, until nothing is taken any more, and then measures.
pub(crate) async fn stall<T>(
    origin: &mut Origin,
    proxy: SocketAddr,
    count: usize,
    shape: Shape,
    measure: impl FnOnce() -> T,
) -> Result<T, Trouble> {
    let mut clients = Vec::new();
    let mut written = Vec::new();
    let mut floods = JoinSet::new();
    for first in (0..count).step_by(BATCH) {
        let batch = first..count.min(first + BATCH);
        for client in connect(proxy, batch.clone(), shape).await? {
            client.small_buffer()?;
            clients.push(client);
        }
        for _ in batch {
            let mut source = origin.opened(shape).await?;
            source.small_buffer()?;
            written.push(source.written.clone());
            floods.spawn_local(async move { source.flood(u64::MAX).await });
        }
    }
    let total = || written.iter().map(|written| written.get()).sum::<u64>();
    let mut before = 0;
    while before != total() {
        before = total();
        sleep(STOPPED).await;
    }
    let measured = measure();
    drop(clients);
    Ok(measured)
}
