//! The events on the wire: written in chunks by the origin, checked by the load for their order,
//! their size and their end.
//!
//! An event is `data: <stream> <number> <sent> xx…x` and a blank line, of one size within a
//! measurement. `sent` is in nanoseconds of the clock that origin and load share.

use std::{ops::Range, sync::LazyLock, time::Instant};

/// How a stream's events are cut.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Bytes of an event, its blank line included.
    pub(crate) size: usize,
    /// Events in a chunk.
    pub(crate) chunk: usize,
}

/// A stream's events as they are next: chunks whose numbers are filled in.
pub(crate) struct Chunks {
    shape: Shape,
    next: u64,
    /// Whole chunks: one, and when many are written at once up to [`BUFFER`] bytes of them.
    buffer: Vec<u8>,
}

/// What the load has seen of a stream.
pub(crate) struct Checker {
    stream: usize,
    /// Bytes of a data line.
    line: usize,
    next: u64,
    /// Of the data line that is being read, so many bytes are here.
    at: usize,
    head: [u8; HEAD],
    /// In a line of the proxy's own: a comment or `retry`.
    foreign: bool,
    /// Behind a data line: the event has its blank line to come.
    whole: bool,
}

/// What a read has brought.
pub(crate) enum Seen {
    /// An event, sent then.
    Event(u64),
    Comment,
}

/// `data: 00000 00000000 0000000000000 `
const HEAD: usize = 35;
const STREAM: Range<usize> = 6..11;
const NUMBER: Range<usize> = 12..20;
const SENT: Range<usize> = 21..34;

/// Large enough that many events are written by one system call, small enough for the caches.
const BUFFER: usize = 32 * 1024;

/// Of the clock that is written into events.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

pub(crate) fn nanoseconds() -> u64 {
    START.elapsed().as_nanos() as u64
}

impl Shape {
    fn prefix(self) -> String {
        format!("{:x}\r\n", self.size * self.chunk)
    }

    fn chunk(self, stream: usize) -> Vec<u8> {
        let fill = "x".repeat(self.size - HEAD - 2);
        let event = format!("data: {stream:05} {:08} {:013} {fill}\n\n", 0, 0);
        assert_eq!(event.len(), self.size, "a stream's number has five digits");
        format!("{}{}\r\n", self.prefix(), event.repeat(self.chunk)).into_bytes()
    }
}

impl Chunks {
    pub(crate) fn new(stream: usize, shape: Shape) -> Self {
        let buffer = shape.chunk(stream);
        Self {
            shape,
            next: 0,
            buffer,
        }
    }

    /// The next events, at most so many of them but a whole chunk at least, sent at that time.
    pub(crate) fn next(&mut self, most: u64, sent: u64) -> (u64, &[u8]) {
        let prefix = self.shape.prefix().len();
        let chunk = prefix + self.shape.size * self.shape.chunk + 2;
        let chunks = (most / self.shape.chunk as u64).clamp(1, (BUFFER / chunk).max(1) as u64);
        let chunks = chunks as usize;
        // a stream that is never flooded needs no more than one
        while self.buffer.len() < chunks * chunk {
            self.buffer.extend_from_within(..chunk);
        }
        for chunk in self.buffer.chunks_exact_mut(chunk).take(chunks) {
            for event in chunk[prefix..].chunks_exact_mut(self.shape.size) {
                write(&mut event[NUMBER], self.next);
                write(&mut event[SENT], sent);
                self.next += 1;
            }
        }
        let events = (chunks * self.shape.chunk) as u64;
        (events, &self.buffer[..chunks * chunk])
    }
}

impl Checker {
    pub(crate) fn new(stream: usize, size: usize) -> Self {
        Self {
            stream,
            line: size - 1,
            next: 0,
            at: 0,
            head: [0; HEAD],
            foreign: false,
            whole: false,
        }
    }

    /// Takes the next bytes of the stream, however they are cut.
    pub(crate) fn take(
        &mut self,
        mut bytes: &[u8],
        seen: &mut impl FnMut(Seen),
    ) -> Result<(), String> {
        while let &[first, ..] = bytes {
            bytes = match self.at {
                _ if self.foreign => self.skip(bytes),
                0 if first == b'\n' => {
                    self.blank(seen);
                    &bytes[1..]
                }
                0 if first != b'd' => {
                    if first == b':' {
                        seen(Seen::Comment);
                    }
                    self.skip(bytes)
                }
                0..HEAD => self.head(bytes)?,
                _ => self.rest(bytes)?,
            };
        }
        Ok(())
    }

    fn skip<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr(b'\n', bytes);
        self.foreign = end.is_none();
        end.map_or(&[], |end| &bytes[end + 1..])
    }

    fn blank(&mut self, seen: &mut impl FnMut(Seen)) {
        if self.whole {
            self.whole = false;
            self.next += 1;
            seen(Seen::Event(read(&self.head[SENT]).unwrap_or_default()));
        }
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let length = bytes.len().min(HEAD - self.at);
        let (head, rest) = bytes.split_at(length);
        self.head[self.at..][..length].copy_from_slice(head);
        self.at += length;
        if self.at == HEAD {
            self.check()?;
        }
        Ok(rest)
    }

    fn check(&self) -> Result<(), String> {
        let next = self.next;
        let right = self.head.starts_with(b"data: ")
            && read(&self.head[STREAM]) == Some(self.stream as u64)
            && read(&self.head[NUMBER]) == Some(next);
        right.then_some(()).ok_or_else(|| {
            let head = String::from_utf8_lossy(&self.head);
            format!("event {next} was to come, not {head:?}")
        })
    }

    fn rest<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let (rest, behind) = bytes.split_at(bytes.len().min(self.line - self.at));
        self.at += rest.len();
        if self.at == self.line {
            // what is cut off from the end stood in the fill
            if !b"x\n".ends_with(&rest[rest.len().saturating_sub(2)..]) {
                return Err(format!("the data of event {} ends wrongly", self.next));
            }
            self.at = 0;
            self.whole = true;
        }
        Ok(behind)
    }
}

/// That [`Checker`] takes what is right, however it is cut, and nothing else.
pub(crate) fn check() -> Result<(), String> {
    let shape = Shape { size: 64, chunk: 4 };
    let mut chunks = Chunks::new(7, shape);
    let prefix = shape.prefix().len();
    let (_, chunk) = chunks.next(4, 1);
    let events: Vec<_> = chunk[prefix..chunk.len() - 2].chunks(shape.size).collect();
    let [first, second, third, fourth] = events[..] else {
        return Err("a chunk of four events".to_owned());
    };
    let (retry, end) = (b"retry: 5\n".as_slice(), shape.size - 1);
    let right = [
        b": a\n\n",
        first,
        second,
        b":\n",
        third,
        &fourth[..end],
        retry,
        b"\n",
    ]
    .concat();
    for length in 1..=right.len() {
        let (events, comments) = seen(shape, right.chunks(length))?;
        if (events, comments) != (4, 2) {
            return Err(format!(
                "in pieces of {length}: {events} events, {comments} comments"
            ));
        }
    }
    let cut = &first[..end - 2];
    for wrong in [
        [first, third].concat(),
        [second, first].concat(),
        [first, first].concat(),
        [cut, b"\n\n"].concat(),
        [cut, second].concat(),
        [&first[..end], second].concat(),
    ] {
        if seen(shape, wrong.chunks(wrong.len())).is_ok() {
            return Err(format!("taken: {:?}", String::from_utf8_lossy(&wrong)));
        }
    }
    Ok(())
}

fn seen<'a>(shape: Shape, pieces: impl Iterator<Item = &'a [u8]>) -> Result<(u64, u64), String> {
    let mut checker = Checker::new(7, shape.size);
    let (mut events, mut comments) = (0, 0);
    for piece in pieces {
        checker.take(piece, &mut |seen| match seen {
            Seen::Event(_) => events += 1,
            Seen::Comment => comments += 1,
        })?;
    }
    Ok((events, comments))
}

fn write(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn read(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        Some(number * 10 + u64::from(digit))
    })
}
