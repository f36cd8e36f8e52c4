//! The proxy's parts, put together: key stores, limits and the doors to the world.
//!
//! Place on the map: `config` (or a scenario) builds an [`App`]; `server` and `http` serve it.

use crate::authorise::Access;
use crate::env::Env;
use crate::events::Subscriber;
use crate::hsm::Hsm;
use crate::key::{KeyId, KeyName, KeyVersion, UriPrefix};
use crate::sigv4::Credential;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// One logical key store: a path prefix with its own credentials, keys and HSM (XKS-NET-6, XKS-AUTH-7).
pub struct KeyStore {
    /// For logs.
    pub name: String,
    /// The path before `/kms/xks/v1`.
    pub prefix: UriPrefix,
    /// The region KMS must sign for; `None` accepts any (XKS-AUTH-1).
    pub region: Option<String>,
    /// Who may sign. Two or more can be live at once (XKS-AUTH-4).
    pub credentials: Vec<Credential>,
    /// Which HSM key stands behind an external key id.
    pub keys: KeyDirectory,
    /// Who may do what (XKS-AZ-1).
    pub access: Access,
    /// Where the keys are.
    pub hsm: Arc<dyn Hsm>,
}

/// Maps external key ids to key objects in the HSM, one per key version.
#[derive(Clone, Debug, Default)]
pub struct KeyDirectory {
    /// Keys with an entry of their own.
    pub entries: BTreeMap<KeyId, KeyEntry>,
    /// What an id without an entry means.
    pub others: OtherKeys,
}

/// What an external key id without an entry in the [`KeyDirectory`] means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtherKeys {
    /// The key object whose `CKA_LABEL` is the id, as version 1.
    #[default]
    ByLabel,
    /// No such key.
    NotFound,
}

/// The versions of one external key.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// The version new ciphertexts are made with.
    pub current: KeyVersion,
    /// Every version that still decrypts, the current one included.
    pub versions: BTreeMap<KeyVersion, KeyName>,
}

impl KeyDirectory {
    /// The version that encrypts now, and its name in the HSM.
    pub fn current(&self, id: &KeyId) -> Option<(KeyVersion, KeyName)> {
        match self.entries.get(id) {
            Some(entry) => entry.versions.get(&entry.current).map(|name| (entry.current, name.clone())),
            None => self.version(id, KeyVersion(1)).map(|name| (KeyVersion(1), name)),
        }
    }

    /// The name in the HSM of one version.
    pub fn version(&self, id: &KeyId, version: KeyVersion) -> Option<KeyName> {
        match (self.entries.get(id), self.others) {
            (Some(entry), _) => entry.versions.get(&version).cloned(),
            (None, OtherKeys::ByLabel) if version == KeyVersion(1) => Some(KeyName::label(id.as_str())),
            (None, _) => None,
        }
    }
}

/// Everything that is bounded. Reaching a limit is answered at once, never waited out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A request is answered within this time after its head has arrived (XKS-TIME-2). Default 150 ms: KMS's 250 ms
    /// less a cold TLS 1.3 set-up at the advised 35 ms round trip.
    pub deadline: Duration,
    /// Requests being worked on at once; one more is answered 429. Default 256.
    pub in_flight_max: usize,
    /// Connections open at once; further ones wait in the kernel's queue. Default 1,024.
    pub connections_max: usize,
    /// Largest request body, before authentication. Default 65,536 bytes (the largest legal request is about 30 KiB).
    pub body_bytes_max: usize,
    /// Largest request head (hyper's read buffer). Default 16,384 bytes.
    pub header_bytes_max: usize,
    /// Most header fields in a request. Default 64.
    pub headers_max: usize,
    /// How long a new connection may take for its TLS handshake. Default 2 s.
    pub handshake_timeout: Duration,
    /// How long a request's head may take to arrive once it has begun. Default 2 s.
    pub head_timeout: Duration,
    /// How long a kept-alive connection may stay idle. Default 75 s.
    pub idle_timeout: Duration,
    /// How long the drain on shutdown may take. Default 5 s.
    pub drain_timeout: Duration,
    /// Largest plaintext or ciphertext; larger is answered 501 (XKS-ENC-8). Default 8,192; the spec asks for at least 4,300.
    pub plaintext_bytes_max: usize,
    /// Largest additional authenticated data. Default 16,384; the spec asks for at least 8,192; 65,535 is representable.
    pub aad_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            deadline: Duration::from_millis(150),
            in_flight_max: 256,
            connections_max: 1_024,
            body_bytes_max: 65_536,
            header_bytes_max: 16_384,
            headers_max: 64,
            handshake_timeout: Duration::from_secs(2),
            head_timeout: Duration::from_secs(2),
            idle_timeout: Duration::from_secs(75),
            drain_timeout: Duration::from_secs(5),
            plaintext_bytes_max: 8_192,
            aad_bytes_max: 16_384,
        }
    }
}

/// What GetHealthStatus says of the proxy itself (XKS-HLT-1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `xksProxyFleetSize`, at least 1.
    pub fleet_size: u32,
    /// `xksProxyVendor`.
    pub vendor: String,
    /// `xksProxyModel`.
    pub model: String,
    /// `ekmVendor`.
    pub ekm_vendor: String,
}

/// The whole proxy, ready to serve.
pub struct App {
    /// The key stores, each prefix once.
    pub stores: Vec<KeyStore>,
    /// Every limit.
    pub limits: Limits,
    /// What GetHealthStatus says of the proxy.
    pub identity: Identity,
    /// Path of the load balancer's health check (XKS-NET-8). Default `/ping`.
    pub ping_path: String,
    /// Wall time and non-secret randomness.
    pub env: Arc<dyn Env>,
    /// Who hears of each request.
    pub subscriber: Arc<dyn Subscriber>,
}
