//! EBS: attached volumes hold their plaintext key in the Nitro card and do not notice an outage; attaching needs KMS
//! (downstream-services 2.1).

use super::desk::{Damage, Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{Checks, IN_FLIGHT_MAX, ROLES};
use super::stats::{ServiceStats, WindowTally, join};
use super::words::plural;
use super::{Model, Service, SettingsError, Work};
use crate::kms::Caller;
use crate::trace::ServiceOutcome;
use serde::Deserialize;
use std::rc::Rc;

/// `kind = "ebs"`. Most requests are reads and writes on attached volumes; some attach another volume (Decrypt).
/// The volumes are created and attached at the start (GenerateDataKeyWithoutPlaintext, Decrypt).
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ebs {
    /// Reads and writes on volumes, and attaches, per second; above 0 to 100,000; default 50.
    pub rate_per_s: f64,
    /// Share of attaches among them; 0 to 1; default 0.02.
    pub attach_share: f64,
    /// Volumes created at the start; 1 to 500; default 40.
    pub volumes: u32,
    /// Requests that wait for an answer at most; default 10,000.
    pub in_flight_max: u32,
}

impl Default for Ebs {
    fn default() -> Self {
        Self { rate_per_s: 50.0, attach_share: 0.02, volumes: 40, in_flight_max: IN_FLIGHT_MAX }
    }
}

/// Creating and attaching end asynchronously: the failure arrives as an EventBridge event whose cause is KMS's message (MA-D6).
const CREATE_FAILED: &str = "EBS createVolume failed (volume state: error)";
const CREATE_VISIBLE: Visible = Visible {
    invalid_state: CREATE_FAILED,
    internal: CREATE_FAILED,
    throttled: CREATE_FAILED,
    disabled: CREATE_FAILED,
};
const ATTACH_FAILED: &str = "EBS attachVolume failed";
const ATTACH_VISIBLE: Visible = Visible {
    invalid_state: ATTACH_FAILED,
    internal: ATTACH_FAILED,
    throttled: ATTACH_FAILED,
    disabled: ATTACH_FAILED,
};
pub(super) const VIA: &str = "ec2.us-east-1.amazonaws.com";

impl Service for Ebs {
    fn name(&self) -> &'static str {
        "ebs"
    }

    fn title(&self) -> &'static str {
        "EBS volumes"
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
            .share("attach_share", self.attach_share)
            .count("volumes", self.volumes, 1..=500)
            .done()
    }

    fn model(&self, desk: Rc<Desk>, _draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Fleet {
            caller: desk.caller(ROLES[0], VIA),
            volumes: Objects::new(self.volumes as usize),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, worst: &WindowTally) -> String {
        join(&[
            worst.in_general(),
            worst.held_sentence(
                "reads and writes on attached volumes",
                "the volume key stays in the Nitro card's memory while a volume is attached",
            ),
        ])
    }

    fn lasting_damage(&self, stats: &ServiceStats, _damage: &[Damage]) -> String {
        match stats.failed {
            0 => String::new(),
            n => format!(
                "{} failed; EBS does not repeat them: whoever asked (an operator, a Kubernetes CSI driver) must ask again. \
                 No data is damaged.",
                plural(n, "attach or create", "attaches and creates")
            ),
        }
    }

    fn assumptions(&self) -> Vec<String> {
        vec!["MA-D6: an attach that fails for KMS shows KMS's message as the cause in EventBridge".into()]
    }
}

struct Fleet {
    settings: Ebs,
    desk: Rc<Desk>,
    caller: Caller,
    volumes: Objects,
}

impl Fleet {
    async fn create_and_attach(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let made = self.desk.encrypt_and_decrypt(&self.caller).await;
        CREATE_VISIBLE.outcome(made.map(|key| self.volumes.keep(key, place)))
    }

    async fn attach(self: Rc<Self>, place: f64) -> ServiceOutcome {
        match self.volumes.pick(place) {
            Some((_, key)) => ATTACH_VISIBLE.outcome(self.desk.decrypt(&key, &self.caller).await),
            None => self.create_and_attach(place).await,
        }
    }

    async fn read_or_write(self: Rc<Self>, place: f64) -> ServiceOutcome {
        match self.volumes.pick(place) {
            Some(_) => ServiceOutcome::ServedByHeldKey,
            None => self.create_and_attach(place).await,
        }
    }
}

impl Model for Fleet {
    fn resources(&self) -> usize {
        self.settings.volumes as usize
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        let place = number as f64 / self.resources() as f64;
        Box::pin(self.create_and_attach(place))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place) = (draws.unit(), draws.unit());
        if kind < self.settings.attach_share {
            Box::pin(self.attach(place))
        } else {
            Box::pin(self.read_or_write(place))
        }
    }
}
