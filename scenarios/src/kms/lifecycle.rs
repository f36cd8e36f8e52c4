//! What the owner of a key store does to it while it lives: connect, disconnect, a new credential, keys and their
//! states. Each is also a fault that befalls a running world.
//!
//! Place on the map: the part of [`model`](super::model) that is not a cryptographic call. [`account`](super::account)
//! adds what concerns several key stores, parameters and management rates. Facts are those of kms-behaviour 3, 4, 5.

use super::failure::Cause;
use super::key::{KeyOperation, KeyState, KmsKey};
use super::model::{KEYS_MAX, KmsModel, Line, Target};
use super::quota::Quota;
use super::sigv4::Signer;
use super::{KmsException, KmsFailure, Requester};
use std::rc::Rc;
use std::time::Duration;
use xks_proxy::env::UnixTime;
use xks_proxy::secret::Secret;

/// The connection state of a key store. `Connected` says that a connect succeeded and nobody disconnected since; it
/// promises nothing of the proxy's health, and nothing but a disconnect ends it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionState {
    /// Never connected, or disconnected on purpose.
    #[default]
    Disconnected,
    /// A connect is on its way.
    Connecting,
    /// The last connect succeeded.
    Connected,
    /// The last connect failed; only a disconnect leads out.
    Failed,
    /// A disconnect is on its way.
    Disconnecting,
}

impl ConnectionState {
    /// As in the KMS API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disconnected => "DISCONNECTED",
            Self::Connecting => "CONNECTING",
            Self::Connected => "CONNECTED",
            Self::Failed => "FAILED",
            Self::Disconnecting => "DISCONNECTING",
        }
    }
}

/// Why a connect failed (kms-behaviour 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionErrorCode {
    /// The proxy rejects the access key id or the secret.
    InvalidCredentials,
    /// The proxy's authorisation refuses KMS.
    XksProxyAccessDenied,
    /// The URI path is not one the proxy serves.
    XksProxyInvalidConfiguration,
    /// The answer cannot be understood.
    XksProxyInvalidResponse,
    /// TLS was refused.
    XksProxyInvalidTlsConfiguration,
    /// No connection, or all external key managers are unavailable.
    XksProxyNotReachable,
    /// A connection, but no answer in time.
    XksProxyTimedOut,
    /// The VPC endpoint service is not there or not open to KMS.
    XksVpcEndpointServiceNotFound,
    /// The VPC endpoint service is not as KMS needs it.
    XksVpcEndpointServiceInvalidConfiguration,
    /// KMS's own fault.
    InternalError,
}

impl ConnectionErrorCode {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::InvalidCredentials,
        Self::XksProxyAccessDenied,
        Self::XksProxyInvalidConfiguration,
        Self::XksProxyInvalidResponse,
        Self::XksProxyInvalidTlsConfiguration,
        Self::XksProxyNotReachable,
        Self::XksProxyTimedOut,
        Self::XksVpcEndpointServiceNotFound,
        Self::XksVpcEndpointServiceInvalidConfiguration,
        Self::InternalError,
    ];

    /// Whether it tells of a VPC endpoint service, which a key store with a public endpoint does not have.
    pub fn is_of_vpc(self) -> bool {
        matches!(self, Self::XksVpcEndpointServiceNotFound | Self::XksVpcEndpointServiceInvalidConfiguration)
    }

    /// As in the KMS API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidCredentials => "INVALID_CREDENTIALS",
            Self::XksProxyAccessDenied => "XKS_PROXY_ACCESS_DENIED",
            Self::XksProxyInvalidConfiguration => "XKS_PROXY_INVALID_CONFIGURATION",
            Self::XksProxyInvalidResponse => "XKS_PROXY_INVALID_RESPONSE",
            Self::XksProxyInvalidTlsConfiguration => "XKS_PROXY_INVALID_TLS_CONFIGURATION",
            Self::XksProxyNotReachable => "XKS_PROXY_NOT_REACHABLE",
            Self::XksProxyTimedOut => "XKS_PROXY_TIMED_OUT",
            Self::XksVpcEndpointServiceNotFound => "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND",
            Self::XksVpcEndpointServiceInvalidConfiguration => {
                "XKS_VPC_ENDPOINT_SERVICE_INVALID_CONFIGURATION"
            }
            Self::InternalError => "INTERNAL_ERROR",
        }
    }
}

/// Where a key store stands between its owner's connects and disconnects.
#[derive(Debug, Default)]
pub(super) struct Connection {
    state: ConnectionState,
    error: Option<ConnectionErrorCode>,
    /// When a disconnect is complete.
    until: Duration,
    /// Number of the last connect or disconnect, so that a connect that was overtaken settles nothing.
    change: u64,
    /// What the next connects end with whatever the proxy says.
    fault: Option<ConnectionErrorCode>,
}

impl Connection {
    /// Disconnected, with what every connect is to end with.
    pub(super) fn new(fault: Option<ConnectionErrorCode>) -> Self {
        Self { fault, ..Self::default() }
    }

    /// Takes a state at once.
    pub(super) fn settle(&mut self, state: ConnectionState) {
        (self.state, self.error) = (state, None);
        self.change += 1;
    }

    fn state(&self, now: Duration) -> ConnectionState {
        match self.state {
            ConnectionState::Disconnecting if now >= self.until => ConnectionState::Disconnected,
            state => state,
        }
    }
}

/// What `UpdateCustomKeyStore` changes of a proxy's address or credential; `None` leaves it as it is.
#[derive(Default)]
pub struct ProxyUpdate {
    /// `AccessKeyId` and `RawSecretAccessKey`, always both.
    pub credential: Option<(String, Secret)>,
    /// `XksProxyUriPath`, such as `/example/kms/xks/v1`.
    pub uri_path: Option<String>,
}

impl KmsModel {
    /// Whether cryptographic calls reach the proxy: in no other state than `CONNECTED` (MA-24).
    pub fn is_connected(&self) -> bool {
        self.connection.borrow().state == ConnectionState::Connected
    }

    /// The connection state, and why the last connect failed if it did.
    pub fn connection(&self) -> (ConnectionState, Option<ConnectionErrorCode>) {
        let connection = self.connection.borrow();
        (connection.state(self.recorder.now()), connection.error)
    }

    /// Whether cryptographic calls that this host of KMS serves reach the proxy: as [`Self::is_connected`], as far as
    /// the host has heard (MA-25).
    pub(super) fn is_connected_for(&self, host: usize) -> bool {
        *self.reach.borrow().seen_by(host, self.settings.hosts, self.recorder.now())
    }

    /// Takes a connection state, of which the last of KMS's hosts hears after `connection_propagation_ms`.
    pub(super) fn settle(&self, state: ConnectionState) {
        self.settle_over(state, self.settings.connection_propagation());
    }

    /// Takes a connection state, of which the last of KMS's hosts hears after `spread`.
    fn settle_over(&self, state: ConnectionState, spread: Duration) {
        self.connection.borrow_mut().settle(state);
        let connected = state == ConnectionState::Connected;
        let mut reach = self.reach.borrow_mut();
        if *reach.current() != connected {
            reach.set(connected, self.recorder.now(), spread);
        }
        drop(reach);
        self.cloudwatch.borrow_mut().set_connected(self.recorder.now(), connected);
    }

    /// ConnectCustomKeyStore: answers at once; after `connect_s` (MA-23) KMS asks the proxy for its health, and the
    /// store is `CONNECTED` or `FAILED`. A store that is connected or connecting stays what it is. Runs on the current
    /// `LocalSet`.
    ///
    /// # Errors
    /// `CustomKeyStoreInvalidStateException` while `DISCONNECTING` and after `FAILED`.
    pub fn connect(self: &Rc<Self>) -> Result<(), KmsFailure> {
        let state = self.connection.borrow().state(self.recorder.now());
        match state {
            ConnectionState::Connected | ConnectionState::Connecting => return Ok(()),
            ConnectionState::Failed | ConnectionState::Disconnecting => {
                return Err(invalid_state(state, "be connected; disconnect it first, and wait until it is"));
            }
            ConnectionState::Disconnected => {}
        }
        self.settle(ConnectionState::Connecting);
        let change = self.connection.borrow().change;
        let model = Rc::clone(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_secs(model.settings.connect_s)).await;
            let fault = model.connection.borrow().fault;
            let error = match fault {
                Some(code) => Some(code),
                None if model.connection.borrow().change != change => return,
                // With the credential that was given last: an owner who repaired it connects at once, and must not
                // fail because one host still has the old one.
                None => {
                    let line = model.newest_line();
                    let checked = model.check_health_on(&line, "ConnectCustomKeyStore").await;
                    checked.err().map(Cause::connection_error_code)
                }
            };
            if model.connection.borrow().change == change {
                model.settle(match error {
                    None => ConnectionState::Connected,
                    Some(_) => ConnectionState::Failed,
                });
                model.connection.borrow_mut().error = error;
            }
        });
        Ok(())
    }

    /// DisconnectCustomKeyStore: KMS sends nothing more to the proxy, health checks included, and answers calls with
    /// row 18. The store is `DISCONNECTING` for `disconnect_s` (MA-23).
    ///
    /// # Errors
    /// `CustomKeyStoreInvalidStateException` when it is disconnected or disconnecting.
    pub fn disconnect(&self) -> Result<(), KmsFailure> {
        let now = self.recorder.now();
        let state = self.connection.borrow().state(now);
        if matches!(state, ConnectionState::Disconnected | ConnectionState::Disconnecting) {
            return Err(invalid_state(state, "be disconnected"));
        }
        self.settle(ConnectionState::Disconnecting);
        self.connection.borrow_mut().until = now + Duration::from_secs(self.settings.disconnect_s);
        Ok(())
    }

    /// Connects or disconnects the key store at once, whatever its state and without the time that either takes: for a
    /// time line that counts from the finished change.
    pub fn set_connected(&self, connected: bool) {
        let state = if connected { ConnectionState::Connected } else { ConnectionState::Disconnected };
        self.settle_over(state, Duration::ZERO);
    }

    /// From now on every connect ends with this code, whatever the proxy says: a VPC endpoint service that is not
    /// there or not as it must be, or a fault of KMS's own. `None`: no more. `connect_fault` of the settings, to begin with.
    pub fn set_connect_fault(&self, fault: Option<ConnectionErrorCode>) {
        self.connection.borrow_mut().fault = fault;
    }

    /// UpdateCustomKeyStore with a new credential. KMS tries it on the proxy first (GetHealthStatus), and keeps the old
    /// one if the proxy refuses. Once accepted it takes `credential_spread_s` until the last of KMS's hosts signs with
    /// it, so that the proxy must accept both meanwhile.
    ///
    /// # Errors
    /// The column C/U of the failure table.
    pub async fn update_credential(&self, access_key_id: &str, secret: Secret) -> Result<(), KmsFailure> {
        self.update_proxy(ProxyUpdate {
            credential: Some((access_key_id.to_owned(), secret)),
            uri_path: None,
        })
        .await
    }

    /// The same without asking the proxy first: what an owner has who did that at another time. Takes
    /// `credential_spread_s` as well.
    pub fn set_credential(&self, access_key_id: &str, secret: Secret) {
        self.take_signer(Rc::new(Signer::new(access_key_id, secret, &self.region)));
    }

    /// UpdateCustomKeyStore of what may change in any connection state.
    ///
    /// # Errors
    /// The column C/U of the failure table; nothing has changed then.
    pub async fn update_proxy(&self, update: ProxyUpdate) -> Result<(), KmsFailure> {
        let mut line = self.newest_line();
        if let Some((access_key_id, secret)) = update.credential.as_ref() {
            line.signer = Rc::new(Signer::new(access_key_id, secret.clone(), &self.region));
        }
        if let Some(uri_path) = update.uri_path.clone() {
            line.target = Rc::new(Target {
                endpoint_host: line.target.endpoint_host.clone(),
                uri_path,
                client: Rc::clone(&line.target.client),
            });
        }
        self.try_line(&line, "UpdateCustomKeyStore").await?;
        self.take_line(line, update.credential.is_some());
        Ok(())
    }

    /// A line with the credential that was given last, whatever the drawn host has heard of it.
    pub(super) fn newest_line(&self) -> Line {
        let mut line = self.line(self.host());
        line.signer = Rc::clone(self.signer.borrow().current());
        line
    }

    /// What UpdateCustomKeyStore has tried out is the key store's own now.
    pub(super) fn take_line(&self, line: Line, new_credential: bool) {
        if new_credential {
            self.take_signer(line.signer);
        }
        *self.target.borrow_mut() = line.target;
    }

    /// The path of a key store that nobody has called yet.
    pub(super) fn set_uri_path(&self, uri_path: &str) {
        let mut target = self.target.borrow_mut();
        *target = Rc::new(Target {
            endpoint_host: target.endpoint_host.clone(),
            uri_path: uri_path.to_owned(),
            client: Rc::clone(&target.client),
        });
    }

    /// Whether a proxy with these values would do, in the words of Create- and UpdateCustomKeyStore.
    pub(super) async fn try_line(&self, line: &Line, kms_operation: &'static str) -> Result<(), KmsFailure> {
        match self.ask_health(line, kms_operation).await {
            Ok(states) if states.any_usable() => Ok(()),
            Ok(_) => Err(Cause::Unhealthy.key_store_failure()),
            Err(cause) => Err(cause.key_store_failure()),
        }
    }

    /// A credential that has been accepted.
    fn take_signer(&self, signer: Rc<Signer>) {
        let spread = Duration::from_secs(self.settings.credential_spread_s);
        self.signer.borrow_mut().set(signer, self.recorder.now(), spread);
        self.cloudwatch.borrow_mut().note_credential(self.recorder.now());
    }

    /// Tells until when the proxy's certificate is valid, or that it has none: what KMS would read off it.
    pub fn set_certificate(&self, not_after: Option<UnixTime>) {
        self.cloudwatch.borrow_mut().set_certificate(self.recorder.now(), not_after);
    }

    /// Changes the request quota of the key store, as AWS Support does; 0 means none.
    pub fn set_quota(&self, per_s: u32) {
        *self.quota.borrow_mut() = Quota::new(per_s);
    }

    /// Which of its keys has this external key; keys that are gone do not count.
    pub(super) fn key_of(&self, external_key_id: &str) -> Option<Rc<KmsKey>> {
        let now = self.recorder.now();
        let keys = self.keys.borrow();
        keys.iter().find(|key| key.external_key_id == external_key_id && !key.is_gone(now)).map(Rc::clone)
    }

    /// How many keys it holds, those pending deletion included.
    pub fn keys_held(&self) -> usize {
        let now = self.recorder.now();
        self.keys.borrow().iter().filter(|key| !key.is_gone(now)).count()
    }

    /// CreateKey for the external key `external_key_id`, with the ARN `arn`; gives its number in the store.
    ///
    /// # Errors
    /// `CustomKeyStoreInvalidStateException` with row 18 when the store is not connected, `XksKeyAlreadyInUseException`,
    /// the column CK of the failure table, and `XksKeyInvalidConfigurationException` when the external key is none that
    /// KMS can use (kms-behaviour 5.1).
    pub async fn create_key<'a>(
        &self,
        arn: String,
        external_key_id: &str,
        caller: impl Into<Requester<'a>>,
    ) -> Result<usize, KmsFailure> {
        if !self.is_connected() {
            return Err(Cause::NotConnected.create_key_failure());
        }
        let in_use = || {
            KmsFailure::new(
                KmsException::XksKeyAlreadyInUse,
                format!("Another KMS key of this external key store has the external key {external_key_id}."),
            )
        };
        if self.key_of(external_key_id).is_some() {
            return Err(in_use());
        }
        if self.keys.borrow().len() >= KEYS_MAX {
            return Err(KmsFailure::new(
                KmsException::LimitExceeded,
                format!("The external key store has had {KEYS_MAX} keys and takes no more."),
            ));
        }
        let metadata =
            self.ask_metadata(external_key_id, caller.into()).await.map_err(Cause::create_key_failure)?;
        let unusable = |text: String| Err(KmsFailure::new(KmsException::XksKeyInvalidConfiguration, text));
        if metadata.key_spec != "AES_256" {
            return unusable(format!(
                "The key spec of the external key must be AES_256. The key spec of specified external key is {}.",
                metadata.key_spec
            ));
        }
        if metadata.key_status != "ENABLED" {
            return unusable(format!(
                "The status of the external key must be ENABLED. The status of specified external key is {}.",
                metadata.key_status
            ));
        }
        if !["ENCRYPT", "DECRYPT"].iter().all(|usage| metadata.key_usage.iter().any(|it| it == usage)) {
            return unusable(format!(
                "The key usage of the external key must include ENCRYPT and DECRYPT. The key use of specified \
                 external key is {}.",
                metadata.key_usage.join(", ")
            ));
        }
        // Another call may have taken it while the proxy was asked.
        if self.key_of(external_key_id).is_some() {
            return Err(in_use());
        }
        let (now, spread) = (self.recorder.now(), self.settings.new_key_propagation());
        Ok(self.add_key(KmsKey::created(arn, external_key_id.to_owned(), now, spread)))
    }

    /// DescribeKey of key number `key`. Asks nothing of the proxy, and so works through every outage.
    ///
    /// # Errors
    /// `NotFoundException` when there is no such key, or no longer.
    pub fn key_state(&self, key: usize) -> Result<KeyState, KmsFailure> {
        let key = self.key(key)?;
        let connected = self.is_connected();
        key.admit_newest(KeyOperation::Describe, connected, self.recorder.now())?;
        Ok(key.state(connected))
    }

    /// What an operation that changes nothing here says to the state of key number `key`: CreateGrant, CreateAlias,
    /// the rotation calls, and what keys in external key stores do not have at all.
    ///
    /// # Errors
    /// Those of kms-behaviour 5.3 and 5.4.
    pub fn admit_key(&self, key: usize, operation: KeyOperation) -> Result<(), KmsFailure> {
        self.key(key)?.admit_newest(operation, self.is_connected(), self.recorder.now())
    }

    /// EnableKey on key number `key`. Takes `propagation_ms` until every host of KMS knows, as the next three do.
    ///
    /// # Errors
    /// While its deletion is pending, and when there is no such key.
    pub fn enable_key(&self, key: usize) -> Result<(), KmsFailure> {
        self.key(key)?.enable(self.recorder.now(), self.settings.propagation())
    }

    /// DisableKey.
    ///
    /// # Errors
    /// As [`Self::enable_key`].
    pub fn disable_key(&self, key: usize) -> Result<(), KmsFailure> {
        self.key(key)?.disable(self.recorder.now(), self.settings.propagation())
    }

    /// ScheduleKeyDeletion, 7 to 30 days ahead; gives the simulated time at which the key is gone for good.
    ///
    /// # Errors
    /// As [`Self::enable_key`]; `ValidationException` for another number of days.
    pub fn schedule_key_deletion(&self, key: usize, window_days: u32) -> Result<Duration, KmsFailure> {
        self.key(key)?.schedule_deletion(window_days, self.recorder.now(), self.settings.propagation())
    }

    /// CancelKeyDeletion: the key is disabled then.
    ///
    /// # Errors
    /// When no deletion is pending, and when there is no such key.
    pub fn cancel_key_deletion(&self, key: usize) -> Result<(), KmsFailure> {
        self.key(key)?.cancel_deletion(self.recorder.now(), self.settings.propagation())
    }
}

/// AWS documents the class and not the words.
pub(super) fn invalid_state(state: ConnectionState, what: &str) -> KmsFailure {
    KmsFailure::new(
        KmsException::CustomKeyStoreInvalidState,
        format!("The custom key store is {} and cannot {what}.", state.as_str()),
    )
}
