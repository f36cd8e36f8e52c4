//! What every answer of the API must look like, success or error (XKS-ERR-1, XKS-ERR-2, XKS-ERR-4).
//!
//! Place on the map: the targets that send whole requests hold each answer against this.

use http::{HeaderMap, StatusCode};
use serde_json::Value;
use xks_proxy::error::ErrorName;

/// Longest `errorMessage` is one less (XKS-ERR-1).
const MESSAGE_CHARS: usize = 512;

/// The statuses that HTTP itself asks for, with an error of the spec's in the body.
const HTTP_STATUSES: [StatusCode; 5] = [
    StatusCode::METHOD_NOT_ALLOWED,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::URI_TOO_LONG,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
];

/// Asserts that an answer is JSON: an object with status 200, or an error of the spec with the status of its name. Gives
/// the error's name.
pub(crate) fn check(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Option<ErrorName> {
    let shown = String::from_utf8_lossy(body);
    let content_type = headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    assert_eq!(content_type, Some(&b"application/json"[..]), "{status} {shown}");
    assert!(headers.contains_key(http::header::DATE), "{status} {shown}");
    let json: Value = serde_json::from_slice(body).unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert!(json.is_object(), "{shown}");
    let Some(name) = json["errorName"].as_str() else {
        assert!(status == StatusCode::OK || json["status"] == "draining", "{status} {shown}");
        return None;
    };
    let name = ErrorName::ALL.into_iter().find(|known| known.as_str() == name);
    let name = name.unwrap_or_else(|| panic!("no error of the spec: {shown}"));
    let of_http = name == ErrorName::ValidationException && HTTP_STATUSES.contains(&status);
    assert!(status == name.status() || of_http, "{status} {shown}");
    let message = json["errorMessage"].as_str().unwrap_or_default();
    assert!(message.len() < MESSAGE_CHARS && message.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{shown}");
    Some(name)
}
