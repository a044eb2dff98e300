//! The numbers as a picture: bars for each row, curves for growth. Readable on light and on dark.

use std::fmt::Write as _;

use crate::{
    contenders::Contender,
    table::{Line, Sample, lines, number, summary},
};

/// One picture within the chart.
struct Curve<'a> {
    title: &'a str,
    /// Where it stands, from its left and from the top.
    at: (f64, f64),
    /// Each contender's numbers, by what grows.
    points: Vec<(Contender, Vec<(f64, f64)>)>,
}

/// From the least to the most, on a logarithmic axis.
struct Axis {
    least: f64,
    most: f64,
    length: f64,
}

const WIDTH: f64 = 900.0;
const MARGIN: f64 = 16.0;
/// Where bars begin, behind the names.
const BARS: f64 = 96.0;
/// The longest bar; its number stands behind it.
const LONGEST: f64 = WIDTH - BARS - 200.0;
const BAR: f64 = 13.0;
const TITLE: f64 = 26.0;
const CURVE: (f64, f64) = (236.0, 170.0);
/// For the numbers beside an axis.
const LABEL: f64 = 34.0;

const STYLE: &str = "text { font: 12px system-ui, sans-serif; fill: #1f2328 }
.paper { fill: #ffffff } .title { font-weight: 600 } .small { font-size: 11px }
.axis { stroke: #8c959f; fill: none } .range { stroke: #59636e } .curve { fill: none; stroke-width: 2 }
@media (prefers-color-scheme: dark) { text { fill: #f0f6fc } .paper { fill: #0d1117 }
.axis { stroke: #656c76 } .range { stroke: #9198a1 } }";

pub(crate) fn svg(samples: &[Sample], contenders: &[Contender]) -> String {
    let lines = lines(samples);
    let (curves, bars): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.row.is_growth());
    let mut body = String::new();
    let mut top = MARGIN;
    for line in bars.into_iter().filter(|line| line.is_drawn()) {
        top = group(&mut body, top, samples, line, contenders);
    }
    top = growth(&mut body, top, samples, &curves, contenders);
    let height = top + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"The gateway beside other proxies\">\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\"/>\n{body}</svg>\n"
    )
}

fn color(contender: Contender) -> &'static str {
    match contender {
        Contender::Relay => "#8c959f",
        Contender::Gateway => "#e8590c",
        Contender::Nginx => "#2f9e44",
        Contender::Haproxy => "#3b82d6",
        Contender::Caddy => "#a855c7",
    }
}

// === Bars ===

/// Each group has a scale of its own: rows differ by a hundred times. Returns where it ends.
fn group(
    body: &mut String,
    top: f64,
    samples: &[Sample],
    line: &Line,
    contenders: &[Contender],
) -> f64 {
    let summaries = contenders.iter().filter_map(|contender| {
        let summary = summary(samples, line, *contender)?;
        Some((*contender, summary))
    });
    let summaries: Vec<_> = summaries.collect();
    let most = summaries
        .iter()
        .map(|(_, summary)| summary.most)
        .fold(f64::MIN_POSITIVE, f64::max);
    let baseline = top + 12.0;
    let title = format!("{}: {}", line.row.title, line.metric);
    text(body, (MARGIN, baseline), "title", &title);
    let mut at = top + TITLE - 8.0;
    for (contender, summary) in summaries {
        let length = |value: f64| (value / most * LONGEST).max(0.0);
        let (width, middle) = (length(summary.median), at + BAR / 2.0);
        text(body, (MARGIN, at + 10.0), "small", contender.name());
        let _ = writeln!(
            body,
            "<rect x=\"{BARS}\" y=\"{at:.1}\" width=\"{width:.1}\" height=\"{:.1}\" rx=\"1\" fill=\"{}\"/>\
             <path class=\"range\" d=\"M{:.1} {middle:.1}H{:.1}\"/>",
            BAR - 2.0,
            color(contender),
            BARS + length(summary.least),
            BARS + length(summary.most),
        );
        let behind = (BARS + length(summary.most) + 6.0, at + 10.0);
        text(body, behind, "small", &number(summary.median));
        at += BAR + 1.0;
    }
    at + 14.0
}

fn text(body: &mut String, (x, y): (f64, f64), class: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        body,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{words}</text>"
    );
}

// === Curves ===

/// Side by side, on logarithmic axes. Returns where they end.
fn growth(
    body: &mut String,
    top: f64,
    samples: &[Sample],
    lines: &[&Line],
    contenders: &[Contender],
) -> f64 {
    if lines.is_empty() {
        return top;
    }
    let title = "growth: CPU µs/event by …";
    text(body, (MARGIN, top + 12.0), "title", title);
    let mut left = MARGIN + LABEL;
    for same in lines.chunk_by(|one, other| one.row.key == other.row.key) {
        let points = contenders.iter().filter_map(|contender| {
            let points = same.iter().filter_map(|line| {
                let summary = summary(samples, line, *contender)?;
                Some((line.metric.parse().ok()?, summary.median))
            });
            let points: Vec<_> = points.collect();
            (!points.is_empty()).then_some((*contender, points))
        });
        let curve = Curve {
            title: same[0].row.title,
            at: (left, top + TITLE),
            points: points.collect(),
        };
        draw(body, &curve);
        left += CURVE.0 + LABEL + 10.0;
    }
    legend(body, top + 12.0, contenders);
    top + TITLE + CURVE.1 + 50.0
}

/// Behind the title. The bars have the names beside them.
fn legend(body: &mut String, baseline: f64, contenders: &[Contender]) {
    let mut left = MARGIN + 190.0;
    for contender in contenders.iter().filter(|one| one.grows()) {
        let (top, color) = (baseline - 9.0, color(*contender));
        let _ = writeln!(
            body,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"10\" height=\"10\" fill=\"{color}\"/>"
        );
        text(body, (left + 15.0, baseline), "small", contender.name());
        left += 90.0;
    }
}

fn draw(body: &mut String, curve: &Curve<'_>) {
    let (left, top) = curve.at;
    let all = || curve.points.iter().flat_map(|(_, points)| points.iter());
    let along = Axis::new(all().map(|point| point.0), CURVE.0);
    let up = Axis::new(all().map(|point| point.1), CURVE.1);
    let (bottom, low) = (top + CURVE.1, top + CURVE.1 + 14.0);
    let title = curve.title.split(", ").next().unwrap_or_default();
    text(body, (left, low + 16.0), "small", title);
    text(body, (left, low), "small", &whole(along.least));
    text(
        body,
        (left + CURVE.0 - 30.0, low),
        "small",
        &whole(along.most),
    );
    text(body, (left - LABEL, top + 10.0), "small", &number(up.most));
    text(body, (left - LABEL, bottom), "small", &number(up.least));
    let _ = writeln!(
        body,
        "<path class=\"axis\" d=\"M{left:.1} {top:.1}V{bottom:.1}h{:.1}\"/>",
        CURVE.0
    );
    for (contender, points) in &curve.points {
        let color = color(*contender);
        let mut path = String::new();
        for (x, y) in points {
            let (x, y) = (left + along.at(*x), bottom - up.at(*y));
            let _ = write!(
                path,
                "{}{x:.1} {y:.1}",
                if path.is_empty() { 'M' } else { 'L' }
            );
            let _ = writeln!(
                body,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{color}\"/>"
            );
        }
        let _ = writeln!(
            body,
            "<path class=\"curve\" stroke=\"{color}\" d=\"{path}\"/>"
        );
    }
}

impl Axis {
    fn new(values: impl Iterator<Item = f64> + Clone, length: f64) -> Self {
        let least = values.clone().fold(f64::MAX, f64::min);
        let most = values.fold(f64::MIN_POSITIVE, f64::max);
        Self {
            least,
            most,
            length,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let whole = (self.most / self.least).ln().max(f64::MIN_POSITIVE);
        (value / self.least).ln() / whole * self.length
    }
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}
