//! One AWS account in one Region as the owner of external key stores manages it: Create-, Connect-, Disconnect-,
//! Describe-, Update- and DeleteCustomKeyStore, and the management of KMS keys.
//!
//! Place on the map: above [`model`](super::model), of which every key store of the account is one. Preconditions and
//! errors are those of kms-behaviour 2, 3 and 5; the calls have the names of the API.

use super::client::{ClientTls, Dial, XksClient};
use super::key::{KeyOperation, KeyState};
use super::lifecycle::{ConnectionErrorCode, ConnectionState, invalid_state};
use super::model::{Clock, Doors, KmsModel, Line, RegisteredKeyStore, Target, client_limits};
use super::parameters as check;
use super::quota::Quota;
use super::settings::KmsSettings;
use super::sigv4::Signer;
use super::violations::Violations;
use super::{KmsException, KmsFailure, Requester};
use crate::trace::Recorder;
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use xks_proxy::secret::Secret;

/// Custom key stores of one account and Region, at the most; a default of AWS's.
pub const KEY_STORES_MAX: usize = 10;
/// Aliases of one account, at the most; a limit of this model, not of AWS.
const ALIASES_MAX: usize = 10_000;

/// How KMS resolves a proxy's endpoint.
pub trait Endpoints {
    /// The way to this host, and TLS on it; `None` when there is no such name.
    fn open(&self, host: &str) -> Option<(Rc<dyn Dial>, Option<ClientTls>)>;
}

/// What the world lends to an account.
pub struct AccountDoors {
    /// The network to the proxies.
    pub endpoints: Rc<dyn Endpoints>,
    /// Wall time.
    pub clock: Rc<dyn Clock>,
    /// Simulated time, and where events go.
    pub recorder: Rc<dyn Recorder>,
    /// Where broken invariants go.
    pub violations: Rc<Violations>,
}

/// How KMS reaches a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// `PUBLIC_ENDPOINT`: tried when the key store is created.
    PublicEndpoint,
    /// `VPC_ENDPOINT_SERVICE`: first tried when it is connected.
    VpcEndpointService {
        /// `XksProxyVpcEndpointServiceName`.
        name: String,
        /// `XksProxyVpcEndpointServiceOwner`; the account itself when absent.
        owner: Option<String>,
    },
}

/// `XksProxyConfiguration`, without the secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyConfiguration {
    /// `Connectivity` and what belongs to it.
    pub connectivity: Connectivity,
    /// `UriEndpoint`, such as `https://xks-proxy.example.com`.
    pub uri_endpoint: String,
    /// `UriPath`, such as `/example/kms/xks/v1`.
    pub uri_path: String,
    /// `AccessKeyId`.
    pub access_key_id: String,
}

/// One entry of DescribeCustomKeyStores. The secret is never told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyStoreEntry {
    /// `CustomKeyStoreId`.
    pub id: String,
    /// `CustomKeyStoreName`.
    pub name: String,
    /// `ConnectionState`.
    pub connection: ConnectionState,
    /// `ConnectionErrorCode`, when `FAILED`.
    pub error: Option<ConnectionErrorCode>,
    /// `CreationDate`, in simulated time.
    pub created_at: Duration,
    /// `XksProxyConfiguration`.
    pub proxy: ProxyConfiguration,
}

/// Which key stores DescribeCustomKeyStores tells of.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// All of them.
    All,
    /// `CustomKeyStoreId`.
    Id(&'a str),
    /// `CustomKeyStoreName`.
    Name(&'a str),
}

/// What UpdateCustomKeyStore changes; `None` leaves it as it is.
#[derive(Default)]
pub struct KeyStoreUpdate {
    /// `NewCustomKeyStoreName`.
    pub name: Option<String>,
    /// `XksProxyAuthenticationCredential`, both parts.
    pub credential: Option<(String, Secret)>,
    /// `XksProxyUriPath`.
    pub uri_path: Option<String>,
    /// `XksProxyUriEndpoint`; only while `DISCONNECTED`.
    pub uri_endpoint: Option<String>,
    /// `XksProxyConnectivity` and what belongs to it; only while `DISCONNECTED`, and with an endpoint.
    pub connectivity: Option<Connectivity>,
}

/// `KeyMetadata`, what of it depends on the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDescription {
    /// `KeyId`.
    pub id: String,
    /// `Arn`.
    pub arn: String,
    /// `KeyState`.
    pub state: KeyState,
    /// `CustomKeyStoreId`.
    pub key_store: String,
    /// `XksKeyConfiguration.Id`.
    pub external_key_id: String,
    /// `DeletionDate`, in simulated time.
    pub deletion_at: Option<Duration>,
}

struct KeyStore {
    name: String,
    created_at: Duration,
    proxy: ProxyConfiguration,
    model: Rc<KmsModel>,
}

struct KeyPlace {
    key_store: String,
    model: Rc<KmsModel>,
    number: usize,
}

/// The account. All calls take the management rate of kms-behaviour 3 from a bucket of one second.
pub struct Account {
    number: String,
    region: String,
    settings: KmsSettings,
    doors: AccountDoors,
    random: RefCell<ChaCha20Rng>,
    quota: Rc<RefCell<Quota>>,
    rates: RefCell<BTreeMap<&'static str, Quota>>,
    key_stores: RefCell<BTreeMap<String, KeyStore>>,
    keys: RefCell<BTreeMap<String, KeyPlace>>,
    aliases: RefCell<BTreeMap<String, String>>,
}

impl Account {
    /// Account `number` (12 digits) in `region`, without a key store.
    ///
    /// # Errors
    /// When a setting is out of its range, or `number` not of its form.
    pub fn new(
        number: &str,
        region: &str,
        settings: KmsSettings,
        doors: AccountDoors,
        random: ChaCha20Rng,
    ) -> Result<Self, String> {
        settings.check()?;
        check::vpc_service_owner(number)
            .map_err(|_| format!("account {number}: write the twelve digits of an AWS account"))?;
        Ok(Self {
            number: number.to_owned(),
            region: region.to_owned(),
            quota: Rc::new(RefCell::new(Quota::new(settings.account_quota_per_s))),
            settings,
            doors,
            random: RefCell::new(random),
            rates: RefCell::default(),
            key_stores: RefCell::default(),
            keys: RefCell::default(),
            aliases: RefCell::default(),
        })
    }

    /// The model behind a key store, for cryptographic calls.
    ///
    /// # Errors
    /// `CustomKeyStoreNotFoundException`.
    pub fn key_store(&self, id: &str) -> Result<Rc<KmsModel>, KmsFailure> {
        let key_stores = self.key_stores.borrow();
        key_stores.get(id).map(|it| Rc::clone(&it.model)).ok_or_else(|| no_such_key_store(id))
    }

    /// CreateCustomKeyStore; gives its `CustomKeyStoreId`. A public endpoint is asked for its health first.
    ///
    /// # Errors
    /// `ValidationException`, `CustomKeyStoreNameInUseException`, `LimitExceededException`, one of the `InUse` classes
    /// of kms-behaviour 2, or the column C/U of the failure table.
    pub async fn create_custom_key_store(
        &self,
        name: &str,
        proxy: ProxyConfiguration,
        secret: Secret,
    ) -> Result<String, KmsFailure> {
        self.admit("CreateCustomKeyStore")?;
        check::key_store_name(name)?;
        check::access_key_id(&proxy.access_key_id)?;
        check::raw_secret(secret.expose())?;
        let host = check_proxy(&proxy)?;
        self.check_name(name, None)?;
        if self.key_stores.borrow().len() >= KEY_STORES_MAX {
            return Err(KmsFailure::new(
                KmsException::LimitExceeded,
                format!(
                    "The account has {KEY_STORES_MAX} custom key stores in this Region and may have no more."
                ),
            ));
        }
        self.check_unique(&proxy, None)?;
        let opened = self.doors.endpoints.open(&host);
        let (dial, tls) = match (opened, &proxy.connectivity) {
            (Some(opened), _) => opened,
            (None, Connectivity::PublicEndpoint) => return Err(unknown_host()),
            // Found out when it is connected.
            (None, Connectivity::VpcEndpointService { .. }) => (Rc::new(NoSuchHost) as Rc<dyn Dial>, None),
        };
        let store = RegisteredKeyStore {
            endpoint_host: host,
            uri_prefix: String::new(),
            region: self.region.clone(),
            access_key_id: proxy.access_key_id.clone(),
            secret,
            keys: Vec::new(),
        };
        let doors = Doors {
            dial,
            tls,
            clock: Rc::clone(&self.doors.clock),
            recorder: Rc::clone(&self.doors.recorder),
            violations: Rc::clone(&self.doors.violations),
        };
        let random = ChaCha20Rng::from_rng(&mut *self.random.borrow_mut());
        let quota = Rc::clone(&self.quota);
        let model = KmsModel::disconnected(self.settings.clone(), store, doors, random, quota);
        model.set_uri_path(&proxy.uri_path);
        if proxy.connectivity == Connectivity::PublicEndpoint {
            model.try_line(&model.line(model.host()), "CreateCustomKeyStore").await?;
        }
        // Others may have come first while the proxy was asked.
        self.check_name(name, None)?;
        self.check_unique(&proxy, None)?;
        let id = format!("cks-{}", self.hex(17));
        let created_at = self.doors.recorder.now();
        let key_store = KeyStore { name: name.to_owned(), created_at, proxy, model };
        self.key_stores.borrow_mut().insert(id.clone(), key_store);
        Ok(id)
    }

    /// ConnectCustomKeyStore; see [`KmsModel::connect`].
    ///
    /// # Errors
    /// `CustomKeyStoreNotFoundException`, `CustomKeyStoreInvalidStateException`.
    pub fn connect_custom_key_store(&self, id: &str) -> Result<(), KmsFailure> {
        self.admit("ConnectCustomKeyStore")?;
        self.key_store(id)?.connect()
    }

    /// DisconnectCustomKeyStore; see [`KmsModel::disconnect`].
    ///
    /// # Errors
    /// `CustomKeyStoreNotFoundException`, `CustomKeyStoreInvalidStateException`.
    pub fn disconnect_custom_key_store(&self, id: &str) -> Result<(), KmsFailure> {
        self.admit("DisconnectCustomKeyStore")?;
        self.key_store(id)?.disconnect()
    }

    /// DescribeCustomKeyStores: at most `limit` entries, 1 to 1,000, from `marker` on, and the marker of the next.
    ///
    /// # Errors
    /// `CustomKeyStoreNotFoundException` for an id or a name that is none's, `InvalidMarkerException`,
    /// `ValidationException`.
    pub fn describe_custom_key_stores(
        &self,
        which: Which<'_>,
        limit: usize,
        marker: Option<&str>,
    ) -> Result<(Vec<KeyStoreEntry>, Option<String>), KmsFailure> {
        self.admit("DescribeCustomKeyStores")?;
        if !(1..=1_000).contains(&limit) {
            return Err(check::invalid("limit", &limit.to_string(), "Member must be from 1 to 1000"));
        }
        let key_stores = self.key_stores.borrow();
        if marker.is_some_and(|marker| !key_stores.contains_key(marker)) {
            return Err(KmsFailure::new(
                KmsException::InvalidMarker,
                "The marker is not one that was given out.",
            ));
        }
        let wanted = |(id, it): &(&String, &KeyStore)| match which {
            Which::All => true,
            Which::Id(wanted) => *id == wanted,
            Which::Name(wanted) => it.name == wanted,
        };
        let from = marker.unwrap_or_default();
        let mut found = key_stores.iter().filter(|(id, _)| id.as_str() >= from).filter(wanted);
        let entries: Vec<_> = found
            .by_ref()
            .take(limit)
            .map(|(id, it)| {
                let (connection, error) = it.model.connection();
                KeyStoreEntry {
                    id: id.clone(),
                    name: it.name.clone(),
                    connection,
                    error,
                    created_at: it.created_at,
                    proxy: it.proxy.clone(),
                }
            })
            .collect();
        match which {
            Which::Id(name) | Which::Name(name) if entries.is_empty() => Err(no_such_key_store(name)),
            _ => Ok((entries, found.next().map(|(id, _)| id.clone()))),
        }
    }

    /// UpdateCustomKeyStore. KMS asks the proxy for its health with the new values before it takes any of them, but for
    /// a new name alone (MA-1).
    ///
    /// # Errors
    /// As CreateCustomKeyStore; `CustomKeyStoreInvalidStateException` when the endpoint or the connectivity is to change
    /// while the key store is not `DISCONNECTED`. Nothing has changed then.
    pub async fn update_custom_key_store(&self, id: &str, update: KeyStoreUpdate) -> Result<(), KmsFailure> {
        self.admit("UpdateCustomKeyStore")?;
        let model = self.key_store(id)?;
        if let Some(name) = &update.name {
            check::key_store_name(name)?;
            self.check_name(name, Some(id))?;
        }
        let mut proxy = self.proxy_of(id)?;
        let moves = update.uri_endpoint.is_some() || update.connectivity.is_some();
        let state = model.connection().0;
        if moves && state != ConnectionState::Disconnected {
            return Err(invalid_state(state, "have another endpoint or connectivity; disconnect it first"));
        }
        if update.connectivity.is_some() && update.uri_endpoint.is_none() {
            return Err(check::invalid(
                "xksProxyUriEndpoint",
                "null",
                "a new connectivity needs an endpoint",
            ));
        }
        let only_name = !moves && update.credential.is_none() && update.uri_path.is_none();
        if let Some((access_key_id, secret)) = &update.credential {
            check::access_key_id(access_key_id)?;
            check::raw_secret(secret.expose())?;
            proxy.access_key_id.clone_from(access_key_id);
        }
        proxy.uri_path = update.uri_path.unwrap_or(proxy.uri_path);
        proxy.uri_endpoint = update.uri_endpoint.unwrap_or(proxy.uri_endpoint);
        proxy.connectivity = update.connectivity.unwrap_or(proxy.connectivity);
        let host = check_proxy(&proxy)?;
        self.check_unique(&proxy, Some(id))?;

        let mut line: Line = model.newest_line();
        if let Some((access_key_id, secret)) = &update.credential {
            line.signer = Rc::new(Signer::new(access_key_id, secret.clone(), &self.region));
        }
        let client = if moves {
            let (dial, tls) = self.doors.endpoints.open(&host).ok_or_else(unknown_host)?;
            Rc::new(XksClient::new(dial, tls, client_limits(&self.settings)))
        } else {
            Rc::clone(&line.target.client)
        };
        line.target = Rc::new(Target { endpoint_host: host, uri_path: proxy.uri_path.clone(), client });
        if !only_name || self.settings.check_on_rename {
            model.try_line(&line, "UpdateCustomKeyStore").await?;
            // Others may have come first while the proxy was asked.
            self.check_unique(&proxy, Some(id))?;
        }
        if let Some(name) = &update.name {
            self.check_name(name, Some(id))?;
        }
        model.take_line(line, update.credential.is_some());
        if let Some(key_store) = self.key_stores.borrow_mut().get_mut(id) {
            key_store.proxy = proxy;
            if let Some(name) = update.name {
                key_store.name = name;
            }
        }
        Ok(())
    }

    /// DeleteCustomKeyStore. The proxy hears nothing of it.
    ///
    /// # Errors
    /// `CustomKeyStoreInvalidStateException` unless `DISCONNECTED`, `CustomKeyStoreHasCMKsException` while it holds
    /// keys, those pending deletion included.
    pub fn delete_custom_key_store(&self, id: &str) -> Result<(), KmsFailure> {
        self.admit("DeleteCustomKeyStore")?;
        let model = self.key_store(id)?;
        let state = model.connection().0;
        if state != ConnectionState::Disconnected {
            return Err(invalid_state(state, "be deleted; disconnect it first"));
        }
        let held = model.keys_held();
        if held > 0 {
            return Err(KmsFailure::new(
                KmsException::CustomKeyStoreHasCmks,
                format!("The custom key store holds {held} KMS keys and cannot be deleted."),
            ));
        }
        self.key_stores.borrow_mut().remove(id);
        self.keys.borrow_mut().retain(|_, place| place.key_store != id);
        let keys = self.keys.borrow();
        self.aliases.borrow_mut().retain(|_, key| keys.contains_key(key));
        Ok(())
    }

    /// CreateKey with `Origin` `EXTERNAL_KEY_STORE`. `key_spec` and `key_usage`: as in the API.
    ///
    /// # Errors
    /// `UnsupportedOperationException` for another key spec or usage than `SYMMETRIC_DEFAULT`, `ENCRYPT_DECRYPT`, or a
    /// multi-Region key (MA-3); otherwise as [`KmsModel::create_key`].
    pub async fn create_key<'a>(
        &self,
        key_store: &str,
        external_key_id: &str,
        (key_spec, key_usage, multi_region): (&str, &str, bool),
        caller: impl Into<Requester<'a>>,
    ) -> Result<KeyDescription, KmsFailure> {
        self.admit("CreateKey")?;
        check::xks_key_id(external_key_id)?;
        if key_spec != "SYMMETRIC_DEFAULT" || key_usage != "ENCRYPT_DECRYPT" || multi_region {
            return Err(KmsFailure::new(
                KmsException::UnsupportedOperation,
                "Keys in an external key store are single-Region keys of key spec SYMMETRIC_DEFAULT and key usage ENCRYPT_DECRYPT.",
            ));
        }
        let model = self.key_store(key_store)?;
        let id = self.uuid();
        let arn = format!("arn:aws:kms:{}:{}:key/{id}", self.region, self.number);
        let number = model.create_key(arn, external_key_id, caller).await?;
        let place = KeyPlace { key_store: key_store.to_owned(), model, number };
        self.keys.borrow_mut().insert(id.clone(), place);
        self.describe(&id)
    }

    /// The key store and the number in it of a key, by any form of `KeyId`: key id, key ARN, alias, alias ARN.
    ///
    /// # Errors
    /// `NotFoundException`; `ValidationException` for one without or beyond 2,048 characters.
    pub fn resolve(&self, key_id: &str) -> Result<(Rc<KmsModel>, usize), KmsFailure> {
        let id = self.key_id(key_id)?;
        let keys = self.keys.borrow();
        let place = keys.get(&id).ok_or_else(|| no_such_key(key_id))?;
        Ok((Rc::clone(&place.model), place.number))
    }

    /// DescribeKey. Asks nothing of the proxy.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn describe_key(&self, key_id: &str) -> Result<KeyDescription, KmsFailure> {
        self.admit("DescribeKey")?;
        self.describe(&self.key_id(key_id)?)
    }

    /// EnableKey.
    ///
    /// # Errors
    /// As [`Self::resolve`] and [`KmsModel::enable_key`].
    pub fn enable_key(&self, key_id: &str) -> Result<(), KmsFailure> {
        self.admit("EnableKey")?;
        let (model, number) = self.resolve(key_id)?;
        model.enable_key(number)
    }

    /// DisableKey.
    ///
    /// # Errors
    /// As [`Self::enable_key`].
    pub fn disable_key(&self, key_id: &str) -> Result<(), KmsFailure> {
        self.admit("DisableKey")?;
        let (model, number) = self.resolve(key_id)?;
        model.disable_key(number)
    }

    /// ScheduleKeyDeletion; AWS's default is 30 days.
    ///
    /// # Errors
    /// As [`Self::resolve`] and [`KmsModel::schedule_key_deletion`].
    pub fn schedule_key_deletion(&self, key_id: &str, window_days: u32) -> Result<Duration, KmsFailure> {
        self.admit("ScheduleKeyDeletion")?;
        let (model, number) = self.resolve(key_id)?;
        model.schedule_key_deletion(number, window_days)
    }

    /// CancelKeyDeletion.
    ///
    /// # Errors
    /// As [`Self::resolve`] and [`KmsModel::cancel_key_deletion`].
    pub fn cancel_key_deletion(&self, key_id: &str) -> Result<(), KmsFailure> {
        self.admit("CancelKeyDeletion")?;
        let (model, number) = self.resolve(key_id)?;
        model.cancel_key_deletion(number)
    }

    /// CreateAlias.
    ///
    /// # Errors
    /// `InvalidAliasNameException`, `AlreadyExistsException`, `LimitExceededException`, and what the key's state says.
    pub fn create_alias(&self, alias: &str, key_id: &str) -> Result<(), KmsFailure> {
        self.admit("CreateAlias")?;
        check::alias_name(alias)?;
        let id = self.key_id(key_id)?;
        let (model, number) = self.resolve(&id)?;
        model.admit_key(number, KeyOperation::CreateAlias)?;
        let mut aliases = self.aliases.borrow_mut();
        if aliases.contains_key(alias) {
            let arn = format!("arn:aws:kms:{}:{}:{alias}", self.region, self.number);
            return Err(KmsFailure::new(
                KmsException::AlreadyExists,
                format!("An alias with the name {arn} already exists"),
            ));
        }
        if aliases.len() >= ALIASES_MAX {
            let text = format!("The account has {ALIASES_MAX} aliases and may have no more.");
            return Err(KmsFailure::new(KmsException::LimitExceeded, text));
        }
        aliases.insert(alias.to_owned(), id);
        Ok(())
    }

    /// CreateGrant, the rotation calls, GenerateDataKeyPair, ReplicateKey: what they say to the key's state.
    ///
    /// # Errors
    /// Those of kms-behaviour 5.3 and 5.4.
    pub fn admit_key(&self, key_id: &str, operation: KeyOperation) -> Result<(), KmsFailure> {
        let (model, number) = self.resolve(key_id)?;
        model.admit_key(number, operation)
    }

    /// GenerateRandom with a `CustomKeyStoreId`, which only key stores of another kind serve.
    ///
    /// # Errors
    /// Always: `UnsupportedOperationException`, or `CustomKeyStoreNotFoundException`.
    pub fn generate_random(&self, key_store: &str) -> Result<(), KmsFailure> {
        self.key_store(key_store)?;
        Err(KmsFailure::new(
            KmsException::UnsupportedOperation,
            "An external key store does not support GenerateRandom.",
        ))
    }

    fn describe(&self, id: &str) -> Result<KeyDescription, KmsFailure> {
        let (model, number) = self.resolve(id)?;
        let state = model.key_state(number)?;
        let key = model.key(number)?;
        let key_store = self.keys.borrow().get(id).map(|place| place.key_store.clone()).unwrap_or_default();
        Ok(KeyDescription {
            id: id.to_owned(),
            arn: key.arn.clone(),
            state,
            key_store,
            external_key_id: key.external_key_id.clone(),
            deletion_at: key.deletion_at(),
        })
    }

    fn key_id(&self, key_id: &str) -> Result<String, KmsFailure> {
        if !(1..=2_048).contains(&key_id.len()) {
            return Err(check::invalid("keyId", key_id, "Member must have length from 1 to 2048"));
        }
        let own = format!("arn:aws:kms:{}:{}:", self.region, self.number);
        let short = key_id.strip_prefix(&own).unwrap_or(key_id);
        let short = short.strip_prefix("key/").unwrap_or(short);
        if !short.starts_with("alias/") {
            return Ok(short.to_owned());
        }
        self.aliases.borrow().get(short).cloned().ok_or_else(|| {
            KmsFailure::new(KmsException::NotFound, format!("Alias {own}{short} is not found."))
        })
    }

    /// The management rate of this call: requests per second of account and Region (kms-behaviour 3).
    fn admit(&self, call: &'static str) -> Result<(), KmsFailure> {
        let per_s = match call {
            "ScheduleKeyDeletion" => 15,
            "DescribeKey" => 2_000,
            _ => 5,
        };
        let mut rates = self.rates.borrow_mut();
        let rate = rates.entry(call).or_insert_with(|| Quota::new(per_s));
        if rate.take(self.doors.recorder.now()) {
            return Ok(());
        }
        Err(super::failure::Cause::Quota.failure(true))
    }

    fn proxy_of(&self, id: &str) -> Result<ProxyConfiguration, KmsFailure> {
        let key_stores = self.key_stores.borrow();
        key_stores.get(id).map(|it| it.proxy.clone()).ok_or_else(|| no_such_key_store(id))
    }

    fn check_name(&self, name: &str, but: Option<&str>) -> Result<(), KmsFailure> {
        let key_stores = self.key_stores.borrow();
        let mut others = key_stores.iter().filter(|(id, _)| Some(id.as_str()) != but);
        if others.any(|(_, it)| it.name == name) {
            return Err(KmsFailure::new(
                KmsException::CustomKeyStoreNameInUse,
                format!("The custom key store name {name} is in use."),
            ));
        }
        Ok(())
    }

    /// The rules of kms-behaviour 2 on endpoints, paths and VPC endpoint services.
    fn check_unique(&self, proxy: &ProxyConfiguration, but: Option<&str>) -> Result<(), KmsFailure> {
        let key_stores = self.key_stores.borrow();
        for (_, other) in key_stores.iter().filter(|(id, _)| Some(id.as_str()) != but) {
            let other = &other.proxy;
            let in_use = |exception, what: &str| {
                Err(KmsFailure::new(exception, format!("Another custom key store has this {what}.")))
            };
            if let (
                Connectivity::VpcEndpointService { name, .. },
                Connectivity::VpcEndpointService { name: other_name, .. },
            ) = (&proxy.connectivity, &other.connectivity)
                && name == other_name
            {
                return in_use(KmsException::XksProxyVpcEndpointServiceInUse, "VPC endpoint service");
            }
            if proxy.uri_endpoint != other.uri_endpoint {
                continue;
            }
            let public = |it: &ProxyConfiguration| it.connectivity == Connectivity::PublicEndpoint;
            if !public(proxy) || !public(other) {
                return in_use(KmsException::XksProxyUriEndpointInUse, "URI endpoint");
            }
            if proxy.uri_path == other.uri_path {
                return in_use(KmsException::XksProxyUriInUse, "URI endpoint and path");
            }
        }
        Ok(())
    }

    fn hex(&self, digits: usize) -> String {
        let mut random = self.random.borrow_mut();
        (0..digits).map(|_| char::from_digit(random.next_u32() >> 28, 16).unwrap_or('0')).collect()
    }

    /// Version 4 (RFC 9562, section 5.4).
    fn uuid(&self) -> String {
        let (a, b, c, d, e) = (self.hex(8), self.hex(4), self.hex(3), self.hex(3), self.hex(12));
        format!("{a}-{b}-4{c}-a{d}-{e}")
    }
}

/// Its parameters; gives the endpoint's host.
fn check_proxy(proxy: &ProxyConfiguration) -> Result<String, KmsFailure> {
    let host = check::uri_endpoint(&proxy.uri_endpoint)?;
    check::uri_path(&proxy.uri_path)?;
    if let Connectivity::VpcEndpointService { name, owner } = &proxy.connectivity {
        check::vpc_service_name(name)?;
        owner.as_deref().map_or(Ok(()), check::vpc_service_owner)?;
    }
    Ok(host.to_owned())
}

fn no_such_key_store(name: &str) -> KmsFailure {
    KmsFailure::new(KmsException::CustomKeyStoreNotFound, format!("There is no custom key store {name}."))
}

fn no_such_key(key_id: &str) -> KmsFailure {
    KmsFailure::new(KmsException::NotFound, format!("Key '{key_id}' does not exist"))
}

/// A name that DNS does not know is a proxy without a TCP connection.
fn unknown_host() -> KmsFailure {
    super::failure::Cause::NoConnection.key_store_failure()
}

/// The way to a host that has no address.
struct NoSuchHost;

impl Dial for NoSuchHost {
    fn connect<'a>(
        &'a self,
        _kms_host: usize,
    ) -> super::LocalFuture<'a, std::io::Result<Box<dyn super::client::Io>>> {
        Box::pin(async { Err(std::io::ErrorKind::HostUnreachable.into()) })
    }
}
