//! Several HSMs with the same keys, used as one (modules, slots or tokens; each an [`Hsm`] of its own).
//!
//! Place on the map: between a key store and its HSMs. Inside:
//!
//! | module | what it does |
//! |---|---|
//! | `race` | one request: who is asked, when the next one is, whose answer counts |
//! | `verdict` | which errors are final and which send a request on |
//! | `breaker` | leaves a failing member alone for a while |
//! | `choice` | who is asked first |
//! | `hedge` | when a second member is asked early |
//! | `settings` | the numbers |
//!
//! Any member may make a ciphertext and any other verify or decrypt it, for the key is the same: an Encrypt with an
//! integrity value (XKS-ENC-9) does not insist on one member for its two calls. When the second falls to another that
//! cannot open what the first has made, the first is asked too, and the log warns that they hold different keys.
//!
//! All waiting is in tokio's time and nothing is random, so that a simulation can run it.

mod breaker;
mod choice;
mod hedge;
mod race;
mod settings;
mod verdict;

pub use breaker::BreakerState;
pub use settings::GroupSettings;
pub(super) use verdict::{is_members_fault, is_the_hsms_word};

use super::monitored::Monitored;
use super::{Aad, Answer, DeviceHealth, HealthStatus, Hsm, KeyFacts, Sealed};
use crate::key::KeyName;
use crate::secret::Plaintext;
use breaker::{Breaker, Change, Standing};
use choice::{Candidate, Rotation};
use hedge::{Budget, Latencies};
use race::Race;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Most members of a group: as many as GetHealthStatus can tell of (XKS-HLT-1).
pub const MEMBERS_MAX: usize = 10;

/// How many requests a healthy member gets for each one of an impaired member. Not none: somebody must notice that it has
/// recovered, and it may be all there is.
const HEALTHY_WEIGHT: u32 = 8;
const IMPAIRED_WEIGHT: u32 = 1;

/// Members that hold different keys are warned of at most this often: every other decryption can show it.
const DISAGREEMENT_PAUSE: Duration = Duration::from_secs(60);

/// One HSM of a group.
pub struct Member {
    name: String,
    hsm: Arc<dyn Hsm>,
    monitor: Option<Arc<Monitored>>,
}

impl Member {
    /// A member of which only its answers are known. `name` is for logs and metrics.
    pub fn new(name: impl Into<String>, hsm: Arc<dyn Hsm>) -> Self {
        Self { name: name.into(), hsm, monitor: None }
    }

    /// A member whose background check has a say in how much it is used.
    pub fn monitored(name: impl Into<String>, monitor: Arc<Monitored>) -> Self {
        let hsm: Arc<dyn Hsm> = Arc::<Monitored>::clone(&monitor);
        Self { name: name.into(), hsm, monitor: Some(monitor) }
    }

    fn status(&self) -> Option<HealthStatus> {
        self.monitor.as_ref().and_then(|monitor| monitor.status())
    }
}

/// A group that cannot be: no member, or more than [`MEMBERS_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongSize(pub usize);

impl fmt::Display for WrongSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a group of HSMs has 1 to {MEMBERS_MAX} members, this one has {}", self.0)
    }
}

impl std::error::Error for WrongSize {}

/// What is known of one member, for metrics. Counts are since the group was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerReport {
    /// The member's name.
    pub member: String,
    /// Its breaker; always closed in a group of one.
    pub state: BreakerState,
    /// How often the breaker has opened.
    pub opened: u64,
    /// Requests that this member failed or kept waiting, and that another member was asked for.
    pub failovers: u64,
    /// Requests for which this member was asked early, beside another one.
    pub hedges: u64,
}

/// 1 to 10 HSMs as one [`Hsm`]: a healthy member is chosen, and another one asked when it fails or keeps silent, within
/// the request's deadline. A group of one hands every call through and does nothing else.
pub struct HsmGroup {
    members: Vec<Member>,
    settings: GroupSettings,
    state: Mutex<State>,
}

/// The three operations of which latencies are kept.
#[derive(Clone, Copy)]
enum Operation {
    Describe,
    Encrypt,
    Decrypt,
}

struct State {
    rotation: Rotation,
    members: Vec<MemberState>,
    latencies: [Latencies; 3],
    budget: Budget,
    /// When members that hold different keys were warned of last.
    disagreement_told: Option<Instant>,
}

struct MemberState {
    breaker: Breaker,
    in_flight: usize,
    failovers: u64,
    hedges: u64,
}

/// The members a request has asked already, a bit each.
#[derive(Clone, Copy, Default)]
struct Asked(u16);

impl Asked {
    fn has(self, member: usize) -> bool {
        self.0 & (1 << member) != 0
    }

    fn add(&mut self, member: usize) {
        self.0 |= 1 << member;
    }

    fn is_nobody(self) -> bool {
        self.0 == 0
    }
}

/// Who is to be asked.
struct Chosen {
    member: usize,
    /// The call decides whether the member's breaker closes.
    is_probe: bool,
    era: breaker::Era,
    /// Another member has not been asked yet: a usable one, or, when this one is out of use, any.
    others: bool,
}

impl HsmGroup {
    /// A group of these members, which must hold the same keys under the same names.
    ///
    /// # Errors
    /// When there is no member, or more than [`MEMBERS_MAX`].
    pub fn new(members: Vec<Member>, settings: GroupSettings) -> Result<Self, WrongSize> {
        if members.is_empty() || members.len() > MEMBERS_MAX {
            return Err(WrongSize(members.len()));
        }
        let state = State {
            rotation: Rotation::new(members.len()),
            members: members
                .iter()
                .map(|_| MemberState {
                    breaker: Breaker::new(&settings),
                    in_flight: 0,
                    failovers: 0,
                    hedges: 0,
                })
                .collect(),
            latencies: Default::default(),
            budget: Budget::default(),
            disagreement_told: None,
        };
        Ok(Self { members, settings, state: Mutex::new(state) })
    }

    /// Each member's breaker and counts, in the order of the members.
    pub fn breakers(&self) -> Vec<BreakerReport> {
        let state = self.lock();
        let members = self.members.iter().zip(&state.members);
        members
            .map(|(member, state)| BreakerReport {
                member: member.name.clone(),
                state: state.breaker.state(),
                opened: state.breaker.opened(),
                failovers: state.failovers,
                hedges: state.hedges,
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The only member, if there is no other.
    fn only(&self) -> Option<&dyn Hsm> {
        match self.members.as_slice() {
            [only] => Some(only.hsm.as_ref()),
            _ => None,
        }
    }

    /// The next usable member, if one is left.
    fn choose(&self, asked: Asked, now: Instant) -> Option<Chosen> {
        let mut state = self.lock();
        let mut candidates = Vec::with_capacity(self.members.len());
        let mut probe = None;
        for (index, member) in self.members.iter().enumerate() {
            let status = member.status();
            // A member whose check fails is tried again by its check, at nobody's expense.
            if asked.has(index) || status == Some(HealthStatus::Unavailable) {
                continue;
            }
            let Some(of_member) = state.members.get(index) else { continue };
            match of_member.breaker.standing(now) {
                Standing::Usable => candidates.push(Candidate {
                    member: index,
                    weight: match status {
                        Some(HealthStatus::Degraded) => IMPAIRED_WEIGHT,
                        _ => HEALTHY_WEIGHT,
                    },
                    in_flight: of_member.in_flight,
                }),
                Standing::ProbeDue if probe.is_none() => probe = Some(index),
                Standing::ProbeDue | Standing::Out => {}
            }
        }
        // A probe goes out with a request that has all its time before it, or when there is nobody else.
        let usable = candidates.len();
        if let Some(member) = probe
            && (asked.is_nobody() || candidates.is_empty())
        {
            let of_member = state.members.get_mut(member)?;
            of_member.breaker.begin_probe();
            let era = of_member.breaker.era();
            return Some(Chosen { member, is_probe: true, era, others: usable > 0 });
        }
        let member = state.rotation.choose(&candidates)?;
        let era = state.members.get(member)?.breaker.era();
        Some(Chosen { member, is_probe: false, era, others: usable > 1 || probe.is_some() })
    }

    /// A member that is out of use, the least busy: worth trying when there is nobody better.
    fn choose_anyway(&self, asked: Asked) -> Option<Chosen> {
        let state = self.lock();
        let left = (0..self.members.len()).filter(|member| !asked.has(*member));
        let of_member = |member: usize| state.members.get(member).map(|of_member| (member, of_member));
        let others = left.clone().count() > 1;
        // The first of equals.
        let (member, of_member) = left.filter_map(of_member).min_by_key(|(_, it)| it.in_flight)?;
        Some(Chosen { member, is_probe: false, era: of_member.breaker.era(), others })
    }

    fn log(&self, member: usize, change: Option<Change>) {
        let (Some(change), Some(member)) = (change, self.members.get(member)) else { return };
        match change {
            Change::Opened => tracing::warn!(
                hsm = member.name,
                failures = self.settings.breaker_failures,
                "the HSM fails; its breaker is open, and the group's other members do its work"
            ),
            Change::Closed => {
                tracing::info!(hsm = member.name, "the HSM works again; its breaker is closed");
            }
        }
    }

    /// One member opened a ciphertext that another one had rejected.
    fn tell_disagreement(&self, key: &KeyName, opened: usize, rejected: usize) {
        let (Some(opened), Some(rejected)) = (self.members.get(opened), self.members.get(rejected)) else {
            return;
        };
        let now = Instant::now();
        let mut state = self.lock();
        if state.disagreement_told.is_some_and(|told| now.duration_since(told) < DISAGREEMENT_PAUSE) {
            return;
        }
        state.disagreement_told = Some(now);
        drop(state);
        tracing::warn!(
            key = %key,
            opened_by = opened.name,
            rejected_by = rejected.name,
            "two HSMs of a group hold different keys under one name: one opens a ciphertext that the other rejects; \
             clone the key, so that every HSM of the group holds the same"
        );
    }

    /// What GetHealthStatus says of one member: its own word, but not better than its breaker's.
    async fn member_health(&self, index: usize, deadline: Instant) -> Vec<DeviceHealth> {
        let Some(member) = self.members.get(index) else { return Vec::new() };
        let mut devices = match timeout_at(deadline, member.hsm.health(deadline)).await {
            Ok(devices) if !devices.is_empty() => devices,
            _ => {
                let id = member.name.clone();
                vec![DeviceHealth { id, model: String::new(), status: HealthStatus::Unavailable }]
            }
        };
        let state = self.lock().members.get(index).map(|of_member| of_member.breaker.state());
        if state != Some(BreakerState::Closed) {
            let active = devices.iter_mut().filter(|device| device.status == HealthStatus::Active);
            active.for_each(|device| device.status = HealthStatus::Degraded);
        }
        devices
    }
}

impl Hsm for HsmGroup {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        match self.only() {
            Some(only) => only.describe(key, deadline),
            None => Box::pin(Race::run(self, Operation::Describe, key, deadline, move |hsm| {
                hsm.describe(key, deadline)
            })),
        }
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        match self.only() {
            Some(only) => only.encrypt(key, aad, plaintext, deadline),
            None => Box::pin(Race::run(self, Operation::Encrypt, key, deadline, move |hsm| {
                hsm.encrypt(key, aad, plaintext, deadline)
            })),
        }
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        match self.only() {
            Some(only) => only.decrypt(key, aad, sealed, deadline),
            None => Box::pin(Race::run(self, Operation::Decrypt, key, deadline, move |hsm| {
                hsm.decrypt(key, aad, sealed, deadline)
            })),
        }
    }

    /// All members at once, so that one that hangs does not hide the others.
    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async move {
            let mut asked: Vec<_> = (0..self.members.len())
                .map(|index| (Box::pin(self.member_health(index, deadline)), None))
                .collect();
            poll_fn(|context| {
                for (asking, answer) in &mut asked {
                    if answer.is_none()
                        && let Poll::Ready(devices) = asking.as_mut().poll(context)
                    {
                        *answer = Some(devices);
                    }
                }
                match asked.iter().all(|(_, answer)| answer.is_some()) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
            asked.into_iter().filter_map(|(_, answer)| answer).flatten().collect()
        })
    }
}

#[cfg(test)]
mod tests;
