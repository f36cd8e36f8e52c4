//! Sessions under numbers of our own.
//!
//! Place on the map: `shim` looks up each session here. A session that was dropped behind the program's back is
//! closed in the real module as soon as no call uses it any more.

use super::table::Real;
use cryptoki_sys::{CK_SESSION_HANDLE, CK_SLOT_ID};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One session of the real module.
pub(crate) struct Session {
    pub(crate) real: CK_SESSION_HANDLE,
    pub(crate) slot: CK_SLOT_ID,
    device: &'static Real,
    /// The initialisation of the library that it belongs to; with that it ends.
    generation: u64,
    used: Mutex<Instant>,
}

impl Session {
    pub(crate) fn new(device: &'static Real, slot: CK_SLOT_ID, real: CK_SESSION_HANDLE) -> Self {
        Self { real, slot, device, generation: device.generation(), used: Mutex::new(now()) }
    }

    /// How long it has not been used; it is from now on.
    pub(crate) fn idle(&self) -> Duration {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *used, now());
        used.duration_since(before)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.device.close_session(self.real, self.generation);
    }
}

#[derive(Default)]
pub(crate) struct Sessions {
    open: BTreeMap<CK_SESSION_HANDLE, Arc<Session>>,
    most: usize,
}

impl Sessions {
    /// Takes a session in, under the lowest number that is free.
    pub(crate) fn insert(&mut self, session: Session) -> CK_SESSION_HANDLE {
        let mut number = 1;
        for taken in self.open.keys() {
            if *taken != number {
                break;
            }
            number += 1;
        }
        self.open.insert(number, Arc::new(session));
        self.most = self.most.max(self.open.len());
        number
    }

    pub(crate) fn get(&self, number: CK_SESSION_HANDLE) -> Option<Arc<Session>> {
        self.open.get(&number).cloned()
    }

    pub(crate) fn remove(&mut self, number: CK_SESSION_HANDLE) -> Option<Arc<Session>> {
        self.open.remove(&number)
    }

    /// Takes out all, or those of one slot; they close when the last call on each has ended.
    #[must_use = "dropping them closes them, which is not to happen under a lock"]
    pub(crate) fn take(&mut self, slot: Option<CK_SLOT_ID>) -> Vec<Arc<Session>> {
        let leaves = |session: &Session| slot.is_none_or(|slot| session.slot == slot);
        let numbers: Vec<_> =
            self.open.iter().filter(|(_, session)| leaves(session)).map(|(number, _)| *number).collect();
        numbers.into_iter().filter_map(|number| self.open.remove(&number)).collect()
    }

    /// Some session of each slot that has one.
    pub(crate) fn one_per_slot(&self) -> Vec<Arc<Session>> {
        let by_slot: BTreeMap<_, _> = self.open.values().map(|session| (session.slot, session)).collect();
        by_slot.into_values().cloned().collect()
    }

    /// How many are open, and the most there ever were at once.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.open.len(), self.most)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a library in any program's process has only the system's clock"
)]
fn now() -> Instant {
    Instant::now()
}
