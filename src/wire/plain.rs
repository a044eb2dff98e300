use std::mem;

use memchr::memchr2;

use super::Field;

/// How many events a frame has that is made of nothing but whole ones, of `data` and `event` in lines
/// that end with LF, none of which `is_minded`; `None` for any other.
///
/// Nearly all frames are such, and telling marks of each line costs several times the search for their
/// ends.
pub(super) fn plain_events(
    frame: &[u8],
    mut is_minded: impl FnMut(&Field<'_>) -> bool,
) -> Option<u64> {
    let (mut rest, mut events, mut data) = (frame, 0, false);
    while let Some(first) = rest.first() {
        let name = match first {
            // A blank line that ends no event is none of ours.
            b'\n' if !mem::take(&mut data) => return None,
            b'\n' => {
                events += 1;
                rest = &rest[1..];
                continue;
            }
            b'd' if rest.starts_with(b"data:") => &rest[..4],
            b'e' if rest.starts_with(b"event:") => &rest[..5],
            _ => return None,
        };
        let end = memchr2(b'\n', b'\r', rest).filter(|end| rest[*end] == b'\n')?;
        if is_minded(&Field::new(name, &rest[name.len() + 1..end], true)) {
            return None;
        }
        data |= *first == b'd';
        rest = &rest[end + 1..];
    }
    Some(events)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::{LineEnd, Mark, Scanner};

    /// Of lines that pass, nearly pass, and do not.
    fn frame() -> impl Strategy<Value = Vec<u8>> {
        let line = prop::sample::select(vec![
            "data: x",
            "data:y",
            "data",
            "event: e",
            "event:",
            "id: 1",
            "retry: 1",
            ": c",
            "",
            "dat: x",
            "\u{feff}data: x",
            "data: x\ry",
        ]);
        let end = prop::sample::select(vec!["\n", "\n\n", "\n\n", "\r\n", "\r\n\r\n", "\r", ""]);
        let lines = prop::collection::vec((line, end), 0..6);
        lines.prop_map(|lines| {
            let text: String = lines
                .into_iter()
                .flat_map(|(line, end)| [line, end])
                .collect();
            text.into_bytes()
        })
    }

    proptest! {
        #[test]
        fn events_that_pass_are_what_a_scan_finds(before in frame(), frame in frame()) {
            let mut scanned = Scanner::new();
            scanned.scan(&before, |_| ());
            let mut passed = Scanner::new();
            passed.scan(&before, |_| ());
            let mut fields = Vec::new();
            let mut field = |field: &Field<'_>| fields.push((field.name.to_vec(), field.value.to_vec()));
            let events = passed.pass_events(&frame, |found| {
                field(found);
                false
            });
            let (mut ends, mut found, mut dull) = (0, Vec::new(), true);
            scanned.scan(&frame, |mark| match mark {
                Mark::Field(field) => found.push((field.name.to_vec(), field.value.to_vec())),
                Mark::BlockEnd(end) => {
                    dull &= end.data && !end.comments && end.line_end == LineEnd::Lf;
                    ends += 1;
                }
                Mark::LineFeed => dull = false,
            });
            if let Some(events) = events {
                prop_assert!(dull, "{frame:?} behind {before:?}");
                prop_assert_eq!((events, fields), (ends, found));
                prop_assert_eq!(passed.position(), scanned.position());
                prop_assert_eq!(passed.line_end(), scanned.line_end());
            }
        }
    }

    #[test]
    fn what_is_minded_does_not_pass() {
        let frame = b"event: e\ndata: x\n\ndata: y\n\n";
        for minded in [&b"e"[..], b"x", b"y"] {
            let mut scanner = Scanner::new();
            scanner.scan(b"data: x\n\n", |_| ());
            assert_eq!(
                scanner.pass_events(frame, |field| field.value == minded),
                None
            );
            assert_eq!(scanner.pass_events(frame, |_| false), Some(2));
        }
    }
}
