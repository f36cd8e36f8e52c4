//! Certificates of a test's own: authorities, what they issue, and TLS clients that trust and show them.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use std::sync::Arc;

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) certificate: rcgen::Certificate,
    pub(crate) key: KeyPair,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn certificate(&self) -> &rcgen::Certificate {
        self.0.as_ref()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        self.certificate().der().clone()
    }

    /// A server's, for `localhost`, with this common name.
    pub(crate) fn server(&self, common_name: &str) -> Identity {
        self.issue(common_name, &["localhost"], ExtendedKeyUsagePurpose::ServerAuth, |_| {})
    }

    /// A client's.
    pub(crate) fn client(&self, common_name: &str, dns_names: &[&str]) -> Identity {
        self.issue(common_name, dns_names, ExtendedKeyUsagePurpose::ClientAuth, |_| {})
    }

    pub(crate) fn issue(
        &self,
        common_name: &str,
        dns_names: &[&str],
        purpose: ExtendedKeyUsagePurpose,
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let names: Vec<String> = dns_names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages.push(purpose);
        adjust(&mut params);
        let key = KeyPair::generate().unwrap();
        Identity { certificate: params.signed_by(&key, &self.0).unwrap(), key }
    }
}

impl Identity {
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.der().clone()]
    }

    pub(crate) fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key.serialize_der()).unwrap()
    }
}

/// A client of one version of TLS that trusts this authority, and shows this certificate when it is asked for one.
pub(crate) fn client(
    version: &'static SupportedProtocolVersion,
    trusted: &Authority,
    shown: Option<&Identity>,
) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    Arc::new(match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder.with_client_auth_cert(shown.chain(), shown.private()).unwrap(),
    })
}
