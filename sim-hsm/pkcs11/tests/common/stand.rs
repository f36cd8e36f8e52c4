//! The whole proxy core over SoftHSM2, with the fault-injecting module between: requests go in signed, and what the
//! caller sees comes out.

#![allow(dead_code, reason = "each test program uses its own part of this")]

use crate::shim::Shim;
use crate::softhsm::{KNOWN_KEY, PIN, TOKEN};
use crate::support::{self, CREDENTIAL, Events, PREFIX, Reply, signed_at};
use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use cryptoki::context::Pkcs11;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;
use xks_proxy::app::{App, KeyStore, Limits, Settings};
use xks_proxy::env::{Env, SystemEnv};
use xks_proxy::events::Subscriber;
use xks_proxy::hsm::Hsm;
use xks_proxy::hsm::pkcs11::{Module, OpenError, Pkcs11Hsm, Pkcs11Settings, TokenChoice};
use xks_proxy::key::UriPrefix;
use xks_proxy::secret::Secret;
use xks_proxy::sigv4::Credential;

/// What a test that waits for something it cannot be told of waits at most.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Held by the running test: a process has one library, and that one control file.
pub(crate) async fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::const_new(());
    let guard = RUNNING.lock().await;
    Shim::get().heal();
    guard
}

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Metadata,
    Encrypt,
    /// With the integrity value (CDIV), for which the proxy decrypts what it has made.
    EncryptChecked,
    Decrypt,
}

impl Ask {
    pub(crate) const ALL: [Self; 4] = [Self::Metadata, Self::Encrypt, Self::EncryptChecked, Self::Decrypt];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Metadata => "GetKeyMetadata",
            Self::Encrypt => "Encrypt",
            Self::EncryptChecked => "Encrypt with CDIV",
            Self::Decrypt => "Decrypt",
        }
    }

    /// The PKCS#11 function that begins it.
    pub(crate) fn function(self) -> &'static str {
        match self {
            Self::Metadata => "C_FindObjectsInit",
            Self::Encrypt | Self::EncryptChecked => "C_EncryptInit",
            Self::Decrypt => "C_DecryptInit",
        }
    }
}

/// The proxy, and a library handle to ask the module for its counters with.
pub(crate) struct Stand {
    pub(crate) app: App,
    pub(crate) module: Arc<Module>,
    pub(crate) hsm: Arc<Pkcs11Hsm>,
    pub(crate) events: Arc<Events>,
    pub(crate) shim: &'static Shim,
    pkcs11: Pkcs11,
    /// What the key `known` made of [`PLAINTEXT`] while all was well.
    sealed: Option<Value>,
}

/// In Base64.
const PLAINTEXT: &str = "cGxhaW50ZXh0";

pub(crate) fn settings(sessions_max: usize) -> Pkcs11Settings {
    let pin = Secret::new(PIN.into());
    let token = TokenChoice::Label(TOKEN.into());
    Pkcs11Settings { sessions_max, ..Pkcs11Settings::new(&Shim::get().module, token, pin) }
}

impl Stand {
    /// With one session, open and used: so each answer under a fault depends on nothing else.
    pub(crate) async fn healthy(deadline: Duration) -> Self {
        Self::healthy_with(settings(1), deadline).await
    }

    /// With these settings, and all sessions open.
    pub(crate) async fn healthy_with(settings: Pkcs11Settings, deadline: Duration) -> Self {
        let sessions = settings.sessions_max;
        let mut stand = Self::start(settings, deadline).unwrap();
        stand.until(|stats| stats["sessions_open"] == sessions).await;
        let sealed = stand.encrypt("known").await;
        stand.sealed = Some(support::decrypt(&sealed));
        for ask in Ask::ALL {
            assert_eq!(stand.ask(ask).await, "200", "before any fault");
        }
        stand
    }

    /// However it is.
    pub(crate) fn start(settings: Pkcs11Settings, deadline: Duration) -> Result<Self, OpenError> {
        let shim = Shim::get();
        let module = Module::load(&shim.module)?;
        let hsm = Arc::new(Pkcs11Hsm::start_on(Arc::clone(&module), settings)?);
        let events = Arc::new(Events::default());
        let credential = Credential::new(CREDENTIAL.0, Secret::new(CREDENTIAL.1.into())).unwrap();
        let door: Arc<dyn Hsm> = Arc::<Pkcs11Hsm>::clone(&hsm);
        let store = KeyStore::new("one", UriPrefix::parse(PREFIX).unwrap(), vec![credential], door);
        let settings = Settings { limits: Limits { deadline, ..Limits::default() }, ..Settings::default() };
        let subscriber: Arc<dyn Subscriber> = Arc::<Events>::clone(&events);
        let app = App::new(settings, vec![store], Arc::new(SystemEnv), subscriber).unwrap();
        let pkcs11 = Pkcs11::new(&shim.module).unwrap();
        Ok(Self { app, module, hsm, events, shim, pkcs11, sealed: None })
    }

    /// What the caller sees: the status, the error's name and the return value behind it; also whether the result
    /// of a 200 is right.
    pub(crate) async fn ask(&self, ask: Ask) -> String {
        let reply = match ask {
            Ask::Metadata => {
                self.send("keys/known/metadata", json!({ "requestMetadata": support::metadata() }))
            }
            Ask::Encrypt => self.send("keys/known/encrypt", support::encrypt(PLAINTEXT)),
            Ask::EncryptChecked => {
                let body = support::with(
                    support::encrypt(PLAINTEXT),
                    "ciphertextDataIntegrityValueAlgorithm",
                    json!("SHA_256"),
                );
                self.send("keys/known/encrypt", body)
            }
            Ask::Decrypt => self.send("keys/known/decrypt", self.sealed.clone().unwrap()),
        };
        let reply = reply.await;
        if reply.status != 200 {
            let name = reply.text("errorName");
            let rv = self.events.last().ck_rv.map_or(String::new(), |rv| format!(" ({rv:#04x})"));
            return format!("{} {name}{rv}", reply.status);
        }
        let right = match ask {
            Ask::Metadata => true,
            Ask::Encrypt | Ask::EncryptChecked => opens_with_known_key(&reply),
            Ask::Decrypt => reply.text("plaintext") == PLAINTEXT,
        };
        if !right {
            return "200 with a wrong result".into();
        }
        "200".into()
    }

    /// An Encrypt of any key that has to succeed.
    pub(crate) async fn encrypt(&self, key: &str) -> Reply {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let reply = self.send(&format!("keys/{key}/encrypt"), support::encrypt(PLAINTEXT)).await;
            if reply.status == 200 {
                return reply;
            }
            assert!(Instant::now() < give_up_at, "{:?}", reply.body);
        }
    }

    /// Sends a signed request.
    pub(crate) async fn send(&self, operation: &str, body: Value) -> Reply {
        let request = signed_at(&support::uri(operation), body.to_string(), CREDENTIAL, SystemEnv.now());
        let (head, body) = xks_proxy::http::handle(&self.app, request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// What the module has counted so far.
    pub(crate) fn stats(&self) -> Value {
        let _ = self.pkcs11.get_library_info();
        self.shim.stats()
    }

    /// How often the HSM was asked to do this; each attempt begins with one of these calls.
    pub(crate) fn attempts(&self, ask: Ask) -> u64 {
        let stats = self.stats();
        let calls = |function: &str| stats["calls"][function].as_u64().unwrap_or(0);
        match ask {
            // The IV comes first.
            Ask::Encrypt | Ask::EncryptChecked => calls("C_GenerateRandom"),
            Ask::Metadata | Ask::Decrypt => calls(ask.function()),
        }
    }

    /// Waits until the counters are as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&Value) -> bool) {
        let give_up_at = Instant::now() + PATIENCE;
        loop {
            let stats = self.stats();
            if wanted(&stats) {
                return;
            }
            assert!(Instant::now() < give_up_at, "it never comes true: {stats}");
            tokio::task::yield_now().await;
        }
    }

    /// Lets the faults end, and asks until all is well; how long that took.
    pub(crate) async fn heal(&self, ask: Ask) -> Duration {
        self.shim.heal();
        let begun = Instant::now();
        loop {
            let answer = self.ask(ask).await;
            if answer == "200" {
                return begun.elapsed();
            }
            let found = (answer, self.hsm.stats());
            assert!(begun.elapsed() < PATIENCE, "service does not resume: {found:?}");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) fn close(self) {
        self.shim.heal();
        assert!(self.hsm.close(PATIENCE), "a call does not return");
        assert_eq!(self.stats()["sessions_open"], 0, "a session is left open");
    }
}

/// Opens what the key `known` sealed, without any HSM. An AAD of its own KMS did not send.
pub(crate) fn opens_with_known_key(reply: &Reply) -> bool {
    let bytes = |field: &str| base64(&reply.text(field));
    let (iv, metadata) = (bytes("initializationVector"), bytes("ciphertextMetadata"));
    let sealed = [bytes("ciphertext"), bytes("authenticationTag")].concat();
    let mut aad = vec![0, 0, u8::try_from(metadata.len()).unwrap()];
    aad.extend_from_slice(&metadata);
    let nonce = Nonce::from(<[u8; 12]>::try_from(iv).unwrap());
    Aes256Gcm::new(&KNOWN_KEY.into()).decrypt(&nonce, Payload { msg: &sealed, aad: &aad }).is_ok()
}

fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bits = 0_u32;
    let mut bytes = Vec::new();
    for (index, digit) in text.bytes().filter(|digit| *digit != b'=').enumerate() {
        bits = (bits << 6) | u32::try_from(DIGITS.iter().position(|known| *known == digit).unwrap()).unwrap();
        if index % 4 != 0 {
            bytes.push(u8::try_from((bits >> (6 - 2 * (index % 4))) & 0xff).unwrap());
        }
    }
    bytes
}
