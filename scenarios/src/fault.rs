//! Faults on the timeline of a scenario: what each is, in words and as a change of the world.
//!
//! Place on the map: parsed by [`scenario`](crate::scenario), switched on and off by [`world`](crate::world).

use std::time::Duration;

/// One fault: from when to when, and what.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// When it begins.
    pub from: Duration,
    /// When it ends; `None` lasts to the end of the run. It is lifted then, after the last new request: the final check
    /// (X9, what was encrypted still decrypts) is of the world after every fault.
    pub to: Option<Duration>,
    /// What goes wrong.
    pub kind: FaultKind,
}

/// What goes wrong. Numbers count from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum FaultKind {
    /// The HSMs are gone: every operation fails at once with CKR_DEVICE_REMOVED.
    HsmDown {
        /// Which.
        hsms: Vec<usize>,
    },
    /// The HSMs take longer for each operation that begins.
    HsmSlow {
        /// Which.
        hsms: Vec<usize>,
        /// How many times as long.
        factor: f64,
    },
    /// The HSMs answer with a PKCS#11 return value.
    HsmError {
        /// Which.
        hsms: Vec<usize>,
        /// Its name: `CKR_DEVICE_ERROR`.
        name: String,
        /// Its number.
        ckr: u64,
        /// Share of operations, above 0 to 1.
        rate: f64,
    },
    /// The HSMs never answer, and keep the session of every call.
    HsmHang {
        /// Which.
        hsms: Vec<usize>,
    },
    /// Nothing passes between KMS and these proxies; nobody is told.
    Partition {
        /// Which.
        proxies: Vec<usize>,
    },
    /// The round trip to these proxies takes longer.
    Latency {
        /// Which.
        proxies: Vec<usize>,
        /// By how much, both ways together.
        extra: Duration,
    },
    /// The proxy processes die at the beginning and are started again at the end.
    ProxyCrash {
        /// Which.
        proxies: Vec<usize>,
    },
    /// The owner stops every proxy on purpose, draining them, and starts them again at the end.
    KillSwitch,
}

impl Fault {
    /// In words, for the time axis: `both HSMs down`.
    pub fn label(&self, hsms: usize, proxies: usize) -> String {
        match &self.kind {
            FaultKind::HsmDown { hsms: which } => format!("{} down", them(which, hsms, "HSM", "HSMs")),
            FaultKind::HsmSlow { hsms: which, factor } => {
                format!("{} taking {factor} times as long", them(which, hsms, "HSM", "HSMs"))
            }
            FaultKind::HsmError { hsms: which, name, rate, .. } => {
                format!(
                    "{} answering {name} to {} % of calls",
                    them(which, hsms, "HSM", "HSMs"),
                    rate * 100.0
                )
            }
            FaultKind::HsmHang { hsms: which } => format!("{} hanging", them(which, hsms, "HSM", "HSMs")),
            FaultKind::Partition { proxies: which } => {
                format!("KMS cut off from {}", them(which, proxies, "proxy", "proxies"))
            }
            FaultKind::Latency { proxies: which, extra } => {
                format!(
                    "{} ms more round trip to {}",
                    extra.as_millis(),
                    them(which, proxies, "proxy", "proxies")
                )
            }
            FaultKind::ProxyCrash { proxies: which } => {
                format!("{} crashed", them(which, proxies, "proxy", "proxies"))
            }
            FaultKind::KillSwitch => "kill switch: the owner stops every proxy".into(),
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

    #[test]
    fn labels_read_as_words() {
        let down = |hsms: &[usize]| Fault {
            from: Duration::ZERO,
            to: None,
            kind: FaultKind::HsmDown { hsms: hsms.to_vec() },
        };
        assert_eq!(down(&[0, 1]).label(2, 2), "both HSMs down");
        assert_eq!(down(&[1]).label(2, 2), "HSM 1 down");
        assert_eq!(down(&[0]).label(1, 2), "the HSM down");
        assert_eq!(down(&[0, 1, 2]).label(3, 2), "all 3 HSMs down");
        assert_eq!(down(&[0, 2]).label(3, 2), "HSMs 0 and 2 down");
    }
}
