//! The error table of the XKS spec: twelve names, their status codes, and one fixed public sentence each.
//!
//! Place on the map: the reply station. The cause of an error goes to the audit event only (XKS-MD-6); the caller
//! gets the fixed sentence (XKS-ERR-1: under 512 printable ASCII characters).

use crate::hsm::{HsmError, HsmErrorKind};
use http::StatusCode;

/// The twelve error names of the spec (XKS-ERR-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is named as in the spec and explained by its sentence below")]
pub enum ErrorName {
    ValidationException,
    InvalidStateException,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    AuthenticationFailedException,
    AccessDeniedException,
    KeyNotFoundException,
    InvalidUriPathException,
    ThrottlingException,
    UnsupportedOperationException,
    DependencyTimeoutException,
    InternalException,
}

impl ErrorName {
    /// All twelve, in the order of the spec's table.
    pub const ALL: [Self; 12] = [
        Self::ValidationException,
        Self::InvalidStateException,
        Self::InvalidCiphertextException,
        Self::InvalidKeyUsageException,
        Self::AuthenticationFailedException,
        Self::AccessDeniedException,
        Self::KeyNotFoundException,
        Self::InvalidUriPathException,
        Self::ThrottlingException,
        Self::UnsupportedOperationException,
        Self::DependencyTimeoutException,
        Self::InternalException,
    ];

    /// The name as it stands in `errorName`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ValidationException => "ValidationException",
            Self::InvalidStateException => "InvalidStateException",
            Self::InvalidCiphertextException => "InvalidCiphertextException",
            Self::InvalidKeyUsageException => "InvalidKeyUsageException",
            Self::AuthenticationFailedException => "AuthenticationFailedException",
            Self::AccessDeniedException => "AccessDeniedException",
            Self::KeyNotFoundException => "KeyNotFoundException",
            Self::InvalidUriPathException => "InvalidUriPathException",
            Self::ThrottlingException => "ThrottlingException",
            Self::UnsupportedOperationException => "UnsupportedOperationException",
            Self::DependencyTimeoutException => "DependencyTimeoutException",
            Self::InternalException => "InternalException",
        }
    }

    /// The status code of the spec's table (XKS-ERR-2).
    pub fn status(self) -> StatusCode {
        match self {
            Self::ValidationException
            | Self::InvalidStateException
            | Self::InvalidCiphertextException
            | Self::InvalidKeyUsageException => StatusCode::BAD_REQUEST,
            Self::AuthenticationFailedException => StatusCode::UNAUTHORIZED,
            Self::AccessDeniedException => StatusCode::FORBIDDEN,
            Self::KeyNotFoundException | Self::InvalidUriPathException => StatusCode::NOT_FOUND,
            Self::ThrottlingException => StatusCode::TOO_MANY_REQUESTS,
            Self::UnsupportedOperationException => StatusCode::NOT_IMPLEMENTED,
            Self::DependencyTimeoutException => StatusCode::SERVICE_UNAVAILABLE,
            Self::InternalException => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The fixed sentence for `errorMessage`.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::ValidationException => "The request is not valid.",
            Self::InvalidStateException => "The external key is not enabled.",
            Self::InvalidCiphertextException => {
                "The ciphertext, its metadata, the IV, the tag or the additional authenticated data is not valid."
            }
            Self::InvalidKeyUsageException => "The external key does not allow this operation.",
            Self::AuthenticationFailedException => "The request could not be authenticated.",
            Self::AccessDeniedException => "The policy of this key store denies the request.",
            Self::KeyNotFoundException => "The external key does not exist.",
            Self::InvalidUriPathException => "No key store or operation has this path.",
            Self::ThrottlingException => "Too many requests; ask again later.",
            Self::UnsupportedOperationException => "This operation or size is not supported.",
            Self::DependencyTimeoutException => "The external key manager did not answer in time.",
            Self::InternalException => "The external key manager could not serve the request.",
        }
    }
}

/// An error on its way to the caller. `name` and `sentence` go out; `detail` stays in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XksError {
    /// Which of the twelve.
    pub name: ErrorName,
    /// Where HTTP asks for a status of its own, that status (405 for a GET, 413 for a body too large); else the table's.
    pub status: StatusCode,
    /// What the caller reads: a fixed text, never made of anything the HSM or the request holds.
    pub sentence: &'static str,
    /// For the audit event only: the cause. Never plaintext, never a secret.
    pub detail: String,
    /// The PKCS#11 return value behind it, for the audit event.
    pub ck_rv: Option<u64>,
}

impl XksError {
    /// With the table's status and sentence.
    pub fn new(name: ErrorName, detail: impl Into<String>) -> Self {
        Self { name, status: name.status(), sentence: name.sentence(), detail: detail.into(), ck_rv: None }
    }

    /// With a more helpful fixed sentence for the caller.
    pub fn with_sentence(mut self, sentence: &'static str) -> Self {
        self.sentence = sentence;
        self
    }

    /// With the status that HTTP asks for.
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }
}

impl From<HsmError> for XksError {
    fn from(error: HsmError) -> Self {
        let name = match error.kind {
            HsmErrorKind::KeyNotFound => ErrorName::KeyNotFoundException,
            HsmErrorKind::UsageRefused => ErrorName::InvalidKeyUsageException,
            HsmErrorKind::KeyDisabled => ErrorName::InvalidStateException,
            HsmErrorKind::CiphertextRejected => ErrorName::InvalidCiphertextException,
            HsmErrorKind::TooLong => ErrorName::UnsupportedOperationException,
            HsmErrorKind::Busy => ErrorName::ThrottlingException,
            HsmErrorKind::TimedOut => ErrorName::DependencyTimeoutException,
            HsmErrorKind::Refused
            | HsmErrorKind::SessionLost
            | HsmErrorKind::DeviceGone
            | HsmErrorKind::Failed => ErrorName::InternalException,
        };
        Self { ck_rv: error.ck_rv, ..Self::new(name, error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// XKS-ERR-2, written a second time so that a slip in one place shows.
    const TABLE: [(u16, &str); 12] = [
        (400, "ValidationException"),
        (400, "InvalidStateException"),
        (400, "InvalidCiphertextException"),
        (400, "InvalidKeyUsageException"),
        (401, "AuthenticationFailedException"),
        (403, "AccessDeniedException"),
        (404, "KeyNotFoundException"),
        (404, "InvalidUriPathException"),
        (429, "ThrottlingException"),
        (501, "UnsupportedOperationException"),
        (503, "DependencyTimeoutException"),
        (500, "InternalException"),
    ];

    #[test]
    fn names_and_codes_are_the_specs() {
        let ours: Vec<_> =
            ErrorName::ALL.iter().map(|name| (name.status().as_u16(), name.as_str())).collect();
        assert_eq!(ours, TABLE);
    }

    #[test]
    fn sentences_follow_err_1() {
        for name in ErrorName::ALL {
            let sentence = name.sentence();
            assert!(
                sentence.len() < 512 && sentence.bytes().all(|b| (0x20..=0x7e).contains(&b)),
                "{sentence:?}"
            );
        }
    }
}
