//! The emulated HSM as its two doors show it: capacity, deadlines, faults, and the same again for the same seed.
//! Time is tokio's, paused; all service times are whole milliseconds, so every moment is exact.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use proptest::prelude::*;
use sim_hsm::{
    Asked, Capacity, Configuration, Control, Counters, Engine, Fault, FaultPlan, IvLedger, KeySpecification,
    Occupancy, Outcome, ServiceTime, ServiceTimes, SimHsm, Timer, Token, TokioTimer,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use xks_proxy::hsm::{Aad, HealthStatus, Hsm, HsmError, HsmErrorKind, KeyFacts, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A device with the key `key` that takes `service_ms` for everything.
fn configuration(parallel_max: usize, sessions_max: usize, service_ms: u64) -> Configuration {
    Configuration {
        seed: 1,
        keys: vec![KeySpecification::aes_256("key")],
        capacity: Capacity {
            parallel_max,
            sessions_max,
            service_times: ServiceTimes::all(ServiceTime::Fixed(ms(service_ms))),
            ..Capacity::default()
        },
        history: true,
        ..Configuration::default()
    }
}

fn device(parallel_max: usize, sessions_max: usize, service_ms: u64) -> (SimHsm, Control) {
    SimHsm::new(configuration(parallel_max, sessions_max, service_ms), Arc::new(TokioTimer::new()))
}

fn aad() -> Aad {
    Aad::frame(b"context", &[1]).unwrap()
}

/// Starts one encryption and tells how it ended and how long that took.
fn encrypt(hsm: &SimHsm, patience: Duration) -> JoinHandle<(Result<Sealed, HsmError>, Duration)> {
    let hsm = hsm.clone();
    let began = Instant::now();
    tokio::spawn(async move {
        let plaintext = Plaintext::new(vec![7; 32]);
        let answer = hsm.encrypt(&KeyName::label("key"), &aad(), &plaintext, began + patience).await;
        (answer, began.elapsed())
    })
}

/// The kind of error, or `None`, and the time it took.
async fn told(handle: JoinHandle<(Result<Sealed, HsmError>, Duration)>) -> (Option<HsmErrorKind>, Duration) {
    let (answer, took) = handle.await.unwrap();
    (answer.err().map(|error| error.kind), took)
}

const LONG: Duration = ms(10_000);

#[tokio::test(start_paused = true)]
async fn an_operation_takes_its_service_time_and_comes_back_whole() {
    let (hsm, control) = device(1, 10, 5);
    let (sealed, took) = encrypt(&hsm, LONG).await.unwrap();
    assert_eq!(took, ms(5));
    let key = KeyName::label("key");
    let sealed = sealed.unwrap();
    let plaintext = hsm.decrypt(&key, &aad(), &sealed, Instant::now() + LONG).await.unwrap();
    assert_eq!(plaintext.expose(), [7; 32]);
    let other = Aad::frame(b"another context", &[1]).unwrap();
    let error = hsm.decrypt(&key, &other, &sealed, Instant::now() + LONG).await.unwrap_err();
    assert_eq!((error.kind, error.ck_rv), (HsmErrorKind::CiphertextRejected, Some(0x40)));
    assert!(hsm.describe(&key, Instant::now() + LONG).await.unwrap().enabled);
    let counters = control.counters();
    assert_eq!((counters.encrypt, counters.decrypt, counters.describe), (1, 2, 1));
    assert_eq!((counters.answered, counters.failed[&HsmErrorKind::CiphertextRejected]), (3, 1));
    let history = control.history();
    assert_eq!((history.len(), history[2].arrived, history[2].left), (4, ms(10), ms(15)));
    assert_eq!(history[2].outcome, Outcome::Failed(HsmErrorKind::CiphertextRejected));
}

#[tokio::test(start_paused = true)]
async fn servers_take_turns_and_no_session_means_busy() {
    let (hsm, control) = device(2, 5, 5);
    let all: Vec<_> = (0..6).map(|_| encrypt(&hsm, LONG)).collect();
    let mut seen = Vec::new();
    for handle in all {
        seen.push(told(handle).await);
    }
    let ok = |at| (None, ms(at));
    assert_eq!(seen, [ok(5), ok(5), ok(10), ok(10), ok(15), (Some(HsmErrorKind::Busy), ms(0))]);
    let counters = control.counters();
    assert_eq!(
        (counters.running_high_water, counters.queued_high_water, counters.sessions_high_water),
        (2, 3, 5)
    );
    let (answer, _) = encrypt(&hsm, LONG).await.unwrap();
    assert!(answer.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_means_busy() {
    let mut configuration = configuration(1, 100, 5);
    configuration.capacity.queue_max = 1;
    let (hsm, _) = SimHsm::new(configuration, Arc::new(TokioTimer::new()));
    let all = [encrypt(&hsm, LONG), encrypt(&hsm, LONG), encrypt(&hsm, LONG)];
    let [one, two, three] = all;
    assert_eq!(told(three).await, (Some(HsmErrorKind::Busy), ms(0)));
    assert_eq!((told(one).await, told(two).await), ((None, ms(5)), (None, ms(10))));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait_and_not_the_work() {
    let (hsm, control) = device(1, 10, 20);
    let late = encrypt(&hsm, ms(8));
    assert_eq!(told(late).await, (Some(HsmErrorKind::TimedOut), ms(8)));
    assert_eq!(control.occupancy(), Occupancy { running: 1, queued: 0, sessions: 1 });
    // It began 8 ms after the first, whose work ends after 20.
    assert_eq!(told(encrypt(&hsm, LONG)).await, (None, ms(32)));
    // An answer at the very deadline is in time.
    assert_eq!(told(encrypt(&hsm, ms(20))).await, (None, ms(20)));
    // Too late on arrival: the device never hears of it.
    let before = control.counters();
    assert_eq!(told(encrypt(&hsm, ms(0))).await, (Some(HsmErrorKind::TimedOut), ms(0)));
    assert_eq!(control.counters(), before);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_the_work_behind() {
    let (hsm, control) = device(1, 10, 20);
    let gone = encrypt(&hsm, LONG);
    tokio::time::sleep(ms(4)).await;
    gone.abort();
    assert!(gone.await.unwrap_err().is_cancelled());
    assert_eq!(control.occupancy().running, 1);
    assert_eq!(told(encrypt(&hsm, LONG)).await, (None, ms(36)));
    assert_eq!(control.counters().abandoned, 1);
    assert_eq!(control.history()[0].outcome, Outcome::Abandoned);
}

#[tokio::test(start_paused = true)]
async fn down_fails_what_is_in_flight_and_what_comes() {
    let (hsm, control) = device(1, 10, 20);
    let (running, queued) = (encrypt(&hsm, LONG), encrypt(&hsm, LONG));
    tokio::time::sleep(ms(3)).await;
    let fault = control.begin(Fault::Down).unwrap();
    let (answer, took) = running.await.unwrap();
    let error = answer.unwrap_err();
    assert_eq!((error.kind, error.ck_rv, took), (HsmErrorKind::DeviceGone, Some(0x32), ms(3)));
    assert_eq!(told(queued).await, (Some(HsmErrorKind::DeviceGone), ms(3)));
    assert_eq!(told(encrypt(&hsm, LONG)).await, (Some(HsmErrorKind::DeviceGone), ms(0)));
    assert_eq!(control.faults(), [(fault, Fault::Down)]);
    assert!(control.end(fault));
    assert!(!control.end(fault), "a fault ends once");
    assert_eq!(control.occupancy(), Occupancy::default());
    assert_eq!(told(encrypt(&hsm, LONG)).await, (None, ms(20)));
}

#[tokio::test(start_paused = true)]
async fn what_was_done_before_down_stays_done() {
    let (hsm, control) = device(1, 10, 5);
    let done = encrypt(&hsm, LONG);
    tokio::time::advance(ms(0)).await;
    tokio::task::yield_now().await;
    // The clock passes the end of the work and the device goes down before the caller is woken.
    tokio::time::advance(ms(5)).await;
    control.begin(Fault::Down).unwrap();
    assert_eq!(told(done).await.0, None);
}

#[tokio::test(start_paused = true)]
async fn slow_counts_from_the_moment_a_server_begins() {
    let (hsm, control) = device(1, 10, 10);
    let (first, second, third) = (encrypt(&hsm, LONG), encrypt(&hsm, LONG), encrypt(&hsm, LONG));
    tokio::time::sleep(ms(5)).await;
    let fault = control.begin(Fault::Slow { factor: 3.0 }).unwrap();
    // The first keeps its 10 ms; the second begins at 10 ms and takes 30; the third begins after the fault.
    tokio::time::sleep(ms(20)).await;
    assert!(control.end(fault));
    assert_eq!(told(first).await, (None, ms(10)));
    assert_eq!(told(second).await, (None, ms(40)));
    assert_eq!(told(third).await, (None, ms(50)));
    let (two, half) = (Fault::Slow { factor: 2.0 }, Fault::Slow { factor: 1.5 });
    let (two, half) = (control.begin(two).unwrap(), control.begin(half).unwrap());
    assert_eq!(told(encrypt(&hsm, LONG)).await, (None, ms(30)), "factors multiply");
    assert!(control.end(two));
    assert_eq!(told(encrypt(&hsm, LONG)).await, (None, ms(15)));
    assert!(control.end(half));
    assert_eq!(told(encrypt(&hsm, LONG)).await, (None, ms(10)));
}

#[tokio::test(start_paused = true)]
async fn errors_come_with_their_code_at_their_rate() {
    let (hsm, control) = device(1, 10, 1);
    for (ckr, kind) in [
        (0x30, HsmErrorKind::DeviceGone),
        (0x05, HsmErrorKind::Failed),
        (0x32, HsmErrorKind::DeviceGone),
        (0xB3, HsmErrorKind::SessionLost),
        (0x101, HsmErrorKind::SessionLost),
        (0xB1, HsmErrorKind::Busy),
    ] {
        let fault = control.begin(Fault::Error { ckr, rate: 1.0 }).unwrap();
        let (answer, took) = encrypt(&hsm, LONG).await.unwrap();
        let error = answer.unwrap_err();
        assert_eq!((error.kind, error.ck_rv, took), (kind, Some(ckr), ms(1)), "{ckr:#x}");
        assert!(control.end(fault));
    }
    let fault = control.begin(Fault::Error { ckr: 0x30, rate: 0.25 }).unwrap();
    let mut failed = 0;
    for _ in 0..2_000 {
        failed += u32::from(encrypt(&hsm, LONG).await.unwrap().0.is_err());
    }
    assert!((430..570).contains(&failed), "{failed} of 2000 failed; 500 were to be expected");
    assert!(control.end(fault));
    for _ in 0..200 {
        assert!(encrypt(&hsm, LONG).await.unwrap().0.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_hang_holds_sessions_until_it_ends() {
    let (hsm, control) = device(1, 3, 10);
    let caught = encrypt(&hsm, LONG);
    tokio::time::sleep(ms(4)).await;
    let fault = control.begin(Fault::Hang).unwrap();
    assert_eq!(told(encrypt(&hsm, ms(150))).await, (Some(HsmErrorKind::TimedOut), ms(150)));
    assert_eq!(told(encrypt(&hsm, ms(150))).await, (Some(HsmErrorKind::TimedOut), ms(150)));
    assert_eq!(told(encrypt(&hsm, ms(150))).await, (Some(HsmErrorKind::Busy), ms(0)));
    tokio::time::sleep(ms(96)).await;
    assert!(control.end(fault));
    // 396 ms hung: the one that was caught still has 6 of its 10 ms to go; the two behind it are worked off after it.
    assert_eq!(told(caught).await, (None, ms(406)));
    assert_eq!(control.occupancy(), Occupancy { running: 1, queued: 1, sessions: 2 });
    assert_eq!(told(encrypt(&hsm, LONG)).await, (None, ms(30)));
    // And once more, for the device's clock has been set before.
    let again = encrypt(&hsm, LONG);
    tokio::time::sleep(ms(2)).await;
    let fault = control.begin(Fault::Hang).unwrap();
    tokio::time::sleep(ms(50)).await;
    assert!(control.end(fault));
    assert_eq!(told(again).await, (None, ms(60)));
}

#[tokio::test(start_paused = true)]
async fn a_session_limit_refuses_what_comes_and_takes_nothing_away() {
    let (hsm, control) = device(4, 10, 5);
    let before = [encrypt(&hsm, LONG), encrypt(&hsm, LONG), encrypt(&hsm, LONG)];
    tokio::task::yield_now().await;
    let wide = control.begin(Fault::SessionLimit { sessions_max: 8 }).unwrap();
    let narrow = control.begin(Fault::SessionLimit { sessions_max: 2 }).unwrap();
    assert_eq!(told(encrypt(&hsm, LONG)).await, (Some(HsmErrorKind::Busy), ms(0)));
    for encryption in before {
        assert_eq!(told(encryption).await, (None, ms(5)), "it had its session already");
    }
    // Two are left, the narrower of both limits.
    let after = [encrypt(&hsm, LONG), encrypt(&hsm, LONG), encrypt(&hsm, LONG)];
    let mut kinds = Vec::new();
    for encryption in after {
        kinds.push(told(encryption).await.0);
    }
    assert_eq!(kinds, [None, None, Some(HsmErrorKind::Busy)]);
    assert!(control.end(narrow) && control.end(wide));
    assert_eq!(told(encrypt(&hsm, LONG)).await.0, None);
}

#[tokio::test(start_paused = true)]
async fn a_flipped_bit_is_silent_and_makes_a_ciphertext_that_is_not_genuine() {
    let (hsm, control) = device(1, 10, 5);
    let key = KeyName::label("key");
    let decrypts = async |sealed: &Sealed| {
        hsm.decrypt(&key, &aad(), sealed, Instant::now() + LONG).await.map_err(|error| error.kind)
    };
    let id = control.begin(Fault::BitFlips { rate: 0.5 }).unwrap();
    let mut genuine = 0;
    for _ in 0..100 {
        let sealed = encrypt(&hsm, LONG).await.unwrap().0.unwrap();
        match decrypts(&sealed).await {
            Ok(_) => genuine += 1,
            Err(kind) => assert_eq!(kind, HsmErrorKind::CiphertextRejected),
        }
    }
    assert!((30..70).contains(&genuine), "{genuine}");
    assert!(control.end(id));
    let sealed = encrypt(&hsm, LONG).await.unwrap().0.unwrap();
    assert!(decrypts(&sealed).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_restart_frees_what_a_hang_holds() {
    let (hsm, control) = device(1, 2, 10);
    let fault = control.begin(Fault::Hang).unwrap();
    let caught = encrypt(&hsm, LONG);
    assert_eq!(told(encrypt(&hsm, ms(7))).await, (Some(HsmErrorKind::TimedOut), ms(7)));
    control.restart();
    assert_eq!(told(caught).await, (Some(HsmErrorKind::DeviceGone), ms(7)));
    assert_eq!(control.occupancy(), Occupancy::default());
    assert_eq!(
        told(encrypt(&hsm, ms(7))).await,
        (Some(HsmErrorKind::TimedOut), ms(7)),
        "the fault still holds"
    );
    assert!(control.end(fault));
    let running = encrypt(&hsm, LONG);
    tokio::time::sleep(ms(1)).await;
    control.close_sessions();
    assert_eq!(told(running).await, (Some(HsmErrorKind::SessionLost), ms(1)));
}

#[tokio::test(start_paused = true)]
async fn faults_overlap_and_end_in_any_order() {
    let (hsm, control) = device(1, 10, 10);
    let hang = control.begin(Fault::Hang).unwrap();
    let second_hang = control.begin(Fault::Hang).unwrap();
    let down = control.begin(Fault::Down).unwrap();
    assert_eq!(
        told(encrypt(&hsm, ms(50))).await,
        (Some(HsmErrorKind::DeviceGone), ms(0)),
        "down wins over hang"
    );
    assert!(control.end(hang));
    assert!(control.end(down));
    assert_eq!(told(encrypt(&hsm, ms(50))).await, (Some(HsmErrorKind::TimedOut), ms(50)), "one hang is left");
    let error = control.begin(Fault::Error { ckr: 0x30, rate: 1.0 }).unwrap();
    let slow = control.begin(Fault::Slow { factor: 2.0 }).unwrap();
    assert!(control.end(second_hang));
    // The one that timed out had begun before slow did: its 10 ms are worked off first.
    assert_eq!(told(encrypt(&hsm, LONG)).await, (Some(HsmErrorKind::DeviceGone), ms(30)));
    assert!(control.end(error));
    assert_eq!(told(encrypt(&hsm, LONG)).await, (None, ms(20)));
    assert!(control.end(slow));
    assert_eq!(told(encrypt(&hsm, LONG)).await, (None, ms(10)));
}

#[tokio::test(start_paused = true)]
async fn health_says_what_the_faults_say() {
    let (hsm, control) = device(1, 10, 10);
    for (fault, status, after) in [
        (None, HealthStatus::Active, ms(0)),
        (Some(Fault::Slow { factor: 2.0 }), HealthStatus::Degraded, ms(0)),
        (Some(Fault::Error { ckr: 0x30, rate: 0.1 }), HealthStatus::Degraded, ms(0)),
        (Some(Fault::Down), HealthStatus::Unavailable, ms(0)),
        (Some(Fault::Hang), HealthStatus::Unavailable, ms(40)),
        (None, HealthStatus::Active, ms(0)),
    ] {
        let id = fault.map(|fault| control.begin(fault).unwrap());
        let began = Instant::now();
        let health = hsm.health(began + ms(40)).await;
        assert_eq!((health[0].status, began.elapsed()), (status, after), "{fault:?}");
        assert_eq!((health.len(), health[0].id.as_str()), (1, "sim-hsm-0"));
        if let Some(id) = id {
            assert!(control.end(id));
        }
    }
    // A hang that ends in time is answered in time.
    let hang = control.begin(Fault::Hang).unwrap();
    let asked = tokio::spawn(async move { (hsm.health(Instant::now() + ms(40)).await, Instant::now()) });
    tokio::time::sleep(ms(11)).await;
    assert!(control.end(hang));
    let ended = Instant::now();
    let (health, answered) = asked.await.unwrap();
    assert_eq!((health[0].status, answered), (HealthStatus::Active, ended));
    assert_eq!(control.counters().health, 7);
}

#[tokio::test(start_paused = true)]
async fn keys_change_through_the_control_door() {
    let (hsm, control) = device(1, 10, 0);
    let key = KeyName::label("key");
    control.set_enabled(&key, false).unwrap();
    assert_eq!(told(encrypt(&hsm, LONG)).await.0, Some(HsmErrorKind::KeyDisabled));
    control.set_enabled(&key, true).unwrap();
    assert_eq!(told(encrypt(&hsm, LONG)).await.0, None);
    control.destroy_key(&key).unwrap();
    assert_eq!(told(encrypt(&hsm, LONG)).await.0, Some(HsmErrorKind::KeyNotFound));
    assert_eq!(control.set_enabled(&key, true).unwrap_err().kind, HsmErrorKind::KeyNotFound);
}

#[tokio::test(start_paused = true)]
async fn the_background_strikes_at_its_rates_and_quiet_means_quiet() {
    for (faults, failures) in [(FaultPlan::quiet(), 0..1), (FaultPlan::default(), 15..90)] {
        let mut configuration = configuration(1, 10, 1);
        configuration.faults = faults;
        let (hsm, control) = SimHsm::new(configuration, Arc::new(TokioTimer::new()));
        let began = Instant::now();
        for _ in 0..20_000 {
            let _ = encrypt(&hsm, LONG).await.unwrap();
        }
        // By default 0.25 % fail, of which the 0.1 % that are refused take no time, and 0.2 % take 9 ms longer.
        let injected = control.counters().injected;
        assert!(failures.contains(&injected), "{injected} of 20000 injected under {faults:?}");
        let stalls = (began.elapsed().as_millis() as i64 - 20_000) / 9;
        assert_eq!(stalls > 10, faults != FaultPlan::quiet(), "{stalls} stalls under {faults:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_ledger_sees_across_devices_that_share_keys() {
    for (streams, repeated) in [([1, 2], false), ([1, 1], true)] {
        let ledger = IvLedger::new();
        for stream in streams {
            let mut configuration = configuration(1, 10, 0);
            configuration.stream = stream;
            configuration.ledger = Some(ledger.clone());
            let (hsm, _) = SimHsm::new(configuration, Arc::new(TokioTimer::new()));
            for _ in 0..500 {
                assert!(encrypt(&hsm, LONG).await.unwrap().0.is_ok());
            }
        }
        assert_eq!(ledger.encryptions(), 1_000);
        assert_eq!(!ledger.repeats().is_empty(), repeated, "streams {streams:?}");
    }
}

/// A stand-in for a real library: its IVs come from elsewhere, its outcomes are the token's.
struct Library {
    token: Token,
    noise: u64,
}

impl Engine for Library {
    fn describe(&mut self, key: &KeyName) -> Result<KeyFacts, HsmError> {
        self.token.describe(key)
    }

    fn encrypt(&mut self, key: &KeyName, aad: &Aad, plaintext: &Plaintext) -> Result<Sealed, HsmError> {
        for _ in 0..self.noise {
            self.token.encrypt(key, aad, plaintext)?;
        }
        self.token.encrypt(key, aad, plaintext)
    }

    fn decrypt(&mut self, key: &KeyName, aad: &Aad, sealed: &Sealed) -> Result<Plaintext, HsmError> {
        self.token.decrypt(key, aad, sealed)
    }
}

/// One step of a random life: wait, then ask or change something.
#[derive(Clone, Debug)]
enum Step {
    Encrypt { patience_ms: u64 },
    Begin(Fault),
    EndOldest,
    Restart,
    Abandon,
}

fn life() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let fault = prop_oneof![
        Just(Fault::Down),
        Just(Fault::Hang),
        (1_u8..5).prop_map(|factor| Fault::Slow { factor: f64::from(factor) }),
        (1_u8..10).prop_map(|tenths| Fault::Error { ckr: 0x30, rate: f64::from(tenths) / 10.0 }),
    ];
    let step = prop_oneof![
        20 => (1_u64..60).prop_map(|patience_ms| Step::Encrypt { patience_ms }),
        2 => fault.prop_map(Step::Begin),
        2 => Just(Step::EndOldest),
        1 => Just(Step::Restart),
        2 => Just(Step::Abandon),
    ];
    proptest::collection::vec((0_u64..5, step), 1..60)
}

/// What came of a life.
#[derive(Debug, PartialEq)]
struct Lived {
    told: Vec<String>,
    history: Vec<Asked>,
    counters: Counters,
}

/// Lives a life.
fn live(configuration: &Configuration, engine: Option<Library>, life: &[(u64, Step)]) -> Lived {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let timer: Arc<dyn Timer> = Arc::new(TokioTimer::new());
        let (hsm, control) = match engine {
            Some(engine) => SimHsm::with_engine(configuration.clone(), Box::new(engine), timer),
            None => SimHsm::new(configuration.clone(), timer),
        };
        let mut asked = Vec::new();
        for (wait_ms, step) in life {
            tokio::time::sleep(ms(*wait_ms)).await;
            match step {
                Step::Encrypt { patience_ms } => asked.push(encrypt(&hsm, ms(*patience_ms))),
                Step::Begin(fault) => drop(control.begin(*fault).unwrap()),
                Step::EndOldest => drop(control.faults().first().map(|(id, _)| control.end(*id))),
                Step::Restart => control.restart(),
                Step::Abandon => {
                    if let Some(handle) = asked.pop() {
                        handle.abort();
                        let _ = handle.await;
                    }
                }
            }
        }
        let mut told = Vec::new();
        for handle in asked {
            let (answer, took) = handle.await.unwrap();
            told.push(format!("{:?} after {took:?}", answer.map(|_| ()).map_err(|error| error.to_string())));
        }
        // Read before the runtime ends, which drops what is left in no fixed order.
        Lived { told, history: control.history(), counters: control.counters() }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_same_seed_lives_the_same_life(seed: u64, parallel_max in 1_usize..4, sessions_max in 1_usize..8, life in life()) {
        let mut configuration = configuration(parallel_max, sessions_max, 0);
        configuration.seed = seed;
        configuration.faults = FaultPlan { busy_rate: 0.1, stall_rate: 0.1, ..FaultPlan::default() };
        configuration.capacity.service_times =
            ServiceTimes::all(ServiceTime::Lognormal { median: ms(8), sigma: 0.6 });
        let first = live(&configuration, None, &life);
        prop_assert_eq!(&first, &live(&configuration, None, &life));
        let counters = &first.counters;
        prop_assert!(counters.running_high_water <= parallel_max);
        prop_assert!(counters.sessions_high_water <= sessions_max);
        let failed: u64 = counters.failed.values().sum();
        prop_assert_eq!(counters.encrypt, counters.answered + failed + counters.abandoned);

        // A library with its own IVs changes neither outcomes nor times.
        let token = Token::new(9, 9, 65_536, &configuration.keys);
        let library = Library { token, noise: seed % 3 };
        prop_assert_eq!(&first, &live(&configuration, Some(library), &life));
    }

    #[test]
    fn an_error_fault_changes_no_service_time(seed: u64, count in 1_usize..40) {
        let life: Vec<_> = (0..count).map(|_| (2, Step::Encrypt { patience_ms: 5_000 })).collect();
        let mut with_fault = vec![(0, Step::Begin(Fault::Error { ckr: 0x30, rate: 0.5 }))];
        with_fault.extend(life.iter().cloned());
        let mut configuration = configuration(2, 1_000, 0);
        configuration.seed = seed;
        configuration.capacity.service_times = ServiceTimes::all(ServiceTime::Exponential { mean: ms(6) });
        let times = |life: &[(u64, Step)]| -> Vec<_> {
            let lived = live(&configuration, None, life);
            lived.history.into_iter().map(|asked| (asked.arrived, asked.left)).collect()
        };
        prop_assert_eq!(times(&life), times(&with_fault));
    }
}
