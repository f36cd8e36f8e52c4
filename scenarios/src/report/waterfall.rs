//! A sample request's way through the stations: a table whose second column draws when each was passed.
//!
//! Place on the map: used by `html` in what a service's row unfolds to. Bars are placed in per cent of the request's time,
//! so they are as wide as their column.

use super::chart::{number, per_cent};
use super::human::{count, counted, moment};
use crate::result::{SampleKind, SampleRequest, ServiceResult, Span, Station};
use maud::{Markup, html};

/// Height of a bar's drawing in CSS pixels.
const BAR_PX: u32 = 12;

/// All samples of a service; `id` is the service's in the page.
pub(super) fn waterfalls(service: &ServiceResult, id: &str) -> Markup {
    html! {
        @for (nth, sample) in service.samples.iter().enumerate() {
            (waterfall(service, sample, &format!("{id}-sample-{nth}")))
        }
    }
}

fn waterfall(service: &ServiceResult, sample: &SampleRequest, id: &str) -> Markup {
    let failed = sample.outcome != "served";
    html! {
        table.waterfall id=(id) aria-labelledby=(format!("{id}-caption")) {
            caption id=(format!("{id}-caption")) {
                span.unseen { (service.title) ": " }
                strong { (heading(sample)) }
                " " (which(sample)) ". It came in at " (moment_of(sample.at_ms)) "."
            }
            thead {
                tr { th scope="col" { "Station" } th scope="col" { "When" } th.n scope="col" { "Time" } }
            }
            tbody {
                tr {
                    th scope="row" {
                        (service.title)
                        span.message.bad[failed] { (sample.outcome) }
                    }
                    td { (bar("whole", 0.0, sample.took_ms, sample.took_ms)) }
                    td.n { (time(sample.took_ms)) }
                }
                @for span in &sample.spans {
                    tr {
                        th.(level(span.station)) scope="row" {
                            @if level(span.station) == "in-2" { span.unseen { "part of it: " } }
                            (name(span))
                            @if !span.ended.is_empty() { span.message.bad { (span.ended) } }
                        }
                        td { (bar(class(span.station), span.from_ms, span.took_ms, sample.took_ms)) }
                        td.n { (time(span.took_ms)) }
                    }
                }
            }
            @if sample.spans_more > 0 {
                tfoot { tr { td colspan="3" { "and " (counted(sample.spans_more, "further span")) } } }
            }
        }
    }
}

fn heading(sample: &SampleRequest) -> &'static str {
    match sample.kind {
        SampleKind::Served => "A request that was served",
        SampleKind::Failed => "A request that failed",
        SampleKind::Slowest => "The slowest request",
    }
}

fn which(sample: &SampleRequest) -> String {
    let of = count(sample.of);
    match (sample.kind, sample.of) {
        (SampleKind::Served | SampleKind::Failed, 1) => "(the only one of its kind)".to_owned(),
        (SampleKind::Served | SampleKind::Failed, _) => format!("(the median of the first {of} such)"),
        (SampleKind::Slowest, _) => format!("(of the {of} that asked KMS)"),
    }
}

fn moment_of(ms: f64) -> String {
    moment(ms.max(0.0).round() as u64)
}

/// What is inside another is set in.
fn level(station: Station) -> &'static str {
    match station {
        Station::Kms | Station::Wait => "in-1",
        _ => "in-2",
    }
}

fn name(span: &Span) -> Markup {
    html! { @if span.station == Station::Kms { "KMS " } (span.what) }
}

fn class(station: Station) -> &'static str {
    match station {
        Station::Wait => "wait",
        Station::Kms => "kms",
        Station::Connect | Station::Tls => "setup",
        Station::Network => "network",
        Station::Processor | Station::Proxy => "proxy",
        Station::Hsm => "hsm",
        Station::Unanswered => "unanswered",
    }
}

/// The bar, and the same in words for those who do not see it.
fn bar(class: &str, from_ms: f64, took_ms: f64, whole_ms: f64) -> Markup {
    let share = |ms: f64| if whole_ms > 0.0 { (ms * 100.0 / whole_ms).clamp(0.0, 100.0) } else { 0.0 };
    let (from, width) = (share(from_ms), share(took_ms));
    html! {
        svg width="100%" height=(BAR_PX) aria-hidden="true" {
            line.rail x1="0" x2="100%" y1="50%" y2="50%" {}
            rect class=(format!("bar-{class}")) x=(per_cent(from.min(99.6))) y="1" width=(per_cent(width.max(0.4))) height=(number(f64::from(BAR_PX - 2))) {}
        }
        span.unseen { "from " (time(from_ms)) }
    }
}

/// To a hundredth of a millisecond below ten: a processor's work is told in those.
fn time(ms: f64) -> String {
    if !ms.is_finite() || ms < 0.0 {
        "–".to_owned()
    } else if ms < 9.995 {
        format!("{ms:.2}\u{a0}ms")
    } else if ms < 999.5 {
        format!("{ms:.1}\u{a0}ms")
    } else {
        moment_of(ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_what_fits_them() {
        let told = [0.0, 0.05, 9.99, 10.0, 249.96, 1_240.0, 61_000.0, f64::NAN, -1.0].map(time);
        assert_eq!(
            told.map(|time| time.replace('\u{a0}', " ")),
            ["0.00 ms", "0.05 ms", "9.99 ms", "10.0 ms", "250.0 ms", "1.2 s", "1 min 1 s", "–", "–"]
        );
    }

    #[test]
    fn a_bar_stays_within_its_column_and_is_seen_however_short() {
        let drawn = bar("hsm", 99.99, 0.01, 100.0).into_string();
        assert!(drawn.contains(r#"x="99.600%""#) && drawn.contains(r#"width="0.400%""#), "{drawn}");
        // A request that took no time at all.
        let drawn = bar("kms", 0.0, 0.0, 0.0).into_string();
        assert!(drawn.contains(r#"x="0.000%""#) && !drawn.contains("NaN"), "{drawn}");
    }
}
