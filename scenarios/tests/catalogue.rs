//! Every scenario of the catalogue keeps its promises: expectations and invariants hold, with several seeds.

use scenarios::catalogue::{self, CATALOGUE};
use scenarios::result::RunResult;
use scenarios::run;
use scenarios::scenario::Scenario;
use scenarios::world::Options;

#[expect(clippy::unwrap_used, reason = "a helper of tests")]
fn run_entry(name: &str, seed: u64) -> RunResult {
    let entry = catalogue::find(name).unwrap();
    let scenario = Scenario::parse(entry.name, entry.name, entry.text).unwrap();
    run::run(&scenario, &Options::new(seed), "", "").unwrap().result
}

fn assert_held(name: &str) {
    for seed in [1, 2] {
        let result = run_entry(name, seed);
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
    assert_held("hsm-outage");
}

#[test]
fn hsm_failover() {
    assert_held("hsm-failover");
}

#[test]
fn hsm_slow() {
    assert_held("hsm-slow");
}

#[test]
fn partition() {
    assert_held("partition");
}

#[test]
fn proxy_crash() {
    assert_held("proxy-crash");
}

#[test]
fn kill_switch() {
    assert_held("kill-switch");
}

#[test]
fn steady() {
    assert_held("steady");
}

#[test]
fn every_entry_says_when_it_strikes_and_what_to_do() {
    for entry in CATALOGUE {
        let scenario = Scenario::parse(entry.name, entry.name, entry.text).unwrap();
        assert!(scenario.title.len() > 10 && scenario.about.len() > 60, "{}", entry.name);
        assert!(!scenario.expectations.is_empty(), "{} expects nothing", entry.name);
    }
}
