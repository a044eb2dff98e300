//! Nothing that a client has seen is lost, and nothing comes twice, wherever its connection is cut:
//! hundreds of clients over real sockets, each cut several times in the middle of its stream.

#![cfg(feature = "resume")]

#[cfg(all(unix, feature = "redis"))]
mod programs;
mod support;

use std::{net::SocketAddr, time::Duration};

use fastrand::Rng;
use http_body_util::BodyExt;
use support::{
    body::{data, pause},
    paced::{self, EVENTS, Upstream},
    resume::{self, Fault, Faulty, World},
    serve::{Server, Stack, soon},
    visitor::{Kind, Visit, Visitor},
};
use tokio::{sync::Mutex, task::JoinSet, time::sleep};
use tower_sse::{ResumeLayer, ResumeStore, SseLayer, resume::MemoryStore};

const CLIENTS: usize = 200;

const CUTS: usize = 5;

/// One test after the other: on a busy machine a store that waits for its turn looks like one that
/// is down.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_cut_anywhere_end_with_exactly_their_events() {
    everybody_gets_everything(MemoryStore::new()).await;
}

/// Half an event at the end is no event, and nobody has to come back for it.
#[tokio::test(start_paused = true)]
async fn who_has_all_events_is_told_so_while_the_store_is_slow() {
    let store = Faulty::default();
    let steps = [data("data: 1\n\n"), pause(1.0), data("data: 2")];
    let world = World::new(
        ResumeLayer::new(store.clone()),
        resume::Upstream::new(steps),
    );
    let mut first = world.post("").await;
    let stream = first.stream();
    first
        .body
        .frame()
        .await
        .expect("a frame")
        .expect("an event");
    // It has the event, and will not hear of the end.
    store.set(Fault::Hung);
    first.record().await;
    let again = world.post(&format!("{stream}.1")).await;
    assert_eq!(again.header("sse-resume"), "complete");
    assert_eq!(again.status, 204);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_while_the_store_fails_for_a_moment_has_lost_nothing() {
    for fault in [Fault::Down, Fault::Hung] {
        let store = Faulty::default();
        let steps = [data("data: 1\n\ndata: 2\n\n")];
        let world = World::new(
            ResumeLayer::new(store.clone()),
            resume::Upstream::new(steps),
        );
        let first = world.post("").await;
        let last = format!("{}.1", first.stream());
        first.record().await;
        store.set(fault);
        let (again, ()) = tokio::join!(world.post(&last), async {
            sleep(Duration::from_secs(2)).await;
            store.set(Fault::None);
        });
        assert_eq!(again.header("sse-resume"), "resumed", "{fault:?}");
        assert_eq!(world.calls(), 1);
    }
}

async fn everybody_gets_everything(store: impl ResumeStore) {
    let _turn = TURN.lock().await;
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

/// Is cut off five times, and has all events in the end, each of them once.
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

#[cfg(all(unix, feature = "redis"))]
mod with_redis {
    use tokio::sync::MutexGuard;
    use tower_sse::resume::RedisStore;

    use super::{
        programs::{gateway::Gateway, process::eventually, redis::Redis},
        support::paced::HALT,
        *,
    };

    /// Two gateways in front of the streams, and one Redis for both.
    struct Gateways {
        gateways: [Gateway; 2],
        upstream: Upstream,
        clients: JoinSet<End>,
        _server: Server,
        _redis: Redis,
        _turn: MutexGuard<'static, ()>,
    }

    /// What became of a client.
    #[derive(Debug)]
    struct End {
        stream: usize,
        /// The gateway that it came to first, where its stream was produced.
        home: usize,
        visit: Visit,
        events: usize,
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs redis-server: run tests/run"]
    async fn clients_that_are_cut_anywhere_get_their_events_from_redis() {
        let redis = Redis::start().await;
        let store = RedisStore::new(&redis.url()).expect("a URL");
        everybody_gets_everything(store).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs redis-server: run tests/run"]
    async fn a_gateway_that_leaves_takes_nothing_with_it() {
        let mut world = Gateways::at_halt(&["--drain-timeout", "60s"]).await;
        let [leaving, _] = &mut world.gateways;
        leaving.signal("TERM");
        eventually("the drain", async || {
            leaving.stderr().contains("draining").then_some(())
        })
        .await;
        world.upstream.halt(|_| false);
        for end in world.ends().await {
            assert_eq!((end.visit, end.events), (Visit::Complete, EVENTS));
        }
        let [leaving, _] = &mut world.gateways;
        assert!(leaving.exit().await.success(), "{}", leaving.stderr());
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "needs redis-server: run tests/run"]
    async fn clients_of_a_gateway_that_was_killed_have_no_gap_and_hear_of_the_loss() {
        let mut world = Gateways::at_halt(&["--on-loss", "410"]).await;
        world.upstream.halt(surely_runs);
        let [killed, _] = &mut world.gateways;
        killed.signal("KILL");
        killed.exit().await;
        world.upstream.halt(|_| false);
        for end in world.ends().await {
            let told = match end.home {
                0 if surely_runs(end.stream) => end.visit == Visit::Lost,
                0 if end.visit == Visit::Lost => true,
                _ => end.visit == Visit::Complete && end.events == EVENTS,
            };
            assert!(told && end.events >= HALT, "{end:?}");
        }
    }

    /// The streams that are half done when the gateway is killed; the others are under way.
    fn surely_runs(stream: usize) -> bool {
        stream % 4 == 3
    }

    impl Gateways {
        /// All clients have the first half of their stream.
        async fn at_halt(flags: &[&str]) -> Self {
            let turn = TURN.lock().await;
            let mut rng = Rng::with_seed(paced::seed());
            let upstream = Upstream::new(&mut rng, CLIENTS, |n| kind(n) == Kind::OwnIds);
            upstream.halt(|_| true);
            let server = Server::start(Stack::Axum, upstream.app(), None).await;
            let redis = Redis::start().await;
            let url = redis.url();
            let flags = [&["--resume", &url], flags].concat();
            let before = format!("http://{}", server.address);
            let gateways = [
                Gateway::before(&before, &flags).await,
                Gateway::before(&before, &flags).await,
            ];
            let addresses = [0, 1].map(|n| gateways[n].address.parse().expect("an address"));
            let mut clients = JoinSet::new();
            for n in 0..CLIENTS {
                let (upstream, rng) = (upstream.clone(), rng.fork());
                clients.spawn(async move { roams(&upstream, n, addresses, rng).await });
            }
            for n in 0..CLIENTS {
                upstream.stream(n).seen(HALT).await;
            }
            Self {
                gateways,
                upstream,
                clients,
                _server: server,
                _redis: redis,
                _turn: turn,
            }
        }

        async fn ends(&mut self) -> Vec<End> {
            let mut ends = Vec::new();
            while let Some(end) = self.clients.join_next().await {
                ends.push(end.expect("no panic"));
            }
            ends
        }
    }

    /// Comes back, now to this gateway and now to that, until there is nothing any more.
    async fn roams(upstream: &Upstream, n: usize, gateways: [SocketAddr; 2], mut rng: Rng) -> End {
        let stream = upstream.stream(n);
        let mut client = Visitor::new(kind(n), format!("/streams/{n}"), stream);
        let home = rng.usize(..2);
        let mut to = home;
        for visits in 0..100 {
            let cut = rng.usize(..stream.len / (CUTS + 2));
            let cut = (visits < CUTS).then_some(cut);
            let visit = client.visit(gateways[to], cut).await;
            client.check();
            // Another gateway knows the stream once Redis does, at the latest with its first event.
            if !client.events.is_empty() {
                to = rng.usize(..2);
            }
            match visit {
                Visit::Complete | Visit::Lost => {
                    let events = client.events.len();
                    assert_eq!(
                        stream.calls(),
                        1,
                        "{:?} {visits} {visit:?} {events}",
                        kind(n)
                    );
                    return End {
                        stream: n,
                        home,
                        visit,
                        events,
                    };
                }
                Visit::Ended if kind(n) == Kind::Counter => assert_eq!(client.events.len(), EVENTS),
                _ => {}
            }
        }
        panic!("no end of {}", n);
    }
}
