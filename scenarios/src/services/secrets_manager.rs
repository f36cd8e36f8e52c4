//! Secrets Manager: every GetSecretValue is a Decrypt, every new value a GenerateDataKey, and the server keeps no key. What an
//! outage does depends on the client's cache: without one every read fails at once; the Lambda extension drops expired values,
//! the Java library keeps stale ones, the Python library never asks twice for a version (downstream-services 5.1; MA-D26).

use super::cache::{Keep, KeyCache, failures_in_words};
use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{ROLES_MAX, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use serde::Deserialize;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// What stands between a reader and Secrets Manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SecretsClient {
    /// Nothing: each read is a GetSecretValue.
    Uncached,
    /// The Parameters and Secrets Lambda extension: a value is dropped after `secrets_manager_ttl_s`.
    LambdaExtension,
    /// The Java caching library: a value that cannot be refreshed after `refresh_interval_s` stays in use.
    JavaLibrary,
    /// The Python caching library: a value is kept as long as its version; the refresh needs no key.
    PythonLibrary,
}

settings! {
    /// `kind = "secrets-manager"`. Processes read secrets, and write some; rotations go on beside that, each in four steps.
    SecretsManager, "secrets-manager", "Secrets Manager";
    /// Reads and writes of secrets per second; above 0 to 100,000; default 20.
    rate_per_s = 20.0;
    /// Share of writes (CreateSecret, PutSecretValue) among them; 0 to 1; default 0.01.
    write_share: f64 = 0.01, share();
    /// Share of reads by a process just started, which has nothing cached; 0 to 1; default 0.001.
    fresh_share: f64 = 0.001, share();
    /// Secrets; 1 to 500; default 20.
    secrets: u32 = 20, count(1..=500);
    /// Reading processes or environments, each with a role and a cache of its own; 1 to 16; default 8.
    readers: u32 = 8, count(1..=ROLES_MAX);
    /// What the readers use: `uncached`, `lambda-extension`, `java-library` or `python-library`; default `uncached`.
    client: SecretsClient = SecretsClient::Uncached, any();
    /// `SECRETS_MANAGER_TTL` of the extension in seconds; 0 to 300; default 300.
    secrets_manager_ttl_s: u64 = 300, seconds_in(0..=300);
    /// Refresh interval of the libraries in seconds; 1 to 86,400; default 3,600.
    refresh_interval_s: u64 = 3_600, seconds();
    /// Rotations per day, of all secrets together; 0 to 10,000; default 0.
    rotations_per_day: u32 = 0, count(0..=10_000);
    /// Seconds between two steps of a rotation; 1 to 86,400; default 5.
    rotation_step_s: u64 = 5, seconds();
    /// Seconds a failure to get a key is kept, in which nobody asks KMS again (MA-D34); 0 to 86,400; default 0: the next request
    /// tries again.
    failures_cached_s: u64 = 0, seconds_in(0..=86_400);
}

/// MA-D26: 400 shows as a failure of the cryptography, 500 and throttling as an internal one.
const READ_VISIBLE: Visible = Visible {
    invalid_state: "DecryptionFailure (400)",
    internal: "InternalServiceError (500)",
    throttled: "InternalServiceError (500)",
    disabled: "DecryptionFailure (400)",
    not_found: "DecryptionFailure (400)",
};
const WRITE_VISIBLE: Visible = Visible {
    invalid_state: "EncryptionFailure (400)",
    internal: "InternalServiceError (500)",
    throttled: "InternalServiceError (500)",
    disabled: "EncryptionFailure (400)",
    not_found: "EncryptionFailure (400)",
};
const VIA: &str = "secretsmanager.us-east-1.amazonaws.com";
const HALF_ROTATED: &str =
    "secrets whose rotation stopped between setSecret and finishSecret, to finish by hand";

impl SecretsManager {
    fn ttl(&self) -> Duration {
        match self.client {
            SecretsClient::Uncached => Duration::ZERO,
            SecretsClient::LambdaExtension => Duration::from_secs(self.secrets_manager_ttl_s),
            SecretsClient::JavaLibrary => Duration::from_secs(self.refresh_interval_s),
            // Longer than any run.
            SecretsClient::PythonLibrary => Duration::from_secs(366 * 86_400),
        }
    }
}

impl Service for SecretsManager {
    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let keep = if self.client == SecretsClient::JavaLibrary { Keep::Always } else { Keep::Never };
        let cache = KeyCache::new().keeping_failures(self.failures_cached_s).keeping(keep);
        // A value that is kept as long as its version has no age.
        let cache = if self.client == SecretsClient::PythonLibrary { cache } else { cache.aged(draws) };
        let secrets = Rc::new(Secrets {
            principals: desk.callers(self.readers, VIA),
            values: Objects::new(self.secrets as usize),
            versions: RefCell::new(vec![0; self.secrets as usize]),
            cache,
            settings: self.clone(),
            desk,
        });
        if self.rotations_per_day > 0 {
            tokio::task::spawn_local(secrets.clone().rotate_now_and_then(draws.split()));
        }
        secrets
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let kept = match self.client {
            SecretsClient::Uncached => String::new(),
            SecretsClient::LambdaExtension => {
                format!("the Lambda extension keeps a value for {} s", self.secrets_manager_ttl_s)
            }
            SecretsClient::JavaLibrary => {
                "the Java library keeps a stale value if it cannot refresh it".to_owned()
            }
            SecretsClient::PythonLibrary => {
                "the Python library keeps a value as long as its version".to_owned()
            }
        };
        join(&[during.in_general(), during.cache_sentence("cached values", &kept)])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            "MA-D26: Secrets Manager shows KMS's 400 as DecryptionFailure or EncryptionFailure, 500 and throttling as \
             InternalServiceError"
                .into(),
            failures_in_words(self.failures_cached_s),
        ]
    }
}

struct Secrets {
    settings: SecretsManager,
    desk: Rc<Desk>,
    principals: Vec<Caller>,
    values: Objects,
    /// Of each secret; a rotation makes the next.
    versions: RefCell<Vec<u32>>,
    /// By secret, version and process.
    cache: KeyCache<(usize, u32, usize)>,
}

impl Secrets {
    async fn write(self: Rc<Self>, place: f64, writer: usize) -> ServiceOutcome {
        let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.principals[writer]).await;
        self.desk.outcome(&WRITE_VISIBLE, made.map(|key| self.values.keep(key, place)))
    }

    async fn read(self: Rc<Self>, place: f64, reader: usize, fresh: bool) -> ServiceOutcome {
        let Some((secret, key)) = self.values.pick(place) else { return self.write(place, reader).await };
        let value = async { self.desk.decrypt(&key, &self.principals[reader]).await };
        if self.settings.client == SecretsClient::Uncached || fresh {
            return self.desk.outcome(&READ_VISIBLE, value.await);
        }
        // The other clients read what is current when their value is due, and do not notice before.
        let version = match self.settings.client {
            SecretsClient::PythonLibrary => self.versions.borrow().get(secret).copied().unwrap_or(0),
            _ => 0,
        };
        let refresh = async { value.await.map(|()| self.settings.ttl()) };
        self.cache.serve(&self.desk, (secret, version, reader), &READ_VISIBLE, refresh).await
    }

    async fn rotate_now_and_then(self: Rc<Self>, mut draws: Draws) {
        loop {
            let gap = draws.exponential() * 86_400.0 / f64::from(self.settings.rotations_per_day);
            tokio::time::sleep(Duration::from_secs_f64(gap)).await;
            let place = draws.unit();
            if self.desk.closed() {
                return;
            }
            tokio::task::spawn_local(self.clone().rotate(place));
        }
    }

    /// createSecret and setSecret need the key, then the database has the new password; testSecret needs it again, and
    /// finishSecret only moves a label. A rotation that fails before anything is changed is made again by itself.
    async fn rotate(self: Rc<Self>, place: f64) {
        let caller = &self.principals[0];
        let step = || tokio::time::sleep(Duration::from_secs(self.settings.rotation_step_s));
        let created = self.desk.encrypt(KmsOperation::GenerateDataKey, caller).await.result;
        let (Ok(key), Some((secret, _))) = (created, self.values.pick(place)) else {
            return;
        };
        step().await;
        if self.desk.decrypt(&key, caller).await.result.is_err() {
            return;
        }
        step().await;
        if self.desk.decrypt(&key, caller).await.result.is_err() {
            self.desk.record_damage(secret, "rotation stopped half-way");
            return self.desk.leave_to_do(HALF_ROTATED, 1);
        }
        self.values.replace(secret, key);
        if let Some(version) = self.versions.borrow_mut().get_mut(secret) {
            // Nobody asks for the old one again.
            (0..self.principals.len()).for_each(|reader| self.cache.forget((secret, *version, reader)));
            *version += 1;
        }
    }
}

impl Model for Secrets {
    fn resources(&self) -> usize {
        self.settings.secrets as usize
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        let place = number as f64 / self.resources() as f64;
        Box::pin(self.write(place, 0))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place) = (draws.unit(), draws.unit());
        let principal = draws.below(self.principals.len());
        let fresh = draws.unit() < self.settings.fresh_share;
        if kind < self.settings.write_share {
            Box::pin(self.write(place, principal))
        } else {
            Box::pin(self.read(place, principal, fresh))
        }
    }
}
