//! `[key_store.compatibility]`: ciphertexts that AWS's sample proxy made (XKS-MIG-1).
//!
//! Place on the map: part of `check`.

use super::super::raw::{RawCompatibility, RawScheme};
use super::Place;
use crate::app::KeyDirectory;
use crate::config::{ConfigError, KeyStoreConfig};
use crate::key::KeyId;
use crate::scheme::{FORMER_METADATA_MAX, SAMPLE_KEY_VERSION, SampleProxy, Scheme};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::BTreeMap;
use toml::Spanned;

impl Place<'_> {
    /// `None` when the key store holds nothing of the sample's.
    pub(super) fn sample_proxy(
        &self,
        raw: Option<RawCompatibility>,
        keys: &KeyDirectory,
        key_lines: &BTreeMap<KeyId, usize>,
    ) -> Result<Option<SampleProxy>, ConfigError> {
        let Some(raw) = raw else { return Ok(None) };
        let metadata = match raw.ciphertext_metadata {
            None => Vec::new(),
            Some(text) => self.sample_metadata(&text, "ciphertext_metadata")?,
        };
        let mut former = Vec::new();
        if let Some(list) = raw.former_ciphertext_metadata {
            if list.as_ref().len() > FORMER_METADATA_MAX {
                return Err(self.error(
                    &list,
                    format!(
                        "former_ciphertext_metadata has more than {FORMER_METADATA_MAX} entries: shorten it"
                    ),
                ));
            }
            for text in list.into_inner() {
                former.push(self.sample_metadata(&text, "former_ciphertext_metadata")?);
            }
        }
        let encrypt = match &raw.encrypt {
            Some(scheme) if matches!(scheme.as_ref(), RawScheme::Sample) => {
                if !*raw.aws_sample_proxy.as_ref() {
                    return Err(self.error(
                        scheme,
                        "encrypt = \"sample\" makes ciphertexts that would not decrypt here: write \
                         aws_sample_proxy = true, or encrypt = \"own\"",
                    ));
                }
                if let Some((id, line)) = rotated(keys, key_lines) {
                    return Err(self.error(
                        scheme,
                        format!(
                            "encrypt = \"sample\" encrypts with version {}, and key {:?} on line {line} has another \
                             current_version: rotate after the move, or write encrypt = \"own\"",
                            SAMPLE_KEY_VERSION.0,
                            id.as_str()
                        ),
                    ));
                }
                Scheme::SampleProxy
            }
            _ => Scheme::Own,
        };
        if !*raw.aws_sample_proxy.as_ref() {
            return Ok(None);
        }
        SampleProxy::new(metadata, former, encrypt)
            .map(Some)
            .map_err(|error| self.error(&raw.aws_sample_proxy, error.to_string()))
    }

    fn sample_metadata(&self, text: &Spanned<String>, key: &str) -> Result<Vec<u8>, ConfigError> {
        let bytes = STANDARD.decode(text.as_ref()).map_err(|_| {
            self.error(
                text,
                format!(
                    "{key} = {:?} is not standard Base64: copy the sample proxy's ciphertext_metadata_b64",
                    text.as_ref()
                ),
            )
        })?;
        SampleProxy::check(&bytes).map_err(|error| {
            self.error(text, format!("{key} = {:?} cannot be used: {error}", text.as_ref()))
        })?;
        Ok(bytes)
    }
}

/// A key that encrypts with another version than the sample's, and its line.
fn rotated<'a>(keys: &'a KeyDirectory, lines: &BTreeMap<KeyId, usize>) -> Option<(&'a KeyId, usize)> {
    let (id, _) = keys.entries.iter().find(|(_, entry)| entry.current != SAMPLE_KEY_VERSION)?;
    Some((id, lines.get(id).copied().unwrap_or_default()))
}

/// Line and name of each key whose ciphertexts of the sample cannot decrypt, since the version they belong to is gone.
pub(super) fn without_sample_version(store: &KeyStoreConfig) -> Vec<(usize, String)> {
    let lacks = |(id, entry): (&KeyId, &crate::app::KeyEntry)| {
        let line = store.key_lines.get(id).copied().unwrap_or_default();
        let why = format!(
            "key {:?} has no version {}, so what AWS's sample proxy made with it does not decrypt: add that version \
             with the key object that the sample proxy used",
            id.as_str(),
            SAMPLE_KEY_VERSION.0
        );
        (!entry.versions.contains_key(&SAMPLE_KEY_VERSION)).then_some((line, why))
    };
    match store.sample_proxy {
        None => Vec::new(),
        Some(_) => store.keys.entries.iter().filter_map(lacks).collect(),
    }
}
