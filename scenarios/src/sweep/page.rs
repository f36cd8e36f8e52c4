//! A sweep as a page: a chart with intervals for one key, a heat map for two, and every figure in a table.

use super::Sweep;
use super::outcome::Axis;
use super::point::Point;
use super::words::{capitalised, nice, per_cent, percent, plain};
use crate::sheet::{Frame, WHAT_IF_STYLE};
use crate::statistics::interval::Interval;
use maud::{Markup, html};

/// Height of a chart in CSS pixels.
const CHART_PX: f64 = 220.0;

pub(super) fn html(sweep: &Sweep) -> String {
    let runs: usize = sweep.points.iter().chain(&sweep.probes).map(|point| point.runs.len()).sum();
    let seeds = match (sweep.seeds.first(), sweep.seeds.last()) {
        (Some(first), Some(last)) if first != last => format!("seeds {first} to {last} at each point"),
        (Some(only), _) => format!("seed {only}"),
        _ => String::new(),
    };
    let meta = [
        sweep.scenario.clone(),
        format!("{} points", sweep.points.len()),
        seeds,
        format!("{runs} runs"),
        format!("version {}", sweep.version),
    ];
    let kind = "XKS what-if";
    let main = html! {
        header.top {
            p.kicker { (kind) }
            h1 { (sweep.title) }
            p.meta { @for fact in &meta { span { (fact) } } }
        }
        (verdict(sweep))
        @match sweep.axes.as_slice() {
            [first, second] => { (heat_maps(sweep, first, second)) }
            [only] => {
                section aria-labelledby="charts" {
                    h2 #charts { "What it does" }
                    (chart(sweep, only, &Curve {
                        id: "failures",
                        title: "Requests that failed",
                        unit: "%",
                        scale: 100.0,
                        limit: None,
                        of: |point| point.failures,
                    }))
                    (chart(sweep, only, &Curve {
                        id: "p99",
                        title: "99th percentile of proxy calls",
                        unit: "ms",
                        scale: 1.0,
                        limit: Some(sweep.patience_ms as f64),
                        of: |point| point.p99_ms,
                    }))
                }
            }
            _ => {}
        }
        (figures(sweep))
        (reproduce(sweep))
    };
    Frame { title: &sweep.title, kind, style: WHAT_IF_STYLE, script: None }.page(&main)
}

fn verdict(sweep: &Sweep) -> Markup {
    html! {
        section aria-labelledby="verdict" {
            h2.quiet #verdict { "The verdict" }
            @if !sweep.complete {
                aside.alert { p { "Interrupted: what is here is whole, what is missing is left out." } }
            }
            @if sweep.slo.is_empty() {
                p.headline { "No SLO was asked for: the figures speak for themselves." }
            } @else {
                @match sweep.verdicts().as_slice() {
                    [] => { p.headline { "SLO: " (sweep.slo) "." } }
                    [only] => {
                        p.headline { (capitalised(only)) "." }
                        p { "The SLO: " (sweep.slo) ". It is met where every run meets it." }
                    }
                    several => {
                        p { "The SLO: " (sweep.slo) ". It is met where every run meets it." }
                        ul { @for line in several { li { (line) } } }
                    }
                }
            }
        }
    }
}

/// What a chart shows of each point.
struct Curve {
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    /// What makes the figure one of its unit.
    scale: f64,
    /// A line across.
    limit: Option<f64>,
    of: fn(&Point) -> Option<Interval>,
}

/// A mark of the chart, in per cent of its width and height.
struct Mark {
    x: f64,
    y: f64,
    low: f64,
    high: f64,
    missed: bool,
    says: String,
}

fn chart(sweep: &Sweep, axis: &Axis, curve: &Curve) -> Markup {
    let mut shown: Vec<(String, Option<f64>, &Point)> = sweep
        .points
        .iter()
        .enumerate()
        .map(|(at, point)| {
            let place = axis.numbers.as_ref().and_then(|numbers| numbers.get(at).copied());
            (point.values.first().cloned().unwrap_or_default(), place, point)
        })
        .collect();
    if axis.numbers.is_some() {
        let probes = sweep.probes.iter().filter_map(|point| {
            let label = point.values.first()?.clone();
            let place = label.parse::<f64>().ok();
            Some((label, place, point))
        });
        shown.extend(probes);
        shown.sort_by(|left, right| left.1.unwrap_or(0.0).total_cmp(&right.1.unwrap_or(0.0)));
    }
    let places = shown.iter().filter_map(|(_, place, _)| *place);
    let (from, to) = places
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), place| (low.min(place), high.max(place)));
    let count = shown.len().max(2) as f64;
    let x = |at: usize, place: Option<f64>| match place {
        Some(place) if to > from => 100.0 * (place - from) / (to - from),
        _ => 100.0 * at as f64 / (count - 1.0),
    };
    let most = shown
        .iter()
        .filter_map(|(_, _, point)| (curve.of)(point))
        .map(|interval| interval.high * curve.scale)
        .fold(curve.limit.unwrap_or(0.0), f64::max);
    let top = nice(most);
    let y = |value: f64| 100.0 * (1.0 - (value * curve.scale / top).clamp(0.0, 1.0));
    let marks: Vec<Mark> = shown
        .iter()
        .enumerate()
        .filter_map(|(at, (label, place, point))| {
            let interval = (curve.of)(point)?;
            Some(Mark {
                x: x(at, *place),
                y: y(interval.estimate),
                low: y(interval.low),
                high: y(interval.high),
                missed: point.is_met() == Some(false),
                says: format!("{} = {label}: {}", axis.key, in_words(interval, curve)),
            })
        })
        .collect();
    let join: Vec<String> = marks.iter().map(|mark| format!("{:.2},{:.2}", mark.x, mark.y)).collect();
    let labels: Vec<(f64, &str)> = sweep
        .points
        .iter()
        .enumerate()
        .filter_map(|(at, point)| {
            let place = axis.numbers.as_ref().and_then(|numbers| numbers.get(at).copied());
            Some((x(at, place), point.values.first()?.as_str()))
        })
        .collect();
    let every = labels.len().div_ceil(8).max(1);
    let title_id = format!("{}-title", curve.id);
    html! {
        figure.sweep-chart {
            figcaption { (curve.title) ", in " (curve.unit) ", by " code { (axis.key) } }
            div.sweep-plot {
                svg role="img" aria-labelledby=(title_id) width="100%" height=(CHART_PX) {
                    title id=(title_id) { (curve.title) " by " (axis.key) "; the figures stand in the table below" }
                    rect.paper x="0" y="0" width="100%" height="100%" {}
                    @for step in 0..=4_u32 {
                        @let level = top * f64::from(step) / 4.0;
                        @let at = 100.0 - 25.0 * f64::from(step);
                        line.grid x1="0" x2="100%" y1=(per_cent(at)) y2=(per_cent(at)) {}
                        text x="-6" y=(per_cent(at)) dy="4" text-anchor="end" { (plain(level)) }
                    }
                    @if let Some(limit) = curve.limit.filter(|limit| *limit <= top) {
                        @let at = per_cent(100.0 * (1.0 - limit / top));
                        line.limit x1="0" x2="100%" y1=(at) y2=(at) {}
                        text.limit-label x="4" y=(at) dy="-6" { "KMS gives up: " (plain(limit)) " ms" }
                    }
                    svg width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none" {
                        polyline.join points=(join.join(" ")) {}
                    }
                    @for mark in &marks {
                        line.whisker.missed[mark.missed] x1=(per_cent(mark.x)) x2=(per_cent(mark.x)) y1=(per_cent(mark.low)) y2=(per_cent(mark.high)) {}
                        circle.dot.missed[mark.missed] cx=(per_cent(mark.x)) cy=(per_cent(mark.y)) r="4.5" { title { (mark.says) } }
                    }
                    @for (x, label) in labels.iter().step_by(every) {
                        text x=(per_cent(*x)) y="100%" dy="18" text-anchor="middle" { (label) }
                    }
                }
            }
            @if !sweep.slo.is_empty() {
                ul.legend aria-hidden="true" { li.served { "meets the SLO" } li.lost { "misses it" } }
            }
        }
    }
}

fn in_words(interval: Interval, curve: &Curve) -> String {
    let number = |value: f64| plain(value * curve.scale);
    format!(
        "{} {} [{}, {}]",
        number(interval.estimate),
        curve.unit,
        number(interval.low),
        number(interval.high)
    )
}

fn heat_maps(sweep: &Sweep, first: &Axis, second: &Axis) -> Markup {
    html! {
        section aria-labelledby="maps" {
            h2 #maps { "What it does" }
            p { "Along a row " code { (first.key) } ", from row to row " code { (second.key) } ". The darker, the worse; underlined where the SLO is missed." }
            (heat_map(sweep, first, second, "Requests that failed, in %", "map-failures", &|point| {
                point.failures.map(|it| (percent(it.estimate), it.estimate))
            }))
            (heat_map(sweep, first, second, "99th percentile of proxy calls, in ms", "map-p99", &|point| {
                let patience_ms = (sweep.patience_ms as f64).max(1.0);
                point.p99_ms.map(|it| (format!("{:.0}", it.estimate), it.estimate / patience_ms))
            }))
        }
    }
}

/// `cell` gives what a point says, and how bad that is from 0 to 1.
fn heat_map(
    sweep: &Sweep,
    first: &Axis,
    second: &Axis,
    title: &str,
    id: &str,
    cell: &dyn Fn(&Point) -> Option<(String, f64)>,
) -> Markup {
    html! {
        div.wide role="region" aria-labelledby=(id) tabindex="0" {
            table.heat {
                caption id=(id) { (title) }
                thead {
                    tr {
                        td.none { (second.key) " ↓ " (first.key) " →" }
                        @for label in &first.labels { th scope="col" { (label) } }
                    }
                }
                tbody {
                    @for (label, line) in second.labels.iter().zip(sweep.lines()) {
                        tr {
                            th scope="row" { (label) }
                            @for point in line {
                                @match cell(point) {
                                    Some((words, heat)) => {
                                        td class=(shade(heat, point.is_met() == Some(false))) { (words) }
                                    }
                                    None => { td.none { "–" } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn shade(heat: f64, missed: bool) -> String {
    // Little differences at the good end matter most: a root spreads them.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 9")]
    let step = (libm::sqrt(heat.clamp(0.0, 1.0)) * 9.99).floor().min(9.0) as u32;
    format!("h{step}{}", if missed { " missed" } else { "" })
}

fn figures(sweep: &Sweep) -> Markup {
    let slo = !sweep.slo.is_empty();
    html! {
        section aria-labelledby="figures" {
            h2 #figures { "All figures" }
            p {
                @if sweep.seeds.len() > 1 {
                    "In brackets where the truth lies with 95 % confidence, judged by how much the runs of a point differ."
                } @else {
                    "One run each: nothing is known of chance. More seeds would tell."
                }
            }
            div.wide role="region" aria-labelledby="figures" tabindex="0" {
                table {
                    thead {
                        tr {
                            @for axis in &sweep.axes { th scope="col" { code { (axis.key) } } }
                            th.n scope="col" { "requests failed" }
                            th.n scope="col" { "p50" }
                            th.n scope="col" { "p99" }
                            th.n scope="col" { "p99.9" }
                            @if slo { th scope="col" { "SLO" } }
                        }
                    }
                    tbody {
                        @for point in sweep.points.iter().chain(&sweep.probes) { (row(point, slo)) }
                    }
                }
            }
        }
    }
}

fn row(point: &Point, slo: bool) -> Markup {
    let brackets = |interval: Interval, scale: f64| {
        if point.runs.len() < 2 {
            return String::new();
        }
        format!(" [{}, {}]", plain(interval.low * scale), plain(interval.high * scale))
    };
    let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |ms| format!("{} ms", plain(ms)));
    html! {
        tr {
            @for value in &point.values { th scope="row" { (value) } }
            td.n {
                @match point.failures {
                    Some(it) => { (percent(it.estimate)) " %" span.interval { (brackets(it, 100.0)) } }
                    None => { "no run" }
                }
            }
            td.n { (ms(point.mean(|run| run.p50_ms))) }
            td.n {
                (ms(point.p99_ms.map(|it| it.estimate)))
                @if let Some(it) = point.p99_ms { span.interval { (brackets(it, 1.0)) } }
            }
            td.n { (ms(point.mean(|run| run.p999_ms))) }
            @if slo {
                td.outcome {
                    @match (point.is_met(), point.met) {
                        (Some(true), _) => { span.yes { "met" } }
                        (Some(false), Some(met)) if met > 0 => { span.no { "met " (met) " of " (point.runs.len()) } }
                        (Some(false), _) => { span.no { "missed" } }
                        (None, _) => { span.idle { "–" } }
                    }
                }
            }
        }
    }
}

fn reproduce(sweep: &Sweep) -> Markup {
    html! {
        section aria-labelledby="again" {
            h2 #again { "To see this again" }
            pre.command tabindex="0" { (sweep.command) }
            p { "The scenario before anything was varied:" }
            pre tabindex="0" { (sweep.scenario_toml) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shades_run_from_nothing_to_everything() {
        assert_eq!(
            (shade(0.0, false), shade(1.0, true), shade(7.0, false)),
            ("h0".into(), "h9 missed".into(), "h9".into())
        );
    }
}
