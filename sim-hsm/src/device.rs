//! The device: an engine behind a schedule, with the faults acted out. It knows time only as told.
//!
//! Place on the map: behind both doors, `backend` and `control`, in one mutex that is never held across an await.

use crate::backend::Configuration;
use crate::capacity::{Capacity, Full, Schedule, Ticket};
use crate::codes::{
    CKR_DEVICE_ERROR, CKR_DEVICE_REMOVED, CKR_SESSION_COUNT, CKR_SESSION_HANDLE_INVALID, error,
};
use crate::control::{Asked, Counters, Occupancy, Operation, Outcome};
use crate::faults::{Fault, FaultError, FaultId, FaultPlan};
use crate::ledger::IvLedger;
use crate::service_time::{ServiceTime, scale};
use crate::streams::{stream, unit};
use crate::token::Engine;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use xks_proxy::hsm::{HealthStatus, HsmError, Sealed};
use xks_proxy::key::KeyName;

/// What a waiting caller is to do.
pub(crate) enum Outlook {
    /// Its operation is done.
    Ended,
    /// Its operation was thrown out.
    Lost(HsmError),
    /// Its operation will be done then, if nothing changes.
    EndsAt(Duration),
    /// The device hangs; nothing ends until that changes.
    Stands,
}

/// Why operations in flight are thrown out.
#[derive(Clone, Copy)]
enum Loss {
    Device,
    Session,
}

pub(crate) struct Device {
    name: String,
    pub(crate) engine: Box<dyn Engine>,
    capacity: Capacity,
    schedule: Schedule,
    /// The latest time told.
    now: Duration,
    /// The device's own time, while it stands still.
    stands_at: Option<Duration>,
    /// How long it has stood still before.
    stood: Duration,
    seed: u64,
    stream: u64,
    service: Draws,
    background: Background,
    faults: BTreeMap<FaultId, Active>,
    next_fault: u64,
    /// Operations somebody waits for.
    awaited: BTreeSet<Ticket>,
    /// Operations thrown out of which their callers do not know yet.
    lost: BTreeMap<Ticket, Loss>,
    ledger: Option<IvLedger>,
    history: Option<Vec<Asked>>,
    pub(crate) counters: Counters,
    /// The most since somebody last asked.
    peak: Occupancy,
}

/// A fault that holds, with draws of its own so that a second fault changes none of them.
struct Active {
    fault: Fault,
    rng: ChaCha20Rng,
}

/// Streams of service times.
struct Draws {
    describe: ChaCha20Rng,
    encrypt: ChaCha20Rng,
    decrypt: ChaCha20Rng,
}

/// The rare faults, a stream for each.
struct Background {
    plan: FaultPlan,
    busy: ChaCha20Rng,
    session_lost: ChaCha20Rng,
    device_error: ChaCha20Rng,
    stall: ChaCha20Rng,
}

impl Device {
    pub(crate) fn new(configuration: Configuration, engine: Box<dyn Engine>) -> Self {
        let Configuration { name, seed, stream: number, capacity, faults, ledger, history, .. } =
            configuration;
        let draws = |purpose| stream(seed, number, purpose, 0);
        Self {
            name,
            engine,
            schedule: Schedule::new(&capacity),
            capacity,
            now: Duration::ZERO,
            stands_at: None,
            stood: Duration::ZERO,
            seed,
            stream: number,
            service: Draws {
                describe: draws("service describe"),
                encrypt: draws("service encrypt"),
                decrypt: draws("service decrypt"),
            },
            background: Background {
                plan: faults,
                busy: draws("busy"),
                session_lost: draws("session lost"),
                device_error: draws("device error"),
                stall: draws("stall"),
            },
            faults: BTreeMap::new(),
            next_fault: 0,
            awaited: BTreeSet::new(),
            lost: BTreeMap::new(),
            ledger,
            history: history.then(Vec::new),
            counters: Counters::default(),
            peak: Occupancy::default(),
        }
    }

    /// Brings the device up to `now`. Everything below wants this first; a time before the latest told counts as that.
    pub(crate) fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        self.schedule.settle(self.own_time());
    }

    /// An operation arrives. `Ok` names it and holds what the engine made of it, to be handed over when it is done.
    pub(crate) fn admit<T>(
        &mut self,
        operation: Operation,
        key: &KeyName,
        work: impl FnOnce(&mut dyn Engine, Option<&IvLedger>) -> Result<T, HsmError>,
    ) -> Result<(Ticket, Result<T, HsmError>), HsmError> {
        self.counters.count(operation);
        // Every draw is made for every operation, admitted or not, so that the n-th operation has the n-th of each.
        let service = self.draw_service(operation);
        let chance = self.background.draw();
        let injected = self.draw_errors();
        if self.is(Fault::Down) {
            return Err(self.down());
        }
        if chance.busy {
            self.counters.injected += 1;
            return Err(self.refused("no free session, by chance"));
        }
        if self.sessions_left().is_some_and(|left| self.schedule.sessions() >= left) {
            return Err(self.refused("all sessions are taken"));
        }
        let service = scale(service, chance.factor);
        let (ticket, _) = self.schedule.admit(self.own_time(), service).map_err(|full| match full {
            Full::Sessions => self.refused("all sessions are taken"),
            Full::Queue => self.refused("the queue is full"),
        })?;
        self.awaited.insert(ticket);
        let occupancy = self.occupancy();
        self.counters.high_water(occupancy);
        self.peak = self.peak.most(occupancy);
        let outcome = match injected.or(chance.error) {
            Some(ck_rv) => {
                self.counters.injected += 1;
                let detail = format!("{}: {operation} with {key}: fault injected", self.name);
                Err(error(ck_rv, detail))
            }
            None => work(self.engine.as_mut(), self.ledger.as_ref()),
        };
        Ok((ticket, outcome))
    }

    /// How an operation stands that was admitted and has not been left.
    pub(crate) fn outlook(&self, ticket: Ticket) -> Outlook {
        match (self.lost.get(&ticket), self.schedule.plan(ticket)) {
            (Some(Loss::Device), _) => Outlook::Lost(self.down()),
            (Some(Loss::Session), _) => {
                let detail = format!("{}: the session was closed during the operation", self.name);
                Outlook::Lost(error(CKR_SESSION_HANDLE_INVALID, detail))
            }
            (None, None) => Outlook::Ended,
            (None, Some(_)) if self.stands_at.is_some() => Outlook::Stands,
            (None, Some(plan)) => Outlook::EndsAt(plan.ends.saturating_add(self.stood)),
        }
    }

    /// The caller goes, with or without an answer. The device works on.
    pub(crate) fn leave(
        &mut self,
        ticket: Option<Ticket>,
        operation: Operation,
        key: &KeyName,
        arrived: Duration,
        outcome: Outcome,
    ) {
        if let Some(ticket) = ticket {
            self.awaited.remove(&ticket);
            self.lost.remove(&ticket);
        }
        match outcome {
            Outcome::Answered => self.counters.answered += 1,
            Outcome::Failed(kind) => *self.counters.failed.entry(kind).or_default() += 1,
            Outcome::Abandoned => self.counters.abandoned += 1,
        }
        if let Some(history) = &mut self.history {
            history.push(Asked { operation, key: key.clone(), arrived, left: self.now, outcome });
        }
    }

    pub(crate) fn begin(&mut self, fault: Fault) -> Result<FaultId, FaultError> {
        fault.check()?;
        let id = FaultId(self.next_fault);
        self.next_fault += 1;
        let rng = stream(self.seed, self.stream, "fault", id.0);
        self.faults.insert(id, Active { fault, rng });
        self.act_out();
        Ok(id)
    }

    /// False when no such fault holds.
    pub(crate) fn end(&mut self, id: FaultId) -> bool {
        let held = self.faults.remove(&id).is_some();
        self.act_out();
        held
    }

    /// Makes the device what the faults that hold now say.
    fn act_out(&mut self) {
        if self.is(Fault::Down) {
            self.lose(Loss::Device);
        }
        match (self.stands_at, self.is(Fault::Hang)) {
            (None, true) => self.stands_at = Some(self.own_time()),
            (Some(at), false) => {
                self.stands_at = None;
                self.stood = self.now.saturating_sub(at);
            }
            _ => {}
        }
        self.schedule.set_factor(self.own_time(), self.factor());
    }

    /// Everything in flight is lost; keys and faults stay.
    pub(crate) fn restart(&mut self) {
        self.lose(Loss::Device);
    }

    /// Every session is closed under its operation.
    pub(crate) fn close_sessions(&mut self) {
        self.lose(Loss::Session);
    }

    fn lose(&mut self, loss: Loss) {
        for ticket in self.schedule.clear() {
            if self.awaited.contains(&ticket) {
                self.lost.insert(ticket, loss);
            }
        }
    }

    pub(crate) fn faults(&self) -> Vec<(FaultId, Fault)> {
        self.faults.iter().map(|(id, active)| (*id, active.fault)).collect()
    }

    pub(crate) fn history(&self) -> Vec<Asked> {
        self.history.clone().unwrap_or_default()
    }

    pub(crate) fn occupancy(&self) -> Occupancy {
        Occupancy {
            running: self.schedule.running(),
            queued: self.schedule.queued(),
            sessions: self.schedule.sessions(),
        }
    }

    /// The most of each since the last call, and what there is now.
    pub(crate) fn take_peak(&mut self) -> Occupancy {
        let now = self.occupancy();
        std::mem::replace(&mut self.peak, now).most(now)
    }

    /// `None` while it hangs: then there is no answer.
    pub(crate) fn health(&self) -> Option<HealthStatus> {
        if self.is(Fault::Down) {
            return Some(HealthStatus::Unavailable);
        }
        if self.is(Fault::Hang) {
            return None;
        }
        let erring = self.faults.values().any(|a| matches!(a.fault, Fault::Error { rate, .. } if rate > 0.0));
        Some(if erring || self.factor() > 1.0 { HealthStatus::Degraded } else { HealthStatus::Active })
    }

    fn is(&self, fault: Fault) -> bool {
        self.faults.values().any(|active| active.fault == fault)
    }

    fn factor(&self) -> f64 {
        self.faults
            .values()
            .map(|active| if let Fault::Slow { factor } = active.fault { factor } else { 1.0 })
            .product()
    }

    /// The device's own time: time less all standing still.
    fn own_time(&self) -> Duration {
        self.stands_at.unwrap_or_else(|| self.now.saturating_sub(self.stood))
    }

    fn draw_service(&mut self, operation: Operation) -> Duration {
        let times = &self.capacity.service_times;
        let (time, rng): (&ServiceTime, _) = match operation {
            Operation::Describe => (&times.describe, &mut self.service.describe),
            Operation::Encrypt => (&times.encrypt, &mut self.service.encrypt),
            Operation::Decrypt => (&times.decrypt, &mut self.service.decrypt),
        };
        time.draw(rng)
    }

    /// The return code of the first error fault that strikes.
    fn draw_errors(&mut self) -> Option<u64> {
        let mut struck = None;
        for active in self.faults.values_mut() {
            if let Fault::Error { ckr, rate } = active.fault
                && unit(&mut active.rng) < rate
            {
                struck = struck.or(Some(ckr));
            }
        }
        struck
    }

    /// The narrowest limit that a fault sets.
    fn sessions_left(&self) -> Option<usize> {
        let limits = self.faults.values().filter_map(|active| match active.fault {
            Fault::SessionLimit { sessions_max } => Some(sessions_max),
            _ => None,
        });
        limits.min()
    }

    /// Flips one bit of an encryption's result, if a fault says so.
    pub(crate) fn flip_bit(&mut self, sealed: &mut Sealed) {
        for active in self.faults.values_mut() {
            if let Fault::BitFlips { rate } = active.fault {
                // Two draws for each encryption, so that the n-th has the n-th of each.
                let (strikes, place) = (unit(&mut active.rng) < rate, active.rng.next_u64());
                let bytes = if sealed.ciphertext.is_empty() {
                    &mut sealed.tag[..]
                } else {
                    &mut sealed.ciphertext[..]
                };
                let bit = place % (bytes.len() as u64 * 8);
                if strikes && let Some(byte) = bytes.get_mut((bit / 8) as usize) {
                    *byte ^= 1 << (bit % 8);
                    self.counters.injected += 1;
                }
            }
        }
    }

    fn down(&self) -> HsmError {
        error(CKR_DEVICE_REMOVED, format!("{}: the device is gone", self.name))
    }

    fn refused(&self, why: &str) -> HsmError {
        error(CKR_SESSION_COUNT, format!("{}: {why}", self.name))
    }
}

/// What the background has in store for one operation.
struct Chance {
    busy: bool,
    error: Option<u64>,
    factor: f64,
}

impl Background {
    fn draw(&mut self) -> Chance {
        let plan = self.plan;
        // A rate of zero draws nothing: its stream is its own, so nobody can tell.
        let strikes = |rate: f64, rng: &mut ChaCha20Rng| rate > 0.0 && unit(rng) < rate;
        let busy = strikes(plan.busy_rate, &mut self.busy);
        let session_lost = strikes(plan.session_lost_rate, &mut self.session_lost);
        let device_error = strikes(plan.device_error_rate, &mut self.device_error);
        let stalls = strikes(plan.stall_rate, &mut self.stall);
        let error = if session_lost {
            Some(CKR_SESSION_HANDLE_INVALID)
        } else if device_error {
            Some(CKR_DEVICE_ERROR)
        } else {
            None
        };
        Chance { busy, error, factor: if stalls { plan.stall_factor } else { 1.0 } }
    }
}
