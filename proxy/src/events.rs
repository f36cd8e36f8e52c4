//! Facts, emitted once, as typed events: exactly one [`AuditEvent`] per request. The audit log, metrics and a
//! scenario's trace are subscribers.
//!
//! Place on the map: the last thing `http::handle` does. Plaintext and secrets have no path into an event
//! (XKS-MD-6): no field can hold one.

use crate::calendar::rfc3339;
use crate::env::UnixTime;
use crate::error::ErrorName;
use serde::Serialize;
use std::sync::Arc;
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
    /// The HSM calls, queueing included, and the few microseconds of writing their result as JSON.
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
    /// `requestMetadata.awsSourceVpc`.
    pub source_vpc: Option<String>,
    /// `requestMetadata.awsSourceVpce`.
    pub source_vpce: Option<String>,
    /// The status sent; [`STATUS_CALLER_GONE`] when nobody was left to send one to.
    pub status: u16,
    /// The error name sent; `None` for a success.
    pub error_name: Option<ErrorName>,
    /// The cause of the error, for operators only.
    pub detail: Option<String>,
    /// Why rules or policies in shadow mode would have denied the request.
    pub shadow_denied: Option<String>,
    /// The PKCS#11 return value behind the error.
    pub ck_rv: Option<u64>,
    /// Where the time went.
    pub stations: Stations,
}

impl AuditEvent {
    /// An event of which nothing is known yet but when and under which id the request arrived.
    pub fn new(time: UnixTime, request_id: String) -> Self {
        Self {
            time,
            request_id,
            key_store: None,
            operation: None,
            key_id: None,
            access_key_id: None,
            kms_request_id: None,
            kms_operation: None,
            principal_arn: None,
            kms_key_arn: None,
            via_service: None,
            source_vpc: None,
            source_vpce: None,
            status: STATUS_CALLER_GONE,
            error_name: None,
            detail: None,
            shadow_denied: None,
            ck_rv: None,
            stations: Stations::default(),
        }
    }
}

/// In [`AuditEvent::status`]: the caller closed the connection before its answer was ready. Never sent; the number is
/// the one nginx logs for it.
pub const STATUS_CALLER_GONE: u16 = 499;

/// The event as one line of JSON without a newline, for the audit log. Unknown fields are left out; times are whole
/// microseconds; `time` is RFC 3339 in UTC; `kind` is `audit`, where the daemon's own lines have `daemon`; `ck_rv` is
/// hexadecimal, as PKCS#11 writes it.
pub fn json_line(event: &AuditEvent) -> String {
    #[derive(Serialize)]
    struct Line<'a> {
        time: String,
        kind: &'static str,
        request_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        key_store: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        operation: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        key_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        access_key_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        kms_request_id: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        kms_operation: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        principal_arn: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        kms_key_arn: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        via_service: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        source_vpc: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        source_vpce: Option<&'a str>,
        status: u16,
        #[serde(skip_serializing_if = "Option::is_none")]
        error_name: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        shadow_denied: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        ck_rv: Option<String>,
        read_us: u128,
        sigv4_us: u128,
        parse_us: u128,
        hsm_us: u128,
        total_us: u128,
    }
    let line = Line {
        time: rfc3339(event.time),
        kind: "audit",
        request_id: &event.request_id,
        key_store: event.key_store.as_deref(),
        operation: event.operation.map(Operation::as_str),
        key_id: event.key_id.as_deref(),
        access_key_id: event.access_key_id.as_deref(),
        kms_request_id: event.kms_request_id.as_deref(),
        kms_operation: event.kms_operation.as_deref(),
        principal_arn: event.principal_arn.as_deref(),
        kms_key_arn: event.kms_key_arn.as_deref(),
        via_service: event.via_service.as_deref(),
        source_vpc: event.source_vpc.as_deref(),
        source_vpce: event.source_vpce.as_deref(),
        status: event.status,
        error_name: event.error_name.map(ErrorName::as_str),
        detail: event.detail.as_deref(),
        shadow_denied: event.shadow_denied.as_deref(),
        ck_rv: event.ck_rv.map(|rv| format!("{rv:#x}")),
        read_us: event.stations.read.as_micros(),
        sigv4_us: event.stations.sigv4.as_micros(),
        parse_us: event.stations.parse.as_micros(),
        hsm_us: event.stations.hsm.as_micros(),
        total_us: event.stations.total.as_micros(),
    };
    // Strings and numbers under string keys: serialisation has nothing to fail on.
    serde_json::to_string(&line).unwrap_or_default()
}

/// Tells several subscribers, in order.
pub struct Several(pub Vec<Arc<dyn Subscriber>>);

impl Subscriber for Several {
    fn audit(&self, event: &AuditEvent) {
        self.0.iter().for_each(|subscriber| subscriber.audit(event));
    }
}

/// Receives every event. Called on the request's own task: must be quick and must not block.
pub trait Subscriber: Send + Sync {
    /// One request has been answered, or given up because its caller went away.
    fn audit(&self, event: &AuditEvent);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_is_known_and_stays_one_line() {
        let mut event = AuditEvent::new(UnixTime(Duration::from_millis(1_767_323_045_678)), "00ff".into());
        event.operation = Some(Operation::Encrypt);
        event.kms_request_id = Some("a\"b\nc".into());
        event.status = 500;
        event.error_name = Some(ErrorName::InternalException);
        event.ck_rv = Some(0x30);
        event.stations.total = Duration::from_nanos(1_234_567);
        assert_eq!(
            json_line(&event),
            "{\"time\":\"2026-01-02T03:04:05.678Z\",\"kind\":\"audit\",\"request_id\":\"00ff\",\"operation\":\"Encrypt\",\
             \"kms_request_id\":\"a\\\"b\\nc\",\"status\":500,\"error_name\":\"InternalException\",\"ck_rv\":\"0x30\",\
             \"read_us\":0,\"sigv4_us\":0,\"parse_us\":0,\"hsm_us\":0,\"total_us\":1234}"
        );
    }
}
