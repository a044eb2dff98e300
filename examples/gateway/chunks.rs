//! The chunked coding (RFC 9112, 7.1): how a body of unknown length says where it ends.
//!
//! A server that streams sends each event as a chunk of its own. Where chunks are cut means nothing,
//! so the data of those that come together is joined.

use std::io;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::fields::EmptyLine;

/// Reads chunks that come in pieces.
pub(crate) struct Chunks {
    next: Next,
    trailers: Trailers,
    /// Whether there were bytes behind the body.
    excess: bool,
}

/// Where the next byte is.
#[derive(Clone, Copy)]
enum Next {
    /// In front of a size.
    Start,
    Size(u64),
    /// In the blanks behind a size.
    Blank(u64),
    /// In what may follow a size, and nobody uses. With the number of its bytes.
    Extension(u64, u16),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// Behind the last chunk.
    Trailers,
    /// Behind the body.
    End,
}

/// The fields behind the last chunk (RFC 9112, 7.1.2), usually none.
struct Trailers {
    lines: Vec<u8>,
    end: EmptyLine,
}

const LONGEST_EXTENSION: u16 = 4 * 1024;
const LONGEST_TRAILERS: usize = 16 * 1024;
const MOST_TRAILERS: usize = 64;

impl Chunks {
    pub(crate) fn new() -> Self {
        Self {
            next: Next::Start,
            trailers: Trailers {
                lines: Vec::new(),
                end: EmptyLine::behind_a_line(),
            },
            excess: false,
        }
    }

    /// Moves the data of all chunks to the front, and returns how much it is. No bytes are the end of
    /// the connection.
    ///
    /// # Errors
    ///
    /// For bytes that are no chunks, and for an end before the last one.
    pub(crate) fn join(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut data, mut at) = (0, 0);
        while at < bytes.len() {
            match self.next {
                Next::Data(left) => {
                    let here = (bytes.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                    bytes.copy_within(at..at + here, data);
                    (data, at) = (data + here, at + here);
                    self.next = match left - here as u64 {
                        0 => Next::DataCr,
                        left => Next::Data(left),
                    };
                }
                Next::Trailers => {
                    let end = self.trailers.read(&bytes[at..])?;
                    if end.is_some() {
                        self.next = Next::End;
                    }
                    at += end.unwrap_or(bytes.len() - at);
                }
                Next::End => break,
                next => {
                    self.next = next.after(bytes[at]).ok_or_else(malformed)?;
                    at += 1;
                }
            }
        }
        self.excess = at < bytes.len();
        Ok(data)
    }

    /// Whether all of the body was there.
    pub(crate) fn have_ended(&self) -> bool {
        matches!(self.next, Next::End)
    }

    /// Whether the connection had more than the body.
    pub(crate) fn were_exceeded(&self) -> bool {
        self.excess
    }

    /// The trailers, if there are any.
    ///
    /// # Errors
    ///
    /// For lines that are no fields.
    pub(crate) fn trailers(&self) -> io::Result<Option<HeaderMap>> {
        self.trailers.fields()
    }
}

impl Next {
    /// As strict as hyper is: what another reader of these bytes might take for something else is
    /// an error.
    fn after(self, byte: u8) -> Option<Self> {
        let digit = (byte as char).to_digit(16).map(u64::from);
        match (self, byte) {
            (Self::Start, _) => digit.map(Self::Size),
            (Self::Size(size) | Self::Blank(size) | Self::Extension(size, _), b'\r') => {
                Some(Self::SizeLf(size))
            }
            (Self::Size(size) | Self::Blank(size), b' ' | b'\t') => Some(Self::Blank(size)),
            (Self::Size(size) | Self::Blank(size), b';') => Some(Self::Extension(size, 0)),
            (Self::Size(size), _) => size.checked_mul(16)?.checked_add(digit?).map(Self::Size),
            (Self::Extension(..), b'\n') | (Self::Extension(_, LONGEST_EXTENSION), _) => None,
            (Self::Extension(size, length), _) => Some(Self::Extension(size, length + 1)),
            (Self::SizeLf(0), b'\n') => Some(Self::Trailers),
            (Self::SizeLf(size), b'\n') => Some(Self::Data(size)),
            (Self::DataCr, b'\r') => Some(Self::DataLf),
            (Self::DataLf, b'\n') => Some(Self::Start),
            _ => None,
        }
    }
}

impl Trailers {
    /// Where they end, if they do.
    fn read(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let end = self.end.find(bytes);
        let theirs = &bytes[..end.unwrap_or(bytes.len())];
        if self.lines.len() + theirs.len() > LONGEST_TRAILERS {
            return Err(malformed());
        }
        self.lines.extend_from_slice(theirs);
        Ok(end)
    }

    fn fields(&self) -> io::Result<Option<HeaderMap>> {
        let mut lines = [httparse::EMPTY_HEADER; MOST_TRAILERS];
        let parsed = httparse::parse_headers(&self.lines, &mut lines);
        let Ok(httparse::Status::Complete((_, lines))) = parsed else {
            return Err(malformed());
        };
        let mut fields = HeaderMap::new();
        for line in lines {
            let name = HeaderName::from_bytes(line.name.as_bytes());
            let value = HeaderValue::from_bytes(line.value);
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(malformed());
            };
            fields.append(name, value);
        }
        Ok((!fields.is_empty()).then_some(fields))
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a chunk is malformed")
}
