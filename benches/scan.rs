//! The scanner alone: `cargo bench --bench scan`.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tower_sse::wire::{Mark, Position, Scanner};

mod support;

use support::{EVENTS, SIZES, shapes};

fn scan(c: &mut Criterion) {
    for (size, bytes) in SIZES {
        let mut group = c.benchmark_group(format!("scan/{size}"));
        group.throughput(Throughput::Bytes((bytes * EVENTS) as u64));
        for (shape, frames) in shapes(bytes) {
            group.bench_with_input(
                BenchmarkId::new("every-line", shape),
                &frames,
                |b, frames| {
                    b.iter(|| {
                        let (mut scanner, mut events) = (Scanner::new(), 0);
                        for frame in black_box(frames) {
                            scanner.scan(frame, |mark| {
                                events += usize::from(
                                    matches!(mark, Mark::BlockEnd(block) if block.data),
                                );
                            });
                        }
                        assert_eq!(events, EVENTS);
                    });
                },
            );
            group.bench_with_input(
                BenchmarkId::new("boundary-only", shape),
                &frames,
                |b, frames| {
                    b.iter(|| {
                        let mut scanner = Scanner::new();
                        for frame in black_box(frames) {
                            scanner.skim(frame);
                        }
                        assert_eq!(scanner.position(), Position::Boundary);
                    });
                },
            );
        }
    }
}

criterion_group!(benches, scan);
criterion_main!(benches);
