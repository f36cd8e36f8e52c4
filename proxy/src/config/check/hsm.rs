//! `[[hsm]]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::{RawHsm, RawIvSource};
use super::Place;
use super::secret::Places;
use crate::config::{ConfigError, HsmConfig, Placed};
use crate::hsm::pkcs11::{IvSource, TokenChoice};
use crate::key::KeyName;

impl Place<'_> {
    pub(super) fn hsm(&self, at: usize, raw: RawHsm) -> Result<HsmConfig, ConfigError> {
        let name = self.name(&raw.name)?;
        let token = match (raw.token_label, raw.token_serial, raw.slot) {
            (Some(label), None, None) => Placed {
                line: self.line(&label),
                value: TokenChoice::Label(self.not_empty(label, "token_label")?),
            },
            (None, Some(serial), None) => Placed {
                line: self.line(&serial),
                value: TokenChoice::Serial(self.not_empty(serial, "token_serial")?),
            },
            (None, None, Some(slot)) => {
                Placed { line: self.line(&slot), value: TokenChoice::Slot(slot.into_inner()) }
            }
            _ => {
                return Err(self.error_at(
                    at,
                    format!(
                        "hsm {:?}: name the token by one of token_label, token_serial or slot",
                        name.value
                    ),
                ));
            }
        };
        let places = Places { file: raw.pin_file, env: raw.pin_env, command: raw.pin_command };
        let pin = self.secret(at, places, "PIN", "pin")?;
        Ok(HsmConfig {
            name,
            // A bare file name is left to the system's loader, which knows where libraries are.
            module: match raw.module.as_ref().contains('/') {
                true => self.path(raw.module),
                false => Placed { line: self.line(&raw.module), value: raw.module.into_inner().into() },
            },
            token,
            pin,
            sessions_max: self.number(&raw.sessions_max, "sessions_max", 1..=1_024)?,
            queue_max: self.number(&raw.queue_max, "queue_max", 1..=65_536)?,
            set_aside_max: self.number(&raw.set_aside_max, "set_aside_max", 0..=1_024)?,
            set_aside_after: self.duration_ms(&raw.set_aside_after_ms, "set_aside_after_ms", 0..=60_000)?,
            session_idle_max: self.duration_ms(
                &raw.session_idle_max_ms,
                "session_idle_max_ms",
                100..=86_400_000,
            )?,
            iv_source: match raw.iv_source {
                None | Some(RawIvSource::Random) => IvSource::Random,
                Some(RawIvSource::Encryption) => IvSource::Encryption,
            },
            health_key: match raw.health_key_label {
                None => None,
                Some(label) => Some(KeyName::Label(self.not_empty(label, "health_key_label")?)),
            },
            health_interval: self.duration_ms(
                &raw.health_interval_ms,
                "health_interval_ms",
                1_000..=55_000,
            )?,
        })
    }
}
