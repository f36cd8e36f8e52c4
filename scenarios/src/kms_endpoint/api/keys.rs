//! The management of keys and aliases.
//!
//! Place on the map: members in and out; [`Account`](crate::kms::account::Account) does the work.

use super::attached::TagMember;
use super::members::{GrantTokens, count, needed, read};
use super::{Api, Output, Refusal};
use crate::kms::account::KeyDescription;
use crate::kms::account::attached::NewKey;
use crate::kms::key::{KeyOperation, KeyState};
use crate::kms::{KmsException, KmsFailure, Requester};
use serde::Deserialize;
use serde_json::{Value, json};

const ORIGIN: &str = "EXTERNAL_KEY_STORE";
const KEY_SPEC: &str = "SYMMETRIC_DEFAULT";
const KEY_USAGE: &str = "ENCRYPT_DECRYPT";
/// Days that ScheduleKeyDeletion waits when it is not told.
const PENDING_WINDOW_DAYS: u32 = 30;
/// Entries of ListKeys and of ListAliases when they are not told (API reference).
const KEYS_LIMIT: i64 = 100;
const ALIASES_LIMIT: i64 = 50;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateKeyMembers {
    origin: Option<String>,
    custom_key_store_id: Option<String>,
    xks_key_id: Option<String>,
    key_spec: Option<String>,
    customer_master_key_spec: Option<String>,
    key_usage: Option<String>,
    multi_region: Option<bool>,
    description: Option<String>,
    policy: Option<String>,
    tags: Option<Vec<TagMember>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct KeyMembers {
    key_id: Option<String>,
    #[serde(default)]
    grant_tokens: GrantTokens,
    description: Option<String>,
    pending_window_in_days: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AliasMembers {
    alias_name: Option<String>,
    target_key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListMembers {
    key_id: Option<String>,
    limit: Option<i64>,
    marker: Option<String>,
}

fn key_id(body: &[u8]) -> Result<String, Refusal> {
    needed(read::<KeyMembers>(body)?.key_id, "keyId")
}

impl Api {
    pub(super) async fn create_key(&self, body: &[u8], requester: Requester<'_>) -> Output {
        let members: CreateKeyMembers = read(body)?;
        if members.origin.as_deref() != Some(ORIGIN) {
            return Err(KmsFailure::new(
                KmsException::UnsupportedOperation,
                "This model of KMS has keys in external key stores only: give Origin EXTERNAL_KEY_STORE, CustomKeyStoreId \
                 and XksKeyId.",
            )
            .into());
        }
        let key_store = needed(members.custom_key_store_id, "customKeyStoreId")?;
        let external_key_id = needed(members.xks_key_id, "xksKeyId")?;
        let tags = members.tags.unwrap_or_default().into_iter().map(TagMember::tag);
        let new = NewKey {
            description: members.description.unwrap_or_default(),
            policy: members.policy,
            tags: tags.collect::<Result<_, _>>()?,
        };
        let spec = members.key_spec.or(members.customer_master_key_spec);
        let kind = (
            spec.as_deref().unwrap_or(KEY_SPEC),
            members.key_usage.as_deref().unwrap_or(KEY_USAGE),
            members.multi_region == Some(true),
        );
        let key = self.account.create_described_key(&key_store, &external_key_id, kind, &new, requester);
        Ok(Some(json!({ "KeyMetadata": self.key_metadata(&key.await?) })))
    }

    pub(super) fn describe_key(&self, body: &[u8]) -> Output {
        let members: KeyMembers = read(body)?;
        members.grant_tokens.check()?;
        let key = self.account.describe_key(&needed(members.key_id, "keyId")?)?;
        Ok(Some(json!({ "KeyMetadata": self.key_metadata(&key) })))
    }

    pub(super) fn list_keys(&self, body: &[u8]) -> Output {
        let members: ListMembers = read(body)?;
        let limit = count(members.limit.unwrap_or(KEYS_LIMIT), "limit")?;
        let (keys, next) = self.account.list_keys(limit, members.marker.as_deref())?;
        let keys: Vec<_> = keys.into_iter().map(|(id, arn)| json!({ "KeyId": id, "KeyArn": arn })).collect();
        Ok(Some(page("Keys", keys, next)))
    }

    pub(super) fn enable_key(&self, body: &[u8]) -> Output {
        self.account.enable_key(&key_id(body)?)?;
        Ok(None)
    }

    pub(super) fn disable_key(&self, body: &[u8]) -> Output {
        self.account.disable_key(&key_id(body)?)?;
        Ok(None)
    }

    pub(super) fn update_key_description(&self, body: &[u8]) -> Output {
        let members: KeyMembers = read(body)?;
        let key_id = needed(members.key_id, "keyId")?;
        let description = needed(members.description, "description")?;
        self.account.update_key_description(&key_id, &description)?;
        Ok(None)
    }

    pub(super) fn schedule_key_deletion(&self, body: &[u8]) -> Output {
        let members: KeyMembers = read(body)?;
        let key_id = needed(members.key_id, "keyId")?;
        let days = members.pending_window_in_days.unwrap_or(i64::from(PENDING_WINDOW_DAYS));
        let days = u32::try_from(count(days, "pendingWindowInDays")?).unwrap_or(u32::MAX);
        let gone = self.account.schedule_key_deletion(&key_id, days)?;
        Ok(Some(json!({
            "KeyId": self.account.arn(&key_id)?,
            "DeletionDate": self.timestamp(gone),
            "KeyState": KeyState::PendingDeletion.as_str(),
            "PendingWindowInDays": days,
        })))
    }

    pub(super) fn cancel_key_deletion(&self, body: &[u8]) -> Output {
        let key_id = key_id(body)?;
        self.account.cancel_key_deletion(&key_id)?;
        Ok(Some(json!({ "KeyId": self.account.arn(&key_id)? })))
    }

    pub(super) fn create_alias(&self, body: &[u8]) -> Output {
        let (alias, key_id) = alias_and_key(body)?;
        self.account.create_alias(&alias, &key_id)?;
        Ok(None)
    }

    pub(super) fn update_alias(&self, body: &[u8]) -> Output {
        let (alias, key_id) = alias_and_key(body)?;
        self.account.update_alias(&alias, &key_id)?;
        Ok(None)
    }

    pub(super) fn delete_alias(&self, body: &[u8]) -> Output {
        let alias = needed(read::<AliasMembers>(body)?.alias_name, "aliasName")?;
        self.account.delete_alias(&alias)?;
        Ok(None)
    }

    pub(super) fn list_aliases(&self, body: &[u8]) -> Output {
        let members: ListMembers = read(body)?;
        let limit = count(members.limit.unwrap_or(ALIASES_LIMIT), "limit")?;
        let (aliases, next) =
            self.account.list_aliases(members.key_id.as_deref(), limit, members.marker.as_deref())?;
        let aliases: Vec<_> = aliases
            .into_iter()
            .map(|alias| {
                json!({
                    "AliasName": alias.name,
                    "AliasArn": alias.arn,
                    "TargetKeyId": alias.key,
                    "CreationDate": self.timestamp(alias.created_at),
                    "LastUpdatedDate": self.timestamp(alias.updated_at),
                })
            })
            .collect();
        Ok(Some(page("Aliases", aliases, next)))
    }

    /// What keys in external key stores do not have (kms-behaviour 5.3 and 5.4), and what is no operation at all.
    pub(super) fn refuse_unsupported(&self, operation: &str, body: &[u8]) -> Output {
        let kind = match operation {
            "EnableKeyRotation" | "DisableKeyRotation" | "GetKeyRotationStatus" | "RotateKeyOnDemand" => {
                KeyOperation::Rotation
            }
            "GenerateDataKeyPair" | "GenerateDataKeyPairWithoutPlaintext" => KeyOperation::DataKeyPair,
            "ReplicateKey" => KeyOperation::Replicate,
            _ => return Err(Refusal::UnknownOperation),
        };
        self.account.admit_key(&key_id(body)?, kind)?;
        Ok(None)
    }

    fn key_metadata(&self, key: &KeyDescription) -> Value {
        let mut metadata = json!({
            "AWSAccountId": self.account_number,
            "KeyId": key.id,
            "Arn": key.arn,
            "CreationDate": self.timestamp(key.created_at),
            "Enabled": key.state == KeyState::Enabled,
            "Description": key.description,
            "KeyUsage": KEY_USAGE,
            "KeyState": key.state.as_str(),
            "Origin": ORIGIN,
            "CustomKeyStoreId": key.key_store,
            "KeyManager": "CUSTOMER",
            "CustomerMasterKeySpec": KEY_SPEC,
            "KeySpec": KEY_SPEC,
            "EncryptionAlgorithms": [KEY_SPEC],
            "MultiRegion": false,
            "XksKeyConfiguration": { "Id": key.external_key_id },
        });
        if let Some(at) = key.deletion_at {
            metadata["DeletionDate"] = self.timestamp(at);
        }
        metadata
    }
}

fn alias_and_key(body: &[u8]) -> Result<(String, String), Refusal> {
    let members: AliasMembers = read(body)?;
    Ok((needed(members.alias_name, "aliasName")?, needed(members.target_key_id, "targetKeyId")?))
}

/// A page of a list.
pub(super) fn page(name: &str, entries: Vec<Value>, next: Option<String>) -> Value {
    let mut answer = json!({ name: entries, "Truncated": next.is_some() });
    if let Some(marker) = next {
        answer["NextMarker"] = marker.into();
    }
    answer
}
