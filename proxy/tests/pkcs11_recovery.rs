//! What becomes of the PKCS#11 implementation when a real SoftHSM2 changes or breaks under it. One test at a
//! time, since they change the library's state for the whole process.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "common/softhsm.rs"]
mod softhsm;

use cryptoki::context::Pkcs11;
use cryptoki::object::Attribute;
use cryptoki::session::SessionState;
use cryptoki::types::AuthPin;
use softhsm::{PIN, SPARE, SoftHsm, TOKEN};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use xks_proxy::hsm::pkcs11::{Module, Pkcs11Hsm, Pkcs11Inline, TokenChoice};
use xks_proxy::hsm::{Aad, HealthStatus, Hsm, HsmError, HsmErrorKind};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

/// Held by the running test. The library is not initialised when a test begins.
async fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::const_new(());
    let guard = RUNNING.lock().await;
    let pkcs11 = Pkcs11::new(&SoftHsm::get().module).unwrap();
    let _ = pkcs11.finalize();
    guard
}

/// As the library is seen by another part of the process.
fn behind_our_back() -> Pkcs11 {
    Pkcs11::new(&SoftHsm::get().module).unwrap()
}

fn open(sessions: usize) -> Pkcs11Hsm {
    let mut settings = SoftHsm::get().settings();
    settings.sessions_max = sessions;
    Pkcs11Hsm::open(settings).unwrap()
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

async fn round_trip(hsm: &Pkcs11Hsm) -> Result<(), HsmError> {
    let plaintext = Plaintext::new(vec![9; 32]);
    let sealed = hsm.encrypt(&key("foo"), &aad(), &plaintext, soon()).await?;
    assert_eq!(hsm.decrypt(&key("foo"), &aad(), &sealed, soon()).await?, plaintext);
    Ok(())
}

fn close(hsm: &Pkcs11Hsm) {
    assert!(hsm.close(Duration::from_secs(60)), "a session does not close");
}

#[tokio::test]
async fn a_key_that_comes_or_goes_is_noticed() {
    let _alone = alone().await;
    let hsm = open(2);
    let name = key("passing key");
    assert_eq!(kind(hsm.describe(&name, soon()).await), Err(HsmErrorKind::KeyNotFound));
    let pkcs11 = Pkcs11::new(&SoftHsm::get().module).unwrap();
    let session = softhsm::user_session(&pkcs11, TOKEN, PIN);
    softhsm::aes_key(&session, "passing key", b"\x20", 32, true, true);
    let plaintext = Plaintext::new(vec![1]);
    // More than the sessions there are, so that each has the key's handle.
    for _ in 0..8 {
        assert!(hsm.encrypt(&name, &aad(), &plaintext, soon()).await.is_ok(), "an absence is not remembered");
    }
    let handle = session.find_objects(&[Attribute::Label(b"passing key".to_vec())]).unwrap()[0];
    session.destroy_object(handle).unwrap();
    for _ in 0..8 {
        let outcome = hsm.encrypt(&name, &aad(), &plaintext, soon()).await;
        assert_eq!(kind(outcome), Err(HsmErrorKind::KeyNotFound));
    }
    // A new key of the same name is another key.
    softhsm::aes_key(&session, "passing key", b"\x21", 32, true, true);
    assert!(hsm.encrypt(&name, &aad(), &plaintext, soon()).await.is_ok());
    drop(session);
    close(&hsm);
}

#[tokio::test]
async fn a_key_that_is_allowed_more_is_noticed() {
    let _alone = alone().await;
    let hsm = open(2);
    let name = key("promoted key");
    let pkcs11 = Pkcs11::new(&SoftHsm::get().module).unwrap();
    let session = softhsm::user_session(&pkcs11, TOKEN, PIN);
    softhsm::aes_key(&session, "promoted key", b"\x22", 32, true, false);
    let plaintext = Plaintext::new(vec![1]);
    let sealed = hsm.encrypt(&name, &aad(), &plaintext, soon()).await.unwrap();
    // More than the sessions there are, so that each has heard what the key may not do.
    for _ in 0..8 {
        let outcome = hsm.decrypt(&name, &aad(), &sealed, soon()).await;
        assert_eq!(kind(outcome), Err(HsmErrorKind::UsageRefused));
    }
    let handle = session.find_objects(&[Attribute::Label(b"promoted key".to_vec())]).unwrap()[0];
    session.update_attributes(handle, &[Attribute::Decrypt(true)]).unwrap();
    for _ in 0..8 {
        assert_eq!(kind(hsm.decrypt(&name, &aad(), &sealed, soon()).await), Ok(plaintext.clone()));
    }
    session.destroy_object(handle).unwrap();
    drop(session);
    close(&hsm);
}

// Finalising a library under a running call is undefined, so whoever does it here makes sure that no thread of ours is
// inside: one session only, and its requests answered.
#[tokio::test]
async fn a_library_that_was_finalised_is_initialised_again_unnoticed() {
    let _alone = alone().await;
    let hsm = open(1);
    for _ in 0..3 {
        for _ in 0..4 {
            assert_eq!(round_trip(&hsm).await, Ok(()));
        }
        behind_our_back().finalize().unwrap();
    }
    assert_eq!(hsm.health(soon()).await[0].status, HealthStatus::Active);
    close(&hsm);
}

/// A login lasts as long as the last of its sessions, so this tells whether there is one.
fn some_session_is_open() -> bool {
    let pkcs11 = behind_our_back();
    let session = pkcs11.open_ro_session(softhsm::slot(&pkcs11, TOKEN)).unwrap();
    session.get_session_info().unwrap().session_state() == SessionState::RoUser
}

#[tokio::test]
async fn sessions_of_a_library_that_was_finalised_do_not_touch_those_that_came_after() {
    let _alone = alone().await;
    let settings = SoftHsm::get().settings();
    let module = Module::load(&settings.module).unwrap();
    let open = || Pkcs11Inline::open_on(Arc::clone(&module), settings.clone()).unwrap();
    let (first, second) = (open(), open());
    behind_our_back().finalize().unwrap();
    // The second one's new session has the number that the first one's had before.
    assert!(second.describe(&key("foo")).is_ok());
    assert!(first.describe(&key("foo")).is_ok());
    drop(second);
    assert!(some_session_is_open(), "they must not share one");
    drop(first);
    assert!(!some_session_is_open());

    // Again from the first number on.
    behind_our_back().finalize().unwrap();
    let (first, second) = (open(), open());
    behind_our_back().finalize().unwrap();
    assert!(second.describe(&key("foo")).is_ok());
    drop(first);
    assert!(some_session_is_open(), "a session from before must not close one that came after");
    drop(second);
    assert!(!some_session_is_open());
}

#[tokio::test]
async fn a_lost_login_is_renewed_unnoticed() {
    let _alone = alone().await;
    let hsm = open(4);
    assert_eq!(round_trip(&hsm).await, Ok(()));
    let pkcs11 = behind_our_back();
    for _ in 0..3 {
        // Login belongs to the process: this logs out every session.
        softhsm::user_session(&pkcs11, TOKEN, PIN).logout().unwrap();
        for _ in 0..8 {
            assert_eq!(round_trip(&hsm).await, Ok(()));
        }
    }
    softhsm::user_session(&pkcs11, TOKEN, PIN).logout().unwrap();
    assert_eq!(hsm.health(soon()).await[0].status, HealthStatus::Active);
    close(&hsm);
}

#[tokio::test]
async fn a_token_that_vanishes_and_comes_back_is_found_again() {
    let _alone = alone().await;
    let hsm = open(1);
    assert_eq!(round_trip(&hsm).await, Ok(()));
    let tokens = SoftHsm::get().directory.join("tokens");
    let hidden = SoftHsm::get().directory.join("hidden");
    std::fs::rename(&tokens, &hidden).unwrap();
    std::fs::create_dir(&tokens).unwrap();
    behind_our_back().finalize().unwrap();
    // SoftHSM2 now knows no token; each request hears that at once, although its deadline is far.
    for _ in 0..20 {
        assert_eq!(kind(round_trip(&hsm).await), Err(HsmErrorKind::DeviceGone));
        assert_eq!(hsm.health(soon()).await[0].status, HealthStatus::Unavailable);
    }
    std::fs::remove_dir(&tokens).unwrap();
    std::fs::rename(&hidden, &tokens).unwrap();
    // SoftHSM2 reads its tokens only when it is initialised: this needs the reset.
    let give_up_at = soon();
    while round_trip(&hsm).await.is_err() {
        assert!(Instant::now() < give_up_at, "it does not recover");
        tokio::task::yield_now().await;
    }
    close(&hsm);
}

#[tokio::test]
async fn a_pin_that_was_refused_is_not_tried_again() {
    let _alone = alone().await;
    let settings = SoftHsm::get().settings_for(TokenChoice::Label(SPARE.into()), PIN);
    let inline = Pkcs11Inline::open(settings).unwrap();
    assert_eq!(inline.health().status, HealthStatus::Active);
    let change_pin = |from: &str, to: &str| {
        let pkcs11 = behind_our_back();
        let session = softhsm::user_session(&pkcs11, SPARE, from);
        session.set_pin(&AuthPin::new(from.into()), &AuthPin::new(to.into())).unwrap();
        session.logout().unwrap();
    };
    change_pin(PIN, "7777");
    assert_eq!(inline.health().status, HealthStatus::Unavailable);
    let refused = inline.describe(&key("any")).unwrap_err();
    assert!(refused.detail.contains("refuses the PIN"), "{refused}");
    // Even with the PIN right again, nobody tries: whether it is right can only be found out by a login.
    change_pin("7777", PIN);
    assert_eq!(inline.describe(&key("any")).unwrap_err(), refused);
}
