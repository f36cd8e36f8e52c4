//! The endpoint that KMS connects to: a Network Load Balancer of AWS, and the DNS that names it.
//!
//! Place on the map: between the KMS model and the proxies. It passes TCP through, checks its targets by TCP connections,
//! has an address in each availability zone, takes the address of a zone without a healthy target out of DNS, and sends
//! to all targets when none is healthy (fail-open). Facts: AWS, *User Guide for Network Load Balancers* (target group
//! health, target health state actions, connection idle timeout, cross-zone load balancing).
//!
//! A connection that it has given up is silent until KMS sends on it; then a reset comes back, a round trip later. One
//! that came in through a zone that is lost stays silent. Of neither is the proxy told.

use crate::clock::Clock;
use crate::kms::LocalFuture;
use crate::kms::client::{Dial, Io};
use crate::net::link::Link;
use crate::net::packet::Way;
use crate::net::tcp::{Network, Stream};
use crate::scenario::LoadBalancerFile;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The load balancer and its name.
pub struct Balancer {
    network: Network,
    targets: Vec<Rc<Target>>,
    zones: Vec<Rc<Zone>>,
    settings: LoadBalancerFile,
    /// The next target, for all connections together.
    next: Cell<usize>,
    /// What each KMS host has resolved, and its next choice among the addresses.
    hosts: RefCell<BTreeMap<usize, Resolved>>,
    /// Faults during which the name does not resolve.
    dns_failures: Cell<u32>,
}

struct Resolved {
    zones: Vec<usize>,
    at: Instant,
    next: usize,
}

/// The load balancer's address in one availability zone.
#[derive(Default)]
struct Zone {
    /// Faults during which it does not answer.
    losses: Cell<u32>,
    /// When the latest loss of it began; what was open then is gone.
    lost_at: Cell<Option<Duration>>,
}

impl Zone {
    fn is_lost(&self) -> bool {
        self.losses.get() > 0
    }
}

struct Target {
    /// From KMS to the proxy.
    path: Link,
    /// From the load balancer to the proxy, for its checks.
    check_path: Link,
    zone: usize,
    healthy: Cell<bool>,
    /// False while it is draining or gone.
    registered: Cell<bool>,
    /// When its connections were last terminated; those opened before are given up.
    terminated_at: Cell<Option<Duration>>,
}

impl Target {
    fn serves(&self) -> bool {
        self.registered.get() && self.healthy.get()
    }

    /// How long a word of the load balancer's own takes from KMS and back, without jitter; `None` where none passes. A
    /// partition that its checks do not feel lies in front of it.
    fn round_trip_in_front(&self) -> Option<Duration> {
        let cut = |link: &Link| link.is_cut(Way::There) || link.is_cut(Way::Back);
        (!cut(&self.path) || cut(&self.check_path)).then(|| self.path.round_trip())
    }
}

impl Balancer {
    /// `paths` from KMS to each proxy, `check_paths` from the load balancer to each; proxy *i* stands in zone *i* modulo
    /// `zones`.
    pub fn new(
        network: Network,
        paths: Vec<Link>,
        check_paths: Vec<Link>,
        zones: usize,
        settings: LoadBalancerFile,
    ) -> Self {
        let targets = paths.into_iter().zip(check_paths).enumerate().map(|(index, (path, check_path))| {
            Rc::new(Target {
                path,
                check_path,
                zone: index % zones.max(1),
                healthy: Cell::new(true),
                registered: Cell::new(true),
                terminated_at: Cell::new(None),
            })
        });
        Self {
            network,
            targets: targets.collect(),
            zones: (0..zones.max(1)).map(|_| Rc::default()).collect(),
            settings,
            next: Cell::new(0),
            hosts: RefCell::default(),
            dns_failures: Cell::new(0),
        }
    }

    /// Checks every target for ever, each in a task of its own.
    pub fn start_checks(self: &Rc<Self>) {
        for index in 0..self.targets.len() {
            let balancer = Rc::clone(self);
            tokio::task::spawn_local(async move { balancer.check(index).await });
        }
    }

    fn check_interval(&self) -> Duration {
        Duration::from_secs_f64(self.settings.check_interval_s)
    }

    fn check_timeout(&self) -> Duration {
        Duration::from_secs_f64(self.settings.check_timeout_s).min(self.check_interval())
    }

    async fn check(&self, index: usize) {
        let Some(target) = self.targets.get(index) else { return };
        let (interval, patience) = (self.check_interval(), self.check_timeout());
        let (mut passed, mut failed) = (0_u32, 0_u32);
        let mut next = Instant::now();
        loop {
            // On the beat, however long the last one took.
            next += interval;
            tokio::time::sleep_until(next).await;
            let connect = self.network.connect(index, target.check_path.clone());
            let alive = matches!(tokio::time::timeout(patience, connect).await, Ok(Ok(_)));
            (passed, failed) = if alive { (passed + 1, 0) } else { (0, failed + 1) };
            if failed >= self.settings.unhealthy_after {
                // The last to turn unhealthy makes the load balancer fail open instead, and keeps its connections.
                if target.healthy.replace(false)
                    && self.settings.terminate_unhealthy
                    && self.targets.iter().any(|other| other.serves())
                {
                    target.terminated_at.set(Some(self.network.clock().now()));
                }
            } else if passed >= self.settings.healthy_after {
                target.healthy.set(true);
            }
        }
    }

    /// Takes a target out: it gets no new connections, and keeps those it has.
    pub fn deregister(&self, index: usize) {
        if let Some(target) = self.targets.get(index) {
            target.registered.set(false);
        }
    }

    /// Puts a target in. It gets connections once it has passed its checks.
    pub fn register(&self, index: usize) {
        if let Some(target) = self.targets.get(index)
            && !target.registered.replace(true)
        {
            target.healthy.set(false);
        }
    }

    /// Whether a target passes its checks.
    pub fn is_healthy(&self, index: usize) -> bool {
        self.targets.get(index).is_some_and(|target| target.serves())
    }

    /// The name does not resolve from now on. Failures add up.
    pub fn fail_dns(&self) {
        self.dns_failures.update(|failures| failures + 1);
    }

    /// Ends one failure of the name.
    pub fn restore_dns(&self) {
        self.dns_failures.update(|failures| failures.saturating_sub(1));
    }

    /// The address in this zone does not answer from now on, and the connections through it are lost. Losses add up.
    pub fn lose_zone(&self, zone: usize) {
        if let Some(zone) = self.zones.get(zone) {
            if !zone.is_lost() {
                zone.lost_at.set(Some(self.network.clock().now()));
            }
            zone.losses.update(|losses| losses + 1);
        }
    }

    /// Ends one loss of the zone.
    pub fn restore_zone(&self, zone: usize) {
        if let Some(zone) = self.zones.get(zone) {
            zone.losses.update(|losses| losses.saturating_sub(1));
        }
    }

    /// Whether the address in a lost zone has not answered for as long as it takes to notice: AWS publishes no time for
    /// it, and the longest that the checks of a target take stands in.
    fn is_known_lost(&self, zone: &Zone) -> bool {
        let noticed_after = self.check_interval() * self.settings.unhealthy_after + self.check_timeout();
        let since = |at: Duration| self.network.clock().now().saturating_sub(at);
        zone.is_lost() && zone.lost_at.get().is_some_and(|at| since(at) >= noticed_after)
    }

    /// What DNS answers now: the zones with a healthy target, or all when there is none.
    fn zones_in_dns(&self) -> Vec<usize> {
        let serves = |(index, zone): &(usize, &Rc<Zone>)| {
            let in_reach = |target: &Rc<Target>| self.settings.cross_zone || target.zone == *index;
            !self.is_known_lost(zone) && self.targets.iter().any(|target| in_reach(target) && target.serves())
        };
        let serving: Vec<usize> =
            self.zones.iter().enumerate().filter(serves).map(|(index, _)| index).collect();
        if serving.is_empty() { (0..self.zones.len()).collect() } else { serving }
    }

    /// The zone that this KMS host connects to next.
    fn resolve(&self, kms_host: usize) -> io::Result<usize> {
        let mut hosts = self.hosts.borrow_mut();
        let ttl = Duration::from_secs_f64(self.settings.dns_ttl_s);
        let stale = hosts.get(&kms_host).is_none_or(|resolved| resolved.at.elapsed() >= ttl);
        if stale {
            if self.dns_failures.get() > 0 {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the name does not resolve"));
            }
            let next = hosts.get(&kms_host).map_or(kms_host, |resolved| resolved.next);
            let resolved = Resolved { zones: self.zones_in_dns(), at: Instant::now(), next };
            hosts.insert(kms_host, resolved);
        }
        let resolved = hosts.get_mut(&kms_host).ok_or(io::ErrorKind::NotFound)?;
        let zone = resolved.zones.get(resolved.next % resolved.zones.len().max(1)).copied();
        resolved.next = resolved.next.wrapping_add(1);
        zone.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The target of the next connection to the address in this zone: the next healthy one, or the next of all.
    fn pick(&self, zone: usize) -> Option<(usize, &Rc<Target>)> {
        let in_reach =
            |target: &Target| target.registered.get() && (self.settings.cross_zone || target.zone == zone);
        let any_healthy = self.targets.iter().any(|target| in_reach(target) && target.healthy.get());
        for _ in 0..self.targets.len() {
            let index = self.next.get() % self.targets.len();
            self.next.set(index + 1);
            if let Some(target) = self.targets.get(index)
                && in_reach(target)
                && (target.healthy.get() || !any_healthy)
            {
                return Some((index, target));
            }
        }
        None
    }

    /// What KMS hears where there is no target: a reset, a round trip later.
    async fn refuse(&self) -> io::Error {
        match self.targets.first().and_then(|target| target.round_trip_in_front()) {
            Some(round_trip) => self.network.clock().sleep(round_trip).await,
            None => std::future::pending().await,
        }
        io::ErrorKind::ConnectionRefused.into()
    }
}

impl Dial for Balancer {
    fn connect<'a>(&'a self, kms_host: usize) -> LocalFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let number = self.resolve(kms_host)?;
            let zone = self.zones.get(number).ok_or(io::ErrorKind::NotFound)?;
            if zone.is_lost() {
                // Nobody is there to refuse it.
                return std::future::pending().await;
            }
            let Some((index, target)) = self.pick(number) else {
                return Err(self.refuse().await);
            };
            let opened = self.network.clock().now();
            let stream = self.network.connect(index, target.path.clone()).await?;
            Ok(Box::new(Flow {
                clock: self.network.clock().clone(),
                stream,
                target: Rc::clone(target),
                entry: Rc::clone(zone),
                opened,
                active: self.network.clock().now(),
                idle_timeout: Duration::from_secs_f64(self.settings.idle_timeout_s),
                gone: None,
                reset_at: None,
            }) as Box<dyn Io>)
        })
    }
}

/// A connection that the load balancer passes through.
struct Flow {
    clock: Clock,
    stream: Stream,
    target: Rc<Target>,
    /// The zone whose address it came in by.
    entry: Rc<Zone>,
    /// When it began to be opened.
    opened: Duration,
    /// When a byte last went through it.
    active: Duration,
    idle_timeout: Duration,
    /// Since when the load balancer knows nothing of it.
    gone: Option<Duration>,
    /// When the reset arrives that answers what was sent on it since.
    reset_at: Option<Duration>,
}

impl Flow {
    /// Whether what the ends send no longer gets through; a FIN or a reset of the proxy's that had arrived before counts.
    fn is_gone(&mut self) -> bool {
        if self.gone.is_none() {
            let later = |at: &Duration| *at >= self.opened;
            let forgotten = Some(self.active + self.idle_timeout).filter(|at| *at <= self.clock.now());
            let ends = [self.entry.lost_at.get(), self.target.terminated_at.get()];
            self.gone = ends.into_iter().flatten().filter(later).chain(forgotten).min();
        }
        self.gone.is_some_and(|at| !self.stream.is_over_by(at))
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Nor does its FIN get through.
        if self.is_gone() {
            self.stream.vanish();
        }
    }
}

impl AsyncRead for Flow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_gone() {
            return match self.reset_at {
                Some(at) if at <= self.clock.now() => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Some(at) => {
                    self.clock.wake_at(at, context.waker().clone());
                    Poll::Pending
                }
                None => Poll::Pending,
            };
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.active = self.clock.now();
        }
        read
    }
}

impl AsyncWrite for Flow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let now = self.clock.now();
        if self.is_gone() {
            if self.reset_at.is_some_and(|at| at <= now) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if self.reset_at.is_none() && !self.entry.is_lost() {
                self.reset_at = self.target.round_trip_in_front().map(|round_trip| now + round_trip);
            }
            // It has left; the reset is what comes back, if anything does.
            return Poll::Ready(Ok(data.len()));
        }
        self.active = now;
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_gone() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
