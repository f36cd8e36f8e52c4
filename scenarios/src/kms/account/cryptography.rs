//! The cryptographic calls on an account's keys, with payloads that callers bring along.
//!
//! Place on the map: the part of [`Account`] that finds the key and its key store, by the request or by the blob;
//! [`payload`](super::super::payload) does the rest. The blob begins with the key's id, so that Decrypt finds the key
//! without a `KeyId`.

use super::super::model::{KmsModel, incorrect_key};
use super::super::parameters as check;
use super::super::payload::{CONTEXT_BYTES_MAX, OwnCall};
use super::super::{CiphertextBlob, KmsException, KmsFailure};
use super::Account;
use rand_core::Rng;
use std::rc::Rc;
use xks_proxy::secret::Plaintext;

/// Bytes of a `Plaintext` that Encrypt takes (kms-behaviour 2).
pub const PLAINTEXT_BYTES: std::ops::RangeInclusive<usize> = 1..=4_096;
/// Bytes of a `CiphertextBlob` that Decrypt and ReEncrypt take (kms-behaviour 2).
pub const BLOB_BYTES: std::ops::RangeInclusive<usize> = 1..=6_144;
/// `NumberOfBytes` of a data key or of random bytes (kms-behaviour 2).
pub const DATA_KEY_BYTES: std::ops::RangeInclusive<usize> = 1..=1_024;

/// A plaintext encrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encrypted {
    /// The ARN of the key.
    pub key_arn: String,
    /// `CiphertextBlob`.
    pub blob: Vec<u8>,
}

/// A key, found.
struct Found {
    id: String,
    model: Rc<KmsModel>,
    number: usize,
}

impl Found {
    fn arn(&self) -> Result<String, KmsFailure> {
        Ok(self.model.key(self.number)?.arn.clone())
    }
}

impl Account {
    /// Encrypt of 1 to 4,096 bytes under the key `key_id`, in any of its forms.
    ///
    /// # Errors
    /// As [`Self::resolve`] and [`KmsModel::encrypt_own`]; `ValidationException` for another length, also of the
    /// context: see [`CONTEXT_BYTES_MAX`].
    pub async fn encrypt(
        &self,
        key_id: &str,
        plaintext: &Plaintext,
        call: OwnCall<'_>,
    ) -> Result<Encrypted, KmsFailure> {
        check_plaintext(plaintext, call)?;
        self.seal(self.found(key_id)?, plaintext, call).await
    }

    /// GenerateDataKey, or the same without the plaintext: `bytes` of a new data key, 1 to 1,024, and the key encrypted.
    ///
    /// # Errors
    /// As [`Self::encrypt`].
    pub async fn generate_data_key(
        &self,
        key_id: &str,
        bytes: usize,
        call: OwnCall<'_>,
    ) -> Result<(Encrypted, Plaintext), KmsFailure> {
        check_data_key(bytes, call)?;
        let found = self.found(key_id)?;
        let data_key = self.generate_random(bytes)?;
        let encrypted = self.seal(found, &data_key, call).await?;
        Ok((encrypted, data_key))
    }

    /// Decrypt; gives the ARN of the key, and the plaintext. A request may name the key that it expects.
    ///
    /// # Errors
    /// As [`KmsModel::decrypt_own`]; `InvalidCiphertextException` for a blob that is not of this account,
    /// `IncorrectKeyException` when the blob was encrypted under another key than the one named.
    pub async fn decrypt(
        &self,
        key_id: Option<&str>,
        blob: &[u8],
        call: OwnCall<'_>,
    ) -> Result<(String, Plaintext), KmsFailure> {
        check_context(call.context)?;
        let (found, blob) = self.found_by_blob(key_id, blob)?;
        let plaintext = found.model.decrypt_own(&blob, call).await?;
        Ok((found.arn()?, plaintext))
    }

    /// ReEncrypt; gives the ARN of the key that the blob was encrypted under, and the new blob. The encryption context
    /// of the call is that of the old blob.
    ///
    /// # Errors
    /// As [`Self::decrypt`] and [`Self::encrypt`], whichever comes first.
    pub async fn re_encrypt(
        &self,
        source_key_id: Option<&str>,
        blob: &[u8],
        (key_id, new_context): (&str, &[u8]),
        call: OwnCall<'_>,
    ) -> Result<(String, Encrypted), KmsFailure> {
        check_context(call.context)?;
        check_context(new_context)?;
        let (source, blob) = self.found_by_blob(source_key_id, blob)?;
        let found = self.found(key_id)?;
        let to = (&*found.model, found.number);
        let new_blob = source.model.re_encrypt_own(&blob, to, new_context, call).await?;
        Ok((source.arn()?, encrypted(&found, &new_blob)?))
    }

    /// Encrypt as a dry run: everything but the proxy, the parameters included (MA-9).
    ///
    /// # Errors
    /// Always: `DryRunOperationException` when it would have come as far as the proxy, otherwise as [`Self::encrypt`].
    pub fn dry_run_encrypt(
        &self,
        key_id: &str,
        plaintext: &Plaintext,
        call: OwnCall<'_>,
    ) -> Result<(), KmsFailure> {
        check_plaintext(plaintext, call)?;
        self.dry_run(key_id, call)
    }

    /// GenerateDataKey, or the same without the plaintext, as a dry run (MA-9).
    ///
    /// # Errors
    /// Always; see [`Self::dry_run_encrypt`] and [`Self::generate_data_key`].
    pub fn dry_run_data_key(&self, key_id: &str, bytes: usize, call: OwnCall<'_>) -> Result<(), KmsFailure> {
        check_data_key(bytes, call)?;
        self.dry_run(key_id, call)
    }

    /// Decrypt as a dry run (MA-9).
    ///
    /// # Errors
    /// Always; see [`Self::dry_run_encrypt`] and [`Self::decrypt`].
    pub fn dry_run_decrypt(
        &self,
        key_id: Option<&str>,
        blob: &[u8],
        call: OwnCall<'_>,
    ) -> Result<(), KmsFailure> {
        check_context(call.context)?;
        let (found, _) = self.found_by_blob(key_id, blob)?;
        found.model.dry_run(call.operation, found.number)
    }

    /// ReEncrypt as a dry run (MA-9).
    ///
    /// # Errors
    /// Always; see [`Self::dry_run_encrypt`] and [`Self::re_encrypt`].
    pub fn dry_run_re_encrypt(
        &self,
        source_key_id: Option<&str>,
        blob: &[u8],
        (key_id, new_context): (&str, &[u8]),
        call: OwnCall<'_>,
    ) -> Result<(), KmsFailure> {
        check_context(call.context)?;
        check_context(new_context)?;
        let (source, blob) = self.found_by_blob(source_key_id, blob)?;
        let found = self.found(key_id)?;
        source.model.dry_run_re_encrypt(&blob, (&*found.model, found.number), call.operation)
    }

    fn dry_run(&self, key_id: &str, call: OwnCall<'_>) -> Result<(), KmsFailure> {
        let found = self.found(key_id)?;
        found.model.dry_run(call.operation, found.number)
    }

    /// GenerateRandom without a key store: `bytes`, 1 to 1,024.
    ///
    /// # Errors
    /// `ValidationException` for another number.
    pub fn generate_random(&self, bytes: usize) -> Result<Plaintext, KmsFailure> {
        check_count(bytes)?;
        let mut drawn = vec![0; bytes];
        self.payloads.borrow_mut().fill_bytes(&mut drawn);
        Ok(Plaintext::new(drawn))
    }

    async fn seal(
        &self,
        found: Found,
        plaintext: &Plaintext,
        call: OwnCall<'_>,
    ) -> Result<Encrypted, KmsFailure> {
        let blob = found.model.encrypt_own(found.number, plaintext, call).await?;
        encrypted(&found, &blob)
    }

    fn found(&self, key_id: &str) -> Result<Found, KmsFailure> {
        let id = self.key_id(key_id)?;
        let (model, number) = self.resolve(&id)?;
        Ok(Found { id, model, number })
    }

    /// The key that a blob was encrypted under, and what its model calls the blob.
    fn found_by_blob(&self, named: Option<&str>, blob: &[u8]) -> Result<(Found, CiphertextBlob), KmsFailure> {
        within("ciphertextBlob", blob.len(), &BLOB_BYTES)?;
        let not_ours = || KmsFailure::new(KmsException::InvalidCiphertext, "");
        let (id, rest) = blob.split_first_chunk().ok_or_else(not_ours)?;
        let found = self.found(&uuid_text(id)).map_err(|_| not_ours())?;
        let rest = CiphertextBlob(rest.into());
        if found.model.key_of_own(&rest) != Some(found.number) {
            return Err(not_ours());
        }
        if let Some(named) = named
            && self.found(named)?.id != found.id
        {
            return Err(incorrect_key());
        }
        Ok((found, rest))
    }
}

fn encrypted(found: &Found, blob: &CiphertextBlob) -> Result<Encrypted, KmsFailure> {
    let blob = [&uuid_bytes(&found.id)[..], &blob.0].concat();
    Ok(Encrypted { key_arn: found.arn()?, blob })
}

fn within(name: &str, length: usize, range: &std::ops::RangeInclusive<usize>) -> Result<(), KmsFailure> {
    if range.contains(&length) {
        return Ok(());
    }
    let constraint = format!("Member must have length from {} to {}", range.start(), range.end());
    Err(check::invalid(name, &format!("({length} bytes)"), &constraint))
}

fn check_plaintext(plaintext: &Plaintext, call: OwnCall<'_>) -> Result<(), KmsFailure> {
    within("plaintext", plaintext.expose().len(), &PLAINTEXT_BYTES)?;
    check_context(call.context)
}

fn check_data_key(bytes: usize, call: OwnCall<'_>) -> Result<(), KmsFailure> {
    check_count(bytes)?;
    check_context(call.context)
}

/// `NumberOfBytes`.
fn check_count(bytes: usize) -> Result<(), KmsFailure> {
    if DATA_KEY_BYTES.contains(&bytes) {
        return Ok(());
    }
    let constraint = format!("Member must be from {} to {}", DATA_KEY_BYTES.start(), DATA_KEY_BYTES.end());
    Err(check::invalid("numberOfBytes", &bytes.to_string(), &constraint))
}

fn check_context(context: &[u8]) -> Result<(), KmsFailure> {
    if context.len() <= CONTEXT_BYTES_MAX {
        return Ok(());
    }
    let constraint = format!("Member must have at most {CONTEXT_BYTES_MAX} bytes as JSON");
    Err(check::invalid("encryptionContext", &format!("({} bytes)", context.len()), &constraint))
}

/// The bytes of an id that [`Account`] drew itself.
fn uuid_bytes(text: &str) -> [u8; 16] {
    let digits = text.chars().filter_map(|character| character.to_digit(16));
    let number = digits.fold(0_u128, |number, digit| number << 4 | u128::from(digit));
    number.to_be_bytes()
}

/// The reverse of [`uuid_bytes`].
fn uuid_text(bytes: &[u8; 16]) -> String {
    let number = u128::from_be_bytes(*bytes);
    let part = |shift: u32, digits: u32| (number >> shift) & ((1 << (4 * digits)) - 1);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        part(96, 8),
        part(80, 4),
        part(64, 4),
        part(48, 4),
        part(0, 12)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_become_bytes_and_ids_again() {
        for id in ["01234567-89ab-4cde-a012-3456789abcde", "ffffffff-ffff-4fff-afff-ffffffffffff"] {
            assert_eq!(uuid_text(&uuid_bytes(id)), id);
        }
        assert_eq!(uuid_bytes("01234567-89ab-4cde-a012-3456789abcde")[..3], [1, 0x23, 0x45]);
    }
}
