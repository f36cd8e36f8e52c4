//! Plaintext data keys that a service keeps for a while. One refresh per entry at a time (MA-D5); failures are not cached, so
//! the next request tries again (MA-D34).

use super::desk::{Desk, Visible};
use super::retry::Tried;
use crate::kms::KmsFailure;
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;
use tokio::sync::watch;

type Answer = Option<Result<(), KmsFailure>>;

enum Entry {
    Held { until: Duration },
    Refreshing(watch::Receiver<Answer>),
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
    pub(super) async fn serve(
        &self,
        desk: &Desk,
        key: K,
        ttl: Duration,
        visible: &Visible,
        refresh: impl Future<Output = Tried<()>>,
    ) -> ServiceOutcome {
        let under_way = match self.entries.borrow().get(&key) {
            Some(Entry::Held { until }) if desk.now() < *until => return ServiceOutcome::ServedFromCache,
            Some(Entry::Refreshing(answer)) => Some(answer.clone()),
            _ => None,
        };
        if let Some(mut answer) = under_way
            && let Ok(answer) = answer.wait_for(Option::is_some).await
        {
            return match &*answer {
                Some(Err(failure)) => {
                    visible.outcome::<()>(Tried { result: Err(failure.clone()), attempts: 0 })
                }
                _ => ServiceOutcome::ServedFromCache,
            };
        }
        let (tell, answer) = watch::channel(None);
        self.entries.borrow_mut().insert(key, Entry::Refreshing(answer));
        let tried = refresh.await;
        match tried.result {
            Ok(()) => self.put(key, desk.now(), ttl),
            Err(_) => drop(self.entries.borrow_mut().remove(&key)),
        }
        tell.send_replace(Some(tried.result.clone()));
        visible.outcome(tried)
    }
}
