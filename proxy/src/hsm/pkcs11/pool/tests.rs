//! The pool with a scripted device.

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
    /// Calls whose results are not settled yet.
    unsettled: usize,
    /// Each time they were settled, and how many.
    settled: Arc<Mutex<Vec<usize>>>,
    /// The first time is to fail.
    fails_to_settle: bool,
    /// The first time it has no room for that at present, and stays.
    answers_busy: bool,
}

impl Device for Scripted {
    fn is_lost(&self) -> bool {
        self.lost
    }

    fn has_to_settle(&self) -> bool {
        self.unsettled > 0
    }

    fn settle(&mut self) -> Result<(), HsmError> {
        self.settled.lock().unwrap().push(std::mem::take(&mut self.unsettled));
        if std::mem::take(&mut self.fails_to_settle) {
            self.lost = true;
            return Err(HsmError::new(Kind::SessionLost, "the handle names another key"));
        }
        if std::mem::take(&mut self.answers_busy) {
            return Err(HsmError::new(Kind::Busy, "CKR_HOST_MEMORY"));
        }
        Ok(())
    }

    fn discard(&mut self) {
        self.unsettled = 0;
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
    let limits =
        Limits { threads, enough: 2, queue_max, set_aside_max, set_aside_after: Duration::ZERO, idle_max };
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
                pool.call(CallKind::UsesKey, Instant::now() + patience, move |_| {
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
        self.pool
            .call(CallKind::UsesKey, Instant::now() + patience, |_| Ok(7))
            .await
            .map_err(|error| error.kind)
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
    let waiting =
        tokio::spawn(async move { pool.call(CallKind::UsesKey, Instant::now() + LONG, |_| Ok(8)).await });
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
            pool.call(CallKind::UsesKey, Instant::now() + LONG, note).await.map_err(|error| error.kind)
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
    assert_eq!(another.call(CallKind::UsesKey, Instant::now() + LONG, |_| Ok(7)).await, Ok(7));
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
        pool.call(CallKind::UsesKey, Instant::now() + LONG, count).await
    });
    until(|| bench.queued() == 1).await;
    waiting.abort();
    assert!(waiting.await.unwrap_err().is_cancelled());
    // The place in the queue is free again, although the thread still hangs.
    let pool = Arc::clone(&bench.pool);
    let next =
        tokio::spawn(async move { pool.call(CallKind::UsesKey, Instant::now() + LONG, |_| Ok(9)).await });
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
    let late = bench.pool.call(CallKind::UsesKey, Instant::now() + SHORT, move |_| {
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
    let refused = bench.pool.call(CallKind::UsesKey, Instant::now() + LONG, |_| Ok(())).await.unwrap_err();
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
    assert_eq!(
        bench.pool.call(CallKind::UsesKey, Instant::now() + LONG, lose).await.unwrap_err().detail,
        "pulled"
    );
    bench.tried.recv().unwrap();
    until(|| bench.pool.is_impaired()).await;
    let refused = bench.pool.call(CallKind::UsesKey, Instant::now() + LONG, |_| Ok(())).await.unwrap_err();
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
        pool.call(
            CallKind::UsesKey,
            Instant::now() + LONG,
            move |device: &mut Scripted| -> Result<(), HsmError> {
                let _ = tell.send(());
                let _ = released.recv();
                device.lost = true;
                Err(HsmError::new(Kind::DeviceGone, "pulled"))
            },
        )
        .await
    });
    inside.recv().unwrap();
    let pool = Arc::clone(&bench.pool);
    let waiting =
        tokio::spawn(async move { pool.call(CallKind::UsesKey, Instant::now() + LONG, |_| Ok(())).await });
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
    let outcome = bench
        .pool
        .call(CallKind::UsesKey, Instant::now() + LONG, |_| -> Result<(), HsmError> { panic!("planted") });
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

/// Requests that came while the only thread was inside, once it is known that calls are short: their tasks, and how often each
/// was run.
async fn a_crowd(
    bench: &Bench,
    count: usize,
) -> (Vec<JoinHandle<Result<usize, HsmError>>>, Arc<Vec<AtomicUsize>>) {
    bench.pool.shared.lock().pace.note(Some(Duration::from_nanos(1)));
    let (release, hanging) = bench.hang(LONG);
    let runs: Arc<Vec<AtomicUsize>> = Arc::new((0..count).map(|_| AtomicUsize::new(0)).collect());
    let mut crowd = Vec::new();
    for number in 0..count {
        let (pool, runs) = (Arc::clone(&bench.pool), Arc::clone(&runs));
        crowd.push(tokio::spawn(async move {
            let call = move |device: &mut Scripted| {
                device.unsettled += 1;
                runs[number].fetch_add(1, Ordering::SeqCst);
                Ok(number)
            };
            pool.call(CallKind::UsesKeyAndIsSettled, Instant::now() + LONG, call).await
        }));
        until(|| bench.queued() == number + 1).await;
    }
    // The call that was inside took long, but another was short not long ago.
    drop(release);
    hanging.await.unwrap().unwrap();
    (crowd, runs)
}

#[tokio::test(flavor = "multi_thread")]
async fn short_calls_that_wait_are_settled_together_before_any_is_answered() {
    let first = Scripted::default();
    let settled = Arc::clone(&first.settled);
    let bench = bench_with(first, 1, 100, 0, 0, LONG);
    let (crowd, runs) = a_crowd(&bench, 20).await;
    for (number, task) in crowd.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), Ok(number));
    }
    assert!(runs.iter().all(|runs| runs.load(Ordering::SeqCst) == 1));
    let settled = settled.lock().unwrap();
    assert_eq!(settled.iter().sum::<usize>(), 20);
    // A batch that is interrupted for a millisecond ends earlier.
    assert!(settled.len() < 20 && settled.iter().all(|count| *count <= BATCH_MAX), "{settled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_settled_is_not_given_out_but_repeated_once() {
    let first = Scripted { fails_to_settle: true, ..Scripted::default() };
    let bench = bench_with(first, 1, 100, 0, 1, LONG);
    let (crowd, runs) = a_crowd(&bench, 5).await;
    for (number, task) in crowd.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), Ok(number));
    }
    let runs: Vec<_> = runs.iter().map(|runs| runs.load(Ordering::SeqCst)).collect();
    assert_eq!(runs, [2, 2, 2, 2, 2], "on another session");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_of_a_session_that_is_lost_before_they_are_settled_are_not_given_out() {
    let bench = bench_with(Scripted::default(), 1, 100, 0, 9, LONG);
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    // The library loses its sessions right after the call, and nobody has told this one yet.
    let outcome = bench.pool.call(
        CallKind::UsesKeyAndIsSettled,
        Instant::now() + LONG,
        move |device: &mut Scripted| {
            let run = counted.fetch_add(1, Ordering::SeqCst);
            device.unsettled = 1;
            device.fails_to_settle = run == 0;
            Ok(run)
        },
    );
    assert_eq!(outcome.await, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_calls_are_short_no_more_threads_are_woken_than_are_enough() {
    let bench = bench(4, 9, 0, 3);
    until(|| bench.pool.stats().idle == 4).await;
    bench.pool.shared.lock().pace.note(Some(Duration::from_nanos(1)));
    // Two are inside and have not been for long; the third request waits for one of them.
    let now = Instant::now();
    let mut state = bench.pool.shared.lock();
    assert!(!state.has_enough_at_work(&bench.pool.shared.limits, now));
    for _ in 0..2 {
        state.wake_one(now).unwrap();
    }
    assert!(state.has_enough_at_work(&bench.pool.shared.limits, now));
    assert!(
        !state.has_enough_at_work(&bench.pool.shared.limits, now + AT_WORK_MAX),
        "they take long after all"
    );
    state.pace = Pace::default();
    assert!(!state.has_enough_at_work(&bench.pool.shared.limits, now), "calls are not known to be short");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_those_at_work_hang_the_ones_held_back_are_woken() {
    let bench = bench(4, 9, 0, 3);
    until(|| bench.pool.stats().idle == 4).await;
    bench.pool.shared.lock().pace.note(Some(Duration::from_nanos(1)));
    let (first, second) = (bench.hang(LONG), bench.hang(LONG));
    assert_eq!(
        bench.call(LONG).await,
        Ok(7),
        "although two are enough while calls are short, and two are inside"
    );
    drop((first, second));
}

/// A call that ends badly in the midst of a batch takes the session with it, and no result of it is given out; the call itself
/// is answered, and not made again.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_costs_the_session_settles_nobody_elses_result() {
    for panics in [false, true] {
        let bench = bench_with(Scripted::default(), 1, 100, 0, 9, LONG);
        bench.pool.shared.lock().pace.note(Some(Duration::from_nanos(1)));
        let (release, _hanging) = bench.hang(LONG);
        let (runs, bad_runs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counted, bad_counted) = (Arc::clone(&runs), Arc::clone(&bad_runs));
        let pool = Arc::clone(&bench.pool);
        let good = tokio::spawn(async move {
            let call = move |device: &mut Scripted| {
                device.unsettled += 1;
                Ok(counted.fetch_add(1, Ordering::SeqCst))
            };
            pool.call(CallKind::UsesKeyAndIsSettled, Instant::now() + LONG, call).await
        });
        until(|| bench.queued() == 1).await;
        let pool = Arc::clone(&bench.pool);
        let bad = tokio::spawn(async move {
            let call = move |device: &mut Scripted| -> Result<(), HsmError> {
                bad_counted.fetch_add(1, Ordering::SeqCst);
                assert!(!panics, "planted");
                device.lost = true;
                Err(HsmError::new(Kind::DeviceGone, "pulled"))
            };
            pool.call(CallKind::UsesKey, Instant::now() + LONG, call).await
        });
        until(|| bench.queued() == 2).await;
        drop(release);
        let kind = if panics { Kind::Failed } else { Kind::DeviceGone };
        assert_eq!(bad.await.unwrap().unwrap_err().kind, kind);
        // Had the thread been interrupted in between, it was settled before.
        let run = good.await.unwrap().unwrap();
        assert_eq!(run + 1, runs.load(Ordering::SeqCst), "the last result");
        assert_eq!(bad_runs.load(Ordering::SeqCst), 1);
    }
}

/// One key whose handle cannot be confirmed does not fail the calls with other keys.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_settled_together_is_settled_alone() {
    let first = Scripted { answers_busy: true, ..Scripted::default() };
    let bench = bench_with(first, 1, 100, 0, 1, LONG);
    let (crowd, runs) = a_crowd(&bench, 5).await;
    for (number, task) in crowd.into_iter().enumerate() {
        assert_eq!(task.await.unwrap(), Ok(number));
    }
    assert!(runs.iter().all(|runs| runs.load(Ordering::SeqCst) <= 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_settling_is_answered_before_others_are_settled() {
    let first = Scripted::default();
    let settled = Arc::clone(&first.settled);
    let bench = bench_with(first, 1, 100, 0, 0, LONG);
    assert_eq!(bench.call(LONG).await, Ok(7));
    assert!(settled.lock().unwrap().is_empty());
}

/// It has been replaced already: there would be more threads than sessions are allowed.
#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_was_set_aside_begins_nothing_more_when_its_call_returns() {
    let bench = bench(1, 9, 1, usize::MAX);
    bench.pool.shared.lock().pace.note(Some(Duration::from_nanos(1)));
    let (release, hanging) = bench.hang(SHORT);
    assert!(hanging.await.unwrap().is_err());
    until(|| bench.pool.set_aside() == 1 && bench.pool.stats().idle == 1).await;
    let (second, _hanging) = bench.hang(LONG);
    let pool = Arc::clone(&bench.pool);
    let waiting =
        tokio::spawn(async move { pool.call(CallKind::UsesKey, Instant::now() + LONG, |_| Ok(8)).await });
    until(|| bench.queued() == 1).await;
    drop(release);
    until(|| bench.pool.set_aside() == 0).await;
    assert_eq!(bench.queued(), 1, "it waits for the one that counts");
    drop(second);
    assert_eq!(waiting.await.unwrap(), Ok(8));
}

/// Whatever the error is, the loss of the session ends the batch: what would join could not be settled with the rest, and is
/// for those who have a session.
#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_loses_its_session_in_a_batch_takes_nothing_more() {
    let bench = bench(1, 100, 0, 9);
    bench.pool.shared.lock().pace.note(Some(Duration::from_nanos(1)));
    let (release, _hanging) = bench.hang(LONG);
    let runs: Arc<[AtomicUsize; 3]> = Arc::default();
    let mut tasks = Vec::new();
    for number in 0..3 {
        let (pool, runs) = (Arc::clone(&bench.pool), Arc::clone(&runs));
        tasks.push(tokio::spawn(async move {
            let call = move |device: &mut Scripted| {
                runs[number].fetch_add(1, Ordering::SeqCst);
                device.unsettled += 1;
                device.lost = number == 1;
                if device.lost { Err(HsmError::new(Kind::DeviceGone, "pulled")) } else { Ok(number) }
            };
            pool.call(CallKind::UsesKeyAndIsSettled, Instant::now() + LONG, call).await
        }));
        until(|| bench.queued() == number + 1).await;
    }
    drop(release);
    for (number, task) in tasks.into_iter().enumerate() {
        let expected = if number == 1 { Err(Kind::DeviceGone) } else { Ok(number) };
        assert_eq!(task.await.unwrap().map_err(|error| error.kind), expected);
    }
    // The first had to be repeated, unless an interruption had it settled before.
    let runs = runs.each_ref().map(|runs| runs.load(Ordering::SeqCst));
    assert!(matches!(runs, [1..=2, 1, 1]), "{runs:?}");
}

/// A library may answer a health check by itself, in no time.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_uses_no_key_does_not_set_the_pace() {
    let bench = bench(1, 9, 0, 0);
    for (kind, is_short) in [(CallKind::Other, false), (CallKind::UsesKey, true)] {
        // On a busy machine one call may be interrupted for longer than a short one takes.
        let mut tries = 0;
        while bench.pool.shared.lock().pace.calls_are_short() != is_short || tries == 0 {
            assert!(tries < 1_000, "{kind:?}");
            assert_eq!(bench.pool.call(kind, Instant::now() + LONG, |_| Ok(7)).await, Ok(7));
            until(|| bench.pool.stats().idle == 1).await;
            tries += 1;
        }
    }
}
