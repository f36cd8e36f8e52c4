//! Credentials: an access key id and its secret.
//!
//! Place on the map: held by a key store (`app::KeyStore::credentials`), used by [`verify`](super::verify).

use crate::env::UnixTime;
use crate::secret::Secret;
use arc_swap::ArcSwapOption;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// An access key id: 20 to 30 characters of `[A-Z2-7]` (XKS-AUTH-3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccessKeyId(String);

impl AccessKeyId {
    /// The id as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccessKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a pair is not a [`Credential`]. Says nothing of the secret but its length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialError(String);

impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CredentialError {}

/// Who may sign, and with which secret. Does not print the secret, and wipes it on drop.
pub struct Credential {
    access_key_id: AccessKeyId,
    secret: Secret,
    created: Option<UnixTime>,
    /// The signing key of the last scope a request was accepted with. It changes no answer, only how long one takes.
    signing_key: ArcSwapOption<SigningKey>,
}

/// A signing key and the scope it is for: `date/region/service/aws4_request`.
struct SigningKey {
    scope: String,
    mac: Hmac<Sha256>,
}

impl Credential {
    /// A credential as KMS uses them (XKS-AUTH-3).
    ///
    /// # Errors
    /// When the id is not 20 to 30 characters of `[A-Z2-7]`, or the secret not 43 to 64 of `[A-Za-z0-9/+=]`.
    pub fn new(access_key_id: &str, secret: Secret) -> Result<Self, CredentialError> {
        // The id is not quoted: what stands in its place may be the secret.
        let wrong = |what: &str| {
            let rule = "an access key id has 20 to 30 characters of A-Z 2-7";
            CredentialError(format!("{rule}; this one has {what}"))
        };
        if !(20..=30).contains(&access_key_id.len()) {
            return Err(wrong(&format!("{} characters", access_key_id.chars().count())));
        }
        if access_key_id.bytes().any(|b| !matches!(b, b'A'..=b'Z' | b'2'..=b'7')) {
            return Err(wrong("something else"));
        }
        let secret_len = secret.expose().len();
        if !(43..=64).contains(&secret_len) {
            return Err(CredentialError(format!(
                "a secret access key has 43 to 64 characters, the one of {access_key_id} has {secret_len}"
            )));
        }
        if secret.expose().bytes().any(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'/' | b'+' | b'='))) {
            return Err(CredentialError(format!(
                "a secret access key holds only A-Z a-z 0-9 / + =, the one of {access_key_id} has something else"
            )));
        }
        Ok(Self::unchecked(access_key_id, secret))
    }

    /// A credential of any form, for signers other than KMS: IAM's secrets have 40 characters, and AWS's published
    /// test vectors an id of 11.
    pub fn unchecked(access_key_id: &str, secret: Secret) -> Self {
        Self {
            access_key_id: AccessKeyId(access_key_id.to_owned()),
            secret,
            created: None,
            signing_key: ArcSwapOption::empty(),
        }
    }

    /// The same, and known to be in use since `created`.
    #[must_use]
    pub fn with_created(self, created: Option<UnixTime>) -> Self {
        Self { created, ..self }
    }

    /// Since when it is in use, if that is known: for metrics, changes no answer.
    pub fn created(&self) -> Option<UnixTime> {
        self.created
    }

    /// The public half.
    pub fn access_key_id(&self) -> &AccessKeyId {
        &self.access_key_id
    }

    /// The state of HMAC under the signing key for `scope`: from memory, or derived.
    pub(super) fn signer(&self, scope: &str) -> Hmac<Sha256> {
        match &*self.signing_key.load() {
            Some(known) if known.scope == scope => known.mac.clone(),
            _ => self.derive(scope),
        }
    }

    /// Keeps the signing key for `scope`. To be called with the scope of an accepted request only, so that a stranger
    /// cannot make every honest request pay for a derivation.
    pub(super) fn remember(&self, scope: &str) {
        if self.signing_key.load().as_ref().is_none_or(|known| known.scope != scope) {
            let mac = self.derive(scope);
            self.signing_key.store(Some(Arc::new(SigningKey { scope: scope.to_owned(), mac })));
        }
    }

    /// One HMAC per part of the scope, as SigV4 derives its signing key.
    fn derive(&self, scope: &str) -> Hmac<Sha256> {
        let first = Zeroizing::new([b"AWS4", self.secret.expose().as_bytes()].concat());
        let mut mac = keyed(&first);
        for part in scope.split('/') {
            mac.update(part.as_bytes());
            let key = Zeroizing::new(<[u8; 32]>::from(mac.finalize().into_bytes()));
            mac = keyed(key.as_slice());
        }
        mac
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of every length (RFC 2104, section 2)")]
fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

impl Clone for Credential {
    fn clone(&self) -> Self {
        Self::unchecked(self.access_key_id.as_str(), self.secret.clone()).with_created(self.created)
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SCOPE: &str = "20150830/us-east-1/service/aws4_request";
    const NEXT_DAY: &str = "20150831/us-east-1/service/aws4_request";

    fn credential() -> Credential {
        Credential::unchecked("AKIDEXAMPLE", Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into()))
    }

    #[test]
    fn the_signing_key_of_the_last_scope_is_kept_and_used() {
        let credential = credential();
        credential.remember(SCOPE);
        let kept = credential.signing_key.load_full().unwrap();
        assert_eq!(kept.scope, SCOPE);
        credential.remember(SCOPE);
        assert!(Arc::ptr_eq(&kept, &credential.signing_key.load_full().unwrap()), "derived once");
        // A key that no derivation gives, so that it shows where the signer came from.
        let planted = Arc::new(SigningKey { scope: SCOPE.to_owned(), mac: keyed(b"planted") });
        credential.signing_key.store(Some(planted));
        let tag = |mac: Hmac<Sha256>| mac.finalize().into_bytes();
        assert_eq!(tag(credential.signer(SCOPE)), tag(keyed(b"planted")));
        assert_eq!(tag(credential.signer(NEXT_DAY)), tag(credential.derive(NEXT_DAY)));
        credential.remember(NEXT_DAY);
        assert_eq!(credential.signing_key.load_full().unwrap().scope, NEXT_DAY);
    }

    /// A clone once lost it, and with it the age that metrics show.
    #[test]
    fn since_when_it_is_in_use_is_kept() {
        let created = Some(UnixTime(Duration::from_secs(1_440_938_160)));
        let credential = credential().with_created(created);
        assert_eq!(credential.created(), created);
        assert_eq!(credential.clone().created(), created);
    }
}
