//! The server's certificate and key, and the authorities of its clients, read and put together.
//!
//! Place on the map: part of `build`, at the start and at each reload.

use super::super::{Config, ConfigError, Placed, TlsClientConfig, TlsFiles};
use crate::env::{Env, UnixTime};
use crate::tls::{self, CertificateFacts, KnownClients, Served};
use rustls::pki_types::CertificateDer;
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

/// With fewer days left a certificate is worth a warning, as AWS's own alarm has it (`XksProxyCertificateDaysToExpire`).
const DAYS_LEFT_MIN: i64 = 10;

impl Config {
    /// `None` for plain HTTP. A certificate that is not valid now is refused: KMS would not accept it either, and at a
    /// reload the old one may still be good.
    pub(super) fn served(&mut self, env: Arc<dyn Env>) -> Result<Option<Served>, ConfigError> {
        let Some(files) = self.tls.clone() else { return Ok(None) };
        let TlsFiles { certificate_file, key_file, client } = &files;
        let now = env.now();
        let chain = self.certificates(certificate_file, "certificate file")?;
        let certificate = self.own_certificate(&chain, certificate_file, now)?;
        let pem = Zeroizing::new(self.read(key_file, "private key file")?);
        self.warn_if_readable(key_file, "private key");
        let private = tls::private_key_from_pem(&pem, &key_file.value.display().to_string())
            .map_err(|error| self.error(key_file.line, error.to_string()))?;
        let config = match client {
            None => tls::server_config(chain, private, env),
            Some(client) => {
                let clients = self.known_clients(client, now)?;
                tls::server_config_for(clients, chain, private, env)
            }
        };
        let config = config.map_err(|error| self.error(certificate_file.line, error.to_string()))?;
        Ok(Some(Served { config, certificate: Some(certificate) }))
    }

    fn certificates(
        &self,
        file: &Placed<PathBuf>,
        what: &str,
    ) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
        let pem = self.read(file, what)?;
        tls::certificates_from_pem(&pem, &file.value.display().to_string())
            .map_err(|error| self.error(file.line, error.to_string()))
    }

    fn own_certificate(
        &mut self,
        chain: &[CertificateDer<'_>],
        file: &Placed<PathBuf>,
        now: UnixTime,
    ) -> Result<CertificateFacts, ConfigError> {
        let path = file.value.display();
        let facts =
            chain.first().and_then(|first| CertificateFacts::from_der(first).ok()).ok_or_else(|| {
                self.error(file.line, format!("the first certificate in {path} cannot be read: replace it"))
            })?;
        if let Some(why) = facts.invalid_at(now) {
            let error = self.error(
                file.line,
                format!(
                    "the certificate in {path} {why}, and this machine's clock says {}: renew it, or set the clock",
                    crate::calendar::rfc3339(now)
                ),
            );
            // A machine's clock may be behind until it has been synchronised, soon after the machine's start.
            let not_yet = now.secs() < facts.not_before.secs();
            return Err(if not_yet { error.may_pass() } else { error });
        }
        let days = facts.days_left(now);
        if days < DAYS_LEFT_MIN {
            self.warnings.push(format!(
                "{}:{}: the certificate in {path} expires in {days} days, and with it all use of the keys: renew it",
                self.file, file.line
            ));
        }
        // A name nobody could connect to is a certificate in the wrong place.
        if facts.dns_names.is_empty() {
            self.warnings.push(format!(
                "{}:{}: the certificate in {path} is for no DNS name, so that KMS will not accept it: use the one \
                 issued for the endpoint's name",
                self.file, file.line
            ));
        }
        Ok(facts)
    }

    fn known_clients(
        &mut self,
        client: &TlsClientConfig,
        now: UnixTime,
    ) -> Result<KnownClients, ConfigError> {
        let file = &client.ca_file;
        let authorities = self.certificates(file, "file of the clients' certificate authorities")?;
        for authority in &authorities {
            let facts = CertificateFacts::from_der(authority).map_err(|error| {
                self.error(file.line, format!("{}: {error}: replace it", file.value.display()))
            })?;
            if let Some(why) = facts.invalid_at(now) {
                self.warnings.push(format!(
                    "{}:{}: the authority {:?} in {} {why}; its clients are still let in: remove it, unless that is meant",
                    self.file,
                    file.line,
                    facts.subject,
                    file.value.display()
                ));
            }
        }
        Ok(KnownClients { authorities, subject_names: client.subject_names.clone() })
    }
}
