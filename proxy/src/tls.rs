//! The set-up of TLS by rustls: versions, cipher suites, certificate, known clients, clock.
//!
//! Place on the map: `server` uses the result for every connection; `config` reads the files and calls the helpers
//! here. Certificates are judged by the clock of [`Env`], which a scenario can move.

mod certificate;
mod client;
mod server;
mod subject_name;

pub use certificate::{CertificateFacts, KeyKind, NotACertificate};
pub use client::KnownClients;
pub use server::{Served, ServerTls};
pub use subject_name::SubjectName;

use crate::env::Env;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::{TLS12, TLS13};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What is wrong with a certificate or key, where, and what to do. One sentence for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError(pub String);

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsError {}

/// TLS 1.2 and 1.3 with exactly the four cipher suites the spec names (XKS-NET-2), HTTP/2 and HTTP/1.1 by ALPN, for
/// clients without a certificate.
///
/// `certs` is the chain as sent: the server's own certificate first. The key's bytes are wiped.
///
/// # Errors
/// When the chain is empty or unreadable, the key is of an unknown kind, or the key is not the certificate's.
pub fn server_config(
    certs: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    env: Arc<dyn Env>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    set_up(certs, key, None, env)
}

/// The same, but only for clients with a certificate of their own that [`KnownClients`] knows (XKS-AUTH-6). Sessions are
/// never resumed, so that every connection has shown a certificate that is valid at that moment.
///
/// # Errors
/// As [`server_config`], and when the certificate of an authority cannot be used.
pub fn server_config_for(
    clients: KnownClients,
    certs: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    env: Arc<dyn Env>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    set_up(certs, key, Some(clients), env)
}

fn set_up(
    certs: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<KnownClients>,
    env: Arc<dyn Env>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let key = Zeroizing::new(key);
    if certs.is_empty() {
        return Err(TlsError(
            "the certificate chain is empty; it must begin with the server's certificate".into(),
        ));
    }
    let builder = rustls::ServerConfig::builder_with_details(Arc::new(provider()), Arc::new(Clock(env)))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| TlsError(format!("TLS cannot be set up: {error}")))?;
    // By reference: rustls's own way from a chain and a key takes the key over, and does not wipe it.
    let identity = CertifiedKey::new(certs, aws_lc_rs::sign::any_supported_type(&key).map_err(explain)?);
    identity.keys_match().map_err(explain)?;
    let identity = Arc::new(SingleCertAndKey::from(identity));
    let mut config = match clients {
        None => builder.with_no_client_auth().with_cert_resolver(identity),
        Some(clients) => {
            let mut config =
                builder.with_client_cert_verifier(clients.verifier()?).with_cert_resolver(identity);
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
            config
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// aws-lc-rs with the suites of XKS-NET-2 and no others.
pub(crate) fn provider() -> CryptoProvider {
    use aws_lc_rs::cipher_suite as suite;
    CryptoProvider {
        cipher_suites: vec![
            suite::TLS13_AES_256_GCM_SHA384,
            suite::TLS13_CHACHA20_POLY1305_SHA256,
            suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        ..aws_lc_rs::default_provider()
    }
}

fn explain(error: rustls::Error) -> TlsError {
    TlsError(match error {
        rustls::Error::InconsistentKeys(_) => {
            "the private key does not belong to the first certificate of the chain; configure the pair that was issued \
             together, and put the server's own certificate first"
                .into()
        }
        rustls::Error::InvalidCertificate(error) => {
            format!("the server's certificate (the first of the chain) cannot be used: {error:?}")
        }
        other => format!("the certificate or its private key cannot be used: {other}"),
    })
}

/// The certificates in a PEM file, in order. `origin` is the file's name, for the error.
///
/// # Errors
/// When the text is not PEM or holds no certificate.
pub fn certificates_from_pem(pem: &[u8], origin: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certs: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(pem).collect();
    let certs = certs.map_err(|error| TlsError(format!("{origin} is not a readable PEM file: {error}")))?;
    if certs.is_empty() {
        return Err(TlsError(format!(
            "{origin} holds no certificate; it must have at least one block that begins with \
             -----BEGIN CERTIFICATE-----"
        )));
    }
    Ok(certs)
}

/// The private key in a PEM file: PKCS#8, PKCS#1 or SEC 1, not encrypted. `origin` is the file's name, for the error.
///
/// # Errors
/// When the text is not PEM or holds no such key.
pub fn private_key_from_pem(pem: &[u8], origin: &str) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        let encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
        TlsError(match error {
            pem::Error::NoItemsFound if encrypted => format!(
                "{origin} holds an encrypted private key; decrypt it first, for example with `openssl pkey -in {origin}`"
            ),
            pem::Error::NoItemsFound => format!(
                "{origin} holds no private key; it must have a block that begins with -----BEGIN PRIVATE KEY-----, \
                 -----BEGIN RSA PRIVATE KEY----- or -----BEGIN EC PRIVATE KEY-----"
            ),
            error => format!("{origin} is not a readable PEM file: {error}"),
        })
    })
}

/// rustls asks for wall time here; it gets ours.
struct Clock(Arc<dyn Env>);

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
        Some(rustls::pki_types::UnixTime::since_unix_epoch(self.0.now().0))
    }
}
