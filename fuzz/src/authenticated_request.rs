//! Requests that are signed as they must be, so that what comes after authentication is met.

use crate::answer;
use crate::signer::{HOST, signature};
use crate::world::{KEYS, NOW, ONE, PREFIX, World};
use arbitrary::{Arbitrary, Unstructured};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::{Map, Value, json};
use xks_proxy::error::ErrorName;
use xks_proxy::events::Operation;

#[derive(Arbitrary, Debug)]
struct Input {
    operation: u8,
    key: u8,
    principal: Field,
    kms_key: Field,
    kms_operation: Field,
    kms_request_id: Field,
    plaintext: Field,
    ciphertext: Field,
    additional: Field,
    iv: Field,
    tag: Field,
    metadata: Field,
    algorithm: Field,
    integrity: Field,
    unknown: Field,
}

/// What stands in the place of one field.
#[derive(Arbitrary, Debug)]
enum Field {
    /// What belongs there.
    Right,
    Absent,
    Null,
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
    /// Base64 of so many zeros.
    Zeros(u16),
    List,
}

/// A body made field by field, each right, wrong or absent, and signed. The answer is the spec's: 200 only if every field
/// that the operation needs is legal, the principal is admitted and the key exists; otherwise an error of that operation
/// (XKS-ERR-3); and the HSM is asked nothing for a request that is malformed or denied.
pub(crate) fn open() -> impl FnMut(&[u8]) {
    let world = World::new();
    move |data| {
        let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
        let operation = Operation::ALL[usize::from(input.operation) % Operation::ALL.len()];
        let body = input.body();
        let text = body.to_string();
        // Longer ones are refused before they are read (XKS-NET-9).
        let expected = match text.len() > world.app.limits.body_bytes_max {
            true => Err(ErrorName::ValidationException),
            false => expect(operation, &body),
        };
        let key = ["none", KEYS[0], KEYS[1]][usize::from(input.key) % 3];
        let response = world.send(signed(operation, key, text));
        let name = answer::check(response.status(), response.headers(), response.body());
        let calls = world.calls();
        let events = world.events();
        assert_eq!(events.len(), 1, "{body}");
        let shown = || format!("{operation:?} {key} {body}: {}", String::from_utf8_lossy(response.body()));
        match expected {
            Err(expected) => {
                assert_eq!(name, Some(expected), "{}", shown());
                assert!(calls.is_empty(), "{calls:?} {}", shown());
            }
            Ok(()) if operation == Operation::GetHealthStatus => assert_eq!(name, None, "{}", shown()),
            Ok(()) if key == "none" => {
                // Whose ciphertext is not ours, by its metadata, need not be asked of any key.
                let foreign =
                    operation == Operation::Decrypt && name == Some(ErrorName::InvalidCiphertextException);
                assert!(name == Some(ErrorName::KeyNotFoundException) || foreign, "{}", shown());
            }
            Ok(()) if operation == Operation::Decrypt => {
                assert_eq!(name, Some(ErrorName::InvalidCiphertextException), "{}", shown());
            }
            Ok(()) => assert_eq!(response.status(), StatusCode::OK, "{}", shown()),
        }
    }
}

/// Metadata first, then the rest in the order of their checks, then the allow-list.
fn expect(operation: Operation, body: &Value) -> Result<(), ErrorName> {
    let invalid = Err(ErrorName::ValidationException);
    let about_a_key = operation != Operation::GetHealthStatus;
    let about_data = matches!(operation, Operation::Encrypt | Operation::Decrypt);
    let metadata = &body["requestMetadata"];
    let is_text = |value: &Value| value.is_string() || value.is_null();
    let mut fields: Vec<&str> = Vec::new();
    if about_data {
        fields.extend(["encryptionAlgorithm", "additionalAuthenticatedData"]);
    }
    fields.extend(match operation {
        Operation::Encrypt => &["plaintext", "ciphertextDataIntegrityValueAlgorithm"][..],
        Operation::Decrypt => {
            &["ciphertext", "initializationVector", "authenticationTag", "ciphertextMetadata"]
        }
        Operation::GetKeyMetadata | Operation::GetHealthStatus => &[],
    });
    let typed = fields.iter().all(|field| is_text(&body[field]))
        && metadata.as_object().is_some_and(|metadata| metadata.values().all(is_text));
    if !typed {
        return invalid;
    }
    let text = |field: &str| metadata[field].as_str();
    let arn = |field: &str, required: bool| {
        let arn = text(field).unwrap_or_default();
        !(required && arn.is_empty()) && arn.chars().count() <= 2_048
    };
    let named = text("kmsRequestId").is_some() && text("kmsOperation").is_some();
    if !(named && arn("awsPrincipalArn", about_a_key) && arn("kmsKeyArn", about_data)) {
        return invalid;
    }
    if about_data {
        expect_data(operation, body)?;
    }
    let admitted = text("awsPrincipalArn").unwrap_or_default().starts_with("arn:aws:iam::123456789012:");
    if about_a_key && !admitted { Err(ErrorName::AccessDeniedException) } else { Ok(()) }
}

/// The fields of Encrypt and Decrypt, each of which is text or absent.
fn expect_data(operation: Operation, body: &Value) -> Result<(), ErrorName> {
    let invalid = ErrorName::ValidationException;
    let too_long = ErrorName::UnsupportedOperationException;
    // The length of what stands there; absent is `None`.
    let bytes = |field: &str| match body[field].as_str() {
        Some(text) => STANDARD.decode(text).map(|bytes| Some(bytes.len())).map_err(|_| invalid),
        None => Ok(None),
    };
    let ensure = |holds: bool, otherwise: ErrorName| if holds { Ok(()) } else { Err(otherwise) };
    ensure(body["encryptionAlgorithm"] == "AES_GCM", invalid)?;
    if operation == Operation::Encrypt {
        let algorithm = &body["ciphertextDataIntegrityValueAlgorithm"];
        ensure(algorithm.is_null() || algorithm == "SHA_256", invalid)?;
        ensure(bytes("plaintext")?.ok_or(invalid)? <= 8_192, too_long)?;
    } else {
        ensure(bytes("ciphertext")?.ok_or(invalid)? <= 8_192, too_long)?;
        ensure(matches!(bytes("initializationVector")?, Some(12 | 16)), invalid)?;
        ensure(bytes("authenticationTag")? == Some(16), invalid)?;
        ensure(bytes("ciphertextMetadata")?.unwrap_or_default() <= 20, invalid)?;
    }
    ensure(bytes("additionalAuthenticatedData")?.unwrap_or_default() <= 16_384, too_long)
}

fn signed(operation: Operation, key: &str, body: String) -> Request<Full<Bytes>> {
    let last = match operation {
        Operation::GetKeyMetadata => format!("keys/{key}/metadata"),
        Operation::Encrypt => format!("keys/{key}/encrypt"),
        Operation::Decrypt => format!("keys/{key}/decrypt"),
        Operation::GetHealthStatus => "health".to_owned(),
    };
    let uri = format!("{PREFIX}/kms/xks/v1/{last}");
    let headers = [("host", HOST), ("content-type", "application/json")];
    let signature = signature(ONE, NOW, "POST", &uri, &headers, body.as_bytes());
    let signature = signature.unwrap_or_else(|error| panic!("{error}"));
    let mut request = Request::post(uri);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    for (name, value) in signature {
        request = request.header(name, value);
    }
    request.body(Full::from(body)).unwrap_or_else(|error| panic!("{error}"))
}

impl Input {
    fn body(&self) -> Value {
        let object = |fields: &[(&str, &Field, &str)]| {
            let present = |(name, field, right): &(&str, &Field, &str)| {
                field.value(right).map(|value| ((*name).to_owned(), value))
            };
            fields.iter().filter_map(present).collect::<Map<_, _>>()
        };
        let metadata = object(&[
            ("awsPrincipalArn", &self.principal, "arn:aws:iam::123456789012:user/Alice"),
            (
                "kmsKeyArn",
                &self.kms_key,
                "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
            ),
            ("kmsOperation", &self.kms_operation, "Encrypt"),
            ("kmsRequestId", &self.kms_request_id, "4112f4d6-db54-4af4-ae30-c55a22a8dfae"),
        ]);
        let mut body = object(&[
            ("plaintext", &self.plaintext, "SGVsbG8gV29ybGQh"),
            ("ciphertext", &self.ciphertext, "ghxkK1txeDNn3q8Y"),
            ("additionalAuthenticatedData", &self.additional, "cHJvamVjdD1uaWxl"),
            ("initializationVector", &self.iv, "HMrlRw85cAJUd5Ax"),
            ("authenticationTag", &self.tag, "vBxN2ncH1oEkR8WVXpmyYQ=="),
            ("ciphertextMetadata", &self.metadata, "AQE="),
            ("encryptionAlgorithm", &self.algorithm, "AES_GCM"),
            ("ciphertextDataIntegrityValueAlgorithm", &self.integrity, "SHA_256"),
            ("unknownField", &self.unknown, "ignored"),
        ]);
        body.insert("requestMetadata".to_owned(), Value::Object(metadata));
        Value::Object(body)
    }
}

impl Field {
    fn value(&self, right: &str) -> Option<Value> {
        Some(match self {
            Self::Right => json!(right),
            Self::Absent => return None,
            Self::Null => Value::Null,
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text),
            Self::Bytes(bytes) => json!(STANDARD.encode(bytes)),
            Self::Zeros(count) => json!(STANDARD.encode(vec![0; usize::from(*count)])),
            Self::List => json!([right]),
        })
    }
}
