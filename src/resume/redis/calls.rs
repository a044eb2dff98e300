use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Pipeline, RedisResult, ScriptInvocation, Value, from_redis_value};

use super::{
    RedisStore, Shared,
    entry::{Entry, page},
    follow,
    leases::Renewal,
    link::refuses,
    scripts::{OPEN, TAKE},
    waits::News,
};
use crate::resume::{
    Page, ResumeStore, StoreError, StoreFuture, StoredEvent, StreamEnd, StreamId, Then,
};

/// What a plain read needs to know of a stream: owner, end and last number.
type Record = (Option<String>, Option<String>, Option<u64>);

/// Events that one read gives at most.
const MOST: usize = 1 << 16;

/// What Redis takes as one value, unless its `proto-max-bulk-len` says otherwise. It closes the
/// connection of who sends more, most likely before its answer is read.
const LARGEST: usize = 512 << 20;

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

    fn attend<'a>(
        &'a self,
        read: &'a [StreamId],
        unread: &'a [StreamId],
    ) -> StoreFuture<'a, Vec<StreamId>> {
        if read.is_empty() && unread.is_empty() {
            return StoreFuture::ready(Ok(Vec::new()));
        }
        StoreFuture::new(self.shared.attend(read, unread))
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
        pipeline.add_command(self.set_lease()).ignore();
        let open = pipeline.cmd("EVAL").arg(OPEN).arg(2);
        open.arg(keys.record(stream)).arg(keys.log(stream));
        open.arg(self.settings.keep_ms()).arg(&keys.owner);
        open.arg(&about[..]).ignore();
        let ask = async |mut connection| pipeline.exec_async(&mut connection).await;
        self.link.write(ask).await?;
        self.leases.opened(stream);
        Ok(())
    }

    async fn append(
        &self,
        stream: StreamId,
        events: &[StoredEvent],
        keep_from: u64,
    ) -> Result<(), StoreError> {
        if events.iter().any(|event| event.bytes.len() > LARGEST) {
            return Err(StoreError::refused("an event is larger than Redis takes"));
        }
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
        self.write(&script).await?;
        self.leases.closed(stream);
        Ok(())
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
        let is_there: bool = self.link.write(ask).await?;
        is_there.then_some(()).ok_or(StoreError::Unknown)
    }

    /// A full Redis lets a lease be prolonged and streams be lost, but nothing be set.
    async fn renew(&self, streams: &[StreamId]) -> Result<(), StoreError> {
        let renewal = self.leases.renew(streams);
        if streams.is_empty() && renewal.lost.is_empty() {
            return Ok(());
        }
        let ask = async |mut connection| {
            let pipeline = self.renewal(&renewal);
            let (is_there,): (bool,) = pipeline.query_async(&mut connection).await?;
            if !is_there {
                self.set_lease().exec_async(&mut connection).await?;
            }
            Ok(())
        };
        self.link.call(ask).await?;
        self.leases.renewed(&renewal);
        Ok(())
    }

    fn renewal(&self, renewal: &Renewal) -> Pipeline {
        let (keys, mut pipeline) = (&self.settings.keys, Pipeline::new());
        let lease = pipeline.cmd("PEXPIRE").arg(keys.lease());
        lease.arg(self.settings.lease_ms());
        for stream in &renewal.kept {
            for key in [keys.record(*stream), keys.log(*stream)] {
                let expire = pipeline.cmd("PEXPIRE").arg(key);
                expire.arg(self.settings.keep_ms()).ignore();
            }
        }
        for stream in &renewal.lost {
            let record = keys.record(*stream);
            pipeline.cmd("HDEL").arg(record).arg("owner").ignore();
        }
        for stream in &renewal.taken {
            let take = pipeline.cmd("EVAL").arg(TAKE).arg(1);
            take.arg(keys.record(*stream)).arg(&keys.owner).ignore();
        }
        pipeline
    }

    fn set_lease(&self) -> Cmd {
        self.set_for_a_lease(self.settings.keys.lease())
    }

    fn set_for_a_lease(&self, key: String) -> Cmd {
        let mut set = redis::cmd("SET");
        set.arg(key).arg("");
        set.arg("PX").arg(self.settings.lease_ms());
        set
    }

    /// A full Redis refuses to set what is new, and answers all the same.
    async fn attend(
        &self,
        read: &[StreamId],
        unread: &[StreamId],
    ) -> Result<Vec<StreamId>, StoreError> {
        let pipeline = self.attendance(read, unread);
        let ask = async |mut connection| {
            let mut set: Vec<RedisResult<Value>> = pipeline.query_async(&mut connection).await?;
            let counts = set.split_off(read.len());
            let mut failed = set.into_iter().filter_map(Result::err);
            if let Some(error) = failed.find(|error| !refuses(error)) {
                return Err(error);
            }
            let counts = counts.into_iter();
            counts.map(|count| Ok(from_redis_value(count?)?)).collect()
        };
        let counts: Vec<usize> = self.link.call(ask).await?;
        let told = unread.iter().zip(counts);
        // The stream and its reader.
        Ok(told
            .filter(|(_, count)| *count == 2)
            .map(|(stream, _)| *stream)
            .collect())
    }

    fn attendance(&self, read: &[StreamId], unread: &[StreamId]) -> Pipeline {
        let (keys, mut pipeline) = (&self.settings.keys, Pipeline::new());
        pipeline.ignore_errors();
        for stream in read {
            let key = keys.read(*stream);
            // What is there a full Redis does prolong.
            let expire = pipeline.cmd("PEXPIRE").arg(&key);
            expire.arg(self.settings.lease_ms()).ignore();
            pipeline.add_command(self.set_for_a_lease(key));
        }
        for stream in unread {
            let exist = pipeline.cmd("EXISTS").arg(keys.record(*stream));
            exist.arg(keys.read(*stream));
        }
        pipeline
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
        let last = last.ok_or(StoreError::Unknown)?;
        let mut page = page(entries, limit);
        if page.then != Then::Running {
            return Ok(page);
        }
        // Of a log that was trimmed or evicted, or of a place behind its end, the record tells.
        if let Some(end) = end {
            let no_end = |_| StoreError::failed(format!("no end: {end:?}"));
            let end = end.parse().map_err(no_end)?;
            page.then = Then::Ended { last, end };
        } else if !self.is_alive(owner).await? {
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

    async fn is_alive(&self, owner: Option<String>) -> Result<bool, StoreError> {
        let Some(owner) = owner else {
            return Ok(false);
        };
        let mut exists = redis::cmd("EXISTS");
        exists.arg(self.settings.keys.lease_of(&owner));
        let ask = async |mut connection| exists.query_async(&mut connection).await;
        let exists: bool = self.link.call(ask).await?;
        Ok(exists || !self.link.is_good_for(self.settings.lease))
    }
}
