//! What the gateway is to reach, beside the others: held or missed.

use std::fmt::Write as _;

use crate::{
    contenders::Contender,
    count::INSTRUCTIONS,
    measure::share,
    memory::OWN,
    rows::{CPU, P50, P99},
    table::{Sample, number},
};

struct Bound {
    row: &'static str,
    metric: &'static str,
    most: Most,
}

#[derive(Clone, Copy)]
enum Most {
    /// As much as this one in the same round.
    Of(Contender),
    Value(f64),
}

use Contender::{Gateway, Haproxy, Nginx};

const BOUNDS: [Bound; 16] = [
    bound("flood", CPU, Most::Of(Nginx)),
    bound("flood-1", CPU, Most::Of(Nginx)),
    bound("chunks", CPU, Most::Of(Nginx)),
    bound("large", CPU, Most::Of(Nginx)),
    bound("tokens", CPU, Most::Of(Nginx)),
    bound("paced", CPU, Most::Of(Nginx)),
    bound("lock-step", CPU, Most::Of(Nginx)),
    bound("flood", CPU, Most::Of(Haproxy)),
    bound("flood-1", CPU, Most::Of(Haproxy)),
    bound("chunks", CPU, Most::Of(Haproxy)),
    bound("large", CPU, Most::Of(Haproxy)),
    bound("paced", P50, Most::Of(Nginx)),
    bound("paced", P99, Most::Of(Nginx)),
    bound("instructions", INSTRUCTIONS, Most::Value(5000.0)),
    bound("stalled", OWN, Most::Value(64.0)),
    bound("idle", OWN, Most::Of(Nginx)),
];

const fn bound(row: &'static str, metric: &'static str, most: Most) -> Bound {
    Bound { row, metric, most }
}

/// A line for each that was measured.
pub(crate) fn verdicts(samples: &[Sample]) -> String {
    let mut text = String::new();
    for bound in &BOUNDS {
        let Bound { row, metric, most } = bound;
        let told = match most {
            Most::Of(other) => ratio(samples, bound, *other).map(|ratio| {
                let name = other.name();
                (ratio <= 1.0, format!("{} times {name}", number(ratio)))
            }),
            Most::Value(most) => median(values(samples, bound, Gateway)).map(|value| {
                let told = format!("{}, at most {}", number(value), number(*most));
                (value <= *most, told)
            }),
        };
        if let Some((held, told)) = told {
            let held = if held { "held  " } else { "missed" };
            let _ = writeln!(text, "{held}  {row}, {metric}: {told}");
        }
    }
    text
}

/// The median over rounds of the ratio within a round: what else the machine did then was the same
/// for both, or nearly.
fn ratio(samples: &[Sample], bound: &Bound, other: Contender) -> Option<f64> {
    let ours = values(samples, bound, Gateway);
    let theirs = values(samples, bound, other);
    let pairs = ours.iter().filter_map(|(round, value)| {
        let (_, other) = theirs.iter().find(|(same, _)| same == round)?;
        Some((*round, value / other))
    });
    median(pairs.collect())
}

fn values(samples: &[Sample], bound: &Bound, contender: Contender) -> Vec<(usize, f64)> {
    let same = samples.iter().filter(|sample| {
        sample.row.key == bound.row
            && sample.metric == bound.metric
            && sample.contender == contender
    });
    same.filter_map(|sample| Some((sample.round, *sample.value.as_ref().ok()?)))
        .collect()
}

fn median(values: Vec<(usize, f64)>) -> Option<f64> {
    let mut values: Vec<_> = values.into_iter().map(|(_, value)| value).collect();
    (!values.is_empty()).then(|| share(&mut values, 50))
}
