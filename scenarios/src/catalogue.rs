//! The scenarios that come with the program, built into it.
//!
//! Place on the map: `main` looks a name up here before it looks for a file.

/// A scenario of the catalogue.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name: the file's without `.toml`.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

macro_rules! entries {
    ($($name:literal),* $(,)?) => {
        [$(Entry { name: $name, text: include_str!(concat!("../catalogue/", $name, ".toml")) }),*]
    };
}

/// All of them; the first to try comes first, then by what goes wrong.
pub const CATALOGUE: [Entry; 57] = entries![
    "hsm-outage",
    "hsm-failover",
    "hsm-slow",
    "hsm-slowing",
    "hsm-errors",
    "hsm-errors-failover",
    "hsm-hang",
    "hsm-half-lost",
    "hsm-sessions-taken",
    "hsm-bit-flips",
    "hsm-reconnect",
    "hsm-line-cut",
    "hsm-line-slow",
    "partition",
    "one-way-partition",
    "flapping-link",
    "short-blip",
    "packet-loss",
    "bursty-loss",
    "too-far-away",
    "thin-line",
    "out-of-order",
    "idle-firewall",
    "connection-resets",
    "port-closed",
    "syn-drop",
    "dns-failure",
    "proxy-crash",
    "rolling-deploy",
    "rolling-deploy-careless",
    "starved-proxy",
    "zone-loss",
    "circular-dependency",
    "circular-dependency-one-left",
    "credential-rotation",
    "credential-rotation-wrong",
    "clock-skew",
    "certificate-expired",
    "client-certificate-demanded",
    "external-key-disabled",
    "external-key-deleted",
    "kms-key-disabled",
    "kms-key-pending-deletion",
    "key-store-disconnected",
    "kill-switch",
    "quota-burst",
    "quota-above-capacity",
    "quota-as-capacity",
    "handshake-storm",
    "handshake-storm-cured",
    "retry-storm",
    "retry-storm-cured",
    "cold-cache-stampede",
    "cold-cache-stampede-cured",
    "every-service",
    "eight-days",
    "steady",
];

/// The entry of this name.
pub fn find(name: &str) -> Option<Entry> {
    CATALOGUE.into_iter().find(|entry| entry.name == name)
}
