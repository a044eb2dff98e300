mod calls;
mod entry;
mod follow;
mod keys;
mod leases;
mod link;
mod scripts;
mod waits;

use std::{fmt, sync::Arc, time::Duration};

use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisResult,
    TlsCertificates, io::tcp::TcpSettings,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use self::{keys::Keys, leases::Leases, link::Link, scripts::Scripts, waits::Waits};
use super::StreamId;
use crate::error::BoxError;

/// Keeps streams in Redis or Valkey, for services that run on more than one machine.
///
/// A client that comes back reaches another machine, or the machine of its stream has died: with
/// this store any machine answers from the log, and one that waits for the rest of a stream gets it
/// as it is produced elsewhere.
///
/// ```no_run
/// use std::time::Duration;
/// use tower_sse::resume::RedisStore;
///
/// # fn store() -> Result<RedisStore, tower_sse::BoxError> {
/// let store = RedisStore::new("rediss://:secret@redis.internal:6379")?
///     .prefix("chat:")
///     .keep(Duration::from_secs(15 * 60));
/// # Ok(store)
/// # }
/// ```
///
/// Clones are handles to the same store. A setting makes another one, with connections of its own:
/// set first, clone then.
///
/// # What is in Redis
///
/// | key | type | for |
/// |---|---|---|
/// | `tower-sse:{<stream>}` | hash | what the layer wants to know again, the producer, the last number, the end |
/// | `tower-sse:{<stream>}:log` | stream | an entry `<n>-0` per event, `<last>-1` for the end |
/// | `tower-sse:{<stream>}:read` | string | somebody reads it away from its producer; there for a lease |
/// | `tower-sse:owner:<random>` | string | the lease of one process |
/// | `tower-sse:wake:<random>` | stream | calls the blocking reader of one process back |
///
/// Every key has a time to live, also after a crash. All names are made of the prefix and of random
/// ids that were parsed; nothing that a client sent is ever part of a key.
///
/// # What it costs
///
/// Two connections per process, however many streams and readers there are. An append is one round
/// trip, a script call, whatever the number of its events. The lease of all streams is one command
/// per renewal, plus two per stream and quarter of the time of keeping. All readers of a process that wait share
/// one `XREAD`, and an event that many of them wait for is read once; for each stream that is
/// waited for, one `HMGET` a second tells whether its producer is alive. With each renewal come two
/// commands per stream that is read away from its producer, and one per stream whose producer has
/// no reader beside it, in one round trip. An event takes its own bytes and a few more.
///
/// # What Redis needs
///
/// Redis 6.2 or newer, or Valkey; a single server, a replicated one behind one name, or a proxy. A
/// cluster's own protocol is not spoken.
///
/// - `maxmemory-policy noeviction` or `volatile-ttl`. The other policies may throw a part of a
///   running stream away, which its readers see as a gap.
/// - Persistence is as you like it. What a restart loses is lost to clients that come back later;
///   streams that are under way are opened anew and go on.
/// - The user needs `EVALSHA`, `EVAL`, `SCRIPT LOAD`, `MULTI` and the plain commands on hashes,
///   strings and streams, on all keys with the prefix.
/// - Replication is asynchronous: a failover may lose the last events, which is seen as a gap.
///
/// # When Redis is down
///
/// Nothing needs Redis to start. Every call but [`next`](super::ResumeStore::next) answers within the
/// [`response_timeout`](Self::response_timeout), with an error if it must; `next` tells an error
/// when no new connection can be made. Connections are made anew by themselves, at most ten times a
/// second. Once Redis is back, producers have the time of a lease to show that they are alive.
///
/// A Redis that is full refuses what is to be stored, by
/// [`StoreError::Refused`](super::StoreError::Refused), and lets leases and readers go on; but a
/// producer is not told of a reader that comes to another machine meanwhile. So it does with an event
/// over 512 MiB. One over a lower `proto-max-bulk-len` of yours it may refuse by closing the
/// connection, which looks as if it were down.
///
/// # Panics
///
/// Its futures panic outside of a tokio runtime with I/O and time.
#[derive(Clone)]
pub struct RedisStore {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    link: Link,
    waits: Arc<Waits>,
    scripts: Scripts,
    leases: Leases,
}

#[derive(Clone)]
struct Settings {
    client: Client,
    keys: Keys,
    keep: Duration,
    lease: Duration,
    /// How long Redis may take to answer.
    patience: Duration,
}

/// So that a time in milliseconds can be added to any other in Redis without an overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// No time may be zero: Redis takes that for a mistake, or for ever.
const SHORTEST: Duration = Duration::from_millis(1);

impl RedisStore {
    /// A store at `redis://[user[:password]@]host[:port][/database]`; with `rediss` over TLS, with
    /// `redis+unix:///path` through a Unix socket. `valkey` stands for `redis` as well.
    ///
    /// It connects when it is first used, so that a Redis that is down is no reason not to start.
    /// The certificate of a server with TLS must be known to the system, or come from
    /// [`root_certificates`](Self::root_certificates). The TLS library is rustls, with the
    /// cryptography that the process has chosen, or else `ring`.
    ///
    /// # Errors
    ///
    /// When that is no such URL, in one line that does not repeat it; when the system has no
    /// random numbers.
    pub fn new(url: &str) -> Result<Self, BoxError> {
        let client = client(url).map_err(|error| format!("not a Redis URL: {error}"))?;
        let owner = format!("{:032x}", StreamId::random()?.bits());
        let prefix = "tower-sse:".to_owned();
        Ok(Self::with(Settings {
            client,
            keys: Keys { prefix, owner },
            keep: Duration::from_secs(10 * 60),
            lease: Duration::from_secs(10),
            patience: Duration::from_millis(500),
        }))
    }

    /// What the names of all keys begin with. Default: `tower-sse:`.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        let mut settings = self.shared.settings.clone();
        settings.keys.prefix = prefix.into();
        Self::with(settings)
    }

    /// How long a stream stays after it was last appended to, renewed or closed. Default: 10
    /// minutes; no less than the lease, at most a year.
    #[must_use]
    pub fn keep(self, keep: Duration) -> Self {
        Self::with(Settings {
            keep,
            ..self.shared.settings.clone()
        })
    }

    /// After which silence of its producer a stream counts as lost. Default: 10 seconds; between a
    /// millisecond and a year.
    ///
    /// A shorter one tells readers sooner that a process has died, and may take one for dead that
    /// was only held up. It should be the same in all processes, and a few times the
    /// [`response_timeout`](Self::response_timeout).
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Self::with(Settings {
            lease,
            ..self.shared.settings.clone()
        })
    }

    /// How long Redis may take to answer. Default: 500 milliseconds; between a millisecond and a
    /// year.
    ///
    /// No event reaches its client before Redis has it, so this is how long a stream may stall when
    /// Redis does. It must be enough for the largest event to get there.
    #[must_use]
    pub fn response_timeout(self, timeout: Duration) -> Self {
        Self::with(Settings {
            patience: timeout,
            ..self.shared.settings.clone()
        })
    }

    /// Trusts these authorities instead of the system's: certificates in PEM, for a Redis with a
    /// private one. Without it, the variables `SSL_CERT_FILE` and `SSL_CERT_DIR` say where the
    /// system's are.
    ///
    /// # Errors
    ///
    /// When there is no certificate in `pem`, or the URL is not a `rediss` one.
    pub fn root_certificates(self, pem: &[u8]) -> Result<Self, BoxError> {
        let mut settings = self.shared.settings.clone();
        if CertificateDer::pem_slice_iter(pem).next().is_none() {
            return Err("no certificate in PEM".into());
        }
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: Some(pem.to_vec()),
        };
        let info = settings.client.get_connection_info().clone();
        settings.client = Client::build_with_tls(info, certificates)?;
        Ok(Self::with(settings))
    }

    fn with(settings: Settings) -> Self {
        let lease = settings.lease.clamp(SHORTEST, LONGEST);
        let settings = Settings {
            lease,
            keep: settings.keep.clamp(lease, LONGEST),
            patience: settings.patience.clamp(SHORTEST, LONGEST),
            ..settings
        };
        let shared = Shared {
            link: Link::new(settings.client.clone(), settings.patience),
            leases: Leases::new(settings.lease, settings.keep),
            settings,
            waits: Arc::default(),
            scripts: Scripts::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }
}

impl Settings {
    fn keep_ms(&self) -> u128 {
        self.keep.as_millis()
    }

    fn lease_ms(&self) -> u128 {
        self.lease.as_millis()
    }
}

/// What the crate makes of a URL, but for what it would only refuse when it connects.
fn client(url: &str) -> RedisResult<Client> {
    let info: ConnectionInfo = url.into_connection_info()?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. }) {
        let unsafe_tls = "TLS without a check of certificates is not supported";
        return Err((ErrorKind::InvalidClientConfig, unsafe_tls).into());
    }
    // An append is small and somebody waits for it.
    let settings = TcpSettings::default().set_nodelay(true);
    Client::open(info.set_tcp_settings(settings))
}

impl fmt::Debug for RedisStore {
    /// Without the URL, which may have a password in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.shared.settings;
        let address = settings.client.get_connection_info().addr();
        f.debug_struct("RedisStore")
            .field("address", &format_args!("{address}"))
            .field("prefix", &settings.keys.prefix)
            .field("keep", &settings.keep)
            .field("lease", &settings.lease)
            .field("response_timeout", &settings.patience)
            .finish()
    }
}
