//! What CloudWatch shows of the key store: the metrics of namespace `AWS/KMS`, period by period.
//!
//! Place on the map: [`model`](super::model) notes every call here; [`alarms`](super::alarms) hear of every finished
//! period, the run's result of the rest. Metrics and dimensions are those of kms-behaviour 9 (Developer Guide,
//! monitoring-cloudwatch). Memory does not grow with simulated time: sums, and a series that halves its resolution
//! when it is full. That alarms hear of a period as soon as it ends is optimistic: CloudWatch takes its time to deliver
//! metrics, and no document says how much.

use super::KmsOperation;
use super::alarms::{Alarm, AlarmName, Alarms, FIVE_MINUTES, MINUTE};
use super::answers::ManagerStates;
use super::failure::Cause;
use super::settings::KmsSettings;
use std::collections::BTreeMap;
use std::time::Duration;
use xks_proxy::env::UnixTime;

/// Points kept of the series.
pub const POINTS_MAX: usize = 300;
const DAY: Duration = Duration::from_secs(86_400);

/// `ErrorType` of a sample of `XksProxyErrors`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorType {
    /// A success.
    None,
    /// Lowers the proxy's reliability.
    Retryable,
    /// Does not.
    NonRetryable,
}

impl ErrorType {
    /// The value of the dimension.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "N/A",
            Self::Retryable => "Retryable",
            Self::NonRetryable => "Non-retryable",
        }
    }
}

/// `XksOperation` of a sample: what KMS asked the proxy for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "named as in the XKS API")]
pub enum XksOperation {
    GetHealthStatus,
    GetKeyMetadata,
    Encrypt,
    Decrypt,
}

/// Dimensions `KmsOperation` and `XksOperation`, with what was counted under them.
#[derive(Clone, Debug)]
pub struct Operation {
    /// `KmsOperation`.
    pub kms_operation: &'static str,
    /// `XksOperation`.
    pub xks_operation: XksOperation,
    /// Samples of `XksProxyErrors` by `ErrorType` and `ExceptionName`.
    pub errors: BTreeMap<(ErrorType, &'static str), u64>,
    /// Requests, and the sum of their `XksProxyLatency` in microseconds.
    pub latency: Sum,
    /// The same of the period that is open.
    open: Sum,
}

/// A number of samples and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub samples: u64,
    /// Microseconds.
    pub sum_us: u64,
}

impl Sum {
    fn add(&mut self, us: u64) {
        self.samples += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    /// In milliseconds; `None` without a sample.
    #[expect(clippy::cast_precision_loss, reason = "microseconds of a run fit a double")]
    pub fn average_ms(self) -> Option<f64> {
        (self.samples > 0).then(|| self.sum_us as f64 / 1_000.0 / self.samples as f64)
    }
}

/// One point of the series: what fell into one period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Requests to the proxy and their latency as recorded.
    pub latency: Sum,
    /// Those that ended in a retryable error.
    pub retryable: u64,
    /// Those that ended in another error.
    pub non_retryable: u64,
    /// KMS requests turned away by the quota of the key store.
    pub throttled: u64,
}

impl Point {
    fn merge(&mut self, other: Self) {
        self.latency.samples += other.latency.samples;
        self.latency.sum_us = self.latency.sum_us.saturating_add(other.latency.sum_us);
        self.retryable += other.retryable;
        self.non_retryable += other.non_retryable;
        self.throttled += other.throttled;
    }

    /// The console's "reliability": the share that ended in success or a non-retryable error; 1 without a request.
    #[expect(clippy::cast_precision_loss, reason = "counts of requests fit a double")]
    pub fn reliability(&self) -> f64 {
        if self.latency.samples == 0 {
            return 1.0;
        }
        1.0 - self.retryable as f64 / self.latency.samples as f64
    }
}

/// One request to the proxy, as it goes into the metrics.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) kms_operation: &'static str,
    pub(super) xks_operation: XksOperation,
    pub(super) took: Duration,
    /// `None` for a success.
    pub(super) cause: Option<Cause>,
    /// The connection set-up was tried a second time.
    pub(super) retried: bool,
}

/// The metrics of one key store.
#[derive(Clone, Debug)]
pub struct CloudWatch {
    patience: Duration,
    /// Wall time at the beginning of the run.
    begins: UnixTime,
    connected: bool,
    operations: Vec<Operation>,
    /// `ExternalKeyStoreThrottle` by `KmsOperation`.
    throttled: BTreeMap<&'static str, u64>,
    /// `SuccessfulRequest` by key number and operation.
    successful: BTreeMap<(usize, KmsOperation), u64>,
    total: Point,
    minute: Point,
    minute_end: Duration,
    five_minutes_end: Duration,
    /// Highest counts of DEGRADED and UNAVAILABLE in the open five minutes.
    managers: Option<(u32, u32)>,
    worst_average_ms: Option<f64>,
    certificate_not_after: Option<UnixTime>,
    /// Simulated time since which KMS has the credential, and its age then.
    credential_since: (Duration, Duration),
    series: Vec<Point>,
    /// Width of a point.
    width: Duration,
    alarms: Alarms,
}

impl CloudWatch {
    /// Without a sample, at wall time `begins`.
    pub(super) fn new(settings: &KmsSettings, begins: UnixTime) -> Self {
        Self {
            patience: settings.patience(),
            begins,
            connected: false,
            operations: Vec::new(),
            throttled: BTreeMap::new(),
            successful: BTreeMap::new(),
            total: Point::default(),
            minute: Point::default(),
            minute_end: MINUTE,
            five_minutes_end: FIVE_MINUTES,
            managers: None,
            worst_average_ms: None,
            certificate_not_after: None,
            credential_since: (Duration::ZERO, DAY.mul_f64(settings.credential_age_days)),
            series: Vec::new(),
            width: MINUTE,
            alarms: Alarms::new(settings),
        }
    }

    /// Closes every period that has ended by simulated time `now`.
    pub(super) fn advance(&mut self, now: Duration) {
        while now >= self.minute_end {
            let end = self.minute_end;
            let minute = std::mem::take(&mut self.minute);
            // A metric without a sample has no value; one request makes both sums, be they 0.
            let value = |errors: u64| (minute.latency.samples > 0).then_some(errors as f64);
            self.alarms.observe(AlarmName::RetryableErrors, end, value(minute.retryable));
            self.alarms.observe(AlarmName::NonRetryableErrors, end, value(minute.non_retryable));
            self.minute_end += MINUTE;
            if end >= self.five_minutes_end {
                self.close_five_minutes(end);
            }
        }
    }

    fn close_five_minutes(&mut self, end: Duration) {
        // The recommended alarm watches one KmsOperation; here it rings when any cryptographic one would make it.
        let mut average = None;
        for operation in &mut self.operations {
            let open = std::mem::take(&mut operation.open);
            if matches!(operation.xks_operation, XksOperation::Encrypt | XksOperation::Decrypt)
                && let Some(found) = open.average_ms()
            {
                average = Some(average.map_or(found, |worst: f64| worst.max(found)));
            }
        }
        if let Some(average) = average {
            self.worst_average_ms = Some(self.worst_average_ms.map_or(average, |worst| worst.max(average)));
        }
        self.alarms.observe(AlarmName::SlowProxy, end, average);
        let managers = self.managers.take();
        self.alarms.observe(AlarmName::DegradedManagers, end, managers.map(|(degraded, _)| degraded.into()));
        self.alarms.observe(
            AlarmName::UnavailableManagers,
            end,
            managers.map(|(_, unavailable)| unavailable.into()),
        );
        let days = self.certificate_days(end).filter(|_| self.connected);
        self.alarms.observe(AlarmName::CertificateExpiry, end, days);
        let age = self.connected.then(|| self.credential_age_days(end));
        self.alarms.observe(AlarmName::CredentialAge, end, age);
        self.five_minutes_end += FIVE_MINUTES;
    }

    /// One request to the proxy ended at simulated time `now`. Latency goes in as the console would show it: what
    /// took longer than KMS waits is recorded as the patience, twice that after a second attempt. A refused connection
    /// is no time-out and is recorded as it was.
    pub(super) fn note_request(&mut self, now: Duration, sample: Sample) {
        self.advance(now);
        let most = if sample.retried { self.patience * 2 } else { self.patience };
        let us = u64::try_from(sample.took.min(most).as_micros()).unwrap_or(u64::MAX);
        let (error_type, exception) = classify(sample.cause);
        let found = self.operations.iter().position(|it| {
            it.xks_operation == sample.xks_operation && it.kms_operation == sample.kms_operation
        });
        let index = found.unwrap_or_else(|| {
            self.operations.push(Operation {
                kms_operation: sample.kms_operation,
                xks_operation: sample.xks_operation,
                errors: BTreeMap::new(),
                latency: Sum::default(),
                open: Sum::default(),
            });
            self.operations.len() - 1
        });
        if let Some(operation) = self.operations.get_mut(index) {
            *operation.errors.entry((error_type, exception)).or_default() += 1;
            operation.latency.add(us);
            operation.open.add(us);
        }
        self.count(now, |point| {
            point.latency.add(us);
            match error_type {
                ErrorType::None => {}
                ErrorType::Retryable => point.retryable += 1,
                ErrorType::NonRetryable => point.non_retryable += 1,
            }
        });
    }

    /// A cryptographic request succeeded: `SuccessfulRequest`.
    pub(super) fn note_success(&mut self, key: usize, operation: KmsOperation) {
        *self.successful.entry((key, operation)).or_default() += 1;
    }

    /// The quota of the key store turned a request away: `ExternalKeyStoreThrottle`.
    pub(super) fn note_throttle(&mut self, now: Duration, operation: KmsOperation) {
        self.advance(now);
        *self.throttled.entry(operation.as_str()).or_default() += 1;
        self.count(now, |point| point.throttled += 1);
    }

    /// The proxy told of its key managers: `XksExternalKeyManagerStates`.
    pub(super) fn note_managers(&mut self, now: Duration, states: ManagerStates) {
        self.advance(now);
        let (degraded, unavailable) = self.managers.unwrap_or_default();
        self.managers = Some((degraded.max(states.degraded), unavailable.max(states.unavailable)));
    }

    /// No metric comes of a key store that is not connected.
    pub(super) fn set_connected(&mut self, now: Duration, connected: bool) {
        self.advance(now);
        self.connected = connected;
    }

    /// KMS was given a credential: its age begins anew.
    pub(super) fn note_credential(&mut self, now: Duration) {
        self.advance(now);
        self.credential_since = (now, Duration::ZERO);
    }

    /// The proxy's certificate is another one. What KMS knows of at the beginning of the run it knew before, and so did the
    /// alarm: it rings ten days ahead, and few runs are as long.
    pub(super) fn set_certificate(&mut self, now: Duration, not_after: Option<UnixTime>) {
        self.advance(now);
        self.certificate_not_after = not_after;
        if now.is_zero()
            && let Some(days) = self.certificate_days(now).filter(|_| self.connected)
        {
            self.alarms.observe(AlarmName::CertificateExpiry, now, Some(days));
        }
    }

    fn count(&mut self, now: Duration, add: impl Fn(&mut Point)) {
        add(&mut self.total);
        add(&mut self.minute);
        let index = loop {
            let index = usize::try_from(now.as_nanos() / self.width.as_nanos()).unwrap_or(usize::MAX);
            if index < POINTS_MAX {
                break index;
            }
            self.halve();
        };
        if index >= self.series.len() {
            self.series.resize(index + 1, Point::default());
        }
        if let Some(point) = self.series.get_mut(index) {
            add(point);
        }
    }

    fn halve(&mut self) {
        self.width *= 2;
        self.series = self
            .series
            .chunks(2)
            .map(|pair| {
                let mut sum = Point::default();
                pair.iter().for_each(|point| sum.merge(*point));
                sum
            })
            .collect();
    }

    /// `XksProxyCertificateDaysToExpire` at simulated time `at`, in whole days; `None` when no certificate is known.
    pub fn certificate_days(&self, at: Duration) -> Option<f64> {
        let left = self.certificate_not_after?.0.as_secs_f64() - (self.begins.0 + at).as_secs_f64();
        Some((left / DAY.as_secs_f64()).floor())
    }

    /// `XksProxyCredentialAge` at simulated time `at`, in days.
    pub fn credential_age_days(&self, at: Duration) -> f64 {
        let (since, age) = self.credential_since;
        (age + at.saturating_sub(since)).as_secs_f64() / DAY.as_secs_f64()
    }

    /// `XksProxyErrors` and `XksProxyLatency` by dimension.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// `ExternalKeyStoreThrottle` by `KmsOperation`.
    pub fn throttled(&self) -> &BTreeMap<&'static str, u64> {
        &self.throttled
    }

    /// `SuccessfulRequest` by key number and operation.
    pub fn successful(&self) -> &BTreeMap<(usize, KmsOperation), u64> {
        &self.successful
    }

    /// Everything in one point.
    pub fn total(&self) -> Point {
        self.total
    }

    /// The highest five-minute average of `XksProxyLatency` of any cryptographic operation, in milliseconds.
    pub fn worst_average_ms(&self) -> Option<f64> {
        self.worst_average_ms
    }

    /// The series from the start of the run on, at most [`POINTS_MAX`] points, and the width of each.
    pub fn series(&self) -> (&[Point], Duration) {
        (&self.series, self.width)
    }

    /// Exceptions of the proxy, most frequent first, at most `most`.
    pub fn top_exceptions(&self, most: usize) -> Vec<(&'static str, u64)> {
        let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
        for operation in &self.operations {
            for ((error_type, exception), count) in &operation.errors {
                if *error_type != ErrorType::None {
                    *counts.entry(exception).or_default() += count;
                }
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by(|left, right| right.1.cmp(&left.1).then(left.0.cmp(right.0)));
        counts.truncate(most);
        counts
    }

    /// The alarms as of the last period that has ended.
    pub fn alarms(&self) -> &[Alarm] {
        self.alarms.all()
    }
}

/// `ErrorType` and `ExceptionName`. Documented are the proxy's names and `XksProxyUnreachableException`; the name for an
/// answer that cannot be understood is an assumption.
fn classify(cause: Option<Cause>) -> (ErrorType, &'static str) {
    let Some(cause) = cause else { return (ErrorType::None, "None") };
    let error_type = if cause.is_retryable() { ErrorType::Retryable } else { ErrorType::NonRetryable };
    let exception = match cause {
        Cause::Error(name) => name.as_str(),
        Cause::NoConnection | Cause::NoTls | Cause::TimedOut => "XksProxyUnreachableException",
        Cause::Malformed | Cause::InnerLayer | Cause::NotConnected | Cause::Unhealthy | Cause::Quota => {
            "XksProxyInvalidResponseException"
        }
    };
    (error_type, exception)
}

#[cfg(test)]
mod tests {
    use super::*;
    use xks_proxy::error::ErrorName;

    const BEGINS: UnixTime = UnixTime(Duration::from_secs(1_767_225_600));

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn cloudwatch() -> CloudWatch {
        let mut cloudwatch = CloudWatch::new(&KmsSettings::default(), BEGINS);
        cloudwatch.set_connected(Duration::ZERO, true);
        cloudwatch
    }

    fn sample(took_ms: u64, cause: Option<Cause>) -> Sample {
        Sample {
            kms_operation: "Decrypt",
            xks_operation: XksOperation::Decrypt,
            took: Duration::from_millis(took_ms),
            cause,
            retried: false,
        }
    }

    fn rang(cloudwatch: &CloudWatch, name: AlarmName) -> Vec<(Duration, Option<Duration>)> {
        cloudwatch.alarms().iter().find(|alarm| alarm.name == name).unwrap().spans.clone()
    }

    #[test]
    fn six_errors_in_a_minute_ring_at_its_end_and_five_do_not() {
        let mut cloudwatch = cloudwatch();
        let failed = Some(Cause::Error(ErrorName::InternalException));
        let denied = Some(Cause::Error(ErrorName::AccessDeniedException));
        for n in 0..5 {
            cloudwatch.note_request(s(n), sample(1, failed));
            cloudwatch.note_request(s(n), sample(1, denied));
        }
        // The sixth falls into the next minute.
        (60..66).for_each(|n| cloudwatch.note_request(s(n), sample(1, failed)));
        cloudwatch.advance(s(119));
        assert_eq!(rang(&cloudwatch, AlarmName::RetryableErrors), []);
        cloudwatch.advance(s(120));
        assert_eq!(rang(&cloudwatch, AlarmName::RetryableErrors), [(s(120), None)]);
        cloudwatch.advance(s(500));
        assert_eq!(rang(&cloudwatch, AlarmName::RetryableErrors), [(s(120), Some(s(180)))]);
        assert_eq!(rang(&cloudwatch, AlarmName::NonRetryableErrors), []);
        assert_eq!(cloudwatch.top_exceptions(5), [("InternalException", 11), ("AccessDeniedException", 5)]);
        assert_eq!((cloudwatch.total().retryable, cloudwatch.total().non_retryable), (11, 5));
    }

    #[test]
    fn latency_is_censored_and_the_average_hides_a_slow_fiftieth() {
        let mut cloudwatch = cloudwatch();
        // One call in fifty times out: 2 % of callers fail, and the alarm hears of nothing.
        for n in 0..500 {
            let late = n % 50 == 0;
            let sample = sample(if late { 9_000 } else { 20 }, late.then_some(Cause::TimedOut));
            cloudwatch.note_request(s(n / 2), sample);
        }
        cloudwatch.advance(s(300));
        let average = cloudwatch.worst_average_ms().unwrap();
        assert!((24.59..24.61).contains(&average), "{average}");
        assert_eq!(rang(&cloudwatch, AlarmName::SlowProxy), []);
        // Twice the patience after the second attempt.
        let both = Sample { retried: true, ..sample(500, Some(Cause::NoConnection)) };
        cloudwatch.note_request(s(301), both);
        cloudwatch.note_request(s(302), sample(0, None));
        cloudwatch.advance(s(600));
        assert_eq!(cloudwatch.worst_average_ms(), Some(250.0));
        assert_eq!(rang(&cloudwatch, AlarmName::SlowProxy), [(s(600), None)]);
    }

    #[test]
    fn a_certificate_rings_ten_days_ahead_and_falls_silent_when_renewed() {
        let mut cloudwatch = cloudwatch();
        cloudwatch.set_certificate(s(0), Some(UnixTime(BEGINS.0 + DAY * 11)));
        cloudwatch.advance(DAY + s(299));
        assert_eq!(rang(&cloudwatch, AlarmName::CertificateExpiry), []);
        cloudwatch.advance(DAY + s(900));
        assert_eq!(rang(&cloudwatch, AlarmName::CertificateExpiry), [(DAY + s(300), None)]);
        cloudwatch.set_certificate(DAY + s(1_000), Some(UnixTime(BEGINS.0 + DAY * 100)));
        cloudwatch.advance(DAY * 8);
        assert_eq!(rang(&cloudwatch, AlarmName::CertificateExpiry), [(DAY + s(300), Some(DAY + s(1_200)))]);
        assert_eq!(cloudwatch.certificate_days(DAY * 8), Some(92.0));
    }

    #[test]
    fn a_certificate_that_has_few_days_left_at_the_beginning_rings_from_then_on() {
        for (days, spans) in [(9, vec![(s(0), None)]), (10, vec![])] {
            let mut cloudwatch = cloudwatch();
            cloudwatch.set_certificate(s(0), Some(UnixTime(BEGINS.0 + DAY * days)));
            assert_eq!(rang(&cloudwatch, AlarmName::CertificateExpiry), spans, "{days} days");
            let alarm = |it: &&Alarm| it.name == AlarmName::CertificateExpiry;
            assert_eq!(cloudwatch.alarms().iter().find(alarm).unwrap().evaluated, 1);
        }
    }

    #[test]
    fn credentials_and_managers_ring() {
        let settings = KmsSettings { credential_age_days: 364.0, ..KmsSettings::default() };
        let mut cloudwatch = CloudWatch::new(&settings, BEGINS);
        cloudwatch.set_connected(s(0), true);
        cloudwatch.note_managers(s(10), ManagerStates { active: 1, degraded: 1, unavailable: 0 });
        cloudwatch.note_managers(s(11), ManagerStates { active: 2, degraded: 0, unavailable: 0 });
        cloudwatch.advance(s(300));
        assert_eq!(rang(&cloudwatch, AlarmName::DegradedManagers), [(s(300), None)]);
        assert_eq!(rang(&cloudwatch, AlarmName::UnavailableManagers), []);
        cloudwatch.advance(DAY + s(600));
        assert_eq!(rang(&cloudwatch, AlarmName::CredentialAge), [(DAY + s(300), None)]);
        cloudwatch.note_credential(DAY + s(601));
        // A key store that is not connected has no metrics, and a certificate nobody looks at cannot ring.
        cloudwatch.set_certificate(DAY + s(602), Some(BEGINS));
        cloudwatch.set_connected(DAY + s(603), false);
        cloudwatch.advance(DAY * 3);
        assert_eq!(rang(&cloudwatch, AlarmName::CredentialAge), [(DAY + s(300), Some(DAY + s(900)))]);
        assert_eq!(rang(&cloudwatch, AlarmName::CertificateExpiry), []);
    }

    #[test]
    fn the_series_stays_bounded_and_loses_nothing() {
        let mut cloudwatch = cloudwatch();
        let calls = 20_000;
        for n in 0..calls {
            let failed = (n % 4 == 0).then_some(Cause::TimedOut);
            cloudwatch.note_request(s(n * 60), sample(10, failed));
        }
        let (series, width) = cloudwatch.series();
        assert!((POINTS_MAX / 2..=POINTS_MAX).contains(&series.len()), "{}", series.len());
        assert_eq!(width, MINUTE * 128);
        assert_eq!(series.iter().map(|point| point.latency.samples).sum::<u64>(), calls);
        assert_eq!(series.iter().map(|point| point.retryable).sum::<u64>(), calls / 4);
        assert!((series[3].reliability() - 0.75).abs() < 1e-9);
        assert!((Point::default().reliability() - 1.0).abs() < 1e-9);
    }
}
