//! KMS itself: the order of steps of a cryptographic call, from the caller's request to its answer or exception.
//!
//! Place on the map: [`services`](crate::services) call it through [`KmsApi`]; everything else in this folder is a
//! part of it. Start at `KmsModel::encrypt_call`.

use super::answers::{
    KeyMetadata, ManagerStates, Wrong, read_decrypt, read_encrypt, read_error, read_health, read_key_metadata,
};
use super::client::{ClientLimits, ClientTls, Dial, XksClient};
use super::failure::Cause;
use super::http1::{Response, write_post};
use super::inner::{BlobHead, Inner, encryption_context, pack, unpack};
use super::quota::Quota;
use super::reliability::Reliability;
use super::requests::{Ask, RequestMetadata, below, chance, shuffle};
use super::settings::KmsSettings;
use super::sigv4::Signer;
use super::violations::{Violations, X1, X2, X5};
use super::{Caller, CiphertextBlob, KmsApi, KmsFailure, KmsOperation, LocalFuture};
use crate::trace::{Event, KmsEvent, Recorder, XksEvent, XksOutcome};
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
    settings: KmsSettings,
    store: RegisteredKeyStore,
    signer: RefCell<Signer>,
    inner: Inner,
    client: XksClient,
    clock: Rc<dyn Clock>,
    recorder: Rc<dyn Recorder>,
    violations: Rc<Violations>,
    /// Which host serves a call; apart from the other draws, so that these never reshuffle it.
    host_choice: RefCell<ChaCha20Rng>,
    variation: RefCell<ChaCha20Rng>,
    health_times: RefCell<ChaCha20Rng>,
    quota: RefCell<Quota>,
    reliability: RefCell<Reliability>,
    serial: Cell<u64>,
    connected: Cell<bool>,
    counters: RefCell<Counters>,
}

/// Who asks the proxy, and about which key.
struct Purpose<'a> {
    key: Option<&'a RegisteredKey>,
    kms_operation: &'a str,
    caller: Option<&'a Caller>,
}

/// A failed call of the proxy.
struct Failed {
    cause: Cause,
    /// Whether the proxy was reliable when it failed.
    reliable: bool,
}

impl Failed {
    fn failure(self) -> KmsFailure {
        self.cause.failure(self.reliable)
    }
}

impl KmsModel {
    /// A KMS whose key store is connected. All randomness comes from `random`, the run's stream for KMS.
    ///
    /// # Errors
    /// When a setting is out of its range or the key store has no keys or too many; says which and what to do.
    pub fn new(
        settings: KmsSettings,
        store: RegisteredKeyStore,
        doors: Doors,
        mut random: ChaCha20Rng,
    ) -> Result<Rc<Self>, String> {
        settings.check()?;
        if store.keys.is_empty() || store.keys.len() > usize::from(u16::MAX) + 1 {
            let found = store.keys.len();
            return Err(format!("the key store has {found} keys: register 1 to 65536"));
        }
        let mut seed = [0; 32];
        random.fill_bytes(&mut seed);
        let limits = ClientLimits {
            hosts: settings.hosts,
            patience: settings.patience(),
            idle: settings.idle(),
            connect_retry: settings.connect_retry,
        };
        let window = Duration::from_secs(settings.reliability_window_s);
        let mut stream = || RefCell::new(ChaCha20Rng::from_rng(&mut random));
        Ok(Rc::new(Self {
            signer: RefCell::new(Signer::new(&store.access_key_id, store.secret.clone(), &store.region)),
            inner: Inner::new(seed, store.keys.len()),
            client: XksClient::new(doors.dial, doors.tls, limits),
            clock: doors.clock,
            recorder: doors.recorder,
            violations: doors.violations,
            host_choice: stream(),
            variation: stream(),
            health_times: stream(),
            quota: RefCell::new(Quota::new(settings.quota_per_s)),
            reliability: RefCell::new(Reliability::new(settings.reliability_threshold, window)),
            serial: Cell::new(0),
            connected: Cell::new(true),
            counters: RefCell::default(),
            settings,
            store,
        }))
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        *self.counters.borrow()
    }

    /// Connects or disconnects the key store. While disconnected KMS sends nothing to the proxy, health checks
    /// included, and answers every call with row 18.
    pub fn set_connected(&self, connected: bool) {
        self.connected.set(connected);
    }

    /// Signs with another credential from now on (UpdateCustomKeyStore).
    pub fn set_credential(&self, access_key_id: &str, secret: Secret) {
        *self.signer.borrow_mut() = Signer::new(access_key_id, secret, &self.store.region);
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
                if model.connected.get() {
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
    pub async fn check_health(&self, kms_operation: &str) -> Result<ManagerStates, Cause> {
        let purpose = Purpose { key: None, kms_operation, caller: None };
        let read = |response: &Response| read_health(&response.body).map_err(|_| Cause::Malformed);
        let result = self.call_proxy(&purpose, Ask::Health, read).await;
        let mut counters = self.counters.borrow_mut();
        counters.health_checks += 1;
        let result = result.map_err(|failed| failed.cause).and_then(|states| {
            counters.manager_states = Some(states);
            if states.active + states.degraded == 0 { Err(Cause::Unhealthy) } else { Ok(states) }
        });
        counters.health_checks_bad += u64::from(result.is_err());
        result
    }

    /// GetKeyMetadata as CreateKey asks for it, of key number `key` of the store, for `caller`.
    ///
    /// # Errors
    /// The row of the failure table; [`Cause::Error`] with `KeyNotFoundException` when the store has no such key.
    pub async fn key_metadata(&self, key: usize, caller: &Caller) -> Result<KeyMetadata, Cause> {
        let Some(key) = self.store.keys.get(key) else {
            return Err(Cause::Error(xks_proxy::error::ErrorName::KeyNotFoundException));
        };
        let purpose = Purpose { key: Some(key), kms_operation: "CreateKey", caller: Some(caller) };
        let read = |response: &Response| read_key_metadata(&response.body).map_err(|_| Cause::Malformed);
        self.call_proxy(&purpose, Ask::KeyMetadata, read).await.map_err(|failed| failed.cause)
    }

    /// The steps of kms-behaviour 13.2 for Encrypt and GenerateDataKey*.
    async fn encrypt_call(
        &self,
        operation: KmsOperation,
        caller: &Caller,
    ) -> Result<CiphertextBlob, KmsFailure> {
        self.admit()?;
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        let key_number = caller.service % self.store.keys.len();
        // Neither number can be cut: `new` bounds the keys, and no run has 2³² services.
        let head = BlobHead { key: key_number as u16, service: caller.service as u32, serial };
        let context = encryption_context(head.service);
        let malformed = || Cause::Malformed.failure(true);
        let plaintext = self.inner.seal(head, &context).ok_or_else(malformed)?;
        let aad = head.aad(&context);
        let cdiv = self.settings.cdiv
            && matches!(
                operation,
                KmsOperation::GenerateDataKey | KmsOperation::GenerateDataKeyWithoutPlaintext
            );

        let ask = Ask::Encrypt { plaintext: &plaintext, aad: &aad, cdiv };
        let purpose = Purpose {
            key: self.store.keys.get(key_number),
            kms_operation: operation.as_str(),
            caller: Some(caller),
        };
        let read = |response: &Response| {
            let sealed = read_encrypt(&response.body, plaintext.len(), cdiv.then_some(&aad));
            if cdiv {
                let violation = match &sealed {
                    Err(Wrong::IntegrityValue(text)) => Some(format!("encryption {serial}: {text}")),
                    _ => None,
                };
                self.violations.check(X2, self.recorder.now(), violation);
            }
            sealed.map_err(|_| Cause::Malformed)
        };
        let sealed = self.call_proxy(&purpose, ask, read).await.map_err(Failed::failure)?;
        pack(head, &sealed).ok_or_else(malformed)
    }

    /// The same for Decrypt.
    async fn decrypt_call(&self, blob: &CiphertextBlob, caller: &Caller) -> Result<(), KmsFailure> {
        self.admit()?;
        // KMS would say InvalidCiphertextException of a blob that is not its own; row 3 has the nearest meaning here.
        let not_ours = Cause::Error(xks_proxy::error::ErrorName::InvalidCiphertextException);
        let (head, sealed) = unpack(blob).ok_or_else(|| not_ours.failure(true))?;
        let key = self.store.keys.get(usize::from(head.key)).ok_or_else(|| not_ours.failure(true))?;
        // The caller presents its own encryption context; only the service that encrypted has the right one.
        let context = encryption_context(caller.service as u32);
        let aad = head.aad(&context);

        let ask = Ask::Decrypt { sealed: &sealed, aad: &aad };
        let purpose =
            Purpose { key: Some(key), kms_operation: KmsOperation::Decrypt.as_str(), caller: Some(caller) };
        let read = |response: &Response| {
            let plaintext = read_decrypt(&response.body).map_err(|_| Cause::Malformed)?;
            self.check_plaintext(head, &plaintext);
            if plaintext.len() != sealed.ciphertext.len() {
                return Err(Cause::Malformed);
            }
            self.inner.open(head.key, &context, &plaintext).map(|_| ()).ok_or(Cause::InnerLayer)
        };
        let result = self.call_proxy(&purpose, ask, read).await;
        if head.service == caller.service as u32
            && matches!(&result, Err(failed) if failed.cause == not_ours || failed.cause == Cause::InnerLayer)
        {
            self.counters.borrow_mut().own_blobs_refused += 1;
        }
        result.map_err(Failed::failure)
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

    /// Key store state, then quota: what is refused without a call of the proxy.
    fn admit(&self) -> Result<(), KmsFailure> {
        if !self.connected.get() {
            return Err(Cause::NotConnected.failure(true));
        }
        if !self.quota.borrow_mut().take(self.recorder.now()) {
            self.counters.borrow_mut().throttled += 1;
            return Err(Cause::Quota.failure(true));
        }
        Ok(())
    }

    /// One call of the proxy: sign, send, read, and tell of it.
    async fn call_proxy<T>(
        &self,
        purpose: &Purpose<'_>,
        ask: Ask<'_>,
        read: impl FnOnce(&Response) -> Result<T, Cause>,
    ) -> Result<T, Failed> {
        let at = self.recorder.now();
        let kms_host = below(&mut self.host_choice.borrow_mut(), self.settings.hosts);
        let request = self.write_request(kms_host, purpose, &ask, at);
        let exchange = self.client.call(kms_host, &request).await;
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
        }));
        let mut counters = self.counters.borrow_mut();
        counters.xks_calls += 1;
        counters.xks_ok += u64::from(result.is_ok());
        counters.fresh_connections += u64::from(exchange.fresh_connection);
        counters.connect_retries += u64::from(exchange.retried);
        counters.found_closed += u64::from(exchange.found_closed);
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

    fn write_request(&self, kms_host: usize, purpose: &Purpose<'_>, ask: &Ask<'_>, at: Duration) -> Vec<u8> {
        let mut variation = self.variation.borrow_mut();
        let metadata = RequestMetadata {
            kms_request_id: &request_id(&mut variation),
            kms_operation: if chance(&mut variation, self.settings.unknown_operation_share) {
                "OperationOfTheFuture"
            } else {
                purpose.kms_operation
            },
            principal_arn: purpose.caller.map(|caller| caller.principal_arn),
            kms_key_arn: match ask {
                Ask::Encrypt { .. } | Ask::Decrypt { .. } => purpose.key.map(|key| key.kms_key_arn.as_str()),
                Ask::Health | Ask::KeyMetadata => None,
            },
            via_service: match ask {
                Ask::Encrypt { .. } | Ask::Decrypt { .. } => {
                    purpose.caller.and_then(|caller| caller.via_service)
                }
                Ask::Health | Ask::KeyMetadata => None,
            },
            // Only callers that come through a VPC endpoint of their own, never AWS services on their behalf.
            source_vpc: purpose.caller.is_some_and(|caller| caller.via_service.is_none())
                && chance(&mut variation, 0.5),
        };
        let body = ask.body(&metadata, &mut variation);

        let mut path = [&self.store.uri_prefix, API_ROOT].concat();
        if let Some(key) = purpose.key {
            path.extend(["/keys/", &key.external_key_id]);
        }
        path.push_str(ask.path_end());

        let content_type = ("content-type", "application/json");
        let host = ("host", self.store.endpoint_host.as_str());
        // SPEC, Appendix A: host and x-amz-date at least.
        let signed: &[_] = if chance(&mut variation, 0.5) { &[content_type, host] } else { &[host] };
        let signature =
            self.signer.borrow().sign("POST", &path, signed, body.as_bytes(), self.clock.wall(kms_host, at));
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
        write_post(&path, &headers, body.as_bytes(), chunked)
    }

    fn finish<T>(
        &self,
        at: Duration,
        operation: KmsOperation,
        caller: &Caller,
        result: &Result<T, KmsFailure>,
    ) {
        let mut counters = self.counters.borrow_mut();
        counters.kms_calls += 1;
        counters.kms_failures += u64::from(result.is_err());
        drop(counters);
        self.recorder.emit(Event::Kms(KmsEvent {
            service: caller.service,
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
            self.finish(at, operation, caller, &result);
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
            let result = self.decrypt_call(blob, caller).await;
            self.finish(at, KmsOperation::Decrypt, caller, &result);
            result
        })
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
fn request_id(random: &mut ChaCha20Rng) -> String {
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
