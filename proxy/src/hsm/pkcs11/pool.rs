//! Threads that own one session each, and the bounded queue that feeds them.
//!
//! Place on the map: the async side of the proxy calls [`Pool::call`]; the blocking side is one `work` loop
//! per thread. Four promises are kept here:
//!
//! - A caller has its answer by its deadline, whatever the HSM does. What is no longer wanted is not begun.
//! - A full queue, or an HSM that no thread can reach, is answered at once. Key stores wait in lanes of their own.
//! - A call that does not return costs one thread: it is set aside and replaced, up to a limit. There is no
//!   watchdog: whoever times out, or finds no idle thread, looks for overdue calls.
//! - A thread without a session tries to open one for as long as the pool lives, ever more slowly, and takes
//!   no work from those that have one.

use super::keeper::{Keeper, Open};
use super::lanes::{LaneId, Lanes};
use super::stats::{PoolCounts, PoolStats};
use crate::hsm::{HsmError, HsmErrorKind};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// The pauses between a thread's attempts to open a session: the first, doubled up to the last.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Opening a session may take so long before its thread counts as stuck.
const OPENING_MAX: Duration = Duration::from_secs(5);

/// How often, at most, the log tells the same kind of outage again.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How often, at most, a waiting request looks for calls that hang.
const LOOK_EVERY_MIN: Duration = Duration::from_millis(10);

/// Trying an idle session may take so long before its thread counts as stuck.
const PROBE_MAX: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) threads: usize,
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
    /// Inside the HSM, and taken for hung from this instant on.
    Inside { overdue_at: Instant },
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
        matches!(self, Self::Inside { overdue_at } | Self::Opening { overdue_at } if overdue_at <= now)
    }
}

struct Job<O: Open> {
    deadline: Instant,
    call: Box<dyn Call<O>>,
}

impl<O: Open> Job<O> {
    fn is_stale(&self, now: Instant) -> bool {
        self.deadline <= now || self.call.is_abandoned()
    }
}

/// A call with the type of its answer hidden, so that one queue serves all.
trait Call<O: Open>: Send {
    fn is_abandoned(&self) -> bool;
    fn run(self: Box<Self>, keeper: &mut Keeper<O>, deadline: Instant);
    fn refuse(self: Box<Self>, error: HsmError);
}

struct Asked<T, F> {
    operation: F,
    answer: oneshot::Sender<Result<T, HsmError>>,
}

impl<O, T, F> Call<O> for Asked<T, F>
where
    O: Open,
    T: Send,
    F: Fn(&mut O::Device) -> Result<T, HsmError> + Send,
{
    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    fn run(self: Box<Self>, keeper: &mut Keeper<O>, deadline: Instant) {
        let outcome = contain(keeper, |keeper| keeper.run(&self.operation, || Instant::now() < deadline));
        let _ = self.answer.send(outcome);
    }

    fn refuse(self: Box<Self>, error: HsmError) {
        let _ = self.answer.send(Err(error));
    }
}

/// A panic in `work` costs its request and the session, and not the thread: nobody would hear of its end, and it would
/// count as set aside for as long as the pool lives.
fn contain<O: Open, T>(
    keeper: &mut Keeper<O>,
    work: impl FnOnce(&mut Keeper<O>) -> Result<T, HsmError>,
) -> Result<T, HsmError> {
    // Safe to go on after: what a panic may have left half done is the device, which is given up.
    catch_unwind(AssertUnwindSafe(|| work(keeper))).unwrap_or_else(|_| {
        keeper.give_up();
        Err(HsmError::new(HsmErrorKind::Failed, "a panic below the thread of an HSM session"))
    })
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
    pub(super) async fn call<T, F>(&self, deadline: Instant, operation: F) -> Result<T, HsmError>
    where
        T: Send + 'static,
        F: Fn(&mut O::Device) -> Result<T, HsmError> + Send + 'static,
    {
        let (answer, mut answered) = oneshot::channel();
        self.shared.submit(self.lane, Job { deadline, call: Box::new(Asked { operation, answer }) })?;
        let look_every = self.shared.limits.set_aside_after.max(LOOK_EVERY_MIN);
        let outcome = loop {
            let look_at = Instant::now() + look_every;
            match timeout_at(look_at.min(deadline), &mut answered).await {
                // Whoever waits for long looks after calls that hang, since there may be nobody else to do it.
                Err(_) if look_at < deadline => {
                    self.shared.set_aside_overdue(&mut self.shared.lock(), Instant::now());
                }
                outcome => break outcome,
            }
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
        let wake = state.idle.pop().and_then(|id| state.worker(id)).map(|worker| Arc::clone(&worker.wake));
        drop(state);
        if let Some(wake) = wake {
            wake.notify_one();
        }
        if let Some(refused) = made_room {
            // It may be the very job that came. Its caller, who still waits, is answered like all others.
            refused.call.refuse(self.busy());
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
        let overdue_at = Instant::now() + OPENING_MAX;
        let phase =
            if device.is_some() { Phase::Inside { overdue_at } } else { Phase::Opening { overdue_at } };
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
            match self.next(id, wake, &keeper) {
                Next::Job(job) => job.call.run(&mut keeper, job.deadline),
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

    /// Waits for work.
    fn next(&self, id: u64, wake: &Condvar, keeper: &Keeper<O>) -> Next<O> {
        let mut state = self.lock();
        if !state.set_phase(id, Phase::Idle) {
            return Next::End;
        }
        loop {
            if state.stopped {
                return Next::End;
            }
            while let Some(job) = state.queue.pop() {
                if job.is_stale(Instant::now()) {
                    continue;
                }
                let overdue_at = job.deadline + self.limits.set_aside_after;
                state.set_phase(id, Phase::Inside { overdue_at });
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
                state.set_phase(id, Phase::Inside { overdue_at: Instant::now() + PROBE_MAX });
                return Next::Probe;
            }
        }
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
            refused.into_iter().for_each(|job| job.call.refuse(error.clone()));
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
mod tests {
    use super::*;
    use crate::hsm::HsmErrorKind as Kind;
    use crate::hsm::pkcs11::keeper::Device;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};
    use tokio::task::JoinHandle;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(5);

    /// Opens as often as it may, and fails at all other times.
    struct Script {
        openings_left: AtomicUsize,
        tried: Mutex<Sender<()>>,
    }

    #[derive(Default)]
    struct Scripted {
        lost: bool,
        probed: Arc<AtomicUsize>,
    }

    impl Device for Scripted {
        fn is_lost(&self) -> bool {
            self.lost
        }

        fn probe(&mut self) -> Result<(), HsmError> {
            self.probed.fetch_add(1, Ordering::SeqCst);
            Err(HsmError::new(Kind::SessionLost, "forgotten by a firewall"))
        }
    }

    impl Open for Script {
        type Device = Scripted;

        fn name(&self) -> &str {
            "scripted"
        }

        fn open(self: &Arc<Self>) -> Result<Scripted, HsmError> {
            let left = &self.openings_left;
            let opened =
                left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            let _ = self.tried.lock().unwrap().send(());
            if opened { Ok(Scripted::default()) } else { Err(HsmError::new(Kind::DeviceGone, "unplugged")) }
        }
    }

    struct Bench {
        pool: Arc<Pool<Script>>,
        opener: Arc<Script>,
        tried: Receiver<()>,
    }

    fn bench(threads: usize, queue_max: usize, set_aside_max: usize, openings: usize) -> Bench {
        bench_with(Scripted::default(), threads, queue_max, set_aside_max, openings, LONG)
    }

    fn bench_with(
        first: Scripted,
        threads: usize,
        queue_max: usize,
        set_aside_max: usize,
        openings: usize,
        idle_max: Duration,
    ) -> Bench {
        let (tell, tried) = channel();
        let opener = Arc::new(Script { openings_left: openings.into(), tried: Mutex::new(tell) });
        let limits = Limits { threads, queue_max, set_aside_max, set_aside_after: Duration::ZERO, idle_max };
        let pool = Arc::new(Pool::start(Arc::clone(&opener), Some(first), limits).unwrap());
        Bench { pool, opener, tried }
    }

    impl Bench {
        /// A call that is inside the device when this returns, and stays until the sender is used or dropped.
        /// On a busy machine the patience may be over before the thread begins; then another is sent.
        fn hang(&self, patience: Duration) -> (Sender<()>, JoinHandle<Result<(), HsmError>>) {
            loop {
                let (release, released) = channel();
                let (tell, inside) = channel();
                let pool = Arc::clone(&self.pool);
                let task = tokio::spawn(async move {
                    pool.call(Instant::now() + patience, move |_| {
                        let _ = tell.send(());
                        let _ = released.recv();
                        Ok(())
                    })
                    .await
                });
                if inside.recv().is_ok() {
                    return (release, task);
                }
            }
        }

        async fn call(&self, patience: Duration) -> Result<u8, Kind> {
            self.pool.call(Instant::now() + patience, |_| Ok(7)).await.map_err(|error| error.kind)
        }

        fn queued(&self) -> usize {
            self.pool.shared.lock().queue.len()
        }
    }

    async fn until(mut condition: impl FnMut() -> bool) {
        let give_up_at = Instant::now() + LONG;
        while !condition() {
            assert!(Instant::now() < give_up_at, "it never comes true");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_queue_is_busy_at_once() {
        let bench = bench(1, 1, 0, 0);
        let (release, hanging) = bench.hang(LONG);
        let pool = Arc::clone(&bench.pool);
        let waiting = tokio::spawn(async move { pool.call(Instant::now() + LONG, |_| Ok(8)).await });
        until(|| bench.queued() == 1).await;
        assert_eq!(bench.call(LONG).await, Err(Kind::Busy));
        drop(release);
        assert_eq!(waiting.await.unwrap(), Ok(8));
        assert_eq!(hanging.await.unwrap(), Ok(()));
        assert_eq!(bench.call(LONG).await, Ok(7));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_crowd_in_one_lane_neither_fills_the_queue_for_another_nor_goes_first() {
        let bench = bench(1, 4, 0, 0);
        let (release, hanging) = bench.hang(LONG);
        let order = Arc::new(Mutex::new(Vec::new()));
        let send = |pool: &Arc<Pool<Script>>, name: &'static str| {
            let (pool, order) = (Arc::clone(pool), Arc::clone(&order));
            tokio::spawn(async move {
                let note = move |_: &mut Scripted| {
                    order.lock().unwrap().push(name);
                    Ok(())
                };
                pool.call(Instant::now() + LONG, note).await.map_err(|error| error.kind)
            })
        };
        let mut crowd = Vec::new();
        for (queued, name) in [(1, "crowd 1"), (2, "crowd 2"), (3, "crowd 3"), (4, "crowd 4")] {
            crowd.push(send(&bench.pool, name));
            until(|| bench.queued() == queued).await;
        }
        assert_eq!(send(&bench.pool, "crowd 5").await.unwrap(), Err(Kind::Busy));
        let other = Arc::new(bench.pool.another());
        let served = send(&other, "other");
        assert_eq!(crowd.pop().unwrap().await.unwrap(), Err(Kind::Busy), "it makes room, at once");
        drop(release);
        assert_eq!((served.await.unwrap(), hanging.await.unwrap()), (Ok(()), Ok(())));
        for waiting in crowd {
            assert_eq!(waiting.await.unwrap(), Ok(()));
        }
        assert_eq!(*order.lock().unwrap(), ["crowd 1", "other", "crowd 2", "crowd 3"], "in turn");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_threads_end_with_the_last_handle() {
        let bench = bench(1, 4, 0, 0);
        let another = bench.pool.another();
        let shared = Arc::clone(&another.shared);
        drop(bench.pool);
        assert_eq!(another.call(Instant::now() + LONG, |_| Ok(7)).await, Ok(7));
        drop(another);
        until(|| shared.lock().workers.is_empty()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_nobody_waits_for_any_more_leaves_the_queue_and_is_not_begun() {
        let bench = bench(1, 1, 0, 0);
        let (release, _hanging) = bench.hang(LONG);
        let begun = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&begun);
        let pool = Arc::clone(&bench.pool);
        let waiting = tokio::spawn(async move {
            let count = move |_: &mut Scripted| Ok(counted.fetch_add(1, Ordering::SeqCst));
            pool.call(Instant::now() + LONG, count).await
        });
        until(|| bench.queued() == 1).await;
        waiting.abort();
        assert!(waiting.await.unwrap_err().is_cancelled());
        // The place in the queue is free again, although the thread still hangs.
        let pool = Arc::clone(&bench.pool);
        let next = tokio::spawn(async move { pool.call(Instant::now() + LONG, |_| Ok(9)).await });
        until(|| bench.queued() == 1 && Arc::strong_count(&begun) == 1).await;
        drop(release);
        assert_eq!(next.await.unwrap(), Ok(9));
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_call_past_its_deadline_is_answered_and_not_begun() {
        let bench = bench(1, 4, 0, 0);
        assert_eq!(bench.call(Duration::ZERO).await, Err(Kind::TimedOut));
        let (release, _hanging) = bench.hang(LONG);
        let (tell, begun) = channel();
        let late = bench.pool.call(Instant::now() + SHORT, move |_| {
            let _ = tell.send(());
            Ok(())
        });
        assert_eq!(late.await.map_err(|error| error.kind), Err(Kind::TimedOut));
        drop(release);
        assert_eq!(bench.call(LONG).await, Ok(7), "the thread goes on with what is wanted");
        assert!(begun.try_recv().is_err());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hung_call_costs_one_thread_which_is_replaced_and_ends_when_it_returns() {
        let bench = bench(1, 4, 1, usize::MAX);
        let (release, hanging) = bench.hang(SHORT);
        assert_eq!(hanging.await.unwrap().map_err(|error| error.kind), Err(Kind::TimedOut));
        assert_eq!(bench.pool.set_aside(), 1);
        assert!(bench.pool.is_impaired());
        assert_eq!(bench.call(LONG).await, Ok(7), "its replacement serves");
        drop(release);
        until(|| bench.pool.set_aside() == 0).await;
        assert!(!bench.pool.is_impaired());
        assert_eq!(bench.pool.shared.lock().workers.len(), 1, "the one that returned is not needed any more");
        assert_eq!(bench.call(LONG).await, Ok(7));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hung_call_whose_caller_has_gone_is_noticed_by_the_next() {
        let bench = bench(1, 4, 1, usize::MAX);
        let (_release, hanging) = bench.hang(SHORT);
        hanging.abort();
        let _ = hanging.await;
        let overdue_at = Instant::now() + SHORT;
        until(|| Instant::now() >= overdue_at).await;
        assert_eq!(bench.call(LONG).await, Ok(7));
        assert_eq!(bench.pool.set_aside(), 1);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn when_all_hang_and_no_more_may_be_set_aside_requests_fail_at_once() {
        let bench = bench(1, 4, 1, usize::MAX);
        let mut releases = Vec::new();
        for _ in 0..2 {
            let (release, hanging) = bench.hang(SHORT);
            releases.push(release);
            assert!(hanging.await.unwrap().is_err());
        }
        let refused = bench.pool.call(Instant::now() + LONG, |_| Ok(())).await.unwrap_err();
        assert_eq!(refused.kind, Kind::TimedOut);
        assert!(refused.detail.contains("does not return"), "{refused}");
        assert_eq!(bench.queued(), 0);
        drop(releases);
        until(|| bench.pool.set_aside() == 0).await;
        assert_eq!(bench.call(LONG).await, Ok(7), "and all is well once they return");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn without_a_session_requests_hear_why_at_once_until_there_is_one_again() {
        let bench = bench(1, 4, 0, 0);
        let lose = |device: &mut Scripted| -> Result<(), HsmError> {
            device.lost = true;
            Err(HsmError::new(Kind::DeviceGone, "pulled"))
        };
        assert_eq!(bench.pool.call(Instant::now() + LONG, lose).await.unwrap_err().detail, "pulled");
        bench.tried.recv().unwrap();
        until(|| bench.pool.is_impaired()).await;
        let refused = bench.pool.call(Instant::now() + LONG, |_| Ok(())).await.unwrap_err();
        assert_eq!((refused.kind, refused.detail.as_str()), (Kind::DeviceGone, "unplugged"));
        bench.opener.openings_left.store(1, Ordering::SeqCst);
        until(|| !bench.pool.is_impaired()).await;
        assert_eq!(bench.call(LONG).await, Ok(7));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn those_who_wait_when_the_last_session_is_lost_hear_why_at_once() {
        let bench = bench(1, 4, 0, 0);
        let (release, released) = channel::<()>();
        let (tell, inside) = channel();
        let pool = Arc::clone(&bench.pool);
        let losing = tokio::spawn(async move {
            pool.call(Instant::now() + LONG, move |device: &mut Scripted| -> Result<(), HsmError> {
                let _ = tell.send(());
                let _ = released.recv();
                device.lost = true;
                Err(HsmError::new(Kind::DeviceGone, "pulled"))
            })
            .await
        });
        inside.recv().unwrap();
        let pool = Arc::clone(&bench.pool);
        let waiting = tokio::spawn(async move { pool.call(Instant::now() + LONG, |_| Ok(())).await });
        until(|| bench.queued() == 1).await;
        drop(release);
        assert!(losing.await.unwrap().is_err());
        assert_eq!(waiting.await.unwrap().map_err(|error| error.detail), Err("unplugged".to_owned()));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn threads_without_a_session_take_no_work_from_those_with_one() {
        let bench = bench(4, 4, 0, 0);
        for _ in 1..4 {
            bench.tried.recv().unwrap();
        }
        for _ in 0..100 {
            assert_eq!(bench.call(LONG).await, Ok(7));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_costs_its_request_and_the_session_and_no_thread() {
        let bench = bench(1, 4, 0, 1);
        let outcome =
            bench.pool.call(Instant::now() + LONG, |_| -> Result<(), HsmError> { panic!("planted") });
        let error = outcome.await.unwrap_err();
        assert_eq!((error.kind, error.detail.contains("panic")), (Kind::Failed, true), "{error}");
        assert_eq!(bench.call(LONG).await, Ok(7));
        assert_eq!(bench.opener.openings_left.load(Ordering::SeqCst), 0, "on another session");
        assert!(!bench.pool.is_impaired());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_session_that_was_idle_for_long_is_tried_and_replaced_before_a_request_needs_it() {
        let first = Scripted::default();
        let probed = Arc::clone(&first.probed);
        let bench = bench_with(first, 1, 4, 0, 1, SHORT);
        bench.tried.recv().unwrap();
        assert_eq!(probed.load(Ordering::SeqCst), 1, "without any request");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn closing_ends_all_threads_and_refuses_what_comes_later() {
        let bench = bench(3, 4, 0, usize::MAX);
        assert_eq!(bench.call(LONG).await, Ok(7));
        assert!(bench.pool.close(LONG));
        assert_eq!(bench.call(LONG).await, Err(Kind::Failed));
        assert!(bench.pool.close(Duration::ZERO), "closing twice is no harm");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn closing_waits_for_calls_that_were_set_aside_too() {
        let bench = bench(1, 4, 1, usize::MAX);
        let (release, hanging) = bench.hang(SHORT);
        assert!(hanging.await.unwrap().is_err());
        assert_eq!(bench.pool.set_aside(), 1);
        assert!(!bench.pool.close(SHORT), "one call is still inside the library");
        drop(release);
        assert!(bench.pool.close(LONG));
        assert_eq!(bench.pool.set_aside(), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn closing_does_not_wait_for_ever() {
        let bench = bench(1, 4, 0, 0);
        let (_release, _hanging) = bench.hang(LONG);
        assert!(!bench.pool.close(SHORT));
    }
}
