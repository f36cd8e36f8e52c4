//! `[key_store.compatibility]`: what it means, and the exact line for every mistake.

#![expect(clippy::expect_used, reason = "a test's helper fails loudly")]

use xks_proxy::config::Config;
use xks_proxy::scheme::{SampleProxy, Scheme};

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
[[key_store.key]]
id = "foo"
current_version = 1
versions = [{ version = 1, label = "foo" }, { version = 2, id = "0a" }]
[key_store.compatibility]
aws_sample_proxy = true
ciphertext_metadata = "djAuMC4x"
former_ciphertext_metadata = ["djA="]
encrypt = "sample"
"#;

fn parse(text: &str) -> Config {
    Config::parse("xks.toml", text).expect("a right configuration")
}

#[test]
fn mig_1_the_table_says_what_the_sample_made() {
    let sample = |metadata: &[u8], former: &[&[u8]], encrypt| {
        let former = former.iter().map(|former| former.to_vec()).collect();
        Some(SampleProxy::new(metadata.to_vec(), former, encrypt).expect("plain metadata"))
    };
    let whole = parse(SMALL);
    assert_eq!(whole.key_stores[0].sample_proxy, sample(b"v0.0.1", &[b"v0"], Scheme::SampleProxy));
    assert_eq!(whole.warnings, Vec::<String>::new());

    let (head, _) = SMALL.split_once("ciphertext_metadata").expect("it is there");
    assert_eq!(parse(head).key_stores[0].sample_proxy, sample(b"", &[], Scheme::Own));
    assert_eq!(parse(&head.replace("true", "false")).key_stores[0].sample_proxy, None);
    let (without, _) = SMALL.split_once("[key_store.compatibility]").expect("it is there");
    assert_eq!(parse(without).key_stores[0].sample_proxy, None);
}

/// Each row: a piece of [`SMALL`], what stands there instead, and the one line the user reads.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "aws_sample_proxy = true\n",
        "",
        "xks.toml:19: [key_store.compatibility] lacks the key `aws_sample_proxy`: add it",
    ),
    (
        "aws_sample_proxy = true",
        "aws_sample_proxy = false",
        "xks.toml:23: encrypt = \"sample\" makes ciphertexts that would not decrypt here: write aws_sample_proxy = \
         true, or encrypt = \"own\"",
    ),
    (
        "\"djAuMC4x\"",
        "\"v0.0.1\"",
        "xks.toml:21: ciphertext_metadata = \"v0.0.1\" is not standard Base64: copy the sample proxy's \
         ciphertext_metadata_b64",
    ),
    (
        "\"djA=\"",
        "\"djA=\", \"%\"",
        "xks.toml:22: former_ciphertext_metadata = \"%\" is not standard Base64: copy the sample proxy's \
         ciphertext_metadata_b64",
    ),
    (
        "\"djAuMC4x\"",
        "\"AQE=\"",
        "xks.toml:21: ciphertext_metadata = \"AQE=\" cannot be used: it looks like this proxy's own, so a ciphertext \
         could be read as either's: give the sample proxy another one and re-encrypt what it made with this one, \
         before moving",
    ),
    (
        "\"djA=\"",
        "\"AQI=\"",
        "xks.toml:22: former_ciphertext_metadata = \"AQI=\" cannot be used: it looks like this proxy's own, so a \
         ciphertext could be read as either's: give the sample proxy another one and re-encrypt what it made with this \
         one, before moving",
    ),
    (
        "\"djAuMC4x\"",
        "\"AAAAAAAAAAAAAAAAAAAAAAAAAAAA\"",
        "xks.toml:21: ciphertext_metadata = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAA\" cannot be used: it has more than 20 bytes, \
         which is more than the XKS API allows",
    ),
    (
        "\"djA=\"",
        "\"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\", \"\"",
        "xks.toml:22: former_ciphertext_metadata has more than 16 entries: shorten it",
    ),
    (
        "encrypt = \"sample\"",
        "encrypt = \"samples\"",
        "xks.toml:23: \"samples\" is not one of the choices here: write `own` or `sample`",
    ),
    (
        "current_version = 1",
        "current_version = 2",
        "xks.toml:23: encrypt = \"sample\" encrypts with version 1, and key \"foo\" on line 16 has another \
         current_version: rotate after the move, or write encrypt = \"own\"",
    ),
];

#[test]
fn mig_1_every_mistake_has_its_line() {
    for (piece, instead, line) in MISTAKES {
        assert!(SMALL.contains(piece), "{piece:?} is not in the small configuration");
        let text = SMALL.replacen(piece, instead, 1);
        let told = Config::parse("xks.toml", &text).expect_err(&text).to_string();
        assert_eq!(told, *line);
    }
}

#[test]
fn mig_1_a_key_without_the_samples_version_is_warned_of() {
    let text = SMALL
        .replace("{ version = 1, label = \"foo\" }, ", "")
        .replace("current_version = 1", "current_version = 2")
        .replace("\"sample\"", "\"own\"");
    assert_eq!(
        parse(&text).warnings,
        [
            "xks.toml:16: key \"foo\" has no version 1, so what AWS's sample proxy made with it does not decrypt: add \
             that version with the key object that the sample proxy used"
        ]
    );
}
