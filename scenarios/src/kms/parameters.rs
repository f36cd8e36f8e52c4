//! The forms of the management calls' parameters.
//!
//! Place on the map: pure; [`account`](super::account) and [`kms_endpoint`](crate::kms_endpoint) check with it before
//! anything else. Lengths and patterns are
//! those of kms-behaviour 2 (the KMS service model).

use super::{KmsException, KmsFailure};

const GRANT_TOKENS_MAX: usize = 10;
const GRANT_TOKEN_CHARS: std::ops::RangeInclusive<usize> = 1..=8_192;

/// What is wrong with a parameter is said in AWS's common form (MA-22).
pub(crate) fn invalid(name: &str, value: &str, constraint: &str) -> KmsFailure {
    KmsFailure::new(
        KmsException::Validation,
        format!(
            "1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: {constraint}"
        ),
    )
}

/// A parameter that must be there is not.
pub(crate) fn missing(name: &str) -> KmsFailure {
    KmsFailure::new(
        KmsException::Validation,
        format!(
            "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"
        ),
    )
}

/// Whether `value` has this length in characters and this form.
fn check(
    name: &str,
    value: &str,
    (least, most): (usize, usize),
    pattern: &str,
    right: bool,
) -> Result<(), KmsFailure> {
    if !(least..=most).contains(&value.chars().count()) {
        let constraint = format!("Member must have length from {least} to {most}");
        return Err(invalid(name, value, &constraint));
    }
    if right {
        Ok(())
    } else {
        Err(invalid(name, value, &format!("Member must satisfy regular expression pattern: {pattern}")))
    }
}

fn all(value: &str, allowed: impl Fn(u8) -> bool) -> bool {
    !value.is_empty() && value.bytes().all(allowed)
}

/// `CustomKeyStoreName`.
pub(super) fn key_store_name(value: &str) -> Result<(), KmsFailure> {
    check("customKeyStoreName", value, (1, 256), "", true)
}

/// `KeyId`, in any of its forms.
pub(super) fn key_id(value: &str) -> Result<(), KmsFailure> {
    check("keyId", value, (1, 2_048), "", true)
}

/// `GrantTokens`: at most ten, of 1 to 8,192 characters. The message does not quote them.
pub(crate) fn grant_tokens(tokens: &[String]) -> Result<(), KmsFailure> {
    const NAME: &str = "grantTokens";
    if tokens.len() > GRANT_TOKENS_MAX {
        let constraint = format!("Member must have length less than or equal to {GRANT_TOKENS_MAX}");
        return Err(invalid(NAME, &format!("({} tokens)", tokens.len()), &constraint));
    }
    let right = |token: &String| GRANT_TOKEN_CHARS.contains(&token.chars().count());
    if tokens.iter().all(right) {
        return Ok(());
    }
    let (least, most) = (GRANT_TOKEN_CHARS.start(), GRANT_TOKEN_CHARS.end());
    Err(invalid(NAME, "***", &format!("Member must have length from {least} to {most}")))
}

/// `XksProxyUriEndpoint`; gives the host.
pub(super) fn uri_endpoint(value: &str) -> Result<&str, KmsFailure> {
    const NAME: &str = "xksProxyUriEndpoint";
    const PATTERN: &str = "^https://[a-zA-Z0-9.-]+$";
    let host = value.strip_prefix("https://").unwrap_or_default();
    let right = all(host, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    check(NAME, value, (10, 128), PATTERN, right)?;
    // SPEC, API operations: a domain name, no address.
    let address = host.split('.').all(|label| all(label, |byte| byte.is_ascii_digit()));
    if address || !host.contains('.') {
        return Err(invalid(NAME, value, "Member must name a fully qualified domain"));
    }
    Ok(host)
}

/// `XksProxyUriPath`.
pub(super) fn uri_path(value: &str) -> Result<(), KmsFailure> {
    const PATTERN: &str = r"^(/[a-zA-Z0-9\/_-]+/kms/xks/v\d{1,2})$|^(/kms/xks/v\d{1,2})$";
    let right = value.rsplit_once("/kms/xks/v").is_some_and(|(prefix, version)| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-');
        let prefix_right =
            prefix.is_empty() || prefix.strip_prefix('/').is_some_and(|rest| all(rest, allowed));
        prefix_right && version.len() <= 2 && all(version, |byte| byte.is_ascii_digit())
    });
    check("xksProxyUriPath", value, (10, 128), PATTERN, right)
}

/// `AccessKeyId`.
pub(super) fn access_key_id(value: &str) -> Result<(), KmsFailure> {
    let right = all(value, |byte| byte.is_ascii_uppercase() || matches!(byte, b'2'..=b'7'));
    check("accessKeyId", value, (20, 30), "^[A-Z2-7]+$", right)
}

/// `RawSecretAccessKey`; the message does not quote it.
pub(super) fn raw_secret(value: &str) -> Result<(), KmsFailure> {
    let right = (43..=64).contains(&value.len())
        && all(value, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'+' | b'='));
    if right {
        return Ok(());
    }
    let constraint =
        "Member must have length from 43 to 64 and satisfy regular expression pattern: ^[a-zA-Z0-9\\/+=]+$";
    Err(invalid("rawSecretAccessKey", "***", constraint))
}

/// `XksProxyVpcEndpointServiceName`.
pub(super) fn vpc_service_name(value: &str) -> Result<(), KmsFailure> {
    const PATTERN: &str = r"^(com|eu)\.amazonaws\.vpce\.([a-z]+-){2,3}\d+\.vpce-svc-[0-9a-z]+$";
    check("xksProxyVpcEndpointServiceName", value, (20, 64), PATTERN, is_vpc_service_name(value))
}

fn is_vpc_service_name(value: &str) -> bool {
    let labels: Vec<&str> = value.split('.').collect();
    let ["com" | "eu", "amazonaws", "vpce", region, service] = labels.as_slice() else { return false };
    let parts: Vec<&str> = region.split('-').collect();
    let Some((number, words)) = parts.split_last() else { return false };
    matches!(words.len(), 2 | 3)
        && words.iter().all(|word| all(word, |byte| byte.is_ascii_lowercase()))
        && all(number, |byte| byte.is_ascii_digit())
        && service
            .strip_prefix("vpce-svc-")
            .is_some_and(|id| all(id, |byte| byte.is_ascii_digit() || byte.is_ascii_lowercase()))
}

/// `XksProxyVpcEndpointServiceOwner`.
pub(super) fn vpc_service_owner(value: &str) -> Result<(), KmsFailure> {
    let right = all(value, |byte| byte.is_ascii_digit());
    check("xksProxyVpcEndpointServiceOwner", value, (12, 12), "[0-9]{12}", right)
}

/// `XksKeyId`.
pub(super) fn xks_key_id(value: &str) -> Result<(), KmsFailure> {
    let right = all(value, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    check("xksKeyId", value, (1, 128), "^[a-zA-Z0-9-_.]+$", right)
}

/// `TagKey` and `TagValue`.
pub(super) fn tag(key: &str, value: &str) -> Result<(), KmsFailure> {
    check("tagKey", key, (1, 128), "", true)?;
    check("tagValue", value, (0, 256), "", true)
}

/// `GranteePrincipal` or `RetiringPrincipal`.
pub(super) fn principal(name: &str, value: &str) -> Result<(), KmsFailure> {
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'_' | b'+' | b'=' | b',' | b'.' | b'@' | b':' | b'/' | b'-')
    };
    check(name, value, (1, 256), r"^[\w+=,.@:/-]+$", all(value, allowed))
}

/// `Name` of a grant.
pub(super) fn grant_name(value: &str) -> Result<(), KmsFailure> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'/' | b'_' | b'-');
    check("name", value, (1, 256), "^[a-zA-Z0-9:/_-]+$", all(value, allowed))
}

/// `AliasName`, which must not be one of AWS's own.
pub(super) fn alias_name(value: &str) -> Result<(), KmsFailure> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'/' | b'_' | b'-');
    check("aliasName", value, (1, 256), "^[a-zA-Z0-9:/_-]+$", all(value, allowed))?;
    match value.strip_prefix("alias/") {
        Some(rest) if !rest.is_empty() && !value.starts_with("alias/aws/") => Ok(()),
        _ => Err(KmsFailure::new(
            KmsException::InvalidAliasName,
            format!("Alias name {value} must begin with alias/ and not with alias/aws/."),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each parameter with values at and beyond the ends of its form, kms-behaviour 2.
    #[test]
    fn forms_are_those_of_the_service_model() {
        type Check = fn(&str) -> Result<(), KmsFailure>;
        let endpoint: Check = |value| uri_endpoint(value).map(|_| ());
        let (long_path, long_host) = ("a".repeat(116), "a".repeat(116));
        for (check, good, bad) in [
            (
                key_store_name as Check,
                vec!["x".to_owned(), "x".repeat(256), "ü".repeat(256), "a name".into()],
                vec![String::new(), "x".repeat(257), "ü".repeat(257)],
            ),
            (key_id, vec!["x".to_owned(), "ü".repeat(2_048)], vec![String::new(), "x".repeat(2_049)]),
            (
                endpoint,
                vec![
                    "https://a.b".into(),
                    "https://xks-proxy.example.com".into(),
                    format!("https://{long_host}.com"),
                ],
                vec![
                    "http://xks.example".into(),
                    "https://a".into(),
                    "https://localhost".into(),
                    "https://a.example:443".into(),
                    "https://a.example/x".into(),
                    "https://192.168.0.1".into(),
                    format!("https://{long_host}a.com"),
                ],
            ),
            (
                uri_path,
                vec![
                    "/kms/xks/v1".into(),
                    "/kms/xks/v12".into(),
                    "/a/b_-/kms/xks/v1".into(),
                    format!("/{long_path}/kms/xks/v1"),
                ],
                vec![
                    "/kms/xks/".into(),
                    "/kms/xks/v".into(),
                    "/kms/xks/v123".into(),
                    "kms/xks/v1".into(),
                    "//kms/xks/w1".into(),
                    "/a.b/kms/xks/v1".into(),
                    "//kms/xks/v1".replace("//", "x/"),
                    format!("/{long_path}a/kms/xks/v1"),
                ],
            ),
            (
                access_key_id,
                vec!["A".repeat(20), "Z2345670".replace('0', "A").repeat(3), "7".repeat(30)],
                vec![
                    "A".repeat(19),
                    "A".repeat(31),
                    format!("{}a", "A".repeat(19)),
                    format!("{}1", "A".repeat(19)),
                ],
            ),
            (
                raw_secret,
                vec!["a".repeat(43), "/+=".repeat(21)],
                vec!["a".repeat(42), "a".repeat(65), format!("{}-", "a".repeat(43))],
            ),
            (
                vpc_service_name,
                vec![
                    "com.amazonaws.vpce.us-east-1.vpce-svc-0e9a".into(),
                    "com.amazonaws.vpce.us-gov-east-1.vpce-svc-0e9a".into(),
                    "eu.amazonaws.vpce.eusc-de-1.vpce-svc-0".into(),
                ],
                vec![
                    "net.amazonaws.vpce.us-east-1.vpce-svc-0e9a".into(),
                    "com.amazonaws.vpce.east-1.vpce-svc-0e9a".into(),
                    "com.amazonaws.vpce.us-east-1.vpce-svc-".into(),
                    "com.amazonaws.vpce.us-east-x.vpce-svc-0e9a".into(),
                    format!("com.amazonaws.vpce.us-east-1.vpce-svc-{}", "0".repeat(27)),
                ],
            ),
            (
                vpc_service_owner,
                vec!["111122223333".into()],
                vec!["11112222333".into(), "11112222333x".into()],
            ),
            (
                xks_key_id,
                vec!["a".into(), "A-b_c.9".into(), "x".repeat(128)],
                vec![String::new(), "x".repeat(129), "a b".into(), "a/b".into()],
            ),
            (
                grant_name,
                vec!["a".into(), "a/b:c_-9".into()],
                vec![String::new(), "a b".into(), "x".repeat(257)],
            ),
            (
                |value| principal("granteePrincipal", value),
                vec!["arn:aws:iam::111122223333:user/A+=,.@_-".into()],
                vec![String::new(), "a b".into(), "x".repeat(257)],
            ),
            (|value| tag(value, ""), vec!["ü".repeat(128)], vec![String::new(), "x".repeat(129)]),
            (|value| tag("x", value), vec![String::new(), "ü".repeat(256)], vec!["x".repeat(257)]),
            (
                alias_name,
                vec!["alias/a".into(), "alias/a/b:c_-".into()],
                vec!["alias/".into(), "alias/aws/s3".into(), "key/a".into(), "alias/a b".into()],
            ),
        ] {
            for value in good {
                assert_eq!(check(&value), Ok(()), "{value}");
            }
            for value in bad {
                let failure = check(&value).expect_err(&value);
                let form = failure.message.starts_with("1 validation error detected: ");
                assert!(form || failure.exception == KmsException::InvalidAliasName, "{failure:?}");
            }
        }
        for (tokens, right) in [
            (vec![], true),
            (vec!["ü".repeat(8_192); 10], true),
            (vec!["x".to_owned(); 11], false),
            (vec![String::new()], false),
            (vec!["x".repeat(8_193)], false),
        ] {
            assert_eq!(grant_tokens(&tokens).is_ok(), right, "{} tokens", tokens.len());
        }
        let secret = "secret-secret-secret-secret-secret-secret-secret";
        assert!(!raw_secret(secret).unwrap_err().message.contains(secret));
    }
}
