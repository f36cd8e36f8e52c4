//! The emulated HSM over a network: sessions, time-outs, reconnecting, groups, and bytes that should not be.
//! Time is tokio's, paused, and the network is in memory, so every moment is exact. What latency and loss do to it is
//! in `scenarios/tests/hsm/link.rs`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

#[path = "support/memory.rs"]
mod memory;

use memory::{Memory, MemoryListener};
use sim_hsm::network::{
    ClientSettings, Endpoint, FRAME_BYTES_MAX, HaMode, NetworkHsm, ServerSettings, WhenDown,
    WhileDisconnected, serve,
};
use sim_hsm::{
    Capacity, Configuration, Control, Fault, KeySpecification, Outcome, ServiceTime, ServiceTimes, SimHsm,
    TokioTimer,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use xks_proxy::hsm::{Aad, HealthStatus, Hsm, HsmError, HsmErrorKind, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;
use xks_proxy::server::Listen;

const CKR_DEVICE_ERROR: u64 = 0x30;
const CKR_DEVICE_REMOVED: u64 = 0x32;
const CKR_SESSION_COUNT: u64 = 0xB1;
const CKR_TOKEN_NOT_PRESENT: u64 = 0xE0;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A server in front of a device that takes 5 ms for everything.
struct Appliance {
    memory: Memory,
    control: Control,
    server: JoinHandle<()>,
}

impl Appliance {
    fn start(number: u64, settings: ServerSettings) -> Self {
        let configuration = Configuration {
            name: format!("hsm-{number}"),
            seed: 1,
            stream: number,
            keys: vec![KeySpecification::aes_256("key")],
            capacity: Capacity {
                service_times: ServiceTimes::all(ServiceTime::Fixed(ms(5))),
                ..Capacity::default()
            },
            history: true,
            ..Configuration::default()
        };
        let (hsm, control) = SimHsm::new(configuration, Arc::new(TokioTimer::new()));
        let memory = Memory::default();
        let address = memory.clone();
        let server = tokio::spawn(serve(move || address.listen(), Arc::new(hsm), control.clone(), settings));
        Self { memory, control, server }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { name: "appliance".into(), connect: Arc::new(self.memory.clone()) }
    }

    fn encryptions(&self) -> u64 {
        self.control.counters().encrypt
    }
}

fn client_with(servers: &[&Appliance], change: impl FnOnce(&mut ClientSettings)) -> Arc<NetworkHsm> {
    // No probes, unless a test is about them: they would find failures before a call does.
    let mut settings = ClientSettings { probe_interval: Duration::ZERO, ..ClientSettings::default() };
    change(&mut settings);
    Arc::new(NetworkHsm::new(servers.iter().map(|it| it.endpoint()).collect(), settings).unwrap())
}

fn client(servers: &[&Appliance]) -> Arc<NetworkHsm> {
    client_with(servers, |_| {})
}

fn aad() -> Aad {
    Aad::frame(b"context", &[1]).unwrap()
}

/// Starts one encryption and tells how it ended and how long that took.
fn encrypt(hsm: &Arc<NetworkHsm>, patience: Duration) -> JoinHandle<(Result<Sealed, HsmError>, Duration)> {
    let (hsm, began) = (Arc::clone(hsm), Instant::now());
    tokio::spawn(async move {
        let plaintext = Plaintext::new(vec![7; 32]);
        let answer = hsm.encrypt(&KeyName::label("key"), &aad(), &plaintext, began + patience).await;
        (answer, began.elapsed())
    })
}

type Told = (Result<(), (HsmErrorKind, Option<u64>)>, Duration);

async fn told(call: JoinHandle<(Result<Sealed, HsmError>, Duration)>) -> Told {
    let (answer, took) = call.await.unwrap();
    (answer.map(|_| ()).map_err(|error| (error.kind, error.ck_rv)), took)
}

async fn asked(hsm: &Arc<NetworkHsm>, patience: Duration) -> Told {
    told(encrypt(hsm, patience)).await
}

const DEVICE_ERROR: Result<(), (HsmErrorKind, Option<u64>)> =
    Err((HsmErrorKind::DeviceGone, Some(CKR_DEVICE_ERROR)));
const TIMED_OUT: Result<(), (HsmErrorKind, Option<u64>)> = Err((HsmErrorKind::TimedOut, None));

/// The proxy's usual patience.
const PATIENCE: Duration = ms(150);
/// More than the library's own.
const ENDLESS: Duration = ms(600_000);

#[tokio::test(start_paused = true)]
async fn calls_are_answered_as_by_the_device_and_share_few_connections() {
    let appliance = Appliance::start(0, ServerSettings { sessions_max: 2, ..ServerSettings::default() });
    let hsm = client_with(&[&appliance], |it| it.sessions_max = 2);
    let calls: Vec<_> = (0..6).map(|_| encrypt(&hsm, PATIENCE)).collect();
    let mut took = Vec::new();
    for call in calls {
        let (answer, time) = told(call).await;
        assert_eq!(answer, Ok(()));
        took.push(time);
    }
    // Two at a time, the others behind them in the order of their arrival.
    assert_eq!(took, [ms(5), ms(5), ms(10), ms(10), ms(15), ms(15)]);
    assert_eq!(appliance.control.counters().running_high_water, 2);
    let unknown = hsm.describe(&KeyName::label("none"), Instant::now() + PATIENCE).await.unwrap_err();
    let direct = HsmError::new(HsmErrorKind::KeyNotFound, "no key with label \"none\"");
    assert_eq!((unknown.kind, unknown.ck_rv), (direct.kind, direct.ck_rv));
    let injected = appliance.control.begin(Fault::Error { ckr: 0x1234_5678_9abc, rate: 1.0 }).unwrap();
    assert_eq!(asked(&hsm, PATIENCE).await, (Err((HsmErrorKind::Failed, Some(0x1234_5678_9abc))), ms(5)));
    appliance.control.end(injected);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_passed_asks_nobody() {
    let appliance = Appliance::start(0, ServerSettings::default());
    let hsm = client(&[&appliance]);
    assert_eq!(asked(&hsm, Duration::ZERO).await, (TIMED_OUT, Duration::ZERO));
    assert_eq!(appliance.encryptions(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_busy_at_once_and_one_that_waits_too_long_times_out_unasked() {
    let appliance = Appliance::start(0, ServerSettings::default());
    let hsm = client_with(&[&appliance], |it| (it.sessions_max, it.queue_max) = (1, 2));
    let hang = appliance.control.begin(Fault::Hang).unwrap();
    let (inside, waiting) = (encrypt(&hsm, PATIENCE), [encrypt(&hsm, PATIENCE), encrypt(&hsm, PATIENCE)]);
    sleep(ms(1)).await;
    let busy = Err((HsmErrorKind::Busy, Some(CKR_SESSION_COUNT)));
    assert_eq!(asked(&hsm, PATIENCE).await, (busy, Duration::ZERO));
    assert_eq!(told(inside).await, (TIMED_OUT, PATIENCE));
    for call in waiting {
        assert_eq!(told(call).await, (TIMED_OUT, PATIENCE));
    }
    // The queue is empty again, and only the call inside ever reached the device.
    assert_eq!(asked(&hsm, PATIENCE).await, (TIMED_OUT, PATIENCE));
    appliance.control.end(hang);
    sleep(ms(1_000)).await;
    assert_eq!(appliance.encryptions(), 1);
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_given_up_keeps_its_session_until_the_librarys_own_timeout() {
    for dropped in [false, true] {
        let appliance = Appliance::start(0, ServerSettings::default());
        let hsm = client_with(&[&appliance], |it| it.sessions_max = 2);
        appliance.control.begin(Fault::Hang).unwrap();
        let began = Instant::now();
        for _ in 0..2 {
            let call = encrypt(&hsm, if dropped { ENDLESS } else { PATIENCE });
            sleep(ms(1)).await;
            if dropped {
                call.abort();
            }
        }
        // Both sessions hang: nothing else gets through although the device would now answer others.
        sleep_until(began + ms(5_000)).await;
        assert_eq!(asked(&hsm, ms(1_000)).await, (TIMED_OUT, ms(1_000)), "dropped: {dropped}");
        assert_eq!(appliance.encryptions(), 2);
        // After 10 s the library gives the first up, and the server with it.
        sleep_until(began + ms(9_999)).await;
        assert_eq!(asked(&hsm, ms(20)).await, (DEVICE_ERROR, ms(1)));
        assert_eq!(asked(&hsm, PATIENCE).await, (DEVICE_ERROR, Duration::ZERO));
    }
}

#[tokio::test(start_paused = true)]
async fn a_hang_that_ends_in_time_gives_the_session_back() {
    let appliance = Appliance::start(0, ServerSettings::default());
    let hsm = client_with(&[&appliance], |it| it.sessions_max = 1);
    let hang = appliance.control.begin(Fault::Hang).unwrap();
    assert_eq!(asked(&hsm, PATIENCE).await, (TIMED_OUT, PATIENCE));
    let waits = encrypt(&hsm, ms(5_000));
    sleep(ms(1_850)).await;
    appliance.control.end(hang);
    // The first is done 5 ms after the hang, then the one that waited has the session.
    assert_eq!(told(waits).await, (Ok(()), ms(1_860)));
}

#[tokio::test(start_paused = true)]
async fn without_a_server_calls_fail_at_once_and_reconnecting_doubles_to_its_longest() {
    let appliance = Appliance::start(0, ServerSettings::default());
    let hsm = client(&[&appliance]);
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    let began = Instant::now();
    let down = appliance.control.begin(Fault::Down).unwrap();
    sleep(ms(1)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (DEVICE_ERROR, Duration::ZERO));
    let failed_at = Instant::now();
    // Attempts 1, 3, 7, 15, 31, 61, 91, 121 s after the failure. The device returns a moment after the one at 61 s.
    sleep_until(failed_at + ms(61_001)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (DEVICE_ERROR, Duration::ZERO));
    appliance.control.end(down);
    sleep_until(failed_at + ms(90_999)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (DEVICE_ERROR, Duration::ZERO));
    sleep_until(failed_at + ms(91_001)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    assert_eq!(began.elapsed(), ms(91_007));
}

#[tokio::test(start_paused = true)]
async fn the_backoff_begins_anew_after_a_recovery() {
    let appliance = Appliance::start(0, ServerSettings::default());
    let hsm = client_with(&[&appliance], |it| it.while_disconnected = WhileDisconnected::TokenNotPresent);
    for _ in 0..2 {
        let down = appliance.control.begin(Fault::Down).unwrap();
        sleep(ms(1)).await;
        assert_eq!(asked(&hsm, PATIENCE).await, (DEVICE_ERROR, Duration::ZERO));
        let absent = Err((HsmErrorKind::DeviceGone, Some(CKR_TOKEN_NOT_PRESENT)));
        assert_eq!(asked(&hsm, PATIENCE).await, (absent, Duration::ZERO));
        sleep(ms(1_500)).await;
        appliance.control.end(down);
        sleep(ms(1_499)).await;
        assert_eq!(asked(&hsm, PATIENCE).await, (absent, Duration::ZERO));
        sleep(ms(2)).await;
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_from_before_a_recovery_that_fails_after_it_changes_nothing() {
    let appliance = Appliance::start(0, ServerSettings::default());
    let hsm = client(&[&appliance]);
    appliance.control.begin(Fault::Hang).unwrap();
    let began = Instant::now();
    let first = encrypt(&hsm, ENDLESS);
    sleep_until(began + ms(3_000)).await;
    let second = encrypt(&hsm, ENDLESS);
    assert_eq!(told(first).await, (DEVICE_ERROR, ms(10_000)));
    // The library has reconnected at 11 s, to a server that hangs no less; the second call still hangs, until 13 s.
    assert_eq!(told(second).await, (DEVICE_ERROR, ms(10_000)));
    assert_eq!(asked(&hsm, PATIENCE).await, (TIMED_OUT, PATIENCE));
}

#[tokio::test(start_paused = true)]
async fn a_restart_between_two_calls_goes_unnoticed() {
    let appliance = Appliance::start(0, ServerSettings::default());
    let hsm = client(&[&appliance]);
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    let down = appliance.control.begin(Fault::Down).unwrap();
    sleep(ms(1)).await;
    appliance.control.end(down);
    sleep(ms(1)).await;
    // The kept connection has ended; a new one is made without a failure.
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
}

#[tokio::test(start_paused = true)]
async fn a_dead_appliance_answers_refuses_or_keeps_silent_as_set() {
    let removed = Err((HsmErrorKind::DeviceGone, Some(CKR_DEVICE_REMOVED)));
    for (when_down, in_flight, in_flight_took, next, next_took) in [
        (WhenDown::Answer, removed, ms(2), removed, ms(0)),
        (WhenDown::Refuse, DEVICE_ERROR, ms(2), DEVICE_ERROR, ms(0)),
        // The library's 10 s for an answer. Then it knows.
        (WhenDown::Silent, DEVICE_ERROR, ms(10_000), TIMED_OUT, PATIENCE),
    ] {
        let appliance = Appliance::start(0, ServerSettings { when_down, ..ServerSettings::default() });
        let hsm = client_with(&[&appliance], |it| it.sessions_max = 1);
        let call = encrypt(&hsm, ENDLESS);
        sleep(ms(2)).await;
        let down = appliance.control.begin(Fault::Down).unwrap();
        sleep(ms(1)).await;
        assert_eq!(asked(&hsm, PATIENCE).await, (next, next_took), "{when_down:?}");
        assert_eq!(told(call).await, (in_flight, in_flight_took), "{when_down:?}");
        appliance.control.end(down);
        sleep(ms(1)).await;
        let resumed = asked(&hsm, PATIENCE).await;
        if when_down == WhenDown::Answer {
            assert_eq!(resumed, (Ok(()), ms(5)));
        } else {
            assert_eq!(resumed, (DEVICE_ERROR, ms(0)), "{when_down:?}: until the library tries again");
            sleep(ms(1_000)).await;
            assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)), "{when_down:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_costs_a_new_connection_its_own_timeout() {
    let settings = ServerSettings { when_down: WhenDown::Silent, ..ServerSettings::default() };
    let appliance = Appliance::start(0, settings);
    let hsm = client(&[&appliance]);
    let down = appliance.control.begin(Fault::Down).unwrap();
    sleep(ms(1)).await;
    assert_eq!(asked(&hsm, ENDLESS).await, (DEVICE_ERROR, ms(5_000)));
    // The first attempt, 1 s later, takes 5 s, the next begins 2 s after that, and ends well.
    sleep(ms(6_500)).await;
    appliance.control.end(down);
    sleep(ms(1_499)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (DEVICE_ERROR, Duration::ZERO));
    sleep(ms(2)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
}

#[tokio::test(start_paused = true)]
async fn one_session_too_many_is_refused_and_a_free_one_can_be_had_again() {
    let appliance = Appliance::start(0, ServerSettings { sessions_max: 1, ..ServerSettings::default() });
    let (one, other) = (client(&[&appliance]), client(&[&appliance]));
    assert_eq!(asked(&one, PATIENCE).await, (Ok(()), ms(5)));
    let refused = Err((HsmErrorKind::Busy, Some(CKR_SESSION_COUNT)));
    assert_eq!(asked(&other, PATIENCE).await, (refused, Duration::ZERO));
    // Refused is not down: the next call asks again.
    assert_eq!(asked(&other, PATIENCE).await, (refused, Duration::ZERO));
    drop(one);
    sleep(ms(1)).await;
    assert_eq!(asked(&other, PATIENCE).await, (Ok(()), ms(5)));
}

#[tokio::test(start_paused = true)]
async fn a_session_closed_by_the_device_is_given_back_and_opened_anew() {
    let appliance = Appliance::start(0, ServerSettings { sessions_max: 1, ..ServerSettings::default() });
    let (hsm, other) = (client(&[&appliance]), client(&[&appliance]));
    let call = encrypt(&hsm, PATIENCE);
    sleep(ms(2)).await;
    appliance.control.close_sessions();
    assert_eq!(told(call).await, (Err((HsmErrorKind::SessionLost, Some(0xB3))), ms(2)));
    sleep(ms(1)).await;
    assert_eq!(asked(&other, PATIENCE).await, (Ok(()), ms(5)));
    drop(other);
    sleep(ms(1)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_vanished_without_a_word_is_forgotten_after_the_idle_timeout() {
    let settings = ServerSettings { sessions_max: 1, idle_timeout: ms(60_000), ..ServerSettings::default() };
    let appliance = Appliance::start(0, settings);
    let began = Instant::now();
    let vanished = open_session(&appliance.memory).await;
    let hsm = client(&[&appliance]);
    let refused = Err((HsmErrorKind::Busy, Some(CKR_SESSION_COUNT)));
    sleep_until(began + ms(59_999)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (refused, Duration::ZERO));
    sleep(ms(2)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    drop(vanished);
}

#[tokio::test(start_paused = true)]
async fn probes_keep_a_session_alive_and_find_a_dead_server_before_a_call_does() {
    let settings = ServerSettings {
        idle_timeout: ms(130_000),
        when_down: WhenDown::Silent,
        ..ServerSettings::default()
    };
    let appliance = Appliance::start(0, settings);
    let hsm = client_with(&[&appliance], |it| it.probe_interval = ms(60_000));
    let began = Instant::now();
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    sleep_until(began + ms(1_000_000)).await;
    // The next probe is at 1,020 s, and 10 s later the server counts as dead.
    appliance.control.begin(Fault::Down).unwrap();
    sleep_until(began + ms(1_030_001)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (DEVICE_ERROR, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_group_goes_on_to_the_next_member_and_back_when_the_first_recovers() {
    let servers = [0, 1].map(|number| Appliance::start(number, ServerSettings::default()));
    let hsm = client(&[&servers[0], &servers[1]]);
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    let counts = || (servers[0].encryptions(), servers[1].encryptions());
    assert_eq!(counts(), (1, 0));
    let down = servers[0].control.begin(Fault::Down).unwrap();
    let failed_at = Instant::now();
    sleep(ms(1)).await;
    // A server that refuses is noticed at once: not one call is lost.
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    assert_eq!(counts(), (1, 1));
    servers[0].control.end(down);
    // Tried again a minute after the failure, 1 ms after it was down.
    sleep_until(failed_at + ms(60_000)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    assert_eq!(counts(), (1, 2));
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    assert_eq!(counts(), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_group_with_a_silent_member_fails_over_only_after_the_librarys_timeout() {
    let settings = ServerSettings { when_down: WhenDown::Silent, ..ServerSettings::default() };
    let servers = [0, 1].map(|number| Appliance::start(number, settings));
    let hsm = client_with(&[&servers[0], &servers[1]], |it| it.sessions_max = 2);
    let both = [encrypt(&hsm, PATIENCE), encrypt(&hsm, PATIENCE)];
    for call in both {
        assert_eq!(told(call).await, (Ok(()), ms(5)));
    }
    servers[0].control.begin(Fault::Down).unwrap();
    let began = Instant::now();
    // The call itself is answered by the other member in the end, long after its caller in KMS has gone.
    let patient = encrypt(&hsm, ENDLESS);
    assert_eq!(asked(&hsm, PATIENCE).await, (TIMED_OUT, PATIENCE));
    // Both sessions are with the silent member, and a healthy one stands idle beside it.
    sleep_until(began + ms(9_000)).await;
    assert_eq!(asked(&hsm, PATIENCE).await, (TIMED_OUT, PATIENCE));
    assert_eq!(told(patient).await, (Ok(()), ms(10_005)));
    assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_module_is_gone_is_passed_over_without_a_lost_call() {
    let settings = ServerSettings { when_down: WhenDown::Answer, ..ServerSettings::default() };
    let servers = [0, 1].map(|number| Appliance::start(number, settings));
    let hsm = client_with(&[&servers[0], &servers[1]], |it| it.ha_mode = HaMode::RoundRobin);
    for _ in 0..4 {
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    }
    assert_eq!(servers.each_ref().map(Appliance::encryptions), [2, 2]);
    servers[0].control.begin(Fault::Down).unwrap();
    for _ in 0..4 {
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    }
    // One call has found out, the others were spared; and it is still down when it is tried again.
    assert_eq!(servers.each_ref().map(Appliance::encryptions), [3, 6]);
    sleep(ms(120_000)).await;
    for _ in 0..4 {
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(5)));
    }
    assert_eq!(servers.each_ref().map(Appliance::encryptions), [3, 10]);
    servers[1].control.begin(Fault::Down).unwrap();
    let removed = Err((HsmErrorKind::DeviceGone, Some(CKR_DEVICE_REMOVED)));
    assert_eq!(asked(&hsm, PATIENCE).await, (removed, Duration::ZERO));
    assert_eq!(asked(&hsm, PATIENCE).await, (DEVICE_ERROR, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn health_tells_of_every_member() {
    let settings = ServerSettings { when_down: WhenDown::Silent, ..ServerSettings::default() };
    let servers = [0, 1].map(|number| Appliance::start(number, settings));
    let hsm = client(&[&servers[0], &servers[1]]);
    let health = async || {
        let began = Instant::now();
        let devices = hsm.health(began + PATIENCE).await;
        let told: Vec<_> = devices.into_iter().map(|it| (it.id, it.model, it.status)).collect();
        (told, began.elapsed())
    };
    let device = |number: usize, status| (format!("hsm-{number}"), "Emulated HSM".to_owned(), status);
    let (active, unavailable) = (HealthStatus::Active, HealthStatus::Unavailable);
    assert_eq!(health().await, (vec![device(0, active), device(1, active)], Duration::ZERO));
    servers[0].control.begin(Fault::Down).unwrap();
    sleep(ms(1)).await;
    assert_eq!(health().await, (vec![device(0, unavailable), device(1, active)], PATIENCE));
    sleep(ms(11_000)).await;
    // Known to be down by now.
    assert_eq!(health().await, (vec![device(0, unavailable), device(1, active)], Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn the_death_of_the_clients_process_frees_its_sessions_and_the_device_works_on() {
    let appliance = Appliance::start(0, ServerSettings { sessions_max: 1, ..ServerSettings::default() });
    let hsm = client(&[&appliance]);
    let call = encrypt(&hsm, ENDLESS);
    sleep(ms(2)).await;
    call.abort();
    drop(hsm);
    sleep(ms(1)).await;
    assert_eq!(appliance.control.occupancy().running, 1);
    assert_eq!(appliance.control.history().last().map(|it| it.outcome), Some(Outcome::Abandoned));
    assert_eq!(asked(&client(&[&appliance]), PATIENCE).await, (Ok(()), ms(5)));
}

#[tokio::test(start_paused = true)]
async fn a_request_longer_than_a_frame_is_refused_as_the_device_would() {
    let appliance = Appliance::start(0, ServerSettings::default());
    let hsm = client(&[&appliance]);
    let (key, deadline) = (KeyName::label("key"), Instant::now() + PATIENCE);
    for (length, reached) in [(70_000, 1), (FRAME_BYTES_MAX, 1)] {
        let long = Plaintext::new(vec![0; length]);
        let error = hsm.encrypt(&key, &aad(), &long, deadline).await.unwrap_err();
        assert_eq!((error.kind, error.ck_rv), (HsmErrorKind::TooLong, Some(0x21)));
        assert_eq!(appliance.encryptions(), reached);
    }
    let iv = xks_proxy::hsm::Iv::Twelve([0; 12]);
    let sealed = Sealed { ciphertext: vec![0; FRAME_BYTES_MAX], iv, tag: [0; 16] };
    let error = hsm.decrypt(&key, &aad(), &sealed, deadline).await.unwrap_err();
    assert_eq!((error.kind, error.ck_rv), (HsmErrorKind::CiphertextRejected, Some(0x41)));
}

/// A frame by hand.
fn frame(number: u32, code: u8, fields: &[u8]) -> Vec<u8> {
    let length = u32::try_from(5 + fields.len()).unwrap();
    [&length.to_be_bytes(), &number.to_be_bytes(), [code].as_slice(), fields].concat()
}

async fn open_session(memory: &Memory) -> DuplexStream {
    // The server may have been started just now.
    tokio::task::yield_now().await;
    let mut stream = memory.dial().unwrap();
    stream.write_all(&frame(0, 1, &[1])).await.unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer.as_slice(), frame(0, 129, &[]));
    stream
}

#[tokio::test(start_paused = true)]
async fn the_server_closes_on_whatever_is_malformed_and_serves_the_next() {
    let appliance = Appliance::start(0, ServerSettings { sessions_max: 1, ..ServerSettings::default() });
    let before_a_session: [Vec<u8>; 6] = [
        frame(0, 2, &[]),
        frame(0, 1, &[2]),
        frame(0, 1, &[1, 0]),
        frame(0, 77, &[]),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        u32::MAX.to_be_bytes().to_vec(),
    ];
    tokio::task::yield_now().await;
    for bytes in &before_a_session {
        let mut stream = appliance.memory.dial().unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut left = Vec::new();
        stream.read_to_end(&mut left).await.unwrap();
        assert_eq!(left, b"", "{bytes:?}");
    }
    let in_a_session: [Vec<u8>; 5] = [
        frame(1, 1, &[1]),
        frame(1, 129, &[]),
        frame(1, 3, &[0, 0, 0, 0, 9, b'k']),
        frame(1, 3, &[2, 0, 0, 0, 1, b'k']),
        // A second request before the first is answered.
        [frame(1, 3, &[0, 0, 0, 0, 1, b'k']), frame(2, 2, &[])].concat(),
    ];
    for bytes in &in_a_session {
        let mut stream = open_session(&appliance.memory).await;
        stream.write_all(bytes).await.unwrap();
        let mut left = Vec::new();
        stream.read_to_end(&mut left).await.unwrap();
        assert_eq!(left, b"", "{bytes:?}");
        // The only session is free again.
    }
    let mut stream = open_session(&appliance.memory).await;
    stream.write_all(&frame(9, 2, &[])).await.unwrap();
    let mut answer = [0; 9];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer.as_slice(), frame(9, 130, &[]));
    assert!(!appliance.server.is_finished());
}

#[tokio::test(start_paused = true)]
async fn connections_end_when_the_service_dies_or_when_a_hung_one_returns() {
    for (when_down, ends_at) in [(WhenDown::Refuse, ms(10)), (WhenDown::Silent, ms(30))] {
        let appliance = Appliance::start(0, ServerSettings { when_down, ..ServerSettings::default() });
        let mut stream = open_session(&appliance.memory).await;
        let began = Instant::now();
        let ended = tokio::spawn(async move {
            let read = stream.read(&mut [0; 1]).await.unwrap();
            (read, began.elapsed())
        });
        sleep(ms(10)).await;
        let down = appliance.control.begin(Fault::Down).unwrap();
        sleep(ms(20)).await;
        appliance.control.end(down);
        assert_eq!(ended.await.unwrap(), (0, ends_at), "{when_down:?}");
    }
}

/// Answers the opening of each connection, and whatever comes next with these bytes.
async fn impostor(mut listener: MemoryListener, bytes: Vec<u8>) {
    while let Ok(mut stream) = listener.accept().await {
        let mut opening = [0; 10];
        stream.read_exact(&mut opening).await.unwrap();
        stream.write_all(&frame(0, 129, &[])).await.unwrap();
        let mut request = [0; 1];
        if stream.read_exact(&mut request).await.is_ok() {
            stream.write_all(&bytes).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_client_takes_a_malformed_answer_for_a_failure() {
    let plaintext = [[0, 0, 0, 1].as_slice(), &[7]].concat();
    let sealed = [[0, 0, 0, 1, 7, 0, 0, 0, 12].as_slice(), &[1; 12], &[2; 16]].concat();
    let asked_of_an_impostor = async |bytes| {
        let memory = Memory::default();
        let server = tokio::spawn(impostor(memory.listen(), bytes));
        let endpoint = Endpoint { name: "impostor".into(), connect: Arc::new(memory) };
        let settings = ClientSettings { probe_interval: Duration::ZERO, ..ClientSettings::default() };
        let hsm = Arc::new(NetworkHsm::new(vec![endpoint], settings).unwrap());
        let told = [asked(&hsm, ENDLESS).await, asked(&hsm, ENDLESS).await];
        server.abort();
        told
    };
    assert_eq!(asked_of_an_impostor(frame(1, 132, &sealed)).await[0], (Ok(()), Duration::ZERO));
    for (bytes, what) in [
        (frame(0, 132, &sealed), "the number of another request"),
        (frame(1, 133, &plaintext), "the answer to another kind of request"),
        (frame(1, 132, &plaintext), "a sealed text cut short"),
        (frame(1, 255, &[11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "an unknown kind of error"),
        (frame(1, 4, &[]), "a request"),
        (vec![0xff; 64], "a frame too long"),
        (vec![], "the end"),
    ] {
        // The connection is not used again: calls fail until the library has made another.
        assert_eq!(asked_of_an_impostor(bytes).await, [(DEVICE_ERROR, Duration::ZERO); 2], "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn settings_and_servers_are_checked() {
    let appliance = Appliance::start(0, ServerSettings::default());
    let made = |count: usize, settings| {
        NetworkHsm::new(vec![appliance.endpoint(); count], settings).map(|_| ()).map_err(|it| it.to_string())
    };
    let settings = ClientSettings::default();
    assert_eq!(made(10, settings), Ok(()));
    assert!(made(0, settings).unwrap_err().contains("these are 0"));
    assert!(made(11, settings).unwrap_err().contains("these are 11"));
    assert!(made(1, ClientSettings { sessions_max: 0, ..settings }).unwrap_err().contains("sessions_max"));
}
