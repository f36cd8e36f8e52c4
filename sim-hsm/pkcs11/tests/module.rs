//! The module as a program sees it that loads it instead of SoftHSM2. One test at a time: a process has one library.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "common/shim.rs"]
mod shim;
#[path = "../../../proxy/tests/common/softhsm.rs"]
#[allow(dead_code, reason = "the proxy's tests use the rest")]
mod softhsm;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, Result, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use shim::Shim;
use softhsm::{PIN, SoftHsm, TOKEN};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

struct Bench {
    shim: &'static Shim,
    pkcs11: Pkcs11,
    _alone: MutexGuard<'static, ()>,
}

impl Bench {
    fn new() -> Self {
        static RUNNING: Mutex<()> = Mutex::new(());
        let alone = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        let shim = Shim::get();
        shim.heal();
        let pkcs11 = Pkcs11::new(&shim.module).unwrap();
        let bench = Self { shim, pkcs11, _alone: alone };
        bench.initialise().unwrap();
        bench
    }

    fn initialise(&self) -> Result<()> {
        self.pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
    }

    fn session(&self) -> Session {
        softhsm::user_session(&self.pkcs11, TOKEN, PIN)
    }

    fn stats(&self) -> serde_json::Value {
        self.pkcs11.get_library_info().unwrap();
        self.shim.stats()
    }

    fn calls(&self, function: &str) -> u64 {
        self.stats()["calls"][function].as_u64().unwrap_or(0)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shim.heal();
        let _ = self.pkcs11.clone().finalize();
    }
}

fn key(session: &Session, label: &str) -> ObjectHandle {
    session.find_objects(&[Attribute::Label(label.into())]).unwrap()[0]
}

fn encrypt(session: &Session, key: ObjectHandle) -> Result<Vec<u8>> {
    let mut iv = [7; 12];
    let params = GcmParams::new(&mut iv, b"aad", 128.into())?;
    session.encrypt(&Mechanism::AesGcm(params), key, b"plaintext")
}

#[track_caller]
fn says<T: std::fmt::Debug>(outcome: Result<T>, expected: RvError) {
    match outcome {
        Err(Error::Pkcs11(rv, _)) => assert_eq!(rv, expected),
        other => panic!("{other:?} and not {expected:?}"),
    }
}

#[test]
fn without_faults_it_is_the_real_module() {
    let bench = Bench::new();
    let real = Pkcs11::new(&SoftHsm::get().module).unwrap();
    let session = bench.session();
    let sealed = encrypt(&session, key(&session, "known")).unwrap();
    let direct = softhsm::user_session(&real, TOKEN, PIN);
    assert_eq!(encrypt(&direct, key(&direct, "known")).unwrap(), sealed);
    assert_eq!(bench.pkcs11.get_library_info().unwrap().manufacturer_id(), "SoftHSM");
    let mechanisms = |pkcs11: &Pkcs11| pkcs11.get_mechanism_list(softhsm::slot(pkcs11, TOKEN)).unwrap();
    assert_eq!(mechanisms(&bench.pkcs11), mechanisms(&real));
    let mut random = [0; 32];
    session.generate_random_slice(&mut random).unwrap();
    assert_ne!(random, [0; 32]);
    softhsm::aes_key(&session, "made through it", b"\x50", 32, true, true);
    assert!(encrypt(&session, key(&session, "made through it")).is_ok());
}

#[test]
fn return_answers_for_the_real_module_as_often_as_it_is_told() {
    let bench = Bench::new();
    let session = bench.session();
    let key = key(&session, "foo");
    bench.shim.fault(r#""C_EncryptInit""#, "action = \"return\"\nrv = \"CKR_DEVICE_ERROR\"\ncount = 2");
    says(encrypt(&session, key), RvError::DeviceError);
    says(encrypt(&session, key), RvError::DeviceError);
    assert!(encrypt(&session, key).is_ok());
    bench.shim.fault(r#"["C_Sign", "C_EncryptInit"]"#, "action = \"return\"\nrv = 0x80000001");
    says(encrypt(&session, key), RvError::VendorDefined(0x8000_0001));
    bench.shim.heal();
    assert!(encrypt(&session, key).is_ok());
}

#[test]
fn corrupt_flips_a_bit_of_what_the_program_gets() {
    let bench = Bench::new();
    let session = bench.session();
    let key = key(&session, "foo");
    let right = encrypt(&session, key).unwrap();
    bench.shim.fault(r#""C_Encrypt""#, "action = \"corrupt\"");
    let mut wrong = encrypt(&session, key).unwrap();
    wrong[0] ^= 1;
    assert_eq!(wrong, right);
}

#[test]
fn dropped_sessions_are_invalid_and_their_numbers_are_given_out_again() {
    let bench = Bench::new();
    let (first, second) = (bench.session(), bench.session());
    let number = first.handle();
    bench.shim.fault(r#""C_GenerateRandom""#, "action = \"drop-sessions\"\ncount = 1");
    says(first.generate_random_slice(&mut [0; 8]), RvError::SessionHandleInvalid);
    says(second.get_session_info(), RvError::SessionHandleInvalid);
    assert_eq!(bench.stats()["sessions_open"], 0);
    // With its last session the login has ended, which shows that the real sessions are closed too.
    let slot = softhsm::slot(&bench.pkcs11, TOKEN);
    let third = bench.pkcs11.open_ro_session(slot).unwrap();
    assert_eq!(third.handle(), number, "the old number means another session now");
    assert_eq!(third.get_session_info().unwrap().session_state(), cryptoki::session::SessionState::RoPublic);
}

#[test]
fn logout_and_finalize_happen_behind_the_programs_back() {
    let bench = Bench::new();
    let session = bench.session();
    let key = key(&session, "foo");
    bench.shim.fault(r#""C_EncryptInit""#, "action = \"logout\"\ncount = 1");
    assert!(encrypt(&session, key).is_err());
    assert_eq!(
        session.get_session_info().unwrap().session_state(),
        cryptoki::session::SessionState::RwPublic
    );
    bench.shim.fault(r#""C_EncryptInit""#, "action = \"finalize\"\ncount = 1");
    says(encrypt(&session, key), RvError::CryptokiNotInitialized);
    bench.initialise().unwrap();
    says(session.get_session_info(), RvError::SessionHandleInvalid);
    assert!(bench.session().get_session_info().is_ok());
}

#[test]
fn after_swapped_handles_an_old_handle_names_another_key() {
    let bench = Bench::new();
    let session = bench.session();
    let (known, foo) = (key(&session, "known"), key(&session, "foo"));
    let (by_known, by_foo) = (encrypt(&session, known).unwrap(), encrypt(&session, foo).unwrap());
    assert_ne!(by_known, by_foo);
    bench.shim.fault(r#""C_EncryptInit""#, "action = \"swap-handles\"\ncount = 1");
    assert_ne!(encrypt(&session, known).unwrap(), by_known, "the old handle");
    assert_eq!(encrypt(&session, key(&session, "known")).unwrap(), by_known, "a fresh one");
    assert_eq!(encrypt(&session, key(&session, "foo")).unwrap(), by_foo, "a fresh one");
}

#[test]
fn a_call_hangs_until_the_file_lets_it_go_and_holds_nobody_up() {
    let bench = Bench::new();
    let slot = softhsm::slot(&bench.pkcs11, TOKEN);
    let other = bench.session();
    bench.shim.fault(r#""C_GetSessionInfo""#, "action = \"hang\"\ncount = 1");
    let (tell, told) = channel();
    let pkcs11 = bench.pkcs11.clone();
    #[expect(clippy::disallowed_methods, reason = "a call that hangs needs a thread of its own")]
    let thread = std::thread::spawn(move || {
        let session = pkcs11.open_ro_session(slot).unwrap();
        let state = session.get_session_info().is_ok();
        tell.send(state).unwrap();
    });
    while bench.stats()["threads_inside"] != 2 {
        std::thread::yield_now();
    }
    assert!(encrypt(&other, key(&other, "foo")).is_ok(), "others go on");
    assert!(told.try_recv().is_err(), "it still hangs");
    bench.shim.heal();
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(true));
    thread.join().unwrap();
}

#[test]
fn calls_and_sessions_are_counted() {
    let bench = Bench::new();
    let before = bench.calls("C_EncryptInit");
    let sessions: Vec<_> = (0..3).map(|_| bench.session()).collect();
    let foo = key(&sessions[0], "foo");
    for session in &sessions {
        encrypt(session, foo).unwrap();
    }
    assert_eq!(bench.calls("C_EncryptInit") - before, 3);
    assert_eq!(bench.stats()["sessions_open"], 3);
    drop(sessions);
    assert_eq!(bench.stats()["sessions_open"], 0);
    assert_eq!(bench.stats()["threads_inside"], 1, "the one that asks");
}

#[test]
fn a_library_that_cannot_be_initialised_says_so() {
    let bench = Bench::new();
    bench.pkcs11.clone().finalize().unwrap();
    bench.shim.fault(r#""C_Initialize""#, "action = \"return\"\nrv = \"CKR_GENERAL_ERROR\"\ncount = 1");
    says(bench.initialise(), RvError::GeneralError);
    says(bench.pkcs11.get_slots_with_token(), RvError::CryptokiNotInitialized);
    bench.initialise().unwrap();
    assert!(bench.session().get_session_info().is_ok());
}
