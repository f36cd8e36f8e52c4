//! Moving from AWS's sample proxy (XKS-MIG-1) over a real SoftHSM2: ciphertexts that the sample made decrypt here, and
//! what is made in its scheme has its shape.
//!
//! `sample_proxy_vectors.json` holds what the sample proxy 3.1.2 answered over SoftHSM2 2.6.1 when asked to encrypt with
//! the AES-256 key whose bytes are `KNOWN_KEY`, once without and once with configured metadata: facts of its wire format.
//! They also decrypted there.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails loudly; clippy's leave for tests does not reach their helpers"
)]

#[expect(dead_code, reason = "the tests of the PKCS#11 implementation use the rest")]
#[path = "common/softhsm.rs"]
mod softhsm;
mod support;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use softhsm::{KNOWN_KEY, SoftHsm};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use support::{Reply, World, decrypt, encrypt, metadata, versions, with, without};
use xks_proxy::api::encrypt::integrity_value;
use xks_proxy::app::{KeyEntry, KeyStore, Limits};
use xks_proxy::hsm::pkcs11::{Module, Pkcs11Hsm};
use xks_proxy::hsm::{Iv, Sealed};
use xks_proxy::key::{KeyId, KeyVersion};
use xks_proxy::scheme::{SampleProxy, Scheme};

/// The metadata that the sample was configured with for half of the vectors.
const METADATA: &[u8] = b"v0.0.1";

fn vectors() -> Vec<Value> {
    serde_json::from_str(include_str!("sample_proxy_vectors.json")).unwrap()
}

/// A real HSM behind the key store `one`; closed before the library goes.
struct OverSoftHsm {
    world: World,
    hsm: Arc<Pkcs11Hsm>,
}

impl Drop for OverSoftHsm {
    fn drop(&mut self) {
        assert!(self.hsm.close(Duration::from_secs(60)), "a session does not close");
    }
}

impl std::ops::Deref for OverSoftHsm {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

fn over_softhsm(adjust: impl FnOnce(&mut KeyStore)) -> OverSoftHsm {
    // The library, loaded once and never finalised while tests run beside each other.
    static MODULE: OnceLock<Arc<Module>> = OnceLock::new();
    let module = MODULE.get_or_init(|| Module::load(&SoftHsm::get().module).unwrap());
    let mut settings = SoftHsm::get().settings();
    settings.sessions_max = 2;
    let hsm = Arc::new(Pkcs11Hsm::open_on(Arc::clone(module), settings).unwrap());
    // A real HSM answers in real time, so the deadline must not be what the test measures.
    let limits = Limits { deadline: Duration::from_secs(60), ..Limits::default() };
    let world = World::with(limits, |store| {
        store.hsm = Arc::<Pkcs11Hsm>::clone(&hsm);
        adjust(store);
    });
    OverSoftHsm { world, hsm }
}

fn sample(metadata: &[u8], encrypt: Scheme) -> Option<SampleProxy> {
    Some(SampleProxy::new(metadata.to_vec(), Vec::new(), encrypt).unwrap())
}

/// The Decrypt request for a vector.
fn asked(vector: &Value) -> Value {
    let mut body = json!({ "requestMetadata": metadata(), "encryptionAlgorithm": "AES_GCM" });
    for field in [
        "ciphertext",
        "initializationVector",
        "authenticationTag",
        "ciphertextMetadata",
        "additionalAuthenticatedData",
    ] {
        if let Some(value) = vector.get(field).filter(|value| !value.is_null()) {
            body[field] = value.clone();
        }
    }
    body
}

fn flipped(value: &Value) -> Value {
    let mut bytes = STANDARD.decode(value.as_str().unwrap()).unwrap();
    bytes[0] ^= 1;
    json!(STANDARD.encode(bytes))
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

fn base64(bytes: impl AsRef<[u8]>) -> Value {
    json!(STANDARD.encode(bytes))
}

/// A key store entry for the external key `known`, with these versions of labels.
fn entry(store: &mut KeyStore, current: u8, labels: &[(u8, &str)]) {
    let entry = KeyEntry { current: KeyVersion(current), versions: versions(labels) };
    store.keys.entries.insert(KeyId::parse("known").unwrap(), entry);
}

#[tokio::test]
async fn mig_1_what_the_sample_proxy_made_decrypts() {
    let world = over_softhsm(|store| store.sample_proxy = sample(METADATA, Scheme::Own));
    assert_eq!(vectors().len(), 8);
    for vector in vectors() {
        let reply = world.call("keys/known/decrypt", &asked(&vector)).await;
        assert_eq!(reply.is_ok().json()["plaintext"], vector["plaintext"], "{vector}");

        // Its integrity value is computed as ours (XKS-ENC-9).
        let field = |name| vector.get(name).filter(|value| !value.is_null()).map(bytes).unwrap_or_default();
        let sealed = Sealed {
            ciphertext: field("ciphertext"),
            iv: Iv::from_slice(&field("initializationVector")).unwrap(),
            tag: field("authenticationTag").try_into().unwrap(),
        };
        let value =
            integrity_value(&field("additionalAuthenticatedData"), &field("ciphertextMetadata"), &sealed);
        assert_eq!(base64(value), vector["ciphertextDataIntegrityValue"]);
    }
}

#[tokio::test]
async fn mig_1_dec_4_any_change_of_what_the_sample_proxy_made_gets_one_answer() {
    let world = over_softhsm(|store| store.sample_proxy = sample(METADATA, Scheme::Own));
    for vector in vectors() {
        let right = asked(&vector);
        for field in
            ["ciphertext", "initializationVector", "authenticationTag", "additionalAuthenticatedData"]
        {
            let Some(value) = right[field].as_str().filter(|text| !text.is_empty()) else { continue };
            let body = with(right.clone(), field, flipped(&json!(value)));
            let reply = world.call("keys/known/decrypt", &body).await;
            reply.is_error(400, "InvalidCiphertextException");
        }
        // Metadata taken away, put on, or exchanged for our own; an AAD put on or taken away, an empty one too.
        for metadata in [None, Some(METADATA), Some(&[1, 1])] {
            let other = metadata.map_or(without(right.clone(), "ciphertextMetadata"), |metadata| {
                with(right.clone(), "ciphertextMetadata", base64(metadata))
            });
            if other != right {
                let reply = world.call("keys/known/decrypt", &other).await;
                reply.is_error(400, "InvalidCiphertextException");
            }
        }
        for other in [
            without(right.clone(), "additionalAuthenticatedData"),
            with(right.clone(), "additionalAuthenticatedData", json!("")),
        ] {
            if other != right {
                let reply = world.call("keys/known/decrypt", &other).await;
                reply.is_error(400, "InvalidCiphertextException");
            }
        }
    }
}

#[tokio::test]
async fn mig_1_nothing_is_decrypted_on_a_guess() {
    let none = World::new();
    let others = World::with(Limits::default(), |store| store.sample_proxy = sample(b"v9", Scheme::Own));
    for vector in vectors() {
        let reply = none.call("keys/known/decrypt", &asked(&vector)).await;
        reply.is_error(400, "InvalidCiphertextException");
        if vector.get("ciphertextMetadata").is_some() {
            let reply = others.call("keys/known/decrypt", &asked(&vector)).await;
            reply.is_error(400, "InvalidCiphertextException");
            let told = others.events.last().detail.unwrap();
            assert!(told.contains("nor one that [key_store.compatibility] names"), "{told}");
        }
    }
    assert_eq!((none.hsm.calls(), others.hsm.calls()), (Vec::<String>::new(), Vec::new()));
    let told = none.events.all().into_iter().map(|event| event.detail.unwrap()).collect::<Vec<_>>();
    assert!(told[0].contains("[key_store.compatibility] does not say"), "{}", told[0]);
    assert_eq!(told[7], "ciphertextMetadata is not of this proxy's making");
}

#[tokio::test]
async fn mig_1_metadata_of_former_times_decrypts_too() {
    let former = SampleProxy::new(b"v9".into(), vec![METADATA.to_vec()], Scheme::Own).unwrap();
    let world = over_softhsm(|store| store.sample_proxy = Some(former));
    for vector in vectors() {
        world.call("keys/known/decrypt", &asked(&vector)).await.is_ok();
    }
}

#[tokio::test]
async fn mig_1_new_ciphertexts_are_our_own_beside_the_samples() {
    let world = over_softhsm(|store| store.sample_proxy = sample(METADATA, Scheme::Own));
    let aad = base64("an AAD");
    let body = with(encrypt("aGVsbG8="), "additionalAuthenticatedData", aad.clone());
    let made = world.call("keys/known/encrypt", &body).await;
    assert_eq!(bytes(&made.json()["ciphertextMetadata"]), [1, 1]);
    let opened =
        world.call("keys/known/decrypt", &with(decrypt(&made), "additionalAuthenticatedData", aad)).await;
    assert_eq!(opened.text("plaintext"), "aGVsbG8=");
}

/// Decrypts with another AES-GCM than the HSM's, as the sample would: with the AAD framed by hand.
fn open_as_the_sample_would(made: &Reply, aad: Option<&[u8]>, metadata: &[u8]) -> Vec<u8> {
    let mut framed = u16::try_from(aad.unwrap_or_default().len()).unwrap().to_be_bytes().to_vec();
    framed.extend(aad.map(Sha256::digest).iter().flatten());
    framed.push(u8::try_from(metadata.len()).unwrap());
    framed.extend(metadata);
    open_with_aad(made, &framed)
}

fn open_with_aad(made: &Reply, framed: &[u8]) -> Vec<u8> {
    let made = made.is_ok().json();
    let iv: [u8; 12] = bytes(&made["initializationVector"]).try_into().unwrap();
    let joined = [bytes(&made["ciphertext"]), bytes(&made["authenticationTag"])].concat();
    let cipher = Aes256Gcm::new(&KNOWN_KEY.into());
    cipher.decrypt(&Nonce::from(iv), Payload { msg: &joined, aad: framed }).unwrap()
}

#[tokio::test]
async fn mig_1_encrypting_as_the_sample_proxy_does() {
    for metadata in [&b""[..], METADATA] {
        let world = over_softhsm(|store| store.sample_proxy = sample(metadata, Scheme::SampleProxy));
        for aad in [None, Some(&b""[..]), Some(b"an AAD"), Some(&[7; 8_192])] {
            let mut body =
                with(encrypt("aGVsbG8="), "ciphertextDataIntegrityValueAlgorithm", json!("SHA_256"));
            if let Some(aad) = aad {
                body["additionalAuthenticatedData"] = base64(aad);
            }
            let made = world.call("keys/known/encrypt", &body).await;
            let written = made.is_ok().json().get("ciphertextMetadata").map(bytes);
            assert_eq!(written, (!metadata.is_empty()).then(|| metadata.to_vec()));
            assert_eq!(open_as_the_sample_would(&made, aad, metadata), b"hello");

            let mut body = decrypt(&made);
            if metadata.is_empty() {
                body = without(body, "ciphertextMetadata");
            }
            if let Some(aad) = aad {
                body["additionalAuthenticatedData"] = base64(aad);
            }
            assert_eq!(world.call("keys/known/decrypt", &body).await.text("plaintext"), "aGVsbG8=");
        }
    }
}

/// The sample's ciphertexts belong to version 1: they outlive a rotation, and end with that version.
#[tokio::test]
async fn mig_1_a_key_of_the_sample_proxy_rotates() {
    let rotated = over_softhsm(|store| {
        store.sample_proxy = sample(METADATA, Scheme::Own);
        entry(store, 2, &[(1, "known"), (2, "foo")]);
    });
    for vector in vectors() {
        rotated.call("keys/known/decrypt", &asked(&vector)).await.is_ok();
    }
    let made = rotated.call("keys/known/encrypt", &encrypt("aGVsbG8=")).await;
    assert_eq!(bytes(&made.is_ok().json()["ciphertextMetadata"]), [1, 2]);

    let without_1 = over_softhsm(|store| {
        store.sample_proxy = sample(METADATA, Scheme::Own);
        entry(store, 2, &[(2, "foo")]);
    });
    let reply = without_1.call("keys/known/decrypt", &asked(&vectors()[0])).await;
    reply.is_error(400, "InvalidCiphertextException");
    let told = without_1.events.last().detail.unwrap();
    assert_eq!(told, "the ciphertext was made with version 1 of the key, which is not configured");
}

/// Our own scheme, by hand: 2-byte length, AAD, 1-byte length, metadata.
#[tokio::test]
async fn enc_7_another_aes_gcm_opens_what_is_framed_as_the_spec_says() {
    let world = over_softhsm(|_| {});
    let made = world.call("keys/known/encrypt", &encrypt("aGVsbG8=")).await;
    assert_eq!(open_with_aad(&made, &[0, 0, 2, 1, 1]), b"hello");
    let body = with(encrypt("aGVsbG8="), "additionalAuthenticatedData", base64([7; 258]));
    let made = world.call("keys/known/encrypt", &body).await;
    assert_eq!(open_with_aad(&made, &[&[1, 2][..], &[7; 258], &[2, 1, 1]].concat()), b"hello");
}
