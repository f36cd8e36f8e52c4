//! Plaintext data keys that a service keeps for a while. One refresh per entry at a time (MA-D5); failures are not cached, so
//! the next request tries again (MA-D34).

use super::desk::{Desk, Visible};
use super::retry::Tried;
use crate::kms::KmsFailure;
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

enum Entry {
    Held { until: Duration },
    Refreshing(Rc<Refresh>),
}

/// A refresh under way. Waiters wake in the order they came, which a `tokio::sync::watch` does not promise.
#[derive(Default)]
struct Refresh {
    ended: Notify,
    failure: RefCell<Option<KmsFailure>>,
}

pub(super) struct KeyCache<K> {
    entries: RefCell<BTreeMap<K, Entry>>,
    /// Expired entries are swept when there are this many.
    sweep_at: Cell<usize>,
}

const SWEEP_AT_LEAST: usize = 1024;

impl<K: Ord + Copy> KeyCache<K> {
    pub(super) fn new() -> Self {
        Self { entries: RefCell::default(), sweep_at: Cell::new(SWEEP_AT_LEAST) }
    }

    /// Takes in a key without a call of its own, for `ttl` from now.
    pub(super) fn put(&self, key: K, now: Duration, ttl: Duration) {
        let mut entries = self.entries.borrow_mut();
        entries.insert(key, Entry::Held { until: now + ttl });
        if entries.len() >= self.sweep_at.get() {
            entries.retain(|_, entry| !matches!(entry, Entry::Held { until } if *until <= now));
            self.sweep_at.set(SWEEP_AT_LEAST.max(entries.len() * 2));
        }
    }

    /// Serves a request that needs the key: from the cache, by `refresh`, or with the answer of a refresh under way.
    /// A successful refresh says how long its key is held.
    pub(super) async fn serve(
        &self,
        desk: &Desk,
        key: K,
        visible: &Visible,
        refresh: impl Future<Output = Tried<Duration>>,
    ) -> ServiceOutcome {
        let under_way = match self.entries.borrow().get(&key) {
            Some(Entry::Held { until }) if desk.now() < *until => return ServiceOutcome::ServedFromCache,
            Some(Entry::Refreshing(refresh)) => Some(refresh.clone()),
            _ => None,
        };
        if let Some(refresh) = under_way {
            refresh.ended.notified().await;
            return match refresh.failure.borrow().clone() {
                Some(failure) => visible.outcome::<()>(Tried { result: Err(failure), attempts: 0 }),
                None => ServiceOutcome::ServedFromCache,
            };
        }
        let under_way = Rc::new(Refresh::default());
        self.entries.borrow_mut().insert(key, Entry::Refreshing(under_way.clone()));
        let tried = refresh.await;
        match &tried.result {
            Ok(ttl) => self.put(key, desk.now(), *ttl),
            Err(failure) => {
                self.entries.borrow_mut().remove(&key);
                under_way.failure.replace(Some(failure.clone()));
            }
        }
        under_way.ended.notify_waiters();
        visible.outcome(tried)
    }
}
