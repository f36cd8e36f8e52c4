//! [`Config`] → [`Ready`]: reads secrets and certificates, opens each HSM once, puts the parts together.
//!
//! Place on the map: the last step of `config`, and the only one that reads more than the configuration's text.

mod access;
mod command;
mod created;
mod file;
mod groups;
mod hsms;
mod piecewise;
mod secret;
mod tls;

pub(super) use file::read_limited;
pub use groups::Groups;
pub use hsms::Hsms;

use super::{Config, ConfigError};
use crate::app::{App, KeyStore};
use crate::authorise::Access;
use crate::env::Env;
use crate::events::Subscriber;
use crate::hsm::Hsm;
use crate::hsm::group::HsmGroup;
use crate::hsm::monitored::Monitored;
use crate::quota::Quota;
use crate::sigv4::Credential;
use crate::tls::ServerTls;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the daemon serves, and the configuration it was made from.
pub struct Ready {
    /// Of `listen` and the names for logs.
    pub config: Config,
    /// `None` serves plain HTTP.
    pub tls: Option<Arc<ServerTls>>,
    /// The proxy.
    pub app: Arc<App>,
    /// The open HSMs, in the order of [`Config::hsms`].
    pub hsms: Hsms,
    /// What is known of the health of each, in the same order. [`Monitored::watch`] is to be run for each.
    pub monitors: Vec<Arc<Monitored>>,
    /// The HSMs of each key store as one, for metrics.
    pub groups: Groups,
}

impl Config {
    /// Reads what the configuration names, opens the HSMs, logs in, and builds the proxy. New warnings are added to
    /// [`Config::warnings`]. An HSM that cannot be used at present is no error ([`Pkcs11Hsm::start_on`]).
    ///
    /// # Errors
    /// For the first thing that is missing, unreadable or refused, at the line that names it.
    pub fn build(self, env: Arc<dyn Env>, subscriber: Arc<dyn Subscriber>) -> Result<Ready, ConfigError> {
        self.build_with(true, env, subscriber)
    }

    /// As [`build`](Self::build), which waits for an HSM that cannot be reached at present; here that is an error, for
    /// whoever wants to know the reason.
    ///
    /// # Errors
    /// As `build`, and when an HSM cannot be reached.
    pub fn build_impatiently(
        self,
        env: Arc<dyn Env>,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Ready, ConfigError> {
        self.build_with(false, env, subscriber)
    }

    fn build_with(
        mut self,
        patient: bool,
        env: Arc<dyn Env>,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Ready, ConfigError> {
        let tls = self.served(Arc::clone(&env))?.map(ServerTls::new);
        // Secrets before HSMs: what can be known at once is said at once.
        let credentials = self.credentials()?;
        let accesses = self.accesses()?;
        let hsms = self.open_hsms(patient)?;
        let monitors = self.monitors(&hsms);
        let made = self.groups(&hsms, &monitors, None)?;
        let stores = self.stores(credentials, accesses, &made);
        let groups = Groups::default();
        groups.replace(made);
        let app = App::new(self.settings.clone(), stores, env, subscriber)
            .map_err(|error| self.error(1, error.to_string()))?;
        Ok(Ready { config: self, tls, app: Arc::new(app), hsms, monitors, groups })
    }

    fn stores(
        &self,
        credentials: Vec<Vec<Credential>>,
        accesses: Vec<Access>,
        groups: &BTreeMap<String, Arc<HsmGroup>>,
    ) -> Vec<KeyStore> {
        let mut stores = Vec::new();
        for ((store, credentials), access) in self.key_stores.iter().zip(credentials).zip(accesses) {
            // Made of the same list.
            let Some(group) = groups.get(&store.name) else { continue };
            let hsm: Arc<dyn Hsm> = Arc::<HsmGroup>::clone(group);
            stores.push(KeyStore {
                region: store.region.clone(),
                keys: store.keys.clone(),
                access,
                quota: store.quota.map(Quota::new),
                sample_proxy: store.sample_proxy.clone(),
                ..KeyStore::new(&*store.name, store.prefix.clone(), credentials, hsm)
            });
        }
        stores
    }
}

impl Ready {
    /// Takes over a configuration read anew: of the key stores credentials, keys, rules (XKS-AUTH-4, XKS-AZ-4), quotas
    /// and which HSMs they use, of TLS the certificate, its key and the known clients, and how often files are looked at. No
    /// connection is dropped and no HSM is opened again; TLS serves new connections only.
    ///
    /// # Errors
    /// When something in it is wrong, or anything else has changed, which needs a restart. Then all stays as it was.
    pub fn reload(&mut self, mut config: Config) -> Result<(), ConfigError> {
        let old = &self.config;
        let changed = [
            ("`listen`", config.listen != old.listen),
            ("whether there is a [server.tls]", config.tls.is_some() != old.tls.is_some()),
            ("[ops]", config.ops != old.ops),
            ("[log]", config.log_level != old.log_level),
            ("[otel]", config.otel != old.otel),
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
                retriable: false,
            });
        }
        // All is read before anything is replaced.
        let served = config.served(Arc::clone(&self.app.env))?;
        let credentials = config.credentials()?;
        let groups = config.groups(&self.hsms, &self.monitors, Some((&self.config, &self.groups)))?;
        let accesses = config.accesses()?;
        let stores = config.stores(credentials, accesses, &groups);
        self.app.replace_stores(stores).map_err(|error| config.error(1, error.to_string()))?;
        self.groups.replace(groups);
        if let (Some(tls), Some(served)) = (&self.tls, served) {
            tls.replace(served);
        }
        self.config = config;
        Ok(())
    }
}
