//! Where answers are kept for clients that come back.

#[cfg(feature = "redis")]
use tower_sse::resume::RedisStore;
use tower_sse::{MemoryStore, Resume, ResumeLayer};

use crate::args::Args;

/// What `--resume` says.
#[derive(Clone)]
pub(crate) enum Store {
    Off,
    Memory,
    #[cfg(feature = "redis")]
    Redis(RedisStore),
}

/// The query parameter of a page that was reloaded, whose `EventSource` cannot set a header.
const LAST_EVENT_ID: &str = "last_event_id";

impl Store {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            "memory" => Ok(Self::Memory),
            url if url.contains("://") => Self::redis(url),
            _ => Err("must be memory, off, redis://host:port or rediss://host:port".to_owned()),
        }
    }

    #[cfg(feature = "redis")]
    fn redis(url: &str) -> Result<Self, String> {
        let store = RedisStore::new(url).map(Self::Redis);
        store.map_err(|error| error.to_string())
    }

    #[cfg(not(feature = "redis"))]
    fn redis(_: &str) -> Result<Self, String> {
        let how = "cargo build --release --example gateway --features redis";
        Err(format!("this gateway was built without Redis, do: {how}"))
    }

    fn of(args: &Args) -> Self {
        let by_itself = match &args.upstream {
            None => Self::Memory,
            // whether an answer may run on without its client is its owner's to say
            Some(_) => Self::Off,
        };
        args.resume.clone().unwrap_or(by_itself)
    }
}

/// The layer, and a handle where other gateways go on with the streams when this one leaves: then
/// it is worth a wait that they are produced to their end.
pub(crate) fn resume(args: &Args) -> (ResumeLayer, Option<Resume>) {
    let store = Store::of(args);
    let paths = paths(args, &store);
    let (layer, shared) = match store {
        Store::Off | Store::Memory => (ResumeLayer::new(MemoryStore::new()), false),
        #[cfg(feature = "redis")]
        Store::Redis(store) => (ResumeLayer::new(store), true),
    };
    let layer = layer
        .grace(args.resume_grace)
        .on_loss(args.on_loss)
        .query(LAST_EVENT_ID)
        .when(move |request| {
            let path = request.uri.path();
            paths.iter().any(|prefix| path.starts_with(prefix))
        });
    let handle = shared.then(|| layer.handle());
    (layer, handle)
}

fn paths(args: &Args, store: &Store) -> Vec<String> {
    match (store, &args.resume_paths[..]) {
        (Store::Off, _) => Vec::new(),
        (_, []) if args.upstream.is_some() => vec!["/".to_owned()],
        // the demo's feed and its training run have ids and a history of their own
        (_, []) => vec!["/v1/".to_owned()],
        (_, paths) => paths.to_vec(),
    }
}
