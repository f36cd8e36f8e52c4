//! The same seed gives the same events in the same order, in one process and in two; and the check can fail.
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of #[test] functions")]

use scenarios::run::{self, first_difference};
use scenarios::scenario::Scenario;
use scenarios::world::Options;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use xks_proxy::hsm::{Aad, Answer, DeviceHealth, Hsm, KeyFacts, Sealed};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

/// Every kind of fault at once, on TLS, with loss and a network to the HSMs: whatever draws or schedules is in it.
const BUSY: &str = r#"
title = "A little of everything"
duration_s = 30

[topology]
zones = 2
hsms_per_proxy = 2

[link]
loss = 0.01

[hsm_link]

[kms]
credential_spread_s = 2
propagation_ms = 100
connect_s = 0
disconnect_s = 0

[[fault]]
kind = "hsm-slow"
factor = 30
target = [0]
ramp_s = 3
from_s = 5
to_s = 12

[[fault]]
kind = "hsm-error"
rate = 0.3
from_s = 8
to_s = 14

[[fault]]
kind = "hsm-sessions"
sessions_max = 2
from_s = 9
to_s = 10

[[fault]]
kind = "hsm-bit-flips"
rate = 0.1
from_s = 10
to_s = 12

[[fault]]
kind = "hsm-hang"
target = [1]
from_s = 15
to_s = 17

[[fault]]
kind = "hsm-partition"
target = [0]
from_s = 12
to_s = 13

[[fault]]
kind = "hsm-latency"
extra_ms = 20
from_s = 13
to_s = 16

[[fault]]
kind = "hsm-loss"
loss = 0.05
from_s = 13
to_s = 17

[[fault]]
kind = "partition"
target = [0]
from_s = 18
to_s = 20

[[fault]]
kind = "partition"
way = "back"
target = [1]
from_s = 21
to_s = 21.5

[[fault]]
kind = "latency"
extra_ms = 100
ramp_s = 1
from_s = 19
to_s = 22

[[fault]]
kind = "loss"
loss = 0.05
from_s = 4
to_s = 9

[[fault]]
kind = "duplication"
share = 0.1
from_s = 4
to_s = 9

[[fault]]
kind = "reordering"
share = 0.1
from_s = 5
to_s = 10

[[fault]]
kind = "bandwidth"
bandwidth_kbit_per_s = 2000
from_s = 22
to_s = 23

[[fault]]
kind = "idle-drop"
idle_s = 1
from_s = 22
to_s = 24

[[fault]]
kind = "connection-reset"
repeat_every_s = 2
repeats = 2
from_s = 24
to_s = 24.2

[[fault]]
kind = "connection-refused"
target = [1]
from_s = 24.5
to_s = 25

[[fault]]
kind = "syn-drop"
from_s = 25
to_s = 25.5

[[fault]]
kind = "dns-failure"
from_s = 25
to_s = 26

[[fault]]
kind = "proxy-crash"
target = [1]
from_s = 23
to_s = 25

[[fault]]
kind = "proxy-restart"
target = [0]
from_s = 26
to_s = 26.5

[[fault]]
kind = "proxy-starved"
factor = 50
from_s = 27
to_s = 28

[[fault]]
kind = "clock-skew"
target = [0]
skew_s = -400
from_s = 7
to_s = 8

[[fault]]
kind = "certificate-expired"
from_s = 10
to_s = 11

[[fault]]
kind = "client-certificate-demanded"
from_s = 11
to_s = 12

[[fault]]
kind = "credential-rotation"
from_s = 2
to_s = 14

[[fault]]
kind = "external-key-disabled"
from_s = 20
to_s = 20.5

[[fault]]
kind = "kms-key-disabled"
from_s = 21
to_s = 21.2

[[fault]]
kind = "quota-burst"
rate_per_s = 500
from_s = 6
to_s = 7

[[fault]]
kind = "zone-loss"
zone = 1
from_s = 28
to_s = 29

[[fault]]
kind = "hsm-down"
from_s = 26
to_s = 27

[[fault]]
kind = "rolling-deploy"
restart_s = 0.5
drain_s = 0
from_s = 16
to_s = 17

[[fault]]
kind = "kill-switch"
from_s = 29
to_s = 29.5

[[fault]]
kind = "key-store-disconnected"
from_s = 14.5
to_s = 14.7

[[fault]]
kind = "kms-key-pending-deletion"
from_s = 21.4
to_s = 21.6

[[fault]]
kind = "external-key-deleted"
from_s = 29.8
"#;

fn busy() -> Scenario {
    Scenario::parse("busy", "busy.toml", BUSY).unwrap()
}

fn options(seed: u64) -> Options {
    let mut options = Options::new(seed);
    options.keep_lines = true;
    options
}

#[test]
fn two_runs_in_one_process_have_the_same_events() {
    let first = run::run(&busy(), &options(7), "", "").unwrap();
    let second = run::run(&busy(), &options(7), "", "").unwrap();
    if let Some(difference) = first_difference(&first.lines.unwrap(), &second.lines.unwrap()) {
        panic!("event {}: {:?} or {:?}", difference.index, difference.first, difference.second);
    }
    assert_eq!(first.result.digest, second.result.digest);
    assert!(first.events > 5_000, "{} events", first.events);
}

#[test]
fn another_seed_gives_another_run() {
    let digest = |seed| run::run(&busy(), &options(seed), "", "").unwrap().result.digest;
    assert_ne!(digest(1), digest(2));
}

/// The digest that a process of its own prints. The order of hash maps and addresses differs between processes, so what
/// leaks from them shows here.
fn digest_of_a_process(seed: u64) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("busy.toml");
    std::fs::write(&file, BUSY).unwrap();
    let (file, out) = (file.to_str().unwrap(), directory.path().to_str().unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_xks-sim"))
        .args(["run", file, "--seed", &seed.to_string(), "--out", out])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let last = text.lines().last().unwrap_or_default().to_owned();
    assert!(last.starts_with("digest: ") && last.len() == 8 + 64, "{text}");
    last
}

#[test]
fn two_processes_print_the_same_digest() {
    for seed in [7, 8, 9] {
        assert_eq!(digest_of_a_process(seed), digest_of_a_process(seed), "seed {seed}");
    }
}

#[test]
#[ignore = "the long form, minutes even when optimised: cargo xtask test --long"]
fn two_hundred_seeds_in_two_processes_each() {
    for seed in 1..=200 {
        assert_eq!(digest_of_a_process(seed), digest_of_a_process(seed), "seed {seed}");
    }
}

/// An HSM that fails one call in a thousand, counted over all runs of the process: the kind of state that makes runs
/// differ.
struct Leaky {
    inner: Arc<dyn Hsm>,
    calls: Arc<AtomicU64>,
}

impl Hsm for Leaky {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: tokio::time::Instant) -> Answer<'a, KeyFacts> {
        self.inner.describe(key, deadline)
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: tokio::time::Instant,
    ) -> Answer<'a, Sealed> {
        if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(997) {
            return Box::pin(async {
                Err(xks_proxy::hsm::HsmError::new(xks_proxy::hsm::HsmErrorKind::Failed, "leaked state"))
            });
        }
        self.inner.encrypt(key, aad, plaintext, deadline)
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: tokio::time::Instant,
    ) -> Answer<'a, Plaintext> {
        self.inner.decrypt(key, aad, sealed, deadline)
    }

    fn health<'a>(
        &'a self,
        deadline: tokio::time::Instant,
    ) -> std::pin::Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        self.inner.health(deadline)
    }
}

#[test]
fn the_check_finds_state_that_leaks_from_one_run_into_the_next() {
    let calls = Arc::new(AtomicU64::new(0));
    let lines = || {
        let mut options = options(7);
        let calls = Arc::clone(&calls);
        options.hsm_wrapper =
            Some(Box::new(move |inner| Arc::new(Leaky { inner, calls: Arc::clone(&calls) })));
        run::run(&busy(), &options, "", "").unwrap().lines.unwrap()
    };
    let difference = first_difference(&lines(), &lines()).expect("the runs differ and the check must see it");
    assert_ne!(difference.first, difference.second);
}
