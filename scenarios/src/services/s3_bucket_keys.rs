//! S3 with Bucket Keys: S3 holds a bucket-level key for a limited time and makes object keys from it, so that KMS is asked
//! once per bucket key and requester (downstream-services 3.2). How long is not published: MA-D15.

use super::cache::{KeyCache, failures_in_words};
use super::desk::Desk;
use super::draws::Draws;
use super::s3::{VIA, VISIBLE};
use super::settings::{Parameters, ROLES, ROLES_MAX, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, CiphertextBlob, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "s3-bucket-keys"`. Requesters write, read back what they wrote last, and now and then read old data, which
    /// lies under one of many older bucket keys.
    S3BucketKeys, "s3-bucket-keys", "S3 with Bucket Keys";
    /// GET and PUT requests per second; above 0 to 100,000; default 100.
    rate_per_s = 100.0;
    /// Share of PUT among them; 0 to 1; default 0.3.
    write_share: f64 = 0.3, share();
    /// Share of GETs of old data among them; 0 to 1, and at most 1 with `write_share`; default 0.02.
    old_read_share: f64 = 0.02, share();
    /// Share of requests for objects written before Bucket Keys were enabled, each of which needs KMS; 0 to 1; default 0.
    per_object_share: f64 = 0.0, share();
    /// Share of requests by a role that S3 has not met before, and for which it has no key; 0 to 1; default 0.
    new_requester_share: f64 = 0.0, share();
    /// Roles that use the bucket, each with a cache of its own; 1 to 16; default 8.
    requesters: u32 = 8, count(1..=ROLES_MAX);
    /// Older bucket keys under which data lies; 1 to 500; default 100.
    old_bucket_keys: u32 = 100, count(1..=500);
    /// Seconds S3 keeps a bucket key for a requester, without early refresh (MA-D15); 1 to 86,400; default 300.
    ttl_s: u64 = 300, seconds();
    /// Seconds a failure to get a key is kept, in which nobody asks KMS again (MA-D34); 0 to 86,400; default 0: the next request
    /// tries again.
    failures_cached_s: u64 = 0, seconds_in(0..=86_400);
}

impl Service for S3BucketKeys {
    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .together(["write_share", "old_read_share"], [self.write_share, self.old_read_share])
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let ttl = Duration::from_secs(self.ttl_s);
        let requesters = ROLES.iter().take(self.requesters as usize).map(|role| Requester {
            caller: desk.caller(role, VIA),
            newest: RefCell::default(),
            first_ttl: Cell::new(Some(draws.between(Duration::ZERO, ttl))),
        });
        Rc::new(Bucket {
            requesters: requesters.collect(),
            cache: KeyCache::new().keeping_failures(self.failures_cached_s),
            older: RefCell::default(),
            kinds: RefCell::new(draws.split()),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let kept = format!("S3 keeps a bucket key for {} s per requester, assumption MA-D15", self.ttl_s);
        join(&[during.in_general(), during.cache_sentence("cached bucket keys", &kept)])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            format!(
                "MA-D15: S3 keeps a bucket key for {} s per requester and makes a new one for writing after that",
                self.ttl_s
            ),
            "MA-D13: S3 answers 503 ServiceUnavailable when KMS answers 500".into(),
            failures_in_words(self.failures_cached_s),
        ]
    }
}

/// A bucket key with the number by which caches know it.
type BucketKey = (u64, CiphertextBlob);

/// What S3 can hold for a requester.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Held {
    /// A key to write with. When it expires, the next write makes a new one.
    ToWrite { requester: usize },
    /// A bucket key to read with.
    ToRead { requester: usize, number: u64 },
}

struct Requester {
    caller: Caller,
    /// The key its latest data lies under.
    newest: RefCell<Option<BucketKey>>,
    /// What is left of the key held at the start: as in a bucket used for long, requesters' keys do not expire together.
    first_ttl: Cell<Option<Duration>>,
}

struct Bucket {
    settings: S3BucketKeys,
    desk: Rc<Desk>,
    requesters: Vec<Requester>,
    cache: KeyCache<Held>,
    /// Bucket keys that data lies under, the oldest first.
    older: RefCell<VecDeque<BucketKey>>,
    /// Draws whether a request is one that no cached key serves.
    kinds: RefCell<Draws>,
}

impl Bucket {
    fn ttl(&self) -> Duration {
        Duration::from_secs(self.settings.ttl_s)
    }

    /// Adds a bucket key that data now lies under; the oldest makes room.
    fn remember(&self, blob: CiphertextBlob) -> BucketKey {
        let mut older = self.older.borrow_mut();
        let number = older.back().map_or(0, |(number, _)| number + 1);
        older.push_back((number, blob.clone()));
        if older.len() > self.settings.old_bucket_keys as usize {
            older.pop_front();
        }
        (number, blob)
    }

    /// Data written before the run: its bucket key exists, and nobody holds it.
    async fn write_old_data(self: Rc<Self>, requester: usize) -> ServiceOutcome {
        let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.requesters[requester].caller).await;
        self.desk.outcome(&VISIBLE, made.map(|blob| self.remember(blob)))
    }

    async fn put(self: Rc<Self>, requester: usize) -> ServiceOutcome {
        let Requester { caller, newest, first_ttl } = &self.requesters[requester];
        let new_key = async {
            self.desk.encrypt(KmsOperation::GenerateDataKey, caller).await.map(|blob| {
                let ttl = first_ttl.take().unwrap_or(self.ttl());
                let (number, blob) = self.remember(blob);
                self.cache.put(Held::ToRead { requester, number }, self.desk.now(), ttl);
                newest.replace(Some((number, blob)));
                ttl
            })
        };
        self.cache.serve(&self.desk, Held::ToWrite { requester }, &VISIBLE, new_key).await
    }

    /// Asks KMS in any case: for an object that has a data key of its own, or for a requester that has no bucket key yet.
    async fn get_uncached(self: Rc<Self>, requester: usize, key: Option<BucketKey>) -> ServiceOutcome {
        let Some((_, blob)) = key else { return self.put(requester).await };
        self.desk.outcome(&VISIBLE, self.desk.decrypt(&blob, &self.requesters[requester].caller).await)
    }

    async fn get(self: Rc<Self>, requester: usize, key: Option<BucketKey>) -> ServiceOutcome {
        // There is nothing to read yet.
        let Some((number, blob)) = key else { return self.put(requester).await };
        let open =
            async { self.desk.decrypt(&blob, &self.requesters[requester].caller).await.map(|()| self.ttl()) };
        self.cache.serve(&self.desk, Held::ToRead { requester, number }, &VISIBLE, open).await
    }
}

impl Model for Bucket {
    fn resources(&self) -> usize {
        self.settings.old_bucket_keys as usize
    }

    fn create(self: Rc<Self>, number: usize) -> Work {
        let requester = number % self.requesters.len();
        Box::pin(self.write_old_data(requester))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (requester, kind, place) = (draws.below(self.requesters.len()), draws.unit(), draws.unit());
        let S3BucketKeys { write_share, old_read_share, per_object_share, new_requester_share, .. } =
            self.settings;
        let uncached = {
            let mut kinds = self.kinds.borrow_mut();
            let per_object = kinds.unit() < per_object_share;
            kinds.unit() < new_requester_share || per_object
        };
        if uncached {
            let newest = self.requesters[requester].newest.borrow().clone();
            return Box::pin(self.get_uncached(requester, newest));
        }
        if kind < write_share {
            return Box::pin(self.put(requester));
        }
        let key = if kind < write_share + old_read_share {
            let older = self.older.borrow();
            older.get((place * older.len() as f64) as usize).cloned()
        } else {
            self.requesters[requester].newest.borrow().clone()
        };
        Box::pin(self.get(requester, key))
    }
}
