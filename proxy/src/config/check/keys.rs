//! `[[key_store.key]]`: external keys and their versions.
//!
//! Place on the map: part of `check`.

use super::super::raw::{RawFindKeysBy, RawKey};
use super::Place;
use crate::app::{KeyDirectory, KeyEntry, OtherKeys};
use crate::config::ConfigError;
use crate::key::{KeyId, KeyName, KeyVersion};
use std::collections::{BTreeMap, BTreeSet};
use toml::Spanned;

impl Place<'_> {
    pub(super) fn keys(
        &self,
        find_keys_by: Option<RawFindKeysBy>,
        keys: Vec<Spanned<RawKey>>,
    ) -> Result<(KeyDirectory, BTreeMap<KeyId, usize>), ConfigError> {
        let others = match find_keys_by {
            None | Some(RawFindKeysBy::Label) => OtherKeys::ByLabel,
            Some(RawFindKeysBy::Entry) => OtherKeys::NotFound,
        };
        let mut entries = BTreeMap::new();
        let mut lines = BTreeMap::new();
        for key in keys {
            let key = key.into_inner();
            let id = KeyId::parse(key.id.as_ref())
                .map_err(|error| self.error(&key.id, format!("{error}: correct the id")))?;
            let line = self.line(&key.id);
            if let Some(first) = lines.insert(id.clone(), line) {
                return Err(self.twice(line, "key id", id.as_str(), first));
            }
            entries.insert(id, self.key_entry(key)?);
        }
        Ok((KeyDirectory { entries, others, reserved: BTreeSet::new() }, lines))
    }

    pub(super) fn key_entry(&self, key: RawKey) -> Result<KeyEntry, ConfigError> {
        let mut versions = BTreeMap::new();
        let mut lines = BTreeMap::new();
        for version in key.versions.into_inner() {
            let at = version.span().start;
            let version = version.into_inner();
            let line = self.line(&version.version);
            let number = self.version(&version.version, "version")?;
            let name = match (version.label, version.id) {
                (Some(label), None) => KeyName::Label(self.not_empty(label, "label")?),
                (None, Some(id)) => KeyName::id_from_hex(id.as_ref()).map_err(|error| {
                    self.error(&id, format!("id: {error}: write the CKA_ID in hexadecimal"))
                })?,
                _ => {
                    return Err(self.error_at(
                        at,
                        format!("version {}: name its key object by one of label or id", number.0),
                    ));
                }
            };
            if let Some(first) = lines.insert(number, line) {
                return Err(self.twice(line, "version", &number.0.to_string(), first));
            }
            versions.insert(number, name);
        }
        let current = self.version(&key.current_version, "current_version")?;
        if !versions.contains_key(&current) {
            return Err(self.error(
                &key.current_version,
                format!(
                    "current_version = {} is not among the versions: add it to them, or name another",
                    current.0
                ),
            ));
        }
        Ok(KeyEntry { current, versions })
    }

    pub(super) fn version(&self, value: &Spanned<u64>, key: &str) -> Result<KeyVersion, ConfigError> {
        match u8::try_from(*value.as_ref()) {
            Ok(number) if number > 0 => Ok(KeyVersion(number)),
            _ => {
                Err(self.error(value, format!("{key} = {} is out of range: write 1 to 255", value.as_ref())))
            }
        }
    }
}
