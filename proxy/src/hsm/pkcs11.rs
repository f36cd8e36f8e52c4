//! The production [`Hsm`]: any PKCS#11 token. The only module that calls C and the only one that starts
//! threads.
//!
//! Place on the map: the last station, below `api`. Inside, from the request down:
//!
//! | module | what it does |
//! |---|---|
//! | `pool` | threads with one session each, bounded queue, deadline, setting hung calls aside |
//! | `lanes` | that queue: a lane per key store, served in turn |
//! | `inline` | the same operations on the caller's own thread, for the simulation |
//! | `keeper` | replaces a lost session, and repeats the call once |
//! | `session` | login, key look-up, AES-GCM |
//! | `module` | the loaded library, initialised again when need be |
//! | `codes` | what each PKCS#11 return value means |
//! | `settings` | what to open, and why it cannot be opened |

pub mod codes;
mod inline;
mod keeper;
mod lanes;
mod module;
mod pool;
mod session;
mod settings;
mod turn;

pub use inline::Pkcs11Inline;
pub use module::Module;
pub use settings::{IvSource, OpenError, Pkcs11Settings, TokenChoice, TokenSeen};

use super::{Aad, Answer, DeviceHealth, HealthStatus, Hsm, KeyFacts, Sealed};
use crate::key::KeyName;
use crate::secret::Plaintext;
use pool::{Limits, Pool};
use session::{Opener, TokenIdentity};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A token behind a PKCS#11 library, used by `sessions_max` threads. Needs a tokio runtime with time enabled.
pub struct Pkcs11Hsm {
    pool: Pool<Opener>,
    health_key: Option<KeyName>,
    /// As found when it was opened; what health says when the token cannot be asked.
    identity: TokenIdentity,
}

impl Pkcs11Hsm {
    /// Loads the module, opens the first session and logs in, blocking meanwhile; the other sessions follow
    /// by themselves.
    ///
    /// # Errors
    /// Whatever is wrong with settings, module, token or PIN, in words for the operator.
    pub fn open(settings: Pkcs11Settings) -> Result<Self, OpenError> {
        settings.check()?;
        Self::open_on(Module::load(&settings.module)?, settings)
    }

    /// As [`open`](Self::open), on a module that is already loaded; `settings.module` is not read. Two tokens
    /// of one module are to be opened in this way.
    ///
    /// # Errors
    /// Whatever is wrong with settings, token or PIN, in words for the operator.
    pub fn open_on(module: Arc<Module>, settings: Pkcs11Settings) -> Result<Self, OpenError> {
        settings.check()?;
        let limits = Limits {
            threads: settings.sessions_max,
            queue_max: settings.queue_max,
            set_aside_max: settings.set_aside_max,
            set_aside_after: settings.set_aside_after,
        };
        let health_key = settings.health_key.clone();
        let opener = Arc::new(Opener::new(module, settings));
        let session = opener.session()?;
        let identity = opener.identity()?;
        let pool =
            Pool::start(opener, session, limits).map_err(|error| OpenError::NoThread(error.to_string()))?;
        Ok(Self { pool, health_key, identity })
    }

    /// The same token by another handle, whose requests wait for a session in a lane of their own: a crowd in one lane
    /// does not keep the others waiting. For each key store that shares the token. It ends with its last handle.
    pub fn another(&self) -> Self {
        Self {
            pool: self.pool.another(),
            health_key: self.health_key.clone(),
            identity: self.identity.clone(),
        }
    }

    /// Threads left behind in calls that have not returned: 0 when all is well, at most `set_aside_max`.
    pub fn set_aside(&self) -> usize {
        self.pool.set_aside()
    }

    /// Ends the threads and waits, blocking, until their sessions are closed; further requests fail. To be
    /// called before the process exits, since libraries do not bear to be torn down under a running call.
    /// False if a call has not returned within `patience`.
    pub fn close(&self, patience: Duration) -> bool {
        self.pool.close(patience)
    }
}

// What a thread is given has to outlive the caller, who may go away first: names and data are copied, once.
impl Hsm for Pkcs11Hsm {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        let key = key.clone();
        Box::pin(self.pool.call(deadline, move |session| session.describe(&key)))
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        let (key, aad, plaintext) = (key.clone(), aad.clone(), plaintext.clone());
        Box::pin(self.pool.call(deadline, move |session| session.encrypt(&key, &aad, &plaintext)))
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        let (key, aad, sealed) = (key.clone(), aad.clone(), sealed.clone());
        Box::pin(self.pool.call(deadline, move |session| session.decrypt(&key, &aad, &sealed)))
    }

    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async move {
            let health_key = self.health_key.clone();
            let checked = self.pool.call(deadline, move |session| session.check(health_key.as_ref())).await;
            let status = match &checked {
                Ok(_) if self.pool.is_impaired() => HealthStatus::Degraded,
                Ok(_) => HealthStatus::Active,
                Err(error) => {
                    tracing::warn!(%error, "the HSM's health check failed");
                    HealthStatus::Unavailable
                }
            };
            let identity = checked.unwrap_or_else(|_| self.identity.clone());
            vec![DeviceHealth { id: identity.serial, model: identity.model, status }]
        })
    }
}
