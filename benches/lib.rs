//! What the benchmarks share: one key store's credential, a signer that is not ours, and the proxy core over an HSM that
//! takes no time. See README.md in this directory.

#[cfg(feature = "cedar")]
pub mod policies;
pub mod proxy_core;
pub mod requests;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::error::Error;
use std::time::{Duration, UNIX_EPOCH};

/// The access key id that signs.
pub const ID: &str = "BETWEEN2AND7ABCDEFGHIJ";
/// Its secret, of the shortest legal length.
pub const SECRET: &str = "PR2Esecretsecretsecretsecretsecretsecret+/=";
/// The region it signs for.
pub const REGION: &str = "eu-west-1";
/// The host header.
pub const HOST: &str = "xks-proxy.example.com";
/// The URI of an encrypt call.
pub const PATH: &str = "/example/kms/xks/v1/keys/a-key-of-a-customer/encrypt";
/// The URI of a decrypt call.
pub const DECRYPT_PATH: &str = "/example/kms/xks/v1/keys/a-key-of-a-customer/decrypt";
/// When it is signed, since 1970.
pub const NOW: Duration = Duration::from_secs(1_780_000_000);

/// All headers of a POST of `body` to `path`, signed by AWS's own signer.
///
/// # Errors
/// When that signer refuses the request.
pub fn signed_headers(path: &str, body: &[u8]) -> Result<HeaderMap, Box<dyn Error>> {
    let identity = Credentials::from_keys(ID, SECRET, None).into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name("kms-xks-proxy")
        .time(UNIX_EPOCH + NOW)
        .settings(SigningSettings::default())
        .build()?
        .into();
    let unsigned = [("content-type", "application/json"), ("host", HOST)];
    let request = SignableRequest::new(
        "POST",
        format!("https://{HOST}{path}"),
        unsigned.into_iter(),
        SignableBody::Bytes(body),
    )?;
    let (instructions, _) = sign(request, &params)?.into_parts();
    unsigned
        .into_iter()
        .chain(instructions.headers())
        .map(|(name, value)| Ok((HeaderName::from_bytes(name.as_bytes())?, HeaderValue::from_str(value)?)))
        .collect()
}
