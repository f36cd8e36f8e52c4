//! `xks-proxy check`: everything `serve` would do before it binds, and a look at each key that is named. An HSM that is
//! away, for which `serve` would wait, is told with the reason.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use xks_proxy::authorise::Mode;
use xks_proxy::config::{Config, ConfigError, KeyStoreConfig, Ready};
use xks_proxy::env::SystemEnv;
use xks_proxy::events::{AuditEvent, Subscriber};
use xks_proxy::hsm::{HealthStatus, Hsm, KeyFacts, KeySpec};
use xks_proxy::key::KeyName;

/// A check is not in a hurry, and slow HSMs are worth checking too.
const PATIENCE: Duration = Duration::from_secs(10);

/// `check` serves no request.
struct Nobody;

impl Subscriber for Nobody {
    fn audit(&self, _: &AuditEvent) {}
}

/// Checks, and prints a summary. The error is one line for the user.
pub(crate) fn run(file: &Path) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start ({error})"))?;
    let found = runtime.block_on(async {
        let ready = Config::load(file)?.build_impatiently(Arc::new(SystemEnv), Arc::new(Nobody))?;
        look(ready).await
    });
    let (summary, warnings) = found.map_err(|error: ConfigError| error.to_string())?;
    let mut out = std::io::stdout().lock();
    // A closed standard output is the reader's choice.
    for line in summary {
        let _ = writeln!(out, "{line}");
    }
    for warning in &warnings {
        let _ = writeln!(out, "warning     {warning}");
    }
    let _ = match warnings.len() {
        0 => writeln!(out, "Nothing wrong found."),
        1 => writeln!(out, "Nothing wrong found, 1 warning."),
        count => writeln!(out, "Nothing wrong found, {count} warnings."),
    };
    Ok(())
}

async fn look(ready: Ready) -> Result<(Vec<String>, Vec<String>), ConfigError> {
    let config = &ready.config;
    let mut warnings = config.warnings.clone();
    let scheme = if ready.tls.is_some() { "HTTPS" } else { "plain HTTP" };
    let mut summary = vec![format!("file        {}", config.file)];
    let addresses = config.listen.iter().map(|address| address.value);
    summary.extend(addresses.map(|address| format!("listen      {address}, {scheme}")));
    for (hsm, open) in config.hsms.iter().zip(ready.hsms.iter()) {
        for device in open.health(Instant::now() + PATIENCE).await {
            if device.status == HealthStatus::Unavailable {
                return Err(config.error(
                    hsm.name.line,
                    format!(
                        "hsm {:?}: {} does not answer: check the device and its network",
                        hsm.name.value, device.id
                    ),
                ));
            }
            summary.push(format!(
                "hsm         {}: logged in; {} {}, {:?}",
                hsm.name.value, device.model, device.id, device.status
            ));
        }
    }
    for store in &config.key_stores {
        let member = |index: &usize| Some((&*config.hsms.get(*index)?.name.value, ready.hsms.get(*index)?));
        let members: Vec<_> = store.hsms.iter().filter_map(member).collect();
        for (id, entry) in &store.keys.entries {
            let line = store.key_lines.get(id).copied().unwrap_or(1);
            for (version, name) in &entry.versions {
                for (hsm_name, hsm) in &members {
                    let mut what = format!("key {id}, version {}, {name}", version.0);
                    if members.len() > 1 {
                        what = format!("{what}, in hsm {hsm_name:?}");
                    }
                    let facts = look_up(config, line, &what, name, hsm.as_ref()).await?;
                    let usable = facts.decrypt && (facts.encrypt || *version != entry.current);
                    if !usable {
                        warnings.push(format!(
                            "{}:{line}: {what} may not {} (CKA_ENCRYPT, CKA_DECRYPT): KMS will not accept it as a key",
                            config.file,
                            if facts.decrypt { "encrypt" } else { "decrypt" }
                        ));
                    }
                }
            }
        }
        summary.push(format!(
            "key store   {}: {}{} on {} {}; credentials: {}, keys named: {}, rules: {}",
            store.name,
            store.prefix,
            xks_proxy::key::API_ROOT,
            if members.len() == 1 { "hsm" } else { "hsms" },
            members.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "),
            store.credentials.len(),
            store.keys.entries.len(),
            rules_in_words(store),
        ));
        // Only a customer's key can prove it, and `check` does not use those.
        if members.len() > 1 && !store.keys.entries.is_empty() {
            summary.push(format!(
                "            {}: whether its hsms hold the same keys is not tried: `xks-proxy doctor --use-keys` does",
                store.name
            ));
        }
    }
    Ok((summary, warnings))
}

/// How many rules a key store has, whether it has policies, and which of them only log what they would deny.
pub(crate) fn rules_in_words(store: &KeyStoreConfig) -> String {
    let marked = |what: String, mode: Mode| match mode {
        Mode::Enforce => what,
        Mode::Shadow => format!("{what} (shadow mode: only logged)"),
    };
    let rules = match store.access.rules.len() {
        0 => None,
        number => Some(marked(number.to_string(), store.access.rules_mode)),
    };
    let policies =
        store.cedar.as_ref().map(|_| marked("Cedar policies".to_owned(), store.access.policies_mode));
    match (rules, policies) {
        (None, None) => "none, every signed request is allowed".to_owned(),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(rules), Some(policies)) => format!("{rules}, and {policies}"),
    }
}

/// The facts of a key, which must be there and of the one legal kind.
async fn look_up(
    config: &Config,
    line: usize,
    what: &str,
    name: &KeyName,
    hsm: &dyn Hsm,
) -> Result<KeyFacts, ConfigError> {
    let facts = hsm.describe(name, Instant::now() + PATIENCE).await.map_err(|error| {
        config.error(line, format!("{what}: {error}: make the key in the HSM, or correct its name"))
    })?;
    let kind = match facts.spec {
        KeySpec::Aes(256) => return Ok(facts),
        KeySpec::Aes(bits) => format!("AES with {bits} bits"),
        KeySpec::Other(number) => format!("no AES key but of CK_KEY_TYPE {number:#x}"),
    };
    Err(config.error(line, format!("{what} is {kind}: an external key must be AES with 256 bits")))
}
