use std::{mem, ops::Range};

use memchr::memchr2;

use super::{EventId, LineEnd, plain::plain_events};

/// Where a stream stands after the bytes so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Between events: at the start, after a blank line, or after comment lines that followed one.
    /// Here, and only here, whole blocks may go in and the stream may end.
    Boundary,
    /// At the start of a line inside an event: a comment line may go in, a blank line may not.
    LineStart,
    /// Inside a line: nothing may go in.
    MidLine,
    /// After a CR whose LF may still come: nothing may go in, or that LF becomes a blank line.
    AfterCr,
}

/// What [`Scanner::scan`] found in a frame.
#[derive(Debug)]
#[non_exhaustive]
pub enum Mark<'a> {
    /// A line with a field ended.
    Field(Field<'a>),
    /// A blank line ended a block.
    BlockEnd(BlockEnd),
    /// The frame's first byte is the LF of a line whose CR ended the frame before.
    LineFeed,
}

/// A field: `name: value`.
#[derive(Debug)]
#[non_exhaustive]
pub struct Field<'a> {
    /// What stands before the first colon; the whole line where there is none.
    pub name: &'a [u8],
    /// What follows the colon and one space. Only the start of it where the line is longer than
    /// some 1,030 bytes: enough for every id, and a 10 MiB line takes no memory.
    pub value: &'a [u8],
    /// Whether `value` is all of it.
    pub complete: bool,
}

/// The end of a block, and what the block had.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlockEnd {
    /// Where in the frame the blank line stands; a line inserted at its start is the last of the
    /// block. The LF of a CRLF that the frame cuts is not in it: see [`Mark::LineFeed`].
    pub blank: Range<usize>,
    /// How the line before ended: what an inserted line should end with.
    pub line_end: LineEnd,
    /// Whether it had data, so that an event is dispatched.
    pub data: bool,
    /// Whether it had any field.
    pub fields: bool,
    /// Whether it had a comment.
    pub comments: bool,
}

/// Finds lines, fields and events in a byte stream that is cut anywhere.
///
/// There are two depths. [`scan`](Self::scan) looks at every line and tells what it found;
/// [`skim`](Self::skim) looks at the end of a frame and only learns the [`Position`]. Once a frame
/// was skimmed, the marks of the block that it cut are no longer whole.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The start of the line that is open, up to [`LINE_LIMIT`] bytes; empty at a line start.
    line: Vec<u8>,
    block: Block,
    line_end: LineEnd,
    cr: Cr,
    started: bool,
}

#[derive(Debug, Default)]
struct Block {
    data: bool,
    fields: bool,
    comments: bool,
}

/// What the last byte says about an LF that may follow.
#[derive(Debug, Default, PartialEq, Eq)]
enum Cr {
    /// It would end a line of its own.
    #[default]
    No,
    /// It would belong to this CR.
    Open,
    /// It would belong to this CR, but this stream ends its lines with CR alone.
    Lone,
}

/// The longest id in its line, behind a byte order mark, and a byte to see that a longer one is
/// too long.
const LINE_LIMIT: usize = BOM.len() + "id: ".len() + EventId::MAX_LEN + 1;

/// How much of a frame's end [`Scanner::skim`] looks at. A blank line needs 4 bytes; the rest is
/// room for heartbeat comments that came behind it in the same frame.
const SKIM_WINDOW: usize = 64;

/// How much where a line ends there, but no block: it may be a long comment, such as the 2 KiB of
/// padding that some servers begin with.
const WIDE_WINDOW: usize = 4096;

pub(crate) const BOM: &[u8] = b"\xef\xbb\xbf";

impl Scanner {
    /// A scanner at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where the stream stands.
    #[must_use]
    pub fn position(&self) -> Position {
        if self.cr == Cr::Open {
            Position::AfterCr
        } else if !self.line.is_empty() {
            Position::MidLine
        } else if self.block.fields {
            Position::LineStart
        } else {
            Position::Boundary
        }
    }

    /// A boundary, or one as soon as it is known whether the last CR gets an LF.
    pub(crate) fn is_between_events(&self) -> bool {
        self.line.is_empty() && !self.block.fields
    }

    /// Inside of a block that has a field.
    pub(crate) fn is_in_event(&self) -> bool {
        self.block.fields
    }

    /// Inside of a block that has only comments so far.
    #[cfg(feature = "resume")]
    pub(crate) fn is_in_comments(&self) -> bool {
        self.block.comments && !self.block.fields
    }

    /// How the last line ended; LF before the first.
    #[must_use]
    pub fn line_end(&self) -> LineEnd {
        self.line_end
    }

    /// The client has had bytes that the scanner has not: a byte order mark is no longer the first
    /// thing in its stream.
    pub(crate) fn skip_start(&mut self) {
        self.started = true;
    }

    /// Reads every line of `frame` and tells `on_mark` what it finds, in order.
    pub fn scan(&mut self, frame: &[u8], mut on_mark: impl FnMut(Mark<'_>)) {
        let mut start = 0;
        if self.cr != Cr::No && !frame.is_empty() {
            self.cr = Cr::No;
            if frame[0] == b'\n' {
                self.line_end = LineEnd::CrLf;
                start = 1;
                on_mark(Mark::LineFeed);
            }
        }
        while let Some(len) = line_len(&frame[start..]) {
            let end = start + len;
            let line_end = match (frame[end], frame.get(end + 1)) {
                (b'\n', _) => LineEnd::Lf,
                (_, Some(b'\n')) => LineEnd::CrLf,
                _ => LineEnd::Cr,
            };
            let next = end + line_end.as_bytes().len();
            if line_end == LineEnd::Cr && next == frame.len() {
                self.cr = self.open_cr(len);
            }
            self.end_line(&frame[start..end], end..next, &mut on_mark);
            self.line_end = line_end;
            start = next;
        }
        self.keep(&frame[start..]);
    }

    /// Reads a frame of whole events if they are nothing but `data` and `event`, in lines that end with
    /// LF, and if no field `is_minded`; and tells how many there are. `None` for any other: then
    /// nothing was read, and [`scan`](Self::scan) will.
    #[inline]
    pub(crate) fn pass_events(
        &mut self,
        frame: &[u8],
        is_minded: impl FnMut(&Field<'_>) -> bool,
    ) -> Option<u64> {
        let begun = self.block.fields || self.block.comments || !self.line.is_empty();
        if begun || self.cr != Cr::No || !frame.ends_with(b"\n\n") {
            return None;
        }
        let events = plain_events(frame, is_minded)?;
        self.pass_boundary(LineEnd::Lf);
        Some(events)
    }

    /// Reads only the last bytes of `frame`, enough to know the [`Position`]: the work does not
    /// grow with the frame. Where that is too little to be sure, it is not called a boundary.
    #[inline]
    pub fn skim(&mut self, frame: &[u8]) {
        // Nearly all frames are whole events, and their last bytes say so.
        match frame {
            [.., b'\n', b'\n'] => self.pass_boundary(LineEnd::Lf),
            [.., b'\r', b'\n', b'\r', b'\n'] => self.pass_boundary(LineEnd::CrLf),
            _ => self.skim_window(frame),
        }
    }

    fn skim_window(&mut self, frame: &[u8]) {
        let window = if shows_enough(last(frame, SKIM_WINDOW)) {
            SKIM_WINDOW
        } else {
            WIDE_WINDOW
        };
        if frame.len() > window {
            self.lose_sight();
        }
        self.scan(last(frame, window), |_| ());
    }

    /// Behind a blank line, whatever was before it.
    fn pass_boundary(&mut self, line_end: LineEnd) {
        self.line.clear();
        self.block = Block::default();
        self.line_end = line_end;
        self.cr = Cr::No;
        self.started = true;
    }

    /// Inside a line of an event, for all we know.
    fn lose_sight(&mut self) {
        self.line.clear();
        self.line.push(b'?');
        self.cr = Cr::No;
    }

    /// A CR ends the frame after `len` more bytes of the line. Where that line is blank and the
    /// one before ended with CR alone, waiting for an LF would be waiting for ever.
    fn open_cr(&self, len: usize) -> Cr {
        let blank = len == 0 && self.line.is_empty();
        if blank && self.line_end == LineEnd::Cr {
            Cr::Lone
        } else {
            Cr::Open
        }
    }

    /// A line ends of which `rest` is what this frame has.
    fn end_line(
        &mut self,
        rest: &[u8],
        terminator: Range<usize>,
        on_mark: &mut impl FnMut(Mark<'_>),
    ) {
        let first = !mem::replace(&mut self.started, true);
        let kept = !self.line.is_empty();
        if kept {
            self.keep(rest);
        }
        let line = if kept {
            &self.line
        } else {
            &rest[..rest.len().min(LINE_LIMIT)]
        };
        let complete = line.len() < LINE_LIMIT;
        let line = line.strip_prefix(BOM).filter(|_| first).unwrap_or(line);
        let (block, line_end) = (&mut self.block, self.line_end);
        block.on_line(line, complete, terminator, line_end, on_mark);
        self.line.clear();
    }

    fn keep(&mut self, part: &[u8]) {
        let room = LINE_LIMIT - self.line.len();
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }
}

impl Block {
    fn on_line(
        &mut self,
        line: &[u8],
        complete: bool,
        terminator: Range<usize>,
        line_end: LineEnd,
        on_mark: &mut impl FnMut(Mark<'_>),
    ) {
        match line.first() {
            None => on_mark(Mark::BlockEnd(self.end(terminator, line_end))),
            Some(b':') => self.comments = true,
            Some(_) => {
                let field = Field::parse(line, complete);
                self.fields = true;
                self.data |= field.name == b"data";
                on_mark(Mark::Field(field));
            }
        }
    }

    fn end(&mut self, blank: Range<usize>, line_end: LineEnd) -> BlockEnd {
        let Self {
            data,
            fields,
            comments,
        } = mem::take(self);
        BlockEnd {
            blank,
            line_end,
            data,
            fields,
            comments,
        }
    }
}

impl<'a> Field<'a> {
    fn parse(line: &'a [u8], complete: bool) -> Self {
        let (name, rest) = match memchr::memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        Self::new(name, rest, complete)
    }

    /// Of what is before the colon, and behind it.
    pub(super) fn new(name: &'a [u8], rest: &'a [u8], complete: bool) -> Self {
        let value = rest.strip_prefix(b" ").unwrap_or(rest);
        Self {
            name,
            value,
            complete,
        }
    }
}

/// How long the first line is, if it ends in `rest`. Every other line is blank, and starting a search
/// costs more than to see that.
fn line_len(rest: &[u8]) -> Option<usize> {
    match rest.first() {
        Some(b'\n' | b'\r') => Some(0),
        _ => memchr2(b'\n', b'\r', rest),
    }
}

fn last(bytes: &[u8], len: usize) -> &[u8] {
    &bytes[bytes.len().saturating_sub(len)..]
}

/// Whether these last bytes tell the position: they end inside a line, or have a blank one.
fn shows_enough(bytes: &[u8]) -> bool {
    let is_end = |byte: u8| byte == b'\r' || byte == b'\n';
    let inside = bytes.last().is_none_or(|byte| !is_end(*byte));
    let blank = |pair: &[u8]| is_end(pair[0]) && is_end(pair[1]) && pair != b"\r\n";
    inside || bytes.windows(2).any(blank)
}
