use bytes::Bytes;

/// Takes the byte order mark off the start of a stream, however it is cut.
///
/// One mark means nothing, yet it breaks clients: the OpenAI and Anthropic SDKs for Python lose
/// the first event, `eventsource-stream` panics. And where a heartbeat goes out first, the mark
/// behind it would become part of a field's name.
///
/// A *second* mark is such a name to every conforming client. So that it stays one, the first is
/// kept where it is what the client will ignore.
#[derive(Debug, Default)]
pub(crate) struct Bom {
    /// How much of [`MARKS`] the stream has begun with; nothing of it has been handed on.
    matched: u8,
    passed: bool,
}

const MARK: usize = 3;
const MARKS: &[u8] = b"\xef\xbb\xbf\xef\xbb\xbf";

impl Bom {
    /// The frame without the mark; empty while it cannot be told. `spoken` says that the client
    /// has had bytes of ours before, so that nothing is the start of its stream any more.
    pub(crate) fn strip(&mut self, frame: &Bytes, spoken: bool) -> Bytes {
        if self.passed {
            return frame.clone();
        }
        let here = frame
            .iter()
            .zip(&MARKS[self.matched()..])
            .take_while(|(a, b)| a == b)
            .count();
        self.matched += here as u8;
        if here == frame.len() && self.matched() < MARKS.len() {
            return Bytes::new();
        }
        let held = self.release(spoken);
        match here.checked_sub(held.len()) {
            Some(from) => frame.slice(from..),
            None => [held, &frame[here..]].concat().into(),
        }
    }

    /// Whether the start of the stream is over, so that all goes on as it is.
    pub(crate) fn has_passed(&self) -> bool {
        self.passed
    }

    /// What is held of a mark that never became whole.
    pub(crate) fn finish(&mut self) -> Bytes {
        if self.passed {
            Bytes::new()
        } else {
            Bytes::from_static(self.release(true))
        }
    }

    /// Whether bytes are held, so that nothing may be said before them.
    pub(crate) fn is_holding(&self) -> bool {
        !self.passed && !self.matched().is_multiple_of(MARK)
    }

    fn matched(&self) -> usize {
        self.matched.into()
    }

    fn release(&mut self, spoken: bool) -> &'static [u8] {
        self.passed = true;
        match self.matched() {
            n if n < MARK => &MARKS[..n],
            n if n == MARKS.len() && !spoken => MARKS,
            n => &MARKS[MARK..n],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_goes_and_everything_else_stays_at_every_split() {
        let table: &[(&[u8], &[u8], &[u8])] = &[
            // in, out, out after a heartbeat
            (b"data: x", b"data: x", b"data: x"),
            (b"\xef\xbb\xbfdata", b"data", b"data"),
            (b"\xef\xbb\xbf", b"", b""),
            (b"\xef\xbb", b"\xef\xbb", b"\xef\xbb"),
            (b"\xef\xbbdata", b"\xef\xbbdata", b"\xef\xbbdata"),
            (b"\xef\xbb\xbf\xef\xbbx", b"\xef\xbbx", b"\xef\xbbx"),
            (
                b"\xef\xbb\xbf\xef\xbb\xbfx",
                b"\xef\xbb\xbf\xef\xbb\xbfx",
                b"\xef\xbb\xbfx",
            ),
            (b"\n\xef\xbb\xbfx", b"\n\xef\xbb\xbfx", b"\n\xef\xbb\xbfx"),
            (b"", b"", b""),
        ];
        for &(input, silent, spoken) in table {
            for (expected, spoken) in [(silent, false), (spoken, true)] {
                for first in 0..=input.len() {
                    for second in first..=input.len() {
                        let mut bom = Bom::default();
                        let mut out = Vec::new();
                        for chunk in [&input[..first], &input[first..second], &input[second..]] {
                            out.extend(bom.strip(&Bytes::copy_from_slice(chunk), spoken));
                        }
                        out.extend(bom.finish());
                        assert_eq!(out, expected, "{input:?} cut at {first} and {second}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_frame_behind_the_mark_is_not_copied() {
        let frame = Bytes::from_static(b"\xef\xbb\xbfdata");
        let stripped = Bom::default().strip(&frame, false);
        assert_eq!(stripped.as_ptr(), frame[3..].as_ptr());
    }
}
