//! The S3 Encryption Client: a data key of its own for each object, no Bucket Keys, and no cache unless `cache_ttl_s` gives it one
//! (downstream-services 6; MA-D33).
//! The caller sees the KMS exception wrapped by the library.

use super::cache::KeyCache;
use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{ROLES, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "s3-encryption-client"`. An application writes objects (GenerateDataKey) and reads them (Decrypt).
    S3EncryptionClient, "s3-encryption-client", "S3 Encryption Client";
    /// Objects read and written per second; above 0 to 100,000; default 20.
    rate_per_s = 20.0;
    /// Share of writes among them; 0 to 1; default 0.3.
    write_share: f64 = 0.3, share();
    /// Objects that exist at the start, and at most; 1 to 500; default 64. A write beyond overwrites one.
    objects: u32 = 64, count(1..=500);
    /// Seconds the client keeps the data key of an object it has written or read (MA-D33); 0 to 86,400; default 0: the library has no
    /// cache.
    cache_ttl_s: u64 = 0, seconds_in(0..=86_400);
}

const VISIBLE: Visible = Visible {
    invalid_state: "S3EncryptionClientException: KMSInvalidStateException (400)",
    internal: "S3EncryptionClientException: KMSInternalException (500)",
    throttled: "S3EncryptionClientException: ThrottlingException (400)",
    disabled: "S3EncryptionClientException: DisabledException (400)",
    not_found: "S3EncryptionClientException: NotFoundException (400)",
};

impl Service for S3EncryptionClient {
    // What fails is its own call of KMS, whose SDK is in the desk.
    fn users_call_it_by_sdk(&self) -> bool {
        false
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Application {
            caller: desk.direct_caller(ROLES[0]),
            objects: Objects::new(self.objects as usize),
            cache: KeyCache::new().aged(draws),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let kept = format!("the client keeps a data key for {} s, MA-D33", self.cache_ttl_s);
        join(&[during.in_general(), during.cache_sentence("cached data keys", &kept)])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![match self.cache_ttl_s {
            0 => "MA-D33: the S3 Encryption Client caches no data keys".into(),
            s => format!("MA-D33: the S3 Encryption Client caches data keys for {s} s"),
        }]
    }
}

struct Application {
    settings: S3EncryptionClient,
    desk: Rc<Desk>,
    caller: Caller,
    objects: Objects,
    /// By object.
    cache: KeyCache<usize>,
}

impl Application {
    fn ttl(&self) -> Option<Duration> {
        (self.settings.cache_ttl_s > 0).then(|| Duration::from_secs(self.settings.cache_ttl_s))
    }

    async fn write(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.caller).await;
        let written = made.map(|key| {
            let number = self.objects.keep(key, place);
            if let Some(ttl) = self.ttl() {
                self.cache.put(number, self.desk.now(), ttl);
            }
        });
        self.desk.outcome(&VISIBLE, written)
    }

    async fn read(self: Rc<Self>, place: f64) -> ServiceOutcome {
        // There is nothing to read yet.
        let Some((number, key)) = self.objects.pick(place) else { return self.write(place).await };
        let opened = async { self.desk.decrypt(&key, &self.caller).await };
        match self.ttl() {
            Some(ttl) => {
                let open = async { opened.await.map(|()| ttl) };
                self.cache.serve(&self.desk, number, &VISIBLE, open).await
            }
            None => self.desk.outcome(&VISIBLE, opened.await),
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
