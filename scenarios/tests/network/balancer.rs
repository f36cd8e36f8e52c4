//! The load balancer does what AWS's does: checks and their thresholds, fail-open, draining, idle connections, zones, DNS.

use scenarios::balancer::Balancer;
use scenarios::clock::{self, Clock};
use scenarios::kms::client::{Dial, Io};
use scenarios::net::fault::{LinkFault, Ways};
use scenarios::net::link::{Link, LinkSettings};
use scenarios::net::tcp::{Network, Stream};
use scenarios::scenario::LoadBalancerFile;
use scenarios::streams::Streams;
use std::io::ErrorKind;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use xks_proxy::server::Listen;

const RTT: Duration = Duration::from_millis(10);
/// KMS's.
const PATIENCE: Duration = Duration::from_millis(250);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct World {
    clock: Clock,
    network: Network,
    balancer: Rc<Balancer>,
    paths: Vec<Link>,
    check_paths: Vec<Link>,
    proxies: Vec<JoinHandle<()>>,
}

/// Answers every byte with the number of the proxy.
async fn serve(proxy: u8, mut stream: Stream) {
    while stream.read_u8().await.is_ok() && stream.write_u8(proxy).await.is_ok() {}
}

fn start(network: &Network, proxy: usize) -> JoinHandle<()> {
    let mut listener = network.listen(proxy);
    tokio::task::spawn_local(async move {
        let mut open = JoinSet::new();
        while let Ok(stream) = listener.accept().await {
            open.spawn_local(serve(u8::try_from(proxy).unwrap(), stream));
        }
    })
}

/// Runs one test body with as many proxies, in as many zones, behind a load balancer.
fn world<F: Future<Output = ()>>(
    proxies: usize,
    zones: usize,
    settings: LoadBalancerFile,
    body: impl FnOnce(World) -> F,
) {
    clock::run([0; 32], |clock| async move {
        let network = Network::new(clock.clone());
        let links = |rtt| -> Vec<Link> {
            let link = |index| Link::new(LinkSettings::fixed(rtt), Streams::new(1).stream("network", index));
            (0..proxies as u64).map(link).collect()
        };
        let (paths, check_paths) = (links(RTT), links(ms(1)));
        let (of_kms, of_checks) = (paths.clone(), check_paths.clone());
        let balancer = Rc::new(Balancer::new(network.clone(), of_kms, of_checks, zones, settings));
        balancer.start_checks();
        let proxies = (0..proxies).map(|proxy| start(&network, proxy)).collect();
        body(World { clock, network, balancer, paths, check_paths, proxies }).await;
    })
    .unwrap();
}

impl World {
    async fn until(&self, at: u64) {
        self.clock.sleep_until(ms(at)).await;
    }

    /// A connection of this KMS host; `None` where none is made in time.
    async fn connect(&self, kms_host: usize) -> Option<Result<Box<dyn Io>, ErrorKind>> {
        let connected = timeout(PATIENCE, self.balancer.connect(kms_host)).await.ok()?;
        Some(connected.map_err(|error| error.kind()))
    }

    async fn connected(&self, kms_host: usize) -> Box<dyn Io> {
        self.connect(kms_host).await.unwrap().unwrap()
    }

    /// The proxies that the next connections get to, each with how often.
    async fn reached(&self, connections: usize) -> Vec<(u8, usize)> {
        let mut counts = std::collections::BTreeMap::new();
        for host in 0..connections {
            let proxy = asked(&mut self.connected(host).await).await.unwrap();
            *counts.entry(proxy).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    fn kill(&self, proxy: usize) {
        self.proxies[proxy].abort();
    }

    fn restart(&self, proxy: usize) {
        // Nobody waits for it.
        drop(start(&self.network, proxy));
    }
}

fn cut(link: &Link) {
    link.begin(LinkFault::Cut(Ways::Both));
}

/// One question and its answer: the proxy's number, or what the socket says; `TimedOut` is silence.
async fn asked(io: &mut Box<dyn Io>) -> Result<u8, ErrorKind> {
    let answer = async {
        io.write_u8(0).await?;
        io.read_u8().await
    };
    match timeout(PATIENCE, answer).await {
        Ok(answer) => answer.map_err(|error| error.kind()),
        Err(_) => Err(ErrorKind::TimedOut),
    }
}

/// As KMS looks at a connection before it uses it again.
fn is_quiet(io: &mut Box<dyn Io>) -> bool {
    let (mut byte, mut context) = ([0], Context::from_waker(Waker::noop()));
    std::pin::Pin::new(io).poll_read(&mut context, &mut ReadBuf::new(&mut byte)).is_pending()
}

const RESET: Result<u8, ErrorKind> = Err(ErrorKind::ConnectionReset);
const SILENCE: Result<u8, ErrorKind> = Err(ErrorKind::TimedOut);

#[test]
fn a_target_changes_its_state_after_so_many_checks_on_the_beat() {
    let settings =
        LoadBalancerFile { unhealthy_after: 3, check_timeout_s: 4.0, ..LoadBalancerFile::default() };
    world(1, 1, settings, async |world: World| {
        let is = async |at, healthy| {
            world.until(at).await;
            assert_eq!(world.balancer.is_healthy(0), healthy, "at {at} ms");
        };
        world.kill(0);
        is(30_000, true).await;
        is(30_002, false).await;
        world.restart(0);
        is(50_000, false).await;
        is(50_002, true).await;
        // One that does not answer is waited for; the next check comes ten seconds after the last began all the same.
        cut(&world.check_paths[0]);
        is(83_999, true).await;
        is(84_001, false).await;
    });
}

#[test]
fn connections_to_an_unhealthy_target_are_reset_when_they_are_used_and_the_last_target_keeps_its_own() {
    world(2, 1, LoadBalancerFile::default(), async |world: World| {
        let (mut first, mut second) = (world.connected(0).await, world.connected(0).await);
        assert_eq!((asked(&mut first).await, asked(&mut second).await), (Ok(0), Ok(1)));
        cut(&world.check_paths[0]);
        world.until(35_000).await;
        assert!(!world.balancer.is_healthy(0) && world.balancer.is_healthy(1));
        assert_eq!(world.reached(4).await, [(1, 4)]);
        // Nobody has told KMS.
        assert!(is_quiet(&mut first));
        let sent = world.clock.now();
        assert_eq!(asked(&mut first).await, RESET);
        assert_eq!(world.clock.now() - sent, RTT);
        assert_eq!(asked(&mut first).await, RESET);
        // Without a healthy target all are as good as healthy: fail-open.
        cut(&world.check_paths[1]);
        world.until(75_000).await;
        assert!(!world.balancer.is_healthy(1));
        assert_eq!(asked(&mut second).await, Ok(1));
        assert_eq!(world.reached(4).await, [(0, 2), (1, 2)]);
    });
    let lenient = LoadBalancerFile { terminate_unhealthy: false, ..LoadBalancerFile::default() };
    world(2, 1, lenient, async |world: World| {
        let mut first = world.connected(0).await;
        cut(&world.check_paths[0]);
        world.until(35_000).await;
        assert!(!world.balancer.is_healthy(0));
        assert_eq!(asked(&mut first).await, Ok(0));
    });
}

#[test]
fn what_a_proxy_has_ended_before_its_target_turns_unhealthy_is_seen_to_be_ended() {
    world(2, 1, LoadBalancerFile::default(), async |world: World| {
        let mut first = world.connected(0).await;
        assert_eq!(asked(&mut first).await, Ok(0));
        world.kill(0);
        world.until(35_000).await;
        assert!(!world.balancer.is_healthy(0));
        assert!(!is_quiet(&mut first));
    });
}

#[test]
fn a_reset_does_not_cross_a_partition_in_front_of_the_load_balancer() {
    world(2, 1, LoadBalancerFile::default(), async |world: World| {
        let mut first = world.connected(0).await;
        cut(&world.check_paths[0]);
        world.until(35_000).await;
        // Behind the load balancer the way to the proxy may be cut as well.
        let behind = world.paths[0].begin(LinkFault::Cut(Ways::Both));
        assert_eq!(asked(&mut first).await, RESET);
        world.paths[0].end(behind);

        let mut second = world.connected(0).await;
        assert_eq!(asked(&mut second).await, Ok(1));
        world.paths.iter().for_each(cut);
        world.clock.sleep(Duration::from_secs(360)).await;
        assert_eq!(asked(&mut second).await, SILENCE);
    });
}

#[test]
fn a_target_that_drains_keeps_its_connections_and_gets_no_new_ones() {
    world(2, 1, LoadBalancerFile::default(), async |world: World| {
        let mut kept = world.connected(0).await;
        world.balancer.deregister(0);
        assert_eq!(world.reached(4).await, [(1, 4)]);
        world.until(100_000).await;
        assert_eq!(asked(&mut kept).await, Ok(0));
        assert!(!world.balancer.is_healthy(0));
        // Back in, it needs to pass its checks first.
        world.balancer.register(0);
        assert_eq!(world.reached(2).await, [(1, 2)]);
        world.until(121_000).await;
        assert_eq!(world.reached(4).await, [(0, 2), (1, 2)]);
        // With none left, KMS is refused, by a reset that has its way to go.
        world.balancer.deregister(0);
        world.balancer.deregister(1);
        let asks = world.clock.now();
        assert_eq!(world.connect(0).await.unwrap().err(), Some(ErrorKind::ConnectionRefused));
        assert_eq!(world.clock.now() - asks, RTT);
    });
}

#[test]
fn a_connection_idle_for_too_long_is_answered_with_a_reset_a_round_trip_later() {
    let settings = LoadBalancerFile { idle_timeout_s: 60.0, ..LoadBalancerFile::default() };
    world(1, 1, settings, async |world: World| {
        let mut io = world.connected(0).await;
        for _ in 0..3 {
            world.clock.sleep(ms(59_000)).await;
            assert_eq!(asked(&mut io).await, Ok(0));
        }
        world.clock.sleep(ms(60_000)).await;
        assert!(is_quiet(&mut io));
        let sent = world.clock.now();
        assert_eq!(asked(&mut io).await, RESET);
        assert_eq!(world.clock.now() - sent, RTT);
        assert_eq!(asked(&mut world.connected(0).await).await, Ok(0));
    });
}

#[test]
fn across_zones_every_address_reaches_every_target_until_its_own_zone_is_lost() {
    let own_zone = LoadBalancerFile { dns_ttl_s: 0.0, ..LoadBalancerFile::default() };
    world(2, 2, own_zone.clone(), async |world: World| {
        for _ in 0..3 {
            assert_eq!(asked(&mut world.connected(0).await).await, Ok(0));
            assert_eq!(asked(&mut world.connected(0).await).await, Ok(1));
        }
    });
    let across = LoadBalancerFile { cross_zone: true, ..own_zone };
    world(2, 2, across, async |world: World| {
        // Host 0 begins with the address in zone 0, host 1 with that in zone 1; the targets follow each other.
        let (mut here, mut there) = (world.connected(0).await, world.connected(1).await);
        let mut here_to_other = {
            drop(world.connected(2).await);
            drop(world.connected(3).await);
            drop(world.connected(5).await);
            world.connected(4).await
        };
        assert_eq!((asked(&mut here).await, asked(&mut there).await), (Ok(0), Ok(1)));
        assert_eq!(asked(&mut here_to_other).await, Ok(1));
        world.balancer.lose_zone(0);
        // By the address of zone 0 nothing gets through, to no target; nobody is told.
        for io in [&mut here, &mut here_to_other] {
            assert!(is_quiet(io));
            assert_eq!(asked(io).await, SILENCE);
        }
        assert_eq!(asked(&mut there).await, Ok(1));
        assert!(world.connect(6).await.is_none());
        assert!(world.connect(7).await.is_some());
        // Both targets pass their checks, and yet DNS drops the address once that has been noticed.
        world.until(31_000).await;
        assert_eq!(world.reached(8).await, [(0, 4), (1, 4)]);
        world.balancer.restore_zone(0);
        // The load balancer knows the connections no more.
        assert_eq!(asked(&mut here).await, RESET);
        assert_eq!(world.reached(8).await, [(0, 4), (1, 4)]);
    });
}

#[test]
fn dns_has_the_zones_with_a_healthy_target_and_hosts_keep_what_they_know() {
    world(3, 3, LoadBalancerFile::default(), async |world: World| {
        // This host has resolved the name early on.
        drop(world.connected(0).await);
        world.balancer.lose_zone(1);
        cut(&world.paths[1]);
        cut(&world.check_paths[1]);
        // DNS still has all three: a third of new connections go nowhere.
        world.until(20_000).await;
        let mut nowhere = 0;
        for host in 30..60 {
            nowhere += usize::from(world.connect(host).await.is_none());
        }
        assert_eq!(nowhere, 10);
        // The second check in a row has failed at 30 s.
        world.until(31_000).await;
        for host in 60..90 {
            assert_ne!(asked(&mut world.connected(host).await).await, Ok(1));
        }
        // Whoever resolved before keeps to its three addresses for a minute.
        assert!(world.connect(0).await.is_none());
        world.until(61_000).await;
        for _ in 0..6 {
            drop(world.connected(0).await);
        }
        // A name that does not resolve hurts only those who must ask.
        world.balancer.fail_dns();
        assert!(world.connect(0).await.unwrap().is_ok());
        assert_eq!(world.connect(999).await.unwrap().err(), Some(ErrorKind::NotFound));
        world.balancer.restore_dns();
        // Without any healthy target DNS has them all again.
        cut(&world.check_paths[0]);
        cut(&world.check_paths[2]);
        world.until(100_000).await;
        assert_eq!(asked(&mut world.connected(90).await).await, Ok(0));
        assert!(world.connect(91).await.is_none());
        assert_eq!(asked(&mut world.connected(92).await).await, Ok(2));
    });
}
