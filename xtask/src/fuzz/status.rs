//! What libFuzzer says of itself, line by line.

use std::path::PathBuf;

/// What is known of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// Inputs run.
    pub(super) executions: u64,
    /// Inputs run per second, over the whole run; known at its end.
    pub(super) executions_per_s: u64,
    /// Places of the code that some input has reached (libFuzzer's `cov`).
    pub(super) edges: u64,
    /// Places of the code that have a counter.
    pub(super) edges_max: u64,
    /// Where the inputs that broke the target are.
    pub(super) findings: Vec<PathBuf>,
    /// What the target said of them: everything but libFuzzer's own reports.
    pub(super) said: Vec<String>,
}

/// Lines kept in [`Status::said`].
const SAID_MAX: usize = 40;

impl Status {
    /// Takes in one line.
    pub(super) fn read(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix('#') {
            let mut words = rest.split_whitespace();
            self.executions = words.next().and_then(leading_number).unwrap_or(self.executions);
            words.find(|word| *word == "cov:");
            self.edges = words.next().and_then(leading_number).unwrap_or(self.edges).max(self.edges);
        } else if let Some((name, value)) = line.strip_prefix("stat::").and_then(|rest| rest.split_once(':'))
        {
            let value = value.trim().parse().unwrap_or_default();
            match name {
                "number_of_executed_units" => self.executions = value,
                "average_exec_per_sec" => self.executions_per_s = value,
                _ => {}
            }
        } else if let Some((_, file)) = line.split_once("Test unit written to ") {
            self.findings.push(PathBuf::from(file));
        } else if let Some(rest) = line.strip_prefix("INFO: Loaded 1 modules") {
            let number = rest.trim_start_matches(|letter: char| !letter.is_ascii_digit());
            self.edges_max = leading_number(number).unwrap_or(self.edges_max);
        } else if !line.starts_with("INFO:") && self.said.len() < SAID_MAX {
            self.said.push(line.to_owned());
        }
    }
}

fn leading_number(word: &str) -> Option<u64> {
    word.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_understood() {
        let mut status = Status::default();
        for line in [
            "INFO: Running with entropic power schedule (0xFF, 100).",
            "INFO: Loaded 1 modules   (5230 inline 8-bit counters): 5230 [0x1, 0x2),",
            "#2\tINITED cov: 100 ft: 101 corp: 1/1b exec/s: 0 rss: 40Mb",
            "#4096\tpulse  cov: 274 ft: 512 corp: 80/2Kb lim: 163 exec/s: 2048 rss: 41Mb",
            "thread '<unnamed>' panicked at fuzz/src/uri.rs:30:9:",
            "artifact_prefix='fuzz/findings/uri/'; Test unit written to fuzz/findings/uri/crash-00ff",
            "stat::number_of_executed_units: 5000",
            "stat::average_exec_per_sec:     2500",
            "stat::peak_rss_mb:              41",
        ] {
            status.read(line);
        }
        let expected = Status {
            executions: 5_000,
            executions_per_s: 2_500,
            edges: 274,
            edges_max: 5_230,
            findings: vec!["fuzz/findings/uri/crash-00ff".into()],
            said: vec!["thread '<unnamed>' panicked at fuzz/src/uri.rs:30:9:".into()],
        };
        assert_eq!(status, expected);
    }
}
