//! Whether whoever listens shows a certain certificate: a TLS handshake that trusts nobody and sends nothing.
//!
//! Place on the map: part of `doctor`.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use xks_proxy::tls::certificates_from_pem;

/// Accepts one certificate, whoever issued it and until whenever: the question is who listens, not whom to trust.
#[derive(Debug)]
struct Exactly {
    certificate: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Exactly {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if *shown == self.certificate {
            return Ok(ServerCertVerified::assertion());
        }
        Err(Error::General("another certificate".into()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `Some` when the other end proves to have the first certificate of this file.
pub(super) fn shows_certificate(mut stream: TcpStream, file: &Path) -> io::Result<Option<()>> {
    let pem = std::fs::read(file)?;
    let Some(certificate) = certificates_from_pem(&pem, "").ok().and_then(|chain| chain.into_iter().next())
    else {
        return Ok(None);
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Exactly { certificate, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::try_from("doctor").map_err(io::Error::other)?;
    let mut session = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    // Its own side of the handshake is all that counts; a demand for a client certificate comes after it.
    while session.is_handshaking() {
        if session.complete_io(&mut stream).is_err() {
            return Ok(None);
        }
    }
    Ok(Some(()))
}
