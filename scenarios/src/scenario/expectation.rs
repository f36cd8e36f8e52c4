//! What a scenario expects of its run, `[[expect]]`.

use super::place::nearest;
use crate::services::ServiceSettings;
use serde::Deserialize;
use std::time::Duration;

/// One `[[expect]]`: a bound, checked at the end of the run.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Only for this service, by its kind or name; all services without it.
    pub service: Option<String>,
    /// Largest share of failed requests over the whole run, 0 to 1.
    pub failures_max: Option<f64>,
    /// Smallest share of failed requests while a fault is on, 0 to 1: the scenario must show what it promises to show.
    pub failures_during_faults_min: Option<f64>,
    /// Smallest share of proxy calls that KMS gets no good answer to while a fault is on, of all services together, 0 to 1: where
    /// repetition or a second HSM spares the users, the fault shows here.
    pub calls_failed_during_faults_min: Option<f64>,
    /// Longest time from the end of the last fault to the last failure, in seconds.
    pub recovered_within_s: Option<f64>,
    /// Shortest time from the end of the last fault to the last failure, in seconds: the outage is longer than its cause.
    pub recovered_after_s_min: Option<f64>,
    /// Smallest share of failed requests once `settle_s` have passed since the last fault, 0 to 1: the outage goes on without
    /// its cause.
    pub failures_after_faults_min: Option<f64>,
    /// Largest share of failed requests once `settle_s` have passed since the last fault, 0 to 1.
    pub failures_after_faults_max: Option<f64>,
    /// Smallest amplification: how many times as many KMS calls each request makes once `settle_s` have passed since the
    /// last fault as it made before the first, above 0 to 1,000.
    pub amplification_min: Option<f64>,
    /// Smallest share of proxy calls that open a connection once `settle_s` have passed since the last fault, of all services
    /// together, 0 to 1.
    pub connections_after_faults_min: Option<f64>,
    /// Smallest number of what is lost for good, at least 1.
    pub lost_min: Option<u64>,
    /// Smallest number of what is left to do by hand at the end of the run, at least 1.
    pub left_to_do_min: Option<u64>,
    /// Largest 99th percentile of the proxy calls outside faults, in milliseconds.
    pub latency_p99_max_ms: Option<f64>,
}

/// The most of anything that an expectation may ask for.
const COUNT_MAX: u64 = 1_000_000_000_000;

pub(super) fn check(
    expectation: &Expectation,
    services: &[ServiceSettings],
    last_fault_ends: Option<Duration>,
    settle: Duration,
    duration: Duration,
) -> Result<(), String> {
    if let Some(wanted) = &expectation.service
        && !services.iter().any(|service| service.name() == wanted)
    {
        let near = nearest(wanted, services.iter().map(ServiceSettings::name));
        return Err(format!("service: none is called {wanted:?}; did you mean {:?}?", near.unwrap_or("s3")));
    }
    for (key, value) in [
        ("failures_max", expectation.failures_max),
        ("failures_during_faults_min", expectation.failures_during_faults_min),
        ("calls_failed_during_faults_min", expectation.calls_failed_during_faults_min),
        ("failures_after_faults_min", expectation.failures_after_faults_min),
        ("failures_after_faults_max", expectation.failures_after_faults_max),
        ("connections_after_faults_min", expectation.connections_after_faults_min),
    ] {
        if let Some(value) = value.filter(|value| !(0.0..=1.0).contains(value)) {
            return Err(format!("{key} is a share between 0 and 1, not {value}"));
        }
    }
    for (key, value) in [("lost_min", expectation.lost_min), ("left_to_do_min", expectation.left_to_do_min)] {
        if let Some(value) = value.filter(|value| !(1..=COUNT_MAX).contains(value)) {
            return Err(format!("{key} is between 1 and {COUNT_MAX}, not {value}"));
        }
    }
    let of_all = [
        ("calls_failed_during_faults_min", expectation.calls_failed_during_faults_min),
        ("connections_after_faults_min", expectation.connections_after_faults_min),
        ("latency_p99_max_ms", expectation.latency_p99_max_ms),
    ];
    if expectation.service.is_some()
        && let Some((key, _)) = of_all.iter().find(|(_, value)| value.is_some())
    {
        return Err(format!("{key} is about the proxy calls of all services together: remove service"));
    }
    let after_faults = [
        ("recovered_within_s", expectation.recovered_within_s),
        ("recovered_after_s_min", expectation.recovered_after_s_min),
        ("failures_after_faults_min", expectation.failures_after_faults_min),
        ("failures_after_faults_max", expectation.failures_after_faults_max),
        ("amplification_min", expectation.amplification_min),
        ("connections_after_faults_min", expectation.connections_after_faults_min),
    ];
    let named = |keys: &[(&str, Option<f64>)]| {
        keys.iter().find(|(_, value)| value.is_some()).map(|(key, _)| (*key).to_owned())
    };
    match (named(&after_faults), last_fault_ends) {
        (Some(key), None) => return Err(format!("{key} needs a [[fault]]")),
        (Some(key), Some(end)) if end == duration => {
            return Err(format!(
                "{key} needs every fault to end before the run does: give each a to_s, or a longer duration_s"
            ));
        }
        _ => {}
    }
    if let (Some(least), Some(end)) = (expectation.recovered_after_s_min, last_fault_ends) {
        let left_s = duration.saturating_sub(end).as_secs_f64();
        if least >= left_s {
            return Err(format!(
                "recovered_after_s_min = {least} is more than the {left_s} s that are left of the run after the last fault: \
                 give a longer duration_s"
            ));
        }
        if let Some(most) = expectation.recovered_within_s.filter(|most| *most < least) {
            return Err(format!(
                "recovered_after_s_min = {least} is above recovered_within_s = {most}: nothing can be both"
            ));
        }
    }
    if let Some(key) = named(after_faults.get(2..).unwrap_or_default())
        && last_fault_ends.is_some_and(|end| end + settle >= duration)
    {
        return Err(format!(
            "{key} looks at what is left of the run once settle_s = {} have passed since the last fault, and nothing is: \
             give a longer duration_s",
            settle.as_secs_f64()
        ));
    }
    let during_faults = [
        ("failures_during_faults_min", expectation.failures_during_faults_min),
        ("calls_failed_during_faults_min", expectation.calls_failed_during_faults_min),
    ];
    if let Some(key) = named(&during_faults).filter(|_| last_fault_ends.is_none()) {
        return Err(format!("{key} needs a [[fault]]"));
    }
    let bounds = [expectation.failures_max, expectation.latency_p99_max_ms];
    let counts = [expectation.lost_min, expectation.left_to_do_min];
    if bounds.iter().all(Option::is_none)
        && counts.iter().all(Option::is_none)
        && named(&during_faults).or(named(&after_faults)).is_none()
    {
        return Err("an [[expect]] without a bound; give failures_max, failures_during_faults_min, \
                    calls_failed_during_faults_min, failures_after_faults_min, failures_after_faults_max, \
                    amplification_min, connections_after_faults_min, recovered_within_s, recovered_after_s_min, lost_min, \
                    left_to_do_min or latency_p99_max_ms"
            .into());
    }
    for (key, value, most) in [
        ("recovered_within_s", expectation.recovered_within_s, super::checker::DURATION_MAX_S),
        ("recovered_after_s_min", expectation.recovered_after_s_min, super::checker::DURATION_MAX_S),
        ("latency_p99_max_ms", expectation.latency_p99_max_ms, 60_000.0),
        ("amplification_min", expectation.amplification_min, 1_000.0),
    ] {
        if let Some(value) = value.filter(|value| !(0.0..=most).contains(value)) {
            return Err(format!("{key} is between 0 and {most}, not {value}"));
        }
    }
    Ok(())
}
