//! The numbers as a table in Markdown, and all of them as CSV.

use std::fmt::Write as _;

use crate::{
    contenders::Contender,
    count::INSTRUCTIONS,
    measure::share,
    memory::OWN,
    rows::{CPU, P50, P99, Row},
};

/// One number, or why there is none.
pub(crate) struct Sample {
    pub(crate) row: &'static Row,
    pub(crate) metric: String,
    pub(crate) contender: Contender,
    pub(crate) round: usize,
    pub(crate) value: Result<f64, String>,
}

/// Over all rounds.
#[derive(Clone, Copy)]
pub(crate) struct Summary {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

/// What was measured in a row, of all contenders.
pub(crate) struct Line {
    pub(crate) row: &'static Row,
    pub(crate) metric: String,
}

impl Line {
    /// What a picture makes clearer: of the rest the table tells.
    pub(crate) fn is_drawn(&self) -> bool {
        [CPU, P50, P99, OWN, INSTRUCTIONS].contains(&self.metric.as_str())
    }
}

/// In the order in which they were measured.
pub(crate) fn lines(samples: &[Sample]) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for sample in samples {
        let known = lines
            .iter()
            .any(|line| line.row.key == sample.row.key && line.metric == sample.metric);
        let row_has_numbers = sample.value.is_err()
            && samples
                .iter()
                .any(|other| other.row.key == sample.row.key && other.value.is_ok());
        if !known && !row_has_numbers {
            lines.push(Line {
                row: sample.row,
                metric: sample.metric.clone(),
            });
        }
    }
    lines
}

pub(crate) fn summary(samples: &[Sample], line: &Line, contender: Contender) -> Option<Summary> {
    let same = |sample: &&Sample| {
        sample.row.key == line.row.key
            && sample.metric == line.metric
            && sample.contender == contender
    };
    let values = samples.iter().filter(same);
    let mut values: Vec<f64> = values
        .filter_map(|sample| sample.value.as_ref().ok().copied())
        .collect();
    (!values.is_empty()).then(|| Summary {
        median: share(&mut values, 50),
        least: share(&mut values, 0),
        most: share(&mut values, 100),
    })
}

pub(crate) fn markdown(samples: &[Sample], contenders: &[Contender]) -> String {
    let mut text = String::from("| work |");
    for contender in contenders {
        let _ = write!(text, " {} |", contender.name());
    }
    let _ = write!(text, "\n|---|{}", "---|".repeat(contenders.len()));
    let mut reasons = Vec::new();
    for line in lines(samples) {
        let _ = write!(text, "\n| {}: {} |", line.row.title, line.metric);
        for contender in contenders {
            let cell = match summary(samples, &line, *contender) {
                Some(summary) => cell(summary),
                None => note(samples, &line, *contender, &mut reasons),
            };
            let _ = write!(text, " {cell} |");
        }
    }
    text.push('\n');
    for (number, reason) in reasons.iter().enumerate() {
        let _ = write!(text, "\n({}) {reason}", number + 1);
    }
    text
}

fn cell(summary: Summary) -> String {
    let [median, least, most] = [summary.median, summary.least, summary.most].map(number);
    match least == most {
        true => median,
        false => format!("{median} ({least}–{most})"),
    }
}

/// Three digits, which is more than the machine repeats.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => thousands(value),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 && digits.as_bytes()[at - 1] != b'-' {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn note(
    samples: &[Sample],
    line: &Line,
    contender: Contender,
    reasons: &mut Vec<String>,
) -> String {
    let failed = samples.iter().find_map(|sample| {
        let same = sample.row.key == line.row.key && sample.contender == contender;
        sample.value.as_ref().err().filter(|_| same)
    });
    let Some(reason) = failed else {
        return "–".to_owned();
    };
    let reason = format!("{}: {reason}", contender.name());
    let at = reasons.iter().position(|known| *known == reason);
    let at = at.unwrap_or_else(|| {
        reasons.push(reason);
        reasons.len() - 1
    });
    format!("({})", at + 1)
}

pub(crate) fn csv(samples: &[Sample]) -> String {
    let mut text = String::from("row,metric,contender,round,value\n");
    for sample in samples {
        let Sample {
            row,
            metric,
            contender,
            round,
            value,
        } = sample;
        let value = value.as_ref().map_or_else(
            |why| format!("\"{}\"", why.replace(['"', '\n'], " ")),
            ToString::to_string,
        );
        let name = contender.name();
        let _ = writeln!(
            text,
            "{},\"{metric}\",{name},{},{value}",
            row.key,
            round + 1
        );
    }
    text
}
