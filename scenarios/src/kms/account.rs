//! One AWS account in one Region as the owner of external key stores manages it: Create-, Connect-, Disconnect-,
//! Describe-, Update- and DeleteCustomKeyStore, and the management of KMS keys.
//!
//! Place on the map: above [`model`](super::model), of which every key store of the account is one. Preconditions and
//! errors are those of kms-behaviour 2, 3 and 5; the calls have the names of the API. [`cryptography`] encrypts what
//! callers bring along, [`attached`] keeps policies, grants and tags.

mod aliases;
pub mod attached;
pub mod cryptography;

pub use aliases::AliasEntry;

use super::client::{ClientTls, Dial, XksClient};
use super::key::{KeyOperation, KeyState};
use super::lifecycle::{ConnectionErrorCode, ConnectionState, invalid_state};
use super::model::{Clock, Doors, HealthPoll, KmsModel, Line, RegisteredKeyStore, Target, client_limits};
use super::parameters as check;
use super::quota::Quota;
use super::settings::{KmsSettings, VpcServiceFault};
use super::sigv4::Signer;
use super::violations::Violations;
use super::{KmsException, KmsFailure, Requester};
use crate::trace::Recorder;
use aliases::Alias;
use attached::{Attached, NewKey};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use xks_proxy::secret::Secret;

/// Custom key stores of one account and Region, at the most; a default of AWS's.
pub const KEY_STORES_MAX: usize = 10;
/// Characters of a key's description, at the most (the KMS service model).
const DESCRIPTION_CHARS_MAX: usize = 8_192;

/// Part of a list, and the marker of the next part if there is one.
pub type Page<T> = (Vec<T>, Option<String>);

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
    /// `CreationDate`, in simulated time.
    pub created_at: Duration,
    /// `DeletionDate`, in simulated time.
    pub deletion_at: Option<Duration>,
    /// `Description`.
    pub description: String,
}

struct KeyStore {
    name: String,
    created_at: Duration,
    proxy: ProxyConfiguration,
    model: Rc<KmsModel>,
    /// Goes on for as long as there is the key store.
    _health_poll: HealthPoll,
}

struct KeyPlace {
    key_store: String,
    model: Rc<KmsModel>,
    number: usize,
    created_at: Duration,
    description: String,
    attached: Attached,
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
    aliases: RefCell<BTreeMap<String, Alias>>,
    /// For data keys; apart from the other draws.
    payloads: RefCell<ChaCha20Rng>,
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
        mut random: ChaCha20Rng,
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
            payloads: RefCell::new(ChaCha20Rng::from_rng(&mut random)),
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

    /// CreateCustomKeyStore; gives its `CustomKeyStoreId`. A public endpoint is asked for its health first, and every
    /// proxy again and again while the key store is connected (MA-19). Runs on the current `LocalSet`.
    ///
    /// # Errors
    /// `ValidationException`, `CustomKeyStoreNameInUseException`, `LimitExceededException`, one of the `InUse` classes
    /// of kms-behaviour 2, what `vpc_service_fault` says of a VPC endpoint service, or the column C/U of the failure table.
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
        self.check_vpc_service(&proxy.connectivity)?;
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
        model.set_connect_fault(self.connect_fault(&proxy.connectivity));
        if proxy.connectivity == Connectivity::PublicEndpoint {
            model.try_line(&model.line(model.host()), "CreateCustomKeyStore").await?;
        }
        // Others may have come first while the proxy was asked.
        self.check_name(name, None)?;
        self.check_unique(&proxy, None)?;
        let id = format!("cks-{}", self.hex(17));
        let created_at = self.doors.recorder.now();
        let _health_poll = model.spawn_health_poll();
        let key_store = KeyStore { name: name.to_owned(), created_at, proxy, model, _health_poll };
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
    ) -> Result<Page<KeyStoreEntry>, KmsFailure> {
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
        if moves {
            self.check_vpc_service(&proxy.connectivity)?;
        }

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
        if moves {
            model.set_connect_fault(self.connect_fault(&proxy.connectivity));
        }
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
        self.aliases.borrow_mut().retain(|_, alias| keys.contains_key(&alias.key));
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
        let created_at = self.doors.recorder.now();
        let place = KeyPlace {
            key_store: key_store.to_owned(),
            model,
            number,
            created_at,
            description: String::new(),
            attached: Attached::default(),
        };
        self.keys.borrow_mut().insert(id.clone(), place);
        self.describe(&id)
    }

    /// The same with a description, a policy and tags.
    ///
    /// # Errors
    /// As [`Self::create_key`]; `ValidationException`, `LimitExceededException`, `MalformedPolicyDocumentException` and
    /// `TagException` for what is not of its form.
    pub async fn create_described_key<'a>(
        &self,
        key_store: &str,
        external_key_id: &str,
        kind: (&str, &str, bool),
        new: &NewKey,
        caller: impl Into<Requester<'a>>,
    ) -> Result<KeyDescription, KmsFailure> {
        check_description(&new.description)?;
        let attached = Attached::of(new)?;
        let key = self.create_key(key_store, external_key_id, kind, caller).await?;
        if let Some(place) = self.keys.borrow_mut().get_mut(&key.id) {
            place.description.clone_from(&new.description);
            place.attached = attached;
        }
        self.describe(&key.id)
    }

    /// The ARN of a key, by any form of `KeyId`.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn arn(&self, key_id: &str) -> Result<String, KmsFailure> {
        let (model, number) = self.resolve(key_id)?;
        Ok(model.key(number)?.arn.clone())
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

    /// UpdateKeyDescription: at most 8,192 characters.
    ///
    /// # Errors
    /// As [`Self::resolve`]; `ValidationException`; while its deletion is pending.
    pub fn update_key_description(&self, key_id: &str, description: &str) -> Result<(), KmsFailure> {
        self.admit("UpdateKeyDescription")?;
        check_description(description)?;
        let id = self.key_id(key_id)?;
        let (model, number) = self.resolve(&id)?;
        // Says to every state what EnableKey says (Developer Guide, key-state).
        model.admit_key(number, KeyOperation::Enable)?;
        if let Some(place) = self.keys.borrow_mut().get_mut(&id) {
            description.clone_into(&mut place.description);
        }
        Ok(())
    }

    /// ListKeys: key ids and ARNs, at most `limit`, 1 to 1,000, from `marker` on, and the marker of the next.
    ///
    /// # Errors
    /// `InvalidMarkerException`, `ValidationException`.
    pub fn list_keys(
        &self,
        limit: usize,
        marker: Option<&str>,
    ) -> Result<Page<(String, String)>, KmsFailure> {
        self.admit("ListKeys")?;
        let now = self.doors.recorder.now();
        let keys = self.keys.borrow();
        let there = keys.iter().filter_map(|(id, place)| {
            let key = place.model.key(place.number).ok().filter(|key| !key.is_gone(now))?;
            Some((id.clone(), key.arn.clone()))
        });
        page(there, (limit, 1_000), marker)
    }

    /// The rotation calls, GenerateDataKeyPair, ReplicateKey: what they say to the key's state, and so to
    /// [`attached`] calls before anything else.
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
    pub fn generate_random_in(&self, key_store: &str) -> Result<(), KmsFailure> {
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
        let keys = self.keys.borrow();
        let place = keys.get(id).ok_or_else(|| no_such_key(id))?;
        Ok(KeyDescription {
            id: id.to_owned(),
            arn: key.arn.clone(),
            state,
            key_store: place.key_store.clone(),
            external_key_id: key.external_key_id.clone(),
            created_at: place.created_at,
            deletion_at: key.deletion_at(),
            description: place.description.clone(),
        })
    }

    fn key_id(&self, key_id: &str) -> Result<String, KmsFailure> {
        check::key_id(key_id)?;
        let own = format!("arn:aws:kms:{}:{}:", self.region, self.number);
        let short = key_id.strip_prefix(&own).unwrap_or(key_id);
        let short = short.strip_prefix("key/").unwrap_or(short);
        if !short.starts_with("alias/") {
            return Ok(short.to_owned());
        }
        self.aliases.borrow().get(short).map(|alias| alias.key.clone()).ok_or_else(|| {
            KmsFailure::new(KmsException::NotFound, format!("Alias {own}{short} is not found."))
        })
    }

    /// The management rate of this call: requests per second of account and Region (kms-behaviour 3; Developer Guide,
    /// requests-per-second).
    fn admit(&self, call: &'static str) -> Result<(), KmsFailure> {
        let per_s = match call {
            "ScheduleKeyDeletion" | "DeleteAlias" | "PutKeyPolicy" => 15,
            "CreateGrant" => 50,
            "ListGrants" => 100,
            "ListKeys" | "ListAliases" => 500,
            "GetKeyPolicy" => 1_000,
            "DescribeKey" | "ListResourceTags" => 2_000,
            _ => 5,
        };
        let mut rates = self.rates.borrow_mut();
        let rate = rates.entry(call).or_insert_with(|| Quota::new(per_s));
        if rate.take(self.doors.recorder.now()) {
            return Ok(());
        }
        Err(super::failure::Cause::Quota.failure(true))
    }

    /// `XksProxyConfiguration` of a key store.
    pub(crate) fn proxy_of(&self, id: &str) -> Result<ProxyConfiguration, KmsFailure> {
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

    /// What KMS finds of a VPC endpoint service before it keeps it. AWS documents the classes and not the words.
    fn check_vpc_service(&self, connectivity: &Connectivity) -> Result<(), KmsFailure> {
        let Connectivity::VpcEndpointService { name, .. } = connectivity else { return Ok(()) };
        match self.settings.vpc_service_fault {
            VpcServiceFault::None => Ok(()),
            VpcServiceFault::NotFound => Err(KmsFailure::new(
                KmsException::XksProxyVpcEndpointServiceNotFound,
                format!("There is no VPC endpoint service {name}, or AWS KMS may not use it."),
            )),
            VpcServiceFault::InvalidConfiguration => Err(KmsFailure::new(
                KmsException::XksProxyVpcEndpointServiceInvalidConfiguration,
                format!("The VPC endpoint service {name} is not configured as AWS KMS needs it."),
            )),
        }
    }

    /// What a key store's connects are to end with.
    fn connect_fault(&self, connectivity: &Connectivity) -> Option<ConnectionErrorCode> {
        let concerned = |code: &ConnectionErrorCode| {
            !code.is_of_vpc() || matches!(connectivity, Connectivity::VpcEndpointService { .. })
        };
        self.settings.connect_fault.filter(concerned)
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

/// At most `limit` entries, 1 to `most`, from the one named `marker` on, and the name of the next.
fn page<T>(
    all: impl Iterator<Item = T>,
    (limit, most): (usize, usize),
    marker: Option<&str>,
) -> Result<Page<T>, KmsFailure>
where
    T: Named,
{
    if !(1..=most).contains(&limit) {
        let constraint = format!("Member must be from 1 to {most}");
        return Err(check::invalid("limit", &limit.to_string(), &constraint));
    }
    let mut rest = all.skip_while(|entry| marker.is_some_and(|marker| entry.name() != marker)).peekable();
    if marker.is_some() && rest.peek().is_none() {
        return Err(KmsFailure::new(
            KmsException::InvalidMarker,
            "The marker is not one that was given out.",
        ));
    }
    let entries = rest.by_ref().take(limit).collect();
    Ok((entries, rest.next().map(|next| next.name().to_owned())))
}

/// What a list is ordered by, and its marker.
trait Named {
    fn name(&self) -> &str;
}

impl Named for (String, String) {
    fn name(&self) -> &str {
        &self.0
    }
}

impl Named for AliasEntry {
    fn name(&self) -> &str {
        &self.name
    }
}

fn check_description(description: &str) -> Result<(), KmsFailure> {
    if description.chars().count() <= DESCRIPTION_CHARS_MAX {
        return Ok(());
    }
    let constraint = format!("Member must have length less than or equal to {DESCRIPTION_CHARS_MAX}");
    Err(check::invalid("description", "***", &constraint))
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
