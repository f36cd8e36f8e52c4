//! `[ops]`, `[log]`, `[otel]` and the date of a credential: defaults, and the exact line for every mistake.

#![expect(clippy::expect_used, reason = "a test's helper fails loudly")]

use xks_proxy::config::{Config, LogLevel};

/// Line 1 to 3 are for the table in question.
fn with(table: &str) -> String {
    let lines = table.lines().count();
    let padding = "\n".repeat(3_usize.saturating_sub(lines));
    format!(
        r#"{table}
{padding}[server]
listen = "127.0.0.1:8080"
[[hsm]]
name = "one"
module = "/no/such/module.so"
slot = 1
pin_file = "pin"
[[key_store]]
name = "main"
uri_prefix = "a/b"
hsm = "one"
credential = [
    {{ access_key_id = "BETWEEN2TENAND3TENCHARACTERS", secret_env = "XKS_SECRET" }},
]
"#
    )
}

/// The same, the credential with a date.
fn dated(table: &str) -> String {
    with(table).replace("\"XKS_SECRET\"", "\"XKS_SECRET\", created = 2026-01-31")
}

fn parsed(text: &str) -> Config {
    Config::parse("xks.toml", text).expect(text)
}

fn refusal(text: &str) -> String {
    Config::parse("xks.toml", text).expect_err(text).to_string()
}

#[test]
fn without_the_tables_there_is_no_listener_and_no_trace_and_the_level_is_info() {
    let config = parsed(&with(""));
    assert!(config.ops.is_none() && config.otel.is_none());
    assert_eq!(config.log_level, LogLevel::Info);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (table, line) in [
        (
            "[ops]\nlisten = \"9464\"",
            "xks.toml:2: listen = \"9464\" is not an address and port: write one like \"127.0.0.1:9464\" or \"[::1]:9464\"",
        ),
        (
            "[ops]\nlisten = \"127.0.0.1:8080\"",
            "xks.toml:2: listen = 127.0.0.1:8080 is what [server] listens on already: choose another port",
        ),
        (
            "[ops]\nlisten = \"127.0.0.1:1\"\npublic_reason = \" \"",
            "xks.toml:3: public_reason is empty: write one, or remove the key",
        ),
        ("[ops]", "xks.toml:1: [ops] lacks the key `listen`: add it"),
        ("[ops]\nlistn = \"127.0.0.1:1\"", "xks.toml:2: unknown key `listn`: did you mean `listen`?"),
        (
            "[log]\nlevel = \"verbose\"",
            "xks.toml:2: \"verbose\" is not one of the choices here: write `error`, `warn`, `info`, `debug` or `trace`",
        ),
        ("[otel]\nsample_ratio = 1.5", "xks.toml:2: sample_ratio = 1.5 is out of range: write 0.0 to 1.0"),
        ("[otel]\nsample_ratio = nan", "xks.toml:2: sample_ratio = NaN is out of range: write 0.0 to 1.0"),
        ("[otel]\nservice_name = \"\"", "xks.toml:2: service_name is empty: write one, or remove the key"),
    ] {
        assert_eq!(refusal(&with(table)), line);
    }
}

#[test]
fn a_public_ops_listener_is_warned_of_unless_a_reason_stands_there() {
    let warned = parsed(&dated("[ops]\nlisten = \"0.0.0.0:9464\"")).warnings;
    assert_eq!(
        warned,
        [
            "xks.toml:2: metrics and readiness are served without TLS or authentication on 0.0.0.0:9464, which others may \
          reach: listen on 127.0.0.1 or [::1], or say in public_reason why not"
        ]
    );
    let reason = dated("[ops]\nlisten = \"0.0.0.0:9464\"\npublic_reason = \"the kubelet's probes\"");
    assert_eq!(parsed(&reason).warnings, Vec::<String>::new());
    assert_eq!(parsed(&dated("[ops]\nlisten = \"[::1]:9464\"")).warnings, Vec::<String>::new());
}

#[test]
fn a_credential_may_have_the_day_it_was_made() {
    let dated = |value: &str| {
        with("").replace(
            "secret_env = \"XKS_SECRET\"",
            &format!("secret_env = \"XKS_SECRET\", created = {value}"),
        )
    };
    let created = parsed(&dated("2026-01-31")).key_stores[0].credentials[0].created;
    assert_eq!(created.map(|time| time.secs()), Some(1_769_817_600));
    let not_a_date = "xks.toml:17: created is not a plain date after 1970: write one like 2026-01-31";
    for wrong in ["2026-01-31T00:00:00Z", "07:32:00", "1969-12-31"] {
        assert_eq!(refusal(&dated(wrong)), not_a_date, "{wrong}");
    }
    let no_date = refusal(&dated("\"2026-01-31\""));
    assert!(no_date.starts_with("xks.toml:17: this value is of the wrong kind: write "), "{no_date}");
}

#[cfg(feature = "otel")]
#[test]
fn an_endpoint_is_a_plain_one() {
    let config = parsed(&with("[otel]\nendpoint = \"http://127.0.0.1:4317\"\nsample_ratio = 0"));
    let otel = config.otel.expect("traces");
    assert_eq!((otel.service_name.as_str(), otel.sample_ratio), ("xks-proxy", 0.0));
    for wrong in ["127.0.0.1:4317", "https://collector:4317", "http://collector:4318/v1/traces", "http://"] {
        let told = refusal(&with(&format!("[otel]\nendpoint = \"{wrong}\"")));
        let start =
            format!("xks.toml:2: endpoint = {wrong:?} is not the address of an OTLP/gRPC collector: ");
        assert!(told.starts_with(&start), "{told}");
    }
}

#[cfg(not(feature = "otel"))]
#[test]
fn an_endpoint_is_refused_by_a_build_without_traces() {
    assert_eq!(
        refusal(&with("[otel]\nendpoint = \"http://127.0.0.1:4317\"")),
        "xks.toml:2: this build cannot send traces: build with `--features otel`, or remove endpoint"
    );
}

/// The age of a secret that is in no file was not known to the alert, and nobody noticed.
#[test]
fn a_credential_whose_age_the_metrics_cannot_tell_is_warned_of() {
    let table = "[ops]\nlisten = \"127.0.0.1:1\"";
    let why = "xks.toml:16: nobody will be told when BETWEEN2TENAND3TENCHARACTERS is old, for its secret is in no file: \
               write the day it was made, created = 2026-01-31";
    assert_eq!(parsed(&with(table)).warnings, [why]);
    let in_file = with(table).replace("secret_env = \"XKS_SECRET\"", "secret_file = \"secret\"");
    let in_command = with(table).replace("secret_env = \"XKS_SECRET\"", "secret_command = [\"/bin/vault\"]");
    assert_eq!(parsed(&dated(table)).warnings, Vec::<String>::new());
    assert_eq!(parsed(&in_file).warnings, Vec::<String>::new());
    assert_eq!(parsed(&in_command).warnings, [why]);
    assert_eq!(parsed(&with("")).warnings, Vec::<String>::new(), "without metrics there is nothing to tell");
}
