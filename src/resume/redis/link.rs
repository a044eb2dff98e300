use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, RedisError, RedisResult, ServerError,
    aio::MultiplexedConnection,
};
use rustls::crypto::{CryptoProvider, ring};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::resume::StoreError;

/// The connection that all short calls share. It is made when it is first needed, and again when
/// it was lost.
///
/// The crate's own `ConnectionManager` stays on a connection whose peer has vanished without a
/// word, and gives up for good when Redis refuses a connection by an answer: wrong password, too
/// many clients.
pub(super) struct Link {
    client: Client,
    /// How long a call may take, connecting included.
    patience: Duration,
    current: Mutex<Option<Attempt>>,
    health: Mutex<Health>,
}

/// How Redis was last seen.
#[derive(Clone, Copy, Default)]
enum Health {
    #[default]
    Good,
    Bad,
    GoodSince(Instant),
}

/// A connection, made in a task of its own: one that takes longer than a call may wait is there for
/// the next call.
type Attempt = watch::Receiver<Option<Result<MultiplexedConnection, Refusal>>>;

#[derive(Clone)]
struct Refusal {
    error: RedisError,
    at: Instant,
}

/// How long making a connection may take.
const CONNECTING: Duration = Duration::from_secs(5);

/// How long a failed attempt answers for those that come after it.
const PAUSE: Duration = Duration::from_millis(100);

impl Link {
    pub(super) fn new(client: Client, patience: Duration) -> Self {
        Self {
            client,
            patience,
            current: Mutex::default(),
            health: Mutex::default(),
        }
    }

    /// Asks Redis something that it answers at once.
    pub(super) async fn call<T, F>(
        &self,
        ask: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.answer(ask).await.map_err(StoreError::failed)
    }

    /// Has Redis store something, which it may refuse.
    pub(super) async fn write<T, F>(
        &self,
        ask: impl FnOnce(MultiplexedConnection) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = RedisResult<T>>,
    {
        self.answer(ask).await.map_err(|error| {
            if refuses(&error) {
                StoreError::refused(error)
            } else {
                StoreError::failed(error)
            }
        })
    }

    async fn answer<T, F>(&self, ask: impl FnOnce(MultiplexedConnection) -> F) -> RedisResult<T>
    where
        F: Future<Output = RedisResult<T>>,
    {
        let attempt = self.attempt();
        let answer = async { ask(connected(attempt.clone()).await?).await };
        let error = match timeout(self.patience, answer).await {
            Ok(Ok(answer)) => {
                self.note(true);
                return Ok(answer);
            }
            Ok(Err(error)) => error,
            Err(_) => timed_out(self.patience),
        };
        if breaks(&error) {
            self.note(false);
            self.give_up(&attempt);
        }
        Err(error)
    }

    /// Whether Redis works, on this connection or another.
    pub(super) fn note(&self, works: bool) {
        let mut health = self.health();
        *health = match (*health, works) {
            (_, false) => Health::Bad,
            (Health::Bad, true) => Health::GoodSince(Instant::now()),
            (good, true) => good,
        };
    }

    /// Whether Redis has worked for that long. A lease that has run out before tells nothing: there
    /// was no way to renew it.
    pub(super) fn is_good_for(&self, time: Duration) -> bool {
        match *self.health() {
            Health::Good => true,
            Health::Bad => false,
            Health::GoodSince(since) => Instant::now() >= since + time,
        }
    }

    fn attempt(&self) -> Attempt {
        let mut current = self.current();
        match &*current {
            Some(attempt) if is_of_use(attempt) => attempt.clone(),
            _ => current.insert(connect(self.client.clone())).clone(),
        }
    }

    /// The next call makes another connection, unless one did so before or is just doing it.
    fn give_up(&self, attempt: &Attempt) {
        let mut current = self.current();
        let is_open = matches!(&*attempt.borrow(), Some(Ok(_)));
        let lost = current.take_if(|current| is_open && current.same_channel(attempt));
        drop(current);
        drop(lost);
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> MutexGuard<'_, Option<Attempt>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(client: Client) -> Attempt {
    let (sender, attempt) = watch::channel(None);
    tokio::spawn(async move {
        let opened = open(&client, None).await;
        let at = Instant::now();
        sender.send_replace(Some(opened.map_err(|error| Refusal { error, at })));
    });
    attempt
}

fn is_of_use(attempt: &Attempt) -> bool {
    match &*attempt.borrow() {
        Some(Ok(_)) => true,
        Some(Err(refusal)) => Instant::now() < refusal.at + PAUSE,
        // Its task may have gone with its runtime.
        None => attempt.has_changed().is_ok(),
    }
}

async fn connected(mut attempt: Attempt) -> RedisResult<MultiplexedConnection> {
    let outcome = match attempt.wait_for(Option::is_some).await {
        Ok(outcome) => outcome.clone(),
        Err(_) => None,
    };
    let outcome = outcome.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
    outcome.map_err(|refusal| refusal.error)
}

/// A connection of its own; `patience` for each command, if the caller does not see to that.
pub(super) async fn open(
    client: &Client,
    patience: Option<Duration>,
) -> RedisResult<MultiplexedConnection> {
    let address = client.get_connection_info().addr();
    if matches!(address, ConnectionAddr::TcpTls { .. }) {
        choose_cryptography();
    }
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECTING))
        .set_response_timeout(patience);
    client
        .get_multiplexed_async_connection_with_config(&config)
        .await
}

/// rustls panics where two of them are linked in and nobody has chosen.
fn choose_cryptography() {
    if CryptoProvider::get_default().is_none() {
        let _ = ring::default_provider().install_default();
    }
}

fn timed_out(patience: Duration) -> RedisError {
    let message = format!("no answer from Redis within {patience:?}");
    io::Error::new(io::ErrorKind::TimedOut, message).into()
}

/// Whether a new connection may do better. After a time-out too: of a machine that has vanished the
/// kernel tells no sooner than after a quarter of an hour.
fn breaks(error: &RedisError) -> bool {
    let Some(errors) = error.clone().into_server_errors() else {
        return true;
    };
    errors.iter().any(|(_, error)| match error.code() {
        // A failover has made a replica of what we are connected to.
        "READONLY" | "NOAUTH" => true,
        _ => is_too_large(error),
    })
}

/// Whether Redis is full, or does not take something so large.
pub(super) fn refuses(error: &RedisError) -> bool {
    let errors = error.clone().into_server_errors();
    let mut errors = errors.iter().flat_map(|errors| errors.iter());
    errors.any(|(_, error)| is_full(error) || is_too_large(error))
}

/// Before Redis 7, that of a command in a script is but a part of the script's.
fn is_full(error: &ServerError) -> bool {
    let details = error.details().unwrap_or_default();
    error.code() == "OOM" || details.contains("-OOM command not allowed")
}

/// After this answer Redis closes the connection.
fn is_too_large(error: &ServerError) -> bool {
    error.details() == Some("Protocol error: invalid bulk length")
}

#[cfg(test)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    fn answered(line: &str) -> RedisError {
        match parse_redis_value(format!("-{line}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => error.into(),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn an_error_is_a_refusal_or_the_end_of_a_connection_or_neither() {
        // what Redis says, whether that is a refusal, and whether the connection is of no more use
        for (line, refusal, end) in [
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                true,
                false,
            ),
            (
                "ERR Error running script (call to f_1): @user_script:9: @user_script: 9: -OOM \
                 command not allowed when used memory > 'maxmemory'.",
                true,
                false,
            ),
            ("ERR Protocol error: invalid bulk length", true, true),
            (
                "ERR wrong number of arguments for 'get' command",
                false,
                false,
            ),
            (
                "READONLY You can't write against a read only replica.",
                false,
                true,
            ),
            ("NOAUTH Authentication required.", false, true),
            (
                "LOADING Redis is loading the dataset in memory",
                false,
                false,
            ),
            (
                "MISCONF Errors writing to the AOF file: No space left",
                false,
                false,
            ),
        ] {
            let error = answered(line);
            assert_eq!((refuses(&error), breaks(&error)), (refusal, end), "{line}");
        }
        let late = timed_out(Duration::from_secs(1));
        assert_eq!((refuses(&late), breaks(&late)), (false, true));
    }
}
