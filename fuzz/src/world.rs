//! The proxy core with everything around it that a request can meet: two key stores, an allow-list that denies some, an
//! emulated HSM that notes each call, a clock that stands still, and the audit events.
//!
//! Place on the map: built once per process by the targets that send whole requests.

use crate::signer::Key;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use sim_hsm::{Capacity, Configuration, KeySpecification, SimHsm, TokioTimer};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;
use xks_proxy::app::{App, KeyStore, Settings};
use xks_proxy::authorise::{Pattern, Rule};
use xks_proxy::env::{Env, UnixTime};
use xks_proxy::events::{AuditEvent, Operation, Subscriber};
use xks_proxy::hsm::{Aad, Answer, DeviceHealth, Hsm, KeyFacts, Sealed};
use xks_proxy::key::{KeyName, UriPrefix};
use xks_proxy::secret::{Plaintext, Secret};
use xks_proxy::sigv4::Credential;

/// The prefix of the key store `one`, as in the examples of the XKS spec.
pub(crate) const PREFIX: &str = "/example/uri/path/prefix";

/// Who may sign for the key store `one`.
pub(crate) const ONE: Key =
    Key { id: "BETWEEN2TENAND3TENCHARACTERS", secret: "PleaseReplaceThisWithSomeSecretOfLength43To64" };

/// Who may sign for the key store `other`, which has no prefix.
pub(crate) const OTHER: Key =
    Key { id: "ANOTHER2TENAND3TENCHARACTERS", secret: "AnotherSecretThatIsLongEnoughForTheXksSpec+/=" };

/// When everything happens, since 1970: 2026-01-02T03:04:05Z.
pub(crate) const NOW: Duration = Duration::from_secs(1_767_323_045);

/// The keys that the HSM has. It knows no others.
pub(crate) const KEYS: [&str; 2] = ["foo", "1234abcd-12ab-34cd-56ef-1234567890ab"];

/// The principals that the key store `one` admits. All others it denies.
pub(crate) const ADMITTED: &str = "arn:aws:iam::123456789012:*";

/// One call that reached the HSM: the operation, and all that it was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Call {
    pub(crate) operation: Operation,
    key: String,
    aad: Vec<u8>,
    text: Vec<u8>,
}

/// Everything, and the runtime it lives in. Time stands still there unless everybody waits, and then it jumps.
pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) app: Arc<App>,
    pub(crate) store: Arc<KeyStore>,
    hsm: Arc<WatchedHsm>,
    events: Arc<Events>,
}

impl World {
    pub(crate) fn new() -> Self {
        let runtime = runtime();
        let hsm = Arc::new(WatchedHsm { inner: emulated_hsm(&runtime), calls: Mutex::default() });
        let events = Arc::new(Events::default());
        let store = |name: &str, prefix: &str, key: Key| {
            let hsm: Arc<dyn Hsm> = Arc::<WatchedHsm>::clone(&hsm);
            KeyStore::new(name, prefix_of(prefix), vec![credential(key)], hsm)
        };
        let mut one = store("one", PREFIX, ONE);
        one.access.rules.push(Rule {
            name: "example".into(),
            principal_arns: vec![Pattern::new(ADMITTED)],
            ..Rule::default()
        });
        let subscriber: Arc<dyn Subscriber> = Arc::<Events>::clone(&events);
        let clock = Arc::new(StandingClock(AtomicU64::new(0)));
        let stores = vec![one, store("other", "", OTHER)];
        let app = App::new(Settings::default(), stores, clock, subscriber);
        let app = app.unwrap_or_else(|error| panic!("{error}"));
        let store = app.store(PREFIX).unwrap_or_else(|| panic!("it was put there above"));
        Self { runtime, app: Arc::new(app), store, hsm, events }
    }

    /// Sends one request past HTTP's own parser.
    pub(crate) fn send(&self, request: Request<Full<Bytes>>) -> http::Response<Bytes> {
        self.runtime.block_on(async {
            let (head, body) = xks_proxy::http::handle(&self.app, request).await.into_parts();
            let Ok(body) = body.collect().await;
            http::Response::from_parts(head, body.to_bytes())
        })
    }

    /// What has reached the HSM since this was asked last.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.hsm.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What has been audited since this was asked last.
    pub(crate) fn events(&self) -> Vec<AuditEvent> {
        std::mem::take(&mut self.events.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Without timers nothing can time out, and without a paused clock a body that never comes would take real time.
fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap_or_else(|error| panic!("a runtime without I/O: {error}"))
}

/// As quick as it goes and without faults, so that every refusal is the proxy's or AES-GCM's.
fn emulated_hsm(runtime: &Runtime) -> SimHsm {
    let _inside = runtime.enter();
    let keys = KEYS.map(KeySpecification::aes_256).to_vec();
    let configuration = Configuration { keys, capacity: Capacity::unlimited(), ..Configuration::default() };
    SimHsm::new(configuration, Arc::new(TokioTimer::new())).0
}

fn prefix_of(text: &str) -> UriPrefix {
    UriPrefix::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn credential(key: Key) -> Credential {
    let credential = Credential::new(key.id, Secret::new(key.secret.to_owned()));
    credential.unwrap_or_else(|error| panic!("{error}"))
}

/// Stands still; request ids count.
struct StandingClock(AtomicU64);

impl Env for StandingClock {
    fn now(&self) -> UnixTime {
        UnixTime(NOW)
    }

    fn noise(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Keeps every audit event.
#[derive(Default)]
struct Events(Mutex<Vec<AuditEvent>>);

impl Subscriber for Events {
    fn audit(&self, event: &AuditEvent) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event.clone());
    }
}

/// Notes each call and passes it on.
struct WatchedHsm {
    inner: SimHsm,
    calls: Mutex<Vec<Call>>,
}

impl WatchedHsm {
    fn note(&self, operation: Operation, key: &KeyName, aad: &[u8], text: &[u8]) {
        let call = Call { operation, key: key.to_string(), aad: aad.to_vec(), text: text.to_vec() };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

impl Hsm for WatchedHsm {
    fn describe<'a>(&'a self, key: &'a KeyName, deadline: Instant) -> Answer<'a, KeyFacts> {
        self.note(Operation::GetKeyMetadata, key, &[], &[]);
        self.inner.describe(key, deadline)
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        deadline: Instant,
    ) -> Answer<'a, Sealed> {
        self.note(Operation::Encrypt, key, aad.as_bytes(), plaintext.expose());
        self.inner.encrypt(key, aad, plaintext, deadline)
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        // The IV and tag of the verifying decrypt (XKS-ENC-9) are new each time, so they are no part of a call's identity.
        self.note(Operation::Decrypt, key, aad.as_bytes(), &[]);
        self.inner.decrypt(key, aad, sealed, deadline)
    }

    fn health<'a>(
        &'a self,
        deadline: Instant,
    ) -> Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        self.note(Operation::GetHealthStatus, &KeyName::label(""), &[], &[]);
        self.inner.health(deadline)
    }
}
