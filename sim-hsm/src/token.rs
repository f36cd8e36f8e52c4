//! The device's inside: keys with their attributes, and AES-GCM.
//!
//! Place on the map: `device` puts capacity and faults around an [`Engine`]; [`Token`] is the emulated one.

use crate::codes::{
    CKR_DATA_LEN_RANGE, CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE,
    CKR_KEY_FUNCTION_NOT_PERMITTED, CKR_KEY_SIZE_RANGE, error,
};
use crate::streams;
use aes_gcm::aead::consts::U16;
use aes_gcm::aes::Aes256;
use aes_gcm::{AeadInOut, Aes256Gcm, AesGcm, KeyInit};
use rand_chacha::ChaCha20Rng;
use rand_core::Rng;
use std::collections::BTreeMap;
use xks_proxy::hsm::pkcs11::Pkcs11Inline;
use xks_proxy::hsm::{Aad, HsmError, HsmErrorKind, Iv, KeyFacts, KeySpec, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

/// Does the cryptography, at once and on the caller's thread. Time and faults are put around it by the device.
///
/// A real PKCS#11 library ([`Pkcs11Inline`]) can stand in for [`Token`]. Its IVs are its own and enter no draw of the device, so timing
/// and outcomes stay what the seed says as long as it gives the same outcome for the same request.
pub trait Engine: Send {
    /// As [`Hsm::describe`](xks_proxy::hsm::Hsm::describe).
    ///
    /// # Errors
    /// What the engine has against it.
    fn describe(&mut self, key: &KeyName) -> Result<KeyFacts, HsmError>;

    /// As [`Hsm::encrypt`](xks_proxy::hsm::Hsm::encrypt).
    ///
    /// # Errors
    /// What the engine has against it.
    fn encrypt(&mut self, key: &KeyName, aad: &Aad, plaintext: &Plaintext) -> Result<Sealed, HsmError>;

    /// As [`Hsm::decrypt`](xks_proxy::hsm::Hsm::decrypt).
    ///
    /// # Errors
    /// What the engine has against it.
    fn decrypt(&mut self, key: &KeyName, aad: &Aad, sealed: &Sealed) -> Result<Plaintext, HsmError>;

    /// The token behind this engine when it is the emulated one, whose keys the control door can change.
    fn token(&mut self) -> Option<&mut Token> {
        None
    }
}

/// A key to be made. Its bytes follow from the device's seed and the label, so devices of one seed share keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySpecification {
    /// `CKA_LABEL`; its bytes are the `CKA_ID` too. A second key of the same label replaces the first.
    pub label: String,
    /// AES with this many bits. Only 256 can be used, as XKS asks; others are described and refused.
    pub bits: u16,
    /// `CKA_ENCRYPT`.
    pub encrypt: bool,
    /// `CKA_DECRYPT`.
    pub decrypt: bool,
    /// Whether it may be used at all now.
    pub enabled: bool,
}

impl KeySpecification {
    /// An AES-256 key that may encrypt and decrypt.
    pub fn aes_256(label: impl Into<String>) -> Self {
        Self { label: label.into(), bits: 256, encrypt: true, decrypt: true, enabled: true }
    }
}

/// The emulated token.
pub struct Token {
    keys: Keys,
    ivs: ChaCha20Rng,
    bytes_max: usize,
}

/// The token's objects by label.
struct Keys(BTreeMap<String, Key>);

struct Key {
    facts: KeyFacts,
    /// Expanded once; absent for a size that cannot be used.
    ciphers: Option<Box<Ciphers>>,
}

struct Ciphers {
    twelve: Aes256Gcm,
    sixteen: AesGcm<Aes256, U16>,
}

#[derive(Clone, Copy)]
enum Use {
    Encrypt,
    Decrypt,
}

impl Token {
    /// A token whose keys follow from `seed`, and whose IVs follow from `seed` and `stream`.
    ///
    /// Devices of one seed share keys, so each must have a `stream` of its own: with the same one they would make the
    /// same IVs. `bytes_max` is the longest plaintext it takes; a longer ciphertext cannot be genuine.
    pub fn new(seed: u64, stream: u64, bytes_max: usize, keys: &[KeySpecification]) -> Self {
        let keys = keys.iter().map(|key| (key.label.clone(), Key::make(seed, key))).collect();
        Self { keys: Keys(keys), ivs: streams::stream(seed, stream, "iv", 0), bytes_max }
    }

    /// Enables or disables a key.
    ///
    /// # Errors
    /// `KeyNotFound`.
    pub fn set_enabled(&mut self, key: &KeyName, enabled: bool) -> Result<(), HsmError> {
        let found = Keys::label(key).and_then(|label| self.keys.0.get_mut(label));
        found.map(|found| found.facts.enabled = enabled).ok_or_else(|| not_found(key))
    }

    /// Destroys a key for good.
    ///
    /// # Errors
    /// `KeyNotFound`.
    pub fn destroy(&mut self, key: &KeyName) -> Result<(), HsmError> {
        let found = Keys::label(key).and_then(|label| self.keys.0.remove(label));
        found.map(|_| ()).ok_or_else(|| not_found(key))
    }

    fn check_length(&self, length: usize, ck_rv: u64) -> Result<(), HsmError> {
        if length > self.bytes_max {
            let detail = format!("{length} bytes; this device takes at most {}", self.bytes_max);
            return Err(error(ck_rv, detail));
        }
        Ok(())
    }
}

impl Key {
    fn make(seed: u64, key: &KeySpecification) -> Self {
        let facts = KeyFacts {
            spec: KeySpec::Aes(key.bits),
            encrypt: key.encrypt,
            decrypt: key.decrypt,
            enabled: key.enabled,
        };
        let ciphers = (key.bits == 256).then(|| {
            let aes = Aes256::new(&streams::key_bytes(seed, &key.label).into());
            Box::new(Ciphers { twelve: aes.clone().into(), sixteen: aes.into() })
        });
        Self { facts, ciphers }
    }
}

impl Keys {
    /// The label that a name stands for: an id is its label's bytes.
    fn label(key: &KeyName) -> Option<&str> {
        match key {
            KeyName::Label(label) => Some(label),
            KeyName::Id(id) => std::str::from_utf8(id).ok(),
        }
    }

    fn get(&self, key: &KeyName) -> Result<&Key, HsmError> {
        Self::label(key).and_then(|label| self.0.get(label)).ok_or_else(|| not_found(key))
    }

    /// The expanded key, if it may be used this way now.
    fn ciphers(&self, name: &KeyName, usage: Use) -> Result<&Ciphers, HsmError> {
        let key = self.get(name)?;
        let Some(ciphers) = &key.ciphers else {
            let detail = format!("the key with {name} is {:?}; only AES-256 is used", key.facts.spec);
            return Err(error(CKR_KEY_SIZE_RANGE, detail));
        };
        if !key.facts.enabled {
            return Err(HsmError::new(HsmErrorKind::KeyDisabled, format!("the key with {name} is disabled")));
        }
        let (permitted, attribute) = match usage {
            Use::Encrypt => (key.facts.encrypt, "CKA_ENCRYPT"),
            Use::Decrypt => (key.facts.decrypt, "CKA_DECRYPT"),
        };
        if !permitted {
            let detail = format!("the key with {name} has {attribute} false");
            return Err(error(CKR_KEY_FUNCTION_NOT_PERMITTED, detail));
        }
        Ok(ciphers)
    }
}

fn not_found(key: &KeyName) -> HsmError {
    HsmError::new(HsmErrorKind::KeyNotFound, format!("no key with {key}"))
}

impl Engine for Token {
    fn describe(&mut self, key: &KeyName) -> Result<KeyFacts, HsmError> {
        self.keys.get(key).map(|key| key.facts)
    }

    fn encrypt(&mut self, key: &KeyName, aad: &Aad, plaintext: &Plaintext) -> Result<Sealed, HsmError> {
        self.check_length(plaintext.expose().len(), CKR_DATA_LEN_RANGE)?;
        let ciphers = self.keys.ciphers(key, Use::Encrypt)?;
        let mut iv = [0; 12];
        self.ivs.fill_bytes(&mut iv);
        let mut data = plaintext.expose().to_vec();
        let tag = ciphers
            .twelve
            .encrypt_inout_detached(&iv.into(), aad.as_bytes(), data.as_mut_slice().into())
            .map_err(|_| error(CKR_DATA_LEN_RANGE, "longer than AES-GCM takes".into()))?;
        Ok(Sealed { ciphertext: data, iv: Iv::Twelve(iv), tag: tag.into() })
    }

    fn decrypt(&mut self, key: &KeyName, aad: &Aad, sealed: &Sealed) -> Result<Plaintext, HsmError> {
        self.check_length(sealed.ciphertext.len(), CKR_ENCRYPTED_DATA_LEN_RANGE)?;
        let ciphers = self.keys.ciphers(key, Use::Decrypt)?;
        let (aad, tag) = (aad.as_bytes(), &sealed.tag.into());
        let mut data = sealed.ciphertext.clone();
        match &sealed.iv {
            Iv::Twelve(iv) => {
                ciphers.twelve.decrypt_inout_detached(iv.into(), aad, data.as_mut_slice().into(), tag)
            }
            Iv::Sixteen(iv) => {
                ciphers.sixteen.decrypt_inout_detached(iv.into(), aad, data.as_mut_slice().into(), tag)
            }
        }
        .map_err(|_| {
            let detail = "the authentication tag does not match".into();
            error(CKR_ENCRYPTED_DATA_INVALID, detail)
        })?;
        Ok(Plaintext::new(data))
    }

    fn token(&mut self) -> Option<&mut Token> {
        Some(self)
    }
}

/// A real library, called on the caller's own thread.
impl Engine for Pkcs11Inline {
    fn describe(&mut self, key: &KeyName) -> Result<KeyFacts, HsmError> {
        Self::describe(self, key)
    }

    fn encrypt(&mut self, key: &KeyName, aad: &Aad, plaintext: &Plaintext) -> Result<Sealed, HsmError> {
        Self::encrypt(self, key, aad, plaintext)
    }

    fn decrypt(&mut self, key: &KeyName, aad: &Aad, sealed: &Sealed) -> Result<Plaintext, HsmError> {
        Self::decrypt(self, key, aad, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(stream: u64) -> Token {
        let mut small = KeySpecification::aes_256("small");
        small.bits = 128;
        let mut one_way = KeySpecification::aes_256("one-way");
        one_way.decrypt = false;
        Token::new(1, stream, 10_000, &[KeySpecification::aes_256("key"), small, one_way])
    }

    fn aad() -> Aad {
        Aad::frame(b"context", &[1]).unwrap()
    }

    #[test]
    fn devices_of_one_seed_share_keys_and_never_an_iv() {
        let (mut one, mut two) = (token(1), token(2));
        let key = KeyName::label("key");
        let mut ivs = std::collections::BTreeSet::new();
        for number in 0..2_000_u32 {
            let plaintext = Plaintext::new(number.to_be_bytes().to_vec());
            let there = one.encrypt(&key, &aad(), &plaintext).unwrap();
            assert_eq!(two.decrypt(&key, &aad(), &there).unwrap(), plaintext);
            let back = two.encrypt(&key, &aad(), &plaintext).unwrap();
            assert_eq!(one.decrypt(&key, &aad(), &back).unwrap(), plaintext);
            assert!(ivs.insert(there.iv) && ivs.insert(back.iv), "IV repeated");
        }
        let mut other = Token::new(2, 1, 10_000, &[KeySpecification::aes_256("key")]);
        let sealed = one.encrypt(&key, &aad(), &Plaintext::new(vec![1])).unwrap();
        assert_eq!(other.decrypt(&key, &aad(), &sealed).unwrap_err().kind, HsmErrorKind::CiphertextRejected);
    }

    #[test]
    fn gcm_agrees_with_the_published_vectors() {
        // McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16 (AES-256, 96-bit IV). The key is put
        // in by hand, as no seed gives it. The AAD goes in raw, for the framing of XKS-ENC-7 is not part of GCM.
        let hex = |text: &str| match KeyName::id_from_hex(text) {
            Ok(KeyName::Id(bytes)) => bytes,
            other => panic!("{other:?}"),
        };
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308");
        let iv: [u8; 12] = hex("cafebabefacedbaddecaf888").try_into().unwrap();
        let aes = Aes256::new_from_slice(&key).unwrap();
        let ciphers = Ciphers { twelve: aes.clone().into(), sixteen: aes.into() };
        let mut data = hex(concat!(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72",
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ));
        let aad = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let tag =
            ciphers.twelve.encrypt_inout_detached(&iv.into(), &aad, data.as_mut_slice().into()).unwrap();
        assert_eq!(tag.as_slice(), hex("76fc6ece0f4e1768cddf8853bb2d551b"));
        assert_eq!(data[..4], hex("522dc1f0"));
    }

    #[test]
    fn usage_size_and_state_are_respected() {
        let mut token = token(1);
        let plaintext = Plaintext::new(vec![1, 2, 3]);
        let key = KeyName::label("key");
        let fails = |token: &mut Token, name: &KeyName| {
            token.encrypt(name, &aad(), &plaintext).map(|_| ()).map_err(|error| (error.kind, error.ck_rv))
        };
        assert_eq!(fails(&mut token, &KeyName::label("none")), Err((HsmErrorKind::KeyNotFound, None)));
        assert_eq!(fails(&mut token, &KeyName::Id(vec![0xff])), Err((HsmErrorKind::KeyNotFound, None)));
        assert_eq!(
            fails(&mut token, &KeyName::label("small")),
            Err((HsmErrorKind::UsageRefused, Some(CKR_KEY_SIZE_RANGE)))
        );
        assert_eq!(token.describe(&KeyName::label("small")).unwrap().spec, KeySpec::Aes(128));

        token.set_enabled(&key, false).unwrap();
        assert_eq!(fails(&mut token, &key), Err((HsmErrorKind::KeyDisabled, None)));
        assert!(!token.describe(&key).unwrap().enabled);
        token.set_enabled(&key, true).unwrap();
        assert_eq!(fails(&mut token, &key), Ok(()));
        assert_eq!(fails(&mut token, &KeyName::Id(b"key".to_vec())), Ok(()));

        let one_way = KeyName::label("one-way");
        let sealed = token.encrypt(&one_way, &aad(), &plaintext).unwrap();
        let refused = token.decrypt(&one_way, &aad(), &sealed).unwrap_err();
        assert_eq!((refused.kind, refused.ck_rv), (HsmErrorKind::UsageRefused, Some(0x68)));

        let long = Plaintext::new(vec![0; 10_001]);
        assert_eq!(token.encrypt(&key, &aad(), &long).unwrap_err().kind, HsmErrorKind::TooLong);
        token.destroy(&key).unwrap();
        assert_eq!(token.describe(&key).unwrap_err().kind, HsmErrorKind::KeyNotFound);
        assert_eq!(token.destroy(&key).unwrap_err().kind, HsmErrorKind::KeyNotFound);
    }
}
