//! Requirements that the configuration must not let anyone break, each test named by the id of `XKS-…`.

#![expect(clippy::expect_used, reason = "a test's helper fails loudly")]

use xks_proxy::config::Config;

const EXAMPLE: &str = include_str!("../config.example.toml");

/// The example with one commented line put in force and changed, and what is said of it.
fn refusal(line: &str, instead: &str) -> String {
    assert!(EXAMPLE.contains(line), "{line:?} is not in the example");
    let text = EXAMPLE.replacen(line, instead, 1);
    let told = Config::parse("xks.toml", &text).expect_err(instead).to_string();
    told.split_once(": ").expect("a line has a place and a message").1.to_owned()
}

#[test]
fn enc_1_enc_3_limits_below_the_specs_are_refused() {
    assert_eq!(
        refusal("# plaintext_bytes_max = 8192", "plaintext_bytes_max = 4299"),
        "plaintext_bytes_max = 4299 is out of range: write 4300 to 1048576"
    );
    assert_eq!(
        refusal("# aad_bytes_max = 16384", "aad_bytes_max = 8191"),
        "aad_bytes_max = 8191 is out of range: write 8192 to 65535"
    );
    let least = EXAMPLE.replacen("# plaintext_bytes_max = 8192", "plaintext_bytes_max = 4300", 1).replacen(
        "# aad_bytes_max = 16384",
        "aad_bytes_max = 8192",
        1,
    );
    let limits = Config::parse("xks.toml", &least).expect("the least the spec asks for").settings.limits;
    assert_eq!((limits.plaintext_bytes_max, limits.aad_bytes_max), (4_300, 8_192));
}

#[test]
fn hlt_1_a_fleet_of_none_is_refused() {
    assert_eq!(
        refusal("# fleet_size = 1", "fleet_size = 0"),
        "fleet_size = 0 is out of range: write 1 to 1000000"
    );
}
