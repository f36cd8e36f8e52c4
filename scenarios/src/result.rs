//! What a run has shown: the one structure behind the terminal summary, `report.html`, `report.json` and exit codes.
//!
//! Place on the map: folded from the [`trace`](crate::trace) by `run`; rendered by [`report`](crate::report).
//! All times are simulated milliseconds since the start of the run.

use serde::Serialize;

/// A finished run.
#[derive(Clone, Debug, Serialize)]
pub struct RunResult {
    /// Version of this structure, for readers of `report.json`.
    pub format: u32,
    /// Version of the harness.
    pub version: String,
    /// Name of the scenario.
    pub scenario: String,
    /// One line: what happens.
    pub title: String,
    /// Two sentences: when it strikes in real life and what to do about it.
    pub about: String,
    /// The scenario file as it ran.
    pub scenario_toml: String,
    /// The seed.
    pub seed: u64,
    /// SHA-256 of the event trace, hexadecimal.
    pub digest: String,
    /// The command line that reproduces this run.
    pub command: String,
    /// What stood behind the proxies: `emulated HSM` or `PKCS#11 module PATH`.
    pub hsm: String,
    /// Length of the run.
    pub duration_ms: u64,
    /// Width of the buckets in every series.
    pub bucket_ms: u64,
    /// The faults, in order of time.
    pub faults: Vec<FaultBand>,
    /// The services, in the scenario's order.
    pub services: Vec<ServiceResult>,
    /// The proxy calls as KMS saw them.
    pub xks: XksResult,
    /// Every invariant, held or not.
    pub invariants: Vec<Check>,
    /// Every expectation of the scenario, met or not.
    pub expectations: Vec<Check>,
    /// The modelling assumptions that mattered, such as `MA-17: reliability threshold 0.95`.
    pub assumptions: Vec<String>,
}

/// A fault on the time axis.
#[derive(Clone, Debug, Serialize)]
pub struct FaultBand {
    /// In words: `both HSMs down`.
    pub label: String,
    /// When it began.
    pub from_ms: u64,
    /// When it ended; the run's end if it did not.
    pub to_ms: u64,
}

/// One service's story.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceResult {
    /// As in the scenario: `s3-bucket-keys`.
    pub name: String,
    /// In words: `S3 with Bucket Keys`.
    pub title: String,
    /// How many callers one simulated caller stands for. The figures below count all of them, but for `kms_calls`.
    pub represents: u32,
    /// Requests of its users.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Served from a cached data key.
    pub from_cache: u64,
    /// Served by a key held in a running resource.
    pub from_held_key: u64,
    /// KMS calls it made, SDK retries included.
    pub kms_calls: u64,
    /// First failure; `None` if it never failed.
    pub first_failure_ms: Option<u64>,
    /// How long after the first fault's beginning that was.
    pub failed_after_fault_ms: Option<u64>,
    /// When the first request came in that got its key from KMS after the last failure; `None` if it never failed or
    /// never recovered.
    pub recovered_ms: Option<u64>,
    /// How long after the last fault's end it recovered.
    pub recovered_after_fault_ms: Option<u64>,
    /// What its users saw, most frequent first.
    pub errors: Vec<ErrorCount>,
    /// What went on working during the fault and why; empty if nothing did.
    pub kept_working: String,
    /// What outlives the outage (an instance to be started by hand); empty if nothing.
    pub lasting_damage: String,
    /// What is lost for good, and how much of it.
    pub lost: Vec<Toll>,
    /// What waits for a human at the end of the run, and how much of it.
    pub manual: Vec<Toll>,
    /// Requests that succeeded, per bucket.
    pub ok: Vec<u64>,
    /// Requests that failed, per bucket.
    pub failed: Vec<u64>,
}

/// So much of something that an outage has cost.
#[derive(Clone, Debug, Serialize)]
pub struct Toll {
    /// In words, as a plural noun: `messages past their retention`.
    pub what: String,
    /// How many.
    pub count: u64,
    /// When the first came about.
    pub first_ms: u64,
}

/// One kind of failure as a service's users saw it.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorCount {
    /// The service's own error.
    pub visible: String,
    /// The KMS exception behind it.
    pub kms_exception: String,
    /// The KMS message, word for word.
    pub kms_message: String,
    /// How often.
    pub count: u64,
    /// When first.
    pub first_ms: u64,
}

/// All proxy calls.
#[derive(Clone, Debug, Serialize)]
pub struct XksResult {
    /// How many.
    pub calls: u64,
    /// How many ended in HTTP 200.
    pub ok: u64,
    /// How many needed a new connection.
    pub fresh_connections: u64,
    /// How many took KMS's whole patience.
    pub timed_out: u64,
    /// The patience: 250 ms.
    pub patience_ms: u64,
    /// Latency of all calls.
    pub latency: Percentiles,
    /// Latency of calls outside every fault.
    pub latency_outside_faults: Percentiles,
    /// Outcomes other than success, in words, most frequent first.
    pub outcomes: Vec<(String, u64)>,
    /// Per bucket.
    pub p50_ms: Vec<Option<f64>>,
    /// Per bucket.
    pub p99_ms: Vec<Option<f64>>,
    /// Calls per bucket.
    pub per_bucket: Vec<u64>,
}

/// Latency percentiles in milliseconds; zero without a call.
#[derive(Clone, Copy, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

/// An invariant or an expectation.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Its name: `plaintext-or-error`, or the expectation's key.
    pub name: String,
    /// What it says, in words.
    pub text: String,
    /// How many times it was looked at.
    pub checked: u64,
    /// Whether it held.
    pub held: bool,
    /// The first violation: what and when.
    pub violation: Option<String>,
}
