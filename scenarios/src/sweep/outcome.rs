//! What a sweep has shown, and its two forms for programs: `sweep.json` and `sweep.csv`.

use super::cliff::Cliff;
use super::figures::Figures;
use super::page;
use super::point::Point;
use super::screen;
use super::slo::Slo;
use super::vary::Vary;
use crate::report::Style;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// A finished or interrupted sweep. Equal plans give equal sweeps, whatever the machine and its load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// Version of this structure, for readers of `sweep.json`.
    pub format: u32,
    /// `sweep`.
    pub kind: String,
    /// Version of the harness.
    pub version: String,
    /// Name of the scenario.
    pub scenario: String,
    /// One line: what happens in it.
    pub title: String,
    /// The scenario file before anything was varied.
    pub scenario_toml: String,
    /// The command line that repeats the sweep.
    pub command: String,
    /// What was asked, in words; empty if nothing was.
    pub slo: String,
    /// KMS's patience in the scenario as it is, in milliseconds.
    pub patience_ms: u64,
    /// The keys that were varied: none, one or two.
    pub axes: Vec<Axis>,
    /// The seeds of each point.
    pub seeds: Vec<u64>,
    /// Whether everything ran; false after Ctrl-C.
    pub complete: bool,
    /// Where the SLO stops to be met, along the first key, for each value of the second.
    pub cliffs: Vec<Cliff>,
    /// The grid, row by row: the first key runs along a row, the second from row to row.
    pub points: Vec<Point>,
    /// What bisection tried, in order.
    pub probes: Vec<Point>,
}

/// A key that was varied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Axis {
    /// As the scenario file has it.
    pub key: String,
    /// Its values, as they read.
    pub labels: Vec<String>,
    /// Its values, if all of them are numbers.
    pub numbers: Option<Vec<f64>>,
}

impl Axis {
    pub(super) fn of(vary: &Vary) -> Self {
        Self {
            key: vary.key.clone(),
            labels: vary.settings.iter().map(|setting| setting.label.clone()).collect(),
            numbers: vary.settings.iter().map(|setting| setting.number).collect(),
        }
    }
}

/// What is read of a `report.json` besides its figures.
#[derive(Deserialize)]
struct ReportHead {
    version: String,
    scenario: String,
    title: String,
    scenario_toml: String,
    command: String,
    interrupted_at_ms: Option<u64>,
    xks: ReportPatience,
}

#[derive(Deserialize)]
struct ReportPatience {
    patience_ms: u64,
}

impl Sweep {
    /// Indented JSON.
    #[expect(
        clippy::expect_used,
        reason = "a Sweep has string keys only and no hand-written Serialize that could fail"
    )]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a Sweep serialises")
    }

    /// Reads a `sweep.json`.
    ///
    /// # Errors
    /// When it is none, or one of a later format.
    pub fn of_json(text: &str) -> Result<Self, String> {
        let sweep: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if (sweep.format, sweep.kind.as_str()) == (1, "sweep") {
            Ok(sweep)
        } else {
            Err(format!("it has format {} of kind {:?}, and this version reads 1", sweep.format, sweep.kind))
        }
    }

    /// A single run, from its `report.json`: a sweep of one point with one seed.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_report(text: &str) -> Result<Self, String> {
        let head: ReportHead = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let figures = Figures::of_report(text)?;
        Ok(Self {
            format: 1,
            kind: "sweep".to_owned(),
            version: head.version,
            scenario: head.scenario,
            title: head.title,
            scenario_toml: head.scenario_toml,
            command: head.command,
            slo: String::new(),
            patience_ms: head.xks.patience_ms,
            axes: Vec::new(),
            seeds: vec![figures.seed],
            complete: head.interrupted_at_ms.is_none(),
            cliffs: Vec::new(),
            points: vec![Point::new(Vec::new(), vec![figures], &Slo::None)],
            probes: Vec::new(),
        })
    }

    /// One line a point, for a spreadsheet (RFC 4180): shares from 0 to 1, times in milliseconds. What bisection tried
    /// comes last.
    pub fn csv(&self) -> String {
        let keys = self.axes.iter().map(|axis| quoted(&axis.key) + ",").collect::<String>();
        let mut text = format!(
            "{keys}runs,failed_share,failed_share_low,failed_share_high,p99_ms,p99_ms_low,p99_ms_high,runs_that_met_the_slo\r\n"
        );
        for point in self.points.iter().chain(&self.probes) {
            for value in &point.values {
                text.push_str(&quoted(value));
                text.push(',');
            }
            let _ = write!(text, "{}", point.runs.len());
            for interval in [point.failures, point.p99_ms] {
                match interval {
                    Some(it) => {
                        let _ = write!(text, ",{},{},{}", it.estimate, it.low, it.high);
                    }
                    None => text.push_str(",,,"),
                }
            }
            let _ = write!(text, ",{}", point.met.map_or(String::new(), |met| met.to_string()));
            text.push_str("\r\n");
        }
        text
    }

    /// The page.
    pub fn html(&self) -> String {
        page::html(self)
    }

    /// The summary for a terminal.
    pub fn terminal(&self, style: Style) -> String {
        screen::terminal(self, style)
    }

    /// The points of each line, along the first key.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[Point]> {
        self.points.chunks(self.axes.first().map_or(1, |axis| axis.labels.len()).max(1))
    }

    /// What the cliffs say, a sentence each; the reason when there are none.
    pub(super) fn verdicts(&self) -> Vec<String> {
        match self.axes.first() {
            Some(axis) if !self.cliffs.is_empty() => {
                let second = self.axes.get(1).map(|axis| axis.key.as_str());
                let words = |cliff: &Cliff| match second {
                    Some(second) => format!("{second} = {}", cliff.in_words(&axis.key)),
                    None => cliff.in_words(&axis.key),
                };
                self.cliffs.iter().map(words).collect()
            }
            _ => Vec::new(),
        }
    }
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
