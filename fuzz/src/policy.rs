//! Cedar policies.

use xks_proxy::authorise::Asked;
use xks_proxy::authorise::cedar::Policies;
use xks_proxy::events::Operation;
use xks_proxy::key::KeyId;

/// The text of a policy file. A mistake names a place that the text has; what is accepted decides the same request the same
/// way twice, and denies every request once a policy that forbids everything is added.
pub(crate) fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let policies = match Policies::parse(text, None, "one") {
        Ok(policies) => policies,
        Err(remark) => {
            assert!(!remark.message.is_empty());
            if let Some((line, column)) = remark.place {
                let line = line.checked_sub(1).and_then(|line| text.split('\n').nth(line));
                let columns = line.map(|line| 1 + line.chars().count());
                assert!(columns.is_some_and(|columns| (1..=columns).contains(&column)), "{remark:?}");
            }
            return;
        }
    };
    let forbidden =
        format!("{text}\n@id(\"everything, for the fuzzer\")forbid(principal, action, resource);");
    let forbidden = Policies::parse(&forbidden, None, "one").unwrap_or_else(|remark| panic!("{remark:?}"));
    assert_eq!(forbidden.count(), policies.count() + 1);
    let Ok(key) = KeyId::parse("payments-1") else { return };
    for operation in [Operation::GetKeyMetadata, Operation::Encrypt, Operation::Decrypt] {
        let asked = Asked {
            key: &key,
            operation,
            principal_arn: "arn:aws:iam::111122223333:role/payments-api",
            kms_key_arn: Some("arn:aws:kms:us-east-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
            kms_operation: operation.as_str(),
            via_service: None,
            source_vpc: None,
            source_vpce: None,
            access_key_id: "",
        };
        assert_eq!(policies.decide(&asked), policies.decide(&asked));
        assert!(forbidden.decide(&asked).is_err(), "{operation:?}");
    }
}
