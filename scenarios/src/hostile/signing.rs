//! How a hostile request is signed: as it should be, forged, or not at all.
//!
//! Place on the map: applied last, when a case is sent, for a signature lasts five minutes only (XKS-AUTH-2).

use super::request::Request;
use crate::kms::sigv4::{SERVICE, Signature, Signer};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;

/// The credential of the key store under test.
pub struct Credential {
    /// Its public part.
    pub access_key_id: String,
    /// Its secret part.
    pub secret: Secret,
    /// The region in the scope of signatures.
    pub region: String,
}

/// What the signature of a request covers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Signing {
    /// The request as it is sent.
    Valid,
    /// No `authorization` field at all.
    None,
    /// This other request: what is sent was tampered with on its way.
    Over(Box<Request>),
    /// The request as it is sent, at another time.
    SkewedS(i64),
    /// With a secret of the right form that is not the credential's.
    WrongSecret,
    /// For another region than the key store's.
    OtherRegion,
    /// For another AWS service.
    OtherService,
    /// The request as it is sent; then the fields of the signature are changed.
    Forged(Forgery),
}

/// What is changed about the fields of a valid signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each says in its name what is changed")]
pub enum Forgery {
    FirstDigitChanged,
    LastDigitChanged,
    SignatureCutShort,
    SignatureTooLong,
    SignatureEmpty,
    SignatureAllZeros,
    SignatureNotHexadecimal,
    SignatureMissing,
    SignedHeadersMissing,
    SignedHeadersEmpty,
    SignedHeadersUnsorted,
    SignedHeaderNotSent,
    CredentialMissing,
    CredentialEmpty,
    AccessKeyIdUnknown,
    AccessKeyIdLowerCase,
    ScopeDateOther,
    ScopeTerminatorOther,
    AlgorithmOther,
    AlgorithmMissing,
    AuthorizationEmpty,
    AuthorizationBasic,
    AuthorizationBearer,
    AuthorizationVeryLong,
    DateMissing,
    DateEmpty,
    DateMalformed,
    DateOneSecondOff,
    DateTwice,
}

impl Forgery {
    /// All of them.
    pub const ALL: [Self; 29] = [
        Self::FirstDigitChanged,
        Self::LastDigitChanged,
        Self::SignatureCutShort,
        Self::SignatureTooLong,
        Self::SignatureEmpty,
        Self::SignatureAllZeros,
        Self::SignatureNotHexadecimal,
        Self::SignatureMissing,
        Self::SignedHeadersMissing,
        Self::SignedHeadersEmpty,
        Self::SignedHeadersUnsorted,
        Self::SignedHeaderNotSent,
        Self::CredentialMissing,
        Self::CredentialEmpty,
        Self::AccessKeyIdUnknown,
        Self::AccessKeyIdLowerCase,
        Self::ScopeDateOther,
        Self::ScopeTerminatorOther,
        Self::AlgorithmOther,
        Self::AlgorithmMissing,
        Self::AuthorizationEmpty,
        Self::AuthorizationBasic,
        Self::AuthorizationBearer,
        Self::AuthorizationVeryLong,
        Self::DateMissing,
        Self::DateEmpty,
        Self::DateMalformed,
        Self::DateOneSecondOff,
        Self::DateTwice,
    ];
}

impl Signing {
    /// The fields that the signature adds to `request`, which is sent at `now`.
    pub fn fields(&self, request: &Request, credential: &Credential, now: UnixTime) -> Vec<(String, String)> {
        let signer = |secret: Secret, region: &str, service: &str| {
            Signer::for_service(&credential.access_key_id, secret, region, service)
        };
        let genuine = || signer(credential.secret.clone(), &credential.region, SERVICE);
        let signature = match self {
            Self::None => return Vec::new(),
            Self::Valid => sign(&genuine(), request, now),
            Self::Over(other) => sign(&genuine(), other, now),
            Self::SkewedS(offset) => {
                let skewed = UnixTime(Duration::from_secs(now.secs().saturating_add_signed(*offset)));
                sign(&genuine(), request, skewed)
            }
            Self::WrongSecret => {
                let wrong = Secret::new("NotTheSecretOfThisCredentialButAsLongAsOneIs".into());
                sign(&signer(wrong, &credential.region, SERVICE), request, now)
            }
            Self::OtherRegion => {
                let other = if credential.region == "eu-west-1" { "us-west-2" } else { "eu-west-1" };
                sign(&signer(credential.secret.clone(), other, SERVICE), request, now)
            }
            Self::OtherService => {
                sign(&signer(credential.secret.clone(), &credential.region, "kms"), request, now)
            }
            Self::Forged(forgery) => return forge(*forgery, sign(&genuine(), request, now)),
        };
        fields(signature)
    }
}

fn fields(signature: Signature) -> Vec<(String, String)> {
    vec![("X-Amz-Date".into(), signature.date), ("Authorization".into(), signature.authorization)]
}

fn sign(signer: &Signer, request: &Request, now: UnixTime) -> Signature {
    let mut names: Vec<&str> = request.signed.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    let mut headers: Vec<(&str, String)> = Vec::new();
    for name in names {
        let values: Vec<String> = request
            .headers
            .iter()
            .filter(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
            .collect();
        if !values.is_empty() {
            headers.push((name, values.join(",")));
        }
    }
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    signer.sign_with_query(&request.method, &canonical_path(path), query, &headers, &request.body, now)
}

/// Without dot segments and repeated slashes, and percent-encoded once more on top of how it is sent, as every service
/// but S3 asks (AWS General Reference, "Create a canonical request").
pub(super) fn canonical_path(path: &str) -> String {
    let mut canonical = String::with_capacity(path.len());
    for segment in plain_segments(path) {
        canonical.push('/');
        for byte in segment.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    canonical.push(char::from(byte));
                }
                other => canonical.push_str(&format!("%{other:02X}")),
            }
        }
    }
    if canonical.is_empty() || path.ends_with('/') {
        canonical.push('/');
    }
    canonical
}

/// The segments that are left of a path once `.`, `..` and empty ones have had their effect.
pub(super) fn plain_segments(path: &str) -> Vec<&str> {
    let mut segments = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    segments
}

fn forge(forgery: Forgery, signature: Signature) -> Vec<(String, String)> {
    let Signature { mut date, authorization } = signature;
    let part = |name: &str| {
        let from = authorization.find(name).unwrap_or(0);
        let end = authorization[from..].find(", ").map_or(authorization.len(), |at| from + at);
        authorization[from..end].to_owned()
    };
    let (credential, headers, signed) = (part("Credential="), part("SignedHeaders="), part("Signature="));
    let put_together = |credential: &str, headers: &str, signed: &str| {
        let parts = [credential, headers, signed].into_iter().filter(|part| !part.is_empty());
        format!("AWS4-HMAC-SHA256 {}", parts.collect::<Vec<_>>().join(", "))
    };
    let other_digit = |at: usize| {
        let mut changed = signed.clone();
        let digit = if signed.get(at..=at) == Some("0") { "1" } else { "0" };
        changed.replace_range(at..=at, digit);
        put_together(&credential, &headers, &changed)
    };
    let with_credential = |text: &str| put_together(text, &headers, &signed);
    let with_headers = |text: &str| put_together(&credential, text, &signed);
    let with_signature = |text: &str| put_together(&credential, &headers, text);
    let mut scope: Vec<String> = credential.split('/').map(str::to_owned).collect();
    let mut with_scope = |at: usize, text: &str| {
        if let Some(part) = scope.get_mut(at) {
            text.clone_into(part);
        }
        put_together(&scope.join("/"), &headers, &signed)
    };
    let mut twice = false;
    let forged = match forgery {
        Forgery::FirstDigitChanged => other_digit("Signature=".len()),
        Forgery::LastDigitChanged => other_digit(signed.len() - 1),
        Forgery::SignatureCutShort => with_signature(&signed[..signed.len() - 2]),
        Forgery::SignatureTooLong => with_signature(&format!("{signed}00")),
        Forgery::SignatureEmpty => with_signature("Signature="),
        Forgery::SignatureAllZeros => with_signature(&format!("Signature={}", "0".repeat(64))),
        Forgery::SignatureNotHexadecimal => with_signature(&format!("Signature={}", "z".repeat(64))),
        Forgery::SignatureMissing => with_signature(""),
        Forgery::SignedHeadersMissing => with_headers(""),
        Forgery::SignedHeadersEmpty => with_headers("SignedHeaders="),
        Forgery::SignedHeadersUnsorted => {
            let mut names: Vec<&str> = headers["SignedHeaders=".len()..].split(';').collect();
            names.reverse();
            with_headers(&format!("SignedHeaders={}", names.join(";")))
        }
        Forgery::SignedHeaderNotSent => with_headers(&format!("{headers};x-not-sent")),
        Forgery::CredentialMissing => with_credential(""),
        Forgery::CredentialEmpty => with_credential("Credential="),
        Forgery::AccessKeyIdUnknown => with_scope(0, "Credential=AKIAUNKNOWN234567ABCD"),
        Forgery::AccessKeyIdLowerCase => {
            let id = scope.first().map_or(String::new(), |id| id["Credential=".len()..].to_lowercase());
            put_together(
                &[&[format!("Credential={id}")], scope.get(1..).unwrap_or_default()].concat().join("/"),
                &headers,
                &signed,
            )
        }
        Forgery::ScopeDateOther => with_scope(1, "20150830"),
        Forgery::ScopeTerminatorOther => with_scope(4, "aws4_other"),
        Forgery::AlgorithmOther => authorization.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA1"),
        Forgery::AlgorithmMissing => authorization.replace("AWS4-HMAC-SHA256 ", ""),
        Forgery::AuthorizationEmpty => String::new(),
        Forgery::AuthorizationBasic => "Basic QWxpY2U6QWxpY2U=".into(),
        Forgery::AuthorizationBearer => "Bearer QWxpY2U".into(),
        Forgery::AuthorizationVeryLong => format!("{authorization}{}", "a".repeat(4_000)),
        Forgery::DateMissing => return vec![("Authorization".into(), authorization)],
        Forgery::DateEmpty => {
            date.clear();
            authorization
        }
        Forgery::DateMalformed => {
            date.insert(4, '-');
            authorization
        }
        Forgery::DateOneSecondOff => {
            let second = if date.ends_with("0Z") { "1Z" } else { "0Z" };
            date.replace_range(date.len() - 2.., second);
            authorization
        }
        Forgery::DateTwice => {
            twice = true;
            authorization
        }
    };
    let mut forged = fields(Signature { date: date.clone(), authorization: forged });
    if twice {
        forged.insert(0, ("X-Amz-Date".into(), date));
    }
    forged
}
