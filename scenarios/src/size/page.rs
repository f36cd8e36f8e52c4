//! The search as a page: the answer, why less is too little, and everything that was tried.

use super::outcome::Sizing;
use crate::sheet::{Frame, WHAT_IF_STYLE};
use crate::sweep::words::percent;
use maud::{Markup, html};

pub(super) fn html(sizing: &Sizing) -> String {
    let kind = "XKS sizing";
    let runs: usize = sizing.tries.iter().map(|it| it.point.runs.len()).sum();
    let meta = [
        format!("{} configurations", sizing.tries.len()),
        format!("{runs} runs"),
        format!("version {}", sizing.version),
    ];
    let title = "How many HSMs, proxies and sessions?";
    let main = html! {
        header.top {
            p.kicker { (kind) }
            h1 { (title) }
            p.meta { @for fact in &meta { span { (fact) } } }
        }
        section aria-labelledby="answer" {
            h2.quiet #answer { "The answer" }
            @if !sizing.complete {
                aside.alert { p { "Interrupted: what is here is whole, what is missing is left out." } }
            }
            p.headline { (sizing.answer()) "." }
            ul { @for reason in sizing.reasons() { li { (reason) } } }
        }
        section aria-labelledby="question" {
            h2 #question { "The question" }
            ul { @for words in &sizing.world { li { (words) } } }
            p { "The SLO: " (sizing.slo) ". Every run must meet it." }
        }
        (tries(sizing))
        section aria-labelledby="again" {
            h2 #again { "To see this again" }
            pre.command tabindex="0" { (sizing.command) }
            @if !sizing.smallest_toml.is_empty() {
                p { "The scenario of the answer:" }
                pre tabindex="0" { (sizing.smallest_toml) }
            }
        }
    };
    Frame { title, kind, style: WHAT_IF_STYLE, script: None }.page(&main)
}

fn tries(sizing: &Sizing) -> Markup {
    html! {
        section aria-labelledby="tries" {
            h2 #tries { "What was tried" }
            p { "The HSMs are made fewer first, then the proxies, then the sessions. More of anything is taken to be no worse." }
            div.wide role="region" aria-labelledby="tries" tabindex="0" {
                table {
                    thead {
                        tr {
                            th.n scope="col" { "HSMs" }
                            th.n scope="col" { "proxies" }
                            th.n scope="col" { "sessions" }
                            th.n scope="col" { "requests failed" }
                            th.n scope="col" { "p99" }
                            th scope="col" { "SLO" }
                            th scope="col" { "why not" }
                        }
                    }
                    tbody {
                        @for it in &sizing.tries {
                            tr {
                                td.n { (it.configuration.hsms) }
                                td.n { (it.configuration.proxies) }
                                td.n { (it.configuration.sessions) }
                                td.n { @if let Some(share) = it.point.failures { (percent(share.estimate)) " %" } }
                                td.n { @if let Some(ms) = it.point.p99_ms { (format!("{:.0} ms", ms.estimate)) } }
                                td.outcome {
                                    @if it.holds { span.yes { "met" } } @else { span.no { "missed" } }
                                }
                                td { (it.why.join(", ")) }
                            }
                        }
                    }
                }
            }
        }
    }
}
