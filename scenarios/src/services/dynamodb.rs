//! DynamoDB: one table key per table, cached per principal for 300 s and a little more; the table's *status* follows the
//! outage only after minutes to hours (downstream-services 3.3; MA-D16, MA-D17, MA-D18).

use super::cache::KeyCache;
use super::desk::{Damage, Desk, Visible};
use super::draws::Draws;
use super::monitor::key_is_lost;
use super::objects::Objects;
use super::settings::{Checks, IN_FLIGHT_MAX, ROLES, ROLES_MAX};
use super::stats::{ServiceStats, WindowTally, join};
use super::words::{clock, count};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, CiphertextBlob, KmsOperation};
use crate::trace::ServiceOutcome;
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// `kind = "dynamodb"`. Principals read and write items of tables.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamoDb {
    /// Reads and writes per second; above 0 to 100,000; default 100.
    pub rate_per_s: f64,
    /// Tables; 1 to 500; default 10.
    pub tables: u32,
    /// Roles that use every table, each with a cache of its own; 1 to 16; default 5.
    pub principals: u32,
    /// Seconds a table key is cached for a principal, at least (MA-D16); 1 to 86,400; default 300.
    pub ttl_s: u64,
    /// Seconds it may stay longer, drawn anew at each refresh (MA-D16); 1 to 86,400; default 32.
    pub ttl_spread_s: u64,
    /// Seconds between a table's polls of its key; 1 to 86,400; default 60. The true period is not known.
    pub check_every_s: u64,
    /// Seconds of an unusable key after which a table's status changes, at least (MA-D18); 1 to 86,400; default 720.
    pub status_after_min_s: u64,
    /// … and at most; default 4,500. Each table draws its own, log-uniform.
    pub status_after_max_s: u64,
    /// Requests that wait for an answer at most; default 10,000.
    pub in_flight_max: u32,
}

impl Default for DynamoDb {
    fn default() -> Self {
        Self {
            rate_per_s: 100.0,
            tables: 10,
            principals: 5,
            ttl_s: 300,
            ttl_spread_s: 32,
            check_every_s: 60,
            status_after_min_s: 720,
            status_after_max_s: 4_500,
            in_flight_max: IN_FLIGHT_MAX,
        }
    }
}

const VISIBLE: Visible = Visible {
    invalid_state: "ValidationException (400): KMS key disabled error",
    internal: "InternalServerError (500)",
    throttled: "ThrottlingException (400)",
    disabled: "ValidationException (400): KMS key disabled error",
};
const VIA: &str = "dynamodb.us-east-1.amazonaws.com";

impl Service for DynamoDb {
    fn name(&self) -> &'static str {
        "dynamodb"
    }

    fn title(&self) -> &'static str {
        "DynamoDB tables"
    }

    fn rate_per_s(&self) -> f64 {
        self.rate_per_s
    }

    fn in_flight_max(&self) -> u32 {
        self.in_flight_max
    }

    fn check(&self) -> Result<(), SettingsError> {
        Checks::of(self.name())
            .load(self.rate_per_s, self.in_flight_max)
            .count("tables", self.tables, 1..=500)
            .count("principals", self.principals, 1..=ROLES_MAX)
            .seconds("ttl_s", self.ttl_s)
            .seconds("ttl_spread_s", self.ttl_spread_s)
            .seconds("check_every_s", self.check_every_s)
            .seconds_range(
                ["status_after_min_s", "status_after_max_s"],
                [self.status_after_min_s, self.status_after_max_s],
            )
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let (low, high) =
            (Duration::from_secs(self.status_after_min_s), Duration::from_secs(self.status_after_max_s));
        let pairs = (0..self.tables as usize)
            .flat_map(|table| (0..self.principals as usize).map(move |principal| (table, principal)));
        let first_ttls = pairs
            .map(|pair| (pair, draws.between(Duration::ZERO, Duration::from_secs(self.ttl_s))))
            .collect();
        Rc::new(Tables {
            principals: ROLES
                .iter()
                .take(self.principals as usize)
                .map(|role| desk.caller(role, VIA))
                .collect(),
            status_after: (0..self.tables).map(|_| draws.log_between(low, high)).collect(),
            first_ttls: RefCell::new(first_ttls),
            keys: Objects::new(self.tables as usize),
            cache: KeyCache::new(),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, worst: &WindowTally) -> String {
        let kept = format!(
            "DynamoDB keeps a table key for {} s and up to {} s more per principal, MA-D16",
            self.ttl_s, self.ttl_spread_s
        );
        join(&[worst.in_general(), worst.cache_sentence("cached table keys", &kept)])
    }

    fn lasting_damage(&self, _stats: &ServiceStats, damage: &[Damage]) -> String {
        let Some(first) = damage.first() else { return String::new() };
        format!(
            "{} of {} tables changed to status INACCESSIBLE_ENCRYPTION_CREDENTIALS, the first at {}. Reads and writes work as \
             soon as the key does, but the status stays for another 18 to 57 min, and until then backups and changes of \
             encryption are refused. After 20 h global-table replicas are removed; after 7 days the table is archived.",
            count(damage.len() as u64),
            count(u64::from(self.tables)),
            clock(first.at)
        )
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            format!(
                "MA-D16: DynamoDB caches a table key for {} s and up to {} s more per principal",
                self.ttl_s, self.ttl_spread_s
            ),
            "MA-D17: an unusable external key shows as ValidationException, like a disabled one".into(),
            format!(
                "MA-D18: a table's status changes {} to {} s after its key became unusable",
                self.status_after_min_s, self.status_after_max_s
            ),
            "MA-D34: failures are not cached".into(),
        ]
    }
}

struct Tables {
    settings: DynamoDb,
    desk: Rc<Desk>,
    principals: Vec<Caller>,
    keys: Objects,
    /// By table and principal.
    cache: KeyCache<(usize, usize)>,
    /// What is left of the keys held at the start: as in a fleet that has run for long, they do not expire together.
    first_ttls: RefCell<BTreeMap<(usize, usize), Duration>>,
    status_after: Vec<Duration>,
}

impl Tables {
    async fn create_table(self: Rc<Self>, principal: usize) -> ServiceOutcome {
        let made = self.desk.encrypt(KmsOperation::GenerateDataKey, &self.principals[principal]).await;
        VISIBLE.outcome(made.map(|key| {
            if !self.keys.is_full() {
                let table = self.keys.keep(key.clone(), 0.0);
                tokio::task::spawn_local(self.clone().watch(table, key));
            }
        }))
    }

    /// The table's slow eye on its key.
    async fn watch(self: Rc<Self>, table: usize, key: CiphertextBlob) {
        let every = Duration::from_secs(self.settings.check_every_s);
        // Spread, so that the tables do not all ask in the same second.
        let first = every.mul_f64((table + 1) as f64 / f64::from(self.settings.tables));
        let patience = self.status_after[table];
        if key_is_lost(&self.desk, &key, &self.principals[0], first, every, patience).await {
            self.desk.record_damage(table);
        }
    }

    async fn read_or_write(self: Rc<Self>, place: f64, principal: usize, ttl: Duration) -> ServiceOutcome {
        let Some((table, key)) = self.keys.pick(place) else { return self.create_table(principal).await };
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
        Box::pin(self.read_or_write(place, principal, ttl))
    }
}
