use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use redis::{Cmd, Pipeline, RedisResult, Value, aio::MultiplexedConnection, from_redis_value};
use tokio::{
    task,
    time::{Instant, sleep},
};

use super::{
    Shared,
    entry::Entry,
    link,
    waits::{Asked, BATCH, Need, News},
};
use crate::{
    jitter::Jitter,
    resume::{StoreError, StreamId},
};

/// Follows all streams that somebody waits for, on one connection of its own: while that blocks it
/// answers nobody else, and one for each who waits would be thousands.
struct Follower {
    shared: Arc<Shared>,
    connection: Option<MultiplexedConnection>,
    /// When a stream was last seen to go on.
    checked: HashMap<StreamId, Instant>,
    /// It went because nobody waited.
    is_done: bool,
}

/// Owner and end of a stream, as far as they are there.
type Record = (Option<String>, Option<String>);

/// What came, by the names of the logs.
type Answer = Vec<(String, Vec<Value>)>;

/// How long Redis waits for news at most, and how often streams are checked for an end of their
/// producer; less with a short lease.
const CYCLE: Duration = Duration::from_secs(1);

/// How long the follower waits after an error, doubled with each one more.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Waits until there is something behind event `after`.
pub(super) async fn wait(
    shared: &Arc<Shared>,
    stream: StreamId,
    after: u64,
    limit: usize,
) -> Result<News, StoreError> {
    let (ticket, need) = shared.waits.add(stream, after, limit);
    let shared = shared.clone();
    // In tasks of their own: others come to need them too.
    match need {
        Need::Nothing => {}
        Need::Follower => drop(task::spawn(Follower::new(shared).run())),
        Need::Call(number) => drop(task::spawn(async move { call(&shared, number).await })),
    }
    ticket.answer().await
}

/// Has the follower's question to Redis answered. Should this fail, that happens a second later.
async fn call(shared: &Shared, number: u64) {
    let key = shared.settings.keys.wake();
    let mut pipeline = Pipeline::new();
    pipeline.atomic();
    let add = pipeline.cmd("XADD").arg(&key).arg("MAXLEN").arg(1);
    add.arg(format!("{number}-0")).arg("w").arg("").ignore();
    let expire = pipeline.cmd("PEXPIRE").arg(&key);
    expire.arg(shared.settings.keep_ms()).ignore();
    let ask = async |mut connection| pipeline.exec_async(&mut connection).await;
    let _ = shared.link.call(ask).await;
}

impl Follower {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            connection: None,
            checked: HashMap::new(),
            is_done: false,
        }
    }

    async fn run(mut self) {
        let mut pause = PAUSES.0;
        while self.shared.waits.somebody().await {
            let outcome = self.cycle().await;
            self.shared.waits.back();
            self.shared.link.note(outcome.is_ok());
            let Err(error) = outcome else {
                pause = PAUSES.0;
                // Who was served and wants more is in the next question then, without a call.
                task::yield_now().await;
                continue;
            };
            self.shared.waits.fail(&error);
            sleep(Jitter::new(0.5).earlier(pause)).await;
            pause = (pause * 2).min(PAUSES.1);
        }
        self.is_done = true;
    }

    /// Asks Redis once. A connection that has worked before and does no more says little: Redis was
    /// restarted, or has closed what was idle. Only a new one tells whether it is down.
    async fn cycle(&mut self) -> RedisResult<()> {
        let old = self.connection.take();
        let is_new = old.is_none();
        let mut connection = match old {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        match self.ask(&mut connection).await {
            Ok(()) => self.connection = Some(connection),
            Err(error) if is_new => return Err(error),
            Err(_) => self.shared.link.note(false),
        }
        Ok(())
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let patience = self.block() + self.shared.settings.patience;
        link::open(&self.shared.settings.client, Some(patience)).await
    }

    async fn ask(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let asked = self.shared.waits.ask();
        let ended = self.check(connection, &asked).await?;
        for stream in &ended {
            self.shared.waits.look(*stream);
        }
        if ended.is_empty() {
            let answer: Option<Answer> = self.read(&asked).query_async(connection).await?;
            for (log, entries) in answer.unwrap_or_default() {
                self.serve(&asked, &log, entries);
            }
        }
        Ok(())
    }

    fn serve(&self, asked: &Asked, log: &str, entries: Vec<Value>) {
        let stream = self.shared.settings.keys.stream(log);
        let place = stream.and_then(|stream| Some((stream, *asked.places.get(&stream)?)));
        // The other one is the follower's own, by which it was called back.
        let Some((stream, place)) = place else {
            return;
        };
        let entries = entries.into_iter().map(from_redis_value);
        match entries.collect::<Result<Vec<Entry>, _>>() {
            Ok(entries) => self.shared.waits.serve(stream, place, &entries),
            // Whoever wrote into this stream: no other one may suffer from it.
            Err(_) => self.shared.waits.look(stream),
        }
    }

    fn read(&self, asked: &Asked) -> Cmd {
        let keys = &self.shared.settings.keys;
        let mut command = Cmd::new();
        command.arg("XREAD").arg("COUNT").arg(BATCH + 1);
        command.arg("BLOCK").arg(self.block().as_millis());
        command.arg("STREAMS").arg(keys.wake());
        for stream in asked.places.keys() {
            command.arg(keys.log(*stream));
        }
        command.arg(format!("{}-0", asked.calls));
        for place in asked.places.values() {
            command.arg(format!("{place}-0"));
        }
        command
    }

    /// The streams that no entry will come in: ended, lost or unknown. Each is looked at when it is
    /// first waited for, and then once a cycle.
    async fn check(
        &mut self,
        connection: &mut MultiplexedConnection,
        asked: &Asked,
    ) -> RedisResult<Vec<StreamId>> {
        let (now, cycle) = (Instant::now(), self.block());
        self.checked.retain(|_, checked| now < *checked + cycle);
        let streams = asked.places.keys().copied();
        let due: Vec<_> = streams
            .filter(|stream| !self.checked.contains_key(stream))
            .collect();
        if due.is_empty() {
            return Ok(due);
        }
        let records = self.records(connection, &due).await?;
        let owners = records.iter().filter_map(|(owner, _)| owner.clone());
        let alive = self.alive(connection, owners.collect()).await?;
        self.checked.extend(due.iter().map(|stream| (*stream, now)));
        let runs = |(owner, end): &Record| {
            end.is_none() && owner.as_ref().is_some_and(|owner| alive.contains(owner))
        };
        let ended = due.into_iter().zip(records);
        let ended = ended.filter(|(_, record)| !runs(record));
        Ok(ended.map(|(stream, _)| stream).collect())
    }

    async fn records(
        &self,
        connection: &mut MultiplexedConnection,
        streams: &[StreamId],
    ) -> RedisResult<Vec<Record>> {
        let mut pipeline = Pipeline::new();
        for stream in streams {
            let record = self.shared.settings.keys.record(*stream);
            pipeline.cmd("HMGET").arg(record).arg("owner").arg("end");
        }
        pipeline.query_async(connection).await
    }

    async fn alive(
        &self,
        connection: &mut MultiplexedConnection,
        owners: BTreeSet<String>,
    ) -> RedisResult<BTreeSet<String>> {
        let (settings, link) = (&self.shared.settings, &self.shared.link);
        if owners.is_empty() || !link.is_good_for(settings.lease) {
            return Ok(owners);
        }
        let mut pipeline = Pipeline::new();
        for owner in &owners {
            let lease = settings.keys.lease_of(owner);
            pipeline.cmd("EXISTS").arg(lease);
        }
        let exist: Vec<bool> = pipeline.query_async(connection).await?;
        let owners = owners.into_iter().zip(exist);
        Ok(owners
            .filter_map(|(owner, exists)| exists.then_some(owner))
            .collect())
    }

    fn block(&self) -> Duration {
        let shortest = Duration::from_millis(10);
        (self.shared.settings.lease / 4).clamp(shortest, CYCLE)
    }
}

impl Drop for Follower {
    /// Who waits in another runtime must not wait for ever when this one ends.
    fn drop(&mut self) {
        if !self.is_done {
            self.shared.waits.lost();
        }
    }
}
