//! `xks-sim sweep` as its user meets it: the limit it finds, the files it leaves, and one clear line for every mistake.

use crate::program::{interrupted, write, xks_sim};
use std::path::Path;
use std::process::Output;

const SLOW_HSM: &str = "title = \"A slow HSM\"
duration_s = 20
[[service]]
kind = \"s3\"
rate_per_s = 20
[[fault]]
kind = \"hsm-slow\"
factor = 10.0
from_s = 2
to_s = 18
";

fn sweep(directory: &Path, options: &[&str]) -> Output {
    write(directory, "slow.toml", SLOW_HSM);
    xks_sim(directory, &[&["sweep", "slow.toml"], options].concat())
}

#[test]
fn a_sweep_finds_the_limit_and_leaves_the_same_files_however_many_run_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut left = Vec::new();
    for jobs in ["1", "3"] {
        let out = directory.path().join(jobs);
        let options = [
            "--vary",
            "fault.0.factor=2..40:3",
            "--seeds",
            "2",
            "--slo",
            "p99_ms=150",
            "--find",
            "--jobs",
            jobs,
        ];
        let output = sweep(directory.path(), &[&options[..], &["--out", out.to_str().unwrap()]].concat());
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
        let limit =
            text.lines().find_map(|line| line.trim().strip_prefix("the SLO is met up to fault.0.factor = "));
        let numbers: Vec<f64> = limit
            .unwrap_or_else(|| panic!("{text}"))
            .split("; it is missed at ")
            .map(|it| it.parse().unwrap())
            .collect();
        let [met, missed] = numbers[..] else { panic!("{text}") };
        // Whole numbers stay whole: two of them, side by side; ten times is fine, and forty times is not.
        assert!(10.0 < met && met + 1.0 == missed && missed < 40.0, "{text}");
        let page = std::fs::read_to_string(out.join("sweep.html")).unwrap();
        assert!(page.trim_end().ends_with("</html>") && page.contains("fault.0.factor"));
        left.push(["sweep.json", "sweep.csv"].map(|name| std::fs::read_to_string(out.join(name)).unwrap()));
    }
    assert!(left[0] == left[1], "{left:?}");
}

#[test]
fn two_settings_make_a_map() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let options =
        ["--vary", "fault.0.factor=2..60:2", "--vary", "service.s3.rate_per_s=5,20", "--seeds", "1"];
    let output = sweep(
        directory.path(),
        &[&options[..], &["--slo", "failures=1%", "--out", out.to_str().unwrap()]].concat(),
    );
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let csv = std::fs::read_to_string(out.join("sweep.csv")).unwrap();
    // A heading and four points.
    assert_eq!(csv.lines().count(), 5, "{csv}");
}

#[test]
fn mistakes_are_told_in_one_line_before_anything_runs() {
    let directory = tempfile::tempdir().unwrap();
    for (vary, told) in [
        ("fault.0.facto=1,2", "did you mean `factor`?"),
        ("fault.9.factor=1,2", "there is no fault 9: they are numbered 0 to 0"),
        ("nonsense.x=1,2", "no part of a scenario is called `nonsense`"),
        ("link.rtt_ms=5..120:0", "STEPS is a whole number from 2 to 100"),
        ("link.rtt_ms", "there is no `=`"),
    ] {
        let out = directory.path().join("out");
        let output = sweep(directory.path(), &["--vary", vary, "--out", out.to_str().unwrap()]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{vary}: {stderr}");
        assert_eq!(stderr.trim_end().lines().count(), 1, "{vary}: {stderr}");
        assert!(stderr.contains(told), "{vary}: {stderr}");
        assert!(!out.join("sweep.json").exists(), "{vary}");
    }
}

#[test]
fn ctrl_c_leaves_what_has_run() {
    let directory = tempfile::tempdir().unwrap();
    let (file, out) = (directory.path().join("long.toml"), directory.path().join("out"));
    // Far longer than this test has patience.
    std::fs::write(&file, SLOW_HSM.replace("duration_s = 20", "duration_s = 600")).unwrap();
    let vary = ["--vary", "link.rtt_ms=5..30:100", "--seeds", "3", "--jobs", "1", "--out", "out"];
    // Said after the first run.
    let announced = Some("300 runs, 1 at a time: about ");
    let output =
        interrupted(directory.path(), &[&["sweep", file.to_str().unwrap()], &vary[..]].concat(), announced);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    // A single run has no interval; it was shown as one of no width.
    assert!(!text.contains('['), "{text}");
    let json = std::fs::read_to_string(out.join("sweep.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["complete"], false, "{text}");
    assert!(std::fs::read_to_string(out.join("sweep.html")).unwrap().trim_end().ends_with("</html>"));
    let csv = std::fs::read_to_string(out.join("sweep.csv")).unwrap();
    let runs = |line: &str| line.split(',').nth(1).unwrap().parse::<u64>().unwrap();
    let ran: u64 = csv.lines().skip(1).map(runs).sum();
    assert!((1..300).contains(&ran), "{csv}");
}
