//! Reads the proxy's answers as strictly as KMS does: what is not the spec's is an answer KMS cannot interpret.
//!
//! Place on the map: [`model`](super::model) turns what is found here into a [`Cause`](super::failure::Cause).

use super::inner::Sealed;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::borrow::Cow;
use xks_proxy::error::ErrorName;

/// What is wrong with an answer, in words that quote nothing of it but names and lengths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Not the JSON of the spec, or a field of a wrong length (MA-5).
    Form(String),
    /// The integrity value that was asked for is missing or wrong (XKS-ENC-9).
    IntegrityValue(String),
}

/// What the proxy says of an external key (XKS-META-1).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyMetadata {
    /// `AES_256` for a legal external key.
    pub key_spec: String,
    /// Holds `ENCRYPT` and `DECRYPT` for a usable one.
    pub key_usage: Vec<String>,
    /// `ENABLED` or `DISABLED`.
    pub key_status: String,
}

/// How many external key managers are in which state, by the proxy's last word (XKS-HLT-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManagerStates {
    /// `ACTIVE`.
    pub active: u32,
    /// `DEGRADED`.
    pub degraded: u32,
    /// `UNAVAILABLE`.
    pub unavailable: u32,
}

impl ManagerStates {
    /// Whether at least one of them works; otherwise the proxy is unhealthy (row 19 of the failure table).
    pub fn any_usable(self) -> bool {
        self.active + self.degraded > 0
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EncryptAnswer<'a> {
    #[serde(borrow)]
    ciphertext: Cow<'a, str>,
    #[serde(borrow)]
    initialization_vector: Cow<'a, str>,
    #[serde(borrow)]
    authentication_tag: Cow<'a, str>,
    #[serde(borrow, default)]
    ciphertext_metadata: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    ciphertext_data_integrity_value: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct DecryptAnswer<'a> {
    #[serde(borrow)]
    plaintext: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ErrorAnswer<'a> {
    #[serde(borrow)]
    error_name: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HealthAnswer {
    xks_proxy_fleet_size: u64,
    #[serde(rename = "xksProxyVendor")]
    _proxy_vendor: String,
    #[serde(rename = "xksProxyModel")]
    _proxy_model: String,
    #[serde(rename = "ekmVendor")]
    _ekm_vendor: String,
    ekm_fleet_details: Vec<Manager>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manager {
    #[serde(rename = "id")]
    _id: String,
    #[serde(rename = "model")]
    _model: String,
    health_status: HealthStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum HealthStatus {
    Active,
    Degraded,
    Unavailable,
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Wrong> {
    // Only the place is kept of serde's error: its text can quote the answer.
    serde_json::from_slice(body).map_err(|error| {
        Wrong::Form(format!("the body is wrong at line {} column {}", error.line(), error.column()))
    })
}

fn decode(name: &str, text: &str) -> Result<Vec<u8>, Wrong> {
    STANDARD.decode(text).map_err(|_| Wrong::Form(format!("{name} is not Base64")))
}

fn length(name: &str, found: usize, expected: &str, right: bool) -> Result<(), Wrong> {
    if right { Ok(()) } else { Err(Wrong::Form(format!("{name} has {found} bytes, not {expected}"))) }
}

/// Reads an answer to encrypt. `cdiv_aad` holds the AAD sent when the integrity value was asked for.
///
/// # Errors
/// See [`Wrong`].
pub fn read_encrypt(body: &[u8], plaintext_len: usize, cdiv_aad: Option<&[u8]>) -> Result<Sealed, Wrong> {
    let answer: EncryptAnswer<'_> = parse(body)?;
    let ciphertext = decode("ciphertext", &answer.ciphertext)?;
    let iv = decode("initializationVector", &answer.initialization_vector)?;
    let tag = decode("authenticationTag", &answer.authentication_tag)?;
    let metadata = decode("ciphertextMetadata", answer.ciphertext_metadata.as_deref().unwrap_or_default())?;
    length("ciphertext", ciphertext.len(), "those of the plaintext", ciphertext.len() == plaintext_len)?;
    length("initializationVector", iv.len(), "12 or 16", matches!(iv.len(), 12 | 16))?;
    length("ciphertextMetadata", metadata.len(), "0 to 20", metadata.len() <= 20)?;
    let tag = <[u8; 16]>::try_from(tag.as_slice())
        .map_err(|_| Wrong::Form(format!("authenticationTag has {} bytes, not 16", tag.len())))?;
    if let Some(aad) = cdiv_aad {
        let text = answer.ciphertext_data_integrity_value.ok_or_else(|| {
            Wrong::IntegrityValue("the integrity value that was asked for is missing".into())
        })?;
        let value = crate::sha256::of(&[aad, &metadata, &iv, &ciphertext, &tag]);
        if STANDARD.decode(text.as_bytes()).ok().as_deref() != Some(&value[..]) {
            return Err(Wrong::IntegrityValue(
                "the integrity value is not the SHA-256 of AAD, metadata, IV, ciphertext and tag".into(),
            ));
        }
    }
    Ok(Sealed { ciphertext, iv, tag, metadata })
}

/// Reads an answer to decrypt. Its length is for the caller to judge, who knows what it must be.
///
/// # Errors
/// See [`Wrong`].
pub fn read_decrypt(body: &[u8]) -> Result<Vec<u8>, Wrong> {
    let answer: DecryptAnswer<'_> = parse(body)?;
    decode("plaintext", &answer.plaintext)
}

/// Reads an answer to GetKeyMetadata.
///
/// # Errors
/// See [`Wrong`].
pub fn read_key_metadata(body: &[u8]) -> Result<KeyMetadata, Wrong> {
    let metadata: KeyMetadata = parse(body)?;
    if !(1..=10).contains(&metadata.key_usage.len()) {
        return Err(Wrong::Form(format!("keyUsage has {} entries, not 1 to 10", metadata.key_usage.len())));
    }
    match metadata.key_status.as_str() {
        "ENABLED" | "DISABLED" => Ok(metadata),
        _ => Err(Wrong::Form("keyStatus is neither ENABLED nor DISABLED".into())),
    }
}

/// Reads an answer to GetHealthStatus.
///
/// # Errors
/// See [`Wrong`].
pub fn read_health(body: &[u8]) -> Result<ManagerStates, Wrong> {
    let answer: HealthAnswer = parse(body)?;
    if answer.xks_proxy_fleet_size == 0 {
        return Err(Wrong::Form("xksProxyFleetSize is 0".into()));
    }
    if !(1..=10).contains(&answer.ekm_fleet_details.len()) {
        let found = answer.ekm_fleet_details.len();
        return Err(Wrong::Form(format!("ekmFleetDetails has {found} entries, not 1 to 10")));
    }
    let mut states = ManagerStates::default();
    for manager in answer.ekm_fleet_details {
        *match manager.health_status {
            HealthStatus::Active => &mut states.active,
            HealthStatus::Degraded => &mut states.degraded,
            HealthStatus::Unavailable => &mut states.unavailable,
        } += 1;
    }
    Ok(states)
}

/// Reads the body of an error; an unknown name is not the spec's (MA-16).
///
/// # Errors
/// See [`Wrong`].
pub fn read_error(body: &[u8]) -> Result<ErrorName, Wrong> {
    let answer: ErrorAnswer<'_> = parse(body)?;
    ErrorName::ALL
        .into_iter()
        .find(|name| name.as_str() == answer.error_name)
        .ok_or_else(|| Wrong::Form("errorName is none of the spec's".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked example of the spec's Appendix C (XKS-ENC-9).
    const AAD: &[u8] = b"project=nile,department=marketing";
    const EXAMPLE: &str = r#"{"authenticationTag":"vBxN2ncH1oEkR8WVXpmyYQ==","ciphertext":"ghxkK1txeDNn3q8Y",
        "ciphertextDataIntegrityValue":"qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=",
        "ciphertextMetadata":"a2V5X3ZlcnNpb249MQ==","initializationVector":"HMrlRw85cAJUd5Ax","more":[1]}"#;

    #[test]
    fn the_worked_example_is_read() {
        let sealed = read_encrypt(EXAMPLE.as_bytes(), 12, Some(AAD)).unwrap();
        assert_eq!(sealed.metadata, b"key_version=1");
        assert_eq!((sealed.ciphertext.len(), sealed.iv.len()), (12, 12));
    }

    #[test]
    fn a_wrong_or_missing_integrity_value_is_told_apart() {
        let read = |body: &str, aad| read_encrypt(body.as_bytes(), 12, aad);
        let missing = EXAMPLE.replace("ciphertextDataIntegrityValue", "other");
        let flipped = EXAMPLE.replace("ghxk", "ghxl");
        for (body, aad) in
            [(EXAMPLE, &AAD[1..]), (&missing, AAD), (&flipped, AAD), (&EXAMPLE.replace("qHA/", "!"), AAD)]
        {
            assert!(matches!(read(body, Some(aad)), Err(Wrong::IntegrityValue(_))), "{body}");
            assert!(read(body, None).is_ok(), "not asked for, not looked at");
        }
    }

    #[test]
    fn wrong_forms_and_lengths_are_refused() {
        for (from, to) in [
            ("ghxkK1txeDNn3q8Y", "ghxkK1txeDNn3q8YAAAA"),
            ("HMrlRw85cAJUd5Ax", "HMrlRw85cAJUd5AxAAAA"),
            ("vBxN2ncH1oEkR8WVXpmyYQ==", "vBxN2ncH1oEkR8WVXpmy"),
            ("a2V5X3ZlcnNpb249MQ==", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
            ("ghxkK1txeDNn3q8Y", "ghxk K1txeDNn3q8Y"),
            ("ciphertext\":", "ciphertexd\":"),
            ("\"ghxkK1txeDNn3q8Y\"", "7"),
            ("\"more\":[1]}", "\"more\":[1]"),
        ] {
            let body = EXAMPLE.replace(from, to);
            assert_ne!(body, EXAMPLE);
            assert!(matches!(read_encrypt(body.as_bytes(), 12, None), Err(Wrong::Form(_))), "{to}");
        }
        assert_eq!(read_decrypt(b"{\"plaintext\":\"aGVsbG8=\"}").unwrap(), b"hello");
        for bad in ["{\"plaintext\":\"aGVsbG8\"}", "{}", "", "null", "\u{ff}"] {
            assert!(read_decrypt(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_are_known_by_name_alone() {
        for name in ErrorName::ALL {
            let body = format!("{{\"errorMessage\":\"x\",\"errorName\":\"{}\"}}", name.as_str());
            assert_eq!(read_error(body.as_bytes()), Ok(name));
        }
        for bad in ["{\"errorName\":\"Oops\"}", "{\"errorName\":null}", "{}", "<html>", ""] {
            assert!(read_error(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn health_and_metadata_follow_the_spec() {
        let health = |fleet: u32, managers: &[&str]| {
            let managers: Vec<_> = managers
                .iter()
                .map(|status| serde_json::json!({"id": "h", "model": "m", "healthStatus": status}))
                .collect();
            let body = serde_json::json!({"xksProxyFleetSize": fleet, "xksProxyVendor": "v",
                "xksProxyModel": "m", "ekmVendor": "e", "ekmFleetDetails": managers});
            read_health(body.to_string().as_bytes())
        };
        let states = ManagerStates { active: 1, degraded: 1, unavailable: 2 };
        assert_eq!(health(1, &["ACTIVE", "UNAVAILABLE", "DEGRADED", "UNAVAILABLE"]), Ok(states));
        assert!(health(0, &["ACTIVE"]).is_err());
        assert!(health(1, &[]).is_err());
        assert!(health(1, &["ACTIVE"; 11]).is_err());
        assert!(health(1, &["FINE"]).is_err());

        let good = r#"{"keySpec":"AES_256","keyUsage":["ENCRYPT","DECRYPT"],"keyStatus":"ENABLED"}"#;
        assert_eq!(read_key_metadata(good.as_bytes()).unwrap().key_usage.len(), 2);
        for (from, to) in [("ENABLED", "ON"), ("\"ENCRYPT\",\"DECRYPT\"", ""), ("keySpec", "spec")] {
            assert!(read_key_metadata(good.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }
}
