//! `[key_store.cedar]` and `allow_mode` in a configuration.

#![expect(clippy::unwrap_used, reason = "a test's helper fails loudly")]

use std::path::Path;
use xks_proxy::authorise::Mode;
use xks_proxy::config::Config;

const SMALL: &str = r#"[server]
listen = "127.0.0.1:8080"
[[hsm]]
name = "one"
module = "/no/such/module.so"
token_label = "xks"
pin_file = "pin"
[[key_store]]
name = "main"
uri_prefix = "a/b"
hsm = "one"
[[key_store.credential]]
access_key_id = "BETWEEN2TENAND3TENCHARACTERS"
secret_env = "XKS_SECRET"
[key_store.cedar]
policy_file = "p.cedar"
"#;

fn parse(text: &str) -> Config {
    Config::parse("/etc/xks/xks.toml", text).unwrap()
}

#[test]
fn what_is_left_out_is_enforced_and_paths_start_at_the_configuration() {
    let config = parse(SMALL);
    let store = &config.key_stores[0];
    assert_eq!((store.access.rules_mode, store.access.policies_mode), (Mode::Enforce, Mode::Enforce));
    assert!(store.cedar.as_ref().unwrap().schema_file.is_none());
    assert!(config.files().contains(Path::new("/etc/xks/p.cedar")));
}

#[test]
fn the_two_modes_are_apart() {
    let text = SMALL.replace("uri_prefix", "allow_mode = \"shadow\"\nuri_prefix");
    let access = &parse(&text).key_stores[0].access;
    assert_eq!((access.rules_mode, access.policies_mode), (Mode::Shadow, Mode::Enforce));
    let access = &parse(&format!("{SMALL}mode = \"shadow\"\n")).key_stores[0].access;
    assert_eq!((access.rules_mode, access.policies_mode), (Mode::Enforce, Mode::Shadow));
}

#[test]
fn every_file_that_a_reload_reads_is_listed() {
    let second = SMALL.split_once("[[key_store]]").unwrap().1.replace("main", "second").replace("a/b", "c");
    let text = format!("{SMALL}schema_file = \"/s.cedarschema\"\n[[key_store]]{second}");
    let files = parse(&text).files();
    for file in ["/etc/xks/xks.toml", "/etc/xks/p.cedar", "/s.cedarschema"] {
        assert!(files.contains(Path::new(file)), "{file}");
    }
    let none = parse(SMALL.split_once("[key_store.cedar]").unwrap().0).files();
    assert!(!none.contains(Path::new("/etc/xks/p.cedar")));
}

/// A table that would silently do nothing must not be taken for protection.
#[test]
#[cfg(not(feature = "cedar"))]
fn a_build_without_cedar_refuses_the_table() {
    let refusal = parse(SMALL).access(0).unwrap_err().to_string();
    let told = "/etc/xks/xks.toml:16: this xks-proxy was built without Cedar: remove [key_store.cedar], or build with \
                --features cedar";
    assert_eq!(refusal, told);
}
