//! The sections of a scenario file that say what there is: topology, load balancer, proxies and HSMs.
//!
//! Place on the map: read by [`checker`](super::checker), which also looks at every range; built by
//! [`world`](crate::world).

use serde::Deserialize;

/// The `[topology]` section.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topology {
    /// Proxies behind the endpoint, 1 to 16. Default 2.
    pub proxies: usize,
    /// HSMs, 1 to 16, with the same keys. Proxy *i* uses HSM *i* modulo this. Default 2.
    pub hsms: usize,
    /// HSMs that each proxy uses, 1 to 10 and at most `hsms`: proxy *i* fails over between HSM *i* and those that follow.
    /// Default 1.
    pub hsms_per_proxy: usize,
    /// TLS between KMS and the proxies. Default 1.3, as KMS would choose.
    pub tls: TlsVersion,
    /// Availability zones, 1 to 6 and at most `proxies`: proxy *i* and HSM *i* stand in zone *i* modulo this, and the load balancer has an address
    /// in each. Default 1.
    pub zones: usize,
}

impl Default for Topology {
    fn default() -> Self {
        Self { proxies: 2, hsms: 2, hsms_per_proxy: 1, tls: TlsVersion::V13, zones: 1 }
    }
}

/// TLS between KMS and the proxies.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub enum TlsVersion {
    /// Plain HTTP.
    #[serde(rename = "off")]
    Off,
    /// TLS 1.2: one round trip more than 1.3 for a new connection.
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    V13,
}

/// The `[load_balancer]` section: a Network Load Balancer of AWS in front of the proxies. Its facts are those of AWS's
/// *User Guide for Network Load Balancers*. Defaults are AWS's, but for the checks: AWS checks every 30 s and lets a target
/// in after 5; whoever runs a proxy with 250 ms to spare sets both lower.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoadBalancerFile {
    /// How often each proxy is checked by a TCP connection, 1 to 300 s. Default 10; AWS's is 30.
    pub check_interval_s: f64,
    /// How long a check waits for its connection, 1 to 120 s and at most `check_interval_s`. Default 10, or
    /// `check_interval_s` where that is less.
    pub check_timeout_s: f64,
    /// Checks failed in a row before a proxy gets no new connections, 1 to 10. Default 2.
    pub unhealthy_after: u32,
    /// Checks passed in a row before it gets them again, 1 to 10. Default 2; AWS's is 5.
    pub healthy_after: u32,
    /// Whether the address in one zone sends to proxies in every zone. Default false.
    pub cross_zone: bool,
    /// Whether open connections to a proxy that turns unhealthy are terminated, unless no other is healthy: the next byte on
    /// one is answered with a reset. Default true.
    pub terminate_unhealthy: bool,
    /// After so long without a byte a connection is forgotten, and the next byte on it answered with a reset; 60 to 6,000 s.
    /// Default 350.
    pub idle_timeout_s: f64,
    /// How long a KMS host keeps to the addresses that DNS gave it, 0 to 3,600 s. Default 60, the TTL of the load
    /// balancer's name.
    pub dns_ttl_s: f64,
}

impl Default for LoadBalancerFile {
    fn default() -> Self {
        Self {
            check_interval_s: 10.0,
            check_timeout_s: 10.0,
            unhealthy_after: 2,
            healthy_after: 2,
            cross_zone: false,
            terminate_unhealthy: true,
            idle_timeout_s: 350.0,
            dns_ttl_s: 60.0,
        }
    }
}

/// The `[proxy]` section: limits of each proxy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyFile {
    /// A request is answered within this time, 10 to 10,000 ms and at most `patience_ms` in `[kms]`. Default 150.
    pub deadline_ms: f64,
    /// Requests worked on at once, 1 to 65,536. Default 256.
    pub in_flight_max: usize,
    /// Connections open at once, 1 to 65,536. Default 1,024.
    pub connections_max: usize,
    /// Processor cores of each proxy, 1 to 64. Default 2.
    pub cores: usize,
    /// Processor time of one request, 0 to 1,000,000 µs; 0 models no processor. Default 50, as measured with this proxy
    /// over SoftHSM2 (`benches/README.md`).
    pub cpu_request_us: f64,
    /// Processor time of one TLS handshake, 0 to 1,000,000 µs. Default 500.
    pub cpu_handshake_us: f64,
    /// Whether the proxies' own volumes are encrypted under a key of the key store that they serve: a proxy that has
    /// stopped then starts only when another serves that key. Default false.
    pub volume_under_own_key: bool,
    /// Days that the proxies' TLS certificate is valid from the start of the run, 1 to 3,650. Default 90.
    pub certificate_days: u32,
}

impl Default for ProxyFile {
    fn default() -> Self {
        Self {
            deadline_ms: 150.0,
            in_flight_max: 256,
            connections_max: 1_024,
            cores: 2,
            cpu_request_us: 50.0,
            cpu_handshake_us: 500.0,
            volume_under_own_key: false,
            certificate_days: 90,
        }
    }
}

/// The `[hsm]` section: the capacity of each HSM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HsmFile {
    /// Median of the lognormal service time of one AES-GCM operation, 0.001 to 10,000 ms; network to the HSM included
    /// unless there is an `[hsm_link]`. Default 3.
    pub service_ms: f64,
    /// Shape of that distribution (standard deviation of its logarithm), 0 to 3. Default 0.25.
    pub service_sigma: f64,
    /// Operations worked on at once, 1 to 1,024. Default 16.
    pub parallel_max: usize,
    /// PKCS#11 sessions, 1 to 65,536: operations queued or worked on. Default 64.
    pub sessions_max: usize,
}

impl Default for HsmFile {
    fn default() -> Self {
        Self { service_ms: 3.0, service_sigma: 0.25, parallel_max: 16, sessions_max: 64 }
    }
}
