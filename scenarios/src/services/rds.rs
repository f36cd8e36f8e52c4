//! RDS: a running instance has its volumes attached and works on; starting one needs KMS. Two hours after RDS notices that the
//! key is gone it stops the instance, and only an operator starts it again (downstream-services 3.4; MA-D19).

use super::desk::{Damage, Desk, Visible};
use super::draws::Draws;
use super::monitor::key_is_lost;
use super::objects::Objects;
use super::settings::{Checks, IN_FLIGHT_MAX};
use super::stats::{ServiceStats, WindowTally, join};
use super::words::{clock, count};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, CiphertextBlob};
use crate::trace::ServiceOutcome;
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// `kind = "rds"`. Most requests are queries on running instances; some start a further instance from existing storage
/// (Decrypt). The running instances are created at the start (GenerateDataKeyWithoutPlaintext, Decrypt).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rds {
    /// Queries, and starts of instances, per second; above 0 to 100,000; default 50.
    pub rate_per_s: f64,
    /// Share of starts among them; 0 to 1; default 0.01.
    pub start_share: f64,
    /// Running instances, with backups enabled; 1 to 500; default 20.
    pub instances: u32,
    /// Seconds between an instance's polls of its key; 1 to 86,400; default 60. The true period is not known.
    pub check_every_s: u64,
    /// Seconds of an unusable key after which RDS notices, at least (MA-D19); 1 to 86,400; default 600.
    pub detect_min_s: u64,
    /// … and at most; default 3,600. Each instance draws its own.
    pub detect_max_s: u64,
    /// Seconds from noticing to stopping the instance; 1 to 86,400; default 7,200 (documented: 2 h).
    pub stop_after_s: u64,
    /// Requests that wait for an answer at most; default 10,000.
    pub in_flight_max: u32,
}

impl Default for Rds {
    fn default() -> Self {
        Self {
            rate_per_s: 50.0,
            start_share: 0.01,
            instances: 20,
            check_every_s: 60,
            detect_min_s: 600,
            detect_max_s: 3_600,
            stop_after_s: 7_200,
            in_flight_max: IN_FLIGHT_MAX,
        }
    }
}

/// What a query sees on an instance that RDS has stopped.
pub const INSTANCE_STOPPED: &str =
    "connection refused: instance inaccessible-encryption-credentials-recoverable";

/// The documented error, and RDS's generic ones for KMS's retryable answers (MA-D4).
const VISIBLE: Visible = Visible {
    invalid_state: "KMSKeyNotAccessibleFault (400)",
    internal: "InternalFailure (500)",
    throttled: "ServiceUnavailable (503)",
    disabled: "KMSKeyNotAccessibleFault (400)",
};
const VIA: &str = "rds.us-east-1.amazonaws.com";
const ROLE: &str = "arn:aws:iam::111122223333:role/aws-service-role/rds.amazonaws.com/AWSServiceRoleForRDS";

impl Service for Rds {
    fn name(&self) -> &'static str {
        "rds"
    }

    fn title(&self) -> &'static str {
        "RDS instances"
    }

    fn rate_per_s(&self) -> f64 {
        self.rate_per_s
    }

    fn in_flight_max(&self) -> u32 {
        self.in_flight_max
    }

    fn check(&self) -> Result<(), SettingsError> {
        Checks::of(self.name())
            .load(self.rate_per_s, self.in_flight_max)
            .share("start_share", self.start_share)
            .count("instances", self.instances, 1..=500)
            .seconds("check_every_s", self.check_every_s)
            .seconds_range(["detect_min_s", "detect_max_s"], [self.detect_min_s, self.detect_max_s])
            .seconds("stop_after_s", self.stop_after_s)
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let (low, high) = (Duration::from_secs(self.detect_min_s), Duration::from_secs(self.detect_max_s));
        let stop_after = Duration::from_secs(self.stop_after_s);
        Rc::new(Instances {
            caller: desk.caller(ROLE, VIA),
            storage: Objects::new(self.instances as usize),
            stopped: RefCell::default(),
            stop_after: (0..self.instances).map(|_| draws.between(low, high) + stop_after).collect(),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, worst: &WindowTally) -> String {
        join(&[
            worst.in_general(),
            worst.held_sentence(
                "queries on running instances",
                "their volumes stay attached with the key in the host's memory",
            ),
        ])
    }

    fn lasting_damage(&self, _stats: &ServiceStats, damage: &[Damage]) -> String {
        let Some(first) = damage.first() else { return String::new() };
        format!(
            "RDS stopped {} of {} instances (inaccessible-encryption-credentials-recoverable), the first at {}. They stay \
             stopped when the key is back, until an operator calls start-db-instance for each. After 7 days only a \
             restore from backup is left.",
            count(damage.len() as u64),
            count(u64::from(self.instances)),
            clock(first.at)
        )
    }

    fn assumptions(&self) -> Vec<String> {
        vec![format!(
            "MA-D19: RDS notices an unusable key after {} to {} s, and stops the instance {} s later (documented: 2 h)",
            self.detect_min_s, self.detect_max_s, self.stop_after_s
        )]
    }
}

struct Instances {
    settings: Rds,
    desk: Rc<Desk>,
    caller: Caller,
    storage: Objects,
    stopped: RefCell<BTreeSet<usize>>,
    stop_after: Vec<Duration>,
}

impl Instances {
    async fn create_instance(self: Rc<Self>) -> ServiceOutcome {
        let made = self.desk.encrypt_and_decrypt(&self.caller).await;
        VISIBLE.outcome(made.map(|key| {
            if !self.storage.is_full() {
                let instance = self.storage.keep(key.clone(), 0.0);
                tokio::task::spawn_local(self.clone().watch(instance, key));
            }
        }))
    }

    /// RDS's slow eye on the instance's key.
    async fn watch(self: Rc<Self>, instance: usize, key: CiphertextBlob) {
        let every = Duration::from_secs(self.settings.check_every_s);
        // Spread, so that the instances do not all ask in the same second.
        let first = every.mul_f64((instance + 1) as f64 / f64::from(self.settings.instances));
        let patience = self.stop_after[instance];
        if key_is_lost(&self.desk, &key, &self.caller, first, every, patience).await {
            self.stopped.borrow_mut().insert(instance);
            self.desk.record_damage(instance);
        }
    }

    async fn start_instance(self: Rc<Self>, place: f64) -> ServiceOutcome {
        match self.storage.pick(place) {
            Some((_, key)) => VISIBLE.outcome(self.desk.decrypt(&key, &self.caller).await),
            None => self.create_instance().await,
        }
    }

    async fn query(self: Rc<Self>, place: f64) -> ServiceOutcome {
        match self.storage.pick(place) {
            Some((instance, _)) if self.stopped.borrow().contains(&instance) => {
                ServiceOutcome::Failed { visible: INSTANCE_STOPPED, kms: None, attempts: 0 }
            }
            Some(_) => ServiceOutcome::ServedByHeldKey,
            None => self.create_instance().await,
        }
    }
}

impl Model for Instances {
    fn resources(&self) -> usize {
        self.settings.instances as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(self.create_instance())
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place) = (draws.unit(), draws.unit());
        if kind < self.settings.start_share {
            Box::pin(self.start_instance(place))
        } else {
            Box::pin(self.query(place))
        }
    }
}
