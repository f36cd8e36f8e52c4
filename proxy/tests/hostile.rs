//! What hostile peers do to a running daemon over SoftHSM2, plain and with TLS: every attack with what must come of it,
//! while a client that does nothing wrong is served, and with everything as before afterwards.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "helpers of tests fail loudly; these tests stand outside of the daemon, with sockets of their own"
)]

#[expect(dead_code, reason = "the tests of client certificates use the rest")]
#[path = "common/authority.rs"]
mod authority;
#[path = "hostile/footprint.rs"]
mod footprint;
#[path = "hostile/frames.rs"]
mod frames;
#[path = "hostile/healthy.rs"]
mod healthy;
#[path = "hostile/http2.rs"]
mod http2;
#[path = "hostile/malformed.rs"]
mod malformed;
#[path = "hostile/messages.rs"]
mod messages;
#[path = "common/running.rs"]
mod running;
#[path = "hostile/slow.rs"]
mod slow;
#[expect(dead_code, reason = "the tests of the PKCS#11 implementation use the rest")]
#[path = "common/softhsm.rs"]
mod softhsm;
mod support;
#[path = "hostile/target.rs"]
mod target;
#[path = "hostile/tls.rs"]
mod tls;

use footprint::Footprint;
use healthy::{Healthy, round_trip};
use malformed::SMUGGLED;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use target::{Io, Target, Victim, until_closed};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::interval;

/// How often, and how many times, it is looked whether everything is given back: for ten seconds.
const LOOKS: u32 = 200;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// So many looks in a row that see the same say that it stands still.
const SAME_LOOKS: u32 = 10;

/// Fewer than fill the queue of an HSM with two sessions.
const CALLS_AT_ONCE: usize = 32;

/// How much more memory the daemon may hold under the same load than before the attacks: what the largest bodies and
/// the buffers of some 150 connections at once have spread over the heap. Some 45,000 requests and a million frames
/// come meanwhile, so that 200 bytes left behind by each request, or 9 by each frame, show.
const GROWTH_KIB_MAX: u64 = 8 * 1_024;

/// Memory of the daemon under 1,000 connections, peaks included.
const RESIDENT_KIB_MAX: u64 = 64 * 1_024;

#[tokio::test(flavor = "multi_thread")]
async fn over_plain_http_all_is_as_before_after_every_attack() {
    let victim = Victim::plain();
    all_is_as_before(victim, 5_000, async |_| ()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_all_is_as_before_after_every_attack() {
    let victim = Victim::tls();
    all_is_as_before(victim, 1_000, tls::attack).await;
}

/// All attacks side by side, with a crowd of idle connections around them and a client that is served all the time.
async fn all_is_as_before(victim: Victim, idle: usize, more: impl AsyncFn(&Target)) {
    room_for_files();
    let target = &victim.target;
    // So that all that is made at first need has been made.
    drop(all_call(crowd(target, 50).await).await);
    look_until(&victim, |victim| connections(victim) == 0.0).await;
    let before = settled(&victim).await;

    let healthy = Healthy::start(target);
    let attacked = crowd(target, idle).await;
    let under_load = loaded(&victim, idle).await;
    tokio::join!(malformed::attack(target), http2::attack(target), slow::attack(target), more(target));
    // Nobody but the daemon ends these, each in its time.
    for mut idle in attacked {
        assert_eq!(until_closed(&mut *idle).await, b"");
    }
    // The C library keeps memory that was in use once, for the next use. So the same load is put on again: what the
    // attacks have left for good comes on top.
    let again = crowd(target, idle).await;
    let after = loaded(&victim, idle).await;
    let allowed = under_load.resident_kib + GROWTH_KIB_MAX;
    assert!(after.resident_kib <= allowed, "{under_load:?} {after:?}");
    drop(again);
    healthy.stop().await;

    round_trip(&mut *target.connect().await).await;
    let given_back = |victim: &Victim| {
        let now = Footprint::of(victim.daemon.child.id());
        // A thread of the start may end meanwhile.
        now.descriptors == before.descriptors && now.threads <= before.threads
    };
    look_until(&victim, given_back).await;
    let log = victim.stop();
    let events_of =
        |id: &str| log.iter().filter(|line| line["kms_request_id"] == id).collect::<Vec<&Value>>();
    assert_eq!(events_of(SMUGGLED), Vec::<&Value>::new());
    // The same request where it does follow another is worked on.
    assert_eq!(events_of("pipelined").len(), 50);
}

/// What it holds once so many connections are open.
async fn loaded(victim: &Victim, idle: usize) -> Footprint {
    look_until(victim, |victim| connections(victim) >= idle as f64).await
}

/// The daemon's own count.
fn connections(victim: &Victim) -> f64 {
    victim.daemon.metric("xks_proxy_connections").unwrap()
}

/// Looks again and again until it is so.
async fn look_until(victim: &Victim, is_so: impl Fn(&Victim) -> bool) -> Footprint {
    let mut pace = interval(LOOK_EVERY);
    for _ in 0..LOOKS {
        pace.tick().await;
        if is_so(victim) {
            return Footprint::of(victim.daemon.child.id());
        }
    }
    panic!("it never is: {:?}, {} connections", Footprint::of(victim.daemon.child.id()), connections(victim));
}

/// What it holds once that stands still.
async fn settled(victim: &Victim) -> Footprint {
    let (mut pace, mut last, mut same) = (interval(LOOK_EVERY), Footprint::of(victim.daemon.child.id()), 0);
    while same < SAME_LOOKS {
        pace.tick().await;
        let now = Footprint::of(victim.daemon.child.id());
        let stands_still = now.descriptors == last.descriptors && now.threads == last.threads;
        same = if stands_still { same + 1 } else { 0 };
        last = now;
    }
    last
}

/// As many connections, and the daemon's own files beside them, must be possible here.
fn room_for_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let most = maximum.unwrap_or(u64::MAX);
    assert!(most >= 8_000, "the hard limit on open files is {most}; this test needs 8,000 (ulimit -Hn 8000)");
}

/// Connections that are ready and say nothing.
async fn crowd(target: &Target, count: usize) -> Vec<Box<dyn Io>> {
    let mut coming = JoinSet::new();
    for _ in 0..count {
        let target = target.clone();
        coming.spawn(async move { target.connect().await });
    }
    coming.join_all().await
}

/// Has each of these carry calls, [`CALLS_AT_ONCE`] at a time, and gives them back.
async fn all_call(crowd: Vec<Box<dyn Io>>) -> Vec<Box<dyn Io>> {
    let places = Arc::new(Semaphore::new(CALLS_AT_ONCE));
    let mut calling = JoinSet::new();
    for mut io in crowd {
        let places = Arc::clone(&places);
        calling.spawn(async move {
            let _place = places.acquire().await.unwrap();
            round_trip(&mut *io).await;
            io
        });
    }
    calling.join_all().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_take_64_mib_at_most() {
    room_for_files();
    for victim in [Victim::plain(), Victim::tls()] {
        let kind = if victim.target.tls.is_some() { "TLS" } else { "plain" };
        let idle = crowd(&victim.target, 1_000).await;
        let under_idle = loaded(&victim, 1_000).await;
        // Ones that have carried calls hold their buffers.
        let active = all_call(idle).await;
        let under_active = loaded(&victim, 1_000).await;
        println!(
            "{kind}: idle {} KiB, active {} KiB",
            under_idle.resident_kib, under_active.resident_kib_peak
        );
        assert!(
            under_active.resident_kib_peak <= RESIDENT_KIB_MAX,
            "{kind}: {under_idle:?} {under_active:?}"
        );
        drop(active);
        victim.stop();
    }
}
