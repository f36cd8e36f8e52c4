//! What an HSM's pool and its library have done so far, for metrics, health and readiness.
//!
//! Place on the map: `pool` counts calls and threads, `session` counts what the library answered; read through
//! [`Pkcs11Hsm::stats`](super::Pkcs11Hsm::stats).

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// One moment of a pool. The five counts of sessions are of the same moment and add up to its threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Threads inside the library: at a call, or opening a session.
    pub in_use: usize,
    /// Threads that wait for work with a session in hand.
    pub idle: usize,
    /// Threads that could not open a session and pause before they try again.
    pub without_session: usize,
    /// Threads left behind in calls that have not returned.
    pub set_aside: usize,
    /// Requests that wait for a session.
    pub queued: usize,
    /// Whether a request given to it now would reach the HSM: some thread has a session and is not stuck.
    pub usable: bool,
    /// Since the start.
    pub counts: PoolCounts,
}

/// What has happened to requests since the pool was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolCounts {
    /// Requests taken: queued or begun.
    pub calls: u64,
    /// Of these, answered that their deadline had passed.
    pub timeouts: u64,
    /// Requests refused because the queue was full.
    pub refused_full: u64,
    /// Requests refused because no thread had a session or was free of a call that hangs.
    pub refused_helpless: u64,
}

/// Different return values counted by their number; a device that invents more is counted under [`OTHERS`].
const DIFFERENT_MAX: usize = 64;

/// Stands for every return value beyond the 64 different ones; no device answers it, since it is `CKR_OK`.
pub const OTHERS: u64 = 0;

/// How often the library answered with each error (`CK_RV`), also where the call was repeated and nobody outside saw it.
#[derive(Debug, Default)]
pub(super) struct ReturnValues(Mutex<BTreeMap<u64, u64>>);

impl ReturnValues {
    /// Only errors come here, so the lock is none of the usual way.
    pub(super) fn count(&self, ck_rv: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = counts.len() >= DIFFERENT_MAX && !counts.contains_key(&ck_rv);
        *counts.entry(if full { OTHERS } else { ck_rv }).or_default() += 1;
    }

    pub(super) fn all(&self) -> BTreeMap<u64, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_invents_codes_fills_no_memory() {
        let values = ReturnValues::default();
        (1..1_000).for_each(|ck_rv| values.count(ck_rv));
        values.count(1);
        let all = values.all();
        assert_eq!((all.len(), all[&1], all[&OTHERS]), (DIFFERENT_MAX + 1, 2, 999 - 64));
    }
}
