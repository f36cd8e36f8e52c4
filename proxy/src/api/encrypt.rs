//! Encrypt (XKS-ENC).
//!
//! Place on the map: [`api`](crate::api), one of the four operations.

use super::{Json, METADATA_FORMAT, Object, RequestMetadata, Text};
use super::{additional_data, check_algorithm, frame, hsm_error, invalid, key_not_found, unsupported};
use crate::app::{KeyStore, Limits};
use crate::error::{ErrorName, XksError};
use crate::events::Operation;
use crate::hsm::{Aad, HsmErrorKind, Sealed};
use crate::key::{KeyId, KeyName};
use crate::scheme::{SAMPLE_KEY_VERSION, Scheme};
use crate::secret::Plaintext;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;

/// How often an encryption is made before one that does not decrypt is given up (XKS-ENC-9: retry or error).
const ATTEMPTS_MAX: usize = 2;

/// The request as it stands in the body.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fields<'a> {
    #[serde(borrow)]
    pub(super) request_metadata: Option<Object<RequestMetadata<'a>>>,
    plaintext: Option<Text<'a>>,
    encryption_algorithm: Option<Text<'a>>,
    additional_authenticated_data: Option<Text<'a>>,
    ciphertext_data_integrity_value_algorithm: Option<Text<'a>>,
}

/// A checked Encrypt request.
#[derive(Debug)]
pub struct Encrypt {
    plaintext: Plaintext,
    additional: Option<Vec<u8>>,
    integrity_value: bool,
}

impl Fields<'_> {
    pub(super) fn check(self, limits: &Limits) -> Result<Encrypt, XksError> {
        check_algorithm(self.encryption_algorithm.as_ref())?;
        let integrity_value = match self.ciphertext_data_integrity_value_algorithm.as_ref().map(Text::as_str)
        {
            None => false,
            Some("SHA_256") => true,
            Some(_) => return Err(invalid("ciphertextDataIntegrityValueAlgorithm must be SHA_256.")),
        };
        // An empty plaintext is legal AES-GCM, and KMS may seal one: it is accepted.
        let plaintext = self.plaintext.ok_or_else(|| invalid("plaintext is required."))?;
        let plaintext = Plaintext::new(plaintext.base64("plaintext is not standard Base64.")?);
        if plaintext.expose().len() > limits.plaintext_bytes_max {
            return Err(unsupported("plaintext is longer than this proxy supports."));
        }
        let additional = additional_data(self.additional_authenticated_data.as_ref(), limits)?;
        Ok(Encrypt { plaintext, additional, integrity_value })
    }
}

impl Encrypt {
    pub(super) async fn perform(
        &self,
        store: &KeyStore,
        key: &KeyId,
        deadline: Instant,
    ) -> Result<Vec<u8>, XksError> {
        let (name, scheme, metadata) = seal_with(store, key)?;
        let aad = frame(scheme, self.additional.as_deref(), &metadata)?;
        if !self.integrity_value {
            let sealed = self.seal(store, &name, &aad, deadline).await?;
            return Ok(answer(&sealed, &metadata, None));
        }
        // A key that may not encrypt, may not decrypt or is disabled (XKS-ENC-10) is refused by the HSM at the one call or
        // the other. Asking for the key's facts first would find that out no better, and cost every request another trip
        // to the HSM, with the searching that all sessions take turns at.
        for _attempt in 0..ATTEMPTS_MAX {
            let sealed = self.seal(store, &name, &aad, deadline).await?;
            let integrity_value =
                integrity_value(self.additional.as_deref().unwrap_or_default(), &metadata, &sealed);
            if self.opens(store, &name, &aad, &sealed, deadline).await? {
                return Ok(answer(&sealed, &metadata, Some(&integrity_value)));
            }
        }
        let detail = format!("{ATTEMPTS_MAX} ciphertexts made by the HSM did not decrypt to the plaintext");
        Err(XksError::new(ErrorName::InternalException, detail))
    }

    /// Encrypts, and does not take the HSM's word for the length (XKS-ENC-5).
    async fn seal(
        &self,
        store: &KeyStore,
        name: &KeyName,
        aad: &Aad,
        deadline: Instant,
    ) -> Result<Sealed, XksError> {
        let sealed = store.hsm.encrypt(name, aad, &self.plaintext, deadline).await;
        let sealed = sealed.map_err(|error| hsm_error(Operation::Encrypt, error))?;
        let (made, asked) = (sealed.ciphertext.len(), self.plaintext.expose().len());
        if made != asked {
            let detail = format!("the HSM made {made} bytes of ciphertext of {asked} bytes of plaintext");
            return Err(XksError::new(ErrorName::InternalException, detail));
        }
        Ok(sealed)
    }

    /// Whether the ciphertext decrypts to the plaintext; compared in constant time.
    async fn opens(
        &self,
        store: &KeyStore,
        name: &KeyName,
        aad: &Aad,
        sealed: &Sealed,
        deadline: Instant,
    ) -> Result<bool, XksError> {
        match store.hsm.decrypt(name, aad, sealed, deadline).await {
            Ok(opened) => Ok(opened.expose().ct_eq(self.plaintext.expose()).into()),
            Err(error) if error.kind == HsmErrorKind::CiphertextRejected => Ok(false),
            Err(error) => Err(hsm_error(Operation::Encrypt, error)),
        }
    }
}

/// The key object, the scheme and the metadata of a new ciphertext: the newest version in our own scheme, or what AWS's
/// sample proxy would make, while both serve side by side (XKS-MIG-1).
fn seal_with(store: &KeyStore, key: &KeyId) -> Result<(KeyName, Scheme, Vec<u8>), XksError> {
    match &store.sample_proxy {
        Some(sample) if sample.encrypt() == Scheme::SampleProxy => {
            let name = store.keys.version(key, SAMPLE_KEY_VERSION).ok_or_else(|| key_not_found(key))?;
            Ok((name, Scheme::SampleProxy, sample.metadata().to_vec()))
        }
        _ => {
            let (version, name) = store.keys.current(key).ok_or_else(|| key_not_found(key))?;
            Ok((name, Scheme::Own, vec![METADATA_FORMAT, version.0]))
        }
    }
}

/// CDIV = SHA-256(AAD ‖ metadata ‖ IV ‖ ciphertext ‖ tag), decoded bytes, no lengths (XKS-ENC-9). The AAD is KMS's own,
/// not the framed one.
pub fn integrity_value(additional: &[u8], metadata: &[u8], sealed: &Sealed) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [additional, metadata, sealed.iv.as_bytes(), &sealed.ciphertext, &sealed.tag] {
        hash.update(part);
    }
    hash.finalize().into()
}

fn answer(sealed: &Sealed, metadata: &[u8], integrity_value: Option<&[u8; 32]>) -> Vec<u8> {
    // 250 bytes hold the names and all fields of fixed length.
    let mut json = Json::with_capacity(250 + sealed.ciphertext.len().div_ceil(3) * 4);
    json.raw(r#"{"ciphertext":"#).base64(&sealed.ciphertext);
    json.raw(r#","initializationVector":"#).base64(sealed.iv.as_bytes());
    json.raw(r#","authenticationTag":"#).base64(&sealed.tag);
    if !metadata.is_empty() {
        json.raw(r#","ciphertextMetadata":"#).base64(metadata);
    }
    if let Some(value) = integrity_value {
        json.raw(r#","ciphertextDataIntegrityValue":"#).base64(value);
    }
    json.raw("}").finish()
}
