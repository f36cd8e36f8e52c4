//! The configuration file: TOML text → [`Config`], every range and cross-reference checked → the [`App`] to serve.
//!
//! Place on the map: `main` calls [`Config::load`] and [`Config::build`]. This is the only module that reads files
//! and the environment. Every mistake is a [`ConfigError`], one line long: file, line, what is wrong, what to do.
//! `config.example.toml` shows every key.

mod build;
mod check;
mod error;
mod raw;

pub use build::{Hsms, Ready};
pub use error::ConfigError;

use crate::app::{KeyDirectory, Settings};
use crate::authorise::Access;
use crate::hsm::pkcs11::{IvSource, TokenChoice};
use crate::key::{KeyId, KeyName, UriPrefix};
use crate::quota::Rate;
use std::collections::BTreeMap;
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
    /// Who makes the IVs.
    pub iv_source: IvSource,
    /// The key that GetHealthStatus tries.
    pub health_key: Option<KeyName>,
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
    /// Index into [`Config::hsms`].
    pub hsm: usize,
    /// Which HSM key stands behind an external key id.
    pub keys: KeyDirectory,
    /// The line of each entry of `keys`, to say where a key that the HSM does not know is named.
    pub key_lines: BTreeMap<KeyId, usize>,
    /// Who may do what.
    pub access: Access,
    /// How many requests it may make; `None` for as many as there is room for.
    pub quota: Option<Rate>,
    /// Who may sign, at least one.
    pub credentials: Vec<CredentialConfig>,
}

/// One `[[key_store.credential]]`.
#[derive(Clone, Debug)]
pub struct CredentialConfig {
    /// The public half.
    pub access_key_id: Placed<String>,
    /// The secret half.
    pub secret: Placed<SecretPlace>,
}

impl Config {
    /// Reads and checks a file. Relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// When the file cannot be read, or for the first mistake in it.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let name = file.display().to_string();
        match std::fs::read_to_string(file) {
            Ok(text) => Self::parse(&name, &text),
            Err(error) => Err(ConfigError {
                file: name,
                line: None,
                message: format!(
                    "cannot read the configuration ({error}): name an existing, readable file after --config"
                ),
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

    /// An error at a line of this configuration's file.
    pub fn error(&self, line: usize, message: impl Into<String>) -> ConfigError {
        ConfigError { file: self.file.clone(), line: Some(line), message: message.into() }
    }
}
