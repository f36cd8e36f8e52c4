//! The search on a terminal: what was tried, and the answer.

use super::outcome::Sizing;
use crate::explain::wrap;
use crate::report::Style;
use crate::sweep::words::{clean, percent};
use std::fmt::Write;

pub(super) fn terminal(sizing: &Sizing, style: Style) -> String {
    let mut text = String::new();
    let width = style.width.clamp(60, 100);
    let mut line = |words: &str| {
        let _ = writeln!(text, "{}", wrap(&clean(words, style), width));
    };
    for words in &sizing.world {
        line(words);
    }
    line(&format!("SLO: {}; every run of {} must meet it", sizing.slo, sizing.seeds.len()));
    let _ = writeln!(
        text,
        "\n{:>5}{:>9}{:>10}{:>18}{:>10}  SLO",
        "HSMs", "proxies", "sessions", "requests failed", "p99"
    );
    for it in &sizing.tries {
        let failed = it.point.failures.map_or_else(|| "-".into(), |it| format!("{} %", percent(it.estimate)));
        let p99 = it.point.p99_ms.map_or_else(|| "-".into(), |it| format!("{:.0} ms", it.estimate));
        let verdict = if it.holds { "met".to_owned() } else { format!("missed: {}", it.why.join(", ")) };
        let of = it.configuration;
        let row =
            format!("{:>5}{:>9}{:>10}{failed:>18}{p99:>10}  {verdict}", of.hsms, of.proxies, of.sessions);
        let _ = writeln!(text, "{}", clean(&row, style));
    }
    let _ = writeln!(text, "\n{}", clean(&sizing.answer(), style));
    for reason in sizing.reasons() {
        let _ = writeln!(text, "  {}", clean(&reason, style));
    }
    text
}
