//! Whether this proxy should be sent traffic, and why.
//!
//! Place on the map: `/readyz` of `ops`. Red while draining, and when no HSM at all could take a request. A single HSM
//! that is out does not make it red: every proxy has the same HSMs, and taking all proxies out of service would turn a
//! part of an outage into the whole of it.

use crate::hsm::HealthStatus;
use crate::metrics::{HsmSource, Sources};
use std::fmt;

/// What was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// The process is about to end.
    pub draining: bool,
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
    pub fn of(sources: &Sources) -> Self {
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
        Self { draining: sources.app.is_draining(), hsms: sources.hsms.iter().map(check).collect() }
    }

    /// Send traffic.
    pub fn is_ready(&self) -> bool {
        !self.draining && self.hsms.iter().any(|hsm| hsm.usable)
    }
}

/// One line per check and one for all, as the probes of Kubernetes' own servers write them.
impl fmt::Display for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.draining {
            false => writeln!(f, "[+]serving ok")?,
            true => writeln!(f, "[-]serving failed: draining")?,
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

    fn readiness(draining: bool, usable: &[bool]) -> Readiness {
        let check = |(index, usable): (usize, &bool)| Check {
            name: format!("hsm{index}"),
            usable: *usable,
            detail: "1 idle".into(),
        };
        Readiness { draining, hsms: usable.iter().enumerate().map(check).collect() }
    }

    #[test]
    fn one_usable_hsm_is_enough_and_draining_is_not() {
        assert!(readiness(false, &[true]).is_ready());
        assert!(readiness(false, &[false, true]).is_ready());
        assert!(!readiness(false, &[false, false]).is_ready());
        assert!(!readiness(true, &[true, true]).is_ready());
    }

    #[test]
    fn it_says_why() {
        assert_eq!(
            readiness(false, &[true, false]).to_string(),
            "[+]serving ok\n[+]hsm hsm0 ok: 1 idle\n[-]hsm hsm1 failed: 1 idle\nreadyz check passed\n"
        );
        assert!(readiness(true, &[true]).to_string().starts_with("[-]serving failed: draining\n"));
        assert!(readiness(true, &[true]).to_string().ends_with("readyz check failed\n"));
    }
}
