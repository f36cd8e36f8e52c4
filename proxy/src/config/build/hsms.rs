//! The HSMs of a configuration, opened once each and closed together.
//!
//! Place on the map: part of `build`.

use super::super::{Config, ConfigError, HsmConfig};
use crate::hsm::pkcs11::{Module, OpenError, Pkcs11Hsm, Pkcs11Settings};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How long a running HSM call may hold up the end of the process.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// Open HSMs. Dropping this closes them and waits for it, blocking, up to a second each: the process must not exit
/// while their threads are inside a library, which by then is being torn down.
#[derive(Default)]
pub struct Hsms(pub(super) Vec<Arc<Pkcs11Hsm>>);

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

/// How an HSM is opened: whether one that cannot be used at present is an error.
pub(super) type OpenOn = fn(Arc<Module>, Pkcs11Settings) -> Result<Pkcs11Hsm, OpenError>;

impl Config {
    /// Loads each module once, for PKCS#11 keeps one state per process and library, and opens each HSM once.
    pub(super) fn open_hsms(&mut self, open_on: OpenOn) -> Result<Hsms, ConfigError> {
        let mut modules: BTreeMap<PathBuf, Arc<Module>> = BTreeMap::new();
        let mut open = Hsms::default();
        for hsm in self.hsms.clone() {
            // One file by two names is one library.
            let path = &hsm.module.value;
            let file = if path.components().count() > 1 { path.canonicalize().ok() } else { None };
            let file = file.unwrap_or_else(|| path.clone());
            // PINs before libraries: what can be known at once is said at once.
            let pin = self.secret(&hsm.pin, "PIN")?;
            let module = match modules.get(&file) {
                Some(loaded) => Arc::clone(loaded),
                None => Module::load(&hsm.module.value).map_err(|error| self.explain(&hsm, &error))?,
            };
            modules.insert(file, Arc::clone(&module));
            let mut settings = Pkcs11Settings::new(&hsm.module.value, hsm.token.value.clone(), pin);
            settings.name.clone_from(&hsm.name.value);
            settings.sessions_max = hsm.sessions_max.unwrap_or(settings.sessions_max);
            settings.queue_max = hsm.queue_max.unwrap_or(settings.queue_max);
            settings.set_aside_max = hsm.set_aside_max.unwrap_or(settings.set_aside_max);
            settings.set_aside_after = hsm.set_aside_after.unwrap_or(settings.set_aside_after);
            settings.session_idle_max = hsm.session_idle_max.unwrap_or(settings.session_idle_max);
            settings.iv_source = hsm.iv_source;
            settings.health_key = hsm.health_key.clone();
            let opened = open_on(module, settings).map_err(|error| self.explain(&hsm, &error))?;
            open.0.push(Arc::new(opened));
        }
        Ok(open)
    }

    /// At the line of the setting that is to be corrected.
    pub(super) fn explain(&self, hsm: &HsmConfig, error: &OpenError) -> ConfigError {
        let line = match error {
            OpenError::ModuleAbsent(_) | OpenError::ModuleNotLoadable(..) | OpenError::NotPkcs11(_) => {
                hsm.module.line
            }
            OpenError::NoSuchToken { .. } | OpenError::AmbiguousToken { .. } => hsm.token.line,
            OpenError::PinIncorrect(_)
            | OpenError::PinLocked(_)
            | OpenError::PinExpired(_)
            | OpenError::PinFinalTry(_)
            | OpenError::PinNotSet(_) => hsm.pin.line,
            _ => hsm.name.line,
        };
        self.error(line, format!("hsm {:?}: {error}", hsm.name.value))
    }
}
