//! What `xks-sim run` keeps beside its report, as its user meets it: a run that can be replayed, its events; and that
//! keeping changes nothing.

use crate::program::{self, write};
use scenarios::replay::SavedRun;
use scenarios::request::RequestLabel;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

/// Twenty seconds with a fault, two services and a lossy line.
const SHORT: &str = "title = \"Twenty seconds\"\nduration_s = 20\n[link]\nloss = 0.02\n\
    [[service]]\nkind = \"s3\"\nrate_per_s = 20\n[[service]]\nkind = \"s3-bucket-keys\"\nrate_per_s = 20\n\
    [[fault]]\nkind = \"hsm-down\"\nfrom_s = 8\nto_s = 11\n";

fn xks_sim(directory: &Path, arguments: &[&str]) -> Output {
    write(directory, "short.toml", SHORT);
    program::xks_sim(directory, arguments)
}

/// Standard output of a command that ends with this code.
fn ends(directory: &Path, arguments: &[&str], code: i32) -> String {
    let output = xks_sim(directory, arguments);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {out}{err}");
    out
}

fn mistake(directory: &Path, arguments: &[&str]) -> String {
    write(directory, "short.toml", SHORT);
    program::mistake(directory, arguments)
}

fn digest(summary: &str) -> String {
    summary.lines().last().unwrap().strip_prefix("digest: ").unwrap().to_owned()
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_saved_run_replays_the_same_without_the_scenario_it_came_from() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let saved = digest(&ends(at, &["run", "short.toml", "--seed", "7", "--save", "run.json"], 0));
    assert_eq!(saved, digest(&ends(at, &["run", "short.toml", "--seed", "7"], 0)));
    let text = std::fs::read_to_string(at.join("run.json")).unwrap();
    assert!(text.len() < 1_500_000, "{}", text.len());
    // A run of another seed that is told to be this one parts from it, and the last event that both share is shown.
    let mut other: SavedRun = serde_json::from_str(&text).unwrap();
    (other.seed, other.checksum) = (8, String::new());
    let digest = Sha256::digest(serde_json::to_string(&other).unwrap());
    other.checksum = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(at.join("other.json"), other.text()).unwrap();
    let said = ends(at, &["replay", "other.json"], 1);
    let shown = ["not the same: the two runs differ at event ", "  saved run:   ", "  this replay: ", &saved];
    assert!(shown.iter().all(|part| said.contains(part)), "{said}");
    // The file has all of it: the scenario's own is not needed.
    std::fs::remove_file(at.join("short.toml")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_xks-sim"))
        .args(["replay", "run.json"])
        .current_dir(at)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.starts_with(&format!("the same, digest {saved} (")), "{said}");
}

#[test]
fn a_file_of_another_version_or_a_damaged_one_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    ends(at, &["run", "short.toml", "--save", "run.json"], 0);
    let text = std::fs::read_to_string(at.join("run.json")).unwrap();
    let own = env!("CARGO_PKG_VERSION");
    let other = text.replace(&format!("\"version\": \"{own}\""), "\"version\": \"0.0.9\"");
    std::fs::write(at.join("other.json"), &other).unwrap();
    let said = mistake(at, &["replay", "other.json"]);
    assert!(said.contains("saved by xks-sim 0.0.9, and this is") && said.contains("--any-version"), "{said}");
    for (what, broken) in [
        ("half of it", text[..text.len() / 2].to_owned()),
        ("nothing", String::new()),
        ("other JSON", "{}".to_owned()),
        ("another seed", text.replace("\"seed\": 1,", "\"seed\": 2,")),
        ("one more key", text.replace("\"seed\": 1,", "\"seed\": 1, \"seeds\": 2,")),
    ] {
        assert_ne!(broken, text, "{what}");
        std::fs::write(at.join("broken.json"), broken).unwrap();
        let said = mistake(at, &["replay", "broken.json"]);
        assert!(said.contains("broken.json is damaged"), "{what}: {said}");
    }
    let format = text.replace("\"format\": 1,", "\"format\": 2,");
    std::fs::write(at.join("format.json"), format).unwrap();
    assert!(mistake(at, &["replay", "format.json"]).contains("format 2"));
    assert!(mistake(at, &["replay", "absent.json"]).contains("cannot read the saved run absent.json"));
    let said = mistake(at, &["run", "short.toml", "--hsm", "pkcs11:/nowhere.so", "--save", "run.json"]);
    assert!(said.contains("leave out --hsm"), "{said}");
}

#[test]
fn a_trace_has_every_event_with_what_belongs_together_and_filters_leave_the_rest_out() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    let plain = digest(&ends(at, &["run", "short.toml"], 0));
    let summary = ends(at, &["run", "short.toml", "--trace", "all.jsonl"], 0);
    assert_eq!(digest(&summary), plain);
    let events = json_lines(&std::fs::read_to_string(at.join("all.jsonl")).unwrap());
    assert!(summary.contains(&format!("trace: all.jsonl ({0} of {0} events)", events.len())), "{summary}");
    assert!(events.iter().enumerate().all(|(number, event)| event["event"] == number as u64));
    assert!(events.windows(2).all(|pair| pair[0]["time_ns"].as_u64() <= pair[1]["time_ns"].as_u64()));
    let kinds: BTreeSet<&str> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["fault", "kms", "service", "xks"]));
    // Every KMS call of a user's request lies within it, and so does every proxy call of a KMS call.
    let failed = events.iter().find(|event| event["outcome"] == "failed").unwrap();
    assert_eq!((&failed["exception"], &failed["attempts"]), (&"KMSInternalException".into(), &3.into()));
    let number = failed["request"].as_u64().unwrap();
    let of_it: Vec<&Value> = events.iter().filter(|event| event["request"] == number).collect();
    assert!(of_it.len() >= 3, "{of_it:?}");
    let (began, ended) = (failed["began_ns"].as_u64().unwrap(), failed["time_ns"].as_u64().unwrap());
    for event in &of_it {
        assert_eq!(event["service"], failed["service"]);
        let from = event["began_ns"].as_u64().unwrap();
        assert!((began..=ended).contains(&from) && from + event["took_ns"].as_u64().unwrap() <= ended);
    }
    let filtered = |arguments: &[&str]| {
        let all = [&["run", "short.toml", "--trace", "some.jsonl"], arguments].concat();
        assert_eq!(digest(&ends(at, &all, 0)), plain);
        json_lines(&std::fs::read_to_string(at.join("some.jsonl")).unwrap())
    };
    let chosen = |fits: &dyn Fn(&Value) -> bool| -> Vec<Value> {
        events.iter().filter(|event| fits(event)).cloned().collect()
    };
    assert_eq!(filtered(&["--trace-request", &number.to_string()]), chosen(&|it| it["request"] == number));
    assert_eq!(filtered(&["--trace-host", "1"]), chosen(&|it| it["host"] == 1));
    assert_eq!(filtered(&["--trace-service", "s3"]), chosen(&|it| it["service"] == "s3"));
    assert_eq!(
        filtered(&["--trace-service", "s3", "--trace-host", "1"]),
        chosen(&|it| it["service"] == "s3" && it["host"] == 1)
    );
}

#[test]
fn a_trace_on_standard_output_has_it_to_itself() {
    let directory = tempfile::tempdir().unwrap();
    let output = xks_sim(directory.path(), &["run", "short.toml", "--trace", "-"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(json_lines(&String::from_utf8(output.stdout).unwrap()).len() > 100);
    assert!(String::from_utf8(output.stderr).unwrap().contains("digest: "));
}

#[test]
fn a_filter_that_fits_nothing_is_refused_with_what_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let said = |arguments: &[&str]| {
        mistake(directory.path(), &[&["run", "short.toml", "--trace", "t.jsonl"], arguments].concat())
    };
    assert!(said(&["--trace-service", "s4"]).contains("did you mean `s3`?"));
    assert!(said(&["--trace-host", "1000000"]).contains("--trace-host is from 0 to "));
    assert!(said(&["--trace-request", "0"]).contains("counts from 1"));
    let nowhere = mistake(directory.path(), &["run", "short.toml", "--trace", "no/such/directory/t"]);
    assert!(nowhere.contains("choose another file with --trace"), "{nowhere}");
}

#[test]
fn each_of_two_requests_in_turn_finds_its_own_label() {
    let label = RequestLabel::default();
    let (first, second) = (label.begin(4), label.begin(7));
    let look = |label: RequestLabel| {
        Box::pin(async move {
            let before = label.at_hand();
            tokio::task::yield_now().await;
            (before, label.at_hand())
        })
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let found = runtime.block_on(async {
        tokio::join!(
            label.follow(first, look(label.clone())),
            label.follow(second, look(label.clone())),
            look(label.clone())
        )
    });
    assert_eq!(found.0, (Some(first), Some(first)));
    assert_eq!(found.1, (Some(second), Some(second)));
    assert_eq!((found.2, label.at_hand()), ((None, None), None));
    assert_eq!((first.number, second.number, second.service), (1, 2, 7));
}
