//! `xks-proxy keys list`, as a process over a real SoftHSM2.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly; these tests stand outside of the daemon"
)]

#[expect(dead_code, reason = "other tests use the rest")]
#[path = "common/command.rs"]
mod command;
#[expect(dead_code, reason = "other tests use the rest")]
#[path = "common/softhsm.rs"]
mod softhsm;

use command::Setup;
use serde_json::{Value, json};

const LIST: &[&str] = &["keys", "list", "--config", "xks.toml"];

#[test]
fn it_lists_what_each_key_is_and_serves_as() {
    let setup = Setup::new();
    setup.change(
        "current_version = 1\nversions = [",
        "current_version = 2\nversions = [{ version = 2, id = \"10\" }, ",
    );
    let said = setup.run(LIST);
    assert_eq!((said.code, said.error.as_str()), (0, ""), "{}", said.out);
    let lines: Vec<&str> = said.out.lines().collect();
    assert!(lines[0].starts_with("HSM softhsm: token \"xks\", serial "), "{}", said.out);
    assert!(lines.iter().all(|line| line.chars().count() <= 100), "{}", said.out);
    let block = |text: &str| assert!(said.out.contains(text), "{text}\n{}", said.out);
    block(
        "LABEL                             ID                  TYPE        MAY      SENSITIVE  EXTRACTABLE\n",
    );
    block("double                            06                  AES-256     both     yes        no\n");
    block(
        "foo                               01                  AES-256     both     yes        no\n  \
         serves main/orders v1, old\n",
    );
    block("readable                                              AES-256     both     no         yes\n");
    block("short_key                         05                  AES-128     both     yes        no\n");
    block(
        "xks-health                        10                  AES-256     both     yes        no\n  \
         serves main/orders v2\n",
    );
    assert_eq!(lines.last(), Some(&"12 secret keys."), "{}", said.out);
}

#[test]
fn labels_that_are_not_unique_and_keys_that_are_unfit_are_marked() {
    let setup = Setup::new();
    setup.change("find_keys_by = \"entry\"\n", "");
    let config = std::fs::read_to_string(setup.path("xks.toml")).unwrap();
    setup.configure(&config.replace("label = \"foo\"", "label = \"short_key\""));
    let said = setup.run(LIST);
    let marked = "  serves main/orders v1: is AES with 128 bits, not 256\n";
    assert!(said.out.contains(marked), "{}", said.out);
    assert_eq!(said.out.matches("  serves main/double: label not unique\n").count(), 2, "{}", said.out);
    assert!(said.out.contains("  serves main/foo\n"), "{}", said.out);
    assert!(!said.out.contains("main/short_key"), "{}", said.out);
    assert!(!said.out.contains("main/xks-health"), "the health key serves nobody: {}", said.out);
}

#[test]
fn a_missing_key_is_named_and_ends_with_1() {
    let setup = Setup::new();
    setup.change("label = \"foo\"", "label = \"nowhere\"");
    let said = setup.run(LIST);
    let line = "missing: main/orders v1 names the key with label \"nowhere\", which is not there\n";
    assert!(said.out.ends_with(line), "{}", said.out);
    assert_eq!(said.code, 1);
}

#[test]
fn json_holds_the_same() {
    let setup = Setup::new();
    let said = setup.run(&["keys", "list", "--config", "xks.toml", "--hsm", "softhsm", "--json"]);
    let all: Value = serde_json::from_str(&said.out).unwrap();
    let hsm = &all["hsms"][0];
    assert_eq!(
        (&hsm["name"], &hsm["token_label"], &hsm["more"]),
        (&json!("softhsm"), &json!("xks"), &json!(false))
    );
    let keys = hsm["keys"].as_array().unwrap();
    let foo = keys.iter().find(|key| key["label"] == "foo").unwrap();
    let expected = json!({
        "label": "foo", "id": "01", "type": "AES", "bits": 256, "encrypt": true, "decrypt": true, "sensitive": true,
        "extractable": false, "local": true, "serves": ["main/orders v1"],
    });
    assert_eq!(*foo, expected);
}

#[test]
fn an_unknown_hsm_is_refused_with_those_there_are() {
    let setup = Setup::new();
    let said = setup.run(&["keys", "list", "--config", "xks.toml", "--hsm", "other"]);
    let line = "xks-proxy: no [[hsm]] is named \"other\": write one of softhsm\n";
    assert_eq!((said.code, said.error.as_str()), (2, line));
}
