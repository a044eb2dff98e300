//! The clients that people have, behind the gateway: heartbeats in every silence of their streams, in
//! the shape that is chosen for them, change nothing of what they read.
//!
//! What came of it is `src/guide/clients.md`, which the test compares with what it has seen, and with
//! `WRITE_CLIENTS=1` writes anew:
//!
//! ```sh
//! WRITE_CLIENTS=1 cargo test --all-features --test clients -- --include-ignored --nocapture
//! ```

#![cfg(all(unix, feature = "resume"))]

#[path = "clients/played.rs"]
mod played;
mod programs;
#[path = "clients/readers.rs"]
mod readers;
mod support;
#[path = "clients/table.rs"]
mod table;

use std::{collections::BTreeMap, env, fs, path::Path, sync::Arc, time::Duration};

use played::{Pace, Play, Plays, Server, Shape};
use programs::{
    folder::Folder,
    gateway::Gateway,
    process::{Process, eventually},
};
use readers::{Library, Protocol, READERS, Variant};
use serde::Deserialize;
use serde_json::{Value, json};
use support::reference;
use table::Table;

/// One stream that is to be read.
#[derive(Clone, Debug)]
struct Job {
    library: Library,
    protocol: Protocol,
    way: &'static str,
    recording: usize,
    variant: Variant,
    served: Served,
}

/// By whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Served {
    /// The upstream itself.
    Directly,
    /// The gateway.
    Gateway,
    /// The upstream, with heartbeats of this shape from there, whatever the gateway would choose.
    With(Shape),
}

/// What a client made of its stream.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Reading {
    events: Vec<Value>,
    text: String,
    tools: Vec<Value>,
    error: Option<String>,
    /// With which `Last-Event-ID` it asked, each time.
    #[serde(skip)]
    requests: Vec<Option<String>>,
}

#[derive(Deserialize)]
struct Line {
    id: usize,
    reading: Reading,
}

/// Between two heartbeats.
const INTERVAL: &str = "10ms";

/// In which many heartbeats would come.
const SILENCE: Duration = Duration::from_millis(50);

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/guide/clients.md");

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs clients in Python, Node and Rust: run tests/run"]
async fn heartbeats_change_nothing_for_any_client() {
    let jobs = jobs();
    let plays = jobs.iter().map(|job| Arc::new(job.play())).enumerate();
    let plays: Plays = Arc::new(plays.collect());
    let upstream = Server::upstream(plays.clone()).await;
    let flags = ["--heartbeat", INTERVAL, "--log", "warn"];
    let gateway = Gateway::before(&format!("http://{}", upstream.address), &flags).await;
    let tap = Server::tap(plays.clone(), &gateway.address).await;
    let base = |id: usize, job: &Job| match job.served {
        Served::Gateway => format!("http://{}/{id}", tap.address),
        Served::Directly | Served::With(_) => format!("http://{}/{id}", upstream.address),
    };
    let lines = jobs.iter().enumerate();
    let lines: Vec<_> = lines
        .map(|(id, job)| job.line(id, &base(id, job)))
        .collect();
    let mut readings = read_all(&jobs, &lines).await;
    for (id, reading) in &mut readings {
        reading.requests = plays[id].requests();
    }
    let mut faults = Vec::new();
    let mut table = Table::default();
    let mut direct = 0;
    for (id, job) in jobs.iter().enumerate() {
        if job.served == Served::Directly {
            direct = id;
            faults.extend(readings[&id].faults(job));
        }
        let same = readings[&id] == readings[&direct];
        table.add(job, same, &plays[&id].passed().shapes);
        if job.served == Served::Gateway {
            faults.extend(plays[&id].faults(job));
            if !same {
                let difference = readings[&id].difference(&readings[&direct]);
                faults.push(format!("{job:?}: {difference}"));
            }
        }
    }
    table.check(&mut faults);
    assert!(
        faults.is_empty(),
        "{} faults:\n{}",
        faults.len(),
        faults.join("\n")
    );
}

// === What is read ===

/// Each stream directly first, then in all other ways.
fn jobs() -> Vec<Job> {
    let mut jobs = Vec::new();
    for (library, protocol, ways) in READERS {
        for way in *ways {
            for recording in 0..protocol.recordings().len() {
                for variant in protocol.variants() {
                    let others = Shape::ALL.map(Served::With).into_iter();
                    // One stream will do to show that a shape does harm.
                    let others = others.filter(|_| recording == 0 && *variant != Variant::Crlf);
                    let served = [Served::Directly, Served::Gateway].into_iter();
                    jobs.extend(served.chain(others).map(|served| Job {
                        library: *library,
                        protocol: *protocol,
                        way,
                        recording,
                        variant: *variant,
                        served,
                    }));
                }
            }
        }
    }
    jobs
}

impl Job {
    fn stream(&self) -> Vec<u8> {
        self.variant.of(self.protocol.recordings()[self.recording])
    }

    fn play(&self) -> Play {
        let pace = match self.served {
            Served::Directly => Pace::Swift,
            Served::With(shape) => Pace::Slipped(shape),
            Served::Gateway if self.bears_nothing() => Pace::Silence(SILENCE),
            Served::Gateway => Pace::Heartbeat,
        };
        Play::new(&self.stream(), pace)
    }

    fn bears_nothing(&self) -> bool {
        self.library.package == "@google/generative-ai"
    }

    /// For the program that reads it.
    fn line(&self, id: usize, base: &str) -> String {
        let line = json!({
            "id": id,
            "client": self.library.package,
            "protocol": self.protocol.name(),
            "way": self.way,
            "base": base,
        });
        format!("{line}\n")
    }
}

impl Reading {
    /// What is wrong with it although no gateway was there.
    fn faults(&self, job: &Job) -> Option<String> {
        let text = "Größe ist relativ 👋.";
        let right = match (job.protocol, job.recording) {
            // That there is no more is an error for some.
            (Protocol::Feed, _) => {
                let came_back = self.requests.len() == 2;
                self.text == feed_text(&job.stream()) && (self.error.is_none() || came_back)
            }
            (_, 0) => self.text == text && self.tools.is_empty() && self.error.is_none(),
            (_, 1) => {
                let tools = json!([["weather", { "city": "Zürich", "days": 2 }], ["clock", {}]]);
                self.text == text && json!(self.tools) == tools && self.error.is_none()
            }
            (_, _) => format!("{self:?}").contains("Overloaded, come back later"),
        };
        (!right).then(|| format!("{job:?} is not read as it was written: {self:?}"))
    }

    /// Where it parts from what was read directly, in words.
    fn difference(&self, direct: &Self) -> String {
        let pairs = self.events.iter().zip(&direct.events);
        let first = pairs.enumerate().find(|(_, (ours, theirs))| ours != theirs);
        match first {
            Some((number, (ours, theirs))) => {
                format!("event {number} is {ours} instead of {theirs}")
            }
            None if self.events.len() != direct.events.len() => {
                let [ours, theirs] = [self, direct].map(|reading| reading.events.len());
                format!("{ours} events instead of {theirs}, {:?}", self.error)
            }
            None => {
                let [ours, theirs] = [self, direct].map(|reading| Self {
                    events: Vec::new(),
                    ..reading.clone()
                });
                format!("{ours:?} instead of {theirs:?}")
            }
        }
    }
}

fn feed_text(stream: &[u8]) -> String {
    let events = reference::parse(stream).events;
    events
        .iter()
        .map(|event| format!("{}|", event.data))
        .collect()
}

impl Play {
    /// What is wrong with what the gateway did.
    fn faults(&self, job: &Job) -> Option<String> {
        let passed = self.passed();
        let fault = if self.missed() {
            "a heartbeat was not sent"
        } else if passed.shapes.is_empty() != job.bears_nothing() {
            "heartbeats for whom none is right, or the reverse"
        } else if !job.stream().starts_with(&passed.bytes) {
            "the gateway changed the stream"
        } else {
            return None;
        };
        let shapes = passed.shapes;
        Some(format!("{job:?}: {fault}: {shapes:?}"))
    }
}

// === The programs ===

/// Each program reads all of its streams: its start takes longer than that.
async fn read_all(jobs: &[Job], lines: &[String]) -> BTreeMap<usize, Reading> {
    let mut readings = BTreeMap::new();
    let ids: Vec<_> = (0..jobs.len()).collect();
    let programs = ids.chunk_by(|a, b| jobs[*a].library.shares_a_program_with(jobs[*b].library));
    for ids in programs {
        let lines: String = ids.iter().map(|id| &*lines[*id]).collect();
        let output = read(jobs[ids[0]].library, &lines).await;
        let lines = output.lines().map(serde_json::from_str);
        readings.extend(lines.map(|line| {
            let line: Line = line.expect("JSON");
            (line.id, line.reading)
        }));
        let missing: Vec<_> = ids.iter().filter(|id| !readings.contains_key(id)).collect();
        assert!(missing.is_empty(), "no readings of {missing:?}: {output}");
    }
    readings
}

async fn read(library: Library, lines: &str) -> String {
    let folder = Folder::new("clients");
    let path = Path::new(folder.path()).join("jobs");
    fs::write(&path, lines).expect("a file in target/tmp");
    let mut process = Process::start(library.command().arg(&path));
    // There are many; each must come soon behind the one before.
    let mut heard = 0;
    while process.exit_status().is_none() {
        heard = eventually("one more reading", async || {
            let now = process.stdout().len();
            (now > heard || process.exit_status().is_some()).then_some(now)
        })
        .await;
    }
    let status = process.exit().await;
    assert!(status.success(), "{}", process.stderr());
    String::from_utf8(process.stdout()).expect("text")
}

// === The table ===

impl Table {
    /// Prints it, and compares it with what the docs say.
    fn check(&self, faults: &mut Vec<String>) {
        let page = self.page();
        println!("{page}");
        if env::var_os("WRITE_CLIENTS").is_some() {
            fs::write(TABLE, &page).expect("a file in src/guide");
        }
        if fs::read_to_string(TABLE).unwrap_or_default() != page {
            faults.push(format!(
                "{TABLE} says otherwise: write it anew with WRITE_CLIENTS=1"
            ));
        }
    }
}
