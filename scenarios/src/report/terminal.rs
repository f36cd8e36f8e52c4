//! The summary that a run prints: an architect reads it top to bottom and knows the blast radius.
//!
//! Place on the map: one of the renderers of [`report`](crate::report). Plain lines, at most 100 columns, that survive
//! a pipe into a file or a chat; colour and block characters only when asked for.

use super::human::{count, counted, duration, latency, moment, share};
use super::story;
use crate::result::{Check, Percentiles, RunResult, ServiceResult};

/// How the terminal may be used.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// ANSI colours and bold.
    pub colour: bool,
    /// Block characters, dashes and check marks; ASCII only when off.
    pub unicode: bool,
    /// Columns. Used from 80 to 100: the table needs 80, and longer lines are hard to read.
    pub width: usize,
}

impl Default for Style {
    /// What any pipe can carry: no colour, ASCII, 80 columns.
    fn default() -> Self {
        Self { colour: false, unicode: false, width: 80 }
    }
}

/// The whole summary, with a final newline.
pub fn terminal(result: &RunResult, style: Style) -> String {
    let mut screen = Screen { out: String::new(), style, width: style.width.clamp(80, 100) };
    what_happened(&mut screen, result);
    services(&mut screen, result);
    aftermath(&mut screen, result);
    exceptions(&mut screen, result);
    proxy_latency(&mut screen, result);
    alarms(&mut screen, result);
    checks(&mut screen, result);
    screen.out
}

/// How a piece of text stands out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ink {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
}

struct Screen {
    out: String,
    style: Style,
    width: usize,
}

impl Screen {
    /// Text fit for this terminal: no control or direction characters (a scenario's text could move the cursor or
    /// forge a line), and ASCII where the terminal knows no more.
    fn clean(&self, text: &str) -> String {
        text.chars()
            .map(|character| match character {
                '\t' | '\n' | '\r' => ' ',
                // Kept until the line is out: it does not break there.
                '\u{a0}' => '\u{a0}',
                hidden if hidden.is_control() => '?',
                '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
                '–' | '—' if !self.style.unicode => '-',
                '’' | '‘' if !self.style.unicode => '\'',
                '“' | '”' if !self.style.unicode => '"',
                other if !self.style.unicode && !other.is_ascii() => '?',
                other => other,
            })
            .collect()
    }

    fn ink(&self, ink: Ink, text: &str) -> String {
        let code = match ink {
            _ if !self.style.colour => return text.to_owned(),
            Ink::Plain => return text.to_owned(),
            Ink::Bold => "1",
            Ink::Dim => "2",
            Ink::Good => "32",
            Ink::Bad => "1;31",
        };
        // Blanks at the end stay outside, where the end of the line drops them.
        let inked = text.trim_end();
        if inked.is_empty() {
            return text.to_owned();
        }
        format!("\u{1b}[{code}m{inked}\u{1b}[0m{}", &text[inked.len()..])
    }

    /// A line that is already clean.
    fn raw(&mut self, line: &str) {
        self.out.push_str(&line.trim_end().replace('\u{a0}', " "));
        self.out.push('\n');
    }

    fn heading(&mut self, text: &str) {
        let text = self.clean(text);
        let line = self.ink(Ink::Bold, &text);
        self.out.push('\n');
        self.raw(&line);
    }

    /// `text` behind `lead`, broken between words, continuation lines below the text's beginning.
    fn wrapped(&mut self, lead: &str, ink: Ink, text: &str) {
        let lead = self.clean(lead);
        let text = self.clean(text);
        let indent = lead.chars().count();
        let mut first = true;
        for line in wrap(&text, self.width.saturating_sub(indent).max(20)) {
            let inked = self.ink(ink, &line);
            let start = if first { lead.clone() } else { " ".repeat(indent) };
            self.raw(&format!("{start}{inked}"));
            first = false;
        }
    }

    fn left(&self, text: &str, width: usize) -> String {
        let text = self.fit(&self.clean(text), width);
        format!("{text:<width$}")
    }

    fn right(&self, text: &str, width: usize) -> String {
        let text = self.fit(&self.clean(text), width);
        format!("{text:>width$}")
    }

    fn fit(&self, text: &str, width: usize) -> String {
        if text.chars().count() <= width {
            return text.to_owned();
        }
        let dots = if self.style.unicode { "…" } else { ".." };
        let kept: String = text.chars().take(width.saturating_sub(dots.chars().count())).collect();
        format!("{}{dots}", kept.trim_end())
    }

    fn mark(&self, check: &Check) -> &'static str {
        match (check.held, self.style.unicode) {
            _ if !check.judged => "–",
            (true, true) => "✓",
            (true, false) => "ok",
            (false, true) => "✗",
            (false, false) => "NO",
        }
    }
}

/// Breaks at spaces; a word longer than a line is broken where the line ends.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut used = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut word: Vec<char> = word.chars().collect();
        if used > 0 && used + 1 + word.len() > width {
            lines.push(std::mem::take(&mut line));
            used = 0;
        }
        while word.len() > width {
            lines.push(word.drain(..width).collect());
        }
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        used += word.len();
        line.extend(word);
    }
    if used > 0 || lines.is_empty() {
        lines.push(line);
    }
    lines
}

fn what_happened(screen: &mut Screen, result: &RunResult) {
    screen.wrapped("", Ink::Bold, &result.title);
    screen.wrapped(
        "",
        Ink::Dim,
        &format!(
            "{}: {} simulated, seed {}, {}",
            result.scenario,
            duration(result.duration_ms),
            result.seed,
            result.hsm
        ),
    );
    if !result.about.is_empty() {
        screen.out.push('\n');
        screen.wrapped("", Ink::Plain, &result.about);
    }
    screen.heading("What happened");
    let rows = story::fault_rows(result);
    if rows.is_empty() {
        screen.wrapped("  ", Ink::Plain, "No fault was injected.");
    }
    let widest = rows.iter().map(|row| row.when.chars().count()).max().unwrap_or(0);
    for row in rows {
        screen.wrapped(&format!("  {:<widest$}   ", row.when), Ink::Plain, row.label);
    }
    screen.out.push('\n');
    screen.wrapped("  ", Ink::Bold, &story::headline(result));
}

/// The columns of the table of services; widths in characters. One space before the number of requests and before the
/// share, which are aligned to the right; two before the others.
struct Columns {
    title: usize,
    requests: usize,
    failed: usize,
    share: usize,
    began: usize,
    recovered: usize,
    spark: usize,
    /// The line is too short for it: the success line goes below the numbers.
    spark_below: bool,
}

impl Columns {
    fn of(screen: &Screen, result: &RunResult) -> Self {
        let widest = |head: &str, cell: &dyn Fn(&ServiceResult) -> String| {
            let cells = result.services.iter().map(|service| cell(service).chars().count());
            cells.max().unwrap_or(0).max(head.len())
        };
        let mut columns = Self {
            title: widest("faults", &|service| service.title.clone()).min(22),
            requests: widest("requests", &|service| count(service.requests)),
            failed: widest("failed", &|service| count(service.failures)),
            share: widest("share", &|service| share(service.failures, service.requests)),
            began: widest("began to fail", &|service| began_cell(result, service)),
            recovered: widest("recovered", &|service| recovered_cell(result, service)),
            spark: 24,
            spark_below: true,
        };
        let over = columns.used().saturating_sub(screen.width);
        columns.title = columns.title.saturating_sub(over).max(10);
        let over = columns.used().saturating_sub(screen.width);
        columns.recovered = columns.recovered.saturating_sub(over).max(8);
        let over = columns.used().saturating_sub(screen.width);
        columns.began = columns.began.saturating_sub(over).max(8);
        let spare = screen.width.saturating_sub(columns.used() + 2);
        if spare >= 10 {
            columns.spark = spare.min(24);
            columns.spark_below = false;
        }
        columns
    }

    fn used(&self) -> usize {
        2 + self.title + self.requests + self.failed + self.share + self.began + self.recovered + 3 * 2 + 2
    }
}

fn services(screen: &mut Screen, result: &RunResult) {
    screen.heading("Services");
    if result.services.is_empty() {
        screen.wrapped("  ", Ink::Plain, "The scenario has none.");
        return;
    }
    let columns = Columns::of(screen, result);
    let head = format!(
        "  {} {}  {} {}  {}  {}",
        screen.left("", columns.title),
        screen.right("requests", columns.requests),
        screen.right("failed", columns.failed),
        screen.right("share", columns.share),
        screen.left("began to fail", columns.began),
        screen.left("recovered", columns.recovered),
    );
    let over_time = if columns.spark_below { "" } else { "success" };
    let head = screen.ink(Ink::Dim, format!("{head}  {over_time}").trim_end());
    screen.raw(&head);
    if !result.faults.is_empty() && result.services.iter().any(|service| service.requests > 0) {
        let bands = fault_line(result, columns.spark, screen.style.unicode);
        let faults = if columns.spark_below {
            format!("    {bands:<width$}  faults", width = columns.spark)
        } else {
            format!("  {:<width$}  {bands}", "faults", width = columns.used() - 2)
        };
        let faults = screen.ink(Ink::Dim, &faults);
        screen.raw(&faults);
    }
    for service in &result.services {
        service_row(screen, result, service, &columns);
    }
    if !result.faults.is_empty() {
        let first = if result.faults.len() > 1 { "first fault's" } else { "fault's" };
        let last = if result.faults.len() > 1 { "last fault's" } else { "fault's" };
        let legend =
            format!("Began to fail counts from the {first} beginning, recovered from the {last} end.");
        screen.wrapped("  ", Ink::Dim, &legend);
    }
    let legend = if screen.style.unicode {
        "Success from the run's start to its end: █ all served … ▁ few, × none, blank no requests."
    } else {
        "Success from the run's start to its end: # all served, + most, - few, x none, blank no requests."
    };
    screen.wrapped("  ", Ink::Dim, legend);
}

fn service_row(screen: &mut Screen, result: &RunResult, service: &ServiceResult, columns: &Columns) {
    let hurt = if service.failures > 0 { Ink::Bad } else { Ink::Plain };
    let failed = screen.ink(hurt, &screen.right(&count(service.failures), columns.failed));
    let numbers = format!(
        "  {} {}  {failed} {}  {}  {}",
        screen.left(&service.title, columns.title),
        screen.right(&count(service.requests), columns.requests),
        screen.right(&share(service.failures, service.requests), columns.share),
        screen.left(&began_cell(result, service), columns.began),
        screen.left(&recovered_cell(result, service), columns.recovered),
    );
    let spark = spark(result, service, columns.spark, screen.style.unicode);
    let spark = screen.ink(if service.failures > 0 { Ink::Plain } else { Ink::Good }, &spark);
    if columns.spark_below {
        screen.raw(&numbers);
        if service.requests > 0 {
            screen.raw(&format!("    {spark}"));
        }
    } else {
        screen.raw(&format!("{numbers}  {spark}"));
    }
    // Only the two most frequent: the page has them all.
    let seen = story::seen(service);
    for (visible, times) in seen.iter().take(2) {
        let lead = if screen.style.unicode { "    └ users saw " } else { "    users saw " };
        let times = if seen.len() > 1 { format!(" ({})", counted(*times, "time")) } else { String::new() };
        screen.wrapped(lead, Ink::Dim, &format!("{visible}{times}"));
    }
    if seen.len() > 2 {
        screen.wrapped("      ", Ink::Dim, &format!("and {}", counted(seen.len() as u64 - 2, "other error")));
    }
}

fn began_cell(result: &RunResult, service: &ServiceResult) -> String {
    match (service.first_failure_ms, service.failed_after_fault_ms) {
        _ if service.requests == 0 => "not asked".to_owned(),
        (_, Some(0)) => "at once".to_owned(),
        (_, Some(after)) => format!("after {}", duration(after)),
        (Some(_), None) if !result.faults.is_empty() => "before".to_owned(),
        (Some(at), None) => format!("at {}", moment(at)),
        (None, None) => "never".to_owned(),
    }
}

fn recovered_cell(result: &RunResult, service: &ServiceResult) -> String {
    match (service.recovered_ms, service.recovered_after_fault_ms) {
        _ if service.failures == 0 => "–".to_owned(),
        (None, _) => "not by the end".to_owned(),
        (Some(_), Some(0)) => "at once".to_owned(),
        (Some(_), Some(after)) => format!("after {}", duration(after)),
        (Some(at), None) if result.faults.iter().any(|band| at < band.to_ms) => "before".to_owned(),
        (Some(at), None) => format!("at {}", moment(at)),
    }
}

/// The share of requests served, over the run, in `width` characters.
fn spark(result: &RunResult, service: &ServiceResult, width: usize, unicode: bool) -> String {
    let (width, buckets) = (spark_width(result, width), buckets(result));
    (0..width)
        .map(|column| {
            let range = column * buckets / width..(column + 1) * buckets / width;
            let sum = |series: &[u64]| -> u64 { range.clone().filter_map(|bucket| series.get(bucket)).sum() };
            let (ok, failed) = (sum(&service.ok), sum(&service.failed));
            let all = ok + failed;
            match (all, ok) {
                (0, _) => ' ',
                (_, 0) if unicode => '×',
                (_, 0) => 'x',
                _ if unicode => {
                    // A full block is kept for a full success, so that a dent is never rounded away.
                    if failed == 0 {
                        '█'
                    } else {
                        LEVELS[(ok.saturating_mul(7) / all) as usize % LEVELS.len()]
                    }
                }
                _ if failed == 0 => '#',
                _ if ok * 2 >= all => '+',
                _ => '-',
            }
        })
        .collect()
}

/// Where the faults lie, in the columns of the success lines.
fn fault_line(result: &RunResult, width: usize, unicode: bool) -> String {
    let width = spark_width(result, width) as u64;
    (0..width)
        .map(|column| {
            let from = column * result.duration_ms / width;
            let to = (column + 1) * result.duration_ms / width;
            let middle = from + (to - from) / 2;
            // A fault shorter than a column marks the one it begins in.
            let here = result.faults.iter().any(|band| {
                (band.from_ms <= middle && middle < band.to_ms) || (from <= band.from_ms && band.from_ms < to)
            });
            match (here, unicode) {
                (false, _) => ' ',
                (true, true) => '▂',
                (true, false) => '=',
            }
        })
        .collect()
}

fn buckets(result: &RunResult) -> usize {
    result.services.iter().map(|service| service.ok.len().max(service.failed.len())).max().unwrap_or(0)
}

fn spark_width(result: &RunResult, width: usize) -> usize {
    width.min(buckets(result))
}

/// Success below one, in sevenths.
const LEVELS: [char; 7] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇'];

fn aftermath(screen: &mut Screen, result: &RunResult) {
    for fact in story::facts(result) {
        if !story::AFTERMATH.contains(&fact.term) {
            continue; // The table has said the rest.
        }
        screen.heading(fact.term);
        for answer in fact.answers {
            if answer.subject.is_empty() {
                screen.wrapped("  ", Ink::Plain, &answer.text);
            } else {
                screen.wrapped("  ", Ink::Plain, &format!("{}: {}", answer.subject, answer.text));
            }
        }
    }
}

fn exceptions(screen: &mut Screen, result: &RunResult) {
    let rows = story::exceptions(result);
    screen.heading("KMS exceptions behind the failures");
    if rows.is_empty() {
        screen.wrapped("  ", Ink::Plain, "None.");
    }
    let widest = rows.iter().map(|row| count(row.count).len()).max().unwrap_or(0);
    for row in rows {
        let name = if row.exception.is_empty() { "not from KMS" } else { row.exception };
        screen.wrapped(&format!("  {:>widest$}  ", count(row.count)), Ink::Plain, name);
        if !row.message.is_empty() {
            screen.wrapped(&" ".repeat(widest + 4), Ink::Dim, row.message);
        }
    }
}

fn proxy_latency(screen: &mut Screen, result: &RunResult) {
    let xks = &result.xks;
    screen.heading(&format!("Proxy latency as KMS saw it; it gives up after {} ms", count(xks.patience_ms)));
    if xks.calls == 0 {
        screen.wrapped("  ", Ink::Plain, "KMS never called the proxy.");
        return;
    }
    let cell = 11;
    let mut head = format!("  {:<16}", "");
    for name in ["p50", "p90", "p99", "p99.9", "max"] {
        head.push_str(&format!("{name:>cell$}"));
    }
    let head = screen.ink(Ink::Dim, &head);
    screen.raw(&head);
    let mut rows = vec![("all calls", xks.latency)];
    if !result.faults.is_empty() {
        rows.push(("outside faults", xks.latency_outside_faults));
    }
    for (name, percentiles) in rows {
        let mut line = format!("  {name:<16}");
        for value in values(&percentiles) {
            let late = value.is_finite() && value >= xks.patience_ms as f64;
            let text = screen.right(&latency(value), cell);
            line.push_str(&screen.ink(if late { Ink::Bad } else { Ink::Plain }, &text));
        }
        screen.raw(&line);
    }
    if let Some(text) = story::tried_twice(xks) {
        screen.wrapped("  ", Ink::Dim, &text);
    }
    screen.wrapped(
        "  ",
        Ink::Plain,
        &format!(
            "{}: {} answered ({}), {} ran out of time, {}.",
            counted(xks.calls, "call"),
            count(xks.ok),
            share(xks.ok, xks.calls),
            count(xks.timed_out),
            counted(xks.fresh_connections, "new connection"),
        ),
    );
    for (words, times) in &xks.outcomes {
        screen.wrapped(&format!("  {:>10}  ", count(*times)), Ink::Dim, words);
    }
}

fn alarms(screen: &mut Screen, result: &RunResult) {
    screen.heading("Alarms that AWS recommends or suggests, evaluated at the end of each period");
    let widest = result.alarms.iter().map(|alarm| alarm.name.chars().count()).max().unwrap_or(0);
    let mut quiet: Vec<(Option<&str>, Vec<&str>)> = Vec::new();
    for alarm in &result.alarms {
        match story::rang(alarm) {
            Some(text) => screen.wrapped(&format!("  {:<widest$}  ", alarm.name), Ink::Bad, &text),
            None => {
                let why = story::unheard(alarm, result.duration_ms);
                match quiet.iter_mut().find(|(of_others, _)| *of_others == why) {
                    Some((_, names)) => names.push(&alarm.name),
                    None => quiet.push((why, vec![&alarm.name])),
                }
            }
        }
    }
    for (why, names) in quiet {
        let names = names.join(", ");
        match why {
            None => screen.wrapped("  silent: ", Ink::Plain, &names),
            Some(why) => screen.wrapped("  not evaluated: ", Ink::Plain, &format!("{names} ({why})")),
        }
    }
    if let Some(text) = story::console(&result.console) {
        screen.wrapped("  ", Ink::Plain, &format!("{text}."));
    }
}

pub(super) fn values(percentiles: &Percentiles) -> [f64; 5] {
    [percentiles.p50_ms, percentiles.p90_ms, percentiles.p99_ms, percentiles.p999_ms, percentiles.max_ms]
}

fn checks(screen: &mut Screen, result: &RunResult) {
    screen.heading("Invariants and expectations");
    let sentence = story::checks(&result.invariants, "invariant", "held", "violated");
    summary_line(screen, &result.invariants, &sentence);
    for check in result.invariants.iter().filter(|check| !check.held) {
        check_line(screen, check);
    }
    summary_line(screen, &result.expectations, &story::expectations(&result.expectations));
    for check in &result.expectations {
        check_line(screen, check);
    }
}

fn summary_line(screen: &mut Screen, all: &[Check], sentence: &str) {
    let held = all.iter().all(|check| check.held);
    let ink = match (all.iter().all(|check| !check.judged), held) {
        (true, _) => Ink::Plain,
        (_, true) => Ink::Good,
        (_, false) => Ink::Bad,
    };
    screen.wrapped("  ", ink, &format!("{sentence}."));
}

fn check_line(screen: &mut Screen, check: &Check) {
    let mark = screen.mark(check);
    let lead = format!("    {mark:<2} ");
    let ink = if check.held { Ink::Plain } else { Ink::Bad };
    let not = if check.judged { "" } else { "not judged: " };
    screen.wrapped(&lead, ink, &format!("{not}{}: {}", check.name, check.text));
    if let Some(violation) = &check.violation {
        screen.wrapped(&" ".repeat(lead.chars().count()), Ink::Plain, violation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrapping_breaks_between_words_and_inside_giants() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("aaaaaaaaaa b", 4), ["aaaa", "aaaa", "aa b"]);
        assert_eq!(wrap("x aaaaaaaa", 4), ["x", "aaaa", "aaaa"]);
        assert_eq!(wrap("", 4), [""]);
    }
}
