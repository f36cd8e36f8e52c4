//! [`Raw`] → [`Config`]: ranges, shapes and cross-references. Pure.
//!
//! Place on the map: the second step of `config`; `build` is the third.

use super::error::Source;
use super::raw::{
    At, Raw, RawAllow, RawCredential, RawFindKeysBy, RawHsm, RawIdentity, RawIvSource, RawKey, RawLimits,
    RawTls,
};
use super::{
    Config, ConfigError, CredentialConfig, HsmConfig, KeyStoreConfig, Placed, SecretPlace, TlsFiles,
};
use crate::app::{Identity, KeyDirectory, KeyEntry, Limits, OtherKeys, Settings};
use crate::authorise::{Access, Pattern, Rule};
use crate::events::Operation;
use crate::hsm::pkcs11::{IvSource, TokenChoice};
use crate::key::{API_ROOT, KeyId, KeyName, KeyVersion, UriPrefix};
use crate::secret::Secret;
use crate::sigv4::Credential;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use toml::Spanned;

/// KMS gives up on a request after this time (XKS-TIME-1).
const KMS_PATIENCE_MS: u128 = 250;

/// What a request body holds besides plaintext and AAD: names, ARNs and punctuation, generously.
const METADATA_BYTES: usize = 4_096;

/// The whole check; stops at the first mistake.
pub(super) fn check(raw: Raw, source: &Source<'_>) -> Result<Config, ConfigError> {
    let place = Place { source };
    let server = raw.server.into_inner();
    let listen: SocketAddr = server.listen.as_ref().trim().parse().map_err(|_| {
        place.error(
            &server.listen,
            format!(
                "listen = {:?} is not an address and port: write one like \"0.0.0.0:8443\" or \"[::]:8443\"",
                server.listen.as_ref()
            ),
        )
    })?;
    let listen = Placed { line: place.line(&server.listen), value: listen };
    let ping_path = place.ping_path(server.ping_path)?;
    let tls = server.tls.map(|tls| place.tls(tls.into_inner()));
    let mut warnings = Vec::new();
    let limits = place.limits(&raw.limits, &mut warnings)?;
    let identity = place.identity(raw.identity)?;

    if raw.hsm.is_empty() {
        return Err(ConfigError {
            file: source.file.to_owned(),
            line: None,
            message: "no HSM is named: add an [[hsm]] table (see config.example.toml)".into(),
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
        });
    }
    let mut names = Once::new("key store name");
    let mut prefixes = Once::new("uri_prefix");
    let mut key_stores = Vec::new();
    for raw_store in raw.key_store {
        let at = raw_store.span().start;
        let store = raw_store.into_inner();
        let name = place.name(&store.name)?;
        names.insert(&place, &name.value, name.line)?;
        let prefix = UriPrefix::parse(store.uri_prefix.as_ref())
            .map_err(|error| place.error(&store.uri_prefix, format!("uri_prefix: {error}: correct it")))?;
        prefixes.insert(&place, prefix.as_str(), place.line(&store.uri_prefix))?;
        let hsm = hsms.iter().position(|hsm| hsm.name.value == *store.hsm.as_ref()).ok_or_else(|| {
            let known: Vec<String> = hsms.iter().map(|hsm| format!("{:?}", hsm.name.value)).collect();
            place.error(
                &store.hsm,
                format!("no [[hsm]] is named {:?}: name one of {}", store.hsm.as_ref(), known.join(", ")),
            )
        })?;
        if store.credential.is_empty() {
            return Err(place.error_at(
                at,
                format!(
                    "key store {:?} has no credential, so nobody could use it: add a [[key_store.credential]] table",
                    name.value
                ),
            ));
        }
        let mut ids = Once::new("access_key_id");
        let mut credentials = Vec::new();
        for credential in store.credential {
            let at = credential.span().start;
            let credential = place.credential(at, credential.into_inner())?;
            ids.insert(&place, &credential.access_key_id.value, credential.access_key_id.line)?;
            credentials.push(credential);
        }
        let (keys, key_lines) = place.keys(store.find_keys_by, store.key)?;
        let rules: Result<Vec<Rule>, ConfigError> =
            (1..).zip(store.allow).map(|(number, allow)| place.rule(number, allow)).collect();
        key_stores.push(KeyStoreConfig {
            name: name.value,
            prefix,
            region: store.region.map(|region| place.not_empty(region, "region")).transpose()?,
            hsm,
            keys,
            key_lines,
            access: Access { rules: rules? },
            credentials,
        });
    }
    for (index, hsm) in hsms.iter().enumerate() {
        warnings.extend(
            not_isolated(index, hsm, &key_stores)
                .map(|why| format!("{}:{}: {why}", source.file, hsm.name.line)),
        );
        if key_stores.iter().all(|store| store.hsm != index) {
            warnings.push(format!(
                "{}:{}: no key store uses the HSM {:?}: remove it, or name it in a [[key_store]]",
                source.file, hsm.name.line, hsm.name.value
            ));
        }
    }
    let file = source.file.to_owned();
    let settings = Settings { limits, identity, ping_path };
    Ok(Config { file, listen, tls, settings, hsms, key_stores, warnings })
}

/// Why the key stores of one HSM are not isolated (XKS-NET-6), if they are not: a store that finds keys by their labels
/// reaches all keys of the HSM, those of the other stores too.
fn not_isolated(index: usize, hsm: &HsmConfig, key_stores: &[KeyStoreConfig]) -> Option<String> {
    let sharing: Vec<_> = key_stores.iter().filter(|store| store.hsm == index).collect();
    let open = sharing.iter().find(|store| store.keys.others == OtherKeys::ByLabel)?;
    (sharing.len() > 1).then(|| {
        format!(
            "{} key stores share the HSM {:?}, and {:?} reaches the keys of all of them by their labels: give it \
             find_keys_by = \"entry\" and a [[key_store.key]] for each key",
            sharing.len(),
            hsm.name.value,
            open.name
        )
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

    fn ping_path(&self, value: At<String>) -> Result<String, ConfigError> {
        let Some(value) = value else { return Ok(Settings::default().ping_path) };
        let path = value.as_ref();
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~');
        if !path.starts_with('/') || path.len() > 128 || !path.bytes().all(plain) {
            return Err(self.error(
                &value,
                "ping_path is not a plain path: write one like \"/ping\", of A-Z a-z 0-9 / - _ . ~",
            ));
        }
        if path.contains(API_ROOT) {
            return Err(
                self.error(&value, format!("ping_path lies inside the API ({API_ROOT}): choose another"))
            );
        }
        Ok(value.into_inner())
    }

    fn tls(&self, tls: RawTls) -> TlsFiles {
        TlsFiles { certificate_file: self.path(tls.certificate_file), key_file: self.path(tls.key_file) }
    }

    fn limits(&self, raw: &RawLimits, warnings: &mut Vec<String>) -> Result<Limits, ConfigError> {
        let mut limits = Limits::default();
        for (value, key, range, limit) in [
            (&raw.deadline_ms, "deadline_ms", 10..=60_000, &mut limits.deadline),
            (&raw.handshake_timeout_ms, "handshake_timeout_ms", 10..=60_000, &mut limits.handshake_timeout),
            (&raw.head_timeout_ms, "head_timeout_ms", 10..=60_000, &mut limits.head_timeout),
            (&raw.idle_timeout_ms, "idle_timeout_ms", 1_000..=3_600_000, &mut limits.idle_timeout),
            (&raw.drain_timeout_ms, "drain_timeout_ms", 0..=600_000, &mut limits.drain_timeout),
        ] {
            *limit = self.duration_ms(value, key, range)?.unwrap_or(*limit);
        }
        for (value, key, range, limit) in [
            (&raw.in_flight_max, "in_flight_max", 1..=65_536, &mut limits.in_flight_max),
            (&raw.connections_max, "connections_max", 1..=1_000_000, &mut limits.connections_max),
            (&raw.body_bytes_max, "body_bytes_max", 1_024..=16_777_216, &mut limits.body_bytes_max),
            (&raw.header_bytes_max, "header_bytes_max", 8_192..=1_048_576, &mut limits.header_bytes_max),
            (&raw.headers_max, "headers_max", 16..=1_000, &mut limits.headers_max),
            (
                &raw.plaintext_bytes_max,
                "plaintext_bytes_max",
                4_300..=1_048_576,
                &mut limits.plaintext_bytes_max,
            ),
            (&raw.aad_bytes_max, "aad_bytes_max", 8_192..=65_535, &mut limits.aad_bytes_max),
        ] {
            *limit = self.number(value, key, range)?.unwrap_or(*limit);
        }
        // A legal request must fit: plaintext and AAD travel as base64, four bytes for three.
        let needed = limits.plaintext_bytes_max.div_ceil(3) * 4
            + limits.aad_bytes_max.div_ceil(3) * 4
            + METADATA_BYTES;
        if limits.body_bytes_max < needed {
            let named = [&raw.body_bytes_max, &raw.plaintext_bytes_max, &raw.aad_bytes_max];
            let at = named.into_iter().flatten().next().map_or(0, |value| value.span().start);
            return Err(self.error_at(
                at,
                format!(
                    "body_bytes_max = {} cannot hold a request with plaintext_bytes_max = {} and aad_bytes_max = {} \
                     in base64: raise it to {needed} or more",
                    limits.body_bytes_max, limits.plaintext_bytes_max, limits.aad_bytes_max
                ),
            ));
        }
        if let Some(value) = &raw.deadline_ms
            && limits.deadline.as_millis() >= KMS_PATIENCE_MS
        {
            warnings.push(format!(
                "{}:{}: deadline_ms = {} is no use to AWS KMS, which gives up after {KMS_PATIENCE_MS} ms, the \
                 network included: write 150",
                self.source.file,
                self.line(value),
                limits.deadline.as_millis()
            ));
        }
        Ok(limits)
    }

    fn identity(&self, raw: RawIdentity) -> Result<Identity, ConfigError> {
        let default = Settings::default().identity;
        let fleet_size = self.number(&raw.fleet_size, "fleet_size", 1..=1_000_000)?.unwrap_or(1);
        let text = |value: At<String>, key: &str, default: String| match value {
            None => Ok(default),
            Some(value) => self.not_empty(value, key),
        };
        Ok(Identity {
            fleet_size: u32::try_from(fleet_size).unwrap_or(u32::MAX),
            vendor: text(raw.vendor, "vendor", default.vendor)?,
            model: text(raw.model, "model", default.model)?,
            ekm_vendor: text(raw.ekm_vendor, "ekm_vendor", default.ekm_vendor)?,
        })
    }

    fn hsm(&self, at: usize, raw: RawHsm) -> Result<HsmConfig, ConfigError> {
        let name = self.name(&raw.name)?;
        let token = match (raw.token_label, raw.token_serial, raw.slot) {
            (Some(label), None, None) => Placed {
                line: self.line(&label),
                value: TokenChoice::Label(self.not_empty(label, "token_label")?),
            },
            (None, Some(serial), None) => Placed {
                line: self.line(&serial),
                value: TokenChoice::Serial(self.not_empty(serial, "token_serial")?),
            },
            (None, None, Some(slot)) => {
                Placed { line: self.line(&slot), value: TokenChoice::Slot(slot.into_inner()) }
            }
            _ => {
                return Err(self.error_at(
                    at,
                    format!(
                        "hsm {:?}: name the token by one of token_label, token_serial or slot",
                        name.value
                    ),
                ));
            }
        };
        let pin = self.secret(at, raw.pin_file, raw.pin_env, "PIN", "pin_file", "pin_env")?;
        Ok(HsmConfig {
            name,
            // A bare file name is left to the system's loader, which knows where libraries are.
            module: match raw.module.as_ref().contains('/') {
                true => self.path(raw.module),
                false => Placed { line: self.line(&raw.module), value: raw.module.into_inner().into() },
            },
            token,
            pin,
            sessions_max: self.number(&raw.sessions_max, "sessions_max", 1..=1_024)?,
            queue_max: self.number(&raw.queue_max, "queue_max", 1..=65_536)?,
            set_aside_max: self.number(&raw.set_aside_max, "set_aside_max", 0..=1_024)?,
            set_aside_after: self.duration_ms(&raw.set_aside_after_ms, "set_aside_after_ms", 0..=60_000)?,
            iv_source: match raw.iv_source {
                None | Some(RawIvSource::Random) => IvSource::Random,
                Some(RawIvSource::Encryption) => IvSource::Encryption,
            },
            health_key: match raw.health_key_label {
                None => None,
                Some(label) => Some(KeyName::Label(self.not_empty(label, "health_key_label")?)),
            },
        })
    }

    fn credential(&self, at: usize, raw: RawCredential) -> Result<CredentialConfig, ConfigError> {
        // A stand-in of the right shape leaves only the id to object to; the secret itself is read later.
        Credential::new(raw.access_key_id.as_ref(), Secret::new("A".repeat(43)))
            .map_err(|error| self.error(&raw.access_key_id, format!("{error}: correct access_key_id")))?;
        let secret = self.secret(
            at,
            raw.secret_file,
            raw.secret_env,
            "secret access key",
            "secret_file",
            "secret_env",
        )?;
        Ok(CredentialConfig { access_key_id: self.placed(raw.access_key_id), secret })
    }

    fn secret(
        &self,
        at: usize,
        file: At<String>,
        env: At<String>,
        what: &str,
        file_key: &str,
        env_key: &str,
    ) -> Result<Placed<SecretPlace>, ConfigError> {
        match (file, env) {
            (Some(file), None) => {
                let Placed { line, value } = self.path(file);
                Ok(Placed { line, value: SecretPlace::File(value) })
            }
            (None, Some(env)) => {
                Ok(Placed { line: self.line(&env), value: SecretPlace::Env(self.not_empty(env, env_key)?) })
            }
            (None, None) => {
                Err(self.error_at(at, format!("the {what} is missing: add either {file_key} or {env_key}")))
            }
            (Some(_), Some(env)) => Err(self.error(
                &env,
                format!("the {what} has two places, {file_key} and {env_key}: remove one of the two"),
            )),
        }
    }

    fn keys(
        &self,
        find_keys_by: Option<RawFindKeysBy>,
        keys: Vec<Spanned<RawKey>>,
    ) -> Result<(KeyDirectory, BTreeMap<KeyId, usize>), ConfigError> {
        let others = match find_keys_by {
            None | Some(RawFindKeysBy::Label) => OtherKeys::ByLabel,
            Some(RawFindKeysBy::Entry) => OtherKeys::NotFound,
        };
        let mut entries = BTreeMap::new();
        let mut lines = BTreeMap::new();
        for key in keys {
            let key = key.into_inner();
            let id = KeyId::parse(key.id.as_ref())
                .map_err(|error| self.error(&key.id, format!("{error}: correct the id")))?;
            let line = self.line(&key.id);
            if let Some(first) = lines.insert(id.clone(), line) {
                return Err(self.twice(line, "key id", id.as_str(), first));
            }
            entries.insert(id, self.key_entry(key)?);
        }
        Ok((KeyDirectory { entries, others }, lines))
    }

    fn key_entry(&self, key: RawKey) -> Result<KeyEntry, ConfigError> {
        let mut versions = BTreeMap::new();
        let mut lines = BTreeMap::new();
        for version in key.versions.into_inner() {
            let at = version.span().start;
            let version = version.into_inner();
            let line = self.line(&version.version);
            let number = self.version(&version.version, "version")?;
            let name = match (version.label, version.id) {
                (Some(label), None) => KeyName::Label(self.not_empty(label, "label")?),
                (None, Some(id)) => KeyName::id_from_hex(id.as_ref()).map_err(|error| {
                    self.error(&id, format!("id: {error}: write the CKA_ID in hexadecimal"))
                })?,
                _ => {
                    return Err(self.error_at(
                        at,
                        format!("version {}: name its key object by one of label or id", number.0),
                    ));
                }
            };
            if let Some(first) = lines.insert(number, line) {
                return Err(self.twice(line, "version", &number.0.to_string(), first));
            }
            versions.insert(number, name);
        }
        let current = self.version(&key.current_version, "current_version")?;
        if !versions.contains_key(&current) {
            return Err(self.error(
                &key.current_version,
                format!(
                    "current_version = {} is not among the versions: add it to them, or name another",
                    current.0
                ),
            ));
        }
        Ok(KeyEntry { current, versions })
    }

    fn version(&self, value: &Spanned<u64>, key: &str) -> Result<KeyVersion, ConfigError> {
        match u8::try_from(*value.as_ref()) {
            Ok(number) if number > 0 => Ok(KeyVersion(number)),
            _ => {
                Err(self.error(value, format!("{key} = {} is out of range: write 1 to 255", value.as_ref())))
            }
        }
    }

    /// `number` counts the rules of a key store from 1, and names the ones without a name.
    fn rule(&self, number: usize, allow: RawAllow) -> Result<Rule, ConfigError> {
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
    fn list(&self, list: At<Vec<Spanned<String>>>, key: &str) -> Result<Vec<Spanned<String>>, ConfigError> {
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
