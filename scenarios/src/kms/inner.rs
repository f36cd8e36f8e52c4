//! KMS's own layer of encryption beneath the external key, and the opaque blob around both.
//!
//! Place on the map: [`model`](super::model) seals with it before it calls the proxy and opens after (MA-7, MA-8).
//! Everything here is derived from the run's seed and a serial number, so that years of simulated calls need no
//! memory: whoever holds a blob can work out what its plaintext must be.

use super::CiphertextBlob;
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use std::cell::RefCell;
use xks_proxy::secret::Plaintext;

/// Bytes of a data key: AES-256.
pub const DATA_KEY_BYTES: usize = 32;
/// Bytes of a nonce of the inner layer.
pub const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const BLOB_VERSION: u8 = 1;

/// The KMS-held material of every key of the store.
pub struct Inner {
    seed: [u8; 32],
    ciphers: RefCell<Vec<Aes256Gcm>>,
}

/// What identifies one encryption; it is the head of the blob, and the proxy authenticates it as part of the AAD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobHead {
    /// Index of the key in the key store.
    pub key: u16,
    /// Index of the service that encrypted, its encryption context.
    pub service: u32,
    /// Number of the encryption in this run.
    pub serial: u64,
}

impl BlobHead {
    const BYTES: usize = 15;

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = BLOB_VERSION;
        bytes[1..3].copy_from_slice(&self.key.to_be_bytes());
        bytes[3..7].copy_from_slice(&self.service.to_be_bytes());
        bytes[7..].copy_from_slice(&self.serial.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        let (key, rest) = rest.split_first_chunk()?;
        let (service, rest) = rest.split_first_chunk()?;
        let (serial, rest) = rest.split_first_chunk()?;
        (*version == BLOB_VERSION && rest.is_empty()).then(|| Self {
            key: u16::from_be_bytes(*key),
            service: u32::from_be_bytes(*service),
            serial: u64::from_be_bytes(*serial),
        })
    }
}

/// The canonical encryption context of a service's calls.
pub fn encryption_context(service: u32) -> Vec<u8> {
    format!("{{\"xks-sim:service\":\"{service}\"}}").into_bytes()
}

/// What the proxy made of a plaintext: all fields of its answer to encrypt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// `ciphertext`.
    pub ciphertext: Vec<u8>,
    /// `initializationVector`, 12 or 16 bytes.
    pub iv: Vec<u8>,
    /// `authenticationTag`.
    pub tag: [u8; TAG_BYTES],
    /// `ciphertextMetadata`, 0 to 20 bytes; absent is empty.
    pub metadata: Vec<u8>,
}

impl Inner {
    /// Material for `keys` keys, all of it from `seed`.
    pub fn new(seed: [u8; 32], keys: usize) -> Self {
        let inner = Self { seed, ciphers: RefCell::default() };
        (0..keys).for_each(|_| inner.add_key());
        inner
    }

    /// Material for one key more.
    pub fn add_key(&self) {
        let mut ciphers = self.ciphers.borrow_mut();
        let material = derive(&self.seed, "kms key material", ciphers.len() as u64);
        ciphers.push(Aes256Gcm::new(&material.into()));
    }

    /// The plaintext of encryption number `serial`.
    pub fn data_key(&self, serial: u64) -> Plaintext {
        Plaintext::new(derive(&self.seed, "data key", serial).to_vec())
    }

    /// The inner ciphertext of encryption `head`: nonce, ciphertext, tag. Always the same for the same head; the nonce
    /// is the serial number, so none is used twice. `None` when the store has no such key.
    pub fn seal(&self, head: BlobHead, context: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        nonce[NONCE_BYTES - 8..].copy_from_slice(&head.serial.to_be_bytes());
        self.seal_own(head.key, nonce, context, &self.data_key(head.serial))
    }

    /// The inner ciphertext of any plaintext: nonce, ciphertext, tag. No nonce may come twice under one key. `None` when
    /// the store has no such key.
    pub fn seal_own(
        &self,
        key: u16,
        nonce: [u8; NONCE_BYTES],
        context: &[u8],
        plaintext: &Plaintext,
    ) -> Option<Vec<u8>> {
        let payload = Payload { msg: plaintext.expose(), aad: context };
        let ciphers = self.ciphers.borrow();
        let sealed = ciphers.get(usize::from(key))?.encrypt(&Nonce::from(nonce), payload).ok()?;
        Some([nonce.as_slice(), &sealed].concat())
    }

    /// Opens an inner ciphertext; `None` when it was not made with this key and context.
    pub fn open(&self, key: u16, context: &[u8], bytes: &[u8]) -> Option<Plaintext> {
        let (nonce, sealed) = bytes.split_at_checked(NONCE_BYTES)?;
        let nonce = Nonce::try_from(nonce).ok()?;
        let payload = Payload { msg: sealed, aad: context };
        self.ciphers.borrow().get(usize::from(key))?.decrypt(&nonce, payload).ok().map(Plaintext::new)
    }
}

fn derive(seed: &[u8; 32], purpose: &str, number: u64) -> [u8; 32] {
    crate::sha256::of(&[seed, purpose.as_bytes(), &number.to_be_bytes()])
}

/// Packs the head and all fields of the proxy's answer. `None` when metadata or IV exceed 255 bytes.
pub fn pack(head: BlobHead, sealed: &Sealed) -> Option<CiphertextBlob> {
    pack_after(&head.to_bytes(), sealed)
}

/// The same behind a head of any kind.
pub(super) fn pack_after(head: &[u8], sealed: &Sealed) -> Option<CiphertextBlob> {
    let mut bytes = Vec::with_capacity(head.len() + 64 + sealed.ciphertext.len());
    bytes.extend_from_slice(head);
    for field in [&sealed.metadata, &sealed.iv] {
        bytes.push(u8::try_from(field.len()).ok()?);
        bytes.extend_from_slice(field);
    }
    bytes.extend_from_slice(&sealed.tag);
    bytes.extend_from_slice(&sealed.ciphertext);
    Some(CiphertextBlob(bytes.into()))
}

/// The reverse of [`pack`]; `None` for bytes that it did not make.
pub fn unpack(blob: &CiphertextBlob) -> Option<(BlobHead, Sealed)> {
    let (head, rest) = blob.0.split_at_checked(BlobHead::BYTES)?;
    Some((BlobHead::from_bytes(head)?, unpack_fields(rest)?))
}

/// What [`pack_after`] put behind the head.
pub(super) fn unpack_fields(rest: &[u8]) -> Option<Sealed> {
    let field = |bytes: &mut &[u8]| {
        let (length, rest) = bytes.split_first()?;
        let (field, rest) = rest.split_at_checked(usize::from(*length))?;
        *bytes = rest;
        Some(field.to_vec())
    };
    let mut rest = rest;
    let metadata = field(&mut rest)?;
    let iv = field(&mut rest)?;
    let (tag, ciphertext) = rest.split_first_chunk()?;
    Some(Sealed { ciphertext: ciphertext.to_vec(), iv, tag: *tag, metadata })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: BlobHead = BlobHead { key: 1, service: 3, serial: 7 };

    #[test]
    fn the_inner_layer_opens_only_with_its_key_and_context() {
        let inner = Inner::new([5; 32], 2);
        let sealed = inner.seal(HEAD, b"context").unwrap();
        assert_eq!(sealed.len(), NONCE_BYTES + DATA_KEY_BYTES + TAG_BYTES);
        assert_eq!(inner.open(1, b"context", &sealed), Some(inner.data_key(7)));
        assert_eq!(inner.open(0, b"context", &sealed), None);
        assert_eq!(inner.open(2, b"context", &sealed), None);
        assert_eq!(inner.open(1, b"other", &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(inner.open(1, b"context", &changed), None, "byte {at}");
            assert_eq!(inner.open(1, b"context", &sealed[..at]), None);
        }
    }

    #[test]
    fn everything_depends_on_the_seed_and_the_serial() {
        let (one, two) = (Inner::new([1; 32], 2), Inner::new([2; 32], 2));
        assert_ne!(one.data_key(7), two.data_key(7));
        assert_ne!(one.data_key(7), one.data_key(8));
        assert_ne!(one.seal(HEAD, b""), two.seal(HEAD, b""));
        assert_eq!(one.seal(HEAD, b""), Inner::new([1; 32], 2).seal(HEAD, b""));
    }

    #[test]
    fn blobs_unpack_to_what_was_packed() {
        for metadata in [vec![], vec![9; 20]] {
            let sealed = Sealed { ciphertext: vec![1; 60], iv: vec![2; 16], tag: [3; 16], metadata };
            let blob = pack(HEAD, &sealed).unwrap();
            assert_eq!(unpack(&blob), Some((HEAD, sealed)));
            let short = |length: usize| CiphertextBlob(blob.0[..length].into());
            assert_eq!(unpack(&short(0)), None);
            assert_eq!(unpack(&short(BlobHead::BYTES + 3)), None);
            let mut other_version = blob.0.to_vec();
            other_version[0] = 2;
            assert_eq!(unpack(&CiphertextBlob(other_version.into())), None);
        }
    }
}
