//! Verification of AWS Signature Version 4, without input or output: request, credentials and wall time in, who
//! signed out (XKS-AUTH-1 to XKS-AUTH-5).
//!
//! Place on the map: before anything of the request is parsed, let alone reaches the HSM. [`verify`] reads from top
//! to bottom: the `Authorization` header, what it claims, the hash of what was received, the signature over it.

mod authorization;
mod canonical;
mod credential;
mod date;
mod error;

pub use authorization::Authorization;
pub use credential::{AccessKeyId, Credential, CredentialError};
pub(crate) use date::days_since_1970;
pub use error::SigV4Error;

use crate::env::UnixTime;
use date::RequestDate;
use hmac::Mac;
use http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

/// The service KMS signs for (XKS-AUTH-1).
pub const SERVICE: &str = "kms-xks-proxy";

/// How far `x-amz-date` may be from this proxy's clock, either way, in seconds (XKS-AUTH-2).
pub const SKEW_SECS_MAX: u64 = 300;

/// The parts of a request that a signature can cover, as they came over the wire.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The method, in capitals.
    pub method: &'a str,
    /// The path, percent-encoded as received.
    pub path: &'a str,
    /// What followed the `?`, as received; empty when there was none.
    pub query: &'a str,
    /// All headers.
    pub headers: &'a http::HeaderMap,
    /// HTTP/2's `:authority`, which stands in for a missing `Host` header.
    pub authority: Option<&'a str>,
    /// The whole body.
    pub body: &'a [u8],
}

/// Finds out who signed a request for [`SERVICE`]. `region` is the one that must have been signed for; `None`
/// accepts any.
///
/// # Errors
/// The check that failed, for the log. To the caller every failure is the same AuthenticationFailedException.
pub fn verify(
    request: &Received<'_>,
    credentials: &[Credential],
    region: Option<&str>,
    now: UnixTime,
) -> Result<AccessKeyId, SigV4Error> {
    verify_for_service(request, credentials, SERVICE, region, now)
}

/// As [`verify`], for a service other than KMS's: AWS's test vectors use `service`, an emulated KMS endpoint `kms`.
///
/// # Errors
/// As [`verify`].
pub fn verify_for_service(
    request: &Received<'_>,
    credentials: &[Credential],
    service: &str,
    region: Option<&str>,
    now: UnixTime,
) -> Result<AccessKeyId, SigV4Error> {
    let mut headers = request.headers.get_all(AUTHORIZATION).iter();
    let authorization = match (headers.next(), headers.next()) {
        (Some(value), None) => Authorization::parse(value.as_bytes())?,
        (None, _) => return Err(SigV4Error::AuthorizationAbsent),
        (Some(_), Some(_)) => return Err(SigV4Error::AuthorizationRepeated),
    };

    let date = RequestDate::from_headers(request.headers)?;
    if authorization.date != date.day() {
        return Err(SigV4Error::ScopeDateWrong(error::clip(authorization.date)));
    }
    if region.is_some_and(|region| region != authorization.region) {
        return Err(SigV4Error::RegionWrong(error::clip(authorization.region)));
    }
    if authorization.service != service {
        return Err(SigV4Error::ServiceWrong(error::clip(authorization.service)));
    }
    let ahead_secs = date.unix_secs().saturating_sub_unsigned(now.secs());
    if ahead_secs.unsigned_abs() > SKEW_SECS_MAX {
        return Err(SigV4Error::Skewed { ahead_secs });
    }

    let body_hash = hex(&Sha256::digest(request.body).into());
    let request_hash = hex(&canonical::hash(request, authorization.signed_headers, &body_hash)?);

    // XKS-AUTH-5: every id is compared, in constant time, and an unknown one costs the same HMAC as a known one,
    // made with the first credential's secret.
    let mut index = 0_u64;
    let mut known = Choice::from(0);
    for (candidate, credential) in (0_u64..).zip(credentials) {
        let same =
            credential.access_key_id().as_str().as_bytes().ct_eq(authorization.access_key_id.as_bytes());
        index.conditional_assign(&candidate, same);
        known |= same;
    }
    let signer = usize::try_from(index).ok().and_then(|index| credentials.get(index));
    let Some(credential) = signer else {
        return Err(SigV4Error::UnknownAccessKey(error::clip(authorization.access_key_id)));
    };
    let mut mac = credential.signer(authorization.scope);
    mac.update(b"AWS4-HMAC-SHA256\n");
    mac.update(date.text().as_bytes());
    mac.update(b"\n");
    mac.update(authorization.scope.as_bytes());
    mac.update(b"\n");
    mac.update(&request_hash);
    let genuine = mac.finalize().into_bytes().as_slice().ct_eq(&authorization.signature);

    if bool::from(known & genuine) {
        // All of them, so that the time of a later request does not tell which id is in use.
        credentials.iter().for_each(|credential| credential.remember(authorization.scope));
        Ok(credential.access_key_id().clone())
    } else if bool::from(known) {
        Err(SigV4Error::SignatureWrong(error::clip(authorization.access_key_id)))
    } else {
        Err(SigV4Error::UnknownAccessKey(error::clip(authorization.access_key_id)))
    }
}

/// A SHA-256 hash in lower-case hexadecimal.
fn hex(hash: &[u8; 32]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(hash) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}
