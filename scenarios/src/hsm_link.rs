//! The network between each proxy and its HSMs, where a scenario wants one.
//!
//! Place on the map: binds [`sim_hsm::network`] to the simulated [`net`](crate::net): a server in front of each HSM, and
//! for each process of a proxy a client with the manners of a vendor's library. [`world`](crate::world) builds it for a
//! scenario with a section `[hsm_link]`; without one the HSMs are inside the proxies, as it were, and a call takes no
//! way at all. Faults act on the [`Link`]s.

use crate::net::histogram::Histogram;
use crate::net::link::Link;
use crate::net::settings::{Distribution, LinkFile};
use crate::net::tcp::{Address, Network};
use crate::streams::Streams;
use serde::Deserialize;
use sim_hsm::Control;
use sim_hsm::network::{
    self, ClientSettings, Connect, Endpoint, HaMode, NetworkHsm, Opening, ServerSettings, Transport,
    WhenDown, WhileDisconnected,
};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use xks_proxy::hsm::Hsm;

/// HSMs listen from here on; below it are the proxies.
pub const HSM_ADDRESSES_BEGIN: Address = 1_000_000;

/// The longest of the times that can be set, in milliseconds: ten minutes. A run ends with a check that everything heals,
/// and no library may sleep through it.
const TIME_MAX_MS: u64 = 600_000;

/// The section `[hsm_link]`: a network between proxies and HSMs, and what the vendor's library does on it. What the line is
/// like is said with the keys of `[link]`, from [`LinkFile`]; *there* is to the HSM. The other defaults are those of
/// [`ClientSettings`] and [`ServerSettings`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HsmLinkFile {
    /// Round-trip time between a proxy and an HSM, 0 to 10,000 ms. Default 1: a neighbouring room.
    pub rtt_ms: f64,
    /// Spread of the latency of single packets, 0 to 10,000 ms; what it is depends on `distribution`. Default 0.1.
    pub jitter_ms: f64,
    /// As [`LinkFile::distribution`].
    pub distribution: Distribution,
    /// As [`LinkFile::latency_sigma`].
    pub latency_sigma: f64,
    /// As [`LinkFile::latency_file`].
    pub latency_file: String,
    /// As [`LinkFile::extra_there_ms`].
    pub extra_there_ms: f64,
    /// As [`LinkFile::extra_back_ms`].
    pub extra_back_ms: f64,
    /// As [`LinkFile::loss`].
    pub loss: f64,
    /// As [`LinkFile::loss_there`].
    pub loss_there: f64,
    /// As [`LinkFile::loss_back`].
    pub loss_back: f64,
    /// As [`LinkFile::burst_p`].
    pub burst_p: f64,
    /// As [`LinkFile::burst_r`].
    pub burst_r: f64,
    /// As [`LinkFile::burst_loss_good`].
    pub burst_loss_good: f64,
    /// As [`LinkFile::burst_loss_bad`].
    pub burst_loss_bad: f64,
    /// As [`LinkFile::duplication`].
    pub duplication: f64,
    /// As [`LinkFile::reordering`].
    pub reordering: f64,
    /// As [`LinkFile::reordering_extra_ms`].
    pub reordering_extra_ms: f64,
    /// As [`LinkFile::bandwidth_there_mbps`].
    pub bandwidth_there_mbps: f64,
    /// As [`LinkFile::bandwidth_back_mbps`].
    pub bandwidth_back_mbps: f64,
    /// As [`LinkFile::queue_bytes`].
    pub queue_bytes: u64,
    /// What `latency_file` holds, once read.
    #[serde(skip)]
    pub measured: Option<Arc<Histogram>>,
    /// The library's sessions, each on a connection of its own to each HSM it uses, 1 to 1,024 for each proxy. Default 16.
    pub sessions_max: usize,
    /// Calls that may wait for one of those sessions, 1 to 65,536. Default 64.
    pub queue_max: usize,
    /// How long the library waits for a connection, 1 to 600,000 ms. Default 5,000.
    pub connect_timeout_ms: u64,
    /// How long the library waits for an answer, 1 to 600,000 ms, whatever the proxy's deadline. Default 10,000.
    pub request_timeout_ms: u64,
    /// From a failure to the library's first attempt to reconnect, 1 to 600,000 ms. Default 1,000.
    pub reconnect_initial_ms: u64,
    /// The time between its attempts doubles up to this, at most 600,000 ms. Default 30,000.
    pub reconnect_max_ms: u64,
    /// A connection unused for so long is tried, up to 600,000 ms. Default 60,000; 0 tries none.
    pub probe_interval_ms: u64,
    /// Whether the library itself makes one HSM of those that a proxy uses (`topology.hsms_per_proxy`), and how. Default
    /// off: each is a client of its own, and the proxy's own group chooses among them.
    pub ha_group: HaGroup,
    /// From the failure of a group's member to the next attempt to reach it, and between attempts, 1 to 600,000 ms.
    /// Default 60,000.
    pub recovery_interval_ms: u64,
    /// What the library answers while no HSM is connected. Default `CKR_DEVICE_ERROR`.
    pub while_disconnected: DisconnectedCkr,
    /// What an HSM that is down does with its connections. Default `refuse`.
    pub when_down: DownManner,
    /// How long an HSM keeps a connection that nobody uses, and its session, 1 to 600,000 ms. Default 600,000.
    pub server_idle_timeout_ms: u64,
}

/// Whether and how the library makes one HSM of several.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum HaGroup {
    /// It does not.
    Off,
    /// The first that works does everything.
    ActiveStandby,
    /// Each call goes to the next that works.
    RoundRobin,
}

/// What calls are answered while nothing is connected.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum DisconnectedCkr {
    /// The device has failed.
    #[serde(rename = "CKR_DEVICE_ERROR")]
    DeviceError,
    /// There is no device.
    #[serde(rename = "CKR_TOKEN_NOT_PRESENT")]
    TokenNotPresent,
}

/// What an HSM that is down looks like from outside; see [`WhenDown`].
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum DownManner {
    /// Every request is answered `CKR_DEVICE_REMOVED`.
    Answer,
    /// Connections are closed, new ones refused.
    Refuse,
    /// Connections are taken, and nothing is answered.
    Silent,
}

impl Default for HsmLinkFile {
    fn default() -> Self {
        let line = LinkFile::default();
        Self {
            rtt_ms: 1.0,
            jitter_ms: 0.1,
            distribution: line.distribution,
            latency_sigma: line.latency_sigma,
            latency_file: line.latency_file,
            extra_there_ms: line.extra_there_ms,
            extra_back_ms: line.extra_back_ms,
            loss: line.loss,
            loss_there: line.loss_there,
            loss_back: line.loss_back,
            burst_p: line.burst_p,
            burst_r: line.burst_r,
            burst_loss_good: line.burst_loss_good,
            burst_loss_bad: line.burst_loss_bad,
            duplication: line.duplication,
            reordering: line.reordering,
            reordering_extra_ms: line.reordering_extra_ms,
            bandwidth_there_mbps: line.bandwidth_there_mbps,
            bandwidth_back_mbps: line.bandwidth_back_mbps,
            queue_bytes: line.queue_bytes,
            measured: None,
            sessions_max: 16,
            queue_max: 64,
            connect_timeout_ms: 5_000,
            request_timeout_ms: 10_000,
            reconnect_initial_ms: 1_000,
            reconnect_max_ms: 30_000,
            probe_interval_ms: 60_000,
            ha_group: HaGroup::Off,
            recovery_interval_ms: 60_000,
            while_disconnected: DisconnectedCkr::DeviceError,
            when_down: DownManner::Refuse,
            server_idle_timeout_ms: 600_000,
        }
    }
}

impl HsmLinkFile {
    /// The keys that it shares with the section `[link]`.
    pub fn line(&self) -> LinkFile {
        LinkFile {
            rtt_ms: self.rtt_ms,
            jitter_ms: self.jitter_ms,
            distribution: self.distribution,
            latency_sigma: self.latency_sigma,
            latency_file: self.latency_file.clone(),
            extra_there_ms: self.extra_there_ms,
            extra_back_ms: self.extra_back_ms,
            loss: self.loss,
            loss_there: self.loss_there,
            loss_back: self.loss_back,
            burst_p: self.burst_p,
            burst_r: self.burst_r,
            burst_loss_good: self.burst_loss_good,
            burst_loss_bad: self.burst_loss_bad,
            duplication: self.duplication,
            reordering: self.reordering,
            reordering_extra_ms: self.reordering_extra_ms,
            bandwidth_there_mbps: self.bandwidth_there_mbps,
            bandwidth_back_mbps: self.bandwidth_back_mbps,
            queue_bytes: self.queue_bytes,
            measured: self.measured.clone(),
        }
    }

    /// Looks at every range, and reads the latency file, which is found relative to `directory`. `hsms_per_proxy` is the
    /// topology's.
    ///
    /// # Errors
    /// Begins with the setting that is wrong, and says what would be right.
    pub fn check(&mut self, hsms_per_proxy: usize, directory: &Path) -> Result<(), String> {
        let mut line = self.line();
        line.check(directory)?;
        self.measured = line.measured;
        for (name, value, most) in
            [("sessions_max", self.sessions_max, 1_024), ("queue_max", self.queue_max, 65_536)]
        {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} is between 1 and {most}, not {value}"));
            }
        }
        for (name, value, least) in [
            ("connect_timeout_ms", self.connect_timeout_ms, 1),
            ("request_timeout_ms", self.request_timeout_ms, 1),
            ("reconnect_initial_ms", self.reconnect_initial_ms, 1),
            ("reconnect_max_ms", self.reconnect_max_ms, 1),
            ("probe_interval_ms", self.probe_interval_ms, 0),
            ("recovery_interval_ms", self.recovery_interval_ms, 1),
            ("server_idle_timeout_ms", self.server_idle_timeout_ms, 1),
        ] {
            if !(least..=TIME_MAX_MS).contains(&value) {
                return Err(format!("{name} is between {least} and {TIME_MAX_MS}, not {value}"));
            }
        }
        let (initial, max) = (self.reconnect_initial_ms, self.reconnect_max_ms);
        if max < initial {
            // Begins with the one that is not as it is by default.
            return Err(if max == Self::default().reconnect_max_ms {
                format!(
                    "reconnect_initial_ms is at most reconnect_max_ms, by default {max}, not {initial}: give both"
                )
            } else {
                format!("reconnect_max_ms is at least reconnect_initial_ms = {initial}, not {max}")
            });
        }
        if self.ha_group != HaGroup::Off && hsms_per_proxy < 2 {
            return Err(
                "ha_group needs several HSMs for each proxy: set hsms_per_proxy in [topology] to 2 or more"
                    .into(),
            );
        }
        Ok(())
    }

    fn client(&self) -> ClientSettings {
        ClientSettings {
            sessions_max: self.sessions_max,
            queue_max: self.queue_max,
            connect_timeout: Duration::from_millis(self.connect_timeout_ms),
            request_timeout: Duration::from_millis(self.request_timeout_ms),
            reconnect_initial: Duration::from_millis(self.reconnect_initial_ms),
            reconnect_max: Duration::from_millis(self.reconnect_max_ms),
            probe_interval: Duration::from_millis(self.probe_interval_ms),
            ha_mode: match self.ha_group {
                HaGroup::Off | HaGroup::ActiveStandby => HaMode::ActiveStandby,
                HaGroup::RoundRobin => HaMode::RoundRobin,
            },
            recovery_interval: Duration::from_millis(self.recovery_interval_ms),
            while_disconnected: match self.while_disconnected {
                DisconnectedCkr::DeviceError => WhileDisconnected::DeviceError,
                DisconnectedCkr::TokenNotPresent => WhileDisconnected::TokenNotPresent,
            },
        }
    }

    fn server(&self, sessions_max: usize) -> ServerSettings {
        ServerSettings {
            sessions_max,
            idle_timeout: Duration::from_millis(self.server_idle_timeout_ms),
            when_down: match self.when_down {
                DownManner::Answer => WhenDown::Answer,
                DownManner::Refuse => WhenDown::Refuse,
                DownManner::Silent => WhenDown::Silent,
            },
            ..ServerSettings::default()
        }
    }
}

/// An HSM as it is put on the network: its data door, whatever a test has put around it, and its control door.
pub type Appliance = (Arc<dyn Hsm>, Control);

/// The links between proxies and HSMs, and the servers at their far ends. Dropping it ends the servers.
pub struct HsmLinks {
    network: Network,
    settings: HsmLinkFile,
    /// By proxy, then by HSM.
    links: Vec<Vec<Link>>,
    _servers: JoinSet<()>,
}

impl HsmLinks {
    /// Puts each HSM on the network and draws a link to it from each of `proxies` proxies. `sessions_max` is what one HSM
    /// can have open. Call it inside a [`LocalSet`](tokio::task::LocalSet), which runs the servers.
    pub fn new(
        network: &Network,
        streams: &Streams,
        appliances: Vec<Appliance>,
        proxies: usize,
        sessions_max: usize,
        settings: &HsmLinkFile,
    ) -> Self {
        // A stream of its own for each pair, the same however many there are of the others.
        let link = |proxy: usize, hsm: usize| {
            Link::new(
                settings.line().settings(),
                streams.stream("hsm-link", ((proxy as u64) << 32) | hsm as u64),
            )
        };
        let links =
            (0..proxies).map(|proxy| (0..appliances.len()).map(|hsm| link(proxy, hsm)).collect()).collect();
        let mut servers = JoinSet::new();
        for (index, (hsm, control)) in appliances.into_iter().enumerate() {
            let listening = network.clone();
            let bind = move || listening.listen(HSM_ADDRESSES_BEGIN + index);
            servers.spawn_local(network::serve(bind, hsm, control, settings.server(sessions_max)));
        }
        Self { network: network.clone(), settings: settings.clone(), links, _servers: servers }
    }

    /// The link between a proxy and an HSM.
    pub fn link(&self, proxy: usize, hsm: usize) -> Option<&Link> {
        self.links.get(proxy)?.get(hsm)
    }

    /// Every link, by proxy and then by HSM.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().flatten()
    }

    /// What a process of this proxy loads: a client of each of these HSMs, or one of them all where the library makes a
    /// group. It has no connection yet, and closes its connections when it is dropped.
    ///
    /// # Errors
    /// When a number is of no proxy or HSM, or a setting is out of range.
    pub fn clients(&self, proxy: usize, hsms: &[usize]) -> Result<Vec<Arc<dyn Hsm>>, String> {
        let endpoint = |hsm: &usize| {
            let link = self.link(proxy, *hsm).ok_or_else(|| format!("no HSM {hsm} or no proxy {proxy}"))?;
            let line = Line {
                network: self.network.of_proxy(proxy),
                address: HSM_ADDRESSES_BEGIN + hsm,
                link: link.clone(),
            };
            Ok(Endpoint { name: format!("hsm-{hsm}"), connect: Arc::new(line) })
        };
        let endpoints: Vec<Endpoint> = hsms.iter().map(endpoint).collect::<Result<_, String>>()?;
        let clients: Vec<Vec<Endpoint>> = match self.settings.ha_group {
            HaGroup::Off => endpoints.into_iter().map(|endpoint| vec![endpoint]).collect(),
            HaGroup::ActiveStandby | HaGroup::RoundRobin => vec![endpoints],
        };
        let client = |servers| -> Result<Arc<dyn Hsm>, String> {
            let client = NetworkHsm::new(servers, self.settings.client());
            Ok(Arc::new(client.map_err(|error| error.to_string())?))
        };
        clients.into_iter().map(client).collect()
    }
}

/// The way from one proxy to one HSM.
struct Line {
    network: Network,
    address: Address,
    link: Link,
}

impl Connect for Line {
    fn connect(&self) -> Opening<'_> {
        Box::pin(async {
            let stream = self.network.connect(self.address, self.link.clone()).await?;
            Ok(Box::new(stream) as Box<dyn Transport>)
        })
    }
}

/// How a proxy's process comes by its HSMs.
pub enum HsmDoors {
    /// They are the same for every process, and no network lies between.
    Inside(Vec<Arc<dyn Hsm>>),
    /// Each process has clients of its own.
    Linked {
        /// The network between.
        links: Rc<HsmLinks>,
        /// Which proxy it is.
        proxy: usize,
        /// Its HSMs.
        hsms: Vec<usize>,
    },
}

impl HsmDoors {
    /// The HSMs for a process that starts.
    ///
    /// # Errors
    /// As [`HsmLinks::clients`].
    pub fn open(&self) -> Result<Vec<Arc<dyn Hsm>>, String> {
        match self {
            Self::Inside(hsms) => Ok(hsms.clone()),
            Self::Linked { links, proxy, hsms } => links.clients(*proxy, hsms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_both_sides() {
        let mut file = HsmLinkFile::default();
        assert_eq!(file.client(), ClientSettings::default());
        assert_eq!(file.server(256), ServerSettings::default());
        assert_eq!(file.check(1, Path::new("")), Ok(()));
    }

    #[test]
    fn what_cannot_be_is_named_with_its_remedy() {
        type Change = fn(&mut HsmLinkFile);
        let check = |change: Change, per_proxy| {
            let mut file = HsmLinkFile::default();
            change(&mut file);
            file.check(per_proxy, Path::new(""))
        };
        let changes: [(Change, &str); 9] = [
            (|it| it.loss = 1.1, "loss is between 0 and 1, not 1.1"),
            (|it| it.rtt_ms = f64::NAN, "rtt_ms is between 0 and 10000, not NaN"),
            (|it| it.burst_p = 2.0, "burst_p is between 0 and 1, not 2"),
            (|it| it.distribution = Distribution::Measured, "distribution = \"measured\" needs latency_file"),
            (|it| it.sessions_max = 0, "sessions_max is between 1 and 1024, not 0"),
            (|it| it.request_timeout_ms = 600_001, "request_timeout_ms is between 1 and 600000"),
            (
                |it| it.reconnect_max_ms = 999,
                "reconnect_max_ms is at least reconnect_initial_ms = 1000, not 999",
            ),
            (
                |it| it.reconnect_initial_ms = 60_000,
                "reconnect_initial_ms is at most reconnect_max_ms, by default 30000, not 60000",
            ),
            (|it| it.ha_group = HaGroup::RoundRobin, "ha_group needs several HSMs"),
        ];
        for (change, says) in changes {
            let error = check(change, 1).unwrap_err();
            assert!(error.starts_with(says), "{error}");
        }
        assert_eq!(check(|it| it.ha_group = HaGroup::ActiveStandby, 2), Ok(()));
        assert_eq!(check(|it| it.probe_interval_ms = 0, 1), Ok(()));
    }
}
