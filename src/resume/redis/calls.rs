use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use redis::{Pipeline, ScriptInvocation};

use super::{
    RedisStore, Shared,
    entry::{Entry, page},
    follow, milliseconds,
    scripts::OPEN,
    waits::News,
};
use crate::resume::{
    Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, StreamId, Then,
};

/// What a plain read needs to know of a stream: owner, end and last number.
type Record = (Option<String>, Option<String>, Option<u64>);

/// Events that one read gives at most.
const MOST: usize = 1 << 16;

impl ResumeStore for RedisStore {
    fn open(&self, stream: StreamId, about: Bytes) -> StoreFuture<'_, ()> {
        StoreFuture::new(self.shared.open(stream, about))
    }

    fn append<'a>(
        &'a self,
        stream: StreamId,
        events: &'a [StoredEvent],
        keep_from: u64,
    ) -> StoreFuture<'a, ()> {
        StoreFuture::new(self.shared.append(stream, events, keep_from))
    }

    fn close(&self, stream: StreamId, last: u64, end: StreamEnd) -> StoreFuture<'_, ()> {
        StoreFuture::new(self.shared.close(stream, last, end))
    }

    fn renew<'a>(&'a self, streams: &'a [StreamId]) -> StoreFuture<'a, ()> {
        StoreFuture::new(self.shared.renew(streams))
    }

    fn lease(&self) -> Duration {
        self.shared.settings.lease
    }

    fn find(&self, stream: StreamId) -> StoreFuture<'_, Option<Bytes>> {
        StoreFuture::new(self.shared.find(stream))
    }

    fn read(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page> {
        StoreFuture::new(self.shared.read(stream, after, limit))
    }

    fn next(&self, stream: StreamId, after: u64, limit: usize) -> StoreFuture<'_, Page> {
        StoreFuture::new(async move {
            loop {
                let page = match follow::wait(&self.shared, stream, after, limit).await? {
                    News::Page(page) => page,
                    News::Look => self.shared.read(stream, after, limit).await?,
                };
                // It may have been lost and found again.
                if !page.events.is_empty() || page.then != Then::Running {
                    return Ok(page);
                }
            }
        })
    }
}

impl Shared {
    /// The lease comes first: a stream without one is lost to whoever reads it.
    async fn open(&self, stream: StreamId, about: Bytes) -> Result<(), StoreError> {
        let keys = &self.settings.keys;
        let mut pipeline = Pipeline::new();
        let lease = pipeline.cmd("SET").arg(keys.lease()).arg("");
        lease.arg("PX").arg(self.settings.lease_ms()).ignore();
        let open = pipeline.cmd("EVAL").arg(OPEN).arg(2);
        open.arg(keys.record(stream)).arg(keys.log(stream));
        open.arg(self.settings.keep_ms()).arg(&keys.owner);
        open.arg(&about[..]).ignore();
        let ask = async |mut connection| pipeline.exec_async(&mut connection).await;
        self.link.call(ask).await
    }

    async fn append(
        &self,
        stream: StreamId,
        events: &[StoredEvent],
        keep_from: u64,
    ) -> Result<(), StoreError> {
        let mut script = self.scripts.append.prepare_invoke();
        self.keys_and_keep(&mut script, stream).arg(keep_from);
        for event in events {
            script.arg(event.number).arg(&event.bytes[..]);
        }
        self.write(&script).await
    }

    async fn close(&self, stream: StreamId, last: u64, end: StreamEnd) -> Result<(), StoreError> {
        let mut script = self.scripts.close.prepare_invoke();
        self.keys_and_keep(&mut script, stream);
        script.arg(last).arg(end.as_str());
        self.write(&script).await
    }

    fn keys_and_keep<'s, 'i>(
        &self,
        script: &'s mut ScriptInvocation<'i>,
        stream: StreamId,
    ) -> &'s mut ScriptInvocation<'i> {
        let keys = &self.settings.keys;
        script.key(keys.record(stream)).key(keys.log(stream));
        script.arg(self.settings.keep_ms())
    }

    async fn write(&self, script: &ScriptInvocation<'_>) -> Result<(), StoreError> {
        let ask = async |mut connection| script.invoke_async(&mut connection).await;
        let is_there: bool = self.link.call(ask).await?;
        is_there.then_some(()).ok_or(StoreError::Unknown)
    }

    /// One lease for all streams, and a part of them to be kept. A full Redis lets a lease be
    /// prolonged, but not be set.
    async fn renew(&self, streams: &[StreamId]) -> Result<(), StoreError> {
        if streams.is_empty() {
            return Ok(());
        }
        let (lease, time) = (self.settings.keys.lease(), self.settings.lease_ms());
        let mut pipeline = Pipeline::new();
        pipeline.cmd("PEXPIRE").arg(&lease).arg(time);
        for stream in self.due(streams) {
            for key in [
                self.settings.keys.record(stream),
                self.settings.keys.log(stream),
            ] {
                let keep = self.settings.keep_ms();
                pipeline.cmd("PEXPIRE").arg(key).arg(keep).ignore();
            }
        }
        let ask = async |mut connection| pipeline.query_async(&mut connection).await;
        let (is_there,): (bool,) = self.link.call(ask).await?;
        if is_there {
            return Ok(());
        }
        let mut set = redis::cmd("SET");
        set.arg(lease).arg("").arg("PX").arg(time);
        let ask = async |mut connection| set.exec_async(&mut connection).await;
        self.link.call(ask).await
    }

    /// The streams whose time of keeping begins anew with this renewal: each has its turn once per
    /// quarter of that time, so that three may fail.
    fn due(&self, streams: &[StreamId]) -> impl Iterator<Item = StreamId> {
        let (keep, lease) = (self.settings.keep, self.settings.lease);
        let turns = milliseconds(keep / 4) / milliseconds(lease / 3).max(1);
        let turns = turns.max(1);
        let turn = self.renewals.fetch_add(1, Ordering::Relaxed) % turns;
        let streams = streams.iter().copied();
        streams.filter(move |stream| stream.bits() % u128::from(turns) == u128::from(turn))
    }

    async fn find(&self, stream: StreamId) -> Result<Option<Bytes>, StoreError> {
        let mut get = redis::cmd("HGET");
        get.arg(self.settings.keys.record(stream)).arg("about");
        let ask = async |mut connection| get.query_async(&mut connection).await;
        self.link.call(ask).await
    }

    async fn read(&self, stream: StreamId, after: u64, limit: usize) -> Result<Page, StoreError> {
        let limit = limit.min(MOST);
        let ((owner, end, last), entries) = self.look(stream, after, limit).await?;
        let owner = owner.ok_or(StoreError::Unknown)?;
        let mut page = page(entries, limit);
        if page.then != Then::Running {
            return Ok(page);
        }
        // Of a log that was trimmed or evicted, or of a place behind its end, the record tells.
        if let (Some(end), Some(last)) = (end, last) {
            let end = end
                .parse()
                .map_err(|_| StoreError::failed(format!("no end: {end:?}")))?;
            page.then = Then::Ended { last, end };
        } else if !self.is_alive(&owner).await? {
            page.then = Then::Lost;
        }
        Ok(page)
    }

    /// First the record, then the log: whatever ends in between has its end in the log.
    async fn look(
        &self,
        stream: StreamId,
        after: u64,
        limit: usize,
    ) -> Result<(Record, Vec<Entry>), StoreError> {
        let keys = &self.settings.keys;
        let mut pipeline = Pipeline::new();
        let record = pipeline.cmd("HMGET").arg(keys.record(stream));
        record.arg("owner").arg("end").arg("last");
        let log = pipeline.cmd("XRANGE").arg(keys.log(stream));
        log.arg(format!("({after}-0")).arg("+");
        log.arg("COUNT").arg(limit + 1);
        let ask = async |mut connection| pipeline.query_async(&mut connection).await;
        self.link.call(ask).await
    }

    async fn is_alive(&self, owner: &str) -> Result<bool, StoreError> {
        let mut exists = redis::cmd("EXISTS");
        exists.arg(self.settings.keys.lease_of(owner));
        let ask = async |mut connection| exists.query_async(&mut connection).await;
        self.link.call(ask).await
    }
}
