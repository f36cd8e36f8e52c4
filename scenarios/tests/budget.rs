//! `xks-sim budget` as its user meets it: the parts of each percentile, the files it leaves, and the digest of a plain run.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

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

fn xks_sim(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xks-sim"));
    command.current_dir(directory).args(arguments).env("NO_COLOR", "1").output().unwrap()
}

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
fn mistakes_are_told_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let output = xks_sim(directory.path(), &["budget", "hsm-slwo"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(
        stderr.contains("did you mean `hsm-slow`?") && stderr.trim_end().lines().count() == 1,
        "{stderr}"
    );
}
