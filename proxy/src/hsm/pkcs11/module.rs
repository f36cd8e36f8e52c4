//! The loaded library: shared by all sessions, initialised again when it has to be.
//!
//! Place on the map: below `session`. PKCS#11 keeps one state per process and library, so everything that
//! ends that state (removal of the token, `C_Finalize`) is counted here, and a session from before is not
//! used again: its handle, or a key's, may by then name something else.

use super::settings::OpenError;
use super::turn::Turns;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::time::Duration;

/// How long an opening, closing or searching call may keep the others waiting before they go ahead of it.
const TURN_PATIENCE: Duration = Duration::from_secs(2);

/// So many failed openings in a row, with no session left, before the library is finalised and initialised
/// again.
const FAILURES_BEFORE_RESET: u32 = 3;

/// A PKCS#11 library in this process. Load each library once and share it among the [`Pkcs11Hsm`]s of its
/// tokens: only then does one of them not reset the library under the other.
///
/// [`Pkcs11Hsm`]: super::Pkcs11Hsm
pub struct Module {
    pkcs11: Pkcs11,
    /// Read while a call is inside the library, written while it is initialised.
    inside: RwLock<()>,
    pub(super) turns: Turns,
    initialisations: AtomicU64,
    removals: AtomicU64,
    life: Mutex<Life>,
}

/// Which state of the library a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Epoch {
    initialisation: u64,
    removal: u64,
}

struct Life {
    /// We initialised the library; else another part of the process did, and finalising it is not ours to do.
    ours: bool,
    sessions: usize,
    failures: u32,
}

impl Module {
    /// Loads and initialises the library at `path`; a bare file name is searched as the system does.
    ///
    /// # Errors
    /// When there is no such file, the system cannot load it, it is no PKCS#11 module, or `C_Initialize`
    /// fails.
    pub fn load(path: &Path) -> Result<Arc<Self>, OpenError> {
        if path.components().count() > 1 && !path.exists() {
            return Err(OpenError::ModuleAbsent(path.to_owned()));
        }
        let pkcs11 = Pkcs11::new(path).map_err(|error| match error {
            Error::LibraryLoading(why) => {
                OpenError::ModuleNotLoadable(path.to_owned(), one_line(&why.to_string()))
            }
            Error::MissingSymbol(_) | Error::NullFunctionPointer => OpenError::NotPkcs11(path.to_owned()),
            other => OpenError::call(&other),
        })?;
        let ours = initialise(&pkcs11)?;
        // The library stays loaded until the process ends: a thread may still be inside it, in a call that
        // never returned, when all else is gone.
        std::mem::forget(pkcs11.clone());
        Ok(Arc::new(Self {
            pkcs11,
            inside: RwLock::new(()),
            turns: Turns::new(TURN_PATIENCE),
            initialisations: AtomicU64::new(0),
            removals: AtomicU64::new(0),
            life: Mutex::new(Life { ours, sessions: 0, failures: 0 }),
        }))
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch {
            initialisation: self.initialisations.load(Ordering::Acquire),
            removal: self.removals.load(Ordering::Acquire),
        }
    }

    /// The library, to call into for as long as the guard lives.
    pub(super) fn enter(&self) -> (&Pkcs11, RwLockReadGuard<'_, ()>) {
        (&self.pkcs11, self.inside.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A session of `epoch` was told that the token is gone. Those who hear it later change nothing.
    pub(super) fn token_gone(&self, epoch: Epoch) {
        let next = epoch.removal + 1;
        let _ = self.removals.compare_exchange(epoch.removal, next, Ordering::AcqRel, Ordering::Acquire);
    }

    pub(super) fn session_opened(&self) {
        let mut life = self.life();
        life.sessions += 1;
        life.failures = 0;
    }

    /// Whether a session of `epoch` is still the library's, and so is to be closed: it is not when the
    /// library was initialised since, for then its number may be another session's.
    pub(super) fn session_ended(&self, epoch: Epoch) -> bool {
        let still = epoch.initialisation == self.epoch().initialisation;
        if still {
            let mut life = self.life();
            life.sessions = life.sessions.saturating_sub(1);
        }
        still
    }

    /// After a failed opening: initialises the library again if that is the cure, and says whether it did.
    ///
    /// Some libraries find a token that came back only after `C_Finalize` (Yubico/yubihsm-shell#541,
    /// NLnetLabs/krill#761). That kills every session, so it is done only when there is none left.
    pub(super) fn cure(&self, error: &OpenError) -> bool {
        let uninitialised =
            matches!(error, OpenError::Call { verdict: Some(verdict), .. } if verdict.ck_rv == 0x190);
        let mut life = self.life();
        if error.is_final() {
            return false;
        }
        life.failures += 1;
        let finalise = life.ours && life.sessions == 0 && life.failures >= FAILURES_BEFORE_RESET;
        if !uninitialised && !finalise {
            return false;
        }
        // Nobody may be inside: finalising under a running call is undefined (PKCS#11 v3.2, 5.4.2). If
        // somebody is, or hangs there, the next failure tries again.
        let _alone = match self.inside.try_write() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        life.failures = 0;
        life.sessions = 0;
        self.initialisations.fetch_add(1, Ordering::AcqRel);
        if !uninitialised && let Err(error) = self.pkcs11.clone().finalize() {
            tracing::warn!(%error, "finalising the PKCS#11 library failed");
        }
        match initialise(&self.pkcs11) {
            Ok(ours) => {
                life.ours = ours;
                tracing::info!("the PKCS#11 library was initialised again");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "the PKCS#11 library could not be initialised again");
                false
            }
        }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// True if this call initialised the library, false if it was already.
fn initialise(pkcs11: &Pkcs11) -> Result<bool, OpenError> {
    match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) => Ok(true),
        Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(false),
        Err(error) => Err(OpenError::call(&error)),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
