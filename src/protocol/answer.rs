use std::{fmt, sync::Arc};

use super::Protocol;
use crate::wire::{BlockEnd, Field};

/// Which event is the last of an answer.
#[derive(Clone)]
pub(crate) enum Terminal {
    /// That of any protocol we know.
    Any,
    Of(Protocol),
    /// The one with a field of which this is true.
    Field(Arc<IsTerminal>),
}

type IsTerminal = dyn Fn(&Field<'_>) -> bool + Send + Sync;

/// How far the answer of a stream is.
#[derive(Debug)]
pub(crate) struct Answer {
    terminal: Terminal,
    /// The open block is the terminal event.
    closing: bool,
    complete: bool,
    /// One was complete, maybe another has begun.
    was_complete: bool,
}

impl Terminal {
    fn is(&self, field: &Field<'_>) -> bool {
        match self {
            Self::Any => ends_chat(field) || ends_responses(field) || ends_messages(field),
            Self::Of(Protocol::OpenAiChat) => ends_chat(field),
            Self::Of(Protocol::OpenAiResponses) => ends_responses(field),
            Self::Of(Protocol::AnthropicMessages) => ends_messages(field),
            Self::Field(is_terminal) => is_terminal(field),
        }
    }
}

/// An error is an end too: its libraries raise on it and read no further.
fn ends_chat(field: &Field<'_>) -> bool {
    let last: [&[u8]; 2] = [b"[DONE]", b"{\"error\":"];
    field.name == b"data" && last.iter().any(|last| field.value.starts_with(last))
}

/// Some who speak the protocol leave the events' names out, and say them in the data alone.
fn ends_responses(field: &Field<'_>) -> bool {
    let kind = match field.name {
        b"event" => Some(field.value),
        b"data" => type_of(field.value),
        _ => None,
    };
    let last: [&[u8]; 4] = [
        b"response.completed",
        b"response.failed",
        b"response.incomplete",
        b"error",
    ];
    kind.is_some_and(|kind| last.contains(&kind))
}

/// Of JSON whose type comes first, as both providers write it.
fn type_of(data: &[u8]) -> Option<&[u8]> {
    let rest = data.strip_prefix(b"{\"type\":")?.trim_ascii_start();
    rest.strip_prefix(b"\"")?.split(|byte| *byte == b'"').next()
}

fn ends_messages(field: &Field<'_>) -> bool {
    field.name == b"event" && (field.value == b"message_stop" || field.value == b"error")
}

impl Answer {
    pub(crate) fn new(terminal: Terminal) -> Self {
        Self {
            terminal,
            closing: false,
            complete: false,
            was_complete: false,
        }
    }

    /// Whether the terminal event can only be told by its reader. That one is to be asked about
    /// every field, and once.
    pub(crate) fn needs_lines(&self) -> bool {
        matches!(self.terminal, Terminal::Field(_))
    }

    /// Whether the field is of the terminal event.
    pub(crate) fn is_last(&self, field: &Field<'_>) -> bool {
        self.terminal.is(field)
    }

    /// Events that are not the terminal one.
    pub(crate) fn on_events(&mut self) {
        self.complete = false;
    }

    pub(crate) fn on_field(&mut self, field: &Field<'_>) {
        self.closing |= self.is_last(field);
    }

    /// A block without data is nothing to a client.
    pub(crate) fn on_event_end(&mut self, block: &BlockEnd) {
        if block.data {
            self.complete = self.closing;
            self.was_complete |= self.closing;
        }
        self.closing = false;
    }

    /// Nothing is under way.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }

    /// There was one that was told to its end.
    pub(crate) fn was_complete(&self) -> bool {
        self.was_complete
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("Any"),
            Self::Of(protocol) => protocol.fmt(f),
            Self::Field(_) => f.write_str("Fn"),
        }
    }
}
