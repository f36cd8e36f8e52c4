//! The AWS Encryption SDK in an application: one KMS call for each message, or with the caching CMM one for as many messages and
//! as long as it is told (downstream-services 6). Callers see the KMS exception as it is.

use super::cache::{KeyCache, failures_in_words};
use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{ROLES, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "encryption-sdk"`. An application encrypts messages (GenerateDataKey) and decrypts them (Decrypt).
    EncryptionSdk, "encryption-sdk", "AWS Encryption SDK";
    /// Messages per second; above 0 to 100,000; default 20.
    rate_per_s = 20.0;
    /// Share of messages to encrypt among them; 0 to 1; default 0.5.
    encrypt_share: f64 = 0.5, share();
    /// Maximum age of a cached data key in seconds; 0 to 31,536,000 (365 days); default 0: no cache.
    max_age_s: u64 = 0, seconds_in(0..=31_536_000);
    /// Maximum messages encrypted under a cached data key; 1 to 4,294,967,295; default 4,294,967,295.
    max_messages: u32 = u32::MAX, count(1..=u32::MAX);
    /// Encryption contexts, each with a data key of its own in the cache; 1 to 500; default 5.
    encryption_contexts: u32 = 5, count(1..=500);
    /// Share of messages to decrypt whose data key the cache has never seen; 0 to 1; default 0.2.
    unseen_share: f64 = 0.2, share();
    /// Seconds a failure to get a key is kept, in which nobody asks KMS again (MA-D34); 0 to 86,400; default 0: the next request
    /// tries again.
    failures_cached_s: u64 = 0, seconds_in(0..=86_400);
}

/// The KMS exception as it is.
pub(super) const RAW_VISIBLE: Visible = Visible {
    invalid_state: "KMSInvalidStateException (400)",
    internal: "KMSInternalException (500)",
    throttled: "ThrottlingException (400)",
    disabled: "DisabledException (400)",
    not_found: "NotFoundException (400)",
};

impl Service for EncryptionSdk {
    // Users call KMS itself, whose SDK is in the desk.
    fn users_call_it_by_sdk(&self) -> bool {
        false
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Application {
            caller: desk.direct_caller(ROLES[0]),
            messages: Objects::new(self.encryption_contexts as usize),
            cache: KeyCache::new().keeping_failures(self.failures_cached_s).aged(draws),
            used: RefCell::new(vec![0; self.encryption_contexts as usize]),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let kept = format!("the caching CMM keeps a data key for {} s", self.max_age_s);
        join(&[during.in_general(), during.cache_sentence("cached data keys", &kept)])
    }

    fn assumptions(&self) -> Vec<String> {
        match self.max_age_s {
            0 => vec!["Encryption SDK: no data key is cached".to_owned()],
            age => vec![
                failures_in_words(self.failures_cached_s),
                format!(
                    "Encryption SDK: the caching CMM keeps a data key for {age} s and {} messages",
                    self.max_messages
                ),
            ],
        }
    }
}

struct Application {
    settings: EncryptionSdk,
    desk: Rc<Desk>,
    caller: Caller,
    /// The data key of the latest message of each encryption context.
    messages: Objects,
    /// By encryption context, and whether for encrypting.
    cache: KeyCache<(usize, bool)>,
    /// Messages encrypted under the cached data key of each encryption context.
    used: RefCell<Vec<u32>>,
}

impl Application {
    fn max_age(&self) -> Option<Duration> {
        (self.settings.max_age_s > 0).then(|| Duration::from_secs(self.settings.max_age_s))
    }

    async fn encrypt(self: Rc<Self>, context: usize) -> ServiceOutcome {
        let made = async {
            let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.caller).await;
            made.map(|key| {
                if self.messages.get(context).is_some() {
                    self.messages.replace(context, key);
                } else if !self.messages.is_full() {
                    self.messages.keep(key, 0.0);
                }
            })
        };
        let Some(max_age) = self.max_age() else { return self.desk.outcome(&RAW_VISIBLE, made.await) };
        let outcome = self
            .cache
            .serve(&self.desk, (context, true), &RAW_VISIBLE, async { made.await.map(|()| max_age) });
        let outcome = outcome.await;
        if let Some(used) = self.used.borrow_mut().get_mut(context) {
            *used = if outcome == ServiceOutcome::ServedByKms { 1 } else { used.saturating_add(1) };
            if *used >= self.settings.max_messages {
                self.cache.forget((context, true));
            }
        }
        outcome
    }

    async fn decrypt(self: Rc<Self>, context: usize, unseen: bool) -> ServiceOutcome {
        // There is nothing to decrypt yet.
        let Some(key) = self.messages.get(context) else { return self.encrypt(context).await };
        let opened = async { self.desk.decrypt(&key, &self.caller).await };
        match self.max_age() {
            Some(max_age) if !unseen => {
                let open = async { opened.await.map(|()| max_age) };
                self.cache.serve(&self.desk, (context, false), &RAW_VISIBLE, open).await
            }
            _ => self.desk.outcome(&RAW_VISIBLE, opened.await),
        }
    }
}

impl Model for Application {
    fn resources(&self) -> usize {
        self.settings.encryption_contexts as usize
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        Box::pin(self.encrypt(number))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let context = draws.below(self.resources());
        let encrypts = draws.unit() < self.settings.encrypt_share;
        let unseen = draws.unit() < self.settings.unseen_share;
        if encrypts { Box::pin(self.encrypt(context)) } else { Box::pin(self.decrypt(context, unseen)) }
    }
}
