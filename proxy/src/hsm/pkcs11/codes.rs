//! What every PKCS#11 return value means to the proxy: one function, [`judge`].
//!
//! Place on the map: `session` asks it after every failed call. The policy: a code that says the caller is
//! wrong leaves the session alone; a code that says a session, login or handle is stale costs that session; a
//! code that says the token went away costs every session of the token, one that says the library did costs all, since
//! new sessions may be given the old numbers.
//!
//! Three places look at a return value once more, because it means more than its number says where they stand, and none
//! contradicts the verdict: `settings` knows which answers to a login are for good, `session` has a decrypt that failed
//! without a reason tried again on a device that shows it works, and `module` takes an initialised library for what it is
//! and initialises one that says it is not.

use crate::hsm::HsmErrorKind;
use cryptoki::error::RvError;

/// What becomes of the session on which a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum After {
    /// It is as good as before.
    Keep,
    /// It is closed, and another opened before the next request; cached key handles go with it.
    ReplaceSession,
    /// The token was removed: every session of this token is replaced.
    ReplaceToken,
    /// The library lost its state: every session of this module is replaced.
    ReplaceAll,
}

/// A return value, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The number of the return value (`CK_RV`).
    pub ck_rv: u64,
    /// What the proxy does about the request.
    pub kind: HsmErrorKind,
    /// What the worker does about its session.
    pub after: After,
}

/// Judges a return value (PKCS#11 v3.2, 5.1.1 to 5.1.7: names and numbers).
pub fn judge(rv: RvError) -> Verdict {
    use After::{Keep, ReplaceAll, ReplaceSession, ReplaceToken};
    use HsmErrorKind as Kind;
    let (ck_rv, kind, after) = match rv {
        // The key object.
        RvError::KeyFunctionNotPermitted => (0x68, Kind::UsageRefused, Keep),
        RvError::KeySizeRange => (0x62, Kind::UsageRefused, Keep),
        RvError::KeyTypeInconsistent => (0x63, Kind::UsageRefused, Keep),

        // The ciphertext. CKR_AEAD_DECRYPT_FAILED is new in v3.0 and has no name in `cryptoki` yet.
        RvError::EncryptedDataInvalid => (0x40, Kind::CiphertextRejected, Keep),
        RvError::EncryptedDataLenRange => (0x41, Kind::CiphertextRejected, Keep),
        RvError::UnknownErrorCode(0x42) => (0x42, Kind::CiphertextRejected, Keep),

        // The plaintext.
        RvError::DataLenRange => (0x21, Kind::TooLong, Keep),
        RvError::DataInvalid => (0x20, Kind::Refused, Keep),

        // No room for now. CKR_TOKEN_RESOURCE_EXCEEDED is new in v3.0.
        RvError::SessionCount => (0xb1, Kind::Busy, Keep),
        RvError::DeviceMemory => (0x31, Kind::Busy, Keep),
        RvError::HostMemory => (0x02, Kind::Busy, Keep),
        RvError::UnknownErrorCode(0x201) => (0x201, Kind::Busy, Keep),

        // The session, its login, a handle, or an operation left over from a call that failed half-way.
        RvError::SessionHandleInvalid => (0xb3, Kind::SessionLost, ReplaceSession),
        RvError::SessionClosed => (0xb0, Kind::SessionLost, ReplaceSession),
        RvError::UserNotLoggedIn => (0x101, Kind::SessionLost, ReplaceSession),
        RvError::KeyHandleInvalid => (0x60, Kind::SessionLost, ReplaceSession),
        RvError::ObjectHandleInvalid => (0x82, Kind::SessionLost, ReplaceSession),
        RvError::OperationActive => (0x90, Kind::SessionLost, ReplaceSession),
        RvError::OperationNotInitialized => (0x91, Kind::SessionLost, ReplaceSession),
        RvError::KeyChanged => (0x65, Kind::SessionLost, ReplaceSession),
        RvError::CryptokiNotInitialized => (0x190, Kind::SessionLost, ReplaceAll),

        // The device.
        RvError::DeviceRemoved => (0x32, Kind::DeviceGone, ReplaceToken),
        RvError::TokenNotPresent => (0xe0, Kind::DeviceGone, ReplaceToken),
        RvError::SlotIdInvalid => (0x03, Kind::DeviceGone, ReplaceToken),
        RvError::TokenNotRecognized => (0xe1, Kind::DeviceGone, ReplaceSession),
        RvError::DeviceError => (0x30, Kind::DeviceGone, ReplaceSession),
        RvError::FipsSelfTestFailed => (0x1b6, Kind::DeviceGone, ReplaceSession),

        // The device says no more than that it failed; nobody knows what it left behind.
        RvError::GeneralError => (0x05, Kind::Failed, ReplaceSession),
        RvError::FunctionFailed => (0x06, Kind::Failed, ReplaceSession),
        RvError::FunctionCanceled => (0x50, Kind::Failed, ReplaceSession),
        RvError::FunctionRejected => (0x200, Kind::Failed, ReplaceSession),
        RvError::Cancel => (0x01, Kind::Failed, ReplaceSession),
        RvError::MutexBad => (0x1a0, Kind::Failed, ReplaceSession),
        RvError::MutexNotLocked => (0x1a1, Kind::Failed, ReplaceSession),
        RvError::BufferTooSmall => (0x150, Kind::Failed, ReplaceSession),
        RvError::VendorDefined(number) | RvError::UnknownErrorCode(number) => {
            (number, Kind::Failed, ReplaceSession)
        }

        // The login. The first five and CKR_USER_PIN_NOT_INITIALIZED are never tried again with the same PIN, for the
        // token would lock itself; all others at most once a second (`login`).
        RvError::PinIncorrect => (0xa0, Kind::Failed, Keep),
        RvError::PinInvalid => (0xa1, Kind::Failed, Keep),
        RvError::PinLenRange => (0xa2, Kind::Failed, Keep),
        RvError::PinExpired => (0xa3, Kind::Failed, Keep),
        RvError::PinLocked => (0xa4, Kind::Failed, Keep),
        RvError::PinTooWeak => (0x1b8, Kind::Failed, Keep),
        RvError::UserAlreadyLoggedIn => (0x100, Kind::Failed, Keep),
        RvError::UserPinNotInitialized => (0x102, Kind::Failed, Keep),
        RvError::UserTypeInvalid => (0x103, Kind::Failed, Keep),
        RvError::UserAnotherAlreadyLoggedIn => (0x104, Kind::Failed, Keep),
        RvError::UserTooManyTypes => (0x105, Kind::Failed, Keep),

        // What a caller can bring about by what he sends, such as an IV of 16 bytes: no fault of the device.
        RvError::ArgumentsBad => (0x07, Kind::Refused, Keep),
        RvError::MechanismParamInvalid => (0x71, Kind::Refused, Keep),

        // The call does not suit the device or the library. The next one may, on the same session.
        RvError::NoEvent => (0x08, Kind::Failed, Keep),
        RvError::NeedToCreateThreads => (0x09, Kind::Failed, Keep),
        RvError::CantLock => (0x0a, Kind::Failed, Keep),
        RvError::AttributeReadOnly => (0x10, Kind::Failed, Keep),
        RvError::AttributeSensitive => (0x11, Kind::Failed, Keep),
        RvError::AttributeTypeInvalid => (0x12, Kind::Failed, Keep),
        RvError::AttributeValueInvalid => (0x13, Kind::Failed, Keep),
        RvError::ActionProhibited => (0x1b, Kind::Failed, Keep),
        RvError::FunctionNotParallel => (0x51, Kind::Failed, Keep),
        RvError::FunctionNotSupported => (0x54, Kind::Failed, Keep),
        RvError::CurveNotSupported => (0x140, Kind::Failed, Keep),
        RvError::KeyNotNeeded => (0x64, Kind::Failed, Keep),
        RvError::KeyNeeded => (0x66, Kind::Failed, Keep),
        RvError::KeyIndigestible => (0x67, Kind::Failed, Keep),
        RvError::KeyNotWrappable => (0x69, Kind::Failed, Keep),
        RvError::KeyUnextractable => (0x6a, Kind::Failed, Keep),
        RvError::MechanismInvalid => (0x70, Kind::Failed, Keep),
        RvError::SessionParallelNotSupported => (0xb4, Kind::Failed, Keep),
        RvError::SessionReadOnly => (0xb5, Kind::Failed, Keep),
        RvError::SessionExists => (0xb6, Kind::Failed, Keep),
        RvError::SessionReadOnlyExists => (0xb7, Kind::Failed, Keep),
        RvError::SessionReadWriteSoExists => (0xb8, Kind::Failed, Keep),
        RvError::SignatureInvalid => (0xc0, Kind::Failed, Keep),
        RvError::SignatureLenRange => (0xc1, Kind::Failed, Keep),
        RvError::TemplateIncomplete => (0xd0, Kind::Failed, Keep),
        RvError::TemplateInconsistent => (0xd1, Kind::Failed, Keep),
        RvError::TokenWriteProtected => (0xe2, Kind::Failed, Keep),
        RvError::UnwrappingKeyHandleInvalid => (0xf0, Kind::Failed, Keep),
        RvError::UnwrappingKeySizeRange => (0xf1, Kind::Failed, Keep),
        RvError::UnwrappingKeyTypeInconsistent => (0xf2, Kind::Failed, Keep),
        RvError::WrappedKeyInvalid => (0x110, Kind::Failed, Keep),
        RvError::WrappedKeyLenRange => (0x112, Kind::Failed, Keep),
        RvError::WrappingKeyHandleInvalid => (0x113, Kind::Failed, Keep),
        RvError::WrappingKeySizeRange => (0x114, Kind::Failed, Keep),
        RvError::WrappingKeyTypeInconsistent => (0x115, Kind::Failed, Keep),
        RvError::RandomSeedNotSupported => (0x120, Kind::Failed, Keep),
        RvError::RandomNoRng => (0x121, Kind::Failed, Keep),
        RvError::DomainParamsInvalid => (0x130, Kind::Failed, Keep),
        RvError::SavedStateInvalid => (0x160, Kind::Failed, Keep),
        RvError::InformationSensitive => (0x170, Kind::Failed, Keep),
        RvError::StateUnsaveable => (0x180, Kind::Failed, Keep),
        RvError::CryptokiAlreadyInitialized => (0x191, Kind::Failed, Keep),
        RvError::NewPinMode => (0x1b0, Kind::Failed, Keep),
        RvError::NextOtp => (0x1b1, Kind::Failed, Keep),
        RvError::ExceededMaxIterations => (0x1b5, Kind::Failed, Keep),
        RvError::LibraryLoadFailed => (0x1b7, Kind::Failed, Keep),
        RvError::PublicKeyInvalid => (0x1b9, Kind::Failed, Keep),
    };
    Verdict { ck_rv, kind, after }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::error::Rv;

    fn judged(ck_rv: u64) -> Verdict {
        match Rv::from(ck_rv) {
            Rv::Error(error) => judge(error),
            Rv::Ok => panic!("CKR_OK is no error"),
        }
    }

    #[test]
    fn every_code_keeps_its_number() {
        let vendors = [0x8000_0000, 0x8000_0001, 0xffff_ffff, u64::MAX];
        for ck_rv in (1..=0x400).chain(vendors) {
            assert_eq!(judged(ck_rv).ck_rv, ck_rv, "{ck_rv:#x}");
        }
    }

    /// The codes that mean anything but "this call failed", by the numbers in the standard's header. Every
    /// other number up to 0x400 must be `Failed`, so that no code is forgotten here.
    #[test]
    fn every_code_has_its_verdict() {
        use After::{Keep, ReplaceAll, ReplaceSession, ReplaceToken};
        use HsmErrorKind as Kind;
        let special: &[(Kind, After, &[u64])] = &[
            (Kind::UsageRefused, Keep, &[0x62, 0x63, 0x68]),
            (Kind::CiphertextRejected, Keep, &[0x40, 0x41, 0x42]),
            (Kind::TooLong, Keep, &[0x21]),
            (Kind::Refused, Keep, &[0x07, 0x20, 0x71]),
            (Kind::Busy, Keep, &[0x02, 0x31, 0xb1, 0x201]),
            (Kind::SessionLost, ReplaceSession, &[0x60, 0x65, 0x82, 0x90, 0x91, 0xb0, 0xb3, 0x101]),
            (Kind::SessionLost, ReplaceAll, &[0x190]),
            (Kind::DeviceGone, ReplaceToken, &[0x03, 0x32, 0xe0]),
            (Kind::DeviceGone, ReplaceSession, &[0x30, 0xe1, 0x1b6]),
        ];
        // Named codes that fail the call and leave the session as it was; all numbers without a name replace
        // it.
        let harmless: &[u64] = &[
            0x08, 0x09, 0x0a, 0x10, 0x11, 0x12, 0x13, 0x1b, 0x51, 0x54, 0x64, 0x66, 0x67, 0x69, 0x6a, 0x70,
            0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xc0, 0xc1, 0xd0, 0xd1, 0xe2, 0xf0,
            0xf1, 0xf2, 0x100, 0x102, 0x103, 0x104, 0x105, 0x110, 0x112, 0x113, 0x114, 0x115, 0x120, 0x121,
            0x130, 0x140, 0x160, 0x170, 0x180, 0x191, 0x1b0, 0x1b1, 0x1b5, 0x1b7, 0x1b8, 0x1b9,
        ];
        for ck_rv in (1..=0x400).chain([0x8000_0000, u64::MAX]) {
            let expected = special.iter().find(|(_, _, codes)| codes.contains(&ck_rv));
            let (kind, after) = match expected {
                Some((kind, after, _)) => (*kind, *after),
                None if harmless.contains(&ck_rv) => (Kind::Failed, Keep),
                None => (Kind::Failed, ReplaceSession),
            };
            assert_eq!(judged(ck_rv), Verdict { ck_rv, kind, after }, "{ck_rv:#x}");
        }
    }
}
