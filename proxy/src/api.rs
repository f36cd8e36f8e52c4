//! The words of the API on the wire: JSON in, typed requests out, and the JSON of the answers.
//!
//! Place on the map: the parse station, one file per operation below; each also knows which HSM calls it is made of.
//! Text is borrowed from the body where it can be, Base64 is decoded straight into its final buffer, and answers are
//! written by hand into one buffer, because this is where a request spends what the HSM and SigV4 leave of its time.

pub mod decrypt;
pub mod encrypt;
pub mod get_health_status;
pub mod get_key_metadata;

use crate::app::{App, KeyStore, Limits};
use crate::error::{ErrorName, XksError};
use crate::events::{AuditEvent, Operation};
use crate::hsm::{Aad, HsmError};
use crate::key::KeyId;
use crate::scheme::Scheme;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use tokio::time::Instant;
use zeroize::Zeroize;

/// First byte of our `ciphertextMetadata`: the layout `[format, key version]` over the AAD framing of XKS-ENC-7. A
/// later scheme takes another number, so that what this one made keeps decrypting.
pub const METADATA_FORMAT: u8 = 1;

/// Longest `ciphertextMetadata` before Base64 (XKS-ENC-6).
pub const METADATA_BYTES_MAX: usize = 20;

/// Longest ARN (XKS-NET-7), in characters.
const ARN_CHARS_MAX: usize = 2_048;

/// One parsed request: syntactically right, not yet allowed.
#[derive(Debug)]
pub enum Request {
    /// …/keys/{id}/metadata
    GetKeyMetadata,
    /// …/keys/{id}/encrypt
    Encrypt(encrypt::Encrypt),
    /// …/keys/{id}/decrypt
    Decrypt(decrypt::Decrypt),
    /// …/health
    GetHealthStatus,
}

impl Request {
    /// Parses the body of `operation`. What it says about the call goes into `event` even when the rest of the request
    /// turns out to be wrong (XKS-MD-5).
    ///
    /// # Errors
    /// ValidationException when the body is not the JSON of this operation; UnsupportedOperationException when a value
    /// is larger than `limits` allow (XKS-ENC-8).
    pub fn parse(
        operation: Operation,
        body: &[u8],
        limits: &Limits,
        event: &mut AuditEvent,
    ) -> Result<Self, XksError> {
        match operation {
            Operation::GetKeyMetadata => {
                let fields: get_key_metadata::Fields<'_> = from_json(body)?;
                RequestMetadata::check(fields.request_metadata, operation, event)?;
                Ok(Self::GetKeyMetadata)
            }
            Operation::Encrypt => {
                let mut fields: encrypt::Fields<'_> = from_json(body)?;
                RequestMetadata::check(fields.request_metadata.take(), operation, event)?;
                fields.check(limits).map(Self::Encrypt)
            }
            Operation::Decrypt => {
                let mut fields: decrypt::Fields<'_> = from_json(body)?;
                RequestMetadata::check(fields.request_metadata.take(), operation, event)?;
                fields.check(limits).map(Self::Decrypt)
            }
            Operation::GetHealthStatus => {
                let fields: get_health_status::Fields<'_> = from_json(body)?;
                RequestMetadata::check(fields.request_metadata, operation, event)?;
                Ok(Self::GetHealthStatus)
            }
        }
    }

    /// Makes the HSM calls of this request and writes its answer. `key` is `None` for GetHealthStatus only.
    ///
    /// # Errors
    /// What the HSM said, as the error table words it for this operation.
    pub async fn perform(
        &self,
        app: &App,
        store: &KeyStore,
        key: Option<&KeyId>,
        deadline: Instant,
    ) -> Result<Vec<u8>, XksError> {
        match (self, key) {
            (Self::GetKeyMetadata, Some(key)) => get_key_metadata::perform(store, key, deadline).await,
            (Self::Encrypt(request), Some(key)) => request.perform(store, key, deadline).await,
            (Self::Decrypt(request), Some(key)) => request.perform(store, key, deadline).await,
            (Self::GetHealthStatus, _) => Ok(get_health_status::perform(app, store, deadline).await),
            (_, None) => Err(XksError::new(ErrorName::InvalidUriPathException, "the route names no key")),
        }
    }
}

/// Text of the request, borrowed from the body unless it holds escapes. (serde borrows a `Cow` inside an `Option` never.)
pub(crate) struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

impl Text<'_> {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Standard Base64: padding required, no whitespace, no URL-safe letters, no stray bits (RFC 4648, 4 and 3.5).
    pub(crate) fn base64(&self, sentence: &'static str) -> Result<Vec<u8>, XksError> {
        let mut bytes = Vec::with_capacity(self.0.len() / 4 * 3);
        match STANDARD.decode_vec(self.0.as_bytes(), &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(_) => {
                // What was decoded so far may be plaintext.
                bytes.zeroize();
                Err(invalid(sentence))
            }
        }
    }
}

/// A JSON object with the fields of `T`, and nothing else: serde on its own would take an array of the values too.
pub(crate) struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// `requestMetadata` as it stands in the request (XKS-MD-2).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestMetadata<'a> {
    #[serde(borrow)]
    kms_request_id: Option<Text<'a>>,
    kms_operation: Option<Text<'a>>,
    aws_principal_arn: Option<Text<'a>>,
    kms_key_arn: Option<Text<'a>>,
    kms_via_service: Option<Text<'a>>,
    aws_source_vpc: Option<Text<'a>>,
    aws_source_vpce: Option<Text<'a>>,
}

impl RequestMetadata<'_> {
    /// Notes everything in `event`, then asks for what `operation` needs. `kmsRequestId` and `kmsOperation` are only
    /// asked to be there, never what they say (XKS-MD-3).
    fn check(
        metadata: Option<Object<Self>>,
        operation: Operation,
        event: &mut AuditEvent,
    ) -> Result<(), XksError> {
        let Object(metadata) = metadata.ok_or_else(|| invalid("requestMetadata is required."))?;
        let owned = |text: Option<Text<'_>>| text.map(|text| text.0.into_owned());
        event.kms_request_id = owned(metadata.kms_request_id);
        event.kms_operation = owned(metadata.kms_operation);
        event.principal_arn = owned(metadata.aws_principal_arn);
        event.kms_key_arn = owned(metadata.kms_key_arn);
        event.via_service = owned(metadata.kms_via_service);
        event.source_vpc = owned(metadata.aws_source_vpc);
        event.source_vpce = owned(metadata.aws_source_vpce);

        let long = |arn: &Option<String>| arn.as_ref().is_some_and(|arn| arn.chars().count() > ARN_CHARS_MAX);
        let empty = |arn: &Option<String>| arn.as_ref().is_none_or(String::is_empty);
        let about_a_key = operation != Operation::GetHealthStatus;
        let with_a_key_arn = matches!(operation, Operation::Encrypt | Operation::Decrypt);
        if event.kms_request_id.is_none() {
            return Err(invalid("requestMetadata.kmsRequestId is required."));
        }
        if event.kms_operation.is_none() {
            return Err(invalid("requestMetadata.kmsOperation is required."));
        }
        if about_a_key && empty(&event.principal_arn) {
            return Err(invalid("requestMetadata.awsPrincipalArn is required."));
        }
        if with_a_key_arn && empty(&event.kms_key_arn) {
            return Err(invalid("requestMetadata.kmsKeyArn is required."));
        }
        if long(&event.principal_arn) {
            return Err(invalid("requestMetadata.awsPrincipalArn is longer than 2048 characters."));
        }
        if long(&event.kms_key_arn) {
            return Err(invalid("requestMetadata.kmsKeyArn is longer than 2048 characters."));
        }
        Ok(())
    }
}

/// Reads the fields of one operation. serde_json's own message is not passed on: it quotes the request (XKS-MD-6).
fn from_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, XksError> {
    // serde_json reads over strings of unknown fields without a look at their encoding (RFC 8259, 8.1).
    let body = std::str::from_utf8(body).map_err(|error| {
        let detail = format!("request body, offset {}: this is not UTF-8", error.valid_up_to());
        XksError::new(ErrorName::ValidationException, detail).with_sentence("The body is not UTF-8.")
    })?;
    serde_json::from_str::<Object<T>>(body).map(|Object(fields)| fields).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "a field has the wrong type or stands twice",
            serde_json::error::Category::Eof => "the JSON ends too early",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "this is not JSON",
        };
        let detail = format!("request body, line {} column {}: {what}", error.line(), error.column());
        XksError::new(ErrorName::ValidationException, detail)
            .with_sentence("The body is not a JSON object with the fields of this operation.")
    })
}

/// A ValidationException with this sentence for the caller and the log.
pub(crate) fn invalid(sentence: &'static str) -> XksError {
    XksError::new(ErrorName::ValidationException, sentence).with_sentence(sentence)
}

/// `encryptionAlgorithm` is required, and `AES_GCM` is the only one there is (XKS-ENC-2).
fn check_algorithm(algorithm: Option<&Text<'_>>) -> Result<(), XksError> {
    match algorithm.map(Text::as_str) {
        Some("AES_GCM") => Ok(()),
        Some(_) => Err(invalid("encryptionAlgorithm must be AES_GCM.")),
        None => Err(invalid("encryptionAlgorithm is required.")),
    }
}

/// `additionalAuthenticatedData`, optional (XKS-ENC-3). Absent and empty are the same in our own scheme (XKS-ENC-7), but
/// not in that of AWS's sample proxy.
fn additional_data(text: Option<&Text<'_>>, limits: &Limits) -> Result<Option<Vec<u8>>, XksError> {
    let Some(text) = text else { return Ok(None) };
    let additional = text.base64("additionalAuthenticatedData is not standard Base64.")?;
    // 65,535 is what the framing of XKS-ENC-7 can say, whatever the configuration allows.
    if additional.len() > limits.aad_bytes_max.min(usize::from(u16::MAX)) {
        return Err(unsupported("additionalAuthenticatedData is longer than this proxy supports."));
    }
    Ok(Some(additional))
}

/// An UnsupportedOperationException with this sentence for the caller and the log (XKS-ENC-8).
fn unsupported(sentence: &'static str) -> XksError {
    XksError::new(ErrorName::UnsupportedOperationException, sentence).with_sentence(sentence)
}

/// The AAD and metadata of this request as `scheme` gives them to the HSM.
fn frame(scheme: Scheme, additional: Option<&[u8]>, metadata: &[u8]) -> Result<Aad, XksError> {
    let too_long = |_| unsupported("additionalAuthenticatedData is longer than this proxy supports.");
    scheme.frame(additional, metadata).map_err(too_long)
}

/// The external key id names no key (XKS-META-3).
fn key_not_found(key: &KeyId) -> XksError {
    XksError::new(ErrorName::KeyNotFoundException, format!("the key directory has no key {key}"))
}

/// An HSM's error as `operation` may word it: InvalidCiphertextException belongs to decrypt alone, and GetKeyMetadata
/// states usage and state instead of failing for them (XKS-ERR-3). Anything else is the key manager's fault.
fn hsm_error(operation: Operation, error: HsmError) -> XksError {
    let error = XksError::from(error);
    let allowed = match error.name {
        ErrorName::InvalidCiphertextException => operation == Operation::Decrypt,
        ErrorName::InvalidKeyUsageException
        | ErrorName::InvalidStateException
        | ErrorName::UnsupportedOperationException => operation != Operation::GetKeyMetadata,
        _ => true,
    };
    if allowed {
        return error;
    }
    XksError { ck_rv: error.ck_rv, ..XksError::new(ErrorName::InternalException, error.detail) }
}

/// The JSON of an answer, written front to back into one buffer.
pub(crate) struct Json(Vec<u8>);

impl Json {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    /// JSON that needs no escaping.
    pub(crate) fn raw(&mut self, json: &str) -> &mut Self {
        self.0.extend_from_slice(json.as_bytes());
        self
    }

    /// Base64 between quotation marks.
    pub(crate) fn base64(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.push(b'"');
        let (start, len) = (self.0.len(), bytes.len().div_ceil(3) * 4);
        self.0.resize(start + len, 0);
        // The buffer has exactly the right length, so encoding has nothing to fail on.
        let _ = STANDARD.encode_slice(bytes, self.0.get_mut(start..).unwrap_or_default());
        self.0.push(b'"');
        self
    }

    /// Any text between quotation marks, escaped.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        // Writing a string to a Vec has nothing to fail on.
        let _ = serde_json::to_writer(&mut self.0, text);
        self
    }

    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_strict() {
        let decode = |text: &str| Text(Cow::Borrowed(text)).base64("no");
        assert_eq!(decode("").unwrap(), b"");
        assert_eq!(decode("aGk/").unwrap(), b"hi?");
        assert_eq!(decode("aA==").unwrap(), b"h");
        // Padding missing, too much, inside; whitespace; URL-safe letters; bits set that stand for nothing.
        for bad in
            ["aA", "aA=", "aA===", "a===", "aA==aA==", "aA= =", "aA==\n", " aA==", "aGk_", "aGk-", "aB=="]
        {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn escaped_text_is_the_same_text() {
        let text: Text<'_> = serde_json::from_str(r#""aGk\/""#).unwrap();
        assert_eq!(text.base64("no").unwrap(), b"hi?");
        let text: Text<'_> = serde_json::from_str(r#""aGk/""#).unwrap();
        assert!(matches!(text.0, Cow::Borrowed("aGk/")));
    }

    #[test]
    fn errors_in_the_json_do_not_quote_it() {
        for body in
            [r#"{"plaintext":{"c2VjcmV0":1}}"#, r#"{"plaintext":7777}"#, r#"{"plaintext":"c2VjcmV0"#, "7777"]
        {
            let error = from_json::<encrypt::Fields<'_>>(body.as_bytes()).err().unwrap();
            assert!(!error.detail.contains("c2V") && !error.detail.contains("7777"), "{}", error.detail);
        }
    }
}
