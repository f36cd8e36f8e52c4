//! TLS on the simulated link: real rustls on both sides, with certificates made for the run.
//!
//! Place on the map: built by [`world`](crate::world); faults of the timeline replace what the proxies serve. Its key
//! material is real randomness and differs between equal runs; neither timing nor outcome depends on it, and no event
//! holds any of it.

use crate::environment::{RUN_BEGINS, SimulatedEnv};
use crate::kms::client::{ClientTls, crypto_provider};
use crate::scenario::TlsVersion;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;
use xks_proxy::env::{Env, UnixTime};
use xks_proxy::tls::{KnownClients, ServerTls, SubjectName, server_config, server_config_for};

/// Both sides.
pub struct SimulatedTls {
    /// For the proxies, as long as nothing is wrong.
    pub server: Arc<ServerTls>,
    /// For the KMS hosts.
    pub client: ClientTls,
    good: Arc<rustls::ServerConfig>,
    expired: Arc<rustls::ServerConfig>,
    demanding: Arc<rustls::ServerConfig>,
    days: u32,
    /// When a certificate of the run expires, in simulated time.
    expiries: Vec<Duration>,
}

/// What the proxies serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// A certificate that is valid for the run's `certificate_days`.
    Good,
    /// One whose last day is past.
    Expired,
    /// A good one, to clients with a certificate of their own.
    ClientCertificateDemanded,
}

const DAY: Duration = Duration::from_secs(86_400);

fn words(error: &dyn Display) -> String {
    format!("TLS of the simulated link: {error}")
}

/// A certificate with its key.
struct Identity {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Identity {
    /// Self-signed for `host`, valid from a year before the run until `days` after its beginning, or before where negative.
    fn new(host: &str, days: i64) -> Result<Self, String> {
        // Ed25519 and a fixed serial number, so that certificate and signatures always have the same length: on a line of
        // limited bandwidth a byte more or less is time. An ECDSA signature has 70 to 72 bytes, as chance will have it.
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(|error| words(&error))?;
        let mut params = CertificateParams::new([host.to_owned()]).map_err(|error| words(&error))?;
        params.serial_number = Some(rcgen::SerialNumber::from(1_u64));
        // `RUN_BEGINS` as a date.
        let begins = rcgen::date_time_ymd(2026, 1, 1);
        let whole = u32::try_from(days.unsigned_abs()).unwrap_or(u32::MAX);
        params.not_before = begins - DAY * 365;
        params.not_after = if days < 0 { begins - DAY * whole } else { begins + DAY * whole };
        let certificate = params.self_signed(&key).map_err(|error| words(&error))?.der().clone();
        Ok(Self { certificate, key })
    }

    fn key(&self) -> Result<PrivateKeyDer<'static>, String> {
        PrivateKeyDer::try_from(self.key.serialize_der()).map_err(|error| words(&error))
    }
}

impl SimulatedTls {
    /// Certificates for `host`, valid for `days` from the start of the run, and a client that trusts them and speaks
    /// `version` only.
    ///
    /// # Errors
    /// In words, when a part of it cannot be made.
    pub fn new(
        host: &'static str,
        version: TlsVersion,
        days: u32,
        env: &Arc<SimulatedEnv>,
    ) -> Result<Self, String> {
        let good = Identity::new(host, i64::from(days))?;
        let expired = Identity::new(host, -1)?;
        let door = || -> Arc<dyn Env> { Arc::clone(env) as _ };
        let serve = |identity: &Identity| {
            server_config(vec![identity.certificate.clone()], identity.key()?, door())
                .map_err(|error| words(&error))
        };
        // Whoever it would let in: KMS presents no certificate at all.
        let clients = KnownClients {
            authorities: vec![good.certificate.clone()],
            subject_names: vec![SubjectName::parse("cks.kms.us-east-1.amazonaws.com")?],
        };
        let demanding = server_config_for(clients, vec![good.certificate.clone()], good.key()?, door())
            .map_err(|error| words(&error))?;
        let mut roots = rustls::RootCertStore::empty();
        for identity in [&good, &expired] {
            roots.add(identity.certificate.clone()).map_err(|error| words(&error))?;
        }
        let versions: &[&rustls::SupportedProtocolVersion] = match version {
            TlsVersion::V12 => &[&rustls::version::TLS12],
            TlsVersion::V13 | TlsVersion::Off => &[&rustls::version::TLS13],
        };
        let provider = Arc::new(crypto_provider());
        let mut config = rustls::ClientConfig::builder_with_details(provider, Arc::clone(env) as _)
            .with_protocol_versions(versions)
            .map_err(|error| words(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        // KMS's calls count a full handshake (xks-spec TIME-1): the pessimistic case, and the one it documents.
        config.resumption = rustls::client::Resumption::disabled();
        let server_name = ServerName::try_from(host).map_err(|error| words(&error))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let (good, expired) = (serve(&good)?, serve(&expired)?);
        Ok(Self {
            server: ServerTls::new(Arc::clone(&good)),
            client: ClientTls { connector, server_name },
            good,
            expired,
            demanding,
            days,
            expiries: Vec::new(),
        })
    }

    /// Tells when certificates of the run will expire, in simulated time: whoever serves [`Serving::Expired`] from then on.
    pub fn expiring_at(self, expiries: Vec<Duration>) -> Self {
        Self { expiries, ..self }
    }

    /// When the certificate that is served so from simulated time `now` on is no longer valid, as whoever watches its days
    /// runs into it: at the next expiry of the run, where there is one before its `certificate_days` are over.
    pub fn not_after(&self, serving: Serving, now: Duration) -> UnixTime {
        let past = self.expiries.iter().filter(|at| **at <= now).max();
        let next = self.expiries.iter().filter(|at| **at > now).min();
        UnixTime(match serving {
            Serving::Expired => past.map_or(RUN_BEGINS - DAY, |at| RUN_BEGINS + *at),
            Serving::Good | Serving::ClientCertificateDemanded => {
                let end = DAY * self.days;
                RUN_BEGINS + next.map_or(end, |at| end.min(*at))
            }
        })
    }

    /// What every connection that begins from now on is served with.
    pub fn serve(&self, serving: Serving) {
        let config = match serving {
            Serving::Good => &self.good,
            Serving::Expired => &self.expired,
            Serving::ClientCertificateDemanded => &self.demanding,
        };
        self.server.replace(Arc::clone(config).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn a_certificate_runs_out_when_the_run_says() {
        crate::clock::run([0; 32], |clock| async move {
            let env = Arc::new(SimulatedEnv::new(clock, ChaCha20Rng::from_seed([0; 32])));
            let tls = || SimulatedTls::new("proxy.example", TlsVersion::V13, 2, &env).unwrap();
            let s = Duration::from_secs;
            assert_eq!(tls().not_after(Serving::Good, s(0)).0, RUN_BEGINS + DAY * 2);
            let tls = tls().expiring_at(vec![s(200), s(900), DAY * 3]);
            for (serving, now, expected) in [
                (Serving::Good, s(0), s(200)),
                (Serving::Expired, s(200), s(200)),
                (Serving::Good, s(800), s(900)),
                (Serving::Expired, s(900), s(900)),
                (Serving::Good, s(1_000), DAY * 2),
            ] {
                assert_eq!(tls.not_after(serving, now).0, RUN_BEGINS + expected, "{serving:?} {now:?}");
            }
        })
        .unwrap();
    }

    /// Kms-behaviour 6.4, typed a second time.
    #[test]
    fn kms_offers_the_suites_that_are_documented_and_no_others() {
        use rustls::CipherSuite as Suite;
        let (tls12, tls13) = (
            vec![
                Suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
                Suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            ],
            vec![Suite::TLS13_AES_256_GCM_SHA384, Suite::TLS13_CHACHA20_POLY1305_SHA256],
        );
        crate::clock::run([0; 32], |clock| async move {
            let env = Arc::new(SimulatedEnv::new(clock, ChaCha20Rng::from_seed([0; 32])));
            for version in [TlsVersion::V12, TlsVersion::V13] {
                let tls = SimulatedTls::new("proxy.example", version, 90, &env).unwrap();
                let offered = &tls.client.connector.config().crypto_provider().cipher_suites;
                let offered: Vec<_> = offered.iter().map(|suite| suite.suite()).collect();
                assert_eq!(offered, [tls13.clone(), tls12.clone()].concat(), "{version:?}");
            }
        })
        .unwrap();
    }
}
