//! A small HSM of AES-GCM behind the proxy's own door, which can be told to misbehave: for tests of what stands in front of
//! the proxy.
#![allow(dead_code, reason = "each test program uses its part")]

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;
use xks_proxy::hsm::{
    Aad, Answer, DeviceHealth, HealthStatus, Hsm, HsmError, HsmErrorKind, Iv, KeyFacts, KeySpec, Sealed,
};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    Fails(HsmErrorKind),
    /// Never answers, deadline or not.
    Hangs,
    /// Decrypts and changes a bit.
    Lies,
    /// Encrypts everything under the same IV.
    Repeats,
}

/// One AES-256 key under every label that it knows; IVs count up.
pub(crate) struct StubHsm {
    cipher: Aes256Gcm,
    next_iv: AtomicU64,
    mood: Mutex<Mood>,
    knows: fn(&str) -> bool,
}

impl StubHsm {
    /// In a good mood. `knows` is asked for a label with what stands around it when it is printed.
    pub(crate) fn new(knows: fn(&str) -> bool) -> Self {
        Self {
            cipher: Aes256Gcm::new(&[9; 32].into()),
            next_iv: AtomicU64::new(1),
            mood: Mutex::new(Mood::Well),
            knows,
        }
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    async fn mood(&self, key: &KeyName) -> Result<Mood, HsmError> {
        if !(self.knows)(&format!("{key:?}")) {
            return Err(HsmError::new(HsmErrorKind::KeyNotFound, "no such key"));
        }
        self.own_mood().await
    }

    async fn own_mood(&self) -> Result<Mood, HsmError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Fails(kind) => Err(HsmError::new(kind, "told to fail")),
            Mood::Hangs => std::future::pending().await,
            other => Ok(other),
        }
    }
}

impl Hsm for StubHsm {
    fn describe<'a>(&'a self, key: &'a KeyName, _deadline: Instant) -> Answer<'a, KeyFacts> {
        Box::pin(async {
            self.mood(key).await?;
            Ok(KeyFacts { spec: KeySpec::Aes(256), encrypt: true, decrypt: true, enabled: true })
        })
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        _deadline: Instant,
    ) -> Answer<'a, Sealed> {
        Box::pin(async {
            let mood = self.mood(key).await?;
            let number = if mood == Mood::Repeats { 0 } else { self.next_iv.fetch_add(1, Ordering::Relaxed) };
            let mut iv = [0; 12];
            iv[4..].copy_from_slice(&number.to_be_bytes());
            let payload = Payload { msg: plaintext.expose(), aad: aad.as_bytes() };
            let mut ciphertext = self.cipher.encrypt(&Nonce::from(iv), payload).unwrap();
            let tag = ciphertext.split_off(plaintext.expose().len()).try_into().unwrap();
            Ok(Sealed { ciphertext, iv: Iv::Twelve(iv), tag })
        })
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        _deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(async {
            let mood = self.mood(key).await?;
            let whole = [&sealed.ciphertext[..], &sealed.tag].concat();
            let payload = Payload { msg: &whole, aad: aad.as_bytes() };
            let rejected = || HsmError::new(HsmErrorKind::CiphertextRejected, "tag");
            let nonce = Nonce::try_from(sealed.iv.as_bytes()).map_err(|_| rejected())?;
            let mut plaintext = self.cipher.decrypt(&nonce, payload).map_err(|_| rejected())?;
            if mood == Mood::Lies {
                plaintext[20] ^= 1;
            }
            Ok(Plaintext::new(plaintext))
        })
    }

    fn health<'a>(
        &'a self,
        _deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async {
            let status = match self.own_mood().await {
                Ok(_) => HealthStatus::Active,
                Err(_) => HealthStatus::Unavailable,
            };
            vec![DeviceHealth { id: "stub".into(), model: "stub".into(), status }]
        })
    }
}
