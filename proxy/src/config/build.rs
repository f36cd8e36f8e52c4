//! [`Config`] → [`Ready`]: reads secrets and certificates, opens each HSM once, puts the parts together.
//!
//! Place on the map: the last step of `config`, and the only one that reads more than the configuration's text.

use super::{Config, ConfigError, HsmConfig, Placed, SecretPlace, TlsFiles};
use crate::app::{App, KeyStore};
use crate::env::Env;
use crate::events::Subscriber;
use crate::hsm::Hsm;
use crate::hsm::pkcs11::{Module, OpenError, Pkcs11Hsm, Pkcs11Settings};
use crate::secret::Secret;
use crate::sigv4::Credential;
use crate::tls;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

/// What the daemon serves, and the configuration it was made from.
pub struct Ready {
    /// Of `listen` and the names for logs.
    pub config: Config,
    /// `None` serves plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// The proxy.
    pub app: Arc<App>,
    /// The open HSMs, in the order of [`Config::hsms`].
    pub hsms: Hsms,
}

/// How long a running HSM call may hold up the end of the process.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Open HSMs. Dropping this closes them and waits for it, blocking, up to a second each: the process must not exit
/// while their threads are inside a library, which by then is being torn down.
#[derive(Default)]
pub struct Hsms(Vec<Arc<Pkcs11Hsm>>);

impl std::ops::Deref for Hsms {
    type Target = [Arc<Pkcs11Hsm>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Drop for Hsms {
    fn drop(&mut self) {
        for hsm in &self.0 {
            if !hsm.close(CLOSE_PATIENCE) {
                tracing::warn!("an HSM call has not returned; it is left behind");
            }
        }
    }
}

impl Config {
    /// Reads what the configuration names, opens the HSMs, logs in, and builds the proxy. New warnings are added to
    /// [`Config::warnings`].
    ///
    /// # Errors
    /// For the first thing that is missing, unreadable or refused, at the line that names it.
    pub fn build(mut self, env: Arc<dyn Env>, subscriber: Arc<dyn Subscriber>) -> Result<Ready, ConfigError> {
        let tls = match self.tls.clone() {
            None => None,
            Some(files) => Some(self.tls(&files, Arc::clone(&env))?),
        };
        // Secrets before HSMs: what can be known at once is said at once.
        let credentials = self.credentials()?;
        let hsms = self.open_hsms()?;
        let stores = self.stores(credentials, &hsms);
        let app = App::new(self.settings.clone(), stores, env, subscriber)
            .map_err(|error| self.error(1, error.to_string()))?;
        Ok(Ready { config: self, tls, app: Arc::new(app), hsms })
    }

    /// The credentials of each key store, in order.
    fn credentials(&mut self) -> Result<Vec<Vec<Credential>>, ConfigError> {
        let places: Vec<_> = self.key_stores.iter().map(|store| store.credentials.clone()).collect();
        let mut all = Vec::new();
        for store in places {
            let mut credentials = Vec::new();
            for credential in store {
                let secret = self.secret(&credential.secret, "secret access key")?;
                credentials.push(
                    Credential::new(&credential.access_key_id.value, secret).map_err(|error| {
                        self.error(credential.secret.line, format!("{error}: correct it"))
                    })?,
                );
            }
            all.push(credentials);
        }
        Ok(all)
    }

    fn stores(&self, credentials: Vec<Vec<Credential>>, hsms: &[Arc<Pkcs11Hsm>]) -> Vec<KeyStore> {
        let mut stores = Vec::new();
        for (store, credentials) in self.key_stores.iter().zip(credentials) {
            // `check` has resolved the index against the same list.
            let Some(hsm) = hsms.get(store.hsm) else { continue };
            let hsm: Arc<dyn Hsm> = Arc::<Pkcs11Hsm>::clone(hsm);
            stores.push(KeyStore {
                region: store.region.clone(),
                keys: store.keys.clone(),
                access: store.access.clone(),
                ..KeyStore::new(&*store.name, store.prefix.clone(), credentials, hsm)
            });
        }
        stores
    }

    /// Loads each module once, for PKCS#11 keeps one state per process and library, and opens each HSM once.
    fn open_hsms(&mut self) -> Result<Hsms, ConfigError> {
        let mut modules: BTreeMap<PathBuf, Arc<Module>> = BTreeMap::new();
        let mut open = Hsms::default();
        for hsm in self.hsms.clone() {
            // PINs before libraries: what can be known at once is said at once.
            let pin = self.secret(&hsm.pin, "PIN")?;
            let module = match modules.get(&hsm.module.value) {
                Some(loaded) => Arc::clone(loaded),
                None => Module::load(&hsm.module.value).map_err(|error| self.explain(&hsm, &error))?,
            };
            modules.insert(hsm.module.value.clone(), Arc::clone(&module));
            let mut settings = Pkcs11Settings::new(&hsm.module.value, hsm.token.value.clone(), pin);
            settings.sessions_max = hsm.sessions_max.unwrap_or(settings.sessions_max);
            settings.queue_max = hsm.queue_max.unwrap_or(settings.queue_max);
            settings.set_aside_max = hsm.set_aside_max.unwrap_or(settings.set_aside_max);
            settings.set_aside_after = hsm.set_aside_after.unwrap_or(settings.set_aside_after);
            settings.iv_source = hsm.iv_source;
            settings.health_key = hsm.health_key.clone();
            let opened = Pkcs11Hsm::open_on(module, settings).map_err(|error| self.explain(&hsm, &error))?;
            open.0.push(Arc::new(opened));
        }
        Ok(open)
    }

    /// At the line of the setting that is to be corrected.
    fn explain(&self, hsm: &HsmConfig, error: &OpenError) -> ConfigError {
        let line = match error {
            OpenError::ModuleAbsent(_) | OpenError::ModuleNotLoadable(..) | OpenError::NotPkcs11(_) => {
                hsm.module.line
            }
            OpenError::NoSuchToken { .. } | OpenError::AmbiguousToken { .. } => hsm.token.line,
            OpenError::PinIncorrect(_)
            | OpenError::PinLocked(_)
            | OpenError::PinExpired(_)
            | OpenError::PinNotSet(_) => hsm.pin.line,
            _ => hsm.name.line,
        };
        self.error(line, format!("hsm {:?}: {error}", hsm.name.value))
    }

    fn tls(&mut self, files: &TlsFiles, env: Arc<dyn Env>) -> Result<Arc<rustls::ServerConfig>, ConfigError> {
        let (certificate, key) = (&files.certificate_file, &files.key_file);
        let pem = self.read(certificate, "certificate file")?;
        let chain = tls::certificates_from_pem(&pem, &certificate.value.display().to_string())
            .map_err(|error| self.error(certificate.line, error.to_string()))?;
        let pem = Zeroizing::new(self.read(key, "private key file")?);
        self.warn_if_readable(key, "private key");
        let private = tls::private_key_from_pem(&pem, &key.value.display().to_string())
            .map_err(|error| self.error(key.line, error.to_string()))?;
        tls::server_config(chain, private, env)
            .map_err(|error| self.error(certificate.line, error.to_string()))
    }

    fn secret(&mut self, place: &Placed<SecretPlace>, what: &str) -> Result<Secret, ConfigError> {
        let (mut text, source) = match &place.value {
            SecretPlace::Env(name) => {
                #[expect(clippy::disallowed_methods, reason = "this is the door to the environment")]
                let value = std::env::var(name);
                let text = value.map_err(|_| {
                    self.error(
                        place.line,
                        format!("the environment variable {name} is not set (or not UTF-8): put the {what} into it"),
                    )
                })?;
                (text, format!("the environment variable {name}"))
            }
            SecretPlace::File(path) => {
                let at = Placed { line: place.line, value: path.clone() };
                let bytes = self.read(&at, &format!("{what} file"))?;
                self.warn_if_readable(&at, what);
                let text = String::from_utf8(bytes).map_err(|_| {
                    self.error(place.line, format!("{} is not text: write the {what} there", path.display()))
                })?;
                (text, path.display().to_string())
            }
        };
        // Editors and `echo` end a file with a line break that belongs to no secret.
        let len = text.strip_suffix('\n').map_or(text.len(), |line| line.trim_end_matches('\r').len());
        text.truncate(len);
        let secret = Secret::new(text);
        if secret.expose().is_empty() {
            return Err(self.error(place.line, format!("{source} is empty: write the {what} there")));
        }
        Ok(secret)
    }

    fn read(&self, file: &Placed<impl AsRef<Path>>, what: &str) -> Result<Vec<u8>, ConfigError> {
        let path = file.value.as_ref();
        std::fs::read(path).map_err(|error| {
            self.error(
                file.line,
                format!(
                    "cannot read the {what} {} ({error}): create it, or correct the path and its permissions",
                    path.display()
                ),
            )
        })
    }

    fn warn_if_readable(&mut self, file: &Placed<impl AsRef<Path>>, what: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = file.value.as_ref();
        if std::fs::metadata(path).is_ok_and(|facts| facts.permissions().mode() & 0o004 != 0) {
            self.warnings.push(format!(
                "{}:{}: every user of this machine can read the {what} in {}: chmod 600 it",
                self.file,
                file.line,
                path.display()
            ));
        }
    }
}

impl Ready {
    /// Takes over the key stores of a configuration read anew: credentials, keys and rules (XKS-AUTH-4, XKS-AZ-4).
    /// No connection is dropped and no HSM is opened again.
    ///
    /// # Errors
    /// When something in it is wrong, or anything else has changed, which needs a restart. Then all stays as it was.
    pub fn reload(&mut self, mut config: Config) -> Result<(), ConfigError> {
        let old = &self.config;
        let changed = [
            ("[server]", config.listen != old.listen || config.tls != old.tls),
            ("[limits], [identity] or ping_path", config.settings != old.settings),
            ("[[hsm]]", config.hsms != old.hsms),
        ];
        if let Some((what, _)) = changed.iter().find(|(_, changed)| *changed) {
            return Err(ConfigError {
                file: config.file,
                line: None,
                message: format!(
                    "{what} has changed, which a reload cannot take over: restart, or undo that change"
                ),
            });
        }
        let credentials = config.credentials()?;
        let stores = config.stores(credentials, &self.hsms);
        self.app.replace_stores(stores).map_err(|error| config.error(1, error.to_string()))?;
        self.config = config;
        Ok(())
    }
}
