//! Decrypt (XKS-DEC).
//!
//! Place on the map: [`api`](crate::api), one of the four operations.

use super::{Json, METADATA_BYTES_MAX, Object, RequestMetadata, Text};
use super::{additional_data, check_algorithm, frame, hsm_error, invalid, key_not_found, unsupported};
use crate::app::{KeyStore, Limits};
use crate::error::{ErrorName, XksError};
use crate::events::Operation;
use crate::hsm::{Iv, Sealed};
use crate::key::KeyId;
use crate::scheme::{Origin, SampleProxy};
use serde::Deserialize;
use tokio::time::Instant;

/// The request as it stands in the body.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fields<'a> {
    #[serde(borrow)]
    pub(super) request_metadata: Option<Object<RequestMetadata<'a>>>,
    ciphertext: Option<Text<'a>>,
    ciphertext_metadata: Option<Text<'a>>,
    encryption_algorithm: Option<Text<'a>>,
    initialization_vector: Option<Text<'a>>,
    authentication_tag: Option<Text<'a>>,
    additional_authenticated_data: Option<Text<'a>>,
}

/// A checked Decrypt request.
#[derive(Debug)]
pub struct Decrypt {
    sealed: Sealed,
    metadata: Vec<u8>,
    additional: Option<Vec<u8>>,
}

impl Fields<'_> {
    pub(super) fn check(self, limits: &Limits) -> Result<Decrypt, XksError> {
        check_algorithm(self.encryption_algorithm.as_ref())?;
        let ciphertext = self.ciphertext.ok_or_else(|| invalid("ciphertext is required."))?;
        let ciphertext = ciphertext.base64("ciphertext is not standard Base64.")?;
        if ciphertext.len() > limits.plaintext_bytes_max {
            return Err(unsupported("ciphertext is longer than this proxy supports."));
        }
        let iv = self.initialization_vector.ok_or_else(|| invalid("initializationVector is required."))?;
        let iv = iv.base64("initializationVector is not standard Base64.")?;
        let iv =
            Iv::from_slice(&iv).ok_or_else(|| invalid("initializationVector must have 12 or 16 bytes."))?;
        let tag = self.authentication_tag.ok_or_else(|| invalid("authenticationTag is required."))?;
        let tag = tag.base64("authenticationTag is not standard Base64.")?;
        let tag = tag.try_into().map_err(|_| invalid("authenticationTag must have 16 bytes."))?;
        let metadata = match self.ciphertext_metadata {
            Some(text) => text.base64("ciphertextMetadata is not standard Base64.")?,
            None => Vec::new(),
        };
        if metadata.len() > METADATA_BYTES_MAX {
            return Err(invalid("ciphertextMetadata is longer than 20 bytes."));
        }
        let additional = additional_data(self.additional_authenticated_data.as_ref(), limits)?;
        Ok(Decrypt { sealed: Sealed { ciphertext, iv, tag }, metadata, additional })
    }
}

impl Decrypt {
    pub(super) async fn perform(
        &self,
        store: &KeyStore,
        key: &KeyId,
        deadline: Instant,
    ) -> Result<Vec<u8>, XksError> {
        if store.keys.current(key).is_none() {
            return Err(key_not_found(key));
        }
        // Metadata of nobody's making and a version we do not have are one answer with a wrong tag (XKS-DEC-4).
        let rejected = |detail: String| XksError::new(ErrorName::InvalidCiphertextException, detail);
        let sample = store.sample_proxy.as_ref();
        let Some(Origin { scheme, version }) = Origin::of(&self.metadata, sample) else {
            return Err(rejected(unknown_metadata(&self.metadata, sample).into()));
        };
        let name = store.keys.version(key, version).ok_or_else(|| {
            rejected(format!(
                "the ciphertext was made with version {} of the key, which is not configured",
                version.0
            ))
        })?;
        let aad = frame(scheme, self.additional.as_deref(), &self.metadata)?;

        let plaintext = store.hsm.decrypt(&name, &aad, &self.sealed, deadline).await;
        let plaintext = plaintext.map_err(|error| hsm_error(Operation::Decrypt, error))?;
        let (made, asked) = (plaintext.expose().len(), self.sealed.ciphertext.len());
        if made != asked {
            let detail = format!("the HSM made {made} bytes of plaintext of {asked} bytes of ciphertext");
            return Err(XksError::new(ErrorName::InternalException, detail));
        }
        let mut json = Json::with_capacity(20 + made.div_ceil(3) * 4);
        Ok(json.raw(r#"{"plaintext":"#).base64(plaintext.expose()).raw("}").finish())
    }
}

/// For the log: why nobody made a ciphertext with this metadata, and what to look at.
fn unknown_metadata(metadata: &[u8], sample: Option<&SampleProxy>) -> &'static str {
    match (metadata.is_empty(), sample) {
        (true, _) => {
            "there is no ciphertextMetadata, which AWS's sample proxy leaves out by default, and \
             [key_store.compatibility] does not say that it made ciphertexts for this key store"
        }
        (false, None) => "ciphertextMetadata is not of this proxy's making",
        (false, Some(_)) => {
            "ciphertextMetadata is neither of this proxy's making nor one that [key_store.compatibility] names"
        }
    }
}
