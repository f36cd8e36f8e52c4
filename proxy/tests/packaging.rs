//! What `packaging/` says of the proxy is true of it. The tools of the field check the rest (`cargo xtask packaging`).

#![expect(
    clippy::unwrap_used,
    reason = "a test fails loudly; clippy's leave for tests does not reach their helpers"
)]

use xks_proxy::config::Config;

const CONFIG: &str = include_str!("../../packaging/kubernetes/config.toml");
const DEPLOYMENT: &str = include_str!("../../packaging/kubernetes/deployment.yaml");
const SERVICE: &str = include_str!("../../packaging/kubernetes/service.yaml");
/// What may follow the drain, in a row: a reload at hand (11 s, daemon/serve.rs), the close of three HSMs (1 s each,
/// config/build/hsms.rs), the last traces (1 s, traces.rs) and the last lines of the log (2 s, daemon/log.rs).
const AFTER_THE_DRAIN_S: u64 = 11 + 3 + 1 + 2;
const UNIT: &str = include_str!("../../packaging/systemd/xks-proxy.service");

fn config() -> Config {
    Config::parse("/etc/xks-proxy/config.toml", CONFIG).unwrap()
}

#[test]
fn the_example_for_kubernetes_is_right_and_warns_of_nothing() {
    assert_eq!(config().warnings, Vec::<String>::new());
}

#[test]
fn ports_and_paths_of_the_manifests_are_those_of_the_configuration() {
    let config = config();
    let xks = config.listen.first().unwrap().value.port();
    let ops = config.ops.unwrap().value.port();
    for port in [
        format!("- name: xks\n              containerPort: {xks}"),
        format!("- name: ops\n              containerPort: {ops}"),
    ] {
        assert!(DEPLOYMENT.contains(&port), "{port}");
    }
    assert!(DEPLOYMENT.contains(&format!("prometheus.io/port: \"{ops}\"")));
    let path = format!("healthcheck-path: {}\n", config.settings.ping_path);
    assert!(SERVICE.contains(&path), "{path}");
    // What the configuration reads is mounted.
    let named = CONFIG.lines().filter_map(|line| line.split_once("_file = \"")?.1.strip_suffix('"'));
    for file in named {
        let (directory, _) = file.rsplit_once('/').unwrap();
        assert!(DEPLOYMENT.contains(&format!("mountPath: {directory},")), "{file}");
    }
}

/// In a pod the secret's file is always new, and a journal that limits its rate drops audit events.
#[test]
fn the_age_of_a_credential_is_known_and_the_journal_takes_every_line() {
    let config = config();
    let mut credentials = config.key_stores.iter().flat_map(|store| &store.credentials);
    assert!(credentials.all(|credential| credential.created.is_some()));
    assert!(UNIT.lines().any(|line| line == "LogRateLimitIntervalSec=0"));
}

#[test]
fn a_stop_outlasts_the_drain() {
    let drain = config().settings.limits.drain_timeout.as_secs();
    let seconds = |text: &str, key: &str| -> u64 {
        let value = text.split_once(key).unwrap().1;
        value.lines().next().unwrap().trim().parse().unwrap()
    };
    let pause = seconds(DEPLOYMENT, "sleep:\n                seconds:");
    assert!(seconds(DEPLOYMENT, "terminationGracePeriodSeconds:") > pause + drain + AFTER_THE_DRAIN_S);
    assert!(seconds(UNIT, "TimeoutStopSec=") > drain + AFTER_THE_DRAIN_S);
}

/// The story: a vault was down for longer than the tries of a minute, and the service stayed down when it was back.
#[test]
fn the_unit_starts_again_what_may_pass_and_never_what_must_be_corrected() {
    for line in
        ["Restart=on-failure", "RestartSec=2", "RestartPreventExitStatus=2", "StartLimitIntervalSec=0"]
    {
        assert!(UNIT.lines().any(|of_unit| of_unit == line), "{line}");
    }
}
