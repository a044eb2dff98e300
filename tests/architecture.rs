//! The files of `src` know each other as this table says, and no other way.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A file may import from the levels below its own.
const LEVELS: [&[&str]; 7] = [
    // L0: what several concerns need
    &[
        "end",
        "aborted",
        "error",
        "trace",
        "media",
        "client",
        "judge",
        "jitter",
        "outbox",
        "shape",
        "wire",
        "withdraw",
        "protocol",
        "refusal",
        "retry",
        "verdict",
        "departure",
        "reach",
        "registry",
    ],
    // L1: the concerns, none of which knows another
    &[
        "detect",
        "headers",
        "compression",
        "heartbeat",
        "event_id",
        "drain",
        "limit",
        "lifetime",
        "stall",
        "silence",
        "truncation",
        "metrics",
    ],
    // L2: their order
    &["engine"],
    // L3: the one body, and what it holds; and the services inside it, with bodies of their own
    &[
        "body", "flush", "frames", "slot", "timer", "watch", "resume", "early",
    ],
    // L4: the one service
    &["service", "future"],
    // L5: the layers
    &["layer"],
    // L6: documentation and the list of what is public
    &["lib", "guide"],
];

/// Who may import from its own level; on L0, anyone in whom no circle closes.
const SAME_LEVEL: [(&str, &str); 12] = [
    ("body", "flush"),
    ("body", "frames"),
    ("body", "slot"),
    ("body", "timer"),
    ("body", "watch"),
    ("early", "frames"),
    ("early", "timer"),
    ("flush", "timer"),
    ("resume", "frames"),
    ("resume", "timer"),
    ("service", "future"),
    ("slot", "frames"),
];

/// What waits and polls begins above the engine.
const SANS_IO: usize = 2;

/// Words of those who wait, and the modules that may have them anyway.
const WAITING: [(&str, &[&str]); 6] = [
    ("poll_", &[]),
    ("Context<", &[]),
    ("Pin<", &[]),
    ("Pin::", &[]),
    // What looks at streams from outside does it in tasks of its own.
    ("async ", &["drain", "stall"]),
    (".await", &["drain", "stall"]),
];

/// Nothing that the network sends may end the process.
const PANICS: [&str; 6] = [
    ".unwrap()",
    ".expect(",
    "panic!(",
    "unreachable!(",
    "todo!(",
    "assert!(",
];

/// The one thing a caller can do wrong.
const MISUSE: &str = r#".expect("polled after completion")"#;

/// Tests that are part of the crate: to panic is what they are for.
const TESTS: &str = "resume/conformance";

/// Lines of a file, beyond which nobody keeps it in mind.
const LONG: usize = 450;

struct Source {
    module: String,
    path: PathBuf,
    lines: usize,
    /// Without comments and tests.
    code: String,
}

#[test]
fn every_file_has_its_level() {
    for source in sources() {
        source.level();
    }
}

#[test]
fn imports_point_down() {
    for source in sources().iter().filter(|source| source.module != "lib") {
        for import in source.imports() {
            let (from, to) = (source.level(), level(&import));
            let known = SAME_LEVEL.contains(&(&source.module, &import));
            let fine = to < from || to == from && (known || from == Some(0));
            assert!(fine, "{} imports {import}", source.path.display());
        }
    }
}

#[test]
fn no_circle_closes() {
    let mut imports = BTreeMap::<_, BTreeSet<_>>::new();
    for source in sources().iter().filter(|source| source.module != "lib") {
        let known = imports.entry(source.module.clone()).or_default();
        known.extend(source.imports());
    }
    // Takes away who imports nothing that is left, until nobody is.
    while !imports.is_empty() {
        let left: BTreeSet<_> = imports.keys().cloned().collect();
        imports.retain(|_, known| !known.is_disjoint(&left));
        assert!(imports.len() < left.len(), "a circle in {left:?}");
    }
}

#[test]
fn the_engine_and_all_below_it_wait_for_nothing() {
    for source in sources() {
        for (word, but) in WAITING {
            let may = source.level() > Some(SANS_IO) || but.contains(&source.module.as_str());
            let has = source.code.contains(word);
            assert!(may || !has, "{} has {word:?}", source.path.display());
        }
    }
}

#[test]
fn there_is_one_clock_and_tests_can_stop_it() {
    for source in sources() {
        for word in ["std::time::Instant", "SystemTime"] {
            let mut paths = source.paths().into_iter().chain([source.code.clone()]);
            let has = paths.any(|path| path.contains(word));
            assert!(!has, "{} has {word}", source.path.display());
        }
    }
}

#[test]
fn nothing_panics() {
    let sources = sources().into_iter();
    for source in sources.filter(|source| !source.path.starts_with(src().join(TESTS))) {
        let code = source.code.replace(MISUSE, "");
        for word in PANICS {
            let has = code.contains(word);
            assert!(!has, "{} has {word}", source.path.display());
        }
    }
}

#[test]
fn files_are_short() {
    for source in sources() {
        let lines = source.lines;
        assert!(lines <= LONG, "{}: {lines}", source.path.display());
    }
}

impl Source {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("a source file");
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        let lines = code.lines().map(|line| match line.split_once("//") {
            Some((code, _)) => code.trim_end(),
            None => line,
        });
        let lines: Vec<_> = lines.filter(|line| !line.trim().is_empty()).collect();
        // All files of a folder are one module to the others.
        let inside = path.strip_prefix(src()).expect("a file in src");
        let first = inside.iter().next().expect("a name");
        Self {
            module: Path::new(first).with_extension("").display().to_string(),
            lines: text.lines().count(),
            code: lines.join("\n"),
            path,
        }
    }

    fn level(&self) -> Option<usize> {
        let level = level(&self.module);
        assert!(level.is_some(), "{} has no level", self.path.display());
        level
    }

    /// The other modules that it names, in a `use` or elsewhere.
    fn imports(&self) -> BTreeSet<String> {
        let words = self.code.split("crate::").skip(1);
        let inline = words.map(|rest| rest.split(|c: char| c != '_' && !c.is_alphanumeric()));
        let inline = inline.filter_map(|mut words| words.next().map(str::to_owned));
        let used = self.paths().into_iter();
        let used = used.filter_map(|path| Some(path.strip_prefix("crate::")?.to_owned()));
        used.map(|path| path.split("::").next().unwrap_or_default().to_owned())
            .chain(inline)
            .filter(|name| !name.is_empty() && *name != self.module)
            .collect()
    }

    /// All that its `use` lines name, each by its whole path.
    fn paths(&self) -> Vec<String> {
        let statements = self.code.split("use ").skip(1);
        let trees = statements.filter_map(|rest| rest.split(';').next());
        trees
            .flat_map(|tree| expand("", &tree.replace(char::is_whitespace, "")))
            .collect()
    }
}

/// `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(prefix: &str, tree: &str) -> Vec<String> {
    let Some((path, group)) = tree.split_once('{') else {
        return vec![format!("{prefix}{tree}")];
    };
    let group = group.strip_suffix('}').unwrap_or(group);
    let mut depth = 0;
    let parts = group.split(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    let prefix = format!("{prefix}{path}");
    parts.flat_map(|part| expand(&prefix, part)).collect()
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|modules| modules.contains(&module))
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![src()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                sources.push(Source::read(path));
            }
        }
    }
    assert!(!sources.is_empty());
    sources
}

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}
