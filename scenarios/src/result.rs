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
    /// When somebody ended the run early; all figures are those until then. `None` if nobody did.
    pub interrupted_at_ms: Option<u64>,
    /// Width of the buckets in every series.
    pub bucket_ms: u64,
    /// The faults, in order of time.
    pub faults: Vec<FaultBand>,
    /// When the external key's material was destroyed in every HSM; `None` if it was not.
    pub key_destroyed_ms: Option<u64>,
    /// The services, in the scenario's order.
    pub services: Vec<ServiceResult>,
    /// The proxy calls as KMS saw them.
    pub xks: XksResult,
    /// How full the proxies and the HSMs were.
    pub queues: QueueResult,
    /// What there is: the figures behind the picture of the topology.
    pub world: WorldResult,
    /// What the owner of the key store saw of it in the KMS console, beside the true figures.
    pub console: ConsoleResult,
    /// AWS's alarms on the key store, whether they rang or not.
    pub alarms: Vec<AlarmResult>,
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
    /// When the first request came in that got its key from KMS after the last failure, or that a held key served once every
    /// fault was over. `None` if it never failed or has not recovered: unless nothing failed since the faults were over, so many
    /// requests must have succeeded since that it is a chance of less than one in a thousand.
    pub recovered_ms: Option<u64>,
    /// How long after the last fault's end it recovered.
    pub recovered_after_fault_ms: Option<u64>,
    /// Its requests before the first fault.
    pub before_faults: PhaseResult,
    /// Its requests once `settle_s` have passed since the last fault; all zero if no time is left then.
    pub after_faults: PhaseResult,
    /// How many times as many KMS calls each request makes after the faults as before them; `None` without requests or
    /// KMS calls in either.
    pub amplification: Option<f64>,
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
    /// Of those that succeeded: served from a cached data key, per bucket.
    pub cached: Vec<u64>,
    /// Of those that succeeded: served by a key held in a running resource, per bucket.
    pub held: Vec<u64>,
    /// KMS calls that its SDK repeated, per bucket; not multiplied by `represents`.
    pub retries: Vec<u64>,
    /// KMS calls that failed, by exception, in the order of the first: retries included, not multiplied by `represents`.
    pub exceptions: Vec<ExceptionSeries>,
    /// Single requests of its users from near: one that was served, one that failed, and the slowest, as far as there are
    /// such that asked KMS.
    pub samples: Vec<SampleRequest>,
}

/// One request of a service's user, and where its time went.
#[derive(Clone, Debug, Serialize)]
pub struct SampleRequest {
    /// Which it is: `served`, `failed` or `slowest`.
    pub kind: SampleKind,
    /// Out of how many requests of its kind it was chosen: the median of the first ones, or the slowest of all.
    pub of: u64,
    /// Its number among the requests of all services, as in a trace.
    pub request: u64,
    /// When it came in, since the start of the run.
    pub at_ms: f64,
    /// Until the service answered.
    pub took_ms: f64,
    /// What its user saw: `served`, or the service's own error.
    pub outcome: String,
    /// Its way through the stations, in the order in which they began; an inner one follows the one that it is a part of.
    pub spans: Vec<Span>,
    /// Spans beyond those that are kept.
    pub spans_more: u64,
}

/// What a sample request is a sample of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SampleKind {
    /// A request that was served: the median of the first ones.
    Served,
    /// A request that failed: the median of the first ones.
    Failed,
    /// The slowest of all.
    Slowest,
}

/// A stretch of a request's time.
#[derive(Clone, Debug, Serialize)]
pub struct Span {
    /// Where it was spent.
    pub station: Station,
    /// In words: `GenerateDataKey`.
    pub what: String,
    /// Since the request came in.
    pub from_ms: f64,
    /// How long.
    pub took_ms: f64,
    /// How it ended if not well: `KMSInternalException`; empty otherwise.
    pub ended: String,
}

/// Where a request can be. Those from [`Station::Connect`] on are parts of the KMS call before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Station {
    /// After a KMS call that failed and before the next: the SDK, or the caller's own software, waits.
    Wait,
    /// In KMS.
    Kms,
    /// On the way to a TCP connection with the proxy.
    Connect,
    /// In the TLS handshake.
    Tls,
    /// On the network, there or back.
    Network,
    /// At the proxy, until a core has had the time for it.
    Processor,
    /// In the proxy's own stations.
    Proxy,
    /// In the HSM, its queue, or on the way there.
    Hsm,
    /// Nowhere that KMS would hear of: no answer came in time, or at all.
    Unanswered,
}

/// One KMS exception over time.
#[derive(Clone, Debug, Serialize)]
pub struct ExceptionSeries {
    /// The class: `KMSInvalidStateException`.
    pub exception: String,
    /// KMS calls that ended in it, per bucket.
    pub per_bucket: Vec<u64>,
}

/// How full the queues were: per bucket, the most at once at any one proxy, or at any one HSM.
#[derive(Clone, Debug, Default, Serialize)]
pub struct QueueResult {
    /// Requests in flight that a proxy lets in.
    pub in_flight_max: u64,
    /// Operations that an HSM works on at once.
    pub hsm_parallel_max: u64,
    /// Sessions that an HSM has.
    pub hsm_sessions_max: u64,
    /// Requests in flight at a proxy.
    pub in_flight: Vec<u64>,
    /// Requests and TLS handshakes that wait for a core of a proxy.
    pub waiting: Vec<u64>,
    /// Operations that an HSM works on.
    pub hsm_running: Vec<u64>,
    /// Operations that wait at an HSM, each holding a session.
    pub hsm_queued: Vec<u64>,
}

/// What there is in the simulated world.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WorldResult {
    /// KMS hosts that call the proxies.
    pub kms_hosts: u64,
    /// Between KMS and the proxies: `off`, `1.2` or `1.3`.
    pub tls: String,
    /// Round-trip time between KMS and the proxies.
    pub rtt_ms: f64,
    /// Share of packets lost on that link without a fault, to the proxy, 0 to 1.
    pub loss_there: f64,
    /// The same on the way back.
    pub loss_back: f64,
    /// Availability zones.
    pub zones: u64,
    /// Proxies.
    pub proxies: u64,
    /// Cores of each proxy.
    pub proxy_cores: u64,
    /// Within which a proxy answers.
    pub deadline_ms: f64,
    /// HSMs.
    pub hsms: u64,
    /// HSMs that each proxy uses: proxy *i* those from *i* on.
    pub hsms_per_proxy: u64,
    /// Median time of one operation of an HSM.
    pub hsm_service_ms: f64,
    /// Round-trip time between proxies and HSMs; `None` where calls take no way.
    pub hsm_rtt_ms: Option<f64>,
}

/// A service's requests in a part of the run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PhaseResult {
    /// Requests of its users.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those of them that failed without a KMS call, because of what had become of the resource: an instance stopped, a table
    /// archived. That has its cause in the past, and a load of its own keeps nothing up.
    pub set_aside: u64,
    /// KMS calls it made, SDK retries included.
    pub kms_calls: u64,
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
    /// Share of calls that needed a new connection before the first fault, 0 to 1.
    pub fresh_share_before_faults: f64,
    /// The same once `settle_s` have passed since the last fault.
    pub fresh_share_after_faults: f64,
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
    pub p90_ms: Vec<Option<f64>>,
    /// Per bucket.
    pub p99_ms: Vec<Option<f64>>,
    /// Calls per bucket.
    pub per_bucket: Vec<u64>,
}

/// The key store as CloudWatch and the KMS console show it: averages, and latency cut off at KMS's patience.
#[derive(Clone, Debug, Serialize)]
pub struct ConsoleResult {
    /// Requests to the proxy.
    pub requests: u64,
    /// Share of them that ended in success or a non-retryable error; 1 without a request.
    pub reliability: f64,
    /// Average latency; `None` without a request.
    pub average_latency_ms: Option<f64>,
    /// The highest average over five minutes of any cryptographic operation, in which a slow hundredth drowns.
    pub worst_average_latency_ms: Option<f64>,
    /// KMS requests turned away by the quota of the key store.
    pub throttled: u64,
    /// The five most frequent exceptions of the proxy.
    pub top_exceptions: Vec<(String, u64)>,
    /// Days until the proxy's certificate expires, at the end of the run; `None` when it has none.
    pub certificate_days: Option<f64>,
    /// Age of the credential at the end of the run, in days.
    pub credential_age_days: f64,
    /// `ConnectionState` of the key store at the end of the run: `CONNECTED`.
    pub connection_state: String,
    /// `ConnectionErrorCode`, when that is `FAILED`.
    pub connection_error_code: Option<String>,
    /// Width of the periods of the three series.
    pub period_ms: u64,
    /// Requests per period.
    pub requests_per_period: Vec<u64>,
    /// Average latency per period.
    pub average_latency_ms_per_period: Vec<Option<f64>>,
    /// Reliability per period.
    pub reliability_per_period: Vec<f64>,
}

/// An alarm, and when it rang. It is evaluated at the end of each of its periods; the time that CloudWatch takes to
/// deliver a metric comes on top.
#[derive(Clone, Debug, Serialize)]
pub struct AlarmResult {
    /// Its name: `retryable-errors`.
    pub name: String,
    /// The metric, with what it is filtered by.
    pub metric: String,
    /// When it rings, in words: `Sum above 5 in 1 min`.
    pub condition: String,
    /// The threshold, in the metric's unit.
    pub threshold: f64,
    /// Its period.
    pub period_ms: u64,
    /// Periods that ended with a value of the metric. 0: the alarm was never evaluated, and that it did not ring says
    /// nothing.
    pub evaluated: u64,
    /// Whether AWS's documents give such a threshold, or only suggest an alarm on the metric.
    pub recommended: bool,
    /// When it first rang; `None` if never.
    pub rang_at_ms: Option<u64>,
    /// How long after the first fault's beginning it first began to ring; `None` if it never did after that.
    pub rang_after_fault_ms: Option<u64>,
    /// How long it rang, all in all, until the end of the run.
    pub rang_for_ms: u64,
    /// When it rang, in order; the first fifty.
    pub rang: Vec<RangSpan>,
    /// How often it rang beyond those.
    pub rang_more: u64,
}

/// A time in which an alarm rang.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct RangSpan {
    /// From.
    pub from_ms: u64,
    /// To; `None` when it still rang at the end of the run.
    pub to_ms: Option<u64>,
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
    /// Whether it was judged: false where the run was ended before there was what it is about.
    pub judged: bool,
    /// Whether it held; true where it was not judged.
    pub held: bool,
    /// The first violation: what and when.
    pub violation: Option<String>,
}
