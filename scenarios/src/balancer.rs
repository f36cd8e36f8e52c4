//! The endpoint that KMS connects to: a Network Load Balancer of AWS, and the DNS that names it.
//!
//! Place on the map: between the KMS model and the proxies. It passes TCP through, checks its targets by TCP connections,
//! has an address in each availability zone, takes the address of a zone without a healthy target out of DNS, and sends
//! to all targets when none is healthy (fail-open). Facts: AWS, *User Guide for Network Load Balancers* (target group
//! health, target health state actions, connection idle timeout, cross-zone load balancing).

use crate::kms::LocalFuture;
use crate::kms::client::{Dial, Io};
use crate::net::link::Link;
use crate::net::tcp::{Network, Stream};
use crate::scenario::LoadBalancerFile;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// The load balancer and its name.
pub struct Balancer {
    network: Network,
    targets: Vec<Rc<Target>>,
    zones: usize,
    settings: LoadBalancerFile,
    /// The next target, for all connections together.
    next: Cell<usize>,
    /// What each KMS host has resolved, and its next choice among the addresses.
    hosts: RefCell<BTreeMap<usize, Resolved>>,
    /// Faults during which the name does not resolve.
    dns_failures: Cell<u32>,
    /// Faults by zone during which its address does not answer.
    zones_lost: RefCell<BTreeMap<usize, u32>>,
}

struct Resolved {
    zones: Vec<usize>,
    at: Instant,
    next: usize,
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
    /// The open connections to it, and who waits on each.
    flows: RefCell<BTreeMap<u64, Option<Waker>>>,
    next_flow: Cell<u64>,
}

impl Target {
    /// Forgets every connection: what comes on one of them is answered with a reset.
    fn reset_flows(&self) {
        let flows = std::mem::take(&mut *self.flows.borrow_mut());
        flows.into_values().flatten().for_each(Waker::wake);
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
                flows: RefCell::default(),
                next_flow: Cell::new(0),
            })
        });
        Self {
            network,
            targets: targets.collect(),
            zones: zones.max(1),
            settings,
            next: Cell::new(0),
            hosts: RefCell::default(),
            dns_failures: Cell::new(0),
            zones_lost: RefCell::default(),
        }
    }

    /// Checks every target for ever, each in a task of its own.
    pub fn start_checks(self: &Rc<Self>) {
        for index in 0..self.targets.len() {
            let balancer = Rc::clone(self);
            tokio::task::spawn_local(async move { balancer.check(index).await });
        }
    }

    async fn check(&self, index: usize) {
        let Some(target) = self.targets.get(index) else { return };
        let interval = Duration::from_secs_f64(self.settings.check_interval_s);
        let (mut passed, mut failed) = (0_u32, 0_u32);
        loop {
            tokio::time::sleep(interval).await;
            let connect = self.network.connect(index, target.check_path.clone());
            let alive = matches!(tokio::time::timeout(interval, connect).await, Ok(Ok(_)));
            (passed, failed) = if alive { (passed + 1, 0) } else { (0, failed + 1) };
            if failed >= self.settings.unhealthy_after {
                if target.healthy.replace(false) && self.settings.terminate_unhealthy {
                    target.reset_flows();
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
        self.targets.get(index).is_some_and(|target| target.registered.get() && target.healthy.get())
    }

    /// The name does not resolve from now on. Failures add up.
    pub fn fail_dns(&self) {
        self.dns_failures.update(|failures| failures + 1);
    }

    /// Ends one failure of the name.
    pub fn restore_dns(&self) {
        self.dns_failures.update(|failures| failures.saturating_sub(1));
    }

    /// The address in this zone does not answer from now on, and its connections are gone. Losses add up.
    pub fn lose_zone(&self, zone: usize) {
        *self.zones_lost.borrow_mut().entry(zone).or_default() += 1;
        self.targets.iter().filter(|target| target.zone == zone).for_each(|target| target.reset_flows());
    }

    /// Ends one loss of the zone.
    pub fn restore_zone(&self, zone: usize) {
        if let Some(losses) = self.zones_lost.borrow_mut().get_mut(&zone) {
            *losses = losses.saturating_sub(1);
        }
    }

    fn is_lost(&self, zone: usize) -> bool {
        self.zones_lost.borrow().get(&zone).is_some_and(|losses| *losses > 0)
    }

    /// What DNS answers now: the zones with a healthy target, or all when there is none.
    fn zones_in_dns(&self) -> Vec<usize> {
        let serves = |zone: usize| {
            let healthy = |target: &&Rc<Target>| {
                target.registered.get()
                    && target.healthy.get()
                    && (self.settings.cross_zone || target.zone == zone)
            };
            !self.is_lost(zone) && self.targets.iter().any(|target| healthy(&target))
        };
        let serving: Vec<usize> = (0..self.zones).filter(|zone| serves(*zone)).collect();
        if serving.is_empty() { (0..self.zones).collect() } else { serving }
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
}

impl Dial for Balancer {
    fn connect<'a>(&'a self, kms_host: usize) -> LocalFuture<'a, io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let zone = self.resolve(kms_host)?;
            if self.is_lost(zone) {
                // Nobody is there to refuse it.
                return std::future::pending().await;
            }
            let Some((index, target)) = self.pick(zone) else {
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            let stream = self.network.connect(index, target.path.clone()).await?;
            let idle_timeout = Duration::from_secs_f64(self.settings.idle_timeout_s);
            Ok(Box::new(Flow::new(stream, Rc::clone(target), idle_timeout)) as Box<dyn Io>)
        })
    }
}

/// A connection that the load balancer passes through.
struct Flow {
    stream: Stream,
    target: Rc<Target>,
    number: u64,
    /// When a byte last went through it.
    active: Instant,
    idle_timeout: Duration,
}

impl Flow {
    fn new(stream: Stream, target: Rc<Target>, idle_timeout: Duration) -> Self {
        let number = target.next_flow.get();
        target.next_flow.set(number + 1);
        target.flows.borrow_mut().insert(number, None);
        Self { stream, target, number, active: Instant::now(), idle_timeout }
    }

    fn is_known(&self) -> bool {
        self.target.flows.borrow().contains_key(&self.number)
    }

    /// Whoever sends on a connection that was idle for too long learns that it is gone.
    fn touch(&mut self) {
        if self.active.elapsed() >= self.idle_timeout {
            self.target.flows.borrow_mut().remove(&self.number);
        }
        self.active = Instant::now();
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.target.flows.borrow_mut().remove(&self.number);
    }
}

impl AsyncRead for Flow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_known() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_pending() {
            if let Some(waiting) = self.target.flows.borrow_mut().get_mut(&self.number) {
                match waiting {
                    Some(waker) if waker.will_wake(context.waker()) => {}
                    _ => *waiting = Some(context.waker().clone()),
                }
            }
        } else if buffer.filled().len() > before {
            self.active = Instant::now();
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
        if !self.is_known() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        self.touch();
        if !self.is_known() {
            // It has left; the reset is what comes back.
            return Poll::Ready(Ok(data.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
