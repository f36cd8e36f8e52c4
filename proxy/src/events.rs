//! Facts, emitted once, as typed events: exactly one [`AuditEvent`] per request. The audit log, metrics and a
//! scenario's trace are subscribers.
//!
//! Place on the map: the last thing `http::handle` does. Plaintext and secrets have no path into an event
//! (XKS-MD-6): no field can hold one.

use crate::env::UnixTime;
use crate::error::ErrorName;
use std::time::Duration;

/// The four operations of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// POST …/keys/{id}/metadata
    GetKeyMetadata,
    /// POST …/keys/{id}/encrypt
    Encrypt,
    /// POST …/keys/{id}/decrypt
    Decrypt,
    /// POST …/health
    GetHealthStatus,
}

impl Operation {
    /// All four.
    pub const ALL: [Self; 4] = [Self::GetKeyMetadata, Self::Encrypt, Self::Decrypt, Self::GetHealthStatus];

    /// The name the spec gives it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::GetKeyMetadata => "GetKeyMetadata",
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
            Self::GetHealthStatus => "GetHealthStatus",
        }
    }
}

/// Time spent at each station; zero for a station the request did not reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stations {
    /// From the head of the request to the last byte of its body.
    pub read: Duration,
    /// Signature verification.
    pub sigv4: Duration,
    /// JSON and field validation.
    pub parse: Duration,
    /// The HSM calls, queueing included.
    pub hsm: Duration,
    /// From the head of the request to its response.
    pub total: Duration,
}

/// One request, as the audit log keeps it (XKS-MD-5).
#[derive(Clone, Debug)]
pub struct AuditEvent {
    /// Wall time at the end of the request.
    pub time: UnixTime,
    /// Our own id of the request, 16 hexadecimal digits; also sent as the header `x-request-id`.
    pub request_id: String,
    /// The configured name of the key store, once the path has selected one.
    pub key_store: Option<String>,
    /// The operation, once the path has selected one.
    pub operation: Option<Operation>,
    /// The external key id in the path.
    pub key_id: Option<String>,
    /// Who signed, once the signature has been verified.
    pub access_key_id: Option<String>,
    /// `requestMetadata.kmsRequestId`: CloudTrail's request id.
    pub kms_request_id: Option<String>,
    /// `requestMetadata.kmsOperation`.
    pub kms_operation: Option<String>,
    /// `requestMetadata.awsPrincipalArn`.
    pub principal_arn: Option<String>,
    /// `requestMetadata.kmsKeyArn`.
    pub kms_key_arn: Option<String>,
    /// `requestMetadata.kmsViaService`.
    pub via_service: Option<String>,
    /// The status sent.
    pub status: u16,
    /// The error name sent; `None` for a success.
    pub error_name: Option<ErrorName>,
    /// The cause of the error, for operators only.
    pub detail: Option<String>,
    /// The PKCS#11 return value behind the error.
    pub ck_rv: Option<u64>,
    /// Where the time went.
    pub stations: Stations,
}

/// Receives every event. Called on the request's own task: must be quick and must not block.
pub trait Subscriber: Send + Sync {
    /// One request has been answered, or given up because its caller went away.
    fn audit(&self, event: &AuditEvent);
}
