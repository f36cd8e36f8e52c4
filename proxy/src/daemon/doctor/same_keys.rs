//! Whether the HSMs of a key store hold the same key bytes under the same names: what one encrypts, the others must open.
//!
//! Place on the map: part of `doctor`. Names and attributes prove nothing, and neither do health keys: only the customers'
//! keys themselves do, so this is done with `--use-keys` alone.

use super::report::Report;
use xks_proxy::config::{Config, KeyStoreConfig};
use xks_proxy::hsm::pkcs11::survey::Survey;
use xks_proxy::key::KeyName;

/// An HSM of the key store, and its survey if somebody is logged in.
struct Member<'a> {
    name: &'a str,
    survey: &'a Survey,
}

/// `surveys` are in the order of the configuration's HSMs.
pub(super) fn check(
    config: &Config,
    store: &KeyStoreConfig,
    surveys: &[Option<Survey>],
    use_keys: bool,
    report: &mut Report,
) {
    if !use_keys {
        report.skipped("same keys", "it takes an encryption with each key: run the doctor with --use-keys");
        return;
    }
    let mut members = Vec::new();
    for index in &store.hsms {
        let Some(hsm) = config.hsms.get(*index) else { continue };
        match surveys.get(*index) {
            Some(Some(survey)) => members.push(Member { name: &hsm.name.value, survey }),
            _ => report.skipped("same keys", format!("nobody is logged in to {}", hsm.name.value)),
        }
    }
    for (id, entry) in &store.keys.entries {
        for (version, name) in &entry.versions {
            compare(&format!("{id} v{}", version.0), name, &members, report);
        }
    }
}

/// One member seals, and every other one opens: equality with the one is equality of all.
fn compare(check: &str, name: &KeyName, members: &[Member<'_>], report: &mut Report) {
    if members.len() < 2 {
        return;
    }
    let mut refusals = Vec::new();
    let mut made = None;
    for member in members {
        match member.survey.seal(name) {
            Ok(sealed) => {
                made = Some((member.name, sealed));
                break;
            }
            Err(error) => refusals.push(format!("{}: {error}", member.name)),
        }
    }
    let Some((maker, sealed)) = made else {
        report.skipped(check, format!("no HSM encrypts with {name} ({})", refusals.join("; ")));
        return;
    };
    let mut all = true;
    for member in members.iter().filter(|member| member.name != maker) {
        match member.survey.opens(name, &sealed) {
            Ok(true) => {}
            Ok(false) => {
                all = false;
                report.failed(
                    check,
                    format!(
                        "what {maker} encrypts, {} cannot decrypt: they hold different keys under {name}",
                        member.name
                    ),
                    "Each of them opens only what it has made itself: when one is lost, so is all that was encrypted by it.",
                    "Find out which of the two keys has encrypted what is in use; both may. Clone the key from one HSM to \
                     the other with the vendor's tool, and keep the other key under another name until nothing needs it.",
                );
            }
            Err(error) => {
                all = false;
                report
                    .skipped(check, format!("what {maker} encrypts, {} did not open: {error}", member.name));
            }
        }
    }
    if all {
        report.ok(check, format!("what {maker} encrypts, every other HSM decrypts"));
    }
}
