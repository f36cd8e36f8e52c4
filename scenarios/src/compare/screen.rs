//! A comparison on a terminal: a line for each figure.

use super::measure::Unit;
use super::outcome::{Comparison, PointComparison, Row, Summary, Verdict};
use crate::explain::wrap;
use crate::report::Style;
use crate::statistics::difference::Difference;
use crate::sweep::words::{clean, percent, plain};
use std::fmt::Write;

pub(super) fn terminal(comparison: &Comparison, style: Style) -> String {
    let mut text = String::new();
    for (letter, side) in [("A", &comparison.a), ("B", &comparison.b)] {
        let _ = writeln!(text, "{letter}  {}", clean(&side_in_words(side), style));
    }
    for change in &comparison.changes {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "default".to_owned());
        let line = format!("   {}: {} in A, {} in B", change.key, value(&change.a), value(&change.b));
        let _ = writeln!(text, "{}", clean(&line, style));
    }
    if comparison.changes_more > 0 {
        let _ = writeln!(text, "   and {} more settings differ", comparison.changes_more);
    }
    text.push('\n');
    match comparison.points.as_slice() {
        [only] if only.values.is_empty() => figures(&mut text, only, style),
        points => by_figure(&mut text, points, style),
    }
    for words in [comparison.headline(), comparison.method()] {
        let _ = writeln!(text, "{}", wrap(&clean(&words, style), style.width.clamp(60, 100)));
    }
    for words in &comparison.left_out {
        let _ = writeln!(text, "left out: {}", clean(words, style));
    }
    if !(comparison.a.complete && comparison.b.complete) {
        let _ = writeln!(text, "interrupted: what is here is whole, what is missing is left out");
    }
    text
}

pub(super) fn side_in_words(side: &Summary) -> String {
    let runs = if side.runs == 1 { "1 run".to_owned() } else { format!("{} runs", side.runs) };
    let seeds = match (side.seeds.first(), side.seeds.last()) {
        (Some(first), Some(last)) if first != last => format!(", seeds {first} to {last}"),
        (Some(only), _) => format!(", seed {only}"),
        _ => String::new(),
    };
    format!("{}: {} ({runs}{seeds})", side.name, side.title)
}

/// A table with a line a figure, for a single point.
fn figures(text: &mut String, point: &PointComparison, style: Style) {
    let lines: Vec<[String; 5]> = point.rows.iter().map(|row| cells(&row.title, row)).collect();
    table(text, "", &lines, style);
}

/// A table a figure, with a line a point.
fn by_figure(text: &mut String, points: &[PointComparison], style: Style) {
    for (at, row) in points.first().map(|point| point.rows.as_slice()).unwrap_or_default().iter().enumerate()
    {
        let lines: Vec<[String; 5]> = points
            .iter()
            .filter_map(|point| Some(cells(&point.values.join(", "), point.rows.get(at)?)))
            .collect();
        table(text, &row.title, &lines, style);
    }
}

fn cells(label: &str, row: &Row) -> [String; 5] {
    let side = |of: &Option<crate::statistics::interval::Interval>| {
        of.map_or_else(|| "-".to_owned(), |it| value(row.unit, it.estimate))
    };
    let difference = row.difference.map_or_else(String::new, |it| difference_in_words(row, &it));
    [label.to_owned(), side(&row.a), side(&row.b), difference, row.verdict.in_words().to_owned()]
}

fn table(text: &mut String, title: &str, lines: &[[String; 5]], style: Style) {
    let heads = [title, "A", "B", "B less A", ""];
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count());
        cells.max().unwrap_or(0).max(heads.get(column).map_or(0, |head| head.chars().count()))
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut write_line = |cells: &[&str]| {
        let mut line = String::new();
        for (column, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            // Words to the left, numbers to the right.
            let gap = " ".repeat(width.saturating_sub(cell.chars().count()));
            let right = column == 1 || column == 2;
            line.push_str(&if right { format!("{gap}{cell}  ") } else { format!("{cell}{gap}  ") });
        }
        let _ = writeln!(text, "{}", clean(line.trim_end(), style));
    };
    write_line(&heads);
    for line in lines {
        let cells: Vec<&str> = line.iter().map(String::as_str).collect();
        write_line(&cells);
    }
    text.push('\n');
}

/// A figure with its unit.
pub(super) fn value(unit: Unit, number: f64) -> String {
    match unit {
        Unit::Share => format!("{} %", percent(number)),
        Unit::Ms => format!("{} ms", plain(number)),
        Unit::Count => plain(number),
    }
}

/// `-8.9 points [-9.4, -8.4]`: shares differ by points of per cent, not by per cent.
pub(super) fn difference_in_words(row: &Row, difference: &Difference) -> String {
    if row.verdict == Verdict::Same {
        return "0".to_owned();
    }
    let (scale, unit) = match row.unit {
        Unit::Share => (100.0, " points"),
        Unit::Ms => (1.0, " ms"),
        Unit::Count => (1.0, ""),
    };
    let signed = |number: f64| format!("{}{}", if number > 0.0 { "+" } else { "" }, plain(number * scale));
    let Difference { by, low, high, .. } = difference;
    if low == high {
        return format!("{}{unit}", signed(*by));
    }
    format!("{}{unit} [{}, {}]", signed(*by), signed(*low), signed(*high))
}
