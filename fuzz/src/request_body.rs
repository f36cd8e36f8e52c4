//! The JSON of each operation.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use xks_proxy::api::Request;
use xks_proxy::app::Limits;
use xks_proxy::env::UnixTime;
use xks_proxy::error::ErrorName;
use xks_proxy::events::{AuditEvent, Operation};

/// The first byte chooses the operation, modulo four; the rest is the body. What is accepted satisfies the spec as another
/// parser reads it, and the audit event holds what that parser reads; what is refused gets an error of the spec that quotes
/// nothing of the body but its place.
pub(crate) fn request_body(data: &[u8]) {
    let Some((choice, body)) = data.split_first() else { return };
    let operation = Operation::ALL[usize::from(*choice) % Operation::ALL.len()];
    let limits = Limits::default();
    let mut event = AuditEvent::new(UnixTime(std::time::Duration::ZERO), String::new());
    match Request::parse(operation, body, &limits, &mut event) {
        Ok(_) => is_legal(operation, body, &limits, &event),
        Err(error) => {
            let of_parsing = [ErrorName::ValidationException, ErrorName::UnsupportedOperationException];
            assert!(of_parsing.contains(&error.name) && error.status == error.name.status(), "{error:?}");
            assert!(error.detail.len() < 200 && error.detail.is_ascii(), "{error:?}");
        }
    }
}

/// XKS-MD-1, XKS-MD-2, XKS-NET-7, XKS-ENC-1 to XKS-ENC-4, XKS-DEC-1, XKS-DEC-2.
fn is_legal(operation: Operation, body: &[u8], limits: &Limits, event: &AuditEvent) {
    // In a field that nobody asks for may stand more than a tree of values can hold: a number out of range, half of a
    // surrogate pair, a thousand brackets.
    let Ok(json) = serde_json::from_slice::<Value>(body) else { return };
    let metadata = &json["requestMetadata"];
    assert!(json.is_object() && metadata.is_object(), "{json}");
    let about_a_key = operation != Operation::GetHealthStatus;
    let about_data = matches!(operation, Operation::Encrypt | Operation::Decrypt);
    for (field, noted, required) in [
        ("kmsRequestId", &event.kms_request_id, true),
        ("kmsOperation", &event.kms_operation, true),
        ("awsPrincipalArn", &event.principal_arn, about_a_key),
        ("kmsKeyArn", &event.kms_key_arn, about_data),
        ("kmsViaService", &event.via_service, false),
        ("awsSourceVpc", &event.source_vpc, false),
        ("awsSourceVpce", &event.source_vpce, false),
    ] {
        assert_eq!(metadata[field].as_str(), noted.as_deref(), "{field} in {json}");
        assert!(!required || noted.is_some(), "{field} in {json}");
    }
    for arn in [&event.principal_arn, &event.kms_key_arn].into_iter().flatten() {
        assert!(arn.chars().count() <= 2_048, "{json}");
    }
    let bytes = |field: &str| {
        let text = json[field].as_str()?;
        let bytes = STANDARD.decode(text).unwrap_or_else(|error| panic!("{field} in {json}: {error}"));
        assert_eq!(STANDARD.encode(&bytes), text, "{field} in {json}");
        Some(bytes.len())
    };
    if about_data {
        assert_eq!(json["encryptionAlgorithm"], "AES_GCM", "{json}");
        assert!(bytes("additionalAuthenticatedData").unwrap_or_default() <= limits.aad_bytes_max, "{json}");
    }
    match operation {
        Operation::Encrypt => {
            assert!(bytes("plaintext").is_some_and(|bytes| bytes <= limits.plaintext_bytes_max), "{json}");
            let algorithm = &json["ciphertextDataIntegrityValueAlgorithm"];
            assert!(algorithm.is_null() || algorithm == "SHA_256", "{json}");
        }
        Operation::Decrypt => {
            assert!(bytes("ciphertext").is_some_and(|bytes| bytes <= limits.plaintext_bytes_max), "{json}");
            assert!(matches!(bytes("initializationVector"), Some(12 | 16)), "{json}");
            assert_eq!(bytes("authenticationTag"), Some(16), "{json}");
            assert!(bytes("ciphertextMetadata").unwrap_or_default() <= 20, "{json}");
        }
        Operation::GetKeyMetadata | Operation::GetHealthStatus => {}
    }
}
