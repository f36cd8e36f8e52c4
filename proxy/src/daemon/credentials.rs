//! `xks-proxy credentials new` and `xks-proxy console-json`: the pair that KMS signs with, made here and told to KMS.
//!
//! Place on the map: part of the binary. Secrets go to files of their owner; to the terminal only when asked.

use crate::daemon::new_file;
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use xks_proxy::calendar::rfc3339;
use xks_proxy::config::{Config, KeyStoreConfig};
use xks_proxy::env::{Env, SystemEnv};
use xks_proxy::key::API_ROOT;
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::Credential;
use zeroize::Zeroizing;

/// Of XKS-AUTH-3, 20 to 30 characters: five bits each.
const ID_ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const ID_CHARACTERS: usize = 28;
/// Of XKS-AUTH-3, 43 to 64 characters without `=`: six bits each, 258 in all.
const SECRET_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const SECRET_CHARACTERS: usize = 43;

/// So many characters of an alphabet, from the operating system's generator. Its length is a power of two, so each
/// character is as likely as any other.
fn draw<const N: usize>(alphabet: &[u8; N], characters: usize) -> Result<Zeroizing<String>, String> {
    const { assert!(N.is_power_of_two() && N <= 256) };
    let mut bytes = Zeroizing::new(vec![0; characters]);
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|_| "the system's random generator fails: nothing was made".to_owned())?;
    Ok(Zeroizing::new(bytes.iter().map(|byte| char::from(alphabet[usize::from(*byte) % N])).collect()))
}

/// Makes a pair: the secret into a new file, the rest and what to do next onto standard output. The error is one line
/// for the user.
pub(crate) fn new(
    config: Option<&Path>,
    key_store: Option<&str>,
    out: Option<PathBuf>,
    show: bool,
) -> Result<(), String> {
    let store = match (config, key_store) {
        (Some(file), Some(name)) => {
            let config = Config::load(file).map_err(|error| error.to_string())?;
            let store = find(&config, name)?;
            Some((name.to_owned(), format!("{}{API_ROOT}", store.prefix)))
        }
        (None, Some(_)) => return Err("--key-store needs --config FILE, which names the key stores".into()),
        (_, None) => None,
    };
    let id = draw(ID_ALPHABET, ID_CHARACTERS)?;
    let secret = draw(SECRET_ALPHABET, SECRET_CHARACTERS)?;
    Credential::new(&id, Secret::new(secret.to_string())).map_err(|error| error.to_string())?;
    let out = out.unwrap_or_else(|| PathBuf::from(format!("{}.secret", *id)));
    new_file::write(&out, &Zeroizing::new(format!("{}\n", *secret)))?;
    let place = out.canonicalize().unwrap_or(out);
    let quoted = toml::Value::String(place.display().to_string());
    let whose = match &store {
        Some((name, _)) => format!("the key store {name:?}"),
        None => "its [[key_store]]".to_owned(),
    };
    let path = store.map_or_else(String::new, |(_, path)| format!("\n   XksProxyUriPath: {path}"));
    let now = rfc3339(SystemEnv.now());
    // The day, in UTC, as `created` is read.
    let today = now.get(..10).unwrap_or(&now);
    let mut text = format!(
        "Made a credential. Its secret is in {place}, for you to read only;\nlet the daemon's user own that file.\n\n\
         Add to {whose}:\n\n[[key_store.credential]]\naccess_key_id = \"{id}\"\nsecret_file = {quoted}\n\
         # The day it was made, for the alert on old credentials.\ncreated = {today}\n\n\
         To rotate without one failed request:\n\
         1. Add the lines above and keep the old credential beside them.\n\
         2. Have the proxy reload (systemctl reload, or SIGHUP), and wait for its log to say \"reloaded\".\n   \
         With several proxies: all of them.\n\
         3. Tell KMS: UpdateCustomKeyStore with both AccessKeyId and RawSecretAccessKey;\n   `xks-proxy console-json` writes \
         them for the console.{path}\n\
         4. KMS's hosts take over one by one. Wait until the audit log shows no request with the old\n   access key \
         id, then remove the old credential, and reload again.\n",
        place = place.display(),
        id = *id,
    );
    if show {
        text += &format!("\nRawSecretAccessKey: {}\n", *secret);
    }
    let text = Zeroizing::new(text);
    // A closed standard output is the reader's choice.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(())
}

/// Writes what the KMS console reads (XKS-CON-1), to a new file or, when asked, to standard output. The error is one
/// line for the user.
pub(crate) fn console_json(
    file: &Path,
    key_store: &str,
    access_key_id: Option<&str>,
    out: Option<&Path>,
) -> Result<(), String> {
    let mut config = Config::load(file).map_err(|error| error.to_string())?;
    let store = find(&config, key_store)?;
    let path = format!("{}{API_ROOT}", store.prefix);
    let ids = || {
        let ids: Vec<&str> = store.credentials.iter().map(|one| one.access_key_id.value.as_str()).collect();
        ids.join(", ")
    };
    let credential = match (access_key_id, store.credentials.as_slice()) {
        (None, [only]) => only.clone(),
        (None, _) => {
            return Err(format!(
                "{key_store} has several credentials: name one by --access-key-id, of {}",
                ids()
            ));
        }
        (Some(id), all) => match all.iter().find(|one| one.access_key_id.value == id) {
            Some(credential) => credential.clone(),
            None => return Err(format!("{key_store} has no credential of that id: write one of {}", ids())),
        },
    };
    let secret = config.secret_access_key(&credential).map_err(|error| error.to_string())?;
    let document = json!({
        "XksProxyUriPath": path,
        "XksProxyAuthenticationCredential": {
            "AccessKeyId": credential.access_key_id.value,
            "RawSecretAccessKey": secret.expose(),
        },
    });
    let text = Zeroizing::new(format!("{document:#}\n"));
    // A closed standard output is the reader's choice.
    match out {
        Some(out) => {
            new_file::write(out, &text)?;
            let _ = writeln!(
                std::io::stdout().lock(),
                "Wrote {}, which holds the secret: upload it in the KMS console (external key store, \"Upload \
                 configuration\nfile\"), then delete it.",
                out.display()
            );
        }
        None => {
            let _ = std::io::stdout().lock().write_all(text.as_bytes());
        }
    }
    Ok(())
}

fn find<'a>(config: &'a Config, name: &str) -> Result<&'a KeyStoreConfig, String> {
    config.key_stores.iter().find(|store| store.name == name).ok_or_else(|| {
        let known: Vec<&str> = config.key_stores.iter().map(|store| store.name.as_str()).collect();
        format!("{} has no key store {name:?}: write one of {}", config.file, known.join(", "))
    })
}
