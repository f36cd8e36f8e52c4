//! Policies in Cedar (<https://www.cedarpolicy.com>), parsed and checked against a schema once, asked once per request.
//!
//! Place on the map: one of the two opinions behind [`Access::decide`](super::Access::decide). `config` reads the
//! files; this module is text in, decisions out.
//!
//! Two of Cedar's ways are changed, both to the safe side. Cedar skips a policy that fails while it is evaluated: a
//! `forbid` that fails here forbids. And a file without any policy, which Cedar takes to deny everything, is refused,
//! because an editor or a deployment that is writing the file leaves it so for a moment.
//!
//! A decision over the five policies of `policy/example.cedar` took 17 µs in a build with little optimisation
//! (opt-level 1), and each further policy 1 µs (`cargo bench -p benches --bench policy`); making the entities and the
//! context is most of the 17.

use super::Asked;
use crate::events::Operation;
use ::cedar_policy::{
    AuthorizationError, Authorizer, Context, Decision, Effect, Entities, Entity, EntityId, EntityTypeName,
    EntityUid, Policy, PolicyId, PolicySet, Request, Response, RestrictedExpression, Schema, ValidationMode,
    ValidationWarning, Validator,
};
use miette::Diagnostic;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The schema of our own, for whoever has none.
pub const DEFAULT_SCHEMA: &str = include_str!("../../policy/xks.cedarschema");

/// The operations that ask a policy; GetHealthStatus does not (XKS-HLT-3).
const OPERATIONS: [Operation; 3] = [Operation::GetKeyMetadata, Operation::Encrypt, Operation::Decrypt];

/// The checked policies of one key store.
#[derive(Debug)]
pub struct Policies {
    set: PolicySet,
    names: BTreeMap<PolicyId, Name>,
    warnings: Vec<Remark>,
    words: Words,
}

/// How a policy is called: its `@id`, else Cedar's own `policy0`, `policy1` … in the order of the file.
#[derive(Debug)]
struct Name {
    text: String,
    effect: Effect,
}

/// What a mistake or an oddity is, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Which of the two texts.
    pub text: Text,
    /// Line and column, both from 1, where Cedar knows them.
    pub place: Option<(usize, usize)>,
    /// One sentence.
    pub message: String,
}

/// The texts that policies are made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// The policies.
    Policies,
    /// The schema.
    Schema,
}

/// The policies deny a request. Its `Display` is for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused<'a> {
    /// The names of the `forbid` policies that hold, or that failed; none when no `permit` holds.
    pub forbidden_by: Vec<&'a str>,
    /// What failed while it was evaluated: the policy's name and Cedar's words. The name is empty when the request
    /// itself could not be put into Cedar's terms.
    pub failed: Vec<(&'a str, String)>,
}

impl Policies {
    /// Parses and checks. `schema` is in Cedar's schema syntax; `None` takes [`DEFAULT_SCHEMA`]. `key_store` is the name
    /// under which policies know the key store.
    ///
    /// # Errors
    /// For the first mistake: no Cedar, no policy at all, a template, an `@id` that stands twice, a policy that does not
    /// fit the schema or that can never apply, a schema that does not fit what the proxy says of requests.
    pub fn parse(policies: &str, schema: Option<&str>, key_store: &str) -> Result<Self, Remark> {
        let words = Words::new(key_store, schema.unwrap_or(DEFAULT_SCHEMA))?;
        let set = PolicySet::from_str(policies).map_err(|errors| {
            let first = errors.iter().next().map(|error| Remark::of(Text::Policies, policies, error));
            first.unwrap_or_else(|| Remark::whole(Text::Policies, errors.to_string()))
        })?;
        if let Some(template) = set.templates().next() {
            let message = "this policy has a slot (?principal or ?resource), and nothing fills slots here: name the \
                           principal or resource";
            let place = policies.find(&template.to_cedar()).and_then(|offset| place(policies, offset));
            return Err(Remark { place, ..Remark::whole(Text::Policies, message) });
        }
        if set.is_empty() {
            let message = "there is no policy, which would deny every request: write one, if only \
                           `forbid(principal, action, resource);`";
            return Err(Remark::whole(Text::Policies, message));
        }
        let names = names(&set, policies)?;
        let result = Validator::new(words.schema.clone()).validate(&set, ValidationMode::Strict);
        let remark = |policy: &PolicyId, error: &dyn Diagnostic| {
            let remark = Remark::of(Text::Policies, policies, error);
            let start = || place(policies, start(set.policy(policy)?, policies)?);
            Remark { place: remark.place.or_else(start), ..remark }
        };
        let errors = result.validation_errors().map(|error| remark(error.policy_id(), error));
        if let Some(first) = in_order(errors).into_iter().next() {
            return Err(first);
        }
        // A policy that can never apply is a mistake in the text, `context has kmsViaServce`, and of a `forbid` a grave one.
        let (dead, odd): (Vec<_>, Vec<_>) = result.validation_warnings().partition(|warning| {
            use ValidationWarning::{ImpossiblePolicy, InvalidActionApplication};
            matches!(warning, ImpossiblePolicy(_) | InvalidActionApplication(_))
        });
        if let Some(first) =
            in_order(dead.into_iter().map(|error| remark(error.policy_id(), error))).into_iter().next()
        {
            return Err(first);
        }
        let mut warnings = in_order(odd.into_iter().map(|warning| remark(warning.policy_id(), warning)));
        if names.values().all(|name| name.effect == Effect::Forbid) {
            let message = "no policy is a `permit`, so every request is denied";
            warnings.push(Remark::whole(Text::Policies, message));
        }
        Ok(Self { set, names, warnings, words })
    }

    /// How many policies there are, at least one.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// What is legal and probably not meant.
    pub fn warnings(&self) -> &[Remark] {
        &self.warnings
    }

    /// Admits with the names of the `permit` policies that hold, or denies.
    ///
    /// # Errors
    /// When a `forbid` holds or fails, or no `permit` holds.
    pub fn decide(&self, asked: &Asked<'_>) -> Result<Vec<&str>, Refused<'_>> {
        let response = self
            .words
            .ask(&self.set, asked)
            .map_err(|error| Refused { forbidden_by: Vec::new(), failed: vec![("", error)] })?;
        let mut failed: Vec<(&Name, String)> = Vec::new();
        for error in response.diagnostics().errors() {
            let AuthorizationError::PolicyEvaluationError(error) = error;
            // Every id in an answer is one of the set's.
            if let Some(name) = self.names.get(error.policy_id()) {
                failed.push((name, error.inner().to_string()));
            }
        }
        let mut decided_by: Vec<&str> = response
            .diagnostics()
            .reason()
            .filter_map(|id| self.names.get(id))
            .map(|name| &*name.text)
            .collect();
        let allowed = response.decision() == Decision::Allow;
        let failed_forbids: Vec<&str> = failed
            .iter()
            .filter(|(name, _)| name.effect == Effect::Forbid)
            .map(|(name, _)| &*name.text)
            .collect();
        if allowed && failed_forbids.is_empty() {
            decided_by.sort_unstable();
            return Ok(decided_by);
        }
        if allowed {
            // These are the permits that a failed forbid overrules.
            decided_by.clear();
        }
        decided_by.extend(failed_forbids);
        decided_by.sort_unstable();
        let mut failed: Vec<(&str, String)> =
            failed.into_iter().map(|(name, error)| (&*name.text, error)).collect();
        failed.sort_unstable();
        Err(Refused { forbidden_by: decided_by, failed })
    }
}

/// As they stand in the text: Cedar gives them in no fixed order.
fn in_order(remarks: impl Iterator<Item = Remark>) -> Vec<Remark> {
    let mut remarks: Vec<Remark> = remarks.collect();
    remarks.sort_by(|one, other| (one.place, &one.message).cmp(&(other.place, &other.message)));
    remarks
}

/// Names every policy, each differently, or the log of a denial would name two.
fn names(set: &PolicySet, source: &str) -> Result<BTreeMap<PolicyId, Name>, Remark> {
    let mut names: BTreeMap<PolicyId, Name> = BTreeMap::new();
    let mut seen: BTreeMap<String, Option<usize>> = BTreeMap::new();
    for policy in set.policies() {
        let id = policy.id().clone();
        let text = match policy.annotation("id") {
            Some(text) if !text.trim().is_empty() => text.to_owned(),
            _ => id.to_string(),
        };
        let here = start(policy, source);
        if let Some(other) = seen.insert(text.clone(), here) {
            let message =
                format!("the id {text:?} stands here for the second time: give each policy its own @id");
            let place = here.max(other).and_then(|offset| place(source, offset));
            return Err(Remark { place, ..Remark::whole(Text::Policies, message) });
        }
        names.insert(id, Name { text, effect: policy.effect() });
    }
    Ok(names)
}

/// Where a policy begins in the text it was parsed from; of several that are alike, the last.
fn start(policy: &Policy, source: &str) -> Option<usize> {
    source.rfind(&policy.to_cedar()?)
}

/// Line and column of a byte offset, from 1.
fn place(source: &str, offset: usize) -> Option<(usize, usize)> {
    let before = source.get(..offset)?;
    let line = before.rsplit('\n').next().unwrap_or_default();
    Some((1 + before.matches('\n').count(), 1 + line.chars().count()))
}

/// The words in which requests are told to Cedar, made once.
#[derive(Debug)]
struct Words {
    authorizer: Authorizer,
    schema: Schema,
    /// The actions in their groups, when the schema has such.
    actions: Entities,
    get_key_metadata: EntityUid,
    encrypt: EntityUid,
    decrypt: EntityUid,
    key_store: EntityUid,
    principal: EntityTypeName,
    account: EntityTypeName,
    key: EntityTypeName,
}

impl Words {
    fn new(key_store: &str, schema_text: &str) -> Result<Self, Remark> {
        let (schema, _) = Schema::from_cedarschema_str(schema_text)
            .map_err(|error| Remark::of(Text::Schema, schema_text, &error))?;
        let unfit = |error: String| {
            Remark::whole(
                Text::Schema,
                format!(
                    "the schema does not fit what the proxy says of a request: {error}: keep to xks.cedarschema"
                ),
            )
        };
        let word = |name: &str| EntityTypeName::from_str(name).map_err(|error| unfit(error.to_string()));
        let action = word("Xks::Action")?;
        let action = |operation: Operation| {
            EntityUid::from_type_name_and_id(action.clone(), EntityId::new(operation.as_str()))
        };
        // Without groups nothing is to be known of an action but its name, and each request is spared their copies.
        let actions = match schema.action_groups().next() {
            None => Entities::empty(),
            Some(_) => schema.action_entities().map_err(|error| unfit(error.to_string()))?,
        };
        let words = Self {
            authorizer: Authorizer::new(),
            actions,
            get_key_metadata: action(Operation::GetKeyMetadata),
            encrypt: action(Operation::Encrypt),
            decrypt: action(Operation::Decrypt),
            key_store: EntityUid::from_type_name_and_id(word("Xks::KeyStore")?, EntityId::new(key_store)),
            principal: word("Xks::Principal")?,
            account: word("Xks::Account")?,
            key: word("Xks::Key")?,
            schema,
        };
        words.try_out().map_err(unfit)?;
        Ok(words)
    }

    /// Holds requests with as little and as much in them as there can be against the schema, so that a policy that
    /// passes the schema's check finds in a request what the schema says.
    fn try_out(&self) -> Result<(), String> {
        let key = crate::key::KeyId::parse("key").map_err(|error| error.to_string())?;
        for operation in OPERATIONS {
            let least = Asked {
                key: &key,
                operation,
                principal_arn: "arn",
                kms_key_arn: None,
                kms_operation: "",
                via_service: None,
                source_vpc: None,
                source_vpce: None,
                access_key_id: "",
            };
            let most = Asked {
                principal_arn: "arn:aws:iam::123456789012:root",
                kms_key_arn: Some(""),
                via_service: Some(""),
                source_vpc: Some(""),
                source_vpce: Some(""),
                ..least
            };
            for asked in [least, most] {
                self.request(&asked, Some(&self.schema))?;
                self.entities(&asked, Some(&self.schema))?;
            }
        }
        Ok(())
    }

    fn ask(&self, set: &PolicySet, asked: &Asked<'_>) -> Result<Response, String> {
        let (request, entities) = (self.request(asked, None)?, self.entities(asked, None)?);
        Ok(self.authorizer.is_authorized(&request, set, &entities))
    }

    fn request(&self, asked: &Asked<'_>, schema: Option<&Schema>) -> Result<Request, String> {
        let action = match asked.operation {
            Operation::GetKeyMetadata => &self.get_key_metadata,
            Operation::Encrypt => &self.encrypt,
            Operation::Decrypt => &self.decrypt,
            Operation::GetHealthStatus => return Err("GetHealthStatus needs no policy".to_owned()),
        };
        let facts = [
            ("kmsOperation", Some(asked.kms_operation)),
            ("kmsKeyArn", asked.kms_key_arn),
            ("kmsViaService", asked.via_service),
            ("sourceVpc", asked.source_vpc),
            ("sourceVpce", asked.source_vpce),
            ("accessKeyId", Some(asked.access_key_id)),
        ];
        let known = facts.into_iter().filter_map(|(name, fact)| Some((name.to_owned(), text(fact?))));
        let context = Context::from_pairs(known).map_err(|error| error.to_string())?;
        let (principal, key) = (self.principal(asked), self.key(asked));
        Request::new(principal, action.clone(), key, context, schema).map_err(|error| error.to_string())
    }

    fn entities(&self, asked: &Asked<'_>, schema: Option<&Schema>) -> Result<Entities, String> {
        let account = account(asked.principal_arn)
            .map(|id| EntityUid::from_type_name_and_id(self.account.clone(), EntityId::new(id)));
        let arn = [("arn".to_owned(), text(asked.principal_arn))];
        let id = [("id".to_owned(), text(asked.key.as_str()))];
        let principal = Entity::new_with_tags(self.principal(asked), arn, account, []);
        let key = Entity::new_with_tags(self.key(asked), id, [self.key_store.clone()], []);
        let entities = [principal, key].into_iter().collect::<Result<Vec<_>, _>>();
        let entities = entities.map_err(|error| error.to_string())?;
        self.actions.clone().add_entities(entities, schema).map_err(|error| error.to_string())
    }

    /// From a type and a text, never by parsing: whatever an ARN holds, quotes included, it stays an id.
    fn principal(&self, asked: &Asked<'_>) -> EntityUid {
        EntityUid::from_type_name_and_id(self.principal.clone(), EntityId::new(asked.principal_arn))
    }

    fn key(&self, asked: &Asked<'_>) -> EntityUid {
        EntityUid::from_type_name_and_id(self.key.clone(), EntityId::new(asked.key.as_str()))
    }
}

fn text(value: &str) -> RestrictedExpression {
    RestrictedExpression::new_string(value.to_owned())
}

/// `123456789012` of `arn:aws:iam::123456789012:role/x`: the fifth field, which no name or path in the sixth can forge.
fn account(arn: &str) -> Option<&str> {
    let mut fields = arn.splitn(6, ':');
    let scheme = fields.next()?;
    let account = fields.nth(3)?;
    fields.next()?;
    (scheme == "arn" && account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()))
        .then_some(account)
}

impl Remark {
    fn whole(text: Text, message: impl Into<String>) -> Self {
        Self { text, place: None, message: message.into() }
    }

    /// Cedar's words, with the place they are about in `source`.
    fn of(text: Text, source: &str, error: &dyn Diagnostic) -> Self {
        let mut message = error.to_string();
        if let Some(help) = error.help() {
            message.push_str(" (");
            message.push_str(&help.to_string());
            message.push(')');
        }
        let label = error.labels().and_then(|mut labels| labels.next());
        let place = label.and_then(|label| place(source, label.offset()));
        Self { text, place, message }
    }
}

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.forbidden_by {
            [] => f.write_str("no permit policy matches the request")?,
            [one] => write!(f, "the policy {one:?} forbids the request")?,
            many => write!(f, "the policies {many:?} forbid the request")?,
        }
        for (name, error) in &self.failed {
            let what = if name.is_empty() { "the request".to_owned() } else { format!("{name:?}") };
            write!(f, "; {what} could not be evaluated: {error}")?;
        }
        Ok(())
    }
}
