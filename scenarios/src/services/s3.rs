//! S3 with SSE-KMS and no Bucket Keys: one KMS call for each request, no cache (downstream-services 3.1). Replication that meets
//! an unusable key fails for good: such objects are sent again only by S3 Batch Replication (MA-D14).

use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::retry::Tried;
use super::settings::{ROLES, settings};
use super::stats::{WindowTally, join};
use super::words::plural;
use super::{Model, Service, Work};
use crate::kms::{Caller, CiphertextBlob, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "s3"`. GET is a Decrypt, PUT a GenerateDataKey, HEAD makes no call.
    S3, "s3", "S3 without Bucket Keys";
    /// GET, PUT and HEAD requests per second; above 0 to 100,000; default 100.
    rate_per_s = 100.0;
    /// Share of PUT among those that are not HEAD; 0 to 1; default 0.3.
    write_share: f64 = 0.3, share();
    /// Share of HEAD, List, Delete and others that need no object key (MA-D12); 0 to 1; default 0.
    head_share: f64 = 0.0, share();
    /// Whether HEAD needs the object's key all the same (a Decrypt, MA-D12); default false.
    head_needs_key: bool = false, any();
    /// Share of multipart uploads among PUT; 0 to 1; default 0. Each costs a GenerateDataKey, and the Decrypts that the two
    /// settings below say, and is one request here.
    multipart_share: f64 = 0.0, share();
    /// Parts of a multipart upload; 1 to 10,000; default 8.
    multipart_parts: u32 = 8, count(1..=10_000);
    /// Decrypts of each part (MA-D12); 0 to 10; default 1.
    decrypts_per_part: u32 = 1, count(0..=10);
    /// Decrypts to complete an upload (MA-D12); 0 to 10; default 1.
    decrypts_per_completion: u32 = 1, count(0..=10);
    /// Share of written objects that are replicated under the same key store; 0 to 1; default 0.
    replication_share: f64 = 0.0, share();
    /// Seconds from writing an object to replicating it; 1 to 86,400; default 60. Documented: most within 15 min.
    replication_after_s: u64 = 60, seconds();
    /// Objects that exist at the start, and at most; 1 to 500; default 64. A PUT beyond overwrites one.
    objects: u32 = 64, count(1..=500);
}

/// What S3's users see (S3 error responses; the code for KMS's 500 is MA-D13).
pub(super) const VISIBLE: Visible = Visible {
    invalid_state: "KMS.KMSInvalidStateException (400)",
    internal: "ServiceUnavailable (503)",
    throttled: "SlowDown (503)",
    disabled: "KMS.DisabledException (400)",
    not_found: "KMS.NotFoundException (400)",
};
pub(super) const VIA: &str = "s3.us-east-1.amazonaws.com";
const TO_REPLICATE: &str = "objects whose replication ended in FAILED, to send again by S3 Batch Replication";

impl Service for S3 {
    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Bucket {
            caller: desk.caller(ROLES[0], VIA),
            objects: Objects::new(self.objects as usize),
            kinds: RefCell::new(draws.split()),
            replicating: Cell::new(0),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        join(&[
            during.in_general(),
            during.held_sentence("HEAD requests", "they need no object key (MA-D12)"),
        ])
    }

    fn assumptions(&self) -> Vec<String> {
        let mut assumptions =
            vec!["MA-D13: S3 answers 503 ServiceUnavailable when KMS answers 500".to_owned()];
        if self.head_share > 0.0 || self.multipart_share > 0.0 {
            assumptions.push(format!(
                "MA-D12: S3 makes {} for HEAD, and for a multipart upload a GenerateDataKey, {} for each part and {} to complete",
                if self.head_needs_key { "a Decrypt" } else { "no KMS call" },
                plural(u64::from(self.decrypts_per_part), "Decrypt", "Decrypts"),
                plural(u64::from(self.decrypts_per_completion), "Decrypt", "Decrypts"),
            ));
        }
        if self.replication_share > 0.0 {
            assumptions.push(format!(
                "MA-D14: replication that meets a KMS failure, {} s after the write, ends in FAILED and is not tried again",
                self.replication_after_s
            ));
        }
        assumptions
    }
}

struct Bucket {
    settings: S3,
    desk: Rc<Desk>,
    caller: Caller,
    objects: Objects,
    /// Draws what a request is beyond PUT or GET.
    kinds: RefCell<Draws>,
    /// Objects that wait for their replication.
    replicating: Cell<u32>,
}

/// What a request is beyond PUT or GET.
struct Manner {
    multipart: bool,
    replicated: bool,
}

impl Bucket {
    async fn put(self: Rc<Self>, place: f64, manner: Manner) -> ServiceOutcome {
        let made = if manner.multipart {
            self.upload_parts().await
        } else {
            self.desk.encrypt(KmsOperation::GenerateDataKey, &self.caller).await
        };
        self.desk.outcome(
            &VISIBLE,
            made.map(|key| {
                self.objects.keep(key.clone(), place);
                if manner.replicated {
                    tokio::task::spawn_local(self.clone().replicate(key));
                }
            }),
        )
    }

    /// Creates, sends each part, completes; the first failure ends it.
    async fn upload_parts(&self) -> Tried<CiphertextBlob> {
        let mut upload = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.caller).await;
        let S3 { multipart_parts, decrypts_per_part, decrypts_per_completion, .. } = self.settings;
        for _ in 0..multipart_parts * decrypts_per_part + decrypts_per_completion {
            let Ok(key) = &upload.result else { break };
            let opened = self.desk.decrypt(key, &self.caller).await;
            upload = Tried {
                attempts: upload.attempts + opened.attempts,
                result: opened.result.and(upload.result),
            };
        }
        upload
    }

    /// Reads the object and writes its copy, some time after it was written. With too many waiting, at once.
    async fn replicate(self: Rc<Self>, key: CiphertextBlob) {
        if self.replicating.get() < self.settings.in_flight_max {
            self.replicating.set(self.replicating.get() + 1);
            tokio::time::sleep(Duration::from_secs(self.settings.replication_after_s)).await;
            self.replicating.set(self.replicating.get() - 1);
        }
        let read = self.desk.decrypt(&key, &self.caller).await.result;
        let copied = match read {
            Ok(()) => self.desk.encrypt(KmsOperation::GenerateDataKey, &self.caller).await.result.map(drop),
            Err(failure) => Err(failure),
        };
        if copied.is_err() {
            self.desk.leave_to_do(TO_REPLICATE, self.desk.represented(1));
        }
    }

    async fn get_or_put(self: Rc<Self>, place: f64, manner: Manner) -> ServiceOutcome {
        match self.objects.pick(place) {
            Some((_, key)) => self.desk.outcome(&VISIBLE, self.desk.decrypt(&key, &self.caller).await),
            // There is nothing to read yet.
            None => self.put(place, manner).await,
        }
    }
}

impl Model for Bucket {
    fn resources(&self) -> usize {
        self.settings.objects as usize
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        let place = number as f64 / self.resources() as f64;
        Box::pin(self.put(place, Manner { multipart: false, replicated: false }))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place) = (draws.unit(), draws.unit());
        let S3 { head_share, multipart_share, replication_share, write_share, .. } = self.settings;
        let (head, manner) = {
            let mut kinds = self.kinds.borrow_mut();
            let head = kinds.unit() < head_share;
            let multipart = kinds.unit() < multipart_share;
            (head, Manner { multipart, replicated: kinds.unit() < replication_share })
        };
        if head && self.settings.head_needs_key {
            Box::pin(self.get_or_put(place, manner))
        } else if head {
            Box::pin(async { ServiceOutcome::ServedByHeldKey })
        } else if kind < write_share {
            Box::pin(self.put(place, manner))
        } else {
            Box::pin(self.get_or_put(place, manner))
        }
    }
}
