//! The runs of one combination of values, and what they say together.

use super::figures::Figures;
use super::slo::Slo;
use crate::statistics::interval::{Interval, mean_of_runs, share_of_runs};
use serde::{Deserialize, Serialize};

/// One point of a sweep.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The value of each key, as it reads.
    pub values: Vec<String>,
    /// Share of requests that fail, 0 to 1, with its interval; `None` without a run.
    pub failures: Option<Interval>,
    /// 99th percentile of proxy calls in milliseconds: the mean over the runs, with its interval.
    pub p99_ms: Option<Interval>,
    /// How many runs met the SLO; `None` when nothing is asked.
    pub met: Option<u64>,
    /// Its runs, by seed; fewer than asked for in a sweep that was interrupted.
    pub runs: Vec<Figures>,
}

impl Point {
    /// Of these runs.
    pub fn new(values: Vec<String>, runs: Vec<Figures>, slo: &Slo) -> Self {
        let shares: Vec<(u64, u64)> = runs.iter().map(|run| (run.failures, run.requests)).collect();
        let p99s: Vec<f64> = runs.iter().map(|run| run.p99_ms).collect();
        let p99_ms = mean_of_runs(&p99s).map(|it| Interval { low: it.low.max(0.0), ..it });
        let met = runs.iter().map(|run| slo.is_met(run).map(u64::from)).sum();
        let met = if *slo == Slo::None { None } else { met };
        Self { values, failures: share_of_runs(&shares), p99_ms, met, runs }
    }

    /// Whether every run met the SLO; `None` without a run, or when nothing is asked.
    pub fn is_met(&self) -> Option<bool> {
        if self.runs.is_empty() { None } else { self.met.map(|met| met == self.runs.len() as u64) }
    }

    /// Mean of a figure over the runs; `None` without one.
    pub fn mean(&self, figure: impl Fn(&Figures) -> f64) -> Option<f64> {
        let values: Vec<f64> = self.runs.iter().map(figure).collect();
        mean_of_runs(&values).map(|interval| interval.estimate)
    }
}
