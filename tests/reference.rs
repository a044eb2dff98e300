//! The reference parser against the examples of the specification: what all other tests lean on.

mod support;

use support::reference::parse;

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
