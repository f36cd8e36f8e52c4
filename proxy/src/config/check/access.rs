//! Who may do what in a key store: the allow-list, `[key_store.cedar]`, and the mode of each.
//!
//! Place on the map: part of `check`. The policy file is read by `build`.

use super::super::raw::{RawAllow, RawCedar, RawMode};
use super::Place;
use crate::authorise::{Access, Mode, Rule};
use crate::config::{CedarConfig, ConfigError};

impl Place<'_> {
    pub(super) fn access(
        &self,
        rules_mode: Option<RawMode>,
        rules: Vec<RawAllow>,
        cedar: Option<RawCedar>,
    ) -> Result<(Access, Option<CedarConfig>), ConfigError> {
        let rules: Result<Vec<Rule>, ConfigError> =
            (1..).zip(rules).map(|(number, allow)| self.rule(number, allow)).collect();
        let mut access = Access { rules: rules?, rules_mode: mode(rules_mode), ..Access::default() };
        access.policies_mode = mode(cedar.as_ref().and_then(|cedar| cedar.mode));
        let cedar = cedar.map(|cedar| CedarConfig {
            policy_file: self.path(cedar.policy_file),
            schema_file: cedar.schema_file.map(|file| self.path(file)),
        });
        Ok((access, cedar))
    }
}

/// Enforced, unless somebody says otherwise.
fn mode(raw: Option<RawMode>) -> Mode {
    match raw {
        None | Some(RawMode::Enforce) => Mode::Enforce,
        Some(RawMode::Shadow) => Mode::Shadow,
    }
}
