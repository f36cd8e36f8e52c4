//! Background checks over a scripted HSM, in paused time.

use super::*;
use crate::hsm::{HsmErrorKind, KeySpec};
use std::sync::atomic::AtomicUsize;
use tokio::time::sleep_until;

/// An HSM whose checks and data calls take what they are told; `None` hangs.
struct Scripted {
    check: Mutex<(Option<u64>, HealthStatus)>,
    call: Mutex<(Option<u64>, Option<HsmErrorKind>)>,
    checks: AtomicUsize,
}

impl Scripted {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            check: Mutex::new((Some(1), HealthStatus::Active)),
            call: Mutex::new((Some(1), None)),
            checks: AtomicUsize::new(0),
        })
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::Relaxed)
    }

    async fn perform<T>(&self, deadline: Instant) -> Result<T, HsmError> {
        let (after, kind) = *self.call.lock().unwrap();
        pause(after, deadline).await;
        Err(HsmError::new(kind.unwrap_or(HsmErrorKind::CiphertextRejected), "scripted"))
    }
}

async fn pause(ms: Option<u64>, deadline: Instant) {
    match ms {
        Some(ms) => sleep_until(deadline.min(Instant::now() + Duration::from_millis(ms))).await,
        None => std::future::pending().await,
    }
}

impl Hsm for Scripted {
    fn describe<'a>(&'a self, _: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        Box::pin(async move {
            let (after, kind) = *self.call.lock().unwrap();
            pause(after, deadline).await;
            let facts = KeyFacts { spec: KeySpec::Aes(256), encrypt: true, decrypt: true, enabled: true };
            kind.map_or(Ok(facts), |kind| Err(HsmError::new(kind, "scripted")))
        })
    }

    fn encrypt<'a>(
        &'a self,
        _: &'a KeyName,
        _: &'a Aad,
        _: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        Box::pin(self.perform(deadline))
    }

    fn decrypt<'a>(
        &'a self,
        _: &'a KeyName,
        _: &'a Aad,
        _: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(self.perform(deadline))
    }

    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async move {
            self.checks.fetch_add(1, Ordering::Relaxed);
            let (after, status) = *self.check.lock().unwrap();
            pause(after, deadline).await;
            vec![DeviceHealth { id: "serial".into(), model: "model".into(), status }]
        })
    }
}

const DEADLINE: Duration = Duration::from_millis(150);

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn watched(hsm: &Arc<Scripted>) -> Arc<Monitored> {
    let hsm: Arc<dyn Hsm> = Arc::<Scripted>::clone(hsm);
    Arc::new(Monitored::new("one", hsm, MonitorSettings::default()))
}

fn watch(monitored: &Arc<Monitored>) -> tokio::task::JoinHandle<()> {
    let monitored = Arc::clone(monitored);
    tokio::spawn(async move { monitored.watch().await })
}

async fn told(monitored: &Monitored) -> HealthStatus {
    monitored.health(Instant::now() + DEADLINE).await[0].status
}

async fn describe(monitored: &Monitored) {
    let key = KeyName::label("k");
    let _ = monitored.describe(&key, Instant::now() + DEADLINE).await;
}

#[tokio::test(start_paused = true)]
async fn hlt_4_health_is_answered_from_the_latest_check() {
    let hsm = Scripted::new();
    let monitored = watched(&hsm);
    assert_eq!((monitored.latest(), monitored.status()), (None, None));
    let _watch = watch(&monitored);
    sleep(ms(5)).await;
    let begun = Instant::now();
    for _ in 0..100 {
        assert_eq!(told(&monitored).await, HealthStatus::Active);
    }
    assert_eq!((begun.elapsed(), hsm.checks()), (Duration::ZERO, 1));
    let latest = monitored.latest().unwrap();
    assert_eq!((latest.devices[0].id.as_str(), latest.took), ("serial", ms(1)));
    sleep(Duration::from_secs(100)).await;
    assert_eq!(hsm.checks(), 10, "one every ten seconds");
}

/// Nobody runs the loop: the minute of XKS-HLT-4 is kept all the same.
#[tokio::test(start_paused = true)]
async fn hlt_4_an_answer_is_never_older_than_a_minute() {
    let hsm = Scripted::new();
    let monitored = watched(&hsm);
    told(&monitored).await;
    *hsm.check.lock().unwrap() = (Some(1), HealthStatus::Unavailable);
    sleep(ms(59_000)).await;
    assert_eq!((told(&monitored).await, hsm.checks()), (HealthStatus::Active, 1));
    assert_eq!(monitored.status(), Some(HealthStatus::Active));
    sleep(ms(1_000)).await;
    assert_eq!(monitored.status(), None);
    assert_eq!((told(&monitored).await, hsm.checks()), (HealthStatus::Unavailable, 2));
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_or_hangs_is_unavailable_and_made_every_second_until_it_passes() {
    for fault in [(Some(1), HealthStatus::Unavailable), (None, HealthStatus::Active)] {
        let hsm = Scripted::new();
        let monitored = watched(&hsm);
        told(&monitored).await;
        *hsm.check.lock().unwrap() = fault;
        let _watch = watch(&monitored);
        sleep(ms(10_000)).await;
        // A second after the end of each, and one that hangs ends after four deadlines.
        assert!((6..=11).contains(&hsm.checks()), "{}", hsm.checks());
        assert_eq!(told(&monitored).await, HealthStatus::Unavailable);
        assert_eq!(monitored.latest().unwrap().devices[0].id, "serial", "its name is remembered");
        *hsm.check.lock().unwrap() = (Some(1), HealthStatus::Active);
        sleep(ms(1_700)).await;
        assert_eq!(told(&monitored).await, HealthStatus::Active);
    }
}

#[tokio::test(start_paused = true)]
async fn an_hsm_never_reached_goes_by_its_configured_name() {
    let hsm = Scripted::new();
    hsm.check.lock().unwrap().0 = None;
    let devices = watched(&hsm).health(Instant::now() + DEADLINE).await;
    assert_eq!((devices[0].id.as_str(), devices[0].status), ("one", HealthStatus::Unavailable));
}

/// A check makes several times the calls of a request: judged by a share of one request's deadline, an HSM that met every
/// deadline was degraded or unavailable for ever.
#[tokio::test(start_paused = true)]
async fn a_check_is_slow_after_one_deadline_and_has_failed_after_four() {
    for (after, status) in [
        (Some(150), HealthStatus::Active),
        (Some(151), HealthStatus::Degraded),
        (Some(599), HealthStatus::Degraded),
        (None, HealthStatus::Unavailable),
    ] {
        let hsm = Scripted::new();
        hsm.check.lock().unwrap().0 = after;
        let monitored = watched(&hsm);
        let _watch = watch(&monitored);
        sleep(ms(700)).await;
        assert_eq!(monitored.status(), Some(status), "{after:?}");
    }
}

#[test]
fn a_check_is_given_four_deadlines_but_no_more_than_two_seconds_or_one_deadline() {
    let patience =
        |deadline| MonitorSettings { deadline: ms(deadline), ..MonitorSettings::default() }.patience();
    assert_eq!([150, 600, 4_000].map(patience), [ms(600), ms(2_000), ms(4_000)]);
}

#[tokio::test(start_paused = true)]
async fn customers_who_are_served_in_time_outweigh_a_slow_check() {
    let hsm = Scripted::new();
    let monitored = watched(&hsm);
    hsm.check.lock().unwrap().0 = Some(300);
    for (calls, status) in [(19, HealthStatus::Degraded), (20, HealthStatus::Active)] {
        for _ in 0..calls {
            describe(&monitored).await;
        }
        assert_eq!(monitored.check(Instant::now() + ms(600)).await.status, status, "{calls}");
    }
}

/// A full queue and a key that is not there are said without the HSM, or by one that has lost its keys.
#[tokio::test(start_paused = true)]
async fn refusals_that_show_no_working_hsm_do_not_save_it_from_a_failed_check() {
    for (kind, status) in [
        (HsmErrorKind::Busy, HealthStatus::Unavailable),
        (HsmErrorKind::KeyNotFound, HealthStatus::Unavailable),
        (HsmErrorKind::Refused, HealthStatus::Unavailable),
        (HsmErrorKind::CiphertextRejected, HealthStatus::Degraded),
        (HsmErrorKind::UsageRefused, HealthStatus::Degraded),
    ] {
        let hsm = Scripted::new();
        let monitored = watched(&hsm);
        hsm.check.lock().unwrap().0 = None;
        *hsm.call.lock().unwrap() = (Some(1), Some(kind));
        let (told, ()) = tokio::join!(told(&monitored), describe(&monitored));
        assert_eq!(told, status, "{kind:?}");
    }
}

/// One in twenty may be slow; more than that is what a 95th percentile means.
#[tokio::test(start_paused = true)]
async fn customers_that_are_served_slowly_or_with_errors_make_it_degraded_until_the_next_check() {
    let slow: (Option<u64>, Option<HsmErrorKind>) = (Some(100), None);
    let failed = (Some(1), Some(HsmErrorKind::DeviceGone));
    let refused = (Some(1), Some(HsmErrorKind::CiphertextRejected));
    for (bad, count, status) in [
        (slow, 5, HealthStatus::Active),
        (slow, 6, HealthStatus::Degraded),
        (failed, 6, HealthStatus::Degraded),
        (refused, 50, HealthStatus::Active),
    ] {
        let hsm = Scripted::new();
        let monitored = watched(&hsm);
        for number in 0..100 {
            *hsm.call.lock().unwrap() = if number < count { bad } else { (Some(1), None) };
            describe(&monitored).await;
        }
        assert_eq!(told(&monitored).await, status, "{bad:?} {count}");
        sleep(ms(60_000)).await;
        assert_eq!(told(&monitored).await, HealthStatus::Active, "that was before");
    }
}

/// The group drops the call of a member that keeps silent, and would otherwise hide it.
#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waited_for_counts_as_slow() {
    let hsm = Scripted::new();
    let monitored = watched(&hsm);
    hsm.call.lock().unwrap().0 = None;
    for _ in 0..30 {
        assert!(timeout_at(Instant::now() + ms(80), describe(&monitored)).await.is_err());
    }
    assert_eq!(told(&monitored).await, HealthStatus::Degraded);
}

/// Under load the check may wait in the HSM's queue until it is too late. Customers are served, so the HSM is there.
#[tokio::test(start_paused = true)]
async fn a_check_that_lost_its_turn_to_customers_does_not_take_the_hsm_out() {
    let hsm = Scripted::new();
    let monitored = watched(&hsm);
    hsm.check.lock().unwrap().0 = None;
    let (status, ()) = tokio::join!(told(&monitored), describe(&monitored));
    assert_eq!(status, HealthStatus::Degraded);
    hsm.call.lock().unwrap().1 = Some(HsmErrorKind::TimedOut);
    sleep(ms(60_000)).await;
    let (status, ()) = tokio::join!(told(&monitored), describe(&monitored));
    assert_eq!(status, HealthStatus::Unavailable);
}
