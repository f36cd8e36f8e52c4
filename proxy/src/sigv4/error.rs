//! Why a signature was refused, for the log.
//!
//! Place on the map: what [`verify`](super::verify) gives back. The caller hears one sentence for all of them
//! (XKS-AUTH-5), so nothing here goes into a response.

use std::fmt;

/// Why a request is not authenticated. `Display` says which check failed, for the log only. It holds what the
/// request itself said, cut to 128 characters, and nothing of any secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SigV4Error {
    /// No `Authorization` header.
    AuthorizationAbsent,
    /// More than one `Authorization` header.
    AuthorizationRepeated,
    /// The `Authorization` header cannot be read; says what is wrong with it.
    AuthorizationMalformed(&'static str),
    /// The header `host` or `x-amz-date` is not in `SignedHeaders` (XKS-AUTH-1).
    NotSigned(&'static str),
    /// A header in `SignedHeaders` is not in the request.
    SignedHeaderAbsent(String),
    /// There is not exactly one `x-amz-date` of the form `YYYYMMDDTHHMMSSZ`.
    DateMalformed,
    /// The date in the credential scope is not the day of `x-amz-date` (XKS-AUTH-2).
    ScopeDateWrong(String),
    /// The region in the credential scope is not the key store's.
    RegionWrong(String),
    /// The service in the credential scope is not the expected one.
    ServiceWrong(String),
    /// `x-amz-date` is more than five minutes from this proxy's clock (XKS-AUTH-2).
    Skewed {
        /// How far `x-amz-date` is ahead of this proxy's clock, in seconds; negative when it is behind.
        ahead_secs: i64,
    },
    /// A signed `x-amz-content-sha256` is not the hash of the body. `UNSIGNED-PAYLOAD` is none either.
    ContentHashWrong,
    /// No credential of this key store has this access key id.
    UnknownAccessKey(String),
    /// The credential is known, and the signature was not made with its secret over this request.
    SignatureWrong(String),
}

impl fmt::Display for SigV4Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AuthorizationAbsent => f.write_str("no Authorization header"),
            Self::AuthorizationRepeated => f.write_str("more than one Authorization header"),
            Self::AuthorizationMalformed(what) => write!(f, "Authorization header: {what}"),
            Self::NotSigned(header) => write!(f, "the header {header} is not in SignedHeaders"),
            Self::SignedHeaderAbsent(header) => {
                write!(f, "SignedHeaders lists {header:?}, which the request does not have")
            }
            Self::DateMalformed => {
                f.write_str("the request has not exactly one x-amz-date of the form YYYYMMDDTHHMMSSZ")
            }
            Self::ScopeDateWrong(found) => {
                write!(f, "the credential scope's date {found:?} is not the day of x-amz-date")
            }
            Self::RegionWrong(found) => {
                write!(f, "the credential scope's region {found:?} is not this key store's")
            }
            Self::ServiceWrong(found) => {
                write!(f, "the credential scope's service {found:?} is not the expected one")
            }
            Self::Skewed { ahead_secs } => {
                let side = if *ahead_secs < 0 { "behind" } else { "ahead of" };
                write!(
                    f,
                    "x-amz-date is {} s {side} this proxy's clock; 300 s are allowed",
                    ahead_secs.unsigned_abs()
                )
            }
            Self::ContentHashWrong => {
                f.write_str("x-amz-content-sha256 is signed and is not the SHA-256 of the body")
            }
            Self::UnknownAccessKey(id) => write!(f, "no credential here has the access key id {id:?}"),
            Self::SignatureWrong(id) => {
                write!(f, "the signature is not that of access key id {id:?} over this request")
            }
        }
    }
}

impl std::error::Error for SigV4Error {}

/// At most the first 128 characters: enough for the log to say what was found.
pub(super) fn clip(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skewed_clock_is_told_with_its_direction() {
        for (ahead_secs, words) in [(-301, "301 s behind"), (301, "301 s ahead of"), (i64::MIN, " s behind")]
        {
            let told = SigV4Error::Skewed { ahead_secs }.to_string();
            assert!(told.contains(words), "{told}");
        }
    }
}
