//! What a doctor has found, and how it is said: for people line by line as it is found, for programs as JSON at the end.
//!
//! Place on the map: part of `doctor`; every check writes into a [`Report`].

use serde_json::{Value, json};
use std::io::{IsTerminal, Write};

/// Columns of a terminal that everybody has.
const WIDTH: usize = 100;
/// Where what is said begins, if the name of the check leaves room.
const NAME_COLUMNS: usize = 18;
/// Where the lines that explain begin.
const INDENT: usize = 9;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ok,
    Warning,
    Failed,
    /// It could not be made, for something before it failed.
    Skipped,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// The escape sequence of its colour.
    fn colour(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Warning => "\x1b[33m",
            Self::Failed => "\x1b[1;31m",
            Self::Skipped => "\x1b[2m",
        }
    }
}

/// What to do about a problem, and what it means for whoever does not.
#[derive(Clone, Debug)]
pub(crate) struct Help {
    pub(crate) means: String,
    pub(crate) to_do: String,
}

/// Collects findings; prints each at once unless JSON is wanted.
pub(crate) struct Report {
    json: bool,
    colour: bool,
    section: String,
    findings: Vec<Value>,
    /// Further facts for JSON, by name.
    facts: serde_json::Map<String, Value>,
    warnings: usize,
    failures: usize,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the terminal's user says there whether colour is wanted"
        )]
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            json,
            colour: !plain && std::io::stdout().is_terminal(),
            section: String::new(),
            findings: Vec::new(),
            facts: serde_json::Map::new(),
            warnings: 0,
            failures: 0,
        }
    }

    /// Begins a group of checks.
    pub(crate) fn section(&mut self, title: impl Into<String>) {
        self.section = title.into();
        self.print(&format!("\n{}\n", one_line(&self.section)));
    }

    pub(crate) fn ok(&mut self, check: &str, says: impl AsRef<str>) {
        self.find(Status::Ok, check, says.as_ref(), None);
    }

    /// `because` names what has to be mended first.
    pub(crate) fn skipped(&mut self, check: &str, because: impl AsRef<str>) {
        self.find(Status::Skipped, check, &format!("not checked: {}", because.as_ref()), None);
    }

    pub(crate) fn warning(
        &mut self,
        check: &str,
        says: impl AsRef<str>,
        means: impl Into<String>,
        to_do: impl Into<String>,
    ) {
        self.warnings += 1;
        let help = Help { means: means.into(), to_do: to_do.into() };
        self.find(Status::Warning, check, says.as_ref(), Some(help));
    }

    pub(crate) fn failed(
        &mut self,
        check: &str,
        says: impl AsRef<str>,
        means: impl Into<String>,
        to_do: impl Into<String>,
    ) {
        self.failures += 1;
        let help = Help { means: means.into(), to_do: to_do.into() };
        self.find(Status::Failed, check, says.as_ref(), Some(help));
    }

    /// For programs only.
    pub(crate) fn fact(&mut self, name: &str, value: Value) {
        self.facts.insert(name.to_owned(), value);
    }

    /// For people only: lines that are no check, as they are.
    pub(crate) fn print(&self, text: &str) {
        if !self.json {
            // A closed standard output is the reader's choice.
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// The verdict; the last of it.
    pub(crate) fn end(mut self) {
        let verdict = match (self.failures, self.warnings) {
            (0, 0) => "All well.".to_owned(),
            (0, warnings) => format!("Nothing stands in the way of serving; {}.", count(warnings, "warning")),
            (failures, 0) => format!("{}: see \"to do\" above.", count(failures, "problem")),
            (failures, warnings) => format!(
                "{} and {}: see \"to do\" above, problems first.",
                count(failures, "problem"),
                count(warnings, "warning")
            ),
        };
        if self.json {
            let mut all = json!({
                "format": 1,
                "version": env!("CARGO_PKG_VERSION"),
                "well": self.failures == 0,
                "problems": self.failures,
                "warnings": self.warnings,
                "checks": self.findings,
            });
            if let Some(object) = all.as_object_mut() {
                object.append(&mut self.facts);
            }
            let _ = writeln!(std::io::stdout().lock(), "{all:#}");
        } else {
            self.print(&format!("\n{verdict}\n"));
        }
    }

    fn find(&mut self, status: Status, check: &str, says: &str, help: Option<Help>) {
        let says = one_line(says);
        if self.json {
            self.findings.push(json!({
                "section": self.section,
                "check": check,
                "status": status.word(),
                "says": says,
                "means": help.as_ref().map(|help| one_line(&help.means)),
                "to_do": help.as_ref().map(|help| one_line(&help.to_do)),
            }));
            return;
        }
        let word = format!("{:<width$}", status.word(), width = INDENT);
        let word = if self.colour { format!("{}{word}\x1b[0m", status.colour()) } else { word };
        let hang = INDENT + NAME_COLUMNS;
        let mut text =
            word + &wrapped(&format!("{:<NAME_COLUMNS$}", format!("{check} ")), &says, INDENT, hang);
        if let Some(help) = help {
            for (label, sentence) in [("means:  ", help.means), ("to do:  ", help.to_do)] {
                let lead = format!("{:hang$}{label}", "");
                text += &wrapped(&lead, &one_line(&sentence), 0, hang + label.len());
            }
        }
        self.print(&text);
    }
}

/// `1 problem`, `2 problems`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Messages of vendors' libraries and names of objects may hold line breaks and worse.
pub(crate) fn one_line(text: &str) -> String {
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most so many characters, the last an ellipsis if there were more.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let text = one_line(text);
    if text.chars().count() <= most {
        return text;
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

/// `lead` and `text`, broken between words so that no line is wider than the terminal. `before` columns stand before
/// `lead` already; further lines begin at column `hang`. A word that is too wide for a line (a path) is not broken.
fn wrapped(lead: &str, text: &str, before: usize, hang: usize) -> String {
    let mut out = lead.to_owned();
    let mut column = before + lead.chars().count();
    let mut fresh = true;
    for word in text.split(' ') {
        let wide = word.chars().count();
        if !fresh && column + 1 + wide > WIDTH {
            out.push('\n');
            out.push_str(&" ".repeat(hang));
            column = hang;
            fresh = true;
        }
        if !fresh {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += wide;
        fresh = false;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_wrapped_between_words_and_paths_stay_whole() {
        let path = format!("/{}", "a".repeat(120));
        let text = format!("{} {path} end", "word ".repeat(30).trim());
        let told = wrapped("name ", &text, 9, 20);
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines[0].chars().count() + 9 <= WIDTH && lines[0].starts_with("name word"), "{told}");
        assert!(lines[1].starts_with(&" ".repeat(20)), "{told}");
        assert!(lines.iter().any(|line| line.trim() == path), "{told}");
        assert_eq!(one_line("a\n\u{1b}[31mb\tc "), "a [31mb c");
    }
}
