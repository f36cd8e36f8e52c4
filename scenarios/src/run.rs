//! One run of a scenario, from file to result, and the check that a second run is the same.
//!
//! Place on the map: called by `main` and by tests; runs [`world`](crate::world) on a [`clock`](crate::clock) and
//! folds what is left into a [`RunResult`].

use crate::clock;
use crate::fault::FaultKind;
use crate::invariants;
use crate::kms::KmsException;
use crate::kms::cloudwatch::CloudWatch;
use crate::kms::lifecycle::{ConnectionErrorCode, ConnectionState};
use crate::kms::settings::Met;
use crate::net::capture::CaptureSummary;
use crate::recording::{Phase, ServiceFigures};
use crate::result::{
    AlarmResult, Check, ConsoleResult, ErrorCount, ExceptionSeries, FaultBand, PhaseResult, RangSpan,
    RunResult, ServiceResult, Toll, WorldResult,
};
use crate::scenario::{Expectation, Scenario, TlsVersion};
use crate::services::Counted;
use crate::streams::Streams;
use crate::world::{self, Options, Remains};
use std::fmt::Write;
use std::time::Duration;

/// A run and, where asked for, the lines of its trace.
pub struct Ran {
    /// The result.
    pub result: RunResult,
    /// Events in the trace.
    pub events: u64,
    /// The trace, if [`Options::keep_lines`] was set.
    pub lines: Option<Vec<String>>,
    /// What came of [`Options::capture`].
    pub capture: Option<CaptureSummary>,
}

/// Runs a scenario.
///
/// # Errors
/// In words, when the world cannot be built or its runtime cannot be started.
pub fn run(scenario: &Scenario, options: &Options, command: &str, hsm: &str) -> Result<Ran, String> {
    let runtime_seed = Streams::new(options.seed).seed("runtime", 0);
    let remains = clock::run(runtime_seed, |clock| world::live(clock, scenario, options))
        .map_err(|error| format!("the simulation's runtime cannot start: {error}"))??;
    Ok(fold(scenario, options.seed, command, hsm, remains))
}

/// The first difference between the traces of two equal runs.
pub struct Difference {
    /// Number of the event, from 0.
    pub index: usize,
    /// The event in the first run; `None` if it had ended.
    pub first: Option<String>,
    /// The event in the second run.
    pub second: Option<String>,
}

/// Compares two traces.
pub fn first_difference(first: &[String], second: &[String]) -> Option<Difference> {
    let index = (0..first.len().max(second.len())).find(|index| first.get(*index) != second.get(*index))?;
    let line = |lines: &[String]| lines.get(index).map(|line| line.trim_end().to_owned());
    Some(Difference { index, first: line(first), second: line(second) })
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn tolls(counted: &[Counted]) -> Vec<Toll> {
    let toll = |counted: &Counted| Toll {
        what: counted.what.to_owned(),
        count: counted.count,
        first_ms: milliseconds(counted.first_at),
    };
    counted.iter().map(toll).collect()
}

fn fold(scenario: &Scenario, seed: u64, command: &str, hsm: &str, remains: Remains) -> Ran {
    let Remains {
        finished,
        queues,
        narratives,
        interrupted_at,
        violations,
        cloudwatch,
        connection,
        capture,
        samples,
    } = remains;
    let mut samples = samples.into_iter();
    let span = scenario.fault_span();
    let services: Vec<ServiceResult> = scenario
        .services
        .iter()
        .zip(&finished.services)
        .zip(narratives)
        .map(|((settings, figures), narrative)| {
            let after = |time: Option<Duration>, since: Option<Duration>| {
                Some(milliseconds(time?.checked_sub(since?)?))
            };
            let all = |simulated: u64| simulated.saturating_mul(u64::from(settings.represents()));
            let every = |buckets: &[u64]| buckets.iter().map(|simulated| all(*simulated)).collect();
            ServiceResult {
                name: settings.name().to_owned(),
                title: settings.title().to_owned(),
                represents: settings.represents(),
                requests: all(figures.requests),
                failures: all(figures.failures),
                from_cache: all(figures.from_cache),
                from_held_key: all(figures.from_held_key),
                kms_calls: figures.kms_calls,
                first_failure_ms: figures.first_failure.map(milliseconds),
                failed_after_fault_ms: after(figures.first_failure, span.map(|(first, _)| first)),
                recovered_ms: figures.recovered().map(milliseconds),
                recovered_after_fault_ms: figures.recovered().and_then(|recovered| {
                    let end = span?.1;
                    (end < scenario.duration).then(|| milliseconds(recovered.saturating_sub(end)))
                }),
                before_faults: phase_result(&figures.phases[0], all),
                after_faults: phase_result(&figures.phases[2], all),
                amplification: amplification(figures),
                errors: figures
                    .error_counts()
                    .into_iter()
                    .map(|error| ErrorCount { count: all(error.count), ..error })
                    .collect(),
                kept_working: narrative.kept_working,
                lasting_damage: narrative.lasting_damage,
                lost: tolls(&narrative.lost),
                manual: tolls(&narrative.manual),
                ok: every(&figures.ok),
                failed: every(&figures.failed),
                cached: every(&figures.cached),
                held: every(&figures.held),
                retries: figures.retries.clone(),
                exceptions: exceptions(figures),
                samples: samples.next().unwrap_or_default(),
            }
        })
        .collect();
    // What the alarms say is of the part that has run.
    let end = interrupted_at.unwrap_or(scenario.duration);
    let mut assumptions: Vec<String> =
        scenario.services.iter().flat_map(crate::services::ServiceSettings::assumptions).collect();
    assumptions.extend(scenario.kms.assumptions());
    let internal = KmsException::KmsInternal.as_str();
    assumptions.extend(scenario.kms.assumptions_met(Met {
        internal: services.iter().any(|service| service.exceptions.iter().any(|it| it.exception == internal)),
        disconnected:
            scenario.faults.iter().any(|fault| matches!(fault.kind, FaultKind::KeyStoreDisconnected)),
    }));
    assumptions.sort();
    assumptions.dedup();
    let mut result = RunResult {
        format: 1,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        scenario: scenario.name.clone(),
        title: scenario.title.clone(),
        about: scenario.about.clone(),
        scenario_toml: scenario.text.clone(),
        seed,
        digest: finished.digest.clone(),
        command: command.to_owned(),
        hsm: hsm.to_owned(),
        duration_ms: milliseconds(scenario.duration),
        interrupted_at_ms: interrupted_at.map(milliseconds),
        bucket_ms: milliseconds(finished.bucket),
        faults: scenario
            .faults
            .iter()
            .map(|fault| FaultBand {
                label: fault.label(scenario.topology.hsms, scenario.topology.proxies),
                from_ms: milliseconds(fault.from),
                to_ms: milliseconds(fault.to.unwrap_or(scenario.duration)),
            })
            .collect(),
        services,
        xks: finished.xks.clone(),
        queues,
        key_destroyed_ms: scenario
            .faults
            .iter()
            .filter(|fault| matches!(fault.kind, FaultKind::ExternalKeyDeleted))
            .map(|fault| fault.from)
            .filter(|from| *from < interrupted_at.unwrap_or(scenario.duration))
            .min()
            .map(milliseconds),
        world: world_result(scenario),
        console: console(&cloudwatch, connection, end),
        alarms: alarms(&cloudwatch, span.map(|(begins, _)| begins), end),
        invariants: invariants::checks(&violations, interrupted_at.is_none()),
        expectations: Vec::new(),
        assumptions,
    };
    for expectation in &scenario.expectations {
        check_expectation(expectation, scenario, &finished, interrupted_at, &mut result);
    }
    Ran { result, events: finished.events, lines: finished.lines, capture }
}

/// The exceptions that a service met, in the order of the first.
fn exceptions(figures: &ServiceFigures) -> Vec<ExceptionSeries> {
    let mut met: Vec<_> = figures.exceptions.iter().collect();
    met.sort_by_key(|(_, series)| series.iter().position(|count| *count > 0).unwrap_or(usize::MAX));
    met.into_iter()
        .map(|(exception, series)| ExceptionSeries {
            exception: exception.as_str().to_owned(),
            per_bucket: series.clone(),
        })
        .collect()
}

fn world_result(scenario: &Scenario) -> WorldResult {
    let link = &scenario.link;
    // Two causes of loss, independent of each other.
    let both = |one: f64| 1.0 - (1.0 - link.loss) * (1.0 - one);
    let tls = match scenario.topology.tls {
        TlsVersion::Off => "off",
        TlsVersion::V12 => "1.2",
        TlsVersion::V13 => "1.3",
    };
    WorldResult {
        kms_hosts: scenario.kms.hosts as u64,
        tls: tls.to_owned(),
        rtt_ms: link.rtt_ms,
        loss_there: both(link.loss_there),
        loss_back: both(link.loss_back),
        zones: scenario.topology.zones as u64,
        proxies: scenario.topology.proxies as u64,
        proxy_cores: scenario.proxy.cores as u64,
        deadline_ms: scenario.proxy.deadline_ms,
        hsms: scenario.topology.hsms as u64,
        hsms_per_proxy: scenario.topology.hsms_per_proxy as u64,
        hsm_service_ms: scenario.hsm.service_ms,
        hsm_rtt_ms: scenario.hsm_link.as_ref().map(|link| link.rtt_ms),
    }
}

/// `all` makes of a number of simulated requests the number that they represent.
fn phase_result(phase: &Phase, all: impl Fn(u64) -> u64) -> PhaseResult {
    PhaseResult {
        requests: all(phase.requests),
        failures: all(phase.failures),
        set_aside: all(phase.set_aside),
        kms_calls: phase.calls,
    }
}

/// KMS calls of each request after the faults, as a multiple of those before.
fn amplification(figures: &ServiceFigures) -> Option<f64> {
    let [before, _, after] = figures.phases;
    let (before, after) = (before.calls_per_request(), after.calls_per_request());
    (before > 0.0 && after > 0.0).then(|| after / before)
}

/// Exceptions that the console's graph shows.
const TOP_EXCEPTIONS: usize = 5;

fn console(
    cloudwatch: &CloudWatch,
    (state, error): (ConnectionState, Option<ConnectionErrorCode>),
    end: Duration,
) -> ConsoleResult {
    let total = cloudwatch.total();
    let (points, width) = cloudwatch.series();
    let top = cloudwatch.top_exceptions(TOP_EXCEPTIONS);
    ConsoleResult {
        requests: total.latency.samples,
        reliability: total.reliability(),
        average_latency_ms: total.latency.average_ms(),
        worst_average_latency_ms: cloudwatch.worst_average_ms(),
        throttled: total.throttled,
        top_exceptions: top.into_iter().map(|(name, count)| (name.to_owned(), count)).collect(),
        certificate_days: cloudwatch.certificate_days(end),
        credential_age_days: cloudwatch.credential_age_days(end),
        connection_state: state.as_str().to_owned(),
        connection_error_code: error.map(|code| code.as_str().to_owned()),
        period_ms: milliseconds(width),
        requests_per_period: points.iter().map(|point| point.latency.samples).collect(),
        average_latency_ms_per_period: points.iter().map(|point| point.latency.average_ms()).collect(),
        reliability_per_period: points.iter().map(|point| point.reliability()).collect(),
    }
}

fn alarms(cloudwatch: &CloudWatch, fault_begins: Option<Duration>, end: Duration) -> Vec<AlarmResult> {
    let result = |alarm: &crate::kms::alarms::Alarm| {
        let after = |begins: Duration| {
            let first = alarm.spans.iter().find(|(from, _)| *from >= begins)?;
            Some(milliseconds(first.0 - begins))
        };
        let side = if alarm.below { "below" } else { "above" };
        let minutes = alarm.period.as_secs() / 60;
        AlarmResult {
            name: alarm.title.to_owned(),
            metric: alarm.metric.to_owned(),
            condition: format!("{} {side} {} in {minutes} min", alarm.statistic, alarm.threshold),
            threshold: alarm.threshold,
            period_ms: milliseconds(alarm.period),
            evaluated: alarm.evaluated,
            recommended: alarm.recommended,
            rang_at_ms: alarm.spans.first().map(|(from, _)| milliseconds(*from)),
            rang_after_fault_ms: fault_begins.and_then(after),
            rang_for_ms: alarm
                .spans
                .iter()
                .map(|(from, to)| milliseconds(to.unwrap_or(end).saturating_sub(*from)))
                .sum(),
            rang: alarm
                .spans
                .iter()
                .map(|(from, to)| RangSpan { from_ms: milliseconds(*from), to_ms: to.map(milliseconds) })
                .collect(),
            rang_more: alarm.spans_more,
        }
    };
    cloudwatch.alarms().iter().map(result).collect()
}

/// One `Check` for each bound of the expectation. In a run that was ended early those are not judged that look at the whole
/// of it or at its end: what is missing might have met them, or not.
fn check_expectation(
    expectation: &Expectation,
    scenario: &Scenario,
    finished: &crate::recording::Finished,
    interrupted_at: Option<Duration>,
    result: &mut RunResult,
) {
    let whole = interrupted_at.is_none();
    let faults_over = scenario.fault_span().is_some_and(|(_, end)| interrupted_at.is_none_or(|at| at >= end));
    let whose = expectation.service.as_deref().unwrap_or("every service");
    let toll = |tolls: fn(&ServiceResult) -> &Vec<Toll>| -> u64 {
        let wanted = expectation.service.as_deref();
        let services =
            result.services.iter().filter(|service| wanted.is_none_or(|name| name == service.name));
        services.flat_map(tolls).map(|toll| toll.count).sum()
    };
    let (lost, left) = (toll(|service| &service.lost), toll(|service| &service.manual));
    let chosen: Vec<(&str, &ServiceFigures)> = scenario
        .services
        .iter()
        .map(crate::services::ServiceSettings::name)
        .zip(&finished.services)
        .filter(|(name, _)| expectation.service.as_deref().is_none_or(|wanted| wanted == *name))
        .collect();
    let requests: u64 = chosen.iter().map(|(_, figures)| figures.requests).sum();
    let mut push = |name: &str, judged: bool, text: String, violations: Vec<String>| {
        let violation = (judged && !violations.is_empty()).then(|| violations.join("; "));
        result.expectations.push(Check {
            name: name.to_owned(),
            text,
            checked: if judged { requests } else { 0 },
            judged,
            held: violation.is_none(),
            violation,
        });
    };
    if let Some(most) = expectation.failures_max {
        let over = chosen
            .iter()
            .map(|(name, figures)| (name, share(figures.failures, figures.requests)))
            .filter(|(_, share)| *share > most)
            .map(|(name, share)| format!("{name}: {}", percent(share)))
            .collect();
        push("failures_max", whole, format!("{whose}: at most {} of requests fail", percent(most)), over);
    }
    if let Some(least) = expectation.failures_during_faults_min {
        let under = chosen
            .iter()
            .map(|(name, figures)| (name, share(figures.during_faults.1, figures.during_faults.0)))
            .filter(|(_, share)| *share < least)
            .map(|(name, share)| format!("{name}: {}", percent(share)))
            .collect();
        let text = format!("{whose}: at least {} of requests fail while a fault is on", percent(least));
        push("failures_during_faults_min", faults_over, text, under);
    }
    if let Some(least) = expectation.calls_failed_during_faults_min {
        let (calls, failed) = finished.xks_during_faults;
        let share = share(failed, calls);
        let under = if share < least { vec![format!("it was {}", percent(share))] } else { Vec::new() };
        let text = format!(
            "proxy calls: KMS gets no good answer to at least {} of them while a fault is on",
            percent(least)
        );
        push("calls_failed_during_faults_min", faults_over, text, under);
    }
    let settle_s = scenario.settle.as_secs_f64();
    let since = format!("once {settle_s} s have passed since the last fault");
    if let Some(least) = expectation.failures_after_faults_min {
        let under = after_faults(&chosen, |share| share < least);
        let text = format!("{whose}: at least {} of requests still fail {since}", percent(least));
        push("failures_after_faults_min", whole, text, under);
    }
    if let Some(most) = expectation.failures_after_faults_max {
        let over = after_faults(&chosen, |share| share > most);
        let text = format!("{whose}: at most {} of requests fail {since}", percent(most));
        push("failures_after_faults_max", whole, text, over);
    }
    if let Some(least) = expectation.amplification_min {
        let under = chosen
            .iter()
            .filter_map(|(name, figures)| match amplification(figures) {
                Some(factor) if factor >= least => None,
                Some(factor) => Some(format!("{name}: {factor:.2} times")),
                None => Some(format!("{name}: no KMS calls to compare")),
            })
            .collect();
        let text = format!(
            "{whose}: at least {least} times as many KMS calls for each request {since} as before the first"
        );
        push("amplification_min", whole, text, under);
    }
    if let Some(least) = expectation.connections_after_faults_min {
        let phase = &finished.xks_phases[2];
        let share = share(phase.calls, phase.requests);
        let under = if share < least { vec![format!("it was {}", percent(share))] } else { Vec::new() };
        let text = format!("proxy calls: at least {} of them open a connection {since}", percent(least));
        push("connections_after_faults_min", whole, text, under);
    }
    if let (Some(least_s), Some((_, end))) = (expectation.recovered_after_s_min, scenario.fault_span()) {
        let bound = Duration::from_secs_f64(least_s);
        let early = chosen
            .iter()
            .filter_map(|(name, figures)| {
                let late = figures.last_failure.and_then(|last| last.checked_sub(end)).unwrap_or_default();
                (late < bound).then(|| format!("{name}: last failure {:.1} s after it", late.as_secs_f64()))
            })
            .collect();
        let text = format!("{whose}: failures up to {least_s} s after the last fault and longer");
        push("recovered_after_s_min", whole, text, early);
    }
    let counted = [
        ("lost_min", expectation.lost_min, lost, "lost for good"),
        ("left_to_do_min", expectation.left_to_do_min, left, "left to do by hand"),
    ];
    for (name, least, count, what) in counted {
        if let Some(least) = least {
            let under = if count < least { vec![format!("it was {count}")] } else { Vec::new() };
            push(name, whole, format!("{whose}: at least {least} {what}"), under);
        }
    }
    if let (Some(within_s), Some((_, end))) = (expectation.recovered_within_s, scenario.fault_span()) {
        let bound = Duration::from_secs_f64(within_s);
        let late = chosen
            .iter()
            .filter_map(|(name, figures)| {
                let last = figures.last_failure?;
                let late = last.checked_sub(end)?;
                let unhealed = figures.recovered().is_none() && last >= end;
                if late <= bound && !unhealed {
                    return None;
                }
                let mut text = format!("{name}: last failure {:.1} s after it", late.as_secs_f64());
                if unhealed {
                    let _ = write!(text, ", and not enough requests since to say that it is well");
                }
                Some(text)
            })
            .collect();
        push(
            "recovered_within_s",
            whole,
            format!("{whose}: no failure later than {within_s} s after the last fault"),
            late,
        );
    }
    if let Some(most_ms) = expectation.latency_p99_max_ms {
        let p99_ms = finished.xks.latency_outside_faults.p99_ms;
        let over = if p99_ms > most_ms { vec![format!("it was {p99_ms:.1} ms")] } else { Vec::new() };
        push(
            "latency_p99_max_ms",
            whole,
            format!("proxy calls outside faults: 99th percentile at most {most_ms} ms"),
            over,
        );
    }
}

/// The services whose share of failures after the faults is not as it should be.
fn after_faults(chosen: &[(&str, &ServiceFigures)], is_wrong: impl Fn(f64) -> bool) -> Vec<String> {
    let shares = chosen.iter().map(|(name, figures)| (name, figures.phases[2].failed_share()));
    shares
        .filter(|(_, share)| is_wrong(*share))
        .map(|(name, share)| format!("{name}: {}", percent(share)))
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "counts of requests fit a double")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn percent(share: f64) -> String {
    let percent = share * 100.0;
    if percent == percent.round() { format!("{percent:.0} %") } else { format!("{percent:.2} %") }
}
