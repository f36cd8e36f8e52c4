//! Since when a secret is in use.
//!
//! Place on the map: part of `build`.

use super::super::{CredentialConfig, SecretPlace};
use crate::env::UnixTime;

impl CredentialConfig {
    /// As the configuration says; else the last change of the secret's file; `None` for an environment variable.
    pub(super) fn created(&self) -> Option<UnixTime> {
        let of_file = |path: &std::path::Path| {
            let changed = std::fs::metadata(path).and_then(|facts| facts.modified()).ok()?;
            changed.duration_since(std::time::UNIX_EPOCH).ok().map(UnixTime)
        };
        match (&self.created, &self.secret.value) {
            (Some(created), _) => Some(*created),
            (None, SecretPlace::File(path)) => of_file(path),
            (None, _) => None,
        }
    }
}
