//! The metrics of the running daemon, read by the real Prometheus: its linter, its scraper, its queries; and the alert
//! rules and the dashboard, which may name nothing that the daemon does not show.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly; these tests stand outside of the daemon, with sockets of their own"
)]

#[path = "common/running.rs"]
mod running;
#[expect(dead_code, reason = "the tests of the PKCS#11 implementation use the rest")]
#[path = "common/softhsm.rs"]
mod softhsm;
mod support;

use running::Running;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};
use support::{CREDENTIAL, OTHER_CREDENTIAL, encrypt, metadata};

const MISSING: &str = "Prometheus is missing, and these tests need it: apt-get install prometheus";

fn observability(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("observability").join(name)
}

/// Runs promtool, which must be content.
#[track_caller]
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("promtool");
    command.args(arguments).current_dir(observability(""));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect(MISSING);
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "promtool {arguments:?}: {told}");
    told
}

fn encrypt_once(daemon: &Running) {
    let reply = daemon.ask("keys/foo/encrypt", &encrypt("aGVsbG8="), CREDENTIAL);
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[test]
fn rules_and_configuration_load_and_alerts_ring_when_they_should() {
    promtool(&["check", "rules", "alerts.yml"], "");
    promtool(&["check", "config", "prometheus.yml"], "");
    let told = promtool(&["test", "rules", "alerts.test.yml"], "");
    assert!(told.contains("SUCCESS"), "{told}");
    // No alert goes untested.
    let rules = std::fs::read_to_string(observability("alerts.yml")).unwrap();
    let tests = std::fs::read_to_string(observability("alerts.test.yml")).unwrap();
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 15, "{alerts:?}");
    for alert in alerts {
        let rings = tests
            .split("- eval_time:")
            .any(|case| case.contains(&format!("alertname: {alert}\n")) && case.contains("exp_labels"));
        assert!(rings, "{alert} is never seen to ring in alerts.test.yml");
    }
}

#[test]
fn requests_are_counted_by_what_became_of_them_and_strangers_make_no_series() {
    let mut daemon = Running::start("");
    let of = |operation: &str, status: u16, error: &str| {
        format!(
            "xks_proxy_requests_total{{key_store=\"main\",operation=\"{operation}\",status=\"{status}\",\
             error_name=\"{error}\"}}"
        )
    };
    let series = |daemon: &Running| {
        let page = daemon.ops("GET", "/metrics", "").body;
        page.lines().filter(|line| !line.starts_with('#')).count()
    };
    assert_eq!(daemon.metric(&of("Encrypt", 200, "none")), Some(0.0), "a rate needs a first zero");
    encrypt_once(&daemon);
    encrypt_once(&daemon);
    daemon.ask("keys/nowhere/encrypt", &encrypt("aGVsbG8="), CREDENTIAL);
    daemon.ask("health", &json!({ "requestMetadata": metadata() }), OTHER_CREDENTIAL);
    assert_eq!(daemon.metric(&of("Encrypt", 200, "none")), Some(2.0));
    assert_eq!(daemon.metric(&of("Encrypt", 404, "KeyNotFoundException")), Some(1.0));
    assert_eq!(daemon.metric(&of("GetHealthStatus", 401, "AuthenticationFailedException")), Some(1.0));
    let count = "xks_proxy_request_duration_seconds_count{key_store=\"main\",operation=\"Encrypt\"}";
    assert_eq!(daemon.metric(count), Some(3.0));
    let hsm = "xks_proxy_station_duration_seconds_count{station=\"hsm\",operation=\"Encrypt\"}";
    assert_eq!(daemon.metric(hsm), Some(3.0));
    assert!(daemon.metric("xks_proxy_hsm_calls_total{hsm=\"softhsm\"}").unwrap() >= 3.0);
    let idle = "xks_proxy_hsm_sessions{hsm=\"softhsm\",state=\"idle\"}";
    assert!(daemon.metric(idle).is_some_and(|sessions| sessions <= 2.0));

    let before = series(&daemon);
    for id in 0..50 {
        daemon.ask(&format!("keys/foo{id}/no-such-operation"), &json!({}), CREDENTIAL);
        daemon.ask(&format!("keys/foo{id}/decrypt"), &json!({}), ("STRANGER2TENAND3TENCHARACTER", "x"));
    }
    assert_eq!(series(&daemon), before, "strangers, paths and key ids make no series");
    let nowhere = "xks_proxy_requests_total{key_store=\"none\",operation=\"none\",status=\"404\",\
                   error_name=\"InvalidUriPathException\"}";
    assert_eq!(daemon.metric(nowhere), Some(50.0));

    let reloads = |outcome: &str| format!("xks_proxy_config_reloads_total{{outcome=\"{outcome}\"}}");
    let last = "xks_proxy_config_last_reload_successful";
    assert_eq!(daemon.metric(last), Some(1.0));
    daemon.signal("HUP");
    daemon.wait_for("reloaded");
    assert_eq!(daemon.metric(last), Some(1.0));
    let good = std::fs::read_to_string(daemon.path("xks.toml")).unwrap();
    std::fs::write(daemon.path("xks.toml"), "nonsense").unwrap();
    daemon.signal("HUP");
    daemon.wait_for("not reloaded");
    assert_eq!((daemon.metric(&reloads("done")), daemon.metric(&reloads("failed"))), (Some(1.0), Some(1.0)));
    assert_eq!(daemon.metric(last), Some(0.0), "it is still broken");
    // A date of the credential's own wins over the file's.
    let created = format!(
        "xks_proxy_credential_created_timestamp_seconds{{key_store=\"main\",access_key_id=\"{}\"}}",
        CREDENTIAL.0
    );
    let changed = std::fs::metadata(daemon.path("secret")).unwrap().modified().unwrap();
    let changed = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((daemon.metric(&created).unwrap() - changed).abs() < 0.001);
    let dated = "secret_file = \"secret\", created = 2026-01-31 }";
    std::fs::write(daemon.path("xks.toml"), good.replace("secret_file = \"secret\" }", dated)).unwrap();
    daemon.signal("HUP");
    daemon.wait_for("reloaded");
    assert_eq!(daemon.metric(&created), Some(1_769_817_600.0));
    assert_eq!(daemon.metric(last), Some(1.0));
}

#[test]
fn what_the_library_said_is_counted_though_callers_only_hear_of_a_wrong_ciphertext() {
    let daemon = Running::start("");
    let returned = |daemon: &Running| {
        let page = daemon.ops("GET", "/metrics", "").body;
        let lines = page.lines().filter(|line| line.starts_with("xks_proxy_hsm_return_values_total{"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(returned(&daemon).is_empty());
    let sealed = daemon.ask("keys/foo/encrypt", &encrypt("aGVsbG8="), CREDENTIAL);
    let mut sealed: Value = serde_json::from_str(&sealed.body).unwrap();
    sealed["requestMetadata"] = metadata();
    sealed["encryptionAlgorithm"] = json!("AES_GCM");
    sealed["authenticationTag"] = json!("AAAAAAAAAAAAAAAAAAAAAA==");
    let refused = daemon.ask("keys/foo/decrypt", &sealed, CREDENTIAL);
    assert!(refused.body.contains("InvalidCiphertextException"), "{}", refused.body);
    // SoftHSM2 says CKR_GENERAL_ERROR to a wrong tag, or CKR_ENCRYPTED_DATA_INVALID, and is asked a second time.
    let lines = returned(&daemon);
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    let is_known =
        ["ckr=\"CKR_GENERAL_ERROR\",number=\"0x5\"", "ckr=\"CKR_ENCRYPTED_DATA_INVALID\",number=\"0x40\""];
    assert!(is_known.iter().any(|labels| line.contains(labels)), "{line}");
}

#[test]
fn the_end_of_the_certificate_that_is_served_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "the served one");
    params.not_after = rcgen::date_time_ymd(2101, 2, 3);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let place = |name: &str| directory.path().join(name);
    std::fs::write(place("certificate.pem"), certificate.pem()).unwrap();
    std::fs::write(place("key.pem"), key.serialize_pem()).unwrap();
    let daemon = Running::start(&format!(
        "[server.tls]\ncertificate_file = {:?}\nkey_file = {:?}\n",
        place("certificate.pem"),
        place("key.pem")
    ));
    let series = "xks_proxy_tls_certificate_not_after_timestamp_seconds{subject=\"CN=the served one\"}";
    // The third of February 2101, at midnight, in seconds since 1970.
    assert_eq!(daemon.metric(series), Some(4_136_832_000.0));
}

#[test]
fn the_page_passes_prometheus_own_linter_in_the_form_that_was_asked_for() {
    let daemon = Running::start("");
    encrypt_once(&daemon);
    let text = daemon.ops("GET", "/metrics", "accept: text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n");
    assert!(text.head.contains("content-type: text/plain; version=0.0.4"), "{}", text.head);
    assert_eq!(promtool(&["check", "metrics"], &text.body), "");
    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5\r\n";
    let open = daemon.ops("GET", "/metrics", accept);
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{}", open.head);
    assert!(open.body.ends_with("\n# EOF\n"));
    assert_eq!(names_of_page(&open.body), names_of_page(&text.body));
}

/// Names of samples, as queries name them, and of families that have no sample at the moment.
fn names_of_page(page: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut kind = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, of) = rest.split_once(' ').unwrap();
            // OpenMetrics leaves `_total` out of the family's name.
            let total = if of == "counter" && !name.ends_with("_total") { "_total" } else { "" };
            kind = of;
            if kind != "histogram" && kind != "info" && !name.ends_with("_info") {
                names.insert(format!("{name}{total}"));
            }
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(kind != "counter" || name.ends_with("_total"), "{line}");
            names.insert(name.to_owned());
        }
    }
    names
}

/// Metric names in a text.
fn names_in(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c));
    let ours = words.filter(|word| {
        (word.starts_with("xks_proxy_") || word.starts_with("process_")) && word.len() > "xks_proxy_".len()
    });
    ours.map(str::to_owned).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(observability("grafana-dashboard.json")).unwrap()).unwrap()
}

/// Title and expression of each target.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            // What Grafana fills in.
            let expression = target["expr"].as_str().unwrap();
            let filled = expression.replace("$__rate_interval", "1m").replace("$instance", ".*");
            assert!(!filled.contains('$'), "{expression}: an unknown variable");
            all.push((panel["title"].as_str().unwrap().to_owned(), filled));
        }
    }
    all
}

#[test]
fn alerts_and_dashboard_name_only_what_the_daemon_shows() {
    let daemon = Running::start("");
    encrypt_once(&daemon);
    let shown = names_of_page(&daemon.ops("GET", "/metrics", "").body);
    let mut used = names_in(&std::fs::read_to_string(observability("alerts.yml")).unwrap());
    used.extend(names_in(&std::fs::read_to_string(observability("alerts.test.yml")).unwrap()));
    let expressions = expressions(&dashboard());
    used.extend(expressions.iter().flat_map(|(_, expression)| names_in(expression)));
    let unknown: Vec<_> = used.difference(&shown).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not among {shown:?}");
    assert!(used.len() > 25, "{used:?}");
}

#[test]
fn the_dashboard_is_one() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    let rows: Vec<_> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .map(|row| row["title"].as_str().unwrap())
        .collect();
    assert!(rows.len() >= 6, "{rows:?}");
    let mut taken = BTreeSet::new();
    for panel in panels {
        let at = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(at("x") + at("w") <= 24, "{panel}");
        for (x, y) in
            (at("x")..at("x") + at("w")).flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(taken.insert((x, y)), "two panels lie one over the other: {}", panel["title"]);
        }
        if panel["type"] != "row" {
            assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{panel}");
        }
    }
}

/// A real Prometheus that scrapes the daemon; killed when a test fails.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Started with our example, rules included, its target changed for this daemon.
    fn start(target: SocketAddr) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let example = std::fs::read_to_string(observability("prometheus.yml")).unwrap();
        let config = example.replace("127.0.0.1:9464", &target.to_string());
        assert_ne!(config, example);
        let config = config.replace("15s", "1s");
        std::fs::write(directory.path().join("prometheus.yml"), config).unwrap();
        std::fs::copy(observability("alerts.yml"), directory.path().join("alerts.yml")).unwrap();
        // Prometheus does not say which port it was given; this one was free a moment ago.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", directory.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect(MISSING);
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said =
            lines.by_ref().map_while(Result::ok).find(|line| line.contains("ready to receive web requests"));
        assert!(said.is_some(), "Prometheus did not start");
        // Its log goes on, and must be read for it not to stall.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, _directory: directory }
    }

    fn get(&self, path_and_query: &str) -> Value {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(stream, "GET {path_and_query} HTTP/1.0\r\nhost: prometheus\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        serde_json::from_str(text.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    /// Evaluates an expression now.
    #[track_caller]
    fn query(&self, expression: &str) -> Vec<Value> {
        let encoded: String = expression.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let reply = self.get(&format!("/api/v1/query?query={encoded}"));
        assert_eq!(reply["status"], "success", "{expression}: {reply}");
        reply["data"]["result"].as_array().unwrap().clone()
    }

    /// The value of the one series that an expression gives, once it does.
    fn wait_for(&self, expression: &str, value: &str) {
        loop {
            if let [series] = self.query(expression).as_slice()
                && series["value"][1] == value
            {
                return;
            }
            // The next scrape is due within a second.
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_real_prometheus_scrapes_the_daemon_and_understands_every_query() {
    let daemon = Running::start("");
    for _ in 0..3 {
        encrypt_once(&daemon);
    }
    let prometheus = Prometheus::start(daemon.ops);
    prometheus.wait_for("up{job=\"xks-proxy\"}", "1");
    prometheus.wait_for("xks_proxy_requests_total{operation=\"Encrypt\",status=\"200\"}", "3");
    prometheus.wait_for("xks_proxy_hsm_health{status=\"active\"}", "1");
    prometheus.wait_for("xks_proxy_hsm_breaker{state=\"closed\"}", "1");
    for (title, expression) in expressions(&dashboard()) {
        prometheus.query(&expression);
        // Panels of rates have nothing to show after one scrape; panels of states have.
        if ["Usable", "Sessions by state", "Builds", "Memory", "Running for"].contains(&title.as_str()) {
            assert!(!prometheus.query(&expression).is_empty(), "{title}: {expression}");
        }
    }
    let rules = prometheus.get("/api/v1/rules");
    let groups = rules["data"]["groups"].as_array().unwrap();
    let loaded: Vec<_> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(loaded.len() >= 15, "{rules}");
    assert!(loaded.iter().all(|rule| rule["health"] != "err"), "{rules}");
    let targets = prometheus.get("/api/v1/targets");
    assert_eq!(targets["data"]["activeTargets"][0]["lastError"], "", "{targets}");
}
