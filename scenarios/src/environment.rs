//! The doors to wall time and non-secret randomness, as a run has them.
//!
//! Place on the map: given to the proxy core by [`world`](crate::world), and to TLS on both sides.

use crate::clock::Clock;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use xks_proxy::env::{Env, UnixTime};

/// Wall time at the start of every run: 2026-01-01T00:00:00Z.
pub const RUN_BEGINS: Duration = Duration::from_secs(1_767_225_600);

/// A host's wall clock and noise.
pub struct SimulatedEnv {
    clock: Clock,
    random: Mutex<ChaCha20Rng>,
    /// How far the wall clock is ahead, in nanoseconds; negative is behind.
    skew_ns: AtomicI64,
}

impl SimulatedEnv {
    /// With a stream of its own.
    pub fn new(clock: Clock, random: ChaCha20Rng) -> Self {
        Self { clock, random: Mutex::new(random), skew_ns: AtomicI64::new(0) }
    }

    /// Moves the wall clock: so many nanoseconds further ahead, or back where negative. Moves add up.
    pub fn skew(&self, ahead_ns: i64) {
        self.skew_ns.fetch_add(ahead_ns, Ordering::Relaxed);
    }
}

impl Env for SimulatedEnv {
    fn now(&self) -> UnixTime {
        let (right, skew_ns) = (RUN_BEGINS + self.clock.now(), self.skew_ns.load(Ordering::Relaxed));
        let skew = Duration::from_nanos(skew_ns.unsigned_abs());
        UnixTime(if skew_ns < 0 { right.saturating_sub(skew) } else { right + skew })
    }

    fn noise(&self) -> u64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }
}

impl std::fmt::Debug for SimulatedEnv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedEnv")
    }
}

impl rustls::time_provider::TimeProvider for SimulatedEnv {
    fn current_time(&self) -> Option<rustls_pki_types::UnixTime> {
        Some(rustls_pki_types::UnixTime::since_unix_epoch(self.now().0))
    }
}
