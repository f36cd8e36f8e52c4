//! Where a PIN or a secret is kept, and the credentials.
//!
//! Place on the map: part of `check`.

use super::super::raw::{At, RawCredential};
use super::Place;
use crate::config::{ConfigError, CredentialConfig, Placed, SecretPlace};
use crate::env::UnixTime;
use crate::secret::Secret;
use crate::sigv4::{Credential, days_since_1970};
use std::time::Duration;
use toml::Spanned;
use toml::value::Datetime;

impl Place<'_> {
    pub(super) fn credential(&self, at: usize, raw: RawCredential) -> Result<CredentialConfig, ConfigError> {
        // A stand-in of the right shape leaves only the id to object to; the secret itself is read later.
        Credential::new(raw.access_key_id.as_ref(), Secret::new("A".repeat(43)))
            .map_err(|error| self.error(&raw.access_key_id, format!("{error}: correct access_key_id")))?;
        let secret = self.secret(
            at,
            raw.secret_file,
            raw.secret_env,
            "secret access key",
            "secret_file",
            "secret_env",
        )?;
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

    pub(super) fn secret(
        &self,
        at: usize,
        file: At<String>,
        env: At<String>,
        what: &str,
        file_key: &str,
        env_key: &str,
    ) -> Result<Placed<SecretPlace>, ConfigError> {
        match (file, env) {
            (Some(file), None) => {
                let Placed { line, value } = self.path(file);
                Ok(Placed { line, value: SecretPlace::File(value) })
            }
            (None, Some(env)) => {
                Ok(Placed { line: self.line(&env), value: SecretPlace::Env(self.not_empty(env, env_key)?) })
            }
            (None, None) => {
                Err(self.error_at(at, format!("the {what} is missing: add either {file_key} or {env_key}")))
            }
            (Some(_), Some(env)) => Err(self.error(
                &env,
                format!("the {what} has two places, {file_key} and {env_key}: remove one of the two"),
            )),
        }
    }
}
