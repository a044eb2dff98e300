//! What is lost when the connection is cut, and who comes back.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    Addresses, Size,
    cable::Cable,
    programs::browser::Browser,
    reader::{BOTH, Events, Kind, Reader},
    report::median,
    start,
    table::Row,
    wire::Publisher,
};

/// Published while the client is away.
const MISSED: usize = 10;

/// How long a page is watched that has lost its connections.
const WATCHED: Duration = Duration::from_secs(10);

/// How often it is looked at.
const TURN: Duration = Duration::from_millis(20);

/// The page of a client that does no more than it must: it opens both, and writes down what comes.
const LISTEN: &str = "
    window.events = [];
    window.messages = [];
    window.source = new EventSource('/sse');
    source.onmessage = event => events.push(event.data);
    window.open_socket = () => {
        window.socket = new WebSocket(`ws://${location.host}/ws/feed`);
        socket.onmessage = message => messages.push(message.data);
    };
    open_socket();
";

/// Whether both are open, and how much each has got.
const LOOK: &str = "return [source.readyState, socket.readyState, events.length, messages.length]";

/// Neither `EventSource` nor `WebSocket` calls it otherwise.
const OPEN: u64 = 1;

/// A client of ours is cut off, comes back at once, and says what it can.
pub(crate) async fn losses(addresses: &Addresses, size: &Size) -> Vec<Row> {
    let mut publisher = Publisher::connect(addresses.platform).await;
    let mut arrived = [0; 2];
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..size.rounds {
        for kind in BOTH {
            let (came, time) = back(kind, &mut publisher, addresses).await;
            arrived[kind as usize] += came;
            took[kind as usize].push(time.as_secs_f64() * 1e3);
        }
    }
    let all = MISSED * size.rounds;
    assert_eq!(arrived[Kind::Sse as usize], all, "every event, and once");
    vec![
        Row::told(
            "published after a cut, and there after coming back",
            arrived.map(|arrived| format!("{arrived} of {all}")),
        ),
        Row::told(
            "from asking again to all of these and one more: ms",
            took.map(|took| format!("{:.1}", median(&took))),
        ),
    ]
}

/// How many of the missed messages come, and how long that takes together with a live one.
async fn back(kind: Kind, publisher: &mut Publisher, addresses: &Addresses) -> (usize, Duration) {
    let cable = Cable::to(addresses.gateway).await;
    let reader = Reader::open(kind, cable.address, &publisher.newest).await;
    let mut reader = reader.expect("a reader");
    publisher.publish("before").await;
    assert_eq!(reader.next().await.as_deref(), Some("before"));
    cable.cut();
    assert_eq!(reader.next().await, None, "a cut");
    for _ in 0..MISSED {
        publisher.publish("missed").await;
    }
    let start = Instant::now();
    let reader = Reader::open(kind, cable.address, reader.last_id()).await;
    let mut reader = reader.expect("a way back");
    publisher.publish("after").await;
    let mut came = 0;
    loop {
        let message = reader.next().await.expect("a stream that goes on");
        if message == "after" {
            return (came, start.elapsed());
        }
        assert_eq!(message, "missed");
        came += 1;
    }
}

/// An answer that is not a topic: the platform keeps nothing of it, the gateway does.
pub(crate) async fn answer(addresses: &Addresses) -> Row {
    const PATH: &str = "/v1/completions?pause_ms=15";
    const CUT: usize = 20;
    let whole = Events::open(addresses.gateway, PATH, "").await;
    let whole = words(&mut whole.expect("an answer"), usize::MAX).await;
    let cable = Cable::to(addresses.gateway).await;
    let events = Events::open(cable.address, PATH, "").await;
    let mut events = events.expect("an answer");
    let mut all = words(&mut events, CUT).await;
    cable.cut();
    // what was on its way may still come
    all.extend(words(&mut events, usize::MAX).await);
    assert!(all.len() < whole.len(), "an answer without its end");
    let events = Events::open(cable.address, PATH, &events.last_id).await;
    all.extend(words(&mut events.expect("a way back"), usize::MAX).await);
    assert_eq!(all, whole, "every word, and once");
    Row::told(
        "an answer cut in the middle: events there after coming back",
        [
            format!("{} of {}", all.len(), whole.len()),
            "the application's to do".to_owned(),
        ],
    )
}

/// So many, or all that come until the last.
async fn words(events: &mut Events, most: usize) -> Vec<String> {
    let mut words = Vec::new();
    while words.len() < most
        && words.last().is_none_or(|word| word != "done")
        && let Some(word) = events.next().await
    {
        words.push(word);
    }
    words
}

// === A browser's own ===

/// Who comes back when nobody tells them to: only a real browser says that.
pub(crate) async fn browser() -> Row {
    let installed = Command::new("chromedriver").arg("--version").output();
    let cells = if installed.is_ok() {
        watch().await
    } else {
        [(); 2].map(|()| "not measured: no ChromeDriver".to_owned())
    };
    Row::told("Chromium after a cut: who comes back", cells)
}

async fn watch() -> [String; 2] {
    let (_gateway, addresses) = start(&[]).await;
    let cable = Cable::to(addresses.gateway).await;
    let browser = Browser::start().await;
    // any page of the same origin that does nothing of its own
    let url = format!("http://{}/v1/calls", cable.address);
    browser.page.goto(&url).await.expect("a page");
    browser.run(LISTEN, Vec::new()).await;
    shows(&browser, &json!([OPEN, OPEN, 0, 0])).await;
    let mut publisher = Publisher::connect(addresses.platform).await;
    shows(&browser, &json!([OPEN, OPEN, 1, 1])).await;
    let cut = cable.cut();
    for _ in 0..MISSED {
        publisher.publish("missed").await;
    }
    while cut.elapsed() < WATCHED {
        sleep(TURN).await;
    }
    let came_back = ["/sse", "/ws/feed"].map(|path| Some(cable.asked(path)? - cut));
    let seen = browser.run(LOOK, Vec::new()).await;
    let lost = [2, 3].map(|at| 1 + MISSED as u64 - seen[at].as_u64().unwrap_or(0));
    browser.close().await;
    [0, 1].map(|kind| match came_back[kind] {
        Some(after) => format!(
            "the browser, after {:.1} s; {} of {MISSED} lost",
            after.as_secs_f64(),
            lost[kind]
        ),
        None => format!("nobody within {} s", WATCHED.as_secs()),
    })
}

async fn shows(browser: &Browser, wanted: &Value) {
    let start = Instant::now();
    loop {
        let seen = browser.run(LOOK, Vec::new()).await;
        if seen == *wanted {
            return;
        }
        assert!(start.elapsed() < 2 * WATCHED, "{seen} instead of {wanted}");
        sleep(TURN).await;
    }
}
