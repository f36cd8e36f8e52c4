//! `hsm`, `hsms` and `[key_store.failover]`: which HSMs a key store uses, and how it changes between them.
//!
//! Place on the map: part of `check`.

use super::super::raw::{At, RawFailover};
use super::{Once, Place};
use crate::config::{ConfigError, HsmConfig, KeyStoreConfig};
use crate::hsm::group::{GroupSettings, MEMBERS_MAX};
use std::time::Duration;
use toml::Spanned;

/// The share of requests that `hedge = true` hedges when nothing else is said.
const HEDGE_SHARE_PERCENT: u32 = 5;

impl Place<'_> {
    /// Indices into `hsms`, in the order written.
    pub(super) fn members(
        &self,
        at: usize,
        store: &str,
        one: At<String>,
        several: At<Vec<Spanned<String>>>,
        hsms: &[HsmConfig],
    ) -> Result<Vec<usize>, ConfigError> {
        match (one, several) {
            (Some(name), None) => Ok(vec![self.hsm_named(&name, hsms)?]),
            (None, Some(names)) => {
                let count = names.as_ref().len();
                if count == 0 || count > MEMBERS_MAX {
                    return Err(self.error(
                        &names,
                        format!("hsms names {count} HSMs: name 1 to {MEMBERS_MAX} that hold the same keys"),
                    ));
                }
                let mut once = Once::new("the HSM");
                let names = names.into_inner().into_iter();
                names
                    .map(|name| {
                        once.insert(self, name.as_ref(), self.line(&name))?;
                        self.hsm_named(&name, hsms)
                    })
                    .collect()
            }
            (Some(_), Some(several)) => Err(self.error(
                &several,
                format!("key store {store:?} has both hsm and hsms: remove one of the two"),
            )),
            (None, None) => Err(self.error_at(
                at,
                format!("key store {store:?} has no HSM: add hsm = \"NAME\", or hsms = [\"NAME\", \"NAME\"] for several"),
            )),
        }
    }

    fn hsm_named(&self, name: &Spanned<String>, hsms: &[HsmConfig]) -> Result<usize, ConfigError> {
        hsms.iter().position(|hsm| hsm.name.value == *name.as_ref()).ok_or_else(|| {
            let known: Vec<String> = hsms.iter().map(|hsm| format!("{:?}", hsm.name.value)).collect();
            self.error(
                name,
                format!("no [[hsm]] is named {:?}: name one of {}", name.as_ref(), known.join(", ")),
            )
        })
    }

    pub(super) fn failover(&self, raw: At<RawFailover>) -> Result<GroupSettings, ConfigError> {
        let mut settings = GroupSettings::default();
        let Some(raw) = raw.map(Spanned::into_inner) else { return Ok(settings) };
        let mut hedge_share = HEDGE_SHARE_PERCENT;
        for (value, key, range, setting) in [
            (
                &raw.attempt_share_percent,
                "attempt_share_percent",
                10..=90,
                &mut settings.attempt_share_percent,
            ),
            (&raw.breaker_failures, "breaker_failures", 1..=1_000, &mut settings.breaker_failures),
            (&raw.hedge_share_percent, "hedge_share_percent", 1..=50, &mut hedge_share),
        ] {
            let number = self.number(value, key, range)?.and_then(|number| u32::try_from(number).ok());
            *setting = number.unwrap_or(*setting);
        }
        if raw.hedge == Some(true) {
            settings.hedge_share_percent = hedge_share;
        }
        let duration = |value, key, range, default: Duration| {
            self.duration_ms(value, key, range).map(|duration| duration.unwrap_or(default))
        };
        settings.breaker_pause =
            duration(&raw.breaker_pause_ms, "breaker_pause_ms", 10..=600_000, settings.breaker_pause)?;
        settings.breaker_pause_max = duration(
            &raw.breaker_pause_max_ms,
            "breaker_pause_max_ms",
            10..=600_000,
            settings.breaker_pause_max,
        )?;
        if let Some(value) = raw.breaker_pause_max_ms.as_ref().or(raw.breaker_pause_ms.as_ref())
            && settings.breaker_pause_max < settings.breaker_pause
        {
            return Err(self.error(
                value,
                format!(
                    "breaker_pause_max_ms = {} is less than breaker_pause_ms = {}: raise it to that or more",
                    settings.breaker_pause_max.as_millis(),
                    settings.breaker_pause.as_millis()
                ),
            ));
        }
        Ok(settings)
    }
}

/// Two members of a group that are one token: it would be asked twice, and fail twice.
pub(super) fn not_redundant(store: &KeyStoreConfig, hsms: &[HsmConfig]) -> Option<String> {
    let members: Vec<&HsmConfig> = store.hsms.iter().filter_map(|index| hsms.get(*index)).collect();
    let twin = |(index, hsm): (usize, &&HsmConfig)| {
        let same = |other: &&&HsmConfig| other.module == hsm.module && other.token == hsm.token;
        let other = members.iter().take(index).find(same)?;
        Some((other.name.value.clone(), hsm.name.value.clone()))
    };
    let (first, second) = members.iter().enumerate().find_map(twin)?;
    Some(format!(
        "the HSMs {first:?} and {second:?} of the key store {:?} are the same token, so that one is no help when the \
         other fails: name another token, or remove one",
        store.name
    ))
}
