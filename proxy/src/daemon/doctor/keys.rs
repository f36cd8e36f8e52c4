//! The keys of a key store: those that are named, and those that are found by their label.
//!
//! Place on the map: part of `doctor`.

use super::hsm::trial;
use super::report::{Report, count};
use std::collections::BTreeMap;
use xks_proxy::app::OtherKeys;
use xks_proxy::config::KeyStoreConfig;
use xks_proxy::hsm::pkcs11::IvSource;
use xks_proxy::hsm::pkcs11::survey::{KeyClass, KeyObject, Survey};
use xks_proxy::key::KeyId;

/// Keys of a token that are looked at.
const KEYS_MAX: usize = 1_000;
/// Keys that are reported one by one; the rest is counted.
const SPOKEN_MAX: usize = 20;

const UNFIT_MEANS: &str =
    "KMS accepts only AES-256 keys that may encrypt and decrypt, and keys cannot be changed later.";
const MAKE_ANEW: &str = "Make a new key with the right attributes, and name it in the configuration.";

pub(super) fn check(
    survey: &Survey,
    store: &KeyStoreConfig,
    use_keys: Option<IvSource>,
    report: &mut Report,
) {
    for (id, entry) in &store.keys.entries {
        let line = store.key_lines.get(id).copied().unwrap_or(1);
        for (version, name) in &entry.versions {
            let check = format!("{id} v{}", version.0);
            let objects = match survey.named(name) {
                Ok(objects) => objects,
                Err(error) => {
                    report.failed(
                        &check,
                        format!("{name} cannot be looked up: {error}"),
                        "Requests for this key would fail in the same way.",
                        "See whether the HSM can be reached from here, and its log.",
                    );
                    continue;
                }
            };
            let secret: Vec<&KeyObject> =
                objects.iter().filter(|object| object.class == KeyClass::Secret).collect();
            match (secret.as_slice(), objects.first()) {
                ([key], _) => {
                    let current = *version == entry.current;
                    judge(report, &check, &name.to_string(), key, current);
                    if current && let Some(source) = use_keys && unfit(key, true).is_none() {
                        trial(survey, name, &check, source, report);
                    }
                }
                ([], None) => report.failed(
                    &check,
                    format!("the HSM has no key with {name}"),
                    "Either it was never made here or was deleted, or this user may not see it. What it has encrypted \
                     cannot be decrypted.",
                    format!("Make the key, restore it from a backup, or correct its name (line {line})."),
                ),
                ([], Some(other)) => report.failed(
                    &check,
                    format!(
                        "the object with {name} is no secret key but {}",
                        match other.class {
                            KeyClass::Private => "a private key",
                            KeyClass::Public => "a public key",
                            _ => "something else",
                        }
                    ),
                    UNFIT_MEANS,
                    format!("Name an AES-256 key (line {line})."),
                ),
                (several, _) => report.failed(
                    &check,
                    format!("the HSM has {} keys with {name}", several.len()),
                    "The proxy cannot know which is meant, and refuses both.",
                    format!("Rename all but one in the HSM, or name the key by its id (line {line})."),
                ),
            }
        }
    }
    match store.keys.others {
        OtherKeys::ByLabel => found(survey, store, report),
        OtherKeys::NotFound if store.keys.entries.is_empty() => report.warning(
            "keys",
            "no key is named, and find_keys_by = \"entry\" allows no other",
            "KMS cannot use any key of this key store.",
            "Add a [[key_store.key]], or remove find_keys_by.",
        ),
        OtherKeys::NotFound => {
            report.ok("other keys", "none: only keys that are named serve (find_keys_by = \"entry\")")
        }
    }
}

/// Keys that serve by their label, without an entry.
fn found(survey: &Survey, store: &KeyStoreConfig, report: &mut Report) {
    let (keys, more) = match survey.secret_keys(KEYS_MAX) {
        Ok(found) => found,
        Err(error) => {
            report.failed(
                "keys by label",
                format!("cannot be listed: {error}"),
                "Requests for them would fail in the same way.",
                "See whether the HSM can be reached from here, and its log.",
            );
            return;
        }
    };
    let mut by_label: BTreeMap<KeyId, Vec<&KeyObject>> = BTreeMap::new();
    for key in &keys {
        if let Ok(id) = KeyId::parse(&key.label)
            && store.keys.is_found_by_label(&id)
        {
            by_label.entry(id).or_default().push(key);
        }
    }
    let (mut fit, mut not_fit, mut spoken) = (0, 0, 0);
    for (id, keys) in &by_label {
        let problem = match keys.as_slice() {
            [key] if unfit(key, true).is_some() => {
                not_fit += 1;
                continue;
            }
            [key] => {
                fit += 1;
                exposed(key)
                    .map(|says| (format!("the key with label \"{id}\" {says}"), EXPOSED_MEANS, EXPOSED_TO_DO))
            }
            several => Some((
                format!("{} keys have the label \"{id}\"", several.len()),
                "The proxy cannot know which is meant, and refuses requests for it.",
                "Rename all but one in the HSM, or name the right one by its id in a [[key_store.key]].",
            )),
        };
        if let Some((says, means, to_do)) = problem {
            spoken += 1;
            if spoken <= SPOKEN_MAX {
                report.warning("keys by label", says, means, to_do);
            }
        }
    }
    if spoken > SPOKEN_MAX {
        report.warning(
            "keys by label",
            format!("{} more keys have such a problem", spoken - SPOKEN_MAX),
            "It is one of those above.",
            "`xks-proxy keys list` shows all keys.",
        );
    }
    let cut = if more { format!(" among the first {KEYS_MAX}") } else { String::new() };
    let others = match not_fit {
        0 => String::new(),
        number => format!(
            "; {} not fit to be external keys",
            count(number, "other") + if number == 1 { " is" } else { " are" }
        ),
    };
    report.ok("keys by label", format!("{} found{cut}{others}", count(fit, "further key")));
}

/// One key that is named.
fn judge(report: &mut Report, check: &str, name: &str, key: &KeyObject, current: bool) {
    if let Some(why) = unfit(key, current) {
        report.failed(check, format!("{name} {why}"), UNFIT_MEANS, MAKE_ANEW);
        return;
    }
    if let Some(says) = exposed(key) {
        report.warning(check, format!("{name} {says}"), EXPOSED_MEANS, EXPOSED_TO_DO);
        return;
    }
    let role = if current { "encrypts and decrypts" } else { "decrypts what it has encrypted" };
    let made = match key.local {
        Some(true) => ", made in the HSM",
        Some(false) => ", imported into the HSM",
        None => "",
    };
    report.ok(check, format!("{name}, AES-256, {role}, cannot leave the HSM{made}"));
}

/// Why a key cannot be an external key, if so. A version that is no longer current need not encrypt.
pub(crate) fn unfit(key: &KeyObject, current: bool) -> Option<String> {
    match (key.key_type.as_deref(), key.bits) {
        (Some("AES"), Some(256)) => {}
        (Some("AES"), Some(bits)) => return Some(format!("is AES with {bits} bits, not 256")),
        (Some("AES"), None) => return Some("is AES of unknown size (CKA_VALUE_LEN is not told)".into()),
        (Some(other), _) => return Some(format!("is no AES key but of type {other}")),
        (None, _) => return Some("does not tell its type (CKA_KEY_TYPE)".into()),
    }
    match (key.encrypt || !current, key.decrypt) {
        (true, true) => None,
        (false, true) => Some("may not encrypt (CKA_ENCRYPT)".into()),
        (true, false) => Some("may not decrypt (CKA_DECRYPT)".into()),
        (false, false) => Some("may neither encrypt nor decrypt (CKA_ENCRYPT, CKA_DECRYPT)".into()),
    }
}

const EXPOSED_MEANS: &str = "Whoever may log in can copy the key out of the HSM, and nobody would notice.";
const EXPOSED_TO_DO: &str = "Make new keys with CKA_SENSITIVE true and CKA_EXTRACTABLE false; rotate to them by a \
                             [[key_store.key]] with two versions.";

/// How a key could leave the HSM, if so.
fn exposed(key: &KeyObject) -> Option<&'static str> {
    match (key.sensitive, key.extractable) {
        (Some(false), Some(true)) => {
            Some("can be read in the clear (CKA_SENSITIVE is false, CKA_EXTRACTABLE true)")
        }
        (_, Some(true)) => Some("can be taken out of the HSM, wrapped (CKA_EXTRACTABLE is true)"),
        (Some(false), None) => Some("is not marked sensitive (CKA_SENSITIVE is false)"),
        (Some(false), Some(false)) => {
            Some("is not marked sensitive (CKA_SENSITIVE is false); only CKA_EXTRACTABLE keeps it in the HSM")
        }
        _ => None,
    }
}
