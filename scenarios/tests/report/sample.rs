//! Finished runs to render: one plausible outage, and the edges of what a run can be.

use scenarios::result::{
    AlarmResult, Check, ConsoleResult, ErrorCount, ExceptionSeries, FaultBand, Percentiles, PhaseResult,
    QueueResult, RangSpan, RunResult, SampleKind, SampleRequest, ServiceResult, Span, Station, WorldResult,
    XksResult,
};

/// How one service lives through the sample outage.
struct Life {
    name: &'static str,
    title: &'static str,
    /// Requests per bucket.
    rate: u64,
    /// Milliseconds from the fault's beginning to the first failure, and from its end to the recovery.
    fails: Option<(u64, u64)>,
    /// Share of requests that fail while it lasts, per cent.
    lost: u64,
    visible: &'static str,
    kept_working: &'static str,
    lasting_damage: &'static str,
}

const INVALID_STATE: &str = "KMSInvalidStateException";
const NO_ANSWER: &str = "The external key store proxy did not respond to the request in the time allotted. Retry the \
    request. If you see this error repeatedly, report it to your external key store proxy administrator.";

const LIVES: [Life; 7] = [
    Life {
        name: "s3",
        title: "S3",
        rate: 40,
        fails: Some((400, 1_200)),
        lost: 100,
        visible: "KMS.KMSInvalidStateException (400)",
        kept_working: "",
        lasting_damage: "replication of 214 objects ended in FAILED; S3 Batch Replication must send them again.",
    },
    Life {
        name: "s3-bucket-keys",
        title: "S3 with Bucket Keys",
        rate: 40,
        fails: Some((41_000, 2_300)),
        lost: 62,
        visible: "KMS.KMSInvalidStateException (400)",
        kept_working: "hot buckets were served for up to 5 min from the bucket key that S3 still held.",
        lasting_damage: "",
    },
    Life {
        name: "ebs-attach",
        title: "EBS attach",
        rate: 2,
        fails: Some((900, 4_800)),
        lost: 100,
        visible: "attachVolume failed",
        kept_working: "volumes already attached went on: their key lives in the host's hardware.",
        lasting_damage: "",
    },
    Life {
        name: "ec2-launch",
        title: "EC2 launch",
        rate: 1,
        fails: Some((2_400, 61_000)),
        lost: 100,
        visible: "Client.InternalError: Client error on launch",
        kept_working: "running instances went on; a reboot keeps the host and needs no key.",
        lasting_damage: "3 instances stopped during the outage must be started by hand.",
    },
    Life {
        name: "lambda",
        title: "Lambda",
        rate: 25,
        fails: Some((3_100, 1_900)),
        lost: 9,
        visible: "KMSInvalidStateException (502)",
        kept_working: "warm environments went on; only cold starts failed.",
        lasting_damage: "",
    },
    Life {
        name: "dynamodb",
        title: "DynamoDB",
        rate: 60,
        fails: Some((187_000, 900)),
        lost: 71,
        visible: "ValidationException (400)",
        kept_working: "table keys cached per caller carried most tables through the first 3 min.",
        lasting_damage: "",
    },
    Life {
        name: "rds",
        title: "RDS",
        rate: 12,
        fails: None,
        lost: 0,
        visible: "",
        kept_working: "a running database holds its key in memory; the outage was too short to be noticed.",
        lasting_damage: "",
    },
];

/// Spreads values without a generator: the same in every build.
fn wobble(index: usize, salt: usize) -> u64 {
    ((index * 7919 + salt * 104_729) % 1009) as u64
}

/// Seven services through an outage of half the run, beginning at a tenth of it, in `buckets` buckets.
fn outage(duration_ms: u64, buckets: usize) -> RunResult {
    let bucket_ms = duration_ms / buckets as u64;
    let (from_ms, to_ms) = (duration_ms / 10, duration_ms * 6 / 10);
    let services: Vec<_> = LIVES
        .iter()
        .enumerate()
        .map(|(salt, life)| service(life, salt, bucket_ms, buckets, from_ms, to_ms))
        .collect();
    let failures: Vec<u64> =
        (0..buckets).map(|bucket| services.iter().map(|service| service.failed[bucket]).sum()).collect();
    let per_bucket: Vec<u64> =
        (0..buckets).map(|bucket| 70 + wobble(bucket, 3) % 12 + failures[bucket] * 2).collect();
    let calls = per_bucket.iter().sum();
    let timed_out = failures.iter().sum::<u64>() / 3;
    let late = |bucket: usize| failures[bucket] > 10;
    RunResult {
        format: 1,
        version: "0.1.0".into(),
        scenario: "hsm-outage".into(),
        title: "Both HSMs go down for five minutes".into(),
        about: "A firmware update, a power cut or an expired HSM certificate takes the whole HSM pair away at once. \
                Have a way to bring one HSM back within the five minutes that most caches last."
            .into(),
        scenario_toml: "title = \"Both HSMs go down for five minutes\"\nduration = \"10 min\"\n\n[[fault]]\nat = \"1 min\"\n\
                        lasts = \"5 min\"\nhsm = [\"hsm-a\", \"hsm-b\"]\nkind = \"down\"\n\n[expect]\nrecovered_within = \"2 min\"\n"
            .into(),
        seed: 7,
        digest: "9f2c64c1b7f0d1e53ad1f6b09de7c3aa1b52f0c4c8a3f5f2d7e9b0a1c3d5e7f9".into(),
        command: "xks-sim run hsm-outage --seed 7".into(),
        hsm: "emulated HSM".into(),
        duration_ms,
        interrupted_at_ms: None,
        bucket_ms,
        faults: vec![FaultBand { label: "both HSMs down".into(), from_ms, to_ms }],
        services,
        xks: XksResult {
            calls,
            ok: calls - timed_out * 2,
            fresh_connections: timed_out + 12,
            fresh_share_before_faults: 0.01,
            fresh_share_after_faults: 0.02,
            timed_out,
            patience_ms: 250,
            latency: Percentiles { p50_ms: 12.4, p90_ms: 153.0, p99_ms: 250.0, p999_ms: 250.0, max_ms: 250.0 },
            latency_outside_faults: Percentiles { p50_ms: 9.2, p90_ms: 14.8, p99_ms: 31.0, p999_ms: 88.1, max_ms: 143.6 },
            outcomes: vec![
                ("DependencyTimeoutException (503)".into(), timed_out),
                ("no answer within 250 ms".into(), timed_out),
            ],
            p50_ms: (0..buckets)
                .map(|bucket| Some(if late(bucket) { 148.0 } else { 9.0 } + wobble(bucket, 5) as f64 / 500.0))
                .collect(),
            p90_ms: (0..buckets).map(|bucket| Some(if late(bucket) { 240.0 } else { 15.0 })).collect(),
            p99_ms: (0..buckets)
                .map(|bucket| Some(if late(bucket) { 250.0 } else { 24.0 + wobble(bucket, 9) as f64 / 60.0 }))
                .collect(),
            per_bucket,
        },
        key_destroyed_ms: None,
        queues: QueueResult {
            in_flight_max: 256,
            hsm_parallel_max: 16,
            hsm_sessions_max: 64,
            in_flight: (0..buckets).map(|bucket| if late(bucket) { 190 } else { 3 + wobble(bucket, 4) % 4 }).collect(),
            waiting: (0..buckets).map(|bucket| wobble(bucket, 6) % 2).collect(),
            hsm_running: (0..buckets).map(|bucket| if late(bucket) { 16 } else { 2 + wobble(bucket, 7) % 3 }).collect(),
            hsm_queued: (0..buckets).map(|bucket| if late(bucket) { 48 } else { 0 }).collect(),
        },
        world: WorldResult {
            kms_hosts: 8,
            tls: "1.3".into(),
            rtt_ms: 10.0,
            loss_there: 0.001,
            loss_back: 0.0,
            zones: 2,
            proxies: 2,
            proxy_cores: 2,
            deadline_ms: 150.0,
            hsms: 2,
            hsms_per_proxy: 2,
            hsm_service_ms: 3.0,
            hsm_rtt_ms: Some(1.0),
        },
        console: console(calls, buckets),
        alarms: alarms(from_ms, to_ms),
        invariants: [
            ("plaintext-or-error", "A decrypt gives the original plaintext or an error", 41_220),
            ("durable", "A success stays decryptable after the faults", 18_004),
            ("authenticated", "Nothing unauthenticated or unauthorised reaches the HSM", 63_990),
            ("unique-iv", "An IV never repeats under a key", 22_110),
            ("answered-in-time", "Every request is answered or its connection closed inside the deadline", 63_990),
            ("status-matches-name", "The HTTP status matches the error name", 9_102),
            ("no-secret-printed", "No plaintext or secret is in any log or event", 130_448),
            ("hsm-limits", "The HSM's limits are never exceeded", 63_990),
            ("heals", "After healing, service resumes within a bound", 0),
        ]
        .into_iter()
        .map(|(name, text, checked)| check(name, text, checked, true))
        .collect(),
        expectations: vec![
            check("recovered_within", "every service recovers within 2 min of the last fault's end", 7, true),
            check("p99_outside_faults_ms", "the 99th percentile outside faults stays below 100 ms", 1, true),
        ],
        assumptions: vec![
            "MA-17: reliability threshold 0.95".into(),
            "MA-D15: S3 Bucket Keys live 300 s per requester".into(),
            "MA-D16: DynamoDB refreshes table keys every 300 s".into(),
        ],
    }
}

fn console(calls: u64, buckets: usize) -> ConsoleResult {
    ConsoleResult {
        requests: calls,
        reliability: 0.61,
        average_latency_ms: Some(96.4),
        worst_average_latency_ms: Some(188.2),
        throttled: 0,
        top_exceptions: vec![("DependencyTimeoutException".into(), calls / 5)],
        certificate_days: Some(89.0),
        connection_state: "CONNECTED".into(),
        connection_error_code: None,
        credential_age_days: 12.0,
        period_ms: 60_000,
        requests_per_period: vec![calls / buckets.max(1) as u64; buckets],
        average_latency_ms_per_period: vec![Some(96.4); buckets],
        reliability_per_period: vec![0.61; buckets],
    }
}

fn alarms(from_ms: u64, to_ms: u64) -> Vec<AlarmResult> {
    let silent = AlarmResult {
        name: "slow-proxy".into(),
        metric: "XksProxyLatency of a KmsOperation".into(),
        condition: "Average above 200 in 5 min".into(),
        threshold: 200.0,
        period_ms: 300_000,
        evaluated: 2,
        recommended: true,
        rang_at_ms: None,
        rang_after_fault_ms: None,
        rang_for_ms: 0,
        rang: Vec::new(),
        rang_more: 0,
    };
    let rang = AlarmResult {
        name: "retryable-errors".into(),
        metric: "XksProxyErrors where ErrorType = Retryable".into(),
        condition: "Sum above 5 in 1 min".into(),
        threshold: 5.0,
        period_ms: 60_000,
        evaluated: 10,
        rang_at_ms: Some(from_ms + 61_000),
        rang_after_fault_ms: Some(61_000),
        rang_for_ms: to_ms.saturating_sub(from_ms),
        rang: vec![RangSpan { from_ms: from_ms + 61_000, to_ms: Some(to_ms + 61_000) }],
        ..silent.clone()
    };
    vec![rang, silent]
}

fn service(
    life: &Life,
    salt: usize,
    bucket_ms: u64,
    buckets: usize,
    from_ms: u64,
    to_ms: u64,
) -> ServiceResult {
    let (mut ok, mut failed) = (vec![0; buckets], vec![0; buckets]);
    for bucket in 0..buckets {
        let middle = bucket as u64 * bucket_ms + bucket_ms / 2;
        let requests = if life.rate > 2 {
            life.rate + wobble(bucket, salt) % 5
        } else {
            (bucket % 3 == 0) as u64 * life.rate
        };
        let lost = match life.fails {
            Some((after, back)) if middle >= from_ms + after && middle < to_ms + back => {
                // Partial losses swell as caches run out.
                let swell = if life.lost < 100 { 60 + wobble(bucket, salt + 2) % 60 } else { 100 };
                (requests * life.lost * swell / 10_000).min(requests)
            }
            _ => 0,
        };
        failed[bucket] = lost;
        ok[bucket] = requests - lost;
    }
    let failures: u64 = failed.iter().sum();
    let requests = ok.iter().sum::<u64>() + failures;
    let first = life.fails.map(|(after, _)| from_ms + after);
    ServiceResult {
        name: life.name.into(),
        title: life.title.into(),
        represents: 1,
        requests,
        failures,
        from_cache: if life.title.contains("Keys") || life.name == "dynamodb" { requests * 4 / 5 } else { 0 },
        from_held_key: if life.name == "rds" || life.name == "lambda" { requests * 9 / 10 } else { 0 },
        kms_calls: requests / 5 + failures * 2,
        first_failure_ms: first,
        failed_after_fault_ms: life.fails.map(|(after, _)| after),
        recovered_ms: life.fails.map(|(_, back)| to_ms + back),
        recovered_after_fault_ms: life.fails.map(|(_, back)| back),
        before_faults: PhaseResult {
            requests: requests / 2,
            failures: 0,
            set_aside: 0,
            kms_calls: requests / 2,
        },
        after_faults: PhaseResult {
            requests: requests / 4,
            failures: 0,
            set_aside: 0,
            kms_calls: requests / 4,
        },
        amplification: Some(1.0),
        errors: if failures == 0 {
            Vec::new()
        } else {
            vec![ErrorCount {
                visible: life.visible.into(),
                kms_exception: INVALID_STATE.into(),
                kms_message: NO_ANSWER.into(),
                count: failures,
                first_ms: first.unwrap_or(0),
            }]
        },
        kept_working: life.kept_working.into(),
        lasting_damage: life.lasting_damage.into(),
        lost: Vec::new(),
        manual: Vec::new(),
        cached: share_of(&ok, if life.title.contains("Keys") || life.name == "dynamodb" { 80 } else { 0 }),
        held: share_of(&ok, if life.name == "rds" || life.name == "lambda" { 90 } else { 0 }),
        retries: failed.iter().map(|failed| failed / 4).collect(),
        exceptions: if failures == 0 {
            Vec::new()
        } else {
            vec![ExceptionSeries { exception: INVALID_STATE.into(), per_bucket: failed.clone() }]
        },
        samples: samples(life, from_ms),
        ok,
        failed,
    }
}

/// One that was served, and one that failed in its second attempt; none of a service whose keys are held.
fn samples(life: &Life, from_ms: u64) -> Vec<SampleRequest> {
    let span = |station, what: &str, from_ms, took_ms, ended: &str| Span {
        station,
        what: what.into(),
        from_ms,
        took_ms,
        ended: ended.into(),
    };
    if life.fails.is_none() {
        return Vec::new();
    }
    let served = SampleRequest {
        kind: SampleKind::Served,
        of: 101,
        request: 17,
        at_ms: 402.5,
        took_ms: 9.2,
        outcome: "served".into(),
        spans: vec![
            span(Station::Kms, "GenerateDataKey", 0.0, 9.2, ""),
            span(Station::Network, "request on the network", 0.0, 2.55, ""),
            span(Station::Processor, "proxy: queue for a core, and its work", 2.55, 0.05, ""),
            span(Station::Hsm, "HSM, its queue and the way to it", 2.6, 4.1, ""),
            span(Station::Network, "answer on the network", 6.7, 2.5, ""),
        ],
        spans_more: 0,
    };
    let failed = SampleRequest {
        kind: SampleKind::Failed,
        of: 101,
        request: 4_018,
        at_ms: from_ms as f64 + 1_300.0,
        took_ms: 534.0,
        outcome: life.visible.into(),
        spans: vec![
            span(Station::Kms, "Decrypt", 0.0, 250.0, "KMSInternalException"),
            span(Station::Connect, "new TCP connection", 0.0, 5.1, ""),
            span(Station::Tls, "TLS handshake", 5.1, 5.7, ""),
            span(Station::Unanswered, "no answer", 10.8, 239.2, "no answer in time"),
            span(Station::Wait, "wait before the next try", 250.0, 34.0, ""),
            span(Station::Kms, "Decrypt", 284.0, 250.0, INVALID_STATE),
            span(Station::Unanswered, "no answer", 284.0, 250.0, "no answer in time"),
        ],
        spans_more: 5,
    };
    vec![served, failed]
}

fn share_of(series: &[u64], per_cent: u64) -> Vec<u64> {
    series.iter().map(|count| count * per_cent / 100).collect()
}

pub(crate) fn check(name: &str, text: &str, checked: u64, held: bool) -> Check {
    Check { name: name.into(), text: text.into(), checked, judged: true, held, violation: None }
}

/// The plausible one: ten minutes, the HSMs away from 1 min to 6 min, a bucket per second.
pub(crate) fn sample() -> RunResult {
    outage(600_000, 600)
}

/// Eight days in 2,000 buckets.
pub(crate) fn eight_days() -> RunResult {
    let mut result = outage(8 * 86_400_000, 2_000);
    result.title = "The data centre is cut off for four days".into();
    for service in &mut result.services {
        service.errors.truncate(1);
    }
    result
}

/// Nothing goes wrong and nothing is asked of two services.
pub(crate) fn no_faults() -> RunResult {
    let mut result = outage(90_000, 90);
    result.alarms.remove(0);
    result.title = "A quiet minute and a half".into();
    result.faults.clear();
    for (index, service) in result.services.iter_mut().enumerate() {
        let buckets = service.ok.len();
        let per_bucket = if index < 2 { 0 } else { 5 };
        service.ok = vec![per_bucket; buckets];
        service.failed = vec![0; buckets];
        service.requests = per_bucket * buckets as u64;
        service.failures = 0;
        service.first_failure_ms = None;
        service.failed_after_fault_ms = None;
        service.recovered_ms = None;
        service.recovered_after_fault_ms = None;
        service.errors.clear();
        service.cached = vec![0; buckets];
        service.held = vec![0; buckets];
        service.retries = vec![0; buckets];
        service.exceptions.clear();
        service.kept_working.clear();
        service.lasting_damage.clear();
    }
    result.xks.p50_ms = vec![Some(8.0); 90];
    result.xks.p90_ms = vec![Some(14.0); 90];
    result.xks.p99_ms = vec![Some(20.0); 90];
    result.xks.per_bucket = vec![40; 90];
    result.xks.outcomes.clear();
    result.xks.timed_out = 0;
    result.xks.ok = result.xks.calls;
    result.expectations.clear();
    result
}

/// The emptiest run there can be: no service, no call, no time.
pub(crate) fn empty() -> RunResult {
    let mut result = no_faults();
    result.duration_ms = 0;
    result.bucket_ms = 0;
    result.services.clear();
    result.invariants.clear();
    result.assumptions.clear();
    result.about.clear();
    result.alarms.clear();
    result.console =
        ConsoleResult { average_latency_ms: None, worst_average_latency_ms: None, ..console(0, 0) };
    result.queues = QueueResult::default();
    result.world = WorldResult::default();
    result.xks = XksResult {
        calls: 0,
        ok: 0,
        fresh_connections: 0,
        fresh_share_before_faults: 0.0,
        fresh_share_after_faults: 0.0,
        timed_out: 0,
        patience_ms: 250,
        latency: Percentiles::default(),
        latency_outside_faults: Percentiles::default(),
        outcomes: Vec::new(),
        p50_ms: Vec::new(),
        p90_ms: Vec::new(),
        p99_ms: Vec::new(),
        per_bucket: Vec::new(),
    };
    result
}

/// A single bucket, cut short by the run's end; services without requests; a fault without length.
pub(crate) fn one_bucket() -> RunResult {
    let mut result = outage(600_000, 1);
    result.duration_ms = 700;
    result.bucket_ms = 1_000;
    result.faults = vec![FaultBand { label: "proxy restart".into(), from_ms: 700, to_ms: 700 }];
    result.xks.p50_ms = vec![None];
    result.xks.p90_ms = vec![None];
    result.xks.p99_ms = vec![Some(f64::NAN)];
    result.xks.latency.max_ms = f64::INFINITY;
    result
}

/// Everything that can be wrong: an invariant violated, an expectation missed, a service never back, odd first failures.
pub(crate) fn violated() -> RunResult {
    let mut result = sample();
    result.title = "The network to the HSM flaps, and the proxy breaks its word".into();
    result.faults = (0..14)
        .map(|index| FaultBand {
            label: "proxy–HSM link lost".into(),
            from_ms: 60_000 + index * 20_000,
            to_ms: 68_000 + index * 20_000,
        })
        .chain([FaultBand {
            label: "clock of proxy 2 runs 7 min fast".into(),
            from_ms: 200_000,
            to_ms: 600_000,
        }])
        .collect();
    result.invariants[3].held = false;
    result.invariants[3].violation =
        Some("at 1 min 12.4 s: IV 5f0c… was used twice under key hsm-key-1 (calls 812 and 4,410)".into());
    result.expectations[0].held = false;
    result.expectations[0].violation = Some("EC2 launch had not recovered 4 min after the end".into());
    result.services[3].recovered_ms = None;
    result.services[3].recovered_after_fault_ms = None;
    result.services[4].failed_after_fault_ms = None;
    result.services[4].first_failure_ms = Some(12_000);
    result.services[5].failed_after_fault_ms = Some(0);
    result.services[5].recovered_after_fault_ms = Some(0);
    let mut other = result.services[0].errors[0].clone();
    other.visible = "ServiceUnavailable (503)".into();
    other.kms_exception = "KMSInternalException".into();
    other.count = 17;
    result.services[0].errors.push(other.clone());
    other.visible = "SlowDown (503)".into();
    other.kms_exception = String::new();
    other.kms_message = String::new();
    result.services[0].errors.push(other);
    result
}

/// Text that means harm, in every field that holds text.
pub(crate) fn hostile() -> RunResult {
    let evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&\u{1b}[2J\u{202e}\u{2028}";
    let mut result = sample();
    for text in [
        &mut result.version,
        &mut result.scenario,
        &mut result.title,
        &mut result.about,
        &mut result.scenario_toml,
        &mut result.digest,
        &mut result.command,
        &mut result.hsm,
        &mut result.faults[0].label,
        &mut result.assumptions[0],
        &mut result.xks.outcomes[0].0,
    ] {
        *text = evil.into();
    }
    for service in &mut result.services {
        for text in
            [&mut service.name, &mut service.title, &mut service.kept_working, &mut service.lasting_damage]
        {
            *text = evil.into();
        }
        for error in &mut service.errors {
            for text in [&mut error.visible, &mut error.kms_exception, &mut error.kms_message] {
                *text = evil.into();
            }
        }
        for series in &mut service.exceptions {
            series.exception = evil.into();
        }
    }
    for check in result.invariants.iter_mut().chain(&mut result.expectations) {
        check.name = evil.into();
        check.text = evil.into();
        check.violation = Some(evil.into());
    }
    result
}

/// Names and sentences far longer than any table wants, one of them without a space.
pub(crate) fn long_texts() -> RunResult {
    let mut result = violated();
    let long =
        "the primary and the secondary HSM in both data centres lose power at the same moment ".repeat(4);
    result.title = long.clone();
    result.about = long.repeat(3);
    result.faults.truncate(1);
    result.faults[0].label = long.clone();
    result.services[0].title = "S3 ".to_owned() + &long;
    result.services[1].title = "x".repeat(180);
    result.services[2].kept_working = long.repeat(4);
    result.services[3].errors[0].visible = "Very.Long.Exception.Name".repeat(12);
    result.services[4].lasting_damage = long.clone();
    result.command = "xks-sim run --set ".to_owned() + &"a.b.c=12345".repeat(30);
    result.scenario_toml = format!("title = \"{long}\"\n").repeat(30);
    result.invariants[0].text = long;
    result
}

/// All of them, by name.
pub(crate) fn all() -> Vec<(&'static str, RunResult)> {
    vec![
        ("sample", sample()),
        ("eight-days", eight_days()),
        ("no-faults", no_faults()),
        ("empty", empty()),
        ("one-bucket", one_bucket()),
        ("violated", violated()),
        ("hostile", hostile()),
        ("long-texts", long_texts()),
    ]
}
