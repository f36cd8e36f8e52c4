//! The KMS model against the real proxy core, over in-memory pipes and paused time, with a small HSM of AES-GCM that
//! can be told to misbehave: whether two independent readings of the spec agree.

use crate::stub_hsm::{Mood, StubHsm};
use crate::support::{
    ACCESS_KEY_ID, BEGIN_SECS, CALLER, Connect, OTHER_CALLER, Pipes, SECRET, World, simulate, world,
};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use scenarios::kms::client::ClientTls;
use scenarios::kms::failure::Cause;
use scenarios::kms::settings::KmsSettings;
use scenarios::kms::violations::{X1, X5};
use scenarios::kms::{CiphertextBlob, KmsApi, KmsException, KmsOperation};
use scenarios::trace::XksOutcome;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use xks_proxy::app::{App, KeyStore, Settings};
use xks_proxy::authorise::{Access, Pattern, Rule};
use xks_proxy::env::{Env, UnixTime};
use xks_proxy::events::{AuditEvent, Subscriber};
use xks_proxy::hsm::{Hsm, HsmErrorKind};
use xks_proxy::key::UriPrefix;
use xks_proxy::secret::Secret;
use xks_proxy::server::{Listen, serve};
use xks_proxy::sigv4::Credential;

const OTHER_ACCESS_KEY_ID: &str = "BETAWXOPQLAGCMTVZZZZ";
const OTHER_SECRET: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ";

/// The proxy's wall clock is right.
struct TestEnv(Instant);

impl Env for TestEnv {
    fn now(&self) -> UnixTime {
        UnixTime(Duration::from_secs(BEGIN_SECS) + self.0.elapsed())
    }

    fn noise(&self) -> u64 {
        4
    }
}

/// Keeps the causes that the proxy logs, for messages of failing tests.
#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Subscriber for Log {
    fn audit(&self, event: &AuditEvent) {
        self.0.lock().unwrap().extend(event.detail.clone());
    }
}

struct PipeListener(UnboundedReceiver<DuplexStream>);

impl Listen for PipeListener {
    type Io = DuplexStream;

    async fn accept(&mut self) -> std::io::Result<DuplexStream> {
        match self.0.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

struct Site {
    world: World,
    hsm: Arc<StubHsm>,
    log: Arc<Log>,
    app: Arc<App>,
    sender: Rc<RefCell<UnboundedSender<DuplexStream>>>,
    server: RefCell<tokio::task::JoinHandle<()>>,
    tls: Option<Arc<rustls::ServerConfig>>,
}

impl Site {
    fn new(settings: KmsSettings, with_tls: bool) -> Self {
        let hsm = Arc::new(StubHsm::new(|_| true));
        let log = Arc::new(Log::default());
        let env: Arc<dyn Env> = Arc::new(TestEnv(Instant::now()));
        let subscriber = Arc::clone(&log) as Arc<dyn Subscriber>;
        let store = key_store("example", &hsm);
        let app = Arc::new(App::new(Settings::default(), vec![store], Arc::clone(&env), subscriber).unwrap());
        let (server_tls, client_tls) = with_tls.then(|| tls(env)).unzip();

        let (sender, _) = unbounded_channel();
        let sender = Rc::new(RefCell::new(sender));
        let to_server = Rc::clone(&sender);
        let pipes = Pipes::new(move |stream| to_server.borrow().send(stream).unwrap());
        let site = Self {
            world: world(settings, pipes, client_tls, 1),
            hsm,
            log,
            app,
            sender,
            server: RefCell::new(tokio::task::spawn_local(async {})),
            tls: server_tls,
        };
        site.start();
        site
    }

    fn start(&self) {
        let (sender, receiver) = unbounded_channel();
        *self.sender.borrow_mut() = sender;
        self.world.pipes.behaviour.set(Connect::Accept);
        let server = serve(
            PipeListener(receiver),
            Arc::clone(&self.app),
            self.tls.clone().map(xks_proxy::tls::ServerTls::new),
            std::future::pending(),
        );
        *self.server.borrow_mut() = tokio::task::spawn_local(server);
    }

    async fn crash(&self) {
        self.server.borrow().abort();
        self.world.pipes.behaviour.set(Connect::Refuse);
        tokio::task::yield_now().await;
    }

    fn mood(&self, mood: Mood) {
        self.hsm.set_mood(mood);
    }

    /// Row, class and milliseconds of a GenerateDataKey that fails.
    async fn failing(&self) -> (u8, KmsException, u128) {
        let failure = self.world.kms.encrypt(KmsOperation::GenerateDataKey, &CALLER).await.unwrap_err();
        (failure.row, failure.exception, self.world.tape.kms().last().unwrap().took.as_millis())
    }

    async fn generate(&self) -> CiphertextBlob {
        let result = self.world.kms.encrypt(KmsOperation::GenerateDataKey, &CALLER).await;
        assert!(result.is_ok(), "{result:?}; the proxy says {:?}", self.log.0.lock().unwrap());
        result.unwrap()
    }
}

fn key_store(prefix: &str, hsm: &Arc<StubHsm>) -> KeyStore {
    key_store_with(prefix, hsm, &[(ACCESS_KEY_ID, SECRET)])
}

fn key_store_with(prefix: &str, hsm: &Arc<StubHsm>, credentials: &[(&str, &str)]) -> KeyStore {
    let credentials = credentials
        .iter()
        .map(|(id, secret)| Credential::new(id, Secret::new((*secret).into())).unwrap())
        .collect();
    let hsm = Arc::clone(hsm) as Arc<dyn Hsm>;
    KeyStore {
        region: Some("us-east-1".into()),
        ..KeyStore::new("test", UriPrefix::parse(prefix).unwrap(), credentials, hsm)
    }
}

fn tls(env: Arc<dyn Env>) -> (Arc<rustls::ServerConfig>, ClientTls) {
    let made = rcgen::generate_simple_self_signed(["proxy.example".to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = xks_proxy::tls::server_config(vec![certificate.clone()], key, env).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(client));
    (server, ClientTls { connector, server_name: ServerName::try_from("proxy.example").unwrap() })
}

/// One host, unless more are asked for, and an unreliable proxy is still answered 500.
fn settings() -> KmsSettings {
    KmsSettings { hosts: 1, health_poll_s: 0, reliability_threshold: 0.0, ..KmsSettings::default() }
}

const STATE: KmsException = KmsException::KmsInvalidState;
const INTERNAL: KmsException = KmsException::KmsInternal;

#[test]
fn every_form_of_request_is_served() {
    for with_tls in [false, true] {
        simulate(async {
            let settings = KmsSettings {
                unknown_operation_share: 0.2,
                chunked_share: 0.2,
                hosts: 3,
                quota_per_s: 0,
                ..settings()
            };
            let site = Site::new(settings, with_tls);
            for n in 0..300 {
                let operation = [
                    KmsOperation::Encrypt,
                    KmsOperation::GenerateDataKey,
                    KmsOperation::GenerateDataKeyWithoutPlaintext,
                ][n % 3];
                let caller = [&CALLER, &OTHER_CALLER][n % 2];
                let blob = site.world.kms.encrypt(operation, caller).await;
                let blob =
                    blob.unwrap_or_else(|failure| panic!("{failure:?} {:?}", site.log.0.lock().unwrap()));
                site.world.kms.decrypt(&blob, caller).await.unwrap();
            }
            let metadata = site.world.kms.key_metadata(0, &CALLER).await.unwrap();
            assert_eq!((metadata.key_spec.as_str(), metadata.key_usage.len()), ("AES_256", 2));
            assert_eq!(site.world.kms.check_health("KmsHealthCheck").await.unwrap().active, 1);
            for verdict in site.world.violations.verdicts() {
                assert_eq!(verdict.violated, 0, "{verdict:?}");
                assert!(verdict.checked >= 200, "{verdict:?}");
            }
            assert_eq!(site.world.pipes.connects.get(), 3);
        });
    }
}

#[test]
fn what_the_hsm_says_reaches_kmss_caller() {
    simulate(async {
        for (kind, row, class) in [
            (HsmErrorKind::KeyNotFound, 8, STATE),
            (HsmErrorKind::UsageRefused, 5, STATE),
            (HsmErrorKind::KeyDisabled, 2, STATE),
            (HsmErrorKind::TooLong, 10, STATE),
            (HsmErrorKind::Refused, 13, INTERNAL),
            (HsmErrorKind::Busy, 12, STATE),
            (HsmErrorKind::TimedOut, 11, INTERNAL),
            (HsmErrorKind::SessionLost, 13, INTERNAL),
            (HsmErrorKind::DeviceGone, 13, INTERNAL),
            (HsmErrorKind::Failed, 13, INTERNAL),
        ] {
            let site = Site::new(settings(), false);
            site.generate().await;
            site.mood(Mood::Fails(kind));
            assert_eq!(site.failing().await, (row, class, 0), "{kind:?}");
            site.mood(Mood::Well);
            site.generate().await;
            assert_eq!(site.world.pipes.connects.get(), 1);
            assert_eq!(site.world.violations.verdict(X5).unwrap().violated, 0);
        }
    });
}

#[test]
fn a_hanging_hsm_is_answered_before_kms_gives_up() {
    simulate(async {
        let site = Site::new(settings(), false);
        site.mood(Mood::Hangs);
        let (row, class, took_ms) = site.failing().await;
        assert_eq!((row, class), (11, INTERNAL));
        assert!((140..=151).contains(&took_ms), "{took_ms} ms");
        site.mood(Mood::Well);
        site.generate().await;
        assert_eq!(site.world.pipes.connects.get(), 1, "the connection outlives the failure");
    });
}

#[test]
fn clocks_may_differ_by_five_minutes() {
    simulate(async {
        let site = Site::new(settings(), false);
        for skew in [-299, 299] {
            site.world.skew_secs.set(skew);
            site.generate().await;
        }
        for skew in [-301, 301, -86_400, 86_400 * 365] {
            site.world.skew_secs.set(skew);
            assert_eq!(site.failing().await, (6, STATE, 0), "{skew} s");
        }
    });
}

#[test]
fn wrong_credentials_paths_and_callers_are_told_apart() {
    simulate(async {
        let site = Site::new(settings(), false);
        for known in [(ACCESS_KEY_ID, OTHER_SECRET), (OTHER_ACCESS_KEY_ID, SECRET)] {
            site.app.replace_stores(vec![key_store_with("example", &site.hsm, &[known])]).unwrap();
            assert_eq!(site.failing().await.0, 6);
        }
        site.app.replace_stores(vec![key_store("example", &site.hsm)]).unwrap();
        site.generate().await;

        site.app.replace_stores(vec![key_store("elsewhere", &site.hsm)]).unwrap();
        assert_eq!(site.failing().await.0, 9);

        let mut store = key_store("example", &site.hsm);
        let bob_only = Rule {
            name: "bob".into(),
            principal_arns: vec![Pattern::new("arn:aws:iam::*:user/Bob")],
            ..Rule::default()
        };
        store.access = Access { rules: vec![bob_only], ..Access::default() };
        site.app.replace_stores(vec![store]).unwrap();
        assert_eq!(site.failing().await.0, 7);
        site.world.kms.encrypt(KmsOperation::Encrypt, &OTHER_CALLER).await.unwrap();
        assert_eq!(site.world.violations.verdict(X5).unwrap().violated, 0);
    });
}

/// What the callers of `site` see of a credential rotation: how many of 900 calls fail in each of the ten spans of 10 s
/// after KMS was given the new credential.
async fn failures_per_span(site: &Site) -> Vec<u64> {
    let mut failed = vec![0; 10];
    for span in &mut failed {
        for _ in 0..90 {
            *span += u64::from(site.world.kms.encrypt(KmsOperation::Encrypt, &CALLER).await.is_err());
            tokio::time::sleep(Duration::from_millis(111)).await;
        }
    }
    failed
}

#[test]
fn a_credential_rotated_right_costs_nothing_and_rotated_wrong_it_does() {
    let many = || KmsSettings { health_poll_s: 0, ..KmsSettings::default() };
    let (old, new) = ((ACCESS_KEY_ID, SECRET), (OTHER_ACCESS_KEY_ID, OTHER_SECRET));
    let secret = || Secret::new(OTHER_SECRET.into());
    simulate(async {
        // Right: the proxy knows both before KMS is given the new one, and until the last host has changed.
        let site = Site::new(many(), false);
        site.app.replace_stores(vec![key_store_with("example", &site.hsm, &[old, new])]).unwrap();
        site.world.kms.update_credential(OTHER_ACCESS_KEY_ID, secret()).await.unwrap();
        assert_eq!(failures_per_span(&site).await, [0; 10]);
        site.app.replace_stores(vec![key_store_with("example", &site.hsm, &[new])]).unwrap();
        site.generate().await;

        // Wrong: the old one is taken from the proxy as soon as KMS has accepted the new one.
        let site = Site::new(many(), false);
        site.app.replace_stores(vec![key_store_with("example", &site.hsm, &[old, new])]).unwrap();
        site.world.kms.update_credential(OTHER_ACCESS_KEY_ID, secret()).await.unwrap();
        site.app.replace_stores(vec![key_store_with("example", &site.hsm, &[new])]).unwrap();
        let failed = failures_per_span(&site).await;
        assert!(
            failed[0] > 60 && failed[0] > failed[3] && failed[3] > failed[5] && failed[5] > 0,
            "{failed:?}"
        );
        assert_eq!(failed[6..], [0; 4], "credential_spread_s = 60");

        // Wrong in the worst way: KMS is given one that the proxy never learns of, and nobody asked.
        let site = Site::new(many(), false);
        site.world.kms.set_credential(OTHER_ACCESS_KEY_ID, secret());
        let failed = failures_per_span(&site).await;
        assert!(failed[0] < failed[3] && failed[3] < failed[5], "{failed:?}");
        assert_eq!(failed[6..], [90; 4]);

        // Wrong the other way round: KMS asks the proxy first, refuses what it does not know, and goes on as before.
        let site = Site::new(many(), false);
        let failure = site.world.kms.update_credential(OTHER_ACCESS_KEY_ID, secret()).await.unwrap_err();
        assert_eq!(failure.exception, KmsException::XksProxyIncorrectAuthenticationCredential);
        assert_eq!(failures_per_span(&site).await, [0; 10]);
    });
}

#[test]
fn a_changed_blob_is_refused_and_never_misread() {
    simulate(async {
        let site = Site::new(settings(), false);
        let blob = site.generate().await;
        // The head: version, key, service and serial number; then metadata, IV, tag and ciphertext.
        for at in 0..blob.0.len() {
            let mut bytes = blob.0.to_vec();
            bytes[at] ^= 1;
            let changed = CiphertextBlob(bytes.into());
            let failure = site.world.kms.decrypt(&changed, &CALLER).await.unwrap_err();
            // The version and the key are KMS's own to judge; all else is the proxy's.
            let not_ours = (failure.exception, failure.row) == (KmsException::InvalidCiphertext, 0);
            assert!(matches!(failure.row, 1 | 3) || not_ours && at < 3, "byte {at}: {failure:?}");
        }
        assert_eq!(site.world.kms.decrypt(&blob, &OTHER_CALLER).await.unwrap_err().row, 3);
        site.world.kms.decrypt(&blob, &CALLER).await.unwrap();
        assert_eq!(site.world.violations.verdict(X1).unwrap().violated, 0);
    });
}

#[test]
fn a_lying_hsm_is_caught() {
    simulate(async {
        let site = Site::new(settings(), false);
        let blob = site.generate().await;
        site.mood(Mood::Lies);
        // The proxy's own verification, asked for with the integrity value (XKS-ENC-9).
        let (row, ..) = site.failing().await;
        assert_eq!(row, 13);
        // KMS's inner layer, and our invariant.
        assert_eq!(site.world.kms.decrypt(&blob, &CALLER).await.unwrap_err().row, 4);
        assert_eq!(site.world.violations.verdict(X1).unwrap().violated, 1);
        assert_eq!(site.world.kms.counters().own_blobs_refused, 1);
    });
}

#[test]
fn a_crashed_proxy_is_noticed_and_a_new_one_found() {
    simulate(async {
        let site = Site::new(settings(), false);
        let blob = site.generate().await;
        site.crash().await;
        assert_eq!(site.failing().await, (14, INTERNAL, 0));
        assert_eq!(site.world.tape.xks().last().unwrap().outcome, XksOutcome::NoConnection);
        assert_eq!(site.world.kms.check_health("KmsHealthCheck").await, Err(Cause::NoConnection));
        site.start();
        site.world.kms.decrypt(&blob, &CALLER).await.unwrap();
        let counters = site.world.kms.counters();
        assert_eq!((counters.found_closed, counters.health_checks_bad), (1, 1));
    });
}

#[test]
fn all_managers_unavailable_is_an_unhealthy_proxy() {
    simulate(async {
        let site = Site::new(settings(), false);
        site.mood(Mood::Fails(HsmErrorKind::DeviceGone));
        assert_eq!(site.world.kms.check_health("ConnectCustomKeyStore").await, Err(Cause::Unhealthy));
        assert_eq!(site.world.kms.counters().manager_states.unwrap().unavailable, 1);
    });
}
