//! The real proxy core on a real socket, over a small HSM of AES-GCM, which can be stopped and started.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use rustls::pki_types::PrivateKeyDer;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use xks_proxy::app::{App, KeyStore, Settings};
use xks_proxy::env::SystemEnv;
use xks_proxy::events::{AuditEvent, Subscriber};
use xks_proxy::hsm::{
    Aad, Answer, DeviceHealth, HealthStatus, Hsm, HsmError, HsmErrorKind, Iv, KeyFacts, KeySpec, Sealed,
};
use xks_proxy::key::{KeyName, UriPrefix};
use xks_proxy::secret::{Plaintext, Secret};
use xks_proxy::server::{Listen, serve};
use xks_proxy::tls::ServerTls;

pub(crate) const ACCESS_KEY_ID: &str = "BETAWXOPQLAGCMTVZNNA";
pub(crate) const SECRET: &str = "PdfLZGqRK4c7GoHFwdjBcGrO0MYWr2pVZg7a0dKAr5k";
pub(crate) const PREFIXES: [&str; 2] = ["/one", "/two"];

/// One AES-256 key under every label but `no-such-key`; IVs count up.
struct StubHsm {
    cipher: Aes256Gcm,
    next_iv: AtomicU64,
    /// Decrypts, and changes a bit.
    lies: Arc<AtomicBool>,
}

fn known(key: &KeyName) -> Result<(), HsmError> {
    let unknown = format!("{key:?}").contains("no-such-key");
    if unknown { Err(HsmError::new(HsmErrorKind::KeyNotFound, "no such key")) } else { Ok(()) }
}

impl Hsm for StubHsm {
    fn describe<'a>(&'a self, key: &'a KeyName, _deadline: Instant) -> Answer<'a, KeyFacts> {
        Box::pin(async move {
            known(key)?;
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
        Box::pin(async move {
            known(key)?;
            let mut iv = [0; 12];
            iv[4..].copy_from_slice(&self.next_iv.fetch_add(1, Ordering::Relaxed).to_be_bytes());
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
        Box::pin(async move {
            known(key)?;
            let whole = [&sealed.ciphertext[..], &sealed.tag].concat();
            let payload = Payload { msg: &whole, aad: aad.as_bytes() };
            let rejected = || HsmError::new(HsmErrorKind::CiphertextRejected, "tag");
            let nonce = Nonce::try_from(sealed.iv.as_bytes()).map_err(|_| rejected())?;
            let mut plaintext = self.cipher.decrypt(&nonce, payload).map_err(|_| rejected())?;
            plaintext[20] ^= u8::from(self.lies.load(Ordering::Relaxed));
            Ok(Plaintext::new(plaintext))
        })
    }

    fn health<'a>(
        &'a self,
        _deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async {
            vec![DeviceHealth { id: "stub".into(), model: "stub".into(), status: HealthStatus::Active }]
        })
    }
}

/// Keeps what the proxy says of each request.
#[derive(Default)]
pub(crate) struct Log(Mutex<Vec<AuditEvent>>);

impl Log {
    pub(crate) fn all(&self) -> Vec<AuditEvent> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> AuditEvent {
        self.all().pop().unwrap()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl Subscriber for Log {
    fn audit(&self, event: &AuditEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

struct Door(TcpListener);

impl Listen for Door {
    type Io = TcpStream;

    async fn accept(&mut self) -> std::io::Result<TcpStream> {
        Ok(self.0.accept().await?.0)
    }
}

/// A proxy with a key store under each of [`PREFIXES`].
pub(crate) struct Proxy {
    pub(crate) url: String,
    pub(crate) log: Arc<Log>,
    /// What to trust, with TLS.
    pub(crate) authority_pem: Option<String>,
    /// Makes its HSM lie.
    pub(crate) lies: Arc<AtomicBool>,
    server: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// With TLS, and a certificate of this name, if one is given.
    #[expect(clippy::disallowed_methods, reason = "the tests' own server")]
    pub(crate) async fn start(tls_name: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let lies = Arc::new(AtomicBool::new(false));
        let hsm: Arc<dyn Hsm> = Arc::new(StubHsm {
            cipher: Aes256Gcm::new(&[9; 32].into()),
            next_iv: AtomicU64::new(1),
            lies: Arc::clone(&lies),
        });
        let stores = PREFIXES.map(|prefix| {
            let secret = Secret::new(SECRET.into());
            let credential = xks_proxy::sigv4::Credential::new(ACCESS_KEY_ID, secret).unwrap();
            let uri_prefix = UriPrefix::parse(prefix).unwrap();
            KeyStore {
                region: Some("us-east-1".into()),
                ..KeyStore::new(&prefix[1..], uri_prefix, vec![credential], Arc::clone(&hsm))
            }
        });
        let mut settings = Settings::default();
        // A busy machine must not make the proxy answer 503 instead of what is tested.
        settings.limits.deadline = Duration::from_secs(20);
        let log = Arc::new(Log::default());
        let subscriber = Arc::clone(&log) as Arc<dyn Subscriber>;
        let app = App::new(settings, stores.into(), Arc::new(SystemEnv), subscriber).unwrap();
        let (tls, authority_pem) = tls_name.map(certified).unzip();
        let url = format!("{}://127.0.0.1:{port}", if tls.is_some() { "https" } else { "http" });
        let server = tokio::spawn(serve(Door(listener), Arc::new(app), tls, std::future::pending()));
        Self { url, log, authority_pem, lies, server }
    }

    /// Nothing listens from now on, and every connection is closed.
    pub(crate) async fn stop(&self) {
        self.server.abort();
        while !self.server.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}

fn certified(name: &str) -> (Arc<ServerTls>, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config =
        xks_proxy::tls::server_config(vec![made.cert.der().clone()], key, Arc::new(SystemEnv)).unwrap();
    (ServerTls::new(config), made.cert.pem())
}
