//! The group over scripted members, in paused time.

use super::*;
use crate::hsm::monitored::MonitorSettings;
use crate::hsm::{HsmError, HsmErrorKind, Iv, KeySpec};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::{sleep, sleep_until};

/// What a member does with one call.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Answers after so many milliseconds.
    Answer(u64),
    /// Fails after so many milliseconds.
    Fail(u64, HsmErrorKind),
    /// Says at the deadline that it timed out, as an HSM should.
    Silent,
    /// Never resolves, against the contract.
    Hang,
}

/// A member that follows its script and then does the same for ever. Its answers carry its number.
struct Scripted {
    number: u8,
    script: Mutex<VecDeque<Step>>,
    then: Mutex<Step>,
    calls: AtomicUsize,
    in_flight: AtomicUsize,
}

struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Scripted {
    fn new(number: u8, script: &[Step], then: Step) -> Arc<Self> {
        Arc::new(Self {
            number,
            script: Mutex::new(script.iter().copied().collect()),
            then: Mutex::new(then),
            calls: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
        })
    }

    fn then_always(&self, step: Step) {
        *self.then.lock().unwrap() = step;
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    async fn perform<T>(&self, answer: T, deadline: Instant) -> Result<T, HsmError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let _in_flight = InFlight(&self.in_flight);
        let step = self.script.lock().unwrap().pop_front().unwrap_or(*self.then.lock().unwrap());
        let timed_out = || HsmError::new(HsmErrorKind::TimedOut, "scripted");
        match step {
            Step::Answer(ms) => {
                sleep_until((Instant::now() + Duration::from_millis(ms)).min(deadline)).await;
                if Instant::now() < deadline { Ok(answer) } else { Err(timed_out()) }
            }
            Step::Fail(ms, kind) => {
                sleep(Duration::from_millis(ms)).await;
                Err(HsmError::new(kind, "scripted"))
            }
            Step::Silent => {
                sleep_until(deadline).await;
                Err(timed_out())
            }
            Step::Hang => std::future::pending().await,
        }
    }
}

impl Hsm for Scripted {
    fn describe<'a>(&'a self, _: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        let spec = KeySpec::Aes(u16::from(self.number));
        Box::pin(self.perform(KeyFacts { spec, encrypt: true, decrypt: true, enabled: true }, deadline))
    }

    fn encrypt<'a>(
        &'a self,
        _: &'a KeyName,
        _: &'a Aad,
        _: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        let sealed = Sealed { ciphertext: Vec::new(), iv: Iv::Twelve([self.number; 12]), tag: [0; 16] };
        Box::pin(self.perform(sealed, deadline))
    }

    fn decrypt<'a>(
        &'a self,
        _: &'a KeyName,
        _: &'a Aad,
        _: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(self.perform(Plaintext::new(vec![self.number]), deadline))
    }

    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async move {
            let status = match self.perform((), deadline).await {
                Ok(()) => HealthStatus::Active,
                Err(_) => HealthStatus::Unavailable,
            };
            vec![DeviceHealth { id: format!("device-{}", self.number), model: "scripted".into(), status }]
        })
    }
}

const DEADLINE: Duration = Duration::from_millis(150);
const FAILURES: [HsmErrorKind; 4] =
    [HsmErrorKind::TimedOut, HsmErrorKind::SessionLost, HsmErrorKind::DeviceGone, HsmErrorKind::Failed];
const FINAL: [HsmErrorKind; 3] =
    [HsmErrorKind::UsageRefused, HsmErrorKind::KeyDisabled, HsmErrorKind::TooLong];

fn group_with(members: &[Arc<Scripted>], settings: GroupSettings) -> HsmGroup {
    let member = |hsm: &Arc<Scripted>| {
        let hsm = Arc::<Scripted>::clone(hsm);
        Member::new(format!("hsm-{}", hsm.number), hsm as Arc<dyn Hsm>)
    };
    HsmGroup::new(members.iter().map(member).collect(), settings).unwrap()
}

fn group(members: &[Arc<Scripted>]) -> HsmGroup {
    group_with(members, GroupSettings::default())
}

/// Who answered a decryption, and after how long.
async fn ask(group: &HsmGroup) -> (Result<u8, HsmErrorKind>, Duration) {
    let begun = Instant::now();
    let sealed = Sealed { ciphertext: Vec::new(), iv: Iv::Twelve([0; 12]), tag: [0; 16] };
    let (key, aad) = (KeyName::label("k"), Aad::frame(&[], &[]).unwrap());
    let outcome = group.decrypt(&key, &aad, &sealed, begun + DEADLINE).await;
    (outcome.map(|text| text.expose()[0]).map_err(|error| error.kind), begun.elapsed())
}

fn state(group: &HsmGroup, member: usize) -> BreakerState {
    group.breakers()[member].state
}

fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

#[test]
fn a_group_has_one_to_ten_members() {
    let members =
        |count| (0..count).map(|n| Member::new("m", Scripted::new(n, &[], Step::Hang) as _)).collect();
    assert_eq!(HsmGroup::new(members(0), GroupSettings::default()).err(), Some(WrongSize(0)));
    assert!(HsmGroup::new(members(10), GroupSettings::default()).is_ok());
    assert_eq!(HsmGroup::new(members(11), GroupSettings::default()).err(), Some(WrongSize(11)));
}

#[tokio::test(start_paused = true)]
async fn a_group_of_one_hands_everything_through() {
    let only = Scripted::new(7, &[Step::Fail(1, HsmErrorKind::DeviceGone)], Step::Answer(140));
    let group = group(&[Arc::clone(&only)]);
    assert_eq!(ask(&group).await, (Err(HsmErrorKind::DeviceGone), ms(1)));
    assert_eq!(ask(&group).await, (Ok(7), ms(140)));
    only.then_always(Step::Fail(0, HsmErrorKind::Failed));
    for _ in 0..20 {
        assert_eq!(ask(&group).await.0, Err(HsmErrorKind::Failed));
    }
    assert_eq!((only.calls(), state(&group, 0)), (22, BreakerState::Closed));
}

#[tokio::test(start_paused = true)]
async fn healthy_members_share_the_work() {
    let members = [0, 1, 2].map(|number| Scripted::new(number, &[], Step::Answer(1)));
    let group = group(&members);
    for _ in 0..30 {
        ask(&group).await.0.unwrap();
    }
    assert_eq!(members.map(|member| member.calls()), [10, 10, 10]);
}

#[tokio::test(start_paused = true)]
async fn a_members_fault_is_another_members_work_at_once() {
    let blameless = [HsmErrorKind::Busy, HsmErrorKind::KeyNotFound, HsmErrorKind::Refused];
    for kind in FAILURES.into_iter().chain(blameless) {
        let (bad, good) =
            (Scripted::new(0, &[], Step::Fail(2, kind)), Scripted::new(1, &[], Step::Answer(3)));
        let group = group(&[Arc::clone(&bad), Arc::clone(&good)]);
        assert_eq!(ask(&group).await, (Ok(1), ms(5)), "{kind:?}");
        assert_eq!((bad.calls(), group.breakers()[0].failovers, group.breakers()[1].failovers), (1, 1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_final_error_is_asked_for_once() {
    for kind in FINAL {
        let (first, second) =
            (Scripted::new(0, &[], Step::Fail(2, kind)), Scripted::new(1, &[], Step::Answer(3)));
        let group = group(&[Arc::clone(&first), Arc::clone(&second)]);
        assert_eq!(ask(&group).await, (Err(kind), ms(2)));
        assert_eq!((first.calls(), second.calls()), (1, 0), "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_ciphertext_is_no_sign_of_illness() {
    let members =
        [0, 1].map(|number| Scripted::new(number, &[], Step::Fail(0, HsmErrorKind::CiphertextRejected)));
    let group = group(&members);
    for _ in 0..100 {
        assert_eq!(ask(&group).await.0, Err(HsmErrorKind::CiphertextRejected));
    }
    assert_eq!([state(&group, 0), state(&group, 1)], [BreakerState::Closed; 2]);
}

/// A member with another key under the same name rejected half of the good ciphertexts, which KMS takes as final.
#[tokio::test(start_paused = true)]
async fn a_ciphertext_that_one_member_rejects_and_another_opens_is_good() {
    let rejects = Step::Fail(2, HsmErrorKind::CiphertextRejected);
    let members = [Scripted::new(0, &[], rejects), Scripted::new(1, &[], Step::Answer(3))];
    let group = group(&members);
    for _ in 0..20 {
        assert_eq!(ask(&group).await.0, Ok(1));
    }
    assert_eq!([state(&group, 0), state(&group, 1)], [BreakerState::Closed; 2]);
    assert_eq!(group.breakers()[0].failovers, 0, "it has not failed");
}

#[tokio::test(start_paused = true)]
async fn a_ciphertext_is_wrong_when_every_member_says_so_once() {
    let rejects = Step::Fail(2, HsmErrorKind::CiphertextRejected);
    let members = [0, 1, 2].map(|number| Scripted::new(number, &[], rejects));
    let group = group(&members);
    assert_eq!(ask(&group).await, (Err(HsmErrorKind::CiphertextRejected), ms(6)));
    assert_eq!(members.each_ref().map(|member| member.calls()), [1, 1, 1]);
    // One that does not have the key cannot have made the ciphertext.
    members[1].then_always(Step::Fail(2, HsmErrorKind::KeyNotFound));
    assert_eq!(ask(&group).await.0, Err(HsmErrorKind::CiphertextRejected));
}

/// The member that says nothing may hold the key, and KMS would not ask again.
#[tokio::test(start_paused = true)]
async fn a_ciphertext_is_not_called_wrong_while_a_member_says_nothing() {
    for (silent, told) in [
        (Step::Hang, HsmErrorKind::TimedOut),
        (Step::Silent, HsmErrorKind::TimedOut),
        (Step::Fail(1, HsmErrorKind::DeviceGone), HsmErrorKind::DeviceGone),
        (Step::Fail(1, HsmErrorKind::SessionLost), HsmErrorKind::SessionLost),
        (Step::Fail(1, HsmErrorKind::Busy), HsmErrorKind::Busy),
    ] {
        let rejects = Step::Fail(2, HsmErrorKind::CiphertextRejected);
        let members = [Scripted::new(0, &[], rejects), Scripted::new(1, &[], silent)];
        let group = group(&members);
        for _ in 0..4 {
            assert_eq!(ask(&group).await.0, Err(told), "{silent:?}");
        }
    }
}

/// Nor when it is out of use: the answer must not change with the fifth failure. It is not asked, so nobody waits for it.
#[tokio::test(start_paused = true)]
async fn a_ciphertext_is_not_called_wrong_while_a_member_is_out_of_use() {
    let members = [Scripted::new(0, &[], Step::Hang), Scripted::new(1, &[], Step::Answer(3))];
    let group = group(&members);
    for _ in 0..10 {
        ask(&group).await.0.unwrap();
    }
    assert_eq!((state(&group, 0), members[0].calls()), (BreakerState::Open, 5));
    members[1].then_always(Step::Fail(2, HsmErrorKind::CiphertextRejected));
    assert_eq!(ask(&group).await, (Err(HsmErrorKind::DeviceGone), ms(2)));
    assert_eq!(members[0].calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn members_that_hold_different_keys_are_warned_of_once_a_minute() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    // With one dispatcher only, another test's thread could silence the warning for good (tokio-rs/tracing#3611).
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _listening = tracing::subscriber::set_default(subscriber);
    let rejects = Step::Fail(2, HsmErrorKind::CiphertextRejected);
    let group = group(&[Scripted::new(0, &[], rejects), Scripted::new(1, &[], Step::Answer(3))]);
    for (pause, warnings) in [(0, 1), (30_000, 1), (30_000, 2)] {
        sleep(ms(pause)).await;
        for _ in 0..4 {
            ask(&group).await.0.unwrap();
        }
        let told = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert_eq!(told.matches("hold different keys").count(), warnings, "{told}");
        assert!(told.contains("opened_by=\"hsm-1\" rejected_by=\"hsm-0\""), "{told}");
        assert!(told.contains(&format!("key={}", KeyName::label("k"))), "{told}");
    }
}

/// What is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_hung_member_leaves_half_of_the_time_to_the_other() {
    let (hung, good) = (Scripted::new(0, &[], Step::Hang), Scripted::new(1, &[], Step::Answer(3)));
    let group = group(&[Arc::clone(&hung), good]);
    assert_eq!(ask(&group).await, (Ok(1), ms(78)));
    assert_eq!(hung.in_flight.load(Ordering::Relaxed), 0, "the loser is dropped");
    assert_eq!(group.breakers()[0].failovers, 1);
}

/// Giving a slow member up after its share would fail requests that a single HSM answers.
#[tokio::test(start_paused = true)]
async fn members_that_are_all_slow_still_answer() {
    let group = group(&[0, 1].map(|number| Scripted::new(number, &[], Step::Answer(120))));
    for _ in 0..50 {
        assert_eq!(ask(&group).await.1, ms(120));
    }
    assert_eq!([state(&group, 0), state(&group, 1)], [BreakerState::Closed; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_hung_member_is_left_alone_after_five_requests_and_tried_by_one_at_a_time() {
    let (hung, good) = (Scripted::new(0, &[], Step::Hang), Scripted::new(1, &[], Step::Answer(3)));
    let group = group(&[Arc::clone(&hung), good]);
    for _ in 0..10 {
        assert_eq!(ask(&group).await.0, Ok(1));
    }
    assert_eq!((hung.calls(), state(&group, 0)), (5, BreakerState::Open));
    sleep(ms(1_000)).await;
    // The probe, and two that come meanwhile.
    let (probe, second, third) = tokio::join!(ask(&group), ask(&group), ask(&group));
    assert_eq!([probe, second, third], [(Ok(1), ms(78)), (Ok(1), ms(3)), (Ok(1), ms(3))]);
    assert_eq!((hung.calls(), state(&group, 0), group.breakers()[0].opened), (6, BreakerState::Open, 1));
    // The failed probe has doubled the pause.
    sleep(ms(1_500)).await;
    assert_eq!(ask(&group).await, (Ok(1), ms(3)));
    sleep(ms(500)).await;
    hung.then_always(Step::Answer(1));
    assert_eq!(ask(&group).await, (Ok(0), ms(1)));
    assert_eq!(state(&group, 0), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_during_a_probe_does_not_keep_its_member_out() {
    let (bad, good) = (
        Scripted::new(0, &[], Step::Fail(0, HsmErrorKind::DeviceGone)),
        Scripted::new(1, &[], Step::Answer(3)),
    );
    let group = group(&[Arc::clone(&bad), good]);
    for _ in 0..10 {
        ask(&group).await.0.unwrap();
    }
    bad.then_always(Step::Answer(9));
    sleep(ms(1_000)).await;
    assert!(tokio::time::timeout(ms(5), ask(&group)).await.is_err());
    assert_eq!(state(&group, 0), BreakerState::Open);
    assert_eq!(ask(&group).await, (Ok(0), ms(9)));
    assert_eq!(state(&group, 0), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn open_breakers_never_refuse_a_request_that_has_nowhere_else_to_go() {
    let members = [0, 1].map(|number| Scripted::new(number, &[], Step::Fail(0, HsmErrorKind::DeviceGone)));
    let group = group(&members);
    for _ in 0..20 {
        assert_eq!(ask(&group).await.0, Err(HsmErrorKind::DeviceGone));
    }
    assert_eq!([state(&group, 0), state(&group, 1)], [BreakerState::Open; 2]);
    members.iter().for_each(|member| member.then_always(Step::Answer(100)));
    assert_eq!(ask(&group).await.0, Ok(0), "without waiting for the pause");
    assert_eq!(state(&group, 0), BreakerState::Closed);
}

/// The one that hangs is the first of equals, and used to take the whole deadline.
#[tokio::test(start_paused = true)]
async fn with_every_breaker_open_one_that_hangs_leaves_time_to_the_other() {
    let members = [0, 1].map(|number| Scripted::new(number, &[], Step::Fail(0, HsmErrorKind::DeviceGone)));
    let group = group_with(&members, hedging(5));
    for _ in 0..20 {
        ask(&group).await.0.unwrap_err();
    }
    assert_eq!([state(&group, 0), state(&group, 1)], [BreakerState::Open; 2]);
    members[0].then_always(Step::Hang);
    members[1].then_always(Step::Answer(3));
    assert_eq!(ask(&group).await, (Ok(1), ms(78)));
}

/// Any caller can send an IV that no HSM takes, or a label that is there twice: it used to open every breaker.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_refused_everywhere_is_no_sign_of_illness() {
    let members = [0, 1].map(|number| Scripted::new(number, &[], Step::Fail(1, HsmErrorKind::Refused)));
    let group = group(&members);
    for _ in 0..20 {
        assert_eq!(ask(&group).await, (Err(HsmErrorKind::Refused), ms(2)));
    }
    assert_eq!([state(&group, 0), state(&group, 1)], [BreakerState::Closed; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_full_house_is_said_at_once_although_a_broken_member_is_left() {
    let (hung, full) = (Scripted::new(0, &[], Step::Hang), Scripted::new(1, &[], Step::Answer(3)));
    let group = group(&[Arc::clone(&hung), Arc::clone(&full)]);
    for _ in 0..10 {
        ask(&group).await.0.unwrap();
    }
    full.then_always(Step::Fail(0, HsmErrorKind::Busy));
    assert_eq!(ask(&group).await, (Err(HsmErrorKind::Busy), ms(0)));
    full.then_always(Step::Fail(0, HsmErrorKind::KeyNotFound));
    assert_eq!(ask(&group).await, (Err(HsmErrorKind::KeyNotFound), ms(0)));
    full.then_always(Step::Fail(0, HsmErrorKind::DeviceGone));
    hung.then_always(Step::Answer(5));
    assert_eq!(ask(&group).await, (Ok(0), ms(5)), "the last resort");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_missing_when_every_member_says_so() {
    let missing = Step::Fail(1, HsmErrorKind::KeyNotFound);
    let members = [0, 1, 2].map(|number| Scripted::new(number, &[], missing));
    let group_of_three = group(&members);
    assert_eq!(ask(&group_of_three).await, (Err(HsmErrorKind::KeyNotFound), ms(3)));
    assert_eq!(members.each_ref().map(|member| member.calls()), [1, 1, 1]);
    // One that could not say may have it.
    members[1].then_always(Step::Fail(1, HsmErrorKind::DeviceGone));
    assert_eq!(ask(&group_of_three).await.0, Err(HsmErrorKind::DeviceGone));
    assert_eq!(state(&group_of_three, 0), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn the_log_hears_what_every_member_said() {
    let group = group(&[
        Scripted::new(0, &[], Step::Fail(0, HsmErrorKind::DeviceGone)),
        Scripted::new(1, &[], Step::Fail(0, HsmErrorKind::Busy)),
    ]);
    let key = KeyName::label("k");
    let error = group.describe(&key, Instant::now() + DEADLINE).await.unwrap_err();
    assert_eq!(error.to_string(), "Busy: hsm hsm-1: scripted; DeviceGone: hsm hsm-0: scripted");
}

/// A member is not to blame for a request that came to it with next to no time left.
#[tokio::test(start_paused = true)]
async fn too_little_time_is_nobodys_fault() {
    let members = [0, 1].map(|number| Scripted::new(number, &[], Step::Answer(4)));
    let group = group(&members);
    let key = KeyName::label("k");
    for _ in 0..40 {
        let late = group.describe(&key, Instant::now() + ms(3)).await.unwrap_err();
        assert_eq!(late.kind, HsmErrorKind::TimedOut);
    }
    assert_eq!([state(&group, 0), state(&group, 1)], [BreakerState::Closed; 2]);
}

fn hedging(share: u32) -> GroupSettings {
    GroupSettings { hedge_share_percent: share, ..GroupSettings::default() }
}

#[tokio::test(start_paused = true)]
async fn a_hedge_goes_out_after_the_95th_percentile_and_its_winner_counts() {
    let members = [0, 1].map(|number| Scripted::new(number, &[], Step::Answer(5)));
    let group = group_with(&members, hedging(5));
    for _ in 0..40 {
        assert_eq!(ask(&group).await.1, ms(5));
    }
    members[0].then_always(Step::Answer(60));
    assert_eq!(ask(&group).await, (Ok(1), ms(10)));
    assert_eq!(members[0].in_flight.load(Ordering::Relaxed), 0, "the loser is dropped");
    let hedges: Vec<u64> = group.breakers().iter().map(|it| it.hedges).collect();
    assert_eq!((hedges, state(&group, 0)), (vec![0, 1], BreakerState::Closed));
    assert_eq!(group.breakers()[0].failovers, 0, "a hedge is no failover");
}

/// One call in 25 is slow; without a limit, 20 requests of the thousand are hedged.
#[tokio::test(start_paused = true)]
async fn hedges_are_no_more_than_their_share() {
    for (share, allowed) in [(1, 5..=10), (50, 15..=40), (0, 0..=0)] {
        let script: Vec<Step> =
            (1..=1_000).map(|number| Step::Answer(if number % 25 == 0 { 60 } else { 5 })).collect();
        let group =
            group_with(&[0, 1].map(|number| Scripted::new(number, &script, Step::Hang)), hedging(share));
        for _ in 0..1_000 {
            ask(&group).await.0.unwrap();
        }
        let hedges: u64 = group.breakers().iter().map(|it| it.hedges).sum();
        assert!(allowed.contains(&hedges), "{share} %: {hedges}");
    }
}

/// A monitor over a member whose next check finds what `step` says.
async fn monitored(member: &Arc<Scripted>, step: Step) -> Member {
    member.then_always(step);
    let hsm: Arc<dyn Hsm> = Arc::<Scripted>::clone(member);
    let name = format!("hsm-{}", member.number);
    let monitor = Arc::new(Monitored::new(name.clone(), hsm, MonitorSettings::default()));
    monitor.health(Instant::now() + 4 * DEADLINE).await;
    member.then_always(Step::Answer(1));
    Member::monitored(name, monitor)
}

#[tokio::test(start_paused = true)]
async fn the_background_checks_decide_how_much_a_member_is_used() {
    let members = [0, 1, 2].map(|number| Scripted::new(number, &[], Step::Answer(1)));
    let healthy = monitored(&members[0], Step::Answer(1)).await;
    let slow = monitored(&members[1], Step::Answer(200)).await;
    let gone = monitored(&members[2], Step::Fail(0, HsmErrorKind::DeviceGone)).await;
    let group = HsmGroup::new(vec![healthy, slow, gone], GroupSettings::default()).unwrap();
    for _ in 0..90 {
        ask(&group).await.0.unwrap();
    }
    // One call of each was its check.
    assert_eq!(members.each_ref().map(|member| member.calls() - 1), [80, 10, 0]);
    // With nobody else left, even the one whose check fails is asked.
    members[0].then_always(Step::Fail(0, HsmErrorKind::DeviceGone));
    members[1].then_always(Step::Fail(0, HsmErrorKind::DeviceGone));
    assert_eq!(ask(&group).await.0, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn health_tells_of_every_member_even_when_one_hangs() {
    let members = [
        Scripted::new(0, &[], Step::Answer(1)),
        Scripted::new(1, &[], Step::Hang),
        Scripted::new(2, &[], Step::Fail(0, HsmErrorKind::DeviceGone)),
    ];
    let group = group(&members);
    let begun = Instant::now();
    let devices = group.health(begun + DEADLINE).await;
    assert!(begun.elapsed() <= DEADLINE + ms(1));
    let told: Vec<_> = devices.iter().map(|device| (device.id.as_str(), device.status)).collect();
    assert_eq!(
        told,
        [
            ("device-0", HealthStatus::Active),
            ("hsm-1", HealthStatus::Unavailable),
            ("device-2", HealthStatus::Unavailable)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_member_with_an_open_breaker_is_degraded_at_best() {
    let members = [0, 1].map(|number| Scripted::new(number, &[], Step::Answer(1)));
    let group = group(&members);
    members[0].then_always(Step::Fail(0, HsmErrorKind::Failed));
    for _ in 0..10 {
        ask(&group).await.0.unwrap();
    }
    members[0].then_always(Step::Answer(1));
    let devices = group.health(Instant::now() + DEADLINE).await;
    let states: Vec<_> = devices.iter().map(|device| device.status).collect();
    assert_eq!(states, [HealthStatus::Degraded, HealthStatus::Active]);
}

fn any_step() -> impl Strategy<Value = Step> {
    let asked_on = [
        HsmErrorKind::Busy,
        HsmErrorKind::KeyNotFound,
        HsmErrorKind::Refused,
        HsmErrorKind::CiphertextRejected,
    ];
    let kinds = FAILURES.into_iter().chain(FINAL).chain(asked_on);
    prop_oneof![
        (0..200_u64).prop_map(Step::Answer),
        (0..200_u64, proptest::sample::select(kinds.collect::<Vec<_>>()))
            .prop_map(|(ms, kind)| Step::Fail(ms, kind)),
        Just(Step::Silent),
        Just(Step::Hang),
    ]
}

fn any_member() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec(any_step(), 8)
}

fn in_paused_time<T>(task: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(task)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the members do: an answer by the deadline, no member asked twice, nobody asked again after a final error,
    /// and nothing left running.
    #[test]
    fn every_request_ends_in_time_and_asks_nobody_twice(
        scripts in proptest::collection::vec(any_member(), 2..5),
        share in 0..50_u32,
    ) {
        in_paused_time(async {
            let members: Vec<_> = (0..).zip(&scripts).map(|(number, script)| Scripted::new(number, script, Step::Hang)).collect();
            let settings = GroupSettings { breaker_failures: 2, breaker_pause: ms(300), ..hedging(share) };
            let group = group_with(&members, settings);
            for _ in 0..8 {
                let before: Vec<usize> = members.iter().map(|member| member.calls()).collect();
                let (outcome, took) = ask(&group).await;
                assert!(took <= DEADLINE + ms(1), "{took:?}");
                for (member, before) in members.iter().zip(before) {
                    assert!(member.calls() - before <= 1, "asked twice");
                    assert_eq!(member.in_flight.load(Ordering::Relaxed), 0);
                }
                assert!(group.lock().members.iter().all(|member| member.in_flight == 0));
                let calls: usize = members.iter().map(|member| member.calls()).sum();
                if outcome.is_err_and(|kind| FINAL.contains(&kind)) {
                    sleep(ms(500)).await;
                    assert_eq!(members.iter().map(|member| member.calls()).sum::<usize>(), calls);
                }
            }
        });
    }

    /// One good member is enough: with up to three others doing whatever a broken HSM does, no request fails.
    #[test]
    fn one_good_member_is_enough(
        scripts in proptest::collection::vec(any_member(), 1..4),
        place in 0..4_usize,
    ) {
        let broken = |step: &Step| match *step {
            // A request of this test is right, so that an error about it would be a lie.
            Step::Fail(ms, kind) if FINAL.contains(&kind) => Step::Fail(ms, HsmErrorKind::Failed),
            step => step,
        };
        in_paused_time(async {
            let mut members: Vec<_> = (0..).zip(&scripts).map(|(number, script)| {
                let script: Vec<Step> = script.iter().map(broken).collect();
                Scripted::new(number, &script, Step::Hang)
            }).collect();
            members.insert(place.min(members.len()), Scripted::new(9, &[], Step::Answer(5)));
            let group = group(&members);
            for _ in 0..12 {
                let (outcome, _) = ask(&group).await;
                assert!(outcome.is_ok(), "{outcome:?}");
            }
        });
    }
}
