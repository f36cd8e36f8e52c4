//! `[key_store.quota]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::RawQuota;
use super::Place;
use crate::config::ConfigError;
use crate::quota::Rate;
use toml::Spanned;

impl Place<'_> {
    /// A burst that is left out is what one second brings.
    pub(super) fn quota(&self, raw: Spanned<RawQuota>) -> Result<Rate, ConfigError> {
        let raw = raw.into_inner();
        let number = |value: &Option<Spanned<u64>>, key| {
            let number = self.number(value, key, 1..=1_000_000)?;
            Ok(number.map(|number| u32::try_from(number).unwrap_or(u32::MAX)))
        };
        let requests_per_s = number(&Some(raw.requests_per_s), "requests_per_s")?.unwrap_or(u32::MAX);
        let burst = number(&raw.burst, "burst")?.unwrap_or(requests_per_s);
        Ok(Rate { requests_per_s, burst })
    }
}
