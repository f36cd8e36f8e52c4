//! What becomes of a message or event that a service has given up: a dead-letter queue takes it, if there is one that can.

use super::desk::Desk;
use serde::Deserialize;
use std::time::Duration;

/// The dead-letter queue of a subscription or function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeadLetterQueue {
    /// There is none.
    None,
    /// It is encrypted under the same key store, and fails with it.
    SameKey,
    /// It does not depend on the key store.
    OtherKey,
}

/// What is given up, in the words of a report.
pub(super) struct GivenUp {
    /// What is lost, as a plural noun.
    pub(super) lost: &'static str,
    /// What is left to do with those in the queue.
    pub(super) kept: &'static str,
}

/// The role of an EventBridge rule, which shares no data key with anyone.
pub(super) const EVENTS_ROLE: &str = "arn:aws:iam::111122223333:role/service-role/events";

impl DeadLetterQueue {
    /// So many were given up at this time, because the key store does not answer.
    pub(super) fn bury(self, desk: &Desk, words: &GivenUp, count: u64, at: Duration) {
        match self {
            Self::OtherKey => desk.leave_to_do(words.kept, desk.represented(count)),
            Self::None | Self::SameKey => desk.lose(words.lost, desk.represented(count), at),
        }
    }
}
