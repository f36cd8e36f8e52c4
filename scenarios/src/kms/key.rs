//! A KMS key in the external key store: its state, and what each operation of the API says to it.
//!
//! Place on the map: [`model`](super::model) asks before every call. Facts and messages are those of kms-behaviour 5.3
//! (Developer Guide, key-state). A key's state is KMS's own: it has nothing to do with the external key's, and no
//! change of it reaches the proxy.

use super::spread::Spread;
use super::{KmsException, KmsFailure};
use std::cell::RefCell;
use std::time::Duration;

/// The state of a key, as DescribeKey shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyState {
    /// Usable.
    Enabled,
    /// Its owner disabled it.
    Disabled,
    /// Its owner scheduled its deletion.
    PendingDeletion,
    /// Its key store is not connected; hides the first two, never `PendingDeletion`.
    Unavailable,
}

impl KeyState {
    /// As in the KMS API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "Enabled",
            Self::Disabled => "Disabled",
            Self::PendingDeletion => "PendingDeletion",
            Self::Unavailable => "Unavailable",
        }
    }
}

/// The operations that differ in what they say to a key's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyOperation {
    /// Encrypt, Decrypt, ReEncrypt, GenerateDataKey, GenerateDataKeyWithoutPlaintext.
    Cryptographic,
    /// DescribeKey, ListAliases, GetKeyPolicy, PutKeyPolicy, ListGrants, ListResourceTags.
    Describe,
    /// EnableKey.
    Enable,
    /// DisableKey.
    Disable,
    /// ScheduleKeyDeletion.
    ScheduleDeletion,
    /// CancelKeyDeletion.
    CancelDeletion,
    /// CreateAlias.
    CreateAlias,
    /// CreateGrant.
    CreateGrant,
    /// EnableKeyRotation, DisableKeyRotation, GetKeyRotationStatus, RotateKeyOnDemand.
    Rotation,
    /// GenerateDataKeyPair, GenerateDataKeyPairWithoutPlaintext.
    DataKeyPair,
    /// ReplicateKey.
    Replicate,
}

/// Days of waiting before a deletion, as ScheduleKeyDeletion takes them.
pub const PENDING_WINDOW_DAYS: std::ops::RangeInclusive<u32> = 7..=30;

/// What the owner last made of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before CreateKey, for the hosts that have not heard of it (MA-26).
    Unknown,
    Enabled,
    Disabled,
    /// Gone from this simulated time on. AWS takes up to a day longer.
    DeletedFrom(Duration),
}

impl Phase {
    /// What shows of it while the key store is `connected` or not: `Unavailable` hides `Disabled`, and says by itself what
    /// `Enabled` says, for row 18 is not the key's.
    fn seen(self, connected: bool) -> Self {
        if self == Self::Disabled && !connected { Self::Enabled } else { self }
    }
}

/// A KMS key and the external key it is bound to for good.
#[derive(Debug)]
pub struct KmsKey {
    /// The ARN of the KMS key.
    pub arn: String,
    /// `XksKeyId`.
    pub external_key_id: String,
    phase: RefCell<Spread<Phase>>,
}

/// Who looks at a key, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) host: usize,
    pub(super) hosts: usize,
    pub(super) now: Duration,
    /// Whether the key store is connected, as far as this host has heard.
    pub(super) connected: bool,
}

impl KmsKey {
    /// Enabled, as CreateKey leaves it.
    pub(super) fn new(arn: String, external_key_id: String) -> Self {
        Self { arn, external_key_id, phase: RefCell::new(Spread::new(Phase::Enabled)) }
    }

    /// The same of a key created now, which the last host knows after `spread`.
    pub(super) fn created(arn: String, external_key_id: String, now: Duration, spread: Duration) -> Self {
        let key = Self { arn, external_key_id, phase: RefCell::new(Spread::new(Phase::Unknown)) };
        key.change(Phase::Enabled, now, spread);
        key
    }

    /// Whether a host of KMS lets the operation pass. A key store that is not connected hides that a key is disabled, as
    /// [`Self::state`] shows. What it says to cryptographic operations has a row of its own (18, MA-15) and is not said
    /// here.
    pub(super) fn admit(&self, operation: KeyOperation, view: View) -> Result<(), KmsFailure> {
        let phase = *self.phase.borrow().seen_by(view.host, view.hosts, view.now);
        self.judge(operation, phase.seen(view.connected), view.now)
    }

    /// The same for operations that change or read the key itself, which see the newest state.
    pub(super) fn admit_newest(
        &self,
        operation: KeyOperation,
        connected: bool,
        now: Duration,
    ) -> Result<(), KmsFailure> {
        let phase = *self.phase.borrow().current();
        self.judge(operation, phase.seen(connected), now)
    }

    /// The same for operations that say the same to `Enabled`, `Disabled` and `Unavailable`.
    fn admit_change(&self, operation: KeyOperation, now: Duration) -> Result<(), KmsFailure> {
        self.judge(operation, *self.phase.borrow().current(), now)
    }

    fn judge(&self, operation: KeyOperation, phase: Phase, now: Duration) -> Result<(), KmsFailure> {
        use KeyOperation as Op;
        let arn = &self.arn;
        let invalid =
            |text: &str| Err(KmsFailure::new(KmsException::KmsInvalidState, format!("{arn} {text}")));
        let gone = match phase {
            Phase::Unknown => true,
            Phase::DeletedFrom(from) => now >= from,
            Phase::Enabled | Phase::Disabled => false,
        };
        if gone {
            return Err(KmsFailure::new(KmsException::NotFound, format!("Key '{arn}' does not exist")));
        }
        match (operation, phase) {
            (Op::Rotation | Op::DataKeyPair | Op::Replicate, _) => Err(KmsFailure::new(
                KmsException::UnsupportedOperation,
                format!("{arn} is in an external key store, whose keys do not support this operation."),
            )),
            (Op::Describe, _) | (_, Phase::Enabled) if operation != Op::CancelDeletion => Ok(()),
            (Op::CancelDeletion, Phase::DeletedFrom(_)) => Ok(()),
            (Op::CancelDeletion, _) => invalid("is not pending deletion (or pending replica deletion)."),
            // The short form is the one in the field's logs.
            (Op::Cryptographic, Phase::DeletedFrom(_)) => invalid("is pending deletion."),
            (_, Phase::DeletedFrom(_)) => invalid("is pending deletion (or pending replica deletion)."),
            (Op::Cryptographic | Op::CreateGrant, Phase::Disabled) => {
                Err(KmsFailure::new(KmsException::Disabled, format!("{arn} is disabled.")))
            }
            (_, Phase::Unknown | Phase::Enabled | Phase::Disabled) => Ok(()),
        }
    }

    /// What DescribeKey shows while the key store is `connected` or not.
    pub(super) fn state(&self, connected: bool) -> KeyState {
        match (*self.phase.borrow().current(), connected) {
            (Phase::DeletedFrom(_), _) => KeyState::PendingDeletion,
            (_, false) => KeyState::Unavailable,
            (Phase::Unknown | Phase::Enabled, true) => KeyState::Enabled,
            (Phase::Disabled, true) => KeyState::Disabled,
        }
    }

    /// When a pending deletion comes.
    pub fn deletion_at(&self) -> Option<Duration> {
        match *self.phase.borrow().current() {
            Phase::DeletedFrom(at) => Some(at),
            Phase::Unknown | Phase::Enabled | Phase::Disabled => None,
        }
    }

    /// Whether the key's deletion has come.
    pub(super) fn is_gone(&self, now: Duration) -> bool {
        self.deletion_at().is_some_and(|at| now >= at)
    }

    fn change(&self, phase: Phase, now: Duration, spread: Duration) {
        let mut held = self.phase.borrow_mut();
        if *held.current() != phase {
            held.set(phase, now, spread);
        }
    }

    /// EnableKey. `spread`: until every host of KMS knows.
    pub(super) fn enable(&self, now: Duration, spread: Duration) -> Result<(), KmsFailure> {
        self.admit_change(KeyOperation::Enable, now)?;
        self.change(Phase::Enabled, now, spread);
        Ok(())
    }

    /// DisableKey.
    pub(super) fn disable(&self, now: Duration, spread: Duration) -> Result<(), KmsFailure> {
        self.admit_change(KeyOperation::Disable, now)?;
        self.change(Phase::Disabled, now, spread);
        Ok(())
    }

    /// ScheduleKeyDeletion; gives the time at which the key is gone.
    pub(super) fn schedule_deletion(
        &self,
        window_days: u32,
        now: Duration,
        spread: Duration,
    ) -> Result<Duration, KmsFailure> {
        if !PENDING_WINDOW_DAYS.contains(&window_days) {
            let (least, most) = (PENDING_WINDOW_DAYS.start(), PENDING_WINDOW_DAYS.end());
            return Err(KmsFailure::new(
                KmsException::Validation,
                format!(
                    "1 validation error detected: Value '{window_days}' at 'pendingWindowInDays' failed to satisfy \
                     constraint: give {least} to {most} days"
                ),
            ));
        }
        self.admit_change(KeyOperation::ScheduleDeletion, now)?;
        let gone = now + Duration::from_secs(u64::from(window_days) * 86_400);
        self.change(Phase::DeletedFrom(gone), now, spread);
        Ok(gone)
    }

    /// CancelKeyDeletion: the key is disabled then.
    pub(super) fn cancel_deletion(&self, now: Duration, spread: Duration) -> Result<(), KmsFailure> {
        self.admit_change(KeyOperation::CancelDeletion, now)?;
        self.change(Phase::Disabled, now, spread);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::KeyOperation as Op;
    use super::*;

    const ARN: &str = "arn:aws:kms:us-east-1:111122223333:key/1";
    const NOW: Duration = Duration::from_secs(10);
    const AT_ONCE: Duration = Duration::ZERO;

    fn key(phase: Phase) -> KmsKey {
        let key = KmsKey::new(ARN.into(), "external".into());
        key.change(phase, Duration::ZERO, AT_ONCE);
        key
    }

    fn view(host: usize, now: Duration) -> View {
        View { host, hosts: 3, now, connected: true }
    }

    fn said(result: Result<(), KmsFailure>) -> String {
        match result {
            Ok(()) => "ok".into(),
            Err(failure) => format!("{}: {}", failure.exception.as_str(), failure.message),
        }
    }

    /// Kms-behaviour 5.3, typed a second time: operation, and what it says to Enabled, Disabled, PendingDeletion. To
    /// Unavailable all say what they say to Enabled: row 18 is the key store's.
    #[test]
    fn each_operation_says_to_each_state_what_the_table_says() {
        const DISABLED: &str = "DisabledException: arn:aws:kms:us-east-1:111122223333:key/1 is disabled.";
        const SHORT: &str =
            "KMSInvalidStateException: arn:aws:kms:us-east-1:111122223333:key/1 is pending deletion.";
        const LONG: &str = "KMSInvalidStateException: arn:aws:kms:us-east-1:111122223333:key/1 is pending deletion (or pending replica deletion).";
        const NOT: &str = "KMSInvalidStateException: arn:aws:kms:us-east-1:111122223333:key/1 is not pending deletion (or pending replica deletion).";
        const UNSUPPORTED: &str = "UnsupportedOperationException: arn:aws:kms:us-east-1:111122223333:key/1 is in an external key store, whose keys do not support this operation.";
        for (operation, expected) in [
            (Op::Cryptographic, ["ok", DISABLED, SHORT]),
            (Op::Describe, ["ok", "ok", "ok"]),
            (Op::Enable, ["ok", "ok", LONG]),
            (Op::Disable, ["ok", "ok", LONG]),
            (Op::ScheduleDeletion, ["ok", "ok", LONG]),
            (Op::CancelDeletion, [NOT, NOT, "ok"]),
            (Op::CreateAlias, ["ok", "ok", LONG]),
            (Op::CreateGrant, ["ok", DISABLED, LONG]),
            (Op::Rotation, [UNSUPPORTED; 3]),
            (Op::DataKeyPair, [UNSUPPORTED; 3]),
            (Op::Replicate, [UNSUPPORTED; 3]),
        ] {
            let phases = [Phase::Enabled, Phase::Disabled, Phase::DeletedFrom(NOW * 2)];
            for (phase, expected) in phases.into_iter().zip(expected) {
                let found = said(key(phase).admit_newest(operation, true, NOW));
                assert_eq!(found, expected, "{operation:?} of {phase:?}");
            }
            for phase in [Phase::Enabled, Phase::Disabled] {
                let found = said(key(phase).admit_newest(operation, false, NOW));
                assert_eq!(found, expected[0], "{operation:?} of {phase:?}, not connected");
            }
            let found = said(key(Phase::DeletedFrom(NOW * 2)).admit_newest(operation, false, NOW));
            assert_eq!(found, expected[2], "{operation:?} of PendingDeletion, not connected");
            let gone = said(key(Phase::DeletedFrom(NOW)).admit_newest(operation, true, NOW));
            assert_eq!(gone, format!("NotFoundException: Key '{ARN}' does not exist"), "{operation:?}");
        }
    }

    #[test]
    fn a_key_goes_through_its_states() {
        let key = key(Phase::Enabled);
        key.disable(NOW, AT_ONCE).unwrap();
        assert_eq!((key.state(true), key.state(false)), (KeyState::Disabled, KeyState::Unavailable));
        key.enable(NOW, AT_ONCE).unwrap();
        assert_eq!(key.state(true), KeyState::Enabled);
        for days in [6, 31] {
            let failure = key.schedule_deletion(days, NOW, AT_ONCE).unwrap_err();
            assert_eq!(failure.exception, KmsException::Validation);
            assert!(failure.message.starts_with("1 validation error detected:"), "{}", failure.message);
        }
        let gone = key.schedule_deletion(7, NOW, AT_ONCE).unwrap();
        assert_eq!(gone, NOW + Duration::from_secs(604_800));
        assert_eq!(
            (key.state(true), key.state(false)),
            (KeyState::PendingDeletion, KeyState::PendingDeletion)
        );
        assert!(!key.is_gone(gone - NOW) && key.is_gone(gone));
        key.cancel_deletion(NOW, AT_ONCE).unwrap();
        assert_eq!((key.state(true), key.deletion_at()), (KeyState::Disabled, None));
    }

    #[test]
    fn a_new_key_is_not_found_by_hosts_that_have_not_heard_of_it() {
        let key = KmsKey::created(ARN.into(), "external".into(), NOW, Duration::from_secs(3));
        let said = |host, now| said(key.admit(Op::Cryptographic, view(host, now)));
        let unknown = format!("NotFoundException: Key '{ARN}' does not exist");
        assert_eq!([0, 2].map(|host| said(host, NOW)), [unknown.as_str(); 2]);
        let later = NOW + Duration::from_secs(1);
        assert_eq!([0, 2].map(|host| said(host, later)), ["ok", unknown.as_str()]);
        assert_eq!([0, 2].map(|host| said(host, NOW + Duration::from_secs(3))), ["ok"; 2]);
        assert_eq!(key.admit_newest(Op::Describe, true, NOW), Ok(()));
    }

    #[test]
    fn hosts_hear_of_a_change_one_after_another() {
        let key = key(Phase::Enabled);
        key.disable(NOW, Duration::from_secs(3)).unwrap();
        let admitted = |host, now| key.admit(Op::Cryptographic, view(host, now)).is_ok();
        assert_eq!([0, 1, 2].map(|host| admitted(host, NOW)), [true; 3]);
        assert_eq!([0, 1, 2].map(|host| admitted(host, NOW + Duration::from_secs(1))), [false, true, true]);
        assert_eq!([0, 1, 2].map(|host| admitted(host, NOW + Duration::from_secs(3))), [false; 3]);
    }
}
