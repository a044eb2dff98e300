//! The wire module against an independent parser: at every split, for random streams, and for all
//! short ones.

mod support;

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use support::{
    reference::{self, Parsed},
    streams::{NASTY, byte_by_byte, chunked, config, cut_at, every_split, shown, stream},
};
use tower_sse::wire::{
    Comment, EventId, LineEnd, Mark, Position, Scanner, comment_line, id_line, retry_line,
};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// The longest line that the scanner must show whole: `id: ` and the longest id.
const WHOLE: usize = "id: ".len() + EventId::MAX_LEN;

/// The most that it may keep of a longer one.
const KEPT: usize = 1050;

/// What may go in at a boundary without anybody noticing.
const HEARTBEATS: &[&[u8]] = &[
    b": hb\n",
    b": hb\r\n",
    b": hb\n\n",
    b": hb\r\n\r\n",
    b"\n\n",
    b"\r\n\r\n",
    b":\n",
    b": hb\n\n: hb\n: hb\n\n",
];

// ---- what the scanner ought to say, said slowly ----

/// A mark with its place in the whole stream.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Field {
        name: Bytes,
        value: Bytes,
        complete: bool,
    },
    Block {
        blank: Range<usize>,
        line_end: LineEnd,
        data: bool,
        fields: bool,
        comments: bool,
    },
}

impl Found {
    fn field(name: &[u8], value: &[u8], complete: bool) -> Self {
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        Self::Field {
            name,
            value,
            complete,
        }
    }

    fn blank_start(&self) -> Option<usize> {
        match self {
            Self::Field { .. } => None,
            Self::Block { blank, .. } => Some(blank.start),
        }
    }

    /// Whether this is what a line leaves that is too long to be kept, and says so.
    fn is_start_of(&self, whole: &Self) -> bool {
        let Self::Field {
            name,
            value,
            complete: false,
        } = self
        else {
            return false;
        };
        let Self::Field {
            name: whole_name,
            value: whole_value,
            ..
        } = whole
        else {
            return false;
        };
        whole_name.len() + ": ".len() + whole_value.len() > WHOLE
            && name.len() + value.len() <= KEPT
            && whole_name.starts_with(name)
            && whole_value.starts_with(value)
    }
}

/// A line and how it ends; the mark at the start of the stream belongs to no line.
struct Line<'a> {
    text: &'a [u8],
    end: LineEnd,
    blank: Range<usize>,
}

fn lines(stream: &[u8]) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    let mut start = if stream.starts_with(BOM) {
        BOM.len()
    } else {
        0
    };
    while let Some(len) = stream[start..]
        .iter()
        .position(|byte| b"\r\n".contains(byte))
    {
        let at = start + len;
        let end = match &stream[at..] {
            [b'\n', ..] => LineEnd::Lf,
            [b'\r', b'\n', ..] => LineEnd::CrLf,
            _ => LineEnd::Cr,
        };
        let next = at + end.as_bytes().len();
        lines.push(Line {
            text: &stream[start..at],
            end,
            blank: at..next,
        });
        start = next;
    }
    lines
}

fn field(line: &[u8]) -> (&[u8], &[u8]) {
    let colon = line.iter().position(|&byte| byte == b':');
    let name = &line[..colon.unwrap_or(line.len())];
    let value = colon.map_or(&b""[..], |colon| &line[colon + 1..]);
    (name, value.strip_prefix(b" ").unwrap_or(value))
}

fn expected_marks(stream: &[u8]) -> Vec<Found> {
    let mut marks = Vec::new();
    let mut line_end = LineEnd::Lf;
    let (mut data, mut fields, mut comments) = (false, false, false);
    for line in lines(stream) {
        if line.text.is_empty() {
            let blank = line.blank;
            marks.push(Found::Block {
                blank,
                line_end,
                data,
                fields,
                comments,
            });
            (data, fields, comments) = (false, false, false);
        } else if line.text[0] == b':' {
            comments = true;
        } else {
            let (name, value) = field(line.text);
            data |= name == b"data";
            fields = true;
            marks.push(Found::field(name, value, true));
        }
        line_end = line.end;
    }
    marks
}

fn expected_position(stream: &[u8]) -> Position {
    let lines = lines(stream);
    let is_cr = |line: Option<&Line<'_>>| line.is_some_and(|line| line.end == LineEnd::Cr);
    let blank_in_cr =
        lines.last().is_some_and(|line| line.text.is_empty()) && is_cr(lines.iter().nth_back(1));
    let block = lines.iter().rev().take_while(|line| !line.text.is_empty());
    let in_event = block.into_iter().any(|line| line.text[0] != b':');
    match stream.last() {
        Some(b'\r') if !blank_in_cr => Position::AfterCr,
        Some(b'\r' | b'\n') | None if in_event => Position::LineStart,
        Some(b'\r' | b'\n') | None => Position::Boundary,
        Some(_) => Position::MidLine,
    }
}

// ---- what it says ----

/// The marks of all chunks, with their places in the whole stream. An LF that a cut has parted from
/// its CR is put back behind the blank line that it ends.
fn marks(chunks: &[Bytes]) -> Vec<Found> {
    let mut scanner = Scanner::new();
    let mut marks = Vec::new();
    let mut start = 0;
    let mut last = None;
    for chunk in chunks {
        scanner.scan(chunk, |mark| match mark {
            Mark::LineFeed => {
                assert_eq!((last, chunk[0]), (Some(b'\r'), b'\n'), "an LF of no CR");
                if let Some(Found::Block { blank, .. }) = marks.last_mut()
                    && blank.end == start
                {
                    blank.end += 1;
                }
            }
            mark => marks.extend(found(&mark, start)),
        });
        start += chunk.len();
        last = chunk.last().copied().or(last);
    }
    marks
}

fn found(mark: &Mark<'_>, start: usize) -> Option<Found> {
    match mark {
        Mark::Field(field) => Some(Found::field(field.name, field.value, field.complete)),
        Mark::BlockEnd(block) => Some(Found::Block {
            blank: start + block.blank.start..start + block.blank.end,
            line_end: block.line_end,
            data: block.data,
            fields: block.fields,
            comments: block.comments,
        }),
        _ => None,
    }
}

fn assert_marks(chunks: &[Bytes], expected: &[Found]) {
    let marks = marks(chunks);
    assert_eq!(marks.len(), expected.len(), "{}", shown(chunks));
    for (mark, expected) in marks.iter().zip(expected) {
        let right = mark == expected || mark.is_start_of(expected);
        assert!(right, "{mark:?}, not {expected:?}, in {}", shown(chunks));
    }
}

/// Every chunk that ends at `position`, as what came before its end and what comes behind. Nothing
/// may be said before a mark: the layers take it off first.
fn stops(chunks: &[Bytes], position: Position) -> Vec<(Vec<u8>, Vec<u8>)> {
    let whole = chunks.concat();
    let mut scanner = Scanner::new();
    let mut at = 0;
    let mut stops = Vec::new();
    for chunk in [&Bytes::new()].into_iter().chain(chunks) {
        scanner.scan(chunk, |_| ());
        at += chunk.len();
        let before_mark = at == 0 && whole.starts_with(BOM);
        if scanner.position() == position && !before_mark {
            stops.push((whole[..at].into(), whole[at..].into()));
        }
    }
    stops
}

/// The stream with `inserted` wherever the scanner stands at `position` between two chunks.
fn with_inserted(chunks: &[Bytes], position: Position, inserted: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut start = 0;
    for (before, _) in stops(chunks, position) {
        out.extend(&before[start..]);
        out.extend(inserted);
        start = before.len();
    }
    out.extend(&chunks.concat()[start..]);
    out
}

/// The stream with an id line of its own number at the end of each block that has data.
fn with_ids(chunks: &[Bytes]) -> Vec<u8> {
    let mut scanner = Scanner::new();
    let mut out = Vec::new();
    let mut number = 0;
    for chunk in chunks {
        let mut start = 0;
        scanner.scan(chunk, |mark| {
            if let Mark::BlockEnd(block) = mark
                && block.data
            {
                out.extend(&chunk[start..block.blank.start]);
                out.extend(id_line(&EventId::from(number), block.line_end));
                start = block.blank.start;
                number += 1;
            }
        });
        out.extend(&chunk[start..]);
    }
    out
}

/// The cursor after every event, and at the end, as the marks tell it.
fn cursors(chunks: &[Bytes]) -> Vec<String> {
    let mut cursors = Vec::new();
    let mut cursor = String::new();
    let mut last_id = String::new();
    for mark in marks(chunks) {
        match mark {
            Found::Field { name, value, .. } if name == "id" && !value.contains(&0) => {
                cursor = String::from_utf8_lossy(&value).into();
            }
            Found::Field { .. } => (),
            Found::Block { data, .. } => {
                last_id.clone_from(&cursor);
                cursors.extend(data.then(|| cursor.clone()));
            }
        }
    }
    cursors.push(last_id);
    cursors
}

fn expected_cursors(parsed: Parsed) -> Vec<String> {
    let ids = parsed.events.into_iter().map(|event| event.id);
    ids.chain([parsed.last_id]).collect()
}

// ---- what must hold for any stream in any chunks ----

fn assert_positions(chunks: &[Bytes]) {
    let mut scanner = Scanner::new();
    let mut so_far = Vec::new();
    assert_eq!(scanner.position(), Position::Boundary);
    for chunk in chunks {
        scanner.scan(chunk, |_| ());
        so_far.extend(chunk);
        let line_end = lines(&so_far).last().map_or(LineEnd::Lf, |line| line.end);
        assert_eq!(
            (scanner.position(), scanner.line_end()),
            (expected_position(&so_far), line_end),
            "{} after {} bytes",
            shown(chunks),
            so_far.len()
        );
    }
}

fn assert_insertion_is_invisible(chunks: &[Bytes], position: Position, inserted: &[u8]) {
    let expected = reference::parse(&chunks.concat());
    let stops = stops(chunks, position).into_iter();
    let one_by_one = stops.map(|(before, after)| [&before, inserted, &after].concat());
    for stream in one_by_one.chain([with_inserted(chunks, position, inserted)]) {
        assert_eq!(
            reference::parse(&stream),
            expected,
            "{} became {}",
            shown(chunks),
            stream.escape_ascii()
        );
    }
}

fn assert_heartbeats_are_invisible(chunks: &[Bytes]) {
    for heartbeat in HEARTBEATS {
        assert_insertion_is_invisible(chunks, Position::Boundary, heartbeat);
    }
    for comment in [": hb\n", ": hb\r\n"] {
        assert_insertion_is_invisible(chunks, Position::LineStart, comment.as_bytes());
    }
}

/// Where the stream may end, nothing is pending: a blank line more would bring nothing to light.
fn assert_an_end_loses_nothing(chunks: &[Bytes]) {
    for (before, _) in stops(chunks, Position::Boundary) {
        let cut = reference::parse(&before);
        let completed = reference::parse(&[&before[..], b"\n\n"].concat());
        assert_eq!(
            cut,
            completed,
            "{} after {} bytes",
            shown(chunks),
            before.len()
        );
    }
}

fn assert_ids_name_their_events(chunks: &[Bytes]) {
    let named = with_ids(chunks);
    let mut expected = reference::parse(&chunks.concat());
    for (number, event) in expected.events.iter_mut().enumerate() {
        event.id = number.to_string();
    }
    let parsed = reference::parse(&named);
    assert_eq!(
        parsed.events,
        expected.events,
        "{} became {}",
        shown(chunks),
        named.escape_ascii()
    );
    assert_eq!(
        parsed.retry,
        expected.retry,
        "{} became {}",
        shown(chunks),
        named.escape_ascii()
    );
}

fn assert_skim_is_sound_and_lively(chunks: &[Bytes]) {
    let (mut skimmer, mut scanner) = (Scanner::new(), Scanner::new());
    let mut so_far = Vec::new();
    for chunk in chunks {
        skimmer.skim(chunk);
        scanner.scan(chunk, |_| ());
        so_far.extend(chunk);
        if skimmer.position() == Position::Boundary {
            assert_eq!(
                scanner.position(),
                Position::Boundary,
                "{} after {} bytes",
                shown(chunks),
                so_far.len()
            );
        }
        if so_far.ends_with(b"\n\n") || so_far.ends_with(b"\r\n\r\n") {
            assert_eq!(
                skimmer.position(),
                Position::Boundary,
                "{} after {} bytes",
                shown(chunks),
                so_far.len()
            );
        }
    }
}

/// All of the above.
fn assert_everything(chunks: &[Bytes]) {
    assert_marks(chunks, &expected_marks(&chunks.concat()));
    assert_positions(chunks);
    assert_heartbeats_are_invisible(chunks);
    assert_an_end_loses_nothing(chunks);
    assert_ids_name_their_events(chunks);
    assert_skim_is_sound_and_lively(chunks);
}

// ---- tables ----

#[test]
fn every_nasty_stream_has_the_same_marks_at_every_split() {
    for (_, stream) in NASTY {
        let expected = expected_marks(stream);
        for chunks in every_split(stream) {
            assert_marks(&chunks, &expected);
        }
    }
}

#[test]
fn every_nasty_stream_has_its_positions_at_every_split() {
    for (_, stream) in NASTY {
        for chunks in every_split(stream) {
            assert_positions(&chunks);
            assert_skim_is_sound_and_lively(&chunks);
        }
    }
}

#[test]
fn every_nasty_stream_takes_heartbeats_at_every_byte() {
    for (_, stream) in NASTY {
        let chunks = byte_by_byte(stream);
        assert_heartbeats_are_invisible(&chunks);
        assert_an_end_loses_nothing(&chunks);
    }
}

#[test]
fn every_nasty_stream_takes_ids_at_every_split() {
    for (_, stream) in NASTY {
        for chunks in every_split(stream) {
            assert_ids_name_their_events(&chunks);
        }
    }
}

/// Not one short stream is left out: each of up to five tokens, whole and byte by byte, and with
/// its longest line end cut.
#[test]
fn every_short_stream_keeps_every_promise() {
    const TOKENS: &[&[u8]] = &[b"\r", b"\n", b":", b"data", b"id: 1", BOM];
    let mut streams = vec![Vec::new()];
    for _ in 0..5 {
        streams = streams
            .iter()
            .flat_map(|start| TOKENS.iter().map(move |token| [start, *token].concat()))
            .collect();
        for stream in &streams {
            assert_everything(&cut_at(stream, []));
            assert_everything(&byte_by_byte(stream));
        }
    }
}

#[test]
fn a_place_inside_a_line_or_behind_an_open_cr_is_refused_for_a_reason() {
    for (stream, at, position) in [
        (&b"data: a\n\n"[..], 3, Position::MidLine),
        (b"data: a\r\ndata: b\r\n\r\n", 8, Position::AfterCr),
    ] {
        let mut scanner = Scanner::new();
        scanner.scan(&stream[..at], |_| ());
        assert_eq!(scanner.position(), position);
        let injected = [&stream[..at], b": hb\n", &stream[at..]].concat();
        assert_ne!(reference::parse(&injected), reference::parse(stream));
    }
}

#[test]
fn a_finished_block_is_a_boundary_at_once() {
    for stream in [
        "data: a\n\n",
        "data: a\r\n\r\n",
        "data: a\r\r",
        "data: a\n\r\n",
        "data: a\r\n\n",
        "data: a\n\n: hb\n",
        "data: a\r\n\r\n: hb\r\n",
        "\n",
        "\r\n",
        "\u{feff}\n",
        "",
    ] {
        for chunks in every_split(stream.as_bytes()) {
            let mut scanner = Scanner::new();
            chunks.iter().for_each(|chunk| scanner.scan(chunk, |_| ()));
            assert_eq!(scanner.position(), Position::Boundary, "{}", shown(&chunks));
        }
    }
}

#[test]
fn an_empty_frame_changes_nothing() {
    for (_, stream) in NASTY {
        let mut scanner = Scanner::new();
        for byte in stream.chunks(1) {
            scanner.scan(byte, |_| ());
            let (position, line_end) = (scanner.position(), scanner.line_end());
            scanner.scan(b"", |mark| panic!("{mark:?} out of nothing"));
            scanner.skim(b"");
            assert_eq!(
                (scanner.position(), scanner.line_end()),
                (position, line_end)
            );
        }
    }
}

#[test]
fn a_line_of_10_mib_shows_only_its_start() {
    for name in ["data: ", "id: ", ""] {
        let mut scanner = Scanner::new();
        scanner.scan(name.as_bytes(), |_| ());
        for _ in 0..160 {
            scanner.scan(&[b'x'; 65_536], |mark| {
                panic!("{mark:?} in the middle of a line")
            });
            assert_eq!(scanner.position(), Position::MidLine);
        }
        let mut fields = 0;
        scanner.scan(b"\n", |mark| {
            let Mark::Field(field) = mark else {
                panic!("{mark:?} at the end of a line")
            };
            assert!(!field.complete);
            assert!(
                field.name.len() + field.value.len() <= KEPT,
                "{}",
                field.value.len()
            );
            fields += 1;
        });
        assert_eq!((fields, scanner.position()), (1, Position::LineStart));
    }
}

#[test]
fn the_longest_id_is_whole_and_a_longer_one_is_not_an_id() {
    for start in ["id:", "id: ", "\u{feff}id: "] {
        for len in EventId::MAX_LEN - 1..EventId::MAX_LEN + 6 {
            let stream = format!("{start}{}\n", "x".repeat(len));
            for chunks in [
                cut_at(stream.as_bytes(), []),
                byte_by_byte(stream.as_bytes()),
            ] {
                let seen = marks(&chunks);
                let [
                    Found::Field {
                        value, complete, ..
                    },
                ] = &seen[..]
                else {
                    panic!("{seen:?}")
                };
                let id = EventId::new(String::from_utf8_lossy(value));
                let is_id = *complete && id.is_ok();
                assert_eq!(is_id, len <= EventId::MAX_LEN, "{start:?} and {len} bytes");
            }
        }
    }
}

#[test]
fn a_skimmed_burst_of_events_ends_at_a_boundary_however_long() {
    for event in ["data: a\n\n", "data: a\r\n\r\n", "data: a\r\r"] {
        for count in 1..40 {
            let mut scanner = Scanner::new();
            scanner.skim(event.repeat(count).as_bytes());
            assert_eq!(
                scanner.position(),
                Position::Boundary,
                "{count} times {event:?}"
            );
        }
    }
}

#[test]
fn a_skimmed_event_without_its_blank_line_is_no_boundary_however_long() {
    for start in ["", "data: a\n\n", "data: a\r\r"] {
        for len in 0..200 {
            for end in ["", "\n", "\r\n", "\r"] {
                let frame = format!("{start}data: {}{end}", "x".repeat(len));
                let mut scanner = Scanner::new();
                scanner.skim(frame.as_bytes());
                assert_ne!(scanner.position(), Position::Boundary, "{frame:?}");
            }
        }
    }
}

/// The worst for a look at a frame's end: an open event that is out of sight, and in sight only
/// comments, which might stand between events. Each length moves the lines over the edge.
#[test]
fn skim_is_not_fooled_by_what_it_cannot_see() {
    for end in ["\n", "\r\n", "\r"] {
        for len in 0..150 {
            let (text, comments) = ("x".repeat(len), format!(":{end}").repeat(len));
            for frame in [
                format!("data: a{end}: {text}{end}"),
                format!("data: {text}{end}:{end}"),
                format!("data: a{end}{comments}"),
                format!("data: a{end}{end}data: b{end}: hb{end}{comments}"),
                format!("{end}{comments}"),
                format!("{end}{end}: {text}{end}{end}"),
            ] {
                for before in ["", "data: a", "data: a\r", "data: a\n", "data: a\r\r", "\r"] {
                    let parts = [before, &frame, "\n", "\n"];
                    let chunks = parts.map(|part| Bytes::copy_from_slice(part.as_bytes()));
                    assert_skim_is_sound_and_lively(&chunks);
                }
            }
        }
    }
}

#[test]
fn skim_sees_the_boundary_behind_heartbeats_of_the_upstream() {
    for end in ["\n", "\r\n"] {
        let data = "x".repeat(1000);
        for heartbeat in [
            ": keep-alive",
            ": keep-alive\n",
            ":",
            ":\n: ping - 2026-11-23 12:00:00",
        ] {
            let heartbeat = heartbeat.replace('\n', end);
            let mut scanner = Scanner::new();
            scanner.skim(format!("data: {data}{end}{end}{heartbeat}{end}").as_bytes());
            assert_eq!(scanner.position(), Position::Boundary, "{heartbeat:?}");
        }
    }
}

// ---- properties ----

proptest! {
    #![proptest_config(config())]

    #[test]
    fn marks_do_not_depend_on_the_chunks(chunks in chunked(stream())) {
        assert_marks(&chunks, &expected_marks(&chunks.concat()));
    }

    #[test]
    fn positions_do_not_depend_on_the_chunks(chunks in chunked(stream())) {
        assert_positions(&chunks);
    }

    #[test]
    fn blocks_with_data_are_the_events_that_a_client_gets(chunks in chunked(stream())) {
        let marks = marks(&chunks);
        let blocks = marks.iter().filter(|mark| matches!(mark, Found::Block { data: true, .. }));
        prop_assert_eq!(blocks.count(), reference::parse(&chunks.concat()).events.len());
    }

    #[test]
    fn the_ids_in_the_marks_are_the_ids_that_a_client_has(chunks in chunked(stream())) {
        let stream = chunks.concat();
        if lines(&stream).iter().all(|line| line.text.len() <= WHOLE) {
            prop_assert_eq!(cursors(&chunks), expected_cursors(reference::parse(&stream)));
        }
    }

    #[test]
    fn no_client_notices_a_heartbeat(chunks in chunked(stream())) {
        assert_heartbeats_are_invisible(&chunks);
    }

    #[test]
    fn no_client_notices_a_heartbeat_at_any_byte(stream in stream()) {
        let chunks = byte_by_byte(&stream);
        let expected = reference::parse(&stream);
        for heartbeat in HEARTBEATS {
            let beaten = with_inserted(&chunks, Position::Boundary, heartbeat);
            prop_assert_eq!(&reference::parse(&beaten), &expected, "{}", beaten.escape_ascii());
        }
    }

    #[test]
    fn an_end_at_a_boundary_loses_nothing(chunks in chunked(stream())) {
        assert_an_end_loses_nothing(&chunks);
    }

    #[test]
    fn an_inserted_id_names_its_event_and_leaves_the_rest(chunks in chunked(stream())) {
        assert_ids_name_their_events(&chunks);
    }

    #[test]
    fn skim_is_never_surer_than_scan_and_sees_every_blank_line(chunks in chunked(stream())) {
        assert_skim_is_sound_and_lively(&chunks);
    }

    #[test]
    fn a_block_end_is_real_wherever_skim_was_in_between(
        chunks in chunked(stream()),
        skims in any::<u64>(),
    ) {
        let expected = expected_marks(&chunks.concat());
        let ends: Vec<_> = expected.iter().filter_map(Found::blank_start).collect();
        let mut mixed = Scanner::new();
        let mut scanner = Scanner::new();
        let mut start = 0;
        for (at, chunk) in chunks.iter().enumerate() {
            scanner.scan(chunk, |_| ());
            if (skims >> (at % 64)) & 1 == 1 {
                mixed.skim(chunk);
            } else {
                let end = |mark: Mark<'_>| found(&mark, start)?.blank_start();
                mixed.scan(chunk, |mark| {
                    assert!(end(mark).is_none_or(|end| ends.contains(&end)), "{}", shown(&chunks));
                });
            }
            if mixed.position() == Position::Boundary {
                prop_assert_eq!(scanner.position(), Position::Boundary, "{}", shown(&chunks));
            }
            start += chunk.len();
        }
    }

    #[test]
    fn skimmed_frames_take_heartbeats_too(chunks in chunked(stream())) {
        let stream = chunks.concat();
        let mut skimmer = Scanner::new();
        let mut beaten = Vec::new();
        for chunk in &chunks {
            skimmer.skim(chunk);
            beaten.extend(chunk);
            let before_mark = beaten.is_empty() && stream.starts_with(BOM);
            if skimmer.position() == Position::Boundary && !before_mark {
                beaten.extend(b": hb\n\n");
            }
        }
        let expected = reference::parse(&stream);
        prop_assert_eq!(reference::parse(&beaten), expected, "{}", beaten.escape_ascii());
    }

    #[test]
    fn an_id_comes_back_as_it_was_written(id in "\\PC{0,20}|[ :\\x00\\r\\na\u{feff}]{0,5}") {
        let wrong = id.is_empty() || id.contains(['\r', '\n', '\0']);
        prop_assert_eq!(EventId::new(&*id).is_err(), wrong);
        for end in [LineEnd::Lf, LineEnd::CrLf, LineEnd::Cr] {
            let Ok(id) = EventId::new(&*id) else { continue };
            let stream = [b"data: a\n", &id_line(&id, end)[..], b"\n\n"].concat();
            prop_assert_eq!(reference::parse(&stream).last_id, id.as_str());
        }
    }

    #[test]
    fn a_comment_says_nothing_to_a_client(text in "\\PC{0,20}|[ :\\x00\\r\\na\u{feff}]{0,5}") {
        prop_assert_eq!(Comment::new(&*text).is_err(), text.contains(['\r', '\n']));
        for end in [LineEnd::Lf, LineEnd::CrLf, LineEnd::Cr] {
            let Ok(comment) = text.parse::<Comment>() else { continue };
            let line = comment_line(&comment, end);
            prop_assert!(line.starts_with(b": "));
            let stream = [&line[..], b"data: a\n", &line, b"data: b\n\n", &line].concat();
            prop_assert_eq!(reference::parse(&stream), reference::parse(b"data: a\ndata: b\n\n"));
        }
    }

    #[test]
    fn a_retry_comes_back_in_milliseconds(after in 0..u64::MAX / 2) {
        for end in [LineEnd::Lf, LineEnd::CrLf, LineEnd::Cr] {
            let line = retry_line(Duration::from_millis(after), end);
            prop_assert_eq!(reference::parse(&line).retry, Some(after));
        }
    }
}
