//! The access rules of each key store, its Cedar policies read from their files.
//!
//! Place on the map: part of `build`.

use super::super::{CedarConfig, Config, ConfigError};
use crate::authorise::Access;
#[cfg(feature = "cedar")]
use {
    super::super::Placed,
    crate::authorise::cedar::{Policies, Remark, Text},
    std::{path::PathBuf, sync::Arc},
};

/// Most bytes of a policy or schema file: some thousand policies, each of which every request is held against.
#[cfg(feature = "cedar")]
const POLICY_BYTES_MAX: usize = 1 << 20;

impl Config {
    /// The access rules of a key store, by its index in [`Config::key_stores`], policies included. Reads the policy
    /// files, and nothing else. New warnings are added to [`Config::warnings`].
    ///
    /// # Errors
    /// When a file cannot be read or is wrong, at the line that names it, with the line and column in it.
    pub fn access(&mut self, key_store: usize) -> Result<Access, ConfigError> {
        let Some(store) = self.key_stores.get(key_store) else { return Ok(Access::default()) };
        let access = store.access.clone();
        match store.cedar.clone() {
            None => Ok(access),
            Some(files) => self.with_policies(key_store, access, &files),
        }
    }

    pub(super) fn accesses(&mut self) -> Result<Vec<Access>, ConfigError> {
        (0..self.key_stores.len()).map(|store| self.access(store)).collect()
    }

    #[cfg(feature = "cedar")]
    fn with_policies(
        &mut self,
        key_store: usize,
        access: Access,
        files: &CedarConfig,
    ) -> Result<Access, ConfigError> {
        let name = self.key_stores.get(key_store).map(|store| store.name.clone()).unwrap_or_default();
        let policies = self.policy_text(&files.policy_file, "policy file")?;
        let schema =
            files.schema_file.as_ref().map(|file| self.policy_text(file, "schema file")).transpose()?;
        let explain = |remark: &Remark| {
            let file = match (remark.text, &files.schema_file) {
                (Text::Schema, Some(file)) => file,
                _ => &files.policy_file,
            };
            let place = remark.place.map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default();
            self.error(file.line, format!("{}{place}: {}", file.value.display(), remark.message))
        };
        let policies =
            Policies::parse(&policies, schema.as_deref(), &name).map_err(|remark| explain(&remark))?;
        let warnings: Vec<String> =
            policies.warnings().iter().map(|warning| explain(warning).to_string()).collect();
        self.warnings.extend(warnings);
        Ok(Access { policies: Some(Arc::new(policies)), ..access })
    }

    #[cfg(feature = "cedar")]
    fn policy_text(&self, file: &Placed<PathBuf>, what: &str) -> Result<String, ConfigError> {
        let bytes = self.read(file, what)?;
        let wrong = |why: &str| self.error(file.line, format!("the {what} {} {why}", file.value.display()));
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(wrong(
                "is larger than 1 MiB, too much to hold every request against: split the key store",
            ));
        }
        String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8: save it as that"))
    }

    #[cfg(not(feature = "cedar"))]
    fn with_policies(&mut self, _: usize, _: Access, files: &CedarConfig) -> Result<Access, ConfigError> {
        Err(self.error(
            files.policy_file.line,
            "this xks-proxy was built without Cedar: remove [key_store.cedar], or build with --features cedar",
        ))
    }
}
