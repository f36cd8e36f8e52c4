//! A service's front desk: takes requests up to a limit, carries them out, reports each one, and makes its KMS calls.

use super::Work;
use super::draws::Draws;
use super::retry::{Retry, Tried};
use crate::kms::{Caller, CiphertextBlob, KmsApi, KmsException, KmsOperation};
use crate::trace::{Event, Recorder, ServiceEvent, ServiceOutcome};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// What a user sees whose request found `in_flight_max` others waiting.
pub const TOO_MANY_WAITING: &str = "client gave up: too many requests waiting";

/// Something a service did to one of its resources that outlives the outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// When, in simulated time since the start of the run.
    pub at: Duration,
    /// Number of the resource within its service, from 0.
    pub resource: usize,
}

/// What a service's users see for each exception of KMS: its own error code and HTTP status.
pub(super) struct Visible {
    pub(super) invalid_state: &'static str,
    pub(super) internal: &'static str,
    pub(super) throttled: &'static str,
    pub(super) disabled: &'static str,
}

impl Visible {
    /// The outcome of a request that needed this KMS call, or these.
    pub(super) fn outcome<T>(&self, tried: Tried<T>) -> ServiceOutcome {
        match tried.result {
            Ok(_) => ServiceOutcome::ServedByKms,
            Err(failure) => ServiceOutcome::Failed {
                visible: match failure.exception {
                    KmsException::KmsInternal => self.internal,
                    KmsException::Throttling => self.throttled,
                    KmsException::Disabled => self.disabled,
                    // Not retried either; documents name no other code for a key that is gone.
                    _ => self.invalid_state,
                },
                kms: Some(failure),
                attempts: tried.attempts,
            },
        }
    }
}

pub(super) struct Desk {
    index: usize,
    kms: Rc<dyn KmsApi>,
    recorder: Rc<dyn Recorder>,
    retry: Retry,
    until: Duration,
    in_flight_max: u32,
    in_flight: Cell<u32>,
    became_idle: Notify,
    damage: RefCell<Vec<Damage>>,
}

impl Desk {
    pub(super) fn new(
        index: usize,
        kms: Rc<dyn KmsApi>,
        recorder: Rc<dyn Recorder>,
        jitter: Draws,
        until: Duration,
        in_flight_max: u32,
    ) -> Self {
        Self {
            index,
            kms,
            recorder,
            retry: Retry::new(jitter),
            until,
            in_flight_max,
            in_flight: Cell::new(0),
            became_idle: Notify::new(),
            damage: RefCell::default(),
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

    /// The caller for KMS's records: this service, acting for `principal_arn`.
    pub(super) fn caller(&self, principal_arn: &'static str, via_service: &'static str) -> Caller {
        Caller { service: self.index, principal_arn, via_service: Some(via_service) }
    }

    pub(super) async fn encrypt(&self, operation: KmsOperation, caller: &Caller) -> Tried<CiphertextBlob> {
        self.retry.call(|| self.kms.encrypt(operation, caller)).await
    }

    pub(super) async fn decrypt(&self, blob: &CiphertextBlob, caller: &Caller) -> Tried<()> {
        self.retry.call(|| self.kms.decrypt(blob, caller)).await
    }

    /// Makes a volume key and decrypts it, as creating and attaching an encrypted volume does.
    pub(super) async fn encrypt_and_decrypt(&self, caller: &Caller) -> Tried<CiphertextBlob> {
        let made = self.encrypt(KmsOperation::GenerateDataKeyWithoutPlaintext, caller).await;
        let Ok(blob) = &made.result else { return made };
        let opened = self.decrypt(blob, caller).await;
        Tried { result: opened.result.and(made.result), attempts: made.attempts + opened.attempts }
    }

    /// Carries out and reports one request, unless too many are waiting. True when it succeeded.
    pub(super) async fn perform(&self, work: Work) -> bool {
        let at = self.now();
        let outcome = if self.in_flight.get() < self.in_flight_max {
            self.in_flight.set(self.in_flight.get() + 1);
            let outcome = work.await;
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
        self.recorder.emit(Event::Service(ServiceEvent { service: self.index, at, took, outcome }));
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

    pub(super) fn record_damage(&self, resource: usize) {
        self.damage.borrow_mut().push(Damage { at: self.now(), resource });
    }

    pub(super) fn damage(&self) -> Vec<Damage> {
        self.damage.borrow().clone()
    }
}
