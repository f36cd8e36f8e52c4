//! Takes every event of a run as it happens: one line of text into the digest, and its figures into the result.
//!
//! Place on the map: the [`Recorder`] that `world` hands to every part. It keeps figures, not events, so that a long
//! run needs no more memory than a short one; only a determinism check keeps the lines too.

mod spell;

use crate::kms::{KmsException, KmsFailure};
use crate::observer::{Observer, Seen};
use crate::request::RequestLabel;
use crate::result::{ErrorCount, Percentiles, XksResult};
use crate::services::{ServiceStats, TOO_MANY_WAITING};
use crate::sha256;
use crate::trace::{Event, Recorder, ServiceOutcome, XksEvent, XksOutcome};
use aws_lc_rs::digest::{Context, SHA256};
use hdrhistogram::Histogram;
use spell::Spell;
use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::rc::Rc;
use std::time::Duration;

/// Lines that a determinism check keeps; beyond, the digest alone tells.
const LINES_KEPT_MAX: usize = 2_000_000;
/// Buckets in every series of a result, at the most.
const BUCKETS_MAX: u64 = 300;
/// Widths of a bucket, in milliseconds: numbers that read well on a time axis.
const BUCKET_WIDTHS_MS: [u64; 17] = [
    100, 200, 500, 1_000, 2_000, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 300_000, 600_000, 1_800_000,
    3_600_000, 7_200_000, 14_400_000,
];
/// Different errors kept apart for one service; further ones are counted together.
const ERRORS_MAX: usize = 100;

/// One service's figures.
#[derive(Clone, Debug, Default)]
pub struct ServiceFigures {
    /// Requests of its users.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those that came in while a fault was on, and how many of them failed.
    pub during_faults: (u64, u64),
    /// Served from a cached data key.
    pub from_cache: u64,
    /// Served by a key held in a running resource.
    pub from_held_key: u64,
    /// KMS calls.
    pub kms_calls: u64,
    /// When a user first saw a failure.
    pub first_failure: Option<Duration>,
    /// When the last failed request came in.
    pub last_failure: Option<Duration>,
    /// When the first request came in that got its key from KMS after the last failure, or that a held key served once every
    /// fault was over. A cached key proves nothing, nor does a held one before: they work during the outage too. A request that
    /// fails while others that came after it have succeeded already moves this to the last of them at first.
    back: Option<Duration>,
    /// When the last such request came in.
    last_success: Option<Duration>,
    /// What tells whether that was a recovery: the requests that got their key from KMS, and all that succeeded. Where few
    /// requests need KMS the former say it soon; what a stopped instance or an API server refuses only the latter can.
    spells: [Spell; 2],
    /// A request failed that came in once every fault was over; and one succeeded that proves something.
    failed_after_all: bool,
    served_after_all: bool,
    /// What its users saw.
    pub errors: BTreeMap<(&'static str, Option<KmsFailureKey>), (u64, Duration)>,
    /// Successes per bucket.
    pub ok: Vec<u64>,
    /// Failures per bucket.
    pub failed: Vec<u64>,
    /// Served from a cached data key, per bucket.
    pub cached: Vec<u64>,
    /// Served by a key held in a running resource, per bucket.
    pub held: Vec<u64>,
    /// KMS calls that its SDK repeated, per bucket.
    pub retries: Vec<u64>,
    /// KMS calls that ended in each exception, per bucket.
    pub exceptions: BTreeMap<KmsException, Vec<u64>>,
    /// Before the first fault, from there until everything should be well again, and since then.
    pub phases: [Phase; 3],
    /// The same told fault by fault, for the words of the report.
    pub stats: ServiceStats,
}

/// A part of a run, counted by when things began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phase {
    /// Requests of users, or proxy calls.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Those of them that failed without a KMS call, because of what had become of the resource.
    pub set_aside: u64,
    /// KMS calls made; for proxy calls those that opened a connection, or tried.
    pub calls: u64,
}

impl Phase {
    /// Share of requests that failed; 0 without one.
    pub fn failed_share(&self) -> f64 {
        ratio(self.failures, self.requests)
    }

    /// Calls of each request; 0 without one.
    pub fn calls_per_request(&self) -> f64 {
        ratio(self.calls, self.requests)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests fit a double")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Orders KMS failures in a map: exception, row and message.
pub type KmsFailureKey = (KmsException, u8, Cow<'static, str>);

/// The figures and the digest of a run.
pub struct Recording {
    clock: crate::clock::Clock,
    /// Length of the run.
    duration: Duration,
    /// Beginnings and ends of the faults.
    faults: Vec<(Duration, Duration)>,
    /// When the first fault begins, and when everything should be well again after the last.
    troubled: Option<(Duration, Duration)>,
    bucket: Duration,
    requests: RequestLabel,
    inner: RefCell<Inner>,
}

struct Inner {
    hash: Context,
    line: String,
    lines: Option<Vec<String>>,
    observers: Vec<Rc<RefCell<dyn Observer>>>,
    events: u64,
    services: Vec<ServiceFigures>,
    xks: XksFigures,
}

struct XksFigures {
    calls: u64,
    ok: u64,
    fresh: u64,
    timed_out: u64,
    all: Histogram<u64>,
    outside: Histogram<u64>,
    /// With whether a connection was lost, see [`is_lost`].
    outcomes: BTreeMap<(XksOutcome, bool), u64>,
    /// Calls that began while a fault was on, and those of them that KMS got no good answer to.
    during_faults: (u64, u64),
    open_bucket: usize,
    /// Of the open bucket: a histogram, so that a bucket of hours takes no more memory than one of seconds.
    open: Histogram<u64>,
    p50_ms: Vec<Option<f64>>,
    p90_ms: Vec<Option<f64>>,
    p99_ms: Vec<Option<f64>>,
    per_bucket: Vec<u64>,
    phases: [Phase; 3],
}

/// What is left when the run is over.
pub struct Finished {
    /// SHA-256 over all lines, hexadecimal.
    pub digest: String,
    /// How many events there were.
    pub events: u64,
    /// The lines, if they were to be kept.
    pub lines: Option<Vec<String>>,
    /// One entry per service.
    pub services: Vec<ServiceFigures>,
    /// The proxy calls.
    pub xks: XksResult,
    /// The proxy calls by phase, as in [`ServiceFigures::phases`].
    pub xks_phases: [Phase; 3],
    /// Proxy calls that began while a fault was on, and those of them that KMS got no good answer to.
    pub xks_during_faults: (u64, u64),
    /// Width of a bucket.
    pub bucket: Duration,
}

/// The width of the buckets of a run of this length: at most 300 of them.
pub fn bucket_for(duration: Duration) -> Duration {
    let duration_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let width = BUCKET_WIDTHS_MS.into_iter().find(|width| duration_ms.div_ceil(*width) <= BUCKETS_MAX);
    Duration::from_millis(width.unwrap_or(14_400_000))
}

/// How many buckets of this width a run of this length has.
pub fn buckets_in(duration: Duration, bucket: Duration) -> usize {
    index(duration.saturating_sub(Duration::from_nanos(1)), bucket) + 1
}

impl Recording {
    /// Starts recording a run with so many services.
    ///
    /// # Errors
    /// When a latency histogram cannot be made.
    pub fn new(
        clock: crate::clock::Clock,
        services: usize,
        duration: Duration,
        faults: Vec<(Duration, Duration)>,
        settle: Duration,
        keep_lines: bool,
    ) -> Result<Self, hdrhistogram::CreationError> {
        let bucket = bucket_for(duration);
        let buckets = buckets_in(duration, bucket);
        let figures = ServiceFigures {
            ok: vec![0; buckets],
            failed: vec![0; buckets],
            cached: vec![0; buckets],
            held: vec![0; buckets],
            retries: vec![0; buckets],
            stats: ServiceStats::new(&faults),
            ..ServiceFigures::default()
        };
        // Up to an hour in microseconds, to three digits.
        let histogram = || Histogram::new_with_bounds(1, 3_600_000_000, 3);
        let begins = faults.iter().map(|(from, _)| *from).min();
        let ends = faults.iter().map(|(_, to)| *to).max();
        Ok(Self {
            clock,
            duration,
            troubled: begins.zip(ends.map(|end| end.saturating_add(settle))),
            faults,
            bucket,
            requests: RequestLabel::default(),
            inner: RefCell::new(Inner {
                hash: Context::new(&SHA256),
                line: String::with_capacity(256),
                lines: keep_lines.then(Vec::new),
                observers: Vec::new(),
                events: 0,
                services: vec![figures; services],
                xks: XksFigures {
                    calls: 0,
                    ok: 0,
                    fresh: 0,
                    timed_out: 0,
                    all: histogram()?,
                    outside: histogram()?,
                    outcomes: BTreeMap::new(),
                    during_faults: (0, 0),
                    open_bucket: 0,
                    open: histogram()?,
                    p50_ms: vec![None; buckets],
                    p90_ms: vec![None; buckets],
                    p99_ms: vec![None; buckets],
                    per_bucket: vec![0; buckets],
                    phases: [Phase::default(); 3],
                },
            }),
        })
    }

    /// Shows every event from now on to these, until the recording ends.
    pub fn show(&self, observers: &[Rc<RefCell<dyn Observer>>]) {
        self.inner.borrow_mut().observers.extend(observers.iter().map(Rc::clone));
    }

    /// Number of the phase at this time.
    fn phase(&self, at: Duration) -> usize {
        match self.troubled {
            Some((_, well)) if at >= well => 2,
            Some((begins, _)) if at >= begins => 1,
            _ => 0,
        }
    }

    /// Whether every fault is over by then. One that lasts to the end of the run is never over, whatever comes in last.
    fn is_over(&self, at: Duration) -> bool {
        self.faults.iter().all(|(_, to)| *to <= at && *to < self.duration)
    }

    fn faults_begun(&self, at: Duration) -> usize {
        self.faults.iter().filter(|(from, _)| *from <= at).count()
    }

    fn in_fault(&self, at: Duration) -> bool {
        self.faults.iter().any(|(from, to)| (*from..*to).contains(&at))
    }

    /// Ends the recording.
    pub fn finish(&self, patience: Duration) -> Finished {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        inner.xks.close_bucket();
        inner.observers.clear();
        let digest = sha256::finish(std::mem::replace(&mut inner.hash, Context::new(&SHA256)));
        let mut outcomes: Vec<(String, u64)> = inner
            .xks
            .outcomes
            .iter()
            .filter(|((outcome, _), _)| *outcome != XksOutcome::Ok)
            .map(|((outcome, lost), count)| (ending(*outcome, *lost).into_owned(), *count))
            .collect();
        outcomes.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
        Finished {
            digest: digest.iter().fold(String::with_capacity(64), |mut hex, byte| {
                // Writing to a String cannot fail.
                let _ = write!(hex, "{byte:02x}");
                hex
            }),
            events: inner.events,
            lines: inner.lines.take(),
            services: std::mem::take(&mut inner.services),
            xks: XksResult {
                calls: inner.xks.calls,
                ok: inner.xks.ok,
                fresh_connections: inner.xks.fresh,
                fresh_share_before_faults: inner.xks.phases[0].calls_per_request(),
                fresh_share_after_faults: inner.xks.phases[2].calls_per_request(),
                timed_out: inner.xks.timed_out,
                patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
                latency: percentiles(&inner.xks.all),
                latency_outside_faults: percentiles(&inner.xks.outside),
                outcomes,
                p50_ms: std::mem::take(&mut inner.xks.p50_ms),
                p90_ms: std::mem::take(&mut inner.xks.p90_ms),
                p99_ms: std::mem::take(&mut inner.xks.p99_ms),
                per_bucket: std::mem::take(&mut inner.xks.per_bucket),
            },
            xks_phases: inner.xks.phases,
            xks_during_faults: inner.xks.during_faults,
            bucket: self.bucket,
        }
    }
}

impl Recorder for Recording {
    fn emit(&self, event: Event) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        inner.line.clear();
        write_line(&mut inner.line, self.clock.now(), &event);
        inner.hash.update(inner.line.as_bytes());
        for observer in &inner.observers {
            observer.borrow_mut().observe(&Seen {
                number: inner.events,
                now: self.clock.now(),
                event: &event,
                line: &inner.line,
                request: self.requests.at_hand(),
            });
        }
        inner.events += 1;
        if let Some(lines) = &mut inner.lines
            && lines.len() < LINES_KEPT_MAX
        {
            lines.push(inner.line.clone());
        }
        match event {
            Event::Service(event) => {
                let in_fault = self.in_fault(event.at);
                let phase = self.phase(event.at);
                if let Some(figures) = inner.services.get_mut(event.service) {
                    if let Some(phase) = figures.phases.get_mut(phase) {
                        phase.requests += 1;
                        if let ServiceOutcome::Failed { visible, kms, .. } = &event.outcome {
                            phase.failures += 1;
                            phase.set_aside += u64::from(kms.is_none() && *visible != TOO_MANY_WAITING);
                        }
                    }
                    figures.stats.record(&event);
                    let when = When {
                        at: event.at,
                        took: event.took,
                        in_fault,
                        faults: self.faults_begun(event.at),
                        over: self.is_over(event.at),
                    };
                    figures.take(index(event.at, self.bucket), when, event.outcome);
                }
            }
            Event::Kms(event) => {
                if let Some(figures) = inner.services.get_mut(event.service) {
                    figures.kms_calls += 1;
                    if let Some(phase) = figures.phases.get_mut(self.phase(event.at)) {
                        phase.calls += 1;
                    }
                    if let Some(failure) = &event.failure {
                        let buckets = figures.ok.len();
                        let series =
                            figures.exceptions.entry(failure.exception).or_insert_with(|| vec![0; buckets]);
                        count_in(series, index(self.clock.now(), self.bucket));
                    }
                }
            }
            Event::Xks(event) => {
                let outside = !self.in_fault(event.at);
                if let Some(phase) = inner.xks.phases.get_mut(self.phase(event.at)) {
                    phase.requests += 1;
                    phase.failures += u64::from(event.outcome != XksOutcome::Ok);
                    phase.calls += u64::from(event.fresh_connection);
                }
                inner.xks.take(index(self.clock.now(), self.bucket), &event, outside);
            }
            Event::Fault { .. } => {}
        }
    }

    fn retry(&self, service: usize) {
        if let Some(figures) = self.inner.borrow_mut().services.get_mut(service) {
            count_in(&mut figures.retries, index(self.clock.now(), self.bucket));
        }
    }

    fn now(&self) -> Duration {
        self.clock.now()
    }

    fn requests(&self) -> RequestLabel {
        self.requests.clone()
    }
}

/// One more in this bucket, if it lies within the run.
fn count_in(series: &mut [u64], bucket: usize) {
    if let Some(slot) = series.get_mut(bucket) {
        *slot += 1;
    }
}

/// Number of the bucket that holds this time.
pub(crate) fn index(at: Duration, bucket: Duration) -> usize {
    usize::try_from(nanoseconds(at) / nanoseconds(bucket).max(1)).unwrap_or(usize::MAX)
}

/// When a request came in, as far as it matters to the figures.
#[derive(Clone, Copy)]
struct When {
    at: Duration,
    took: Duration,
    /// A fault was on.
    in_fault: bool,
    /// So many faults had begun.
    faults: usize,
    /// Every fault was over.
    over: bool,
}

impl ServiceFigures {
    fn take(&mut self, bucket: usize, when: When, outcome: ServiceOutcome) {
        let When { at, took, in_fault, faults, over } = when;
        self.requests += 1;
        let (failed, by_kms) =
            (matches!(outcome, ServiceOutcome::Failed { .. }), outcome == ServiceOutcome::ServedByKms);
        let [of_kms, of_all] = &mut self.spells;
        if failed || by_kms {
            of_kms.take(faults, failed);
        }
        of_all.take(faults, failed);
        if in_fault {
            self.during_faults.0 += 1;
        }
        match outcome {
            ServiceOutcome::Failed { visible, kms, .. } => {
                self.failures += 1;
                self.failed_after_all |= over;
                if in_fault {
                    self.during_faults.1 += 1;
                }
                self.first_failure.get_or_insert(at + took);
                // Events come in the order in which requests end; what matters here is when they came in.
                if self.last_failure.is_none_or(|last| at >= last) {
                    self.last_failure = Some(at);
                    let later = |success: &Duration| *success > at;
                    self.back = self.back.filter(later).or(self.last_success.filter(later));
                }
                let key =
                    (visible, kms.map(|KmsFailure { exception, message, row }| (exception, row, message)));
                if self.errors.len() < ERRORS_MAX || self.errors.contains_key(&key) {
                    let (count, first) = self.errors.entry(key).or_insert((0, at));
                    *count += 1;
                    *first = (*first).min(at);
                }
                count_in(&mut self.failed, bucket);
                return;
            }
            ServiceOutcome::ServedByKms => self.succeeded(at, over),
            ServiceOutcome::ServedFromCache => {
                self.from_cache += 1;
                count_in(&mut self.cached, bucket);
            }
            ServiceOutcome::ServedByHeldKey => {
                self.from_held_key += 1;
                count_in(&mut self.held, bucket);
                if over {
                    self.succeeded(at, over);
                }
            }
        }
        count_in(&mut self.ok, bucket);
    }

    /// A success that proves something.
    fn succeeded(&mut self, at: Duration, over: bool) {
        self.served_after_all |= over;
        self.last_success = self.last_success.max(Some(at));
        if self.last_failure.is_some_and(|last| at > last) {
            self.back = Some(self.back.map_or(at, |back| back.min(at)));
        }
    }

    /// When the service recovered: the first request after the last failure that proves something, if nothing has failed since
    /// the faults were over, or so many have succeeded since that it is no chance. `None` if it never failed, or has not
    /// recovered.
    pub fn recovered(&self) -> Option<Duration> {
        let ended_with_the_faults = self.served_after_all && !self.failed_after_all;
        self.back.filter(|_| ended_with_the_faults || self.spells.iter().any(Spell::is_over))
    }

    /// What its users saw, most frequent first.
    pub fn error_counts(&self) -> Vec<ErrorCount> {
        let mut counts: Vec<ErrorCount> = self
            .errors
            .iter()
            .map(|((visible, kms), (count, first))| ErrorCount {
                visible: (*visible).to_owned(),
                kms_exception: kms
                    .as_ref()
                    .map_or(String::new(), |(exception, _, _)| exception.as_str().to_owned()),
                kms_message: kms
                    .as_ref()
                    .map_or(String::new(), |(_, _, message)| message.clone().into_owned()),
                count: *count,
                first_ms: u64::try_from(first.as_millis()).unwrap_or(u64::MAX),
            })
            .collect();
        counts.sort_by(|left, right| right.count.cmp(&left.count).then(left.first_ms.cmp(&right.first_ms)));
        counts
    }
}

impl XksFigures {
    fn take(&mut self, bucket: usize, event: &XksEvent, outside: bool) {
        let took_us = u64::try_from(event.took.as_micros()).unwrap_or(u64::MAX);
        self.calls += 1;
        self.ok += u64::from(event.outcome == XksOutcome::Ok);
        self.fresh += u64::from(event.fresh_connection);
        self.timed_out += u64::from(event.outcome == XksOutcome::TimedOut);
        *self.outcomes.entry((event.outcome, is_lost(event))).or_insert(0) += 1;
        self.all.saturating_record(took_us);
        if outside {
            self.outside.saturating_record(took_us);
        } else {
            self.during_faults.0 += 1;
            self.during_faults.1 += u64::from(event.outcome != XksOutcome::Ok);
        }
        if bucket != self.open_bucket {
            self.close_bucket();
            self.open_bucket = bucket;
        }
        self.open.saturating_record(took_us);
        count_in(&mut self.per_bucket, bucket);
    }

    fn close_bucket(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let at = |quantile| milliseconds(self.open.value_at_quantile(quantile));
        for (series, quantile) in [(&mut self.p50_ms, 0.5), (&mut self.p90_ms, 0.9), (&mut self.p99_ms, 0.99)]
        {
            if let Some(slot) = series.get_mut(self.open_bucket) {
                *slot = Some(at(quantile));
            }
        }
        self.open.reset();
    }
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a run fit a double")]
fn milliseconds(us: u64) -> f64 {
    us as f64 / 1_000.0
}

fn percentiles(histogram: &Histogram<u64>) -> Percentiles {
    if histogram.is_empty() {
        return Percentiles::default();
    }
    let at = |quantile| milliseconds(histogram.value_at_quantile(quantile));
    Percentiles {
        p50_ms: at(0.5),
        p90_ms: at(0.9),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: milliseconds(histogram.max()),
    }
}

/// How a call ended, for a reader. Where more is known of its connection than the trace holds, that is said: KMS makes no
/// difference between none and one that was lost before an answer (row 14), and whoever looks for the cause does.
pub(crate) fn ending_in_words(event: &XksEvent) -> Cow<'static, str> {
    ending(event.outcome, is_lost(event))
}

fn ending(outcome: XksOutcome, lost: bool) -> Cow<'static, str> {
    if lost { "connection lost before an answer".into() } else { outcome_in_words(outcome) }
}

/// Whether there was a connection at first: a kept one, or a new one that had got as far as TLS.
fn is_lost(event: &XksEvent) -> bool {
    event.outcome == XksOutcome::NoConnection && (!event.fresh_connection || !event.stages.securing.is_zero())
}

fn outcome_in_words(outcome: XksOutcome) -> Cow<'static, str> {
    match outcome {
        XksOutcome::Ok => "answered".into(),
        XksOutcome::Error { name, status } => format!("{} ({status})", name.as_str()).into(),
        XksOutcome::NoConnection => "no TCP connection".into(),
        XksOutcome::NoTls => "no TLS connection".into(),
        XksOutcome::TimedOut => "no answer in time".into(),
        XksOutcome::Malformed => "connection closed or answer not understood".into(),
    }
}

/// Every event has three of these, and a `u64` is written several times as fast as the `u128` of [`Duration::as_nanos`]; it
/// holds 584 years.
fn nanoseconds(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(time.subsec_nanos()))
}

/// How a KMS call ended, written without a string of its own.
struct Ending<'a>(&'a Option<KmsFailure>);

impl fmt::Display for Ending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("ok"),
            Some(failure) => write!(f, "{} row {}", failure.exception.as_str(), failure.row),
        }
    }
}

/// One event as a line. Whatever may differ between equal runs stays out.
fn write_line(line: &mut String, now: Duration, event: &Event) {
    let now_ns = nanoseconds(now);
    // Writing to a String cannot fail.
    let _ = match event {
        Event::Service(event) => {
            let _ = write!(
                line,
                "{now_ns} service {} at {} took {} ",
                event.service,
                nanoseconds(event.at),
                nanoseconds(event.took)
            );
            match &event.outcome {
                ServiceOutcome::ServedByKms => writeln!(line, "kms"),
                ServiceOutcome::ServedFromCache => writeln!(line, "cache"),
                ServiceOutcome::ServedByHeldKey => writeln!(line, "held key"),
                ServiceOutcome::Failed { visible, kms, attempts } => {
                    writeln!(line, "failed after {attempts}: {visible}: {}", Ending(kms))
                }
            }
        }
        Event::Kms(event) => writeln!(
            line,
            "{now_ns} kms {} for service {} at {} took {} {}",
            event.operation.as_str(),
            event.service,
            nanoseconds(event.at),
            nanoseconds(event.took),
            Ending(&event.failure)
        ),
        Event::Xks(event) => writeln!(
            line,
            "{now_ns} xks from host {} at {} took {} {}{}",
            event.kms_host,
            nanoseconds(event.at),
            nanoseconds(event.took),
            outcome_in_words(event.outcome),
            if event.fresh_connection { " on a new connection" } else { "" }
        ),
        Event::Fault { index, begins, .. } => {
            writeln!(line, "{now_ns} fault {index} {}", if *begins { "begins" } else { "ends" })
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn failed() -> ServiceOutcome {
        ServiceOutcome::Failed { visible: "broken", kms: None, attempts: 1 }
    }

    /// One service's figures, fed by hand.
    struct Fed(ServiceFigures);

    impl Fed {
        fn new() -> Self {
            let series = || vec![0; 1_000];
            Self(ServiceFigures { ok: series(), failed: series(), ..ServiceFigures::default() })
        }

        /// Requests that came in at this second and took so long, during the only fault, which begins at second 2, or after it.
        fn take(&mut self, at_s: u64, took_s: u64, over: bool, outcome: &ServiceOutcome) {
            let s = Duration::from_secs;
            let (in_fault, faults) = (at_s >= 2 && !over, usize::from(at_s >= 2));
            let when = When { at: s(at_s), took: s(took_s), in_fault, faults, over };
            self.0.take(at_s as usize, when, outcome.clone());
        }
    }

    #[test]
    fn recovery_is_the_first_key_from_kms_after_the_last_failure() {
        let s = Duration::from_secs;
        let mut fed = Fed::new();
        fed.take(1, 0, false, &ServiceOutcome::ServedByKms);
        fed.take(2, 0, false, &failed());
        fed.take(4, 0, false, &ServiceOutcome::ServedByKms);
        assert_eq!(fed.0.recovered(), Some(s(4)), "everything failed: one success is enough");
        // It came in before that success but ended later: no new failure after the recovery.
        fed.take(3, 0, false, &failed());
        (0..10).for_each(|_| fed.take(4, 0, false, &ServiceOutcome::ServedByKms));
        assert_eq!(fed.0.recovered(), Some(s(4)));
        fed.take(5, 0, false, &failed());
        assert_eq!(fed.0.recovered(), None);
        assert_eq!((fed.0.requests, fed.0.failures, fed.0.during_faults), (15, 3, (14, 3)));
        // A cached key proves nothing, nor does one that a resource holds while a fault is on.
        (0..100).for_each(|_| fed.take(6, 0, false, &ServiceOutcome::ServedFromCache));
        (0..100).for_each(|_| fed.take(6, 0, false, &ServiceOutcome::ServedByHeldKey));
        assert_eq!(fed.0.recovered(), None);
        fed.take(7, 0, false, &ServiceOutcome::ServedByKms);
        let ends = (fed.0.first_failure, fed.0.last_failure, fed.0.recovered());
        assert_eq!(ends, (Some(s(2)), Some(s(5)), Some(s(7))));
        fed.take(8, 0, false, &failed());
        (0..100).for_each(|_| fed.take(9, 0, true, &ServiceOutcome::ServedByHeldKey));
        assert_eq!(fed.0.recovered(), Some(s(9)));
    }

    /// Two failures in a minute, and none since the fault is over: its end is their end, though few requests tell.
    #[test]
    fn what_fails_rarely_and_no_more_after_the_fault_has_recovered() {
        let fed = |last_is_over| {
            let mut fed = Fed::new();
            for second in 2..5 {
                (0..100).for_each(|_| fed.take(second, 0, false, &ServiceOutcome::ServedByKms));
                fed.take(second, 0, second == 4 && last_is_over, &failed());
            }
            fed.take(6, 0, true, &ServiceOutcome::ServedByKms);
            fed.0.recovered()
        };
        assert_eq!((fed(false), fed(true)), (Some(Duration::from_secs(6)), None));
    }

    /// A table whose key is cached needs KMS once in hundreds of requests: those few tell, and the many need not be waited for.
    #[test]
    fn where_few_requests_need_kms_they_tell_of_the_recovery() {
        let mut fed = Fed::new();
        for second in 2..5 {
            (0..1_000).for_each(|_| fed.take(second, 0, false, &ServiceOutcome::ServedFromCache));
            fed.take(second, 0, false, &failed());
        }
        (0..1_000).for_each(|_| fed.take(6, 0, true, &ServiceOutcome::ServedFromCache));
        assert_eq!(fed.0.recovered(), None);
        fed.take(7, 0, true, &ServiceOutcome::ServedByKms);
        assert_eq!(fed.0.recovered(), Some(Duration::from_secs(7)));
    }

    /// It failed late: a request that came in after it has been served already, and that is a recovery.
    #[test]
    fn a_request_that_fails_late_ends_no_recovery() {
        let s = Duration::from_secs;
        let mut fed = Fed::new();
        (2..5).for_each(|at| fed.take(at, 0, false, &failed()));
        fed.take(7, 0, true, &ServiceOutcome::ServedByKms);
        fed.take(6, 9, true, &failed());
        (0..10).for_each(|_| fed.take(8, 0, true, &ServiceOutcome::ServedByKms));
        assert_eq!((fed.0.last_failure, fed.0.recovered()), (Some(s(6)), Some(s(7))));
        fed.take(7, 9, true, &failed());
        assert_eq!(fed.0.recovered(), None, "served at second 7, too, but there is a failure since");
        (0..30).for_each(|_| fed.take(8, 0, true, &ServiceOutcome::ServedByKms));
        assert_eq!((fed.0.last_failure, fed.0.recovered()), (Some(s(7)), Some(s(8))));
    }

    /// Volumes whose attaches fail, one request in fifty, to the end of the run: every second ends with a success, and once the
    /// report called the last of them the recovery.
    #[test]
    fn a_success_between_two_failures_is_no_recovery() {
        let mut fed = Fed::new();
        let held = ServiceOutcome::ServedByHeldKey;
        for second in 2..300 {
            fed.take(second, 0, second > 100, &failed());
            (0..49).for_each(|_| fed.take(second, 0, second > 100, &held));
            assert_eq!(fed.0.recovered(), None, "second {second}");
        }
        // A thousand to one: 342 in a row where one in fifty fails.
        (0..300).for_each(|_| fed.take(300, 0, true, &held));
        assert_eq!(fed.0.recovered(), Some(Duration::from_secs(300)));
    }

    #[test]
    fn buckets_stay_few_and_their_widths_readable() {
        assert_eq!(bucket_for(Duration::from_secs(600)), Duration::from_secs(2));
        assert_eq!(bucket_for(Duration::from_secs(10)), Duration::from_millis(100));
        assert_eq!(bucket_for(Duration::from_secs(8 * 86_400)), Duration::from_secs(3_600));
    }

    /// A function whose key is destroyed: its last warm invocation, at the very end, once counted as the recovery.
    #[test]
    fn a_fault_that_lasts_to_the_end_is_never_over() {
        let second = Duration::from_secs(1);
        let over = clock::run([0; 32], |clock| async move {
            let recording = |ends| {
                let faults = vec![(second, ends * second)];
                Recording::new(clock.clone(), 0, 10 * second, faults, Duration::ZERO, false).unwrap()
            };
            (recording(9).is_over(9 * second), recording(10).is_over(10 * second))
        })
        .unwrap();
        assert_eq!(over, (true, false));
    }

    #[test]
    fn each_bucket_has_its_own_percentiles_and_silent_ones_have_none() {
        let figures = clock::run([0; 32], |clock| async move {
            let second = Duration::from_secs(1);
            let recording =
                Recording::new(clock.clone(), 0, second, Vec::new(), Duration::ZERO, false).unwrap();
            let call = |ms: u64| {
                recording.emit(Event::Xks(XksEvent {
                    kms_host: 0,
                    at: clock.now(),
                    took: Duration::from_millis(ms),
                    fresh_connection: false,
                    outcome: XksOutcome::Ok,
                    stages: crate::trace::XksStages::default(),
                }));
            };
            (1..=100).for_each(call);
            clock.sleep_until(second * 3 / 10).await;
            call(250);
            clock.sleep_until(second * 2).await;
            // After the end: in no bucket.
            call(9);
            recording.finish(second).xks
        })
        .unwrap();
        let near =
            |found: Option<f64>, ms: f64| found.is_some_and(|found| (found - ms).abs() <= ms / 1_000.0);
        assert!(near(figures.p50_ms[0], 50.0) && near(figures.p99_ms[0], 99.0), "{:?}", figures.p50_ms);
        assert!(near(figures.p50_ms[3], 250.0) && near(figures.p99_ms[3], 250.0), "{:?}", figures.p99_ms);
        assert_eq!(figures.p50_ms.iter().flatten().count(), 2);
        assert_eq!((figures.per_bucket[0], figures.per_bucket[3], figures.calls), (100, 1, 102));
    }
}
