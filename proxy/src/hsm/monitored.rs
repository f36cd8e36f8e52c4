//! Deep health in the background (XKS-HLT-2, XKS-HLT-4): an [`Hsm`] whose `health` is answered from the latest check.
//!
//! Place on the map: around each HSM, below [`group`](crate::hsm::group). [`Monitored::watch`] is the loop; whoever
//! builds it has it run (the daemon as a task, a scenario likewise). Data calls pass through and are counted, so that an
//! HSM that is slow for customers is called degraded, whatever its own check says.
//!
//! A check is one call at a time, seconds apart, in the HSM's ordinary queue: it cannot starve customers, and no
//! GetHealthStatus waits behind them. A check that fails while customers are served has only lost its turn.

use super::group::{is_members_fault, is_the_hsms_word};
use super::{Aad, Answer, DeviceHealth, HealthStatus, Hsm, HsmError, KeyFacts, Sealed};
use crate::key::KeyName;
use crate::secret::Plaintext;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// A check answers for no longer than this (XKS-HLT-4).
const FRESH_MAX: Duration = Duration::from_secs(60);

/// While something is wrong, checks are made at least this often, so that recovery is seen soon.
const INTERVAL_WHEN_ILL_MAX: Duration = Duration::from_secs(1);

/// A call that takes more of the deadline than this, in percent, is slow: an Encrypt makes two.
const SLOW_SHARE_PERCENT: u32 = 50;

/// A check is given so many deadlines of a request, but no longer than [`PATIENCE_MAX`], before it has failed.
const CHECK_DEADLINES: u32 = 4;
const PATIENCE_MAX: Duration = Duration::from_secs(2);

/// Fewer calls since the last check say nothing about a 95th percentile.
const JUDGED_CALLS_MIN: u64 = 20;

/// How an HSM is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MonitorSettings {
    /// From the end of one check to the next. Default 10 s; at most 55 s, so that a cached answer is younger than the
    /// minute of XKS-HLT-4.
    pub interval: Duration,
    /// The deadline of requests. A call that takes more than half of it is slow, for an Encrypt makes two; a check that
    /// takes longer than all of it is too. Default 150 ms.
    pub deadline: Duration,
}

impl MonitorSettings {
    /// How long a check may take. It makes about eleven calls into the HSM where a request makes one to three, so that an
    /// HSM that serves every customer in time may need several deadlines for it.
    fn patience(&self) -> Duration {
        (self.deadline * CHECK_DEADLINES).min(PATIENCE_MAX).max(self.deadline)
    }
}

impl Default for MonitorSettings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), deadline: Duration::from_millis(150) }
    }
}

/// The latest check of an HSM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Latest {
    /// What it found, for GetHealthStatus.
    pub devices: Vec<DeviceHealth>,
    /// All devices in one word: active or unavailable when all are, degraded otherwise.
    pub status: HealthStatus,
    /// When the check began.
    pub checked_at: Instant,
    /// How long it took.
    pub took: Duration,
}

impl Latest {
    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.checked_at) < FRESH_MAX
    }
}

/// An HSM and what is known of its health.
pub struct Monitored {
    name: String,
    inner: Arc<dyn Hsm>,
    settings: MonitorSettings,
    latest: Arc<Mutex<Option<Latest>>>,
    calls: Arc<Calls>,
}

/// Data calls since the last check. Counters that protect no other data, so any order of memory will do.
#[derive(Default)]
struct Calls {
    all: AtomicU64,
    /// Slow, or failed by the HSM's own fault.
    bad: AtomicU64,
    /// Answered by the HSM itself, in whatever time. A full queue and a key that is not found do not show that it works.
    served: AtomicU64,
}

impl Monitored {
    /// Watches `inner`, once [`watch`](Self::watch) runs. `name` is for logs.
    pub fn new(name: impl Into<String>, inner: Arc<dyn Hsm>, settings: MonitorSettings) -> Self {
        Self { name: name.into(), inner, settings, latest: Arc::default(), calls: Arc::default() }
    }

    /// The same watch over the same HSM, whose calls go by another handle of it.
    pub fn over(&self, handle: Arc<dyn Hsm>) -> Self {
        Self {
            name: self.name.clone(),
            inner: handle,
            settings: self.settings,
            latest: Arc::clone(&self.latest),
            calls: Arc::clone(&self.calls),
        }
    }

    /// Checks for ever: at once, then at every interval, and every second while something is wrong.
    pub async fn watch(&self) {
        loop {
            let found = self.check(Instant::now() + self.settings.patience()).await;
            let interval = match found.status {
                HealthStatus::Active => self.settings.interval,
                _ => self.settings.interval.min(INTERVAL_WHEN_ILL_MAX),
            };
            sleep(interval).await;
        }
    }

    /// The latest check, however old; `None` before the first has ended. Asks nobody.
    pub fn latest(&self) -> Option<Latest> {
        self.lock().clone()
    }

    /// The state that the latest check found; `None` when there is none of the last minute. Asks nobody.
    pub fn status(&self) -> Option<HealthStatus> {
        let now = Instant::now();
        self.lock().as_ref().filter(|latest| latest.is_fresh(now)).map(|latest| latest.status)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Latest>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the HSM, and keeps what it says.
    async fn check(&self, deadline: Instant) -> Latest {
        let begun = Instant::now();
        let served_before = self.calls.served.load(Ordering::Relaxed);
        // The HSM should answer by the deadline itself; this is for one that does not.
        let asked = timeout_at(deadline, self.inner.health(deadline)).await;
        let took = begun.elapsed();
        let serves = self.calls.served.load(Ordering::Relaxed) != served_before;
        let mut devices = asked.unwrap_or_default();
        if devices.is_empty() {
            // The names it had before, if any.
            devices = self.latest().map(|latest| latest.devices).unwrap_or_default();
            devices.iter_mut().for_each(|device| device.status = HealthStatus::Unavailable);
        }
        if devices.is_empty() {
            let (id, model) = (self.name.clone(), String::new());
            devices.push(DeviceHealth { id, model, status: HealthStatus::Unavailable });
        }
        // What customers see comes before what the check sees.
        let impaired = self.calls.take_verdict().unwrap_or(took > self.settings.deadline);
        for device in &mut devices {
            device.status = match device.status {
                HealthStatus::Active if impaired => HealthStatus::Degraded,
                HealthStatus::Unavailable if serves => HealthStatus::Degraded,
                status => status,
            };
        }
        let has = |status| devices.iter().any(|device| device.status == status);
        let status = match (has(HealthStatus::Active), has(HealthStatus::Degraded)) {
            (true, false) if !has(HealthStatus::Unavailable) => HealthStatus::Active,
            (false, false) => HealthStatus::Unavailable,
            _ => HealthStatus::Degraded,
        };
        let latest = Latest { devices, status, checked_at: begun, took };
        let before = self.lock().replace(latest.clone()).map(|latest| latest.status);
        self.log(before, status);
        latest
    }

    fn is_slow(&self, took: Duration) -> bool {
        took * 100 > self.settings.deadline * SLOW_SHARE_PERCENT
    }

    /// Each change once; the first state only when it is a bad one.
    fn log(&self, before: Option<HealthStatus>, status: HealthStatus) {
        if before.unwrap_or(HealthStatus::Active) == status {
            return;
        }
        match status {
            HealthStatus::Active => tracing::info!(hsm = self.name, "the HSM is healthy again"),
            HealthStatus::Degraded => tracing::warn!(hsm = self.name, "the HSM is slow or impaired"),
            HealthStatus::Unavailable => tracing::warn!(hsm = self.name, "the HSM's health check fails"),
        }
    }

    async fn watched<T>(&self, call: Answer<'_, T>) -> Result<T, HsmError> {
        let mut guard = Guard { monitored: self, begun: Instant::now(), is_counted: false };
        let outcome = call.await;
        guard.is_counted = true;
        let failed = outcome.as_ref().is_err_and(|error| is_members_fault(error.kind));
        let served = outcome.as_ref().map_or_else(|error| is_the_hsms_word(error.kind), |_| true);
        self.calls.note(failed || self.is_slow(guard.begun.elapsed()), served);
        outcome
    }
}

/// Counts a call that nobody waited for to the end: a slow one, if it had been long enough.
struct Guard<'a> {
    monitored: &'a Monitored,
    begun: Instant,
    is_counted: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.is_counted && self.monitored.is_slow(self.begun.elapsed()) {
            self.monitored.calls.note(true, false);
        }
    }
}

impl Calls {
    fn note(&self, bad: bool, served: bool) {
        self.all.fetch_add(1, Ordering::Relaxed);
        self.bad.fetch_add(u64::from(bad), Ordering::Relaxed);
        self.served.fetch_add(u64::from(served), Ordering::Relaxed);
    }

    /// Whether more than one in twenty was bad since this was asked last, which is to say that the 95th percentile was;
    /// `None` when there were too few to say.
    fn take_verdict(&self) -> Option<bool> {
        let (all, bad) = (self.all.swap(0, Ordering::Relaxed), self.bad.swap(0, Ordering::Relaxed));
        (all >= JUDGED_CALLS_MIN).then_some(bad * 20 > all)
    }
}

impl Hsm for Monitored {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        Box::pin(self.watched(self.inner.describe(key, deadline)))
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        Box::pin(self.watched(self.inner.encrypt(key, aad, plaintext, deadline)))
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(self.watched(self.inner.decrypt(key, aad, sealed, deadline)))
    }

    /// From the latest check, when it is of the last minute; otherwise asked now.
    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async move {
            let now = Instant::now();
            let fresh = self.latest().filter(|latest| latest.is_fresh(now));
            match fresh {
                Some(latest) => latest.devices,
                None => self.check(deadline).await.devices,
            }
        })
    }
}

#[cfg(test)]
mod tests;
