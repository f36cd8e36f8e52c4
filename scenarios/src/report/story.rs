//! The story of a run in sentences: who was hit, how soon, how hard, until when, what kept working, what is damaged.
//!
//! Place on the map: between [`RunResult`] and the renderers of [`report`](crate::report). It adds no facts,
//! it only words them, so that the terminal and the page say the same.

use super::human::{count, counted, duration, latency, list, moment, share};
use crate::result::{
    AlarmResult, Check, ConsoleResult, ErrorCount, FaultBand, RunResult, ServiceResult, Toll, XksResult,
};
use std::collections::BTreeMap;

/// Names in one sentence before it says `and 4 more`: the table below it has the rest.
const NAMES_IN_A_SENTENCE: usize = 6;

/// One question a reader has, and its answers.
pub(super) struct Fact {
    /// The question: `How soon`.
    pub(super) term: &'static str,
    /// Whole sentences.
    pub(super) answers: Vec<Answer>,
}

/// A sentence, said of one service or of all.
pub(super) struct Answer {
    /// The service it is about; empty when about all.
    pub(super) subject: String,
    /// The sentence.
    pub(super) text: String,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self { subject: String::new(), text }
    }
}

/// Faults of one label, as one row of the time line.
pub(super) struct FaultRow<'a> {
    /// In words.
    pub(super) label: &'a str,
    /// When, in order.
    pub(super) bands: Vec<&'a FaultBand>,
    /// `from 1 min, for 5 min`.
    pub(super) when: String,
}

/// One KMS exception with one message, over all services.
pub(super) struct ExceptionRow<'a> {
    /// The class; empty when the failure had another cause than KMS.
    pub(super) exception: &'a str,
    /// Word for word.
    pub(super) message: &'a str,
    /// How often a service's request ended in it.
    pub(super) count: u64,
    /// Who showed it to its users, and how; the first to show it first.
    pub(super) seen_by: Vec<(&'a ServiceResult, &'a ErrorCount)>,
}

/// Services with at least one failure, the first to fail first.
pub(super) fn hit(result: &RunResult) -> Vec<&ServiceResult> {
    let mut hit: Vec<_> = result.services.iter().filter(|service| service.failures > 0).collect();
    hit.sort_by_key(|service| service.first_failure_ms.unwrap_or(u64::MAX));
    hit
}

/// Services that were asked at least once.
pub(super) fn asked(result: &RunResult) -> usize {
    result.services.iter().filter(|service| service.requests > 0).count()
}

/// Requests and failures of all services together.
pub(super) fn totals(result: &RunResult) -> (u64, u64) {
    result.services.iter().fold((0, 0), |(requests, failures), service| {
        (requests + service.requests, failures + service.failures)
    })
}

/// The verdict in one sentence, after another one if the run was ended early.
pub(super) fn headline(result: &RunResult) -> String {
    match result.interrupted_at_ms {
        Some(at) => format!(
            "Interrupted at {} of {}: everything here is of that part. {}",
            moment(at),
            moment(result.duration_ms),
            verdict(result)
        ),
        None => verdict(result),
    }
}

fn verdict(result: &RunResult) -> String {
    let (requests, failures) = totals(result);
    let asked = asked(result);
    let hit = hit(result);
    if requests == 0 {
        return "No service made a request in this run.".to_owned();
    }
    let end = result.interrupted_at_ms.unwrap_or(u64::MAX);
    let through = match result.faults.iter().filter(|band| band.from_ms < end).count() {
        0 => String::new(),
        1 => " through the fault".to_owned(),
        faults => format!(" through all {faults} faults"),
    };
    let Some(first) = hit.first() else {
        return if asked == 1 {
            format!("No failure: the service went on working{through}.")
        } else {
            format!("No service was hit: all {asked} went on working{through}.")
        };
    };
    let when = match first.failed_after_fault_ms {
        Some(_) => format!("{} began", began(result, first)),
        None => began(result, first),
    };
    let who = match (hit.len(), asked) {
        (1, 1) => format!("{} was hit, {when}", first.title),
        (1, _) => format!("1 of {asked} services was hit: {}, {when}", first.title),
        (all, _) if all == asked => format!("All {asked} services were hit, {} first, {when}", first.title),
        (number, _) => format!("{number} of {asked} services were hit, {} first, {when}", first.title),
    };
    format!("{who}. {} of all requests failed.", share(failures, requests))
}

/// What a terminal shows of these answers, under a table that has said the rest.
pub(super) const AFTERMATH: [&str; 5] = [
    "What goes on without its cause",
    "Lost for good",
    "Left to do by hand",
    "What kept working",
    "Lasting damage",
];

/// The answers to a director's questions, in the order they are asked.
pub(super) fn facts(result: &RunResult) -> Vec<Fact> {
    let hit = hit(result);
    let mut facts = Vec::new();
    if !hit.is_empty() {
        let names: Vec<_> = hit.iter().map(|service| service.title.clone()).collect();
        facts.push(Fact {
            term: "Who is hit",
            answers: vec![format!("{}.", list(&names, NAMES_IN_A_SENTENCE)).into()],
        });
        facts.push(Fact { term: "How soon", answers: how_soon(result, &hit) });
        facts.push(Fact { term: "How hard", answers: how_hard(result, &hit) });
        facts.push(Fact { term: "Until when", answers: until_when(result, &hit) });
    }
    let outliving = outliving(result);
    if !outliving.is_empty() {
        facts.push(Fact { term: "What goes on without its cause", answers: outliving });
    }
    let mut lost = tolled(result, |service| &service.lost);
    if let Some(at) = result.key_destroyed_ms {
        let text = format!(
            "Everything that was ever encrypted under the external key: its material was destroyed in every HSM {} into the \
             run, and unless a backup of it can be restored nothing of that will be read again. What still works lives on keys \
             in memory.",
            moment(at)
        );
        lost.insert(0, text.into());
    }
    if lost.is_empty() {
        lost.push("Nothing that was counted in this run.".to_owned().into());
    }
    facts.push(Fact { term: "Lost for good", answers: lost });
    let manual = tolled(result, |service| &service.manual);
    if !manual.is_empty() {
        facts.push(Fact { term: "Left to do by hand", answers: manual });
    }
    facts.push(Fact { term: "What kept working", answers: kept_working(result) });
    let mut damage: Vec<_> = result
        .services
        .iter()
        .filter(|service| !service.lasting_damage.is_empty())
        .map(|service| Answer { subject: service.title.clone(), text: service.lasting_damage.clone() })
        .collect();
    if damage.is_empty() {
        damage.push("None seen in this run.".to_owned().into());
    }
    facts.push(Fact { term: "Lasting damage", answers: damage });
    facts
}

fn how_soon(result: &RunResult, hit: &[&ServiceResult]) -> Vec<Answer> {
    let mut answers = Vec::new();
    let (mut after, mut apart) = (Vec::new(), Vec::new());
    for service in hit {
        match service.failed_after_fault_ms {
            Some(0) => after.push(format!("{} at once", service.title)),
            Some(ms) => after.push(format!("{} {}", service.title, duration(ms))),
            None => apart.push(format!("{} {}", service.title, began(result, service))),
        }
    }
    if !after.is_empty() {
        let fault = first_fault(result);
        let each = list(&after, NAMES_IN_A_SENTENCE);
        answers.push(format!("Counted from the beginning of {fault}: {each}.").into());
    }
    if !apart.is_empty() {
        answers.push(format!("{}.", list(&apart, NAMES_IN_A_SENTENCE)).into());
    }
    answers
}

fn how_hard(result: &RunResult, hit: &[&ServiceResult]) -> Vec<Answer> {
    let (requests, failures) = totals(result);
    let mut answers = Vec::new();
    let during: Vec<_> = hit
        .iter()
        .filter_map(|service| {
            let (failed, all) = during_faults(result, service)?;
            Some(format!("{} {}", service.title, share(failed, all)))
        })
        .collect();
    if !during.is_empty() {
        let faults = if result.faults.len() == 1 { "the fault" } else { "the faults" };
        answers.push(
            format!("Requests lost while {faults} lasted: {}.", list(&during, NAMES_IN_A_SENTENCE)).into(),
        );
    }
    answers.push(
        format!(
            "Over the whole run {} of {} failed ({}).",
            count(failures),
            counted(requests, "request"),
            share(failures, requests)
        )
        .into(),
    );
    answers
}

/// Failed and all requests of a service in the buckets whose middle lies in a fault; `None` without such a bucket.
pub(super) fn during_faults(result: &RunResult, service: &ServiceResult) -> Option<(u64, u64)> {
    let (mut failed, mut all) = (0, 0);
    for bucket in 0..service.ok.len().max(service.failed.len()) {
        let middle = (bucket as u64).saturating_mul(result.bucket_ms) + result.bucket_ms / 2;
        if result.faults.iter().any(|band| band.from_ms <= middle && middle < band.to_ms) {
            let lost = service.failed.get(bucket).copied().unwrap_or(0);
            failed += lost;
            all += lost + service.ok.get(bucket).copied().unwrap_or(0);
        }
    }
    (all > 0).then_some((failed, all))
}

fn until_when(result: &RunResult, hit: &[&ServiceResult]) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut back: Vec<_> = hit.iter().filter(|service| service.recovered_ms.is_some()).collect();
    back.sort_by_key(|service| service.recovered_ms);
    let (mut after, mut apart) = (Vec::new(), Vec::new());
    for service in back {
        match service.recovered_after_fault_ms {
            Some(0) => after.push(format!("{} at once", service.title)),
            Some(ms) => after.push(format!("{} {}", service.title, duration(ms))),
            None => apart.push(format!("{} {}", service.title, recovered(result, service))),
        }
    }
    if !after.is_empty() {
        let fault = last_fault(result);
        let each = list(&after, NAMES_IN_A_SENTENCE);
        answers.push(format!("Back to normal, counted from the end of {fault}: {each}.").into());
    }
    if !apart.is_empty() {
        answers.push(format!("Back to normal: {}.", list(&apart, NAMES_IN_A_SENTENCE)).into());
    }
    let lost: Vec<_> = hit
        .iter()
        .filter(|service| service.recovered_ms.is_none())
        .map(|service| service.title.clone())
        .collect();
    if !lost.is_empty() {
        let end = result.faults.iter().map(|band| band.to_ms).max();
        let when = match end {
            Some(end) if end >= result.duration_ms => ": the fault lasted until then".to_owned(),
            Some(end) => {
                format!(", {} after the end of {}", duration(result.duration_ms - end), last_fault(result))
            }
            None => String::new(),
        };
        answers.push(
            format!("{} had not recovered when the run ended{when}.", list(&lost, NAMES_IN_A_SENTENCE))
                .into(),
        );
    }
    answers
}

/// From this share of failures on, once everything should be well again, an outage outlives its cause.
const OUTLIVING_SHARE: f64 = 0.05;

/// Services that still fail long after the last fault, and how much load they are then.
fn outliving(result: &RunResult) -> Vec<Answer> {
    let mut answers = Vec::new();
    for service in &result.services {
        let after = service.after_faults;
        let failures = after.failures.saturating_sub(after.set_aside);
        #[expect(clippy::cast_precision_loss, reason = "counts of requests fit a double")]
        let failing = failures as f64 >= OUTLIVING_SHARE * after.requests as f64;
        if failures == 0 || !failing {
            continue;
        }
        let mut text = format!(
            "{} of {} still failed once {} was long over",
            share(failures, after.requests),
            counted(after.requests, "request"),
            last_fault(result)
        );
        if let Some(factor) = service.amplification {
            text.push_str(&format!(", with {factor:.1} times the KMS calls for each that there were before"));
        }
        answers.push(Answer { subject: service.title.clone(), text: format!("{text}.") });
    }
    let (before, after) = (result.xks.fresh_share_before_faults, result.xks.fresh_share_after_faults);
    if !answers.is_empty() && after > before {
        let text = format!(
            "{:.1} % of proxy calls opened a connection then, {:.1} % before.",
            after * 100.0,
            before * 100.0
        );
        answers.push(text.into());
    }
    answers
}

fn kept_working(result: &RunResult) -> Vec<Answer> {
    let mut answers: Vec<Answer> = Vec::new();
    for service in &result.services {
        let text = if !service.kept_working.is_empty() {
            service.kept_working.clone()
        } else if service.failures == 0 && service.requests > 0 {
            format!("all {} succeeded.", counted(service.requests, "request"))
        } else {
            continue;
        };
        answers.push(Answer { subject: service.title.clone(), text });
    }
    if answers.is_empty() {
        answers.push("Nothing.".to_owned().into());
    }
    answers
}

/// Why calls lasted longer than KMS's patience with one, where some did.
pub(super) fn tried_twice(xks: &XksResult) -> Option<String> {
    // A call that KMS gives up ends with tokio's timers, which run to the next millisecond.
    #[expect(clippy::cast_precision_loss, reason = "at most minutes in milliseconds")]
    let patience_ms = xks.patience_ms as f64 + 1.0;
    (xks.latency.max_ms > patience_ms).then(|| {
        format!(
            "KMS tries a connection set-up that timed out once more, with another {}\u{a0}ms (MA-11): such calls take up to \
             {}\u{a0}ms.",
            count(xks.patience_ms),
            count(xks.patience_ms.saturating_mul(2))
        )
    })
}

/// What an outage has cost each service.
fn tolled(result: &RunResult, tolls: fn(&ServiceResult) -> &Vec<Toll>) -> Vec<Answer> {
    // `what` is a plural noun, which a number behind it leaves right.
    let in_words = |toll: &Toll| {
        let first = if toll.count == 1 { "" } else { "the first " };
        format!("{}: {}, {first}{} into the run", toll.what, count(toll.count), moment(toll.first_ms))
    };
    let services = result.services.iter().filter(|service| !tolls(service).is_empty());
    services
        .map(|service| {
            let text = tolls(service).iter().map(in_words).collect::<Vec<_>>().join("; ");
            Answer { subject: service.title.clone(), text: format!("{text}.") }
        })
        .collect()
}

fn first_fault(result: &RunResult) -> &'static str {
    if result.faults.len() > 1 { "the first fault" } else { "the fault" }
}

fn last_fault(result: &RunResult) -> &'static str {
    if result.faults.len() > 1 { "the last fault" } else { "the fault" }
}

/// When a service began to fail, to follow its name in a sentence or to stand in a cell.
pub(super) fn began(result: &RunResult, service: &ServiceResult) -> String {
    match (service.first_failure_ms, service.failed_after_fault_ms) {
        _ if service.requests == 0 => "not asked".to_owned(),
        (_, Some(0)) => format!("at once with {}", first_fault(result)),
        (_, Some(after)) => format!("{} after {}", duration(after), first_fault(result)),
        (Some(at), None) if result.faults.is_empty() => format!("{} into the run", moment(at)),
        (Some(at), None) => format!("{} into the run, before {}", moment(at), first_fault(result)),
        (None, None) => "never".to_owned(),
    }
}

/// When a service recovered, likewise.
pub(super) fn recovered(result: &RunResult, service: &ServiceResult) -> String {
    let end = result.faults.iter().map(|band| band.to_ms).max();
    match (service.recovered_ms, service.recovered_after_fault_ms) {
        _ if service.failures == 0 => "–".to_owned(),
        (None, _) => "not within the run".to_owned(),
        (Some(_), Some(0)) => format!("at once with the end of {}", last_fault(result)),
        (Some(_), Some(after)) => format!("{} after the end", duration(after)),
        (Some(at), None) if end.is_some_and(|end| at < end) => {
            format!("{} into the run, before the end of {}", moment(at), last_fault(result))
        }
        (Some(at), None) => format!("{} into the run", moment(at)),
    }
}

/// The faults by label, in the order of their first beginning.
pub(super) fn fault_rows(result: &RunResult) -> Vec<FaultRow<'_>> {
    let mut rows: Vec<FaultRow<'_>> = Vec::new();
    for band in &result.faults {
        match rows.iter_mut().find(|row| row.label == band.label) {
            Some(row) => row.bands.push(band),
            None => rows.push(FaultRow { label: &band.label, bands: vec![band], when: String::new() }),
        }
    }
    for row in &mut rows {
        let total: u64 = row.bands.iter().map(|band| band.to_ms.saturating_sub(band.from_ms)).sum();
        let lasts_to_the_end = row.bands.iter().any(|band| band.to_ms >= result.duration_ms);
        let from = row.bands.first().map_or(0, |band| band.from_ms);
        row.when = match row.bands.len() {
            1 if total == 0 => format!("at {}", moment(from)),
            1 if lasts_to_the_end => format!("from {}, to the end of the run", moment(from)),
            1 => format!("from {}, for {}", moment(from), duration(total)),
            times => format!("from {}, {times} times, {} in all", moment(from), duration(total)),
        };
    }
    rows
}

/// The KMS exceptions of all services by class and message, most frequent first.
pub(super) fn exceptions(result: &RunResult) -> Vec<ExceptionRow<'_>> {
    let mut by_text: BTreeMap<(&str, &str), Vec<(&ServiceResult, &ErrorCount)>> = BTreeMap::new();
    for service in &result.services {
        for error in &service.errors {
            let text = (error.kms_exception.as_str(), error.kms_message.as_str());
            by_text.entry(text).or_default().push((service, error));
        }
    }
    let mut rows: Vec<_> = by_text
        .into_iter()
        .map(|((exception, message), mut seen_by)| {
            seen_by.sort_by_key(|(_, error)| error.first_ms);
            let count = seen_by.iter().map(|(_, error)| error.count).sum();
            ExceptionRow { exception, message, count, seen_by }
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
    rows
}

/// `9 invariants held over 12,345 checks`, or how many did not. What was never looked at is not said to have held.
/// `noun` in the singular.
pub(super) fn checks(all: &[Check], noun: &str, held: &str, not_held: &str) -> String {
    let number = |which: &dyn Fn(&Check) -> bool| all.iter().filter(|check| which(check)).count() as u64;
    let broken = number(&|check| !check.held);
    let good = number(&|check| check.held && check.checked > 0);
    let idle = number(&|check| check.judged && check.held && check.checked == 0);
    let unjudged = number(&|check| !check.judged);
    let looked: u64 = all.iter().map(|check| check.checked).sum();
    if all.is_empty() {
        return format!("No {noun} was checked");
    }
    let outcome = if broken > 0 {
        format!("{} of {} {not_held}", count(broken), counted(all.len() as u64, noun))
    } else {
        format!("{} {held} over {}", counted(good, noun), counted(looked, "check"))
    };
    let outcome = match idle {
        0 => outcome,
        _ => format!("{outcome}; {} had nothing to check in this run", count(idle)),
    };
    outcome + &not_judged(unjudged)
}

/// How many of the expectations were met: `2 of 3 expectations met`.
pub(super) fn expectations(all: &[Check]) -> String {
    let met = all.iter().filter(|check| check.judged && check.held).count();
    let unjudged = all.iter().filter(|check| !check.judged).count() as u64;
    match all.len() {
        0 => "The scenario states no expectation".to_owned(),
        all => {
            format!("{met} of {} met{}", counted(all as u64, "expectation"), not_judged(unjudged))
        }
    }
}

/// To follow a sentence about checks.
fn not_judged(number: u64) -> String {
    match number {
        0 => String::new(),
        _ => format!("; {} not judged, since the run was ended before", count(number)),
    }
}

/// When an alarm rang: `rang 61 s after the first fault began, for 4 min`; `None` if it never did.
pub(super) fn rang(alarm: &AlarmResult) -> Option<String> {
    let at = alarm.rang_at_ms?;
    let when = match alarm.rang_after_fault_ms {
        Some(after) => format!("{} after the first fault began", duration(after)),
        None => format!("at {}", moment(at)),
    };
    let still = alarm.rang.last().is_some_and(|span| span.to_ms.is_none());
    let times = alarm.rang.len() as u64 + alarm.rang_more;
    let often = if times > 1 { format!(", {} times", count(times)) } else { String::new() };
    let end = if still { ", and still at the end" } else { "" };
    Some(format!("rang {when}, for {}{often}{end}", duration(alarm.rang_for_ms)))
}

/// Why an alarm was never evaluated, so that it could not ring; `None` if it was.
pub(super) fn unheard(alarm: &AlarmResult, run_ms: u64) -> Option<&'static str> {
    match alarm.evaluated {
        0 if run_ms < alarm.period_ms => Some("the run is shorter than the period"),
        0 => Some("no period ended with a value of the metric"),
        _ => None,
    }
}

/// What an alarm that never rang was: `silent`, or `not evaluated (the run is shorter than the period)`.
pub(super) fn quiet(alarm: &AlarmResult, run_ms: u64) -> String {
    unheard(alarm, run_ms).map_or_else(|| "silent".to_owned(), |why| format!("not evaluated ({why})"))
}

/// What the console shows of the proxy, in one sentence; `None` when it was never asked.
pub(super) fn console(console: &ConsoleResult) -> Option<String> {
    let average = console.average_latency_ms?;
    let mut text = format!(
        "The KMS console shows an average latency of {} and a reliability of {}",
        latency(average),
        share((console.reliability * console.requests as f64).round() as u64, console.requests)
    );
    if let Some(worst) = console.worst_average_latency_ms {
        text.push_str(&format!("; its slowest five minutes averaged {}", latency(worst)));
    }
    if let Some(code) = &console.connection_error_code {
        text.push_str(&format!("; the key store ended {} with {code}", console.connection_state));
    }
    Some(text)
}

/// What a service's users saw, each text once, most frequent first: one visible error can stand for several
/// exceptions of KMS.
pub(super) fn seen(service: &ServiceResult) -> Vec<(&str, u64)> {
    let mut seen: Vec<(&str, u64)> = Vec::new();
    for error in &service.errors {
        match seen.iter_mut().find(|(visible, _)| *visible == error.visible) {
            Some((_, count)) => *count += error.count,
            None => seen.push((&error.visible, error.count)),
        }
    }
    seen.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(held: bool, checked: u64) -> Check {
        Check { name: "n".into(), text: "t".into(), checked, judged: true, held, violation: None }
    }

    #[test]
    fn checks_say_how_many_held() {
        let say = |all: &[Check]| checks(all, "invariant", "held", "violated");
        assert_eq!(say(&[]), "No invariant was checked");
        assert_eq!(say(&[check(true, 12_000), check(true, 345)]), "2 invariants held over 12,345 checks");
        assert_eq!(say(&[check(true, 1), check(false, 1)]), "1 of 2 invariants violated");
        assert_eq!(
            say(&[check(true, 5), check(true, 0)]),
            "1 invariant held over 5 checks; 1 had nothing to check in this run"
        );
        let unjudged = Check { judged: false, ..check(true, 0) };
        assert_eq!(
            say(&[check(true, 5), unjudged.clone()]),
            "1 invariant held over 5 checks; 1 not judged, since the run was ended before"
        );
        assert_eq!(expectations(&[]), "The scenario states no expectation");
        assert_eq!(expectations(&[check(true, 5), check(false, 5)]), "1 of 2 expectations met");
        assert_eq!(
            expectations(&[check(true, 5), unjudged]),
            "1 of 2 expectations met; 1 not judged, since the run was ended before"
        );
    }
}
