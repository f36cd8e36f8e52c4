//! The endpoint that KMS connects to: hands each new connection to the next healthy proxy.
//!
//! Place on the map: between the KMS model and the proxies, as AWS's NLB: it passes TCP through, checks its targets by
//! TCP connections, and sends traffic to all of them when none is healthy (fail-open).

use crate::kms::LocalFuture;
use crate::kms::client::{Dial, Io};
use crate::net::link::Link;
use crate::net::tcp::Network;
use crate::scenario::LoadBalancerFile;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// The load balancer.
pub struct Balancer {
    network: Network,
    targets: Vec<Target>,
    next: Cell<usize>,
}

struct Target {
    /// From KMS to the proxy.
    path: Link,
    /// From the load balancer to the proxy, for its checks.
    check_path: Link,
    healthy: Cell<bool>,
}

impl Balancer {
    /// `paths` from KMS to each proxy, `check_paths` from the load balancer to each.
    pub fn new(network: Network, paths: Vec<Link>, check_paths: Vec<Link>) -> Self {
        let targets = paths
            .into_iter()
            .zip(check_paths)
            .map(|(path, check_path)| Target { path, check_path, healthy: Cell::new(true) })
            .collect();
        Self { network, targets, next: Cell::new(0) }
    }

    /// Checks every target for ever, each in a task of its own.
    pub fn start_checks(self: &Rc<Self>, settings: &LoadBalancerFile) {
        for index in 0..self.targets.len() {
            let (balancer, settings) = (Rc::clone(self), settings.clone());
            tokio::task::spawn_local(async move { balancer.check(index, &settings).await });
        }
    }

    async fn check(&self, index: usize, settings: &LoadBalancerFile) {
        let Some(target) = self.targets.get(index) else { return };
        let interval = Duration::from_secs_f64(settings.check_interval_s);
        let (mut passed, mut failed) = (0_u32, 0_u32);
        loop {
            tokio::time::sleep(interval).await;
            let connect = self.network.connect(index, target.check_path.clone());
            let alive = matches!(tokio::time::timeout(interval, connect).await, Ok(Ok(_)));
            (passed, failed) = if alive { (passed + 1, 0) } else { (0, failed + 1) };
            if failed >= settings.unhealthy_after {
                target.healthy.set(false);
            } else if passed >= settings.healthy_after {
                target.healthy.set(true);
            }
        }
    }

    /// The target of the next connection.
    fn pick(&self) -> Option<(usize, &Target)> {
        let none_healthy = self.targets.iter().all(|target| !target.healthy.get());
        for _ in 0..self.targets.len() {
            let index = self.next.get() % self.targets.len();
            self.next.set(index + 1);
            if let Some(target) = self.targets.get(index)
                && (target.healthy.get() || none_healthy)
            {
                return Some((index, target));
            }
        }
        None
    }
}

impl Dial for Balancer {
    fn connect<'a>(&'a self, _kms_host: usize) -> LocalFuture<'a, std::io::Result<Box<dyn Io>>> {
        Box::pin(async move {
            let Some((index, target)) = self.pick() else {
                return Err(std::io::ErrorKind::NotConnected.into());
            };
            let stream = self.network.connect(index, target.path.clone()).await?;
            Ok(Box::new(stream) as Box<dyn Io>)
        })
    }
}
