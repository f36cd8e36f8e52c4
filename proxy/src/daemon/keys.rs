//! `xks-proxy keys list`: the secret keys of each token, and which external keys they serve as.
//!
//! Place on the map: part of the binary, over `hsm::pkcs11::survey`.

use crate::daemon::doctor::{cut, hsms_of, unfit};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use xks_proxy::config::{Config, HsmConfig, KeyStoreConfig};
use xks_proxy::hsm::pkcs11::Module;
use xks_proxy::hsm::pkcs11::survey::{self, KeyClass, KeyObject, PinState, Survey, TokenFacts};
use xks_proxy::key::{KeyId, KeyName};

/// Keys of a token that are listed.
const KEYS_MAX: usize = 1_000;

/// How long a call into a module may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A token and what was found in it.
struct Listing {
    hsm: String,
    token: TokenFacts,
    keys: Vec<(KeyObject, Vec<String>)>,
    more: bool,
    /// Entries that name a key which is not there: external key, version, name.
    missing: Vec<(String, u8, String)>,
}

/// Lists. 0: every key that is named is there; 1: some are missing. The error is one line for the user.
pub(crate) fn list(file: &Path, only: Option<&str>, as_json: bool) -> Result<ExitCode, String> {
    let mut config = Config::load(file).map_err(|error| error.to_string())?;
    let hsms = config.hsms.clone();
    if let Some(name) = only
        && hsms.iter().all(|hsm| hsm.name.value != name)
    {
        let known: Vec<&str> = hsms.iter().map(|hsm| hsm.name.value.as_str()).collect();
        return Err(format!("no [[hsm]] is named {name:?}: write one of {}", known.join(", ")));
    }
    let mut modules = BTreeMap::new();
    let mut listings = Vec::new();
    for (index, hsm) in
        hsms.iter().enumerate().filter(|(_, hsm)| only.is_none_or(|name| hsm.name.value == name))
    {
        let listing = look(&mut config, index, hsm, &mut modules);
        listings.push(listing.map_err(|why| format!("hsm {:?}: {why}", hsm.name.value))?);
    }
    let mut out = std::io::stdout().lock();
    // A closed standard output is the reader's choice.
    let _ = match as_json {
        true => writeln!(out, "{:#}", document(&listings)),
        false => write!(out, "{}", listings.iter().map(table).collect::<Vec<_>>().join("\n")),
    };
    let complete = listings.iter().all(|listing| listing.missing.is_empty());
    Ok(if complete { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn look(
    config: &mut Config,
    index: usize,
    hsm: &HsmConfig,
    modules: &mut BTreeMap<PathBuf, Arc<Module>>,
) -> Result<Listing, String> {
    let settings = config.hsm_settings(hsm).map_err(|error| error.to_string())?;
    let path = &hsm.module.value;
    let module = match modules.get(path) {
        Some(module) => Arc::clone(module),
        None => survey::load(path, PATIENCE).map_err(|error| error.to_string())?,
    };
    modules.insert(path.clone(), Arc::clone(&module));
    let failed = |error: survey::SurveyError| error.to_string();
    let survey = Survey::start(module, settings, PATIENCE).map_err(failed)?;
    let token = survey.token().map_err(failed)?;
    if token.pin == PinState::FinalTry {
        return Err("one more wrong PIN locks the token; not tried: see `xks-proxy doctor`".into());
    }
    survey.login().map_err(failed)?;
    let (keys, more) = survey.secret_keys(KEYS_MAX).map_err(failed)?;
    let stores: Vec<&KeyStoreConfig> =
        config.key_stores.iter().filter(|store| hsms_of(store).contains(&index)).collect();
    let mut missing = Vec::new();
    for store in &stores {
        for (id, entry) in &store.keys.entries {
            for (version, name) in &entry.versions {
                let found = survey.named(name).map_err(failed)?;
                if !found.iter().any(|object| object.class == KeyClass::Secret) {
                    missing.push((format!("{}/{id}", store.name), version.0, name.to_string()));
                }
            }
        }
    }
    let mut keys: Vec<_> = keys
        .iter()
        .map(|key| {
            let twins = keys.iter().filter(|other| other.label == key.label).count();
            (key.clone(), serves(key, twins > 1, &stores))
        })
        .collect();
    keys.sort_by(|(a, _), (b, _)| (&a.label, &a.id).cmp(&(&b.label, &b.id)));
    Ok(Listing { hsm: hsm.name.value.clone(), token, keys, more, missing })
}

/// The external keys, and their versions, that a key object stands behind, and what keeps it from serving. `shared` says
/// that other keys have its label.
fn serves(key: &KeyObject, shared: bool, stores: &[&KeyStoreConfig]) -> Vec<String> {
    let mut all = Vec::new();
    for store in stores {
        for (id, entry) in &store.keys.entries {
            for (version, name) in &entry.versions {
                let (is_it, shared) = match name {
                    KeyName::Label(label) => (*label == key.label, shared),
                    KeyName::Id(id) => (*id == key.id, false),
                };
                if is_it {
                    let current = *version == entry.current;
                    let old = if current { "" } else { ", old" };
                    let but = match (unfit(key, current), shared) {
                        (Some(why), _) => format!(": {why}"),
                        (None, true) => ": label not unique".to_owned(),
                        (None, false) => String::new(),
                    };
                    all.push(format!("{}/{id} v{}{old}{but}", store.name, version.0));
                }
            }
        }
        if let Ok(id) = KeyId::parse(&key.label)
            && store.keys.is_found_by_label(&id)
            && unfit(key, true).is_none()
        {
            let but = if shared { ": label not unique" } else { "" };
            all.push(format!("{}/{id}{but}", store.name));
        }
    }
    all
}

fn kind(key: &KeyObject) -> String {
    let name = key.key_type.as_deref().unwrap_or("?");
    key.bits.map_or_else(|| name.to_owned(), |bits| format!("{name}-{bits}"))
}

fn usage(key: &KeyObject) -> &'static str {
    match (key.encrypt, key.decrypt) {
        (true, true) => "both",
        (true, false) => "encrypt",
        (false, true) => "decrypt",
        (false, false) => "neither",
    }
}

fn yes_no(value: Option<bool>) -> &'static str {
    value.map_or("?", |yes| if yes { "yes" } else { "no" })
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn table(listing: &Listing) -> String {
    let token = &listing.token;
    let mut out = format!("HSM {}: token {:?}, serial {}\n", listing.hsm, token.label, token.serial);
    if !listing.keys.is_empty() {
        out += &row(["LABEL", "ID", "TYPE", "MAY", "SENSITIVE", "EXTRACTABLE"]);
    }
    for (key, serves) in &listing.keys {
        let (label, id, kind) = (cut(&key.label, 32), cut(&hex(&key.id), 18), cut(&kind(key), 10));
        out += &row([&label, &id, &kind, usage(key), yes_no(key.sensitive), yes_no(key.extractable)]);
        for external in serves {
            out += &format!("  serves {}\n", cut(external, 91));
        }
    }
    out += &match (listing.keys.len(), listing.more) {
        (0, _) => "No secret key that this user can see.\n".to_owned(),
        (1, _) => "1 secret key.\n".to_owned(),
        (count, false) => format!("{count} secret keys.\n"),
        (count, true) => format!("The first {count} secret keys; there are more.\n"),
    };
    for (id, version, name) in &listing.missing {
        out += &format!("missing: {id} v{version} names the key with {name}, which is not there\n");
    }
    out
}

fn row(cells: [&str; 6]) -> String {
    let [label, id, kind, may, sensitive, extractable] = cells;
    format!("{label:<32}  {id:<18}  {kind:<10}  {may:<7}  {sensitive:<9}  {extractable}\n")
}

fn document(listings: &[Listing]) -> Value {
    let hsms: Vec<Value> = listings
        .iter()
        .map(|listing| {
            let keys: Vec<Value> = listing
                .keys
                .iter()
                .map(|(key, serves)| {
                    json!({
                        "label": key.label,
                        "id": hex(&key.id),
                        "type": key.key_type,
                        "bits": key.bits,
                        "encrypt": key.encrypt,
                        "decrypt": key.decrypt,
                        "sensitive": key.sensitive,
                        "extractable": key.extractable,
                        "local": key.local,
                        "serves": serves,
                    })
                })
                .collect();
            let missing: Vec<Value> = listing
                .missing
                .iter()
                .map(|(id, version, name)| json!({ "external_key": id, "version": version, "names": name }))
                .collect();
            json!({
                "name": listing.hsm,
                "token_label": listing.token.label,
                "token_serial": listing.token.serial,
                "keys": keys,
                "more": listing.more,
                "missing": missing,
            })
        })
        .collect();
    json!({ "format": 1, "hsms": hsms })
}
