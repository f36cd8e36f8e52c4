//! `[reload]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::RawReload;
use super::Place;
use crate::config::ConfigError;
use std::time::Duration;

/// Two looks are needed before a change is taken, so this is half of the longest wait.
const WATCH_INTERVAL_DEFAULT: Duration = Duration::from_secs(2);

impl Place<'_> {
    /// `None` is off.
    pub(super) fn watch_interval(&self, raw: &RawReload) -> Result<Option<Duration>, ConfigError> {
        let key = "watch_interval_ms";
        if raw.watch_interval_ms.as_ref().is_some_and(|interval| *interval.as_ref() == 0) {
            return Ok(None);
        }
        let interval = self.number(&raw.watch_interval_ms, key, 100..=3_600_000).map_err(|error| {
            ConfigError { message: format!("{}, or 0 for no watch", error.message), ..error }
        })?;
        Ok(Some(interval.map_or(WATCH_INTERVAL_DEFAULT, |interval| Duration::from_millis(interval as u64))))
    }
}
