//! Kinesis Data Streams with SSE-KMS: about twelve KMS calls in five minutes for each stream and set of credentials. Producers
//! without a buffer lose data from the onset, unread records expire at retention, and whoever catches up after the outage
//! calls KMS more often (downstream-services 4.3; MA-D24, MA-D25). Firehose refuses puts with a code of its own, and tries to
//! deliver what it has accepted for 24 hours.

use super::backlog::Backlog;
use super::cache::{KeyCache, failures_in_words};
use super::cached_keys::{CachedKeys, WriteKey};
use super::desk::{Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::retry::Tried;
use super::settings::{Parameters, ROLES, settings};
use super::stats::{WindowTally, join};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "kinesis"`. Producers put records (GenerateDataKey), consumers get them in batches (Decrypt), each when one of
    /// their keys has expired. Consumers keep trying, as the Kinesis Client Library does (MA-D24).
    Kinesis, "kinesis", "Kinesis data streams";
    /// Records put, and gets, per second; above 0 to 100,000; default 50.
    rate_per_s = 50.0;
    /// Share of gets among them; 0 to 1; default 0.5.
    get_share: f64 = 0.5, share();
    /// Streams; 1 to 500; default 3.
    streams: u32 = 3, count(1..=500);
    /// Sets of credentials that put to every stream; 1 to 15; default 2.
    producers: u32 = 2, count(1..=15);
    /// Sets of credentials that read every stream, each all of it; 1 to 15, and at most 16 with `producers`; default 2.
    consumers: u32 = 2, count(1..=15);
    /// Seconds Kinesis keeps a data key; 1 to 86,400; default 300 (documented as about 5 min).
    ttl_s: u64 = 300, seconds();
    /// Keys it keeps for a stream and a set of credentials; 1 to 100; default 12 (documented: about 12 calls in 5 min).
    keys_per_stream: u32 = 12, count(1..=100);
    /// Further calls of KMS that a get makes that reads behind the tip, where other keys were in use; 0 to 100; default 1.
    /// Documented without a number.
    catch_up_calls: u32 = 1, count(0..=100);
    /// Records of one get at most (`Limit`); 1 to 10,000; default 10.
    records_per_get: u32 = 10, count(1..=10_000);
    /// Seconds after which records expire; 86,400 (24 h) to 31,536,000 (365 days); default 86,400.
    retention_s: u64 = 86_400, seconds_in(86_400..=31_536_000);
    /// Share of records put to an encrypted Firehose stream among the requests; 0 to 1, and at most 1 with `get_share`; default 0.
    /// Firehose delivers them to S3 under a key of the same key store (GenerateDataKey).
    firehose_share: f64 = 0.0, share();
    /// Seconds Firehose buffers before it delivers, and between further attempts; 1 to 900; default 300.
    firehose_buffer_s: u64 = 300, seconds_in(1..=900);
    /// Seconds for which it tries to deliver a record; 1 to 86,400; default 86,400 (24 h for Direct PUT, documented; that a KMS
    /// failure falls under this is inferred).
    firehose_retention_s: u64 = 86_400, seconds();
    /// Whether a consumer that meets a KMS error stops for good, until someone starts it again, as some that are no Kinesis Client
    /// Library do (MA-D24); default false: it keeps trying.
    consumers_stop: bool = false, any();
    /// Whether producers keep what they cannot put until they can; default false: it is lost.
    producers_buffer: bool = false, any();
    /// Seconds a failure to get a key is kept, in which nobody asks KMS again (MA-D34); 0 to 86,400; default 0: the next request
    /// tries again.
    failures_cached_s: u64 = 0, seconds_in(0..=86_400);
}

const VISIBLE: Visible = Visible {
    invalid_state: "KMSInvalidStateException (400)",
    internal: "InternalFailure (500)",
    throttled: "KMSThrottlingException (400)",
    disabled: "KMSDisabledException (400)",
    not_found: "KMSNotFoundException (400)",
};
/// Firehose, which has one code for everything that KMS refuses.
const FIREHOSE_VISIBLE: Visible = Visible {
    invalid_state: "InvalidKMSResourceException (400)",
    internal: "ServiceUnavailableException (503)",
    throttled: "ServiceUnavailableException (503)",
    disabled: "InvalidKMSResourceException (400)",
    not_found: "InvalidKMSResourceException (400)",
};
const FIREHOSE_VIA: &str = "firehose.us-east-1.amazonaws.com";
const UNDELIVERED: &str = "records that Firehose could not deliver before their retention";
const VIA: &str = "kinesis.us-east-1.amazonaws.com";
/// What a consumer meets that comes back with a shard iterator older than [`ITERATOR_LIVES`].
const ITERATOR_EXPIRED: &str = "ExpiredIteratorException (400)";
const ITERATOR_LIVES: Duration = Duration::from_secs(300);
/// A consumer that has stopped asks for nothing any more.
const CONSUMER_STOPPED: &str = "consumer stopped: KMS error is fatal";
const TO_START: &str = "consumers to start again";
const NOT_PUT: &str = "records that producers without a buffer could not put";
const TOO_OLD: &str = "records past their retention, unread";
/// A consumer with no more unread records than this is at the tip.
const AT_THE_TIP: u64 = 1_000;

impl Service for Kinesis {
    // A producer that tries again is one with a buffer, `producers_buffer`; consumers come again by themselves.
    fn users_call_it_by_sdk(&self) -> bool {
        false
    }

    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .roles(["producers", "consumers"], [self.producers, self.consumers])
            .together(["get_share", "firehose_share"], [self.get_share, self.firehose_share])
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let firehose = (self.firehose_share > 0.0).then(|| Firehose {
            caller: desk.caller(ROLES[0], FIREHOSE_VIA),
            keys: CachedKeys {
                principals: desk.callers(self.producers, FIREHOSE_VIA),
                resources: Objects::new(1),
                cache: KeyCache::new().keeping_failures(self.failures_cached_s).aged(draws),
                visible: &FIREHOSE_VISIBLE,
                ttl: Duration::from_secs(self.ttl_s),
                desk: desk.clone(),
            },
            undelivered: RefCell::new(Backlog::new(Duration::from_secs(self.firehose_retention_s))),
            delivering: Cell::new(false),
        });
        Rc::new(Streams {
            firehose,
            keys: CachedKeys {
                principals: desk.callers(self.producers + self.consumers, VIA),
                resources: Objects::new(self.streams as usize),
                cache: KeyCache::new().keeping_failures(self.failures_cached_s).aged(draws),
                visible: &VISIBLE,
                ttl: Duration::from_secs(self.ttl_s),
                desk,
            },
            readers: RefCell::default(),
            buffered: RefCell::default(),
            settings: self.clone(),
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let kept = format!("Kinesis keeps a data key for about {} s per stream and credentials", self.ttl_s);
        join(&[during.in_general(), during.cache_sentence("cached data keys", &kept)])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            match self.consumers_stop {
                false => "MA-D24: consumers keep trying, as the Kinesis Client Library does".into(),
                true => {
                    "MA-D24: a consumer that meets a KMS error stops until someone starts it again".into()
                }
            },
            format!("MA-D25: Kinesis keys fail 0 to {} s after the onset, uniformly", self.ttl_s),
            format!(
                "Kinesis: a get behind the tip makes {} further KMS calls (documented without a number)",
                self.catch_up_calls
            ),
            failures_in_words(self.failures_cached_s),
        ]
    }
}

struct Streams {
    settings: Kinesis,
    firehose: Option<Firehose>,
    keys: CachedKeys,
    /// Where each consumer stands, by stream and consumer.
    readers: RefCell<BTreeMap<(usize, usize), Reader>>,
    /// What producers keep that they could not put, by stream and producer.
    buffered: RefCell<BTreeMap<(usize, usize), u64>>,
}

/// A Firehose stream that delivers to S3.
struct Firehose {
    keys: CachedKeys,
    /// Firehose's role, under which it writes to S3.
    caller: Caller,
    undelivered: RefCell<Backlog>,
    /// It waits for its next delivery.
    delivering: Cell<bool>,
}

struct Reader {
    unread: Backlog,
    /// When its gets began to fail. Up to then it had a fresh iterator every second, however few of its gets are simulated.
    failing_since: Option<Duration>,
    /// It has met a KMS error and does nothing any more.
    stopped: bool,
}

impl Streams {
    async fn put(self: Rc<Self>, stream: usize, producer: usize, part: u8) -> ServiceOutcome {
        let outcome = self.keys.write((stream, producer, part), WriteKey::Generate).await;
        let desk = &self.keys.desk;
        if !matches!(outcome, ServiceOutcome::Failed { .. }) {
            let buffered = self.buffered.borrow_mut().remove(&(stream, producer)).unwrap_or(0);
            self.add(stream, 1 + buffered);
        } else if self.settings.producers_buffer {
            *self.buffered.borrow_mut().entry((stream, producer)).or_insert(0) += 1;
        } else {
            desk.lose(NOT_PUT, desk.represented(1), desk.now());
        }
        outcome
    }

    /// Every consumer has so many more to read.
    fn add(&self, stream: usize, records: u64) {
        let now = self.keys.desk.now();
        let Kinesis { producers, consumers, retention_s, .. } = self.settings;
        let mut readers = self.readers.borrow_mut();
        for consumer in 0..consumers as usize {
            let reader = readers.entry((stream, producers as usize + consumer)).or_insert_with(|| Reader {
                unread: Backlog::new(Duration::from_secs(retention_s)),
                failing_since: None,
                stopped: false,
            });
            reader.unread.add(records, now);
        }
    }

    async fn get(self: Rc<Self>, stream: usize, consumer: usize, part: u8) -> ServiceOutcome {
        let desk = &self.keys.desk;
        let stopped = self.readers.borrow().get(&(stream, consumer)).is_some_and(|reader| reader.stopped);
        if stopped {
            self.expire((stream, consumer));
            return ServiceOutcome::Failed { visible: CONSUMER_STOPPED, kms: None, attempts: 0 };
        }
        let outcome = self.keys.read((stream, consumer, part)).await;
        self.expire((stream, consumer));
        if matches!(outcome, ServiceOutcome::Failed { .. }) {
            if let Some(reader) = self.readers.borrow_mut().get_mut(&(stream, consumer)) {
                reader.failing_since.get_or_insert(desk.now());
                if self.settings.consumers_stop && !reader.stopped {
                    reader.stopped = true;
                    desk.leave_to_do(TO_START, 1);
                }
            }
            return outcome;
        }
        let (iterator_expired, behind) = match self.readers.borrow_mut().get_mut(&(stream, consumer)) {
            Some(reader) => {
                let failing_since = reader.failing_since.take();
                let expired = failing_since.is_some_and(|since| desk.now() > since + ITERATOR_LIVES);
                (expired, desk.represented(reader.unread.len()) > AT_THE_TIP)
            }
            None => (false, false),
        };
        if iterator_expired {
            // It asks for another and comes back.
            return ServiceOutcome::Failed { visible: ITERATOR_EXPIRED, kms: None, attempts: 0 };
        }
        if behind {
            let caught_up = self.read_behind(stream, consumer).await;
            if caught_up.result.is_err() {
                return self.keys.desk.outcome(&VISIBLE, caught_up);
            }
        }
        if let Some(reader) = self.readers.borrow_mut().get_mut(&(stream, consumer)) {
            reader.unread.take(u64::from(self.settings.records_per_get));
        }
        outcome
    }

    /// Records behind the tip lie under keys that are no longer held.
    async fn read_behind(&self, stream: usize, consumer: usize) -> Tried<()> {
        let mut read = Tried { result: Ok(()), attempts: 0 };
        let Some(key) = self.keys.resources.get(stream) else { return read };
        for _ in 0..self.settings.catch_up_calls {
            let opened = self.keys.desk.decrypt(&key, &self.keys.principals[consumer]).await;
            read = Tried { result: opened.result, attempts: read.attempts + opened.attempts };
            if read.result.is_err() {
                break;
            }
        }
        read
    }

    async fn put_to_firehose(self: Rc<Self>, producer: usize) -> ServiceOutcome {
        let Some(firehose) = &self.firehose else { return ServiceOutcome::ServedByHeldKey };
        let outcome = firehose.keys.write((0, producer, 0), WriteKey::Generate).await;
        let desk = &self.keys.desk;
        if !matches!(outcome, ServiceOutcome::Failed { .. }) {
            firehose.undelivered.borrow_mut().add(1, desk.now());
            if !firehose.delivering.replace(true) {
                tokio::task::spawn_local(self.clone().deliver());
            }
        } else if !self.settings.producers_buffer {
            desk.lose(NOT_PUT, desk.represented(1), desk.now());
        }
        outcome
    }

    /// Writes what is buffered to S3, again and again until it works or is too old.
    async fn deliver(self: Rc<Self>) {
        let Some(firehose) = &self.firehose else { return };
        let pause = Duration::from_secs(self.settings.firehose_buffer_s);
        loop {
            tokio::time::sleep(pause).await;
            self.give_up();
            let object = self.keys.desk.encrypt(KmsOperation::GenerateDataKey, &firehose.caller).await;
            let mut undelivered = firehose.undelivered.borrow_mut();
            if object.result.is_ok() {
                let all = undelivered.len();
                undelivered.take(all);
            }
            if undelivered.len() == 0 || self.keys.desk.closed() {
                return firehose.delivering.set(false);
            }
        }
    }

    /// Records that Firehose has tried to deliver for too long by now.
    fn give_up(&self) {
        let Some(firehose) = &self.firehose else { return };
        let desk = &self.keys.desk;
        if let Some((count, at)) = firehose.undelivered.borrow_mut().expire(desk.now().min(desk.until())) {
            desk.lose(UNDELIVERED, desk.represented(count), at);
        }
    }

    fn expire(&self, reader: (usize, usize)) {
        let desk = &self.keys.desk;
        let now = desk.now().min(desk.until());
        let expired = self.readers.borrow_mut().get_mut(&reader).and_then(|it| it.unread.expire(now));
        if let Some((count, at)) = expired {
            desk.lose(TOO_OLD, desk.represented(count), at);
        }
    }
}

impl Model for Streams {
    fn resources(&self) -> usize {
        self.settings.streams as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(async move { self.keys.create(0).await })
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let stream = draws.below(self.resources());
        let (kind, principal) = (draws.unit(), draws.unit());
        let Kinesis { get_share, firehose_share, producers, consumers, keys_per_stream, .. } = self.settings;
        let part = draws.below(keys_per_stream as usize) as u8;
        let (producers, consumers) = (producers as usize, consumers as usize);
        let among = |n: usize| ((principal * n as f64) as usize).min(n - 1);
        if kind < get_share {
            Box::pin(self.get(stream, producers + among(consumers), part))
        } else if kind < get_share + firehose_share {
            Box::pin(self.put_to_firehose(among(producers)))
        } else {
            Box::pin(self.put(stream, among(producers), part))
        }
    }

    fn settle(&self) {
        let readers: Vec<(usize, usize)> = self.readers.borrow().keys().copied().collect();
        readers.into_iter().for_each(|reader| self.expire(reader));
        self.give_up();
    }
}
