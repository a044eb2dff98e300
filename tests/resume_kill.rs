//! Nothing that a client has seen is lost, and nothing comes twice, wherever its connection is cut:
//! hundreds of clients over real sockets, each cut several times in the middle of its stream.

#![cfg(feature = "resume")]

mod support;

use std::net::SocketAddr;

use fastrand::Rng;
use support::{
    paced::{self, EVENTS, Upstream},
    serve::{Server, Stack, soon},
    visitor::{Kind, Visit, Visitor},
};
use tokio::task::JoinSet;
use tower_sse::{ResumeLayer, ResumeStore, SseLayer, resume::MemoryStore};

const CLIENTS: usize = 200;

const CUTS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_cut_anywhere_end_with_exactly_their_events() {
    everybody_gets_everything(MemoryStore::new()).await;
}

async fn everybody_gets_everything(store: impl ResumeStore) {
    let mut rng = Rng::with_seed(paced::seed());
    let upstream = Upstream::new(&mut rng, CLIENTS, |n| kind(n) == Kind::OwnIds);
    let resume = ResumeLayer::new(store);
    let handle = resume.handle();
    let app = upstream.app().layer(SseLayer::new().resume(resume));
    let server = Server::start(Stack::Axum, app, None).await;
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let (upstream, rng) = (upstream.clone(), rng.fork());
        let address = server.address;
        clients.spawn(async move { gets_everything(&upstream, n, address, rng).await });
    }
    clients.join_all().await;
    let stats = handle.stats();
    assert_eq!(stats.started, CLIENTS as u64);
    assert_eq!(stats.complete, CLIENTS as u64);
    assert_eq!((stats.lost, stats.broken_off, stats.unstored), (0, 0, 0));
    soon(
        "the end of all producers",
        handle.finish(support::serve::PATIENCE),
    )
    .await;
    assert_eq!(handle.streams(), []);
}

async fn gets_everything(upstream: &Upstream, n: usize, server: SocketAddr, mut rng: Rng) {
    let stream = upstream.stream(n);
    let mut client = Visitor::new(kind(n), format!("/streams/{n}"), stream);
    for _ in 0..CUTS {
        // Five of these are less than the whole.
        let cut = rng.usize(..stream.len / (CUTS + 2));
        assert_eq!(client.visit(server, Some(cut)).await, Visit::Cut);
        client.check();
    }
    assert_eq!(client.visit(server, None).await, Visit::Ended);
    client.check();
    assert_eq!(client.events.len(), EVENTS);
    assert_eq!(client.visit(server, None).await, Visit::Complete);
    assert_eq!(stream.calls(), 1);
}

fn kind(n: usize) -> Kind {
    match n % 5 {
        0 | 1 => Kind::EventSource,
        2 | 3 => Kind::Counter,
        _ => Kind::OwnIds,
    }
}
