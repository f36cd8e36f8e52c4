//! The page: one file that opens offline, that one can show a board, print, or read on a phone.
//!
//! Place on the map: one of the renderers of [`report`](crate::report); [`sheet`](crate::sheet) is its frame.

use super::chart::{Axis, Scale, Words, describe_latency, success_labels};
use super::human::{count, counted, duration, latency, moment, share};
use super::story::{self, Answer};
use super::terminal::values;
use crate::result::{Check, Percentiles, RunResult, ServiceResult};
use crate::sheet::{Frame, Script};
use maud::{Markup, html};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

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
        (reproduce(result))
    };
    let script = Some(Script { code: SCRIPT, series: series(result) });
    Frame { title: &result.title, kind: "XKS outage report", style: STYLE, script }.page(&main)
}

/// What the script reads values from: numbers under the names of the plots.
fn series(result: &RunResult) -> String {
    let mut plots = serde_json::Map::new();
    for (index, service) in result.services.iter().enumerate() {
        let values = serde_json::json!({ "ok": service.ok, "failed": service.failed });
        plots.insert(service_id(index), values);
    }
    let xks = &result.xks;
    plots.insert("latency".to_owned(), serde_json::json!({ "p50": xks.p50_ms, "p99": xks.p99_ms }));
    let load = Axis::of(result).load_series(result);
    let values = serde_json::json!({ "calls": xks.per_bucket, "unit_ms": load.unit_ms, "unit": load.unit });
    plots.insert("load".to_owned(), values);
    let all = serde_json::json!({
        "duration_ms": result.duration_ms.max(1),
        "bucket_ms": result.bucket_ms.max(1),
        "plots": plots,
    });
    inert(&all.to_string())
}

/// JSON that cannot end the element it stands in, should it ever hold text: the same values, escaped JSON's own way.
fn inert(json: &str) -> String {
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn service_id(index: usize) -> String {
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
            h2.quiet #verdict { "The verdict" }
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
                li.served { "requests served" }
                li.lost { "requests failed" }
                li.idle { "no requests" }
            }
            div #timeline {
                (faults(result, &axis))
                div.row.times {
                    div.name {}
                    div.scale {}
                    div.drawing { (axis.labels()) }
                    div.note { span.now data-now="time" {} }
                }
                @for (index, service) in result.services.iter().enumerate() {
                    (strip(result, &axis, index, service))
                }
                (proxy_plots(result, &axis))
                div.row.times {
                    div.name {}
                    div.scale {}
                    div.drawing { (axis.labels()) }
                    div.note {}
                }
            }
            p.hint #hint { "Each step is " (duration(result.bucket_ms)) " of simulated time." }
            p.unseen #reading aria-live="polite" {}
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
                    (axis.faults(&row.bands, &Words {
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
            div.name { (service.title) }
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

fn proxy_plots(result: &RunResult, axis: &Axis) -> Markup {
    let latency_scale = Scale::latency(result);
    let load = axis.load_series(result);
    let busiest = format!("{} per {}", count(load.most.round() as u64), load.unit);
    html! {
        div.row.tall {
            div.name {
                "Proxy latency"
                span.key { span.k99 { "99th percentile" } span.k50 { "median" } }
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
                            tr.broken[rang.is_some()] {
                                td.outcome {
                                    @if rang.is_some() { span.no { "rang" } } @else { span.idle { "silent" } }
                                }
                                th scope="row" {
                                    (alarm.name)
                                    @if let Some(rang) = &rang { span.message { (rang) } }
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
                                @if !check.held { span.no { (broken) } }
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

fn reproduce(result: &RunResult) -> Markup {
    html! {
        section aria-labelledby="reproduce" {
            h2 #reproduce { "How to reproduce it" }
            pre.command tabindex="0" aria-label="Command" { code { (result.command) } }
            dl.pairs {
                div { dt { "Seed" } dd { code { (result.seed) } } }
                div { dt { "Digest" } dd { code { (result.digest) } } }
                div { dt { "Version" } dd { code { (result.version) } } }
                div { dt { "HSM" } dd { (result.hsm) } }
            }
            p.foot { "The same command gives the same digest on any machine: SHA-256 over everything that happened." }
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
        section aria-labelledby="scenario" {
            h2 #scenario { "The scenario" }
            pre.file tabindex="0" aria-label="Scenario file" { code { (result.scenario_toml) } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_json_cannot_end_its_element_and_means_the_same() {
        let value = serde_json::json!({ "title": "</script><!-- & -->" });
        let inert = inert(&value.to_string());
        assert!(!inert.contains(['<', '>', '&']), "{inert}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&inert).unwrap(), value);
    }
}
