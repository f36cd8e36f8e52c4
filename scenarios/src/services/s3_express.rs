//! S3 Express One Zone (directory buckets): the key is obtained when a session is created, Bucket Keys are always on, and a
//! session lasts five minutes (downstream-services 3.2). So whoever has a session works on until it ends.

use super::cache::{KeyCache, failures_in_words};
use super::cached_keys::{CachedKeys, WriteKey};
use super::desk::Desk;
use super::draws::Draws;
use super::objects::Objects;
use super::s3::VISIBLE;
use super::settings::{ROLES_MAX, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, Work};
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "s3-express"`. Requesters read and write in sessions; a request without a valid one begins with `CreateSession`
    /// (GenerateDataKey for a session that writes, Decrypt for one that reads).
    S3Express, "s3-express", "S3 Express directory buckets";
    /// GET and PUT requests per second; above 0 to 100,000; default 100.
    rate_per_s = 100.0;
    /// Share of PUT among them; 0 to 1; default 0.3.
    write_share: f64 = 0.3, share();
    /// Directory buckets; 1 to 500; default 4.
    buckets: u32 = 4, count(1..=500);
    /// Roles that use every bucket, each in sessions of its own; 1 to 16; default 8.
    requesters: u32 = 8, count(1..=ROLES_MAX);
    /// Seconds a session lasts; 1 to 86,400; default 300 (documented).
    session_s: u64 = 300, seconds();
    /// Seconds a failure to get a key is kept, in which nobody asks KMS again (MA-D34); 0 to 86,400; default 0: the next request
    /// tries again.
    failures_cached_s: u64 = 0, seconds_in(0..=86_400);
}

const VIA: &str = "s3express.us-east-1.amazonaws.com";

impl Service for S3Express {
    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Buckets {
            keys: Rc::new(CachedKeys {
                principals: desk.callers(self.requesters, VIA),
                resources: Objects::new(self.buckets as usize),
                cache: KeyCache::new().keeping_failures(self.failures_cached_s).aged(draws),
                visible: &VISIBLE,
                ttl: Duration::from_secs(self.session_s),
                desk,
            }),
            settings: self.clone(),
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let kept = format!("a session lasts {} s", self.session_s);
        join(&[during.in_general(), during.cache_sentence("sessions that had their key", &kept)])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            "MA-D13: S3 answers 503 ServiceUnavailable when KMS answers 500".into(),
            failures_in_words(self.failures_cached_s),
        ]
    }
}

struct Buckets {
    settings: S3Express,
    keys: Rc<CachedKeys>,
}

impl Model for Buckets {
    fn resources(&self) -> usize {
        self.settings.buckets as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(async move { self.keys.create(0).await })
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (bucket, requester) = (draws.below(self.resources()), draws.below(self.keys.principals.len()));
        let writes = draws.unit() < self.settings.write_share;
        Box::pin(async move {
            if writes {
                self.keys.write((bucket, requester, 0), WriteKey::Generate).await
            } else {
                self.keys.read((bucket, requester, 1)).await
            }
        })
    }
}
