//! The PKCS#11 implementation over a real SoftHSM2: what it opens, what it answers, and that many at once are
//! safe.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "common/softhsm.rs"]
mod softhsm;

use softhsm::{KNOWN_KEY, PIN, SPARE, SoftHsm, TOKEN, TWINS};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;
use xks_proxy::hsm::pkcs11::{Module, OpenError, Pkcs11Hsm, Pkcs11Inline, Pkcs11Settings, TokenChoice};
use xks_proxy::hsm::{
    Aad, DeviceHealth, HealthStatus, Hsm, HsmError, HsmErrorKind, Iv, KeyFacts, KeySpec, Sealed,
};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

/// The library, loaded once and never finalised while tests run beside each other.
fn module() -> Arc<Module> {
    static MODULE: OnceLock<Arc<Module>> = OnceLock::new();
    Arc::clone(MODULE.get_or_init(|| Module::load(&SoftHsm::get().module).unwrap()))
}

struct Opened(Pkcs11Hsm);

impl Drop for Opened {
    fn drop(&mut self) {
        assert!(self.0.close(Duration::from_secs(60)), "a session does not close");
    }
}

impl std::ops::Deref for Opened {
    type Target = Pkcs11Hsm;

    fn deref(&self) -> &Pkcs11Hsm {
        &self.0
    }
}

fn open() -> Opened {
    open_with(|settings| settings.sessions_max = 2)
}

fn open_with(change: impl FnOnce(&mut Pkcs11Settings)) -> Opened {
    let mut settings = SoftHsm::get().settings();
    change(&mut settings);
    Opened(Pkcs11Hsm::open_on(module(), settings).unwrap())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn aad() -> Aad {
    Aad::frame(b"aad", b"").unwrap()
}

fn key(label: &str) -> KeyName {
    KeyName::label(label)
}

fn kind<T>(outcome: Result<T, HsmError>) -> Result<T, HsmErrorKind> {
    outcome.map_err(|error| error.kind)
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[tokio::test]
async fn what_is_encrypted_decrypts() {
    let hsm = open();
    for len in [0, 1, 15, 16, 4300, 65_535] {
        let plaintext = Plaintext::new((0..len).map(|i: u32| i as u8).collect());
        let sealed = hsm.encrypt(&key("foo"), &aad(), &plaintext, soon()).await.unwrap();
        assert_eq!(sealed.ciphertext.len(), plaintext.expose().len(), "XKS-ENC-5");
        assert!(matches!(sealed.iv, Iv::Twelve(_)));
        assert_eq!(
            hsm.decrypt(&key("foo"), &aad(), &sealed, soon()).await.unwrap(),
            plaintext,
            "{len} bytes"
        );
    }
    let longest = Aad::frame(&[9; 65_535], &[8; 20]).unwrap();
    let plaintext = Plaintext::new(vec![1; 16]);
    let sealed = hsm.encrypt(&key("foo"), &longest, &plaintext, soon()).await.unwrap();
    assert_eq!(hsm.decrypt(&key("foo"), &longest, &sealed, soon()).await, Ok(plaintext));
}

/// Made with pyca/cryptography (OpenSSL) from the same key, AAD and plaintext.
#[tokio::test]
async fn ciphertexts_of_another_implementation_decrypt_with_either_length_of_iv() {
    let twelve = Sealed {
        ciphertext: bytes("b054ab88750077482e1daa"),
        iv: Iv::Twelve([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        tag: bytes("3d9df09a2ea9a7434c292f76f5499086").try_into().unwrap(),
    };
    let sixteen = Sealed {
        ciphertext: bytes("d86d7880052b40e77622ad"),
        iv: Iv::Sixteen([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        tag: bytes("30a136d3cb10545354f04534545ac1b8").try_into().unwrap(),
    };
    assert_eq!(KNOWN_KEY.len(), 32);
    let hsm = open();
    for sealed in [twelve, sixteen] {
        let plaintext = hsm.decrypt(&key("known"), &aad(), &sealed, soon()).await.unwrap();
        assert_eq!(plaintext.expose(), b"a plaintext");
    }
}

#[tokio::test]
async fn any_change_is_rejected_and_the_session_goes_on() {
    let hsm = open();
    let plaintext = Plaintext::new(vec![7; 32]);
    // SoftHSM answers CKR_GENERAL_ERROR to all of these; a key that may not encrypt takes another way to find
    // out what that means.
    for (writer, reader) in [("foo", "foo"), ("known", "known_decrypt_only")] {
        let sealed = hsm.encrypt(&key(writer), &aad(), &plaintext, soon()).await.unwrap();
        let mut changed = vec![sealed.clone(); 5];
        changed[0].tag[15] ^= 1;
        changed[1].ciphertext[0] ^= 0x80;
        changed[2].ciphertext.pop();
        changed[3].iv = Iv::Twelve([0; 12]);
        changed[4].iv = Iv::Sixteen([0; 16]);
        for (number, wrong) in changed.iter().enumerate() {
            let outcome = hsm.decrypt(&key(reader), &aad(), wrong, soon()).await;
            assert_eq!(kind(outcome), Err(HsmErrorKind::CiphertextRejected), "change {number}, XKS-DEC-4");
        }
        for other in [Aad::frame(b"aae", b"").unwrap(), Aad::frame(b"aad", &[1]).unwrap()] {
            let outcome = hsm.decrypt(&key(reader), &other, &sealed, soon()).await;
            assert_eq!(kind(outcome), Err(HsmErrorKind::CiphertextRejected), "other AAD");
        }
        assert_eq!(hsm.decrypt(&key(reader), &aad(), &sealed, soon()).await, Ok(plaintext.clone()));
    }
}

#[tokio::test]
async fn keys_are_described_and_used_as_their_attributes_say() {
    let hsm = open();
    let aes = |bits, encrypt, decrypt| KeyFacts { spec: KeySpec::Aes(bits), encrypt, decrypt, enabled: true };
    let plaintext = Plaintext::new(vec![7; 32]);
    let sealed = hsm.encrypt(&key("foo"), &aad(), &plaintext, soon()).await.unwrap();
    for (label, facts, encrypts, decrypts) in [
        ("foo", aes(256, true, true), true, true),
        ("encrypt_only_key", aes(256, true, false), true, false),
        ("decrypt_only_key", aes(256, false, true), false, true),
        ("impotent_key", aes(256, false, false), false, false),
        ("short_key", aes(128, true, true), false, false),
        (
            "rsa_key",
            KeyFacts { spec: KeySpec::Other(0), encrypt: false, decrypt: true, enabled: true },
            false,
            false,
        ),
    ] {
        assert_eq!(hsm.describe(&key(label), soon()).await, Ok(facts), "{label}");
        let encrypted = kind(hsm.encrypt(&key(label), &aad(), &plaintext, soon()).await);
        if encrypts {
            assert!(encrypted.is_ok(), "{label}");
        } else {
            assert_eq!(encrypted, Err(HsmErrorKind::UsageRefused), "{label}");
        }
        let decrypted = kind(hsm.decrypt(&key(label), &aad(), &sealed, soon()).await);
        match (decrypts, label) {
            (true, "foo") => assert_eq!(decrypted, Ok(plaintext.clone())),
            (true, _) => assert_eq!(decrypted, Err(HsmErrorKind::CiphertextRejected), "{label}: another's"),
            (false, _) => assert_eq!(decrypted, Err(HsmErrorKind::UsageRefused), "{label}"),
        }
    }
}

#[tokio::test]
async fn keys_are_found_by_label_or_id_and_only_if_there_is_one() {
    let hsm = open();
    let by_id = hsm.describe(&KeyName::id_from_hex("01").unwrap(), soon()).await;
    assert_eq!(by_id, hsm.describe(&key("foo"), soon()).await);
    for absent in [key("no such key"), key("Foo"), key("fo"), KeyName::id_from_hex("ff").unwrap()] {
        assert_eq!(kind(hsm.describe(&absent, soon()).await), Err(HsmErrorKind::KeyNotFound), "{absent}");
        let plaintext = Plaintext::new(vec![1]);
        let outcome = hsm.encrypt(&absent, &aad(), &plaintext, soon()).await;
        assert_eq!(kind(outcome), Err(HsmErrorKind::KeyNotFound), "{absent}");
    }
    let double = hsm.describe(&key("double"), soon()).await.unwrap_err();
    assert_eq!(double.kind, HsmErrorKind::Refused);
    assert!(double.detail.starts_with("2 keys with label \"double\""), "{double}");
    assert!(hsm.describe(&KeyName::id_from_hex("06").unwrap(), soon()).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_sessions_serve_many_at_once_and_no_iv_comes_twice() {
    let hsm = Arc::new(open_with(|settings| settings.queue_max = 10_000));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..64_u8 {
        let hsm = Arc::clone(&hsm);
        tasks.spawn(async move {
            let mut ivs = Vec::new();
            let name = if task % 2 == 0 { key("foo") } else { KeyName::Id(b"\x01".to_vec()) };
            let aad = Aad::frame(&[task; 40], &[]).unwrap();
            for round in 0..100_u8 {
                let plaintext = Plaintext::new(vec![task ^ round; usize::from(round) + 1]);
                let sealed = hsm.encrypt(&name, &aad, &plaintext, soon()).await.unwrap();
                assert_eq!(hsm.decrypt(&name, &aad, &sealed, soon()).await, Ok(plaintext));
                if round % 10 == 0 {
                    hsm.describe(&name, soon()).await.unwrap();
                    assert!(kind(hsm.describe(&key("absent"), soon()).await).is_err());
                }
                ivs.push(sealed.iv);
            }
            ivs
        });
    }
    let ivs: BTreeSet<Iv> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(ivs.len(), 64 * 100);
    assert_eq!(hsm.set_aside(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pools_may_come_and_go_while_others_work() {
    let hsm = Arc::new(open());
    let working = Arc::clone(&hsm);
    let work = tokio::spawn(async move {
        for _ in 0..500 {
            let plaintext = Plaintext::new(vec![3; 32]);
            let sealed = working.encrypt(&key("foo"), &aad(), &plaintext, soon()).await.unwrap();
            assert_eq!(working.decrypt(&key("foo"), &aad(), &sealed, soon()).await, Ok(plaintext));
        }
    });
    while !work.is_finished() {
        let other = open_with(|settings| settings.sessions_max = 4);
        assert!(other.describe(&key("foo"), soon()).await.is_ok());
    }
    work.await.unwrap();
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_told_at_once() {
    let hsm = open();
    assert_eq!(kind(hsm.describe(&key("foo"), Instant::now()).await), Err(HsmErrorKind::TimedOut));
    assert_eq!(hsm.health(Instant::now()).await[0].status, HealthStatus::Unavailable);
}

#[tokio::test]
async fn health_names_the_token_and_tries_the_health_key() {
    let active = open().health(soon()).await;
    let [DeviceHealth { id, model, status }] = active.as_slice() else { panic!("{active:?}") };
    assert_eq!((model.as_str(), *status), ("SoftHSM v2", HealthStatus::Active));
    assert_eq!(id.len(), 16, "a serial number");
    for (health_key, expected) in [
        ("foo", HealthStatus::Active),
        ("absent", HealthStatus::Unavailable),
        ("impotent_key", HealthStatus::Unavailable),
    ] {
        let hsm = open_with(|settings| {
            settings.sessions_max = 1;
            settings.health_key = Some(key(health_key));
        });
        assert_eq!(hsm.health(soon()).await[0].status, expected, "{health_key}");
        assert_eq!(hsm.health(soon()).await[0].id, *id);
    }
}

#[test]
fn inline_does_the_same_without_threads() {
    let inline = Pkcs11Inline::open_on(module(), SoftHsm::get().settings()).unwrap();
    let plaintext = Plaintext::new(vec![5; 32]);
    let sealed = inline.encrypt(&key("foo"), &aad(), &plaintext).unwrap();
    assert_eq!(inline.decrypt(&key("foo"), &aad(), &sealed), Ok(plaintext));
    assert_eq!(inline.describe(&key("foo")).unwrap().spec, KeySpec::Aes(256));
    assert_eq!(kind(inline.describe(&key("absent"))), Err(HsmErrorKind::KeyNotFound));
    assert_eq!(inline.health().status, HealthStatus::Active);
}

/// The error of opening with these settings.
fn open_error(settings: Pkcs11Settings) -> OpenError {
    match Pkcs11Hsm::open(settings) {
        Ok(_) => panic!("it opens"),
        Err(error) => error,
    }
}

fn assert_says(error: &OpenError, parts: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    assert!(!text.contains(PIN), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing: {text}");
    }
}

#[test]
fn modules_that_are_none_are_told_apart() {
    let softhsm = SoftHsm::get();
    let with = |module: &Path| Pkcs11Settings { module: module.to_owned(), ..softhsm.settings() };
    let absent = open_error(with(Path::new("/nowhere/libhsm.so")));
    assert!(matches!(absent, OpenError::ModuleAbsent(_)), "{absent:?}");
    assert_says(&absent, &["/nowhere/libhsm.so", "install"]);

    let text = softhsm.directory.join("text.so");
    std::fs::write(&text, "not a library").unwrap();
    let unloadable = open_error(with(&text));
    assert!(matches!(unloadable, OpenError::ModuleNotLoadable(..)), "{unloadable:?}");
    assert_says(&unloadable, &["text.so", "ldd"]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_library_without_pkcs11_is_told() {
    let settings = Pkcs11Settings { module: "libm.so.6".into(), ..SoftHsm::get().settings() };
    let error = open_error(settings);
    assert!(matches!(error, OpenError::NotPkcs11(_)), "{error:?}");
    assert_says(&error, &["libm.so.6", "not a PKCS#11 module"]);
}

#[test]
fn tokens_are_chosen_by_label_serial_or_slot_and_the_wrong_choice_lists_them() {
    let softhsm = SoftHsm::get();
    let open = |token| Pkcs11Inline::open_on(module(), softhsm.settings_for(token, PIN));
    let serial = open(TokenChoice::Label(TOKEN.into())).unwrap().health().id;
    assert!(open(TokenChoice::Serial(serial.clone())).is_ok());

    let absent = open(TokenChoice::Label("absent".into())).err().unwrap();
    let OpenError::NoSuchToken { seen, .. } = &absent else { panic!("{absent:?}") };
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_says(&absent, &["label \"absent\"", "label \"xks\"", &serial, "label \"twin\""]);
    let slot = seen.iter().find(|token| token.label == TOKEN).unwrap().slot;
    assert!(open(TokenChoice::Slot(slot)).is_ok());
    assert!(open(TokenChoice::Slot(u64::MAX - 1)).is_err());

    let twins = open(TokenChoice::Label(TWINS.into())).err().unwrap();
    assert!(matches!(twins, OpenError::AmbiguousToken { .. }), "{twins:?}");
    assert_says(&twins, &["several", "serial"]);
}

#[test]
fn a_wrong_pin_is_told() {
    let open = |pin| {
        let settings = SoftHsm::get().settings_for(TokenChoice::Label(SPARE.into()), pin);
        Pkcs11Inline::open_on(module(), settings)
    };
    for pin in ["9999", ""] {
        let error = open(pin).err().unwrap();
        assert!(matches!(error, OpenError::PinIncorrect(_)), "{error:?}");
        assert_says(&error, &["label \"spare\"", "not tried a second time"]);
    }
    assert!(open(PIN).is_ok());
}

#[test]
fn settings_out_of_range_are_told() {
    let softhsm = SoftHsm::get();
    for settings in [
        Pkcs11Settings { sessions_max: 0, ..softhsm.settings() },
        Pkcs11Settings { queue_max: 0, ..softhsm.settings() },
        Pkcs11Settings { set_aside_max: 1025, ..softhsm.settings() },
    ] {
        assert!(matches!(open_error(settings), OpenError::Setting { .. }));
    }
}
