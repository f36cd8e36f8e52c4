//! The production [`Hsm`]: any PKCS#11 token. The only module that calls C and the only one that starts
//! threads.
//!
//! Place on the map: the last station, below `api`. Inside, from the request down:
//!
//! | module | what it does |
//! |---|---|
//! | `pool` | threads with one session each, bounded queue, deadline, setting hung calls aside |
//! | `pace` | whether calls are short, so that fewer threads do |
//! | `lanes` | that queue: a lane per key store, served in turn |
//! | `inline` | the same operations on the caller's own thread, for the simulation |
//! | `keeper` | replaces a lost session, and repeats the call once |
//! | `session` | login, key look-up, AES-GCM |
//! | `module` | the loaded library, initialised again when need be |
//! | `login` | when the PIN may be tried |
//! | `codes`, `names` | what each PKCS#11 return value means, and what it is called |
//! | `turn` | opening, closing and searching one at a time, but not for ever; `locks` are what it is made of |
//! | `stats` | what has happened so far, for metrics |
//! | `settings` | what to open, and why it cannot be opened |
//! | `survey` | a token looked at, read-only, for `doctor` and `keys list` |

pub mod codes;
mod inline;
mod keeper;
mod lanes;
mod locks;
mod login;
mod module;
pub mod names;
mod pace;
mod pool;
mod session;
mod settings;
mod stats;
pub mod survey;
mod turn;

pub use inline::Pkcs11Inline;
pub use module::Module;
pub use settings::{IvSource, OpenError, Pkcs11Settings, TokenChoice, TokenSeen};
pub use stats::{OTHERS, PoolCounts, PoolStats};

use super::{Aad, Answer, DeviceHealth, HealthStatus, Hsm, KeyFacts, Sealed};
use crate::key::KeyName;
use crate::secret::Plaintext;
use keeper::Open;
use pool::{CallKind, Limits, Pool};

use session::{Opener, TokenIdentity, TokenSession};
use std::collections::BTreeMap;
use std::future::Future;
use std::num::NonZero;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// A token behind a PKCS#11 library, used by `sessions_max` threads. Needs a tokio runtime with time enabled.
pub struct Pkcs11Hsm {
    pool: Pool<Opener>,
    opener: Arc<Opener>,
    health_key: Option<KeyName>,
    /// As found first; what health says when the token cannot be asked.
    identity: OnceLock<TokenIdentity>,
    /// What health says as long as the token was never found.
    unknown: TokenIdentity,
}

/// The first session may take so long; a library that hangs in it holds up the start no longer.
const FIRST_SESSION_MAX: Duration = Duration::from_secs(10);

/// Opens the first session, on a thread of its own: it may hang.
fn first_session(opener: &Arc<Opener>) -> Result<(TokenSession, TokenIdentity), OpenError> {
    let (tell, told) = std::sync::mpsc::channel();
    let opener = Arc::clone(opener);
    let open = move || {
        let session = opener.session()?;
        Ok((session, opener.identity()?))
    };
    #[expect(clippy::disallowed_methods, reason = "PKCS#11 calls block, each session on its own thread")]
    std::thread::Builder::new()
        .name("hsm-first".into())
        // Once nobody waits any more, the session is dropped, which closes it.
        .spawn(move || drop(tell.send(open())))
        .map_err(|error| OpenError::NoThread(error.to_string()))?;
    told.recv_timeout(FIRST_SESSION_MAX).unwrap_or_else(|_| {
        Err(OpenError::Call {
            doing: "opening the first session".into(),
            verdict: None,
            why: format!("the library did not return within {} s", FIRST_SESSION_MAX.as_secs()),
        })
    })
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
        Self::begin(module, settings, false)
    }

    /// As [`open_on`](Self::open_on), but an HSM that cannot be reached at present is no error: until it can,
    /// requests are told so at once. For a daemon, which must not fail to start because its HSM starts later. Neither is
    /// a refused PIN, which is never tried again: a daemon that ended would be restarted, and lock the token.
    ///
    /// # Errors
    /// Wrong settings, or a token that is not the only one of its name.
    pub fn start_on(module: Arc<Module>, settings: Pkcs11Settings) -> Result<Self, OpenError> {
        Self::begin(module, settings, true)
    }

    fn begin(module: Arc<Module>, settings: Pkcs11Settings, patient: bool) -> Result<Self, OpenError> {
        settings.check()?;
        let limits = Limits {
            threads: settings.sessions_max,
            enough: std::thread::available_parallelism().map_or(1, NonZero::get),
            queue_max: settings.queue_max,
            set_aside_max: settings.set_aside_max,
            set_aside_after: settings.set_aside_after,
            idle_max: settings.session_idle_max,
        };
        let (name, health_key) = (settings.name.clone(), settings.health_key.clone());
        let unknown = TokenIdentity { serial: settings.token.to_string(), model: "unknown".into() };
        let opener = Arc::new(Opener::new(module, settings));
        let identity = OnceLock::new();
        let session = match first_session(&opener) {
            Ok((session, found)) => {
                let _ = identity.set(found);
                Some(session)
            }
            Err(error) if patient && !error.is_mistake() => {
                // A refusal has been told already, where it was heard.
                if !error.is_final() {
                    tracing::error!(hsm = name, %error, "no HSM session yet; it is tried again until there is one");
                }
                None
            }
            Err(error) => return Err(error),
        };
        let pool = Pool::start(Arc::clone(&opener), session, limits)
            .map_err(|error| OpenError::NoThread(error.to_string()))?;
        Ok(Self { pool, opener, health_key, identity, unknown })
    }

    /// The same token by another handle, whose requests wait for a session in a lane of their own: a crowd in one lane
    /// does not keep the others waiting. For each key store that shares the token. It ends with its last handle.
    pub fn another(&self) -> Self {
        Self {
            pool: self.pool.another(),
            opener: Arc::clone(&self.opener),
            health_key: self.health_key.clone(),
            identity: self.identity.clone(),
            unknown: self.unknown.clone(),
        }
    }

    /// Threads left behind in calls that have not returned: 0 when all is well, at most `set_aside_max`.
    pub fn set_aside(&self) -> usize {
        self.pool.set_aside()
    }

    /// The state of its threads and queue now, and what has happened to requests so far.
    pub fn stats(&self) -> PoolStats {
        self.pool.stats()
    }

    /// How often the library has answered with each error (`CK_RV`) so far, whether or not a caller saw it; at most 64
    /// different ones, the rest under [`OTHERS`].
    pub fn return_values(&self) -> BTreeMap<u64, u64> {
        self.opener.return_values.all()
    }

    /// Ends the threads and waits, blocking, until their sessions are closed; further requests fail. To be
    /// called before the process exits, since libraries do not bear to be torn down under a running call.
    /// False if a call has not returned within `patience`.
    pub fn close(&self, patience: Duration) -> bool {
        self.pool.opener().closing.store(true, Ordering::Release);
        let ended = self.pool.close(patience);
        // With a thread still inside the library, another call into it could hang too.
        if ended {
            self.pool.opener().close_lost();
        }
        ended
    }
}

// What a thread is given has to outlive the caller, who may go away first: names and data are copied, once.
impl Hsm for Pkcs11Hsm {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        let key = key.clone();
        Box::pin(self.pool.call(CallKind::Other, deadline, move |session| session.describe(&key)))
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        let (key, aad, plaintext) = (key.clone(), aad.clone(), plaintext.clone());
        Box::pin(self.pool.call(CallKind::UsesKeyAndIsSettled, deadline, move |session| {
            session.encrypt_unsettled(&key, &aad, &plaintext)
        }))
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        let (key, aad, sealed) = (key.clone(), aad.clone(), sealed.clone());
        Box::pin(
            self.pool.call(CallKind::UsesKey, deadline, move |session| session.decrypt(&key, &aad, &sealed)),
        )
    }

    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async move {
            let health_key = self.health_key.clone();
            let checked = self
                .pool
                .call(CallKind::Other, deadline, move |session| session.check(health_key.as_ref()))
                .await;
            let status = match &checked {
                Ok(_) if self.pool.is_impaired() => HealthStatus::Degraded,
                Ok(_) => HealthStatus::Active,
                Err(error) => {
                    // `Monitored` tells when this begins and ends.
                    tracing::debug!(hsm = self.opener.name(), %error, "the HSM's health check failed");
                    HealthStatus::Unavailable
                }
            };
            let identity = match checked {
                Ok(found) => {
                    let _ = self.identity.set(found.clone());
                    found
                }
                Err(_) => self.identity.get().unwrap_or(&self.unknown).clone(),
            };
            vec![DeviceHealth { id: identity.serial, model: identity.model, status }]
        })
    }
}
