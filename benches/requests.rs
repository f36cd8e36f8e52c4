//! The bodies of requests as KMS sends them, about 600 bytes for a data key.

use crate::signed_headers;
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use std::error::Error;

const METADATA: &str = r#""requestMetadata":{"awsPrincipalArn":"arn:aws:iam::123456789012:user/Alice","kmsKeyArn":"arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab","kmsOperation":"GenerateDataKey","kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae","kmsViaService":"ebs"}"#;
const AAD: &str = r#""additionalAuthenticatedData":"cHJvamVjdD1uaWxlLGRlcGFydG1lbnQ9bWFya2V0aW5n","encryptionAlgorithm":"AES_GCM""#;

/// Encrypt a data key: 90 bytes of plaintext, an encryption context's hash as AAD; with or without the integrity value
/// (CDIV) of XKS-ENC-9.
pub fn encrypt(integrity_value: bool) -> String {
    let algorithm =
        if integrity_value { r#""ciphertextDataIntegrityValueAlgorithm":"SHA_256","# } else { "" };
    let plaintext = "cGxhaW50ZXh0".repeat(10);
    format!(r#"{{{METADATA},{algorithm}"plaintext":"{plaintext}",{AAD}}}"#)
}

/// Decrypt what the other made, in this proxy's own scheme.
pub fn decrypt() -> String {
    let ciphertext = "cGxhaW50ZXh0".repeat(10);
    format!(
        r#"{{{METADATA},"ciphertext":"{ciphertext}","ciphertextMetadata":"AQE=","initializationVector":"AAAAAAAAAAAAAAAA","authenticationTag":"AAAAAAAAAAAAAAAAAAAAAA==",{AAD}}}"#
    )
}

/// GetKeyMetadata.
pub fn get_key_metadata() -> String {
    format!("{{{METADATA}}}")
}

/// GetHealthStatus.
pub fn get_health_status() -> String {
    r#"{"requestMetadata":{"kmsOperation":"KmsHealthCheck","kmsRequestId":"4112f4d6-db54-4af4-ae30-c55a22a8dfae"}}"#
        .to_owned()
}

/// A POST of `body` to `path`, signed by AWS's own signer.
///
/// # Errors
/// When that signer refuses the request.
pub fn signed(path: &str, body: &str) -> Result<Request<Full<Bytes>>, Box<dyn Error>> {
    let mut request = Request::post(path).body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
    *request.headers_mut() = signed_headers(path, body.as_bytes())?;
    Ok(request)
}
