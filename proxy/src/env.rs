//! The door to wall time and non-secret randomness. Nothing else in this crate asks the system for either.
//!
//! Place on the map: `main` builds the real one, a scenario builds one whose clock can drift and jump.

use std::time::Duration;

/// Wall time: the duration since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnixTime(pub Duration);

impl UnixTime {
    /// Whole seconds since the epoch.
    pub fn secs(self) -> u64 {
        self.0.as_secs()
    }
}

/// Wall time and non-secret randomness. Passing time is `tokio::time`; secret randomness (IVs) comes from the HSM.
pub trait Env: Send + Sync {
    /// The wall clock: SigV4 skew, certificate validity, time stamps of events.
    fn now(&self) -> UnixTime;

    /// 64 random bits that nobody has to be unable to guess: request ids, jitter, choice among equals.
    fn noise(&self) -> u64;
}

/// The operating system's clock and entropy.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEnv;

impl Env for SystemEnv {
    #[expect(clippy::disallowed_methods, reason = "this is the door to wall time")]
    fn now(&self) -> UnixTime {
        UnixTime(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default())
    }

    fn noise(&self) -> u64 {
        use std::hash::{BuildHasher, Hasher};
        #[expect(
            clippy::disallowed_types,
            reason = "this is the door to non-secret randomness; std seeds it from the OS"
        )]
        let state = std::collections::hash_map::RandomState::new();
        state.build_hasher().finish()
    }
}
