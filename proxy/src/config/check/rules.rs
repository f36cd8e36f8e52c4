//! `[[key_store.allow]]`: the allow-list.
//!
//! Place on the map: part of `check`.

use super::super::raw::{At, RawAllow};
use super::Place;
use crate::authorise::{Pattern, Rule};
use crate::config::ConfigError;
use crate::events::Operation;
use toml::Spanned;

impl Place<'_> {
    /// `number` counts the rules of a key store from 1, and names the ones without a name.
    pub(super) fn rule(&self, number: usize, allow: RawAllow) -> Result<Rule, ConfigError> {
        let name = match allow.name {
            Some(name) => self.name(&name)?.value,
            None => format!("allow-{number}"),
        };
        let mut operations = Vec::new();
        for text in self.list(allow.operations, "operations")? {
            let known = Operation::ALL.into_iter().find(|operation| operation.as_str() == text.as_ref());
            operations.push(known.ok_or_else(|| {
                let all: Vec<&str> = Operation::ALL.iter().map(|operation| operation.as_str()).collect();
                let wrong = text.as_ref();
                self.error(&text, format!("{wrong:?} is not an operation: write one of {}", all.join(", ")))
            })?);
        }
        let patterns = |list, key| -> Result<Vec<Pattern>, ConfigError> {
            Ok(self.list(list, key)?.into_iter().map(|text| Pattern::new(text.into_inner())).collect())
        };
        Ok(Rule {
            name,
            keys: patterns(allow.keys, "keys")?,
            operations,
            principal_arns: patterns(allow.principal_arns, "principal_arns")?,
            kms_key_arns: patterns(allow.kms_key_arns, "kms_key_arns")?,
            kms_operations: patterns(allow.kms_operations, "kms_operations")?,
            via_services: patterns(allow.via_services, "via_services")?,
        })
    }

    /// A condition without a key holds always. An empty list would too, and whoever writes one means the opposite.
    pub(super) fn list(
        &self,
        list: At<Vec<Spanned<String>>>,
        key: &str,
    ) -> Result<Vec<Spanned<String>>, ConfigError> {
        match list {
            None => Ok(Vec::new()),
            Some(list) if list.as_ref().is_empty() => Err(self.error(
                &list,
                format!(
                    "{key} is an empty list, which could mean all or none: fill it, or remove it to allow all"
                ),
            )),
            Some(list) => Ok(list.into_inner()),
        }
    }
}
