//! The failure table: what KMS's caller sees for each thing that can go wrong between KMS and the proxy.
//!
//! Place on the map: [`model`](super::model) turns a [`Cause`] into a [`KmsFailure`] with it, column "crypto" of
//! kms-behaviour 7.1, and [`lifecycle`](super::lifecycle) does for the management calls, columns "C/U" and "CK" (SPEC,
//! Error codes; Developer Guide, xks-troubleshooting).

use super::lifecycle::ConnectionErrorCode;
use super::{KmsException, KmsFailure};
use xks_proxy::error::ErrorName;

/// Why a call failed, as KMS saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The proxy answered with an error of the spec. The name alone selects the row (kms-behaviour 7.1).
    Error(ErrorName),
    /// The proxy decrypted to something that KMS's inner layer of encryption refuses.
    InnerLayer,
    /// No TCP connection, or one lost before the first byte of the answer.
    NoConnection,
    /// No TLS on an established TCP connection.
    NoTls,
    /// No answer within KMS's patience.
    TimedOut,
    /// An answer that is not the spec's (MA-5, MA-16), or one cut off in the middle.
    Malformed,
    /// The owner disconnected the key store.
    NotConnected,
    /// All external key managers said UNAVAILABLE in the last health check (MA-20; not used by crypto calls).
    Unhealthy,
    /// The quota of the key store is exceeded.
    Quota,
}

const CANNOT_INTERPRET: &str = "AWS KMS cannot interpret the response from the external key store proxy. If you see this error repeatedly, report it to your external key store proxy administrator.";

impl Cause {
    /// The row of the failure table, 1 to 20.
    pub fn row(self) -> u8 {
        match self {
            Self::Error(ErrorName::ValidationException) => 1,
            Self::Error(ErrorName::InvalidStateException) => 2,
            Self::Error(ErrorName::InvalidCiphertextException) => 3,
            Self::InnerLayer => 4,
            Self::Error(ErrorName::InvalidKeyUsageException) => 5,
            Self::Error(ErrorName::AuthenticationFailedException) => 6,
            Self::Error(ErrorName::AccessDeniedException) => 7,
            Self::Error(ErrorName::KeyNotFoundException) => 8,
            Self::Error(ErrorName::InvalidUriPathException) => 9,
            Self::Error(ErrorName::UnsupportedOperationException) => 10,
            Self::Error(ErrorName::DependencyTimeoutException) => 11,
            Self::Error(ErrorName::ThrottlingException) => 12,
            Self::Error(ErrorName::InternalException) => 13,
            Self::NoConnection => 14,
            Self::NoTls => 15,
            Self::TimedOut => 16,
            Self::Malformed => 17,
            Self::NotConnected => 18,
            Self::Unhealthy => 19,
            Self::Quota => 20,
        }
    }

    /// The message, word for word.
    pub fn message(self) -> &'static str {
        match self {
            Self::Error(ErrorName::ValidationException) | Self::Malformed => CANNOT_INTERPRET,
            Self::Error(ErrorName::InvalidStateException) => {
                "The external key associated with this KMS key in an external key store is not enabled in the external key manager. Enable the external key in the external key manager and retry the request."
            }
            Self::Error(ErrorName::InvalidCiphertextException) => {
                "The external key store proxy rejected the request because the specified ciphertext or encryption context is corrupted, missing, or otherwise invalid."
            }
            Self::InnerLayer => {
                "The ciphertext that the external key store proxy submitted for decryption, or the encryption context, is corrupted, missing, or otherwise invalid."
            }
            Self::Error(ErrorName::InvalidKeyUsageException) => {
                "The external key associated with this KMS key in an external key store does not support the requested operation. Enable the operation on the key in your external key manager, and try the request again."
            }
            Self::Error(ErrorName::AuthenticationFailedException) => {
                "The external key store proxy rejected the request because it could not authenticate AWS KMS. Verify the XKS proxy authentication credentials for your external key store and update if necessary."
            }
            Self::Error(ErrorName::AccessDeniedException) => {
                "The external key store proxy denied access to the operation. Verify that the user and the external key are both authorized for this operation, and try the request again."
            }
            Self::Error(ErrorName::KeyNotFoundException) => {
                "The external key associated with this KMS key in an external key store was not found in its external key manager. If the external key ID associated with this KMS key is incorrect, create a new KMS key with the correct external key ID."
            }
            Self::Error(ErrorName::InvalidUriPathException) => {
                "The external key store proxy rejected the request because of an invalid URI path. Verify the URI path for your external key store and update if necessary."
            }
            Self::Error(ErrorName::UnsupportedOperationException) => {
                "The external key store proxy rejected the request because it does not support the requested operation. If you see this error repeatedly, report it to your external key store proxy administrator."
            }
            Self::Error(ErrorName::DependencyTimeoutException) => {
                "The external key store proxy did not respond to the request in the time allotted. Retry the request. If you see this error repeatedly, report it to your external key store proxy administrator."
            }
            Self::Error(ErrorName::ThrottlingException) => {
                "The external key store proxy rejected the request due to a very high request rate. Reduce the frequency of your calls using KMS keys in this external key store."
            }
            Self::Error(ErrorName::InternalException) => {
                "The external key store proxy rejected the request because it cannot communicate with the external key manager. Verify that the external key store proxy configuration is correct and that the external key manager is available."
            }
            Self::NoConnection => {
                "AWS KMS cannot communicate with the external key store proxy. This might be a transient network issue. If you see this error repeatedly, verify that your external key store proxy is active and is connected to the network, and that its endpoint URI is correct in your external keystore."
            }
            Self::NoTls => {
                "AWS KMS cannot establish a TLS connection to the external key store proxy. Verify the TLS configuration, including its certificate."
            }
            Self::TimedOut => {
                "AWS KMS rejected the request because the external key store proxy did not respond in time. Retry the request. If you see this error repeatedly, report it to your external key store proxy administrator."
            }
            Self::NotConnected => {
                "This KMS key is in a custom key store that is not connected to its external key store proxy. Connect the external key store and try the request again."
            }
            Self::Unhealthy => {
                "The external key store proxy is in an unhealthy state. If you see this message repeatedly, notify your external key store proxy administrator."
            }
            Self::Quota => {
                "You have exceeded the rate at which you may call KMS. Reduce the frequency of your calls."
            }
        }
    }

    /// Whether the class depends on the reliability of the last minutes: HTTP 500, HTTP 503 and connection timeouts
    /// (kms-behaviour 7.2).
    fn follows_reliability(self) -> bool {
        matches!(
            self,
            Self::Error(ErrorName::DependencyTimeoutException | ErrorName::InternalException)
                | Self::NoConnection
                | Self::TimedOut
        )
    }

    /// Whether a proxy call that ended so counts against the proxy's reliability (kms-behaviour 7.2). The documented
    /// `XksProxyUnreachableException` is read as rows 14, 15 and 16: those that the management calls report as
    /// `XksProxyUriUnreachableException`. A malformed answer is not in the documented list, so it does not count.
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Error(
                ErrorName::InternalException
                    | ErrorName::DependencyTimeoutException
                    | ErrorName::ThrottlingException
            ) | Self::NoConnection
                | Self::NoTls
                | Self::TimedOut
        )
    }

    /// What the caller sees. `reliable`: the proxy's reliability over the window is at or above the threshold.
    pub fn failure(self, reliable: bool) -> KmsFailure {
        let exception = match self {
            Self::Quota => KmsException::Throttling,
            _ if self.follows_reliability() && reliable => KmsException::KmsInternal,
            _ => KmsException::KmsInvalidState,
        };
        self.as_failure(exception)
    }

    fn as_failure(self, exception: KmsException) -> KmsFailure {
        KmsFailure { exception, message: self.message().into(), row: self.row() }
    }

    /// What CreateCustomKeyStore and UpdateCustomKeyStore say when GetHealthStatus ends so. Errors that it cannot have
    /// by the spec are no answer KMS understands (MA-14).
    pub fn key_store_failure(self) -> KmsFailure {
        use KmsException as E;
        let exception = match self {
            Self::Error(ErrorName::AuthenticationFailedException) => {
                E::XksProxyIncorrectAuthenticationCredential
            }
            Self::Error(ErrorName::InvalidUriPathException) => E::XksProxyInvalidConfiguration,
            Self::Error(ErrorName::DependencyTimeoutException | ErrorName::ThrottlingException)
            | Self::NoConnection
            | Self::NoTls
            | Self::TimedOut
            | Self::Unhealthy => E::XksProxyUriUnreachable,
            Self::Error(ErrorName::ValidationException | ErrorName::InternalException) | Self::Malformed => {
                E::XksProxyInvalidResponse
            }
            _ => return Self::Malformed.key_store_failure(),
        };
        self.as_failure(exception)
    }

    /// What CreateKey says when GetKeyMetadata ends so. Row 7 has two readings in the documents, row 10 names a class
    /// that the API does not have (MA-13): the API model decides both. Row 3 belongs to no GetKeyMetadata (MA-14).
    pub fn create_key_failure(self) -> KmsFailure {
        use KmsException as E;
        let exception = match self {
            Self::Error(ErrorName::InvalidStateException | ErrorName::InvalidKeyUsageException) => {
                E::XksKeyInvalidConfiguration
            }
            Self::Error(ErrorName::KeyNotFoundException) => E::XksKeyNotFound,
            Self::Error(ErrorName::UnsupportedOperationException) => E::UnsupportedOperation,
            Self::Error(ErrorName::InvalidCiphertextException) | Self::InnerLayer => {
                return Self::Malformed.create_key_failure();
            }
            _ => E::CustomKeyStoreInvalidState,
        };
        self.as_failure(exception)
    }

    /// The `ConnectionErrorCode` of a connect whose GetHealthStatus ends so (MA-2 where nothing is documented).
    pub fn connection_error_code(self) -> ConnectionErrorCode {
        use ConnectionErrorCode as Code;
        match self {
            Self::Error(ErrorName::AuthenticationFailedException) => Code::InvalidCredentials,
            Self::Error(ErrorName::AccessDeniedException) => Code::XksProxyAccessDenied,
            Self::Error(ErrorName::InvalidUriPathException) => Code::XksProxyInvalidConfiguration,
            Self::Error(ErrorName::DependencyTimeoutException) | Self::TimedOut => Code::XksProxyTimedOut,
            Self::NoTls => Code::XksProxyInvalidTlsConfiguration,
            Self::Error(ErrorName::ThrottlingException) | Self::NoConnection | Self::Unhealthy => {
                Code::XksProxyNotReachable
            }
            _ => Code::XksProxyInvalidResponse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xks_proxy::error::ErrorName as Name;

    /// Kms-behaviour 7.1 and 7.2, typed a second time: row, cause, class when reliable, class when not, counts against
    /// reliability, a key phrase and the length of the message (counted in the reference, not here).
    type Line = (u8, Cause, &'static str, &'static str, bool, &'static str, usize);
    const STATE: &str = "KMSInvalidStateException";
    const INTERNAL: &str = "KMSInternalException";
    const TABLE: [Line; 20] = [
        (
            1,
            Cause::Error(Name::ValidationException),
            STATE,
            STATE,
            false,
            "cannot interpret the response",
            164,
        ),
        (
            2,
            Cause::Error(Name::InvalidStateException),
            STATE,
            STATE,
            false,
            "is not enabled in the external",
            189,
        ),
        (
            3,
            Cause::Error(Name::InvalidCiphertextException),
            STATE,
            STATE,
            false,
            "specified ciphertext or enc",
            149,
        ),
        (4, Cause::InnerLayer, STATE, STATE, false, "submitted for decryption", 146),
        (
            5,
            Cause::Error(Name::InvalidKeyUsageException),
            STATE,
            STATE,
            false,
            "Enable the operation on the",
            201,
        ),
        (
            6,
            Cause::Error(Name::AuthenticationFailedException),
            STATE,
            STATE,
            false,
            "could not authenticate",
            193,
        ),
        (
            7,
            Cause::Error(Name::AccessDeniedException),
            STATE,
            STATE,
            false,
            "denied access to the operation",
            169,
        ),
        (
            8,
            Cause::Error(Name::KeyNotFoundException),
            STATE,
            STATE,
            false,
            "was not found in its external",
            234,
        ),
        (9, Cause::Error(Name::InvalidUriPathException), STATE, STATE, false, "of an invalid URI path", 154),
        (
            10,
            Cause::Error(Name::UnsupportedOperationException),
            STATE,
            STATE,
            false,
            "does not support the",
            194,
        ),
        (
            11,
            Cause::Error(Name::DependencyTimeoutException),
            INTERNAL,
            STATE,
            true,
            "in the time allotted",
            192,
        ),
        (12, Cause::Error(Name::ThrottlingException), STATE, STATE, true, "due to a very high request", 160),
        (
            13,
            Cause::Error(Name::InternalException),
            INTERNAL,
            STATE,
            true,
            "communicate with the external key m",
            224,
        ),
        (14, Cause::NoConnection, INTERNAL, STATE, true, "in your external keystore.", 285),
        (15, Cause::NoTls, STATE, STATE, true, "cannot establish a TLS connection", 131),
        (16, Cause::TimedOut, INTERNAL, STATE, true, "did not respond in time", 201),
        (17, Cause::Malformed, STATE, STATE, false, "cannot interpret the response", 164),
        (18, Cause::NotConnected, STATE, STATE, false, "in a custom key store that is not connected", 150),
        (19, Cause::Unhealthy, STATE, STATE, false, "is in an unhealthy state", 142),
        (
            20,
            Cause::Quota,
            "ThrottlingException",
            "ThrottlingException",
            false,
            "exceeded the rate at which",
            89,
        ),
    ];

    #[test]
    fn rows_classes_and_messages_are_the_references() {
        for (row, cause, reliable, unreliable, counts, phrase, length) in TABLE {
            for (is_reliable, class) in [(true, reliable), (false, unreliable)] {
                let failure = cause.failure(is_reliable);
                assert_eq!((failure.row, failure.exception.as_str()), (row, class), "{cause:?}");
                assert_eq!(failure.exception.status(), if class == INTERNAL { 500 } else { 400 });
                assert!(failure.message.contains(phrase), "row {row}: {}", failure.message);
                assert_eq!(failure.message.len(), length, "row {row}: {}", failure.message);
            }
            assert_eq!(cause.is_retryable(), counts, "row {row}");
        }
    }

    #[test]
    fn every_name_of_the_spec_has_a_line() {
        for name in Name::ALL {
            assert!(TABLE.iter().any(|line| line.1 == Cause::Error(name)), "{name:?}");
        }
    }
}
