//! DynamoDB: one table key per table, cached per principal for 300 s and a little more; the table's *status* follows the
//! outage only after minutes to hours, and stays when the key is back (downstream-services 3.3; MA-D16, MA-D17, MA-D18).
//!
//! ```text
//! CREATING ──key lost──► gone without an error after 59 min
//! ACTIVE ──12 to 75 min of a lost key──► INACCESSIBLE_ENCRYPTION_CREDENTIALS ──more than 7 days──► ARCHIVED
//!    ▲─────────18 to 57 min of a usable key──────────┘ └─20 h─► global-table replica removed
//! ```
//! TTL goes on deleting for 30 min after the status change, and the records of a stream expire after 24 h whether or not anyone
//! could read them.

use super::backlog::Backlog;
use super::cache::{KeyCache, failures_in_words};
use super::desk::{Aftermath, Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{Parameters, ROLES_MAX, settings};
use super::stats::{ServiceStats, WindowTally, join};
use super::watch::{KeyState, polls_in_words, tells_of_the_key, watch_key};
use super::words::{clock, count, plural};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, CiphertextBlob, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "dynamodb"`. Principals read and write items of tables.
    DynamoDb, "dynamodb", "DynamoDB tables";
    /// Reads and writes per second; above 0 to 100,000; default 100.
    rate_per_s = 100.0;
    /// Tables; 1 to 500; default 10.
    tables: u32 = 10, count(1..=500);
    /// Roles that use every table, each with a cache of its own; 1 to 16; default 5.
    principals: u32 = 5, count(1..=ROLES_MAX);
    /// Seconds a table key is cached for a principal, at least (MA-D16); 1 to 86,400; default 300.
    ttl_s: u64 = 300, seconds();
    /// Seconds it may stay longer, drawn anew at each refresh (MA-D16); 1 to 86,400; default 32.
    ttl_spread_s: u64 = 32, seconds();
    /// Seconds between DynamoDB's polls of the key, one for all tables (MA-D2); 1 to 86,400; default 60. The true period is
    /// not known. What follows from a poll is late by up to as much.
    check_every_s: u64 = 60, seconds();
    /// Seconds of an unusable key after which a table's status changes, at least (MA-D18); 1 to 86,400; default 720.
    status_after_min_s: u64 = 720, seconds();
    /// … and at most; default 4,500. Each table draws its own, log-uniform.
    status_after_max_s: u64 = 4_500, seconds();
    /// Seconds of a usable key after which the status is `ACTIVE` again, at least; 1 to 86,400; default 1,080 (18 min,
    /// measured).
    status_recovery_min_s: u64 = 1_080, seconds();
    /// … and at most; default 3,420 (57 min, measured). Each table draws its own.
    status_recovery_max_s: u64 = 3_420, seconds();
    /// Seconds after the status change at which a table is archived if its key is still unusable; 1 to 2,592,000; default
    /// 604,800 (7 days, documented).
    archive_after_s: u64 = 604_800, seconds_in(1..=2_592_000);
    /// How many of the tables are replicas of global tables; 0 to 500, and at most `tables`; default 0.
    global_tables: u32 = 0, count(0..=500);
    /// Seconds after the status change at which such a replica is removed from its group; 1 to 2,592,000; default 72,000
    /// (20 h, documented).
    replica_removed_after_s: u64 = 72_000, seconds_in(1..=2_592_000);
    /// Further tables created per hour, each once; 0 to 3,600; default 0.
    creates_per_h: u32 = 0, count(0..=3_600);
    /// Seconds such a table is in status `CREATING`; 1 to 86,400; default 30.
    creating_s: u64 = 30, seconds();
    /// Seconds after which it vanishes if its key became unusable meanwhile; 1 to 86,400; default 3,540 (59 min, measured).
    vanish_after_s: u64 = 3_540, seconds();
    /// Share of backups, and of changes of TTL or encryption, among the requests; 0 to 1; default 0. They are refused while the
    /// table's status is not `ACTIVE` (measured).
    administration_share: f64 = 0.0, share();
    /// How many of the tables have a stream; 0 to 500, and at most `tables`; default 0.
    streams: u32 = 0, count(0..=500);
    /// Share of writes among reads and writes, each of which puts a record into its table's stream; 0 to 1; default 0.3.
    stream_write_share: f64 = 0.3, share();
    /// Seconds between a stream's readings, while it has records; 1 to 86,400; default 60. Each needs the table key.
    stream_read_every_s: u64 = 60, seconds();
    /// Seconds after which a stream's record expires, read or not; 1 to 86,400; default 86,400 (24 h, documented).
    stream_retention_s: u64 = 86_400, seconds();
    /// Items per hour and table that Time to Live deletes; 0 to 1,000,000; default 0.
    ttl_deletes_per_h: u32 = 0, count(0..=1_000_000);
    /// Seconds after the status change in which it goes on deleting; 0 to 86,400; default 1,800 (30 min, documented).
    ttl_deletes_for_s: u64 = 1_800, seconds_in(0..=86_400);
    /// Seconds a failure to get a key is kept, in which nobody asks KMS again (MA-D34); 0 to 86,400; default 0: the next request
    /// tries again.
    failures_cached_s: u64 = 0, seconds_in(0..=86_400);
}

const VISIBLE: Visible = Visible {
    invalid_state: "ValidationException (400): KMS key disabled error",
    internal: "InternalServerError (500)",
    throttled: "ThrottlingException (400)",
    disabled: "ValidationException (400): KMS key disabled error",
    not_found: "ValidationException (400): KMS key disabled error",
};
/// What reads and writes of an archived table meet.
const TABLE_ARCHIVED: &str = "table is ARCHIVED";
/// What backups and changes of TTL or encryption meet meanwhile.
const TABLE_INACCESSIBLE: &str = "table status INACCESSIBLE_ENCRYPTION_CREDENTIALS";
const VIA: &str = "dynamodb.us-east-1.amazonaws.com";
const INACCESSIBLE: &str = "INACCESSIBLE_ENCRYPTION_CREDENTIALS";
const ACTIVE_AGAIN: &str = "ACTIVE again";
const ARCHIVED: &str = "ARCHIVED";
const REPLICA_REMOVED: &str = "replica removed";
const VANISHED: &str = "tables that vanished while CREATING";
const TTL_STOPPED: &str = "TTL deletes stopped";
const TTL_GOES_ON: &str = "TTL deletes go on";
const EXPIRED: &str = "stream records past their retention, unread";
const TTL_DELETED: &str = "items that TTL deleted while their table was inaccessible";
const TO_RESTORE: &str = "archived tables to restore from their backup as new tables";
const TO_REPLICATE: &str = "global-table replicas to add again";

impl Service for DynamoDb {
    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .ordered(
                ["status_after_min_s", "status_after_max_s"],
                [self.status_after_min_s, self.status_after_max_s],
            )
            .ordered(
                ["status_recovery_min_s", "status_recovery_max_s"],
                [self.status_recovery_min_s, self.status_recovery_max_s],
            )
            .part(["global_tables", "tables"], [self.global_tables, self.tables])
            .part(["streams", "tables"], [self.streams, self.tables])
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let seconds = Duration::from_secs;
        let pairs = (0..self.tables as usize)
            .flat_map(|table| (0..self.principals as usize).map(move |principal| (table, principal)));
        let first_ttls =
            pairs.map(|pair| (pair, draws.between(Duration::ZERO, seconds(self.ttl_s)))).collect();
        let status_after: Vec<Duration> = (0..self.tables)
            .map(|_| draws.log_between(seconds(self.status_after_min_s), seconds(self.status_after_max_s)))
            .collect();
        let tables = status_after.into_iter().enumerate().map(|(number, status_after)| {
            let (low, high) = (seconds(self.status_recovery_min_s), seconds(self.status_recovery_max_s));
            Table {
                status: Status::Active,
                status_after,
                recovery_after: draws.between(low, high),
                replica: number < self.global_tables as usize,
                ttl_deletes: true,
            }
        });
        let tables = Rc::new(Tables {
            tables: RefCell::new(tables.collect()),
            principals: desk.callers(self.principals, VIA),
            first_ttls: RefCell::new(first_ttls),
            keys: Objects::new(self.tables as usize),
            cache: KeyCache::new().keeping_failures(self.failures_cached_s),
            watched: Cell::new(false),
            streams: RefCell::new((0..self.streams).map(|_| Stream::of(self)).collect()),
            kinds: RefCell::new(draws.split()),
            settings: self.clone(),
            desk,
        });
        if self.creates_per_h > 0 {
            tokio::task::spawn_local(tables.clone().create_more(draws.split()));
        }
        tables
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        let kept = format!(
            "DynamoDB keeps a table key for {} s and up to {} s more per principal, MA-D16",
            self.ttl_s, self.ttl_spread_s
        );
        join(&[during.in_general(), during.cache_sentence("cached table keys", &kept)])
    }

    fn lasting_damage(&self, _stats: &ServiceStats, aftermath: &Aftermath) -> String {
        let Some((changed, first)) = aftermath.became(INACCESSIBLE) else { return String::new() };
        let archived = aftermath.became(ARCHIVED);
        // What is said of tables that come back is not true of archived ones.
        let left = match archived {
            None => "Reads and writes work",
            Some(_) => "In the other tables reads and writes work",
        };
        let inaccessible = format!(
            "{} of {} tables changed to status INACCESSIBLE_ENCRYPTION_CREDENTIALS, the first at {}.",
            count(changed.min(u64::from(self.tables))),
            count(u64::from(self.tables)),
            clock(first)
        );
        let back = match aftermath.became(ACTIVE_AGAIN) {
            Some((_, first)) => {
                format!(
                    "{left} as soon as the key does; the status was ACTIVE again from {} on.",
                    clock(first)
                )
            }
            None if archived.is_some_and(|(n, _)| n >= changed) => String::new(),
            None => format!(
                "{left} as soon as the key does, but the status stays for another {} to {} min, and until \
                 then backups and changes of encryption are refused. After {} h global-table replicas are removed; after {} \
                 days the table is archived.",
                self.status_recovery_min_s / 60,
                self.status_recovery_max_s / 60,
                self.replica_removed_after_s / 3_600,
                self.archive_after_s / 86_400,
            ),
        };
        let removed = aftermath.became(REPLICA_REMOVED).map_or_else(String::new, |(n, first)| {
            let replicas = plural(n, "replica was", "replicas were");
            format!("{replicas} removed from their global tables, the first at {}.", clock(first))
        });
        let archived = archived.map_or_else(String::new, |(n, first)| {
            format!(
                "{} archived after {} days, the first at {}: with the key back reads and writes still fail, and all that is \
                 left is to restore the archive to a new table.",
                plural(n, "table was", "tables were"),
                self.archive_after_s / 86_400,
                clock(first)
            )
        });
        let deletes = aftermath.became(TTL_STOPPED).map_or_else(String::new, |(_, first)| {
            format!(
                "TTL went on deleting for {} min, until {}; what expires after that stays until the status is ACTIVE again.",
                self.ttl_deletes_for_s / 60,
                clock(first)
            )
        });
        join(&[inaccessible, back, removed, archived, deletes])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            polls_in_words("DynamoDB", "tables", self.check_every_s),
            format!(
                "MA-D16: DynamoDB caches a table key for {} s and up to {} s more per principal",
                self.ttl_s, self.ttl_spread_s
            ),
            "MA-D17: an unusable external key shows as ValidationException, like a disabled one".into(),
            format!(
                "MA-D18: a table's status changes {} to {} s after its key became unusable",
                self.status_after_min_s, self.status_after_max_s
            ),
            failures_in_words(self.failures_cached_s),
        ]
    }
}

struct Tables {
    settings: DynamoDb,
    desk: Rc<Desk>,
    tables: RefCell<Vec<Table>>,
    principals: Vec<Caller>,
    keys: Objects,
    /// By table and principal.
    cache: KeyCache<(usize, usize)>,
    /// What is left of the keys held at the start: as in a fleet that has run for long, they do not expire together.
    first_ttls: RefCell<BTreeMap<(usize, usize), Duration>>,
    /// DynamoDB polls the key.
    watched: Cell<bool>,
    /// Those of the first tables.
    streams: RefCell<Vec<Stream>>,
    /// Draws what a request is beyond a read or write.
    kinds: RefCell<Draws>,
}

struct Stream {
    unread: Backlog,
    /// Someone is reading it.
    reading: bool,
}

impl Stream {
    fn of(settings: &DynamoDb) -> Self {
        Self { unread: Backlog::new(Duration::from_secs(settings.stream_retention_s)), reading: false }
    }
}

struct Table {
    status: Status,
    /// So long must its key be lost for its status to change, and usable to change back.
    status_after: Duration,
    recovery_after: Duration,
    /// It belongs to a global table.
    replica: bool,
    /// TTL deletes its expired items.
    ttl_deletes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Active,
    /// Since `InaccessibleEncryptionDateTime`.
    Inaccessible {
        since: Duration,
    },
    Archived,
}

impl Tables {
    async fn create_table(self: Rc<Self>, principal: usize) -> ServiceOutcome {
        let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.principals[principal]).await;
        self.desk.outcome(
            &VISIBLE,
            made.map(|key| {
                if !self.keys.is_full() {
                    self.keys.keep(key.clone(), 0.0);
                    if !self.watched.replace(true) {
                        tokio::task::spawn_local(self.clone().watch(key));
                    }
                }
            }),
        )
    }

    /// DynamoDB's slow eye on the key.
    async fn watch(self: Rc<Self>, key: CiphertextBlob) {
        let every = Duration::from_secs(self.settings.check_every_s);
        let look = |now, state| {
            for (number, table) in self.tables.borrow_mut().iter_mut().enumerate() {
                self.look_at(number, table, now, state);
            }
        };
        watch_key(&self.desk, &key, &self.principals[0], every, look).await;
    }

    fn look_at(&self, number: usize, table: &mut Table, now: Duration, key: KeyState) {
        match table.status {
            Status::Active if key.lost_for(table.status_after, now) => {
                table.status = Status::Inaccessible { since: now };
                self.desk.record_damage(number, INACCESSIBLE);
            }
            Status::Inaccessible { since } if self.stops_ttl_deletes(table, since, now) => {
                table.ttl_deletes = false;
                self.desk.record_damage(number, TTL_STOPPED);
                let deleted =
                    u64::from(self.settings.ttl_deletes_per_h) * self.settings.ttl_deletes_for_s / 3_600;
                self.desk.lose(TTL_DELETED, deleted, since);
                self.look_at(number, table, now, key);
            }
            Status::Inaccessible { .. } if key.usable_for(table.recovery_after, now) => {
                table.status = Status::Active;
                self.desk.record_damage(number, ACTIVE_AGAIN);
                if !table.ttl_deletes {
                    table.ttl_deletes = true;
                    self.desk.record_damage(number, TTL_GOES_ON);
                }
            }
            Status::Inaccessible { since } if key.is_lost() => {
                let reached = |clock_s| now >= since + Duration::from_secs(clock_s);
                if table.replica && reached(self.settings.replica_removed_after_s) {
                    table.replica = false;
                    self.desk.record_damage(number, REPLICA_REMOVED);
                    self.desk.leave_to_do(TO_REPLICATE, 1);
                }
                if reached(self.settings.archive_after_s) {
                    table.status = Status::Archived;
                    self.desk.record_damage(number, ARCHIVED);
                    self.desk.leave_to_do(TO_RESTORE, 1);
                }
            }
            _ => {}
        }
    }

    /// Half an hour after the change of status TTL stops deleting, whether the key is back by then or not.
    fn stops_ttl_deletes(&self, table: &Table, since: Duration, now: Duration) -> bool {
        let DynamoDb { ttl_deletes_per_h, ttl_deletes_for_s, .. } = self.settings;
        ttl_deletes_per_h > 0 && table.ttl_deletes && now >= since + Duration::from_secs(ttl_deletes_for_s)
    }

    /// Tables beside those in use, which nothing reads: some are CREATING when the key dies.
    async fn create_more(self: Rc<Self>, mut draws: Draws) {
        loop {
            let gap = draws.exponential() * 3_600.0 / f64::from(self.settings.creates_per_h);
            tokio::time::sleep(Duration::from_secs_f64(gap)).await;
            if self.desk.closed() {
                return;
            }
            let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.principals[0]).await;
            // CreateTable itself is refused.
            let Ok(key) = made.result else { continue };
            tokio::task::spawn_local(self.clone().creating(key));
        }
    }

    async fn creating(self: Rc<Self>, key: CiphertextBlob) {
        tokio::time::sleep(Duration::from_secs(self.settings.creating_s)).await;
        let every = Duration::from_secs(self.settings.check_every_s);
        while let Err(failure) = self.desk.decrypt(&key, &self.principals[0]).await.result {
            if tells_of_the_key(&failure) {
                let rest = self.settings.vanish_after_s.saturating_sub(self.settings.creating_s);
                tokio::time::sleep(Duration::from_secs(rest)).await;
                if !self.desk.closed() {
                    self.desk.lose(VANISHED, 1, self.desk.now());
                }
                return;
            }
            // Throttled, or KMS's own error: it is still being created.
            tokio::time::sleep(every).await;
            if self.desk.closed() {
                return;
            }
        }
    }

    /// Backups, and changes of TTL or encryption: they need the table's status, and its key at once.
    async fn administer(self: Rc<Self>, place: f64, principal: usize) -> ServiceOutcome {
        let Some((table, key)) = self.keys.pick(place) else { return self.create_table(principal).await };
        let status = self.tables.borrow().get(table).map(|table| table.status);
        let refused = |visible| ServiceOutcome::Failed { visible, kms: None, attempts: 0 };
        match status {
            Some(Status::Inaccessible { .. }) => refused(TABLE_INACCESSIBLE),
            Some(Status::Archived) => refused(TABLE_ARCHIVED),
            _ => {
                let tried = self.desk.decrypt(&key, &self.principals[principal]).await;
                self.desk.outcome(&VISIBLE, tried)
            }
        }
    }

    /// A write has succeeded, and leaves a record in its table's stream, if it has one.
    fn put_into_stream(self: &Rc<Self>, table: usize) {
        if let Some(stream) = self.streams.borrow_mut().get_mut(table) {
            stream.unread.add(1, self.desk.now());
            if !std::mem::replace(&mut stream.reading, true) {
                tokio::task::spawn_local(self.clone().read_stream(table));
            }
        }
    }

    /// Reads a stream until it is empty. The reader has a table key of its own.
    async fn read_stream(self: Rc<Self>, table: usize) {
        let every = Duration::from_secs(self.settings.stream_read_every_s);
        let ttl = Duration::from_secs(self.settings.ttl_s);
        let reader = (table, self.principals.len());
        loop {
            tokio::time::sleep(every).await;
            let Some(key) = self.keys.get(table) else { return };
            let open = async { self.desk.decrypt(&key, &self.principals[0]).await.map(|()| ttl) };
            let read = self.cache.serve(&self.desk, reader, &VISIBLE, open).await;
            self.expire_records(table);
            if let Some(stream) = self.streams.borrow_mut().get_mut(table) {
                if !matches!(read, ServiceOutcome::Failed { .. }) {
                    let all = stream.unread.len();
                    stream.unread.take(all);
                }
                if stream.unread.len() == 0 || self.desk.closed() {
                    stream.reading = false;
                    return;
                }
            }
        }
    }

    fn expire_records(&self, table: usize) {
        let now = self.desk.now().min(self.desk.until());
        let expired = self.streams.borrow_mut().get_mut(table).and_then(|stream| stream.unread.expire(now));
        if let Some((count, at)) = expired {
            self.desk.lose(EXPIRED, self.desk.represented(count), at);
        }
    }

    async fn read_or_write_item(
        self: Rc<Self>,
        place: f64,
        principal: usize,
        ttl: Duration,
        writes: bool,
    ) -> ServiceOutcome {
        let table = self.keys.pick(place).map(|(table, _)| table);
        let outcome = self.clone().read_or_write(place, principal, ttl).await;
        if writes
            && !matches!(outcome, ServiceOutcome::Failed { .. })
            && let Some(table) = table
        {
            self.put_into_stream(table);
        }
        outcome
    }

    async fn read_or_write(self: Rc<Self>, place: f64, principal: usize, ttl: Duration) -> ServiceOutcome {
        let Some((table, key)) = self.keys.pick(place) else { return self.create_table(principal).await };
        if self.tables.borrow().get(table).is_some_and(|table| table.status == Status::Archived) {
            return ServiceOutcome::Failed { visible: TABLE_ARCHIVED, kms: None, attempts: 0 };
        }
        let pair = (table, principal);
        let open = async {
            let tried = self.desk.decrypt(&key, &self.principals[principal]).await;
            tried.map(|()| self.first_ttls.borrow_mut().remove(&pair).unwrap_or(ttl))
        };
        self.cache.serve(&self.desk, pair, &VISIBLE, open).await
    }
}

impl Model for Tables {
    fn resources(&self) -> usize {
        self.settings.tables as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(self.create_table(0))
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (place, principal) = (draws.unit(), draws.below(self.principals.len()));
        let ttl = Duration::from_secs(self.settings.ttl_s)
            + Duration::from_secs(self.settings.ttl_spread_s).mul_f64(draws.unit());
        let DynamoDb { administration_share, streams, stream_write_share, .. } = self.settings;
        let (kind, writes) = {
            let mut kinds = self.kinds.borrow_mut();
            (kinds.unit(), kinds.unit() < stream_write_share)
        };
        if kind < administration_share {
            Box::pin(self.administer(place, principal))
        } else if streams > 0 {
            Box::pin(self.read_or_write_item(place, principal, ttl, writes))
        } else {
            Box::pin(self.read_or_write(place, principal, ttl))
        }
    }

    fn settle(&self) {
        (0..self.settings.streams as usize).for_each(|table| self.expire_records(table));
    }
}
