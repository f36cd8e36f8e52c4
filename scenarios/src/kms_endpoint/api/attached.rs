//! Key policies, grants and tags.
//!
//! Place on the map: members in and out; [`attached`](crate::kms::account::attached) keeps them.

use super::keys::page;
use super::members::{GrantTokens, count, needed, read};
use super::{Api, Output, Refusal};
use crate::kms::account::attached::{Grant, GrantTerms, Tag};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The name of a key policy when none is given, and the only one there is.
const POLICY_NAME: &str = "default";
/// Entries of ListGrants and of ListResourceTags when they are not told (API reference).
const LIMIT: i64 = 50;

type Context = BTreeMap<String, String>;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PolicyMembers {
    key_id: Option<String>,
    policy_name: Option<String>,
    policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GrantMembers {
    key_id: Option<String>,
    grantee_principal: Option<String>,
    retiring_principal: Option<String>,
    operations: Option<Vec<String>>,
    constraints: Option<Constraints>,
    name: Option<String>,
    #[serde(default)]
    grant_tokens: GrantTokens,
    dry_run: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Constraints {
    encryption_context_subset: Option<Context>,
    encryption_context_equals: Option<Context>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListMembers {
    key_id: Option<String>,
    grant_id: Option<String>,
    grantee_principal: Option<String>,
    limit: Option<i64>,
    marker: Option<String>,
}

/// A tag in CreateKey.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct TagMember {
    tag_key: Option<String>,
    tag_value: Option<String>,
}

impl TagMember {
    pub(super) fn tag(self) -> Result<Tag, Refusal> {
        Ok(Tag { key: needed(self.tag_key, "tagKey")?, value: needed(self.tag_value, "tagValue")? })
    }
}

impl Api {
    pub(super) fn get_key_policy(&self, body: &[u8]) -> Output {
        let members: PolicyMembers = read(body)?;
        let key_id = needed(members.key_id, "keyId")?;
        let name = members.policy_name.as_deref().unwrap_or(POLICY_NAME);
        let policy = self.account.key_policy(&key_id, name)?;
        Ok(Some(json!({ "Policy": policy, "PolicyName": name })))
    }

    pub(super) fn put_key_policy(&self, body: &[u8]) -> Output {
        let members: PolicyMembers = read(body)?;
        let key_id = needed(members.key_id, "keyId")?;
        let policy = needed(members.policy, "policy")?;
        let name = members.policy_name.as_deref().unwrap_or(POLICY_NAME);
        self.account.put_key_policy(&key_id, name, &policy)?;
        Ok(None)
    }

    pub(super) fn create_grant(&self, body: &[u8]) -> Output {
        let members: GrantMembers = read(body)?;
        members.grant_tokens.check()?;
        let key_id = needed(members.key_id, "keyId")?;
        let constraints = members.constraints.unwrap_or_default();
        let terms = GrantTerms {
            grantee: needed(members.grantee_principal, "granteePrincipal")?,
            retiring: members.retiring_principal,
            operations: needed(members.operations, "operations")?,
            name: members.name,
            context_subset: constraints.encryption_context_subset,
            context_equals: constraints.encryption_context_equals,
        };
        let (id, token) = self.account.create_grant(&key_id, terms, members.dry_run == Some(true))?;
        Ok(Some(json!({ "GrantId": id, "GrantToken": token })))
    }

    pub(super) fn list_grants(&self, body: &[u8]) -> Output {
        let members: ListMembers = read(body)?;
        let key_id = needed(members.key_id, "keyId")?;
        let limit = count(members.limit.unwrap_or(LIMIT), "limit")?;
        let wanted = (members.grant_id.as_deref(), members.grantee_principal.as_deref());
        let (grants, next) = self.account.list_grants(&key_id, wanted, limit, members.marker.as_deref())?;
        let arn = self.account.arn(&key_id)?;
        let grants = grants.into_iter().map(|grant| self.grant(&arn, grant)).collect();
        Ok(Some(page("Grants", grants, next)))
    }

    pub(super) fn list_resource_tags(&self, body: &[u8]) -> Output {
        let members: ListMembers = read(body)?;
        let key_id = needed(members.key_id, "keyId")?;
        let limit = count(members.limit.unwrap_or(LIMIT), "limit")?;
        let (tags, next) = self.account.list_resource_tags(&key_id, limit, members.marker.as_deref())?;
        let tags = tags.into_iter().map(|tag| json!({ "TagKey": tag.key, "TagValue": tag.value })).collect();
        Ok(Some(page("Tags", tags, next)))
    }

    fn grant(&self, key_arn: &str, grant: Grant) -> Value {
        let GrantTerms { grantee, retiring, operations, name, context_subset, context_equals } = grant.terms;
        let mut told = json!({
            "KeyId": key_arn,
            "GrantId": grant.id,
            "CreationDate": self.timestamp(grant.created_at),
            "GranteePrincipal": grantee,
            "IssuingAccount": format!("arn:aws:iam::{}:root", self.account_number),
            "Operations": operations,
        });
        for (member, text) in [("Name", name), ("RetiringPrincipal", retiring)] {
            if let Some(text) = text {
                told[member] = text.into();
            }
        }
        for (member, context) in
            [("EncryptionContextSubset", context_subset), ("EncryptionContextEquals", context_equals)]
        {
            if let Some(context) = context {
                told["Constraints"][member] = json!(context);
            }
        }
        told
    }
}
