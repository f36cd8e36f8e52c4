//! `[[key_store]]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::RawKeyStore;
use super::{Once, Place};
use crate::app::OtherKeys;
use crate::config::{ConfigError, HsmConfig, KeyStoreConfig};
use crate::key::{KeyName, UriPrefix};
use toml::Spanned;

impl Place<'_> {
    pub(super) fn key_stores(
        &self,
        raw: Vec<Spanned<RawKeyStore>>,
        hsms: &[HsmConfig],
    ) -> Result<Vec<KeyStoreConfig>, ConfigError> {
        let mut names = Once::new("key store name");
        let mut prefixes = Once::new("uri_prefix");
        let mut key_stores = Vec::new();
        for raw_store in raw {
            let at = raw_store.span().start;
            let store = self.key_store(at, raw_store.into_inner(), hsms, &mut names, &mut prefixes)?;
            key_stores.push(store);
        }
        Ok(key_stores)
    }

    fn key_store(
        &self,
        at: usize,
        store: RawKeyStore,
        hsms: &[HsmConfig],
        names: &mut Once,
        prefixes: &mut Once,
    ) -> Result<KeyStoreConfig, ConfigError> {
        let name = self.name(&store.name)?;
        names.insert(self, &name.value, name.line)?;
        let prefix = UriPrefix::parse(store.uri_prefix.as_ref())
            .map_err(|error| self.error(&store.uri_prefix, format!("uri_prefix: {error}: correct it")))?;
        prefixes.insert(self, prefix.as_str(), self.line(&store.uri_prefix))?;
        let members = self.members(at, &name.value, store.hsm, store.hsms, hsms)?;
        let failover = self.failover(store.failover)?;
        if store.credential.is_empty() {
            return Err(self.error_at(
                at,
                format!(
                    "key store {:?} has no credential, so nobody could use it: add a [[key_store.credential]] table",
                    name.value
                ),
            ));
        }
        let mut ids = Once::new("access_key_id");
        let mut credentials = Vec::new();
        for credential in store.credential {
            let at = credential.span().start;
            let credential = self.credential(at, credential.into_inner())?;
            ids.insert(self, &credential.access_key_id.value, credential.access_key_id.line)?;
            credentials.push(credential);
        }
        let (mut keys, key_lines) = self.keys(store.find_keys_by, store.key)?;
        let health_keys =
            members.iter().filter_map(|index| hsms.get(*index)).filter_map(|hsm| hsm.health_key.as_ref());
        keys.reserved.extend(health_keys.filter_map(|name| match name {
            KeyName::Label(label) => Some(label.clone()),
            KeyName::Id(_) => None,
        }));
        let (access, cedar) = self.access(store.allow_mode, store.allow, store.cedar)?;
        let sample_proxy = self.sample_proxy(store.compatibility, &keys, &key_lines)?;
        Ok(KeyStoreConfig {
            name: name.value,
            prefix,
            region: store.region.map(|region| self.not_empty(region, "region")).transpose()?,
            hsms: members,
            failover,
            keys,
            key_lines,
            access,
            cedar,
            sample_proxy,
            quota: store.quota.map(|quota| self.quota(quota)).transpose()?,
            credentials,
        })
    }
}

/// Why the key stores of one HSM are not isolated (XKS-NET-6), if they are not: a store that finds keys by their labels
/// reaches all keys of the HSM, those of the other stores too.
pub(super) fn not_isolated(index: usize, hsm: &HsmConfig, key_stores: &[KeyStoreConfig]) -> Option<String> {
    let sharing: Vec<_> = key_stores.iter().filter(|store| store.hsms.contains(&index)).collect();
    let open = sharing.iter().find(|store| store.keys.others == OtherKeys::ByLabel)?;
    (sharing.len() > 1).then(|| {
        format!(
            "{} key stores share the HSM {:?}, and {:?} reaches the keys of all of them by their labels: give it \
             find_keys_by = \"entry\" and a [[key_store.key]] for each key",
            sharing.len(),
            hsm.name.value,
            open.name
        )
    })
}
