//! What a run of hostile requests came to.
//!
//! Place on the map: made by [`run`](super::run); the command prints it as text or JSON.

use super::finding::Finding;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

/// Version of the JSON form.
const FORMAT: u32 = 1;

/// How long answers took, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "percentiles, named as such")]
pub struct LatencyUs {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

/// The figures and the findings of a run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Where the requests went.
    pub endpoint: String,
    /// The seed of every random choice.
    pub seed: u64,
    /// Hostile requests sent; the valid ones that look after the proxy's health not counted.
    pub requests: u64,
    /// How long it took.
    pub took: Duration,
    /// How often each answer came: `200`, an error name, or what came instead.
    pub answers: BTreeMap<String, u64>,
    /// Of the answers.
    pub latency_us: LatencyUs,
    /// Answers that were late once, and in time when the request was sent again.
    pub late_once: u64,
    /// Worst first.
    pub findings: Vec<Finding>,
    /// Why it ended before its time, if it did.
    pub ended_early: Option<String>,
}

impl Summary {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let rate = self.requests as f64 / self.took.as_secs_f64().max(0.001);
        let _ = writeln!(
            text,
            "{} hostile requests to {} in {:.1} s ({rate:.0}/s), seed {}",
            self.requests,
            self.endpoint,
            self.took.as_secs_f64(),
            self.seed
        );
        if let Some(why) = &self.ended_early {
            let _ = writeln!(text, "ended early: {why}");
        }
        let milliseconds = |us: u64| us as f64 / 1_000.0;
        let LatencyUs { p50, p90, p99, max } = self.latency_us;
        let _ = writeln!(
            text,
            "latency: p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms; late once: {}",
            milliseconds(p50),
            milliseconds(p90),
            milliseconds(p99),
            milliseconds(max),
            self.late_once
        );
        let _ = writeln!(text, "\n{:<34}{:>8}", "answer", "times");
        for (answer, times) in &self.answers {
            let _ = writeln!(text, "{answer:<34}{times:>8}");
        }
        if self.findings.is_empty() {
            text.push_str("\nno findings\n");
            return text;
        }
        let _ = writeln!(
            text,
            "\n{:<10}{:<29}{:<10}{:>6}  requirement",
            "severity", "finding", "target", "times"
        );
        for finding in &self.findings {
            let _ = writeln!(
                text,
                "{:<10}{:<29}{:<10}{:>6}  {}\n          {}: {}",
                finding.fault.kind.severity().name(),
                finding.fault.kind.name(),
                finding.case.target.name(),
                finding.count,
                finding.fault.requirement,
                finding.case.mutation,
                finding.fault.detail,
            );
        }
        text
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "kind": finding.fault.kind,
                    "severity": finding.fault.kind.severity(),
                    "target": finding.case.target,
                    "mutation": finding.case.mutation,
                    "requirement": finding.fault.requirement,
                    "detail": finding.fault.detail,
                    "count": finding.count,
                    "file": format!("{}.txt", finding.stem()),
                })
            })
            .collect();
        json!({
            "format": FORMAT,
            "endpoint": self.endpoint,
            "seed": self.seed,
            "requests": self.requests,
            "duration_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            "answers": self.answers,
            "latency_us": {
                "p50": self.latency_us.p50,
                "p90": self.latency_us.p90,
                "p99": self.latency_us.p99,
                "max": self.latency_us.max,
            },
            "late_once": self.late_once,
            "ended_early": self.ended_early,
            "findings": findings,
        })
    }
}
