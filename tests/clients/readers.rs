//! Who reads which streams: libraries in Python, JavaScript and Rust, at the versions that are
//! pinned beside them.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use crate::programs::{folder::target, node, python::python};

/// What a stream is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Chat,
    Responses,
    Messages,
    Gemini,
    Feed,
}

/// A recording as it is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    AsRecorded,
    /// With `\r\n` for `\n`.
    Crlf,
    /// Each event with an id.
    Ids,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Language {
    Python,
    JavaScript,
    Rust,
}

/// A library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Library {
    pub(crate) language: Language,
    pub(crate) package: &'static str,
    /// The program that reads with it.
    script: &'static str,
}

/// A library, a protocol, and the ways in which it reads that.
pub(crate) type Reader = (Library, Protocol, &'static [&'static str]);

impl Protocol {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Messages => "messages",
            Self::Gemini => "gemini",
            Self::Feed => "feed",
        }
    }

    /// As people know it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Chat => "OpenAI chat",
            Self::Responses => "OpenAI responses",
            Self::Messages => "Anthropic messages",
            Self::Gemini => "Gemini",
            Self::Feed => "feed with ids",
        }
    }

    /// A text; a text and tool calls; a text that an error breaks off.
    pub(crate) fn recordings(self) -> &'static [&'static str] {
        match self {
            Self::Chat => &[
                include_str!("../sdks/openai_chat.sse"),
                include_str!("../sdks/openai_chat_tools.sse"),
                include_str!("../sdks/openai_chat_error.sse"),
            ],
            Self::Responses => &[
                include_str!("../sdks/openai_responses.sse"),
                include_str!("../sdks/openai_responses_tools.sse"),
                include_str!("../sdks/openai_responses_error.sse"),
            ],
            Self::Messages => &[
                include_str!("../sdks/anthropic_messages.sse"),
                include_str!("../sdks/anthropic_messages_tools.sse"),
                include_str!("../sdks/anthropic_messages_error.sse"),
            ],
            Self::Gemini => &[
                include_str!("../sdks/gemini.sse"),
                include_str!("../sdks/gemini_tools.sse"),
                include_str!("../sdks/gemini_error.sse"),
            ],
            Self::Feed => &[include_str!("../sdks/feed.sse")],
        }
    }

    /// Google's libraries read no ids, and the feed has its own.
    pub(crate) fn variants(self) -> &'static [Variant] {
        match self {
            Self::Chat | Self::Responses | Self::Messages => {
                &[Variant::AsRecorded, Variant::Crlf, Variant::Ids]
            }
            Self::Gemini | Self::Feed => &[Variant::AsRecorded, Variant::Crlf],
        }
    }
}

impl Variant {
    pub(crate) fn of(self, recording: &str) -> Vec<u8> {
        match self {
            Self::AsRecorded => recording.into(),
            Self::Crlf => recording.replace('\n', "\r\n").into(),
            Self::Ids => {
                let events = recording.split_inclusive("\n\n").enumerate();
                let events = events.map(|(number, event)| format!("id: {number}\n{event}"));
                events.collect::<String>().into()
            }
        }
    }
}

const fn python_library(package: &'static str, script: &'static str) -> Library {
    Library {
        language: Language::Python,
        package,
        script,
    }
}

const fn javascript(package: &'static str, script: &'static str) -> Library {
    Library {
        language: Language::JavaScript,
        package,
        script,
    }
}

const fn rust(package: &'static str) -> Library {
    Library {
        language: Language::Rust,
        package,
        script: "clients",
    }
}

/// All of them; those of one program stand together.
pub(crate) const READERS: &[Reader] = {
    use Protocol::{Chat, Feed, Gemini, Messages, Responses};
    const SDK: &[&str] = &["create", "async", "helper"];
    const ASYNC: &[&str] = &["create", "async"];
    const HELPER: &[&str] = &["create", "helper"];
    const CREATE: &[&str] = &["create"];
    &[
        (python_library("openai", "read_openai.py"), Chat, SDK),
        (python_library("openai", "read_openai.py"), Responses, SDK),
        (
            python_library("anthropic", "read_anthropic.py"),
            Messages,
            SDK,
        ),
        (
            python_library("google-genai", "read_google_genai.py"),
            Gemini,
            ASYNC,
        ),
        (
            python_library("langchain-openai", "read_langchain.py"),
            Chat,
            ASYNC,
        ),
        (
            python_library("langchain-openai", "read_langchain.py"),
            Responses,
            ASYNC,
        ),
        (
            python_library("langchain-anthropic", "read_langchain.py"),
            Messages,
            ASYNC,
        ),
        (
            python_library("httpx-sse", "read_httpx_sse.py"),
            Feed,
            ASYNC,
        ),
        (javascript("openai", "openai.cjs"), Chat, HELPER),
        (javascript("openai", "openai.cjs"), Responses, HELPER),
        (javascript("openai-6", "openai.cjs"), Chat, HELPER),
        (javascript("openai-6", "openai.cjs"), Responses, HELPER),
        (
            javascript("@anthropic-ai/sdk", "anthropic.cjs"),
            Messages,
            HELPER,
        ),
        (javascript("@google/genai", "google.cjs"), Gemini, CREATE),
        (
            javascript("@google/generative-ai", "google.cjs"),
            Gemini,
            &["legacy"],
        ),
        (
            javascript("@langchain/openai", "langchain.cjs"),
            Chat,
            CREATE,
        ),
        (
            javascript("@langchain/openai", "langchain.cjs"),
            Responses,
            CREATE,
        ),
        (
            javascript("@ai-sdk/openai-compatible", "ai.cjs"),
            Chat,
            &["compatible"],
        ),
        (javascript("@ai-sdk/openai", "ai.cjs"), Chat, CREATE),
        (javascript("@ai-sdk/openai", "ai.cjs"), Responses, CREATE),
        (javascript("@ai-sdk/anthropic", "ai.cjs"), Messages, CREATE),
        (javascript("@ai-sdk/google", "ai.cjs"), Gemini, CREATE),
        (
            javascript("eventsource", "feeds.cjs"),
            Feed,
            &["eventsource"],
        ),
        (
            javascript("eventsource-parser", "feeds.cjs"),
            Feed,
            &["parser"],
        ),
        (
            javascript("eventsource-parser", "feeds.cjs"),
            Feed,
            &["stream"],
        ),
        (
            javascript("@microsoft/fetch-event-source", "feeds.cjs"),
            Feed,
            &["fetch"],
        ),
        (rust("async-openai"), Chat, CREATE),
        (rust("async-openai"), Responses, CREATE),
        (rust("eventsource-client"), Feed, CREATE),
        (rust("eventsource-stream"), Feed, CREATE),
        (rust("reqwest-eventsource"), Feed, CREATE),
        (rust("sse-stream"), Feed, CREATE),
    ]
};

const CLIENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients");

impl Library {
    /// The program that reads with it, without the settings of who runs the tests.
    pub(crate) fn command(self) -> Command {
        let script = Path::new(CLIENTS).join("readers").join(self.script);
        let mut command = match self.language {
            Language::Python => python(script),
            Language::JavaScript => node::command(script),
            Language::Rust => {
                let program = target().join("clients-rust/debug").join(self.script);
                assert!(program.exists(), "no {}: run tests/run", program.display());
                Command::new(program)
            }
        };
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            let prefixes = [
                "OPENAI_",
                "ANTHROPIC_",
                "GOOGLE_",
                "GEMINI_",
                "LANGCHAIN_",
                "LANGSMITH_",
            ];
            if prefixes.iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        command.env("NO_PROXY", "*");
        command
    }

    /// Whether one program reads for both.
    pub(crate) fn shares_a_program_with(self, other: Self) -> bool {
        (self.language, self.script) == (other.language, other.script)
    }

    /// What it is a provider for.
    pub(crate) fn framework(self) -> Option<Self> {
        let provides = self.package.starts_with("@ai-sdk/");
        provides.then_some(Self {
            package: "ai",
            ..self
        })
    }

    /// The version that is pinned.
    pub(crate) fn version(self) -> String {
        let package = self.package;
        let version = match self.language {
            Language::Python => {
                let lines = include_str!("../sdks/requirements.txt").lines();
                let mut pins = lines.filter_map(|line| line.split_once("=="));
                pins.find(|(name, _)| *name == package)
                    .map(|(_, version)| version.to_owned())
            }
            Language::JavaScript => {
                let packages: Value =
                    serde_json::from_str(include_str!("package.json")).expect("JSON");
                let version = packages["dependencies"][package].as_str();
                version.map(|version| version.rsplit('@').next().unwrap_or_default().to_owned())
            }
            Language::Rust => {
                let path = Path::new(CLIENTS).join("rust/Cargo.lock");
                let lock = fs::read_to_string(path).expect("a lock file");
                let entry = format!("name = \"{package}\"\nversion = \"");
                lock.split_once(&entry)
                    .and_then(|(_, rest)| rest.split('"').next())
                    .map(str::to_owned)
            }
        };
        version.unwrap_or_else(|| panic!("{package} is not pinned"))
    }
}
