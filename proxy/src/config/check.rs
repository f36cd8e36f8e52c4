//! [`Raw`] → [`Config`]: ranges, shapes and cross-references. Pure.
//!
//! Place on the map: the second step of `config`; `build` is the third.

mod access;
mod compatibility;
mod failover;
mod hsm;
mod key_store;
mod keys;
mod limits;
mod listen;
mod log;
mod ops;
mod otel;
mod quota;
mod reload;
mod rules;
mod secret;
mod server;
mod tls;

use super::error::Source;
use super::raw::{At, Raw};
use super::{Config, ConfigError, HsmConfig, Placed};
use crate::app::Settings;
use compatibility::without_sample_version;
use failover::not_redundant;
use key_store::not_isolated;
use secret::without_age;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// The whole check; stops at the first mistake.
pub(super) fn check(raw: Raw, source: &Source<'_>) -> Result<Config, ConfigError> {
    let place = Place { source };
    let server = raw.server.into_inner();
    let listen = place.listen(server.listen)?;
    let ping_path = place.ping_path(server.ping_path)?;
    let mut warnings = Vec::new();
    let tls = server.tls.map(|tls| place.tls(tls.into_inner(), &mut warnings)).transpose()?;
    let watch_interval = place.watch_interval(&raw.reload)?;
    let ops = place.ops(raw.ops, &listen, &mut warnings)?;
    let log_level = Place::log(&raw.log);
    let otel = place.otel(raw.otel)?;
    let limits = place.limits(&raw.limits, &mut warnings)?;
    let identity = place.identity(raw.identity)?;

    if raw.hsm.is_empty() {
        return Err(ConfigError {
            file: source.file.to_owned(),
            line: None,
            message: "no HSM is named: add an [[hsm]] table (see config.example.toml)".into(),
            retriable: false,
        });
    }
    let mut hsms: Vec<HsmConfig> = Vec::new();
    for raw_hsm in raw.hsm {
        let at = raw_hsm.span().start;
        let hsm = place.hsm(at, raw_hsm.into_inner())?;
        if let Some(first) = hsms.iter().find(|other| other.name.value == hsm.name.value) {
            return Err(place.twice(hsm.name.line, "hsm name", &hsm.name.value, first.name.line));
        }
        hsms.push(hsm);
    }

    if raw.key_store.is_empty() {
        return Err(ConfigError {
            file: source.file.to_owned(),
            line: None,
            message: "no key store is named: add a [[key_store]] table (see config.example.toml)".into(),
            retriable: false,
        });
    }
    let key_stores = place.key_stores(raw.key_store, &hsms)?;
    for (line, why) in key_stores.iter().flat_map(without_sample_version) {
        warnings.push(format!("{}:{line}: {why}", source.file));
    }
    for (index, hsm) in hsms.iter().enumerate() {
        warnings.extend(
            not_isolated(index, hsm, &key_stores)
                .map(|why| format!("{}:{}: {why}", source.file, hsm.name.line)),
        );
        if key_stores.iter().all(|store| !store.hsms.contains(&index)) {
            warnings.push(format!(
                "{}:{}: no key store uses the HSM {:?}: remove it, or name it in a [[key_store]]",
                source.file, hsm.name.line, hsm.name.value
            ));
        }
    }
    if ops.is_some() {
        let undated = key_stores.iter().flat_map(without_age);
        warnings.extend(undated.map(|(line, why)| format!("{}:{line}: {why}", source.file)));
    }
    for store in &key_stores {
        warnings.extend(not_redundant(store, &hsms).map(|why| format!("{}: {why}", source.file)));
    }
    let file = source.file.to_owned();
    let settings = Settings { limits, identity, ping_path };
    Ok(Config {
        file,
        listen,
        tls,
        ops,
        log_level,
        otel,
        watch_interval,
        settings,
        hsms,
        key_stores,
        warnings,
    })
}

/// Turns raw values into checked ones; knows where they stand.
struct Place<'a> {
    source: &'a Source<'a>,
}

/// Names that may stand once only.
struct Once {
    what: &'static str,
    seen: BTreeMap<String, usize>,
}

impl Once {
    fn new(what: &'static str) -> Self {
        Self { what, seen: BTreeMap::new() }
    }

    fn insert(&mut self, place: &Place<'_>, name: &str, line: usize) -> Result<(), ConfigError> {
        match self.seen.insert(name.to_owned(), line) {
            None => Ok(()),
            Some(first) => Err(place.twice(line, self.what, name, first)),
        }
    }
}

impl Place<'_> {
    fn line<T>(&self, value: &Spanned<T>) -> usize {
        self.source.line(value.span().start)
    }

    fn error_at(&self, offset: usize, message: impl Into<String>) -> ConfigError {
        self.source.error(offset, message)
    }

    fn error<T>(&self, value: &Spanned<T>, message: impl Into<String>) -> ConfigError {
        self.error_at(value.span().start, message)
    }

    fn twice(&self, line: usize, what: &str, name: &str, first: usize) -> ConfigError {
        ConfigError {
            file: self.source.file.to_owned(),
            line: Some(line),
            message: format!("{what} {name:?} stands already on line {first}: each must be different"),
            retriable: false,
        }
    }

    fn placed<T>(&self, value: Spanned<T>) -> Placed<T> {
        Placed { line: self.line(&value), value: value.into_inner() }
    }

    /// Relative paths start at the configuration file's directory, wherever the daemon was started.
    fn path(&self, value: Spanned<String>) -> Placed<PathBuf> {
        let base = Path::new(self.source.file).parent().unwrap_or(Path::new(""));
        Placed { line: self.line(&value), value: base.join(value.into_inner()) }
    }

    fn not_empty(&self, value: Spanned<String>, key: &str) -> Result<String, ConfigError> {
        if value.as_ref().trim().is_empty() {
            return Err(self.error(&value, format!("{key} is empty: write one, or remove the key")));
        }
        Ok(value.into_inner())
    }

    fn name(&self, value: &Spanned<String>) -> Result<Placed<String>, ConfigError> {
        let name = value.as_ref();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            return Err(self.error(
                value,
                format!(
                    "the name {name:?} does not suit logs: write 1 to 64 characters of A-Z a-z 0-9 . _ -"
                ),
            ));
        }
        Ok(Placed { line: self.line(value), value: name.clone() })
    }

    /// `None` when it is left out, which means the default.
    fn number(
        &self,
        value: &At<u64>,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<usize>, ConfigError> {
        let Some(value) = value else { return Ok(None) };
        let number = *value.as_ref();
        match usize::try_from(number) {
            Ok(fits) if range.contains(&number) => Ok(Some(fits)),
            _ => Err(self.error(
                value,
                format!("{key} = {number} is out of range: write {} to {}", range.start(), range.end()),
            )),
        }
    }

    fn duration_ms(
        &self,
        value: &At<u64>,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<Duration>, ConfigError> {
        Ok(self.number(value, key, range)?.map(|number| Duration::from_millis(number as u64)))
    }
}
