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

/// What opening an HSM takes, and its index in [`Config::hsms`].
struct ToOpen {
    index: usize,
    module: Arc<Module>,
    settings: Pkcs11Settings,
}

/// Opens the HSMs of each module on a thread of their own: a device that hangs holds up those that share its library, and
/// no others. Of one module they are opened in turn, up to the first error, so that a PIN that is refused is not tried
/// for another HSM on the same token.
fn open_side_by_side(
    to_open: BTreeMap<PathBuf, Vec<ToOpen>>,
    patient: bool,
) -> Vec<(usize, Result<Pkcs11Hsm, OpenError>)> {
    let open_in_turn = move |hsms: Vec<ToOpen>| {
        let mut outcomes = Vec::new();
        for ToOpen { index, module, settings } in hsms {
            let open = if patient { Pkcs11Hsm::start_on } else { Pkcs11Hsm::open_on };
            let outcome = open(module, settings);
            let failed = outcome.is_err();
            outcomes.push((index, outcome));
            if failed {
                break;
            }
        }
        outcomes
    };
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        let mut outcomes = Vec::new();
        for hsms in to_open.into_values() {
            let first = hsms.first().map(|hsm| hsm.index).unwrap_or_default();
            let thread = std::thread::Builder::new()
                .name("hsm-open".into())
                .spawn_scoped(scope, move || open_in_turn(hsms));
            match thread {
                Ok(thread) => threads.push((first, thread)),
                Err(error) => outcomes.push((first, Err(OpenError::NoThread(error.to_string())))),
            }
        }
        for (first, thread) in threads {
            let panicked = |_| {
                let why = "the thread that opens it has ended early".to_owned();
                vec![(first, Err(OpenError::NoThread(why)))]
            };
            outcomes.extend(thread.join().unwrap_or_else(panicked));
        }
        outcomes
    })
}

impl Config {
    /// Loads each module once, for PKCS#11 keeps one state per process and library, and opens each HSM once. `patient`: one
    /// that cannot be reached at present is no error.
    pub(super) fn open_hsms(&mut self, patient: bool) -> Result<Hsms, ConfigError> {
        let mut modules: BTreeMap<PathBuf, Arc<Module>> = BTreeMap::new();
        let mut to_open: BTreeMap<PathBuf, Vec<ToOpen>> = BTreeMap::new();
        for (index, hsm) in self.hsms.clone().into_iter().enumerate() {
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
            modules.insert(file.clone(), Arc::clone(&module));
            let mut settings = Pkcs11Settings::new(&hsm.module.value, hsm.token.value.clone(), pin);
            settings.name.clone_from(&hsm.name.value);
            settings.sessions_max = hsm.sessions_max.unwrap_or(settings.sessions_max);
            settings.queue_max = hsm.queue_max.unwrap_or(settings.queue_max);
            settings.set_aside_max = hsm.set_aside_max.unwrap_or(settings.set_aside_max);
            settings.set_aside_after = hsm.set_aside_after.unwrap_or(settings.set_aside_after);
            settings.session_idle_max = hsm.session_idle_max.unwrap_or(settings.session_idle_max);
            settings.iv_source = hsm.iv_source;
            settings.health_key = hsm.health_key.clone();
            to_open.entry(file).or_default().push(ToOpen { index, module, settings });
        }
        let mut outcomes = open_side_by_side(to_open, patient);
        outcomes.sort_by_key(|(index, _)| *index);
        let mut open = Hsms::default();
        let mut first_error = None;
        for (index, outcome) in outcomes {
            match (outcome, self.hsms.get(index)) {
                (Ok(opened), _) => open.0.push(Arc::new(opened)),
                (Err(error), Some(hsm)) if first_error.is_none() => {
                    first_error = Some(self.explain(hsm, &error));
                }
                (Err(_), _) => {}
            }
        }
        match first_error {
            Some(error) => Err(error),
            None => Ok(open),
        }
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
        let explained = self.error(line, format!("hsm {:?}: {error}", hsm.name.value));
        if matches!(error, OpenError::NoThread(_)) { explained.may_pass() } else { explained }
    }
}
