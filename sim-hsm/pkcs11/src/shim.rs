//! What happens to one call on its way to the real module and back.
//!
//! Place on the map: `table` holds the C functions, each of which calls [`Shim::call`].

use super::control::Action;
use super::counters::Counters;
use super::faults::{Faults, complain};
use super::handles::Handles;
use super::sessions::{Session, Sessions};
use super::table::{self, Real};
use cryptoki_sys::{
    CK_OBJECT_HANDLE, CK_RV, CK_SESSION_HANDLE, CK_SLOT_ID, CKR_CRYPTOKI_NOT_INITIALIZED, CKR_OK,
    CKR_SESSION_HANDLE_INVALID,
};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// The module's one state: PKCS#11 has one per process and library.
static SHIM: OnceLock<Option<Shim>> = OnceLock::new();

pub(crate) struct Shim {
    real: &'static Real,
    faults: Faults,
    counters: Counters,
    sessions: Mutex<Sessions>,
    handles: Mutex<Handles>,
}

/// A call that may go on to the real module.
pub(crate) struct Passage<'a> {
    shim: &'a Shim,
    pub(crate) corrupt: bool,
}

impl Shim {
    /// The shim, made of the environment at the first call. `None` if there is no real module; standard error has
    /// said why.
    pub(crate) fn get() -> Option<&'static Self> {
        SHIM.get_or_init(|| match Self::from_environment() {
            Ok(shim) => Some(shim),
            Err(message) => {
                complain(&message);
                None
            }
        })
        .as_ref()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a loaded library is configured by its process's environment"
    )]
    fn from_environment() -> Result<Self, String> {
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let module = path("SIM_HSM_PKCS11_MODULE")
            .ok_or("SIM_HSM_PKCS11_MODULE is not set: put the path of the real PKCS#11 module into it")?;
        let real = Real::load(&module)?;
        complain(&format!("a test device that injects faults, in front of {}", module.display()));
        Ok(Self {
            real: Box::leak(Box::new(real)),
            faults: Faults::new(path("SIM_HSM_PKCS11_FAULTS"), table::has),
            counters: Counters::new(path("SIM_HSM_PKCS11_STATS")),
            sessions: Mutex::default(),
            handles: Mutex::default(),
        })
    }

    /// Counts the call, lets its faults happen, and forwards it.
    pub(crate) fn call(
        &self,
        function: &'static str,
        session: Option<CK_SESSION_HANDLE>,
        forward: impl FnOnce(&Real, &Passage<'_>, CK_SESSION_HANDLE) -> CK_RV,
    ) -> CK_RV {
        let _inside = self.counters.enter(function);
        // A harmless call, with which a program asks for the counters also while all calls fail.
        if function == "C_GetInfo" {
            self.counters.write(self.sessions().counts());
        }
        let passage = match self.suffer(function, session) {
            Ok(passage) => passage,
            Err(rv) => return rv,
        };
        // Looked up after the faults, for they may have ended it.
        let session = match session {
            None => None,
            Some(_) if !self.real.is_initialised() => return CKR_CRYPTOKI_NOT_INITIALIZED,
            Some(number) => match self.sessions().get(number) {
                Some(session) => Some(session),
                None => return CKR_SESSION_HANDLE_INVALID,
            },
        };
        let _real = self.real.inside();
        forward(self.real, &passage, session.as_ref().map_or(0, |session| session.real))
    }

    /// Lets happen what is to happen before the call reaches the real module.
    fn suffer(
        &self,
        function: &'static str,
        session: Option<CK_SESSION_HANDLE>,
    ) -> Result<Passage<'_>, CK_RV> {
        let idle = session.and_then(|number| self.sessions().get(number)).map(|session| session.idle());
        let mut passage = Passage { shim: self, corrupt: false };
        for fault in self.faults.due(function, idle) {
            match fault.action {
                Action::Return(rv) => return Err(rv),
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a slow call occupies its thread: that is the fault"
                )]
                Action::Delay(time) => std::thread::sleep(time),
                Action::Hang => self.faults.wait_out(&fault),
                Action::Corrupt => passage.corrupt = true,
                Action::DropSessions => self.drop_sessions(None),
                Action::Logout => {
                    let sessions = self.sessions().one_per_slot();
                    sessions.iter().for_each(|session| self.real.logout(session.real));
                }
                Action::Finalize => {
                    self.finalise(Real::finalize);
                }
                Action::SwapHandles => self.handles().swap(),
            }
        }
        Ok(passage)
    }

    /// Has the library finalised by `finalise`, and forgets all sessions and handles if that went well.
    pub(crate) fn finalise(&self, finalise: impl FnOnce(&Real) -> CK_RV) -> CK_RV {
        let rv = finalise(self.real);
        if rv == CKR_OK {
            // They have ended with the library, and know it.
            self.drop_sessions(None);
            self.handles().clear();
        }
        rv
    }

    /// The program's own `C_Finalize`.
    pub(crate) fn finalise_for_program(&self, finalise: impl FnOnce(&Real) -> CK_RV) -> CK_RV {
        let _inside = self.counters.enter("C_Finalize");
        if let Err(rv) = self.suffer("C_Finalize", None) {
            return rv;
        }
        let rv = self.finalise(finalise);
        self.counters.write(self.sessions().counts());
        rv
    }

    /// The program's own `C_Initialize`.
    pub(crate) fn initialise(&self, initialise: impl FnOnce(&Real) -> CK_RV) -> CK_RV {
        let _inside = self.counters.enter("C_Initialize");
        match self.suffer("C_Initialize", None) {
            Ok(_) => initialise(self.real),
            Err(rv) => rv,
        }
    }

    pub(crate) fn drop_sessions(&self, slot: Option<CK_SLOT_ID>) {
        let ended = self.sessions().take(slot);
        drop(ended);
    }

    pub(crate) fn close_session(&self, number: CK_SESSION_HANDLE) {
        let closed = self.sessions().remove(number);
        drop(closed);
    }

    pub(crate) fn real(&self) -> &Real {
        self.real
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handles(&self) -> MutexGuard<'_, Handles> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passage<'_> {
    /// The object that the program means.
    pub(crate) fn object(&self, shown: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
        self.shim.handles().real(shown)
    }

    /// The number under which the program is to see an object.
    pub(crate) fn show(&self, real: CK_OBJECT_HANDLE) -> CK_OBJECT_HANDLE {
        self.shim.handles().show(real)
    }

    /// Takes in a session that the real module has opened; the program's number for it.
    pub(crate) fn opened(&self, slot: CK_SLOT_ID, real: CK_SESSION_HANDLE) -> CK_SESSION_HANDLE {
        self.shim.sessions().insert(Session::new(self.shim.real, slot, real))
    }
}
