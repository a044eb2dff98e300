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

/// How far an answer is.
#[derive(Debug)]
pub(crate) struct Answer {
    terminal: Terminal,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// The open block is the terminal event.
    Closing,
    Complete,
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
    field.name == b"data" && (field.value == b"[DONE]" || field.value.starts_with(b"{\"error\":"))
}

fn ends_responses(field: &Field<'_>) -> bool {
    let last: [&[u8]; 4] = [
        b"response.completed",
        b"response.failed",
        b"response.incomplete",
        b"error",
    ];
    field.name == b"event" && last.contains(&field.value)
}

fn ends_messages(field: &Field<'_>) -> bool {
    field.name == b"event" && (field.value == b"message_stop" || field.value == b"error")
}

impl Answer {
    pub(crate) fn new(terminal: Terminal) -> Self {
        Self {
            terminal,
            state: State::Running,
        }
    }

    pub(crate) fn on_field(&mut self, field: &Field<'_>) {
        if self.terminal.is(field) {
            self.state = State::Closing;
        }
    }

    pub(crate) fn on_event_end(&mut self, block: &BlockEnd) {
        self.state = match self.state {
            State::Closing => State::Complete,
            // Another answer in the same stream.
            State::Complete if block.data => State::Running,
            State::Running | State::Complete => self.state,
        };
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.state == State::Complete
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
