//! The client that every test believes: the event stream parser of WHATWG HTML, sections
//! [9.2.5 and 9.2.6][spec], as plain and as slow as its text.
//!
//! It was written from the standard alone. It wants the whole stream, shares nothing with `src`,
//! and must stay so simple that it is right at a glance.
//!
//! [spec]: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream

/// What a client has after the last byte of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// The events that were dispatched, in order.
    pub(crate) events: Vec<Event>,
    /// The last event ID: what the client would send when it comes back.
    pub(crate) last_id: String,
    /// The reconnection time in milliseconds, where the stream set one.
    pub(crate) retry: Option<u64>,
}

/// An event as its listener gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its type; `message` where the stream named none.
    pub(crate) kind: String,
    /// Its data lines, with LF between them.
    pub(crate) data: String,
    /// The last event ID when it was dispatched.
    pub(crate) id: String,
}

/// Reads `stream` to its end.
pub(crate) fn parse(stream: &[u8]) -> Parsed {
    let mut parser = Parser::default();
    for line in lines(stream) {
        parser.line(&line);
    }
    parser.parsed
}

/// Every line that has an end. What follows the last one is no line yet.
fn lines(stream: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<_> = text.split('\n').map(String::from).collect();
    lines.pop();
    lines
}

/// The three buffers of the standard, and what came of them.
#[derive(Default)]
struct Parser {
    data: String,
    event_type: String,
    last_event_id: String,
    parsed: Parsed,
}

impl Parser {
    fn line(&mut self, line: &str) {
        if line.is_empty() {
            self.dispatch();
        } else if line.starts_with(':') {
            // a comment
        } else if let Some((name, value)) = line.split_once(':') {
            self.field(name, value.strip_prefix(' ').unwrap_or(value));
        } else {
            self.field(line, "");
        }
    }

    fn field(&mut self, name: &str, value: &str) {
        match name {
            "event" => self.event_type = value.into(),
            "data" => self.data += &format!("{value}\n"),
            "id" if !value.contains('\0') => self.last_event_id = value.into(),
            "retry" if is_number(value) => {
                self.parsed.retry = Some(value.parse().unwrap_or(u64::MAX));
            }
            _ => (),
        }
    }

    fn dispatch(&mut self) {
        self.parsed.last_id = self.last_event_id.clone();
        let event_type = std::mem::take(&mut self.event_type);
        let data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return;
        }
        self.parsed.events.push(Event {
            kind: if event_type.is_empty() {
                "message".into()
            } else {
                event_type
            },
            data: data.strip_suffix('\n').unwrap_or(&data).into(),
            id: self.parsed.last_id.clone(),
        });
    }
}

fn is_number(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit())
}
