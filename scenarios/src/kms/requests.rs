//! The JSON bodies of KMS's four requests to the proxy, varied where JSON and the spec allow it.
//!
//! Place on the map: [`model`](super::model) sends them, [`answers`](super::answers) reads what comes back. The order
//! of fields and the optional metadata differ from call to call, so that a proxy that leans on one form is found out.

use super::SourceVpc;
use super::inner::Sealed;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;

/// A request, without its metadata.
#[derive(Clone, Copy, Debug)]
pub enum Ask<'a> {
    /// GetHealthStatus.
    Health,
    /// GetKeyMetadata.
    KeyMetadata,
    /// Encrypt.
    Encrypt {
        /// `plaintext`: KMS's inner ciphertext.
        plaintext: &'a [u8],
        /// `additionalAuthenticatedData`.
        aad: &'a [u8],
        /// Ask for `ciphertextDataIntegrityValue`.
        cdiv: bool,
    },
    /// Decrypt.
    Decrypt {
        /// What encrypt had answered.
        sealed: &'a Sealed,
        /// `additionalAuthenticatedData`.
        aad: &'a [u8],
    },
}

/// `requestMetadata` (XKS-MD-2). What is `None` is left out.
#[derive(Clone, Copy, Debug)]
pub struct RequestMetadata<'a> {
    /// `kmsRequestId`.
    pub kms_request_id: &'a str,
    /// `kmsOperation`.
    pub kms_operation: &'a str,
    /// `awsPrincipalArn`; all but GetHealthStatus.
    pub principal_arn: Option<&'a str>,
    /// `kmsKeyArn`; Encrypt and Decrypt.
    pub kms_key_arn: Option<&'a str>,
    /// `kmsViaService`.
    pub via_service: Option<&'a str>,
    /// `awsSourceVpc` and `awsSourceVpce`.
    pub source_vpc: Option<SourceVpc<'a>>,
}

/// The VPC endpoint of a caller of whom none is known.
pub(super) const SOURCE_VPC: SourceVpc<'_> =
    SourceVpc { vpc: "vpc-1234567890abcdef0", vpce: "vpce-1234567890abcdef0" };

impl Ask<'_> {
    /// The last part of the URI: after `/kms/xks/v1` for GetHealthStatus, after the key's id for the others.
    pub fn path_end(&self) -> &'static str {
        match self {
            Self::Health => "/health",
            Self::KeyMetadata => "/metadata",
            Self::Encrypt { .. } => "/encrypt",
            Self::Decrypt { .. } => "/decrypt",
        }
    }

    /// The body, its fields in an order drawn from `variation`.
    pub fn body(&self, metadata: &RequestMetadata<'_>, variation: &mut ChaCha20Rng) -> String {
        let mut inner = vec![
            ("kmsRequestId", Value::Text(metadata.kms_request_id)),
            ("kmsOperation", Value::Text(metadata.kms_operation)),
        ];
        for (name, value) in [
            ("awsPrincipalArn", metadata.principal_arn),
            ("kmsKeyArn", metadata.kms_key_arn),
            ("kmsViaService", metadata.via_service),
            ("awsSourceVpc", metadata.source_vpc.map(|source| source.vpc)),
            ("awsSourceVpce", metadata.source_vpc.map(|source| source.vpce)),
        ] {
            inner.extend(value.map(|text| (name, Value::Text(text))));
        }
        shuffle(&mut inner, variation);

        let mut outer = vec![("requestMetadata", Value::Object(&inner))];
        match *self {
            Self::Health | Self::KeyMetadata => {}
            Self::Encrypt { plaintext, aad, cdiv } => {
                outer.push(("plaintext", Value::Base64(plaintext)));
                outer.push(("encryptionAlgorithm", Value::Text("AES_GCM")));
                outer.push(("additionalAuthenticatedData", Value::Base64(aad)));
                if cdiv {
                    outer.push(("ciphertextDataIntegrityValueAlgorithm", Value::Text("SHA_256")));
                }
            }
            Self::Decrypt { sealed, aad } => {
                outer.push(("ciphertext", Value::Base64(&sealed.ciphertext)));
                outer.push(("initializationVector", Value::Base64(&sealed.iv)));
                outer.push(("authenticationTag", Value::Base64(&sealed.tag)));
                outer.push(("encryptionAlgorithm", Value::Text("AES_GCM")));
                outer.push(("additionalAuthenticatedData", Value::Base64(aad)));
                if !sealed.metadata.is_empty() {
                    outer.push(("ciphertextMetadata", Value::Base64(&sealed.metadata)));
                }
            }
        }
        shuffle(&mut outer, variation);

        let mut body = String::with_capacity(1_024);
        write_object(&mut body, &outer);
        body
    }
}

enum Value<'a> {
    Text(&'a str),
    Base64(&'a [u8]),
    Object(&'a [(&'static str, Value<'a>)]),
}

fn write_object(body: &mut String, fields: &[(&'static str, Value<'_>)]) {
    body.push('{');
    for (n, (name, value)) in fields.iter().enumerate() {
        body.extend([if n == 0 { "\"" } else { ",\"" }, name, "\":"]);
        match value {
            Value::Text(text) => write_text(body, text),
            Value::Base64(bytes) => {
                body.push('"');
                STANDARD.encode_string(bytes, body);
                body.push('"');
            }
            Value::Object(fields) => write_object(body, fields),
        }
    }
    body.push('}');
}

fn write_text(body: &mut String, text: &str) {
    body.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => body.extend(['\\', character]),
            '\0'..='\u{1f}' => body.push_str(&format!("\\u{:04x}", u32::from(character))),
            other => body.push(other),
        }
    }
    body.push('"');
}

/// A number from 0 to `bound` - 1; nearly uniform for the small bounds used here.
pub(super) fn below(random: &mut ChaCha20Rng, bound: usize) -> usize {
    ((u64::from(random.next_u32()) * bound as u64) >> 32) as usize
}

/// True in this `share` of cases, 0 to 1. Draws nothing when the share is 0.
pub(super) fn chance(random: &mut ChaCha20Rng, share: f64) -> bool {
    share > 0.0 && f64::from(random.next_u32()) < share * 4_294_967_296.0
}

/// Fisher and Yates.
pub(super) fn shuffle<T>(items: &mut [T], random: &mut ChaCha20Rng) {
    for n in (1..items.len()).rev() {
        items.swap(n, below(random, n + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;
    use serde_json::json;
    use std::collections::BTreeSet;

    const METADATA: RequestMetadata<'_> = RequestMetadata {
        kms_request_id: "4112f4d6",
        kms_operation: "Encrypt",
        principal_arn: Some("arn:aws:iam::123456789012:user/\"A\\lice\"\n"),
        kms_key_arn: Some("arn:aws:kms:us-east-1:123456789012:key/1"),
        via_service: Some("s3.us-east-1.amazonaws.com"),
        source_vpc: None,
    };

    #[test]
    fn bodies_say_the_same_in_many_orders() {
        let sealed =
            Sealed { ciphertext: vec![1, 2], iv: vec![3; 12], tag: [4; 16], metadata: vec![5, 6, 7] };
        let metadata = json!({
            "kmsRequestId": "4112f4d6", "kmsOperation": "Encrypt",
            "awsPrincipalArn": "arn:aws:iam::123456789012:user/\"A\\lice\"\n",
            "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:key/1",
            "kmsViaService": "s3.us-east-1.amazonaws.com",
        });
        let encrypt = Ask::Encrypt { plaintext: b"hello", aad: b"aad", cdiv: true };
        let decrypt = Ask::Decrypt { sealed: &sealed, aad: b"aad" };
        let mut variation = ChaCha20Rng::from_seed([1; 32]);
        for (ask, expected) in [
            (
                encrypt,
                json!({
                    "requestMetadata": metadata, "plaintext": "aGVsbG8=", "encryptionAlgorithm": "AES_GCM",
                    "additionalAuthenticatedData": "YWFk", "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
                }),
            ),
            (
                decrypt,
                json!({
                    "requestMetadata": metadata, "ciphertext": "AQI=", "encryptionAlgorithm": "AES_GCM",
                    "additionalAuthenticatedData": "YWFk", "ciphertextMetadata": "BQYH",
                    "initializationVector": "AwMDAwMDAwMDAwMD", "authenticationTag": "BAQEBAQEBAQEBAQEBAQEBA==",
                }),
            ),
            (Ask::Health, json!({ "requestMetadata": metadata })),
        ] {
            let mut forms = BTreeSet::new();
            for _ in 0..100 {
                let body = ask.body(&METADATA, &mut variation);
                assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap(), expected, "{body}");
                forms.insert(body);
            }
            assert!(forms.len() > 50, "{} forms", forms.len());
        }
    }

    #[test]
    fn what_is_optional_is_left_out() {
        let mut variation = ChaCha20Rng::from_seed([1; 32]);
        let metadata = RequestMetadata {
            principal_arn: None,
            kms_key_arn: None,
            via_service: None,
            source_vpc: Some(SOURCE_VPC),
            ..METADATA
        };
        let sealed = Sealed { ciphertext: vec![], iv: vec![], tag: [0; 16], metadata: vec![] };
        let body = Ask::Decrypt { sealed: &sealed, aad: b"" }.body(&metadata, &mut variation);
        assert!(body.contains("awsSourceVpc\"") && body.contains("awsSourceVpce\""));
        for absent in ["Principal", "KeyArn", "Via", "ciphertextMetadata"] {
            assert!(!body.contains(absent), "{body}");
        }
        let encrypt = Ask::Encrypt { plaintext: b"", aad: b"", cdiv: false }.body(&metadata, &mut variation);
        assert!(!encrypt.contains("IntegrityValue"));
    }

    #[test]
    fn chances_are_kept() {
        let mut random = ChaCha20Rng::from_seed([2; 32]);
        let hits = (0..10_000).filter(|_| chance(&mut random, 0.25)).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
        assert!((0..100).all(|_| !chance(&mut random, 0.0) && chance(&mut random, 1.0)));
        assert!((0..1_000).all(|_| below(&mut random, 9) < 9));
    }
}
