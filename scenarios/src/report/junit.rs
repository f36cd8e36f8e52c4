//! The run's checks as JUnit XML, which every CI server shows: each invariant and each expectation is a test case.
//!
//! Place on the map: one of the renderers of [`report`](crate::report). JUnit XML has no standard of its own; this is the
//! part that Jenkins, GitLab and GitHub's actions agree on.

use crate::result::{Check, RunResult};
use std::fmt::Write;

/// The whole file.
pub fn junit(result: &RunResult) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, result);
    out
}

fn write(out: &mut String, result: &RunResult) -> std::fmt::Result {
    let interrupted = result.interrupted_at_ms.is_some();
    let all = result.invariants.len() + result.expectations.len();
    let broken = result.invariants.iter().chain(&result.expectations).filter(|check| !check.held).count();
    let errors = usize::from(interrupted);
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    writeln!(
        out,
        "<testsuites name=\"xks-sim {}\" tests=\"{}\" failures=\"{broken}\" errors=\"{errors}\">",
        escaped(&result.scenario),
        all + errors
    )?;
    suite(out, result, "invariants", &result.invariants)?;
    suite(out, result, "expectations", &result.expectations)?;
    if let Some(at_ms) = result.interrupted_at_ms {
        writeln!(out, "  <testsuite name=\"run\" tests=\"1\" failures=\"0\" errors=\"1\" skipped=\"0\">")?;
        writeln!(
            out,
            "    <testcase classname=\"{}.run\" name=\"runs to its end\">",
            escaped(&result.scenario)
        )?;
        writeln!(
            out,
            "      <error type=\"interrupted\" message=\"interrupted at {at_ms} ms of {} ms\"/>",
            result.duration_ms
        )?;
        writeln!(out, "    </testcase>\n  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

fn suite(out: &mut String, result: &RunResult, name: &str, checks: &[Check]) -> std::fmt::Result {
    let broken = checks.iter().filter(|check| !check.held).count();
    let idle = checks.iter().filter(|check| is_idle(check)).count();
    writeln!(
        out,
        "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{broken}\" errors=\"0\" skipped=\"{idle}\">",
        checks.len()
    )?;
    writeln!(out, "    <properties>")?;
    for (name, value) in [
        ("version", result.version.as_str()),
        ("seed", &result.seed.to_string()),
        ("digest", &result.digest),
        ("command", &result.command),
    ] {
        writeln!(out, "      <property name=\"{name}\" value=\"{}\"/>", escaped(value))?;
    }
    writeln!(out, "    </properties>")?;
    for check in checks {
        let class = format!("{}.{name}", result.scenario);
        // An expectation's name is its key, which several may share; its text tells them apart.
        let case = format!("{}: {}", check.name, check.text);
        write!(out, "    <testcase classname=\"{}\" name=\"{}\"", escaped(&class), escaped(&case))?;
        if !check.judged {
            writeln!(
                out,
                ">\n      <skipped message=\"not judged: the run was ended before\"/>\n    </testcase>"
            )?;
        } else if is_idle(check) {
            writeln!(out, ">\n      <skipped message=\"nothing to check in this run\"/>\n    </testcase>")?;
        } else if check.held {
            writeln!(out, "/>")?;
        } else {
            let actual = check.violation.as_deref().unwrap_or("it did not hold");
            writeln!(out, ">\n      <failure type=\"{name}\" message=\"{}\">", escaped(actual))?;
            writeln!(out, "expected: {}", escaped(&check.text))?;
            writeln!(out, "actual:   {}", escaped(actual))?;
            writeln!(out, "to see this again: {}</failure>\n    </testcase>", escaped(&result.command))?;
        }
    }
    writeln!(out, "  </testsuite>")
}

/// It held because there was nothing to look at, or because nobody judged it.
fn is_idle(check: &Check) -> bool {
    check.held && check.checked == 0
}

/// Text for an attribute or an element, without the characters that XML 1.0 has no form for.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // Inside an attribute a line break would read as a blank.
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}
