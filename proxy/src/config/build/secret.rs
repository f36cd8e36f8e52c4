//! Secrets, from wherever they are kept.
//!
//! Place on the map: part of `build`; the door to the environment.

use super::super::{Config, ConfigError, Placed, SecretPlace};
use super::command;
use crate::secret::Secret;
use crate::sigv4::Credential;
use zeroize::Zeroizing;

impl Config {
    /// The credentials of each key store, in order.
    pub(super) fn credentials(&mut self) -> Result<Vec<Vec<Credential>>, ConfigError> {
        let places: Vec<_> = self.key_stores.iter().map(|store| store.credentials.clone()).collect();
        let mut all = Vec::new();
        for store in places {
            let mut credentials = Vec::new();
            for credential in store {
                let secret = self.secret(&credential.secret, "secret access key")?;
                let built = Credential::new(&credential.access_key_id.value, secret)
                    .map_err(|error| self.error(credential.secret.line, format!("{error}: correct it")))?;
                credentials.push(built.with_created(credential.created()));
            }
            all.push(credentials);
        }
        Ok(all)
    }

    pub(super) fn secret(&mut self, place: &Placed<SecretPlace>, what: &str) -> Result<Secret, ConfigError> {
        let (bytes, source) = match &place.value {
            SecretPlace::Env(name) => {
                #[expect(clippy::disallowed_methods, reason = "this is the door to the environment")]
                let value = std::env::var(name);
                let text = value.map_err(|_| {
                    self.error(
                        place.line,
                        format!("the environment variable {name} is not set (or not UTF-8): put the {what} into it"),
                    )
                })?;
                (text.into_bytes(), format!("the environment variable {name}"))
            }
            SecretPlace::File(path) => {
                let at = Placed { line: place.line, value: path.clone() };
                let bytes = self.read(&at, &format!("{what} file"))?;
                self.warn_if_readable(&at, what);
                (bytes, path.display().to_string())
            }
            SecretPlace::Command(helper) => {
                let source = format!("the command {}", helper.program.display());
                let bytes = command::output(helper).map_err(|error| {
                    self.error(place.line, format!("{source}, which should tell the {what}, {error}"))
                        .may_pass()
                })?;
                (bytes, source)
            }
        };
        let bytes = Zeroizing::new(bytes);
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| self.error(place.line, format!("{source} holds no text: put the {what} there")))?;
        // Editors and `echo` end a text with a line break that belongs to no secret.
        let line = text.strip_suffix('\n').map_or(text, |line| line.trim_end_matches('\r'));
        if line.is_empty() {
            return Err(self.error(place.line, format!("{source} is empty: write the {what} there")));
        }
        Ok(Secret::new(line.to_owned()))
    }
}
