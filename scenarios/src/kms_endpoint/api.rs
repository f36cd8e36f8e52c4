//! The KMS API as JSON: which operation a request wants, and what it is answered.
//!
//! Place on the map: [`server`](super::server) hands bodies in; [`Account`] does what they ask. Names, members and
//! errors are those of kms-behaviour 11 (AWS JSON 1.1 and the KMS service model). Members that the model knows nothing
//! of are read over, as AWS reads over members it does not know.

mod attached;
mod cryptography;
mod key_stores;
mod keys;
mod members;

use super::journal::Journal;
use super::proxy_door::ProxyDoor;
use crate::kms::account::{Account, AccountDoors};
use crate::kms::model::request_id;
use crate::kms::settings::KmsSettings;
use crate::kms::violations::{Verdict, Violations};
use crate::kms::{KmsFailure, Requester, SourceVpc};
use crate::real_endpoint::RealEndpoint;
use crate::trace::Recorder;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde_json::Value;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use xks_proxy::env::{Env, SystemEnv, UnixTime};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such operation: HTTP 404.
    UnknownOperation,
    /// The body is not JSON, or a member is not of its type.
    Serialization(String),
    /// KMS's own exception.
    Failure(KmsFailure),
}

impl From<KmsFailure> for Refusal {
    fn from(failure: KmsFailure) -> Self {
        Self::Failure(failure)
    }
}

/// What a successful operation answers: its members, or nothing at all where it has no output.
type Output = Result<Option<Value>, Refusal>;

/// One account's KMS, in front of one proxy.
pub struct Api {
    account: Account,
    account_number: String,
    /// Wall time at the beginning of the journal's.
    began: UnixTime,
    journal: Rc<Journal>,
    violations: Rc<Violations>,
    request_ids: RefCell<ChaCha20Rng>,
    /// `awsSourceVpc` and `awsSourceVpce` of every caller.
    source_vpc: Option<(String, String)>,
}

impl Api {
    /// Account `number` (12 digits) in `region`, without a key store. All randomness, that of data keys included,
    /// follows from `seed`.
    ///
    /// # Errors
    /// When a setting is out of its range, or `number` not of its form.
    pub fn new(
        number: &str,
        region: &str,
        settings: KmsSettings,
        proxy: Rc<RealEndpoint>,
        seed: [u8; 32],
        journal: Journal,
    ) -> Result<Self, String> {
        let (journal, violations) = (Rc::new(journal), Rc::new(Violations::default()));
        let mut random = ChaCha20Rng::from_seed(seed);
        let request_ids = RefCell::new(ChaCha20Rng::from_rng(&mut random));
        let began = UnixTime(SystemEnv.now().0.saturating_sub(journal.now()));
        let doors = AccountDoors {
            endpoints: Rc::new(ProxyDoor(proxy)),
            clock: Rc::new(|_host: usize, _at: Duration| SystemEnv.now()),
            recorder: Rc::clone(&journal) as Rc<dyn Recorder>,
            violations: Rc::clone(&violations),
        };
        let account = Account::new(number, region, settings, doors, random)?;
        Ok(Self {
            account,
            account_number: number.to_owned(),
            began,
            journal,
            violations,
            request_ids,
            source_vpc: None,
        })
    }

    /// From now on every caller comes through this VPC endpoint of its own account: `awsSourceVpc` and `awsSourceVpce` of
    /// the proxy's requests.
    pub fn set_source_vpc(&mut self, vpc: &str, vpce: &str) {
        self.source_vpc = Some((vpc.to_owned(), vpce.to_owned()));
    }

    /// The VPC endpoint that callers come through, if they do.
    pub(super) fn source_vpc(&self) -> Option<SourceVpc<'_>> {
        self.source_vpc.as_ref().map(|(vpc, vpce)| SourceVpc { vpc, vpce })
    }

    /// The account, for what its owner does without a request.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// What has been told of the calls.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// The proxy's promises that were looked at.
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.violations.verdicts()
    }

    /// The ARN of the principal whose access key id is this.
    pub(super) fn principal_arn(&self, access_key_id: &str) -> String {
        format!("arn:aws:iam::{}:user/{access_key_id}", self.account_number)
    }

    pub(super) fn draw_request_id(&self) -> String {
        request_id(&mut self.request_ids.borrow_mut())
    }

    /// Performs `operation` on the members in `body`.
    pub(super) async fn perform(&self, operation: &str, body: &[u8], requester: Requester<'_>) -> Output {
        match operation {
            "CreateCustomKeyStore" => self.create_custom_key_store(body).await,
            "ConnectCustomKeyStore" => self.connect_custom_key_store(body),
            "DisconnectCustomKeyStore" => self.disconnect_custom_key_store(body),
            "DescribeCustomKeyStores" => self.describe_custom_key_stores(body),
            "UpdateCustomKeyStore" => self.update_custom_key_store(body).await,
            "DeleteCustomKeyStore" => self.delete_custom_key_store(body),
            "CreateKey" => self.create_key(body, requester).await,
            "DescribeKey" => self.describe_key(body),
            "ListKeys" => self.list_keys(body),
            "EnableKey" => self.enable_key(body),
            "DisableKey" => self.disable_key(body),
            "UpdateKeyDescription" => self.update_key_description(body),
            "ScheduleKeyDeletion" => self.schedule_key_deletion(body),
            "CancelKeyDeletion" => self.cancel_key_deletion(body),
            "CreateAlias" => self.create_alias(body),
            "UpdateAlias" => self.update_alias(body),
            "DeleteAlias" => self.delete_alias(body),
            "ListAliases" => self.list_aliases(body),
            "GetKeyPolicy" => self.get_key_policy(body),
            "PutKeyPolicy" => self.put_key_policy(body),
            "CreateGrant" => self.create_grant(body),
            "ListGrants" => self.list_grants(body),
            "ListResourceTags" => self.list_resource_tags(body),
            "Encrypt" => self.encrypt(body, requester).await,
            "Decrypt" => self.decrypt(body, requester).await,
            "ReEncrypt" => self.re_encrypt(body, requester).await,
            "GenerateDataKey" => self.generate_data_key(body, true, requester).await,
            "GenerateDataKeyWithoutPlaintext" => self.generate_data_key(body, false, requester).await,
            "GenerateRandom" => self.generate_random(body),
            other => self.refuse_unsupported(other, body),
        }
    }

    /// A moment of the account's time, as AWS JSON writes it: seconds since the epoch, exact to the millisecond.
    fn timestamp(&self, at: Duration) -> Value {
        let ms = (self.began.0 + at).as_millis();
        #[expect(clippy::cast_precision_loss, reason = "exact for the next 280,000 years")]
        Value::from(ms as f64 / 1_000.0)
    }
}

/// The name of an operation, if there is one of this name: the only part of a request that is fit for the journal.
pub(super) fn known(operation: &str) -> Option<&'static str> {
    const OPERATIONS: [&str; 36] = [
        "CreateCustomKeyStore",
        "ConnectCustomKeyStore",
        "DisconnectCustomKeyStore",
        "DescribeCustomKeyStores",
        "UpdateCustomKeyStore",
        "DeleteCustomKeyStore",
        "CreateKey",
        "DescribeKey",
        "ListKeys",
        "EnableKey",
        "DisableKey",
        "UpdateKeyDescription",
        "ScheduleKeyDeletion",
        "CancelKeyDeletion",
        "CreateAlias",
        "UpdateAlias",
        "DeleteAlias",
        "ListAliases",
        "GetKeyPolicy",
        "PutKeyPolicy",
        "CreateGrant",
        "ListGrants",
        "ListResourceTags",
        "Encrypt",
        "Decrypt",
        "ReEncrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateRandom",
        "GenerateDataKeyPair",
        "GenerateDataKeyPairWithoutPlaintext",
        "EnableKeyRotation",
        "DisableKeyRotation",
        "GetKeyRotationStatus",
        "RotateKeyOnDemand",
        "ReplicateKey",
    ];
    OPERATIONS.into_iter().find(|name| *name == operation)
}
