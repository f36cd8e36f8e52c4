//! What a certificate says of itself: names, validity, key.
//!
//! Place on the map: part of `tls`; used to judge a server's certificate before it is served, to check the subject of a
//! client's (XKS-AUTH-6), and to count the days that are left (AWS's own metric is `XksProxyCertificateDaysToExpire`).
//!
//! Nothing here verifies a signature. The bytes may come from a stranger: whatever they are, the answer is facts or an
//! error, never a panic.

use crate::calendar::rfc3339;
use crate::env::UnixTime;
use std::fmt;
use std::time::Duration;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::{SubjectPublicKeyInfo, X509Name};

/// Longest name in a log; a certificate can hold megabytes of it.
const NAME_CHARS_MAX: usize = 256;

/// The facts of one X.509 certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The subject's distinguished name for people: `CN=xks.example.com, O=Example`. At most 256 characters, control
    /// characters escaped.
    pub subject: String,
    /// The subject's common name as it is, unescaped, to compare with. The last when there are several, which is the
    /// most specific; `None` without one that is text.
    pub common_name: Option<String>,
    /// The DNS names among the subject's alternative names as they are, in order.
    pub dns_names: Vec<String>,
    /// The issuer's distinguished name, as `subject`.
    pub issuer: String,
    /// From when it is valid; a date before 1970 counts as 1970.
    pub not_before: UnixTime,
    /// Until when it is valid, this second included; a date before 1970 counts as 1970.
    pub not_after: UnixTime,
    /// The kind of the public key.
    pub key_kind: KeyKind,
    /// The size of the public key in bits; `None` when its kind has none, or is unknown.
    pub key_bits: Option<usize>,
}

/// The kind of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA; the size is the modulus's.
    Rsa,
    /// An elliptic curve over a prime field: P-256, P-384, P-521.
    Ec,
    /// Ed25519.
    Ed25519,
    /// Any other.
    Other,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "RSA",
            Self::Ec => "EC",
            Self::Ed25519 => "Ed25519",
            Self::Other => "unknown kind",
        })
    }
}

/// These bytes are no X.509 certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotACertificate;

impl fmt::Display for NotACertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this is not an X.509 certificate")
    }
}

impl std::error::Error for NotACertificate {}

impl CertificateFacts {
    /// Reads one certificate in DER.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_der(der: &[u8]) -> Result<Self, NotACertificate> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| NotACertificate)?;
        let subject = certificate.subject();
        let dns_names = match certificate.subject_alternative_name() {
            Ok(Some(names)) => names
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some((*name).to_owned()),
                    _ => None,
                })
                .collect(),
            // Absent, unreadable or there twice: it names nobody.
            Ok(None) | Err(_) => Vec::new(),
        };
        let (key_kind, key_bits) = key(certificate.public_key());
        Ok(Self {
            subject: printable(subject),
            common_name: subject
                .iter_common_name()
                .last()
                .and_then(|name| name.as_str().ok())
                .map(str::to_owned),
            dns_names,
            issuer: printable(certificate.issuer()),
            not_before: unix_time(certificate.validity().not_before),
            not_after: unix_time(certificate.validity().not_after),
            key_kind,
            key_bits,
        })
    }

    /// Whole days until it expires: 0 on its last day, negative once it has expired.
    pub fn days_left(&self, now: UnixTime) -> i64 {
        const DAY_SECS: i64 = 86_400;
        let secs = |time: UnixTime| i64::try_from(time.secs()).unwrap_or(i64::MAX);
        secs(self.not_after).saturating_sub(secs(now)).div_euclid(DAY_SECS)
    }

    /// Why it cannot be used at this time, if so: not valid yet, or no longer.
    pub fn invalid_at(&self, now: UnixTime) -> Option<String> {
        if now.secs() < self.not_before.secs() {
            return Some(format!("is not valid before {}", rfc3339(self.not_before)));
        }
        (now.secs() > self.not_after.secs()).then(|| format!("has expired on {}", rfc3339(self.not_after)))
    }
}

fn unix_time(time: ASN1Time) -> UnixTime {
    UnixTime(Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0)))
}

/// A name fit for one line of a log.
fn printable(name: &X509Name<'_>) -> String {
    let whole = name.to_string();
    let mut text = String::new();
    for (count, c) in whole.chars().enumerate() {
        if count == NAME_CHARS_MAX {
            break;
        }
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

fn key(info: &SubjectPublicKeyInfo<'_>) -> (KeyKind, Option<usize>) {
    let algorithm = &info.algorithm;
    if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
        let bits = match info.parsed() {
            Ok(PublicKey::RSA(rsa)) => bit_length(rsa.modulus),
            _ => None,
        };
        return (KeyKind::Rsa, bits);
    }
    if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = algorithm.parameters.as_ref().and_then(|any| any.as_oid().ok());
        let sizes = [(OID_EC_P256, 256), (OID_NIST_EC_P384, 384), (OID_NIST_EC_P521, 521)];
        let bits = sizes.iter().find(|(oid, _)| curve.as_ref() == Some(oid)).map(|(_, bits)| *bits);
        return (KeyKind::Ec, bits);
    }
    if algorithm.algorithm == OID_SIG_ED25519 {
        return (KeyKind::Ed25519, None);
    }
    (KeyKind::Other, None)
}

/// Of a big-endian number, zeros before it not counted.
fn bit_length(number: &[u8]) -> Option<usize> {
    let first = number.iter().position(|byte| *byte != 0)?;
    let (top, rest) = number.get(first..)?.split_first()?;
    Some(rest.len() * 8 + (8 - top.leading_zeros() as usize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};
    use std::sync::LazyLock;

    static CERTIFICATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut params =
            CertificateParams::new(vec!["xks.example.com".into(), "*.example.org".into()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        params.distinguished_name.push(DnType::CommonName, "xks.example.com");
        params.distinguished_name.push(DnType::OrganizationName, "A\nbank");
        params.not_before = rcgen::date_time_ymd(2026, 1, 2);
        params.not_after = rcgen::date_time_ymd(2026, 3, 4);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    });

    fn at(secs: u64) -> UnixTime {
        UnixTime(Duration::from_secs(secs))
    }

    #[test]
    fn a_certificate_says_who_it_is_for_until_when_and_with_which_key() {
        let facts = CertificateFacts::from_der(&CERTIFICATE).unwrap();
        assert_eq!(facts.common_name.as_deref(), Some("xks.example.com"));
        assert_eq!(facts.dns_names, ["xks.example.com", "*.example.org"]);
        assert_eq!(facts.subject, "CN=xks.example.com, O=A\\nbank");
        assert_eq!(facts.issuer, facts.subject);
        assert_eq!((facts.key_kind, facts.key_bits), (KeyKind::Ec, Some(256)));
        // 2026-01-02 and 2026-03-04, both at midnight.
        assert_eq!((facts.not_before.secs(), facts.not_after.secs()), (1_767_312_000, 1_772_582_400));
    }

    #[test]
    fn days_are_whole_and_go_below_zero() {
        let facts = CertificateFacts::from_der(&CERTIFICATE).unwrap();
        let end = facts.not_after.secs();
        for (now, days) in [(end - 2 * 86_400, 2), (end - 86_401, 1), (end - 1, 0), (end, 0), (end + 1, -1)] {
            assert_eq!(facts.days_left(at(now)), days, "{now}");
        }
        assert_eq!(facts.days_left(at(u64::MAX)), (end as i64 - i64::MAX).div_euclid(86_400));
    }

    #[test]
    fn it_is_valid_from_its_first_second_to_its_last() {
        let facts = CertificateFacts::from_der(&CERTIFICATE).unwrap();
        let (start, end) = (facts.not_before.secs(), facts.not_after.secs());
        assert_eq!((facts.invalid_at(at(start)), facts.invalid_at(at(end))), (None, None));
        assert_eq!(facts.invalid_at(at(start - 1)).unwrap(), "is not valid before 2026-01-02T00:00:00.000Z");
        assert_eq!(facts.invalid_at(at(end + 1)).unwrap(), "has expired on 2026-03-04T00:00:00.000Z");
    }

    /// Made by `openssl req -x509 -newkey rsa:2048` and `-newkey ed25519`, public keys only in what is looked at here.
    #[test]
    fn keys_are_told_apart() {
        for (algorithm, expected) in [
            (&rcgen::PKCS_ECDSA_P384_SHA384, (KeyKind::Ec, Some(384))),
            (&rcgen::PKCS_ED25519, (KeyKind::Ed25519, None)),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            let made = CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap();
            let facts = CertificateFacts::from_der(made.der()).unwrap();
            assert_eq!((facts.key_kind, facts.key_bits), expected);
        }
        let key = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let made = CertificateParams::new(vec!["a".into()]).unwrap().self_signed(&key).unwrap();
        let facts = CertificateFacts::from_der(made.der()).unwrap();
        assert_eq!((facts.key_kind, facts.key_bits), (KeyKind::Rsa, Some(2_048)));
    }

    #[test]
    fn a_bit_length_counts_from_the_first_one() {
        for (number, bits) in [
            (&[][..], None),
            (&[0, 0], None),
            (&[1], Some(1)),
            (&[0, 0x80, 0], Some(16)),
            (&[0x7f, 0xff], Some(15)),
        ] {
            assert_eq!(bit_length(number), bits, "{number:?}");
        }
    }

    #[test]
    fn a_name_without_end_is_cut() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "x".repeat(10_000));
        let made = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let facts = CertificateFacts::from_der(made.der()).unwrap();
        assert_eq!(facts.subject.chars().count(), NAME_CHARS_MAX);
        assert_eq!(facts.common_name.unwrap().len(), 10_000);
    }

    proptest! {
        #[test]
        fn any_bytes_are_facts_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = CertificateFacts::from_der(&bytes);
        }

        /// Almost a certificate gets further into the parser than noise.
        #[test]
        fn a_damaged_certificate_is_facts_or_an_error(
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut der = CERTIFICATE.clone();
            for (index, byte) in damage {
                let index = index.index(der.len());
                der[index] = byte;
            }
            if let Ok(facts) = CertificateFacts::from_der(&der) {
                let _ = (facts.days_left(at(0)), facts.invalid_at(at(u64::MAX / 2)));
            }
            let _ = CertificateFacts::from_der(&der[..cut.index(der.len())]);
        }
    }
}
