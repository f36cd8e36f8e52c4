//! The outages that a first scenario can have.

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Outage {
    /// The word for it.
    pub name: &'static str,
    /// The scenario's title.
    pub title: &'static str,
    /// When it strikes and what to look for.
    pub about: &'static str,
    /// What the fault does, as a comment.
    pub what: &'static str,
    /// The lines of its `[[fault]]` but for the times; empty for none.
    pub fault: &'static str,
    /// Proxies that there must be.
    pub proxies_min: usize,
    /// HSMs that there must be.
    pub hsms_min: usize,
    /// The nearest outage where there are fewer.
    pub instead: &'static str,
}

/// All that can be chosen; the first is the proposal.
pub const OUTAGES: [Outage; 13] = [
    Outage {
        name: "hsm-down",
        title: "Our HSMs are gone",
        about: "Power, a firmware update or a wrong firewall rule takes every HSM away. See who fails first, and what caches hide.",
        what: "Every HSM fails every call at once.",
        fault: "kind = \"hsm-down\"",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
    Outage {
        name: "one-hsm-down",
        title: "One of our HSMs is gone",
        about: "One HSM fails. See whether the others take over in time and bear the load.",
        what: "The first HSM fails every call at once.",
        fault: "kind = \"hsm-down\"\ntarget = [0]",
        proxies_min: 1,
        hsms_min: 2,
        instead: "hsm-down",
    },
    Outage {
        name: "hsm-slow",
        title: "Our HSMs are slow",
        about: "A backup, a key ceremony or a neighbour keeps the HSMs busy. Nothing is down, and yet requests fail.",
        what: "Every operation takes so many times as long.",
        fault: "kind = \"hsm-slow\"\nfactor = 20",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
    Outage {
        name: "hsm-hang",
        title: "Our HSMs hang",
        about: "The HSMs accept calls and never answer: worse than being down, for every call holds a session until the proxy gives up.",
        what: "Calls are never answered.",
        fault: "kind = \"hsm-hang\"",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
    Outage {
        name: "partition",
        title: "Our line to AWS is cut",
        about: "A cable, a router or Direct Connect fails, and nothing passes between KMS and the proxies.",
        what: "Nothing passes between KMS and any proxy, and nobody is told.",
        fault: "kind = \"partition\"",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
    Outage {
        name: "packet-loss",
        title: "Our line to AWS loses packets",
        about: "A bad optic or a full line loses one packet in twenty. A lost packet costs at least 200 ms of KMS's 250.",
        what: "This share of packets is lost, there and back.",
        fault: "kind = \"loss\"\nloss = 0.05",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
    Outage {
        name: "latency",
        title: "Our line to AWS takes a detour",
        about: "Traffic takes the backup line, through another country. Everything works, more slowly.",
        what: "The round trip takes so much longer.",
        fault: "kind = \"latency\"\nextra_ms = 60",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
    Outage {
        name: "proxy-crash",
        title: "One of our proxies crashes",
        about: "A proxy's process dies. See how long the load balancer takes to notice, and whether the others bear the load.",
        what: "The first proxy is gone, and started again at the end.",
        fault: "kind = \"proxy-crash\"\ntarget = [0]",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
    Outage {
        name: "kill-switch",
        title: "We stop our proxies on purpose",
        about: "Somebody decides that AWS must not reach the keys any more. See what goes on working, and for how long.",
        what: "Every proxy is stopped, and started again at the end.",
        fault: "kind = \"kill-switch\"",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
    Outage {
        name: "zone-loss",
        title: "A data centre of ours is gone",
        about: "Half of the proxies and HSMs are gone at once. See whether the other half bears the load.",
        what: "Zone 0: its proxies, its HSMs and its address of the load balancer.",
        fault: "kind = \"zone-loss\"\nzone = 0",
        proxies_min: 2,
        hsms_min: 2,
        instead: "kill-switch",
    },
    Outage {
        name: "dns-failure",
        title: "The name of our endpoint does not resolve",
        about: "An expired domain or a broken DNS server. Open connections live on; new ones cannot be made.",
        what: "The endpoint's name does not resolve.",
        fault: "kind = \"dns-failure\"",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
    Outage {
        name: "key-disabled",
        title: "Our external key is disabled in the HSMs",
        about: "Somebody disables the key, by mistake or as a drill.",
        what: "The key is disabled in every HSM.",
        fault: "kind = \"external-key-disabled\"",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
    Outage {
        name: "none",
        title: "An ordinary day of ours",
        about: "Nothing goes wrong: how much of KMS's 250 ms is used, and is there room?",
        what: "",
        fault: "",
        proxies_min: 1,
        hsms_min: 1,
        instead: "",
    },
];
