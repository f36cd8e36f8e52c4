//! Members of requests: read, and missing ones told of.
//!
//! Place on the map: what the operations beside it share. What is not of its type is a SerializationException, what is
//! missing or out of its range a ValidationException (MA-22).

use super::Refusal;
use crate::kms::parameters::{grant_tokens, invalid, missing};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error};

/// The members of a request. Unknown ones are no mistake.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    // An SDK sends `{}` where there is nothing to say, and a hand may send nothing.
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| Refusal::Serialization(error.to_string()))
}

/// A member that must be there.
pub(super) fn needed<T>(member: Option<T>, name: &str) -> Result<T, Refusal> {
    member.ok_or_else(|| missing(name).into())
}

/// A count; its range is checked where it is used.
pub(super) fn count(member: i64, name: &str) -> Result<usize, Refusal> {
    usize::try_from(member).map_err(|_| {
        invalid(name, &member.to_string(), "Member must have value greater than or equal to 1").into()
    })
}

/// One of the values that the service model lists.
pub(super) fn one_of(value: &str, name: &str, known: &[&str]) -> Result<(), Refusal> {
    if known.contains(&value) {
        return Ok(());
    }
    let constraint = format!("Member must satisfy enum value set: [{}]", known.join(", "));
    Err(invalid(name, value, &constraint).into())
}

/// `GrantTokens`. What grants they stand for is not looked at: whoever reaches the socket may do everything.
#[derive(Default, Deserialize)]
pub(super) struct GrantTokens(Option<Vec<String>>);

impl GrantTokens {
    /// Their number and their lengths.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        Ok(grant_tokens(self.0.as_deref().unwrap_or_default())?)
    }
}

/// A blob: standard Base64.
pub(super) struct Blob(pub(super) Vec<u8>);

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| D::Error::custom("a blob is not standard Base64"))
    }
}

/// The same in an answer.
pub(super) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}
