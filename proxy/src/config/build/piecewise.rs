//! What `build` reads, one piece at a time, for the commands that look at each by itself.
//!
//! Place on the map: part of `build`; `doctor`, `keys list` and `console-json` use it.

use super::super::{Config, ConfigError, CredentialConfig, HsmConfig};
use crate::env::Env;
use crate::hsm::pkcs11::Pkcs11Settings;
use crate::secret::Secret;
use crate::sigv4::Credential;
use std::sync::Arc;

impl Config {
    /// What to open for an HSM: its token, its PIN from wherever that is kept, and how it is used.
    ///
    /// # Errors
    /// When the PIN cannot be read.
    pub fn hsm_settings(&mut self, hsm: &HsmConfig) -> Result<Pkcs11Settings, ConfigError> {
        let pin = self.secret(&hsm.pin, "PIN")?;
        let mut settings = Pkcs11Settings::new(&hsm.module.value, hsm.token.value.clone(), pin);
        settings.name.clone_from(&hsm.name.value);
        settings.sessions_max = hsm.sessions_max.unwrap_or(settings.sessions_max);
        settings.set_aside_max = hsm.set_aside_max.unwrap_or(settings.set_aside_max);
        settings.iv_source = hsm.iv_source;
        settings.health_key.clone_from(&hsm.health_key);
        Ok(settings)
    }

    /// The secret of a credential, its shape checked.
    ///
    /// # Errors
    /// When it cannot be read, or is no secret access key (XKS-AUTH-3).
    pub fn secret_access_key(&mut self, credential: &CredentialConfig) -> Result<Secret, ConfigError> {
        let secret = self.secret(&credential.secret, "secret access key")?;
        Credential::new(&credential.access_key_id.value, secret.clone())
            .map_err(|error| self.error(credential.secret.line, format!("{error}: correct it")))?;
        Ok(secret)
    }

    /// Reads certificate and key and puts them together, as the daemon does at its start.
    ///
    /// # Errors
    /// When one of them cannot be read, they do not belong together, or the certificate is not valid now.
    pub fn check_tls(&mut self, env: Arc<dyn Env>) -> Result<(), ConfigError> {
        self.served(env).map(drop)
    }
}
