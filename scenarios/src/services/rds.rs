//! RDS and Aurora: a running instance has its volumes attached and works on; starting one needs KMS. Two hours after RDS notices
//! that the key is gone it stops the instance, and only an operator starts it again (downstream-services 3.4; MA-D19, MA-D20).
//!
//! ```text
//! running ──detection + 2 h──► …-recoverable ──7 days──► inaccessible-encryption-credentials (terminal)
//!    ▲──operator, with the key back──┘                        ▲
//!    └──detection + 2 h, if it cannot be stopped (MA-D20)──────┘
//! ```
//! An instance without backups runs on until maintenance detaches its volumes. Failover to an existing standby works, since
//! its volumes are attached (MA-D20); building the next standby needs KMS again, and so does replacing the host of an instance that
//! has none.

use super::desk::{Aftermath, Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{Parameters, settings};
use super::stats::{ServiceStats, WindowTally, join};
use super::watch::{KeyState, polls_in_words, watch_key};
use super::words::{clock, count, plural};
use super::{Model, Service, SettingsError, Work};
use crate::kms::{Caller, CiphertextBlob, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "rds"`. Most requests are queries on running instances; some start a further instance from existing storage
    /// (Decrypt). The running instances are created at the start (GenerateDataKeyWithoutPlaintext, Decrypt).
    Rds, "rds", "RDS instances";
    /// Queries, and starts of instances, per second; above 0 to 100,000; default 50.
    rate_per_s = 50.0;
    /// Share of starts among them; 0 to 1; default 0.01.
    start_share: f64 = 0.01, share();
    /// Running instances; 1 to 500; default 20.
    instances: u32 = 20, count(1..=500);
    /// How many of them cannot be stopped (read replicas, instances with read replicas, Aurora clusters with cross-Region
    /// replicas): they go straight to the terminal state (MA-D20); 0 to 500; default 0.
    unstoppable: u32 = 0, count(0..=500);
    /// How many have backups disabled; 0 to 500, and at most `instances` with `unstoppable`; default 0.
    without_backups: u32 = 0, count(0..=500);
    /// Seconds between two maintenances of an instance without backups, on average, each of which detaches its volumes;
    /// 3,600 to 31,536,000 (365 days); default 2,592,000 (30 days). Not published.
    maintenance_every_s: u64 = 2_592_000, seconds_in(3_600..=31_536_000);
    /// How many instances, the last ones, have a Multi-AZ standby under the same key; 0 to 500, and at most `instances`; default 0.
    multi_az: u32 = 0, count(0..=500);
    /// Hosts that fail per day, of all instances together; 0 to 1,000; default 0. An instance with a standby fails over to it, and
    /// the standby is built anew (Decrypt); another needs a new host at once (Decrypt), and is down until it has one.
    host_failures_per_day: u32 = 0, count(0..=1_000);
    /// Whether failing over to a standby needs KMS (a Decrypt), although its volumes are attached (MA-D20); default false.
    failover_needs_key: bool = false, any();
    /// Seconds between RDS's polls of the key, one for all instances (MA-D2); 1 to 86,400; default 60. The true period is not
    /// known. What follows from a poll is late by up to as much.
    check_every_s: u64 = 60, seconds();
    /// Seconds of an unusable key after which RDS notices, at least (MA-D19); 1 to 86,400; default 600.
    detect_min_s: u64 = 600, seconds();
    /// … and at most; default 3,600. Each instance draws its own.
    detect_max_s: u64 = 3_600, seconds();
    /// Seconds from noticing to stopping the instance; 1 to 86,400; default 7,200 (documented: 2 h).
    stop_after_s: u64 = 7_200, seconds();
    /// Seconds a stopped instance can still be started; 1 to 2,592,000; default 604,800 (7 days, documented).
    terminal_after_s: u64 = 604_800, seconds_in(1..=2_592_000);
    /// Seconds of a usable key after which an operator starts each stopped instance; 0 to 604,800; default 0: nobody does.
    operator_delay_s: u64 = 0, seconds_in(0..=604_800);
}

/// What a query sees on an instance that RDS has stopped.
pub const INSTANCE_STOPPED: &str =
    "connection refused: instance inaccessible-encryption-credentials-recoverable";
/// … and on one that is beyond recovery.
const INSTANCE_TERMINAL: &str = "connection refused: instance inaccessible-encryption-credentials";

/// … and on one whose volumes no host can attach, after its own has failed or was maintained.
const INSTANCE_DOWN: &str = "connection refused: no host can attach the volumes";

/// The documented error, and RDS's generic ones for KMS's retryable answers (MA-D4).
const VISIBLE: Visible = Visible {
    invalid_state: "KMSKeyNotAccessibleFault (400)",
    internal: "InternalFailure (500)",
    throttled: "ServiceUnavailable (503)",
    disabled: "KMSKeyNotAccessibleFault (400)",
    not_found: "KMSKeyNotAccessibleFault (400)",
};
const VIA: &str = "rds.us-east-1.amazonaws.com";
const ROLE: &str = "arn:aws:iam::111122223333:role/aws-service-role/rds.amazonaws.com/AWSServiceRoleForRDS";
const STOPPED: &str = "stopped";
const STARTED: &str = "started by an operator";
const FAILED_OVER: &str = "failed over to its standby";
const STANDBY_BACK: &str = "has a standby again";
const HOST_LOST: &str = "down: no host can attach its volumes";
const DETACHED: &str = "down: its volumes cannot be attached after maintenance";
const HOST_BACK: &str = "back on a new host";
const TERMINAL: &str = "terminal";
const TO_START: &str = "DB instances to start (start-db-instance, start-db-cluster)";
const TO_RESTORE: &str = "DB instances to restore from backup";
const LOST: &str = "DB instances in the terminal state inaccessible-encryption-credentials";

impl Service for Rds {
    // Users talk to the database, not to AWS.
    fn users_call_it_by_sdk(&self) -> bool {
        false
    }

    fn check(&self) -> Result<(), SettingsError> {
        self.ranges()
            .ordered(["detect_min_s", "detect_max_s"], [self.detect_min_s, self.detect_max_s])
            .part(["unstoppable", "instances"], [self.unstoppable, self.instances])
            .part(["multi_az", "instances"], [self.multi_az, self.instances])
            .part(["without_backups", "instances"], [self.without_backups + self.unstoppable, self.instances])
            .done()
    }

    fn model(&self, desk: Rc<Desk>, draws: &mut Draws) -> Rc<dyn Model> {
        let (low, high) = (Duration::from_secs(self.detect_min_s), Duration::from_secs(self.detect_max_s));
        let stop_after = Duration::from_secs(self.stop_after_s);
        let instances = (0..self.instances).map(|number| Instance {
            state: State::Running,
            stop_after: draws.between(low, high) + stop_after,
            stoppable: number >= self.unstoppable,
            backups: number < self.unstoppable || number >= self.unstoppable + self.without_backups,
            detaches_at: Duration::MAX,
            standby: number >= self.instances - self.multi_az,
        });
        let mut instances: Vec<Instance> = instances.collect();
        let mut maintenance = draws.split();
        let mean = Duration::from_secs(self.maintenance_every_s);
        for instance in instances.iter_mut().filter(|instance| !instance.backups) {
            instance.detaches_at = mean.mul_f64(maintenance.exponential());
        }
        let hosts = draws.split();
        let instances = Rc::new(Instances {
            caller: desk.caller(ROLE, VIA),
            storage: Objects::new(self.instances as usize),
            instances: RefCell::new(instances),
            maintenance: RefCell::new(maintenance),
            watched: Cell::new(false),
            settings: self.clone(),
            desk,
        });
        if self.host_failures_per_day > 0 {
            tokio::task::spawn_local(instances.clone().lose_hosts(hosts));
        }
        instances
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        join(&[
            during.in_general(),
            during.held_sentence(
                "queries on running instances",
                "their volumes stay attached with the key in the host's memory",
            ),
        ])
    }

    fn lasting_damage(&self, _stats: &ServiceStats, aftermath: &Aftermath) -> String {
        let lost = aftermath.became(TERMINAL).map_or(0, |(n, _)| n);
        let stopped = aftermath.became(STOPPED).map_or_else(String::new, |(n, first)| {
            let stopped = format!(
                "RDS stopped {} of {} instances (inaccessible-encryption-credentials-recoverable), the first at {}.",
                count(n.min(u64::from(self.instances))),
                count(u64::from(self.instances)),
                clock(first),
            );
            // No operator starts one that is beyond recovery.
            if n <= lost {
                return stopped;
            }
            format!(
                "{stopped} They stay stopped when the key is back, until an operator calls start-db-instance for each. After {} \
                 days only a restore from backup is left.",
                self.terminal_after_s / 86_400
            )
        });
        let terminal = aftermath.became(TERMINAL).map_or_else(String::new, |(n, first)| {
            let instances = plural(n, "instance is", "instances are");
            format!(
                "{instances} beyond recovery, the first since {}: only a restore from backup is left, which needs the key \
                 itself.",
                clock(first)
            )
        });
        let started = aftermath.became(STARTED).map_or_else(String::new, |(n, first)| {
            format!("An operator started {} from {} on.", plural(n, "instance", "instances"), clock(first))
        });
        let failed_over = aftermath.became(FAILED_OVER).map_or_else(String::new, |(n, first)| {
            format!("{} to a standby, the first at {}.", plural(n, "failover", "failovers"), clock(first))
        });
        let down = aftermath.became(HOST_LOST).map_or_else(String::new, |(n, first)| {
            let instances = plural(n, "instance", "instances");
            format!(
                "{instances} lost their host and got no other before the key was back, the first at {}.",
                clock(first)
            )
        });
        let detached = aftermath.became(DETACHED).map_or_else(String::new, |(n, first)| {
            format!(
                "{} left without volumes by maintenance, which no host could attach again, the first at {}.",
                plural(n, "instance was", "instances were"),
                clock(first)
            )
        });
        join(&[stopped, terminal, started, failed_over, down, detached])
    }

    fn assumptions(&self) -> Vec<String> {
        let mut assumptions = vec![
            polls_in_words("RDS", "instances", self.check_every_s),
            format!(
                "MA-D19: RDS notices an unusable key after {} to {} s, and stops the instance {} s later (documented: 2 h)",
                self.detect_min_s, self.detect_max_s, self.stop_after_s
            ),
        ];
        if self.unstoppable > 0 {
            assumptions.push(
                "MA-D20: an instance that cannot be stopped goes straight to the terminal state".into(),
            );
        }
        if self.multi_az > 0 {
            assumptions.push(
                match self.failover_needs_key {
                    false => "MA-D20: failover to an existing standby needs no KMS call",
                    true => "MA-D20: failover to an existing standby needs KMS",
                }
                .into(),
            );
        }
        if self.without_backups > 0 {
            assumptions.push(format!(
                "RDS: maintenance detaches an instance's volumes every {} s on average (not published)",
                self.maintenance_every_s
            ));
        }
        assumptions
    }
}

struct Instances {
    settings: Rds,
    desk: Rc<Desk>,
    caller: Caller,
    storage: Objects,
    instances: RefCell<Vec<Instance>>,
    /// Draws when the next maintenance comes.
    maintenance: RefCell<Draws>,
    /// RDS polls the key.
    watched: Cell<bool>,
}

struct Instance {
    state: State,
    /// How long its key must be lost for RDS to stop it.
    stop_after: Duration,
    stoppable: bool,
    backups: bool,
    /// When maintenance next detaches its volumes, if it has no backups.
    detaches_at: Duration,
    /// A standby in another zone has its volumes attached.
    standby: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// Its host has failed or is being maintained, and none can attach its volumes.
    Down,
    Stopped {
        since: Duration,
    },
    Terminal,
}

impl Instances {
    async fn create_instance(self: Rc<Self>) -> ServiceOutcome {
        let operation = KmsOperation::GenerateDataKeyWithoutPlaintext;
        let made = self.desk.encrypt_and_decrypt(operation, &self.caller).await;
        self.desk.outcome(
            &VISIBLE,
            made.map(|key| {
                if !self.storage.is_full() {
                    self.storage.keep(key.clone(), 0.0);
                    if !self.watched.replace(true) {
                        tokio::task::spawn_local(self.clone().watch(key));
                    }
                }
            }),
        )
    }

    /// RDS's slow eye on the key.
    async fn watch(self: Rc<Self>, key: CiphertextBlob) {
        let every = Duration::from_secs(self.settings.check_every_s);
        let look = |now, state| {
            for (number, instance) in self.instances.borrow_mut().iter_mut().enumerate() {
                self.look_at(number, instance, now, state);
            }
        };
        watch_key(&self.desk, &key, &self.caller, every, look).await;
    }

    fn look_at(self: &Rc<Self>, number: usize, instance: &mut Instance, now: Duration, key: KeyState) {
        if now >= instance.detaches_at {
            let mean = Duration::from_secs(self.settings.maintenance_every_s);
            instance.detaches_at = now + mean.mul_f64(self.maintenance.borrow_mut().exponential());
            if let Some(key) = self.storage.get(number) {
                tokio::task::spawn_local(self.clone().detach(number, key, DETACHED));
            }
        }
        match instance.state {
            // Without backups it runs on as long as its volumes stay attached.
            State::Running | State::Down
                if (instance.backups || instance.state == State::Down)
                    && key.lost_for(instance.stop_after, now) =>
            {
                self.desk.record_damage(number, if instance.stoppable { STOPPED } else { TERMINAL });
                if instance.stoppable {
                    instance.state = State::Stopped { since: now };
                    self.desk.leave_to_do(TO_START, 1);
                } else {
                    self.give_up(instance, now);
                }
            }
            State::Stopped { since }
                if now >= since + Duration::from_secs(self.settings.terminal_after_s) =>
            {
                self.desk.done(TO_START, 1);
                self.desk.record_damage(number, TERMINAL);
                self.give_up(instance, now);
            }
            State::Stopped { .. } if self.operator_acts(now, key) => {
                tokio::task::spawn_local(self.clone().start_stopped(number));
            }
            _ => {}
        }
    }

    fn operator_acts(&self, now: Duration, key: KeyState) -> bool {
        let delay_s = self.settings.operator_delay_s;
        delay_s > 0 && key.usable_for(Duration::from_secs(delay_s), now)
    }

    fn give_up(&self, instance: &mut Instance, now: Duration) {
        instance.state = State::Terminal;
        self.desk.lose(LOST, 1, now);
        self.desk.leave_to_do(TO_RESTORE, 1);
    }

    /// An operator calls start-db-instance; if that fails, after the next poll once more.
    async fn start_stopped(self: Rc<Self>, number: usize) {
        let Some(key) = self.storage.get(number) else { return };
        if self.desk.decrypt(&key, &self.caller).await.result.is_err() {
            return;
        }
        if let Some(instance) = self.instances.borrow_mut().get_mut(number)
            && let State::Stopped { .. } = instance.state
        {
            instance.state = State::Running;
            self.desk.done(TO_START, 1);
            self.desk.record_damage(number, STARTED);
        }
    }

    /// One host after the other fails.
    async fn lose_hosts(self: Rc<Self>, mut draws: Draws) {
        loop {
            let gap = draws.exponential() * 86_400.0 / f64::from(self.settings.host_failures_per_day);
            tokio::time::sleep(Duration::from_secs_f64(gap)).await;
            let place = draws.unit();
            if self.desk.closed() {
                return;
            }
            if let Some((number, key)) = self.storage.pick(place) {
                tokio::task::spawn_local(self.clone().detach(number, key, HOST_LOST));
            }
        }
    }

    /// Changes an instance while it is in this state; whether it was.
    fn change(&self, number: usize, from: State, change: impl FnOnce(&mut Instance)) -> bool {
        match self.instances.borrow_mut().get_mut(number) {
            Some(instance) if instance.state == from => {
                change(instance);
                true
            }
            _ => false,
        }
    }

    /// An instance's volumes leave its host; `down` is what becomes of it when no other can attach them.
    async fn detach(self: Rc<Self>, number: usize, key: CiphertextBlob, down: &'static str) {
        let attach = || async { self.desk.decrypt(&key, &self.caller).await.result.is_ok() };
        let again = || tokio::time::sleep(Duration::from_secs(self.settings.check_every_s));
        let standby = self.instances.borrow().get(number).is_some_and(|instance| instance.standby);
        if standby && (!self.settings.failover_needs_key || attach().await) {
            if !self.change(number, State::Running, |instance| instance.standby = false) {
                return;
            }
            self.desk.record_damage(number, FAILED_OVER);
            while !attach().await {
                if self.desk.closed() {
                    return;
                }
                again().await;
            }
            self.change(number, State::Running, |instance| instance.standby = true);
            return self.desk.record_damage(number, STANDBY_BACK);
        }
        if attach().await || !self.change(number, State::Running, |instance| instance.state = State::Down) {
            return;
        }
        self.desk.record_damage(number, down);
        while !self.desk.closed() {
            again().await;
            let stays = self.change(number, State::Down, |_| ());
            if !stays {
                // RDS has stopped it.
                return;
            }
            if attach().await {
                if self.change(number, State::Down, |instance| instance.state = State::Running) {
                    self.desk.record_damage(number, HOST_BACK);
                }
                return;
            }
        }
    }

    async fn start_instance(self: Rc<Self>, place: f64) -> ServiceOutcome {
        match self.storage.pick(place) {
            Some((_, key)) => self.desk.outcome(&VISIBLE, self.desk.decrypt(&key, &self.caller).await),
            None => self.create_instance().await,
        }
    }

    async fn query(self: Rc<Self>, place: f64) -> ServiceOutcome {
        let Some((number, _)) = self.storage.pick(place) else { return self.create_instance().await };
        let state = self.instances.borrow().get(number).map(|instance| instance.state);
        let refused = |visible| ServiceOutcome::Failed { visible, kms: None, attempts: 0 };
        match state {
            Some(State::Stopped { .. }) => refused(INSTANCE_STOPPED),
            Some(State::Down) => refused(INSTANCE_DOWN),
            Some(State::Terminal) => refused(INSTANCE_TERMINAL),
            _ => ServiceOutcome::ServedByHeldKey,
        }
    }
}

impl Model for Instances {
    fn resources(&self) -> usize {
        self.settings.instances as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(self.create_instance())
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place) = (draws.unit(), draws.unit());
        if kind < self.settings.start_share {
            Box::pin(self.start_instance(place))
        } else {
            Box::pin(self.query(place))
        }
    }
}
