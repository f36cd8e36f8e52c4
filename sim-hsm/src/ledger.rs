//! Which IVs were used under which key, so that a harness can see the one thing AES-GCM must never do.
//!
//! Place on the map: handed to every device that shares keys in [`Configuration`](crate::Configuration).

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::{Arc, Mutex, PoisonError};
use xks_proxy::hsm::Iv;
use xks_proxy::key::KeyName;

/// A record of (key, IV) pairs, shared by its clones. About 40 bytes per encryption.
///
/// Keys are told apart by name, so a device's keys must be asked for by label only or by id only.
#[derive(Clone, Debug, Default)]
pub struct IvLedger(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    // Only asked for membership, never walked, so the order of the inner set cannot be seen.
    used: BTreeMap<KeyName, HashSet<Iv, BuildHasherDefault<DefaultHasher>>>,
    repeats: Vec<(KeyName, Iv)>,
    encryptions: u64,
}

impl IvLedger {
    /// An empty ledger.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes one encryption.
    pub(crate) fn note(&self, key: &KeyName, iv: Iv) {
        let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pages = &mut *guard;
        pages.encryptions += 1;
        let fresh = match pages.used.get_mut(key) {
            Some(used) => used.insert(iv),
            None => pages.used.entry(key.clone()).or_default().insert(iv),
        };
        if !fresh {
            pages.repeats.push((key.clone(), iv));
        }
    }

    /// Encryptions noted.
    pub fn encryptions(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).encryptions
    }

    /// Every use of an IV after its first under the same key, in order. Must be empty.
    pub fn repeats(&self) -> Vec<(KeyName, Iv)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).repeats.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_under_one_key_is_seen_and_under_two_is_none() {
        let ledger = IvLedger::new();
        let (one, two) = (KeyName::label("one"), KeyName::label("two"));
        ledger.note(&one, Iv::Twelve([1; 12]));
        ledger.note(&two, Iv::Twelve([1; 12]));
        assert!(ledger.repeats().is_empty());
        ledger.clone().note(&one, Iv::Twelve([1; 12]));
        assert_eq!(ledger.repeats(), [(one, Iv::Twelve([1; 12]))]);
        assert_eq!(ledger.encryptions(), 3);
    }
}
