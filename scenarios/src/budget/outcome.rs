//! The budget of a run.

use super::{page, screen};
use crate::report::Style;
use crate::result::RunResult;
use crate::scenario::Scenario;
use crate::stages::{Call, StageBook};
use serde::{Deserialize, Serialize};

/// The parts of a call in order: for programs, and for people.
pub const PARTS: [(&str, &str); 7] = [
    ("connect", "new connection (TCP)"),
    ("tls", "TLS handshake"),
    ("network", "network, there and back"),
    ("processor", "proxy: waiting for and having a processor"),
    ("proxy", "proxy: signature, parsing, authorisation"),
    ("hsm", "HSM, its queue and the way to it"),
    ("unanswered", "waiting in vain for an answer"),
];

/// The levels: name, percentile, and the ranks below and above it that count as near.
const LEVELS: [(&str, f64, f64); 3] = [("p50", 0.5, 0.01), ("p99", 0.99, 0.002_5), ("p99.9", 0.999, 0.000_5)];

/// Where the time of a run's proxy calls went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Version of this structure, for readers of `budget.json`.
    pub format: u32,
    /// `budget`.
    pub kind: String,
    /// Version of the harness.
    pub version: String,
    /// Name of the scenario.
    pub scenario: String,
    /// One line: what happens.
    pub title: String,
    /// The seed.
    pub seed: u64,
    /// SHA-256 of the run's events.
    pub digest: String,
    /// The command line that repeats it.
    pub command: String,
    /// When somebody ended the run early.
    pub interrupted_at_ms: Option<u64>,
    /// KMS's patience.
    pub patience_ms: f64,
    /// The calls outside every fault, and those that began during one, as far as there are any.
    pub groups: Vec<Group>,
    /// Calls beyond those that were kept.
    pub not_kept: u64,
}

/// Calls looked at together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// In words: `outside faults`.
    pub name: String,
    /// How many.
    pub calls: usize,
    /// The median and the high percentiles.
    pub levels: Vec<Level>,
}

/// The calls near one percentile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// `p99.9`.
    pub name: String,
    /// How many calls are near it: their mean is shown.
    pub calls: usize,
    /// Mean total.
    pub total_ms: f64,
    /// Mean of each of [`PARTS`]; together they are the total.
    pub parts_ms: Vec<f64>,
    /// What is left of the patience; below zero for a call that was given a second one.
    pub left_ms: f64,
}

impl Budget {
    /// Of a finished run and what was noted beside it.
    pub fn of(scenario: &Scenario, result: &RunResult, book: &StageBook) -> Self {
        let (calls, not_kept) = book.take();
        let patience_ms = scenario.kms.patience().as_secs_f64() * 1_000.0;
        let (during, outside): (Vec<Call>, Vec<Call>) =
            calls.into_iter().partition(|call| scenario.in_fault(call.at));
        let outside_name = if scenario.faults.is_empty() { "all calls" } else { "outside faults" };
        let groups = [(outside_name, outside), ("during faults", during)];
        Self {
            format: 1,
            kind: "budget".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            scenario: scenario.name.clone(),
            title: scenario.title.clone(),
            seed: result.seed,
            digest: result.digest.clone(),
            command: result.command.clone(),
            interrupted_at_ms: result.interrupted_at_ms,
            patience_ms,
            groups: groups
                .into_iter()
                .filter(|(_, calls)| !calls.is_empty())
                .map(|(name, calls)| group(name, calls, patience_ms))
                .collect(),
            not_kept,
        }
    }

    /// Indented JSON.
    #[expect(
        clippy::expect_used,
        reason = "a Budget has string keys only and no hand-written Serialize that could fail"
    )]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a Budget serialises")
    }

    /// The page.
    pub fn html(&self) -> String {
        page::html(self)
    }

    /// The summary for a terminal.
    pub fn terminal(&self, style: Style) -> String {
        screen::terminal(self, style)
    }

    /// The one thing to take home: what is left at the highest level, and what takes the most there.
    pub(super) fn headline(&self) -> String {
        let Some((group, level)) = self.groups.first().and_then(|group| Some((group, group.levels.last()?)))
        else {
            return "No call of the proxy was made.".to_owned();
        };
        let most = PARTS.iter().zip(&level.parts_ms).max_by(|left, right| left.1.total_cmp(right.1));
        let most = most
            .map_or_else(String::new, |((_, words), ms)| format!("; the most, {ms:.1} ms, goes to: {words}"));
        let left = if level.left_ms > 0.0 {
            format!("{:.0} ms of KMS's {:.0} are left", level.left_ms, self.patience_ms)
        } else {
            format!("nothing of KMS's {:.0} ms is left", self.patience_ms)
        };
        format!("{left} at {} ({}){most}", level.name, group.name)
    }
}

/// What a reader must know of the bars.
pub(super) const HOW: &str = "Each line is the mean of the calls whose total is near that percentile, so that the parts add \
                              up to the total; percentiles of the parts would not.";

fn group(name: &str, mut calls: Vec<Call>, patience_ms: f64) -> Group {
    calls.sort_by_key(|call| call.took);
    let count = calls.len();
    let levels = LEVELS
        .iter()
        .map(|(level, percentile, near)| {
            let rank = |share: f64| {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
                let rank = (share.clamp(0.0, 1.0) * count as f64).floor() as usize;
                rank
            };
            let from = rank(percentile - near).min(count - 1);
            let to = rank(percentile + near).clamp(from + 1, count);
            let window = calls.get(from..to).unwrap_or_default();
            let mean =
                |of: &dyn Fn(&Call) -> f64| window.iter().map(of).sum::<f64>() / window.len().max(1) as f64;
            let total_ms = mean(&|call| call.took.as_secs_f64() * 1_000.0);
            let parts_ms = (0..PARTS.len()).map(|part| {
                mean(&|call| call.parts.all().get(part).map_or(0.0, |it| it.as_secs_f64() * 1_000.0))
            });
            Level {
                name: (*level).to_owned(),
                calls: window.len(),
                total_ms,
                parts_ms: parts_ms.collect(),
                left_ms: patience_ms - total_ms,
            }
        })
        .collect();
    Group { name: name.to_owned(), calls: count, levels }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Options;
    use std::sync::Arc;

    fn ran(text: &str) -> (RunResult, Scenario, Arc<StageBook>) {
        let scenario = Scenario::parse("x", "x.toml", text).unwrap();
        let mut options = Options::new(3);
        let book = Arc::new(StageBook::default());
        options.stages = Some(Arc::clone(&book));
        let ran = crate::run::run(&scenario, &options, "", "emulated HSM").unwrap();
        (ran.result, scenario, book)
    }

    const WORLD: &str = "title = \"x\"\nduration_s = 20\n[link]\nrtt_ms = 30\n[hsm]\nservice_ms = 20\nservice_sigma = 0\n\
                         [proxy]\ncpu_request_us = 1000\ncpu_handshake_us = 7000\n[[service]]\nkind = \"s3\"\nrate_per_s = 20\nwrite_share = 0\n";

    #[test]
    fn parts_add_up_and_are_what_the_scenario_says() {
        let (result, scenario, book) = ran(WORLD);
        let budget = Budget::of(&scenario, &result, &book);
        let [group] = budget.groups.as_slice() else { panic!("{budget:?}") };
        assert_eq!(group.calls as u64, result.xks.calls);
        for level in &group.levels {
            let sum: f64 = level.parts_ms.iter().sum();
            assert!((sum - level.total_ms).abs() < 1e-6, "{level:?}");
        }
        let parts = |level: usize| {
            let named = |name: &str| {
                let at = PARTS.iter().position(|(part, _)| *part == name).unwrap();
                group.levels[level].parts_ms[at]
            };
            [named("connect"), named("tls"), named("network"), named("processor"), named("hsm")]
        };
        // A kept connection: the round trip, a millisecond of processor, one operation of the HSM.
        let [connect, tls, network, processor, hsm] = parts(0);
        assert!(connect == 0.0 && tls == 0.0, "{:?}", group.levels);
        assert!((29.0..34.0).contains(&network) && (19.9..22.0).contains(&hsm), "{:?}", group.levels);
        assert!((0.99..1.5).contains(&processor), "{:?}", group.levels);
        // A new one: a round trip for TCP, and one and the handshake's work for TLS.
        let [connect, tls, ..] = parts(2);
        assert!((29.0..40.0).contains(&connect) && (36.0..50.0).contains(&tls), "{:?}", group.levels);
    }

    #[test]
    fn looking_changes_no_event_and_a_fault_shows_where_it_is() {
        let text = format!("{WORLD}[[fault]]\nkind = \"hsm-hang\"\nfrom_s = 5\nto_s = 15\n");
        let (result, scenario, book) = ran(&text);
        let plain = crate::run::run(&scenario, &Options::new(3), "", "emulated HSM").unwrap();
        assert_eq!(plain.result.digest, result.digest);
        let budget = Budget::of(&scenario, &result, &book);
        let during = budget.groups.iter().find(|group| group.name == "during faults").unwrap();
        let hsm = PARTS.iter().position(|(part, _)| *part == "hsm").unwrap();
        // The proxy waits for the HSM until its deadline of 150 ms and answers then.
        assert!((140.0..155.0).contains(&during.levels[0].parts_ms[hsm]), "{during:?}");
    }

    #[test]
    fn what_nobody_answers_is_a_part_of_its_own() {
        let text = format!("{WORLD}[[fault]]\nkind = \"partition\"\nfrom_s = 5\nto_s = 15\n");
        let (result, scenario, book) = ran(&text);
        let budget = Budget::of(&scenario, &result, &book);
        let during = budget.groups.iter().find(|group| group.name == "during faults").unwrap();
        let top = during.levels.last().unwrap();
        assert!(top.left_ms <= 0.0, "{top:?}");
        assert!(top.parts_ms[0] + top.parts_ms[6] > 240.0, "{top:?}");
    }
}
