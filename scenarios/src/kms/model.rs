//! KMS itself: the order of steps of a cryptographic call, from the caller's request to its answer or exception.
//!
//! Place on the map: [`services`](crate::services) call it through [`KmsApi`]; everything else in this folder is a
//! part of it. Start at `KmsModel::encrypt_call`.

use super::alarms::Alarm;
use super::answers::{
    KeyMetadata, ManagerStates, Wrong, read_decrypt, read_encrypt, read_error, read_health, read_key_metadata,
};
use super::client::{ClientLimits, ClientTls, Dial, XksClient};
use super::cloudwatch::{CloudWatch, Sample, XksOperation};
use super::failure::Cause;
use super::http1::{Response, write_post};
use super::inner::{BlobHead, Inner, Sealed, encryption_context, pack, unpack};
use super::key::{KeyOperation, KmsKey, View};
use super::lifecycle::Connection;
use super::quota::Quota;
use super::reliability::Reliability;
use super::requests::{Ask, RequestMetadata, SOURCE_VPC, below, chance, shuffle};
use super::settings::KmsSettings;
use super::sigv4::Signer;
use super::spread::Spread;
use super::violations::{Violations, X1, X2, X5};
use super::{Caller, CiphertextBlob, KmsApi, KmsException, KmsFailure, KmsOperation, LocalFuture, Requester};
use crate::trace::{Event, KmsEvent, Recorder, XksEvent, XksOutcome, XksStages};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use xks_proxy::env::UnixTime;
use xks_proxy::key::API_ROOT;
use xks_proxy::secret::Secret;

/// The wall clock of a KMS host, for its signatures.
pub trait Clock {
    /// What the clock of `kms_host` shows at simulated time `at`: right, drifting or plainly wrong.
    fn wall(&self, kms_host: usize, at: Duration) -> UnixTime;
}

impl<F: Fn(usize, Duration) -> UnixTime> Clock for F {
    fn wall(&self, kms_host: usize, at: Duration) -> UnixTime {
        self(kms_host, at)
    }
}

/// The external key store as its owner registered it with KMS.
pub struct RegisteredKeyStore {
    /// Host of `XksProxyUriEndpoint`, without scheme; it goes into the `host` header.
    pub endpoint_host: String,
    /// `XksProxyUriPath` without its end `/kms/xks/v1`: empty, or `/` and more.
    pub uri_prefix: String,
    /// The region, in the credential scope of every signature.
    pub region: String,
    /// `AccessKeyId`.
    pub access_key_id: String,
    /// `RawSecretAccessKey`.
    pub secret: Secret,
    /// The KMS keys in the store, 1 to 65,536; service *n* uses key *n* modulo their number.
    pub keys: Vec<RegisteredKey>,
}

/// A KMS key and the external key it is bound to.
#[derive(Clone, Debug)]
pub struct RegisteredKey {
    /// `XksKeyId`.
    pub external_key_id: String,
    /// The ARN of the KMS key.
    pub kms_key_arn: String,
}

/// What the world lends to KMS.
pub struct Doors {
    /// The network to the proxy.
    pub dial: Rc<dyn Dial>,
    /// TLS on it, if any.
    pub tls: Option<ClientTls>,
    /// Wall time.
    pub clock: Rc<dyn Clock>,
    /// Simulated time, and where events go.
    pub recorder: Rc<dyn Recorder>,
    /// Where broken invariants go.
    pub violations: Rc<Violations>,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Calls of the KMS API.
    pub kms_calls: u64,
    /// Those that ended in an exception.
    pub kms_failures: u64,
    /// Those turned away by the quota.
    pub throttled: u64,
    /// Calls of the proxy, health checks included.
    pub xks_calls: u64,
    /// Those that ended in HTTP 200 and a usable body.
    pub xks_ok: u64,
    /// Those that opened a connection, or tried.
    pub fresh_connections: u64,
    /// Connection set-ups that timed out and were tried again (MA-11).
    pub connect_retries: u64,
    /// Kept connections found closed by the proxy before a request was written.
    pub found_closed: u64,
    /// Health checks made.
    pub health_checks: u64,
    /// Health checks that failed, or said that all managers are UNAVAILABLE.
    pub health_checks_bad: u64,
    /// What the last successful health check said.
    pub manager_states: Option<ManagerStates>,
    /// Blobs KMS made itself, sent back by the service that got them, and refused by the proxy or the inner layer: data
    /// that was encrypted and is no longer readable.
    pub own_blobs_refused: u64,
}

/// The model of AWS KMS with one external key store.
pub struct KmsModel {
    pub(super) settings: KmsSettings,
    pub(super) region: String,
    /// Where requests go; another one after UpdateCustomKeyStore.
    pub(super) target: RefCell<Rc<Target>>,
    pub(super) signer: RefCell<Spread<Rc<Signer>>>,
    pub(super) keys: RefCell<Vec<Rc<KmsKey>>>,
    pub(super) inner: Inner,
    clock: Rc<dyn Clock>,
    pub(super) recorder: Rc<dyn Recorder>,
    pub(super) violations: Rc<Violations>,
    /// Which host serves a call; apart from the other draws, so that these never reshuffle it.
    host_choice: RefCell<ChaCha20Rng>,
    variation: RefCell<ChaCha20Rng>,
    health_times: RefCell<ChaCha20Rng>,
    /// For payloads that callers bring along; apart from the other draws as well.
    pub(super) own_payloads: RefCell<ChaCha20Rng>,
    pub(super) quota: RefCell<Quota>,
    account_quota: Rc<RefCell<Quota>>,
    reliability: RefCell<Reliability>,
    serial: Cell<u64>,
    /// Whether the last health check found every external key manager UNAVAILABLE. One that failed has found nothing
    /// (MA-20).
    all_unavailable: Cell<bool>,
    pub(super) connection: RefCell<Connection>,
    /// What each host of KMS has heard of the connection: whether there is one.
    pub(super) reach: RefCell<Spread<bool>>,
    pub(super) cloudwatch: RefCell<CloudWatch>,
    pub(super) counters: RefCell<Counters>,
}

/// The endpoint of a key store's proxy, and the connections to it.
pub(super) struct Target {
    /// Goes into the `host` header.
    pub(super) endpoint_host: String,
    /// `XksProxyUriPath`, whole.
    pub(super) uri_path: String,
    pub(super) client: Rc<XksClient>,
}

/// Who asks the proxy, and about which key.
#[derive(Clone, Copy)]
pub(super) struct Purpose<'a> {
    pub(super) external_key_id: Option<&'a str>,
    pub(super) kms_key_arn: Option<&'a str>,
    pub(super) kms_operation: &'static str,
    pub(super) requester: Option<Requester<'a>>,
}

/// How one call goes out: by which host of KMS, where to, and signed with what.
pub(super) struct Line {
    pub(super) host: usize,
    pub(super) target: Rc<Target>,
    pub(super) signer: Rc<Signer>,
}

/// A failed call of the proxy.
pub(super) struct Failed {
    pub(super) cause: Cause,
    /// Whether the proxy was reliable when it failed.
    reliable: bool,
}

impl Failed {
    pub(super) fn failure(self) -> KmsFailure {
        self.cause.failure(self.reliable)
    }
}

/// Most keys of one key store: their numbers are two bytes of every blob.
pub(super) const KEYS_MAX: usize = 65_536;

impl KmsModel {
    /// A KMS whose key store is connected. All randomness comes from `random`, the run's stream for KMS.
    ///
    /// # Errors
    /// When a setting is out of its range or the key store has no keys or too many; says which and what to do.
    pub fn new(
        settings: KmsSettings,
        store: RegisteredKeyStore,
        doors: Doors,
        random: ChaCha20Rng,
    ) -> Result<Rc<Self>, String> {
        settings.check()?;
        if store.keys.is_empty() || store.keys.len() > KEYS_MAX {
            let found = store.keys.len();
            return Err(format!("the key store has {found} keys: register 1 to {KEYS_MAX}"));
        }
        let account_quota = Rc::new(RefCell::new(Quota::new(settings.account_quota_per_s)));
        let model = Self::disconnected(settings, store, doors, random, account_quota);
        model.set_connected(true);
        Ok(model)
    }

    /// The same not yet connected, as CreateCustomKeyStore leaves it; keys may be none. The settings have been checked.
    pub(super) fn disconnected(
        settings: KmsSettings,
        store: RegisteredKeyStore,
        doors: Doors,
        mut random: ChaCha20Rng,
        account_quota: Rc<RefCell<Quota>>,
    ) -> Rc<Self> {
        let mut seed = [0; 32];
        random.fill_bytes(&mut seed);
        let window = Duration::from_secs(settings.reliability_window_s);
        let mut stream = || RefCell::new(ChaCha20Rng::from_rng(&mut random));
        let signer = Signer::new(&store.access_key_id, store.secret, &store.region);
        let target = Target {
            endpoint_host: store.endpoint_host,
            uri_path: [&store.uri_prefix, API_ROOT].concat(),
            client: Rc::new(XksClient::new(doors.dial, doors.tls, client_limits(&settings))),
        };
        let begins = doors.clock.wall(0, Duration::ZERO);
        let keys: Vec<_> = store
            .keys
            .into_iter()
            .map(|key| Rc::new(KmsKey::new(key.kms_key_arn, key.external_key_id)))
            .collect();
        Rc::new(Self {
            region: store.region,
            target: RefCell::new(Rc::new(target)),
            signer: RefCell::new(Spread::new(Rc::new(signer))),
            inner: Inner::new(seed, keys.len()),
            keys: RefCell::new(keys),
            clock: doors.clock,
            recorder: doors.recorder,
            violations: doors.violations,
            host_choice: stream(),
            variation: stream(),
            health_times: stream(),
            own_payloads: stream(),
            quota: RefCell::new(Quota::new(settings.quota_per_s)),
            account_quota,
            reliability: RefCell::new(Reliability::new(settings.reliability_threshold, window)),
            serial: Cell::new(0),
            all_unavailable: Cell::new(false),
            connection: RefCell::new(Connection::new(settings.connect_fault)),
            reach: RefCell::new(Spread::new(false)),
            cloudwatch: RefCell::new(CloudWatch::new(&settings, begins)),
            counters: RefCell::default(),
            settings,
        })
    }

    /// What CloudWatch shows at this moment, with the alarms as of the last period that has ended.
    pub fn cloudwatch(&self) -> CloudWatch {
        let mut cloudwatch = self.cloudwatch.borrow_mut();
        cloudwatch.advance(self.recorder.now());
        cloudwatch.clone()
    }

    /// AWS's alarms, and when each rang.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.cloudwatch().alarms().to_vec()
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        *self.counters.borrow()
    }

    /// Checks the proxy's health every `health_poll_s` seconds (MA-19), from a random moment in the first period on,
    /// for as long as the returned value lives. Runs on the current `LocalSet`.
    pub fn spawn_health_poll(self: &Rc<Self>) -> HealthPoll {
        let model = Rc::clone(self);
        let period = self.settings.health_poll_s as f64;
        HealthPoll(tokio::task::spawn_local(async move {
            if period == 0.0 {
                return;
            }
            let mut wait = period * model.health_draw();
            loop {
                tokio::time::sleep(Duration::from_secs_f64(wait)).await;
                if model.is_connected() {
                    let _states = model.check_health("KmsHealthCheck").await;
                }
                wait = period * (0.9 + 0.2 * model.health_draw());
            }
        }))
    }

    fn health_draw(&self) -> f64 {
        f64::from(self.health_times.borrow_mut().next_u32()) / 4_294_967_296.0
    }

    /// GetHealthStatus, once. `kms_operation` is `KmsHealthCheck` or the management call that asks.
    ///
    /// # Errors
    /// The row of the failure table, as the management calls use it.
    pub async fn check_health(&self, kms_operation: &'static str) -> Result<ManagerStates, Cause> {
        self.check_health_on(&self.line(self.host()), kms_operation).await
    }

    /// The same on this line.
    pub(super) async fn check_health_on(
        &self,
        line: &Line,
        kms_operation: &'static str,
    ) -> Result<ManagerStates, Cause> {
        let result = self.ask_health(line, kms_operation).await;
        let mut counters = self.counters.borrow_mut();
        counters.health_checks += 1;
        counters.health_checks_bad += u64::from(!matches!(&result, Ok(states) if states.any_usable()));
        self.all_unavailable.set(matches!(&result, Ok(states) if !states.any_usable()));
        let states = result?;
        counters.manager_states = Some(states);
        self.cloudwatch.borrow_mut().note_managers(self.recorder.now(), states);
        if states.any_usable() { Ok(states) } else { Err(Cause::Unhealthy) }
    }

    /// GetHealthStatus on any line: UpdateCustomKeyStore tries values that are not yet the key store's own.
    pub(super) async fn ask_health(
        &self,
        line: &Line,
        kms_operation: &'static str,
    ) -> Result<ManagerStates, Cause> {
        let purpose = Purpose { external_key_id: None, kms_key_arn: None, kms_operation, requester: None };
        let read = |response: &Response| read_health(&response.body).map_err(|_| Cause::Malformed);
        self.call_proxy(line, purpose, Ask::Health, read).await.map_err(|failed| failed.cause)
    }

    /// GetKeyMetadata of an external key as CreateKey asks for it, for `caller`.
    pub(super) async fn ask_metadata(
        &self,
        external_key_id: &str,
        requester: Requester<'_>,
    ) -> Result<KeyMetadata, Cause> {
        let purpose = Purpose {
            external_key_id: Some(external_key_id),
            kms_key_arn: None,
            kms_operation: "CreateKey",
            requester: Some(requester),
        };
        let read = |response: &Response| read_key_metadata(&response.body).map_err(|_| Cause::Malformed);
        let line = self.line(self.host());
        self.call_proxy(&line, purpose, Ask::KeyMetadata, read).await.map_err(|failed| failed.cause)
    }

    /// GetKeyMetadata as CreateKey asks for it, of key number `key` of the store, for `caller`.
    ///
    /// # Errors
    /// The row of the failure table; [`Cause::Error`] with `KeyNotFoundException` when the store has no such key.
    pub async fn key_metadata(&self, key: usize, caller: &Caller) -> Result<KeyMetadata, Cause> {
        let Ok(key) = self.key(key) else {
            return Err(Cause::Error(xks_proxy::error::ErrorName::KeyNotFoundException));
        };
        self.ask_metadata(&key.external_key_id, caller.into()).await
    }

    /// Key number `key` of the store.
    pub(super) fn key(&self, key: usize) -> Result<Rc<KmsKey>, KmsFailure> {
        self.keys.borrow().get(key).map(Rc::clone).ok_or_else(|| {
            KmsFailure::new(KmsException::NotFound, format!("the key store has no key number {key}"))
        })
    }

    /// Takes over the material of a key that CreateKey has added.
    pub(super) fn add_key(&self, key: KmsKey) -> usize {
        let mut keys = self.keys.borrow_mut();
        self.inner.add_key();
        keys.push(Rc::new(key));
        keys.len() - 1
    }

    /// Draws the host that serves a call.
    pub(super) fn host(&self) -> usize {
        below(&mut self.host_choice.borrow_mut(), self.settings.hosts)
    }

    /// How a call of this host goes out now.
    pub(super) fn line(&self, host: usize) -> Line {
        let signer = self.signer.borrow();
        let signer = Rc::clone(signer.seen_by(host, self.settings.hosts, self.recorder.now()));
        Line { host, target: Rc::clone(&self.target.borrow()), signer }
    }

    /// The steps of kms-behaviour 13.2 for Encrypt and GenerateDataKey*.
    async fn encrypt_call(
        &self,
        operation: KmsOperation,
        caller: &Caller,
    ) -> Result<CiphertextBlob, KmsFailure> {
        let number = caller.service % self.keys.borrow().len().max(1);
        let (host, key) = (self.host(), self.key(number)?);
        self.admit(host, &key, operation)?;
        self.seal(host, number, operation, caller).await
    }

    /// Both layers of encryption, under key number `key`, for a call that has been admitted.
    async fn seal(
        &self,
        host: usize,
        key_number: usize,
        operation: KmsOperation,
        caller: &Caller,
    ) -> Result<CiphertextBlob, KmsFailure> {
        let key = self.key(key_number)?;
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        // Neither number can be cut: `KEYS_MAX` bounds the keys, and no run has 2³² services.
        let head = BlobHead { key: key_number as u16, service: caller.service as u32, serial };
        let context = encryption_context(head.service);
        let malformed = || Cause::Malformed.failure(true);
        let plaintext = self.inner.seal(head, &context).ok_or_else(malformed)?;
        let aad = self.settings.aad(&head.to_bytes(), &context);
        let sealed =
            self.outer_seal(host, &key, (&plaintext, &aad), serial, operation, caller.into()).await?;
        let blob = pack(head, &sealed).ok_or_else(malformed)?;
        self.cloudwatch.borrow_mut().note_success(key_number, operation);
        Ok(blob)
    }

    /// The outer layer: has the proxy encrypt what the inner layer has made, with these additional data.
    pub(super) async fn outer_seal(
        &self,
        host: usize,
        key: &KmsKey,
        (plaintext, aad): (&[u8], &[u8]),
        serial: u64,
        operation: KmsOperation,
        requester: Requester<'_>,
    ) -> Result<Sealed, KmsFailure> {
        let cdiv = self.settings.cdiv
            && matches!(
                operation,
                KmsOperation::GenerateDataKey | KmsOperation::GenerateDataKeyWithoutPlaintext
            );
        let ask = Ask::Encrypt { plaintext, aad, cdiv };
        let read = |response: &Response| {
            let sealed = read_encrypt(&response.body, plaintext.len(), cdiv.then_some(aad));
            if cdiv {
                let violation = match &sealed {
                    Err(Wrong::IntegrityValue(text)) => Some(format!("encryption {serial}: {text}")),
                    _ => None,
                };
                self.violations.check(X2, self.recorder.now(), violation);
            }
            sealed.map_err(|_| Cause::Malformed)
        };
        let purpose = Purpose::of_key(key, operation, requester);
        self.call_proxy(&self.line(host), purpose, ask, read).await.map_err(Failed::failure)
    }

    /// The same for Decrypt. `named`: the number of the key that the request names, if it names one.
    async fn decrypt_call(
        &self,
        blob: &CiphertextBlob,
        named: Option<usize>,
        caller: &Caller,
    ) -> Result<(), KmsFailure> {
        let (head, sealed, key) = self.resolve(blob)?;
        if named.is_some_and(|named| named != usize::from(head.key)) {
            return Err(incorrect_key());
        }
        let host = self.host();
        self.admit(host, &key, KmsOperation::Decrypt)?;
        self.open(host, head, &sealed, &key, KmsOperation::Decrypt, caller).await?;
        self.cloudwatch.borrow_mut().note_success(head.key.into(), KmsOperation::Decrypt);
        Ok(())
    }

    /// What is in a blob, and which key it needs. AWS gives no message with this class.
    fn resolve(&self, blob: &CiphertextBlob) -> Result<(BlobHead, Sealed, Rc<KmsKey>), KmsFailure> {
        let not_ours = || KmsFailure::new(KmsException::InvalidCiphertext, "");
        let (head, sealed) = unpack(blob).ok_or_else(not_ours)?;
        let key = self.key(usize::from(head.key)).map_err(|_| not_ours())?;
        Ok((head, sealed, key))
    }

    /// Undoes both layers of encryption, for a call that has been admitted.
    async fn open(
        &self,
        host: usize,
        head: BlobHead,
        sealed: &Sealed,
        key: &KmsKey,
        operation: KmsOperation,
        caller: &Caller,
    ) -> Result<(), KmsFailure> {
        // The caller presents its own encryption context; only the service that encrypted has the right one.
        let context = encryption_context(caller.service as u32);
        if !self.settings.context_in_aad && head.service != caller.service as u32 {
            return Err(KmsFailure::new(KmsException::InvalidCiphertext, ""));
        }
        let aad = self.settings.aad(&head.to_bytes(), &context);
        let ask = Ask::Decrypt { sealed, aad: &aad };
        let read = |response: &Response| {
            let plaintext = read_decrypt(&response.body).map_err(|_| Cause::Malformed)?;
            self.check_plaintext(head, &plaintext);
            if plaintext.len() != sealed.ciphertext.len() {
                return Err(Cause::Malformed);
            }
            self.inner.open(head.key, &context, &plaintext).map(|_| ()).ok_or(Cause::InnerLayer)
        };
        let purpose = Purpose::of_key(key, operation, caller.into());
        let result = self.call_proxy(&self.line(host), purpose, ask, read).await;
        let refused = Cause::Error(xks_proxy::error::ErrorName::InvalidCiphertextException);
        if head.service == caller.service as u32
            && matches!(&result, Err(failed) if failed.cause == refused || failed.cause == Cause::InnerLayer)
        {
            self.counters.borrow_mut().own_blobs_refused += 1;
        }
        result.map_err(Failed::failure)
    }

    /// Decrypt of a blob by a request that names the key, by its number in the store.
    ///
    /// # Errors
    /// As [`KmsApi::decrypt`]; `IncorrectKeyException` when the blob was encrypted under another key.
    pub async fn decrypt_under(
        &self,
        key: usize,
        blob: &CiphertextBlob,
        caller: &Caller,
    ) -> Result<(), KmsFailure> {
        let at = self.recorder.now();
        let result = self.decrypt_call(blob, Some(key), caller).await;
        self.finish(at, KmsOperation::Decrypt, caller.service, &result);
        result
    }

    /// ReEncrypt: decrypts a blob and encrypts what was in it under key number `key`. Two calls of the proxy, one after
    /// the other, each with a patience of its own (MA-4), and one request to the quota (MA-18).
    ///
    /// # Errors
    /// What the first of the two that fails would say by itself.
    pub async fn re_encrypt(
        &self,
        blob: &CiphertextBlob,
        key: usize,
        caller: &Caller,
    ) -> Result<CiphertextBlob, KmsFailure> {
        let at = self.recorder.now();
        let result = self.re_encrypt_call(blob, key, caller).await;
        self.finish(at, KmsOperation::ReEncrypt, caller.service, &result);
        result
    }

    async fn re_encrypt_call(
        &self,
        blob: &CiphertextBlob,
        key: usize,
        caller: &Caller,
    ) -> Result<CiphertextBlob, KmsFailure> {
        let (head, sealed, source) = self.resolve(blob)?;
        let host = self.host();
        self.key(key)?.admit(KeyOperation::Cryptographic, self.view(host))?;
        self.admit(host, &source, KmsOperation::ReEncrypt)?;
        self.open(host, head, &sealed, &source, KmsOperation::ReEncrypt, caller).await?;
        self.seal(host, key, KmsOperation::ReEncrypt, caller).await
    }

    /// `operation` on key number `key` as a dry run: everything but the proxy (MA-9).
    ///
    /// # Errors
    /// Always: `DryRunOperationException` when it would have come as far as the proxy, otherwise what stopped it.
    pub fn dry_run(&self, operation: KmsOperation, key: usize) -> Result<(), KmsFailure> {
        let key = self.key(key)?;
        self.admit(self.host(), &key, operation)?;
        Err(dry_run_passed())
    }

    /// X1, where the proxy can be held to it: whether what it decrypted is what it had been given to encrypt. KMS's
    /// inner layer catches most of what is not, and the caller sees row 4; the proxy has broken its promise all the same.
    fn check_plaintext(&self, head: BlobHead, plaintext: &[u8]) {
        let original = self.inner.seal(head, &encryption_context(head.service));
        let same = original.as_deref() == Some(plaintext);
        let violation = (!same).then(|| {
            format!(
                "the proxy answered the decrypt of encryption {} with {} bytes that are not the {} bytes encrypted",
                head.serial,
                plaintext.len(),
                original.map_or(0, |original| original.len())
            )
        });
        self.violations.check(X1, self.recorder.now(), violation);
    }

    /// Key state, key store state, quotas, in this order: what is refused without a call of the proxy.
    pub(super) fn admit(&self, host: usize, key: &KmsKey, operation: KmsOperation) -> Result<(), KmsFailure> {
        self.admit_at(host, key, operation, false)
    }

    /// The same of the second key store of a ReEncrypt, which the account's quota counts once (MA-18): the first store has
    /// taken it.
    pub(super) fn admit_second(
        &self,
        host: usize,
        key: &KmsKey,
        operation: KmsOperation,
    ) -> Result<(), KmsFailure> {
        self.admit_at(host, key, operation, true)
    }

    fn admit_at(
        &self,
        host: usize,
        key: &KmsKey,
        operation: KmsOperation,
        account_paid: bool,
    ) -> Result<(), KmsFailure> {
        let view = self.view(host);
        key.admit(KeyOperation::Cryptographic, view)?;
        if !view.connected {
            return Err(Cause::NotConnected.failure(true));
        }
        let now = self.recorder.now();
        // The account's quota is the caller's, and what the key store's turns away has been taken from it all the same.
        let of_account = account_paid || self.account_quota.borrow_mut().take(now);
        if !of_account || !self.quota.borrow_mut().take(now) {
            self.counters.borrow_mut().throttled += 1;
            if of_account {
                self.cloudwatch.borrow_mut().note_throttle(now, operation);
            }
            return Err(Cause::Quota.failure(true));
        }
        if self.settings.fail_fast && self.all_unavailable.get() {
            return Err(Cause::Unhealthy.failure(true));
        }
        Ok(())
    }

    pub(super) fn view(&self, host: usize) -> View {
        let (hosts, connected) = (self.settings.hosts, self.is_connected_for(host));
        View { host, hosts, now: self.recorder.now(), connected }
    }

    /// One call of the proxy: sign, send, read, and tell of it.
    pub(super) async fn call_proxy<T>(
        &self,
        line: &Line,
        purpose: Purpose<'_>,
        ask: Ask<'_>,
        read: impl FnOnce(&Response) -> Result<T, Cause>,
    ) -> Result<T, Failed> {
        let at = self.recorder.now();
        let kms_host = line.host;
        let (kms_request_id, request) = self.write_request(line, purpose, &ask, at);
        let exchange = line.target.client.call(kms_host, &request).await;
        let status = exchange.result.as_ref().map_or(0, |response| response.status);
        let result = exchange.result.and_then(|response| {
            let result = match response.status {
                200 => read(&response),
                _ => Err(read_error(&response.body).map_or(Cause::Malformed, Cause::Error)),
            };
            result.inspect_err(|_| self.check_status(&response))
        });
        let now = self.recorder.now();
        self.recorder.emit(Event::Xks(XksEvent {
            kms_host,
            at,
            took: now.saturating_sub(at),
            fresh_connection: exchange.fresh_connection,
            outcome: result.as_ref().map_or_else(|cause| outcome(*cause, status), |_| XksOutcome::Ok),
            stages: XksStages {
                kms_request_id,
                connecting: exchange.connecting,
                securing: exchange.securing,
            },
        }));
        let mut counters = self.counters.borrow_mut();
        counters.xks_calls += 1;
        counters.xks_ok += u64::from(result.is_ok());
        counters.fresh_connections += u64::from(exchange.fresh_connection);
        counters.connect_retries += u64::from(exchange.retried);
        counters.found_closed += u64::from(exchange.found_closed);
        drop(counters);
        self.cloudwatch.borrow_mut().note_request(
            now,
            Sample {
                kms_operation: purpose.kms_operation,
                xks_operation: match ask {
                    Ask::Health => XksOperation::GetHealthStatus,
                    Ask::KeyMetadata => XksOperation::GetKeyMetadata,
                    Ask::Encrypt { .. } => XksOperation::Encrypt,
                    Ask::Decrypt { .. } => XksOperation::Decrypt,
                },
                took: now.saturating_sub(at),
                cause: result.as_ref().err().copied(),
                retried: exchange.retried,
            },
        );
        // Judged by the window as it was before this call.
        let mut reliability = self.reliability.borrow_mut();
        let reliable = reliability.is_high(now);
        reliability.note(now, result.as_ref().is_err_and(|cause| cause.is_retryable()));
        result.map_err(|cause| Failed { cause, reliable })
    }

    /// X5: an error name comes with its own status, and never with success.
    fn check_status(&self, response: &Response) {
        if let Ok(name) = read_error(&response.body) {
            let (expected, found) = (name.status().as_u16(), response.status);
            let violation = (expected != found)
                .then(|| format!("{} came with status {found}, not {expected}", name.as_str()));
            self.violations.check(X5, self.recorder.now(), violation);
        }
    }

    /// The request, and its `kmsRequestId`.
    fn write_request(
        &self,
        line: &Line,
        purpose: Purpose<'_>,
        ask: &Ask<'_>,
        at: Duration,
    ) -> (String, Vec<u8>) {
        let mut variation = self.variation.borrow_mut();
        let drawn = request_id(&mut variation);
        let kms_request_id = match purpose.requester.and_then(|it| it.request_id) {
            Some(own) => own.to_owned(),
            None => drawn,
        };
        let metadata = RequestMetadata {
            kms_request_id: &kms_request_id,
            kms_operation: if chance(&mut variation, self.settings.unknown_operation_share) {
                "OperationOfTheFuture"
            } else {
                purpose.kms_operation
            },
            principal_arn: purpose.requester.map(|requester| requester.principal_arn),
            kms_key_arn: purpose.kms_key_arn,
            via_service: match ask {
                Ask::Encrypt { .. } | Ask::Decrypt { .. } => {
                    purpose.requester.and_then(|requester| requester.via_service)
                }
                Ask::Health | Ask::KeyMetadata => None,
            },
            // Only callers that come through a VPC endpoint of their own, never AWS services on their behalf.
            source_vpc: purpose.requester.filter(|it| it.via_service.is_none()).and_then(|requester| {
                let share = self.settings.source_vpc_share;
                requester.source_vpc.or_else(|| chance(&mut variation, share).then_some(SOURCE_VPC))
            }),
        };
        let body = ask.body(&metadata, &mut variation);

        let mut path = line.target.uri_path.clone();
        if let Some(key) = purpose.external_key_id {
            path.extend(["/keys/", key]);
        }
        path.push_str(ask.path_end());

        let content_type = ("content-type", "application/json");
        let host = ("host", line.target.endpoint_host.as_str());
        // SPEC, Appendix A: host and x-amz-date at least.
        let signed: &[_] = if chance(&mut variation, 0.5) { &[content_type, host] } else { &[host] };
        let signature =
            line.signer.sign("POST", &path, signed, body.as_bytes(), self.clock.wall(line.host, at));
        let mut headers = if chance(&mut variation, 0.5) {
            [
                ("Host", host.1),
                ("Content-Type", content_type.1),
                ("X-Amz-Date", &signature.date),
                ("Authorization", &signature.authorization),
            ]
        } else {
            [host, content_type, ("x-amz-date", &signature.date), ("authorization", &signature.authorization)]
        };
        shuffle(&mut headers, &mut variation);
        let chunked = chance(&mut variation, self.settings.chunked_share);
        let request = write_post(&path, &headers, body.as_bytes(), chunked);
        (kms_request_id, request)
    }

    pub(super) fn finish<T>(
        &self,
        at: Duration,
        operation: KmsOperation,
        service: usize,
        result: &Result<T, KmsFailure>,
    ) {
        let mut counters = self.counters.borrow_mut();
        counters.kms_calls += 1;
        counters.kms_failures += u64::from(result.is_err());
        drop(counters);
        self.recorder.emit(Event::Kms(KmsEvent {
            service,
            operation,
            at,
            took: self.recorder.now().saturating_sub(at),
            failure: result.as_ref().err().cloned(),
        }));
    }
}

impl KmsApi for KmsModel {
    fn encrypt<'a>(
        &'a self,
        operation: KmsOperation,
        caller: &'a Caller,
    ) -> LocalFuture<'a, Result<CiphertextBlob, KmsFailure>> {
        Box::pin(async move {
            let at = self.recorder.now();
            let result = self.encrypt_call(operation, caller).await;
            self.finish(at, operation, caller.service, &result);
            result
        })
    }

    fn decrypt<'a>(
        &'a self,
        blob: &'a CiphertextBlob,
        caller: &'a Caller,
    ) -> LocalFuture<'a, Result<(), KmsFailure>> {
        Box::pin(async move {
            let at = self.recorder.now();
            let result = self.decrypt_call(blob, None, caller).await;
            self.finish(at, KmsOperation::Decrypt, caller.service, &result);
            result
        })
    }
}

impl<'a> Purpose<'a> {
    pub(super) fn of_key(key: &'a KmsKey, operation: KmsOperation, requester: Requester<'a>) -> Self {
        Self {
            external_key_id: Some(&key.external_key_id),
            kms_key_arn: Some(&key.arn),
            kms_operation: operation.as_str(),
            requester: Some(requester),
        }
    }
}

/// What the connections of KMS's hosts obey.
pub(super) fn client_limits(settings: &KmsSettings) -> ClientLimits {
    ClientLimits {
        hosts: settings.hosts,
        patience: settings.patience(),
        idle: settings.idle(),
        lifetime: settings.connection_lifetime(),
        connect_retry: settings.connect_retry,
    }
}

/// The periodic health check; dropping it ends it.
#[must_use = "dropping it ends the health checks"]
pub struct HealthPoll(tokio::task::JoinHandle<()>);

impl Drop for HealthPoll {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A dry run has come as far as the proxy.
pub(super) fn dry_run_passed() -> KmsFailure {
    KmsFailure::new(
        KmsException::DryRunOperation,
        "The request would have succeeded, but the DryRun option is set.",
    )
}

/// The blob was encrypted under another key than the request names.
pub(super) fn incorrect_key() -> KmsFailure {
    KmsFailure::new(
        KmsException::IncorrectKey,
        "The key ID in the request does not identify a CMK that can perform this operation.",
    )
}

fn outcome(cause: Cause, status: u16) -> XksOutcome {
    match cause {
        Cause::Error(name) => XksOutcome::Error { name, status },
        Cause::NoConnection => XksOutcome::NoConnection,
        Cause::NoTls => XksOutcome::NoTls,
        Cause::TimedOut => XksOutcome::TimedOut,
        // A plaintext that the inner layer refuses is no answer KMS could use. The last three never reach the proxy.
        Cause::Malformed | Cause::InnerLayer | Cause::NotConnected | Cause::Unhealthy | Cause::Quota => {
            XksOutcome::Malformed
        }
    }
}

/// A UUID, version 4 (RFC 9562, section 5.4).
pub(crate) fn request_id(random: &mut ChaCha20Rng) -> String {
    let (high, low) = (random.next_u64(), random.next_u64());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 48 & 0x3fff | 0x8000,
        low & 0xffff_ffff_ffff
    )
}
