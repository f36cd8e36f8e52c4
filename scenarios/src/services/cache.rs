//! Plaintext data keys that a service keeps for a while. One refresh per entry at a time (MA-D5); failures are not cached, so
//! the next request tries again, unless `failures_cached_s` says otherwise (MA-D34).

use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::retry::Tried;
use crate::kms::{KmsException, KmsFailure};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

enum Entry {
    Held {
        until: Duration,
        /// When it was last tried to refresh it before its time.
        tried: Duration,
    },
    Refreshing(Rc<Refresh>),
    /// A failure that is not asked about again before its time.
    Failed {
        until: Duration,
        failure: KmsFailure,
        visible: &'static Visible,
    },
}

/// A refresh under way. Waiters wake in the order they came, which a `tokio::sync::watch` does not promise.
#[derive(Default)]
struct Refresh {
    ended: Notify,
    failure: RefCell<Option<(KmsFailure, &'static Visible)>>,
}

/// Which failures of a refresh leave the expired key in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// None.
    Never,
    /// Those of KMS itself (HTTP 500).
    OnInternal,
    /// All.
    Always,
}

impl Keep {
    fn keeps(self, failure: &KmsFailure) -> bool {
        match self {
            Self::Never => false,
            Self::OnInternal => failure.exception == KmsException::KmsInternal,
            Self::Always => true,
        }
    }
}

/// Refreshing before the end, by one request at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Early {
    /// How long before the end it begins.
    pub(super) before: Duration,
    /// How long after a failed attempt the next may be made.
    pub(super) every: Duration,
}

pub(super) struct KeyCache<K> {
    entries: RefCell<BTreeMap<K, Entry>>,
    /// Expired entries are swept when there are this many.
    sweep_at: Cell<usize>,
    keep: Keep,
    early: Option<Early>,
    /// How long a failure is kept (MA-D34).
    failures_for: Duration,
    /// Draws what is left of the keys held at the start.
    ages: Option<RefCell<Draws>>,
}

const SWEEP_AT_LEAST: usize = 1024;
/// How long a key that is kept in spite of a failed refresh serves until the next attempt.
const KEPT_FOR: Duration = Duration::from_secs(1);
/// Keys that come into a cache so early in a run stand for those of a fleet that has run for long: any age is as likely.
pub(super) const WARM_UP: Duration = Duration::from_secs(10);

/// MA-D34 as it is set.
pub(super) fn failures_in_words(failures_cached_s: u64) -> String {
    match failures_cached_s {
        0 => "MA-D34: failures are not cached".into(),
        s => format!("MA-D34: a failure is cached for {s} s"),
    }
}

enum Found {
    Held,
    /// Held, and this request is to refresh it before its time.
    HeldTryRefresh,
    Refreshing(Rc<Refresh>),
    Failed(KmsFailure, &'static Visible),
    Expired,
    Missing,
}

impl<K: Ord + Copy> KeyCache<K> {
    pub(super) fn new() -> Self {
        Self {
            entries: RefCell::default(),
            sweep_at: Cell::new(SWEEP_AT_LEAST),
            keep: Keep::Never,
            early: None,
            failures_for: Duration::ZERO,
            ages: None,
        }
    }

    /// A cache whose first keys have any age, so that they do not all expire together.
    pub(super) fn aged(mut self, draws: &mut Draws) -> Self {
        self.ages = Some(RefCell::new(draws.split()));
        self
    }

    pub(super) fn keeping(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    pub(super) fn early(mut self, early: Early) -> Self {
        self.early = Some(early);
        self
    }

    /// A cache that keeps failures too, for so many seconds.
    pub(super) fn keeping_failures(mut self, failures_cached_s: u64) -> Self {
        self.failures_for = Duration::from_secs(failures_cached_s);
        self
    }

    /// Takes in a key without a call of its own, for `ttl` from now.
    pub(super) fn put(&self, key: K, now: Duration, ttl: Duration) {
        let ttl = match &self.ages {
            Some(ages) if now < WARM_UP => ages.borrow_mut().between(Duration::ZERO, ttl),
            _ => ttl,
        };
        let mut entries = self.entries.borrow_mut();
        entries.insert(key, Entry::Held { until: now + ttl, tried: Duration::ZERO });
        // What a failed refresh leaves in use is never too old to be of use.
        if self.keep == Keep::Never && entries.len() >= self.sweep_at.get() {
            entries.retain(|_, entry| match entry {
                Entry::Held { until, .. } | Entry::Failed { until, .. } => *until > now,
                Entry::Refreshing(_) => true,
            });
            self.sweep_at.set(SWEEP_AT_LEAST.max(entries.len() * 2));
        }
    }

    /// Lets go of a key before its time.
    pub(super) fn forget(&self, key: K) {
        let mut entries = self.entries.borrow_mut();
        if let Some(Entry::Held { .. }) = entries.get(&key) {
            entries.remove(&key);
        }
    }

    fn find(&self, key: K, now: Duration) -> Found {
        match self.entries.borrow_mut().get_mut(&key) {
            None => Found::Missing,
            Some(Entry::Refreshing(refresh)) => Found::Refreshing(refresh.clone()),
            Some(Entry::Failed { until, failure, visible }) if now < *until => {
                Found::Failed(failure.clone(), visible)
            }
            Some(Entry::Failed { .. }) => Found::Missing,
            Some(Entry::Held { until, .. }) if *until <= now => Found::Expired,
            Some(Entry::Held { until, tried }) => match self.early {
                Some(Early { before, every }) if now + before >= *until && now >= *tried + every => {
                    *tried = now;
                    Found::HeldTryRefresh
                }
                _ => Found::Held,
            },
        }
    }

    /// Serves a request that needs the key: from the cache, by `refresh`, or with the answer of a refresh under way.
    /// A successful refresh says how long its key is held.
    pub(super) async fn serve(
        &self,
        desk: &Desk,
        key: K,
        visible: &'static Visible,
        refresh: impl Future<Output = Tried<Duration>>,
    ) -> ServiceOutcome {
        self.serve_by(desk, key, async { (refresh.await, visible) }).await
    }

    /// The same with a refresh of several steps, which says as what the failure of the one that failed shows: to the request that
    /// made it, and to those that waited for it.
    pub(super) async fn serve_by(
        &self,
        desk: &Desk,
        key: K,
        refresh: impl Future<Output = (Tried<Duration>, &'static Visible)>,
    ) -> ServiceOutcome {
        let had = match self.find(key, desk.now()) {
            Found::Held => return ServiceOutcome::ServedFromCache,
            Found::HeldTryRefresh => {
                // Others are served meanwhile; only this request meets a failure.
                let (tried, visible) = refresh.await;
                if let Ok(ttl) = &tried.result {
                    self.put(key, desk.now(), *ttl);
                }
                return desk.outcome(visible, tried);
            }
            Found::Refreshing(under_way) => {
                under_way.ended.notified().await;
                return match under_way.failure.borrow().clone() {
                    Some((failure, visible)) => {
                        desk.outcome::<()>(visible, Tried { result: Err(failure), attempts: 0 })
                    }
                    None => ServiceOutcome::ServedFromCache,
                };
            }
            Found::Failed(failure, visible) => {
                return desk.outcome::<()>(visible, Tried { result: Err(failure), attempts: 0 });
            }
            Found::Expired => true,
            Found::Missing => false,
        };
        let under_way = Rc::new(Refresh::default());
        self.entries.borrow_mut().insert(key, Entry::Refreshing(under_way.clone()));
        let (tried, visible) = refresh.await;
        let kept = had && tried.result.as_ref().is_err_and(|failure| self.keep.keeps(failure));
        match &tried.result {
            Ok(ttl) => self.put(key, desk.now(), *ttl),
            Err(_) if kept => self.put(key, desk.now(), KEPT_FOR),
            Err(failure) => {
                if self.failures_for.is_zero() {
                    self.entries.borrow_mut().remove(&key);
                } else {
                    let (until, failure) = (desk.now() + self.failures_for, failure.clone());
                    self.entries.borrow_mut().insert(key, Entry::Failed { until, failure, visible });
                }
                under_way.failure.replace(Some((failure.clone(), visible)));
            }
        }
        under_way.ended.notify_waiters();
        if kept { ServiceOutcome::ServedFromCache } else { desk.outcome(visible, tried) }
    }
}
