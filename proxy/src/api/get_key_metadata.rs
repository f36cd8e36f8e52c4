//! GetKeyMetadata (XKS-META).
//!
//! Place on the map: [`api`](crate::api), one of the four operations.

use super::{Json, Object, RequestMetadata, hsm_error, key_not_found};
use crate::app::KeyStore;
use crate::error::XksError;
use crate::events::Operation;
use crate::hsm::{KeyFacts, KeySpec};
use crate::key::KeyId;
use serde::Deserialize;
use tokio::time::Instant;

/// The request as it stands in the body.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fields<'a> {
    #[serde(borrow)]
    pub(super) request_metadata: Option<Object<RequestMetadata<'a>>>,
}

/// Describes the version that encrypts now.
pub(super) async fn perform(store: &KeyStore, key: &KeyId, deadline: Instant) -> Result<Vec<u8>, XksError> {
    let (_, name) = store.keys.current(key).ok_or_else(|| key_not_found(key))?;
    let facts = store.hsm.describe(&name, deadline).await;
    Ok(answer(&facts.map_err(|error| hsm_error(Operation::GetKeyMetadata, error))?))
}

fn answer(facts: &KeyFacts) -> Vec<u8> {
    let mut json = Json::with_capacity(96);
    json.raw(r#"{"keySpec":"#).text(&spec(facts.spec));
    json.raw(r#","keyUsage":"#).raw(usage(facts));
    json.raw(r#","keyStatus":"#).raw(if facts.enabled { r#""ENABLED""# } else { r#""DISABLED""# });
    json.raw("}").finish()
}

/// KMS accepts `AES_256` only; the others are there so that its error message can say what it met instead.
fn spec(spec: KeySpec) -> String {
    // The numbers are CK_KEY_TYPE values (PKCS#11 v3.0, pkcs11t.h).
    match spec {
        KeySpec::Aes(bits) => format!("AES_{bits}"),
        KeySpec::Other(0x00) => "RSA".into(),
        KeySpec::Other(0x03) => "EC".into(),
        KeySpec::Other(0x10) => "GENERIC_SECRET".into(),
        KeySpec::Other(0x15) => "DES3".into(),
        KeySpec::Other(number) => format!("CKK_{number:#x}"),
    }
}

/// The list must have 1 to 10 entries (XKS-META-1), so a key that can do neither says `NONE`.
fn usage(facts: &KeyFacts) -> &'static str {
    match (facts.encrypt, facts.decrypt) {
        (true, true) => r#"["ENCRYPT","DECRYPT"]"#,
        (true, false) => r#"["ENCRYPT"]"#,
        (false, true) => r#"["DECRYPT"]"#,
        (false, false) => r#"["NONE"]"#,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_follow_meta_1() {
        let facts = |bits, encrypt, decrypt, enabled| KeyFacts {
            spec: KeySpec::Aes(bits),
            encrypt,
            decrypt,
            enabled,
        };
        for (facts, json) in [
            (
                facts(256, true, true, true),
                r#"{"keySpec":"AES_256","keyUsage":["ENCRYPT","DECRYPT"],"keyStatus":"ENABLED"}"#,
            ),
            (
                facts(128, true, false, false),
                r#"{"keySpec":"AES_128","keyUsage":["ENCRYPT"],"keyStatus":"DISABLED"}"#,
            ),
            (
                facts(256, false, true, true),
                r#"{"keySpec":"AES_256","keyUsage":["DECRYPT"],"keyStatus":"ENABLED"}"#,
            ),
            (
                KeyFacts { spec: KeySpec::Other(0), encrypt: false, decrypt: false, enabled: true },
                r#"{"keySpec":"RSA","keyUsage":["NONE"],"keyStatus":"ENABLED"}"#,
            ),
        ] {
            assert_eq!(String::from_utf8(answer(&facts)).unwrap(), json);
        }
    }
}
