//! Encrypt, change one thing, decrypt: through the core, without HTTP and signature, to the emulated HSM and back.

use crate::world::{KEYS, World};
use arbitrary::{Arbitrary, Unstructured};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;
use xks_proxy::api::Request;
use xks_proxy::env::UnixTime;
use xks_proxy::error::{ErrorName, XksError};
use xks_proxy::events::{AuditEvent, Operation};
use xks_proxy::key::KeyId;

#[derive(Arbitrary, Debug)]
struct Input {
    plaintext: Vec<u8>,
    additional: Option<Vec<u8>>,
    integrity_value: bool,
    change: Change,
    at: u8,
    bit: u8,
}

/// The one thing that is changed between the two.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Change {
    Nothing,
    Ciphertext,
    Lengthened,
    Additional,
    Metadata,
    MetadataGone,
    Iv,
    Tag,
    Key,
}

/// What was encrypted decrypts to itself; with any one of its fields changed, or under another key, it does not decrypt, and
/// the answer is the same for all of them (XKS-DEC-2 to XKS-DEC-4). The integrity value is that of XKS-ENC-9.
pub(crate) fn open() -> impl FnMut(&[u8]) {
    let world = World::new();
    let [key, other] = KEYS.map(|name| KeyId::parse(name).unwrap_or_else(|error| panic!("{error}")));
    move |data| {
        let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
        let mut asked = json!({ "plaintext": STANDARD.encode(&input.plaintext) });
        if let Some(additional) = &input.additional {
            asked["additionalAuthenticatedData"] = json!(STANDARD.encode(additional));
        }
        if input.integrity_value {
            asked["ciphertextDataIntegrityValueAlgorithm"] = json!("SHA_256");
        }
        let sealed = match perform(&world, Operation::Encrypt, &key, asked) {
            Ok(sealed) => sealed,
            Err(error) => {
                assert_eq!(error.name, ErrorName::UnsupportedOperationException, "{error:?}");
                return;
            }
        };
        assert_eq!(sealed["ciphertextDataIntegrityValue"].is_string(), input.integrity_value);
        let mut sent = sealed;
        if let Some(additional) = &input.additional {
            sent["additionalAuthenticatedData"] = json!(STANDARD.encode(additional));
        }
        let opener = if matches!(input.change, Change::Key) { &other } else { &key };
        let changed = change(&mut sent, &input);
        let opened = perform(&world, Operation::Decrypt, opener, sent);
        drop((world.calls(), world.events()));
        match opened {
            Ok(opened) => {
                assert!(!changed, "decrypts: {input:?}");
                assert_eq!(opened["plaintext"], STANDARD.encode(&input.plaintext), "{input:?}");
            }
            Err(error) => {
                assert!(changed, "{error:?}: {input:?}");
                // A ciphertext that has grown beyond the limit is told so before it is tried.
                let too_long = matches!(input.change, Change::Lengthened)
                    && error.name == ErrorName::UnsupportedOperationException;
                assert!(
                    error.name == ErrorName::InvalidCiphertextException || too_long,
                    "{error:?}: {input:?}"
                );
            }
        }
    }
}

/// Changes one thing; false when the input asks for none.
fn change(sent: &mut Value, input: &Input) -> bool {
    let flip = |bytes: &mut Vec<u8>| match bytes.len() {
        0 => bytes.push(input.at),
        length => bytes[usize::from(input.at) % length] ^= 1 << (input.bit % 8),
    };
    let mut edit = |field: &str, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = STANDARD.decode(sent[field].as_str().unwrap_or_default()).unwrap_or_default();
        edit(&mut bytes);
        sent[field] = json!(STANDARD.encode(bytes));
    };
    match input.change {
        Change::Nothing => return false,
        Change::Ciphertext => edit("ciphertext", &flip),
        Change::Lengthened => edit("ciphertext", &|bytes| bytes.push(input.at)),
        Change::Additional => edit("additionalAuthenticatedData", &flip),
        Change::Metadata => edit("ciphertextMetadata", &flip),
        Change::MetadataGone => sent["ciphertextMetadata"] = json!(""),
        Change::Iv => edit("initializationVector", &flip),
        Change::Tag => edit("authenticationTag", &flip),
        Change::Key => {}
    }
    true
}

/// Adds what every request has, parses it and has the HSM do it.
fn perform(world: &World, operation: Operation, key: &KeyId, mut body: Value) -> Result<Value, XksError> {
    body["encryptionAlgorithm"] = json!("AES_GCM");
    body["requestMetadata"] = json!({
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:us-east-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": operation.as_str(),
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    });
    let mut event = AuditEvent::new(UnixTime(Duration::ZERO), String::new());
    let body = body.to_string();
    let request = Request::parse(operation, body.as_bytes(), &world.app.limits, &mut event)?;
    let answer = world.runtime.block_on(async {
        let deadline = Instant::now() + world.app.limits.deadline;
        request.perform(&world.app, &world.store, Some(key), deadline).await
    })?;
    Ok(serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{error}")))
}
