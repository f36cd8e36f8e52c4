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
