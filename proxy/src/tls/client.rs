//! Client certificates: who may connect at all (XKS-AUTH-6).
//!
//! Place on the map: part of `tls`; rustls asks the verifier in every handshake. A certificate is a second lock in front
//! of SigV4, never instead of it.

use super::{CertificateFacts, SubjectName, TlsError, provider};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// At most one line about a refused subject in this time: a client that tries again and again must not fill the log.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Whose certificates open the door.
#[derive(Clone, Debug)]
pub struct KnownClients {
    /// The certificate authorities that may have issued them. Their own validity is not judged, as everywhere in TLS.
    pub authorities: Vec<CertificateDer<'static>>,
    /// The names, one of which the certificate must bear as its common name or among its DNS names.
    pub subject_names: Vec<SubjectName>,
}

impl KnownClients {
    /// The verifier: chain, validity by the clock of the TLS set-up, purpose, then the name.
    ///
    /// # Errors
    /// When there is no authority, or one of them cannot be read.
    pub(super) fn verifier(self) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in self.authorities {
            roots.add(authority).map_err(|error| {
                TlsError(format!("a certificate authority of the clients cannot be used: {error}"))
            })?;
        }
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()))
            .build()
            .map_err(|error| TlsError(format!("client certificates cannot be verified: {error}")))?;
        Ok(Arc::new(Verifier { chain, subject_names: self.subject_names, refusals: Refusals::default() }))
    }
}

/// webpki's verifier and a look at the name.
struct Verifier {
    chain: Arc<dyn ClientCertVerifier>,
    subject_names: Vec<SubjectName>,
    refusals: Refusals,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("subject_names", &self.subject_names).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now);
        let facts = CertificateFacts::from_der(end_entity);
        let (verified, facts) = match (verified, facts) {
            (Ok(verified), Ok(facts)) => (verified, facts),
            (Ok(_), Err(error)) => return Err(refused(&error, "unreadable")),
            (Err(error), facts) => {
                return Err(refused(&error, facts.as_ref().map_or("unreadable", |facts| &facts.subject)));
            }
        };
        if self.subject_names.iter().any(|name| name.is_of(&facts)) {
            return Ok(verified);
        }
        if let Some(more) = self.refusals.count() {
            tracing::warn!(
                subject = facts.subject,
                issuer = facts.issuer,
                dns_names = ?facts.dns_names.iter().take(4).collect::<Vec<_>>(),
                refused_since_the_last_line = more,
                "client certificate refused: its issuer is trusted, its name is none of \
                 server.tls.client.subject_names"
            );
        }
        Err(refused(&"none of the subject names", &facts.subject))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Every refusal ends the handshake with one and the same alert, `handshake_failure`: it is the one that AWS's public test
/// client asks for, and it does not tell a stranger how near he came. Anybody can present anything, so the log has the
/// reason for those who look for it.
fn refused(why: &dyn fmt::Display, subject: &str) -> Error {
    tracing::debug!(subject, %why, "client certificate refused");
    Error::General(format!("client certificate refused: {why}"))
}

/// How many refusals no line has told of yet, and when the last line was.
#[derive(Default)]
struct Refusals(Mutex<(Option<Instant>, u64)>);

impl Refusals {
    /// Counts one; `Some` when it is time for a line, with how many came since the last line before this one.
    fn count(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (told, untold) = &mut *state;
        let now = Instant::now();
        if told.is_some_and(|told| now < told + WARN_INTERVAL) {
            *untold += 1;
            return None;
        }
        *told = Some(now);
        Some(std::mem::take(untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refusals_are_told_once_a_minute_and_none_is_forgotten() {
        let refusals = Refusals::default();
        assert_eq!(refusals.count(), Some(0));
        assert_eq!((refusals.count(), refusals.count()), (None, None));
        tokio::time::advance(WARN_INTERVAL).await;
        assert_eq!(refusals.count(), Some(2));
        assert_eq!(refusals.count(), None);
    }
}
