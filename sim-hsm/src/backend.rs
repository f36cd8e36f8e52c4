//! The data door: the emulated device as the proxy's [`Hsm`], in virtual time.
//!
//! Place on the map: asks `device` when an operation will be done and waits on the [`Timer`] until then, or until the
//! deadline, or until something changes through [`Control`].

use crate::capacity::{Capacity, Ticket};
use crate::control::{Control, Operation, Outcome};
use crate::device::{Device, Outlook};
use crate::faults::FaultPlan;
use crate::ledger::IvLedger;
use crate::timer::Timer;
use crate::token::{Engine, KeySpecification, Token};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use xks_proxy::hsm::{
    Aad, Answer, DeviceHealth, HealthStatus, Hsm, HsmError, HsmErrorKind, KeyFacts, Sealed,
};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

/// Everything there is to say about a device before it is switched on.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Its name in health reports and errors.
    pub name: String,
    /// Its model in health reports.
    pub model: String,
    /// Keys follow from it, together with their labels; all draws follow from it, together with `stream`.
    pub seed: u64,
    /// Which device of this seed it is. Two devices with one seed and one stream would repeat each other's IVs.
    pub stream: u64,
    /// Its keys; unused when an external engine stands in for the token.
    pub keys: Vec<KeySpecification>,
    /// What it can do at once, and how fast.
    pub capacity: Capacity,
    /// The rare faults that are always there.
    pub faults: FaultPlan,
    /// Notes every IV, if given. Give devices that share keys clones of one ledger.
    pub ledger: Option<IvLedger>,
    /// Whether [`Control::history`] is kept; it grows with every operation.
    pub history: bool,
}

impl Default for Configuration {
    /// A device without keys or faults of its own.
    fn default() -> Self {
        Self {
            name: "sim-hsm-0".into(),
            model: "Emulated HSM".into(),
            seed: 0,
            stream: 0,
            keys: Vec::new(),
            capacity: Capacity::default(),
            faults: FaultPlan::quiet(),
            ledger: None,
            history: false,
        }
    }
}

/// The emulated HSM as the proxy sees it. Clones are doors to the same device.
#[derive(Clone)]
pub struct SimHsm {
    shared: Arc<Shared>,
    model: String,
    name: String,
}

/// What both doors open on.
pub(crate) struct Shared {
    device: Mutex<Device>,
    timer: Arc<dyn Timer>,
    /// Told after every change through the control door.
    pub(crate) changed: Notify,
}

impl Shared {
    /// The device, brought up to now.
    pub(crate) fn device(&self) -> MutexGuard<'_, Device> {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.advance(self.timer.now());
        device
    }
}

/// How long until the deadline; zero when it has passed.
fn patience(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

impl SimHsm {
    /// An emulated HSM and the handle that controls it.
    pub fn new(configuration: Configuration, timer: Arc<dyn Timer>) -> (Self, Control) {
        let Configuration { seed, stream, ref keys, ref capacity, .. } = configuration;
        let token = Token::new(seed, stream, capacity.bytes_max, keys);
        Self::with_engine(configuration, Box::new(token), timer)
    }

    /// The same capacity and faults around another engine, such as a real PKCS#11 library.
    pub fn with_engine(
        configuration: Configuration,
        engine: Box<dyn Engine>,
        timer: Arc<dyn Timer>,
    ) -> (Self, Control) {
        let (name, model) = (configuration.name.clone(), configuration.model.clone());
        let device = Mutex::new(Device::new(configuration, engine));
        let shared = Arc::new(Shared { device, timer, changed: Notify::new() });
        (Self { shared: Arc::clone(&shared), model, name }, Control { shared })
    }

    /// One operation from arrival to answer.
    async fn perform<T>(
        &self,
        operation: Operation,
        key: &KeyName,
        deadline: Instant,
        work: impl FnOnce(&mut dyn Engine, Option<&IvLedger>) -> Result<T, HsmError>,
    ) -> Result<T, HsmError> {
        let shared = self.shared.as_ref();
        let patience = patience(deadline);
        if patience.is_zero() {
            return Err(self.timed_out(operation));
        }
        let arrived = shared.timer.now();
        let deadline = arrived.saturating_add(patience);
        let mut visit = Visit { shared, operation, key, arrived, ticket: None, outcome: Outcome::Abandoned };
        let admitted = shared.device().admit(operation, key, work);
        let answer = match admitted {
            Ok((ticket, answer)) => {
                visit.ticket = Some(ticket);
                self.wait(ticket, operation, deadline).await.and(answer)
            }
            Err(refusal) => Err(refusal),
        };
        visit.outcome = match &answer {
            Ok(_) => Outcome::Answered,
            Err(error) => Outcome::Failed(error.kind),
        };
        answer
    }

    /// Waits until the operation is done, lost, or out of time.
    async fn wait(&self, ticket: Ticket, operation: Operation, deadline: Duration) -> Result<(), HsmError> {
        let shared = self.shared.as_ref();
        loop {
            // Made before the look, so that no change between look and wait is missed.
            let changed = shared.changed.notified();
            let outlook = shared.device().outlook(ticket);
            let wake_at = match outlook {
                Outlook::Ended => return Ok(()),
                Outlook::Lost(error) => return Err(error),
                Outlook::EndsAt(end) => end.min(deadline),
                Outlook::Stands => deadline,
            };
            if shared.timer.now() >= deadline {
                return Err(self.timed_out(operation));
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = shared.timer.sleep_until(wake_at) => {}
            }
        }
    }

    fn timed_out(&self, operation: Operation) -> HsmError {
        let detail = format!("{}: {operation} was not answered before the deadline", self.name);
        HsmError::new(HsmErrorKind::TimedOut, detail)
    }

    async fn status(&self, deadline: Instant) -> HealthStatus {
        let shared = self.shared.as_ref();
        let deadline = shared.timer.now().saturating_add(patience(deadline));
        shared.device().counters.health += 1;
        loop {
            let changed = shared.changed.notified();
            let health = shared.device().health();
            match health {
                Some(status) => return status,
                None if shared.timer.now() >= deadline => return HealthStatus::Unavailable,
                None => {}
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = shared.timer.sleep_until(deadline) => {}
            }
        }
    }
}

/// A caller at the device. Dropping it is the caller's leaving, however that comes about.
struct Visit<'a> {
    shared: &'a Shared,
    operation: Operation,
    key: &'a KeyName,
    arrived: Duration,
    ticket: Option<Ticket>,
    outcome: Outcome,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let Self { operation, arrived, outcome, .. } = *self;
        self.shared.device().leave(self.ticket, operation, self.key, arrived, outcome);
    }
}

impl Hsm for SimHsm {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        Box::pin(self.perform(Operation::Describe, key, deadline, |engine, _| engine.describe(key)))
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        Box::pin(async move {
            let encrypted = self.perform(Operation::Encrypt, key, deadline, |engine, ledger| {
                let sealed = engine.encrypt(key, aad, plaintext)?;
                if let Some(ledger) = ledger {
                    ledger.note(key, sealed.iv);
                }
                Ok(sealed)
            });
            let mut sealed = encrypted.await?;
            self.shared.device().flip_bit(&mut sealed);
            Ok(sealed)
        })
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(
            self.perform(Operation::Decrypt, key, deadline, |engine, _| engine.decrypt(key, aad, sealed)),
        )
    }

    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async move {
            let status = self.status(deadline).await;
            vec![DeviceHealth { id: self.name.clone(), model: self.model.clone(), status }]
        })
    }
}
