//! Every alarm rings: one planted defect per invariant, and the run must object to it by name.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

use scenarios::run;
use scenarios::scenario::Scenario;
use scenarios::world::Options;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use xks_proxy::hsm::{Aad, Answer, DeviceHealth, Hsm, KeyFacts, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

const CALM: &str = "title = \"Calm\"\nduration_s = 20\n[[service]]\nkind = \"s3\"\n";

/// What the HSM does wrong.
#[derive(Clone, Copy, PartialEq)]
enum Lie {
    /// Decrypts one in a hundred to something else.
    Plaintext,
    /// Never answers one encrypt in a hundred, whatever the deadline.
    Late,
    /// Makes a wrong tag, always: nobody will ever decrypt that.
    Undecryptable,
}

struct Liar {
    inner: Arc<dyn Hsm>,
    lie: Lie,
    calls: AtomicU64,
}

impl Liar {
    fn lies_now(&self, lie: Lie) -> bool {
        self.lie == lie && self.calls.fetch_add(1, Ordering::Relaxed) % 100 == 99
    }
}

impl Hsm for Liar {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        self.inner.describe(key, deadline)
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        Box::pin(async move {
            let mut sealed = self.inner.encrypt(key, aad, plaintext, deadline).await?;
            if self.lie == Lie::Undecryptable {
                sealed.tag[0] ^= 1;
            }
            if self.lies_now(Lie::Late) {
                // Ignores its deadline: what a backend without a time limit of its own would do.
                std::future::pending::<()>().await;
            }
            Ok(sealed)
        })
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(async move {
            let plaintext = self.inner.decrypt(key, aad, sealed, deadline).await?;
            if self.lies_now(Lie::Plaintext) {
                let mut wrong = plaintext.expose().to_vec();
                if let Some(byte) = wrong.first_mut() {
                    *byte ^= 1;
                }
                return Ok(Plaintext::new(wrong));
            }
            Ok(plaintext)
        })
    }

    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        self.inner.health(deadline)
    }
}

/// Names of the invariants that did not hold.
fn broken_by(toml: &str, wrap: Option<Lie>) -> Vec<String> {
    let scenario = Scenario::parse("canary", "canary.toml", toml).unwrap();
    let mut options = Options::new(3);
    if let Some(lie) = wrap {
        options.hsm_wrapper =
            Some(Box::new(move |inner| Arc::new(Liar { inner, lie, calls: AtomicU64::new(0) })));
    }
    let result = run::run(&scenario, &options, "", "").unwrap().result;
    result.invariants.into_iter().filter(|check| !check.held).map(|check| check.name).collect()
}

#[test]
fn a_calm_run_breaks_nothing() {
    assert_eq!(broken_by(CALM, None), [""; 0]);
}

#[test]
fn a_wrong_plaintext_is_seen() {
    assert_eq!(broken_by(CALM, Some(Lie::Plaintext)), ["plaintext-or-error"]);
}

#[test]
fn a_ciphertext_that_nobody_can_decrypt_is_seen_where_nothing_verifies_it() {
    // Encrypt carries no integrity value (MA-6), so the proxy does not decrypt to verify; the end of the run does.
    assert_eq!(broken_by(CALM, Some(Lie::Undecryptable)), ["still-decryptable"]);
}

#[test]
fn the_proxy_is_in_time_even_if_its_hsm_never_answers() {
    assert_eq!(broken_by(CALM, Some(Lie::Late)), [""; 0]);
}

#[test]
fn expectations_fail_when_their_bound_is_crossed() {
    let toml = format!(
        "{CALM}[[fault]]\nkind = \"hsm-down\"\nfrom_s = 5\n[[expect]]\nfailures_max = 0.01\n\
         [[expect]]\nservice = \"s3\"\nfailures_during_faults_min = 0.5\n"
    );
    let scenario = Scenario::parse("canary", "canary.toml", &toml).unwrap();
    let result = run::run(&scenario, &Options::new(3), "", "").unwrap().result;
    let held: Vec<bool> = result.expectations.iter().map(|check| check.held).collect();
    assert_eq!(held, [false, true]);
    assert_eq!(Duration::from_millis(result.services[0].first_failure_ms.unwrap()).as_secs(), 5);
}
