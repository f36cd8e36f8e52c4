//! A sweep on a terminal: a table for one key, two grids for two.

use super::Sweep;
use super::point::Point;
use super::words::{clean, counted, percent};
use crate::report::Style;
use crate::statistics::interval::Interval;
use std::fmt::Write;

/// Characters of a bar.
const BAR: usize = 20;

pub(super) fn terminal(sweep: &Sweep, style: Style) -> String {
    let mut text = String::new();
    let width = style.width.clamp(60, 120);
    let _ = writeln!(text, "{}: {}", clean(&sweep.scenario, style), clean(&sweep.title, style));
    let seeds = match sweep.seeds.len() {
        1 => "one run each, so nothing is known of chance".to_owned(),
        seeds => format!("{seeds} runs each; in brackets where the truth lies with 95 % confidence"),
    };
    let _ = writeln!(text, "{}, {seeds}\n", counted(sweep.points.len(), "point", "points"));
    match sweep.axes.as_slice() {
        [first, second] => {
            let name = format!("{} across, {} down", first.key, second.key);
            grid(&mut text, sweep, width, &format!("Requests that failed, in %: {name}"), &|point| {
                point.failures.map(|it| format!("{:.1}", it.estimate * 100.0))
            });
            grid(&mut text, sweep, width, &format!("p99 of proxy calls, in ms: {name}"), &|point| {
                point.p99_ms.map(|it| format!("{:.0}", it.estimate))
            });
        }
        _ => table(&mut text, sweep, style),
    }
    if !sweep.slo.is_empty() {
        let _ = writeln!(text, "SLO: {}", clean(&sweep.slo, style));
        for verdict in sweep.verdicts() {
            let _ = writeln!(text, "  {}", clean(&verdict, style));
        }
    }
    if !sweep.complete {
        let ran: usize = sweep.points.iter().map(|point| point.runs.len()).sum();
        let _ = writeln!(
            text,
            "interrupted: {ran} of {} runs; what is here is whole, what is missing is left out",
            sweep.points.len() * sweep.seeds.len()
        );
    }
    text
}

fn table(text: &mut String, sweep: &Sweep, style: Style) {
    let key = sweep.axes.first().map_or("scenario", |axis| axis.key.as_str());
    let values = sweep.points.iter().filter_map(|point| point.values.first());
    let widest = values.map(|value| value.chars().count()).max().unwrap_or(0).max(key.chars().count());
    let _ = writeln!(
        text,
        "{:<widest$}  {:<24}{:<22}{}",
        clean(key, style),
        "requests failed",
        "p99",
        slo_head(sweep)
    );
    for point in &sweep.points {
        let value = point.values.first().map_or("as it is", String::as_str);
        let failures = point.failures.map_or_else(|| "no run".to_owned(), |it| shares(it, point.runs.len()));
        let p99 = point.p99_ms.map_or_else(String::new, |it| times(it, point.runs.len()));
        let met = match (point.met, point.runs.len()) {
            (_, 0) | (None, _) => String::new(),
            (Some(met), runs) if met == runs as u64 => "met".to_owned(),
            (Some(0), _) => "missed".to_owned(),
            (Some(met), runs) => format!("met {met} of {runs}"),
        };
        let bar = point.failures.map_or_else(String::new, |it| bar(it.estimate, style));
        let line = format!("{:<widest$}  {failures:<24}{p99:<22}{met:<10} {bar}", clean(value, style));
        text.push_str(&clean(line.trim_end(), style));
        text.push('\n');
    }
    text.push('\n');
}

fn slo_head(sweep: &Sweep) -> &'static str {
    if sweep.slo.is_empty() { "" } else { "SLO" }
}

fn grid(
    text: &mut String,
    sweep: &Sweep,
    width: usize,
    heading: &str,
    cell: &dyn Fn(&Point) -> Option<String>,
) {
    let [first, second] = sweep.axes.as_slice() else { return };
    let rows: Vec<Vec<String>> = sweep
        .lines()
        .map(|line| line.iter().map(|point| cell(point).unwrap_or_else(|| "-".into())).collect())
        .collect();
    let cells = rows.iter().flatten().chain(&first.labels);
    let cell_width = cells.map(|cell| cell.chars().count()).max().unwrap_or(1) + 2;
    let head_width = second.labels.iter().map(|label| label.chars().count()).max().unwrap_or(1);
    let at_once = (width.saturating_sub(head_width) / cell_width).max(1);
    let _ = writeln!(text, "{heading}");
    for from in (0..first.labels.len()).step_by(at_once) {
        let part = |cells: &[String]| {
            let shown = cells.iter().skip(from).take(at_once);
            shown.map(|cell| format!("{cell:>cell_width$}")).collect::<String>()
        };
        let _ = writeln!(text, "{:head_width$}{}", "", part(&first.labels));
        for (label, row) in second.labels.iter().zip(&rows) {
            let _ = writeln!(text, "{label:>head_width$}{}", part(row));
        }
        text.push('\n');
    }
}

fn bar(share: f64, style: Style) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a short bar")]
    let filled = (share.clamp(0.0, 1.0) * BAR as f64).ceil() as usize;
    if style.unicode { "█" } else { "#" }.repeat(filled)
}

/// `12.3 % [10.1, 15]`.
fn shares(interval: Interval, runs: usize) -> String {
    let estimate = percent(interval.estimate);
    if runs < 2 {
        return format!("{estimate} %");
    }
    format!("{estimate} % [{}, {}]", percent(interval.low), percent(interval.high))
}

/// `120 ms [118, 122]`.
fn times(interval: Interval, runs: usize) -> String {
    if runs < 2 {
        return format!("{:.0} ms", interval.estimate);
    }
    format!("{:.0} ms [{:.0}, {:.0}]", interval.estimate, interval.low, interval.high)
}
