use std::str;

use bytes::Bytes;
use http::{StatusCode, response};

use super::layer::Plan;
use crate::{
    detect::{self, EventStream},
    protocol::{self, Fault, Protocol},
    trace::trace,
};

/// An answer that came late and is told as an error event, with what was read of its body.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    why: Why,
    protocol: Option<Protocol>,
    /// Whether its bytes are what it says.
    readable: bool,
    text: Vec<u8>,
}

/// Why an answer cannot go on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Refused,
    NoStream,
    Encoded,
}

/// As much as is read of a body: more than any error has to say.
const MOST: usize = 64 * 1024;

impl Answer {
    /// `None` for an event stream that can go on as it is.
    pub(super) fn of(head: &response::Parts, plan: &Plan) -> Option<Self> {
        let status = head.status;
        let why = match EventStream::of(head, plan.client) {
            _ if status.is_client_error() || status.is_server_error() => Why::Refused,
            Some(EventStream::Plain) if status.is_success() => return None,
            Some(EventStream::Opaque) if status.is_success() => Why::Encoded,
            _ => Why::NoStream,
        };
        trace!(
            warn,
            "a late answer cannot go on as it is",
            status = status,
            why = why
        );
        Some(Self {
            status,
            why,
            protocol: plan.protocol,
            readable: why != Why::Encoded && !detect::is_encoded(head),
            text: Vec::new(),
        })
    }

    /// Whether nothing more is wanted of its body.
    pub(super) fn is_full(&self) -> bool {
        !self.readable || self.text.len() >= MOST
    }

    pub(super) fn on_data(&mut self, data: &[u8]) {
        let room = MOST.saturating_sub(self.text.len());
        self.text.extend_from_slice(&data[..data.len().min(room)]);
    }

    pub(super) fn event(&self) -> Bytes {
        let status = self.error_status();
        let said = protocol::passed_on(&self.text, status, self.protocol);
        said.unwrap_or_else(|| {
            let fault = Fault {
                status: status.unwrap_or(StatusCode::BAD_GATEWAY),
                code: self.why.code(),
                message: &self.message(),
            };
            fault.event(self.protocol)
        })
    }

    fn error_status(&self) -> Option<StatusCode> {
        (self.why == Why::Refused).then_some(self.status)
    }

    fn message(&self) -> String {
        match text(&self.text).trim() {
            "" if self.why == Why::Encoded => {
                "The service's event stream came too late, and in a coding that cannot be named \
                 any more."
                    .to_owned()
            }
            "" => format!("The service answered {}, and no event stream.", self.status),
            text => text.to_owned(),
        }
    }
}

impl Why {
    fn code(self) -> &'static str {
        match self {
            Self::Refused => "stream_refused",
            Self::NoStream => "not_a_stream",
            Self::Encoded => "stream_encoded",
        }
    }
}

/// What the client gets whose service has failed. Why is nobody's business but the log's.
pub(super) fn failure(protocol: Option<Protocol>) -> Bytes {
    let fault = Fault {
        status: StatusCode::BAD_GATEWAY,
        code: "stream_failed",
        message: "The service failed before it answered.",
    };
    fault.event(protocol)
}

/// Its text, if it is one; the end may be cut.
fn text(bytes: &[u8]) -> &str {
    match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => "",
    }
}
