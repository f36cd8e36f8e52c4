//! `xks-sim compare` as its user meets it: which differences it calls beyond chance, the files it leaves, and one clear line
//! for every mistake.

use crate::program::{interrupted, write, xks_sim};
use serde_json::Value;
use std::path::Path;

const SLOW_HSM: &str = "title = \"A slow HSM\"
duration_s = 12
[[service]]
kind = \"s3\"
rate_per_s = 20
[[fault]]
kind = \"hsm-slow\"
factor = 10.0
from_s = 2
to_s = 10
";

/// What a comparison prints and leaves.
fn compare(directory: &Path, arguments: &[&str]) -> (String, Value) {
    let output = xks_sim(directory, &[&["compare"], arguments].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(directory.join("out/compare/compare.html")).unwrap();
    assert!(page.trim_end().ends_with("</html>"));
    let json = std::fs::read_to_string(directory.join("out/compare/compare.json")).unwrap();
    (text, serde_json::from_str(&json).unwrap())
}

fn verdict<'a>(json: &'a Value, point: usize, name: &str) -> &'a str {
    let rows = json["points"][point]["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{name}: {json}"));
    row["verdict"].as_str().unwrap()
}

#[test]
fn a_setting_that_matters_is_told_from_one_that_does_not() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "slow.toml", SLOW_HSM);
    let (text, json) =
        compare(directory.path(), &["slow.toml", "--set", "fault.hsm-slow.factor=60", "--seeds", "3"]);
    for name in ["failed_share", "xks_failed_share", "p99_ms", "s3.failed_share"] {
        assert_eq!(verdict(&json, 0, name), "worse", "{name}: {text}");
    }
    assert_eq!(json["changes"][0]["key"], "fault.0.factor", "{text}");
    assert_eq!(json["points"][0]["method"], "paired");
    assert!(text.contains("fault.0.factor: 10 in A, 60 in B"), "{text}");
    assert!(text.contains("B is worse: requests that failed"), "{text}");
    // Another name and another certificate change no event.
    write(directory.path(), "other.toml", &SLOW_HSM.replace("A slow HSM", "The same"));
    let (text, json) = compare(
        directory.path(),
        &["slow.toml", "other.toml", "--set", "proxy.certificate_days=80", "--seeds", "2"],
    );
    assert!(text.contains("Both sides are the same, event for event."), "{text}");
    assert_eq!(verdict(&json, 0, "p99_ms"), "same");
}

#[test]
fn bucket_keys_save_calls_and_the_services_of_one_side_are_named() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "without.toml", SLOW_HSM);
    write(directory.path(), "with.toml", &SLOW_HSM.replace("\"s3\"", "\"s3-bucket-keys\""));
    let (text, json) = compare(directory.path(), &["without.toml", "with.toml", "--seeds", "3"]);
    assert_eq!(verdict(&json, 0, "kms_calls"), "less", "{text}");
    assert!(text.contains("left out: service s3: only A has it"), "{text}");
    assert!(text.contains("left out: service s3-bucket-keys: only B has it"), "{text}");
}

#[test]
fn saved_sweeps_and_runs_are_compared_without_running_anything() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write(here, "slow.toml", SLOW_HSM);
    write(here, "quicker.toml", &SLOW_HSM.replace("10.0", "2.0"));
    let ran = |arguments: &[&str]| {
        let output = xks_sim(here, arguments);
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    };
    for (name, seed, out) in [("slow", "1", "a"), ("quicker", "1", "b"), ("slow", "8", "c")] {
        let file = format!("{name}.toml");
        let vary = ["--vary", "link.rtt_ms=5,40", "--seeds", "5", "--seed", seed, "--out", out];
        ran(&[&["sweep", &file], &vary[..]].concat());
    }
    let (text, json) = compare(here, &["a/sweep.json", "b/sweep.json"]);
    assert_eq!(json["points"].as_array().unwrap().len(), 2, "{text}");
    assert_eq!(verdict(&json, 0, "p99_ms"), "better", "{text}");
    // Opening the first connections takes the longest there, whatever the HSM does.
    assert_eq!(verdict(&json, 1, "p99_ms"), "within-chance", "{text}");
    assert!(text.contains("B is better in "), "{text}");
    // The same world with other seeds: two samples, and nothing to tell them apart.
    let (text, json) = compare(here, &["a/sweep.json", "c/sweep.json"]);
    assert_eq!(json["points"][0]["method"], "welch");
    assert!(text.contains("No difference is beyond chance.") && text.contains("Welch"), "{text}");
    // A run beside a scenario, which takes over the run's seed.
    ran(&["run", "slow.toml", "--seed", "5", "--out", "run"]);
    let (text, json) = compare(here, &["run/report.json", "slow.toml"]);
    assert_eq!(json["b"]["seeds"], serde_json::json!([5]));
    assert_eq!(json["points"][0]["same_events"], true, "{text}");
}

/// Far longer than these tests have patience.
fn long() -> String {
    SLOW_HSM.replace("duration_s = 12", "duration_s = 600")
}

#[test]
fn ctrl_c_compares_what_has_run_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write(here, "slow.toml", SLOW_HSM);
    let output = xks_sim(here, &["run", "slow.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    write(here, "long.toml", &long());
    let saved = "out/slow/report.json";
    let arguments = ["compare", saved, "long.toml", "--seeds", "100", "--jobs", "1"];
    let output = interrupted(here, &arguments, Some("100 runs, 1 at a time: about "));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("interrupted: what is here is whole, what is missing is left out"), "{text}");
    let page = std::fs::read_to_string(here.join("out/compare/compare.html")).unwrap();
    assert!(page.contains("Interrupted") && page.trim_end().ends_with("</html>"));
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(here.join("out/compare/compare.json")).unwrap())
            .unwrap();
    assert_eq!((&json["a"]["complete"], &json["b"]["complete"]), (&true.into(), &false.into()), "{text}");
    assert!((1..100).contains(&json["b"]["runs"].as_u64().unwrap()), "{text}");
}

/// It was told as a mistake of the user, that the sides have nothing in common.
#[test]
fn ctrl_c_before_both_sides_have_run_leaves_nothing_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "long.toml", &long());
    let arguments = ["compare", "long.toml", "--set", "topology.hsms=1", "--seeds", "100", "--jobs", "1"];
    let output = interrupted(directory.path(), &arguments, Some("200 runs, 1 at a time: about "));
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("interrupted before both sides had a run"), "{said}");
    assert!(!directory.path().join("out/compare/compare.html").exists());
}

#[test]
fn mistakes_are_told_in_one_line_before_anything_runs() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write(here, "slow.toml", SLOW_HSM);
    write(here, "other.json", "{}");
    write(here, "empty.json", "");
    for (arguments, told) in [
        (&["slow.toml"][..], "there is one side only"),
        (&["slow.toml", "slow.toml"], "both sides are slow.toml as it is"),
        (&["slow.toml", "hsm-slwo"], "did you mean `hsm-slow`?"),
        (&["slow.toml", "--set", "topology.hsms"], "there is no `=`; write KEY=VALUE"),
        (&["slow.toml", "--set", "topology.hsms="], "the value is missing; write KEY=VALUE"),
        (&["slow.toml", "--set", "topology.hsms=1,2"], "it takes one value"),
        (&["slow.toml", "--set", "topology.hsm=1"], "--set topology.hsm=1: unknown key `hsm`"),
        (&["slow.toml", "--set", "kms.x=1"], "--set kms.x=1: unknown key `x`"),
        (&["slow.toml", "other.json"], "other.json is neither a sweep.json nor a report.json"),
        (&["slow.toml", "empty.json"], "empty.json is neither a sweep.json nor a report.json"),
        (&["slow.toml", "none.json"], "cannot read none.json"),
        (&["slow.toml", "other.json", "--set", "topology.hsms=1"], "other.json has run"),
        (&["slow.toml", "hsm-slow", "--seeds", "0"], "--seeds is a whole number from 1"),
    ] {
        let output = xks_sim(here, &[&["compare"], arguments].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(told), "{arguments:?}: {stderr}");
        assert!(!here.join("out").exists(), "{arguments:?}");
    }
}
