//! The Encryption SDK's hierarchical keyring: branch keys in a DynamoDB table, each decrypted by KMS once in the time its cache
//! is told, and refreshed by one thread ten seconds early (downstream-services 6). If the table lies under a key of the same key
//! store, two dependencies stand in series.

use super::cache::{Early, KeyCache, failures_in_words};
use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::encryption_sdk::RAW_VISIBLE;
use super::objects::Objects;
use super::retry::Tried;
use super::settings::{ROLES, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "hierarchical-keyring"`. An application encrypts and decrypts messages under branch keys, which are made at the
    /// start (GenerateDataKeyWithoutPlaintext) and read when the cache has none (Decrypt).
    HierarchicalKeyring, "hierarchical-keyring", "Hierarchical keyring";
    /// Messages per second; above 0 to 100,000; default 50.
    rate_per_s = 50.0;
    /// Branch keys; 1 to 500; default 10. The cache holds 1,000.
    branch_keys: u32 = 10, count(1..=500);
    /// Seconds the cache keeps a branch key; 1 to 31,536,000 (365 days); default 600, as in AWS's examples.
    cache_limit_ttl_s: u64 = 600, seconds_in(1..=31_536_000);
    /// Seconds before the end in which one thread refreshes it; 0 to 3,600; default 10 (`gracePeriod`).
    grace_period_s: u64 = 10, seconds_in(0..=3_600);
    /// Seconds between that thread's attempts; 1 to 3,600; default 1 (`graceInterval`).
    grace_interval_s: u64 = 1, seconds_in(1..=3_600);
    /// Whether the table with the branch keys lies under a key of the same key store; default false.
    table_under_key: bool = false, any();
    /// Seconds DynamoDB keeps that table's key; 1 to 86,400; default 300.
    table_ttl_s: u64 = 300, seconds();
    /// Seconds a failure to get a key is kept, in which nobody asks KMS again (MA-D34); 0 to 86,400; default 0: the next request
    /// tries again.
    failures_cached_s: u64 = 0, seconds_in(0..=86_400);
}

/// What the keyring meets when the table of branch keys cannot be read.
const TABLE_VISIBLE: Visible = Visible {
    invalid_state: "key store: ValidationException (400): KMS key disabled error",
    internal: "key store: InternalServerError (500)",
    throttled: "key store: ThrottlingException (400)",
    disabled: "key store: ValidationException (400): KMS key disabled error",
    not_found: "key store: ValidationException (400): KMS key disabled error",
};
const TABLE_VIA: &str = "dynamodb.us-east-1.amazonaws.com";

impl Service for HierarchicalKeyring {
    // Users call KMS itself, whose SDK is in the desk.
    fn users_call_it_by_sdk(&self) -> bool {
        false
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let early = Early {
            before: Duration::from_secs(self.grace_period_s),
            every: Duration::from_secs(self.grace_interval_s),
        };
        Rc::new(Keyring {
            caller: desk.direct_caller(ROLES[0]),
            table_caller: desk.caller(ROLES[0], TABLE_VIA),
            branch_keys: Objects::new(self.branch_keys as usize),
            cache: KeyCache::new().keeping_failures(self.failures_cached_s).aged(draws).early(early),
            table_cache: KeyCache::new().keeping_failures(self.failures_cached_s).aged(draws),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let kept = format!("the keyring keeps a branch key for {} s", self.cache_limit_ttl_s);
        join(&[during.in_general(), during.cache_sentence("cached branch keys", &kept)])
    }

    fn assumptions(&self) -> Vec<String> {
        let mut assumptions = vec![
            failures_in_words(self.failures_cached_s),
            format!(
                "Hierarchical keyring: a branch key is cached for {} s and refreshed {} s early by one thread",
                self.cache_limit_ttl_s, self.grace_period_s
            ),
        ];
        if self.table_under_key {
            assumptions.push(format!(
                "MA-D16: DynamoDB caches the key of the keyring's table for {} s",
                self.table_ttl_s
            ));
        }
        assumptions
    }
}

struct Keyring {
    settings: HierarchicalKeyring,
    desk: Rc<Desk>,
    caller: Caller,
    table_caller: Caller,
    branch_keys: Objects,
    cache: KeyCache<usize>,
    table_cache: KeyCache<()>,
}

impl Keyring {
    async fn make_branch_key(self: Rc<Self>) -> ServiceOutcome {
        let operation = KmsOperation::GenerateDataKeyWithoutPlaintext;
        let made = self.desk.encrypt(operation, &self.caller).await;
        self.desk.outcome(
            &RAW_VISIBLE,
            made.map(|key| {
                if !self.branch_keys.is_full() {
                    self.branch_keys.keep(key, 0.0);
                }
            }),
        )
    }

    /// Reads the branch key's item from the table, if that needs KMS too.
    async fn read_table(&self) -> ServiceOutcome {
        let Some(key) = self.branch_keys.get(0).filter(|_| self.settings.table_under_key) else {
            return ServiceOutcome::ServedByHeldKey;
        };
        let ttl = Duration::from_secs(self.settings.table_ttl_s);
        let open = async { self.desk.decrypt(&key, &self.table_caller).await.map(|()| ttl) };
        self.table_cache.serve(&self.desk, (), &TABLE_VISIBLE, open).await
    }

    async fn use_branch_key(self: Rc<Self>, number: usize) -> ServiceOutcome {
        let Some(key) = self.branch_keys.get(number) else { return self.make_branch_key().await };
        let ttl = Duration::from_secs(self.settings.cache_limit_ttl_s);
        let refresh = async {
            if let ServiceOutcome::Failed { kms: Some(failure), attempts, .. } = self.read_table().await {
                return (Tried { result: Err(failure), attempts }, &TABLE_VISIBLE);
            }
            (self.desk.decrypt(&key, &self.caller).await.map(|()| ttl), &RAW_VISIBLE)
        };
        self.cache.serve_by(&self.desk, number, refresh).await
    }
}

impl Model for Keyring {
    fn resources(&self) -> usize {
        self.settings.branch_keys as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(self.make_branch_key())
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let number = draws.below(self.resources());
        Box::pin(self.use_branch_key(number))
    }
}
