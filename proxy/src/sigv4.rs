//! Verification of AWS Signature Version 4, without input or output: request, credentials and wall time in, who
//! signed out (XKS-AUTH-1 to XKS-AUTH-5).
//!
//! Place on the map: before anything of the request is parsed, let alone reaches the HSM.

mod credential;
mod error;

pub use credential::{AccessKeyId, Credential, CredentialError};
pub use error::SigV4Error;

/// The service KMS signs for (XKS-AUTH-1).
pub const SERVICE: &str = "kms-xks-proxy";

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
