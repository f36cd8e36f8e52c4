//! The allow-list: patterns over the key, the operation and the caller.
//!
//! Place on the map: one of the two opinions behind [`Access::decide`](super::Access::decide). Every rule is a
//! conjunction of conditions; a request is admitted when one rule holds in full. A denial names the rule that came
//! closest, so that an operator sees which line to change (XKS-AZ-2).

use super::{Asked, Pattern};
use crate::events::Operation;
use std::fmt;

/// One line of the allow-list. A condition whose list is empty holds for every request; else one of its entries
/// must match. A pattern condition on a field the request does not carry fails.
#[derive(Clone, Debug, Default)]
pub struct Rule {
    /// For the log of a denial.
    pub name: String,
    /// External key ids.
    pub keys: Vec<Pattern>,
    /// Operations. GetHealthStatus needs no rule (XKS-HLT-3).
    pub operations: Vec<Operation>,
    /// `requestMetadata.awsPrincipalArn`: who asked KMS.
    pub principal_arns: Vec<Pattern>,
    /// `requestMetadata.kmsKeyArn`. KMS must send it with encrypt and decrypt only (XKS-MD-2), so a rule with this
    /// condition does not admit a GetKeyMetadata without it, such as the one made when a KMS key is created.
    pub kms_key_arns: Vec<Pattern>,
    /// `requestMetadata.kmsOperation`: what KMS was asked to do.
    pub kms_operations: Vec<Pattern>,
    /// `requestMetadata.kmsViaService`: the AWS service that asked on the principal's behalf.
    pub via_services: Vec<Pattern>,
}

/// No rule admits the request. Its `Display` is for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denied {
    /// The name of the rule that came closest: the one whose failing condition comes last, the first of equals.
    pub(super) rule: String,
    /// The first of its conditions that did not hold.
    pub(super) condition: Condition,
    /// What the request had there; `None` when it had nothing.
    pub(super) found: Option<String>,
}

/// The conditions of a [`Rule`], in the order they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Condition {
    /// [`Rule::keys`]
    Key,
    /// [`Rule::operations`]
    Operation,
    /// [`Rule::principal_arns`]
    PrincipalArn,
    /// [`Rule::kms_key_arns`]
    KmsKeyArn,
    /// [`Rule::kms_operations`]
    KmsOperation,
    /// [`Rule::via_services`]
    ViaService,
}

/// The first rule that admits the request; `None` when there are no rules, which admits everyone.
///
/// # Errors
/// When there are rules and none holds.
pub(super) fn consult<'a>(rules: &'a [Rule], asked: &Asked<'_>) -> Option<Result<&'a Rule, Denied>> {
    let mut closest: Option<(&Rule, Condition)> = None;
    for rule in rules {
        let Some(failed) = rule.first_failing(asked) else { return Some(Ok(rule)) };
        if closest.is_none_or(|(_, before)| failed > before) {
            closest = Some((rule, failed));
        }
    }
    closest.map(|(rule, condition)| {
        Err(Denied { rule: rule.name.clone(), condition, found: condition.of(asked).map(str::to_owned) })
    })
}

impl Rule {
    fn first_failing(&self, asked: &Asked<'_>) -> Option<Condition> {
        const ORDER: [Condition; 6] = [
            Condition::Key,
            Condition::Operation,
            Condition::PrincipalArn,
            Condition::KmsKeyArn,
            Condition::KmsOperation,
            Condition::ViaService,
        ];
        ORDER.into_iter().find(|condition| !self.holds(*condition, asked))
    }

    fn holds(&self, condition: Condition, asked: &Asked<'_>) -> bool {
        let patterns = match condition {
            Condition::Operation => {
                return self.operations.is_empty() || self.operations.contains(&asked.operation);
            }
            Condition::Key => &self.keys,
            Condition::PrincipalArn => &self.principal_arns,
            Condition::KmsKeyArn => &self.kms_key_arns,
            Condition::KmsOperation => &self.kms_operations,
            Condition::ViaService => &self.via_services,
        };
        patterns.is_empty()
            || condition.of(asked).is_some_and(|found| patterns.iter().any(|pattern| pattern.matches(found)))
    }
}

impl Condition {
    /// The name of the fact, as the request carries it.
    fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key id",
            Self::Operation => "operation",
            Self::PrincipalArn => "awsPrincipalArn",
            Self::KmsKeyArn => "kmsKeyArn",
            Self::KmsOperation => "kmsOperation",
            Self::ViaService => "kmsViaService",
        }
    }

    fn of<'a>(self, asked: &Asked<'a>) -> Option<&'a str> {
        match self {
            Self::Key => Some(asked.key.as_str()),
            Self::Operation => Some(asked.operation.as_str()),
            Self::PrincipalArn => Some(asked.principal_arn),
            Self::KmsKeyArn => asked.kms_key_arn,
            Self::KmsOperation => Some(asked.kms_operation),
            Self::ViaService => asked.via_service,
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.condition.as_str();
        write!(f, "no rule admits the request; the closest, {:?}, ", self.rule)?;
        match &self.found {
            Some(found) => write!(f, "does not admit {name} {found:?}"),
            None => write!(f, "asks for a {name}, and the request has none"),
        }
    }
}

impl std::error::Error for Denied {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KeyId;

    const PRINCIPAL: &str = "arn:aws:iam::123456789012:role/payments-api";
    const KMS_KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/mrk-1";

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::new(*text)).collect()
    }

    fn payments() -> Rule {
        Rule {
            name: "payments".into(),
            keys: patterns(&["payments-*", "shared"]),
            operations: vec![Operation::Encrypt, Operation::Decrypt],
            principal_arns: patterns(&["arn:aws:iam::123456789012:role/payments-???"]),
            kms_key_arns: patterns(&["arn:aws:kms:*:123456789012:key/*"]),
            kms_operations: Vec::new(),
            via_services: patterns(&["s3.*.amazonaws.com"]),
        }
    }

    fn judge(rules: &[Rule], asked: &Asked<'_>) -> Result<(), Denied> {
        consult(rules, asked).unwrap().map(|_| ())
    }

    fn decide(rules: &[Rule], change: impl FnOnce(&mut Asked<'_>)) -> Result<(), Denied> {
        let key = KeyId::parse("payments-7").unwrap();
        let mut asked = Asked {
            key: &key,
            operation: Operation::Decrypt,
            principal_arn: PRINCIPAL,
            kms_key_arn: Some(KMS_KEY),
            kms_operation: "Decrypt",
            via_service: Some("s3.eu-west-1.amazonaws.com"),
            source_vpc: None,
            source_vpce: None,
            access_key_id: "",
        };
        change(&mut asked);
        judge(rules, &asked)
    }

    #[test]
    fn a_rule_admits_what_meets_all_its_conditions() {
        let rules = [payments()];
        assert_eq!(decide(&rules, |_| {}), Ok(()));
        let shared = KeyId::parse("shared").unwrap();
        let asked = Asked {
            key: &shared,
            operation: Operation::Encrypt,
            principal_arn: PRINCIPAL,
            kms_key_arn: Some(KMS_KEY),
            kms_operation: "anything at all",
            via_service: Some("s3.us-east-1.amazonaws.com"),
            source_vpc: None,
            source_vpce: None,
            access_key_id: "",
        };
        assert_eq!(judge(&rules, &asked), Ok(()));
        assert_eq!(decide(&[Rule::default()], |_| {}), Ok(()));
    }

    #[test]
    fn each_condition_denies_by_its_name() {
        let mut rule = payments();
        rule.kms_operations = patterns(&["*rypt"]);
        let rules = [rule];
        let denied = |condition, found: Option<&str>| {
            Err(Denied { rule: "payments".into(), condition, found: found.map(str::to_owned) })
        };
        let other = KeyId::parse("other").unwrap();
        let asked = Asked {
            key: &other,
            operation: Operation::Encrypt,
            principal_arn: PRINCIPAL,
            kms_key_arn: Some(KMS_KEY),
            kms_operation: "Encrypt",
            via_service: None,
            source_vpc: None,
            source_vpce: None,
            access_key_id: "",
        };
        assert_eq!(judge(&rules, &asked), denied(Condition::Key, Some("other")));
        assert_eq!(
            decide(&rules, |asked| asked.operation = Operation::GetKeyMetadata),
            denied(Condition::Operation, Some("GetKeyMetadata"))
        );
        assert_eq!(
            decide(&rules, |asked| asked.principal_arn = "arn:aws:iam::1:user/eve"),
            denied(Condition::PrincipalArn, Some("arn:aws:iam::1:user/eve"))
        );
        assert_eq!(
            decide(&rules, |asked| asked.kms_key_arn = Some("arn:aws:kms:eu-west-1:9:key/mrk-1")),
            denied(Condition::KmsKeyArn, Some("arn:aws:kms:eu-west-1:9:key/mrk-1"))
        );
        assert_eq!(decide(&rules, |asked| asked.kms_key_arn = None), denied(Condition::KmsKeyArn, None));
        assert_eq!(
            decide(&rules, |asked| asked.kms_operation = "CreateGrant"),
            denied(Condition::KmsOperation, Some("CreateGrant"))
        );
        assert_eq!(decide(&rules, |asked| asked.via_service = None), denied(Condition::ViaService, None));
    }

    #[test]
    fn one_rule_of_several_is_enough_and_the_closest_is_named() {
        let mut other = payments();
        other.name = "others".into();
        other.keys = patterns(&["other-*"]);
        let mut second = payments();
        second.name = "second".into();
        let rules = [other, payments(), second];
        assert_eq!(decide(&rules, |_| {}), Ok(()));
        let denied = decide(&rules, |asked| asked.principal_arn = "arn:aws:iam::1:user/eve").unwrap_err();
        assert_eq!(denied.rule, "payments");
        assert_eq!(
            denied.to_string(),
            r#"no rule admits the request; the closest, "payments", does not admit awsPrincipalArn "arn:aws:iam::1:user/eve""#
        );
        assert_eq!(
            decide(&rules, |asked| asked.via_service = None).unwrap_err().to_string(),
            r#"no rule admits the request; the closest, "payments", asks for a kmsViaService, and the request has none"#
        );
    }
}
