//! What the configuration says of load: addresses, quotas, and the limits on strangers.

use std::time::Duration;
use xks_proxy::config::Config;
use xks_proxy::quota::Rate;

const SMALL: &str = r#"[server]
listen = "127.0.0.1:8080"
[limits]
[[hsm]]
name = "one"
module = "/no/such/module.so"
token_label = "xks"
pin_file = "pin"
[[key_store]]
name = "main"
uri_prefix = "a/b"
hsm = "one"
[key_store.quota]
requests_per_s = 500
[[key_store.credential]]
access_key_id = "BETWEEN2TENAND3TENCHARACTERS"
secret_env = "XKS_SECRET"
"#;

fn parse(piece: &str, instead: &str) -> Result<Config, String> {
    assert!(SMALL.contains(piece), "{piece:?}");
    Config::parse("xks.toml", &SMALL.replacen(piece, instead, 1)).map_err(|error| error.to_string())
}

#[test]
fn the_quota_has_a_burst_of_one_second_unless_it_says_otherwise() {
    let quota = |instead| parse("requests_per_s = 500", instead).expect("is right").key_stores[0].quota;
    assert_eq!(quota("requests_per_s = 500"), Some(Rate { requests_per_s: 500, burst: 500 }));
    assert_eq!(quota("requests_per_s = 500\nburst = 1"), Some(Rate { requests_per_s: 500, burst: 1 }));
    let none = parse("[key_store.quota]\nrequests_per_s = 500\n", "").expect("is right");
    assert_eq!(none.key_stores[0].quota, None);
}

#[test]
fn there_may_be_several_addresses() {
    let listen = |instead: &str| -> Vec<String> {
        let config = parse("\"127.0.0.1:8080\"", instead).expect("is right");
        config.listen.iter().map(|listen| format!("{}: {}", listen.line, listen.value)).collect()
    };
    assert_eq!(listen("\"[::1]:8080\""), ["2: [::1]:8080"]);
    assert_eq!(listen("[\n\"0.0.0.0:8443\",\n\"[::]:8443\"]"), ["3: 0.0.0.0:8443", "4: [::]:8443"]);
    assert_eq!(listen("[\"127.0.0.1:0\", \"127.0.0.1:0\"]").len(), 2);
}

#[test]
fn the_limits_on_strangers_are_taken_over() {
    let limits = "[limits]\nfirst_request_timeout_ms = 500\nbody_bytes_in_flight_max = 65536";
    let limits = parse("[limits]", limits).expect("is right").settings.limits;
    assert_eq!(limits.first_request_timeout, Duration::from_millis(500));
    assert_eq!(limits.body_bytes_in_flight_max, 65_536);
}

#[test]
fn every_mistake_has_its_line() {
    for (piece, instead, line) in [
        (
            "\"127.0.0.1:8080\"",
            "[\"127.0.0.1:8080\",\n\"localhost\"]",
            "xks.toml:3: listen = \"localhost\" is not an address and port: write one like \"0.0.0.0:8443\" or \
             \"[::]:8443\"",
        ),
        (
            "\"127.0.0.1:8080\"",
            "[\"127.0.0.1:8080\",\n\"[::1]:8080\",\n\"127.0.0.1:8080\"]",
            "xks.toml:4: listen \"127.0.0.1:8080\" stands already on line 2: each must be different",
        ),
        (
            "\"127.0.0.1:8080\"",
            "[]",
            "xks.toml:2: listen is an empty list, so nobody could connect: write an address like \"0.0.0.0:8443\"",
        ),
        (
            "\"127.0.0.1:8080\"",
            "8080",
            "xks.toml:2: this value is of the wrong kind: write a string or a list of strings",
        ),
        ("\"127.0.0.1:8080\"", "[8080]", "xks.toml:2: this value is of the wrong kind: write a string"),
        (
            "requests_per_s = 500",
            "requests_per_s = 0",
            "xks.toml:14: requests_per_s = 0 is out of range: write 1 to 1000000",
        ),
        (
            "requests_per_s = 500",
            "requests_per_s = 500\nburst = 0",
            "xks.toml:15: burst = 0 is out of range: write 1 to 1000000",
        ),
        (
            "requests_per_s = 500",
            "burst = 500",
            "xks.toml:13: [key_store.quota] lacks the key `requests_per_s`: add it",
        ),
        (
            "requests_per_s = 500",
            "requests = 500",
            "xks.toml:14: unknown key `requests`: remove it, or write `requests_per_s` or `burst`",
        ),
        (
            "[limits]",
            "[limits]\nfirst_request_timeout_ms = 99",
            "xks.toml:4: first_request_timeout_ms = 99 is out of range: write 100 to 3600000",
        ),
        (
            "[limits]",
            "[limits]\nbody_bytes_in_flight_max = 65535",
            "xks.toml:4: body_bytes_in_flight_max = 65535 cannot hold one body of body_bytes_max = 65536: raise the \
             one, or lower the other",
        ),
    ] {
        assert_eq!(parse(piece, instead).expect_err(piece), line);
    }
}
