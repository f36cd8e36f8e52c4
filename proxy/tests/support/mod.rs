//! A small world around the proxy core: a signing caller, a scripted HSM that really encrypts, a clock that stands
//! still, and the audit events of everything that happened.

#![allow(dead_code, reason = "each test program uses its own part of this")]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails loudly; clippy's leave for tests does not reach their helpers"
)]

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::Instant;
use xks_proxy::app::{App, KeyStore, Limits, Settings};
use xks_proxy::env::{Env, UnixTime};
use xks_proxy::events::{AuditEvent, Subscriber, json_line};
use xks_proxy::hsm::{Aad, Answer, DeviceHealth, HealthStatus, Hsm, HsmError, HsmErrorKind, Iv, KeyFacts};
use xks_proxy::hsm::{KeySpec, Sealed};
use xks_proxy::key::{KeyName, UriPrefix};
use xks_proxy::secret::{Plaintext, Secret};
use xks_proxy::sigv4::Credential;

/// The prefix of the key store `one`.
pub(crate) const PREFIX: &str = "/example/uri/path/prefix";
/// The access key id and secret of the key store `one`.
pub(crate) const CREDENTIAL: (&str, &str) =
    ("BETWEEN2TENAND3TENCHARACTERS", "PleaseReplaceThisWithSomeSecretOfLength43To64");
/// Those of the key store `other`.
pub(crate) const OTHER_CREDENTIAL: (&str, &str) =
    ("ANOTHER2TENAND3TENCHARACTERS", "AnotherSecretThatIsLongEnoughForTheXksSpec+/=");
/// 2026-01-02T03:04:05Z.
pub(crate) const NOW: UnixTime = UnixTime(Duration::from_secs(1_767_323_045));

/// Everything a test looks at.
pub(crate) struct World {
    pub(crate) app: Arc<App>,
    pub(crate) hsm: Arc<StubHsm>,
    pub(crate) events: Arc<Events>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default(), |_| {})
    }

    /// With these limits, and the key store `one` as `adjust` leaves it.
    pub(crate) fn with(limits: Limits, adjust: impl FnOnce(&mut KeyStore)) -> Self {
        let (hsm, events) = (Arc::new(StubHsm::default()), Arc::new(Events::default()));
        let store = |name: &str, prefix: &str, (id, secret): (&str, &str)| {
            let credential = Credential::new(id, Secret::new(secret.into())).unwrap();
            let hsm: Arc<dyn Hsm> = Arc::<StubHsm>::clone(&hsm);
            KeyStore::new(name, UriPrefix::parse(prefix).unwrap(), vec![credential], hsm)
        };
        let mut one = store("one", PREFIX, CREDENTIAL);
        adjust(&mut one);
        let other = store("other", "", OTHER_CREDENTIAL);
        let settings = Settings { limits, ..Settings::default() };
        let subscriber: Arc<dyn Subscriber> = Arc::<Events>::clone(&events);
        let env = Arc::new(StandingClock(AtomicU64::new(0)));
        let app = App::new(settings, vec![one, other], env, subscriber).unwrap();
        Self { app: Arc::new(app), hsm, events }
    }

    /// Asks the key store `one` for `operation` (`keys/foo/encrypt`, `health`), signed.
    pub(crate) async fn call(&self, operation: &str, body: &Value) -> Reply {
        self.send(signed(&uri(operation), body.to_string(), CREDENTIAL)).await
    }

    /// Sends any request.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Reply {
        let (head, body) = xks_proxy::http::handle(&self.app, request).await.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { status: head.status.as_u16(), headers: head.headers, body }
    }
}

/// An answer with its whole body.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// A field, which must be text.
    pub(crate) fn text(&self, field: &str) -> String {
        self.json()[field].as_str().unwrap_or_else(|| panic!("no {field} in {:?}", self.body)).to_owned()
    }

    /// Asserts that this is the JSON error `name` with this status.
    #[track_caller]
    pub(crate) fn is_error(&self, status: u16, name: &str) -> &Self {
        assert_eq!((self.status, self.text("errorName").as_str()), (status, name), "{:?}", self.body);
        let message = self.text("errorMessage");
        assert!(message.len() < 512 && message.bytes().all(|b| (0x20..=0x7e).contains(&b)), "{message:?}");
        assert_eq!(self.headers["content-type"], "application/json");
        self
    }

    #[track_caller]
    pub(crate) fn is_ok(&self) -> &Self {
        assert_eq!(self.status, 200, "{:?}", self.body);
        assert_eq!(self.headers["content-type"], "application/json");
        self
    }
}

/// The URI of an operation in the key store `one`.
pub(crate) fn uri(operation: &str) -> String {
    format!("{PREFIX}/kms/xks/v1/{operation}")
}

/// A signed POST with `Host` and `Content-Type`.
pub(crate) fn signed(uri: &str, body: impl Into<Bytes>, credential: (&str, &str)) -> Request<Full<Bytes>> {
    signed_at(uri, body, credential, NOW)
}

/// The same at another time.
pub(crate) fn signed_at(
    uri: &str,
    body: impl Into<Bytes>,
    (id, secret): (&str, &str),
    time: UnixTime,
) -> Request<Full<Bytes>> {
    let body = body.into();
    let mut request = Request::post(uri)
        .header("host", "xks.example.com")
        .header("content-type", "application/json")
        .body(Full::new(body.clone()))
        .unwrap();
    let identity = Credentials::new(id, secret, None, None, "test").into();
    let params = SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("kms-xks-proxy")
        .time(UNIX_EPOCH + time.0)
        .settings(SigningSettings::default())
        .build()
        .unwrap();
    let url = format!("https://xks.example.com{uri}");
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap()));
    let signable = SignableRequest::new("POST", &url, headers, SignableBody::Bytes(&body)).unwrap();
    let (instructions, _) = sign(signable, &params.into()).unwrap().into_parts();
    instructions.apply_to_request_http1x(&mut request);
    request
}

/// Complete `requestMetadata`.
pub(crate) fn metadata() -> Value {
    json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": "Encrypt",
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
        "kmsViaService": "ebs"
    })
}

/// A complete Encrypt request for `plaintext` in Base64.
pub(crate) fn encrypt(plaintext: &str) -> Value {
    json!({ "requestMetadata": metadata(), "plaintext": plaintext, "encryptionAlgorithm": "AES_GCM" })
}

/// The Decrypt request for what an Encrypt answered.
pub(crate) fn decrypt(encrypted: &Reply) -> Value {
    let sealed = encrypted.is_ok().json();
    json!({
        "requestMetadata": metadata(),
        "ciphertext": sealed["ciphertext"],
        "ciphertextMetadata": sealed["ciphertextMetadata"],
        "initializationVector": sealed["initializationVector"],
        "authenticationTag": sealed["authenticationTag"],
        "encryptionAlgorithm": "AES_GCM"
    })
}

/// `value` with one more, or another, field.
pub(crate) fn with(mut value: Value, field: &str, to: Value) -> Value {
    value[field] = to;
    value
}

/// `value` without a field.
pub(crate) fn without(mut value: Value, field: &str) -> Value {
    value.as_object_mut().unwrap().remove(field);
    value
}

/// Wall time that stands still, and request ids that count.
#[derive(Default)]
pub(crate) struct StandingClock(AtomicU64);

impl Env for StandingClock {
    fn now(&self) -> UnixTime {
        NOW
    }

    fn noise(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Keeps every audit event.
#[derive(Default)]
pub(crate) struct Events(Mutex<Vec<AuditEvent>>);

impl Subscriber for Events {
    fn audit(&self, event: &AuditEvent) {
        self.0.lock().unwrap().push(event.clone());
    }
}

impl Events {
    pub(crate) fn all(&self) -> Vec<AuditEvent> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) fn last(&self) -> AuditEvent {
        self.all().pop().unwrap()
    }

    /// All of them as the audit log would hold them.
    pub(crate) fn text(&self) -> String {
        self.all().iter().map(|event| json_line(event) + "\n").collect()
    }
}

/// What the stub does with its next call instead of what it should.
#[derive(Clone, Debug)]
pub(crate) enum Misdeed {
    /// Fail like this.
    Fail(HsmErrorKind),
    /// Never answer, deadline or not.
    Hang,
    /// Do it right, after this time.
    Slow(Duration),
    /// Flip a bit of the ciphertext that comes out.
    Corrupt,
    /// Give one byte too few.
    Shorten,
}

/// Encrypts for real, with one key per label; a label says what its key may do: `decrypt_only_key`, `encrypt_only_key`,
/// `impotent_key`, `disabled_key`; `non_existing_key` does not exist.
#[derive(Default)]
pub(crate) struct StubHsm {
    /// The calls so far: `encrypt label "foo"`.
    pub(crate) calls: Mutex<Vec<String>>,
    /// What goes wrong with the next calls, in order.
    pub(crate) misdeeds: Mutex<VecDeque<Misdeed>>,
    /// What `health` answers; empty stands for one active device.
    pub(crate) devices: Mutex<Vec<DeviceHealth>>,
    ivs: AtomicU64,
}

impl StubHsm {
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn next(&self, misdeeds: impl IntoIterator<Item = Misdeed>) {
        self.misdeeds.lock().unwrap().extend(misdeeds);
    }

    async fn begin(&self, what: &str, key: &KeyName) -> Result<Option<Misdeed>, HsmError> {
        self.calls.lock().unwrap().push(format!("{what} {key}"));
        let misdeed = self.misdeeds.lock().unwrap().pop_front();
        match misdeed {
            Some(Misdeed::Fail(kind)) => {
                Err(HsmError { ck_rv: Some(0x30), ..HsmError::new(kind, "as scripted") })
            }
            Some(Misdeed::Hang) => std::future::pending().await,
            Some(Misdeed::Slow(time)) => {
                tokio::time::sleep(time).await;
                Ok(None)
            }
            other => Ok(other),
        }
    }

    fn facts(key: &KeyName) -> Result<KeyFacts, HsmError> {
        let label = label(key);
        let facts = KeyFacts { spec: KeySpec::Aes(256), encrypt: true, decrypt: true, enabled: true };
        match label {
            "non_existing_key" => Err(HsmError::new(HsmErrorKind::KeyNotFound, "no such label")),
            "encrypt_only_key" => Ok(KeyFacts { decrypt: false, ..facts }),
            "decrypt_only_key" => Ok(KeyFacts { encrypt: false, ..facts }),
            "impotent_key" => Ok(KeyFacts { encrypt: false, decrypt: false, ..facts }),
            "disabled_key" => Ok(KeyFacts { enabled: false, ..facts }),
            _ => Ok(facts),
        }
    }

    fn may(key: &KeyName, right: fn(&KeyFacts) -> bool) -> Result<(), HsmError> {
        let facts = Self::facts(key)?;
        if !facts.enabled {
            return Err(HsmError::new(HsmErrorKind::KeyDisabled, "disabled"));
        }
        if right(&facts) { Ok(()) } else { Err(HsmError::new(HsmErrorKind::UsageRefused, "not this key")) }
    }
}

fn label(key: &KeyName) -> &str {
    match key {
        KeyName::Label(label) => label,
        KeyName::Id(_) => "by id",
    }
}

fn cipher(key: &KeyName) -> Aes256Gcm {
    let mut bytes = [7; 32];
    for (byte, letter) in bytes.iter_mut().zip(label(key).bytes()) {
        *byte = letter;
    }
    Aes256Gcm::new(&bytes.into())
}

impl Hsm for StubHsm {
    fn describe<'a>(&'a self, key: &'a KeyName, _deadline: Instant) -> Answer<'a, KeyFacts> {
        Box::pin(async move {
            self.begin("describe", key).await?;
            Self::facts(key)
        })
    }

    fn encrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        plaintext: &'a Plaintext,
        _deadline: Instant,
    ) -> Answer<'a, Sealed> {
        Box::pin(async move {
            let misdeed = self.begin("encrypt", key).await?;
            Self::may(key, |facts| facts.encrypt)?;
            let mut iv = [0; 12];
            iv[4..].copy_from_slice(&self.ivs.fetch_add(1, Ordering::Relaxed).to_be_bytes());
            let payload = Payload { msg: plaintext.expose(), aad: aad.as_bytes() };
            let mut sealed = cipher(key).encrypt(&Nonce::from(iv), payload).unwrap();
            let tag = sealed.split_off(sealed.len() - 16).try_into().unwrap();
            match misdeed {
                Some(Misdeed::Corrupt) => sealed[0] ^= 1,
                Some(Misdeed::Shorten) => drop(sealed.pop()),
                _ => {}
            }
            Ok(Sealed { ciphertext: sealed, iv: Iv::Twelve(iv), tag })
        })
    }

    fn decrypt<'a>(
        &'a self,
        key: &'a KeyName,
        aad: &'a Aad,
        sealed: &'a Sealed,
        _deadline: Instant,
    ) -> Answer<'a, Plaintext> {
        Box::pin(async move {
            let misdeed = self.begin("decrypt", key).await?;
            Self::may(key, |facts| facts.decrypt)?;
            let rejected = || HsmError::new(HsmErrorKind::CiphertextRejected, "tag");
            let Iv::Twelve(iv) = sealed.iv else { return Err(rejected()) };
            let joined = [sealed.ciphertext.as_slice(), &sealed.tag].concat();
            let payload = Payload { msg: &joined, aad: aad.as_bytes() };
            let mut plaintext = cipher(key).decrypt(&Nonce::from(iv), payload).map_err(|_| rejected())?;
            match misdeed {
                Some(Misdeed::Corrupt) => plaintext[0] ^= 1,
                Some(Misdeed::Shorten) => drop(plaintext.pop()),
                _ => {}
            }
            Ok(Plaintext::new(plaintext))
        })
    }

    fn health<'a>(
        &'a self,
        _deadline: Instant,
    ) -> std::pin::Pin<Box<dyn Future<Output = Vec<DeviceHealth>> + Send + 'a>> {
        Box::pin(async move {
            let _ = self.begin("health", &KeyName::label("")).await;
            let devices = self.devices.lock().unwrap().clone();
            let active =
                DeviceHealth { id: "hsm-1".into(), model: "stub".into(), status: HealthStatus::Active };
            if devices.is_empty() { vec![active] } else { devices }
        })
    }
}

/// Key names for a directory: version → label.
pub(crate) fn versions(labels: &[(u8, &str)]) -> BTreeMap<xks_proxy::key::KeyVersion, KeyName> {
    labels
        .iter()
        .map(|(version, label)| (xks_proxy::key::KeyVersion(*version), KeyName::label(*label)))
        .collect()
}
