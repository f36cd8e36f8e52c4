//! Who may do what: the allow-list, and the Cedar policies with the files they are in.
//!
//! Place on the map: part of `doctor`. The policies are read as the daemon reads them.

use super::files::{Kept, look};
use super::report::Report;
use crate::daemon::check::rules_in_words;
use xks_proxy::config::Config;

pub(super) fn check(config: &mut Config, report: &mut Report) {
    for index in 0..config.key_stores.len() {
        let Some(store) = config.key_stores.get(index) else { continue };
        let (whose, rules) = (format!("key store {}: ", store.name), rules_in_words(store));
        let mut sound = true;
        if let Some(files) = &store.cedar {
            let schema = files.schema_file.iter().map(|file| ("schema file", file));
            for (what, file) in std::iter::once(("policy file", &files.policy_file)).chain(schema) {
                sound &= look(report, what, &whose, &file.value, Kept::Open);
            }
        }
        let told = config.warnings.len();
        match config.access(index) {
            Ok(_) => report.ok("rules", format!("{whose}{rules}")),
            // What is wrong with the file itself has been said.
            Err(_) if !sound => {}
            Err(error) => report.failed(
                "policies",
                format!("{whose}{}", error.message),
                "The proxy does not start with policies it cannot read: it would not know whom to deny.",
                format!(
                    "Correct the file that line {} names; `xks-proxy policy test` tries it.",
                    error.line.unwrap_or(1)
                ),
            ),
        }
        for warning in config.warnings.iter().skip(told) {
            report.warning(
                "policies",
                warning,
                "The proxy serves with it, but it is probably not meant so.",
                "See whether the policies decide as they should: `xks-proxy policy test`.",
            );
        }
    }
}
