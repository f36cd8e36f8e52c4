//! The real proxy core on a real socket, over a small HSM of AES-GCM, which can be stopped and started.

use crate::stub_hsm::StubHsm;
use rustls::pki_types::PrivateKeyDer;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use xks_proxy::app::{App, KeyStore, Settings};
use xks_proxy::env::SystemEnv;
use xks_proxy::events::{AuditEvent, Subscriber};
use xks_proxy::hsm::Hsm;
use xks_proxy::key::UriPrefix;
use xks_proxy::secret::Secret;
use xks_proxy::server::{Listen, serve};
use xks_proxy::tls::ServerTls;

pub(crate) const ACCESS_KEY_ID: &str = "BETAWXOPQLAGCMTVZNNA";
pub(crate) const SECRET: &str = "PdfLZGqRK4c7GoHFwdjBcGrO0MYWr2pVZg7a0dKAr5k";
pub(crate) const PREFIXES: [&str; 2] = ["/one", "/two"];

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
    pub(crate) hsm: Arc<StubHsm>,
    server: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// With TLS, and a certificate of this name, if one is given.
    pub(crate) async fn start(tls_name: Option<&str>) -> Self {
        Self::start_with(tls_name.map(certified)).await
    }

    /// With this TLS, whose one cipher suite is of TLS 1.2, and a certificate of this name.
    pub(crate) async fn with_one_suite(tls_name: &str, suite: rustls::SupportedCipherSuite) -> Self {
        let made = rcgen::generate_simple_self_signed([tls_name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = rustls::crypto::CryptoProvider {
            cipher_suites: vec![suite],
            ..rustls::crypto::aws_lc_rs::default_provider()
        };
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        Self::start_with(Some((ServerTls::new(Arc::new(config)), made.cert.pem()))).await
    }

    #[expect(clippy::disallowed_methods, reason = "the tests' own server")]
    async fn start_with(tls: Option<(Arc<ServerTls>, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let hsm = Arc::new(StubHsm::new(|label| !label.contains("no-such-key")));
        let stores = PREFIXES.map(|prefix| {
            let secret = Secret::new(SECRET.into());
            let credential = xks_proxy::sigv4::Credential::new(ACCESS_KEY_ID, secret).unwrap();
            let uri_prefix = UriPrefix::parse(prefix).unwrap();
            KeyStore {
                region: Some("us-east-1".into()),
                ..KeyStore::new(&prefix[1..], uri_prefix, vec![credential], Arc::clone(&hsm) as Arc<dyn Hsm>)
            }
        });
        let mut settings = Settings::default();
        // A busy machine must not make the proxy answer 503 instead of what is tested.
        settings.limits.deadline = Duration::from_secs(20);
        let log = Arc::new(Log::default());
        let subscriber = Arc::clone(&log) as Arc<dyn Subscriber>;
        let app = App::new(settings, stores.into(), Arc::new(SystemEnv), subscriber).unwrap();
        let (tls, authority_pem) = tls.unzip();
        let url = format!("{}://127.0.0.1:{port}", if tls.is_some() { "https" } else { "http" });
        let server = tokio::spawn(serve(Door(listener), Arc::new(app), tls, std::future::pending()));
        Self { url, log, authority_pem, hsm, server }
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
