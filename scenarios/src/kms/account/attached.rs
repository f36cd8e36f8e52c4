//! What hangs on a key: its policy, its grants and its tags. All of it is kept and given back, and none of it obeyed: no
//! caller's signature is verified, so there is nobody to allow or to refuse.
//!
//! Place on the map: the part of [`Account`] that does GetKeyPolicy, PutKeyPolicy, CreateGrant, ListGrants and
//! ListResourceTags. What they say to the key's state is kms-behaviour 5.3; forms and limits are those of the KMS service
//! model (2014-11-01) and of the Developer Guide (resource-limits, overview of tags).

use super::super::key::KeyOperation;
use super::super::parameters as check;
use super::super::{KmsException, KmsFailure};
use super::{Account, KeyPlace, Named, Page, no_such_key, page};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The one name that a key policy has.
const POLICY_NAME: &str = "default";
/// Bytes of a key policy, at the most.
const POLICY_BYTES_MAX: usize = 32_768;
/// Tags of one key, at the most.
const TAGS_MAX: usize = 50;
/// Grants of one key, at the most; a limit of this model, AWS's is 50,000.
const GRANTS_MAX: usize = 1_000;
/// What a grant can allow on a key of an external key store: the operations that such keys have.
const GRANT_OPERATIONS: [&str; 9] = [
    "Decrypt",
    "Encrypt",
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "ReEncryptFrom",
    "ReEncryptTo",
    "CreateGrant",
    "RetireGrant",
    "DescribeKey",
];

/// What CreateKey takes of it.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// `Description`: at most 8,192 characters.
    pub description: String,
    /// `Policy`: at most 32,768 bytes of a JSON object. Without one the key has AWS's default policy.
    pub policy: Option<String>,
    /// `Tags`: at most 50, each key once.
    pub tags: Vec<Tag>,
}

/// A tag of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// `TagKey`: 1 to 128 characters.
    pub key: String,
    /// `TagValue`: at most 256 characters.
    pub value: String,
}

/// What CreateGrant is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantTerms {
    /// `GranteePrincipal`: 1 to 256 characters of its form.
    pub grantee: String,
    /// `RetiringPrincipal`, of the same form.
    pub retiring: Option<String>,
    /// `Operations`: at least one that a key in an external key store has.
    pub operations: Vec<String>,
    /// `Name`: 1 to 256 characters of its form.
    pub name: Option<String>,
    /// `Constraints.EncryptionContextSubset`.
    pub context_subset: Option<BTreeMap<String, String>>,
    /// `Constraints.EncryptionContextEquals`.
    pub context_equals: Option<BTreeMap<String, String>>,
}

/// A grant, as ListGrants tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// `GrantId`: 64 hexadecimal digits.
    pub id: String,
    /// What it was created with.
    pub terms: GrantTerms,
    /// `CreationDate`, in simulated time.
    pub created_at: Duration,
}

impl Named for Grant {
    fn name(&self) -> &str {
        &self.id
    }
}

/// A tag whose key is the marker of its list.
impl Named for Tag {
    fn name(&self) -> &str {
        &self.key
    }
}

/// What a key has of it.
#[derive(Default)]
pub(super) struct Attached {
    /// `None`: AWS's default policy.
    policy: Option<String>,
    tags: Vec<Tag>,
    grants: BTreeMap<String, Grant>,
}

impl Attached {
    /// As CreateKey leaves it.
    ///
    /// # Errors
    /// `MalformedPolicyDocumentException`, `LimitExceededException`, `TagException`, `ValidationException`.
    pub(super) fn of(new: &NewKey) -> Result<Self, KmsFailure> {
        if let Some(policy) = &new.policy {
            check_policy(policy)?;
        }
        check_tags(&new.tags)?;
        Ok(Self { policy: new.policy.clone(), tags: new.tags.clone(), grants: BTreeMap::new() })
    }
}

impl Account {
    /// GetKeyPolicy.
    ///
    /// # Errors
    /// As [`Self::resolve`]; `NotFoundException` for another `PolicyName` than `default`.
    pub fn key_policy(&self, key_id: &str, policy_name: &str) -> Result<String, KmsFailure> {
        self.admit("GetKeyPolicy")?;
        check_policy_name(policy_name)?;
        self.attached(key_id, KeyOperation::Describe, |place| {
            place.attached.policy.clone().unwrap_or_else(|| self.default_policy())
        })
    }

    /// PutKeyPolicy.
    ///
    /// # Errors
    /// As [`Self::key_policy`]; `MalformedPolicyDocumentException` for what is no JSON object, `LimitExceededException`
    /// beyond 32,768 bytes.
    pub fn put_key_policy(&self, key_id: &str, policy_name: &str, policy: &str) -> Result<(), KmsFailure> {
        self.admit("PutKeyPolicy")?;
        check_policy_name(policy_name)?;
        check_policy(policy)?;
        self.attached(key_id, KeyOperation::Describe, |place| {
            place.attached.policy = Some(policy.to_owned());
        })
    }

    /// ListResourceTags: at most `limit`, 1 to 50, from `marker` on, and the marker of the next.
    ///
    /// # Errors
    /// As [`Self::resolve`]; `InvalidMarkerException`, `ValidationException`.
    pub fn list_resource_tags(
        &self,
        key_id: &str,
        limit: usize,
        marker: Option<&str>,
    ) -> Result<Page<Tag>, KmsFailure> {
        self.admit("ListResourceTags")?;
        self.attached(key_id, KeyOperation::Describe, |place| {
            page(place.attached.tags.iter().cloned(), (limit, TAGS_MAX), marker)
        })?
    }

    /// CreateGrant; gives its id and its token. A grant of the same name and terms is not created twice: it keeps its id
    /// and has another token.
    ///
    /// # Errors
    /// As [`Self::resolve`]; `ValidationException`, `LimitExceededException`, and what the key's state says.
    /// `DryRunOperationException` for a dry run that none of them stops.
    pub fn create_grant(
        &self,
        key_id: &str,
        terms: GrantTerms,
        dry_run: bool,
    ) -> Result<(String, String), KmsFailure> {
        self.admit("CreateGrant")?;
        check_terms(&terms)?;
        let (id, token) = (self.hex(64), self.hex(128));
        let created_at = self.doors.recorder.now();
        let created = self.attached(key_id, KeyOperation::CreateGrant, |place| {
            let grants = &mut place.attached.grants;
            if dry_run {
                return Err(super::super::model::dry_run_passed());
            }
            if terms.name.is_some()
                && let Some(same) = grants.values().find(|grant| grant.terms == terms)
            {
                return Ok(same.id.clone());
            }
            if grants.len() >= GRANTS_MAX {
                let text = format!("The key has {GRANTS_MAX} grants and may have no more.");
                return Err(KmsFailure::new(KmsException::LimitExceeded, text));
            }
            grants.insert(id.clone(), Grant { id: id.clone(), terms, created_at });
            Ok(id)
        })?;
        Ok((created?, token))
    }

    /// ListGrants, all or those of one id or one grantee: at most `limit`, 1 to 100, from `marker` on, and the marker of
    /// the next.
    ///
    /// # Errors
    /// As [`Self::resolve`]; `InvalidMarkerException`, `ValidationException`.
    pub fn list_grants(
        &self,
        key_id: &str,
        (grant_id, grantee): (Option<&str>, Option<&str>),
        limit: usize,
        marker: Option<&str>,
    ) -> Result<Page<Grant>, KmsFailure> {
        self.admit("ListGrants")?;
        let wanted = |grant: &&Grant| {
            grant_id.is_none_or(|id| grant.id == id) && grantee.is_none_or(|it| grant.terms.grantee == it)
        };
        self.attached(key_id, KeyOperation::Describe, |place| {
            page(place.attached.grants.values().filter(wanted).cloned(), (limit, 100), marker)
        })?
    }

    /// `use_it` of a key whose state lets `operation` pass.
    fn attached<T>(
        &self,
        key_id: &str,
        operation: KeyOperation,
        use_it: impl FnOnce(&mut KeyPlace) -> T,
    ) -> Result<T, KmsFailure> {
        let id = self.key_id(key_id)?;
        self.admit_key(&id, operation)?;
        let mut keys = self.keys.borrow_mut();
        Ok(use_it(keys.get_mut(&id).ok_or_else(|| no_such_key(key_id))?))
    }

    /// What a key has whose creator gave no policy: the account's own principals may be given every permission (Developer
    /// Guide, key-policy-default).
    fn default_policy(&self) -> String {
        serde_json::json!({
            "Version": "2012-10-17",
            "Id": "key-default-1",
            "Statement": [{
                "Sid": "Enable IAM User Permissions",
                "Effect": "Allow",
                "Principal": { "AWS": format!("arn:aws:iam::{}:root", self.number) },
                "Action": "kms:*",
                "Resource": "*",
            }],
        })
        .to_string()
    }
}

fn check_policy_name(name: &str) -> Result<(), KmsFailure> {
    if name == POLICY_NAME {
        return Ok(());
    }
    Err(KmsFailure::new(KmsException::NotFound, format!("No such policy exists: {name}")))
}

fn check_policy(policy: &str) -> Result<(), KmsFailure> {
    if policy.len() > POLICY_BYTES_MAX {
        let text = format!("A key policy has at most {POLICY_BYTES_MAX} bytes.");
        return Err(KmsFailure::new(KmsException::LimitExceeded, text));
    }
    if serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(policy).is_err() {
        let text = "The key policy is not a JSON object.";
        return Err(KmsFailure::new(KmsException::MalformedPolicyDocument, text));
    }
    Ok(())
}

fn check_tags(tags: &[Tag]) -> Result<(), KmsFailure> {
    if tags.len() > TAGS_MAX {
        let text = format!("A key has at most {TAGS_MAX} tags.");
        return Err(KmsFailure::new(KmsException::LimitExceeded, text));
    }
    for tag in tags {
        check::tag(&tag.key, &tag.value)?;
    }
    if tags.iter().map(|tag| &tag.key).collect::<BTreeSet<_>>().len() < tags.len() {
        return Err(KmsFailure::new(KmsException::Tag, "Two tags have the same key."));
    }
    Ok(())
}

fn check_terms(terms: &GrantTerms) -> Result<(), KmsFailure> {
    check::principal("granteePrincipal", &terms.grantee)?;
    if let Some(retiring) = &terms.retiring {
        check::principal("retiringPrincipal", retiring)?;
    }
    if let Some(name) = &terms.name {
        check::grant_name(name)?;
    }
    if terms.operations.is_empty() {
        return Err(check::missing("operations"));
    }
    match terms.operations.iter().find(|operation| !GRANT_OPERATIONS.contains(&operation.as_str())) {
        None => Ok(()),
        Some(other) => {
            let constraint = format!("Member must satisfy enum value set: [{}]", GRANT_OPERATIONS.join(", "));
            Err(check::invalid("operations", other, &constraint))
        }
    }
}
