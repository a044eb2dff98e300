//! The official SDKs of OpenAI and Anthropic, in Python and JavaScript, behind the gateway: an answer
//! that was cut off, or whose upstream hangs, is an error for each of them.
//!
//! A cut answer is one whose terminal event has not been dispatched, which the blank line behind it
//! does: `data: [DONE]` and its line end alone are still nothing. The SDKs agree on this, but for
//! openai-node since 7.0, which dispatches what is left when a response ends properly.

#![cfg(all(unix, feature = "resume"))]

mod programs;
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use programs::{
    client,
    folder::Folder,
    gateway::Gateway,
    node,
    process::{Process, eventually},
    python::python,
    recorded::{Deed, Recorded, Recording},
};
use serde::Deserialize;
use serde_json::{Value, json};

const SDKS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdks");

/// Who reads: a library, and how it is used. `create` gives its events as they come, `helper` puts
/// the answer together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sdk {
    language: Language,
    package: &'static str,
    way: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Language {
    Python,
    JavaScript,
}

/// One stream that is to be read.
#[derive(Clone, Debug)]
struct Job {
    recording: Recording,
    sdk: Sdk,
    /// What the server is called here, and where it is.
    server: (&'static str, String),
    deed: Deed,
    /// What the upstream waits before its answer.
    delay: Duration,
}

/// What an SDK made of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Answer {
    id: usize,
    text: String,
    finish: Option<String>,
    events: usize,
    /// The class of what was raised.
    error: Option<String>,
    message: Option<String>,
    /// It is the SDK's own.
    #[serde(default)]
    typed: bool,
    /// The error as it was in the stream.
    #[serde(default)]
    said: Value,
}

/// What an error event of the gateway says.
#[derive(Clone, Copy)]
struct Event {
    message: &'static str,
    code: Option<&'static str>,
    status: u16,
}

/// The classes that were raised, by what happened to whom.
#[derive(Default)]
struct Table(BTreeMap<(Recording, Sdk, String), BTreeMap<String, usize>>);

const TRUNCATED: Event = Event {
    message: "its upstream ended in the middle of it",
    code: Some("stream_truncated"),
    status: 502,
};

const SILENT: Event = Event {
    message: "its upstream has said nothing for too long",
    code: Some("stream_silent"),
    status: 504,
};

/// From an upstream that closes its connection the gateway's proxy makes a 502.
const CLOSED: Event = Event {
    message: "the upstream broke off before its answer",
    code: Some("stream_refused"),
    status: 502,
};

/// Far longer than the gateway's patience with who is to be late.
const LATE: Duration = Duration::from_millis(1500);

// === Answers that are cut off ===

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the SDKs for Python: run tests/run"]
async fn python_takes_no_cut_answer_for_a_whole_one() {
    no_cut_answer_passes(Language::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node and the SDKs for it: run tests/run"]
async fn javascript_takes_no_cut_answer_for_a_whole_one() {
    no_cut_answer_passes(Language::JavaScript).await;
}

async fn no_cut_answer_passes(language: Language) {
    let upstream = Recorded::start().await;
    let abort = Gateway::before(&upstream.url(), &["--on-truncation", "abort"]).await;
    let event = Gateway::before(&upstream.url(), &["--on-truncation", "error-event"]).await;
    let gateways = [("abort", abort.url("")), ("error-event", event.url(""))];
    let mut jobs = Vec::new();
    for (recording, sdk) in readers(language) {
        for gateway in &gateways {
            let cuts = sdk.cuts(recording);
            // To the gateway a broken connection is an end like another: fewer will do.
            let ends = ends(recording);
            let breaks = cuts.iter().filter(|at| *at % 3 == 0 || ends.contains(at));
            let breaks = breaks.map(|at| Deed::Break(*at));
            for deed in cuts.iter().map(|at| Deed::End(*at)).chain(breaks) {
                jobs.push(Job::new(recording, sdk, gateway, deed));
            }
        }
    }
    let mut table = Table::default();
    for (job, answer) in read_all(jobs).await {
        table.add_raised(&job, &answer, TRUNCATED);
    }
    table.print("what the SDKs raise on answers that are cut off");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the SDKs for Python: run tests/run"]
async fn python_gets_whole_answers_as_they_are() {
    whole_answers_pass(Language::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node and the SDKs for it: run tests/run"]
async fn javascript_gets_whole_answers_as_they_are() {
    whole_answers_pass(Language::JavaScript).await;
}

async fn whole_answers_pass(language: Language) {
    let upstream = Recorded::start().await;
    let mut servers = vec![("none", upstream.url())];
    let mut running = Vec::new();
    for how in ["count", "abort", "error-event"] {
        let flags = ["--on-truncation", how];
        let gateway = Gateway::before(&upstream.url(), &flags).await;
        servers.push((how, gateway.url("")));
        running.push(gateway);
    }
    let mut jobs = Vec::new();
    for (recording, sdk) in readers(language) {
        for server in &servers {
            jobs.push(Job::new(recording, sdk, server, recording.whole()));
        }
    }
    let answers = read_all(jobs).await;
    for of_one_sdk in answers.chunks(servers.len()) {
        let (_, direct) = &of_one_sdk[0];
        for (job, answer) in of_one_sdk {
            answer.is_whole(job);
            assert_eq!(answer.events, direct.events, "{job:?}");
        }
    }
}

/// Why there is a rule. The numbers are in the README.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the SDKs for Python, Node and the SDKs for it: run tests/run"]
async fn without_the_rule_sdks_take_cut_answers_for_whole_ones() {
    let upstream = Recorded::start().await;
    let gateway = Gateway::before(&upstream.url(), &[]).await;
    let server = ("count", gateway.url(""));
    let jobs = |language| {
        let mut jobs = Vec::new();
        for (recording, sdk) in readers(language) {
            let cuts = sdk.cuts(recording).into_iter();
            jobs.extend(cuts.map(|at| Job::new(recording, sdk, &server, Deed::End(at))));
        }
        jobs
    };
    let (python, javascript) = tokio::join!(
        read_all(jobs(Language::Python)),
        read_all(jobs(Language::JavaScript))
    );
    let mut table = Table::default();
    let mut fooled = 0;
    for (job, answer) in python.iter().chain(&javascript) {
        fooled += usize::from(answer.error.is_none());
        let error = answer.error.as_deref().unwrap_or("nothing");
        let place = if job.is_between_events() {
            "between events"
        } else {
            "within an event"
        };
        table.add(job, place, error);
    }
    table.print("what the SDKs raise on answers that are cut off, without the rule");
    assert!(fooled > 0);
}

/// The same without any SDK: the bytes and the end, for each cut.
#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_in_front_of_a_cut_are_the_upstreams() {
    let upstream = Recorded::start().await;
    for how in ["count", "abort", "error-event"] {
        let gateway = Gateway::before(&upstream.url(), &["--on-truncation", how]).await;
        let url = gateway.url("");
        let reads = Recording::ALL.into_iter().flat_map(|recording| {
            let cuts = if how == "count" {
                cuts(recording)
            } else {
                ends(recording)
            };
            let cuts = cuts.into_iter().chain([recording.bytes().len()]);
            let deeds = cuts.flat_map(|at| [Deed::End(at), Deed::Break(at)]);
            deeds.map(move |deed| (recording, deed))
        });
        let reads = reads.map(|(recording, deed)| read_raw(&url, recording, deed));
        let mut reads = stream::iter(reads).buffer_unordered(16);
        while let Some((recording, deed, bytes, clean)) = reads.next().await {
            assert_bytes(how, recording, deed, &bytes, clean);
        }
    }
}

fn assert_bytes(how: &str, recording: Recording, deed: Deed, bytes: &[u8], clean: bool) {
    let (at, ended) = match deed {
        Deed::End(at) => (at, true),
        Deed::Break(at) => (at, false),
        Deed::Hang(_) | Deed::Refuse(_) | Deed::Close => unreachable!("no cut"),
    };
    let case = format!("{how}, {recording:?}, {deed:?}");
    let (upstreams, ours) = bytes.split_at(bytes.len().min(at));
    assert_eq!(upstreams, &recording.bytes()[..at], "{case}");
    let whole = at == recording.bytes().len();
    let said = how == "error-event" && !whole && is_between_events(recording, at);
    let ours = String::from_utf8_lossy(ours);
    assert_eq!(ours.contains(TRUNCATED.message), said, "{case}: {ours}");
    assert_eq!(ours.is_empty(), !said, "{case}: {ours}");
    let expected = said || (ended && (how == "count" || whole));
    assert_eq!(clean, expected, "{case}");
}

async fn read_raw(url: &str, recording: Recording, deed: Deed) -> (Recording, Deed, Vec<u8>, bool) {
    let url = format!("{url}{}{}", deed.base(Duration::ZERO), recording.path());
    let response = client::post(&url, "application/json", "{}").await;
    let mut body = response.expect("a response").into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend(frame.into_data().expect("no trailers")),
            Err(_) => return (recording, deed, bytes, false),
        }
    }
    (recording, deed, bytes, true)
}

// === Upstreams that hang ===

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the SDKs for Python: run tests/run"]
async fn python_hears_of_a_silent_upstream() {
    silence_is_an_error(Language::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node and the SDKs for it: run tests/run"]
async fn javascript_hears_of_a_silent_upstream() {
    silence_is_an_error(Language::JavaScript).await;
}

/// Also of one that sends comments: those say nothing.
async fn silence_is_an_error(language: Language) {
    let upstream = Recorded::start().await;
    let flags = ["--silence-timeout", "400ms", "--on-silence"];
    let abort = Gateway::before(&upstream.url(), &[&flags[..], &["abort"]].concat()).await;
    let event = Gateway::before(&upstream.url(), &[&flags[..], &["error-event"]].concat()).await;
    let gateways = [("abort", abort.url("")), ("error-event", event.url(""))];
    let mut jobs = Vec::new();
    for (recording, sdk) in readers(language) {
        let boundaries = recording.boundaries();
        let (first, middle) = (boundaries[0], boundaries[boundaries.len() / 2]);
        for gateway in &gateways {
            for at in [0, first, middle, middle + 20] {
                jobs.push(Job::new(recording, sdk, gateway, Deed::Hang(at)));
            }
        }
    }
    let mut table = Table::default();
    for (job, answer) in read_all(jobs).await {
        table.add_raised(&job, &answer, SILENT);
    }
    table.print("what the SDKs raise on upstreams that hang");
}

// === Upstreams that answer late ===

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the SDKs for Python: run tests/run"]
async fn python_hears_of_all_that_comes_late() {
    late_answers_are_heard(Language::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Node and the SDKs for it: run tests/run"]
async fn javascript_hears_of_all_that_comes_late() {
    late_answers_are_heard(Language::JavaScript).await;
}

async fn late_answers_are_heard(language: Language) {
    let upstream = Recorded::start().await;
    let flags = ["--on-truncation", "error-event", "--early-open"];
    let hasty = Gateway::before(&upstream.url(), &[&flags[..], &["50ms"]].concat()).await;
    let patient = Gateway::before(&upstream.url(), &[&flags[..], &["1m"]].concat()).await;
    let late = ("late", hasty.url(""));
    let in_time = ("in time", patient.url(""));
    let mut jobs = Vec::new();
    for (recording, sdk) in readers(language) {
        for deed in [
            recording.whole(),
            Deed::End(recording.boundaries()[2]),
            Deed::Refuse(429),
            Deed::Refuse(529),
            Deed::Close,
        ] {
            let delay = LATE;
            let job = Job::new(recording, sdk, &late, deed);
            jobs.push(Job { delay, ..job });
        }
        // A status in time is one.
        jobs.push(Job::new(recording, sdk, &in_time, recording.whole()));
        jobs.push(Job::new(recording, sdk, &in_time, Deed::Refuse(429)));
    }
    let mut table = Table::default();
    for (job, answer) in read_all(jobs).await {
        let error = answer.error.as_deref().unwrap_or("nothing");
        let what = format!("{:?} {}", job.deed, job.server.0);
        table.add(&job, &what, error);
        match job.deed {
            deed if deed == job.recording.whole() => answer.is_whole(&job),
            Deed::Refuse(429) if job.server.0 == "in time" => {
                assert_eq!(error, job.sdk.error_of_429(), "{job:?}: {answer:?}");
            }
            Deed::Refuse(status) => answer.is_of_event(&job, refused(job.recording, status)),
            Deed::Close => answer.is_of_event(&job, CLOSED),
            Deed::End(_) | Deed::Break(_) | Deed::Hang(_) => answer.is_of_event(&job, TRUNCATED),
        }
    }
    table.print("what the SDKs raise on upstreams that answer late");
}

/// What the provider said, handed on.
fn refused(recording: Recording, status: u16) -> Event {
    let (message, code) = match (recording, status) {
        (Recording::Messages, 429) => ("This request would exceed your rate limit.", None),
        (Recording::Messages, _) => ("Overloaded", None),
        (_, 429) => ("Rate limit reached", Some("rate_limit_exceeded")),
        (_, _) => ("The server is overloaded", None),
    };
    Event {
        message,
        code,
        status,
    }
}

// === What is read, and by whom ===

/// Who reads what.
fn readers(language: Language) -> Vec<(Recording, Sdk)> {
    let packages: &[(&'static str, &[Recording])] = match language {
        Language::Python => &[
            ("openai", &[Recording::Chat, Recording::Responses]),
            ("anthropic", &[Recording::Messages]),
        ],
        Language::JavaScript => &[
            ("openai", &[Recording::Chat, Recording::Responses]),
            ("openai-6", &[Recording::Chat, Recording::Responses]),
            ("@anthropic-ai/sdk", &[Recording::Messages]),
        ],
    };
    let mut readers = Vec::new();
    for (package, recordings) in packages {
        for recording in *recordings {
            for way in ["create", "helper"] {
                let sdk = Sdk {
                    language,
                    package,
                    way,
                };
                readers.push((*recording, sdk));
            }
        }
    }
    readers
}

/// Where an answer is cut: at each end of an event, before the blank line that is there, in steps of
/// seven bytes, and within each letter that has more than one.
fn cuts(recording: Recording) -> BTreeSet<usize> {
    let text = str::from_utf8(recording.bytes()).expect("UTF-8");
    let mut cuts = ends(recording);
    cuts.extend((0..text.len()).step_by(7));
    cuts.extend((0..text.len()).filter(|at| !text.is_char_boundary(*at)));
    cuts
}

fn ends(recording: Recording) -> BTreeSet<usize> {
    let whole = recording.bytes().len();
    let boundaries = recording.boundaries().into_iter();
    let ends = boundaries.flat_map(|end| [end - 1, end]);
    ends.chain([0]).filter(|at| *at < whole).collect()
}

fn is_between_events(recording: Recording, at: usize) -> bool {
    at == 0 || recording.boundaries().contains(&at)
}

impl Sdk {
    /// The helpers are made of the same reader; for them the ends will do.
    fn cuts(self, recording: Recording) -> BTreeSet<usize> {
        match self.way {
            "helper" => ends(recording),
            _ => cuts(recording),
        }
    }

    /// What it raises on an error event.
    fn error_of_event(self) -> String {
        match (self.language, self.package) {
            (Language::Python, "anthropic") => "anthropic.APIStatusError".to_owned(),
            (_, package) => format!("{package}.APIError"),
        }
    }

    fn error_of_429(self) -> String {
        format!("{}.RateLimitError", self.package)
    }

    /// What it raises on a connection that breaks: not always an error of its own.
    fn error_of_abort(self) -> String {
        match (self.language, self.package, self.way) {
            (Language::Python, "openai", _) => "openai.APIConnectionError".to_owned(),
            (Language::Python, _, _) => "httpx2.RemoteProtocolError".to_owned(),
            (Language::JavaScript, "@anthropic-ai/sdk", "helper") => {
                "@anthropic-ai/sdk.AnthropicError".to_owned()
            }
            (Language::JavaScript, package, "helper") => format!("{package}.OpenAIError"),
            (Language::JavaScript, _, _) => "TypeError".to_owned(),
        }
    }
}

impl Job {
    fn new(recording: Recording, sdk: Sdk, server: &(&'static str, String), deed: Deed) -> Self {
        Self {
            recording,
            sdk,
            server: server.clone(),
            deed,
            delay: Duration::ZERO,
        }
    }

    fn is_between_events(&self) -> bool {
        match self.deed {
            Deed::End(at) | Deed::Break(at) | Deed::Hang(at) => {
                is_between_events(self.recording, at)
            }
            Deed::Refuse(_) | Deed::Close => true,
        }
    }

    /// For the script that reads it.
    fn line(&self, id: usize) -> String {
        let line = json!({
            "id": id,
            "sdk": self.sdk.package,
            "way": self.sdk.way,
            "protocol": self.recording.name(),
            "base": format!("{}{}", self.server.1, self.deed.base(self.delay)),
        });
        format!("{line}\n")
    }
}

impl Answer {
    fn is_whole(&self, job: &Job) {
        assert_eq!(self.error, None, "{job:?}: {self:?}");
        assert_eq!(self.text, "Größe ist relativ 👋.", "{job:?}");
        let finish = match job.recording {
            Recording::Chat => "stop",
            Recording::Responses => "completed",
            Recording::Messages => "end_turn",
        };
        assert_eq!(self.finish.as_deref(), Some(finish), "{job:?}");
    }

    /// It is the SDK's own error, and says what the event said.
    fn is_of_event(&self, job: &Job, event: Event) {
        assert!(self.typed, "{job:?}: {self:?}");
        let error = self.error.as_deref();
        assert_eq!(error, Some(&*job.sdk.error_of_event()), "{job:?}: {self:?}");
        let shown = self.message.as_deref().unwrap_or_default();
        assert!(shown.contains(event.message), "{job:?}: {self:?}");
        let said = match job.recording {
            Recording::Chat | Recording::Responses => &self.said,
            Recording::Messages => &self.said["error"],
        };
        assert_eq!(said["code"].as_str(), event.code, "{job:?}: {self:?}");
        assert_eq!(said["status"], event.status, "{job:?}: {self:?}");
    }
}

impl Table {
    fn add(&mut self, job: &Job, what: &str, error: &str) {
        let row = (job.recording, job.sdk, what.to_owned());
        *self
            .0
            .entry(row)
            .or_default()
            .entry(error.to_owned())
            .or_default() += 1;
    }

    /// Of a stream that was broken off. Within an event it is never by an event.
    fn add_raised(&mut self, job: &Job, answer: &Answer, event: Event) {
        let error = answer.error.as_deref();
        let error = error.unwrap_or_else(|| panic!("{job:?} is no error: {answer:?}"));
        if job.server.0 == "error-event" && job.is_between_events() {
            self.add(job, "error event", error);
            answer.is_of_event(job, event);
        } else {
            self.add(job, "abort", error);
            assert_eq!(error, job.sdk.error_of_abort(), "{job:?}: {answer:?}");
        }
    }

    fn print(&self, title: &str) {
        println!("{title}:");
        for ((recording, sdk, what), errors) in &self.0 {
            let Sdk {
                language,
                package,
                way,
            } = sdk;
            let errors: Vec<_> = errors
                .iter()
                .map(|(error, times)| format!("{times} x {error}"))
                .collect();
            println!(
                "  {:<9} {:<10} {package:<17} {way:<6} {what:<15} {}",
                recording.name(),
                format!("{language:?}"),
                errors.join(", ")
            );
        }
    }
}

/// Lets one process read them all: its start takes longer than hundreds of streams. The jobs must be
/// of one language.
async fn read_all(jobs: Vec<Job>) -> Vec<(Job, Answer)> {
    let folder = Folder::new("sdks");
    let path = Path::new(folder.path()).join("jobs");
    let lines = jobs.iter().enumerate().map(|(id, job)| job.line(id));
    let lines: String = lines.collect();
    fs::write(&path, lines).expect("a file in target/tmp");
    let mut command = match jobs[0].sdk.language {
        Language::Python => python(Path::new(SDKS).join("read.py")),
        Language::JavaScript => node::command(Path::new(SDKS).join("read.cjs")),
    };
    let mut process = Process::start(quiet(&mut command).arg(&path));
    // There are many; each must come soon behind the one before.
    let mut heard = 0;
    while process.exit_status().is_none() {
        heard = eventually("one more answer", async || {
            let now = process.stdout().len();
            (now > heard || process.exit_status().is_some()).then_some(now)
        })
        .await;
    }
    let status = process.exit().await;
    assert!(status.success(), "{}", process.stderr());
    let stdout = String::from_utf8(process.stdout()).expect("text");
    let mut answers: Vec<Answer> = stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    answers.sort_by_key(|answer| answer.id);
    let ids = answers.iter().map(|answer| answer.id);
    assert!(
        ids.eq(0..jobs.len()),
        "answers are missing: {}",
        process.stderr()
    );
    jobs.into_iter().zip(answers).collect()
}

/// Without the settings of who runs the tests.
fn quiet(command: &mut Command) -> &mut Command {
    for name in [
        "OPENAI_BASE_URL",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
        "OPENAI_LOG",
        "ANTHROPIC_BASE_URL",
        "ANTHROPIC_AUTH_TOKEN",
        "ANTHROPIC_LOG",
    ] {
        command.env_remove(name);
    }
    command.env("NO_PROXY", "*")
}
