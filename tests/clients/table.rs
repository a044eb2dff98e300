//! What became of the streams, as a page of the docs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::{
    Job, Served,
    played::Shape,
    readers::{Language, Library, Protocol, READERS, Variant},
};

/// By library and protocol.
#[derive(Default)]
pub(crate) struct Table(BTreeMap<(Library, Protocol), Row>);

#[derive(Default)]
struct Row {
    /// How many streams came through the gateway, and how many of them the same.
    read: usize,
    same: usize,
    /// The heartbeats that the gateway chose: those of a stream in order.
    chosen: BTreeSet<Vec<Shape>>,
    chosen_with_ids: BTreeSet<Vec<Shape>>,
    /// Those that would have changed what is read.
    harmful: BTreeSet<Shape>,
    harmful_with_ids: BTreeSet<Shape>,
}

const INTRODUCTION: &str = "\
# Clients that were tried

Each of these reads streams of its protocol through the gateway (a text, a text with tool calls, a text
that an error breaks off), with a heartbeat in every silence: before the first event, between any two,
and behind the last. What it reads is compared with what it reads without the gateway: all events, the
text, tool calls, usage, errors, and the `Last-Event-ID` with which it comes back. The streams are
played as they are, with `\\r\\n` line ends and, if they have none of their own, with ids. Each SDK is
read in the ways that it has: sync, async, and by its helper that puts the answer together.

A heartbeat is a `line` (`: keep-alive\\n`), a `block` (`: keep-alive\\n\\n`) or `blank lines`
(`\\n\\n`), as [`HeartbeatShape::Auto`] chooses it from the request and the stream. The last column
says which shapes would have changed what this client reads, had they been sent instead.

| client | version | reads | gets | with ids | the same | would not bear |
|---|---|---|---|---|---|---|
";

const END: &str = "
`tests/run` installs the clients, reads all streams anew and compares this page with what came of it.

[`HeartbeatShape::Auto`]: crate::HeartbeatShape::Auto
";

impl Table {
    /// Adds a stream, and whether it was read as without a heartbeat.
    pub(crate) fn add(&mut self, job: &Job, same: bool, shapes: &[Shape]) {
        let row = self.0.entry((job.library, job.protocol)).or_default();
        let ids = job.variant == Variant::Ids;
        match job.served {
            Served::Directly => {}
            Served::Gateway => {
                row.read += 1;
                row.same += usize::from(same);
                let chosen = if ids {
                    &mut row.chosen_with_ids
                } else {
                    &mut row.chosen
                };
                chosen.insert(shapes.to_vec());
            }
            Served::With(_) if same => {}
            Served::With(shape) if ids => {
                row.harmful_with_ids.insert(shape);
            }
            Served::With(shape) => {
                row.harmful.insert(shape);
            }
        }
    }

    pub(crate) fn page(&self) -> String {
        let mut page = INTRODUCTION.to_owned();
        let mut seen = BTreeSet::new();
        let keys = READERS
            .iter()
            .map(|(library, protocol, _)| (*library, *protocol));
        for key in keys.filter(|key| seen.insert(*key)) {
            if let Some(row) = self.0.get(&key) {
                let _ = writeln!(page, "{}", row.line(key.0, key.1));
            }
        }
        page + END
    }
}

impl Row {
    fn line(&self, library: Library, protocol: Protocol) -> String {
        let language = match library.language {
            Language::Python => "Python",
            Language::JavaScript => "JavaScript",
            Language::Rust => "Rust",
        };
        // An older version has a name of its own.
        let package = library
            .package
            .strip_suffix("-6")
            .unwrap_or(library.package);
        let mut version = library.version();
        if let Some(framework) = library.framework() {
            version += &format!(" with `{}` {}", framework.package, framework.version());
        }
        format!(
            "| `{package}` ({language}) | {version} | {} | {} | {} | {} of {} | {} |",
            protocol.title(),
            all(&self.chosen),
            all(&self.chosen_with_ids),
            self.same,
            self.read,
            self.harmful(),
        )
    }

    fn harmful(&self) -> String {
        let always = self.harmful.iter().map(|shape| shape.name().to_owned());
        let with_ids = self.harmful_with_ids.difference(&self.harmful);
        let with_ids = with_ids.map(|shape| format!("{} with ids", shape.name()));
        always.chain(with_ids).collect::<Vec<_>>().join(", ")
    }
}

fn all(chosen: &BTreeSet<Vec<Shape>>) -> String {
    let each = chosen.iter().map(|shapes| {
        let names: Vec<_> = shapes.iter().map(|shape| shape.name()).collect();
        match names.is_empty() {
            true => "nothing".to_owned(),
            false => names.join(", then "),
        }
    });
    each.collect::<Vec<_>>().join("; or ")
}
