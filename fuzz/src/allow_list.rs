//! The rules of the allow-list, against their definition.

use arbitrary::{Arbitrary, Unstructured};
use xks_proxy::authorise::{Access, Asked, Pattern, Rule};
use xks_proxy::events::Operation;
use xks_proxy::key::KeyId;

/// Words of which patterns and requests are made, so that they often meet.
const WORDS: [&str; 8] =
    ["", "*", "foo", "f*", "?oo", "arn:aws:iam::123456789012:user/Alice", "arn:aws:*:123456789012:*", "bar"];

#[derive(Arbitrary, Debug)]
struct Input {
    rules: Vec<[Vec<u8>; 6]>,
    operation: u8,
    /// Key id, principal, KMS key, KMS operation, service.
    request: [Option<u8>; 5],
}

/// Rules and a request out of a few words. The request is admitted exactly when there are no rules, or one of them has for
/// each of its conditions an entry that matches; a health check is always admitted (XKS-HLT-3), and a denial names a rule.
pub(crate) fn allow_list(data: &[u8]) {
    let Ok(mut input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    input.rules.truncate(8);
    let word = |index: &u8| WORDS[usize::from(*index) % WORDS.len()];
    let operation = |index: &u8| Operation::ALL[usize::from(*index) % Operation::ALL.len()];
    let [key, principal, kms_key, kms_operation, service] =
        input.request.map(|field| field.as_ref().map(word));
    let Ok(key) = KeyId::parse(key.unwrap_or("foo")) else { return };
    let asked = Asked {
        key: &key,
        operation: operation(&input.operation),
        principal_arn: principal.unwrap_or_default(),
        kms_key_arn: kms_key,
        kms_operation: kms_operation.unwrap_or_default(),
        via_service: service,
        source_vpc: None,
        source_vpce: None,
        access_key_id: "",
    };
    let patterns = |entries: &Vec<u8>| entries.iter().map(word).map(Pattern::new).collect::<Vec<_>>();
    let rules = input.rules.iter().enumerate().map(|(number, [keys, operations, rest @ ..])| {
        let [principal_arns, kms_key_arns, kms_operations, via_services] = rest.each_ref().map(patterns);
        Rule {
            name: format!("rule {number}"),
            keys: patterns(keys),
            operations: operations.iter().map(operation).collect(),
            principal_arns,
            kms_key_arns,
            kms_operations,
            via_services,
        }
    });
    let access = Access { rules: rules.collect(), ..Access::default() };
    let matches = |patterns: &[Pattern], found: Option<&str>| {
        patterns.is_empty()
            || found.is_some_and(|found| patterns.iter().any(|pattern| pattern.matches(found)))
    };
    let admits = |rule: &Rule| {
        (rule.operations.is_empty() || rule.operations.contains(&asked.operation))
            && matches(&rule.keys, Some(key.as_str()))
            && matches(&rule.principal_arns, Some(asked.principal_arn))
            && matches(&rule.kms_key_arns, asked.kms_key_arn)
            && matches(&rule.kms_operations, Some(asked.kms_operation))
            && matches(&rule.via_services, asked.via_service)
    };
    let health = asked.operation == Operation::GetHealthStatus;
    let expected = health || access.rules.is_empty() || access.rules.iter().any(admits);
    let denied = access.decide(&asked).denied();
    assert_eq!(denied.is_none(), expected, "{denied:?} {access:?} {asked:?}");
    assert!(denied.is_none_or(|reason| reason.contains("\"rule ")));
}
