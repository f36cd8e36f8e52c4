//! `xks-sim budget` as its user meets it: the parts of each percentile, the files it leaves, and the digest of a plain run.

use crate::program::{interrupted, mistake, xks_sim};
use serde_json::Value;

const SLOW_HSM: &str = "title = \"A slow HSM\"
duration_s = 12
[[service]]
kind = \"s3\"
rate_per_s = 20
[[fault]]
kind = \"hsm-slow\"
factor = 15.0
from_s = 4
to_s = 10
";

#[test]
fn a_budget_says_what_takes_the_time_and_what_is_left() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("slow.toml"), SLOW_HSM).unwrap();
    let output = xks_sim(directory.path(), &["budget", "slow.toml", "--seed", "4"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for part in ["outside faults: ", "during faults: ", "p99.9", " ms left", "HHHH", "H  HSM, its queue"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let out = directory.path().join("out/slow-budget");
    let page = std::fs::read_to_string(out.join("budget.html")).unwrap();
    assert!(page.trim_end().ends_with("</html>"));
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("budget.json")).unwrap()).unwrap();
    let level = |group: usize| json["groups"][group]["levels"][0].clone();
    // The sixth part is the HSM's, and the fault is its alone; the network (the third) is as it was.
    let part = |group: usize, part: usize| level(group)["parts_ms"][part].as_f64().unwrap();
    assert!(part(1, 5) > 5.0 * part(0, 5), "{text}");
    assert!((part(1, 2) - part(0, 2)).abs() < 3.0, "{text}");
    for group in [0, 1] {
        let sum: f64 =
            level(group)["parts_ms"].as_array().unwrap().iter().map(|ms| ms.as_f64().unwrap()).sum();
        assert!((sum - level(group)["total_ms"].as_f64().unwrap()).abs() < 1e-6, "{text}");
    }
    // A plain run of the same seed is the same run.
    let output = xks_sim(directory.path(), &["run", "slow.toml", "--seed", "4"]);
    let ran = String::from_utf8(output.stdout).unwrap();
    assert!(ran.contains(json["digest"].as_str().unwrap()), "{ran}");
}

#[test]
fn ctrl_c_leaves_the_budget_of_what_has_run() {
    let directory = tempfile::tempdir().unwrap();
    // Far longer than this test has patience.
    let text = SLOW_HSM
        .replace("duration_s = 12", "duration_s = 500000")
        .replace("rate_per_s = 20", "rate_per_s = 1");
    std::fs::write(directory.path().join("long.toml"), text).unwrap();
    let output = interrupted(directory.path(), &["budget", "long.toml"], None);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("interrupted at "), "{text}");
    let out = directory.path().join("out/long-budget");
    let json: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("budget.json")).unwrap()).unwrap();
    let at_ms = json["interrupted_at_ms"].as_u64().unwrap();
    assert!(at_ms > 0 && at_ms < 500_000_000, "{at_ms}");
    assert!(std::fs::read_to_string(out.join("budget.html")).unwrap().trim_end().ends_with("</html>"));
}

#[test]
fn mistakes_are_told_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let line = mistake(directory.path(), &["budget", "hsm-slwo"]);
    assert!(line.contains("did you mean `hsm-slow`?"), "{line}");
}
