//! The alarms that AWS recommends for an external key store, and when each would have rung.
//!
//! Place on the map: [`cloudwatch`](super::cloudwatch) hands every finished period in; the run's result tells of them.
//! Thresholds are those of kms-behaviour 9 (Developer Guide, xks-alarms), and settings.

use super::settings::KmsSettings;
use std::time::Duration;

/// One minute: the period of the two error alarms.
pub const MINUTE: Duration = Duration::from_secs(60);
/// Five minutes: the period of the others.
pub const FIVE_MINUTES: Duration = Duration::from_secs(300);
/// Spans kept of one alarm; of further ones only the number.
const SPANS_MAX: usize = 50;

/// Which alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmName {
    /// The proxy's certificate expires soon.
    CertificateExpiry,
    /// The proxy's answers take long on average.
    SlowProxy,
    /// Errors after which KMS's callers may succeed by trying again.
    RetryableErrors,
    /// Errors after which they cannot.
    NonRetryableErrors,
    /// An external key manager said DEGRADED.
    DegradedManagers,
    /// An external key manager said UNAVAILABLE.
    UnavailableManagers,
    /// The credential is old.
    CredentialAge,
}

/// An alarm: what it looks at, and when it rang.
#[derive(Clone, Debug, PartialEq)]
pub struct Alarm {
    /// Which.
    pub name: AlarmName,
    /// The name in reports: `retryable-errors`.
    pub title: &'static str,
    /// The metric with what it is filtered by.
    pub metric: &'static str,
    /// The statistic over a period.
    pub statistic: &'static str,
    /// The period; the alarm is evaluated at each end of one, over that one alone.
    pub period: Duration,
    /// It rings below the threshold rather than above.
    pub below: bool,
    /// The threshold, in the metric's unit.
    pub threshold: f64,
    /// AWS's documents give this threshold; otherwise they only suggest an alarm on the metric.
    pub recommended: bool,
    /// When it began to ring, and when it stopped if it did, in simulated time. The first fifty.
    pub spans: Vec<(Duration, Option<Duration>)>,
    /// How often it rang beyond those.
    pub spans_more: u64,
    /// Periods that ended with a value to hold against the threshold. Without one, that it never rang says nothing.
    pub evaluated: u64,
    /// A period without a sample leaves it as it is; otherwise it falls silent, for want of data.
    keeps_without_data: bool,
    ringing: bool,
}

impl Alarm {
    fn observe(&mut self, period_end: Duration, value: Option<f64>) {
        self.evaluated += u64::from(value.is_some());
        let ringing = match value {
            Some(value) if self.below => value < self.threshold,
            Some(value) => value > self.threshold,
            None => self.ringing && self.keeps_without_data,
        };
        if ringing == self.ringing {
            return;
        }
        self.ringing = ringing;
        if !ringing {
            // When more than are kept have rung, this one's beginning is not kept either.
            if self.spans_more == 0
                && let Some((_, end)) = self.spans.last_mut()
            {
                *end = Some(period_end);
            }
        } else if self.spans.len() < SPANS_MAX {
            self.spans.push((period_end, None));
        } else {
            self.spans_more += 1;
        }
    }

    /// Whether it rings now.
    pub fn is_ringing(&self) -> bool {
        self.ringing
    }
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Alarms(Vec<Alarm>);

impl Alarms {
    /// Silent, with the thresholds of the settings.
    pub(super) fn new(settings: &KmsSettings) -> Self {
        let alarm = |name, title, metric, statistic, threshold| Alarm {
            name,
            title,
            metric,
            statistic,
            period: FIVE_MINUTES,
            below: false,
            threshold,
            recommended: true,
            spans: Vec::new(),
            spans_more: 0,
            evaluated: 0,
            keeps_without_data: false,
            ringing: false,
        };
        // KMS asks for the managers' states every five minutes or so: a period may well go without.
        let managers = |name, title, metric, threshold| Alarm {
            recommended: false,
            keeps_without_data: true,
            ..alarm(name, title, metric, "Maximum", threshold)
        };
        Self(vec![
            Alarm {
                below: true,
                ..alarm(
                    AlarmName::CertificateExpiry,
                    "certificate-expiry",
                    "XksProxyCertificateDaysToExpire",
                    "Minimum",
                    settings.alarm_certificate_days,
                )
            },
            alarm(
                AlarmName::SlowProxy,
                "slow-proxy",
                "XksProxyLatency of a KmsOperation",
                "Average",
                settings.alarm_latency_ms,
            ),
            Alarm {
                period: MINUTE,
                ..alarm(
                    AlarmName::RetryableErrors,
                    "retryable-errors",
                    "XksProxyErrors where ErrorType = Retryable",
                    "Sum",
                    settings.alarm_retryable_errors,
                )
            },
            Alarm {
                period: MINUTE,
                ..alarm(
                    AlarmName::NonRetryableErrors,
                    "non-retryable-errors",
                    "XksProxyErrors where ErrorType = Non-retryable",
                    "Sum",
                    settings.alarm_non_retryable_errors,
                )
            },
            managers(
                AlarmName::DegradedManagers,
                "degraded-key-managers",
                "XksExternalKeyManagerStates, Degraded",
                settings.alarm_degraded_managers,
            ),
            managers(
                AlarmName::UnavailableManagers,
                "unavailable-key-managers",
                "XksExternalKeyManagerStates, Unavailable",
                settings.alarm_unavailable_managers,
            ),
            Alarm {
                recommended: false,
                ..alarm(
                    AlarmName::CredentialAge,
                    "credential-age",
                    "XksProxyCredentialAge",
                    "Maximum",
                    settings.alarm_credential_age_days,
                )
            },
        ])
    }

    /// A period of this alarm has ended; `value`: its statistic, `None` without a sample.
    pub(super) fn observe(&mut self, name: AlarmName, period_end: Duration, value: Option<f64>) {
        if let Some(alarm) = self.0.iter_mut().find(|alarm| alarm.name == name) {
            alarm.observe(period_end, value);
        }
    }

    /// Every alarm, in a fixed order.
    pub fn all(&self) -> &[Alarm] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn spans(alarms: &Alarms, name: AlarmName) -> Vec<(Duration, Option<Duration>)> {
        alarms.all().iter().find(|alarm| alarm.name == name).unwrap().spans.clone()
    }

    /// Kms-behaviour 9, typed a second time.
    #[test]
    fn thresholds_statistics_and_periods_are_those_recommended() {
        let alarms = Alarms::new(&KmsSettings::default());
        let table: Vec<_> = alarms
            .all()
            .iter()
            .filter(|alarm| alarm.recommended)
            .map(|it| (it.metric, it.statistic, it.period.as_secs(), it.below, it.threshold))
            .collect();
        assert_eq!(
            table,
            [
                ("XksProxyCertificateDaysToExpire", "Minimum", 300, true, 10.0),
                ("XksProxyLatency of a KmsOperation", "Average", 300, false, 200.0),
                ("XksProxyErrors where ErrorType = Retryable", "Sum", 60, false, 5.0),
                ("XksProxyErrors where ErrorType = Non-retryable", "Sum", 60, false, 5.0),
            ]
        );
        assert_eq!(alarms.all().len(), 7);
    }

    #[test]
    fn it_rings_beyond_the_threshold_and_for_as_long() {
        let mut alarms = Alarms::new(&KmsSettings::default());
        let name = AlarmName::RetryableErrors;
        for (minute, value) in [(1, 5.0), (2, 6.0), (3, 9.0), (4, 5.0), (5, 6.0)] {
            alarms.observe(name, s(minute * 60), Some(value));
        }
        alarms.observe(name, s(360), None);
        alarms.observe(name, s(420), Some(6.0));
        assert_eq!(spans(&alarms, name), [(s(120), Some(s(240))), (s(300), Some(s(360))), (s(420), None)]);
        let certificate = AlarmName::CertificateExpiry;
        alarms.observe(certificate, s(300), Some(10.0));
        alarms.observe(certificate, s(600), Some(9.0));
        assert_eq!(spans(&alarms, certificate), [(s(600), None)]);
        // The managers' states come so rarely that a period without them says nothing.
        let managers = AlarmName::UnavailableManagers;
        for (at, value) in [(300, None), (600, Some(1.0)), (900, None), (1_200, Some(0.0))] {
            alarms.observe(managers, s(at), value);
        }
        assert_eq!(spans(&alarms, managers), [(s(600), Some(s(1_200)))]);
        let evaluated = |name| alarms.all().iter().find(|alarm| alarm.name == name).unwrap().evaluated;
        let of = [name, certificate, managers, AlarmName::SlowProxy].map(evaluated);
        assert_eq!(of, [6, 2, 2, 0], "a period without a value is no evaluation");
    }

    #[test]
    fn spans_are_bounded() {
        let mut alarms = Alarms::new(&KmsSettings::default());
        for n in 0..200 {
            let value = if n % 2 == 0 { 6.0 } else { 0.0 };
            alarms.observe(AlarmName::RetryableErrors, s(n * 60), Some(value));
        }
        let alarm = &alarms.all()[2];
        assert_eq!((alarm.spans.len(), alarm.spans_more), (50, 50));
        assert!(alarm.spans.iter().all(|(_, end)| end.is_some()) && !alarm.is_ringing());
    }
}
