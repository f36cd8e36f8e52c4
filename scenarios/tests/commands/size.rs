//! `xks-sim size` as its user meets it: the smallest configuration, why less is too little, and one clear line for every
//! mistake.

use crate::program::{interrupted, xks_sim};
use serde_json::Value;
use std::path::Path;

fn sizing(directory: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(directory.join("out/size/size.json")).unwrap()).unwrap()
}

/// Each call takes 1.3 operations of 20 ms, and an HSM does two at once: 100 a second. So for 120 calls a second two HSMs must
/// be left, and with one down there must be three.
const LOAD: [&str; 14] = [
    "size",
    "--rate",
    "120",
    "--rtt-ms",
    "2",
    "--hsm-ms",
    "20",
    "--hsm-parallel",
    "2",
    "--seconds",
    "12",
    "--seeds",
    "1",
    "--slo=failures=1%",
];

#[test]
fn the_smallest_that_holds_is_found_with_what_less_would_do() {
    let directory = tempfile::tempdir().unwrap();
    let most = ["--hsms-max", "4", "--proxies-max", "2", "--sessions-max", "16"];
    let output = xks_sim(directory.path(), &[&LOAD[..], &most].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let found = sizing(directory.path());
    let smallest = &found["smallest"];
    assert!(smallest["hsms"].as_u64().unwrap() >= 3, "{text}");
    assert!(text.contains("Enough: ") && text.contains("% of requests fail"), "{text}");
    // Its neighbour with an HSM less was tried and is too small; the answer itself was tried and holds.
    let tries = found["tries"].as_array().unwrap();
    let fewer = |it: &&Value| it["configuration"]["hsms"].as_u64() < smallest["hsms"].as_u64();
    assert!(tries.iter().filter(fewer).all(|it| it["holds"] == false), "{text}");
    assert!(tries.iter().any(|it| it["configuration"] == *smallest && it["holds"] == true), "{text}");
    let page = std::fs::read_to_string(directory.path().join("out/size/size.html")).unwrap();
    assert!(page.trim_end().ends_with("</html>"));
    // The answer runs as it is.
    let output = xks_sim(directory.path(), &["run", "out/size/size.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Enough for what is left is too little for what is there: each HSM that may fail is one more.
#[test]
fn an_hsm_that_may_be_down_is_one_more() {
    let directory = tempfile::tempdir().unwrap();
    let hsms = |down: &str| {
        let most = ["--hsms-max", "4", "--proxies-max", "1", "--sessions-max", "4", "--down", down];
        let output = xks_sim(directory.path(), &[&LOAD[..], &most].concat());
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        sizing(directory.path())["smallest"]["hsms"].as_u64().unwrap()
    };
    assert_eq!(hsms("1"), hsms("0") + 1);
}

#[test]
fn what_is_too_little_at_its_most_is_said_to_be() {
    let directory = tempfile::tempdir().unwrap();
    let most = ["--hsms-max", "2", "--proxies-max", "1", "--sessions-max", "8"];
    let output = xks_sim(directory.path(), &[&LOAD[..], &most].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Not even 2 HSMs and 1 proxy, with 8 sessions for each HSM are enough"), "{text}");
    assert!(text.contains("with all of them "), "{text}");
}

#[test]
fn ctrl_c_leaves_what_was_tried() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = ["size", "steady", "--seconds", "300", "--seeds", "1", "--jobs", "1"];
    let output = interrupted(directory.path(), &arguments, Some("at most "));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(text.contains("Interrupted: the smallest is not known yet"), "{text}");
    assert_eq!(sizing(directory.path())["complete"], false);
}

#[test]
fn mistakes_are_told_in_one_line_before_anything_runs() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, told) in [
        (&["--rate", "2500"][..], "KMS turns away what goes beyond 1800 requests per second"),
        (&["--rate", "0"], "--rate 0: it is above 0"),
        (&["--rate", "10", "--rtt-ms", "20000"], "--rtt-ms: rtt_ms is between 0 and 10000, not 20000"),
        (&["--rate", "10", "--hsms-max", "1"], "none is left: give more with --hsms-max"),
        (&["--rate", "10", "--slo", "p99=3"], "did you mean `p99_ms`?"),
        (&["steadi"], "did you mean `steady`?"),
        (&["steady", "--rate", "10"], "cannot be used with"),
        (&[], "name a scenario, or give --rate, KMS calls per second"),
    ] {
        let output = xks_sim(directory.path(), &[&["size"], arguments].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(told), "{arguments:?}: {stderr}");
        assert!(!directory.path().join("out").exists(), "{arguments:?}");
    }
}
