//! `[server.tls]`, `[server.tls.client]`, `[reload]` and helper commands in the configuration: what is taken, and the
//! line of every mistake.

#![expect(clippy::expect_used, reason = "a test's helper fails loudly")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;
use xks_proxy::config::{Config, HelperCommand, SecretPlace};

const TEXT: &str = r#"[server]
listen = "127.0.0.1:8443"
[server.tls]
certificate_file = "certificate.pem"
key_file = "/keys/key.pem"
[server.tls.client]
ca_file = "clients.pem"
subject_names = ["cks.kms.us-east-1.amazonaws.com", "cks.kms.eu-*.amazonaws.com"]
[reload]
watch_interval_ms = 500
[[hsm]]
name = "one"
module = "m"
slot = 1
pin_command = ["bin/pin", "--of", "the token"]
[[key_store]]
name = "main"
uri_prefix = "a"
hsm = "one"
[[key_store.credential]]
access_key_id = "BETWEEN2TENAND3TENCHARACTERS"
secret_command = ["/usr/local/bin/secret"]
[[key_store.credential]]
access_key_id = "ANOTHER2TENAND3TENCHARACTERS"
secret_file = "secret"
"#;

fn parse(text: &str) -> Config {
    Config::parse("/etc/xks/xks.toml", text).expect(text)
}

#[test]
fn client_certificates_are_taken_with_a_warning_that_kms_presents_none() {
    let config = parse(TEXT);
    let client = config.tls.unwrap().client.unwrap();
    assert_eq!(client.ca_file.value, PathBuf::from("/etc/xks/clients.pem"));
    let names: Vec<String> = client.subject_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["cks.kms.us-east-1.amazonaws.com", "cks.kms.eu-*.amazonaws.com"]);
    assert_eq!(
        config.warnings,
        [
            "/etc/xks/xks.toml:6: [server.tls.client] demands client certificates, which AWS KMS no longer presents: a \
             key store created after 2026-03-16 must not demand them, and from 2026-06-15 on KMS cannot connect to a \
             proxy that does, so that every use of its keys fails: remove [server.tls.client], unless \
             only clients of your own connect here"
        ]
    );
}

#[test]
fn commands_are_paths_beside_the_configuration_and_words() {
    let config = parse(TEXT);
    let helper = |program: &str, arguments: &[&str]| {
        SecretPlace::Command(HelperCommand {
            program: program.into(),
            arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        })
    };
    assert_eq!(config.hsms[0].pin.value, helper("/etc/xks/bin/pin", &["--of", "the token"]));
    assert_eq!(config.key_stores[0].credentials[0].secret.value, helper("/usr/local/bin/secret", &[]));
}

#[test]
fn every_file_a_reload_reads_is_watched() {
    let expected = [
        "/etc/xks/xks.toml",
        "/etc/xks/certificate.pem",
        "/keys/key.pem",
        "/etc/xks/clients.pem",
        "/etc/xks/secret",
    ];
    assert_eq!(parse(TEXT).files(), expected.map(PathBuf::from).into_iter().collect::<BTreeSet<_>>());
}

#[test]
fn the_watch_has_an_interval_and_a_switch() {
    let interval = |line: &str| parse(&TEXT.replace("watch_interval_ms = 500", line)).watch_interval;
    assert_eq!(interval("watch_interval_ms = 500"), Some(Duration::from_millis(500)));
    assert_eq!(interval(""), Some(Duration::from_secs(2)));
    assert_eq!(interval("watch_interval_ms = 0"), None);
}

#[test]
fn every_mistake_has_its_line() {
    for (piece, instead, told) in [
        ("ca_file = \"clients.pem\"\n", "", "6: [server.tls.client] lacks the key `ca_file`: add it"),
        (
            "subject_names = [\"cks.kms.us-east-1.amazonaws.com\", \"cks.kms.eu-*.amazonaws.com\"]",
            "subject_names = []",
            "8: subject_names has 0 entries: write 1 to 64",
        ),
        (
            "\"cks.kms.eu-*.amazonaws.com\"",
            "\" \"",
            "8: a subject name has 1 to 253 printable ASCII characters, like \"cks.kms.us-east-1.amazonaws.com\": \
             correct it",
        ),
        ("ca_file", "ca_fil", "7: unknown key `ca_fil`: did you mean `ca_file`?"),
        (
            "watch_interval_ms = 500",
            "watch_interval_ms = 99",
            "10: watch_interval_ms = 99 is out of range: write 100 to 3600000, or 0 for no watch",
        ),
        (
            "[\"bin/pin\", \"--of\", \"the token\"]",
            "[\"pin\"]",
            "15: pin_command does not begin with the path of a program, and PATH is not searched: write it like \
             [\"/usr/local/bin/helper\", \"argument\"]",
        ),
        (
            "[\"bin/pin\", \"--of\", \"the token\"]",
            "[]",
            "15: pin_command does not begin with the path of a program, and PATH is not searched: write it like \
             [\"/usr/local/bin/helper\", \"argument\"]",
        ),
        ("\"the token\"", "\"a\\u0000b\"", "15: a word of pin_command holds a NUL character: remove it"),
        (
            "[[key_store]]",
            "pin_env = \"PIN\"\n[[key_store]]",
            "16: the PIN has more than one place, pin_env and pin_command: keep one of them",
        ),
        (
            "secret_file = \"secret\"\n",
            "",
            "23: the secret access key is missing: add one of secret_file, secret_env or secret_command",
        ),
        (
            "[\"/usr/local/bin/secret\"]",
            "\"/usr/local/bin/secret\"",
            "22: this value is of the wrong kind: write a list, in [ ]",
        ),
    ] {
        assert!(TEXT.contains(piece), "{piece}");
        let error =
            Config::parse("xks.toml", &TEXT.replacen(piece, instead, 1)).expect_err(instead).to_string();
        assert_eq!(error, format!("xks.toml:{told}"));
    }
    let long = format!("[\"/bin/x\", {:?}]", "a".repeat(8_192));
    let error = Config::parse("xks.toml", &TEXT.replace("[\"/usr/local/bin/secret\"]", &long)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "xks.toml:22: secret_command is too long: write at most 64 words of 8192 bytes in all"
    );
}
