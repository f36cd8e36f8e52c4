//! `[server]` and `[identity]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::{At, RawIdentity};
use super::Place;
use crate::app::{Identity, Settings};
use crate::config::ConfigError;
use crate::key::API_ROOT;

impl Place<'_> {
    pub(super) fn ping_path(&self, value: At<String>) -> Result<String, ConfigError> {
        let Some(value) = value else { return Ok(Settings::default().ping_path) };
        let path = value.as_ref();
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~');
        if !path.starts_with('/') || path.len() > 128 || !path.bytes().all(plain) {
            return Err(self.error(
                &value,
                "ping_path is not a plain path: write one like \"/ping\", of A-Z a-z 0-9 / - _ . ~",
            ));
        }
        if path.contains(API_ROOT) {
            return Err(
                self.error(&value, format!("ping_path lies inside the API ({API_ROOT}): choose another"))
            );
        }
        Ok(value.into_inner())
    }

    pub(super) fn identity(&self, raw: RawIdentity) -> Result<Identity, ConfigError> {
        let default = Settings::default().identity;
        let fleet_size = self.number(&raw.fleet_size, "fleet_size", 1..=1_000_000)?.unwrap_or(1);
        let text = |value: At<String>, key: &str, default: String| match value {
            None => Ok(default),
            Some(value) => self.not_empty(value, key),
        };
        Ok(Identity {
            fleet_size: u32::try_from(fleet_size).unwrap_or(u32::MAX),
            vendor: text(raw.vendor, "vendor", default.vendor)?,
            model: text(raw.model, "model", default.model)?,
            ekm_vendor: text(raw.ekm_vendor, "ekm_vendor", default.ekm_vendor)?,
        })
    }
}
