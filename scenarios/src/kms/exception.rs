//! The exception classes of the KMS API, and a failed call as its caller sees it.
//!
//! Place on the map: [`failure`](super::failure) and [`key`](super::key) choose among them, every caller of KMS gets
//! one. Names and statuses are those of kms-behaviour 11.3.

use std::borrow::Cow;

macro_rules! exceptions {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// The exception class that KMS answers with.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum KmsException {
            $($(#[$doc])* $variant,)+
        }

        impl KmsException {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The class name, as SDKs show it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

exceptions! {
    /// HTTP 400, not retried by SDKs: every external or connection problem, except as below.
    KmsInvalidState = "KMSInvalidStateException",
    /// HTTP 500, retried by SDKs: the proxy failed or timed out and was reliable over the last five minutes.
    KmsInternal = "KMSInternalException",
    /// HTTP 400, retried by SDKs: a request quota is exceeded.
    Throttling = "ThrottlingException",
    /// HTTP 400, not retried by SDKs: the KMS key itself has been disabled (kms-behaviour 5.3).
    Disabled = "DisabledException",
    /// There is no such KMS key, alias or grant; a key is gone when its deletion has come.
    NotFound = "NotFoundException",
    /// The blob is not one that KMS made.
    InvalidCiphertext = "InvalidCiphertextException",
    /// The blob was encrypted under another KMS key than the one named.
    IncorrectKey = "IncorrectKeyException",
    /// The request was a dry run and would have succeeded (MA-9).
    DryRunOperation = "DryRunOperationException",
    /// The operation is not one that keys in an external key store have (MA-3, MA-13).
    UnsupportedOperation = "UnsupportedOperationException",
    /// A parameter is not of its form (MA-22).
    Validation = "ValidationException",
    /// A quota of resources is exceeded.
    LimitExceeded = "LimitExceededException",
    /// An alias of that name exists already.
    AlreadyExists = "AlreadyExistsException",
    /// The alias name is reserved or of the wrong form.
    InvalidAliasName = "InvalidAliasNameException",
    /// The marker is none that was given out.
    InvalidMarker = "InvalidMarkerException",
    /// There is no such custom key store.
    CustomKeyStoreNotFound = "CustomKeyStoreNotFoundException",
    /// The custom key store holds KMS keys.
    CustomKeyStoreHasCmks = "CustomKeyStoreHasCMKsException",
    /// The connection state of the custom key store does not allow the operation.
    CustomKeyStoreInvalidState = "CustomKeyStoreInvalidStateException",
    /// The name belongs to another custom key store.
    CustomKeyStoreNameInUse = "CustomKeyStoreNameInUseException",
    /// Another KMS key of the key store has this external key.
    XksKeyAlreadyInUse = "XksKeyAlreadyInUseException",
    /// The external key is not one that KMS can use.
    XksKeyInvalidConfiguration = "XksKeyInvalidConfigurationException",
    /// The proxy knows no such external key.
    XksKeyNotFound = "XksKeyNotFoundException",
    /// The proxy does not accept the credential.
    XksProxyIncorrectAuthenticationCredential = "XksProxyIncorrectAuthenticationCredentialException",
    /// The proxy does not know the URI path.
    XksProxyInvalidConfiguration = "XksProxyInvalidConfigurationException",
    /// The answer of the proxy is not the spec's.
    XksProxyInvalidResponse = "XksProxyInvalidResponseException",
    /// Another key store has this endpoint and must not share it.
    XksProxyUriEndpointInUse = "XksProxyUriEndpointInUseException",
    /// Another key store has this endpoint and path.
    XksProxyUriInUse = "XksProxyUriInUseException",
    /// The proxy cannot be reached, or is unhealthy.
    XksProxyUriUnreachable = "XksProxyUriUnreachableException",
    /// There is no such VPC endpoint service, or KMS may not use it.
    XksProxyVpcEndpointServiceNotFound = "XksProxyVpcEndpointServiceNotFoundException",
    /// The VPC endpoint service is not as KMS needs it.
    XksProxyVpcEndpointServiceInvalidConfiguration = "XksProxyVpcEndpointServiceInvalidConfigurationException",
    /// Another key store has this VPC endpoint service.
    XksProxyVpcEndpointServiceInUse = "XksProxyVpcEndpointServiceInUseException",
    /// A key policy is no policy.
    MalformedPolicyDocument = "MalformedPolicyDocumentException",
    /// Two tags have the same key.
    Tag = "TagException",
    /// The encryption algorithm is not one of the key's.
    InvalidKeyUsage = "InvalidKeyUsageException",
}

impl KmsException {
    /// The HTTP status it travels with.
    pub fn status(self) -> u16 {
        if self == Self::KmsInternal { 500 } else { 400 }
    }
}

/// A failed KMS call as its caller sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KmsFailure {
    /// The class.
    pub exception: KmsException,
    /// The message, word for word. Those of the failure table are fixed; those about one key name it.
    pub message: Cow<'static, str>,
    /// Row of the failure table (kms-behaviour 7.1), 1 to 20; 0 for what KMS says without that table, such as the
    /// state of a key.
    pub row: u8,
}

impl KmsFailure {
    /// A failure outside the failure table.
    pub fn new(exception: KmsException, message: impl Into<Cow<'static, str>>) -> Self {
        Self { exception, message: message.into(), row: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_ends_as_aws_names_do_and_is_said_once() {
        let names: BTreeSet<_> = KmsException::ALL.iter().map(|exception| exception.as_str()).collect();
        assert_eq!(names.len(), KmsException::ALL.len());
        assert!(names.iter().all(|name| name.ends_with("Exception")));
        let with_500: Vec<_> =
            KmsException::ALL.iter().filter(|exception| exception.status() == 500).collect();
        assert_eq!(with_500, [&KmsException::KmsInternal], "kms-behaviour 11.3");
    }
}
