//! The five policies of `proxy/policy/example.cedar`, and a request that one of them admits.

use crate::ID;
use std::error::Error;
use xks_proxy::authorise::Asked;
use xks_proxy::authorise::cedar::Policies;
use xks_proxy::events::Operation;
use xks_proxy::key::KeyId;

/// The text of the policies.
pub const EXAMPLE: &str = include_str!("../proxy/policy/example.cedar");

/// The policies, parsed.
///
/// # Errors
/// When the example is none any more.
pub fn example() -> Result<Policies, Box<dyn Error>> {
    Policies::parse(EXAMPLE, None, "main").map_err(|error| format!("{error:?}").into())
}

/// The id of the key that [`asked`] is about.
///
/// # Errors
/// Never.
pub fn key() -> Result<KeyId, Box<dyn Error>> {
    Ok(KeyId::parse("payments-2026")?)
}

/// The request.
pub fn asked(key: &KeyId) -> Asked<'_> {
    Asked {
        key,
        operation: Operation::Decrypt,
        principal_arn: "arn:aws:sts::111122223333:assumed-role/payments-api/i-0123456789abcdef0",
        kms_key_arn: Some("arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
        kms_operation: "Decrypt",
        via_service: Some("s3.eu-west-1.amazonaws.com"),
        source_vpc: Some("vpc-0123456789abcdef0"),
        source_vpce: Some("vpce-0a1b2c3d4e5f67890"),
        access_key_id: ID,
    }
}
