//! [`Config`] → [`Ready`]: reads secrets and certificates, opens each HSM once, puts the parts together.
//!
//! Place on the map: the last step of `config`, and the only one that reads more than the configuration's text.

mod hsms;
mod secret;
mod tls;

pub use hsms::Hsms;

use super::{Config, ConfigError};
use crate::app::{App, KeyStore};
use crate::env::Env;
use crate::events::Subscriber;
use crate::hsm::Hsm;
use crate::hsm::pkcs11::Pkcs11Hsm;
use crate::quota::Quota;
use crate::sigv4::Credential;
use std::sync::Arc;

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

impl Config {
    /// Reads what the configuration names, opens the HSMs, logs in, and builds the proxy. New warnings are added to
    /// [`Config::warnings`].
    ///
    /// # Errors
    /// For the first thing that is missing, unreadable or refused, at the line that names it.
    pub fn build(mut self, env: Arc<dyn Env>, subscriber: Arc<dyn Subscriber>) -> Result<Ready, ConfigError> {
        let tls = match self.tls.clone() {
            None => None,
            Some(files) => Some(self.server_config(&files, Arc::clone(&env))?),
        };
        // Secrets before HSMs: what can be known at once is said at once.
        let credentials = self.credentials()?;
        let hsms = self.open_hsms()?;
        let stores = self.stores(credentials, &hsms);
        let app = App::new(self.settings.clone(), stores, env, subscriber)
            .map_err(|error| self.error(1, error.to_string()))?;
        Ok(Ready { config: self, tls, app: Arc::new(app), hsms })
    }

    fn stores(&self, credentials: Vec<Vec<Credential>>, hsms: &[Arc<Pkcs11Hsm>]) -> Vec<KeyStore> {
        let mut stores = Vec::new();
        for (store, credentials) in self.key_stores.iter().zip(credentials) {
            // `check` has resolved the index against the same list.
            let Some(hsm) = hsms.get(store.hsm) else { continue };
            // Key stores that share an HSM share it fairly: each by a handle of its own.
            let hsm: Arc<dyn Hsm> = Arc::new(hsm.another());
            stores.push(KeyStore {
                region: store.region.clone(),
                keys: store.keys.clone(),
                access: store.access.clone(),
                quota: store.quota.map(Quota::new),
                ..KeyStore::new(&*store.name, store.prefix.clone(), credentials, hsm)
            });
        }
        stores
    }
}

impl Ready {
    /// Takes over the key stores of a configuration read anew: credentials, keys, rules and quotas (XKS-AUTH-4, XKS-AZ-4).
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
