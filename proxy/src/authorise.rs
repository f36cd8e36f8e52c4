//! Who may do what, decided without input or output (XKS-AZ-1 to XKS-AZ-3).
//!
//! Place on the map: after the request has been authenticated and parsed, before the HSM is asked. Two opinions count:
//! the allow-list of the configuration, if it has rules, and the key store's Cedar policies, if it has a policy file.
//! Each that is enforced must admit; one in shadow mode is only recorded.

mod allow_list;
#[cfg(feature = "cedar")]
pub mod cedar;
mod pattern;

pub use allow_list::Rule;
pub use pattern::Pattern;

use crate::events::Operation;
use crate::key::KeyId;
use std::fmt;

/// The access rules of one key store. Without rules and policies they admit everyone its credentials admit.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// The allow-list: one of these must hold, unless there are none.
    pub rules: Vec<Rule>,
    /// Whether the allow-list denies, or only says that it would.
    pub rules_mode: Mode,
    /// The Cedar policies, `None` without a policy file.
    #[cfg(feature = "cedar")]
    pub policies: Option<std::sync::Arc<cedar::Policies>>,
    /// Whether the policies deny, or only say that they would.
    pub policies_mode: Mode,
}

/// What a denial leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// AccessDeniedException.
    #[default]
    Enforce,
    /// An entry in the audit log. The way to try rules on real requests.
    Shadow,
}

/// The facts a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The external key id in the path.
    pub key: &'a KeyId,
    /// The operation in the path.
    pub operation: Operation,
    /// `requestMetadata.awsPrincipalArn`.
    pub principal_arn: &'a str,
    /// `requestMetadata.kmsKeyArn`, if sent.
    pub kms_key_arn: Option<&'a str>,
    /// `requestMetadata.kmsOperation`.
    pub kms_operation: &'a str,
    /// `requestMetadata.kmsViaService`, if sent.
    pub via_service: Option<&'a str>,
    /// `requestMetadata.awsSourceVpc`, if sent.
    pub source_vpc: Option<&'a str>,
    /// `requestMetadata.awsSourceVpce`, if sent.
    pub source_vpce: Option<&'a str>,
    /// Who signed the request.
    pub access_key_id: &'a str,
}

/// What [`Access::decide`] found. An opinion is `None` when nobody was asked: no rules, no policies, or a request that
/// needs neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// The allow-list's.
    pub rules: Option<Opinion<'a>>,
    /// The Cedar policies'.
    pub policies: Option<Opinion<'a>>,
}

/// One of the two voices in a [`Verdict`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion<'a> {
    /// Whether a denial is one.
    pub mode: Mode,
    /// The names of the rule or policies that admit or forbid the request; none when nothing matched.
    pub decided_by: Vec<&'a str>,
    /// Why the request is to be denied, for the log; `None` admits it.
    pub denied: Option<String>,
}

impl Access {
    /// Admits or denies. GetHealthStatus needs no rule (XKS-HLT-3).
    pub fn decide(&self, asked: &Asked<'_>) -> Verdict<'_> {
        if asked.operation == Operation::GetHealthStatus {
            return Verdict::default();
        }
        let rules = allow_list::consult(&self.rules, asked).map(|outcome| {
            let mode = self.rules_mode;
            match outcome {
                Ok(rule) => Opinion { mode, decided_by: vec![&*rule.name], denied: None },
                Err(denied) => Opinion { mode, decided_by: Vec::new(), denied: Some(denied.to_string()) },
            }
        });
        Verdict { rules, policies: self.ask_policies(asked) }
    }

    #[cfg(feature = "cedar")]
    fn ask_policies(&self, asked: &Asked<'_>) -> Option<Opinion<'_>> {
        let mode = self.policies_mode;
        self.policies.as_deref().map(|policies| match policies.decide(asked) {
            Ok(names) => Opinion { mode, decided_by: names, denied: None },
            Err(refused) => {
                let denied = Some(refused.to_string());
                Opinion { mode, decided_by: refused.forbidden_by, denied }
            }
        })
    }

    #[cfg(not(feature = "cedar"))]
    fn ask_policies(&self, _: &Asked<'_>) -> Option<Opinion<'_>> {
        None
    }
}

impl Verdict<'_> {
    /// Why the request is denied, for the log; `None` admits it.
    pub fn denied(&self) -> Option<String> {
        self.denials(Mode::Enforce)
    }

    /// Why it would be denied if what is in shadow mode were enforced; `None` when that changes nothing.
    pub fn shadow_denied(&self) -> Option<String> {
        self.denials(Mode::Shadow)
    }

    fn denials(&self, mode: Mode) -> Option<String> {
        let voices = [("allow-list", &self.rules), ("cedar", &self.policies)];
        let mut reasons = String::new();
        for (voice, opinion) in voices {
            let Some(opinion) = opinion.as_ref().filter(|opinion| opinion.mode == mode) else { continue };
            let Some(reason) = &opinion.denied else { continue };
            let separator = if reasons.is_empty() { "" } else { "; " };
            reasons.extend([separator, voice, ": ", reason]);
        }
        (!reasons.is_empty()).then_some(reasons)
    }
}

impl fmt::Display for Mode {
    /// As it stands in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enforce => "enforce",
            Self::Shadow => "shadow",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_shown_as_they_stand_in_the_configuration() {
        assert_eq!([Mode::Enforce, Mode::Shadow].map(|mode| mode.to_string()), ["enforce", "shadow"]);
    }

    fn only(name: &str) -> Rule {
        Rule { name: name.into(), principal_arns: vec![Pattern::new(name)], ..Rule::default() }
    }

    fn asked(key: &KeyId) -> Asked<'_> {
        Asked {
            key,
            operation: Operation::Decrypt,
            principal_arn: "alice",
            kms_key_arn: None,
            kms_operation: "Decrypt",
            via_service: None,
            source_vpc: None,
            source_vpce: None,
            access_key_id: "",
        }
    }

    #[test]
    fn nobody_is_asked_without_rules_and_for_health() {
        let key = KeyId::parse("k").unwrap();
        assert_eq!(Access::default().decide(&asked(&key)), Verdict::default());
        let access = Access { rules: vec![only("bob")], ..Access::default() };
        let health = Asked { operation: Operation::GetHealthStatus, ..asked(&key) };
        assert_eq!(access.decide(&health), Verdict::default());
        assert_eq!(Verdict::default().denied(), None);
        assert_eq!(Verdict::default().shadow_denied(), None);
    }

    #[test]
    fn a_shadow_only_says_what_it_would_do() {
        let key = KeyId::parse("k").unwrap();
        let mut access = Access { rules: vec![only("bob")], ..Access::default() };
        let reason = "allow-list: no rule admits the request; the closest, \"bob\", does not admit awsPrincipalArn \"alice\"";
        let verdict = access.decide(&asked(&key));
        assert_eq!((verdict.denied().as_deref(), verdict.shadow_denied()), (Some(reason), None));
        access.rules_mode = Mode::Shadow;
        let verdict = access.decide(&asked(&key));
        assert_eq!((verdict.denied(), verdict.shadow_denied().as_deref()), (None, Some(reason)));
        access.rules.push(only("alice"));
        let verdict = access.decide(&asked(&key));
        assert_eq!((verdict.denied(), verdict.shadow_denied()), (None, None));
        assert_eq!(verdict.rules.unwrap().decided_by, ["alice"]);
    }
}
