//! The loaded library: shared by all sessions, initialised again when it has to be.
//!
//! Place on the map: below `session`. PKCS#11 keeps one state per process and library, so everything that
//! ends that state (`C_Finalize`) is counted here, and a session from before is not used again: its handle, or a key's,
//! may by then name something else. The removal of a token ends its own sessions only, and is counted in `session`.

use super::codes::{After, judge};
use super::settings::OpenError;
use super::turn::Turns;
use crate::hsm::HsmErrorKind;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::time::Duration;
use tokio::time::Instant;
use xks_proxy_pkcs11::OneCall;

/// How long an opening, closing or searching call may keep the others waiting before they go ahead of it.
const TURN_PATIENCE: Duration = Duration::from_millis(500);

/// So many failed openings in a row, with no session left, before the library is finalised and initialised
/// again.
const FAILURES_BEFORE_RESET: u32 = 3;

/// The least time between two such resets. Together with the longest pause between two openings it stays below the
/// two seconds in which service has to resume after the token's return.
const RESET_INTERVAL: Duration = Duration::from_secs(1);

/// So many sessions that could not be closed are remembered: as many as one pool can have, and those set aside.
const TO_CLOSE_MAX: usize = 2 * 1024;

/// A PKCS#11 library in this process. Load each library once and share it among the [`Pkcs11Hsm`]s of its
/// tokens: only then does one of them not reset the library under the other.
///
/// [`Pkcs11Hsm`]: super::Pkcs11Hsm
pub struct Module {
    pkcs11: Pkcs11,
    /// The same library, for the calls of which each request makes some.
    one_call: OneCall,
    /// Read while a call is inside the library, written while it is initialised.
    inside: RwLock<()>,
    pub(super) turns: Turns,
    initialisations: AtomicU64,
    /// How often it has said that it is not initialised.
    losses: AtomicU64,
    life: Mutex<Life>,
}

/// Which state of the library a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LibraryEpoch {
    initialisation: u64,
    loss: u64,
}

#[derive(Default)]
struct Life {
    /// It has been initialised, as far as we know.
    initialised: bool,
    /// We initialised the library; else another part of the process did, and finalising it is not ours to do.
    ours: bool,
    /// The sessions that are held, by their numbers.
    held: BTreeMap<u64, Mark>,
    /// Lost sessions. They are closed after the next opening that succeeds: while the token is in trouble closing
    /// fails too, or hangs, and then the session would count against the token's limit for ever.
    to_close: Vec<Session>,
    failures: u32,
    reset_at: Option<Instant>,
}

/// What a session and the module know of each other: set when the library has given the session's number to another,
/// and so has lost the session.
pub(super) type Mark = Arc<AtomicBool>;

impl Module {
    /// Loads the library at `path`; a bare file name is searched as the system does. It is initialised when the
    /// first session is opened.
    ///
    /// # Errors
    /// When there is no such file, the system cannot load it, or it is no PKCS#11 module.
    pub fn load(path: &Path) -> Result<Arc<Self>, OpenError> {
        if path.components().count() > 1 && !path.exists() {
            return Err(OpenError::ModuleAbsent(path.to_owned()));
        }
        let explain = |error| match error {
            Error::LibraryLoading(why) => {
                OpenError::ModuleNotLoadable(path.to_owned(), one_line(&why.to_string()))
            }
            Error::MissingSymbol(_) | Error::NullFunctionPointer => OpenError::NotPkcs11(path.to_owned()),
            other => OpenError::call(&other),
        };
        let pkcs11 = Pkcs11::new(path).map_err(explain)?;
        // The same file is the same library to the system. (One that is replaced between the two lines would be another, which
        // nobody initialises: every request would fail, and a restart mends it.)
        let one_call = OneCall::load(path).map_err(explain)?;
        // The library stays loaded until the process ends: a thread may still be inside it, in a call that
        // never returned, when all else is gone.
        std::mem::forget(pkcs11.clone());
        Ok(Arc::new(Self {
            pkcs11,
            one_call,
            inside: RwLock::new(()),
            turns: Turns::new(TURN_PATIENCE),
            initialisations: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            life: Mutex::default(),
        }))
    }

    /// Initialises the library if that is still to be done.
    pub(super) fn begin(&self) -> Result<(), OpenError> {
        let mut life = self.life();
        if !life.initialised {
            life.ours = initialise(&self.pkcs11)?;
            life.initialised = true;
        }
        Ok(())
    }

    pub(super) fn epoch(&self) -> LibraryEpoch {
        LibraryEpoch {
            initialisation: self.initialisations.load(Ordering::Acquire),
            loss: self.losses.load(Ordering::Acquire),
        }
    }

    /// The library, to call into for as long as the guard lives.
    pub(super) fn enter(&self) -> (&Pkcs11, RwLockReadGuard<'_, ()>) {
        (&self.pkcs11, self.inside.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The calls of a request, likewise.
    pub(super) fn enter_request(&self) -> (&OneCall, RwLockReadGuard<'_, ()>) {
        (&self.one_call, self.inside.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// A session of `epoch` was told that the library is not initialised. Those who hear it later change nothing.
    pub(super) fn lost(&self, epoch: LibraryEpoch) {
        let next = epoch.loss + 1;
        let _ = self.losses.compare_exchange(epoch.loss, next, Ordering::AcqRel, Ordering::Acquire);
    }

    /// The library gave `number` to a new session. `None` if a session that was not closed holds that number: the
    /// library has lost that one, and two threads must never share a session, for then the one could encrypt with
    /// the key that the other has chosen. The holder learns that it is lost, and closes the number when it ends.
    pub(super) fn hold(&self, number: u64) -> Option<Mark> {
        let mut life = self.life();
        if let Some(mark) = life.held.get(&number) {
            mark.store(true, Ordering::Release);
            return None;
        }
        // Given out anew, so the old session of this number is closed after all.
        life.to_close.retain(|session| session.handle() != number);
        let mark = Mark::default();
        life.held.insert(number, Arc::clone(&mark));
        Some(mark)
    }

    /// A session has been opened in full: the token works.
    pub(super) fn session_opened(&self) {
        self.life().failures = 0;
        self.close_lost();
    }

    /// Closes what was lost; false if there was nothing. What cannot be closed now is kept for the next time, since it may
    /// count against the token's limit.
    pub(super) fn close_lost(&self) -> bool {
        let (library, _inside) = self.enter_request();
        let mut lost = std::mem::take(&mut self.life().to_close);
        let any = !lost.is_empty();
        lost.retain(|session| may_be_open_still(library.close(session)));
        let mut life = self.life();
        // Meanwhile one may have been given to another session, which is to say that it was closed.
        lost.retain(|session| !life.held.contains_key(&session.handle()));
        life.to_close.append(&mut lost);
        life.to_close.truncate(TO_CLOSE_MAX);
        any
    }

    /// A session of `epoch` is no longer held. It is closed, after the next opening if it `may_wait`; but not when
    /// the library was initialised since, for then its number may be another session's.
    pub(super) fn session_ended(&self, epoch: LibraryEpoch, session: Session, may_wait: bool) {
        let (_, _inside) = self.enter();
        let mut life = self.life();
        if epoch.initialisation != self.epoch().initialisation {
            return;
        }
        life.held.remove(&session.handle());
        life.to_close.push(session);
        drop(life);
        if !may_wait {
            self.close_lost();
        }
    }

    /// After a failed opening: initialises the library again if that is the cure, and says whether it did. The error
    /// is that of `C_Initialize`.
    ///
    /// Some libraries find a token that came back only after `C_Finalize` (Yubico/yubihsm-shell#541,
    /// NLnetLabs/krill#761). That kills every session, so it is done only when there is none left.
    pub(super) fn cure(&self, error: &OpenError) -> Result<bool, OpenError> {
        let uninitialised =
            matches!(error, OpenError::Call { verdict: Some(verdict), .. } if verdict.ck_rv == 0x190);
        if error.is_final() || *error == OpenError::LoginUnderWay {
            return Ok(false);
        }
        let mut life = self.life();
        life.failures += 1;
        let long_ago = life.reset_at.is_none_or(|reset_at| reset_at.elapsed() >= RESET_INTERVAL);
        let finalise =
            life.ours && life.held.is_empty() && life.failures >= FAILURES_BEFORE_RESET && long_ago;
        if !uninitialised && !finalise {
            return Ok(false);
        }
        // Nobody may be inside: finalising under a running call is undefined (PKCS#11 v3.2, 5.4.2). If
        // somebody is, or hangs there, the next failure tries again.
        let _alone = match self.inside.try_write() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        life.reset_at = Some(Instant::now());
        if uninitialised && initialise(&self.pkcs11)? {
            life.ours = true;
        } else if life.ours {
            // Either nothing else has helped, or it says both that it is initialised and that it is not. Whatever
            // sessions it still has are to end.
            if let Err(error) = self.pkcs11.clone().finalize() {
                tracing::warn!(%error, "finalising the PKCS#11 library failed");
            }
        }
        life.held.clear();
        life.to_close.clear();
        self.initialisations.fetch_add(1, Ordering::AcqRel);
        life.ours |= initialise(&self.pkcs11)?;
        tracing::info!("the PKCS#11 library was initialised again");
        Ok(true)
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether closing is to be tried again: it was refused for a reason that passes, such as a device in trouble.
fn may_be_open_still(closed: Result<(), Error>) -> bool {
    let Err(error) = closed else { return false };
    tracing::debug!(%error, "closing a PKCS#11 session failed");
    match error {
        // The library has ended it already, as is usual after a removal.
        Error::Pkcs11(rv, _) => {
            let verdict = judge(rv);
            verdict.kind != HsmErrorKind::SessionLost && verdict.after != After::ReplaceToken
        }
        _ => false,
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
