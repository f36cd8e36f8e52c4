//! What is kept of one run: the figures that sweeps chart and comparisons test.

use crate::result::RunResult;
use serde::{Deserialize, Serialize};

/// One run in numbers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The seed.
    pub seed: u64,
    /// SHA-256 of the run's events.
    pub digest: String,
    /// Requests of all services' users.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Calls of the proxies.
    pub xks_calls: u64,
    /// Those that did not end in HTTP 200.
    pub xks_failures: u64,
    /// Those that took KMS's whole patience.
    pub timed_out: u64,
    /// Median of all proxy calls, in milliseconds, as KMS saw them.
    pub p50_ms: f64,
    /// Their 99th percentile.
    pub p99_ms: f64,
    /// Their 99.9th percentile.
    pub p999_ms: f64,
    /// How long after the last fault's end the last service was back; 0 if none was hit then.
    pub recovered_after_fault_ms: f64,
    /// Services that failed and were not back by the end.
    pub unrecovered: u64,
    /// Expectations of the scenario that were not met, by key.
    pub expectations_missed: Vec<String>,
    /// Invariants that did not hold, by name.
    pub invariants_violated: Vec<String>,
    /// Each service by itself.
    pub services: Vec<ServiceFigures>,
}

/// One service of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceFigures {
    /// As in the scenario: `s3-bucket-keys`.
    pub name: String,
    /// Requests of its users.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// KMS calls it made.
    pub kms_calls: u64,
}

impl Figures {
    /// Of a finished run.
    pub fn of(result: &RunResult) -> Self {
        let services: Vec<ServiceFigures> = result
            .services
            .iter()
            .map(|service| ServiceFigures {
                name: service.name.clone(),
                requests: service.requests,
                failures: service.failures,
                kms_calls: service.kms_calls,
            })
            .collect();
        let broken = |checks: &[crate::result::Check]| {
            let broken = checks.iter().filter(|check| !check.held);
            broken.map(|check| check.name.clone()).collect::<Vec<_>>()
        };
        let back_ms =
            result.services.iter().filter_map(|service| service.recovered_after_fault_ms).max().unwrap_or(0);
        let lost = |service: &&crate::result::ServiceResult| {
            service.first_failure_ms.is_some() && service.recovered_ms.is_none()
        };
        Self {
            seed: result.seed,
            digest: result.digest.clone(),
            requests: services.iter().map(|service| service.requests).sum(),
            failures: services.iter().map(|service| service.failures).sum(),
            xks_calls: result.xks.calls,
            xks_failures: result.xks.calls.saturating_sub(result.xks.ok),
            timed_out: result.xks.timed_out,
            p50_ms: result.xks.latency.p50_ms,
            p99_ms: result.xks.latency.p99_ms,
            p999_ms: result.xks.latency.p999_ms,
            recovered_after_fault_ms: milliseconds(back_ms),
            unrecovered: result.services.iter().filter(lost).count() as u64,
            expectations_missed: broken(&result.expectations),
            invariants_violated: broken(&result.invariants),
            services,
        }
    }

    /// Of a `report.json`.
    ///
    /// # Errors
    /// When it is none.
    pub fn of_report(text: &str) -> Result<Self, String> {
        let report: Report = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let broken = |checks: Vec<ReportCheck>| {
            checks.into_iter().filter(|check| !check.held).map(|check| check.name).collect::<Vec<_>>()
        };
        let back_ms = report.services.iter().filter_map(|it| it.recovered_after_fault_ms).max().unwrap_or(0);
        let lost = |it: &&ReportService| it.first_failure_ms.is_some() && it.recovered_ms.is_none();
        Ok(Self {
            seed: report.seed,
            digest: report.digest,
            requests: report.services.iter().map(|it| it.requests).sum(),
            failures: report.services.iter().map(|it| it.failures).sum(),
            xks_calls: report.xks.calls,
            xks_failures: report.xks.calls.saturating_sub(report.xks.ok),
            timed_out: report.xks.timed_out,
            p50_ms: report.xks.latency.p50_ms,
            p99_ms: report.xks.latency.p99_ms,
            p999_ms: report.xks.latency.p999_ms,
            recovered_after_fault_ms: milliseconds(back_ms),
            unrecovered: report.services.iter().filter(lost).count() as u64,
            expectations_missed: broken(report.expectations),
            invariants_violated: broken(report.invariants),
            services: report
                .services
                .into_iter()
                .map(|it| ServiceFigures {
                    name: it.name,
                    requests: it.requests,
                    failures: it.failures,
                    kms_calls: it.kms_calls,
                })
                .collect(),
        })
    }

    /// Share of requests that failed, 0 to 1; 0 without one.
    pub fn failed_share(&self) -> f64 {
        share(self.failures, self.requests)
    }

    /// Share of proxy calls that did not end in HTTP 200, 0 to 1; 0 without one.
    pub fn xks_failed_share(&self) -> f64 {
        share(self.xks_failures, self.xks_calls)
    }
}

impl ServiceFigures {
    /// Share of requests that failed, 0 to 1; 0 without one.
    pub fn failed_share(&self) -> f64 {
        share(self.failures, self.requests)
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests fit a double")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of a run fit a double")]
fn milliseconds(ms: u64) -> f64 {
    ms as f64
}

/// What is read of a `report.json`; the rest of it is let be.
#[derive(Deserialize)]
struct Report {
    seed: u64,
    digest: String,
    services: Vec<ReportService>,
    xks: ReportXks,
    invariants: Vec<ReportCheck>,
    expectations: Vec<ReportCheck>,
}

#[derive(Deserialize)]
struct ReportService {
    name: String,
    requests: u64,
    failures: u64,
    kms_calls: u64,
    first_failure_ms: Option<u64>,
    recovered_ms: Option<u64>,
    recovered_after_fault_ms: Option<u64>,
}

#[derive(Deserialize)]
struct ReportXks {
    calls: u64,
    ok: u64,
    timed_out: u64,
    latency: ReportLatency,
}

#[derive(Deserialize)]
struct ReportLatency {
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
}

#[derive(Deserialize)]
struct ReportCheck {
    name: String,
    held: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;
    use crate::world::Options;

    #[test]
    fn a_run_and_its_report_give_the_same_figures() {
        let text = "title = \"x\"\nduration_s = 20\n[topology]\ntls = \"off\"\n[[service]]\nkind = \"s3\"\nrate_per_s = 20\n\
                    [[fault]]\nkind = \"hsm-down\"\nfrom_s = 5\nto_s = 8\n[[expect]]\nfailures_max = 0.01\n";
        let scenario = Scenario::parse("x", "x.toml", text).unwrap();
        let ran = crate::run::run(&scenario, &Options::new(3), "", "emulated HSM").unwrap();
        let figures = Figures::of(&ran.result);
        assert!(figures.failures > 10 && figures.xks_failures > 10, "{figures:?}");
        assert!(figures.failures < figures.requests && figures.p99_ms > 0.0);
        assert_eq!(figures.expectations_missed, ["failures_max"]);
        assert_eq!(Figures::of_report(&crate::report::json(&ran.result)), Ok(figures));
    }
}
