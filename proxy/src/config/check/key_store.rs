//! `[[key_store]]`.
//!
//! Place on the map: part of `check`.

use super::super::raw::RawKeyStore;
use super::{Once, Place};
use crate::app::OtherKeys;
use crate::authorise::{Access, Rule};
use crate::config::{ConfigError, HsmConfig, KeyStoreConfig};
use crate::key::UriPrefix;
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
        let hsm = hsms.iter().position(|hsm| hsm.name.value == *store.hsm.as_ref()).ok_or_else(|| {
            let known: Vec<String> = hsms.iter().map(|hsm| format!("{:?}", hsm.name.value)).collect();
            self.error(
                &store.hsm,
                format!("no [[hsm]] is named {:?}: name one of {}", store.hsm.as_ref(), known.join(", ")),
            )
        })?;
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
        let (keys, key_lines) = self.keys(store.find_keys_by, store.key)?;
        let rules: Result<Vec<Rule>, ConfigError> =
            (1..).zip(store.allow).map(|(number, allow)| self.rule(number, allow)).collect();
        Ok(KeyStoreConfig {
            name: name.value,
            prefix,
            region: store.region.map(|region| self.not_empty(region, "region")).transpose()?,
            hsm,
            keys,
            key_lines,
            access: Access { rules: rules? },
            quota: store.quota.map(|quota| self.quota(quota)).transpose()?,
            credentials,
        })
    }
}

/// Why the key stores of one HSM are not isolated (XKS-NET-6), if they are not: a store that finds keys by their labels
/// reaches all keys of the HSM, those of the other stores too.
pub(super) fn not_isolated(index: usize, hsm: &HsmConfig, key_stores: &[KeyStoreConfig]) -> Option<String> {
    let sharing: Vec<_> = key_stores.iter().filter(|store| store.hsm == index).collect();
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
