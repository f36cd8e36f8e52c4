//! Who is at an HSM, as seen from its data door: for X7, beside what the emulated HSM says of itself.
//!
//! Place on the map: [`world`](super) puts it outermost around each HSM, on the HSM's side of a network. It counts, and
//! changes, draws and emits nothing.

use crate::clock::Clock;
use crate::fault::{Fault, FaultKind, HsmFault};
use crate::invariants::X7;
use crate::kms::violations::Violations;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;
use xks_proxy::hsm::{Aad, Answer, DeviceHealth, Hsm, KeyFacts, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

/// The sessions of one HSM: how many it has, and what the faults of the scenario leave of them.
struct Sessions {
    max: usize,
    /// From when to when, and how many are left.
    left: Vec<(Duration, Duration, usize)>,
}

impl Sessions {
    /// How many there are. At the very moment at which a fault begins or ends either number may hold.
    fn at(&self, now: Duration) -> usize {
        let during =
            |(from, to, left): &(Duration, Duration, usize)| (*from < now && now < *to).then_some(*left);
        self.left.iter().filter_map(during).fold(self.max, usize::min)
    }
}

/// Counts those who wait at one HSM: each holds a session of it, for what it has no session for it refuses at once.
pub(super) struct Watch {
    clock: Clock,
    hsm: usize,
    sessions: Sessions,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    inside: usize,
    /// When somebody last came in, unless that moment has been judged.
    entered: Option<Duration>,
    checked: u64,
    violation: Option<(Duration, String)>,
}

impl Watch {
    /// Of HSM number `hsm`, which has `sessions_max` sessions, in a run with these faults.
    pub(super) fn new(
        clock: Clock,
        hsm: usize,
        sessions_max: usize,
        faults: &[Fault],
        run_ends: Duration,
    ) -> Self {
        let left = faults.iter().filter_map(|fault| match &fault.kind {
            FaultKind::Hsm { hsms, fault: HsmFault::Sessions { sessions_max } } if hsms.contains(&hsm) => {
                // One without an end is lifted at some time after the run's.
                Some((fault.from, fault.to.unwrap_or(run_ends), *sessions_max))
            }
            _ => None,
        });
        let sessions = Sessions { max: sessions_max, left: left.collect() };
        Self { clock, hsm, sessions, seen: Mutex::default() }
    }

    /// Moves what was seen into the sink.
    pub(super) fn report(&self, violations: &Violations) {
        let mut seen = self.seen();
        self.judge(&mut seen);
        violations.check_many(X7, seen.checked, seen.violation.clone());
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the moment at which somebody last came in, once it is over: who leaves at that moment may do so after
    /// another has taken the session.
    fn judge(&self, seen: &mut Seen) {
        let Some(at) = seen.entered.take() else { return };
        seen.checked += 1;
        let (inside, limit) = (seen.inside, self.sessions.at(at));
        if inside > limit && seen.violation.is_none() {
            let text = format!("HSM {} had {inside} sessions taken at once and has only {limit}", self.hsm);
            seen.violation = Some((at, text));
        }
    }

    /// Somebody comes in, or leaves, now.
    fn change(&self, enters: bool) {
        let now = self.clock.now();
        let mut seen = self.seen();
        if seen.entered.is_some_and(|at| at < now) {
            self.judge(&mut seen);
        }
        if enters {
            seen.inside += 1;
            seen.entered = Some(now);
        } else {
            seen.inside = seen.inside.saturating_sub(1);
        }
    }

    /// A call, counted from when it has to wait until it is answered or its caller goes away.
    async fn visit<T>(&self, mut call: Pin<Box<dyn Future<Output = T> + Send + '_>>) -> T {
        let mut inside = None;
        poll_fn(move |context| {
            let answer = call.as_mut().poll(context);
            if answer.is_pending() && inside.is_none() {
                inside = Some(Visit::new(self));
            }
            answer
        })
        .await
    }
}

/// Somebody who waits. Dropping it is leaving, however that comes about.
struct Visit<'a>(&'a Watch);

impl<'a> Visit<'a> {
    fn new(watch: &'a Watch) -> Self {
        watch.change(true);
        Self(watch)
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        self.0.change(false);
    }
}

/// An HSM's data door with somebody who counts.
pub(super) struct Door {
    pub(super) inner: Arc<dyn Hsm>,
    pub(super) watch: Arc<Watch>,
}

impl Hsm for Door {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        Box::pin(self.watch.visit(self.inner.describe(key, deadline)))
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        Box::pin(self.watch.visit(self.inner.encrypt(key, aad, plaintext, deadline)))
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(self.watch.visit(self.inner.decrypt(key, aad, sealed, deadline)))
    }

    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        self.inner.health(deadline)
    }
}
