//! Whole HTTP/1.1 requests to begin from: every example of the XKS spec and what its paragraphs forbid, signed by AWS's
//! signer at [`NOW`] where they are signed.
//!
//! Place on the map: `corpus/http_request` holds them as files, for any program that speaks HTTP, and `tests/seeds.rs`
//! keeps the two the same. The target knows from here which calls to the HSM a signature stands behind.

use crate::signer::{HOST, Key, signature};
use crate::world::{NOW, ONE, OTHER, PREFIX};

/// `requestMetadata` of a principal that the key store `one` admits.
const ALICE: &str = r#"{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab","kmsOperation":"Encrypt","kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae","kmsViaService":"ebs"}"#;

/// `requestMetadata` of a principal that it denies.
const STRANGER: &str = r#"{"awsPrincipalArn":"arn:aws:iam::111122223333:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab","kmsOperation":"Decrypt","kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae"}"#;

/// `requestMetadata` of a health check.
const HEALTH: &str = r#"{"requestMetadata":{"kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae","kmsOperation":"KmsHealthCheck"}}"#;

/// One request, or several behind each other, as they come over a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The name of its file.
    pub name: &'static str,
    /// HTTP/1.1 with CRLF.
    pub bytes: Vec<u8>,
    /// Signed, admitted and well-formed, so that it reaches the HSM.
    pub reaches_hsm: bool,
}

/// All of them.
pub fn http_requests() -> Vec<Seed> {
    let served = |name, bytes| Seed { name, bytes, reaches_hsm: true };
    let refused = |name, bytes| Seed { name, bytes, reaches_hsm: false };
    let health = || signed(ONE, &uri("health"), HEALTH);
    let replaced = |bytes: Vec<u8>, from: &str, to: &str| {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        assert!(text.contains(from), "{from:?} is not in {text:?}");
        text.replacen(from, to, 1).into_bytes()
    };
    vec![
        served("metadata", signed(ONE, &uri("keys/foo/metadata"), &metadata(ALICE))),
        served("encrypt", signed(ONE, &uri("keys/foo/encrypt"), &encrypt(ALICE, "SGVsbG8gV29ybGQh", ""))),
        served(
            "encrypt_with_everything",
            signed(
                ONE,
                &uri("keys/1234abcd-12ab-34cd-56ef-1234567890ab/encrypt"),
                &encrypt(
                    ALICE,
                    "SGVsbG8gV29ybGQh",
                    r#","additionalAuthenticatedData":"cHJvamVjdD1uaWxlLGRlcGFydG1lbnQ9bWFya2V0aW5n","ciphertextDataIntegrityValueAlgorithm":"SHA_256""#,
                ),
            ),
        ),
        served("encrypt_nothing", signed(ONE, &uri("keys/foo/encrypt"), &encrypt(ALICE, "", ""))),
        refused(
            "encrypt_too_much",
            signed(ONE, &uri("keys/foo/encrypt"), &encrypt(ALICE, &"SGVs".repeat(2_731), "")),
        ),
        served(
            "encrypt_with_an_unknown_key",
            signed(ONE, &uri("keys/none/encrypt"), &encrypt(ALICE, "SGVsbG8gV29ybGQh", "")),
        ),
        served("decrypt", signed(ONE, &uri("keys/foo/decrypt"), &decrypt(ALICE, "AQE="))),
        refused(
            "decrypt_with_foreign_metadata",
            signed(ONE, &uri("keys/foo/decrypt"), &decrypt(ALICE, FOREIGN)),
        ),
        served("health", health()),
        served("health_of_the_other_key_store", signed(OTHER, "/kms/xks/v1/health", HEALTH)),
        served("health_with_a_query", signed(ONE, &uri("health?verbose=1&x"), HEALTH)),
        served("pipelined", [health(), signed(ONE, &uri("keys/foo/metadata"), &metadata(ALICE))].concat()),
        served(
            "chunked",
            replaced(
                replaced(
                    health(),
                    &format!("content-length: {}", HEALTH.len()),
                    "transfer-encoding: chunked",
                ),
                HEALTH,
                &format!("{:x}\r\n{HEALTH}\r\n0\r\n\r\n", HEALTH.len()),
            ),
        ),
        served("expects_100", replaced(health(), "content-length", "expect: 100-continue\r\ncontent-length")),
        refused("denied_principal", signed(ONE, &uri("keys/foo/decrypt"), &decrypt(STRANGER, "AQE="))),
        refused("body_not_json", signed(ONE, &uri("keys/foo/encrypt"), "{")),
        refused("metadata_missing", signed(ONE, &uri("keys/foo/metadata"), "{}")),
        refused("path_unknown", signed(ONE, &uri("keys/foo/sign"), "{}")),
        refused("wrong_key_store", signed(OTHER, &uri("health"), HEALTH)),
        refused("body_changed", replaced(health(), "KmsHealthCheck", "KmsHealthChecK")),
        refused("unsigned", plain("POST", &uri("keys/foo/metadata"), &[], &metadata(ALICE))),
        refused("get", plain("GET", &uri("health"), &[], "")),
        refused("ping", plain("GET", "/ping", &[], "")),
        refused("ping_head", plain("HEAD", "/ping", &[], "")),
        refused("two_lengths", replaced(health(), "content-length", "content-length: 5\r\ncontent-length")),
        refused(
            "length_and_chunked",
            replaced(health(), "content-length", "transfer-encoding: chunked\r\ncontent-length"),
        ),
        refused("folded_header", replaced(health(), "host: ", "host: \r\n ")),
        refused(
            "bare_line_feeds",
            b"POST /kms/xks/v1/health HTTP/1.1\nhost: x\ncontent-length: 2\n\n{}".to_vec(),
        ),
        refused("http_1_0", b"POST /kms/xks/v1/health HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}".to_vec()),
        refused("absolute_uri", plain("POST", "http://xks.example.com/kms/xks/v1/health", &[], HEALTH)),
        refused("http2_preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
    ]
}

/// The URI of an operation in the key store `one`.
fn uri(operation: &str) -> String {
    format!("{PREFIX}/kms/xks/v1/{operation}")
}

fn metadata(caller: &str) -> String {
    format!(r#"{{"requestMetadata":{caller}}}"#)
}

fn encrypt(caller: &str, plaintext: &str, more: &str) -> String {
    format!(
        r#"{{"requestMetadata":{caller},"plaintext":"{plaintext}","encryptionAlgorithm":"AES_GCM"{more}}}"#
    )
}

/// The metadata of the spec's worked example (XKS-ENC-9). Ours is `AQE=`, the bytes 1 and 1.
const FOREIGN: &str = "a2V5X3ZlcnNpb249MQ==";

/// The other fields are those of that example.
fn decrypt(caller: &str, metadata: &str) -> String {
    format!(
        r#"{{"requestMetadata":{caller},"additionalAuthenticatedData":"cHJvamVjdD1uaWxlLGRlcGFydG1lbnQ9bWFya2V0aW5n","encryptionAlgorithm":"AES_GCM","ciphertext":"ghxkK1txeDNn3q8Y","ciphertextMetadata":"{metadata}","initializationVector":"HMrlRw85cAJUd5Ax","authenticationTag":"vBxN2ncH1oEkR8WVXpmyYQ=="}}"#
    )
}

fn signed(key: Key, uri: &str, body: &str) -> Vec<u8> {
    let headers = [("host", HOST), ("content-type", "application/json")];
    let signature = signature(key, NOW, "POST", uri, &headers, body.as_bytes());
    let signature = signature.unwrap_or_else(|error| panic!("{uri}: {error}"));
    plain("POST", uri, &signature, body)
}

fn plain(method: &str, uri: &str, more: &[(String, String)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {uri} HTTP/1.1\r\nhost: {HOST}\r\ncontent-type: application/json\r\n");
    for (name, value) in more {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    text.into_bytes()
}
