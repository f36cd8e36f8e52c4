//! The same operations without threads, queue or deadline: each call blocks the caller.
//!
//! Place on the map: beside the pool, over the same session code. The simulation uses it: it calls a real
//! module between two instants of virtual time and models the latency itself.

use super::keeper::Keeper;
use super::module::Module;
use super::session::{Opener, TokenIdentity, TokenSession};
use super::settings::{OpenError, Pkcs11Settings};
use crate::hsm::{Aad, DeviceHealth, HealthStatus, HsmError, KeyFacts, Sealed};
use crate::key::KeyName;
use crate::secret::Plaintext;
use std::sync::{Arc, Mutex, PoisonError};

/// One session, used on the caller's own thread; callers on several threads take turns. `sessions_max`,
/// `queue_max` and `set_aside_max` do not apply.
pub struct Pkcs11Inline {
    keeper: Mutex<Keeper<Opener>>,
    health_key: Option<KeyName>,
    identity: TokenIdentity,
}

impl Pkcs11Inline {
    /// Loads the module, opens a session and logs in.
    ///
    /// # Errors
    /// Whatever is wrong with module, token or PIN, in words for the operator.
    pub fn open(settings: Pkcs11Settings) -> Result<Self, OpenError> {
        Self::open_on(Module::load(&settings.module)?, settings)
    }

    /// As [`open`](Self::open), on a module that is already loaded; `settings.module` is not read.
    ///
    /// # Errors
    /// Whatever is wrong with token or PIN, in words for the operator.
    pub fn open_on(module: Arc<Module>, settings: Pkcs11Settings) -> Result<Self, OpenError> {
        let health_key = settings.health_key.clone();
        let opener = Arc::new(Opener::new(module, settings));
        let session = opener.session()?;
        let identity = opener.identity()?;
        Ok(Self { keeper: Mutex::new(Keeper::new(opener, Some(session))), health_key, identity })
    }

    /// As [`Hsm::describe`](crate::hsm::Hsm::describe).
    ///
    /// # Errors
    /// As there, but never `Busy` or `TimedOut` for want of a queue or a deadline.
    pub fn describe(&self, key: &KeyName) -> Result<KeyFacts, HsmError> {
        self.run(|session| session.describe(key))
    }

    /// As [`Hsm::encrypt`](crate::hsm::Hsm::encrypt).
    ///
    /// # Errors
    /// As [`describe`](Self::describe).
    pub fn encrypt(&self, key: &KeyName, aad: &Aad, plaintext: &Plaintext) -> Result<Sealed, HsmError> {
        self.run(|session| session.encrypt(key, aad, plaintext))
    }

    /// As [`Hsm::decrypt`](crate::hsm::Hsm::decrypt).
    ///
    /// # Errors
    /// As [`describe`](Self::describe).
    pub fn decrypt(&self, key: &KeyName, aad: &Aad, sealed: &Sealed) -> Result<Plaintext, HsmError> {
        self.run(|session| session.decrypt(key, aad, sealed))
    }

    /// As [`Hsm::health`](crate::hsm::Hsm::health), for the one token.
    pub fn health(&self) -> DeviceHealth {
        let checked = self.run(|session| session.check(self.health_key.as_ref()));
        let status = if checked.is_ok() { HealthStatus::Active } else { HealthStatus::Unavailable };
        let identity = checked.unwrap_or_else(|_| self.identity.clone());
        DeviceHealth { id: identity.serial, model: identity.model, status }
    }

    fn run<T>(&self, call: impl Fn(&mut TokenSession) -> Result<T, HsmError>) -> Result<T, HsmError> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner).run(call, || true)
    }
}
