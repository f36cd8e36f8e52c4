//! The proxy's parts, put together: key stores, limits and the doors to the world.
//!
//! Place on the map: `config` (or a scenario) builds an [`App`]; `server` and `http` serve it.

use crate::admission::{Admission, Share};
use crate::authorise::Access;
use crate::bodies::Bodies;
use crate::env::Env;
use crate::events::Subscriber;
use crate::hsm::Hsm;
use crate::key::{KeyId, KeyName, KeyVersion, UriPrefix};
use crate::quota::Quota;
use crate::scheme::SampleProxy;
use crate::server::Counts;
use crate::sigv4::Credential;
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Set when AWS's sample proxy made ciphertexts for this key store, which then decrypt here (XKS-MIG-1).
    pub sample_proxy: Option<SampleProxy>,
    /// Who may do what (XKS-AZ-1).
    pub access: Access,
    /// How many requests it may make; `None` for as many as there is room for (XKS-NET-6).
    pub quota: Option<Quota>,
    /// How many of its requests are let in whatever the other key stores do. [`App`] deals it out.
    pub share: Share,
    /// Where the keys are.
    pub hsm: Arc<dyn Hsm>,
}

impl KeyStore {
    /// A key store that accepts any region, finds every key by its label, and lets its credentials do everything.
    /// The public fields narrow that.
    pub fn new(
        name: impl Into<String>,
        prefix: UriPrefix,
        credentials: Vec<Credential>,
        hsm: Arc<dyn Hsm>,
    ) -> Self {
        Self {
            name: name.into(),
            prefix,
            region: None,
            credentials,
            keys: KeyDirectory::default(),
            sample_proxy: None,
            access: Access::default(),
            quota: None,
            share: Share::default(),
            hsm,
        }
    }
}

/// Maps external key ids to key objects in the HSM, one per key version.
#[derive(Clone, Debug, Default)]
pub struct KeyDirectory {
    /// Keys with an entry of their own.
    pub entries: BTreeMap<KeyId, KeyEntry>,
    /// What an id without an entry means.
    pub others: OtherKeys,
    /// Labels in the HSM that no id without an entry reaches: the proxy's own keys, which health checks use.
    pub reserved: BTreeSet<String>,
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
        match self.entries.get(id) {
            Some(entry) => entry.versions.get(&version).cloned(),
            None if version == KeyVersion(1) && self.is_found_by_label(id) => {
                Some(KeyName::label(id.as_str()))
            }
            None => None,
        }
    }

    /// Whether the key object whose `CKA_LABEL` is this id stands behind it, without an entry that says so.
    pub fn is_found_by_label(&self, id: &KeyId) -> bool {
        self.others == OtherKeys::ByLabel
            && !self.entries.contains_key(id)
            && !self.reserved.contains(id.as_str())
    }
}

/// Everything that is bounded. Reaching a limit is answered at once, never waited out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A request is answered within this time after its first byte has arrived (XKS-TIME-2); over HTTP/2, whose frames
    /// do not show it, after its head has. Default 150 ms: KMS's 250 ms less a cold TLS 1.3 set-up at the advised 35 ms
    /// round trip.
    pub deadline: Duration,
    /// Requests being worked on at once; one more is answered 429. Half of them is dealt out in equal shares among the
    /// key stores, the rest is for whoever comes first. Default 256.
    pub in_flight_max: usize,
    /// Connections open at once; one more takes the place of the one that has been open longest without an
    /// authenticated request, if longer than `deadline`, or waits until there is room. Default 1,024.
    pub connections_max: usize,
    /// Largest request body, before authentication. Default 65,536 bytes (the largest legal request is about 30 KiB).
    pub body_bytes_max: usize,
    /// Bytes of all request bodies that have arrived and are not parsed yet; beyond it a request is answered 429.
    /// Default 16,777,216.
    pub body_bytes_in_flight_max: usize,
    /// Largest request head (hyper's read buffer). Default 16,384 bytes.
    pub header_bytes_max: usize,
    /// Most header fields in a request. Default 64.
    pub headers_max: usize,
    /// How long a new connection may take for its TLS handshake. Default 2 s.
    pub handshake_timeout: Duration,
    /// How long a request's head may take to arrive once it has begun. Default 2 s.
    pub head_timeout: Duration,
    /// How long a connection that has not carried an authenticated request yet may stay idle. Default 10 s.
    pub first_request_timeout: Duration,
    /// How long any other connection may stay idle. Default 75 s.
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
            body_bytes_in_flight_max: 16_777_216,
            header_bytes_max: 16_384,
            headers_max: 64,
            handshake_timeout: Duration::from_secs(2),
            head_timeout: Duration::from_secs(2),
            first_request_timeout: Duration::from_secs(10),
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

/// What an [`App`] is built from besides its key stores and its doors. All of it stays for the life of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Every limit.
    pub limits: Limits,
    /// What GetHealthStatus says of the proxy.
    pub identity: Identity,
    /// Path of the load balancer's health check (XKS-NET-8). Default `/ping`.
    pub ping_path: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            identity: Identity {
                fleet_size: 1,
                vendor: "xks-proxy".into(),
                model: concat!("xks-proxy ", env!("CARGO_PKG_VERSION")).into(),
                ekm_vendor: "PKCS#11".into(),
            },
            ping_path: "/ping".into(),
        }
    }
}

/// The whole proxy, ready to serve. Build it with [`App::new`].
pub struct App {
    /// Every limit.
    pub limits: Limits,
    /// What GetHealthStatus says of the proxy.
    pub identity: Identity,
    /// Path of the load balancer's health check (XKS-NET-8).
    pub ping_path: String,
    /// Wall time and non-secret randomness.
    pub env: Arc<dyn Env>,
    /// Who hears of each request.
    pub subscriber: Arc<dyn Subscriber>,
    /// How many requests are being worked on.
    pub admission: Admission,
    /// How many bytes of bodies are held.
    pub(crate) bodies: Bodies,
    /// How many connections there are.
    pub connections: Counts,
    stores: ArcSwap<Stores>,
    draining: AtomicBool,
}

/// The key stores by prefix.
type Stores = BTreeMap<String, Arc<KeyStore>>;

/// Two key stores have the same prefix, so a path would not say which one is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicatePrefix {
    /// The prefix that stands twice.
    pub prefix: UriPrefix,
    /// The names of the two key stores.
    pub names: (String, String),
}

impl fmt::Display for DuplicatePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the key stores {:?} and {:?} both have the URI prefix {:?}; give each its own",
            self.names.0,
            self.names.1,
            self.prefix.as_str()
        )
    }
}

impl std::error::Error for DuplicatePrefix {}

impl App {
    /// Puts the parts together.
    ///
    /// # Errors
    /// When two key stores have the same prefix.
    pub fn new(
        settings: Settings,
        stores: Vec<KeyStore>,
        env: Arc<dyn Env>,
        subscriber: Arc<dyn Subscriber>,
    ) -> Result<Self, DuplicatePrefix> {
        let admission = Admission::new(settings.limits.in_flight_max);
        let stores = by_prefix(stores)?;
        admission.deal(stores.values().map(|store| &store.share));
        Ok(Self {
            admission,
            bodies: Bodies::new(settings.limits.body_bytes_in_flight_max),
            limits: settings.limits,
            identity: settings.identity,
            ping_path: settings.ping_path,
            env,
            subscriber,
            connections: Counts::default(),
            stores: ArcSwap::from_pointee(stores),
            draining: AtomicBool::new(false),
        })
    }

    /// Replaces all key stores at once: credentials, keys and policies (XKS-AUTH-4, XKS-AZ-4). A request already
    /// routed finishes with what it began with; no connection is dropped. A key store whose prefix was there before
    /// keeps its place in the house and what is left of its quota, under the new numbers.
    ///
    /// # Errors
    /// When two key stores have the same prefix; then the old ones stay.
    pub fn replace_stores(&self, mut stores: Vec<KeyStore>) -> Result<(), DuplicatePrefix> {
        let before = self.stores.load();
        for store in &mut stores {
            let Some(old) = before.get(store.prefix.as_str()) else { continue };
            store.share = old.share.clone();
            if let (Some(quota), Some(old)) = (&mut store.quota, &old.quota) {
                quota.inherit(old);
            }
        }
        let stores = by_prefix(stores)?;
        self.admission.deal(stores.values().map(|store| &store.share));
        self.stores.store(Arc::new(stores));
        Ok(())
    }

    /// The key store with exactly this prefix, in the form of [`UriPrefix::as_str`].
    pub fn store(&self, prefix: &str) -> Option<Arc<KeyStore>> {
        self.stores.load().get(prefix).cloned()
    }

    /// The key stores now, in the order of their prefixes.
    pub fn stores(&self) -> Vec<Arc<KeyStore>> {
        self.stores.load().values().cloned().collect()
    }

    /// From now on the load balancer's health check answers 503, so that it sends its traffic elsewhere, while
    /// everything else is still served. `server::serve` calls this on shutdown; calling it earlier gives the load
    /// balancer time to notice. There is no way back.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether [`App::start_draining`] has been called.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

fn by_prefix(stores: Vec<KeyStore>) -> Result<Stores, DuplicatePrefix> {
    let mut map = Stores::new();
    for store in stores {
        if let Some(first) = map.get(store.prefix.as_str()) {
            let names = (first.name.clone(), store.name.clone());
            return Err(DuplicatePrefix { prefix: store.prefix, names });
        }
        map.insert(store.prefix.as_str().to_owned(), Arc::new(store));
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> KeyDirectory {
        let versions =
            BTreeMap::from([(KeyVersion(1), KeyName::label("old")), (KeyVersion(3), KeyName::label("new"))]);
        let entry = KeyEntry { current: KeyVersion(3), versions };
        KeyDirectory {
            entries: BTreeMap::from([(KeyId::parse("foo").unwrap(), entry)]),
            others: OtherKeys::ByLabel,
            reserved: BTreeSet::new(),
        }
    }

    #[test]
    fn a_key_with_an_entry_has_exactly_its_versions() {
        let (keys, foo) = (directory(), KeyId::parse("foo").unwrap());
        assert_eq!(keys.current(&foo), Some((KeyVersion(3), KeyName::label("new"))));
        assert_eq!(keys.version(&foo, KeyVersion(1)), Some(KeyName::label("old")));
        assert_eq!(keys.version(&foo, KeyVersion(2)), None);
    }

    #[test]
    fn a_key_without_an_entry_is_version_1_of_its_label_or_nothing() {
        let (mut keys, bar) = (directory(), KeyId::parse("bar").unwrap());
        assert_eq!(keys.current(&bar), Some((KeyVersion(1), KeyName::label("bar"))));
        assert_eq!(keys.version(&bar, KeyVersion(2)), None);
        keys.reserved.insert("bar".to_owned());
        assert_eq!(keys.current(&bar), None);
        assert_eq!(keys.version(&bar, KeyVersion(1)), None);
        keys.reserved.clear();
        keys.others = OtherKeys::NotFound;
        assert_eq!(keys.current(&bar), None);
        assert_eq!(keys.version(&bar, KeyVersion(1)), None);
    }
}
