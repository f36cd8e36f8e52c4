//! The ledger `spec/xks-v1.toml`: every requirement stands in it once, with files and tests that exist or a reason.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails loudly; clippy's leave for tests does not reach their helpers"
)]

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The sections, and the level of each of their requirements, numbered from 1: M, S and O are the spec's MUST, SHOULD and
/// OPTIONAL, + is ours.
const SECTIONS: [(&str, &str); 12] = [
    ("NET", "MMMMMMMM+"),
    ("MD", "MMMSSM"),
    ("META", "MMM"),
    ("ENC", "MMMMMOMMMM"),
    ("DEC", "MMMM"),
    ("HLT", "MSMO"),
    ("ERR", "MMM+"),
    ("AUTH", "MSMS+S+"),
    ("AZ", "SSS+"),
    ("TIME", "M+S"),
    ("CON", "S"),
    ("MIG", "+"),
];

/// The ledger's word for a level.
fn word(level: char) -> &'static str {
    match level {
        'M' => "MUST",
        'S' => "SHOULD",
        'O' => "OPTIONAL",
        _ => "ours",
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ledger {
    requirement: Vec<Requirement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Requirement {
    id: String,
    level: String,
    says: String,
    #[serde(default)]
    met_in: Vec<String>,
    #[serde(default)]
    tests: Vec<String>,
    exception: Option<String>,
}

/// What is wrong with a ledger, one line each.
fn mistakes(text: &str) -> Vec<String> {
    let ledger: Ledger = toml::from_str(text).unwrap();
    let mut found = Vec::new();
    let known: BTreeMap<String, &str> = SECTIONS
        .iter()
        .flat_map(|(name, levels)| {
            (1..).zip(levels.chars()).map(move |(n, level)| (format!("{name}-{n}"), word(level)))
        })
        .collect();
    let mut seen = BTreeSet::new();
    for requirement in &ledger.requirement {
        let id = &requirement.id;
        match known.get(id) {
            None => found.push(format!("{id} is no requirement")),
            Some(level) if *level != requirement.level => {
                found.push(format!("{id} has the level {:?}, and is {level}", requirement.level));
            }
            Some(_) => {}
        }
        if !seen.insert(id.clone()) {
            found.push(format!("{id} stands twice"));
        }
        if requirement.says.is_empty() {
            found.push(format!("{id} says nothing"));
        }
        let excepted = requirement.exception.as_deref().is_some_and(|why| !why.is_empty());
        if requirement.tests.is_empty() && !excepted {
            found.push(format!("{id} has neither a test nor an exception"));
        }
        if requirement.met_in.is_empty() && !excepted {
            found.push(format!("{id} is met nowhere"));
        }
        for file in &requirement.met_in {
            if !root().join(file).is_file() {
                found.push(format!("{id}: there is no file {file}"));
            }
        }
        for test in &requirement.tests {
            found.extend(missing(test).map(|why| format!("{id}: {why}")));
        }
    }
    found.extend(known.into_keys().filter(|id| !seen.contains(id)).map(|id| format!("{id} is missing")));
    found
}

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Why `file::function` names no test.
fn missing(test: &str) -> Option<String> {
    let Some((file, function)) = test.split_once("::") else {
        return Some(format!("{test} is not file::function"));
    };
    let Ok(text) = std::fs::read_to_string(root().join(file)) else {
        return Some(format!("there is no file {file}"));
    };
    (!is_test(&text, function)).then(|| format!("{file} has no test {function}"))
}

/// Whether `text` has a function of this name right after `#[test]` or `#[tokio::test…]`, other attributes and comments
/// between them aside.
fn is_test(text: &str, function: &str) -> bool {
    let mut after_test = false;
    for line in text.lines().map(str::trim) {
        if line == "#[test]" || line.starts_with("#[tokio::test]") || line.starts_with("#[tokio::test(") {
            after_test = true;
        } else if line.starts_with("#[ignore") {
            after_test = false;
        } else if let Some(rest) = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ") {
            if after_test && rest.strip_prefix(function).is_some_and(|rest| rest.starts_with('(')) {
                return true;
            }
            after_test = false;
        } else if !(line.starts_with("#[") || line.starts_with("//")) {
            after_test = false;
        }
    }
    false
}

#[test]
fn every_requirement_is_met_and_shown_or_excepted() {
    assert_eq!(mistakes(include_str!("../spec/xks-v1.toml")), Vec::<String>::new());
}

#[test]
fn each_kind_of_mistake_in_a_ledger_is_found() {
    let entry = |id: &str, rest: &str| {
        format!("[[requirement]]\nid = \"{id}\"\nlevel = \"MUST\"\nsays = \"something\"\n{rest}\n")
    };
    let good = "met_in = [\"proxy/src/http.rs\"]\ntests = [\"proxy/tests/spec_ledger.rs::every_requirement_is_met_and_shown_or_excepted\"]";
    let told = |entry: String| {
        let mut told = mistakes(&entry);
        told.retain(|line| !line.ends_with(" is missing"));
        told
    };
    assert_eq!(told(entry("NET-1", good)), Vec::<String>::new());
    assert_eq!(told(entry("NET-1", "exception = \"why\"")), Vec::<String>::new());
    for (rest, line) in [
        ("met_in = [\"proxy/src/http.rs\"]", "NET-1 has neither a test nor an exception"),
        ("exception = \"\"\nmet_in = [\"proxy/src/http.rs\"]", "NET-1 has neither a test nor an exception"),
        ("exception = \"why\"\nmet_in = [\"proxy/src/no.rs\"]", "NET-1: there is no file proxy/src/no.rs"),
        (
            "exception = \"why\"\ntests = [\"proxy/tests/no.rs::no\"]",
            "NET-1: there is no file proxy/tests/no.rs",
        ),
        (
            "exception = \"why\"\ntests = [\"proxy/tests/spec_ledger.rs::mistakes\"]",
            "NET-1: proxy/tests/spec_ledger.rs has no test mistakes",
        ),
        ("exception = \"why\"\ntests = [\"somewhere\"]", "NET-1: somewhere is not file::function"),
    ] {
        assert_eq!(told(entry("NET-1", rest)), [line]);
    }
    assert_eq!(told(entry("NET-10", good)), ["NET-10 is no requirement"]);
    let lowered = entry("NET-1", good).replace("MUST", "SHOULD");
    assert_eq!(told(lowered), ["NET-1 has the level \"SHOULD\", and is MUST"]);
    assert_eq!(told(entry("NET-1", good) + &entry("NET-1", good)), ["NET-1 stands twice"]);
    assert_eq!(mistakes(&entry("NET-1", good)).len(), 55, "the other ids are missing");
}

#[test]
fn only_functions_that_run_as_tests_count() {
    for (text, is) in [
        ("#[test]\nfn name() {", true),
        (
            "    #[tokio::test(start_paused = true)]\n    /// Why.\n    #[cfg(unix)]\n    async fn name() {",
            true,
        ),
        ("fn name() {", false),
        ("#[test]\n#[ignore = \"slow\"]\nfn name() {", false),
        ("#[test]\nfn other() {}\nfn name() {", false),
        ("#[test]\nfn name_2() {", false),
        ("// fn name() {", false),
    ] {
        assert_eq!(is_test(text, "name"), is, "{text}");
    }
}
