//! TLS on the simulated link: real rustls on both sides, with a certificate authority made for the run.
//!
//! Place on the map: built by [`world`](crate::world). Its key material is real randomness and differs between equal
//! runs; neither timing nor outcome depends on it, and no event holds any of it.

use crate::environment::SimulatedEnv;
use crate::kms::client::ClientTls;
use crate::scenario::TlsVersion;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::sync::Arc;

/// Both sides.
pub struct SimulatedTls {
    /// For the proxies.
    pub server: Arc<rustls::ServerConfig>,
    /// For the KMS hosts.
    pub client: ClientTls,
}

impl SimulatedTls {
    /// A certificate for `host`, and a client that trusts its issuer and speaks `version` only.
    ///
    /// # Errors
    /// In words, when a part of it cannot be made.
    pub fn new(host: &'static str, version: TlsVersion, env: &Arc<SimulatedEnv>) -> Result<Self, String> {
        let words = |error: &dyn std::fmt::Display| format!("TLS of the simulated link: {error}");
        let made = rcgen::generate_simple_self_signed([host.to_owned()]).map_err(|error| words(&error))?;
        let certificate: CertificateDer<'static> = made.cert.der().clone();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(|error| words(&error))?;
        let proxy_env: Arc<dyn xks_proxy::env::Env> = Arc::clone(env) as _;
        let server = xks_proxy::tls::server_config(vec![certificate.clone()], key, proxy_env)
            .map_err(|error| words(&error))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate).map_err(|error| words(&error))?;
        let versions: &[&rustls::SupportedProtocolVersion] = match version {
            TlsVersion::V12 => &[&rustls::version::TLS12],
            TlsVersion::V13 | TlsVersion::Off => &[&rustls::version::TLS13],
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_details(provider, Arc::clone(env) as _)
            .with_protocol_versions(versions)
            .map_err(|error| words(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // KMS's calls count a full handshake (xks-spec TIME-1): the pessimistic case, and the one it documents.
        config.resumption = rustls::client::Resumption::disabled();
        let server_name = ServerName::try_from(host).map_err(|error| words(&error))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        Ok(Self { server, client: ClientTls { connector, server_name } })
    }
}
