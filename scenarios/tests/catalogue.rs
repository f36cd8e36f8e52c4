//! Every scenario of the catalogue is as it should be, and a few are run here. `cargo xtask catalogue`, which CI calls,
//! runs all of them, optimised, and holds them to their pinned digests.

use scenarios::catalogue::{self, CATALOGUE};
use scenarios::result::RunResult;
use scenarios::run;
use scenarios::scenario::Scenario;
use scenarios::world::Options;
use std::collections::BTreeSet;

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn run_entry(name: &str, seed: u64) -> RunResult {
    let entry = catalogue::find(name).unwrap();
    let scenario = Scenario::parse(entry.name, entry.name, entry.text).unwrap();
    run::run(&scenario, &Options::new(seed), "", "").unwrap().result
}

fn assert_held(name: &str, seeds: &[u64]) {
    for seed in seeds {
        let result = run_entry(name, *seed);
        for check in result.invariants.iter().chain(&result.expectations) {
            assert!(check.held, "{name}, seed {seed}: {}: {:?}", check.text, check.violation);
        }
        for invariant in &result.invariants {
            assert!(
                invariant.checked > 0 || invariant.name == "status-matches-name",
                "{name}: {} never looked",
                invariant.name
            );
        }
    }
}

#[test]
fn hsm_outage() {
    assert_held("hsm-outage", &[2]);
}

#[test]
fn short_blip() {
    assert_held("short-blip", &[3]);
}

#[test]
fn every_entry_says_when_it_strikes_and_what_to_do() {
    let mut names = BTreeSet::new();
    for entry in CATALOGUE {
        let scenario = Scenario::parse(entry.name, entry.name, entry.text).unwrap();
        assert!(scenario.title.len() > 10 && scenario.about.len() > 60, "{}", entry.name);
        assert!(!scenario.expectations.is_empty(), "{} expects nothing", entry.name);
        assert!(names.insert(entry.name), "{} stands in the catalogue twice", entry.name);
    }
    assert!(names.len() >= 30, "{}", names.len());
}

#[test]
fn every_entry_has_a_pinned_digest_and_no_other_name_has() {
    let pinned: BTreeSet<&str> = include_str!("../catalogue/digests.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(' ').next())
        .collect();
    let names: BTreeSet<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
    assert_eq!(pinned, names);
}

/// Entries whose point is that neither users nor KMS notice.
const UNNOTICED: [&str; 7] = [
    "bursty-loss",
    "credential-rotation",
    "hsm-errors-failover",
    "hsm-failover",
    "out-of-order",
    "rolling-deploy",
    "steady",
];

/// A bound that a run without the fault would keep as well shows nothing: every other entry has one that it would not.
#[test]
fn every_entry_expects_what_its_fault_alone_brings_about() {
    for entry in CATALOGUE {
        let scenario = Scenario::parse(entry.name, entry.name, entry.text).unwrap();
        let shows = scenario.expectations.iter().any(|it| {
            let shares = [
                it.failures_during_faults_min,
                it.calls_failed_during_faults_min,
                it.failures_after_faults_min,
                it.amplification_min,
            ];
            shares.into_iter().flatten().any(|least| least > 0.0)
        });
        assert_eq!(shows, !UNNOTICED.contains(&entry.name), "{}", entry.name);
    }
}

#[test]
fn every_entry_tells_in_two_sentences_when_it_strikes_and_what_to_do() {
    for entry in CATALOGUE {
        let scenario = Scenario::parse(entry.name, entry.name, entry.text).unwrap();
        let about = scenario.about.trim();
        let ends = about
            .match_indices(['.', '!', '?'])
            .filter(|(at, _)| about[at + 1..].chars().next().is_none_or(char::is_whitespace));
        assert_eq!(ends.count(), 2, "{}: {about}", entry.name);
    }
}

/// What goes on after its cause has gone is only metastable if nothing of it is there without the cause. Once one of the three
/// broke down with its fault taken out as well.
#[test]
fn metastable_entries_are_well_without_their_fault() {
    for name in ["retry-storm", "handshake-storm", "cold-cache-stampede"] {
        let entry = catalogue::find(name).unwrap();
        let (well, _) = entry.text.split_once("[[fault]]").unwrap();
        let scenario = Scenario::parse(name, name, well).unwrap();
        for seed in [1, 2] {
            let service = &run::run(&scenario, &Options::new(seed), "", "").unwrap().result.services[0];
            assert!(
                service.requests > 10_000 && service.failures * 1_000 < service.requests,
                "{name}: {}",
                service.failures
            );
        }
    }
}
