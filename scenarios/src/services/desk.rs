//! A service's front desk: takes requests up to a limit, carries them out, reports each one, and makes its KMS calls.

use super::Work;
use super::draws::Draws;
use super::retry::{Retry, Tried};
use super::settings::{Load, ROLES};
use crate::kms::{Caller, CiphertextBlob, KmsApi, KmsException, KmsOperation};
use crate::trace::{Event, Recorder, ServiceEvent, ServiceOutcome};
use serde::Deserialize;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// What a user sees whose request found `in_flight_max` others waiting.
pub const TOO_MANY_WAITING: &str = "client gave up: too many requests waiting";

/// Something that happened to one of a service's resources because its key was unusable, seen or unseen by a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// When, in simulated time since the start of the run.
    pub at: Duration,
    /// Number of the resource within its service, from 0.
    pub resource: usize,
    /// What became of it, such as `archived`.
    pub what: &'static str,
}

/// So many of something, and when the first of them came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// In words, as a plural noun: `messages past their retention`.
    pub what: &'static str,
    /// How many.
    pub count: u64,
    /// When the first, in simulated time since the start of the run.
    pub first_at: Duration,
}

/// How often something happened to resources, however much of it [`Aftermath::damage`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Happened {
    /// As in [`Damage::what`].
    pub what: &'static str,
    /// How many times, of simulated resources.
    pub count: u64,
    /// When first, in simulated time since the start of the run.
    pub first_at: Duration,
    /// When last.
    pub last_at: Duration,
}

/// What an outage leaves behind at one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Aftermath {
    /// All that happened to resources, by what it was.
    pub happened: Vec<Happened>,
    /// What happened to resources, in order of time; of very many the first [`DAMAGE_MAX`].
    pub damage: Vec<Damage>,
    /// What is lost for good.
    pub lost: Vec<Counted>,
    /// What waits for a human at the end of the run.
    pub manual: Vec<Counted>,
}

/// The most [`Damage`] that is kept one by one.
pub const DAMAGE_MAX: usize = 10_000;

impl Aftermath {
    /// What became of resources in this way: how many times, and when first.
    pub(super) fn became(&self, what: &str) -> Option<(u64, Duration)> {
        self.happened(what).map(|it| (it.count, it.first_at))
    }

    /// The same, with the last time.
    pub(super) fn happened(&self, what: &str) -> Option<&Happened> {
        self.happened.iter().find(|it| it.what == what)
    }
}

/// Counts by what is counted, which keeps the order of a report the same in every run.
#[derive(Default)]
struct Tally(RefCell<BTreeMap<&'static str, Counted>>);

impl Tally {
    fn add(&self, what: &'static str, count: u64, at: Duration) {
        if count > 0 {
            let mut counts = self.0.borrow_mut();
            let counted = counts.entry(what).or_insert(Counted { what, count: 0, first_at: at });
            counted.count += count;
            counted.first_at = counted.first_at.min(at);
        }
    }

    fn take(&self, what: &'static str, count: u64) {
        let mut counts = self.0.borrow_mut();
        if let Some(counted) = counts.get_mut(what) {
            counted.count = counted.count.saturating_sub(count);
            if counted.count == 0 {
                counts.remove(what);
            }
        }
    }

    fn all(&self) -> Vec<Counted> {
        self.0.borrow().values().copied().collect()
    }
}

/// What a service's users see for each exception of KMS: its own error code and HTTP status.
pub(super) struct Visible {
    pub(super) invalid_state: &'static str,
    pub(super) internal: &'static str,
    pub(super) throttled: &'static str,
    pub(super) disabled: &'static str,
    /// The key is deleted, and its time to be brought back is over.
    pub(super) not_found: &'static str,
}

impl Visible {
    /// The same for every exception.
    pub(super) const fn always(visible: &'static str) -> Self {
        Self {
            invalid_state: visible,
            internal: visible,
            throttled: visible,
            disabled: visible,
            not_found: visible,
        }
    }

    fn code(&self, shown: ShownAs) -> &'static str {
        match shown {
            ShownAs::InvalidState => self.invalid_state,
            ShownAs::Disabled => self.disabled,
            ShownAs::Internal => self.internal,
            ShownAs::Throttled => self.throttled,
        }
    }
}

/// Which of a service's own codes its users see for an answer of KMS. A service that has one code for all shows that one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShownAs {
    /// The code for a key in an invalid state, such as `KMS.KMSInvalidStateException (400)`.
    InvalidState,
    /// The code for a disabled key.
    Disabled,
    /// The code for an error inside the service, such as `ServiceUnavailable (503)`.
    Internal,
    /// The code for throttling, or the generic one where the service has none.
    Throttled,
}

impl ShownAs {
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::InvalidState => "a key in an invalid state",
            Self::Disabled => "a disabled key",
            Self::Internal => "an error inside the service",
            Self::Throttled => "throttling",
        }
    }
}

pub(super) struct Desk {
    index: usize,
    kms: Rc<dyn KmsApi>,
    recorder: Rc<dyn Recorder>,
    retry: Retry,
    until: Duration,
    load: Load,
    in_flight: Cell<u32>,
    became_idle: Notify,
    damage: RefCell<Vec<Damage>>,
    happened: RefCell<BTreeMap<&'static str, Happened>>,
    lost: Tally,
    manual: Tally,
}

impl Desk {
    pub(super) fn new(
        index: usize,
        kms: Rc<dyn KmsApi>,
        recorder: Rc<dyn Recorder>,
        jitter: Draws,
        until: Duration,
        load: Load,
    ) -> Self {
        Self {
            index,
            kms,
            recorder,
            retry: Retry::new(jitter, load.kms_attempts_max),
            until,
            load,
            in_flight: Cell::new(0),
            became_idle: Notify::new(),
            damage: RefCell::default(),
            happened: RefCell::default(),
            lost: Tally::default(),
            manual: Tally::default(),
        }
    }

    pub(super) fn now(&self) -> Duration {
        self.recorder.now()
    }

    /// How long requests still come in.
    pub(super) fn open_for(&self) -> Duration {
        self.until.saturating_sub(self.now())
    }

    pub(super) fn closed(&self) -> bool {
        self.now() >= self.until
    }

    /// The end of the requests.
    pub(super) fn until(&self) -> Duration {
        self.until
    }

    /// The callers for KMS's records: this service, acting for so many of [`ROLES`].
    pub(super) fn callers(&self, principals: u32, via_service: &'static str) -> Vec<Caller> {
        ROLES.iter().take(principals as usize).map(|role| self.caller(role, via_service)).collect()
    }

    /// The caller for KMS's records: this service, acting for `principal_arn`.
    pub(super) fn caller(&self, principal_arn: &'static str, via_service: &'static str) -> Caller {
        Caller { service: self.index, principal_arn, via_service: Some(via_service) }
    }

    /// An application that calls KMS itself.
    pub(super) fn direct_caller(&self, principal_arn: &'static str) -> Caller {
        Caller { service: self.index, principal_arn, via_service: None }
    }

    pub(super) async fn encrypt(&self, operation: KmsOperation, caller: &Caller) -> Tried<CiphertextBlob> {
        let again = self.again();
        self.retry
            .call(|| {
                again();
                self.kms.encrypt(operation, caller)
            })
            .await
    }

    pub(super) async fn decrypt(&self, blob: &CiphertextBlob, caller: &Caller) -> Tried<()> {
        let again = self.again();
        self.retry
            .call(|| {
                again();
                self.kms.decrypt(blob, caller)
            })
            .await
    }

    /// Called before each attempt of one call, it takes note of all but the first.
    fn again(&self) -> impl Fn() {
        let attempts = Cell::new(0_u32);
        move || {
            if attempts.replace(attempts.get().saturating_add(1)) > 0 {
                self.recorder.retry(self.index);
            }
        }
    }

    /// Makes a data key and decrypts it, as creating and attaching an encrypted volume does.
    pub(super) async fn encrypt_and_decrypt(
        &self,
        operation: KmsOperation,
        caller: &Caller,
    ) -> Tried<CiphertextBlob> {
        let made = self.encrypt(operation, caller).await;
        let Ok(blob) = &made.result else { return made };
        let opened = self.decrypt(blob, caller).await;
        Tried { result: opened.result.and(made.result), attempts: made.attempts + opened.attempts }
    }

    /// The outcome of a request that needed this KMS call, or these.
    pub(super) fn outcome<T>(&self, visible: &Visible, tried: Tried<T>) -> ServiceOutcome {
        match tried.result {
            Ok(_) => ServiceOutcome::ServedByKms,
            Err(failure) => ServiceOutcome::Failed {
                visible: match failure.exception {
                    KmsException::KmsInternal => visible.code(self.load.on_500),
                    KmsException::Throttling => visible.code(self.load.on_throttle),
                    KmsException::Disabled => visible.disabled,
                    KmsException::NotFound => visible.not_found,
                    // Nothing else is retried either.
                    _ => visible.code(self.load.on_400),
                },
                kms: Some(failure),
                attempts: tried.attempts,
            },
        }
    }

    /// Carries out and reports one request, unless too many are waiting. True when it succeeded.
    pub(super) async fn perform(&self, work: Work) -> bool {
        let at = self.now();
        let requests = self.recorder.requests();
        let request = requests.begin(self.index);
        let outcome = if self.in_flight.get() < self.load.in_flight_max {
            self.in_flight.set(self.in_flight.get() + 1);
            let outcome = requests.follow(request, work).await;
            self.in_flight.set(self.in_flight.get() - 1);
            if self.in_flight.get() == 0 {
                self.became_idle.notify_waiters();
            }
            outcome
        } else {
            ServiceOutcome::Failed { visible: TOO_MANY_WAITING, kms: None, attempts: 0 }
        };
        let succeeded = !matches!(outcome, ServiceOutcome::Failed { .. });
        let took = self.now().saturating_sub(at);
        let event = ServiceEvent { service: self.index, at, took, outcome };
        requests.during(request, || self.recorder.emit(Event::Service(event)));
        succeeded
    }

    /// Waits until no request is being carried out.
    pub(super) async fn idle(&self) {
        // Tasks of arrivals at the last moment may not have begun yet.
        tokio::task::yield_now().await;
        while self.in_flight.get() > 0 {
            self.became_idle.notified().await;
        }
    }

    pub(super) fn record_damage(&self, resource: usize, what: &'static str) {
        let at = self.now();
        let mut happened = self.happened.borrow_mut();
        let it = happened.entry(what).or_insert(Happened { what, count: 0, first_at: at, last_at: at });
        it.count += 1;
        it.last_at = at;
        let mut damage = self.damage.borrow_mut();
        if damage.len() < DAMAGE_MAX {
            damage.push(Damage { at, resource, what });
        }
    }

    /// How many of what users bring along stand behind so many simulated ones.
    pub(super) fn represented(&self, simulated: u64) -> u64 {
        simulated.saturating_mul(u64::from(self.load.represents))
    }

    /// So many of `what`, a plural noun, are gone for good since `at`. Those that came with requests are
    /// [`Desk::represented`] first.
    pub(super) fn lose(&self, what: &'static str, count: u64, at: Duration) {
        self.lost.add(what, count, at);
    }

    /// `what`, a plural noun, is left for a human to do so many times more.
    pub(super) fn leave_to_do(&self, what: &'static str, count: u64) {
        self.manual.add(what, count, self.now());
    }

    /// So many of [`Desk::leave_to_do`] are done.
    pub(super) fn done(&self, what: &'static str, count: u64) {
        self.manual.take(what, count);
    }

    pub(super) fn aftermath(&self) -> Aftermath {
        let damage = self.damage.borrow().clone();
        let happened = self.happened.borrow().values().copied().collect();
        Aftermath { happened, damage, lost: self.lost.all(), manual: self.manual.all() }
    }
}
