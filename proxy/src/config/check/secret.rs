//! Where a PIN or a secret is kept, and the credentials.
//!
//! Place on the map: part of `check`.

use super::super::raw::{At, RawCredential};
use super::Place;
use crate::config::{ConfigError, CredentialConfig, HelperCommand, KeyStoreConfig, Placed, SecretPlace};
use crate::env::UnixTime;
use crate::secret::Secret;
use crate::sigv4::{Credential, days_since_1970};
use std::time::Duration;
use toml::Spanned;
use toml::value::Datetime;

/// The program and its arguments, and the bytes of all of them together.
const COMMAND_WORDS_MAX: usize = 64;
const COMMAND_BYTES_MAX: usize = 8_192;

/// Credentials whose age the metrics cannot tell, each with its line: only a file has a date of its own.
pub(super) fn without_age(store: &KeyStoreConfig) -> impl Iterator<Item = (usize, String)> {
    let undated = store.credentials.iter().filter(|credential| {
        credential.created.is_none() && !matches!(credential.secret.value, SecretPlace::File(_))
    });
    undated.map(|credential| {
        let why = format!(
            "nobody will be told when {} is old, for its secret is in no file: write the day it was made, created = \
             2026-01-31",
            credential.access_key_id.value
        );
        (credential.access_key_id.line, why)
    })
}

/// The three ways to name the place of a secret, as written.
pub(super) struct Places {
    pub(super) file: At<String>,
    pub(super) env: At<String>,
    pub(super) command: At<Vec<Spanned<String>>>,
}

impl Place<'_> {
    pub(super) fn credential(&self, at: usize, raw: RawCredential) -> Result<CredentialConfig, ConfigError> {
        // A stand-in of the right shape leaves only the id to object to; the secret itself is read later.
        Credential::new(raw.access_key_id.as_ref(), Secret::new("A".repeat(43)))
            .map_err(|error| self.error(&raw.access_key_id, format!("{error}: correct access_key_id")))?;
        let places = Places { file: raw.secret_file, env: raw.secret_env, command: raw.secret_command };
        let secret = self.secret(at, places, "secret access key", "secret")?;
        let created = raw.created.map(|created| self.created(&created)).transpose()?;
        Ok(CredentialConfig { access_key_id: self.placed(raw.access_key_id), secret, created })
    }

    /// A plain date means its first second in UTC.
    fn created(&self, value: &Spanned<Datetime>) -> Result<UnixTime, ConfigError> {
        match value.as_ref() {
            Datetime { date: Some(date), time: None, offset: None } if date.year >= 1970 => {
                let days = days_since_1970(date.year.into(), date.month.into(), date.day.into());
                Ok(UnixTime(Duration::from_secs(u64::try_from(days).unwrap_or(0) * 86_400)))
            }
            _ => Err(self.error(value, "created is not a plain date after 1970: write one like 2026-01-31")),
        }
    }

    /// `key` is what the names of the three keys begin with.
    pub(super) fn secret(
        &self,
        at: usize,
        places: Places,
        what: &str,
        key: &str,
    ) -> Result<Placed<SecretPlace>, ConfigError> {
        match places {
            Places { file: Some(file), env: None, command: None } => {
                let Placed { line, value } = self.path(file);
                Ok(Placed { line, value: SecretPlace::File(value) })
            }
            Places { file: None, env: Some(env), command: None } => Ok(Placed {
                line: self.line(&env),
                value: SecretPlace::Env(self.not_empty(env, &format!("{key}_env"))?),
            }),
            Places { file: None, env: None, command: Some(command) } => Ok(Placed {
                line: self.line(&command),
                value: SecretPlace::Command(self.command(command, &format!("{key}_command"))?),
            }),
            Places { file: None, env: None, command: None } => Err(self.error_at(
                at,
                format!("the {what} is missing: add one of {key}_file, {key}_env or {key}_command"),
            )),
            Places { file, env, command } => {
                let given = [
                    ("file", file.as_ref().map(|file| file.span().start)),
                    ("env", env.as_ref().map(|env| env.span().start)),
                    ("command", command.as_ref().map(|command| command.span().start)),
                ];
                let given: Vec<_> = given.iter().filter_map(|(way, at)| Some((way, (*at)?))).collect();
                let names: Vec<String> = given.iter().map(|(way, _)| format!("{key}_{way}")).collect();
                Err(self.error_at(
                    given.iter().map(|(_, at)| *at).max().unwrap_or(at),
                    format!("the {what} has more than one place, {}: keep one of them", names.join(" and ")),
                ))
            }
        }
    }

    /// A path and arguments. Words are not repeated in errors: somebody may have typed a secret.
    fn command(&self, words: Spanned<Vec<Spanned<String>>>, key: &str) -> Result<HelperCommand, ConfigError> {
        let bytes: usize = words.as_ref().iter().map(|word| word.as_ref().len()).sum();
        if words.as_ref().len() > COMMAND_WORDS_MAX || bytes > COMMAND_BYTES_MAX {
            return Err(self.error(
                &words,
                format!("{key} is too long: write at most {COMMAND_WORDS_MAX} words of {COMMAND_BYTES_MAX} bytes in all"),
            ));
        }
        if let Some(word) = words.as_ref().iter().find(|word| word.as_ref().contains('\0')) {
            return Err(self.error(word, format!("a word of {key} holds a NUL character: remove it")));
        }
        let line = self.line(&words);
        let mut words = words.into_inner().into_iter();
        let program = words.next().filter(|word| word.as_ref().contains('/')).ok_or_else(|| ConfigError {
            file: self.source.file.to_owned(),
            line: Some(line),
            // Whoever can set PATH must not choose the program that is given the keys.
            message: format!(
                "{key} does not begin with the path of a program, and PATH is not searched: write it like \
                 [\"/usr/local/bin/helper\", \"argument\"]"
            ),
            retriable: false,
        })?;
        Ok(HelperCommand {
            program: self.path(program).value,
            arguments: words.map(Spanned::into_inner).collect(),
        })
    }
}
