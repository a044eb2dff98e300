//! Streams that have broken somebody's parser, and random ones that may.

use bytes::Bytes;
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};

/// Nasty streams, each named by what is nasty about it.
pub(crate) const NASTY: &[(&str, &[u8])] = &[
    // line ends
    (
        "lines end with LF",
        b"id: 1\ndata: a\n\nevent: e\ndata: b\n\n",
    ),
    (
        "lines end with CRLF",
        b"id: 1\r\ndata: a\r\n\r\nevent: e\r\ndata: b\r\n\r\n",
    ),
    (
        "lines end with CR",
        b"id: 1\rdata: a\r\revent: e\rdata: b\r\r",
    ),
    (
        "line ends are mixed",
        b"id: 1\rdata: a\n\r\ndata: b\r\n\rdata: c\r\n\ndata: d\n\r\r\n",
    ),
    ("a block ends with LF CR", b"data: a\n\rdata: b\n\r"),
    (
        "a CR stream has one CRLF",
        b"data: a\r\rdata: b\r\n\rdata: c\r\r\n",
    ),
    ("a CR stream ends with LF", b"data: a\r\r\ndata: b\r\r\n\n"),
    ("the last CRLF is cut", b"data: a\r\n\r"),
    (
        "the last CRLF of a line is cut",
        b"data: a\r\n\r\ndata: b\r",
    ),
    ("only CR", b"\r\r\r"),
    ("one CR", b"\r"),
    ("only LF", b"\n\n\n"),
    ("only CRLF", b"\r\n\r\n\r\n"),
    ("only LF CR", b"\n\r\n\r\n\r"),
    ("CR before the first event", b"\rdata: a\r\r"),
    (
        "blank lines in a row",
        b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n\n",
    ),
    (
        "blank CRLF lines in a row",
        b"\r\n\r\ndata: a\r\n\r\n\r\n\r\ndata: b\r\n\r\n\r\n",
    ),
    ("no final blank line", b"id: 1\ndata: a\n\nid: 2\ndata: b\n"),
    ("no final line end", b"id: 1\ndata: a\n\nid: 2\ndata: b"),
    ("the stream is empty", b""),
    // byte order marks
    ("one mark", b"\xef\xbb\xbfdata: a\n\ndata: b\n\n"),
    (
        "two marks",
        b"\xef\xbb\xbf\xef\xbb\xbfdata: a\nid: 1\n\ndata: b\n\n",
    ),
    (
        "three marks",
        b"\xef\xbb\xbf\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n",
    ),
    (
        "a mark and half a mark",
        b"\xef\xbb\xbf\xef\xbbdata: a\n\ndata: b\n\n",
    ),
    ("half a mark", b"\xef\xbbdata: a\n\ndata: b\n\n"),
    ("half a mark is all", b"\xef\xbb"),
    ("a mark is all", b"\xef\xbb\xbf"),
    ("a mark before a blank line", b"\xef\xbb\xbf\ndata: a\n\n"),
    (
        "a mark before a blank CRLF line",
        b"\xef\xbb\xbf\r\ndata: a\r\n\r\n",
    ),
    (
        "two marks before a blank line",
        b"\xef\xbb\xbf\xef\xbb\xbf\ndata: a\n\n",
    ),
    ("a mark before a comment", b"\xef\xbb\xbf: hi\ndata: a\n\n"),
    ("a mark before an id", b"\xef\xbb\xbfid: 1\ndata: a\n\n"),
    (
        "a mark after the first line",
        b"\n\xef\xbb\xbfdata: a\n\ndata: b\n\n",
    ),
    (
        "a mark at every event",
        b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n",
    ),
    (
        "a mark behind a comment",
        b": hi\n\xef\xbb\xbfdata: a\n\ndata: b\n\n",
    ),
    // comments, and the heartbeats of the upstream
    (
        "comment lines inside an event",
        b"data: a\n: hi\n:\ndata: b\n: hi\n\n",
    ),
    (
        "a comment ends an event in CRLF",
        b"data: a\r\n:\n: hi\r\n\r\ndata: b\r\n\r\n",
    ),
    ("a bare colon", b":\n\n:\ndata: a\n\n"),
    ("comment blocks", b": hi\n\n: hi\n: hi\n\ndata: a\n\n:\n\n"),
    (
        "a comment with a field in it",
        b":data: a\n\n: id: 9\ndata: b\n\n",
    ),
    ("a comment is cut", b"data: a\n\n: hi"),
    (
        "upstream heartbeats are lines",
        b"data: a\n\n: hb\n: hb\n:\ndata: b\n\n: hb\n",
    ),
    (
        "upstream heartbeats are blocks",
        b"data: a\n\n: hb\n\n:\n\n: hb\n\ndata: b\n\n: hb\n\n",
    ),
    (
        "upstream heartbeats are blank lines",
        b"data: a\n\n\n\n\n\ndata: b\n\n\n\n",
    ),
    (
        "upstream heartbeats are CRLF",
        b"data: a\r\n\r\n: hb\r\n\r\n\r\n\r\n:\r\ndata: b\r\n\r\n",
    ),
    (
        "upstream heartbeats are CR",
        b"data: a\r\r: hb\r\r\r\r: hb\rdata: b\r\r: hb\r",
    ),
    (
        "upstream heartbeats mix line ends",
        b"data: a\r\n\r\n: hb\n\n: hb\ndata: b\r\n\r\n: hb\n",
    ),
    // ids
    (
        "an id with NUL",
        b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\n",
    ),
    ("an id of NUL", b"id: 1\n\nid:\0\ndata: a\n\n"),
    (
        "an empty id",
        b"id: 1\ndata: a\n\nid:\ndata: b\n\nid: \ndata: c\n\n",
    ),
    ("an id without colon", b"id: 1\ndata: a\n\nid\ndata: b\n\n"),
    ("an id without data", b"id: 1\n\ndata: a\n\nid: 2\n\n"),
    ("an id without data at the end", b"data: a\n\nid: 2\n"),
    ("an id of a space", b"id:  \ndata: a\n\n"),
    ("an id with colons", b"id:1:2\ndata: a\n\n"),
    ("an id with a tab", b"id:\t1\ndata: a\n\n"),
    (
        "an id twice in a block",
        b"id: 1\nid: 2\ndata: a\nid: 3\n\n",
    ),
    ("an id after data", b"data: a\nid: 1\n\n"),
    ("an id in capitals", b"ID: 1\ndata: a\n\n"),
    ("an id that is not UTF-8", b"id: \xff\ndata: a\n\n"),
    (
        "an id that is not ASCII",
        "id: \u{fc}\u{1f980}\ndata: a\n\n".as_bytes(),
    ),
    (
        "an id of 1,024 bytes",
        &filled::<1038>(b"id: ", b"\ndata: a\n\n"),
    ),
    (
        "an id of 1,025 bytes",
        &filled::<1039>(b"id: ", b"\ndata: a\n\n"),
    ),
    (
        "an id of 1,025 bytes without space",
        &filled::<1038>(b"id:", b"\ndata: a\n\n"),
    ),
    (
        "an overlong id",
        &filled::<2000>(b"id: ", b"\ndata: a\n\nid: 2\n\n"),
    ),
    (
        "an id of 1,025 bytes behind a mark",
        &filled::<1042>(b"\xef\xbb\xbfid: ", b"\ndata: a\n\n"),
    ),
    (
        "an overlong id behind a mark",
        &filled::<2000>(b"\xef\xbb\xbfid: ", b"\ndata: a\n\n"),
    ),
    (
        "an overlong id ends in NUL",
        &filled::<2000>(b"id: ", b"\0\ndata: a\n\n"),
    ),
    // retry
    ("a good retry", b"retry: 1500\ndata: a\n\n"),
    (
        "retry garbage",
        b"retry: 1s\nretry:-1\nretry\nretry:\nretry: 1.5\ndata: a\n\n",
    ),
    (
        "a retry without a number's end",
        b"retry: 99999999999999999999999\n\n",
    ),
    ("a retry of its own", b"data: a\n\nretry: 10\n\ndata: b\n\n"),
    // fields
    ("data without colon", b"data\n\ndata\ndata\n\n"),
    ("data without value", b"data:\n\ndata: \n\n"),
    ("data without space", b"data:x\n\n"),
    ("data with two spaces", b"data:  x\n\n"),
    (
        "data with a space before the colon",
        b"data : x\n\n data: x\n\n",
    ),
    ("data cut short", b"dat: x\n\ndat\n\ndataa: x\n\n"),
    ("data in capitals", b"Data: x\n\nDATA\n\n"),
    ("data with NUL", b"data: \0\n\n\0data: x\n\n"),
    ("unknown fields", b"foo: x\n\nfoo\ndata: a\n\n: hi\nfoo\n\n"),
    ("an event without data", b"event: ping\n\ndata: a\n\n"),
    ("an event with empty data", b"event: ping\ndata:\n\n"),
    (
        "an event type alone at the end",
        b"data: a\n\nevent: ping\n",
    ),
    ("an event type of nothing", b"event: e\nevent\ndata: a\n\n"),
    ("colons in data", b"data: :\ndata: id: 7\ndata:::\n\n"),
    ("a field of 64 bytes", &filled::<64>(b"data: ", b"\n\n")),
    ("a field of 65 bytes", &filled::<65>(b"data: ", b"\n\n")),
    (
        "a CRLF field of 66 bytes",
        &filled::<66>(b"data: ", b"\r\n\r\n"),
    ),
    (
        "a field of 3,000 bytes",
        &filled::<3000>(b"data: ", b"\n\ndata: b\n\n"),
    ),
    (
        "a field name of 3,000 bytes",
        &filled::<3000>(b"data", b": x\n\ndata: b\n\n"),
    ),
    (
        "a comment of 3,000 bytes",
        &filled::<3000>(b": ", b"\n\ndata: b\n\n"),
    ),
    // bytes that are no text
    (
        "bytes that are not UTF-8",
        b"data: \xff\xfe\xc0\x80\n\n\xffdata: x\n\n",
    ),
    (
        "UTF-8 cut by a line end",
        b"data: \xf0\x9f\xa6\n\ndata: \xe2\x82\r\n\r\n",
    ),
    ("UTF-8 cut by the end", b"data: a\n\ndata: \xf0\x9f"),
    (
        "line ends of Unicode",
        "data: a\u{2028}\u{85}\u{b}\u{c}b\n\n".as_bytes(),
    ),
    // what the world really sends
    (
        "OpenAI chat",
        b"data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\ndata: [DONE]\n\n",
    ),
    (
        "OpenAI chat in CRLF",
        b"data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\r\n\r\ndata: [DONE]\r\n\r\n",
    ),
    (
        "OpenAI Responses",
        b"event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0}\n\n\
          event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n",
    ),
    (
        "Anthropic Messages",
        b"event: message_start\ndata: {\"type\":\"message_start\"}\n\n\
          event: ping\ndata: {\"type\": \"ping\"}\n\n\
          event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    ),
    (
        "Anthropic Messages in CRLF",
        b"event: message_start\r\ndata: {\"type\":\"message_start\"}\r\n\r\n\
          event: message_stop\r\ndata: {\"type\":\"message_stop\"}\r\n\r\n",
    ),
    (
        "Gemini in CRLF",
        b"data: {\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"Hi\"}]}}]}\r\n\r\n\
          data: {\"candidates\":[{\"finishReason\":\"STOP\"}]}\r\n\r\n",
    ),
    (
        "OpenRouter before its first token",
        b": OPENROUTER PROCESSING\n\ndata: {}\n\n",
    ),
    (
        "MCP",
        b"id: 0\ndata:\n\nevent: message\nid: 1\ndata: {\"jsonrpc\":\"2.0\"}\n\n",
    ),
    (
        "JSON over many data lines",
        b"data: {\ndata:   \"a\": 1\ndata: }\n\n",
    ),
    (
        "a page that is no stream",
        b"<html>\n<body>\n\n502: bad gateway\n</body>\n",
    ),
];

/// `start`, then as many `x` as it takes, then `end`: `N` bytes together.
const fn filled<const N: usize>(start: &[u8], end: &[u8]) -> [u8; N] {
    let mut bytes = [b'x'; N];
    let mut at = 0;
    while at < start.len() {
        bytes[at] = start[at];
        at += 1;
    }
    at = 0;
    while at < end.len() {
        bytes[N - end.len() + at] = end[at];
        at += 1;
    }
    bytes
}

/// A part of a stream as it arrives, and whether the upstream then falls silent.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) bytes: Bytes,
    pub(crate) then_silence: bool,
}

/// How often a property is tried: 256 times, or `PROPTEST_CASES`. Failures are not written beside
/// the sources: a case worth keeping belongs into [`NASTY`].
pub(crate) fn config() -> ProptestConfig {
    ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// A random stream: one made of lines, good and bad, or one made of the bytes that matter.
pub(crate) fn stream() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![6 => stream_of_lines(), 1 => stream_of_bytes()]
}

/// `stream` in random chunks. Among them are empty ones, single bytes, and the worst splits: behind
/// every CR, and before and behind every line end.
pub(crate) fn chunked(stream: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<Bytes>> {
    (stream, cuts(), prop::bool::weighted(0.2)).prop_map(|(stream, cuts, empties)| {
        let chunks = cuts.cut(&stream);
        if empties {
            with_empty_chunks(chunks)
        } else {
            chunks
        }
    })
}

/// `stream` in random chunks with random silences between them.
pub(crate) fn chunked_with_silences(
    stream: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Vec<Chunk>> {
    (chunked(stream), any::<u64>()).prop_map(|(chunks, silences)| {
        let silent_after = |at: usize| (silences >> (at % 64)) & 1 == 1;
        let chunks = chunks.into_iter().enumerate();
        chunks
            .map(|(at, bytes)| Chunk {
                bytes,
                then_silence: silent_after(at),
            })
            .collect()
    })
}

/// `stream` cut at `at`, which must rise.
pub(crate) fn cut_at(stream: &[u8], at: impl IntoIterator<Item = usize>) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut start = 0;
    for end in at.into_iter().chain([stream.len()]) {
        chunks.push(Bytes::copy_from_slice(&stream[start..end]));
        start = end;
    }
    chunks
}

/// `stream`, one byte at a time.
pub(crate) fn byte_by_byte(stream: &[u8]) -> Vec<Bytes> {
    stream.chunks(1).map(Bytes::copy_from_slice).collect()
}

/// The chunkings that a table of streams is run with: whole, byte by byte, with empty chunks, cut
/// in two everywhere, and, where the stream is short, in three.
pub(crate) fn every_split(stream: &[u8]) -> Vec<Vec<Bytes>> {
    let len = stream.len();
    let thirds = if len <= 80 { len } else { 0 };
    let in_two = (0..=len).map(|cut| cut_at(stream, [cut]));
    let in_three = (0..thirds)
        .flat_map(|first| (first + 1..thirds).map(move |second| cut_at(stream, [first, second])));
    let byte_by_byte = byte_by_byte(stream);
    [
        with_empty_chunks(byte_by_byte.clone()),
        byte_by_byte,
        cut_at(stream, []),
    ]
    .into_iter()
    .chain(in_two)
    .chain(in_three)
    .collect()
}

/// The chunks with `|` between them, for the message of a failed test.
pub(crate) fn shown(chunks: &[Bytes]) -> String {
    let chunks: Vec<_> = chunks
        .iter()
        .map(|chunk| chunk.escape_ascii().to_string())
        .collect();
    let shown = chunks.join("|");
    match shown.get(..1000) {
        Some(start) => format!("{start}... of {} chunks", chunks.len()),
        None => shown,
    }
}

fn with_empty_chunks(chunks: Vec<Bytes>) -> Vec<Bytes> {
    chunks
        .into_iter()
        .flat_map(|chunk| [Bytes::new(), chunk, Bytes::new()])
        .collect()
}

#[derive(Clone, Debug)]
enum Cuts {
    Anywhere(Vec<Index>),
    EveryByte,
    BehindEvery(u8),
    AroundLineEnds,
}

impl Cuts {
    fn cut(&self, stream: &[u8]) -> Vec<Bytes> {
        match self {
            Self::Anywhere(at) => {
                let mut at: Vec<_> = at.iter().map(|at| at.index(stream.len() + 1)).collect();
                at.sort_unstable();
                cut_at(stream, at)
            }
            Self::EveryByte => byte_by_byte(stream),
            Self::BehindEvery(byte) => {
                let splits = stream.split_inclusive(|here| here == byte);
                splits.map(Bytes::copy_from_slice).collect()
            }
            Self::AroundLineEnds => {
                let is_end = |at: usize| matches!(stream.get(at), Some(b'\r' | b'\n'));
                let at = (1..stream.len()).filter(|&at| is_end(at) || is_end(at - 1));
                cut_at(stream, at)
            }
        }
    }
}

fn cuts() -> impl Strategy<Value = Cuts> {
    prop_oneof![
        4 => vec(any::<Index>(), 0..12).prop_map(Cuts::Anywhere),
        1 => Just(Cuts::EveryByte),
        1 => Just(Cuts::BehindEvery(b'\r')),
        1 => Just(Cuts::BehindEvery(b'\n')),
        1 => Just(Cuts::AroundLineEnds),
    ]
}

/// Lines and blank lines behind a mark or none; in one of four the end is cut off.
fn stream_of_lines() -> impl Strategy<Value = Vec<u8>> {
    let lost = prop_oneof![3 => Just(0), 1 => 1..5_usize];
    (mark(), line_ends(), vec(line(), 0..24), lost).prop_map(|(mark, ends, lines, lost)| {
        let mut stream = mark.to_vec();
        for (line, end) in lines.iter().zip(ends.iter().cycle()) {
            stream.extend(line);
            stream.extend(end.bytes());
        }
        stream.truncate(stream.len().saturating_sub(lost));
        stream
    })
}

/// The bytes of the grammar, put together by a monkey.
fn stream_of_bytes() -> impl Strategy<Value = Vec<u8>> {
    vec(
        select(b"\r\n\r\n:diatevnr \0\xef\xbb\xbf0x".as_slice()),
        0..60,
    )
}

fn mark() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![
        16 => Just(&b""[..]),
        2 => Just(&b"\xef\xbb\xbf"[..]),
        1 => Just(&b"\xef\xbb\xbf\xef\xbb\xbf"[..]),
        1 => Just(&b"\xef\xbb"[..]),
    ]
}

/// How the lines end, in turn: nearly every server is true to one way.
fn line_ends() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![
        2 => Just(vec!["\n"]),
        2 => Just(vec!["\r\n"]),
        1 => Just(vec!["\r"]),
        3 => vec(select(vec!["\n", "\r\n", "\r"]), 1..9),
    ]
}

fn line() -> impl Strategy<Value = Vec<u8>> {
    let data = select(vec![
        "data: x",
        "data",
        "data:",
        "data:x",
        "data:  x",
        "data: [DONE]",
    ]);
    let id = select(vec![
        "id: 1",
        "id:2",
        "id: \u{fc}",
        "id",
        "id:",
        "id: 3\0",
        "id: \u{feff}",
    ]);
    let comment = select(vec![":", ": hi", ": hb", ":data: x", ":id: 1"]);
    let event = select(vec!["event: e", "event:", "event"]);
    let retry = select(vec!["retry: 10", "retry: x", "retry"]);
    prop_oneof![
        8 => Just(Vec::new()),
        6 => data.prop_map(Into::into),
        4 => id.prop_map(Into::into),
        3 => comment.prop_map(Into::into),
        1 => event.prop_map(Into::into),
        1 => retry.prop_map(Into::into),
        2 => odd_line(),
        1 => long_line(),
    ]
}

/// A name, a colon or something near it, and a value, none of which needs to make sense.
fn odd_line() -> impl Strategy<Value = Vec<u8>> {
    let name = select(vec![
        &b"data"[..],
        b"id",
        b"event",
        b"retry",
        b"",
        b"foo",
        b"dat",
        b"Data",
        b" id",
        b"id\0",
        b"\xef\xbb\xbfdata",
        b"\xef\xbb\xbf",
        b"\xff",
    ]);
    let colon = select(vec![&b""[..], b":", b": ", b":  ", b" : ", b"::"]);
    let value = select(vec![
        &b""[..],
        b"x",
        b"7",
        b"\0",
        b" ",
        b":",
        b"\xff",
        b"\xf0\x9f",
        b"\xef\xbb\xbf",
        b"{\"a\":1}",
    ]);
    (name, colon, value).prop_map(|parts| [parts.0, parts.1, parts.2].concat())
}

/// A line near one of the lengths at which the scanner changes its mind.
fn long_line() -> impl Strategy<Value = Vec<u8>> {
    let start = select(vec!["data: ", "id: ", "id:", ": ", "x"]);
    let len = prop_oneof![4 => 50..80_usize, 1 => 1020..1040_usize];
    (start, len).prop_map(|(start, len)| format!("{start:x<len$}").into())
}
