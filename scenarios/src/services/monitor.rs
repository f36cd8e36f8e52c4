//! How slow services notice that a key is gone: each resource polls its key (MA-D2).

use super::desk::Desk;
use crate::kms::{Caller, CiphertextBlob, KmsException};
use std::time::Duration;

/// Polls a resource's key, first after `first`, then `every` so often. Returns true once it has been in an invalid state for
/// `patience` without one successful poll in between, and false when the run ends. A throttled or failed (500)
/// poll says nothing about the key's state and changes nothing.
pub(super) async fn key_is_lost(
    desk: &Desk,
    key: &CiphertextBlob,
    caller: &Caller,
    first: Duration,
    every: Duration,
    patience: Duration,
) -> bool {
    let mut lost_since = None;
    let mut pause = first;
    loop {
        tokio::time::sleep(pause).await;
        if desk.closed() {
            return false;
        }
        pause = every;
        match desk.decrypt(key, caller).await.result {
            Ok(()) => lost_since = None,
            Err(failure)
                if matches!(failure.exception, KmsException::KmsInvalidState | KmsException::Disabled) =>
            {
                let since = *lost_since.get_or_insert(desk.now());
                if desk.now() >= since + patience {
                    return true;
                }
            }
            Err(_) => {}
        }
    }
}
