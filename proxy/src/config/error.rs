//! What is wrong with a configuration, in one line: file, line, what is wrong, what to do.
//!
//! Place on the map: used by every part of [`config`](crate::config).

use std::fmt;

/// Why a configuration cannot be used. `Display` is one line and never holds a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The configuration file as the user named it.
    pub file: String,
    /// The line of the mistake, from 1, where there is one.
    pub line: Option<usize>,
    /// What is wrong and what to do about it.
    pub message: String,
    /// It may pass by itself, so that the same configuration may be good later: a helper command that failed, an address
    /// in use, no thread to be had, a certificate that is not valid yet.
    pub retriable: bool,
}

impl ConfigError {
    pub(super) fn may_pass(self) -> Self {
        Self { retriable: true, ..self }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        // Messages of vendor libraries may hold line breaks, and a quoted key a terminal's commands as escapes of TOML.
        write!(f, ": {}", self.message.replace(char::is_control, " "))
    }
}

impl std::error::Error for ConfigError {}

/// The text of a configuration file and its name, to say where in it something is.
pub(super) struct Source<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
}

impl Source<'_> {
    /// The line, from 1, of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
    }

    /// An error at a byte offset.
    pub(super) fn error(&self, offset: usize, message: impl Into<String>) -> ConfigError {
        ConfigError {
            file: self.file.to_owned(),
            line: Some(self.line(offset)),
            message: message.into(),
            retriable: false,
        }
    }

    /// What the TOML parser or serde says, in our words. The values in question are left out: somebody may have
    /// typed a secret where none belongs.
    pub(super) fn explain(&self, error: &toml::de::Error) -> ConfigError {
        let span = error.span().unwrap_or_default();
        let message = error.message();
        let told = if let Some(rest) = message.strip_prefix("unknown field `") {
            unknown_key(rest)
        } else if let Some(rest) = message.strip_prefix("missing field ") {
            match self.text.get(span.clone()).filter(|text| text.starts_with('[')) {
                Some(header) => format!("{header} lacks the key {rest}: add it"),
                None if rest == "`server`" => {
                    return ConfigError {
                        file: self.file.to_owned(),
                        line: None,
                        message: "there is no [server] table: add one with at least `listen`".to_owned(),
                        retriable: false,
                    };
                }
                None => format!("this table lacks the key {rest}: add it"),
            }
        } else if let Some(rest) = message.strip_prefix("unknown variant `") {
            let (given, known) = unknown(rest);
            format!("{given:?} is not one of the choices here: write {}", or(&known))
        } else if let Some((_, expected)) =
            message.starts_with("invalid ").then(|| message.split_once(", expected ")).flatten()
        {
            let expected = match expected {
                "a sequence" => "a list, in [ ]",
                "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number without quotes, zero or more",
                other => other,
            };
            format!("this value is of the wrong kind: write {expected}")
        } else if message == "duplicate key" {
            "this key stands here for the second time: remove one of the two".to_owned()
        } else {
            format!("this is not TOML ({message}): correct the syntax")
        };
        self.error(span.start, told)
    }
}

/// `lisen`, expected one of `listen`, `tls` → the key, and what is known in its place.
fn unknown(rest: &str) -> (&str, Vec<&str>) {
    let mut quoted = rest.split('`').step_by(2);
    let given = quoted.next().unwrap_or_default();
    (given, rest.split('`').skip(2).step_by(2).collect())
}

fn unknown_key(rest: &str) -> String {
    let (given, known) = unknown(rest);
    match given {
        "pin" => {
            return "a PIN never stands in this file: name its place with `pin_file`, `pin_env` or `pin_command`".to_owned();
        }
        "secret" | "secret_access_key" => {
            return "a secret never stands in this file: name its place with `secret_file`, `secret_env` or `secret_command`"
                .to_owned();
        }
        _ => {}
    }
    let near = known
        .iter()
        .map(|name| (strsim::damerau_levenshtein(given, name), *name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .min();
    match near {
        Some((_, name)) => format!("unknown key `{given}`: did you mean `{name}`?"),
        None => format!("unknown key `{given}`: remove it, or write {}", or(&known)),
    }
}

/// `a`, `b` or `c`.
fn or(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "nothing".to_owned(),
    }
}
