//! The series over time that a run leaves: they add up to its totals, and queues show where a request waits.

use scenarios::kms::lifecycle::ConnectionErrorCode;
use scenarios::report::{Style, terminal};
use scenarios::result::RunResult;
use scenarios::run;
use scenarios::scenario::Scenario;
use scenarios::world::Options;

const PLAIN: Style = Style { colour: false, unicode: true, width: 160 };

fn ran(text: &str) -> RunResult {
    let scenario = Scenario::parse("series", "series.toml", text).unwrap();
    run::run(&scenario, &Options::new(5), "", "emulated HSM").unwrap().result
}

const SLOW: &str = "title = \"x\"
duration_s = 30
[topology]
tls = \"off\"
proxies = 1
hsms = 1
[hsm]
parallel_max = 2
sessions_max = 8
[[service]]
kind = \"s3\"
rate_per_s = 60
[[service]]
kind = \"s3-bucket-keys\"
rate_per_s = 20
[[fault]]
kind = \"hsm-slow\"
factor = 40.0
from_s = 10
to_s = 20
";

#[test]
fn the_series_add_up_to_the_totals() {
    let result = ran(SLOW);
    let buckets = result.xks.per_bucket.len();
    assert_eq!(buckets as u64 * result.bucket_ms, result.duration_ms);
    for service in &result.services {
        for series in [&service.ok, &service.failed, &service.cached, &service.held, &service.retries] {
            assert_eq!(series.len(), buckets, "{}", service.name);
        }
        // The last answers may come after the end, in no bucket.
        let sum = |series: &[u64]| series.iter().sum::<u64>();
        assert!(sum(&service.ok) <= service.requests - service.failures && sum(&service.ok) > 0);
        assert!(sum(&service.cached).abs_diff(service.from_cache) <= 1, "{}", service.name);
        let failed_calls: u64 = service.exceptions.iter().map(|series| sum(&series.per_bucket)).sum();
        // Every failed request ended in a call that failed; every retry followed one.
        assert!(failed_calls >= sum(&service.failed) && failed_calls >= sum(&service.retries));
        assert!(failed_calls <= service.kms_calls);
    }
    let s3 = &result.services[0];
    assert!(s3.failures > 50 && s3.exceptions.iter().any(|it| it.exception == "KMSInternalException"));
    assert!(s3.retries.iter().sum::<u64>() > 10, "an internal exception is retried");
    let keys = &result.services[1];
    assert!(keys.cached.iter().sum::<u64>() > 100, "a bucket key is a cached key");
}

#[test]
fn queues_fill_where_the_bottleneck_is_and_empty_when_it_is_gone() {
    let result = ran(SLOW);
    let queues = &result.queues;
    assert_eq!((queues.hsm_parallel_max, queues.hsm_sessions_max, queues.in_flight_max), (2, 8, 256));
    let most = |series: &[u64], from_s: u64, to_s: u64| {
        let at = |s: u64| (s * 1_000 / result.bucket_ms) as usize;
        series[at(from_s)..at(to_s)].iter().copied().max().unwrap()
    };
    // While its HSM is slow every session is taken, and no more; before and after there is room.
    assert_eq!(most(&queues.hsm_running, 11, 19), 2);
    assert_eq!(most(&queues.hsm_queued, 11, 19), 6);
    // The HSM works on for callers that have given up: fewer are in flight than it has sessions taken.
    assert!(most(&queues.in_flight, 11, 19) >= 5);
    for (from_s, to_s) in [(1, 10), (22, 30)] {
        assert!(most(&queues.hsm_queued, from_s, to_s) < 4);
        assert!(most(&queues.in_flight, from_s, to_s) < 5);
        assert!(most(&queues.in_flight, from_s, to_s) >= 1, "what is under way is seen");
    }
}

#[test]
fn a_starved_proxy_shows_who_waits_for_a_core() {
    let text = SLOW.replace("kind = \"hsm-slow\"\nfactor = 40.0", "kind = \"proxy-starved\"\nfactor = 600.0");
    let result = ran(&text);
    let at = |s: u64| (s * 1_000 / result.bucket_ms) as usize;
    let most = |from: u64, to: u64| result.queues.waiting[at(from)..at(to)].iter().copied().max().unwrap();
    assert!(most(11, 20) > 2 * most(1, 9).max(1), "{:?}", result.queues.waiting);
}

#[test]
fn a_connect_that_fails_is_told_with_its_code() {
    let text = |more: &str| {
        format!(
            "title = \"x\"\nduration_s = 60\nsettle_s = 5\n[topology]\ntls = \"off\"\n[kms]\nconnect_s = 1\ndisconnect_s = 1\n{more}\
             [[service]]\nkind = \"s3\"\n[[fault]]\nkind = \"key-store-disconnected\"\nfrom_s = 10\nto_s = 20\n"
        )
    };
    let result = ran(&text(""));
    assert_eq!(result.console.connection_state, "CONNECTED");
    assert_eq!(result.console.connection_error_code, None);
    let named = |result: &RunResult, name: &str| result.assumptions.iter().any(|it| it.starts_with(name));
    assert!(
        ["MA-15:", "MA-23:", "MA-24:"].iter().all(|name| named(&result, name)),
        "{:?}",
        result.assumptions
    );
    assert!(!named(&result, "MA-12:"), "no call ended in KMSInternalException");
    assert!(["MA-15:", "MA-23:", "MA-24:"].iter().all(|name| !named(&ran(SLOW), name)));
    for code in ConnectionErrorCode::ALL.map(ConnectionErrorCode::as_str) {
        let result = ran(&text(&format!("connect_fault = \"{code}\"\n")));
        assert_eq!(result.console.connection_state, "FAILED");
        assert_eq!(result.console.connection_error_code.as_deref(), Some(code));
        assert!(terminal(&result, PLAIN).replace("\n ", "").contains(code));
        assert!(result.services[0].after_faults.failures > 0, "{code}");
        // What is not the proxy's fault breaks none of its promises.
        assert!(result.invariants.iter().all(|invariant| invariant.held), "{code}: {:?}", result.invariants);
    }
}

#[test]
fn the_alarm_on_a_certificate_rings_before_it_expires() {
    let text = |fault: &str| {
        format!("title = \"x\"\nduration_s = 120\n[[service]]\nkind = \"s3\"\nrate_per_s = 1\n{fault}")
    };
    let fault = "[[fault]]\nkind = \"certificate-expired\"\nfrom_s = 60\nto_s = 90\n";
    for (text, rang_at_ms) in [(text(fault), Some(0)), (text(""), None)] {
        let result = ran(&text);
        let alarm = result.alarms.iter().find(|alarm| alarm.name == "certificate-expiry").unwrap();
        assert_eq!((alarm.rang_at_ms, alarm.rang_after_fault_ms, alarm.evaluated), (rang_at_ms, None, 1));
        // The others look at five minutes.
        let slow = result.alarms.iter().find(|alarm| alarm.name == "slow-proxy").unwrap();
        assert_eq!((slow.rang_at_ms, slow.evaluated, slow.period_ms), (None, 0, 300_000));
        let errors = result.alarms.iter().find(|alarm| alarm.name == "retryable-errors").unwrap();
        assert_eq!((errors.evaluated, errors.period_ms), (2, 60_000));
    }
}
