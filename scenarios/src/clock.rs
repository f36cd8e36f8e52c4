//! Virtual time, exact to the nanosecond and free while nothing happens.
//!
//! Place on the map: the bottom of the world. tokio's paused clock jumps from timer to timer, so idle hours cost
//! nothing, but its timers sit on a grid of whole milliseconds. Network segments and HSM completions need more than
//! that against a budget of 250 ms. So they wait here, in a heap ordered by time and then by age; a driver task lets
//! tokio jump to the millisecond before the next of them and, once every task has come to rest, advances the clock
//! by the exact rest. tokio's own timers always fall on the grid, and the clock stops at each point of the grid while
//! it is off it, so none is ever overtaken.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// The clock of one run. Clones share the same time.
#[derive(Clone)]
pub struct Clock {
    shared: Arc<Mutex<Shared>>,
    start: Instant,
    known: Arc<Known>,
}

/// The time as it was last read, until it may have moved. tokio's paused clock costs a look at a thread's local and a
/// lock for each reading, and a simulated call takes a hundred; but it only moves where [`Clock::drive`] advances it and
/// where the runtime parks.
struct Known(AtomicU64);

impl Known {
    /// No reading.
    const NONE: u64 = u64::MAX;

    fn forget(&self) {
        // One thread reads and writes; it is atomic only because a clock must be `Send`.
        self.0.store(Self::NONE, Ordering::Relaxed);
    }

    fn get_or(&self, read: impl Fn() -> Duration) -> Duration {
        let nanos = self.0.load(Ordering::Relaxed);
        if nanos != Self::NONE {
            let now = Duration::from_nanos(nanos);
            // What is dropped with the runtime reads the clock where tokio has none any more.
            debug_assert!(
                tokio::runtime::Handle::try_current().is_err() || now == read(),
                "tokio's clock moved where nobody looked"
            );
            return now;
        }
        let now = read();
        self.0.store(u64::try_from(now.as_nanos()).unwrap_or(Self::NONE), Ordering::Relaxed);
        now
    }
}

struct Shared {
    waiting: BinaryHeap<Reverse<Entry>>,
    /// Age of entries: equal times fire in the order they were asked for.
    next_serial: u64,
    /// The driver, while it waits for an entry earlier than the one it knows of.
    driver: Option<Waker>,
    /// The driver, while it waits for every task to come to rest.
    at_rest: Option<Waker>,
    /// The run is over: what would wait now would wait for ever.
    ended: bool,
}

struct Entry {
    at: Duration,
    serial: u64,
    action: Action,
}

enum Action {
    Wake(Waker),
    Call(Box<dyn FnOnce() + Send>),
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.serial) == (other.at, other.serial)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

/// The grid of tokio's timers.
const MILLISECOND: Duration = Duration::from_millis(1);

fn millisecond_down(at: Duration) -> Duration {
    at - Duration::from_nanos(u64::from(at.subsec_nanos()) % 1_000_000)
}

fn millisecond_up(at: Duration) -> Duration {
    let down = millisecond_down(at);
    if down == at { at } else { down + MILLISECOND }
}

/// Runs `main` on a runtime of its own in virtual time; the closure gets the clock. Everything spawned with
/// `spawn_local` runs on this thread, in an order that depends on the seed alone.
///
/// # Errors
/// When the runtime cannot be built.
pub fn run<F, T>(runtime_seed: [u8; 32], main: impl FnOnce(Clock) -> F) -> std::io::Result<T>
where
    F: Future<Output = T>,
{
    let shared = Arc::new(Mutex::new(Shared {
        waiting: BinaryHeap::new(),
        next_serial: 0,
        driver: None,
        at_rest: None,
        ended: false,
    }));
    let parked = Arc::clone(&shared);
    let known = Arc::new(Known(AtomicU64::new(Known::NONE)));
    let unparked = Arc::clone(&known);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&runtime_seed))
        // The runtime parks when no task can run; waking a task from here keeps tokio from jumping ahead.
        .on_thread_park(move || {
            let waker = lock(&parked).at_rest.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        })
        .on_thread_unpark(move || unparked.forget())
        .build()?;
    let local = tokio::task::LocalSet::new();
    let outcome = local.block_on(&runtime, async move {
        let clock = Clock { shared, start: Instant::now(), known };
        let driver = tokio::task::spawn_local(clock.clone().drive());
        let outcome = main(clock.clone()).await;
        driver.abort();
        clock.end();
        outcome
    });
    Ok(outcome)
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // A panic elsewhere ends the run; the heap itself is never left half-changed.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clock {
    /// Simulated time since the start of the run.
    pub fn now(&self) -> Duration {
        self.known.get_or(|| Instant::now().duration_since(self.start))
    }

    /// Waits until the given simulated time, exact to the nanosecond.
    pub fn sleep_until(&self, at: Duration) -> Sleep {
        Sleep { clock: self.clone(), at, registered: None }
    }

    /// Waits for a span of simulated time, exact to the nanosecond.
    pub fn sleep(&self, span: Duration) -> Sleep {
        self.sleep_until(self.now().saturating_add(span))
    }

    /// Wakes a task at the given time.
    pub fn wake_at(&self, at: Duration, waker: Waker) {
        self.push(at, Action::Wake(waker));
    }

    /// Calls a function at the given time, on the simulation's thread. It must not block.
    pub fn call_at(&self, at: Duration, function: impl FnOnce() + Send + 'static) {
        self.push(at, Action::Call(Box::new(function)));
    }

    fn push(&self, at: Duration, action: Action) {
        let driver = {
            let mut shared = lock(&self.shared);
            if shared.ended {
                // Dropped outside the lock: what an action holds may reach for this clock again.
                drop(shared);
                drop(action);
                return;
            }
            let first = shared.waiting.peek().is_none_or(|Reverse(entry)| at < entry.at);
            let serial = shared.next_serial;
            shared.next_serial += 1;
            shared.waiting.push(Reverse(Entry { at, serial, action }));
            if first { shared.driver.take() } else { None }
        };
        if let Some(waker) = driver {
            waker.wake();
        }
    }

    /// Lets go of everything that waits. An entry holds a connection or a task, and those hold this clock: without this
    /// the circle would outlive the run.
    fn end(&self) {
        let waiting = {
            let mut shared = lock(&self.shared);
            shared.ended = true;
            std::mem::take(&mut shared.waiting)
        };
        drop(waiting);
    }

    /// Fires entries when their time has come, and moves the clock between the points of tokio's grid.
    async fn drive(self) {
        loop {
            let now = self.now();
            while let Some(action) = self.take_due(now) {
                match action {
                    Action::Wake(waker) => waker.wake(),
                    Action::Call(function) => function(),
                }
            }
            let grid = millisecond_up(now);
            let known = self.next_entry();
            match known {
                // Off the grid tokio's jumps would end off the grid too, late by the difference. So the driver alone
                // moves the clock there: to the next entry or the next point of the grid, whichever is earlier.
                _ if grid > now => self.advance_at_rest(grid).await,
                Some(at) if at < now + MILLISECOND => self.advance_at_rest(at).await,
                Some(at) => {
                    let jump = tokio::time::sleep_until(self.start + millisecond_down(at));
                    tokio::select! {
                        biased;
                        () = self.earlier_entry(known) => {}
                        () = jump => {}
                    }
                }
                None => self.earlier_entry(known).await,
            }
        }
    }

    fn next_entry(&self) -> Option<Duration> {
        lock(&self.shared).waiting.peek().map(|Reverse(entry)| entry.at)
    }

    /// Lets every task come to rest, then moves the clock to `until` or to the first entry if that is earlier.
    async fn advance_at_rest(&self, until: Duration) {
        self.rest().await;
        let target = self.next_entry().map_or(until, |first| first.min(until));
        if let Some(rest) = target.checked_sub(self.now()) {
            self.known.forget();
            tokio::time::advance(rest).await;
        }
    }

    fn take_due(&self, now: Duration) -> Option<Action> {
        let mut shared = lock(&self.shared);
        match shared.waiting.peek() {
            Some(Reverse(entry)) if entry.at <= now => {
                shared.waiting.pop().map(|Reverse(entry)| entry.action)
            }
            _ => None,
        }
    }

    /// Resolves when the heap's first entry is earlier than `known`.
    async fn earlier_entry(&self, known: Option<Duration>) {
        poll_fn(|context| {
            let mut shared = lock(&self.shared);
            let first = shared.waiting.peek().map(|Reverse(entry)| entry.at);
            let earlier = match (first, known) {
                (Some(first), Some(known)) => first < known,
                (first, None) => first.is_some(),
                (None, Some(_)) => true,
            };
            if earlier {
                return Poll::Ready(());
            }
            shared.driver = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Resolves when no other task can run.
    async fn rest(&self) {
        let mut asked = false;
        poll_fn(|context| {
            let mut shared = lock(&self.shared);
            if asked && shared.at_rest.is_none() {
                return Poll::Ready(());
            }
            asked = true;
            shared.at_rest = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl sim_hsm::timer::Timer for Clock {
    fn now(&self) -> Duration {
        Self::now(self)
    }

    fn sleep_until(&self, at: Duration) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Self::sleep_until(self, at))
    }
}

/// Resolves at its time; made by [`Clock::sleep_until`].
pub struct Sleep {
    clock: Clock,
    at: Duration,
    /// Whom the clock will wake.
    registered: Option<Waker>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.clock.now() >= self.at {
            return Poll::Ready(());
        }
        // A future may be polled by one task and then moved to another; the last one to poll is to be woken.
        if self.registered.as_ref().is_none_or(|waker| !waker.will_wake(context.waker())) {
            self.registered = Some(context.waker().clone());
            self.clock.wake_at(self.at, context.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    fn micros(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    #[test]
    fn sleeps_are_exact_between_tokios_milliseconds() {
        let woke = run([7; 32], |clock| async move {
            let log = Rc::new(RefCell::new(Vec::new()));
            let mut tasks = Vec::new();
            for us in [2_500, 300, 301, 1_000, 999, 12_345_678, 300] {
                let (clock, log) = (clock.clone(), Rc::clone(&log));
                tasks.push(tokio::task::spawn_local(async move {
                    clock.sleep_until(micros(us)).await;
                    log.borrow_mut().push((us, clock.now()));
                }));
            }
            // A timer of tokio's between two exact ones is not overtaken.
            let (grid_clock, grid_log) = (clock.clone(), Rc::clone(&log));
            tasks.push(tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                grid_log.borrow_mut().push((2_000, grid_clock.now()));
            }));
            for task in tasks {
                task.await.unwrap();
            }
            log.take()
        })
        .unwrap();
        let expected = [300, 300, 301, 999, 1_000, 2_000, 2_500, 12_345_678];
        assert_eq!(woke, expected.map(|us| (us, micros(us))));
    }

    #[test]
    fn a_task_that_sleeps_in_steps_drifts_by_nothing() {
        let end = run([0; 32], |clock| async move {
            for _ in 0..1_000 {
                clock.sleep(Duration::from_nanos(1_234_567)).await;
            }
            clock.now()
        })
        .unwrap();
        assert_eq!(end, Duration::from_nanos(1_234_567_000));
    }

    #[test]
    fn idle_days_cost_nothing() {
        // Eight days hold 691 million milliseconds; a fixed tick would still be at it next week.
        let end = run([0; 32], |clock| async move {
            clock.sleep(Duration::from_secs(8 * 86_400)).await;
            clock.now()
        })
        .unwrap();
        assert_eq!(end, Duration::from_secs(8 * 86_400));
    }

    #[test]
    fn calls_happen_at_their_time_and_may_schedule_more() {
        let calls = run([0; 32], |clock| async move {
            let log = Arc::new(Mutex::new(Vec::new()));
            let (inner_clock, inner_log) = (clock.clone(), Arc::clone(&log));
            clock.call_at(micros(1_500), move || {
                let (clock, log) = (inner_clock.clone(), Arc::clone(&inner_log));
                inner_log.lock().unwrap().push(inner_clock.now());
                inner_clock.call_at(micros(1_700), move || log.lock().unwrap().push(clock.now()));
            });
            clock.sleep(Duration::from_millis(3)).await;
            log.lock().unwrap().clone()
        })
        .unwrap();
        assert_eq!(calls, [micros(1_500), micros(1_700)]);
    }

    #[test]
    fn a_sleep_that_moves_to_another_task_wakes_that_one() {
        let end = run([0; 32], |clock| async move {
            let mut sleep = Box::pin(clock.sleep_until(micros(700)));
            assert!(sleep.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let moved = tokio::task::spawn_local(sleep);
            // The end of this test if the wake-up is missed.
            tokio::time::timeout(Duration::from_secs(1), moved).await.unwrap().unwrap();
            clock.now()
        })
        .unwrap();
        assert_eq!(end, micros(700));
    }

    #[test]
    fn what_still_waits_at_the_end_of_a_run_is_let_go() {
        let held = Arc::new(());
        let (before, after) = (Arc::clone(&held), Arc::clone(&held));
        run([0; 32], |clock| async move {
            // As a connection that goes on retransmitting: the clock holds it, and it holds the clock.
            let inner = clock.clone();
            clock.call_at(Duration::from_secs(60), move || drop((inner.now(), before)));
            let dropped_late = DropCalls(clock.clone(), Some(after));
            tokio::task::spawn_local(async move {
                std::future::pending::<()>().await;
                drop(dropped_late);
            });
            clock.sleep(micros(1)).await;
        })
        .unwrap();
        assert_eq!(Arc::strong_count(&held), 1);
    }

    /// A stream in a task that outlives the run: its drop asks for one more call.
    struct DropCalls(Clock, Option<Arc<()>>);

    impl Drop for DropCalls {
        fn drop(&mut self) {
            let (clock, held) = (self.0.clone(), self.1.take());
            self.0.call_at(Duration::from_secs(90), move || drop((clock.now(), held)));
        }
    }
}
