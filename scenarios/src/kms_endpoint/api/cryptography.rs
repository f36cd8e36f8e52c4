//! Encrypt, Decrypt, ReEncrypt, GenerateDataKey, GenerateDataKeyWithoutPlaintext and GenerateRandom.
//!
//! Place on the map: members in and out; [`cryptography`](crate::kms::account::cryptography) does the work.

use super::members::{Blob, GrantTokens, base64, count, needed, one_of, read};
use super::{Api, Output, Refusal};
use crate::kms::payload::{OwnCall, canonical};
use crate::kms::{KmsException, KmsFailure, KmsOperation, Requester};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use xks_proxy::secret::Plaintext;

const ALGORITHM: &str = "SYMMETRIC_DEFAULT";
/// Of the KMS service model.
const ALGORITHMS: [&str; 4] = [ALGORITHM, "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE"];

type Context = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct EncryptMembers {
    key_id: Option<String>,
    plaintext: Option<Blob>,
    encryption_context: Option<Context>,
    encryption_algorithm: Option<String>,
    #[serde(default)]
    grant_tokens: GrantTokens,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DecryptMembers {
    key_id: Option<String>,
    ciphertext_blob: Option<Blob>,
    encryption_context: Option<Context>,
    encryption_algorithm: Option<String>,
    recipient: Option<Value>,
    #[serde(default)]
    grant_tokens: GrantTokens,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ReEncryptMembers {
    ciphertext_blob: Option<Blob>,
    source_key_id: Option<String>,
    source_encryption_context: Option<Context>,
    source_encryption_algorithm: Option<String>,
    destination_key_id: Option<String>,
    destination_encryption_context: Option<Context>,
    destination_encryption_algorithm: Option<String>,
    #[serde(default)]
    grant_tokens: GrantTokens,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DataKeyMembers {
    key_id: Option<String>,
    encryption_context: Option<Context>,
    number_of_bytes: Option<i64>,
    key_spec: Option<String>,
    recipient: Option<Value>,
    #[serde(default)]
    grant_tokens: GrantTokens,
    dry_run: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RandomMembers {
    number_of_bytes: Option<i64>,
    custom_key_store_id: Option<String>,
    recipient: Option<Value>,
}

impl Api {
    pub(super) async fn encrypt(&self, body: &[u8], requester: Requester<'_>) -> Output {
        let members: EncryptMembers = read(body)?;
        members.grant_tokens.check()?;
        let key_id = needed(members.key_id, "keyId")?;
        let plaintext = Plaintext::new(needed(members.plaintext, "plaintext")?.0);
        check_algorithm(members.encryption_algorithm.as_deref(), "encryptionAlgorithm")?;
        let context = canonical(&members.encryption_context.unwrap_or_default());
        let call = OwnCall { operation: KmsOperation::Encrypt, context: &context, requester };
        if members.dry_run == Some(true) {
            self.account.dry_run_encrypt(&key_id, &plaintext, call)?;
        }
        let encrypted = self.account.encrypt(&key_id, &plaintext, call).await?;
        Ok(Some(json!({
            "CiphertextBlob": base64(&encrypted.blob),
            "KeyId": encrypted.key_arn,
            "EncryptionAlgorithm": ALGORITHM,
        })))
    }

    pub(super) async fn decrypt(&self, body: &[u8], requester: Requester<'_>) -> Output {
        let members: DecryptMembers = read(body)?;
        members.grant_tokens.check()?;
        let Blob(blob) = needed(members.ciphertext_blob, "ciphertextBlob")?;
        check_algorithm(members.encryption_algorithm.as_deref(), "encryptionAlgorithm")?;
        refuse_recipient(members.recipient.as_ref())?;
        let context = canonical(&members.encryption_context.unwrap_or_default());
        let (operation, named) = (KmsOperation::Decrypt, members.key_id.as_deref());
        let call = OwnCall { operation, context: &context, requester };
        if members.dry_run == Some(true) {
            self.account.dry_run_decrypt(named, &blob, call)?;
        }
        let (key_arn, plaintext) = self.account.decrypt(named, &blob, call).await?;
        Ok(Some(json!({
            "KeyId": key_arn,
            "Plaintext": base64(plaintext.expose()),
            "EncryptionAlgorithm": ALGORITHM,
        })))
    }

    pub(super) async fn re_encrypt(&self, body: &[u8], requester: Requester<'_>) -> Output {
        let members: ReEncryptMembers = read(body)?;
        members.grant_tokens.check()?;
        let Blob(blob) = needed(members.ciphertext_blob, "ciphertextBlob")?;
        let key_id = needed(members.destination_key_id, "destinationKeyId")?;
        check_algorithm(members.source_encryption_algorithm.as_deref(), "sourceEncryptionAlgorithm")?;
        check_algorithm(
            members.destination_encryption_algorithm.as_deref(),
            "destinationEncryptionAlgorithm",
        )?;
        let context = canonical(&members.source_encryption_context.unwrap_or_default());
        let new_context = canonical(&members.destination_encryption_context.unwrap_or_default());
        let (operation, named) = (KmsOperation::ReEncrypt, members.source_key_id.as_deref());
        let call = OwnCall { operation, context: &context, requester };
        let to = (key_id.as_str(), new_context.as_slice());
        if members.dry_run == Some(true) {
            self.account.dry_run_re_encrypt(named, &blob, to, call)?;
        }
        let (source_arn, encrypted) = self.account.re_encrypt(named, &blob, to, call).await?;
        Ok(Some(json!({
            "CiphertextBlob": base64(&encrypted.blob),
            "SourceKeyId": source_arn,
            "KeyId": encrypted.key_arn,
            "SourceEncryptionAlgorithm": ALGORITHM,
            "DestinationEncryptionAlgorithm": ALGORITHM,
        })))
    }

    pub(super) async fn generate_data_key(
        &self,
        body: &[u8],
        with_plaintext: bool,
        requester: Requester<'_>,
    ) -> Output {
        let members: DataKeyMembers = read(body)?;
        members.grant_tokens.check()?;
        let key_id = needed(members.key_id, "keyId")?;
        refuse_recipient(members.recipient.as_ref())?;
        let bytes = match (members.key_spec.as_deref(), members.number_of_bytes) {
            (Some(spec), None) => {
                one_of(spec, "keySpec", &["AES_256", "AES_128"])?;
                if spec == "AES_256" { 32 } else { 16 }
            }
            (None, Some(bytes)) => count(bytes, "numberOfBytes")?,
            (None, None) | (Some(_), Some(_)) => {
                return Err(KmsFailure::new(
                    KmsException::Validation,
                    "Please specify either number of bytes or key spec.",
                )
                .into());
            }
        };
        let context = canonical(&members.encryption_context.unwrap_or_default());
        let operation = if with_plaintext {
            KmsOperation::GenerateDataKey
        } else {
            KmsOperation::GenerateDataKeyWithoutPlaintext
        };
        let call = OwnCall { operation, context: &context, requester };
        if members.dry_run == Some(true) {
            self.account.dry_run_data_key(&key_id, bytes, call)?;
        }
        let (encrypted, data_key) = self.account.generate_data_key(&key_id, bytes, call).await?;
        let mut answer = json!({ "CiphertextBlob": base64(&encrypted.blob), "KeyId": encrypted.key_arn });
        if with_plaintext {
            answer["Plaintext"] = base64(data_key.expose()).into();
        }
        Ok(Some(answer))
    }

    pub(super) fn generate_random(&self, body: &[u8]) -> Output {
        let members: RandomMembers = read(body)?;
        refuse_recipient(members.recipient.as_ref())?;
        if let Some(key_store) = &members.custom_key_store_id {
            self.account.generate_random_in(key_store)?;
        }
        let bytes = count(needed(members.number_of_bytes, "numberOfBytes")?, "numberOfBytes")?;
        let random = self.account.generate_random(bytes)?;
        Ok(Some(json!({ "Plaintext": base64(random.expose()) })))
    }
}

fn check_algorithm(algorithm: Option<&str>, name: &str) -> Result<(), Refusal> {
    let algorithm = algorithm.unwrap_or(ALGORITHM);
    one_of(algorithm, name, &ALGORITHMS)?;
    if algorithm == ALGORITHM {
        return Ok(());
    }
    Err(KmsFailure::new(
        KmsException::InvalidKeyUsage,
        format!(
            "Keys in an external key store have the encryption algorithm {ALGORITHM}, and not {algorithm}."
        ),
    )
    .into())
}

/// An answer for a Nitro enclave would have to be encrypted to it; a plaintext in its place must not come by surprise.
fn refuse_recipient(recipient: Option<&Value>) -> Result<(), Refusal> {
    match recipient {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(KmsFailure::new(
            KmsException::UnsupportedOperation,
            "This model of KMS does not serve Nitro enclaves: leave out Recipient.",
        )
        .into()),
    }
}
