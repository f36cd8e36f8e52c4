//! The report as Markdown (CommonMark with GitHub's tables), for a ticket, a wiki or an incident review.
//!
//! Place on the map: one of the renderers of [`report`](crate::report); it says in the words of `story` what the page says,
//! without its drawings.

use super::human::{count, counted, duration, latency, moment, share};
use super::story;
use super::terminal::values;
use crate::result::{Check, Percentiles, RunResult};
use std::fmt::Write;

/// The whole document.
pub fn markdown(result: &RunResult) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, result);
    out.replace('\u{a0}', " ")
}

fn write(out: &mut String, result: &RunResult) -> std::fmt::Result {
    writeln!(out, "# {}\n", text(&result.title))?;
    if !result.about.is_empty() {
        writeln!(out, "{}\n", text(&result.about))?;
    }
    writeln!(out, "**{}**\n", text(&story::headline(result)))?;
    blast_radius(out, result)?;
    timeline(out, result)?;
    services(out, result)?;
    exceptions(out, result)?;
    proxy(out, result)?;
    alarms(out, result)?;
    checks(out, result)?;
    reproduce(out, result)
}

fn blast_radius(out: &mut String, result: &RunResult) -> std::fmt::Result {
    writeln!(out, "## Blast radius\n")?;
    for fact in story::facts(result) {
        writeln!(out, "- **{}.**", fact.term)?;
        for answer in &fact.answers {
            let subject = if answer.subject.is_empty() {
                String::new()
            } else {
                format!("{}: ", text(&answer.subject))
            };
            writeln!(out, "  - {subject}{}", text(&answer.text))?;
        }
    }
    writeln!(out)
}

fn timeline(out: &mut String, result: &RunResult) -> std::fmt::Result {
    writeln!(out, "## What happened when\n")?;
    let rows = story::fault_rows(result);
    if rows.is_empty() {
        writeln!(out, "- No fault was injected.")?;
    }
    for row in rows {
        writeln!(out, "- {}: {}", text(row.label), row.when)?;
    }
    writeln!(out)
}

fn services(out: &mut String, result: &RunResult) -> std::fmt::Result {
    writeln!(out, "## Services\n")?;
    if result.services.is_empty() {
        return writeln!(out, "The scenario has no services.\n");
    }
    table(
        out,
        &["Service", "Requests", "Failed", "Share", "Began to fail", "Recovered", "Without KMS", "KMS calls"],
        result.services.iter().map(|service| {
            vec![
                service.title.clone(),
                count(service.requests),
                count(service.failures),
                share(service.failures, service.requests),
                story::began(result, service),
                story::recovered(result, service),
                count(service.from_cache + service.from_held_key),
                count(service.kms_calls),
            ]
        }),
    )
}

fn exceptions(out: &mut String, result: &RunResult) -> std::fmt::Result {
    writeln!(out, "## The exact errors\n")?;
    let rows = story::exceptions(result);
    if rows.is_empty() {
        return writeln!(out, "None: no request failed.\n");
    }
    let seen = rows.iter().flat_map(|row| {
        row.seen_by.iter().map(|(service, error)| {
            vec![
                if row.exception.is_empty() { "not from KMS".to_owned() } else { row.exception.to_owned() },
                row.message.to_owned(),
                service.title.clone(),
                error.visible.clone(),
                count(error.count),
                moment(error.first_ms),
            ]
        })
    });
    table(out, &["KMS exception", "Message", "Service", "Its users see", "Count", "First seen"], seen)
}

fn proxy(out: &mut String, result: &RunResult) -> std::fmt::Result {
    let xks = &result.xks;
    writeln!(out, "## The proxy as KMS saw it\n")?;
    if xks.calls == 0 {
        return writeln!(out, "KMS never called the proxy.\n");
    }
    writeln!(
        out,
        "{}, each with {} ms: {} answered ({}), {} ran out of time, {}.\n",
        counted(xks.calls, "call"),
        count(xks.patience_ms),
        count(xks.ok),
        share(xks.ok, xks.calls),
        count(xks.timed_out),
        counted(xks.fresh_connections, "new connection"),
    )?;
    let row = |name: &str, percentiles: &Percentiles| {
        std::iter::once(name.to_owned()).chain(values(percentiles).map(latency)).collect::<Vec<_>>()
    };
    let mut rows = vec![row("all", &xks.latency)];
    if !result.faults.is_empty() {
        rows.push(row("outside faults", &xks.latency_outside_faults));
    }
    table(out, &["Calls", "p50", "p90", "p99", "p99.9", "max"], rows)?;
    if let Some(words) = story::tried_twice(xks) {
        writeln!(out, "{}\n", text(&words))?;
    }
    for (words, times) in &xks.outcomes {
        writeln!(out, "- {}: {}", text(words), count(*times))?;
    }
    writeln!(out)
}

fn alarms(out: &mut String, result: &RunResult) -> std::fmt::Result {
    writeln!(out, "## Alarms\n")?;
    if result.alarms.is_empty() {
        return writeln!(out, "No alarm was set.\n");
    }
    table(
        out,
        &["Alarm", "Rings when", "Outcome"],
        result.alarms.iter().map(|alarm| {
            vec![
                alarm.name.clone(),
                format!("{}: {}", alarm.metric, alarm.condition),
                story::rang(alarm).unwrap_or_else(|| story::quiet(alarm, result.duration_ms)),
            ]
        }),
    )
}

fn checks(out: &mut String, result: &RunResult) -> std::fmt::Result {
    writeln!(out, "## Invariants and expectations\n")?;
    let line = |out: &mut String, check: &Check, held: &str, broken: &str| {
        let outcome = match (check.held, check.checked) {
            _ if !check.judged => "not judged",
            (false, _) => broken,
            (true, 0) => "nothing to check",
            (true, _) => held,
        };
        write!(out, "- **{outcome}**: {} (`{}`)", text(&check.text), code(&check.name))?;
        match &check.violation {
            Some(violation) => writeln!(out, "; {}", text(violation)),
            None => writeln!(out),
        }
    };
    for check in &result.invariants {
        line(out, check, "held", "violated")?;
    }
    for check in &result.expectations {
        line(out, check, "met", "not met")?;
    }
    if result.expectations.is_empty() {
        writeln!(out, "- The scenario states no expectation.")?;
    }
    writeln!(out)
}

fn reproduce(out: &mut String, result: &RunResult) -> std::fmt::Result {
    writeln!(out, "## How to reproduce it\n")?;
    block(out, "sh", &result.command)?;
    writeln!(
        out,
        "Seed {}, version {}, {} simulated, {}, digest `{}`.\n",
        result.seed,
        text(&result.version),
        duration(result.duration_ms),
        text(&result.hsm),
        code(&result.digest)
    )?;
    writeln!(out, "## Assumptions\n")?;
    if result.assumptions.is_empty() {
        writeln!(out, "None beyond what AWS documents.\n")?;
    } else {
        for assumption in &result.assumptions {
            writeln!(out, "- {}", text(assumption))?;
        }
        writeln!(out)?;
    }
    writeln!(out, "## The scenario\n")?;
    block(out, "toml", &result.scenario_toml)?;
    writeln!(
        out,
        "A simulation, not a measurement of AWS: the proxy's code is the real one; AWS KMS, its services, the network and \
         time are models."
    )
}

fn table(out: &mut String, head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> std::fmt::Result {
    writeln!(out, "| {} |", head.join(" | "))?;
    writeln!(out, "|{}", " --- |".repeat(head.len()))?;
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| text(cell)).collect();
        writeln!(out, "| {} |", cells.join(" | "))?;
    }
    writeln!(out)
}

/// A fenced block whose fence is longer than any in the text.
fn block(out: &mut String, language: &str, text: &str) -> std::fmt::Result {
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    writeln!(out, "{fence}{language}\n{}\n{fence}\n", text.trim_end())
}

/// Text between backquotes.
fn code(text: &str) -> String {
    text.chars().map(|character| if character == '`' { '\'' } else { clean(character) }).collect()
}

/// A character that neither breaks the line nor hides what it says.
fn clean(character: char) -> char {
    match character {
        '\n' | '\r' | '\t' => ' ',
        hidden if hidden.is_control() => '\u{fffd}',
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        other => other,
    }
}

/// Text that stays text: one line, and no character of it makes mark-up.
fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.trim().chars() {
        match clean(character) {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '!' => {
                out.push('\\');
                out.push(character);
            }
            cleaned => out.push(cleaned),
        }
    }
    out
}
