//! A group over two tokens of a real SoftHSM2 that hold the same key, and a third member that hangs.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking"
)]

#[path = "common/softhsm.rs"]
#[allow(dead_code, reason = "each test program uses its own part of this")]
mod softhsm;

mod support;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use softhsm::{KNOWN_KEY, PIN, SPARE, SoftHsm, TOKEN, user_session};
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use support::{World, decrypt, encrypt, with};
use tokio::time::Instant;
use xks_proxy::app::Limits;
use xks_proxy::hsm::group::{BreakerState, GroupSettings, HsmGroup, Member};
use xks_proxy::hsm::monitored::{MonitorSettings, Monitored};
use xks_proxy::hsm::pkcs11::{Module, Pkcs11Hsm, TokenChoice};
use xks_proxy::hsm::{Aad, Answer, DeviceHealth, HealthStatus, Hsm, HsmErrorKind, KeyFacts, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

/// The library, loaded once, after the key `known` has been put into the second token too.
fn module() -> Arc<Module> {
    static MODULE: OnceLock<Arc<Module>> = OnceLock::new();
    Arc::clone(MODULE.get_or_init(|| {
        let softhsm = SoftHsm::get();
        let pkcs11 = Pkcs11::new(&softhsm.module).unwrap();
        pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
        let session = user_session(&pkcs11, SPARE, PIN);
        let key = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::AES),
            Attribute::Value(KNOWN_KEY.to_vec()),
            Attribute::Token(true),
            Attribute::Label("known".into()),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
        ];
        session.create_object(&key).unwrap();
        // Two keys under one name, as when the key was made anew in the second token and not cloned.
        for (token, value) in [(TOKEN, [1; 32]), (SPARE, [2; 32])] {
            let session = user_session(&pkcs11, token, PIN);
            let mut torn = key.clone();
            torn[2] = Attribute::Value(value.to_vec());
            torn[4] = Attribute::Label("torn".into());
            session.create_object(&torn).unwrap();
        }
        drop(session);
        pkcs11.finalize().unwrap();
        Module::load(&softhsm.module).unwrap()
    }))
}

fn open(token: &str) -> Arc<Pkcs11Hsm> {
    let mut settings = SoftHsm::get().settings_for(TokenChoice::Label(token.into()), PIN);
    settings.sessions_max = 2;
    settings.health_key = Some(KeyName::label("known"));
    Arc::new(Pkcs11Hsm::open_on(module(), settings).unwrap())
}

/// A library that never comes back. Counts its calls.
#[derive(Default)]
struct Hung(AtomicUsize);

impl Hung {
    fn hang<'a, T: Send + 'a>(&'a self) -> Answer<'a, T> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Box::pin(pending())
    }
}

impl Hsm for Hung {
    fn describe<'a>(&'a self, _: &'a KeyName, _: Instant) -> Answer<'a, KeyFacts> {
        self.hang()
    }

    fn encrypt<'a>(&'a self, _: &'a KeyName, _: &'a Aad, _: &'a Plaintext, _: Instant) -> Answer<'a, Sealed> {
        self.hang()
    }

    fn decrypt<'a>(&'a self, _: &'a KeyName, _: &'a Aad, _: &'a Sealed, _: Instant) -> Answer<'a, Plaintext> {
        self.hang()
    }

    fn health<'a>(&'a self, _: Instant) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(pending())
    }
}

fn aad() -> Aad {
    Aad::frame(b"aad", b"").unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn close(hsms: &[Arc<Pkcs11Hsm>]) {
    hsms.iter().for_each(|hsm| assert!(hsm.close(Duration::from_secs(60)), "a session does not close"));
}

#[tokio::test]
async fn what_one_token_encrypts_the_other_decrypts() {
    let hsms = [open(TOKEN), open(SPARE)];
    let members = hsms.iter().zip(["first", "second"]);
    let members = members.map(|(hsm, name)| Member::new(name, Arc::<Pkcs11Hsm>::clone(hsm) as Arc<dyn Hsm>));
    let group = HsmGroup::new(members.collect(), GroupSettings::default()).unwrap();
    let (key, plaintext) = (KeyName::label("known"), Plaintext::new(b"a data key".to_vec()));
    for _ in 0..8 {
        let sealed = group.encrypt(&key, &aad(), &plaintext, soon()).await.unwrap();
        for hsm in &hsms {
            assert_eq!(hsm.decrypt(&key, &aad(), &sealed, soon()).await, Ok(plaintext.clone()));
        }
        assert_eq!(group.decrypt(&key, &aad(), &sealed, soon()).await, Ok(plaintext.clone()));
        let mut changed = sealed;
        changed.tag[0] ^= 1;
        let refused = group.decrypt(&key, &aad(), &changed, soon()).await.unwrap_err();
        assert_eq!(refused.kind, HsmErrorKind::CiphertextRejected);
    }
    // A key that only the first token has, as after its creation there: the group finds it.
    for _ in 0..4 {
        assert!(group.describe(&KeyName::label("foo"), soon()).await.is_ok());
    }
    let nowhere = group.describe(&KeyName::label("nowhere"), soon()).await.unwrap_err();
    assert_eq!(nowhere.kind, HsmErrorKind::KeyNotFound);
    assert!(group.breakers().iter().all(|breaker| breaker.state == BreakerState::Closed));
    close(&hsms);
}

/// XKS-ENC-9 and a group whose members hold different keys under one name: the verifying decryption, which goes to the
/// other member by turns, used to call half of the ciphertexts wrong, and so did Decrypt.
#[tokio::test]
async fn members_with_different_keys_still_open_what_each_has_made() {
    let hsms = [open(TOKEN), open(SPARE)];
    let members = hsms.iter().zip(["first", "second"]);
    let members = members.map(|(hsm, name)| Member::new(name, Arc::<Pkcs11Hsm>::clone(hsm) as Arc<dyn Hsm>));
    let group = HsmGroup::new(members.collect(), GroupSettings::default()).unwrap();
    let limits = Limits { deadline: Duration::from_secs(10), ..Limits::default() };
    let world = World::with(limits, |store| store.hsm = Arc::new(group));
    let sealing = with(encrypt("ZGF0YQ=="), "ciphertextDataIntegrityValueAlgorithm", "SHA_256".into());
    for _ in 0..8 {
        let sealed = world.call("keys/torn/encrypt", &sealing).await;
        for _ in 0..2 {
            let opened = world.call("keys/torn/decrypt", &decrypt(&sealed)).await;
            assert_eq!(opened.is_ok().text("plaintext"), "ZGF0YQ==");
        }
        let changed = with(decrypt(&sealed), "authenticationTag", "AAAAAAAAAAAAAAAAAAAAAA==".into());
        world.call("keys/torn/decrypt", &changed).await.is_error(400, "InvalidCiphertextException");
    }
    drop(world);
    close(&hsms);
}

#[tokio::test]
async fn a_library_that_hangs_takes_no_neighbour_down() {
    let hsms = [open(TOKEN), open(SPARE)];
    let hung = Arc::new(Hung::default());
    let settings = MonitorSettings { deadline: Duration::from_secs(4), ..MonitorSettings::default() };
    let monitored = |name: &str, hsm: Arc<dyn Hsm>| Arc::new(Monitored::new(name, hsm, settings));
    let monitors = [
        monitored("hung", Arc::<Hung>::clone(&hung) as _),
        monitored("first", Arc::<Pkcs11Hsm>::clone(&hsms[0]) as _),
        monitored("second", Arc::<Pkcs11Hsm>::clone(&hsms[1]) as _),
    ];
    let names = ["hung", "first", "second"];
    let members =
        names.iter().zip(&monitors).map(|(name, monitor)| Member::monitored(*name, Arc::clone(monitor)));
    // The hung member gets a hundredth of ten seconds, so that the test is quick and the others are never hurried.
    let group_settings = GroupSettings { attempt_share_percent: 1, ..GroupSettings::default() };
    let group = HsmGroup::new(members.collect(), group_settings).unwrap();

    let (key, plaintext) = (KeyName::label("known"), Plaintext::new(b"a data key".to_vec()));
    for _ in 0..40 {
        let sealed = group.encrypt(&key, &aad(), &plaintext, soon()).await.unwrap();
        assert_eq!(group.decrypt(&key, &aad(), &sealed, soon()).await, Ok(plaintext.clone()));
    }
    let hung_now = group.breakers().into_iter().find(|breaker| breaker.member == "hung").unwrap();
    assert_eq!((hung_now.opened, hung_now.failovers >= 5), (1, true), "{hung_now:?}");
    assert!(hung.0.load(Ordering::Relaxed) < 10, "it is left alone");

    let devices = group.health(Instant::now() + Duration::from_secs(4)).await;
    let states: Vec<HealthStatus> = devices.iter().map(|device| device.status).collect();
    assert_eq!((states[0], devices[0].id.as_str()), (HealthStatus::Unavailable, "hung"));
    assert!(!states[1..].contains(&HealthStatus::Unavailable), "{states:?}");
    close(&hsms);
}
