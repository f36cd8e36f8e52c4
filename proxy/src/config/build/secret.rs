//! Secrets, from wherever they are kept.
//!
//! Place on the map: part of `build`; the door to the environment.

use super::super::{Config, ConfigError, Placed, SecretPlace};
use crate::secret::Secret;
use crate::sigv4::Credential;
use std::path::Path;

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
        let (mut text, source) = match &place.value {
            SecretPlace::Env(name) => {
                #[expect(clippy::disallowed_methods, reason = "this is the door to the environment")]
                let value = std::env::var(name);
                let text = value.map_err(|_| {
                    self.error(
                        place.line,
                        format!("the environment variable {name} is not set (or not UTF-8): put the {what} into it"),
                    )
                })?;
                (text, format!("the environment variable {name}"))
            }
            SecretPlace::File(path) => {
                let at = Placed { line: place.line, value: path.clone() };
                let bytes = self.read(&at, &format!("{what} file"))?;
                self.warn_if_readable(&at, what);
                let text = String::from_utf8(bytes).map_err(|_| {
                    self.error(place.line, format!("{} is not text: write the {what} there", path.display()))
                })?;
                (text, path.display().to_string())
            }
        };
        // Editors and `echo` end a file with a line break that belongs to no secret.
        let len = text.strip_suffix('\n').map_or(text.len(), |line| line.trim_end_matches('\r').len());
        text.truncate(len);
        let secret = Secret::new(text);
        if secret.expose().is_empty() {
            return Err(self.error(place.line, format!("{source} is empty: write the {what} there")));
        }
        Ok(secret)
    }

    pub(super) fn read(&self, file: &Placed<impl AsRef<Path>>, what: &str) -> Result<Vec<u8>, ConfigError> {
        let path = file.value.as_ref();
        std::fs::read(path).map_err(|error| {
            self.error(
                file.line,
                format!(
                    "cannot read the {what} {} ({error}): create it, or correct the path and its permissions",
                    path.display()
                ),
            )
        })
    }

    pub(super) fn warn_if_readable(&mut self, file: &Placed<impl AsRef<Path>>, what: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = file.value.as_ref();
        if std::fs::metadata(path).is_ok_and(|facts| facts.permissions().mode() & 0o004 != 0) {
            self.warnings.push(format!(
                "{}:{}: every user of this machine can read the {what} in {}: chmod 600 it",
                self.file,
                file.line,
                path.display()
            ));
        }
    }
}
