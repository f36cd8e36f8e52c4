//! Faults on the timeline of a scenario: what each is, in words and as a change of the world.
//!
//! Place on the map: parsed by [`scenario`](crate::scenario), switched on and off by [`world`](crate::world).

use crate::net::fault::{LinkFault, Ways};
use std::time::Duration;

/// One fault: from when to when, and what.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// When it begins.
    pub from: Duration,
    /// When it ends; `None` lasts to the end of the run. It is lifted then, after the last new request: the final check
    /// (X9, what was encrypted still decrypts) is of the world after every fault.
    pub to: Option<Duration>,
    /// How long it takes to grow to its full strength, in equal steps; zero is there at once.
    pub ramp: Duration,
    /// What goes wrong.
    pub kind: FaultKind,
}

/// What happens to a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LinkChange {
    /// Nothing passes, and nobody is told.
    Cut(Ways),
    /// The round trip takes so much longer.
    Delay(Duration),
    /// This share of segments is lost, besides those the link loses anyway.
    Loss(f64),
    /// No more than so many bits per second pass each way.
    Bandwidth(u64),
    /// This share of segments arrives twice.
    Duplication(f64),
    /// This share of segments arrives late, behind those sent after it.
    Reordering(f64),
    /// A firewall forgets connections that carried nothing for so long: what comes later vanishes.
    IdleDrop(Duration),
    /// A middlebox resets every connection that carries something.
    Reset,
    /// New connections are refused.
    Refused,
    /// New connections get no answer; those that are open go on.
    SynDrop,
}

/// What goes wrong. Numbers count from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// The HSMs do what this says.
    Hsm {
        /// Which.
        hsms: Vec<usize>,
        /// What.
        fault: HsmFault,
    },
    /// The links from every proxy to these HSMs change.
    HsmLink {
        /// Which HSMs.
        hsms: Vec<usize>,
        /// How.
        change: LinkChange,
    },
    /// The links between KMS and these proxies change.
    Link {
        /// Which proxies.
        proxies: Vec<usize>,
        /// How.
        change: LinkChange,
    },
    /// The name of the endpoint does not resolve; addresses that KMS hosts still know stay good for their TTL.
    DnsFailure,
    /// The proxy processes die at the beginning and are started again at the end.
    ProxyCrash {
        /// Which.
        proxies: Vec<usize>,
    },
    /// The proxy processes are asked to stop, drain, and are started again at the end.
    ProxyRestart {
        /// Which.
        proxies: Vec<usize>,
    },
    /// One proxy after another is taken out of the load balancer, stopped and started again, for as long as the fault lasts.
    RollingDeploy {
        /// How long each proxy is away.
        restart: Duration,
        /// How long before that it gets no new connections; zero: it is never taken out.
        drain: Duration,
    },
    /// The proxy processes get so little processor time that everything they do takes longer.
    ProxyStarved {
        /// Which.
        proxies: Vec<usize>,
        /// How many times as long.
        factor: f64,
    },
    /// The owner stops every proxy on purpose, draining them, and starts them again at the end.
    KillSwitch,
    /// The clocks of these proxies are wrong.
    ClockSkew {
        /// Which.
        proxies: Vec<usize>,
        /// By how many seconds; negative is slow.
        skew_s: f64,
    },
    /// The proxies' TLS certificate expires at the beginning and is renewed at the end.
    CertificateExpired,
    /// The proxies demand a client certificate, which KMS no longer presents (kms-behaviour 6.4).
    ClientCertificateDemanded,
    /// The credential between KMS and the proxies is changed.
    CredentialRotation {
        /// Whether the proxies accept old and new one while KMS changes over, halfway. Without it the proxies know only the
        /// new one from the beginning on, and KMS is told at the end.
        overlap: bool,
    },
    /// The external key is disabled in every HSM.
    ExternalKeyDisabled,
    /// The external key is destroyed in every HSM, for good.
    ExternalKeyDeleted,
    /// The owner disables the KMS key.
    KmsKeyDisabled,
    /// The owner schedules the deletion of the KMS key, and cancels it at the end.
    KmsKeyPendingDeletion,
    /// The owner disconnects the key store, and connects it again at the end.
    KeyStoreDisconnected,
    /// Another workload under the same key store sends so many requests per second on top.
    QuotaBurst {
        /// Requests per second.
        rate_per_s: f64,
    },
    /// An availability zone is gone: its proxies, its HSMs and its address of the load balancer. Nobody is told: what is sent
    /// there vanishes. Only where no network lies before the HSMs, the proxies' libraries know of their loss at once.
    ZoneLoss {
        /// Which.
        zone: usize,
    },
}

/// What an HSM does wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum HsmFault {
    /// It is gone: every operation fails at once with CKR_DEVICE_REMOVED.
    Down,
    /// It takes longer for each operation that begins.
    Slow {
        /// How many times as long.
        factor: f64,
    },
    /// It answers with a PKCS#11 return value.
    Error {
        /// Its name: `CKR_DEVICE_ERROR`.
        name: String,
        /// Its number.
        ckr: u64,
        /// Share of operations, above 0 to 1.
        rate: f64,
    },
    /// It never answers, and keeps the session of every call.
    Hang,
    /// Somebody else has taken its sessions.
    Sessions {
        /// How many are left.
        sessions_max: usize,
    },
    /// One bit of what encrypt returns is wrong.
    BitFlips {
        /// Share of encryptions, above 0 to 1.
        rate: f64,
    },
}

impl HsmFault {
    /// As the emulated HSM knows it.
    pub fn of_device(&self) -> sim_hsm::Fault {
        match self {
            Self::Down => sim_hsm::Fault::Down,
            Self::Slow { factor } => sim_hsm::Fault::Slow { factor: *factor },
            Self::Error { ckr, rate, .. } => sim_hsm::Fault::Error { ckr: *ckr, rate: *rate },
            Self::Hang => sim_hsm::Fault::Hang,
            Self::Sessions { sessions_max } => sim_hsm::Fault::SessionLimit { sessions_max: *sessions_max },
            Self::BitFlips { rate } => sim_hsm::Fault::BitFlips { rate: *rate },
        }
    }

    fn scaled(&self, share: f64) -> Self {
        match self {
            Self::Slow { factor } => Self::Slow { factor: 1.0 + (factor - 1.0) * share },
            Self::Error { name, ckr, rate } => {
                Self::Error { name: name.clone(), ckr: *ckr, rate: rate * share }
            }
            Self::BitFlips { rate } => Self::BitFlips { rate: rate * share },
            other => other.clone(),
        }
    }
}

impl LinkChange {
    /// As the link knows it.
    pub fn of_link(self) -> LinkFault {
        match self {
            Self::Cut(ways) => LinkFault::Cut(ways),
            Self::Delay(extra) => LinkFault::Delay { ways: Ways::Both, extra: extra / 2 },
            Self::Loss(share) => LinkFault::Loss { ways: Ways::Both, share },
            Self::Bandwidth(bits_per_s) => LinkFault::Bandwidth { ways: Ways::Both, bits_per_s },
            Self::Duplication(share) => LinkFault::Duplication { share },
            Self::Reordering(share) => LinkFault::Reordering { share },
            Self::IdleDrop(idle) => LinkFault::IdleFirewall { idle },
            Self::Reset => LinkFault::Reset { share: 1.0 },
            Self::Refused => LinkFault::Refuse,
            Self::SynDrop => LinkFault::SynDrop,
        }
    }

    fn scaled(self, share: f64) -> Self {
        match self {
            Self::Delay(extra) => Self::Delay(extra.mul_f64(share)),
            Self::Loss(loss) => Self::Loss(loss * share),
            Self::Duplication(part) => Self::Duplication(part * share),
            Self::Reordering(part) => Self::Reordering(part * share),
            other => other,
        }
    }
}

/// Steps in which a fault with a ramp grows.
pub const RAMP_STEPS: u32 = 20;

impl FaultKind {
    /// The same with `share` (0 to 1) of its strength. A fault that knows no more or less is the same at any share.
    pub fn scaled(&self, share: f64) -> Self {
        match self {
            Self::Hsm { hsms, fault } => Self::Hsm { hsms: hsms.clone(), fault: fault.scaled(share) },
            Self::HsmLink { hsms, change } => {
                Self::HsmLink { hsms: hsms.clone(), change: change.scaled(share) }
            }
            Self::Link { proxies, change } => {
                Self::Link { proxies: proxies.clone(), change: change.scaled(share) }
            }
            Self::ProxyStarved { proxies, factor } => {
                Self::ProxyStarved { proxies: proxies.clone(), factor: 1.0 + (factor - 1.0) * share }
            }
            Self::ClockSkew { proxies, skew_s } => {
                Self::ClockSkew { proxies: proxies.clone(), skew_s: skew_s * share }
            }
            Self::QuotaBurst { rate_per_s } => Self::QuotaBurst { rate_per_s: rate_per_s * share },
            other => other.clone(),
        }
    }

    /// Whether it can grow by and by.
    pub fn can_grow(&self) -> bool {
        // A third keeps clear of shares at which two different strengths might look alike.
        *self != self.scaled(1.0 / 3.0)
    }
}

impl Fault {
    /// In words, for the time axis: `both HSMs down`.
    pub fn label(&self, hsms: usize, proxies: usize) -> String {
        let them_hsms = |which: &[usize]| them(which, hsms, "HSM", "HSMs");
        let them_proxies = |which: &[usize]| them(which, proxies, "proxy", "proxies");
        let label = match &self.kind {
            FaultKind::Hsm { hsms: which, fault } => {
                let who = them_hsms(which);
                match fault {
                    HsmFault::Down => format!("{who} down"),
                    HsmFault::Slow { factor } => format!("{who} taking {factor} times as long"),
                    HsmFault::Error { name, rate, .. } => {
                        format!("{who} answering {name} to {} % of calls", rate * 100.0)
                    }
                    HsmFault::Hang => format!("{who} hanging"),
                    HsmFault::Sessions { sessions_max: 1 } => format!("{who} with 1 session left"),
                    HsmFault::Sessions { sessions_max } => format!("{who} with {sessions_max} sessions left"),
                    HsmFault::BitFlips { rate } => {
                        format!("{who} flipping a bit in {} % of encryptions", rate * 100.0)
                    }
                }
            }
            FaultKind::HsmLink { hsms: which, change } => change.label("the proxies", &them_hsms(which)),
            FaultKind::Link { proxies: which, change } => change.label("KMS", &them_proxies(which)),
            FaultKind::DnsFailure => "the endpoint's name does not resolve".into(),
            FaultKind::ProxyCrash { proxies: which } => format!("{} crashed", them_proxies(which)),
            FaultKind::ProxyRestart { proxies: which } => format!("{} restarted", them_proxies(which)),
            FaultKind::RollingDeploy { drain, .. } if drain.is_zero() => {
                "rolling deploy, targets left in the load balancer".into()
            }
            FaultKind::RollingDeploy { .. } => "rolling deploy".into(),
            FaultKind::ProxyStarved { proxies: which, factor } => {
                format!("{} starved of processor time, {factor} times as slow", them_proxies(which))
            }
            FaultKind::KillSwitch => "kill switch: the owner stops every proxy".into(),
            FaultKind::ClockSkew { proxies: which, skew_s } => {
                let off = if *skew_s < 0.0 { "slow" } else { "fast" };
                format!("clock of {} {} s {off}", them_proxies(which), skew_s.abs())
            }
            FaultKind::CertificateExpired => "the proxies' certificate expired".into(),
            FaultKind::ClientCertificateDemanded => "the proxies demand a client certificate".into(),
            FaultKind::CredentialRotation { overlap: true } => {
                "credential rotation, old and new accepted".into()
            }
            FaultKind::CredentialRotation { overlap: false } => {
                "credential rotation, proxies know only the new one".into()
            }
            FaultKind::ExternalKeyDisabled => "external key disabled in the HSMs".into(),
            FaultKind::ExternalKeyDeleted => "external key destroyed in the HSMs".into(),
            FaultKind::KmsKeyDisabled => "KMS key disabled".into(),
            FaultKind::KmsKeyPendingDeletion => "KMS key pending deletion".into(),
            FaultKind::KeyStoreDisconnected => "key store disconnected".into(),
            FaultKind::QuotaBurst { rate_per_s } => {
                format!("{rate_per_s} requests/s more from another workload")
            }
            FaultKind::ZoneLoss { zone } => format!("availability zone {zone} gone"),
        };
        if self.ramp.is_zero() {
            label
        } else {
            format!("{label}, growing over {} s", self.ramp.as_secs_f64())
        }
    }
}

impl LinkChange {
    fn label(self, near: &str, far: &str) -> String {
        match self {
            Self::Cut(Ways::Both) => format!("{near} cut off from {far}"),
            Self::Cut(Ways::There) => format!("nothing from {near} reaches {far}"),
            Self::Cut(Ways::Back) => format!("nothing from {far} reaches {near}"),
            Self::Delay(extra) => format!("{} ms more round trip to {far}", extra.as_secs_f64() * 1_000.0),
            Self::Loss(loss) => format!("{} % loss to {far}", loss * 100.0),
            Self::Bandwidth(bits) => format!("{} kbit/s to {far}", bits / 1_000),
            Self::Duplication(part) => format!("{} % of segments to {far} twice", part * 100.0),
            Self::Reordering(part) => format!("{} % of segments to {far} out of order", part * 100.0),
            Self::IdleDrop(idle) => {
                format!("a firewall to {far} forgets connections idle for {} s", idle.as_secs_f64())
            }
            Self::Reset => format!("connections to {far} reset"),
            Self::Refused => format!("connections to {far} refused"),
            Self::SynDrop => format!("new connections to {far} unanswered"),
        }
    }
}

fn them(which: &[usize], count: usize, one: &str, many: &str) -> String {
    match (which, count) {
        (_, 1) => format!("the {one}"),
        (all, _) if all.len() == count && count == 2 => format!("both {many}"),
        (all, _) if all.len() == count => format!("all {count} {many}"),
        ([single], _) => format!("{one} {single}"),
        (some, _) => {
            let numbers: Vec<String> = some.iter().map(ToString::to_string).collect();
            format!("{many} {}", numbers.join(" and "))
        }
    }
}

/// PKCS#11 return values that a device plausibly answers with (PKCS#11 v3.0, header `pkcs11t.h`).
pub const CKR_NAMES: [(&str, u64); 14] = [
    ("CKR_HOST_MEMORY", 0x02),
    ("CKR_GENERAL_ERROR", 0x05),
    ("CKR_FUNCTION_FAILED", 0x06),
    ("CKR_DEVICE_ERROR", 0x30),
    ("CKR_DEVICE_MEMORY", 0x31),
    ("CKR_DEVICE_REMOVED", 0x32),
    ("CKR_KEY_HANDLE_INVALID", 0x60),
    ("CKR_OBJECT_HANDLE_INVALID", 0x82),
    ("CKR_SESSION_CLOSED", 0xB0),
    ("CKR_SESSION_COUNT", 0xB1),
    ("CKR_SESSION_HANDLE_INVALID", 0xB3),
    ("CKR_TOKEN_NOT_PRESENT", 0xE0),
    ("CKR_USER_NOT_LOGGED_IN", 0x101),
    ("CKR_CRYPTOKI_NOT_INITIALIZED", 0x190),
];

/// The number of a return value, by its name.
pub fn ckr_by_name(name: &str) -> Option<u64> {
    CKR_NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: FaultKind) -> Fault {
        Fault { from: Duration::ZERO, to: None, ramp: Duration::ZERO, kind }
    }

    #[test]
    fn labels_read_as_words() {
        let down = |hsms: &[usize]| fault(FaultKind::Hsm { hsms: hsms.to_vec(), fault: HsmFault::Down });
        assert_eq!(down(&[0, 1]).label(2, 2), "both HSMs down");
        assert_eq!(down(&[1]).label(2, 2), "HSM 1 down");
        assert_eq!(down(&[0]).label(1, 2), "the HSM down");
        assert_eq!(down(&[0, 1, 2]).label(3, 2), "all 3 HSMs down");
        assert_eq!(down(&[0, 2]).label(3, 2), "HSMs 0 and 2 down");
        let mut slow = fault(FaultKind::Link {
            proxies: vec![0, 1],
            change: LinkChange::Delay(Duration::from_millis(90)),
        });
        assert_eq!(slow.label(2, 2), "90 ms more round trip to both proxies");
        slow.ramp = Duration::from_secs(30);
        assert_eq!(slow.label(2, 2), "90 ms more round trip to both proxies, growing over 30 s");
        let cut = fault(FaultKind::HsmLink { hsms: vec![0], change: LinkChange::Cut(Ways::Back) });
        assert_eq!(cut.label(2, 2), "nothing from HSM 0 reaches the proxies");
    }

    #[test]
    fn a_share_of_a_fault_is_weaker_and_the_whole_is_itself() {
        let slow = FaultKind::Hsm { hsms: vec![0], fault: HsmFault::Slow { factor: 41.0 } };
        assert_eq!(slow.scaled(1.0), slow);
        let half = FaultKind::Hsm { hsms: vec![0], fault: HsmFault::Slow { factor: 21.0 } };
        assert_eq!(slow.scaled(0.5), half);
        assert!(slow.can_grow() && FaultKind::QuotaBurst { rate_per_s: 9.0 }.can_grow());
        assert!(!FaultKind::KillSwitch.can_grow());
        assert!(!FaultKind::Link { proxies: vec![], change: LinkChange::Cut(Ways::Both) }.can_grow());
    }
}
