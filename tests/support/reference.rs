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

#[cfg(test)]
mod tests {
    use super::*;

    /// Type, data and id of every event.
    fn events(stream: &str) -> Vec<(String, String, String)> {
        let events = parse(stream.as_bytes()).events;
        events
            .into_iter()
            .map(|event| (event.kind, event.data, event.id))
            .collect()
    }

    fn event(kind: &str, data: &str, id: &str) -> (String, String, String) {
        (kind.into(), data.into(), id.into())
    }

    #[test]
    fn the_stock_ticker_of_the_standard_is_one_event() {
        let stream = "data: YHOO\ndata: +2\ndata: 10\n\n";
        assert_eq!(events(stream), [event("message", "YHOO\n+2\n10", "")]);
    }

    #[test]
    fn the_four_blocks_of_the_standard_are_a_comment_and_two_events_and_a_cut_one() {
        let stream = ": test stream\n\ndata: first event\nid: 1\n\n\
                      data:second event\nid\n\ndata:  third event";
        assert_eq!(
            events(stream),
            [
                event("message", "first event", "1"),
                event("message", "second event", "")
            ]
        );
    }

    #[test]
    fn the_third_event_of_the_standard_keeps_one_space_once_it_is_whole() {
        assert_eq!(
            events("data:  third event\n\n"),
            [event("message", " third event", "")]
        );
    }

    #[test]
    fn the_empty_data_of_the_standard_is_two_events_and_a_cut_one() {
        let stream = "data\n\ndata\ndata\n\ndata:";
        assert_eq!(
            events(stream),
            [event("message", "", ""), event("message", "\n", "")]
        );
    }

    #[test]
    fn the_space_after_the_colon_of_the_standard_makes_no_difference() {
        let expected = [event("message", "test", ""), event("message", "test", "")];
        assert_eq!(events("data:test\n\ndata: test\n\n"), expected);
    }

    #[test]
    fn the_named_events_of_the_standard_have_their_types() {
        let stream = "event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\n\
                      event: add\ndata: 113411\n\n";
        assert_eq!(
            events(stream),
            [
                event("add", "73857293", ""),
                event("remove", "2153", ""),
                event("add", "113411", ""),
            ]
        );
    }

    #[test]
    fn a_type_dies_with_a_block_that_has_no_data() {
        let expected = [event("message", "x", "")];
        assert_eq!(events("event: add\n\ndata: x\n\n"), expected);
    }

    #[test]
    fn the_id_moves_at_the_blank_line_even_without_data() {
        let last_id = |stream: &str| parse(stream.as_bytes()).last_id;
        assert_eq!(last_id("id: 1\n\nid: 2\n"), "1");
        assert_eq!(last_id("id: 1\n\nid: 2\n\n"), "2");
        assert_eq!(last_id("id: 1\n\nid: 2\0\n\n"), "1");
        assert_eq!(last_id("id: 1\n\nid\n\n"), "");
    }

    #[test]
    fn only_digits_set_the_reconnection_time() {
        for (value, expected) in [
            ("1500", Some(1500)),
            ("007", Some(7)),
            ("99999999999999999999", Some(u64::MAX)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("10s", None),
            ("\u{661}", None),
        ] {
            assert_eq!(
                parse(format!("retry: {value}\n").as_bytes()).retry,
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn one_mark_is_ignored_and_bytes_that_are_no_text_are_replaced() {
        assert_eq!(events("\u{feff}data: x\n\n"), [event("message", "x", "")]);
        assert_eq!(events("\u{feff}\u{feff}data: x\n\n"), []);
        assert_eq!(parse(b"data: \xff\n\n").events[0].data, "\u{fffd}");
    }

    #[test]
    fn a_line_ends_with_lf_or_cr_or_both() {
        let expected = [event("message", "x\ny", "")];
        for end in ["\n", "\r", "\r\n"] {
            let stream = ["data: x", "data: y", "", ""].join(end);
            assert_eq!(events(&stream), expected, "{end:?}");
        }
        assert_eq!(events("data: x\r\ndata: y\n\r"), expected);
    }
}
