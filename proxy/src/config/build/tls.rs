//! The server's certificate and key, read and put together.
//!
//! Place on the map: part of `build`.

use super::super::{Config, ConfigError, TlsFiles};
use crate::env::Env;
use crate::tls::{self, CertificateFacts};
use std::sync::Arc;
use zeroize::Zeroizing;

impl Config {
    pub(super) fn server_config(
        &mut self,
        files: &TlsFiles,
        env: Arc<dyn Env>,
    ) -> Result<(Arc<rustls::ServerConfig>, Option<CertificateFacts>), ConfigError> {
        let (certificate, key) = (&files.certificate_file, &files.key_file);
        let pem = self.read(certificate, "certificate file")?;
        let chain = tls::certificates_from_pem(&pem, &certificate.value.display().to_string())
            .map_err(|error| self.error(certificate.line, error.to_string()))?;
        let pem = Zeroizing::new(self.read(key, "private key file")?);
        self.warn_if_readable(key, "private key");
        let private = tls::private_key_from_pem(&pem, &key.value.display().to_string())
            .map_err(|error| self.error(key.line, error.to_string()))?;
        let facts = chain.first().and_then(|own| CertificateFacts::from_der(own).ok());
        let config = tls::server_config(chain, private, env)
            .map_err(|error| self.error(certificate.line, error.to_string()))?;
        Ok((config, facts))
    }
}
