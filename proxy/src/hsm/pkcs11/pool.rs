//! Threads that own one session each, and the bounded queue that feeds them.
//!
//! Place on the map: the async side of the proxy calls [`Pool::call`]; the blocking side is one `work` loop
//! per thread. Five promises are kept here:
//!
//! - A caller has its answer by its deadline, whatever the HSM does. What is no longer wanted is not begun.
//! - A full queue, or an HSM that no thread can reach, is answered at once. Key stores wait in lanes of their own.
//! - A call that does not return costs one thread, which is set aside and replaced, up to a limit, and at most the seven
//!   requests whose results were to be settled together with its own ([`job`]). There is no watchdog: whoever times out, or
//!   finds no idle thread, looks for overdue calls.
//! - As long as the HSM answers within microseconds no more threads are woken than there are processors: they would wait
//!   for each other, at the library's locks. Whoever comes, or has waited for 10 ms, wakes others when those at work turn
//!   out to take longer.
//! - A thread without a session tries to open one for as long as the pool lives, ever more slowly, and takes
//!   no work from those that have one.

use super::keeper::{Keeper, Open};
use super::lanes::{LaneId, Lanes};
use super::pace::Pace;
use super::stats::{PoolCounts, PoolStats};
use crate::hsm::{HsmError, HsmErrorKind};
use job::{Asked, BATCH_MAX, Job, contain};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

mod job;

pub(super) use job::CallKind;

/// The pauses between a thread's attempts to open a session: the first, doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Opening a session may take so long before its thread counts as stuck.
const OPENING_MAX: Duration = Duration::from_secs(5);

/// How often, at most, the log tells the same kind of outage again.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// When a waiting request looks for calls that hang; again after twice that time, and so on, at most `set_aside_after`.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);

/// A thread that has been inside the HSM for longer is no reason to hold others back: its call is not short. Longer than a
/// short call, since a busy processor interrupts.
const AT_WORK_MAX: Duration = Duration::from_millis(2);

/// Trying an idle session may take so long before its thread counts as stuck.
const PROBE_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) threads: usize,
    /// So many threads at work are enough while calls are short. At least 1.
    pub(super) enough: usize,
    pub(super) queue_max: usize,
    pub(super) set_aside_max: usize,
    pub(super) set_aside_after: Duration,
    /// A session that was idle for so long is tried, so that no request has to find out that it is dead.
    pub(super) idle_max: Duration,
}

/// A handle with a lane of its own in the queue. Dropping the last one stops the threads as soon as each has finished
/// its call; [`Pool::close`] also waits for that.
pub(super) struct Pool<O: Open> {
    shared: Arc<Shared<O>>,
    lane: LaneId,
}

struct Shared<O: Open> {
    opener: Arc<O>,
    limits: Limits,
    state: Mutex<State<O>>,
    /// An opening has succeeded, so that others may; or all is over.
    retry: Condvar,
    /// A thread has ended.
    ended: Condvar,
}

struct State<O: Open> {
    queue: Lanes<Job<O>>,
    /// Threads that have not been set aside. Few, so searching them is quick.
    workers: Vec<Worker>,
    /// Those that wait for work, in the order they began to. The last is woken first: its stack and session
    /// are the warmest, which saves a fifth of the processor time of a lone request over SoftHSM2.
    idle: Vec<u64>,
    last_id: u64,
    set_aside: usize,
    open_error: Option<HsmError>,
    /// When each kind of it was logged last, since the last opening that succeeded.
    told: BTreeMap<HsmErrorKind, Instant>,
    stopped: bool,
    pace: Pace,
    counts: PoolCounts,
}

struct Worker {
    id: u64,
    phase: Phase,
    /// Work has come, or there is a reason to look at one's session.
    wake: Arc<Condvar>,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Waits for work, session in hand.
    Idle,
    /// Inside the HSM since `begun_at`, and taken for hung from `overdue_at` on.
    Inside { begun_at: Instant, overdue_at: Instant },
    /// The same without a session, to open one.
    Opening { overdue_at: Instant },
    /// Could not open a session, and pauses before it tries again.
    Pausing,
}

impl Phase {
    /// There is a session, and it is not in a call that hangs. An attempt to open one says nothing yet.
    fn has_session(self, now: Instant) -> bool {
        matches!(self, Self::Idle | Self::Inside { .. }) && !self.is_overdue(now)
    }

    fn is_overdue(self, now: Instant) -> bool {
        matches!(self, Self::Inside { overdue_at, .. } | Self::Opening { overdue_at } if overdue_at <= now)
    }
}

impl<O: Open> Pool<O> {
    /// Starts the threads; the first gets `device`, if there is one, the others open their own.
    pub(super) fn start(
        opener: Arc<O>,
        mut device: Option<O::Device>,
        limits: Limits,
    ) -> std::io::Result<Self> {
        let mut queue = Lanes::new();
        let lane = queue.open();
        let shared = Arc::new(Shared {
            opener,
            limits,
            state: Mutex::new(State {
                queue,
                workers: Vec::with_capacity(limits.threads),
                idle: Vec::with_capacity(limits.threads),
                last_id: 0,
                set_aside: 0,
                open_error: None,
                told: BTreeMap::new(),
                stopped: false,
                pace: Pace::default(),
                counts: PoolCounts::default(),
            }),
            retry: Condvar::new(),
            ended: Condvar::new(),
        });
        // From here on, dropping the pool ends whatever threads have been started.
        let pool = Self { shared, lane };
        let mut state = pool.shared.lock();
        for _ in 0..limits.threads {
            pool.shared.add_worker(&mut state, device.take())?;
        }
        drop(state);
        Ok(pool)
    }

    /// Another handle, whose calls wait in a lane of their own.
    pub(super) fn another(&self) -> Self {
        let lane = self.shared.lock().queue.open();
        Self { shared: Arc::clone(&self.shared), lane }
    }

    /// Has `operation` run on some thread's device. Resolves by `deadline`.
    pub(super) async fn call<T, F>(
        &self,
        kind: CallKind,
        deadline: Instant,
        operation: F,
    ) -> Result<T, HsmError>
    where
        T: Send + 'static,
        F: Fn(&mut O::Device) -> Result<T, HsmError> + Send + 'static,
    {
        let (answer, mut answered) = oneshot::channel();
        self.shared.submit(self.lane, Job::new(deadline, kind, Asked::new(operation, answer)))?;
        let mut look_after = LOOK_EVERY_MIN;
        let outcome = loop {
            let look_at = Instant::now() + look_after;
            match timeout_at(look_at.min(deadline), &mut answered).await {
                // Whoever waits for long looks after calls that hang, since there may be nobody else to do it.
                Err(_) if look_at < deadline => self.shared.look(),
                outcome => break outcome,
            }
            look_after = (look_after * 2).min(self.shared.limits.set_aside_after.max(LOOK_EVERY_MIN));
        };
        match outcome {
            Ok(Ok(outcome)) => outcome,
            // Nobody answered: the job was dropped unanswered, too late or because the pool ended.
            Ok(Err(_)) if Instant::now() < deadline => Err(ended()),
            Ok(Err(_)) | Err(_) => {
                let mut state = self.shared.lock();
                state.counts.timeouts += 1;
                self.shared.set_aside_overdue(&mut state, Instant::now());
                Err(HsmError::new(HsmErrorKind::TimedOut, "the HSM did not answer before the deadline"))
            }
        }
    }

    /// Some thread is set aside or has no session.
    pub(super) fn is_impaired(&self) -> bool {
        let state = self.shared.lock();
        state.set_aside > 0 || state.workers.iter().any(|worker| matches!(worker.phase, Phase::Pausing))
    }

    /// This moment, for metrics.
    pub(super) fn stats(&self) -> PoolStats {
        let state = self.shared.lock();
        let now = Instant::now();
        let mut stats = PoolStats {
            set_aside: state.set_aside,
            queued: state.queue.len(),
            usable: !state.stopped && state.workers.iter().any(|worker| worker.phase.has_session(now)),
            counts: state.counts,
            ..PoolStats::default()
        };
        for worker in &state.workers {
            *match worker.phase {
                Phase::Idle => &mut stats.idle,
                Phase::Inside { .. } | Phase::Opening { .. } => &mut stats.in_use,
                Phase::Pausing => &mut stats.without_session,
            } += 1;
        }
        stats
    }

    /// Threads left behind in calls that have not returned.
    pub(super) fn set_aside(&self) -> usize {
        self.shared.lock().set_aside
    }

    pub(super) fn opener(&self) -> &O {
        &self.shared.opener
    }

    /// Stops the threads and waits, blocking, until their sessions are closed. False if some have not ended
    /// in time.
    pub(super) fn close(&self, patience: Duration) -> bool {
        self.shared.stop();
        let any_left = |state: &mut State<O>| !state.workers.is_empty() || state.set_aside > 0;
        let waited = self.shared.ended.wait_timeout_while(self.shared.lock(), patience, any_left);
        !any_left(&mut waited.unwrap_or_else(PoisonError::into_inner).0)
    }
}

impl<O: Open> Drop for Pool<O> {
    fn drop(&mut self) {
        let others_left = self.shared.lock().queue.close(self.lane);
        if !others_left {
            self.shared.stop();
        }
    }
}

impl<O: Open> State<O> {
    fn worker(&self, id: u64) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.id == id)
    }

    /// The next job that is still wanted.
    fn take(&mut self) -> Option<Job<O>> {
        let now = Instant::now();
        std::iter::from_fn(|| self.queue.pop()).find(|job| !job.is_stale(now))
    }

    /// More threads would only be in each other's way.
    fn has_enough_at_work(&self, limits: &Limits, now: Instant) -> bool {
        let recently = |worker: &&Worker| matches!(worker.phase, Phase::Inside { begun_at, .. } if now - begun_at < AT_WORK_MAX);
        self.pace.calls_are_short() && self.workers.iter().filter(recently).count() >= limits.enough
    }

    /// The idle worker to notify. It counts as inside from now on, for others are not to be woken in its place.
    fn wake_one(&mut self, now: Instant) -> Option<Arc<Condvar>> {
        while let Some(id) = self.idle.pop() {
            // One that was set aside meanwhile will notice by itself.
            if self.set_phase(id, Phase::Inside { begun_at: now, overdue_at: now + OPENING_MAX }) {
                return self.worker(id).map(|worker| Arc::clone(&worker.wake));
            }
        }
        None
    }

    fn wake_all(&self) {
        self.workers.iter().for_each(|worker| worker.wake.notify_one());
    }

    fn set_phase(&mut self, id: u64, phase: Phase) -> bool {
        match self.workers.iter_mut().find(|worker| worker.id == id) {
            Some(worker) if !self.stopped => {
                worker.phase = phase;
                true
            }
            _ => false,
        }
    }

    /// Nobody can take work: each thread is stuck in a call or has no session.
    fn is_helpless(&self, now: Instant) -> bool {
        self.workers
            .iter()
            .all(|worker| matches!(worker.phase, Phase::Pausing) || worker.phase.is_overdue(now))
    }

    fn why_helpless(&self) -> HsmError {
        let pausing = self.workers.iter().any(|worker| matches!(worker.phase, Phase::Pausing));
        match &self.open_error {
            Some(error) if pausing => error.clone(),
            _ => HsmError::new(HsmErrorKind::TimedOut, "every session is in a call that does not return"),
        }
    }
}

impl<O: Open> Shared<O> {
    fn lock(&self) -> MutexGuard<'_, State<O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(self: &Arc<Self>, lane: LaneId, job: Job<O>) -> Result<(), HsmError> {
        let now = Instant::now();
        if job.deadline <= now {
            return Err(HsmError::new(
                HsmErrorKind::TimedOut,
                "the deadline had passed before the HSM was asked",
            ));
        }
        let mut state = self.lock();
        if state.stopped {
            return Err(ended());
        }
        if state.idle.is_empty() {
            self.set_aside_overdue(&mut state, now);
            if state.is_helpless(now) {
                state.counts.refused_helpless += 1;
                return Err(state.why_helpless());
            }
        }
        if state.queue.len() >= self.limits.queue_max {
            state.queue.retain(|queued| !queued.is_stale(now));
        }
        let made_room = match state.queue.push(lane, job, self.limits.queue_max) {
            Ok(made_room) => {
                state.counts.calls += 1;
                made_room
            }
            Err(job) => Some(job),
        };
        state.counts.refused_full += u64::from(made_room.is_some());
        // A busy worker looks at the queue by itself when it has finished.
        let wake = if state.has_enough_at_work(&self.limits, now) { None } else { state.wake_one(now) };
        drop(state);
        if let Some(wake) = wake {
            wake.notify_one();
        }
        if let Some(refused) = made_room {
            // It may be the very job that came. Its caller, who still waits, is answered like all others.
            refused.refuse(self.busy());
        }
        Ok(())
    }

    fn busy(&self) -> HsmError {
        let waiting = self.limits.queue_max;
        HsmError::new(
            HsmErrorKind::Busy,
            format!("{waiting} requests are waiting for an HSM session already"),
        )
    }

    /// Done by whoever waits for long: threads that hang are set aside, and those held back are woken if the ones that were
    /// to be enough are not.
    fn look(self: &Arc<Self>) {
        let now = Instant::now();
        let mut state = self.lock();
        self.set_aside_overdue(&mut state, now);
        if state.queue.len() > 0 && !state.has_enough_at_work(&self.limits, now) {
            for _ in 0..state.queue.len() {
                let Some(wake) = state.wake_one(now) else { return };
                wake.notify_one();
            }
        }
    }

    /// Leaves overdue threads behind and starts others in their place, as far as the limit allows.
    fn set_aside_overdue(self: &Arc<Self>, state: &mut State<O>, now: Instant) {
        while state.set_aside < self.limits.set_aside_max && !state.stopped {
            let Some(index) = state.workers.iter().position(|worker| worker.phase.is_overdue(now)) else {
                return;
            };
            if let Err(error) = self.add_worker(state, None) {
                tracing::error!(hsm = self.opener.name(), %error, "no thread to replace one that is stuck in the HSM");
                return;
            }
            let stuck = state.workers.swap_remove(index);
            state.set_aside += 1;
            tracing::warn!(
                hsm = self.opener.name(),
                worker = stuck.id,
                set_aside = state.set_aside,
                "an HSM call hangs; its thread is replaced"
            );
        }
    }

    fn add_worker(self: &Arc<Self>, state: &mut State<O>, device: Option<O::Device>) -> std::io::Result<()> {
        state.last_id += 1;
        let id = state.last_id;
        let shared = Arc::clone(self);
        let now = Instant::now();
        let overdue_at = now + OPENING_MAX;
        let phase = match device {
            Some(_) => Phase::Inside { begun_at: now, overdue_at },
            None => Phase::Opening { overdue_at },
        };
        let keeper = Keeper::new(Arc::clone(&self.opener), device);
        let worker = Worker { id, phase, wake: Arc::new(Condvar::new()) };
        let wake = Arc::clone(&worker.wake);
        #[expect(clippy::disallowed_methods, reason = "PKCS#11 calls block, each session on its own thread")]
        std::thread::Builder::new()
            .name(format!("hsm-{id}"))
            .spawn(move || shared.work(id, &wake, keeper))?;
        state.workers.push(worker);
        Ok(())
    }

    /// The life of a thread.
    fn work(self: Arc<Self>, id: u64, wake: &Condvar, mut keeper: Keeper<O>) {
        let mut pause = PAUSE_MIN;
        let mut held = Vec::with_capacity(BATCH_MAX);
        let mut took = None;
        loop {
            if !keeper.is_ready() {
                // What cost this session may have cost the others' too: those that are idle find out now
                // rather than at their next request.
                let overdue_at = Instant::now() + OPENING_MAX;
                let mut state = self.lock();
                state.wake_all();
                if !state.set_phase(id, Phase::Opening { overdue_at }) {
                    break;
                }
                drop(state);
                match contain(&mut keeper, |keeper| keeper.device().map(|_| ())) {
                    Ok(()) => {
                        pause = PAUSE_MIN;
                        let mut state = self.lock();
                        state.open_error = None;
                        state.told.clear();
                        drop(state);
                        self.retry.notify_all();
                    }
                    Err(error) => {
                        if !self.pause(id, error, pause) {
                            break;
                        }
                        pause = (pause * 2).min(PAUSE_MAX);
                        continue;
                    }
                }
            }
            match self.next(id, wake, &keeper, took.take()) {
                Next::Job(job) => {
                    let overdue_at = self.overdue_at(&job);
                    let another = |took| self.another(id, took, overdue_at);
                    let begin = |job: &Job<O>| self.begin(id, job);
                    took = job::serve(&mut keeper, job, &mut held, another, begin);
                }
                Next::Probe => {
                    if let Err(error) = contain(&mut keeper, Keeper::probe) {
                        let hsm = self.opener.name();
                        tracing::warn!(hsm, worker = id, %error, "an idle HSM session was dead, and is replaced");
                    }
                }
                Next::Renew => {}
                Next::End => break,
            }
        }
        drop(keeper);
        let mut state = self.lock();
        let before = state.workers.len();
        state.workers.retain(|worker| worker.id != id);
        if state.workers.len() == before {
            state.set_aside -= 1;
        }
        drop(state);
        self.ended.notify_all();
    }

    /// Waits for work, after a call that took so long, if there was one.
    fn next(&self, id: u64, wake: &Condvar, keeper: &Keeper<O>, took: Option<Duration>) -> Next<O> {
        let mut state = self.lock();
        state.pace.note(took);
        loop {
            if !state.set_phase(id, Phase::Idle) {
                return Next::End;
            }
            if let Some(job) = state.take() {
                let overdue_at = self.overdue_at(&job);
                state.set_phase(id, Phase::Inside { begun_at: Instant::now(), overdue_at });
                return Next::Job(job);
            }
            if !keeper.is_ready() {
                return Next::Renew;
            }
            state.idle.push(id);
            let (guard, waited) =
                wake.wait_timeout(state, self.limits.idle_max).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            state.idle.retain(|idle| *idle != id);
            if waited.timed_out() && state.queue.len() == 0 && !state.stopped {
                let begun_at = Instant::now();
                state.set_phase(id, Phase::Inside { begun_at, overdue_at: begun_at + PROBE_MAX });
                return Next::Probe;
            }
        }
    }

    /// A call has been made whose answer can wait for another call, if that waits already and is short too. Whatever joins,
    /// the thread is overdue when the first is.
    fn another(&self, id: u64, took: Option<Duration>, overdue_at: Instant) -> Option<Job<O>> {
        let mut state = self.lock();
        state.pace.note(took);
        let may_go_on = state.pace.calls_are_short()
            && state.set_phase(id, Phase::Inside { begun_at: Instant::now(), overdue_at });
        if may_go_on { state.take() } else { None }
    }

    /// The worker begins this job; false if it was set aside or all is over.
    fn begin(&self, id: u64, job: &Job<O>) -> bool {
        let phase = Phase::Inside { begun_at: Instant::now(), overdue_at: self.overdue_at(job) };
        self.lock().set_phase(id, phase)
    }

    fn overdue_at(&self, job: &Job<O>) -> Instant {
        job.deadline + self.limits.set_aside_after
    }

    /// Waits before another attempt to open; false if there is to be none. Those who wait for a session that
    /// nobody can give them hear why, at once.
    fn pause(&self, id: u64, error: HsmError, pause: Duration) -> bool {
        let mut state = self.lock();
        if !state.set_phase(id, Phase::Pausing) {
            return false;
        }
        // An outage is told once a minute, not by each thread at each attempt.
        let now = Instant::now();
        if state.told.get(&error.kind).is_none_or(|told_at| now - *told_at >= TELL_EVERY) {
            state.told.insert(error.kind, now);
            tracing::warn!(hsm = self.opener.name(), worker = id, %error, "no HSM session");
        }
        state.open_error = Some(error.clone());
        if state.is_helpless(Instant::now()) {
            let refused = state.queue.take_all();
            drop(state);
            refused.into_iter().for_each(|job| job.refuse(error.clone()));
            state = self.lock();
        }
        if !state.stopped {
            drop(self.retry.wait_timeout(state, pause));
        }
        true
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        // Dropped after the lock is released, since their callers wake up at that.
        let unanswered = state.queue.take_all();
        state.wake_all();
        drop(state);
        drop(unanswered);
        self.retry.notify_all();
    }
}

enum Next<O: Open> {
    Job(Job<O>),
    Probe,
    Renew,
    End,
}

fn ended() -> HsmError {
    HsmError::new(HsmErrorKind::Failed, "the HSM's threads have ended: the proxy is shutting down")
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests;
