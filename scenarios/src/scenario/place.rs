//! Where in the file something is wrong, and the nearest right word.

use super::ScenarioError;
use std::fmt;

#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) origin: &'a str,
    pub(super) text: &'a str,
}

impl Place<'_> {
    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    pub(super) fn at(&self, offset: usize, message: impl fmt::Display) -> ScenarioError {
        // It may quote the file, which can hold line breaks and a terminal's commands as escapes of TOML.
        let message = message.to_string().replace(char::is_control, " ");
        ScenarioError(format!("{}:{}: {message}", self.origin, self.line(offset)))
    }

    /// `otherwise` is the place of an error that does not know its own.
    pub(super) fn toml_error(&self, error: &toml::de::Error, otherwise: usize) -> ScenarioError {
        let span = error.span();
        let offset = span.as_ref().map_or(otherwise, |span| span.start);
        let message = in_plain_words(&error.message().trim().replace('\n', "; "));
        if message.contains("string, expected") || message.contains("string values must be quoted") {
            return self.at(offset, format!("{}({message})", self.unquoted(offset)));
        }
        if message == "duplicate key" {
            let key = span.and_then(|span| self.text.get(span)).unwrap_or_default();
            return self.at(offset, format!("the key {key} is there twice: remove one of the two"));
        }
        self.at(offset, unknown(&message).unwrap_or(message))
    }

    /// What to write in a line whose text in quotation marks is not one, with the key of that line if it has one.
    fn unquoted(&self, offset: usize) -> String {
        let line = self.text.lines().nth(self.line(offset).saturating_sub(1)).unwrap_or_default();
        let key = line.split_once('=').map(|(key, _)| key.trim()).filter(|key| !key.is_empty());
        let (about, key) = key.map_or((String::new(), "key"), |key| (format!("the value of {key}: "), key));
        format!(
            "{about}text stands in double quotes that open and close in its line, such as {key} = \"…\", with \\\" for a \
             quote in it "
        )
    }
}

/// serde names the types of Rust at the end of its messages; a scenario's author need not know them.
fn in_plain_words(message: &str) -> String {
    let types = [
        ("expected f64", "expected a number"),
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected u32", "expected a whole number, 0 or more"),
        ("expected u64", "expected a whole number, 0 or more"),
        ("expected usize", "expected a whole number, 0 or more"),
        ("expected a string", "expected text in quotation marks"),
        ("expected a boolean", "expected true or false"),
    ];
    // How it was read, of a number that fits nothing smaller.
    let message = message.replace(" as i128", "").replace(" as u128", "");
    let found = types.into_iter().find_map(|(name, words)| Some((message.strip_suffix(name)?, words)));
    found.map(|(before, words)| format!("{before}{words}")).unwrap_or(message)
}

/// A serde message about an unknown key or value, told with the nearest known one before the list of all.
fn unknown(message: &str) -> Option<String> {
    let (what, rest) = [("unknown field `", "key"), ("unknown variant `", "value")]
        .into_iter()
        .find_map(|(start, what)| Some((what, message.strip_prefix(start)?)))?;
    let (word, list) = rest.split_once("`, expected ")?;
    let known: Vec<&str> = list.split('`').skip(1).step_by(2).collect();
    Some(format!("unknown {what} {}", among(word, &known)))
}

/// `` `lisk`: did you mean `link`? Known here are `hsm`, `link` ``
pub(super) fn among(word: &str, known: &[&str]) -> String {
    let hint = nearest(word, known.iter().copied())
        .map(|near| format!(": did you mean `{near}`? Known"))
        .unwrap_or_else(|| "; known".to_owned());
    format!("`{word}`{hint} here are `{}`", known.join("`, `"))
}

/// The candidate nearest to `word`, unless all are quite unlike it.
pub fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.65)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, candidate)| candidate)
}
