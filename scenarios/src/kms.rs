//! The model of AWS KMS: what it accepts, how it calls the proxy, and what its callers see when that fails.
//!
//! Place on the map: [`services`](crate::services) call [`KmsApi`]; the implementation behind it signs with its own
//! SigV4 code (not the proxy's) and talks HTTP to the proxy over the simulated network. Facts and sources are those of
//! AWS's documentation; where it is silent a modelling assumption (MA-n) stands in, as a named setting.
//!
//! | step of a call | module |
//! |---|---|
//! | order of the steps, events, health checks | [`model`], obeying [`settings`] |
//! | admit | [`key`], [`quota`] |
//! | inner encryption, the blob | [`inner`], and [`payload`] for what callers bring along |
//! | write and sign the request | [`requests`], [`sigv4`] |
//! | connections, patience, retry | [`client`], [`http1`] |
//! | read the answer, hold the proxy to its promises | [`answers`], [`violations`] |
//! | what the caller sees | [`exception`], [`failure`], [`reliability`] |
//!
//! What the owner of the key store watches meanwhile is in [`cloudwatch`] and [`alarms`].
//! What the owner does beside such calls (connect, disconnect, a new credential, keys) is in [`lifecycle`],
//! and in [`account`] for several key stores at once.

pub mod account;
pub mod alarms;
pub mod answers;
pub mod client;
pub mod cloudwatch;
pub mod exception;
pub mod failure;
pub mod http1;
pub mod inner;
pub mod key;
pub mod lifecycle;
pub mod model;
pub(crate) mod parameters;
pub mod payload;
pub mod quota;
pub mod reliability;
pub mod requests;
pub mod settings;
pub mod sigv4;
mod spread;
pub mod violations;

pub use exception::{KmsException, KmsFailure};
use std::future::Future;
use std::pin::Pin;

/// A cryptographic operation of the KMS API that reaches the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "named as in the KMS API")]
pub enum KmsOperation {
    Encrypt,
    Decrypt,
    GenerateDataKey,
    GenerateDataKeyWithoutPlaintext,
    ReEncrypt,
}

impl KmsOperation {
    /// As in the KMS API and in `requestMetadata.kmsOperation`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::GenerateDataKey => "GenerateDataKey",
            Self::GenerateDataKeyWithoutPlaintext => "GenerateDataKeyWithoutPlaintext",
            Self::ReEncrypt => "ReEncrypt",
        }
    }
}

/// Who calls KMS, and for what.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Index of the calling service in the run's list of services.
    pub service: usize,
    /// `awsPrincipalArn`.
    pub principal_arn: &'static str,
    /// `kmsViaService`, such as `s3.us-east-1.amazonaws.com`.
    pub via_service: Option<&'static str>,
}

/// Who a request to the proxy names as the one on whose behalf KMS asks.
#[derive(Clone, Copy, Debug)]
pub struct Requester<'a> {
    /// `awsPrincipalArn`.
    pub principal_arn: &'a str,
    /// `kmsViaService`.
    pub via_service: Option<&'a str>,
    /// `kmsRequestId`, where the caller's own request has one; KMS draws one otherwise.
    pub request_id: Option<&'a str>,
    /// The VPC endpoint that the caller came through, where it is known; `source_vpc_share` decides otherwise.
    pub source_vpc: Option<SourceVpc<'a>>,
}

/// A VPC endpoint of the caller's own account. AWS services on a caller's behalf come through none (kms-behaviour 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceVpc<'a> {
    /// `awsSourceVpc`.
    pub vpc: &'a str,
    /// `awsSourceVpce`.
    pub vpce: &'a str,
}

impl<'a> From<&'a Caller> for Requester<'a> {
    fn from(caller: &'a Caller) -> Self {
        Self {
            principal_arn: caller.principal_arn,
            via_service: caller.via_service,
            request_id: None,
            source_vpc: None,
        }
    }
}

/// The opaque `CiphertextBlob` of a successful GenerateDataKey or Encrypt, with which Decrypt is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CiphertextBlob(pub std::rc::Rc<[u8]>);

/// A boxed future on the simulation's single thread.
pub type LocalFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// KMS as a downstream service sees it: one call, one answer or exception. No SDK retries inside: those are the caller's.
pub trait KmsApi {
    /// Encrypt, GenerateDataKey or GenerateDataKeyWithoutPlaintext.
    fn encrypt<'a>(
        &'a self,
        operation: KmsOperation,
        caller: &'a Caller,
    ) -> LocalFuture<'a, Result<CiphertextBlob, KmsFailure>>;

    /// Decrypt of a blob that [`KmsApi::encrypt`] returned.
    fn decrypt<'a>(
        &'a self,
        blob: &'a CiphertextBlob,
        caller: &'a Caller,
    ) -> LocalFuture<'a, Result<(), KmsFailure>>;
}
