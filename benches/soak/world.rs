//! Everything the daemon reads and the clients know: files, certificates, credentials, the fault at hand.
//!
//! Place on the map: made once by `main`, changed by `script`, read by every client.

use crate::Options;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long the proxy has to recover when a fault has ended.
pub(crate) const RECOVERY_MAX: Duration = Duration::from_secs(2);

/// The label of the token that `xtask make-token` makes.
pub(crate) const TOKEN: &str = "xks-try";
/// The key that clients encrypt with.
pub(crate) const KEY: &str = "foo";
/// The key that health checks use.
pub(crate) const HEALTH_KEY: &str = "xks-health";
/// Its PIN; it lives in a temporary directory and protects nothing.
pub(crate) const PIN: &str = "1234";
/// The region that requests are signed for.
pub(crate) const REGION: &str = "us-east-1";
/// The path before `/kms/xks/v1`.
pub(crate) const PREFIX: &str = "soak";

/// Who signs. The secret follows from the number: these protect nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signer {
    pub(crate) id: String,
    pub(crate) secret: String,
}

impl Signer {
    fn numbered(number: u64) -> Self {
        let letters: String =
            format!("{number:08}").bytes().map(|digit| char::from(digit - b'0' + b'A')).collect();
        Self { id: format!("SOAKSOAKSOAK{letters}"), secret: format!("{number:043}") }
    }
}

pub(crate) struct World {
    directory: tempfile::TempDir,
    authority: Issuer<'static, KeyPair>,
    client_tls: Arc<rustls::ClientConfig>,
    address: OnceLock<SocketAddr>,
    signer: Mutex<Signer>,
    credentials_made: AtomicU64,
    live: Mutex<Vec<Signer>>,
    trouble: Mutex<Trouble>,
    stopped: AtomicBool,
}

/// What goes wrong now, or when the last thing that did was ended.
#[derive(Clone, Debug)]
enum Trouble {
    None,
    Now,
    EndedAt(Instant),
}

impl World {
    pub(crate) fn make(options: &Options) -> Result<Self, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("cannot prepare the run: {error}");
        let directory =
            tempfile::Builder::new().prefix("xks-soak-").tempdir().map_err(|error| wrong(&error))?;
        let key = KeyPair::generate().map_err(|error| wrong(&error))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).map_err(|error| wrong(&error))?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.der().clone()).map_err(|error| wrong(&error))?;
        let client_tls = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
        let first = Signer::numbered(1);
        let world = Self {
            directory,
            authority: Issuer::new(params, key),
            client_tls: Arc::new(client_tls),
            address: OnceLock::new(),
            signer: Mutex::new(first.clone()),
            credentials_made: AtomicU64::new(1),
            live: Mutex::new(vec![first]),
            trouble: Mutex::new(Trouble::None),
            stopped: AtomicBool::new(false),
        };
        fs::create_dir(world.path("tokens")).map_err(|error| wrong(&error))?;
        let softhsm = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            world.path("tokens").display()
        );
        world.write("softhsm2.conf", &softhsm)?;
        world.write("pin", PIN)?;
        world.write("faults.toml", "")?;
        world.new_certificate()?;
        world.write_config(&options.faults)?;
        Ok(world)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaced in one step, as a careful operator would.
    fn write(&self, name: &str, text: &str) -> Result<(), String> {
        let (path, draft) = (self.path(name), self.path(&format!("{name}.new")));
        let written = fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path));
        written.map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("xks-proxy.toml")
    }

    /// The configuration with the credentials that are live now.
    pub(crate) fn write_config(&self, module: &Path) -> Result<(), String> {
        let mut text = format!(
            r#"[server]
listen = "127.0.0.1:0"
[server.tls]
certificate_file = "certificate.pem"
key_file = "key.pem"
[reload]
watch_interval_ms = 500
[[hsm]]
name = "softhsm"
module = "{module}"
token_label = "{TOKEN}"
pin_file = "pin"
health_key_label = "{HEALTH_KEY}"
[[key_store]]
name = "soak"
uri_prefix = "{PREFIX}"
region = "{REGION}"
hsm = "softhsm"
"#,
            module = module.display(),
        );
        for Signer { id, secret } in self.live.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            self.write(&format!("secret-{id}"), secret)?;
            text.push_str(&format!(
                "[[key_store.credential]]\naccess_key_id = \"{id}\"\nsecret_file = \"secret-{id}\"\n"
            ));
        }
        self.write("xks-proxy.toml", &text)
    }

    /// A new key and a new certificate of the same authority.
    pub(crate) fn new_certificate(&self) -> Result<(), String> {
        let wrong = |error: rcgen::Error| format!("cannot make a certificate: {error}");
        let key = KeyPair::generate().map_err(wrong)?;
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let params = CertificateParams::new(names).map_err(wrong)?;
        let certificate = params.signed_by(&key, &self.authority).map_err(wrong)?;
        self.write("certificate.pem", &certificate.pem())?;
        self.write("key.pem", &key.serialize_pem())
    }

    /// One credential more.
    pub(crate) fn add_credential(&self) -> Signer {
        let number = self.credentials_made.fetch_add(1, Ordering::Relaxed) + 1;
        let signer = Signer::numbered(number);
        self.live.lock().unwrap_or_else(PoisonError::into_inner).push(signer.clone());
        signer
    }

    /// From now on clients sign with this one.
    pub(crate) fn sign_with(&self, signer: Signer) {
        *self.signer.lock().unwrap_or_else(PoisonError::into_inner) = signer;
    }

    /// Only the newest credential stays.
    pub(crate) fn drop_old_credentials(&self) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let old = live.len().saturating_sub(1);
        live.drain(..old);
    }

    pub(crate) fn signer(&self) -> Signer {
        self.signer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn client_tls(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.client_tls)
    }

    pub(crate) fn set_address(&self, address: SocketAddr) {
        let _ = self.address.set(address);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address.get().copied().unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Begins a fault: the text of the module's control file.
    pub(crate) fn begin(&self, faults: &str) -> Result<(), String> {
        *self.trouble() = Trouble::Now;
        self.write("faults.toml", faults)
    }

    /// Ends whatever fault there is.
    pub(crate) fn calm_down(&self) -> Result<(), String> {
        self.write("faults.toml", "")?;
        *self.trouble() = Trouble::EndedAt(Instant::now());
        Ok(())
    }

    /// Whether a request that began at `began` may be answered with an error that means "not now".
    pub(crate) fn excuses(&self, began: Instant) -> bool {
        match *self.trouble() {
            Trouble::None => false,
            Trouble::Now => true,
            Trouble::EndedAt(ended) => began < ended + RECOVERY_MAX,
        }
    }

    /// When the last fault ended, if none lasts.
    pub(crate) fn ended_at(&self) -> Option<Instant> {
        match *self.trouble() {
            Trouble::EndedAt(ended) => Some(ended),
            _ => None,
        }
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}
