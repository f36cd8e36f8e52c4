//! A comparison as a page: what was changed, and each figure of both sides with its runs as dots.

use super::outcome::{Comparison, PointComparison, Row, Summary, Verdict};
use super::screen::{difference_in_words, side_in_words, value};
use crate::sheet::{Frame, WHAT_IF_STYLE};
use crate::statistics::interval::Interval;
use crate::sweep::words::{nice, per_cent};
use maud::{Markup, html};

/// Dots of one side that a strip shows; more would be a line.
const DOTS_MAX: usize = 60;

pub(super) fn html(comparison: &Comparison) -> String {
    let kind = "XKS comparison";
    let title = format!("{} against {}", comparison.b.name, comparison.a.name);
    let runs = comparison.a.runs + comparison.b.runs;
    let meta = [format!("{runs} runs"), format!("version {}", comparison.version)];
    let main = html! {
        header.top {
            p.kicker { (kind) }
            h1 { (title) }
            p.meta { @for fact in &meta { span { (fact) } } }
        }
        section aria-labelledby="verdict" {
            h2.quiet #verdict { "The verdict" }
            @if !(comparison.a.complete && comparison.b.complete) {
                aside.alert { p { "Interrupted: what is here is whole, what is missing is left out." } }
            }
            p.headline { (comparison.headline()) }
            dl.pairs {
                div { dt { "A" } dd { (side_in_words(&comparison.a)) } }
                div { dt { "B" } dd { (side_in_words(&comparison.b)) } }
            }
        }
        (changes(comparison))
        section aria-labelledby="figures" {
            h2 #figures { "Figure by figure" }
            p { (comparison.method()) }
            ul.legend aria-hidden="true" { li.side-a { "A, a dot a run" } li.side-b { "B" } }
            @match comparison.points.as_slice() {
                [only] if only.values.is_empty() => { (single(only)) }
                points => { (by_figure(comparison, points)) }
            }
            @if !comparison.left_out.is_empty() {
                p { "Left out:" }
                ul { @for words in &comparison.left_out { li { (words) } } }
            }
        }
        section aria-labelledby="again" {
            h2 #again { "To see this again" }
            pre.command tabindex="0" { (comparison.command) }
            (origin("A", &comparison.a))
            (origin("B", &comparison.b))
        }
    };
    Frame { title: &title, kind, style: WHAT_IF_STYLE, script: None }.page(&main)
}

fn origin(letter: &str, side: &Summary) -> Markup {
    html! {
        @if !side.command.is_empty() {
            p { (letter) " by itself, version " (side.version) ":" }
            pre.command tabindex="0" { (side.command) }
        }
    }
}

fn changes(comparison: &Comparison) -> Markup {
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "default".to_owned());
    html! {
        section aria-labelledby="changes" {
            h2 #changes { "What was changed" }
            @if comparison.changes.is_empty() {
                p { "Nothing in the scenario: both sides have the same settings." }
            } @else {
                div.wide role="region" aria-labelledby="changes" tabindex="0" {
                    table {
                        thead { tr { th scope="col" { "setting" } th scope="col" { "A" } th scope="col" { "B" } } }
                        tbody {
                            @for change in &comparison.changes {
                                tr {
                                    th scope="row" { code { (change.key) } }
                                    td { (value(&change.a)) }
                                    td { (value(&change.b)) }
                                }
                            }
                        }
                    }
                }
                @if comparison.changes_more > 0 { p { "And " (comparison.changes_more) " more." } }
            }
        }
    }
}

fn single(point: &PointComparison) -> Markup {
    html! { (table("figure", point.rows.iter().map(|row| (row.title.clone(), row)))) }
}

fn by_figure(comparison: &Comparison, points: &[PointComparison]) -> Markup {
    let rows = points.first().map(|point| point.rows.as_slice()).unwrap_or_default();
    let keys = comparison.axes.join(", ");
    html! {
        @for (at, row) in rows.iter().enumerate() {
            h3 { (crate::sweep::words::capitalised(&row.title)) }
            (table(&keys, points.iter().filter_map(|point| Some((point.values.join(", "), point.rows.get(at)?)))))
        }
    }
}

fn table<'a>(head: &str, lines: impl Iterator<Item = (String, &'a Row)>) -> Markup {
    html! {
        table.cards.compare {
            thead {
                tr {
                    th scope="col" { (head) }
                    th.n scope="col" { "A" }
                    th.n scope="col" { "B" }
                    th.strip-head scope="col" { "runs" }
                    th.n scope="col" { "B less A" }
                    th scope="col" { "verdict" }
                }
            }
            tbody { @for (label, row) in lines { (line(&label, row)) } }
        }
    }
}

fn line(label: &str, row: &Row) -> Markup {
    let side = |of: &Option<Interval>| of.map_or_else(|| "–".to_owned(), |it| value(row.unit, it.estimate));
    let difference = row.difference.map_or_else(|| "–".to_owned(), |it| difference_in_words(row, &it));
    let class = match row.verdict {
        Verdict::Better => "yes",
        Verdict::Worse => "no",
        Verdict::More | Verdict::Less => "beyond",
        _ => "within",
    };
    html! {
        tr {
            th scope="row" { (label) }
            td.n data-label="A" { span { (side(&row.a)) } }
            td.n data-label="B" { span { (side(&row.b)) } }
            td.strip data-label="runs" { (strip(row)) }
            td.n data-label="B less A" { span { (difference) } }
            td.outcome data-label="verdict" { span class=(class) { (row.verdict.in_words()) } }
        }
    }
}

/// Every run as a dot, A above B, from nothing to the most.
fn strip(row: &Row) -> Markup {
    let most = row.a_runs.iter().chain(&row.b_runs).copied().fold(0.0, f64::max);
    let x = |number: f64| per_cent(4.0 + 92.0 * number / nice(most));
    html! {
        svg aria-hidden="true" width="100%" height="26" {
            line.rail x1="4%" x2="96%" y1="8" y2="8" {}
            line.rail x1="4%" x2="96%" y1="19" y2="19" {}
            @for number in row.a_runs.iter().take(DOTS_MAX) { circle.side-a cx=(x(*number)) cy="8" r="4" {} }
            @for number in row.b_runs.iter().take(DOTS_MAX) { circle.side-b cx=(x(*number)) cy="19" r="4" {} }
        }
    }
}
