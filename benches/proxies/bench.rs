//! Round after round, all contenders in each.

use std::{net::SocketAddr, time::Instant};

use crate::{
    Trouble,
    contenders::{Contender, Programs, Start},
    origin::Origin,
    process::Process,
    rows::{ROWS, Row},
    table::Sample,
};

pub(crate) struct Bench {
    pub(crate) origin: Origin,
    programs: Programs,
    pub(crate) quick: bool,
    /// How many streams are idle.
    pub(crate) idle: usize,
    pub(crate) samples: Vec<Sample>,
}

impl Bench {
    pub(crate) fn new(origin: Origin, programs: Programs, quick: bool, idle: usize) -> Self {
        Self {
            origin,
            programs,
            quick,
            idle,
            samples: Vec::new(),
        }
    }

    /// The quick form sends less.
    pub(crate) fn divisor(&self) -> u64 {
        if self.quick { 4 } else { 1 }
    }

    /// One that has served nobody before. The one before it is gone.
    pub(crate) fn start(
        &mut self,
        contender: Contender,
        start: Start<'_>,
    ) -> Result<Process, Trouble> {
        self.origin.clear();
        contender.start(&self.programs, self.upstream(), start)
    }

    fn upstream(&self) -> SocketAddr {
        self.origin.address
    }

    pub(crate) async fn run(
        &mut self,
        rows: &[String],
        contenders: &[Contender],
        rounds: usize,
    ) -> Result<(), Trouble> {
        let quick = self.quick;
        for row in ROWS.iter().filter(|row| is_wanted(row, rows, quick)) {
            let start = Instant::now();
            for round in 0..row.rounds(rounds) {
                self.round(row, contenders, round).await?;
            }
            eprintln!("{:>5.0} s  {}", start.elapsed().as_secs_f64(), row.title);
        }
        Ok(())
    }

    /// Each round begins with another, so that none has always the same one before it.
    async fn round(
        &mut self,
        row: &'static Row,
        contenders: &[Contender],
        round: usize,
    ) -> Result<(), Trouble> {
        let (last, first) = contenders.split_at(round % contenders.len());
        for contender in first.iter().chain(last).filter(|one| row.is_for(**one)) {
            let measured = match row.measure(self, *contender).await {
                Ok(measured) => measured
                    .into_iter()
                    .map(|(what, value)| (what, Ok(value)))
                    .collect(),
                Err(Trouble::Unable(why)) => vec![(String::new(), Err(why))],
                Err(Trouble::Wrong(what)) => {
                    let name = contender.name();
                    return Err(Trouble::Wrong(format!("{name}, {}: {what}", row.key)));
                }
            };
            for (metric, value) in measured {
                self.samples.push(Sample {
                    row,
                    metric,
                    contender: *contender,
                    round,
                    value,
                });
            }
        }
        Ok(())
    }
}

fn is_wanted(row: &Row, rows: &[String], quick: bool) -> bool {
    match rows {
        [] => !quick || row.in_quick_form(),
        rows => rows.iter().any(|key| key == row.key),
    }
}
