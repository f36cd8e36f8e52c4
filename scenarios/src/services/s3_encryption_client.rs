//! The S3 Encryption Client: a data key of its own for each object, no Bucket Keys and no cache (downstream-services 6; MA-D33).
//! The caller sees the KMS exception wrapped by the library.

use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{ROLES, settings};
use super::stats::WindowTally;
use super::{Model, Service, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use std::rc::Rc;

settings! {
    /// `kind = "s3-encryption-client"`. An application writes objects (GenerateDataKey) and reads them (Decrypt).
    S3EncryptionClient, "s3-encryption-client", "S3 Encryption Client";
    /// Objects read and written per second; above 0 to 100,000; default 20.
    rate_per_s = 20.0;
    /// Share of writes among them; 0 to 1; default 0.3.
    write_share: f64 = 0.3, share();
    /// Objects that exist at the start, and at most; 1 to 500; default 64. A write beyond overwrites one.
    objects: u32 = 64, count(1..=500);
}

const VISIBLE: Visible = Visible {
    invalid_state: "S3EncryptionClientException: KMSInvalidStateException (400)",
    internal: "S3EncryptionClientException: KMSInternalException (500)",
    throttled: "S3EncryptionClientException: ThrottlingException (400)",
    disabled: "S3EncryptionClientException: DisabledException (400)",
};

impl Service for S3EncryptionClient {
    fn model(&self, desk: Rc<Desk>, _draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Application {
            caller: desk.direct_caller(ROLES[0]),
            objects: Objects::new(self.objects as usize),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, worst: &WindowTally) -> String {
        worst.in_general()
    }

    fn assumptions(&self) -> Vec<String> {
        vec!["MA-D33: the S3 Encryption Client caches no data keys".into()]
    }
}

struct Application {
    settings: S3EncryptionClient,
    desk: Rc<Desk>,
    caller: Caller,
    objects: Objects,
}

impl Application {
    async fn write(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.caller).await;
        VISIBLE.outcome(made.map(|key| self.objects.keep(key, place)))
    }

    async fn read(self: Rc<Self>, place: f64) -> ServiceOutcome {
        match self.objects.pick(place) {
            Some((_, key)) => VISIBLE.outcome(self.desk.decrypt(&key, &self.caller).await),
            // There is nothing to read yet.
            None => self.write(place).await,
        }
    }
}

impl Model for Application {
    fn resources(&self) -> usize {
        self.settings.objects as usize
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        let place = number as f64 / self.resources() as f64;
        Box::pin(self.write(place))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place) = (draws.unit(), draws.unit());
        if kind < self.settings.write_share {
            Box::pin(self.write(place))
        } else {
            Box::pin(self.read(place))
        }
    }
}
