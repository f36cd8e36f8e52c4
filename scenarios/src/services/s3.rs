//! S3 with SSE-KMS and no Bucket Keys: one KMS call for each request, no cache (downstream-services 3.1).

use super::desk::{Damage, Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{Checks, IN_FLIGHT_MAX, ROLES};
use super::stats::{ServiceStats, WindowTally};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use serde::Deserialize;
use std::rc::Rc;

/// `kind = "s3"`. GET is a Decrypt, PUT a GenerateDataKey.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3 {
    /// GET and PUT requests per second; above 0 to 100,000; default 100.
    pub rate_per_s: f64,
    /// Share of PUT among them; 0 to 1; default 0.3.
    pub write_share: f64,
    /// Objects that exist at the start, and at most; 1 to 500; default 64. A PUT beyond overwrites one.
    pub objects: u32,
    /// Requests that wait for an answer at most; default 10,000.
    pub in_flight_max: u32,
}

impl Default for S3 {
    fn default() -> Self {
        Self { rate_per_s: 100.0, write_share: 0.3, objects: 64, in_flight_max: IN_FLIGHT_MAX }
    }
}

/// What S3's users see (S3 error responses; the code for KMS's 500 is MA-D13).
pub(super) const VISIBLE: Visible = Visible {
    invalid_state: "KMS.KMSInvalidStateException (400)",
    internal: "ServiceUnavailable (503)",
    throttled: "SlowDown (503)",
    disabled: "KMS.DisabledException (400)",
};
pub(super) const VIA: &str = "s3.us-east-1.amazonaws.com";

impl Service for S3 {
    fn name(&self) -> &'static str {
        "s3"
    }

    fn title(&self) -> &'static str {
        "S3 without Bucket Keys"
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
            .share("write_share", self.write_share)
            .count("objects", self.objects, 1..=500)
            .done()
    }

    fn model(&self, desk: Rc<Desk>, _draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Bucket {
            caller: desk.caller(ROLES[0], VIA),
            objects: Objects::new(self.objects as usize),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, worst: &WindowTally) -> String {
        worst.in_general()
    }

    fn lasting_damage(&self, _stats: &ServiceStats, _damage: &[Damage]) -> String {
        String::new()
    }

    fn assumptions(&self) -> Vec<String> {
        vec!["MA-D13: S3 answers 503 ServiceUnavailable when KMS answers 500".into()]
    }
}

struct Bucket {
    settings: S3,
    desk: Rc<Desk>,
    caller: Caller,
    objects: Objects,
}

impl Bucket {
    async fn put(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.caller).await;
        VISIBLE.outcome(made.map(|key| self.objects.keep(key, place)))
    }

    async fn get_or_put(self: Rc<Self>, place: f64) -> ServiceOutcome {
        match self.objects.pick(place) {
            Some((_, key)) => VISIBLE.outcome(self.desk.decrypt(&key, &self.caller).await),
            // There is nothing to read yet.
            None => self.put(place).await,
        }
    }
}

impl Model for Bucket {
    fn resources(&self) -> usize {
        self.settings.objects as usize
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        let place = number as f64 / self.resources() as f64;
        Box::pin(self.put(place))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place) = (draws.unit(), draws.unit());
        if kind < self.settings.write_share {
            Box::pin(self.put(place))
        } else {
            Box::pin(self.get_or_put(place))
        }
    }
}
