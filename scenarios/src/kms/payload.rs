//! Payloads that callers bring along: a plaintext and an encryption context of their own, encrypted and given back.
//!
//! Place on the map: beside the calls of [`model`](super::model), whose payloads all follow from the run's seed, for
//! [`account`](super::account) and whoever is served by it over a real socket. The blob is of another version: its head
//! names the key and the SHA-256 of the canonical encryption context, and the nonce of the inner layer is drawn.

use super::answers::read_decrypt;
use super::failure::Cause;
use super::http1::Response;
use super::inner::{NONCE_BYTES, Sealed, pack_after, unpack_fields};
use super::key::{KeyOperation, KmsKey};
use super::model::{Failed, KmsModel, Purpose, dry_run_passed};
use super::requests::Ask;
use super::violations::X1;
use super::{CiphertextBlob, KmsException, KmsFailure, KmsOperation, Requester};
use rand_core::Rng;
use std::collections::BTreeMap;
use std::rc::Rc;
use xks_proxy::error::ErrorName;
use xks_proxy::secret::Plaintext;

const BLOB_VERSION: u8 = 2;
/// Bytes of a canonical encryption context, at the most: head and context are the `additionalAuthenticatedData` of the
/// proxy's request, of which a proxy need not take more than 8,192 bytes (SPEC, Encrypt).
pub const CONTEXT_BYTES_MAX: usize = 8_192 - Head::BYTES;

/// One call of a caller with a payload of its own.
#[derive(Clone, Copy, Debug)]
pub struct OwnCall<'a> {
    /// Which operation of the API.
    pub operation: KmsOperation,
    /// The canonical encryption context; see [`canonical`].
    pub context: &'a [u8],
    /// Who asks.
    pub requester: Requester<'a>,
}

/// An encryption context in the one form that is authenticated: JSON, its names in order.
pub fn canonical(context: &BTreeMap<String, String>) -> Vec<u8> {
    serde_json::Value::from_iter(context.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .to_string()
        .into_bytes()
}

/// The head of a blob; the proxy authenticates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    key: u16,
    context: [u8; 32],
}

impl Head {
    const BYTES: usize = 35;

    fn new(key: u16, context: &[u8]) -> Self {
        Self { key, context: crate::sha256::of(&[context]) }
    }

    fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = BLOB_VERSION;
        bytes[1..3].copy_from_slice(&self.key.to_be_bytes());
        bytes[3..].copy_from_slice(&self.context);
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (key, rest) = rest.split_first_chunk()?;
        let context = rest.try_into().ok()?;
        (*version == BLOB_VERSION).then(|| Self { key: u16::from_be_bytes(*key), context })
    }
}

/// A blob taken apart.
struct Parts {
    head: Head,
    sealed: Sealed,
    key: Rc<KmsKey>,
}

impl KmsModel {
    /// Encrypt, GenerateDataKey or GenerateDataKeyWithoutPlaintext of `plaintext` under key number `key`.
    ///
    /// # Errors
    /// As [`KmsApi::encrypt`](super::KmsApi::encrypt).
    pub async fn encrypt_own(
        &self,
        key: usize,
        plaintext: &Plaintext,
        call: OwnCall<'_>,
    ) -> Result<CiphertextBlob, KmsFailure> {
        let at = self.recorder.now();
        let result = async {
            let host = self.host();
            self.admit(host, &*self.key(key)?, call.operation)?;
            self.seal_own(host, key, plaintext, call).await
        }
        .await;
        self.finish(at, call.operation, 0, &result);
        result
    }

    /// Decrypt of a blob that [`Self::encrypt_own`] made, with the same encryption context.
    ///
    /// # Errors
    /// As [`KmsApi::decrypt`](super::KmsApi::decrypt); another encryption context is what MA-8 makes of it.
    pub async fn decrypt_own(
        &self,
        blob: &CiphertextBlob,
        call: OwnCall<'_>,
    ) -> Result<Plaintext, KmsFailure> {
        let at = self.recorder.now();
        let result = async {
            let parts = self.take_apart(blob)?;
            let host = self.host();
            self.admit(host, &parts.key, call.operation)?;
            self.open_own(host, &parts, call).await
        }
        .await;
        self.finish(at, call.operation, 0, &result);
        result
    }

    /// ReEncrypt of such a blob under key number `key` of the key store `to`, which may be another one, with the
    /// encryption context `new_context`. Two calls of the proxy, one after the other (MA-4); one request to the quota of
    /// each key store, and one to the account's (MA-18).
    ///
    /// # Errors
    /// What the first of the two that fails would say by itself.
    pub async fn re_encrypt_own(
        &self,
        blob: &CiphertextBlob,
        (to, key): (&Self, usize),
        new_context: &[u8],
        call: OwnCall<'_>,
    ) -> Result<CiphertextBlob, KmsFailure> {
        let at = self.recorder.now();
        let result = async {
            let parts = self.take_apart(blob)?;
            let (host, new_host) = self.admit_re_encrypt(&parts.key, (to, key), call.operation)?;
            let plaintext = self.open_own(host, &parts, call).await?;
            to.seal_own(new_host, key, &plaintext, OwnCall { context: new_context, ..call }).await
        }
        .await;
        self.finish(at, call.operation, 0, &result);
        result
    }

    /// The same as a dry run: everything but the proxy (MA-9).
    ///
    /// # Errors
    /// Always: `DryRunOperationException` when it would have come as far as the proxy, otherwise what stopped it.
    pub fn dry_run_re_encrypt(
        &self,
        blob: &CiphertextBlob,
        (to, key): (&Self, usize),
        operation: KmsOperation,
    ) -> Result<(), KmsFailure> {
        let parts = self.take_apart(blob)?;
        self.admit_re_encrypt(&parts.key, (to, key), operation)?;
        Err(dry_run_passed())
    }

    /// What is refused of a ReEncrypt without a call of a proxy; gives the hosts that serve its two halves.
    fn admit_re_encrypt(
        &self,
        source: &KmsKey,
        (to, key): (&Self, usize),
        operation: KmsOperation,
    ) -> Result<(usize, usize), KmsFailure> {
        let (host, new_host) = (self.host(), to.host());
        let new_key = to.key(key)?;
        new_key.admit(KeyOperation::Cryptographic, to.view(new_host))?;
        self.admit(host, source, operation)?;
        if !std::ptr::eq(self, to) {
            to.admit_second(new_host, &new_key, operation)?;
        }
        Ok((host, new_host))
    }

    /// The number of the key that a blob needs; `None` when [`Self::encrypt_own`] did not make it.
    pub fn key_of_own(&self, blob: &CiphertextBlob) -> Option<usize> {
        self.take_apart(blob).ok().map(|parts| usize::from(parts.head.key))
    }

    fn take_apart(&self, blob: &CiphertextBlob) -> Result<Parts, KmsFailure> {
        let not_ours = || KmsFailure::new(KmsException::InvalidCiphertext, "");
        let (head, rest) = blob.0.split_at_checked(Head::BYTES).ok_or_else(not_ours)?;
        let head = Head::from_bytes(head).ok_or_else(not_ours)?;
        let sealed = unpack_fields(rest).ok_or_else(not_ours)?;
        let key = self.key(usize::from(head.key)).map_err(|_| not_ours())?;
        Ok(Parts { head, sealed, key })
    }

    /// Both layers of encryption, for a call that has been admitted.
    async fn seal_own(
        &self,
        host: usize,
        key_number: usize,
        plaintext: &Plaintext,
        call: OwnCall<'_>,
    ) -> Result<CiphertextBlob, KmsFailure> {
        let key = self.key(key_number)?;
        let mut nonce = [0; NONCE_BYTES];
        self.own_payloads.borrow_mut().fill_bytes(&mut nonce);
        // `KEYS_MAX` bounds the number.
        let head = Head::new(key_number as u16, call.context);
        let malformed = || Cause::Malformed.failure(true);
        let inner = self.inner.seal_own(head.key, nonce, call.context, plaintext).ok_or_else(malformed)?;
        let aad = self.settings.aad(&head.to_bytes(), call.context);
        let serial = self.counters().kms_calls;
        let sealed =
            self.outer_seal(host, &key, (&inner, &aad), serial, call.operation, call.requester).await?;
        let blob = pack_after(&head.to_bytes(), &sealed).ok_or_else(malformed)?;
        self.cloudwatch.borrow_mut().note_success(key_number, call.operation);
        Ok(blob)
    }

    /// Undoes both, for a call that has been admitted.
    async fn open_own(&self, host: usize, parts: &Parts, call: OwnCall<'_>) -> Result<Plaintext, KmsFailure> {
        let Parts { head, sealed, key } = parts;
        let same_context = Head::new(head.key, call.context) == *head;
        if !self.settings.context_in_aad && !same_context {
            return Err(KmsFailure::new(KmsException::InvalidCiphertext, ""));
        }
        let aad = self.settings.aad(&head.to_bytes(), call.context);
        let ask = Ask::Decrypt { sealed, aad: &aad };
        let read = |response: &Response| {
            let inner = read_decrypt(&response.body).map_err(|_| Cause::Malformed)?;
            let plaintext = self.inner.open(head.key, call.context, &inner);
            // X1, as far as it shows: with the right context only what was encrypted has a valid inner layer.
            let violation = (same_context && plaintext.is_none()).then(|| {
                format!(
                    "the proxy answered a decrypt with {} bytes that are not those encrypted",
                    inner.len()
                )
            });
            self.violations.check(X1, self.recorder.now(), violation);
            if inner.len() != sealed.ciphertext.len() {
                return Err(Cause::Malformed);
            }
            plaintext.ok_or(Cause::InnerLayer)
        };
        let purpose = Purpose::of_key(key, call.operation, call.requester);
        let result = self.call_proxy(&self.line(host), purpose, ask, read).await;
        let refused = Cause::Error(ErrorName::InvalidCiphertextException);
        if same_context
            && matches!(&result, Err(failed) if failed.cause == refused || failed.cause == Cause::InnerLayer)
        {
            self.counters.borrow_mut().own_blobs_refused += 1;
        }
        let plaintext = result.map_err(Failed::failure)?;
        if call.operation == KmsOperation::Decrypt {
            self.cloudwatch.borrow_mut().note_success(head.key.into(), call.operation);
        }
        Ok(plaintext)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_has_one_form_whatever_its_order_and_letters() {
        let context = |pairs: &[(&str, &str)]| {
            canonical(&pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect())
        };
        assert_eq!(context(&[]), b"{}");
        assert_eq!(context(&[("b", "2"), ("a", "1\"")]), br#"{"a":"1\"","b":"2"}"#);
        assert_eq!(context(&[("a", "1\""), ("b", "2")]), context(&[("b", "2"), ("a", "1\"")]));
        assert_ne!(context(&[("a", "1,b:2")]), context(&[("a", "1"), ("b", "2")]));
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_not_as_the_other_version() {
        let head = Head::new(513, b"{}");
        let bytes = head.to_bytes();
        assert_eq!(Head::from_bytes(&bytes), Some(head));
        assert_eq!(Head::from_bytes(&bytes[1..]), None);
        let mut other = bytes;
        other[0] = 1;
        assert_eq!(Head::from_bytes(&other), None);
        assert_ne!(Head::new(513, b"{\"a\":\"b\"}"), head);
    }
}
