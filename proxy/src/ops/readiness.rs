//! Whether this proxy should be sent traffic, and why.
//!
//! Place on the map: `/readyz` of `ops`. Red while draining, and until some HSM could take a request for the first time
//! since the start: a new proxy that reaches no HSM must not replace one that does. From then on HSMs that are out do
//! not make it red. Every proxy has the same HSMs, and load balancers would drop all of them at once: KMS would get
//! connections that fail instead of quick errors and of GetHealthStatus UNAVAILABLE, and when the HSM is back it would
//! wait for the load balancer too. The answer still names each HSM and its state, and alerts tell of an outage.

use crate::hsm::HealthStatus;
use crate::metrics::{HsmSource, Sources};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// How often is looked for the first HSM that is usable.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Whether some HSM could take a request at any time since the start.
#[derive(Debug, Default)]
pub struct EverUsable(AtomicBool);

impl EverUsable {
    /// Looks every second until it has been so. Probes alone would not do: one that comes only now and then could miss
    /// it, and find the HSM out.
    pub(super) async fn watch(&self, sources: &Sources) {
        while !self.look(sources) {
            sleep(LOOK_INTERVAL).await;
        }
    }

    fn look(&self, sources: &Sources) -> bool {
        if !self.0.load(Ordering::Relaxed) && sources.hsms.iter().any(HsmSource::is_usable) {
            self.0.store(true, Ordering::Relaxed);
        }
        self.0.load(Ordering::Relaxed)
    }
}

/// What was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The process is about to end.
    pub draining: bool,
    /// Some HSM could take a request, now or at some time since the start.
    pub ever_usable: bool,
    /// One for each HSM.
    pub hsms: Vec<Check>,
}

/// One HSM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its configured name.
    pub name: String,
    /// Some session of it could take a request now.
    pub usable: bool,
    /// Its sessions in words.
    pub detail: String,
}

impl Readiness {
    /// As things are now.
    pub fn of(sources: &Sources, ever_usable: &EverUsable) -> Self {
        let check = |source: &HsmSource| {
            let stats = source.hsm.stats();
            let health = match source.monitor.status() {
                Some(HealthStatus::Active) => "active",
                Some(HealthStatus::Degraded) => "degraded",
                Some(HealthStatus::Unavailable) => "unavailable",
                None => "not checked yet",
            };
            let detail = format!(
                "{health}; sessions: {} idle, {} in use, {} not open, {} set aside",
                stats.idle, stats.in_use, stats.without_session, stats.set_aside
            );
            Check { name: source.name.clone(), usable: source.is_usable(), detail }
        };
        Self {
            draining: sources.app.is_draining(),
            ever_usable: ever_usable.look(sources),
            hsms: sources.hsms.iter().map(check).collect(),
        }
    }

    /// Send traffic.
    pub fn is_ready(&self) -> bool {
        !self.draining && self.ever_usable
    }
}

/// One line per check and one for all, as the probes of Kubernetes' own servers write them.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.draining {
            false => writeln!(f, "[+]serving ok")?,
            true => writeln!(f, "[-]serving failed: draining")?,
        }
        if !self.ever_usable {
            writeln!(f, "[-]first-hsm failed: none has been usable since the start")?;
        }
        for hsm in &self.hsms {
            let (sign, word) = if hsm.usable { ('+', "ok") } else { ('-', "failed") };
            writeln!(f, "[{sign}]hsm {} {word}: {}", hsm.name, hsm.detail)?;
        }
        writeln!(f, "readyz check {}", if self.is_ready() { "passed" } else { "failed" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readiness(draining: bool, ever_usable: bool, usable: &[bool]) -> Readiness {
        let check = |(index, usable): (usize, &bool)| Check {
            name: format!("hsm{index}"),
            usable: *usable,
            detail: "1 idle".into(),
        };
        Readiness { draining, ever_usable, hsms: usable.iter().enumerate().map(check).collect() }
    }

    #[test]
    fn only_draining_and_a_start_without_any_hsm_are_red() {
        assert!(readiness(false, true, &[true]).is_ready());
        assert!(readiness(false, true, &[false, true]).is_ready());
        assert!(readiness(false, true, &[false, false]).is_ready());
        assert!(!readiness(false, false, &[false, false]).is_ready());
        assert!(!readiness(true, true, &[true, true]).is_ready());
    }

    #[test]
    fn it_says_why() {
        assert_eq!(
            readiness(false, true, &[true, false]).to_string(),
            "[+]serving ok\n[+]hsm hsm0 ok: 1 idle\n[-]hsm hsm1 failed: 1 idle\nreadyz check passed\n"
        );
        assert_eq!(
            readiness(false, false, &[false]).to_string(),
            "[+]serving ok\n[-]first-hsm failed: none has been usable since the start\n\
             [-]hsm hsm0 failed: 1 idle\nreadyz check failed\n"
        );
        assert!(readiness(true, true, &[true]).to_string().starts_with("[-]serving failed: draining\n"));
        assert!(readiness(true, true, &[true]).to_string().ends_with("readyz check failed\n"));
    }
}
