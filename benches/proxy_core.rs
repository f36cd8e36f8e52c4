//! The proxy core with one key store, over an HSM that takes no time, at the moment the requests were signed: everything
//! the proxy does but TLS, HTTP framing and the HSM.

use crate::{ID, NOW, SECRET};
use std::error::Error;
use std::future::{Future, ready};
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;
use xks_proxy::app::{App, KeyStore, Settings};
use xks_proxy::env::{Env, UnixTime};
use xks_proxy::events::{AuditEvent, Subscriber};
use xks_proxy::hsm::{Aad, Answer, DeviceHealth, Hsm, Iv, KeyFacts, KeySpec, Sealed};
use xks_proxy::key::{KeyName, UriPrefix};
use xks_proxy::secret::{Plaintext, Secret};
use xks_proxy::sigv4::Credential;

/// Counts the requests that were served.
#[derive(Default)]
pub struct Served(AtomicU64);

impl Served {
    /// So many since the start.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Subscriber for Served {
    fn audit(&self, event: &AuditEvent) {
        self.0.fetch_add(u64::from(black_box(event).status == 200), Ordering::Relaxed);
    }
}

/// The core, and what it has served.
///
/// # Errors
/// Never, unless the constants of this crate are wrong.
pub fn app() -> Result<(App, Arc<Served>), Box<dyn Error>> {
    let served = Arc::new(Served::default());
    let credential = Credential::new(ID, Secret::new(SECRET.to_owned()))?;
    let store = KeyStore::new("bench", UriPrefix::parse("example")?, vec![credential], Arc::new(NoHsm));
    let subscriber = Arc::<Served>::clone(&served);
    let app = App::new(Settings::default(), vec![store], Arc::new(StandingClock), subscriber)?;
    Ok((app, served))
}

/// Takes no time and protects nothing: the ciphertext is the plaintext.
struct NoHsm;

impl Hsm for NoHsm {
    fn describe<'a>(&'a self, _key: &'a KeyName, _deadline: Instant) -> Answer<'a, KeyFacts> {
        let facts = KeyFacts { spec: KeySpec::Aes(256), encrypt: true, decrypt: true, enabled: true };
        Box::pin(ready(Ok(facts)))
    }

    fn encrypt<'a>(
        &'a self,
        _key: &'a KeyName,
        _aad: &'a Aad,
        plaintext: &'a Plaintext,
        _deadline: Instant,
    ) -> Answer<'a, Sealed> {
        let ciphertext = plaintext.expose().to_vec();
        Box::pin(ready(Ok(Sealed { ciphertext, iv: Iv::Twelve([0; 12]), tag: [0; 16] })))
    }

    fn decrypt<'a>(
        &'a self,
        _key: &'a KeyName,
        _aad: &'a Aad,
        sealed: &'a Sealed,
        _deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(ready(Ok(Plaintext::new(sealed.ciphertext.clone()))))
    }

    fn health<'a>(
        &'a self,
        _deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(ready(Vec::new()))
    }
}

/// Stands still at the time the requests were signed.
struct StandingClock;

impl Env for StandingClock {
    fn now(&self) -> UnixTime {
        UnixTime(NOW)
    }

    fn noise(&self) -> u64 {
        0x00c0_ffee
    }
}
