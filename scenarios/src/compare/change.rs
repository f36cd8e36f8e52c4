//! In which settings two scenario files differ.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use toml::{Table, Value};

/// The most that are listed.
pub const CHANGES_MAX: usize = 40;
/// Characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 60;

/// One setting that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// As `--vary` and `--set` name it: `fault.0.factor`.
    pub key: String,
    /// Its value in the first; `None` where the file does not set it.
    pub a: Option<String>,
    /// Its value in the second.
    pub b: Option<String>,
}

/// The settings that differ, by key, [`CHANGES_MAX`] at most, and how many more there are. Words about the scenario are no
/// settings. A text that is no TOML, which no parsed scenario's is, has no settings.
pub fn changes(first: &str, second: &str) -> (Vec<Change>, usize) {
    let (first, second) = (settings(first), settings(second));
    let keys = first.keys().chain(second.keys().filter(|key| !first.contains_key(*key)));
    let mut changes: Vec<Change> = keys
        .filter(|key| first.get(*key) != second.get(*key))
        .map(|key| Change { key: key.clone(), a: first.get(key).map(shown), b: second.get(key).map(shown) })
        .collect();
    changes.sort_by(|left, right| left.key.cmp(&right.key));
    let more = changes.len().saturating_sub(CHANGES_MAX);
    changes.truncate(CHANGES_MAX);
    (changes, more)
}

fn settings(text: &str) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    let mut table: Table = text.parse().unwrap_or_default();
    for words in ["title", "about"] {
        table.remove(words);
    }
    flatten("", Value::Table(table), &mut all);
    all
}

fn flatten(key: &str, value: Value, all: &mut BTreeMap<String, Value>) {
    let below = |part: &str| if key.is_empty() { part.to_owned() } else { format!("{key}.{part}") };
    match value {
        Value::Table(table) => {
            table.into_iter().for_each(|(part, inner)| flatten(&below(&part), inner, all));
        }
        Value::Array(items) if items.iter().any(Value::is_table) => {
            for (at, inner) in items.into_iter().enumerate() {
                flatten(&below(&at.to_string()), inner, all);
            }
        }
        // 40 and 40.0 are the same setting.
        #[expect(clippy::cast_precision_loss, reason = "settings are far below 2^53")]
        Value::Integer(whole) => {
            all.insert(key.to_owned(), Value::Float(whole as f64));
        }
        other => {
            all.insert(key.to_owned(), other);
        }
    }
}

fn shown(value: &Value) -> String {
    let text = match value {
        Value::Float(number) => number.to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= VALUE_CHARS_MAX {
        return text;
    }
    text.chars().take(VALUE_CHARS_MAX).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_words(first: &str, second: &str) -> Vec<String> {
        let word = |value: Option<String>| value.unwrap_or_else(|| "-".into());
        changes(first, second)
            .0
            .into_iter()
            .map(|it| format!("{} {} {}", it.key, word(it.a), word(it.b)))
            .collect()
    }

    #[test]
    fn settings_that_differ_are_found_by_their_keys() {
        let first = "title = \"a\"\nduration_s = 9\n[hsm]\nservice_ms = 3\n[[fault]]\nkind = \"hsm-slow\"\nfactor = 40\n";
        let second = "title = \"b\"\nduration_s = 9.0\n[topology]\nhsms = 1\n[[fault]]\nkind = \"hsm-slow\"\nfactor = 2.5\n";
        assert_eq!(
            in_words(first, second),
            ["fault.0.factor 40 2.5", "hsm.service_ms 3 -", "topology.hsms - 1"]
        );
        assert_eq!(in_words(first, first), [] as [String; 0]);
    }

    #[test]
    fn the_list_of_changes_ends() {
        let many: String = (0..60).map(|at| format!("key{at} = 1\n")).collect();
        let (changes, more) = changes(&many, "");
        assert_eq!((changes.len(), more), (CHANGES_MAX, 20));
    }
}
