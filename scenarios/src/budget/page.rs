//! The budget as a page: a bar for each percentile as long as its calls, beside KMS's patience, and the figures.

use super::outcome::{Budget, Group, HOW, PARTS};
use crate::sheet::{Frame, WHAT_IF_STYLE};
use crate::sweep::words::{capitalised, per_cent, plain};
use maud::{Markup, html};

pub(super) fn html(budget: &Budget) -> String {
    let kind = "XKS time budget";
    let meta = [
        budget.scenario.clone(),
        format!("seed {}", budget.seed),
        format!("version {}", budget.version),
        format!("digest {}", budget.digest.get(..12).unwrap_or_default()),
    ];
    let main = html! {
        header.top {
            p.kicker { (kind) }
            h1 { "Where the " (plain(budget.patience_ms)) " ms go" }
            p.about { (budget.title) }
            p.meta { @for fact in &meta { span { (fact) } } }
        }
        section aria-labelledby="verdict" {
            h2.quiet #verdict { "The verdict" }
            @if budget.interrupted_at_ms.is_some() {
                aside.alert { p { "Interrupted: what is here is whole, what is missing is left out." } }
            }
            p.headline { (capitalised(&budget.headline())) "." }
            p { (HOW) }
            ul.legend.parts aria-hidden="true" {
                @for (name, words) in &PARTS { li class=(format!("part-{name}")) { (words) } }
            }
        }
        @for group in &budget.groups { (section(budget, group)) }
        section aria-labelledby="again" {
            h2 #again { "To see this again" }
            pre.command tabindex="0" { (budget.command) }
        }
    };
    Frame { title: &budget.title, kind, style: WHAT_IF_STYLE, script: None }.page(&main)
}

fn section(budget: &Budget, group: &Group) -> Markup {
    let id = group.name.replace(' ', "-");
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (capitalised(&group.name)) }
            p { (group.calls) " calls of the proxies. The frame of each bar is KMS's patience." }
            @for level in &group.levels {
                @let longest = budget.patience_ms.max(level.total_ms);
                p.level { strong { (level.name) } ": " (plain(level.total_ms)) " ms, " @if level.left_ms > 0.0 { (plain(level.left_ms)) " ms left" } @else { "nothing left" } }
                svg.stack aria-hidden="true" width="100%" height="28" {
                    rect.paper x="0" y="0" width="100%" height="100%" {}
                    @for ((name, _), (from, ms)) in PARTS.iter().zip(starts(&level.parts_ms)) {
                        rect class=(format!("part-{name}")) x=(per_cent(100.0 * from / longest)) y="0" width=(per_cent(100.0 * ms / longest)) height="100%" {}
                    }
                }
            }
            div.wide role="region" aria-labelledby=(id) tabindex="0" {
                table {
                    thead {
                        tr {
                            th scope="col" { "part, in ms" }
                            @for level in &group.levels { th.n scope="col" { (level.name) } }
                        }
                    }
                    tbody {
                        @for (part, (_, words)) in PARTS.iter().enumerate() {
                            tr {
                                th scope="row" { (words) }
                                @for level in &group.levels { td.n { (level.parts_ms.get(part).map_or_else(String::new, |ms| plain(*ms))) } }
                            }
                        }
                        tr {
                            th scope="row" { "all" }
                            @for level in &group.levels { td.n { strong { (plain(level.total_ms)) } } }
                        }
                        tr {
                            th scope="row" { "calls averaged" }
                            @for level in &group.levels { td.n { (level.calls) } }
                        }
                    }
                }
            }
        }
    }
}

/// Where each part begins, and how long it is.
fn starts(parts_ms: &[f64]) -> Vec<(f64, f64)> {
    let mut passed = 0.0;
    parts_ms
        .iter()
        .map(|ms| {
            let from = passed;
            passed += ms;
            (from, *ms)
        })
        .collect()
}
