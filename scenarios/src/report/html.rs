//! The page: one file that opens offline, that one can show a board, print, or read on a phone.
//!
//! Place on the map: one of the renderers of [`report`](crate::report); [`sheet`](crate::sheet) is its frame.

use super::chart::{Axis, Line, Scale, Words, describe_latency, part_labels, spans, success_labels};
use super::counts::{Counts, calls_of_all, queues, series, service_counts};
use super::human::{count, counted, duration, latency, moment, share};
use super::story::{self, Answer};
use super::terminal::values;
use super::topology;
use super::waterfall::waterfalls;
use crate::result::{Check, Percentiles, RunResult, ServiceResult};
use crate::sheet::{Frame, Script};
use maud::{Markup, html};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// What the models rest on: what, and for what.
const SOURCES: [(&str, &str); 6] = [
    (
        "XKS Proxy API Specification 1.0.3 (AWS, 15 May 2024)",
        "what KMS asks of a proxy, the 250 ms, the twelve errors",
    ),
    (
        "AWS KMS Developer Guide: External key stores, Troubleshooting, Monitoring, Request quotas",
        "which exception KMS gives for which failure, metrics, alarms, quotas",
    ),
    (
        "AWS KMS API Reference and service model 2014-11-01",
        "exceptions and their words, states of keys and key stores",
    ),
    ("AWS SDKs and Tools Reference: Retry behaviour", "how often and when SDKs repeat a call"),
    (
        "The user guides of the services on this page",
        "when they ask KMS, what they cache, what their users see",
    ),
    ("User Guide for Network Load Balancers", "health checks, zones, idle connections"),
];

/// The whole page.
pub fn html(result: &RunResult) -> String {
    let main = html! {
        (header(result))
        (verdict(result))
        (timeline(result))
        (services(result))
        (exceptions(result))
        (latencies(result))
        (alarms(result))
        (checks(result))
        (world(result))
        (reproduce(result))
    };
    let script = Some(Script { code: SCRIPT, series: series(result) });
    Frame { title: &result.title, kind: "XKS outage report", style: STYLE, script }.page(&main)
}

pub(super) fn service_id(index: usize) -> String {
    format!("service-{index}")
}

fn header(result: &RunResult) -> Markup {
    html! {
        header.top {
            p.kicker { "XKS outage report" }
            h1 { (result.title) }
            @if !result.about.is_empty() {
                p.about { (result.about) }
            }
            p.meta {
                span { (result.scenario) }
                span { (duration(result.duration_ms)) " simulated" }
                span { "seed " (result.seed) }
                span { (result.hsm) }
            }
        }
    }
}

fn verdict(result: &RunResult) -> Markup {
    let broken: Vec<_> = result.invariants.iter().filter(|check| !check.held).collect();
    let unmet: Vec<_> = result.expectations.iter().filter(|check| !check.held).collect();
    html! {
        section aria-labelledby="verdict" {
            h2 #verdict { "Blast radius" }
            p.headline { (story::headline(result)) }
            @if !broken.is_empty() || !unmet.is_empty() {
                aside.alert {
                    @for check in &broken {
                        p { strong { "Invariant violated: " (check.text) } (violation(check)) }
                    }
                    @for check in &unmet {
                        p { strong { "Expectation not met: " (check.text) } (violation(check)) }
                    }
                }
            }
            (figures(result))
            dl.facts {
                @for fact in story::facts(result) {
                    div {
                        dt { (fact.term) }
                        dd {
                            @for answer in &fact.answers { p { (sentence(answer)) } }
                        }
                    }
                }
            }
        }
    }
}

fn sentence(answer: &Answer) -> Markup {
    html! {
        @if !answer.subject.is_empty() { strong { (answer.subject) ": " } }
        (answer.text)
    }
}

fn violation(check: &Check) -> Markup {
    html! {
        @if let Some(violation) = &check.violation { span.what { (violation) } }
    }
}

/// A handful of numbers to remember.
fn figures(result: &RunResult) -> Markup {
    let hit = story::hit(result);
    let asked = story::asked(result);
    let (requests, failures) = story::totals(result);
    let first = hit.first().and_then(|service| service.failed_after_fault_ms);
    let back = hit.iter().map(|service| service.recovered_after_fault_ms.unwrap_or(0)).max().unwrap_or(0);
    let lost = hit.iter().filter(|service| service.recovered_ms.is_none()).count();
    let tested: Vec<_> = result.invariants.iter().filter(|check| check.checked > 0 || !check.held).collect();
    let held = tested.iter().filter(|check| check.held).count();
    html! {
        dl.figures {
            (figure(&format!("{} of {asked}", hit.len()), "services hit", hit.is_empty()))
            @if let Some(first) = first {
                (figure(&duration(first), "until the first failure", false))
            }
            (figure(&share(failures, requests), "of requests failed", failures == 0))
            @if !hit.is_empty() {
                @if lost > 0 {
                    (figure(&format!("{lost} of {}", hit.len()), "had not recovered by the end", false))
                } @else if !result.faults.is_empty() {
                    (figure(&duration(back), "after the fault, all were back", true))
                }
            }
            @if !tested.is_empty() {
                (figure(&format!("{held} of {}", tested.len()), "tested invariants held", held == tested.len()))
            }
        }
    }
}

fn figure(number: &str, words: &str, good: bool) -> Markup {
    html! {
        div.good[good] {
            dt { (words) }
            dd { (number) }
        }
    }
}

fn timeline(result: &RunResult) -> Markup {
    let axis = Axis::of(result);
    html! {
        section aria-labelledby="timeline-heading" {
            h2 #timeline-heading { "What happened when" }
            ul.legend aria-hidden="true" {
                li.fault { "fault" }
                @if result.alarms.iter().any(|alarm| !alarm.rang.is_empty()) { li.alarm { "alarm rings" } }
                li.served { "requests served" }
                li.lost { "requests failed" }
                li.idle { "no requests" }
            }
            div #timeline {
                (times(&axis, true))
                div.group { p.label { "Faults" } (faults(result, &axis)) }
                (alarm_bands(result, &axis))
                div.group {
                    p.label { "Success rate of each service" }
                    @for (index, service) in result.services.iter().enumerate() {
                        (strip(result, &axis, index, service))
                        (detail(result, &axis, index, service))
                    }
                }
                div.group {
                    p.label { "The proxy as KMS saw it" }
                    (proxy_plots(result, &axis))
                    (times_on_paper(&axis))
                }
                (counts_group(result, &axis, "Queues, the most at once", &queues(result), 0))
                (counts_group(result, &axis, "Retries and KMS exceptions, all services", &calls_of_all(result), queues(result).len()))
                (times(&axis, false))
            }
            p.hint #hint { "Each step is " (duration(result.bucket_ms)) " of simulated time." }
            p.unseen #reading aria-live="polite" {}
        }
    }
}

fn times(axis: &Axis, first: bool) -> Markup {
    html! {
        div.row.times {
            div.name {}
            div.scale {}
            div.drawing { (axis.labels()) }
            div.note { @if first { span.now data-now="time" {} } }
        }
    }
}

/// On paper nothing stays in sight: the axis again, below each group of charts.
fn times_on_paper(axis: &Axis) -> Markup {
    html! {
        div.row.times.paper {
            div.name {}
            div.scale {}
            div.drawing { (axis.labels()) }
            div.note {}
        }
    }
}

fn faults(result: &RunResult, axis: &Axis) -> Markup {
    let rows = story::fault_rows(result);
    html! {
        @if rows.is_empty() {
            div.row.faults {
                div.name { "No faults" }
                div.scale {}
                div.drawing {}
                div.note { "none was injected" }
            }
        }
        @for (index, row) in rows.iter().enumerate() {
            div.row.faults {
                div.name { (row.label) }
                div.scale {}
                div.drawing {
                    (axis.bands("fault", &spans(&row.bands), &Words {
                        id: &format!("fault-{index}"),
                        title: &format!("Fault: {}", row.label),
                        description: &row.when,
                    }))
                }
                div.note { (row.when) }
            }
        }
    }
}

/// The alarms that rang, each when it did; the table of alarms names the others too.
fn alarm_bands(result: &RunResult, axis: &Axis) -> Markup {
    let rang = result.alarms.iter().filter_map(|alarm| Some((alarm, story::rang(alarm)?)));
    html! {
        @if result.alarms.iter().any(|alarm| alarm.rang_at_ms.is_some()) {
            div.group {
                p.label { "Alarms" }
                @for (index, (alarm, words)) in rang.enumerate() {
                    @let spans: Vec<_> = alarm.rang.iter()
                        .map(|span| (span.from_ms, span.to_ms.unwrap_or(result.duration_ms)))
                        .collect();
                    div.row.faults {
                        div.name { (alarm.name) }
                        div.scale {}
                        div.drawing {
                            (axis.bands("alarm", &spans, &Words {
                                id: &format!("alarm-{index}"),
                                title: &format!("Alarm: {}", alarm.name),
                                description: &words,
                            }))
                        }
                        div.note { (words) }
                    }
                }
            }
        }
    }
}

fn strip(result: &RunResult, axis: &Axis, index: usize, service: &ServiceResult) -> Markup {
    let id = service_id(index);
    let note = if service.requests == 0 {
        "no requests".to_owned()
    } else if service.failures == 0 {
        "never failed".to_owned()
    } else {
        let back = match story::recovered(result, service).as_str() {
            "not within the run" => "did not recover within the run".to_owned(),
            other => format!("back {other}"),
        };
        format!("failed {}; {back}", story::began(result, service))
    };
    html! {
        div.row.hit[service.failures > 0] {
            div.name data-more=(format!("{id}-more")) { (service.title) }
            div.scale { (success_labels()) }
            div.drawing {
                (axis.success(result, service, &Words {
                    id: &id,
                    title: &format!("{}: share of requests served over time", service.title),
                    description: &format!("{} of {} failed; {note}.", count(service.failures), counted(service.requests, "request")),
                }))
            }
            div.note { span.said { (note) } span.now data-now=(id) {} }
        }
    }
}

/// What a service's strip unfolds to: its caches running out, its exceptions by name, its retries, single requests from
/// near. All of it is there for a reader without the script, and on paper.
fn detail(result: &RunResult, axis: &Axis, index: usize, service: &ServiceResult) -> Markup {
    let id = service_id(index);
    let parts = format!("{id}-parts");
    let kms = service.ok.iter().sum::<u64>().saturating_sub(service.from_cache + service.from_held_key);
    html! {
        @if service.requests > 0 {
            div.detail id=(format!("{id}-more")) {
                div.row.tall {
                    div.name {
                        "How they were served"
                        span.key {
                            @if kms > 0 { span.kkms { "by KMS" } }
                            @if service.from_cache > 0 { span.kcache { "from a cached key" } }
                            @if service.from_held_key > 0 { span.kheld { "by a held key" } }
                            @if service.failures > 0 { span.kfailed { "not at all" } }
                        }
                    }
                    div.scale { (part_labels()) }
                    div.drawing {
                        (axis.parts(result, service, &Words {
                            id: &parts,
                            title: &format!("{}: how requests were served over time", service.title),
                            description: &format!(
                                "{} by KMS, {} from a cached key, {} by a held key, {} not at all.",
                                count(kms), count(service.from_cache), count(service.from_held_key), count(service.failures)
                            ),
                        }))
                    }
                    div.note {
                        span.said {
                            @if service.from_cache + service.from_held_key == 0 { "every request asked KMS" }
                            @else { (count(service.from_cache + service.from_held_key)) " without KMS" }
                        }
                        span.now data-now=(parts) {}
                    }
                }
                @for (nth, plot) in service_counts(service).iter().enumerate() {
                    (counts_row(result, axis, &format!("{id}-count-{nth}"), &format!("{}: ", service.title), plot))
                }
                (times_on_paper(axis))
                (waterfalls(service, &id))
            }
        }
    }
}

fn counts_group(result: &RunResult, axis: &Axis, label: &str, plots: &[Counts], from: usize) -> Markup {
    html! {
        @if !plots.is_empty() {
            div.group {
                p.label { (label) }
                @for (nth, plot) in plots.iter().enumerate() {
                    (counts_row(result, axis, &format!("count-{}", from + nth), "", plot))
                }
            }
        }
    }
}

fn counts_row(result: &RunResult, axis: &Axis, id: &str, whose: &str, plot: &Counts) -> Markup {
    let scale = Scale::up_to(plot.most() as f64);
    let lines: Vec<_> = plot
        .lines
        .iter()
        .enumerate()
        .map(|(nth, (class, _, values))| Line { class, values, filled: nth == 0 })
        .collect();
    html! {
        div.row.tall {
            div.name {
                // A long name of an exception breaks before its last word.
                @match plot.name.strip_suffix("Exception") {
                    Some(stem) => { (stem) wbr; "Exception" }
                    None => { (plot.name) }
                }
                @if plot.lines.len() > 1 {
                    span.key { @for (class, noun, _) in &plot.lines { span class=(format!("k-{class}")) { (noun) } } }
                }
            }
            div.scale { (scale.count_labels()) }
            div.drawing {
                (axis.counts(result, &scale, &lines, &Words {
                    id,
                    title: &format!("{whose}{} over time", plot.name),
                    description: &format!("{}.", plot.note),
                }))
            }
            div.note { span.said { (plot.note) } span.now data-now=(id) {} }
        }
    }
}

fn proxy_plots(result: &RunResult, axis: &Axis) -> Markup {
    let latency_scale = Scale::latency(result);
    let load = axis.load_series(result);
    let busiest = format!("{} per {}", count(load.most.round() as u64), load.unit);
    html! {
        div.row.tall {
            div.name {
                "Proxy latency"
                span.key {
                    span.k99 { "99th percentile" }
                    span.k90 { "90th percentile" }
                    span.k50 { "median" }
                }
            }
            div.scale { (latency_scale.latency_labels()) }
            div.drawing {
                (axis.latency(result, &latency_scale, &Words {
                    id: "latency",
                    title: "Latency of proxy calls as KMS saw it, over time",
                    description: &describe_latency(result),
                }))
            }
            div.note {
                span.said { "how long KMS waited for the proxy" }
                span.now data-now="latency" {}
            }
        }
        div.row.tall {
            div.name { "Proxy calls" }
            div.scale { (load.labels()) }
            div.drawing {
                (axis.load(result, &load, &Words {
                    id: "load",
                    title: "Proxy calls over time",
                    description: &format!("At most {busiest}, retries included."),
                }))
            }
            div.note {
                span.said { "up to " (busiest) ", retries included" }
                span.now data-now="load" {}
            }
        }
    }
}

/// A cell that carries its column's name, for pages too narrow for columns.
fn cell(label: &str, class: &str, content: &Markup) -> Markup {
    html! { td.(class) role="cell" data-label=(label) { (content) } }
}

fn text(text: &str) -> Markup {
    html! { (text) }
}

fn services(result: &RunResult) -> Markup {
    html! {
        section aria-labelledby="services" {
            h2 #services { "Services" }
            @if result.services.is_empty() {
                p { "The scenario has no services." }
            } @else {
                table.cards role="table" aria-labelledby="services-caption" {
                    caption #services-caption { "Requests of each service's users, and what became of them" }
                    thead role="rowgroup" {
                        tr role="row" {
                            th scope="col" role="columnheader" { "Service" }
                            th.n scope="col" role="columnheader" { "Requests" }
                            th.n scope="col" role="columnheader" { "Failed" }
                            th.n scope="col" role="columnheader" { "Share" }
                            th scope="col" role="columnheader" { "Began to fail" }
                            th scope="col" role="columnheader" { "Users saw" }
                            th scope="col" role="columnheader" { "Recovered" }
                            th.n scope="col" role="columnheader" { "Without KMS" }
                            th.n scope="col" role="columnheader" { "KMS calls" }
                        }
                    }
                    tbody role="rowgroup" {
                        @for service in &result.services { (service_row(result, service)) }
                    }
                }
                p.foot {
                    "Without KMS: served from a cached data key or by a key that a running resource holds. "
                    "KMS calls include retries of the SDK."
                }
            }
        }
    }
}

fn service_row(result: &RunResult, service: &ServiceResult) -> Markup {
    let saw = html! {
        @for (index, (visible, _)) in story::seen(service).into_iter().enumerate() {
            @if index > 0 { br; }
            code { (visible) }
        }
        @if service.errors.is_empty() { "–" }
    };
    html! {
        tr role="row" {
            th scope="row" role="rowheader" { (service.title) }
            (cell("Requests", "n", &text(&count(service.requests))))
            (cell("Failed", "n", &html! { span.bad[service.failures > 0] { (count(service.failures)) } }))
            (cell("Share", "n", &text(&share(service.failures, service.requests))))
            (cell("Began to fail", "t", &text(&story::began(result, service))))
            (cell("Users saw", "t", &saw))
            (cell("Recovered", "t", &text(&story::recovered(result, service))))
            (cell("Without KMS", "n", &text(&count(service.from_cache + service.from_held_key))))
            (cell("KMS calls", "n", &text(&count(service.kms_calls))))
        }
    }
}

fn exceptions(result: &RunResult) -> Markup {
    let rows = story::exceptions(result);
    html! {
        section aria-labelledby="exceptions" {
            h2 #exceptions { "The exact errors" }
            @if rows.is_empty() {
                p { "None: no request failed." }
            } @else {
                table.cards.errors role="table" aria-labelledby="errors-caption" {
                    caption #errors-caption { "What to look for in logs, alarms and CloudTrail" }
                    thead role="rowgroup" {
                        tr role="row" {
                            th scope="col" role="columnheader" { "Service" }
                            th scope="col" role="columnheader" { "Its users see" }
                            th.n scope="col" role="columnheader" { "Count" }
                            th.n scope="col" role="columnheader" { "First seen" }
                        }
                    }
                    @for row in &rows { (exception(row)) }
                }
            }
        }
    }
}

fn exception(row: &story::ExceptionRow<'_>) -> Markup {
    html! {
        tbody role="rowgroup" {
            tr.behind role="row" {
                th scope="rowgroup" role="rowheader" colspan="2" {
                    @if row.exception.is_empty() { "Not from KMS" } @else { code { (row.exception) } }
                    @if !row.message.is_empty() { span.message { (row.message) } }
                }
                (cell("Count", "n", &text(&count(row.count))))
                (cell("First seen", "n", &text(&row.seen_by.first().map_or(String::new(), |(_, error)| moment(error.first_ms)))))
            }
            @for (service, error) in &row.seen_by {
                tr role="row" {
                    th scope="row" role="rowheader" { (service.title) }
                    (cell("Its users see", "t", &html! { code { (error.visible) } }))
                    (cell("Count", "n", &text(&count(error.count))))
                    (cell("First seen", "n", &text(&moment(error.first_ms))))
                }
            }
        }
    }
}

fn latencies(result: &RunResult) -> Markup {
    let xks = &result.xks;
    html! {
        section aria-labelledby="latencies" {
            h2 #latencies { "The proxy as KMS saw it" }
            @if xks.calls == 0 {
                p { "KMS never called the proxy." }
            } @else {
                p {
                    "KMS made " (counted(xks.calls, "call")) " and gave each " (count(xks.patience_ms)) "\u{a0}ms. "
                    (count(xks.ok)) " were answered (" (share(xks.ok, xks.calls)) "), "
                    (count(xks.timed_out)) " ran out of time (" (share(xks.timed_out, xks.calls)) "), "
                    (count(xks.fresh_connections)) " needed a new connection."
                    @if let Some(words) = story::tried_twice(xks) { " " (words) }
                }
                div.side {
                    div { table {
                        caption { "Latency, connection set-up included" }
                        thead {
                            tr {
                                th scope="col" { "Calls" }
                                @for name in ["p50", "p90", "p99", "p99.9", "max"] { th.n scope="col" { (name) } }
                            }
                        }
                        tbody {
                            (percentiles("all", &xks.latency, xks.patience_ms))
                            @if !result.faults.is_empty() {
                                (percentiles("outside faults", &xks.latency_outside_faults, xks.patience_ms))
                            }
                        }
                    } }
                    @if !xks.outcomes.is_empty() {
                        table {
                            caption { "Calls that did not succeed" }
                            thead { tr { th scope="col" { "Outcome" } th.n scope="col" { "Count" } } }
                            tbody {
                                @for (words, times) in &xks.outcomes {
                                    tr { th scope="row" { (words) } td.n { (count(*times)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn percentiles(name: &str, percentiles: &Percentiles, patience_ms: u64) -> Markup {
    html! {
        tr {
            th scope="row" { (name) }
            @for value in values(percentiles) {
                td.n { span.bad[value >= patience_ms as f64] { (latency(value)) } }
            }
        }
    }
}

fn alarms(result: &RunResult) -> Markup {
    html! {
        section aria-labelledby="alarms" {
            h2 #alarms { "Alarms" }
            @if let Some(text) = story::console(&result.console) { p { (text) "." } }
            @if result.alarms.is_empty() {
                p { "No alarm was set." }
            } @else {
                table.checks {
                    caption { "AWS's alarms on the key store, evaluated at the end of each period" }
                    thead {
                        tr {
                            th scope="col" { "Outcome" }
                            th scope="col" { "Alarm" }
                            th scope="col" { "Rings when" }
                        }
                    }
                    tbody {
                        @for alarm in &result.alarms {
                            @let rang = story::rang(alarm);
                            @let unheard = story::unheard(alarm, result.duration_ms);
                            tr.broken[rang.is_some()] {
                                td.outcome {
                                    @if rang.is_some() {
                                        span.no { "rang" }
                                    } @else if unheard.is_some() {
                                        span.idle { "not evaluated" }
                                    } @else {
                                        span.idle { "silent" }
                                    }
                                }
                                th scope="row" {
                                    (alarm.name)
                                    @if let Some(rang) = &rang {
                                        span.message { (rang) }
                                    } @else if let Some(why) = unheard {
                                        span.message { (why) }
                                    }
                                }
                                td { (alarm.metric) ": " (alarm.condition) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn checks(result: &RunResult) -> Markup {
    html! {
        section aria-labelledby="checks" {
            h2 #checks { "Invariants and expectations" }
            p { (story::checks(&result.invariants, "invariant", "held", "violated")) "." }
            (check_table("What must hold in every run", &result.invariants, "held", "violated"))
            @if result.expectations.is_empty() {
                p { "The scenario states no expectation." }
            } @else {
                (check_table("What this scenario expects", &result.expectations, "met", "not met"))
            }
        }
    }
}

fn check_table(caption: &str, checks: &[Check], held: &str, broken: &str) -> Markup {
    html! {
        @if !checks.is_empty() {
            table.checks {
                caption { (caption) }
                thead {
                    tr {
                        th scope="col" { "Outcome" }
                        th scope="col" { "Statement" }
                        th.n scope="col" { "Checks" }
                    }
                }
                tbody {
                    @for check in checks {
                        tr.broken[!check.held] {
                            td.outcome {
                                @if !check.judged { span.idle { "not judged" } }
                                @else if !check.held { span.no { (broken) } }
                                @else if check.checked == 0 { span.idle { "nothing to check" } }
                                @else { span.yes { (held) } }
                            }
                            th scope="row" {
                                (check.text) " " code { (check.name) }
                                @if let Some(violation) = &check.violation { span.message { (violation) } }
                            }
                            td.n { (count(check.checked)) }
                        }
                    }
                }
            }
        }
    }
}

fn world(result: &RunResult) -> Markup {
    html! {
        section aria-labelledby="world" {
            h2 #world { "What was simulated" }
            div.world {
                div.picture { (topology::picture(result)) }
                div {
                    p { (topology::describe(result)) }
                    dl.pairs {
                        div { dt { "Scenario" } dd { (result.scenario) } }
                        div { dt { "Length" } dd { (duration(result.duration_ms)) } }
                        div { dt { "Seed" } dd { code { (result.seed) } } }
                        div { dt { "Version" } dd { code { (result.version) } } }
                        div { dt { "HSM" } dd { (result.hsm) } }
                        div { dt { "Digest" } dd { code { (result.digest) } } }
                    }
                    p.foot { "The picture shows the world without its faults." }
                }
            }
        }
    }
}

fn reproduce(result: &RunResult) -> Markup {
    html! {
        section aria-labelledby="reproduce" {
            h2 #reproduce { "How to reproduce it" }
            pre.command tabindex="0" role="region" aria-label="Command" { code { (result.command) } }
            p.foot { "The same command gives the same digest on any machine: SHA-256 over everything that happened." }
        }
        section aria-labelledby="scenario" {
            h2 #scenario { "The scenario" }
            pre.file tabindex="0" role="region" aria-label="Scenario file" { code { (result.scenario_toml) } }
        }
        section aria-labelledby="assumptions" {
            h2 #assumptions { "Assumptions" }
            @if result.assumptions.is_empty() {
                p { "None beyond what AWS documents." }
            } @else {
                p { "Where AWS documents nothing, these settings stand in. Change them in the scenario to see what hangs on them." }
                ul.assumptions { @for assumption in &result.assumptions { li { (assumption) } } }
            }
        }
        section aria-labelledby="sources" {
            h2 #sources { "Sources" }
            p { "Where AWS documents a behaviour, the models follow these documents." }
            ul.assumptions { @for (document, what) in SOURCES { li { (document) ": " (what) } } }
        }
    }
}
