//! The faults over the time of the run, as bars.

use super::clock;
use crate::fault::Fault;
use crate::report::Style;
use crate::scenario::Scenario;
use crate::sweep::words::clean;
use std::time::Duration;

/// Rows of bars, at the most.
const ROWS_MAX: usize = 24;
/// Marks of the axis, besides its beginning.
const MARKS: u32 = 4;

/// A bar for each fault, those that strike again in the same row; below them the time. Empty without a fault.
pub(super) fn timeline(scenario: &Scenario, style: Style, width: usize) -> String {
    let rows = rows(scenario);
    if rows.is_empty() {
        return String::new();
    }
    let columns = width.saturating_sub(2).max(10);
    let mut text = String::new();
    for strikes in rows.iter().take(ROWS_MAX) {
        let Some(first) = strikes.first() else { continue };
        let label = first.label(scenario.topology.hsms, scenario.topology.proxies);
        let times = if strikes.len() > 1 { format!(", {} times", strikes.len()) } else { String::new() };
        let label: String = clean(&format!("{label}{times}"), style).chars().take(columns).collect();
        text.push_str(&format!("  {label}\n  {}\n", bar(scenario, strikes, style, columns)));
    }
    if rows.len() > ROWS_MAX {
        text.push_str(&format!("  and {} faults more\n", rows.len() - ROWS_MAX));
    }
    text.push_str(&axis(scenario.duration, style, columns));
    text
}

/// The strikes of each fault, in order of the first.
fn rows(scenario: &Scenario) -> Vec<Vec<&Fault>> {
    let mut rows: Vec<Vec<&Fault>> = Vec::new();
    for fault in &scenario.faults {
        let same = |row: &&mut Vec<&Fault>| {
            row.first().is_some_and(|first| first.kind == fault.kind && first.ramp == fault.ramp)
        };
        match rows.iter_mut().find(same) {
            Some(row) => row.push(fault),
            None => rows.push(vec![fault]),
        }
    }
    rows
}

/// The column of a time, 0 to `columns`.
fn column(at: Duration, whole: Duration, columns: usize) -> usize {
    let share = at.as_secs_f64() / whole.as_secs_f64();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of some columns")]
    let column = (share * columns as f64).floor() as usize;
    column.min(columns)
}

fn bar(scenario: &Scenario, strikes: &[&Fault], style: Style, columns: usize) -> String {
    let (nothing, growing, whole) = if style.unicode { ('·', '▒', '█') } else { ('.', '+', '#') };
    let mut bar = vec![nothing; columns];
    for fault in strikes {
        let to = fault.to.unwrap_or(scenario.duration);
        let from_column = column(fault.from, scenario.duration, columns).min(columns.saturating_sub(1));
        // The shortest fault shows.
        let to_column = column(to, scenario.duration, columns).max(from_column + 1);
        let grown_column = column(fault.from + fault.ramp, scenario.duration, columns);
        for (at, cell) in bar.iter_mut().enumerate().take(to_column).skip(from_column) {
            *cell = if at < grown_column { growing } else { whole };
        }
    }
    bar.into_iter().collect()
}

fn axis(duration: Duration, style: Style, columns: usize) -> String {
    let (line, tick) = if style.unicode { ('─', '┴') } else { ('-', '+') };
    let mut ruler = vec![line; columns];
    let mut labels = String::new();
    let label = |mark: u32| clock(duration * mark / MARKS).trim_start().to_owned();
    // The last one ends where the axis does; the others begin at their ticks, as far as they keep clear of it.
    let last_begins = columns.saturating_sub(label(MARKS).chars().count());
    for mark in 0..=MARKS {
        let place = column(duration * mark / MARKS, duration, columns).min(columns - 1);
        if let Some(cell) = ruler.get_mut(place) {
            *cell = tick;
        }
        let (label, is_last) = (label(mark), mark == MARKS);
        let begins = if is_last { last_begins } else { place };
        let used = labels.chars().count();
        let fits = is_last || begins + label.chars().count() < last_begins;
        if fits && begins + usize::from(used == 0) > used {
            labels.push_str(&format!("{}{label}", " ".repeat(begins - used)));
        }
    }
    let ruler: String = ruler.into_iter().collect();
    format!("  {ruler}\n  {labels}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(faults: &str, width: usize) -> Vec<String> {
        let text = format!("title = \"x\"\nduration_s = 100\n{faults}");
        let scenario = Scenario::parse("x", "x.toml", &text).unwrap();
        timeline(&scenario, Style::default(), width).lines().map(str::to_owned).collect()
    }

    #[test]
    fn bars_lie_where_the_faults_do() {
        let lines = draw("[[fault]]\nkind = \"hsm-down\"\nfrom_s = 50\nto_s = 75\n", 22);
        assert_eq!(
            lines,
            [
                "  both HSMs down",
                "  ..........#####.....",
                "  +----+----+----+---+",
                "  0:00 0:25 0:50  1:40"
            ]
        );
        let lines =
            draw("[[fault]]\nkind = \"latency\"\nextra_ms = 5\nfrom_s = 20\nto_s = 60\nramp_s = 20\n", 22);
        assert_eq!(lines[1], "  ....++++####........");
        // Too short to have a column of its own, and without an end.
        let lines = draw("[[fault]]\nkind = \"loss\"\nloss = 0.5\nfrom_s = 1\nto_s = 1.1\n", 22);
        assert_eq!(lines[1], "  #...................");
        let lines = draw("[[fault]]\nkind = \"kill-switch\"\nfrom_s = 95\n", 22);
        assert_eq!(lines[1], "  ...................#");
        assert!(draw("", 22).is_empty());
    }

    #[test]
    fn strikes_of_one_fault_share_a_row() {
        let lines = draw(
            "[[fault]]\nkind = \"partition\"\nfrom_s = 10\nto_s = 20\nrepeat_every_s = 30\nrepeats = 3\n",
            22,
        );
        assert_eq!(lines[1], "  ..##....##....##....");
        assert_eq!(lines.len(), 4);
    }
}
