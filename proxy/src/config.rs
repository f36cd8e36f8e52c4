//! The configuration file: TOML text → [`Config`], every range and cross-reference checked → the [`App`] to serve.
//!
//! Place on the map: `main` calls [`Config::load`] and [`Config::build`]. This is the only module that reads files
//! and the environment. Every mistake is a [`ConfigError`], one line long: file, line, what is wrong, what to do.
//! `config.example.toml` shows every key.

mod build;
mod check;
mod error;
mod fingerprint;
mod raw;

pub use build::{Groups, Hsms, Ready};
pub use error::ConfigError;
pub use fingerprint::Fingerprint;

use crate::app::{KeyDirectory, Settings};
use crate::authorise::Access;
use crate::env::UnixTime;
use crate::hsm::group::GroupSettings;
use crate::hsm::pkcs11::{IvSource, TokenChoice};
use crate::key::{KeyId, KeyName, UriPrefix};
use crate::quota::Rate;
use crate::scheme::SampleProxy;
use crate::tls::SubjectName;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A configuration in which everything that can be known without reading further files has been checked.
#[derive(Debug)]
pub struct Config {
    /// The file it came from, as the user named it.
    pub file: String,
    /// Where to listen, at least one address. Port 0 lets the system choose.
    pub listen: Vec<Placed<SocketAddr>>,
    /// Certificate and key; `None` serves plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Where to answer probes and Prometheus; `None` answers neither.
    pub ops: Option<Placed<SocketAddr>>,
    /// How much the daemon says of itself; audit events are always written.
    pub log_level: LogLevel,
    /// Where to send traces; `None` makes none.
    pub otel: Option<OtelConfig>,
    /// How often the files are looked at for changes; `None` leaves it to SIGHUP.
    pub watch_interval: Option<Duration>,
    /// Limits, their ranges checked, and what the proxy says of itself.
    pub settings: Settings,
    /// The HSMs, each named once.
    pub hsms: Vec<HsmConfig>,
    /// The key stores, each name and prefix once.
    pub key_stores: Vec<KeyStoreConfig>,
    /// What is legal and probably not meant, one sentence each.
    pub warnings: Vec<String>,
}

/// Where the server's certificate chain and private key are, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate first, then the intermediate ones.
    pub certificate_file: Placed<PathBuf>,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key_file: Placed<PathBuf>,
    /// Which client certificates are demanded; `None` demands none.
    pub client: Option<TlsClientConfig>,
}

/// `[server.tls.client]`: who may connect (XKS-AUTH-6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsClientConfig {
    /// The authorities that issue the certificates, PEM.
    pub ca_file: Placed<PathBuf>,
    /// The names, one of which a certificate must bear; at least one.
    pub subject_names: Vec<SubjectName>,
}

/// `[log] level`: lines of this weight and heavier are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What needs somebody now.
    Error,
    /// What needs somebody some day.
    Warn,
    /// Starts, ends and reloads too.
    #[default]
    Info,
    /// What ends connections early too.
    Debug,
    /// Everything.
    Trace,
}

/// `[otel]`, with an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct OtelConfig {
    /// Base URI of an OTLP/gRPC collector, plain HTTP.
    pub endpoint: Placed<String>,
    /// The resource attribute `service.name`.
    pub service_name: String,
    /// Share of the requests that become traces, 0 to 1.
    pub sample_ratio: f64,
}

/// A value and the line it stands on, for mistakes that only show later.
#[derive(Clone, Debug)]
pub struct Placed<T> {
    /// From 1.
    pub line: usize,
    /// The value.
    pub value: T,
}

/// Two are equal when their values are: a line more in the file changes nothing.
impl<T: PartialEq> PartialEq for Placed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Placed<T> {}

/// Where a PIN or a secret is kept. Never in the configuration file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretPlace {
    /// The file's text, without the line break at its end.
    File(PathBuf),
    /// The environment variable's value.
    Env(String),
    /// What the command writes to its standard output, without the line break at its end.
    Command(HelperCommand),
}

/// A program that tells a secret. Run without a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HelperCommand {
    /// Its path.
    pub program: PathBuf,
    /// Its arguments. Every user of the machine can see them while it runs.
    pub arguments: Vec<String>,
}

/// One `[[hsm]]`. What the numbers mean and their defaults are [`Pkcs11Settings`]'s.
///
/// [`Pkcs11Settings`]: crate::hsm::pkcs11::Pkcs11Settings
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HsmConfig {
    /// The name key stores use.
    pub name: Placed<String>,
    /// The vendor's PKCS#11 library; a bare file name is searched as the system does.
    pub module: Placed<PathBuf>,
    /// Which token of it.
    pub token: Placed<TokenChoice>,
    /// The user PIN.
    pub pin: Placed<SecretPlace>,
    /// Sessions, each with its own thread.
    pub sessions_max: Option<usize>,
    /// Calls that may wait for a session.
    pub queue_max: Option<usize>,
    /// Threads that may hang in a call.
    pub set_aside_max: Option<usize>,
    /// How long after its deadline a call is taken for hung.
    pub set_aside_after: Option<Duration>,
    /// How long a session may be unused before it is tried.
    pub session_idle_max: Option<Duration>,
    /// Who makes the IVs.
    pub iv_source: IvSource,
    /// The key that GetHealthStatus tries.
    pub health_key: Option<KeyName>,
    /// How often its health is checked.
    pub health_interval: Option<Duration>,
}

/// One `[[key_store]]`.
#[derive(Debug)]
pub struct KeyStoreConfig {
    /// For logs.
    pub name: String,
    /// The path before `/kms/xks/v1`.
    pub prefix: UriPrefix,
    /// The region KMS must sign for; `None` accepts any.
    pub region: Option<String>,
    /// Indices into [`Config::hsms`], 1 to 10, each once.
    pub hsms: Vec<usize>,
    /// How it changes between them.
    pub failover: GroupSettings,
    /// Which HSM key stands behind an external key id.
    pub keys: KeyDirectory,
    /// The line of each entry of `keys`, to say where a key that the HSM does not know is named.
    pub key_lines: BTreeMap<KeyId, usize>,
    /// What AWS's sample proxy made for this key store; `None` for nothing.
    pub sample_proxy: Option<SampleProxy>,
    /// Who may do what: rules and modes. The policies come from their files when they are built.
    pub access: Access,
    /// Where the Cedar policies are, if it has any.
    pub cedar: Option<CedarConfig>,
    /// How many requests it may make; `None` for as many as there is room for.
    pub quota: Option<Rate>,
    /// Who may sign, at least one.
    pub credentials: Vec<CredentialConfig>,
}

/// `[key_store.cedar]`, but for the mode, which is [`Access::policies_mode`].
#[derive(Clone, Debug)]
pub struct CedarConfig {
    /// The policies.
    pub policy_file: Placed<PathBuf>,
    /// The schema they are checked against; `None` takes the built-in one.
    pub schema_file: Option<Placed<PathBuf>>,
}

/// One `[[key_store.credential]]`.
#[derive(Clone, Debug)]
pub struct CredentialConfig {
    /// The public half.
    pub access_key_id: Placed<String>,
    /// The secret half.
    pub secret: Placed<SecretPlace>,
    /// Since when it is in use, for metrics; `None` leaves it to the date of the secret's file.
    pub created: Option<UnixTime>,
}

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// When the file cannot be read, or for the first mistake in it.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let name = file.display().to_string();
        let text = build::read_limited(file).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| std::io::Error::other("it is not UTF-8 text"))
        });
        match text {
            Ok(text) => Self::parse(&name, &text),
            Err(error) => Err(ConfigError {
                file: name,
                line: None,
                message: format!(
                    "cannot read the configuration ({error}): name an existing, readable file after --config"
                ),
                retriable: false,
            }),
        }
    }

    /// Checks a text. Pure: reads no file and no environment.
    ///
    /// # Errors
    /// For the first mistake.
    pub fn parse(file: &str, text: &str) -> Result<Self, ConfigError> {
        let source = error::Source { file, text };
        let raw: raw::Raw = toml::from_str(text).map_err(|error| source.explain(&error))?;
        check::check(raw, &source)
    }

    /// Every file that a reload reads, this one included: one that changes is worth a reload. PINs are not among them,
    /// for a reload logs in nowhere.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = BTreeSet::from([PathBuf::from(&self.file)]);
        if let Some(tls) = &self.tls {
            files.extend([tls.certificate_file.value.clone(), tls.key_file.value.clone()]);
            files.extend(tls.client.iter().map(|client| client.ca_file.value.clone()));
        }
        for credential in self.key_stores.iter().flat_map(|store| &store.credentials) {
            if let SecretPlace::File(path) = &credential.secret.value {
                files.insert(path.clone());
            }
        }
        for cedar in self.key_stores.iter().filter_map(|store| store.cedar.as_ref()) {
            let named = std::iter::once(&cedar.policy_file).chain(&cedar.schema_file);
            files.extend(named.map(|file| file.value.clone()));
        }
        files
    }

    /// An error at a line of this configuration's file.
    pub fn error(&self, line: usize, message: impl Into<String>) -> ConfigError {
        ConfigError { file: self.file.clone(), line: Some(line), message: message.into(), retriable: false }
    }
}
