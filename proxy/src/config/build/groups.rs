//! The HSMs of each key store as one, and the watch over each HSM.
//!
//! Place on the map: part of `build`.

use super::super::{Config, ConfigError, KeyStoreConfig};
use super::Hsms;
use crate::hsm::Hsm;
use crate::hsm::group::{GroupSettings, HsmGroup, Member};
use crate::hsm::monitored::{MonitorSettings, Monitored};
use crate::hsm::pkcs11::Pkcs11Hsm;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The group of each key store, by the store's name. A clone sees every reload.
#[derive(Clone, Default)]
pub struct Groups(Arc<ArcSwap<BTreeMap<String, Arc<HsmGroup>>>>);

impl Groups {
    /// The groups as they are now.
    pub fn load(&self) -> Arc<BTreeMap<String, Arc<HsmGroup>>> {
        self.0.load_full()
    }

    pub(super) fn replace(&self, groups: BTreeMap<String, Arc<HsmGroup>>) {
        self.0.store(Arc::new(groups));
    }
}

/// What a group was made of: while it stays, so does the group, and what it knows of its members.
fn recipe(store: &KeyStoreConfig) -> (&[usize], GroupSettings) {
    (&store.hsms, store.failover)
}

impl Config {
    /// A monitor for each HSM, in their order. Their loops are the caller's to run.
    pub(super) fn monitors(&self, hsms: &Hsms) -> Vec<Arc<Monitored>> {
        let default = MonitorSettings::default();
        let watched = self.hsms.iter().zip(hsms.iter()).map(|(config, hsm)| {
            let settings = MonitorSettings {
                interval: config.health_interval.unwrap_or(default.interval),
                deadline: self.settings.limits.deadline,
            };
            let hsm: Arc<dyn Hsm> = Arc::<Pkcs11Hsm>::clone(hsm);
            Arc::new(Monitored::new(&*config.name.value, hsm, settings))
        });
        watched.collect()
    }

    /// The group of each key store. One that is as it was in `before` is taken over.
    pub(super) fn groups(
        &self,
        hsms: &Hsms,
        monitors: &[Arc<Monitored>],
        before: Option<(&Self, &Groups)>,
    ) -> Result<BTreeMap<String, Arc<HsmGroup>>, ConfigError> {
        let mut groups = BTreeMap::new();
        for store in &self.key_stores {
            let kept = before.and_then(|(config, groups)| {
                let old = config.key_stores.iter().find(|old| old.name == store.name)?;
                (recipe(old) == recipe(store)).then(|| groups.load().get(&store.name).cloned())?
            });
            let group = match kept {
                Some(group) => group,
                None => {
                    let member = |index: &usize| {
                        // Key stores that share an HSM share it fairly: each by a handle of its own.
                        let hsm = Arc::new(hsms.get(*index)?.another());
                        let monitored = Arc::new(monitors.get(*index)?.over(hsm));
                        Some(Member::monitored(&*self.hsms.get(*index)?.name.value, monitored))
                    };
                    let members = store.hsms.iter().filter_map(member).collect();
                    let made = HsmGroup::new(members, store.failover);
                    Arc::new(made.map_err(|error| self.error(1, error.to_string()))?)
                }
            };
            groups.insert(store.name.clone(), group);
        }
        Ok(groups)
    }
}
