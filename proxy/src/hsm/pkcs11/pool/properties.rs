//! The pool over a model HSM that fails in every way at any moment: what must hold of every story of requests and faults.
//!
//! A story is a generated list of steps. Calls inside the model HSM return when a step says so, and not before, so the
//! stories need no sleep; only the pool's own pauses and the deadline of a request that is let run out pass in real time.

use super::*;
use crate::hsm::HsmErrorKind as Kind;
use crate::hsm::pkcs11::keeper::Device;
use proptest::prelude::*;
use proptest::sample::Index;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// The deadline of a request that is not to run out.
const LONG: Duration = Duration::from_secs(60);

/// That of one that is let run out.
const SHORT: Duration = Duration::from_millis(3);

/// Stories told: each that unplugs the HSM waits out a pause of the pool.
const STORIES: u32 = 64;

#[derive(Default)]
struct ModelHsm {
    is_unplugged: AtomicBool,
    sessions: AtomicUsize,
    sessions_peak: AtomicUsize,
}

struct ModelSession {
    hsm: Arc<ModelHsm>,
    is_lost: bool,
}

impl Open for ModelHsm {
    type Device = ModelSession;

    fn name(&self) -> &str {
        "model"
    }

    fn open(self: &Arc<Self>) -> Result<ModelSession, HsmError> {
        if self.is_unplugged.load(Ordering::SeqCst) {
            return Err(HsmError::new(Kind::DeviceGone, "unplugged"));
        }
        let sessions = self.sessions.fetch_add(1, Ordering::SeqCst) + 1;
        self.sessions_peak.fetch_max(sessions, Ordering::SeqCst);
        Ok(ModelSession { hsm: Arc::clone(self), is_lost: false })
    }
}

impl Device for ModelSession {
    fn is_lost(&self) -> bool {
        self.is_lost
    }

    fn probe(&mut self) -> Result<(), HsmError> {
        self.work()
    }
}

impl ModelSession {
    /// What every call begins with.
    fn work(&mut self) -> Result<(), HsmError> {
        assert!(!self.is_lost, "a lost session is used again");
        if self.hsm.is_unplugged.load(Ordering::SeqCst) {
            return self.lose(Kind::DeviceGone);
        }
        Ok(())
    }

    fn lose<T>(&mut self, kind: Kind) -> Result<T, HsmError> {
        self.is_lost = true;
        Err(HsmError::new(kind, "as the story tells"))
    }
}

impl Drop for ModelSession {
    fn drop(&mut self) {
        self.hsm.sessions.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How a call inside the HSM ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    Answer,
    Fail,
    LoseSession,
    LoseDevice,
    Panic,
}

#[derive(Clone, Debug)]
enum Step {
    /// A request comes, in one lane or the other.
    Ask {
        other_lane: bool,
    },
    /// A request comes whose call hangs, and its deadline passes.
    RunOut,
    /// A call, or the next one of its request, ends.
    End(Index, End),
    /// A caller goes away.
    Abandon(Index),
    Unplug,
    Plug,
}

fn step() -> impl Strategy<Value = Step> {
    let end = prop_oneof![
        6 => Just(End::Answer), 1 => Just(End::Fail), 2 => Just(End::LoseSession), 1 => Just(End::LoseDevice),
        1 => Just(End::Panic),
    ];
    prop_oneof![
        8 => any::<bool>().prop_map(|other_lane| Step::Ask { other_lane }),
        2 => Just(Step::RunOut),
        6 => (any::<Index>(), end).prop_map(|(which, end)| Step::End(which, end)),
        1 => any::<Index>().prop_map(Step::Abandon),
        1 => Just(Step::Unplug),
        1 => Just(Step::Plug),
    ]
}

/// A request under way, or answered.
struct Request {
    number: usize,
    task: JoinHandle<Result<usize, HsmError>>,
    /// Ends its calls, in order; once this is dropped they answer by themselves.
    ends: Option<Sender<End>>,
    told: BTreeSet<End>,
    /// Calls that were begun for it.
    begun: Arc<AtomicUsize>,
    is_abandoned: bool,
}

struct Story {
    pools: [Arc<Pool<ModelHsm>>; 2],
    hsm: Arc<ModelHsm>,
    limits: Limits,
    requests: Vec<Request>,
    was_unplugged: bool,
}

impl Story {
    fn begin(threads: usize, queue_max: usize, set_aside_max: usize) -> Self {
        let hsm = Arc::new(ModelHsm::default());
        let limits = Limits {
            threads,
            enough: 2,
            queue_max,
            set_aside_max,
            set_aside_after: Duration::ZERO,
            idle_max: LONG,
        };
        let pool = Pool::start(Arc::clone(&hsm), None, limits).unwrap();
        let other = pool.another();
        Self {
            pools: [Arc::new(pool), Arc::new(other)],
            hsm,
            limits,
            requests: Vec::new(),
            was_unplugged: false,
        }
    }

    fn ask(&mut self, lane: usize, patience: Duration) {
        let (ends, ended) = channel();
        let (number, begun) = (self.requests.len(), Arc::new(AtomicUsize::new(0)));
        let call = call(number, Arc::clone(&begun), Mutex::new(ended));
        let pool = Arc::clone(&self.pools[lane]);
        let deadline = Instant::now() + patience;
        let task =
            tokio::spawn(async move { pool.call(CallKind::UsesKeyAndIsSettled, deadline, call).await });
        let (ends, told) = (Some(ends), BTreeSet::new());
        self.requests.push(Request { number, task, ends, told, begun, is_abandoned: false });
    }

    async fn tell(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Ask { other_lane } => self.ask(usize::from(other_lane), LONG),
            Step::RunOut => {
                self.ask(0, SHORT);
                // What it is answered is looked at in the end, like everyone's.
                until(|| self.requests.last().is_some_and(|request| request.task.is_finished())).await;
            }
            Step::End(which, end) => {
                if let Some(request) = which.pick(&mut self.requests)
                    && let Some(ends) = &request.ends
                {
                    request.told.insert(end);
                    // Nobody listens any more when it has been answered.
                    let _ = ends.send(end);
                }
            }
            Step::Abandon(which) => {
                if let Some(request) = which.pick(&mut self.requests) {
                    request.task.abort();
                    request.is_abandoned = true;
                }
            }
            Step::Unplug => {
                self.was_unplugged = true;
                self.hsm.is_unplugged.store(true, Ordering::SeqCst);
            }
            Step::Plug => self.hsm.is_unplugged.store(false, Ordering::SeqCst),
        }
        self.check_limits()
    }

    fn check_limits(&self) -> Result<(), TestCaseError> {
        let limits = &self.limits;
        let peak = self.hsm.sessions_peak.load(Ordering::SeqCst);
        prop_assert!(peak <= limits.threads + limits.set_aside_max, "{} sessions", peak);
        let state = self.pools[0].shared.lock();
        prop_assert!(state.set_aside <= limits.set_aside_max, "{} set aside", state.set_aside);
        prop_assert!(state.queue.len() <= limits.queue_max, "{} queued", state.queue.len());
        prop_assert_eq!(state.workers.len(), limits.threads);
        Ok(())
    }

    /// The HSM is well again and every call returns: each request that still waits is answered, and what it is answered
    /// has a reason in the story.
    async fn heal(&mut self) -> Result<(), TestCaseError> {
        self.hsm.is_unplugged.store(false, Ordering::SeqCst);
        self.requests.iter_mut().for_each(|request| request.ends = None);
        for request in self.requests.drain(..) {
            let begun = request.begun;
            match request.task.await {
                Err(gone) => prop_assert!(request.is_abandoned, "{}", gone),
                Ok(Ok(number)) => prop_assert_eq!(number, request.number, "another's answer"),
                Ok(Err(error)) => {
                    let told = |end| request.told.contains(&end);
                    let has_reason = match error.kind {
                        Kind::SessionLost => told(End::LoseSession),
                        Kind::DeviceGone => told(End::LoseDevice) || self.was_unplugged,
                        Kind::Failed => told(End::Fail) || told(End::Panic),
                        // Its own deadline, or all threads hang.
                        Kind::TimedOut | Kind::Busy => true,
                        _ => false,
                    };
                    prop_assert!(
                        has_reason,
                        "request {}: {}, told {:?}",
                        request.number,
                        error,
                        request.told
                    );
                }
            }
            prop_assert!(begun.load(Ordering::SeqCst) <= 2, "a call is repeated once at most");
        }
        let pool = Arc::clone(&self.pools[0]);
        until(|| pool.set_aside() == 0 && pool.stats().idle == self.limits.threads).await;
        self.check_limits()
    }

    /// As many requests as there are threads are inside at once, and each has its answer.
    async fn serves_in_full(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..self.limits.threads {
            self.ask(0, LONG);
            // One after the other, since the queue may be shorter than there are threads.
            let begun = self.requests.last().map(|request| Arc::clone(&request.begun));
            until(|| begun.as_ref().is_some_and(|begun| begun.load(Ordering::SeqCst) == 1)).await;
        }
        prop_assert_eq!(self.hsm.sessions.load(Ordering::SeqCst), self.limits.threads);
        for request in self.requests.drain(..) {
            drop(request.ends);
            prop_assert_eq!(request.task.await.unwrap(), Ok(request.number));
        }
        prop_assert!(self.pools[0].close(LONG));
        prop_assert_eq!(self.hsm.sessions.load(Ordering::SeqCst), 0, "sessions outlive the pool");
        Ok(())
    }
}

/// The call of a request: its answer is its number.
fn call(
    number: usize,
    begun: Arc<AtomicUsize>,
    ended: Mutex<Receiver<End>>,
) -> impl Fn(&mut ModelSession) -> Result<usize, HsmError> {
    move |session| {
        begun.fetch_add(1, Ordering::SeqCst);
        session.work()?;
        let end = ended.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match end.unwrap_or(End::Answer) {
            End::Answer => Ok(number),
            End::Fail => Err(HsmError::new(Kind::Failed, "as the story tells")),
            End::LoseSession => session.lose(Kind::SessionLost),
            End::LoseDevice => session.lose(Kind::DeviceGone),
            End::Panic => panic!("planted"),
        }
    }
}

trait Pick<T> {
    fn pick<'a>(&self, among: &'a mut [T]) -> Option<&'a mut T>;
}

impl<T> Pick<T> for Index {
    fn pick<'a>(&self, among: &'a mut [T]) -> Option<&'a mut T> {
        if among.is_empty() { None } else { Some(self.get_mut(among)) }
    }
}

async fn until(mut condition: impl FnMut() -> bool) {
    let give_up_at = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < give_up_at, "it never comes true");
        tokio::task::yield_now().await;
    }
}

/// Never more sessions than allowed; each request is answered, with its own answer or an error that has a reason; a lost
/// session is never used again; and once all is well, all is served.
#[test]
fn whatever_happens_requests_are_answered_and_the_pool_heals() {
    let runtime: Runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let stories = (1..=3_usize, 1..=4_usize, 0..=2_usize, prop::collection::vec(step(), 0..40));
    proptest!(ProptestConfig::with_cases(STORIES), |((threads, queue_max, set_aside_max, steps) in stories)| {
        runtime.block_on(async {
            let mut story = Story::begin(threads, queue_max, set_aside_max);
            for step in steps {
                story.tell(step).await?;
            }
            story.heal().await?;
            story.serves_in_full().await
        })?;
    });
}
