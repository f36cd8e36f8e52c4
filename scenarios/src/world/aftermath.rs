//! X9: what was encrypted during the run is decrypted at its end, once every fault is over.

use crate::clock::Clock;
use crate::invariants::{X9, X10};
use crate::kms::model::KmsModel;
use crate::kms::violations::Violations;
use crate::kms::{Caller, CiphertextBlob, KmsApi, KmsOperation};
use std::rc::Rc;
use std::time::Duration;

/// Blobs from all over the run that are decrypted at its end.
const KEPT_BLOBS_MAX: u64 = 200;

/// Not one of the scenario's services: its calls are in no figure.
const KEEPER: Caller = Caller {
    service: usize::MAX,
    principal_arn: "arn:aws:iam::111122223333:role/archive",
    via_service: None,
};

/// Encrypts something now and then, so that X9 has something from every phase of the run to look at. `operation` is
/// GenerateDataKey where HSMs flip bits, for which KMS asks for the integrity value (MA-6): without that nothing in the
/// protocol notices, and what Encrypt made is lost.
pub(super) async fn keep_blobs(
    clock: Clock,
    kms: Rc<KmsModel>,
    operation: KmsOperation,
    duration: Duration,
) -> Vec<(Duration, CiphertextBlob)> {
    let interval = (duration / u32::try_from(KEPT_BLOBS_MAX).unwrap_or(u32::MAX)).max(Duration::from_secs(1));
    let mut kept = Vec::new();
    let mut next = interval / 2;
    while next < duration {
        clock.sleep_until(next).await;
        if let Ok(blob) = kms.encrypt(operation, &KEEPER).await {
            kept.push((next, blob));
        }
        next = (next + interval).max(clock.now());
    }
    kept
}

/// Further attempts at decrypting in the check of X9, all blobs together.
const DECRYPT_AGAIN_MAX: u32 = 1_000;

/// X9. Every fault has ended, those without an end of their own with the run. A refusal of the ciphertext is a
/// violation at once; whatever else may go wrong on an ordinary day (an HSM too slow for the deadline, the quota) is
/// tried again, and only a world that does not come back breaks the promise.
pub(super) async fn check_still_decryptable(
    clock: &Clock,
    kms: &KmsModel,
    kept: Vec<(Duration, CiphertextBlob)>,
    violations: &Violations,
) {
    let mut again = DECRYPT_AGAIN_MAX;
    for (made_at, blob) in kept {
        let violation = loop {
            let Err(failure) = kms.decrypt(&blob, &KEEPER).await else { break None };
            if again == 0 || REFUSED_DATA_ROWS.contains(&failure.row) {
                break Some(format!(
                    "what was encrypted at {:.3} s does not decrypt at the end: {} {}",
                    made_at.as_secs_f64(),
                    failure.exception.as_str(),
                    failure.message
                ));
            }
            again -= 1;
            clock.sleep(Duration::from_secs(1)).await;
        };
        violations.check(X9, clock.now(), violation);
    }
}

/// Rows 3, 4 and 17 of the failure table: the proxy or KMS's inner layer refuses the data, or the answer makes no sense.
const REFUSED_DATA_ROWS: [u8; 3] = [3, 4, 17];

/// Attempts of the check of X10, one a second.
const RESUME_TRIES_MAX: u32 = 30;

/// X10. Every fault has been over for two minutes.
pub(super) async fn check_resumes(clock: &Clock, kms: &KmsModel, violations: &Violations) {
    let mut last = None;
    for _ in 0..RESUME_TRIES_MAX {
        let served = async {
            let blob = kms.encrypt(KmsOperation::GenerateDataKey, &KEEPER).await?;
            kms.decrypt(&blob, &KEEPER).await
        };
        match served.await {
            Ok(()) => return violations.check(X10, clock.now(), None),
            Err(failure) => last = Some(failure),
        }
        clock.sleep(Duration::from_secs(1)).await;
    }
    let why = last.map_or_else(String::new, |failure| failure.message.into_owned());
    violations.check(X10, clock.now(), Some(format!("KMS still gets no key: {why}")));
}
