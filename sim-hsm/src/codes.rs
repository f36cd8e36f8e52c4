//! PKCS#11 return codes by name, and what a caller makes of them.
//!
//! Place on the map: used by `token` and `device` for their own errors and by `device` for injected ones.

use xks_proxy::hsm::{HsmError, HsmErrorKind};

pub(crate) const CKR_DATA_LEN_RANGE: u64 = 0x21;
pub(crate) const CKR_DEVICE_ERROR: u64 = 0x30;
pub(crate) const CKR_DEVICE_REMOVED: u64 = 0x32;
pub(crate) const CKR_ENCRYPTED_DATA_INVALID: u64 = 0x40;
pub(crate) const CKR_ENCRYPTED_DATA_LEN_RANGE: u64 = 0x41;
pub(crate) const CKR_KEY_SIZE_RANGE: u64 = 0x62;
pub(crate) const CKR_KEY_FUNCTION_NOT_PERMITTED: u64 = 0x68;
pub(crate) const CKR_SESSION_COUNT: u64 = 0xB1;
pub(crate) const CKR_SESSION_HANDLE_INVALID: u64 = 0xB3;
pub(crate) const CKR_TOKEN_NOT_PRESENT: u64 = 0xE0;

/// The error a caller sees when the device returns `ck_rv`.
pub(crate) fn error(ck_rv: u64, detail: String) -> HsmError {
    HsmError { kind: kind_of(ck_rv), ck_rv: Some(ck_rv), detail }
}

/// What the proxy makes of a return code (PKCS#11 v3.0, 5.1). `scenarios/tests/hsm/conformance.rs` holds this against
/// the proxy's own table, which speaks in a PKCS#11 binding's types that have no place here.
pub fn kind_of(ck_rv: u64) -> HsmErrorKind {
    match ck_rv {
        // SLOT_ID_INVALID, DEVICE_ERROR, DEVICE_REMOVED, TOKEN_NOT_PRESENT, TOKEN_NOT_RECOGNIZED, FIPS_SELF_TEST_FAILED
        0x03 | 0x30 | 0x32 | 0xE0 | 0xE1 | 0x1B6 => HsmErrorKind::DeviceGone,
        // DATA_LEN_RANGE
        0x21 => HsmErrorKind::TooLong,
        // ARGUMENTS_BAD, DATA_INVALID, MECHANISM_PARAM_INVALID
        0x07 | 0x20 | 0x71 => HsmErrorKind::Refused,
        // ENCRYPTED_DATA_INVALID, ENCRYPTED_DATA_LEN_RANGE, AEAD_DECRYPT_FAILED
        0x40..=0x42 => HsmErrorKind::CiphertextRejected,
        // KEY_SIZE_RANGE, KEY_TYPE_INCONSISTENT, KEY_FUNCTION_NOT_PERMITTED
        0x62 | 0x63 | 0x68 => HsmErrorKind::UsageRefused,
        // HOST_MEMORY, DEVICE_MEMORY, SESSION_COUNT, TOKEN_RESOURCE_EXCEEDED
        0x02 | 0x31 | 0xB1 | 0x201 => HsmErrorKind::Busy,
        // KEY_HANDLE_INVALID, KEY_CHANGED, OBJECT_HANDLE_INVALID, OPERATION_ACTIVE, OPERATION_NOT_INITIALIZED,
        // SESSION_CLOSED, SESSION_HANDLE_INVALID, USER_NOT_LOGGED_IN, CRYPTOKI_NOT_INITIALIZED
        0x60 | 0x65 | 0x82 | 0x90 | 0x91 | 0xB0 | 0xB3 | 0x101 | 0x190 => HsmErrorKind::SessionLost,
        _ => HsmErrorKind::Failed,
    }
}
