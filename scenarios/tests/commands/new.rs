//! `xks-sim new` and `schema` as their user meets them: the file that is written, that it runs as it is, and one clear line
//! for every mistake.

use crate::program::xks_sim;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

#[test]
fn flags_write_a_scenario_that_runs_as_it_is_and_that_nothing_overwrites() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let new =
        ["new", "bank.toml", "--services", "s3=2,ebs", "--rtt-ms", "4", "--proxies", "3", "--hsms", "2"];
    let outage = ["--outage", "one-hsm-down", "--outage-s", "20"];
    let output = xks_sim(here, &[&new[..], &outage].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap().contains("xks-sim run bank.toml"));
    let text = std::fs::read_to_string(here.join("bank.toml")).unwrap();
    for line in ["rtt_ms = 4.0", "proxies = 3", "rate_per_s = 2.0", "to_s = 140", "target = [0]"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let output = xks_sim(here, &["run", "bank.toml"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    // And can be asked what fewer HSMs would do, though its proxies fail over between them.
    let less =
        ["compare", "bank.toml", "--set", "topology.hsms=1", "--set", "duration_s=150", "--seeds", "1"];
    let output = xks_sim(here, &less);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let output = xks_sim(here, &["new", "bank.toml"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr.contains("bank.toml is there already, and would be lost"), "{stderr}");
    assert_eq!(std::fs::read_to_string(here.join("bank.toml")).unwrap(), text);
    let output = xks_sim(here, &["new", "bank.toml", "--force", "--outage", "none"]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!std::fs::read_to_string(here.join("bank.toml")).unwrap().contains("[[fault]]"));
}

#[test]
fn answers_that_cannot_be_are_refused_with_what_could() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, told) in [
        (&["--services", "s4=3"][..], "did you mean `s3`?"),
        (&["--rtt-ms", "300"], "KMS waits 250 ms"),
        (&["--proxies", "0"], "a whole number from 1 to 16, not `0`"),
        (&["--outage", "hsm-dwn"], "did you mean `hsm-down`?"),
        (&["--outage", "zone-loss", "--proxies", "1"], "zone-loss needs 2 proxies and there is 1"),
    ] {
        let output = xks_sim(directory.path(), &[&["new"], arguments].concat());
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(told), "{arguments:?}: {stderr}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "{arguments:?}");
    }
}

/// `script` (util-linux) gives the program a terminal.
#[test]
fn on_a_terminal_it_asks() {
    let directory = tempfile::tempdir().unwrap();
    let command = format!("{} new asked.toml --proxies 1", env!("CARGO_BIN_EXE_xks-sim"));
    let mut asking = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // A wrong answer first; then each in its turn, an empty line for a proposal.
    asking.stdin.take().unwrap().write_all(b"s5\ns3=3\n7\n2\n\nhsm-hang\n30\n").unwrap();
    let output = asking.wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("did you mean `s3`?") && shown.contains("How many HSMs [2]"), "{shown}");
    let text = std::fs::read_to_string(directory.path().join("asked.toml")).unwrap_or_else(|_| shown.clone());
    for line in ["rtt_ms = 7.0", "proxies = 1", "kind = \"hsm-hang\"", "to_s = 150"] {
        assert!(text.contains(line), "{line}: {text}\n{shown}");
    }
}

#[test]
fn the_schema_is_printed_for_editors_and_the_repository_uses_it() {
    let directory = tempfile::tempdir().unwrap();
    let output = xks_sim(directory.path(), &["schema"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stdout == include_bytes!("../../scenario.schema.json"));
    // What taplo reads: each rule's files and schema are there.
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let settings: toml::Table = std::fs::read_to_string(root.join(".taplo.toml")).unwrap().parse().unwrap();
    let rules = settings["rule"].as_array().unwrap();
    for rule in rules {
        assert!(root.join(rule["schema"]["path"].as_str().unwrap()).is_file(), "{rule}");
        let (folder, pattern) = rule["include"][0].as_str().unwrap().rsplit_once('/').unwrap();
        assert!(root.join(folder).is_dir() && pattern == "*.toml", "{rule}");
    }
    assert_eq!(rules.len(), 1);
}
