//! What comes of several rounds, in words.

// Not every bench says all of it.
#![allow(dead_code)]

/// The one in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    share(values, 50)
}

/// The one that so many of a hundred do not exceed.
pub(crate) fn share(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() - 1) * percent / 100]
}

pub(crate) fn at_most(value: f64, bound: f64) -> String {
    format!("{value:.2} (at most {bound}: {})", verdict(value <= bound))
}

pub(crate) fn at_least(value: f64, bound: f64) -> String {
    format!("{value:.2} (at least {bound}: {})", verdict(value >= bound))
}

fn verdict(held: bool) -> &'static str {
    if held { "held" } else { "missed" }
}
