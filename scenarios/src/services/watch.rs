//! How slow services notice that a key is gone: they poll it (MA-D2). The resources of a service share their key here, so one
//! poll is a sample for all of them; what each makes of it, and how late, is its own. A resource notices when every poll of the
//! time it draws (MA-D18, MA-D19, MA-D21) said that the key is unusable: a key that comes and goes is not noticed.

use super::desk::Desk;
use crate::kms::{Caller, CiphertextBlob, KmsException, KmsFailure};
use std::time::Duration;

/// What the latest polls say of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyState {
    /// It works; since the first poll that said so.
    Usable { since: Duration },
    /// It is in an invalid state, or disabled; since the first poll that said so.
    Lost { since: Duration },
}

impl KeyState {
    pub(super) fn is_lost(self) -> bool {
        matches!(self, Self::Lost { .. })
    }

    /// Lost for at least so long.
    pub(super) fn lost_for(self, at_least: Duration, now: Duration) -> bool {
        matches!(self, Self::Lost { since } if now >= since + at_least)
    }

    /// Usable for at least so long.
    pub(super) fn usable_for(self, at_least: Duration, now: Duration) -> bool {
        matches!(self, Self::Usable { since } if now >= since + at_least)
    }
}

/// A failure that says something of the key: it is in an invalid state, or disabled. Throttling and KMS's own errors (500) do
/// not.
pub(super) fn tells_of_the_key(failure: &KmsFailure) -> bool {
    matches!(failure.exception, KmsException::KmsInvalidState | KmsException::Disabled)
}

/// MA-D2 as this module reads it.
pub(super) fn polls_in_words(service: &str, resources: &str, every_s: u64) -> String {
    format!(
        "MA-D2: {service} polls the key of its {resources} every {every_s} s, and notices when each poll of its time failed; one \
         that succeeds begins that time anew"
    )
}

/// Polls a key `every` so often until the run ends, and calls `react` after each poll with the time and the state. A throttled
/// or failed (500) poll says nothing about the key, whose state stays what it was.
pub(super) async fn watch_key(
    desk: &Desk,
    key: &CiphertextBlob,
    caller: &Caller,
    every: Duration,
    mut react: impl FnMut(Duration, KeyState),
) {
    let mut state = KeyState::Usable { since: desk.now() };
    loop {
        tokio::time::sleep(every).await;
        if desk.closed() {
            return;
        }
        let polled = desk.decrypt(key, caller).await.result;
        let now = desk.now();
        state = match polled {
            Ok(()) if state.is_lost() => KeyState::Usable { since: now },
            Err(failure) if !state.is_lost() && tells_of_the_key(&failure) => KeyState::Lost { since: now },
            _ => state,
        };
        react(now, state);
    }
}
