//! `hsms`, `[key_store.failover]` and `health_interval_ms`: what they make, and the line for every mistake.

#![expect(clippy::expect_used, reason = "a test's helper fails loudly")]

use std::time::Duration;
use xks_proxy::config::Config;
use xks_proxy::hsm::group::GroupSettings;

const TWO: &str = r#"[server]
listen = "127.0.0.1:8080"
[[hsm]]
name = "one"
module = "m"
token_label = "a"
pin_env = "P"
[[hsm]]
name = "two"
module = "m"
token_label = "b"
pin_env = "P"
health_interval_ms = 55000
[[key_store]]
name = "main"
uri_prefix = ""
hsms = ["two", "one"]
[key_store.failover]
[[key_store.credential]]
access_key_id = "BETWEEN2TENAND3TENCHARACTERS"
secret_env = "XKS_SECRET"
"#;

fn parse(text: &str) -> Config {
    Config::parse("xks.toml", text).expect("it is right")
}

fn failover(keys: &str) -> GroupSettings {
    parse(&TWO.replace("[key_store.failover]", &format!("[key_store.failover]\n{keys}"))).key_stores[0]
        .failover
}

#[test]
fn a_store_uses_several_hsms_in_the_order_written() {
    let config = parse(TWO);
    assert_eq!(config.key_stores[0].hsms, [1, 0]);
    assert_eq!(config.warnings, Vec::<String>::new());
    assert_eq!(config.hsms[1].health_interval, Some(Duration::from_secs(55)));
    let one = parse(&TWO.replace("hsms = [\"two\", \"one\"]", "hsm = \"two\""));
    assert_eq!(one.key_stores[0].hsms, [1]);
    assert_eq!(
        one.warnings,
        ["xks.toml:4: no key store uses the HSM \"one\": remove it, or name it in a [[key_store]]"]
    );
}

#[test]
fn the_health_keys_of_a_stores_hsms_are_found_by_no_label() {
    let with_keys = TWO.replacen("pin_env = \"P\"", "pin_env = \"P\"\nhealth_key_label = \"h1\"", 1);
    let with_keys = with_keys.replace("health_interval_ms", "health_key_label = \"h2\"\nhealth_interval_ms");
    let reserved = |text: &str| parse(text).key_stores[0].keys.reserved.iter().cloned().collect::<Vec<_>>();
    assert_eq!(reserved(&with_keys), ["h1", "h2"]);
    assert_eq!(reserved(&with_keys.replace("hsms = [\"two\", \"one\"]", "hsm = \"two\"")), ["h2"]);
    assert_eq!(reserved(TWO), [""; 0]);
}

#[test]
fn what_is_left_out_of_failover_has_its_default_and_all_of_it_can_be_said() {
    let default = GroupSettings::default();
    assert_eq!(failover(""), default);
    assert_eq!(parse(&TWO.replace("[key_store.failover]\n", "")).key_stores[0].failover, default);
    let all = "attempt_share_percent = 90\nbreaker_failures = 1\nbreaker_pause_ms = 20\nbreaker_pause_max_ms = 20\n\
               hedge = true\nhedge_share_percent = 50";
    let said = GroupSettings {
        attempt_share_percent: 90,
        breaker_failures: 1,
        breaker_pause: Duration::from_millis(20),
        breaker_pause_max: Duration::from_millis(20),
        hedge_share_percent: 50,
    };
    assert_eq!(failover(all), said);
    assert_eq!(failover("hedge = true").hedge_share_percent, 5);
    assert_eq!(failover("hedge = false\nhedge_share_percent = 9").hedge_share_percent, 0);
}

/// The values that the example shows after `#`.
#[test]
fn the_example_shows_the_defaults() {
    let example = include_str!("../config.example.toml");
    let (_, rest) = example.split_once("[key_store.failover]").expect("the table is there");
    let table = rest.split("\n\n").next().expect("it ends");
    let shown: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains(" = "))
        .collect();
    assert_eq!(shown.len(), 6, "{shown:?}");
    assert_eq!(failover(&shown.join("\n")), GroupSettings::default());
    assert_eq!(failover(&shown.join("\n").replace("hedge = false", "hedge = true")).hedge_share_percent, 5);
    assert!(example.contains("\n# health_interval_ms = 10000\n"));
    assert_eq!(xks_proxy::hsm::monitored::MonitorSettings::default().interval, Duration::from_secs(10));
}

/// A piece of [`TWO`], what stands there instead, and the one line that follows.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "hsms = [",
        "hsm = \"one\"\nhsms = [",
        "xks.toml:18: key store \"main\" has both hsm and hsms: remove one of the two",
    ),
    (
        "hsms = [\"two\", \"one\"]\n",
        "",
        "xks.toml:14: key store \"main\" has no HSM: add hsm = \"NAME\", or hsms = [\"NAME\", \"NAME\"] for several",
    ),
    ("\"two\", \"one\"", "", "xks.toml:17: hsms names 0 HSMs: name 1 to 10 that hold the same keys"),
    (
        "\"two\", \"one\"",
        "\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\"",
        "xks.toml:17: hsms names 11 HSMs: name 1 to 10 that hold the same keys",
    ),
    (
        "\"two\", \"one\"",
        "\"two\",\n\"two\"",
        "xks.toml:18: the HSM \"two\" stands already on line 17: each must be different",
    ),
    (
        "\"two\", \"one\"",
        "\"two\",\n\"three\"",
        "xks.toml:18: no [[hsm]] is named \"three\": name one of \"one\", \"two\"",
    ),
    (
        "health_interval_ms = 55000",
        "health_interval_ms = 60000",
        "xks.toml:13: health_interval_ms = 60000 is out of range: write 1000 to 55000",
    ),
    (
        "[key_store.failover]",
        "[key_store.failover]\nattempt_share_percent = 100",
        "xks.toml:19: attempt_share_percent = 100 is out of range: write 10 to 90",
    ),
    (
        "[key_store.failover]",
        "[key_store.failover]\nbreaker_failures = 0",
        "xks.toml:19: breaker_failures = 0 is out of range: write 1 to 1000",
    ),
    (
        "[key_store.failover]",
        "[key_store.failover]\nhedge_share_percent = 51",
        "xks.toml:19: hedge_share_percent = 51 is out of range: write 1 to 50",
    ),
    (
        "[key_store.failover]",
        "[key_store.failover]\nbreaker_pause_ms = 40000",
        "xks.toml:19: breaker_pause_max_ms = 30000 is less than breaker_pause_ms = 40000: raise it to that or more",
    ),
    (
        "[key_store.failover]",
        "[key_store.failover]\nbreaker_pauses_ms = 1",
        "xks.toml:19: unknown key `breaker_pauses_ms`: did you mean `breaker_pause_ms`?",
    ),
];

#[test]
fn every_mistake_has_its_line() {
    for (piece, instead, line) in MISTAKES {
        assert!(TWO.contains(piece), "{piece:?}");
        let told =
            Config::parse("xks.toml", &TWO.replacen(piece, instead, 1)).expect_err(instead).to_string();
        assert_eq!(told, *line);
    }
}

#[test]
fn one_token_twice_is_warned_of() {
    let same = TWO.replace("token_label = \"b\"", "token_label = \"a\"");
    assert_eq!(
        parse(&same).warnings,
        [
            "xks.toml: the HSMs \"two\" and \"one\" of the key store \"main\" are the same token, so that one is no \
             help when the other fails: name another token, or remove one"
        ]
    );
}

/// Key stores that share any of their HSMs are not isolated (XKS-NET-6).
#[test]
fn net_6_stores_that_share_a_member_are_warned_of() {
    let second = "[[key_store]]\nname = \"second\"\nuri_prefix = \"second\"\nhsm = \"one\"\n\
        [[key_store.credential]]\naccess_key_id = \"ANOTHER2TENAND3TENCHARACTERS\"\nsecret_env = \"XKS_OTHER\"\n";
    let warnings = parse(&format!("{TWO}{second}")).warnings;
    assert!(
        warnings.len() == 1 && warnings[0].contains("2 key stores share the HSM \"one\""),
        "{warnings:?}"
    );
}
