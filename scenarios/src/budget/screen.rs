//! The budget on a terminal: a bar for each percentile, and the figures.

use super::outcome::{Budget, Group, HOW, PARTS};
use crate::explain::wrap;
use crate::report::Style;
use crate::sweep::words::{clean, plain};
use std::fmt::Write;

/// One letter for each part, so that bars read without colour.
const LETTERS: [char; 7] = ['c', 't', 'n', 'p', 's', 'H', '?'];

pub(super) fn terminal(budget: &Budget, style: Style) -> String {
    let mut text = String::new();
    let width = style.width.clamp(60, 100);
    let title = format!("{}: {} (seed {})", budget.scenario, budget.title, budget.seed);
    for words in [title.as_str(), HOW] {
        let _ = writeln!(text, "{}", wrap(&clean(words, style), width));
    }
    for group in &budget.groups {
        let _ = writeln!(text, "\n{}: {} calls of the proxies", group.name, group.calls);
        bars(&mut text, budget, group, width, style);
        figures(&mut text, group);
    }
    text.push('\n');
    for (letter, (_, words)) in LETTERS.iter().zip(&PARTS) {
        let _ = writeln!(text, "  {letter}  {words}");
    }
    let _ = writeln!(text, "\n{}.", wrap(&clean(&budget.headline(), style), width));
    if budget.not_kept > 0 {
        let _ = writeln!(text, "{} later calls are not in these figures", budget.not_kept);
    }
    if let Some(at_ms) = budget.interrupted_at_ms {
        let _ = writeln!(text, "interrupted at {} s of the run", at_ms / 1_000);
    }
    text
}

/// The whole bar is KMS's patience.
fn bars(text: &mut String, budget: &Budget, group: &Group, width: usize, style: Style) {
    let columns = width.saturating_sub(40).max(20);
    let edge = if style.unicode { '│' } else { '|' };
    for level in &group.levels {
        let mut bar = String::new();
        let mut passed_ms = 0.0;
        for (letter, ms) in LETTERS.iter().zip(&level.parts_ms) {
            passed_ms += ms;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a share of some columns"
            )]
            let end = (passed_ms / budget.patience_ms * columns as f64).round() as usize;
            while bar.chars().count() < end.min(columns) {
                bar.push(*letter);
            }
        }
        let left = if level.left_ms > 0.0 {
            format!("{} ms left", plain(level.left_ms))
        } else {
            "nothing left".to_owned()
        };
        let _ = writeln!(
            text,
            "  {:<6}{:>9} ms {edge}{bar:<columns$}{edge} {left}",
            level.name,
            plain(level.total_ms)
        );
    }
}

fn figures(text: &mut String, group: &Group) {
    let heads: String = LETTERS.iter().map(|letter| format!("{letter:>9}")).collect();
    let _ = writeln!(text, "  {:<6}{:>9}{heads}   in ms", "", "all");
    for level in &group.levels {
        let parts: String = level.parts_ms.iter().map(|ms| format!("{:>9}", plain(*ms))).collect();
        let _ =
            writeln!(text, "  {:<6}{:>9}{parts}   {} calls", level.name, plain(level.total_ms), level.calls);
    }
}
