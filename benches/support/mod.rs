//! The streams that are measured: `EVENTS` events of one size, in frames that are cut two ways.

use bytes::Bytes;

/// Events in a stream.
pub(crate) const EVENTS: usize = 1000;

/// Sizes of an event, its blank line included.
pub(crate) const SIZES: [(&str, usize); 3] = [("64B", 64), ("256B", 256), ("4KiB", 4096)];

/// Frames are cut here when they are not aligned: no frame ends where an event does, until the
/// last.
const ODD: usize = 61;

/// A stream in frames of one event each, and the same bytes cut at odd offsets.
pub(crate) fn shapes(size: usize) -> [(&'static str, Vec<Bytes>); 2] {
    let event = [
        b"id: 123456\ndata: ",
        "x".repeat(size - 19).as_bytes(),
        b"\n\n",
    ]
    .concat();
    assert_eq!(event.len(), size);
    let stream = Bytes::from(event.repeat(EVENTS));
    let aligned = cut(&stream, 0, size);
    let odd = cut(&stream, ODD, size);
    [("aligned", aligned), ("odd", odd)]
}

fn cut(stream: &Bytes, first: usize, size: usize) -> Vec<Bytes> {
    let cuts = (first..stream.len()).step_by(size).filter(|at| *at > 0);
    let mut frames = Vec::new();
    let mut start = 0;
    for end in cuts.chain([stream.len()]) {
        frames.push(stream.slice(start..end));
        start = end;
    }
    frames
}
