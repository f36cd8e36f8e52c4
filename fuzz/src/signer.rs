//! A signer that is not ours: AWS's own, the `aws-sigv4` crate.
//!
//! Place on the map: used by the seeds and by every target that needs a request to get past authentication.

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use std::error::Error;
use std::time::{Duration, UNIX_EPOCH};

/// An access key id and its secret.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) id: &'static str,
    pub(crate) secret: &'static str,
}

/// The region that requests are signed for.
pub(crate) const REGION: &str = "us-east-1";

/// The `Host` of every signed request.
pub(crate) const HOST: &str = "xks.example.com";

/// Signs a request at `time`, given since 1970. Gives the headers to add to `headers`, which must hold `host`: `x-amz-date`
/// and `authorization`.
///
/// # Errors
/// When `uri`, a path and perhaps a query, is none that AWS's signer takes.
pub(crate) fn signature(
    key: Key,
    time: Duration,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let identity = Credentials::new(key.id, key.secret, None, None, "fuzz").into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region(REGION)
        .name(xks_proxy::sigv4::SERVICE)
        .time(UNIX_EPOCH + time)
        .settings(SigningSettings::default())
        .build()?;
    let url = format!("https://{HOST}{uri}");
    let signable = SignableRequest::new(method, &url, headers.iter().copied(), SignableBody::Bytes(body))?;
    let (instructions, _) = sign(signable, &params.into())?.into_parts();
    Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}
