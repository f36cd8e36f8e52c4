//! Which errors end a request and which send it to another member: one table.
//!
//! Place on the map: part of [`group`](crate::hsm::group).

use crate::hsm::HsmErrorKind;

/// What follows from a member's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// About the key or the request: every member would say the same, so nobody else is asked.
    Final,
    /// The member works and has answered, but is believed only when every other one says the same.
    Doubted,
    /// Another member may know better, and this one did nothing wrong.
    AskAnother,
    /// Another member may know better, and this one has failed: its breaker counts it.
    Failure,
}

/// The table.
///
/// Asking again is safe, whatever became of the first call. An encryption changes nothing in the HSM: each one makes its
/// own ciphertext under its own fresh random IV, only one of them leaves the proxy, and the others are forgotten; all it
/// costs is one more of the 2^32 random IVs that a key is good for (SP 800-38D, 8.3). A decryption and a look at a key
/// are functions of their arguments. Members hold the same keys, so either one's answer is right.
pub(super) fn verdict(kind: HsmErrorKind) -> Verdict {
    match kind {
        HsmErrorKind::UsageRefused
        | HsmErrorKind::KeyDisabled
        | HsmErrorKind::TooLong => Verdict::Final,
        // KMS takes it as final, and a member that holds another key under the same name says it of every good ciphertext.
        // A tampered ciphertext therefore costs one call of each member; that is no blame for any of them.
        HsmErrorKind::CiphertextRejected => Verdict::Doubted,
        // A new key may have reached one member and not yet the other: believed only when every usable member says so.
        // Members that are out of use are not asked: a key that does not exist must not keep asking one that hangs.
        HsmErrorKind::KeyNotFound
        // One key or one request does not suit this HSM. Another one may differ in model or firmware, or have the key once.
        | HsmErrorKind::Refused
        // A full queue is load, not illness; another member may have room.
        | HsmErrorKind::Busy => Verdict::AskAnother,
        HsmErrorKind::TimedOut
        | HsmErrorKind::SessionLost
        | HsmErrorKind::DeviceGone
        | HsmErrorKind::Failed => Verdict::Failure,
    }
}

/// Whether the error shows that something is wrong with the HSM, and not with the request or the key.
pub(in crate::hsm) fn is_members_fault(kind: HsmErrorKind) -> bool {
    verdict(kind) == Verdict::Failure
}

/// Whether the error is an answer that the HSM itself has given: it works, and says no.
pub(in crate::hsm) fn is_the_hsms_word(kind: HsmErrorKind) -> bool {
    matches!(verdict(kind), Verdict::Final | Verdict::Doubted)
}

/// Which of several members' errors the caller hears of: the highest. When any says that asking later helps, it does;
/// a ciphertext is said to be wrong only when no member that may hold another key failed to say so; and a key is said to be
/// missing only when nobody had anything else to say.
pub(super) fn weight(kind: HsmErrorKind) -> u8 {
    match kind {
        HsmErrorKind::Busy => 4,
        HsmErrorKind::TimedOut => 3,
        HsmErrorKind::CiphertextRejected => 1,
        HsmErrorKind::KeyNotFound => 0,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written a second time, so that a slip in one place shows.
    #[test]
    fn what_ends_a_request_and_what_goes_on() {
        let table = [
            (HsmErrorKind::KeyNotFound, Verdict::AskAnother),
            (HsmErrorKind::UsageRefused, Verdict::Final),
            (HsmErrorKind::KeyDisabled, Verdict::Final),
            (HsmErrorKind::CiphertextRejected, Verdict::Doubted),
            (HsmErrorKind::TooLong, Verdict::Final),
            (HsmErrorKind::Refused, Verdict::AskAnother),
            (HsmErrorKind::Busy, Verdict::AskAnother),
            (HsmErrorKind::TimedOut, Verdict::Failure),
            (HsmErrorKind::SessionLost, Verdict::Failure),
            (HsmErrorKind::DeviceGone, Verdict::Failure),
            (HsmErrorKind::Failed, Verdict::Failure),
        ];
        for (kind, expected) in table {
            assert_eq!(verdict(kind), expected, "{kind:?}");
        }
    }
}
