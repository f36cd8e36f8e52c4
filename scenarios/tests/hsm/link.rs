//! HSMs behind a network that is slow, lossy or cut: what the proxy's deadline, the library's patience and TCP make of it
//! together. The library's manners alone, without a network's delays, are in `sim-hsm/tests/network.rs`.

use scenarios::clock::{self, Clock};
use scenarios::hsm_link::{DownManner, HaGroup, HsmLinkFile, HsmLinks};
use scenarios::net::fault::{LinkFault, LinkFaultId, Ways};
use scenarios::net::settings::Distribution;
use scenarios::net::tcp::Network;
use scenarios::run;
use scenarios::scenario::Scenario;
use scenarios::streams::Streams;
use scenarios::world::Options;
use sim_hsm::{Capacity, Configuration, Control, Fault, KeySpecification, ServiceTime, ServiceTimes, SimHsm};
use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use xks_proxy::hsm::{Aad, Hsm, HsmErrorKind};
use xks_proxy::key::KeyName;
use xks_proxy::secret::Plaintext;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The proxy's usual patience.
const PATIENCE: Duration = Duration::from_millis(150);
/// More than the library's own.
const ENDLESS: Duration = Duration::from_secs(3_600);

/// 10 ms there and back, nothing lost, and no probes: they would find failures before a call does.
fn steady() -> HsmLinkFile {
    HsmLinkFile { rtt_ms: 10.0, jitter_ms: 0.0, probe_interval_ms: 0, ..HsmLinkFile::default() }
}

struct World {
    clock: Clock,
    links: HsmLinks,
    controls: Vec<Control>,
    cuts: RefCell<Vec<(usize, LinkFaultId)>>,
}

impl World {
    /// What a process of proxy 0 loads.
    fn load(&self, hsms: &[usize]) -> Arc<dyn Hsm> {
        let mut clients = self.links.clients(0, hsms).unwrap();
        assert_eq!(clients.len(), 1);
        clients.remove(0)
    }

    fn cut(&self, hsm: usize) {
        let id = self.links.link(0, hsm).unwrap().begin(LinkFault::Cut(Ways::Both));
        self.cuts.borrow_mut().push((hsm, id));
    }

    fn heal(&self, hsm: usize) {
        let mut cuts = self.cuts.borrow_mut();
        let place = cuts.iter().position(|(cut, _)| *cut == hsm).unwrap();
        self.links.link(0, hsm).unwrap().end(cuts.remove(place).1);
    }

    fn encryptions(&self, hsm: usize) -> u64 {
        self.controls[hsm].counters().encrypt
    }
}

/// Runs one test body with two proxies' links to two HSMs that take 5 ms for everything.
fn world<F: Future>(settings: &HsmLinkFile, body: impl FnOnce(World) -> F) -> F::Output {
    clock::run([0; 32], |clock| {
        let network = Network::new(clock.clone());
        let hsms = [0, 1].map(|stream| {
            let configuration = Configuration {
                seed: 1,
                stream,
                keys: vec![KeySpecification::aes_256("key")],
                capacity: Capacity {
                    service_times: ServiceTimes::all(ServiceTime::Fixed(ms(5))),
                    ..Capacity::default()
                },
                ..Configuration::default()
            };
            SimHsm::new(configuration, Arc::new(clock.clone()))
        });
        let controls = hsms.iter().map(|(_, control)| control.clone()).collect();
        let appliances = hsms.into_iter().map(|(hsm, control)| (Arc::new(hsm) as Arc<dyn Hsm>, control));
        let links = HsmLinks::new(&network, &Streams::new(1), appliances.collect(), 2, 64, settings);
        body(World { clock, links, controls, cuts: RefCell::default() })
    })
    .unwrap()
}

type Told = (Result<(), HsmErrorKind>, Duration);

/// Starts one encryption and tells how it ended and how long that took.
fn encrypt(hsm: &Arc<dyn Hsm>, patience: Duration) -> JoinHandle<Told> {
    let (hsm, began) = (Arc::clone(hsm), Instant::now());
    tokio::task::spawn_local(async move {
        let (aad, plaintext) = (Aad::frame(b"context", &[1]).unwrap(), Plaintext::new(vec![7; 32]));
        let answer = hsm.encrypt(&KeyName::label("key"), &aad, &plaintext, began + patience).await;
        (answer.map(|_| ()).map_err(|error| error.kind), began.elapsed())
    })
}

async fn asked(hsm: &Arc<dyn Hsm>, patience: Duration) -> Told {
    encrypt(hsm, patience).await.unwrap()
}

const GONE: Result<(), HsmErrorKind> = Err(HsmErrorKind::DeviceGone);
const TIMED_OUT: Result<(), HsmErrorKind> = Err(HsmErrorKind::TimedOut);

#[test]
fn latency_adds_up() {
    world(&steady(), async |world: World| {
        let hsm = world.load(&[0]);
        // Handshake, session and request: a round trip each.
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(35)));
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(15)));
        world.links.link(0, 0).unwrap().begin(LinkFault::Delay { ways: Ways::Both, extra: ms(50) });
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(115)));
        // A second session beside the first costs three of the long round trips: too much for the deadline.
        let both = [encrypt(&hsm, PATIENCE), encrypt(&hsm, PATIENCE)];
        let mut told = Vec::new();
        for call in both {
            told.push(call.await.unwrap());
        }
        assert_eq!(told, [(Ok(()), ms(115)), (TIMED_OUT, PATIENCE)]);
        // Another proxy's link is another link.
        let neighbour = world.links.clients(1, &[0]).unwrap().remove(0);
        assert_eq!(asked(&neighbour, PATIENCE).await, (Ok(()), ms(35)));
    });
}

#[test]
fn a_short_cut_is_bridged_by_tcp_for_whoever_waits_long_enough() {
    world(&steady(), async |world: World| {
        let hsm = world.load(&[0]);
        let both = [encrypt(&hsm, PATIENCE), encrypt(&hsm, PATIENCE)];
        for call in both {
            assert_eq!(call.await.unwrap(), (Ok(()), ms(35)));
        }
        world.cut(0);
        let cut_at = world.clock.now();
        let patient = encrypt(&hsm, ENDLESS);
        assert_eq!(asked(&hsm, PATIENCE).await, (TIMED_OUT, PATIENCE));
        assert_eq!(world.encryptions(0), 2);
        world.clock.sleep_until(cut_at + ms(2_000)).await;
        world.heal(0);
        // Retransmissions double: the one after the end of the cut comes up to as long after it as it lasted.
        let (answer, took) = patient.await.unwrap();
        assert_eq!(answer, Ok(()));
        assert!((ms(2_000)..ms(4_500)).contains(&took), "{took:?}");
        // Nothing was reconnected, and the call that was given up has been worked on too.
        world.clock.sleep(ms(1_000)).await;
        assert_eq!(world.encryptions(0), 4);
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(15)));
    });
}

#[test]
fn a_cut_longer_than_the_librarys_patience_ends_with_its_next_attempt() {
    world(&steady(), async |world: World| {
        let hsm = world.load(&[0]);
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(35)));
        world.cut(0);
        let cut_at = world.clock.now();
        // The call in flight, and those after it until the library knows: each waits for its own deadline.
        let inside = encrypt(&hsm, ENDLESS);
        assert_eq!(asked(&hsm, PATIENCE).await, (TIMED_OUT, PATIENCE));
        // That second call waits for a connection of its own, which is given up after 5 s; then it is known. A third one,
        // begun a moment before, still waits for its own.
        world.clock.sleep_until(cut_at + ms(4_999)).await;
        assert_eq!(asked(&hsm, ms(20)).await, (TIMED_OUT, ms(20)));
        assert_eq!(asked(&hsm, PATIENCE).await, (GONE, ms(0)));
        // The one in flight has its 10 s.
        assert_eq!(inside.await.unwrap(), (GONE, ms(10_000)));
        // Attempts begin at 6, 13 and 22 s after the cut, each given up after 5 s: after pauses of 1, 2, 4 and then 8 s.
        // The next is at 35 s.
        world.clock.sleep_until(cut_at + ms(28_000)).await;
        world.heal(0);
        world.clock.sleep_until(cut_at + ms(35_019)).await;
        assert_eq!(asked(&hsm, PATIENCE).await, (GONE, ms(0)));
        world.clock.sleep_until(cut_at + ms(35_021)).await;
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(15)));
    });
}

#[test]
fn service_resumes_up_to_half_a_minute_after_the_hsm_does() {
    // With the defaults. The library tries 1, 3, 7, 15, 31 s after the failure and then every 30 s; whoever runs a proxy
    // has to add that to every outage, or set the library's back-off lower.
    for (outage_ms, resumes_after_ms) in [
        (500, 1_000 - 500),
        (2_000, 3_000 - 2_000),
        (8_000, 15_000 - 8_000),
        (20_000, 31_000 - 20_000),
        (62_000, 91_000 - 62_000),
        (300_000, 301_000 - 300_000),
        (302_000, 331_000 - 302_000),
    ] {
        world(&steady(), async |world: World| {
            let hsm = world.load(&[0]);
            assert_eq!(asked(&hsm, PATIENCE).await.0, Ok(()));
            let down = world.controls[0].begin(Fault::Down).unwrap();
            // The server's last word takes half a round trip; nobody would know before the next call otherwise.
            world.clock.sleep(ms(5)).await;
            assert_eq!(asked(&hsm, PATIENCE).await, (GONE, ms(10)));
            let failed_at = world.clock.now();
            world.clock.sleep_until(failed_at + ms(outage_ms)).await;
            world.controls[0].end(down);
            let returned_at = world.clock.now();
            while asked(&hsm, PATIENCE).await.0 == GONE {
                world.clock.sleep(ms(10)).await;
            }
            let resumed = world.clock.now() - returned_at;
            // A round trip for each attempt that was refused, two for the one that was not.
            let wanted = ms(resumes_after_ms)..ms(resumes_after_ms + 250);
            assert!(wanted.contains(&resumed), "{outage_ms} ms of outage: {resumed:?}, not in {wanted:?}");
        });
    }
}

#[test]
fn a_group_loses_as_many_calls_as_it_takes_to_notice_a_silent_member() {
    for (ha_group, noticed_ms) in [(HaGroup::ActiveStandby, 10_000), (HaGroup::RoundRobin, 5_400)] {
        let settings = HsmLinkFile { ha_group, sessions_max: 4, ..steady() };
        world(&settings, async |world: World| {
            let hsm = world.load(&[0, 1]);
            for _ in 0..3 {
                let warm: Vec<_> = (0..8).map(|_| encrypt(&hsm, ENDLESS)).collect();
                for call in warm {
                    assert_eq!(call.await.unwrap().0, Ok(()));
                }
            }
            world.cut(0);
            let cut_at = world.clock.now();
            // A call every 100 ms, which waits at most for 150.
            let mut calls = Vec::new();
            for _ in 0..150 {
                calls.push((world.clock.now() - cut_at, encrypt(&hsm, PATIENCE)));
                world.clock.sleep(ms(100)).await;
            }
            let mut lost = Vec::new();
            for (at, call) in calls {
                if call.await.unwrap().0.is_err() {
                    lost.push(at);
                }
            }
            // Soon all four sessions wait at the silent member, and the other stands idle. Active and standby: until the
            // library's 10 s are over. In turns there are fewer connections to each member, and one that cannot be made
            // is given up after 5 s.
            let first_second: Vec<_> = lost.iter().filter(|at| **at < ms(1_000)).collect();
            assert!(first_second.len() >= 7, "{first_second:?}");
            let last = *lost.last().unwrap();
            assert!((ms(noticed_ms - 500)..ms(noticed_ms)).contains(&last), "{ha_group:?}: {last:?}");
            let unserved = (last - ms(1_000)).as_millis() / 100;
            assert!(lost.len() - first_second.len() >= unserved as usize, "{} lost", lost.len());
            assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(15)));
            world.heal(0);
            // It is tried a minute after it failed, and comes back.
            let before = world.encryptions(0);
            world.clock.sleep_until(cut_at + ms(80_000)).await;
            for _ in 0..2 {
                assert_eq!(asked(&hsm, PATIENCE).await.0, Ok(()));
            }
            assert!(world.encryptions(0) > before);
        });
    }
}

#[test]
fn a_connection_whose_other_end_is_gone_fails_the_next_call_and_is_replaced() {
    world(&steady(), async |world: World| {
        let hsm = world.load(&[0]);
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(35)));
        // The appliance restarts behind a cut: its FIN is lost, and this side believes in the connection.
        world.cut(0);
        let down = world.controls[0].begin(Fault::Down).unwrap();
        world.clock.sleep(ms(100)).await;
        world.controls[0].end(down);
        world.heal(0);
        let (answer, took) = asked(&hsm, ENDLESS).await;
        assert_eq!(answer, GONE);
        assert!(took < ms(500), "{took:?}");
        assert_eq!(asked(&hsm, ENDLESS).await, (GONE, ms(0)));
        world.clock.sleep(ms(1_021)).await;
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(15)));
    });
}

#[test]
fn a_lossy_link_shows_as_tcp_shows_it() {
    let settings = HsmLinkFile { loss: 0.05, ..steady() };
    world(&settings, async |world: World| {
        let hsm = world.load(&[0]);
        let mut took = Vec::new();
        for _ in 0..400 {
            let (answer, time) = asked(&hsm, ENDLESS).await;
            assert_eq!(answer, Ok(()), "{time:?}");
            took.push(time);
        }
        took.sort();
        // Nine of ten calls lose nothing; the others wait for a retransmission, which a deadline of 150 ms does not survive.
        assert_eq!(took[200], ms(15));
        let late = took.iter().filter(|time| **time > PATIENCE).count();
        assert!((20..=60).contains(&late), "{late} of 400");
    });
}

#[test]
fn a_firewall_that_forgets_an_idle_session_costs_the_next_call_and_a_probe_keeps_it_awake() {
    for (probe_interval_ms, answer) in [(0, TIMED_OUT), (10_000, Ok(()))] {
        let settings = HsmLinkFile { probe_interval_ms, ..steady() };
        world(&settings, async |world: World| {
            let hsm = world.load(&[0]);
            assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(35)));
            let firewall = LinkFault::IdleFirewall { idle: Duration::from_secs(30) };
            world.links.link(0, 0).unwrap().begin(firewall);
            world.clock.sleep(Duration::from_secs(100)).await;
            assert_eq!(asked(&hsm, PATIENCE).await.0, answer);
        });
    }
}

#[test]
fn a_middlebox_that_resets_fails_each_call_at_once_until_the_library_connects_again() {
    world(&steady(), async |world: World| {
        let hsm = world.load(&[0]);
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(35)));
        let link = world.links.link(0, 0).unwrap();
        let resets = link.begin(LinkFault::Reset { share: 1.0 });
        assert_eq!(asked(&hsm, PATIENCE).await, (GONE, ms(5)));
        link.end(resets);
        assert_eq!(asked(&hsm, PATIENCE).await, (GONE, ms(0)));
        world.clock.sleep(ms(1_050)).await;
        assert_eq!(asked(&hsm, PATIENCE).await, (Ok(()), ms(15)));
    });
}

#[test]
fn the_line_to_the_hsms_takes_every_setting_of_a_line() {
    let settings = HsmLinkFile {
        extra_there_ms: 4.0,
        bandwidth_back_mbps: 1.0,
        distribution: Distribution::Fixed,
        ..steady()
    };
    world(&settings, async |world: World| {
        let hsm = world.load(&[0]);
        let (answer, took) = asked(&hsm, PATIENCE).await;
        assert_eq!(answer, Ok(()));
        // Three round trips, each 4 ms longer, and the answers' bytes at a megabit per second.
        assert!((ms(35 + 12 + 1)..ms(35 + 12 + 4)).contains(&took), "{took:?}");
    });
}

#[test]
fn a_process_that_dies_gives_its_sessions_back_and_the_next_opens_its_own() {
    let settings = HsmLinkFile { when_down: DownManner::Silent, ..steady() };
    world(&settings, async |world: World| {
        let hang = world.controls[0].begin(Fault::Hang).unwrap();
        // 64 sessions at the HSM, 16 for each process: the fifth finds none while the four live, hanging or not.
        let crowd: Vec<_> = (0..4).map(|_| world.load(&[0])).collect();
        let calls: Vec<_> = crowd
            .iter()
            .flat_map(|hsm| (0..16).map(|_| encrypt(hsm, PATIENCE)).collect::<Vec<_>>())
            .collect();
        for call in calls {
            assert_eq!(call.await.unwrap(), (TIMED_OUT, PATIENCE));
        }
        let fifth = world.load(&[0]);
        assert_eq!(asked(&fifth, PATIENCE).await, (Err(HsmErrorKind::Busy), ms(20)));
        drop(crowd);
        world.clock.sleep(ms(6)).await;
        world.controls[0].end(hang);
        assert_eq!(asked(&fifth, PATIENCE).await.0, Ok(()));
    });
}

/// Failures of S3, how long after the fault the last of them was, and the run's digest.
fn s3(text: &str) -> (u64, Duration, String) {
    let head = "title = \"x\"\nduration_s = 200\n[[service]]\nkind = \"s3\"\nrate_per_s = 10\n";
    let scenario = Scenario::parse("x", "x.toml", &format!("{head}{text}")).unwrap();
    let result = run::run(&scenario, &Options::new(1), "", "").unwrap().result;
    for check in &result.invariants {
        assert!(check.held, "{check:?}");
    }
    let s3 = &result.services[0];
    (s3.failures, ms(s3.recovered_after_fault_ms.unwrap_or_default()), result.digest)
}

#[test]
fn a_scenario_with_a_link_shows_the_librarys_back_off_and_one_without_does_not() {
    let outage = |more: &str| s3(&format!("{more}[[fault]]\nkind = \"hsm-down\"\nfrom_s = 40\nto_s = 110\n"));
    let (_, inside, _) = outage("");
    assert!(inside < ms(2_000), "{inside:?}");
    // Attempts at 31 and 61 s after the failure, and then at 91 s, which is 21 s after the HSMs' return.
    let (_, linked, digest) = outage("[hsm_link]\n");
    assert!((ms(19_000)..ms(23_000)).contains(&linked), "{linked:?}");
    assert_eq!(outage("[hsm_link]\n").2, digest);
    let (_, impatient, _) = outage("[hsm_link]\nreconnect_max_ms = 2000\n");
    assert!(impatient < ms(4_000), "{impatient:?}");
}

#[test]
fn a_silent_member_costs_a_librarys_group_seconds_and_the_proxys_own_next_to_nothing() {
    let silent = |more: &str| {
        let fault = "[[fault]]\nkind = \"hsm-down\"\ntarget = [0]\nfrom_s = 40\nto_s = 110\n";
        s3(&format!(
            "[topology]\nproxies = 1\nhsms_per_proxy = 2\n[hsm_link]\nwhen_down = \"silent\"\n{more}{fault}"
        ))
    };
    let (of_the_library, ..) = silent("ha_group = \"active-standby\"\n");
    let (of_the_proxy, ..) = silent("");
    // Until a connection that cannot be made is given up after 5 s, or an answer that does not come after 10 s.
    assert!((40..110).contains(&of_the_library), "{of_the_library}");
    assert!(of_the_proxy * 10 < of_the_library, "{of_the_proxy} of {of_the_library}");
}

#[test]
fn an_idle_firewall_and_resets_before_the_hsms_can_be_scheduled() {
    let fault = |kind: &str| {
        let fault = format!("[[fault]]\nkind = \"{kind}\"\nfrom_s = 40\nto_s = 110\n");
        s3(&format!("[hsm_link]\nprobe_interval_ms = 0\n{fault}"))
    };
    let (none, ..) = s3("[hsm_link]\nprobe_interval_ms = 0\n");
    let (forgotten, ..) = fault("hsm-idle-drop\"\nidle_s = 1\ntarget = \"all");
    let (reset, ..) = fault("hsm-reset");
    assert_eq!(none, 0);
    assert!(forgotten > 0 && reset > 100, "{forgotten} forgotten, {reset} reset");
}

#[test]
fn the_hsm_of_a_lost_zone_is_silent_and_not_closed() {
    let lost = |kind: &str| {
        let fault = format!("[[fault]]\nkind = \"{kind}\nfrom_s = 40\nto_s = 110\n");
        let zones = "[topology]\nproxies = 2\nhsms = 2\nzones = 2\nhsms_per_proxy = 2\n";
        s3(&format!("{zones}[hsm_link]\nha_group = \"round-robin\"\n{fault}"))
    };
    let (down, ..) = lost("hsm-down\"\ntarget = [0]");
    let (zone, ..) = lost("zone-loss\"\nzone = 0");
    assert!(zone > down + 20, "{zone} with the zone, {down} with the HSM");
}
